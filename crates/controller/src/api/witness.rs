//! The answer of a host to a refusal `behind`: not chained, so that it can be given at once.

use std::sync::Arc;

use vpn_node_protocol::identity::Witness;

use super::messages::{Verified, decision};
use super::problem::Problem;
use crate::rules::witness::{self, Testimony};
use crate::store::Wants;

/// Judges a witness in one transaction with what it changes.
pub(super) async fn judge(
    verified: Verified<'_>,
    witness: Witness,
) -> Result<(u16, Vec<u8>), Problem> {
    let app = verified.app;
    let seq = witness.seq;
    let testimony = Testimony {
        refusal: app.keys.open_own(&witness.refusal),
        witness,
        peer_ip: verified.peer.to_string(),
        now_ms: app.now_ms(),
        policy: app.policy,
    };
    let (keys, digest) = (Arc::clone(&app.keys), verified.digest);
    let decide = Box::new(move |snapshot: &_| {
        let outcome = witness::decide(snapshot, &testimony);
        decision(&keys, digest, testimony.now_ms, outcome)
    });
    let id = verified.server.server_id.clone();
    let wants = Wants {
        signer: Some(verified.server.identity.id()),
        ..Wants::default()
    };
    let decided = app.store.exchange(id.clone(), wants, decide).await?;
    if let Some(repeats) = decided.repeats {
        app.repeated(verified.peer, &id, seq, repeats).await;
    }
    Ok((decided.status, decided.body))
}
