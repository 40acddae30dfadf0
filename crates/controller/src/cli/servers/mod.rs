//! `server …`: the commands on one host or all of them, one file each.

mod approve;
mod group;
mod hardware;
mod list;
mod one;
mod resolve_clone;
mod revoke;
mod rotate_key;
mod software;
mod verify;

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;

use super::text::short_text;
use super::{open, show};
use crate::config::Config;
use crate::store::{ServerRow, Store};

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
    /// Refuse a host for ever, from this second on
    Revoke {
        /// Host name, server id, or the beginning of an id
        server: String,
        /// Why; shown by 'server show' and in the event
        #[arg(long, value_name = "TEXT", value_parser = short_text)]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have a host give itself a new identity key, and wait until it is used
    RotateKey {
        /// Host name, server id, or the beginning of an id
        server: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Expect other hardware of a host for a while: the next that it shows becomes the enrolled one
    PermitRehost(hardware::PermitArgs),
    /// The hardware of a host: how it differs from the enrolled one, and how it was verified
    #[command(subcommand)]
    Hardware(hardware::HardwareCommand),
    /// Groups of hosts, for rollouts
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Show two holders of one identity, and keep one of them
    ResolveClone(resolve_clone::ResolveClone),
    /// Challenge a host now, and wait for its answer
    Verify {
        /// Host name, server id, or the beginning of an id
        server: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: ServerCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let store = open(config).await?;
    match command {
        ServerCommand::List { json } => list::list(&*store, json).await,
        ServerCommand::Show { server, json } => one::one(&*store, &server, json).await,
        ServerCommand::Approve { server, json } => approve::approve(&*store, &server, json).await,
        ServerCommand::Revoke {
            server,
            reason,
            json,
        } => revoke::revoke(&*store, &server, &reason, json).await,
        ServerCommand::RotateKey { server, json } => {
            rotate_key::rotate_key(&*store, &server, json).await
        }
        ServerCommand::PermitRehost(args) => hardware::permit(args, &*store).await,
        ServerCommand::Hardware(command) => hardware::hardware(command, &*store).await,
        ServerCommand::Group(command) => group::run(command, &*store).await,
        ServerCommand::ResolveClone(args) => resolve_clone::run(&*store, args).await,
        ServerCommand::Verify { server, json } => verify::verify(&*store, &server, json).await,
    }
}

/// The server that an operator means.
pub(super) async fn find(store: &dyn Store, name: &str) -> anyhow::Result<ServerRow> {
    let servers = store.list_servers().await?;
    pick(&servers, name).cloned()
}

/// The controller's word on a host, as long as it is heard at all: what was said of a host before it
/// was stopped is no verdict any more.
fn verdict(server: &ServerRow) -> String {
    match server.status.as_str() {
        "quarantined" | "revoked" => "none".to_owned(),
        _ => show::escaped(&server.verdict),
    }
}

/// What to do about a server whose status does not allow a command, as the end of a sentence.
fn cure(server: &ServerRow) -> String {
    match server.status.as_str() {
        "quarantined" => format!(
            "; two holders of its identity were seen: see 'server resolve-clone {}'",
            server.server_id
        ),
        "pending" => format!("; let it in with 'server approve {}'", server.server_id),
        _ => String::new(),
    }
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn server(server_id: &str, hostname: &str) -> ServerRow {
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
            status_reason: None,
            status_changed_at: None,
            available: true,
            registered_with_key: None,
            verification_hash: String::new(),
            identity_key_id: "6b86b273".into(),
            key_epoch: 1,
            next_key_id: None,
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
            clock_offset_ms: Some(-250),
        }
    }

    #[test]
    fn a_stopped_host_has_no_verdict() {
        let mut server = server("0199-a", "honest");
        assert_eq!(verdict(&server), "verified");
        for status in ["quarantined", "revoked"] {
            status.clone_into(&mut server.status);
            assert_eq!(verdict(&server), "none");
        }
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
