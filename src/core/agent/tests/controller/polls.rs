//! The model controller's side of the directive request.

use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::limits::{MAX_DIRECTIVES, MAX_REQUEST_BYTES};
use vpn_node_protocol::message::{Poll, PollReply, RefusalCode};

use super::identity::Role;
use super::{Controller, Polled};

impl Controller {
    /// A poll came.
    pub(in super::super) fn poll(&self, bytes: &[u8], now_ms: i64) -> Polled {
        let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES).expect("an envelope");
        let (Some((key, role)), true) = (self.key_of(&envelope), self.polls_work) else {
            return Polled::Refused;
        };
        let poll: Poll = envelope.open(&key).expect("signed by the host");
        let retired = (role == Role::Retired).then_some(RefusalCode::RetiredKey);
        if let Some(code) = retired.or(self.refused_altogether()) {
            return Polled::Answer(self.refuse(envelope.digest(), code, now_ms));
        }
        match self.db.nonces.contains(&poll.nonce) {
            true => Polled::Hold(envelope.digest()),
            false => Polled::Refused,
        }
    }

    /// A held poll is refused as soon as the host is.
    pub(in super::super) fn poll_refused(&self, digest: Digest, now_ms: i64) -> Option<Vec<u8>> {
        let code = self.refused_altogether()?;
        Some(self.refuse(digest, code, now_ms))
    }

    pub(in super::super) fn poll_reply(&self, digest: Digest, now_ms: i64) -> Vec<u8> {
        let reply = PollReply {
            request_digest: digest,
            controller_time_ms: now_ms,
            directives: self
                .db
                .unacked
                .iter()
                .take(MAX_DIRECTIVES)
                .map(|(_, e)| e.clone())
                .collect(),
        };
        Envelope::sign(&reply, &[&self.online]).to_json()
    }
}
