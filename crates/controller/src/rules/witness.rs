//! A host that is told to be behind says that it lives: a copy, or a restored snapshot, of more
//! requests ago than are remembered (`docs/protocol.md`, "Replay and clones").

use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::identity::Witness;
use vpn_node_protocol::limits::WITNESS_LIFETIME_MS;
use vpn_node_protocol::message::{Refusal, RefusalCode};

use crate::rules::clones;
use crate::rules::effect::{Effect, SecondHolder};
use crate::rules::events::EventType;
use crate::rules::exchange::{self, Outcome};
use crate::rules::state::{KeyRole, Policy, Snapshot};

/// A witness whose signature holds.
#[derive(Clone, Debug)]
pub struct Testimony {
    /// What it says.
    pub witness: Witness,
    /// The refusal in it, when one of our own keys signed that.
    pub refusal: Option<Refusal>,
    /// Where it came from.
    pub peer_ip: String,
    /// The controller's clock.
    pub now_ms: i64,
    /// What the operator set.
    pub policy: Policy,
}

/// Decides: recorded traffic cannot sign a refusal that was made a moment ago.
#[must_use]
pub fn decide(snapshot: &Snapshot, testimony: &Testimony) -> Outcome {
    let signer = match exchange::speaker(snapshot) {
        Ok(signer) => signer,
        Err(refused) => return refused,
    };
    if signer.role != KeyRole::Current {
        return exchange::bad_request("the key of the witness is not in force");
    }
    let witness = &testimony.witness;
    let digest = match refused_digest(snapshot, testimony) {
        Ok(digest) => digest,
        Err(why) => return exchange::bad_request(why),
    };
    if snapshot.resolving.is_some() {
        return exchange::other_holder();
    }
    let second = SecondHolder {
        seq: witness.seq,
        digest,
        place: None,
        peer_ip: testimony.peer_ip.clone(),
        boot_id: witness.boot_id,
        boottime_ms: witness.boottime_ms,
    };
    let suspicion = clones::suspicion(snapshot, second, testimony.policy, testimony.now_ms);
    let how = "it is behind what is remembered, and lives";
    let event = clones::event(EventType::CopyWitnessed, snapshot, &suspicion, how);
    exchange::quarantined(vec![
        Effect::Quarantine(Box::new(suspicion)),
        Effect::Event(event),
    ])
}

/// The digest of the request that was refused, when the witness holds.
fn refused_digest(snapshot: &Snapshot, testimony: &Testimony) -> Result<Digest, &'static str> {
    let witness = &testimony.witness;
    if witness.server_id != snapshot.server_id || witness.epoch != snapshot.chain.epoch {
        return Err("the witness is of another server or key epoch");
    }
    let refusal = testimony
        .refusal
        .as_ref()
        .ok_or("this controller did not sign the refusal of the witness")?;
    if refusal.code != RefusalCode::Behind {
        return Err("the refusal of the witness is not of a request that is behind");
    }
    let age_ms = testimony
        .now_ms
        .checked_sub(refusal.controller_time_ms)
        .unwrap_or(i64::MAX);
    if !(0..=WITNESS_LIFETIME_MS).contains(&age_ms) {
        return Err("the refusal of the witness is too old: send the request again");
    }
    if witness.seq == 0 || witness.seq > snapshot.chain.seq {
        return Err("the witness names a number that is not behind");
    }
    Ok(refusal.request_digest)
}
