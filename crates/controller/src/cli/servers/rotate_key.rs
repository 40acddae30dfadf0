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
        bail!("{}", not_asked(&before));
    }
    let now_ms = clock::now_ms();
    let rotation = NewRotation {
        id: clock::uuid_v7(now_ms),
        issued_ms: now_ms,
        deadline_s: ROTATE_DEADLINE_S,
        delivered: false,
    };
    let queued = store.queue_rotation(&before.server_id, rotation).await?;
    if queued.is_none() {
        // Stopped by somebody else since it was looked up.
        bail!("{}", not_asked(&find(store, &before.server_id).await?));
    }
    let mut rotated = false;
    let mut waited = Duration::ZERO;
    while waited < WAIT && !rotated {
        tokio::time::sleep(LOOK_EVERY).await;
        waited += LOOK_EVERY;
        let known = store.server_by_id(&before.server_id).await?;
        rotated = known.is_some_and(|now| now.identity.id().to_string() != before.identity_key_id);
    }
    let now = find(store, &before.server_id).await?;
    store.close().await?;
    let told = sentence(&now, rotated);
    match (as_json, rotated) {
        (false, _) => show::line(told)?,
        (true, true) => show::json("servers", &[now])?,
        (true, false) => {
            anstream::eprintln!("vpn-node-controller: {told}");
            show::json("servers", &[now])?;
        }
    }
    Ok(if rotated {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn not_asked(server: &ServerRow) -> String {
    format!(
        "{} is {}: only an active server can be asked for a new key{}",
        show::escaped(&server.hostname),
        show::escaped(&server.status),
        super::cure(server)
    )
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
