//! Waiting for connections that are to be ended: for `connections disconnect`, and for revocations.
//!
//! Only the database is between this and the process that serves: it hands the directive to the
//! poll that the host has open, and stores the host's word and the records of the ends.

use std::time::Duration;

use crate::store::{Asked, DisconnectionRow, Store, StoreError};

/// How often it looks: one look-up by ids.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What has become of connections, once there is nothing more to wait for, or `wait` is over.
///
/// # Errors
/// [`StoreError`].
pub async fn wait(
    store: &dyn Store,
    asked: &Asked,
    wait: Duration,
) -> Result<Vec<DisconnectionRow>, StoreError> {
    match tokio::time::timeout(wait, settled(store, asked)).await {
        Ok(rows) => rows,
        Err(_) => store.disconnections(asked).await,
    }
}

async fn settled(store: &dyn Store, asked: &Asked) -> Result<Vec<DisconnectionRow>, StoreError> {
    loop {
        let rows = store.disconnections(asked).await?;
        if rows.iter().all(DisconnectionRow::is_settled) {
            return Ok(rows);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
