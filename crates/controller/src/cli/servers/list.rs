//! `server list`.

use std::process::ExitCode;

use crate::cli::show;
use crate::store::Store;

pub(super) async fn list(store: &dyn Store, as_json: bool) -> anyhow::Result<ExitCode> {
    let servers = store.list_servers().await?;
    if as_json {
        show::json("servers", &servers)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = servers
        .iter()
        .map(|server| {
            vec![
                show::escaped(&server.hostname),
                server.server_id.clone(),
                show::escaped(&server.status),
                super::verdict(server),
                show::yes_no(server.available).to_owned(),
                server.active_connections.to_string(),
                show::escaped(&server.version),
                show::escaped(&server.public_ip),
                show::instant(server.last_heartbeat.as_deref()),
            ]
        })
        .collect();
    show::table(
        &[
            "HOST",
            "ID",
            "STATUS",
            "VERDICT",
            "AVAILABLE",
            "CONNECTIONS",
            "VERSION",
            "ADDRESS",
            "LAST HEARTBEAT",
        ],
        rows,
        "There are no servers yet: run 'vpn-node-controller registration-key create', and enrol a host.",
    )?;
    Ok(ExitCode::SUCCESS)
}
