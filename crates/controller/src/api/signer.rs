//! Whose request it is: from the key hints of an envelope to the server that signed it.
//!
//! Anybody on the way can add a signature of his own to an envelope, or change the order. So every
//! known key among the hints is tried, and the request is that of the server and epoch which it
//! names itself. One that names none of its signers gets no signed answer: a host takes a signed
//! refusal for a word about its own request.

use std::net::IpAddr;

use axum::http::StatusCode;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::{Envelope, EnvelopeError, Payload};
use vpn_node_protocol::limits::MAX_SIGNATURES;
use vpn_node_protocol::message::RefusalCode;

use super::App;
use super::problem::Problem;
use super::reject::{Rejected, problem_of};
use crate::rules::events::EventType;
use crate::rules::exchange::{QUARANTINED, RETIRED_KEY, REVOKED};
use crate::rules::state::{KeyRole, ServerStatus};
use crate::store::KnownServer;

/// The known servers whose keys an envelope names, in its order.
pub(super) struct Signers {
    pub(super) first: KnownServer,
    others: Vec<KnownServer>,
}

/// Finds them; a message that names no known key is refused.
pub(super) async fn identify(
    app: &App,
    peer: IpAddr,
    body: &[u8],
    limit: usize,
) -> Result<(Signers, Envelope), Problem> {
    let envelope = match Envelope::parse(body, limit) {
        Ok(envelope) => envelope,
        Err(error) => return Err(app.unreadable(peer, problem_of(&error)).await),
    };
    let key_ids = hints(&envelope);
    let mut servers = vec![];
    for key_id in &key_ids {
        servers.extend(app.store.server_by_key(*key_id).await?);
    }
    let mut servers = servers.into_iter();
    if let Some(first) = servers.next() {
        let others = servers.collect();
        return Ok((Signers { first, others }, envelope));
    }
    app.reject(Rejected {
        peer,
        about: None,
        event_type: EventType::UnknownKey,
        description: match key_ids.first() {
            Some(id) => format!("no server has the key {id}"),
            None => "the message names no key".to_owned(),
        },
    })
    .await;
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "unknown_key",
        "this controller knows no server with that key: enrol the host with a new token",
    ))
}

/// The key hints of an envelope, each once: naming one key four times costs one look-up.
fn hints(envelope: &Envelope) -> Vec<Digest> {
    let mut key_ids = vec![];
    for id in envelope.key_ids().take(MAX_SIGNATURES) {
        if !key_ids.contains(&id) {
            key_ids.push(id);
        }
    }
    key_ids
}

/// What the signatures of an envelope come to.
pub(super) enum Signed<P> {
    /// It is of this server and epoch, which signed it.
    Own(KnownServer, P),
    /// A known server signed it, and it does not parse.
    Unparsable(KnownServer, String),
    /// A known server signed it, and it names another server or epoch.
    Another(KnownServer),
    /// No known server signed it, or it is of another type.
    Unverified(KnownServer, EnvelopeError),
}

/// Verifies, and parses exactly the verified bytes. `named` is the server and the epoch that the
/// payload names.
pub(super) fn open<P: Payload>(
    signers: &Signers,
    envelope: &Envelope,
    named: impl Fn(&P) -> (String, u32),
) -> Signed<P> {
    let mut found = open_one(&signers.first, envelope, &named);
    for server in &signers.others {
        if matches!(found, Signed::Own(..)) {
            break;
        }
        match open_one(server, envelope, &named) {
            Signed::Unverified(..) => {}
            signed => found = signed,
        }
    }
    found
}

fn open_one<P: Payload>(
    server: &KnownServer,
    envelope: &Envelope,
    named: &impl Fn(&P) -> (String, u32),
) -> Signed<P> {
    match envelope.open::<P>(&server.identity) {
        Ok(payload) if named(&payload) == (server.server_id.clone(), server.epoch) => {
            Signed::Own(server.clone(), payload)
        }
        Ok(_) => Signed::Another(server.clone()),
        Err(EnvelopeError::BadPayload(why)) => Signed::Unparsable(server.clone(), why),
        Err(error) => Signed::Unverified(server.clone(), error),
    }
}

impl App {
    /// Records a message that its signer wrote in another one's name, or in that of an epoch that
    /// is not his key's.
    pub(super) async fn in_anothers_name(&self, peer: IpAddr, server: &KnownServer) -> Problem {
        self.reject(Rejected {
            peer,
            about: Some(&server.server_id),
            event_type: EventType::MessageForAnotherServer,
            description: "the signed message names another server id or key epoch".to_owned(),
        })
        .await;
        Problem::new(
            StatusCode::BAD_REQUEST,
            "another_server",
            "the message names another server or key epoch than that of the key that signed it",
        )
    }

    /// What is refused for ever whatever is in it: everything of a revoked server, and of a key
    /// that was replaced, which is recorded. A server that is quarantined may come back.
    pub(super) async fn standing_refusal(
        &self,
        peer: IpAddr,
        server: &KnownServer,
    ) -> Option<(RefusalCode, &'static str)> {
        if server.status == ServerStatus::Revoked {
            self.reject(Rejected {
                peer,
                about: Some(&server.server_id),
                event_type: EventType::RevokedServerSpoke,
                description: format!(
                    "a message of the revoked server came, signed with its identity key {} of epoch {}",
                    server.identity.id(),
                    server.epoch
                ),
            })
            .await;
            return Some((RefusalCode::Revoked, REVOKED));
        }
        if server.role == KeyRole::Retired {
            self.reject(Rejected {
                peer,
                about: Some(&server.server_id),
                event_type: EventType::RetiredKeyUsed,
                description: format!(
                    "the replaced identity key {} of epoch {} was used: a copy of the host, an old backup of it, or recorded traffic",
                    server.identity.id(),
                    server.epoch
                ),
            })
            .await;
            return Some((RefusalCode::RetiredKey, RETIRED_KEY));
        }
        (server.status == ServerStatus::Quarantined)
            .then_some((RefusalCode::Quarantined, QUARANTINED))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use vpn_node_protocol::encoding::Hex;
    use vpn_node_protocol::identity::IntroductionReply;

    use super::*;

    #[test]
    fn a_key_that_is_named_often_is_looked_up_once() {
        let (one, other) = (
            SigningKey::from_bytes(&[1; 32]),
            SigningKey::from_bytes(&[2; 32]),
        );
        let payload = IntroductionReply {
            request_digest: Hex([0; 32]),
            controller_time_ms: 0,
            known: false,
        };
        let envelope = Envelope::sign(&payload, &[&one, &one, &other, &one]);
        let named: Vec<Digest> = envelope.key_ids().collect();
        assert_eq!(named.len(), 4);
        assert_eq!(hints(&envelope), [named[0], named[2]]);
    }
}
