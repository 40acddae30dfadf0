//! `server revoke`: refuses a server for ever.

use std::process::ExitCode;

use anyhow::bail;

use super::find;
use crate::cli::show;
use crate::clock;
use crate::store::Store;

pub(super) async fn revoke(
    store: &dyn Store,
    name: &str,
    reason: &str,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let server_id = find(store, name).await?.server_id;
    let revoked = store
        .revoke_server(&server_id, reason, clock::now_ms())
        .await?;
    let server = find(store, &server_id).await?;
    store.close().await?;
    let host = show::escaped(&server.hostname);
    if !revoked {
        bail!("{host} ({server_id}) is revoked already");
    }
    if as_json {
        show::json("servers", &[server])?;
    } else {
        show::line(format_args!(
            "Revoked {host} ({server_id}), for ever. It is refused from now on; to use the host again, enrol it as a new server with a new token."
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
