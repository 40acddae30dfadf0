//! `connections list`, `heartbeats list`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{open, servers, show};
use crate::config::Config;

/// Rows shown unless asked otherwise: a screenful or two.
const DEFAULT_LIMIT: u32 = 100;

/// What every list takes.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The newest N
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConnectionsCommand {
    /// Connections, newest first
    List {
        /// Of this host only
        #[arg(long)]
        server: Option<String>,
        /// Those that are up
        #[arg(long)]
        active: bool,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum HeartbeatsCommand {
    /// Heartbeats, newest first
    List {
        /// Of this host only
        #[arg(long)]
        server: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
}

pub(super) async fn connections(
    command: ConnectionsCommand,
    config: &Config,
) -> anyhow::Result<ExitCode> {
    let ConnectionsCommand::List {
        server,
        active,
        list,
    } = command;
    let store = open(config).await?;
    let server_id = match &server {
        Some(name) => Some(servers::find(&*store, name).await?.server_id),
        None => None,
    };
    let found = store
        .list_connections(server_id.as_deref(), active, list.limit)
        .await?;
    if list.json {
        show::json("connections", &found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found
        .iter()
        .map(|row| {
            vec![
                show::optional(row.user_name.as_deref().or(row.client_identity.as_deref())),
                show::escaped(&row.connection_type),
                show::escaped(&row.backend_instance),
                show::escaped(&row.client_ip),
                show::escaped(&row.status),
                show::instant(Some(&row.connection_start)),
                show::instant(row.connection_end.as_deref()),
                show::optional(row.disconnection_reason.as_deref()),
                row.server_id.clone(),
            ]
        })
        .collect();
    show::table(
        &[
            "CLIENT", "TYPE", "INSTANCE", "FROM", "STATUS", "START", "END", "REASON", "SERVER",
        ],
        rows,
        "There are no connections.",
    )?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn heartbeats(
    command: HeartbeatsCommand,
    config: &Config,
) -> anyhow::Result<ExitCode> {
    let HeartbeatsCommand::List { server, list } = command;
    let store = open(config).await?;
    let server_id = match &server {
        Some(name) => Some(servers::find(&*store, name).await?.server_id),
        None => None,
    };
    let found = store
        .list_heartbeats(server_id.as_deref(), list.limit)
        .await?;
    if list.json {
        show::json("heartbeats", &found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found
        .iter()
        .map(|row| {
            vec![
                row.heartbeat_id.to_string(),
                show::instant(Some(&row.received_time)),
                show::yes_no(row.signature_valid).to_owned(),
                row.active_connections.to_string(),
                show::optional(row.current_location.as_deref()),
                row.server_id.clone(),
            ]
        })
        .collect();
    show::table(
        &[
            "ID",
            "RECEIVED",
            "SIGNED",
            "CONNECTIONS",
            "LOCATION",
            "SERVER",
        ],
        rows,
        "There are no heartbeats.",
    )?;
    Ok(ExitCode::SUCCESS)
}
