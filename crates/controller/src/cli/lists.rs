//! What every list takes; `heartbeats list`.

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
