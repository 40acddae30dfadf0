//! Challenging a host now, and waiting for its answer: for `server verify`.
//!
//! Only the database is between this and the process that serves: it hands the challenge to the
//! poll that the host has open, and stores the answer.

use std::time::Duration;

use uuid::Uuid;
use vpn_node_protocol::limits::CHALLENGE_DEADLINE_S;
use vpn_node_protocol::message::Purpose;

use crate::clock;
use crate::rules::effect::NewChallenge;
use crate::store::{Store, StoreError, VerificationRow};

/// How often it looks for the answer: one look-up by an indexed column.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A challenge that an operator asks for, still to be queued.
#[must_use]
pub fn on_demand(now_ms: i64) -> NewChallenge {
    NewChallenge {
        id: clock::uuid_v7(now_ms),
        value: clock::nonce(),
        purpose: Purpose::OnDemand,
        issued_ms: now_ms,
        deadline_s: CHALLENGE_DEADLINE_S,
        delivered: false,
    }
}

/// Challenges a server, and waits for the end of that challenge. A row without a result is one
/// that is still open after `wait`; none is one that somebody deleted.
///
/// # Errors
/// [`StoreError`].
pub async fn challenge(
    store: &dyn Store,
    server_id: &str,
    wait: Duration,
) -> Result<Option<VerificationRow>, StoreError> {
    let id = store
        .queue_challenge(server_id, on_demand(clock::now_ms()))
        .await?;
    match tokio::time::timeout(wait, ended(store, id)).await {
        Ok(row) => row,
        Err(_) => store.verification(id).await,
    }
}

async fn ended(store: &dyn Store, id: Uuid) -> Result<Option<VerificationRow>, StoreError> {
    loop {
        let row = store.verification(id).await?;
        if row.as_ref().is_none_or(|r| r.verification_result.is_some()) {
            return Ok(row);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
