//! `server verify`: challenges a host, and waits for its answer.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use vpn_node_protocol::limits::CHALLENGE_DEADLINE_S;
use vpn_node_protocol::message::Purpose;

use super::find;
use crate::cli::show;
use crate::clock;
use crate::rules::effect::NewChallenge;
use crate::store::{ServerRow, Store, VerificationRow};

/// How long it waits for the host's answer.
const WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn verify(
    store: &dyn Store,
    name: &str,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let server = find(store, name).await?;
    if server.status != "active" {
        bail!(
            "{} is {}: only an active server can be verified",
            show::escaped(&server.hostname),
            show::escaped(&server.status)
        );
    }
    let now_ms = clock::now_ms();
    let challenge = NewChallenge {
        id: clock::uuid_v7(now_ms),
        value: clock::nonce(),
        purpose: Purpose::OnDemand,
        issued_ms: now_ms,
        deadline_s: CHALLENGE_DEADLINE_S,
        delivered: false,
    };
    let id = store.queue_challenge(&server.server_id, challenge).await?;
    let mut row = None;
    let mut waited = Duration::ZERO;
    while waited < WAIT {
        row = store.verification(id).await?;
        if row
            .as_ref()
            .is_some_and(|r| r.verification_result.is_some())
        {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        waited += LOOK_EVERY;
    }
    let row = row.context("the challenge is not in the database any more")?;
    let verified = row.verification_result == Some(true);
    if as_json {
        show::json("verifications", &[row])?;
    } else {
        show::line(sentence(&server, &row))?;
    }
    Ok(if verified {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn sentence(server: &ServerRow, row: &VerificationRow) -> String {
    let host = show::escaped(&server.hostname);
    let detail = row
        .detail
        .as_deref()
        .map(|detail| format!(" ({})", show::escaped(detail)))
        .unwrap_or_default();
    match row.verification_result {
        Some(true) => format!("{host} is verified{detail}."),
        Some(false) => format!(
            "{host} is not verified: {}{detail}.",
            show::optional(row.failure_reason.as_deref())
        ),
        None => {
            let last = server.last_heartbeat.as_deref().map_or_else(
                || "none has come yet".to_owned(),
                |at| format!("the last one came at {} UTC", show::instant(Some(at))),
            );
            format!(
                "{host} has not answered within 10 seconds. The challenge goes out with its next heartbeat ({last}); see 'server show'. Is 'vpn-node-controller serve' running, and the agent on the host?"
            )
        }
    }
}
