//! `connections list|show|gaps|disconnect`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::asked::{self, Outcome, WaitArgs};
use super::lists::ListArgs;
use super::named::Kind;
use super::{devices, open, servers, show};
use crate::clock;
use crate::config::Config;
use crate::store::{ConnectionFilter, ConnectionRow, DisconnectionRow, GapRow, Store};

#[derive(Debug, Subcommand)]
pub(super) enum ConnectionsCommand {
    /// Connections, newest first
    List(ConnectionsListArgs),
    /// One connection in full, and every time that its end was asked for
    Show {
        /// Its id, or the beginning of it
        connection: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Connection records that are lost: from where to where, and why
    Gaps {
        /// Of this host only
        #[arg(long)]
        server: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// End a connection now, and wait until it is over
    Disconnect {
        /// Its id, or the beginning of it
        connection: String,
        #[command(flatten)]
        wait: WaitArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct ConnectionsListArgs {
    /// Of this host only
    #[arg(long)]
    server: Option<String>,
    /// Of this user only
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Of this device only: its name, its id, or the beginning of its id
    #[arg(long)]
    device: Option<String>,
    /// Those that are up
    #[arg(long)]
    active: bool,
    /// Those whose identity is no device's
    #[arg(long, conflicts_with_all = ["user", "device"])]
    unmapped: bool,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn run(command: ConnectionsCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let store = open(config).await?;
    match command {
        ConnectionsCommand::List(args) => list(&*store, args).await,
        ConnectionsCommand::Show { connection, json } => one(&*store, &connection, json).await,
        ConnectionsCommand::Gaps { server, list } => gaps(&*store, server, &list).await,
        ConnectionsCommand::Disconnect {
            connection,
            wait,
            json,
        } => disconnect(&*store, &connection, &wait, json).await,
    }
}

async fn list(store: &dyn Store, args: ConnectionsListArgs) -> anyhow::Result<ExitCode> {
    let server_id = match &args.server {
        Some(name) => Some(servers::find(store, name).await?.server_id),
        None => None,
    };
    let device_id = match &args.device {
        Some(name) => Some(devices::find(store, name).await?.device_id),
        None => None,
    };
    let filter = ConnectionFilter {
        id: None,
        server_id,
        user_name: args.user,
        device_id,
        active: args.active,
        unmapped: args.unmapped,
        limit: args.list.limit,
    };
    let found = store.connections(filter).await?;
    if args.list.json {
        show::json("connections", &found)?;
        return Ok(ExitCode::SUCCESS);
    }
    table(&found)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn table(rows: &[ConnectionRow]) -> anyhow::Result<()> {
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                row.connection_id.clone(),
                show::optional(row.user_name.as_deref()),
                show::optional(row.device_name.as_deref()),
                client(row),
                show::escaped(&row.connection_type),
                show::escaped(&row.backend_instance),
                show::escaped(&row.client_ip),
                show::escaped(&row.status),
                show::instant(Some(&row.connection_start)),
                show::instant(row.connection_end.as_deref()),
                show::optional(row.disconnection_reason.as_deref()),
                show::escaped(&row.hostname),
            ]
        })
        .collect();
    show::table(
        &[
            "ID", "USER", "DEVICE", "CLIENT", "TYPE", "INSTANCE", "FROM", "STATUS", "START", "END",
            "REASON", "HOST",
        ],
        rows,
        "There are no such connections.",
    )
}

/// What the VPN daemon calls the client.
fn client(row: &ConnectionRow) -> String {
    let identity = row.client_identity.as_deref();
    identity.map_or_else(|| "-".to_owned(), show::identity)
}

/// Enough to say that several are meant.
const CANDIDATES: u32 = 9;

const KIND: Kind<ConnectionRow> = Kind {
    word: "connection",
    list: "connections list",
    id: |row| &row.connection_id,
    name: |_| None,
    about: |row| {
        format!(
            "{} since {} UTC",
            show::escaped(&row.status),
            show::instant(
                row.connection_end
                    .as_deref()
                    .or(Some(&row.connection_start))
            )
        )
    },
};

async fn find(store: &dyn Store, named: &str) -> anyhow::Result<ConnectionRow> {
    let filter = ConnectionFilter {
        id: Some(named.to_ascii_lowercase()),
        limit: CANDIDATES,
        ..ConnectionFilter::default()
    };
    KIND.pick(
        store.connections(filter).await?,
        &named.to_ascii_lowercase(),
    )
}

fn id(row: &ConnectionRow) -> anyhow::Result<Uuid> {
    let id = row.connection_id.parse();
    id.context("the database holds an impossible value in connections.connection_id")
}

/// A connection with what was tried to end it.
#[derive(Serialize)]
struct Full {
    #[serde(flatten)]
    row: ConnectionRow,
    disconnections: Vec<DisconnectionRow>,
}

async fn one(store: &dyn Store, named: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let row = find(store, named).await?;
    let disconnections = store.disconnections_of(id(&row)?).await?;
    if as_json {
        show::json(
            "connections",
            &[Full {
                row,
                disconnections,
            }],
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut fields = fields(&row);
    for asked in &disconnections {
        let what = format!(
            "at {} UTC ({}): {}",
            show::instant(Some(&asked.issued_at)),
            show::escaped(&asked.disconnect_reason),
            asked::what_became(asked)
        );
        fields.push(("End asked for", what));
    }
    show::fields(&fields)?;
    Ok(ExitCode::SUCCESS)
}

fn fields(row: &ConnectionRow) -> Vec<(&'static str, String)> {
    let port = row.client_port.map(|port| format!(" port {port}"));
    let ips: Vec<String> = serde_json::from_str(&row.virtual_ips).unwrap_or_default();
    let ips: Vec<String> = ips.iter().map(|ip| show::escaped(ip)).collect();
    let end = match (&row.disconnection_reason, &row.end_confidence) {
        (None, None) => "-".to_owned(),
        (reason, confidence) => format!(
            "{} ({}; within {} ms)",
            show::optional(reason.as_deref()),
            show::optional(confidence.as_deref()),
            row.end_uncertainty_ms.unwrap_or(0)
        ),
    };
    vec![
        ("Connection", row.connection_id.clone()),
        ("Host", show::escaped(&row.hostname)),
        ("Server", row.server_id.clone()),
        ("Status", show::escaped(&row.status)),
        ("User", show::optional(row.user_name.as_deref())),
        ("Device", show::optional(row.device_name.as_deref())),
        ("Device id", show::optional(row.device_id.as_deref())),
        ("Personal key", show::optional(row.key_id.as_deref())),
        (
            "Needs mapping",
            match row.needs_mapping {
                true => "yes: give its identity to a device with 'device identity add'".to_owned(),
                false => "no".to_owned(),
            },
        ),
        (
            "Identity kind",
            show::optional(row.client_identity_kind.as_deref()),
        ),
        ("Identity", client(row)),
        ("Type", show::escaped(&row.connection_type)),
        ("Instance", show::escaped(&row.backend_instance)),
        (
            "From",
            match row.client_ip.as_str() {
                "" => "-".to_owned(),
                ip => show::escaped(ip) + &port.unwrap_or_default(),
            },
        ),
        (
            "Virtual addresses",
            match ips.is_empty() {
                true => "-".to_owned(),
                false => ips.join(", "),
            },
        ),
        ("Received", show::bytes(row.rx_bytes.unsigned_abs())),
        ("Sent", show::bytes(row.tx_bytes.unsigned_abs())),
        ("Start", show::instant(Some(&row.connection_start))),
        ("End", show::instant(row.connection_end.as_deref())),
        ("Reason", end),
        ("Last record", show::instant(Some(&row.last_event_at))),
    ]
}

async fn gaps(
    store: &dyn Store,
    server: Option<String>,
    list: &ListArgs,
) -> anyhow::Result<ExitCode> {
    let server_id = match &server {
        Some(name) => Some(servers::find(store, name).await?.server_id),
        None => None,
    };
    let found = store.gaps(server_id.as_deref(), list.limit).await?;
    if list.json {
        show::json("gaps", &found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found.iter().map(gap).collect();
    show::table(
        &[
            "REPORTED", "HOST", "LOST", "FIRST", "LAST", "REASON", "LEDGER", "SERVER",
        ],
        rows,
        "No connection records are lost.",
    )?;
    Ok(ExitCode::SUCCESS)
}

fn gap(row: &GapRow) -> Vec<String> {
    vec![
        show::instant(Some(&row.reported_at)),
        show::escaped(&row.hostname),
        row.records().to_string(),
        row.first_seq.to_string(),
        row.last_seq.to_string(),
        show::escaped(&row.reason),
        show::escaped(&row.ledger_epoch),
        row.server_id.clone(),
    ]
}

async fn disconnect(
    store: &dyn Store,
    named: &str,
    wait: &WaitArgs,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let row = find(store, named).await?;
    if row.status == "ended" {
        bail!(
            "connection {} is over since {} UTC ({})",
            row.connection_id,
            show::instant(row.connection_end.as_deref()),
            show::optional(row.disconnection_reason.as_deref())
        );
    }
    let asked = store.disconnect(id(&row)?, clock::now_ms()).await?;
    if let Some(one) = asked.not_asked.first() {
        bail!(
            "connection {} cannot be ended from here: server {} is {}",
            row.connection_id,
            show::escaped(&one.hostname),
            show::escaped(&one.status)
        );
    }
    let outcome = Outcome::of(store, asked, wait).await?;
    store.close().await?;
    let done = outcome.is_well();
    let told = sentence(&row, &outcome);
    match (as_json, done) {
        (false, true) => show::line(told)?,
        (false, false) => bail!("{told}"),
        (true, _) => {
            if !done {
                anstream::eprintln!("vpn-node-controller: {told}");
            }
            let mut rows = serde_json::to_value(&outcome.rows)?;
            for row in rows.as_array_mut().into_iter().flatten() {
                row["took_ms"] = Value::from(u64::try_from(outcome.took.as_millis())?);
            }
            show::json("disconnections", &rows)?;
        }
    }
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn sentence(row: &ConnectionRow, outcome: &Outcome) -> String {
    let id = &row.connection_id;
    match outcome.rows.first() {
        // It ended by itself between the two looks at it.
        None => format!("Connection {id} is over already."),
        Some(one) => format!(
            "Connection {id} on {}: {} (after {}).",
            show::escaped(&one.hostname),
            asked::what_became(one),
            asked::seconds(outcome.took)
        ),
    }
}
