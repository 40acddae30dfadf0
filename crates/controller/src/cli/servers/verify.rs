//! `server verify`: challenges a host, and waits for its answer.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::find;
use crate::cli::show;
use crate::store::{ServerRow, Store, VerificationRow};
use crate::verification;

/// How long it waits for the host's answer.
const WAIT: Duration = Duration::from_secs(10);

pub(super) async fn verify(
    store: &dyn Store,
    name: &str,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let server = find(store, name).await?;
    if server.status != "active" {
        bail!(
            "{} is {}: only an active server can be verified{}",
            show::escaped(&server.hostname),
            show::escaped(&server.status),
            super::cure(&server)
        );
    }
    let row = verification::challenge(store, &server.server_id, WAIT).await?;
    let row = row.context("the challenge is not in the database any more")?;
    let verified = row.verification_result == Some(true);
    let told = sentence(&server, &row);
    if as_json {
        if !verified {
            anstream::eprintln!("vpn-node-controller: {told}");
        }
        show::json("verifications", &[row])?;
    } else {
        show::line(told)?;
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
