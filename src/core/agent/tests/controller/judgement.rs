//! Whether the model controller takes a request: the real rule of the chain, with what it is told.

use vpn_node_controller::rules::chain::{Judgement, Place, judge};
use vpn_node_controller::rules::state::ChainState;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::message::{Header, RefusalCode, Reply, ReplyHeader};

use super::identity::Role;
use super::{Controller, SERVER};

/// What becomes of a request.
pub(super) enum Outcome {
    Accept,
    Repeat,
    Refuse(RefusalCode),
}

impl Controller {
    /// The table of "Replay and clones".
    pub(super) fn judge(&mut self, header: &Header, digest: &Digest, role: Role) -> Outcome {
        assert_eq!(header.server_id, SERVER);
        if let Some(code) = self.refused_altogether() {
            return Outcome::Refuse(code);
        }
        if self.never_convinced {
            return Outcome::Refuse(RefusalCode::Ahead);
        }
        let stored = self.stored(role);
        assert_eq!(header.epoch, stored.epoch, "the epoch of its key");
        let proof = self.proof(header);
        let place = Place {
            seq: header.seq,
            chain: header.chain,
            nonce: header.nonce,
            digest: *digest,
            proof: proof.as_ref().filter(|reply| reply.epoch == header.epoch),
            earlier: self.db.taken.get(&header.seq).copied(),
            refused_ahead: self.db.refused_ahead.contains(digest),
        };
        match judge(&stored, &place) {
            Judgement::Next => Outcome::Accept,
            Judgement::Repeat => Outcome::Repeat,
            Judgement::AheadProven => {
                self.memory_losses += 1;
                Outcome::Accept
            }
            Judgement::Ahead if proof.is_some_and(|reply| leads_to(&reply, header, &stored)) => {
                self.memory_losses += 1;
                Outcome::Accept
            }
            Judgement::Ahead => {
                self.aheads += 1;
                self.db.refused_ahead.push(*digest);
                Outcome::Refuse(RefusalCode::Ahead)
            }
            Judgement::Replayed => {
                self.late_copies += 1;
                Outcome::Refuse(RefusalCode::BadRequest)
            }
            Judgement::Forgotten => Outcome::Refuse(RefusalCode::Behind),
            Judgement::OtherHolder => unreachable!("only while an operator resolves"),
            Judgement::Diverged(why) => {
                self.quarantines.push(format!(
                    "request {} at stored {}: {why}",
                    header.seq, stored.seq
                ));
                self.db.quarantined = true;
                Outcome::Refuse(RefusalCode::Quarantined)
            }
        }
    }

    /// The reply that a request shows, if we signed it for this server.
    fn proof(&self, header: &Header) -> Option<ReplyHeader> {
        let proof = header.proof.as_ref()?;
        let mut opened = self.own_keys.iter().map(|key| proof.open::<Reply>(key));
        let reply = opened.find_map(Result::ok)?.header;
        (reply.server_id == SERVER).then_some(reply)
    }
}

/// The reply to a rotation leads to the first request of the next epoch.
fn leads_to(reply: &ReplyHeader, header: &Header, stored: &ChainState) -> bool {
    header.seq == 1
        && reply.epoch + 1 == header.epoch
        && reply.nonce == header.nonce
        && header.chain == stored.chain
}
