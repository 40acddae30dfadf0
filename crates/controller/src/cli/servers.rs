//! `server list|show|approve|verify`; the commands about hardware are in `server_hardware`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;

use super::{open, server_hardware, show};
use crate::config::Config;
use crate::store::{ServerRow, Store, VerificationRow};
use crate::verification;

/// How long `server verify` waits for the host's answer.
const VERIFY_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum ServerCommand {
    /// All hosts
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// One host in full
    Show {
        /// Host name, server id, or the beginning of an id
        server: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a host in that waits for it (with auto_approve = false); compare its key first
    Approve {
        /// Host name, server id, or the beginning of an id
        server: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Challenge a host now, and wait for its answer
    Verify {
        /// Host name, server id, or the beginning of an id
        server: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Expect other hardware of a host for a while: the next that it shows becomes the enrolled one
    PermitRehost(server_hardware::PermitArgs),
    /// The hardware of a host: how it differs from the enrolled one, and how it was verified
    #[command(subcommand)]
    Hardware(server_hardware::HardwareCommand),
}

pub(super) async fn run(command: ServerCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let store = open(config).await?;
    match command {
        ServerCommand::PermitRehost(args) => server_hardware::permit(args, &*store).await,
        ServerCommand::Hardware(command) => server_hardware::hardware(command, &*store).await,
        ServerCommand::List { json } => list(&*store, json).await,
        ServerCommand::Show { server, json } => one(&*store, &server, json).await,
        ServerCommand::Approve { server, json } => approve(&*store, &server, json).await,
        ServerCommand::Verify { server, json } => verify(&*store, &server, json).await,
    }
}

/// The server that an operator means.
pub(super) async fn find(store: &dyn Store, name: &str) -> anyhow::Result<ServerRow> {
    let servers = store.list_servers().await?;
    pick(&servers, name).cloned()
}

/// An id is the controller's word and comes first: a host chooses its own name, and may choose
/// another one's id.
fn pick<'a>(servers: &'a [ServerRow], name: &str) -> anyhow::Result<&'a ServerRow> {
    if let Some(server) = servers.iter().find(|s| s.server_id == name) {
        return Ok(server);
    }
    let exact: Vec<_> = servers.iter().filter(|s| s.hostname == name).collect();
    let found = if exact.is_empty() && !name.is_empty() {
        servers
            .iter()
            .filter(|s| s.server_id.starts_with(name))
            .collect()
    } else {
        exact
    };
    match found.as_slice() {
        [one] => Ok(one),
        [] => bail!("no server is called {name:?}, and no server id begins so: see 'server list'"),
        several => {
            let ids: Vec<&str> = several.iter().map(|s| s.server_id.as_str()).collect();
            bail!(
                "{} servers are meant by {name:?}; name one by its id: {}",
                several.len(),
                ids.join(", ")
            )
        }
    }
}

async fn list(store: &dyn Store, as_json: bool) -> anyhow::Result<ExitCode> {
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
                show::escaped(&server.verdict),
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

async fn one(store: &dyn Store, name: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let server = find(store, name).await?;
    if as_json {
        show::json("servers", &[server])?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<String> = fields(&server)
        .iter()
        .map(|(name, value)| format!("{name:<20} {value}"))
        .collect();
    show::line(lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn fields(server: &ServerRow) -> Vec<(&'static str, String)> {
    vec![
        ("Host", show::escaped(&server.hostname)),
        ("Server", server.server_id.clone()),
        // What `vpn-node enroll` and `vpn-node status` show on the host: to be compared.
        ("Key", show::escaped(&server.identity_key_id)),
        ("Status", show::escaped(&server.status)),
        ("Verdict", show::escaped(&server.verdict)),
        ("Reason", show::optional(server.verdict_reason.as_deref())),
        ("Available", show::yes_no(server.available).to_owned()),
        ("Says of itself", show::escaped(&server.authorisation)),
        (
            "Hardware",
            show::escaped(&server.hardware_verification_status),
        ),
        (
            "Hardware verified",
            show::instant(server.last_hardware_verification_at.as_deref()),
        ),
        ("Connections", server.active_connections.to_string()),
        ("Address", show::escaped(&server.public_ip)),
        ("Location", show::optional(server.location.as_deref())),
        ("Version", show::escaped(&server.version)),
        (
            "Operating system",
            show::optional(server.os_version.as_deref()),
        ),
        ("Enrolled", show::instant(Some(&server.registration_date))),
        (
            "Last heartbeat",
            show::instant(server.last_heartbeat.as_deref()),
        ),
        (
            "Rehost permitted",
            server.rehost_permitted_until.as_deref().map_or_else(
                || "no".to_owned(),
                |until| format!("until {}", show::instant(Some(until))),
            ),
        ),
        (
            "Grace periods used",
            server.grace_period_usage_count.to_string(),
        ),
        ("Public key", show::escaped(&server.public_key)),
        ("Fingerprint", show::escaped(&server.verification_hash)),
    ]
}

async fn approve(store: &dyn Store, name: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let server_id = find(store, name).await?.server_id;
    let approved = store.approve_server(&server_id).await?;
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
            "two holders of its identity were seen, and approval does not tell which is the right one; enrol the host again with a new token"
        }
        _ => "only a pending server can be approved; enrol the host again with a new token",
    }
}

async fn verify(store: &dyn Store, name: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let server = find(store, name).await?;
    if server.status != "active" {
        bail!(
            "{} is {}: only an active server can be verified",
            show::escaped(&server.hostname),
            show::escaped(&server.status)
        );
    }
    let row = verification::challenge(store, &server.server_id, VERIFY_WAIT).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn server(server_id: &str, hostname: &str) -> ServerRow {
        ServerRow {
            server_id: server_id.into(),
            hostname: hostname.into(),
            public_ip: String::new(),
            public_key: String::new(),
            version: String::new(),
            location: None,
            registration_date: String::new(),
            last_heartbeat: None,
            status: "active".into(),
            available: true,
            registered_with_key: None,
            verification_hash: String::new(),
            identity_key_id: "6b86b273".into(),
            os_version: None,
            verdict: "verified".into(),
            verdict_reason: None,
            authorisation: "verified".into(),
            hardware_verification_status: "verified".into(),
            last_hardware_verification_at: None,
            grace_period_enabled: false,
            grace_period_expires_at: None,
            grace_period_usage_count: 0,
            rehost_permitted_until: None,
            active_connections: 0,
        }
    }

    #[test]
    fn the_key_that_the_host_shows_is_shown_here_too() {
        let server = server("0199-a", "honest");
        assert!(fields(&server).contains(&("Key", "6b86b273".to_owned())));
        let json = serde_json::to_value(&server).unwrap();
        assert_eq!(json["identity_key_id"], "6b86b273");
    }

    #[test]
    fn a_host_that_calls_itself_by_anothers_id_is_not_taken_for_it() {
        let servers = [server("0199-a", "honest"), server("0199-b", "0199-a")];
        assert_eq!(pick(&servers, "0199-a").unwrap().hostname, "honest");
        assert_eq!(pick(&servers, "0199-b").unwrap().server_id, "0199-b");
        assert_eq!(pick(&servers, "honest").unwrap().server_id, "0199-a");
        assert!(pick(&servers, "0199").is_err());
        assert!(pick(&servers, "").is_err());
    }
}
