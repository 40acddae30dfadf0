//! `server rotate-key`: asks a host for a new identity key, and waits for its first use.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;

use super::find;
use crate::cli::show;
use crate::clock;
use crate::rules::effect::NewRotation;
use crate::rules::lifecycle::ROTATE_DEADLINE_S;
use crate::store::{ServerRow, Store};

/// How long it waits for the new key.
const WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn rotate_key(
    store: &dyn Store,
    name: &str,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let before = find(store, name).await?;
    if before.status != "active" {
        bail!(
            "{} is {}: only an active server can be asked for a new key",
            show::escaped(&before.hostname),
            show::escaped(&before.status)
        );
    }
    let now_ms = clock::now_ms();
    let rotation = NewRotation {
        id: clock::uuid_v7(now_ms),
        issued_ms: now_ms,
        deadline_s: ROTATE_DEADLINE_S,
        delivered: false,
    };
    store.queue_rotation(&before.server_id, rotation).await?;
    let mut now = before.clone();
    let mut waited = Duration::ZERO;
    while waited < WAIT && now.identity_key_id == before.identity_key_id {
        tokio::time::sleep(LOOK_EVERY).await;
        waited += LOOK_EVERY;
        now = find(store, &before.server_id).await?;
    }
    store.close().await?;
    let rotated = now.identity_key_id != before.identity_key_id;
    if as_json {
        show::json("servers", &[now])?;
    } else {
        show::line(sentence(&now, rotated))?;
    }
    Ok(if rotated {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn sentence(server: &ServerRow, rotated: bool) -> String {
    let host = show::escaped(&server.hostname);
    if rotated {
        return format!(
            "{host} has a new identity key: {} of epoch {}. The old one is refused from now on.",
            show::escaped(&server.identity_key_id),
            server.key_epoch
        );
    }
    format!(
        "{host} has not used a new key within 10 seconds. It is asked for {} minutes, by its heartbeats too; see 'server show'. Is 'vpn-node-controller serve' running, and the agent on the host?",
        ROTATE_DEADLINE_S / 60
    )
}
