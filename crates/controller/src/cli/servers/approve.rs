//! `server approve`.

use std::process::ExitCode;

use anyhow::bail;

use super::find;
use crate::cli::show;
use crate::clock;
use crate::store::Store;

pub(super) async fn approve(
    store: &dyn Store,
    name: &str,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let server_id = find(store, name).await?.server_id;
    let approved = store.approve_server(&server_id, clock::now_ms()).await?;
    let server = find(store, &server_id).await?;
    store.close().await?;
    let host = show::escaped(&server.hostname);
    if !approved {
        bail!(
            "{host} ({server_id}) is {}: {}",
            show::escaped(&server.status),
            no_approval(&server.status)
        );
    }
    if as_json {
        show::json("servers", &[server])?;
    } else {
        show::line(format_args!(
            "Approved {host} ({server_id}). It is verified with its next heartbeats; see 'server show'."
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a server that is not pending is not approved.
fn no_approval(status: &str) -> &'static str {
    match status {
        "active" => "there is nothing to approve",
        "quarantined" => {
            "two holders of its identity were seen, and approval does not tell which is the right one; see 'server resolve-clone'"
        }
        _ => "that is for ever; enrol the host as a new server with a new token",
    }
}
