//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::host::installation;
use crate::host::sealing::SealWith;
use crate::host::systemd::ServiceName;

/// The agent of this VPN host: enrol it, ask how it is, see who is connected.
#[derive(Debug, Parser)]
#[command(
    name = "vpn-node",
    version = installation::version_line(),
    propagate_version = true,
    after_long_help = "\
Examples:
  vpn-node enroll                     paste the token when asked
  vpn-node status                     one screen about this host
  vpn-node connections --json         who is connected, for programs
  vpn-node healthcheck                for monitors: the exit code says it
  vpn-node gate status                which VPN services need this host's authorisation

Exit codes:
  0  done; healthcheck: healthy
  1  failed; healthcheck: unhealthy; gate status: closed
  2  wrong command line
  3  the agent is not running or does not answer; gate status: systemd cannot be asked
  4  this host is not enrolled"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Default, Args)]
pub(super) struct Global {
    /// Configuration file [default: /etc/vpn-node/agent.toml if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// Folder of identity, enrolment and ledger, instead of the configured one
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) state_dir: Option<PathBuf>,
    /// Status socket of the agent, instead of the configured one
    #[arg(long, value_name = "PATH", global = true)]
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Give this host its identity, with the token that the controller printed
    ///
    /// Run it as root, or as the agent's own user. As root it also writes what only root can read of
    /// the hardware to /run/vpn-node-hardware/hardware.json, as each start of the service does.
    ///
    /// The token is read from standard input or from a file, never from the command line or the
    /// environment: every user of this host can read those.
    ///
    /// A host that is enrolled takes only a token for its own server, which the controller makes
    /// with 'registration-key create --server NAME': it gets a new identity, and keeps its id and
    /// its records. Stop the agent first.
    #[command(after_long_help = "\
Examples:
  sudo vpn-node enroll                          asks for the token; paste it
  sudo vpn-node enroll < token.txt
  sudo vpn-node enroll --token-file token.txt")]
    Enroll(EnrollArguments),
    /// Show how this agent is: enrolment, verification, heartbeats, backends, backlog
    ///
    /// Users who are neither root nor in the group vpn-node see a short summary.
    #[command(after_long_help = "\
Examples:
  vpn-node status
  vpn-node status --json | jq .verification.state")]
    Status {
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the live VPN connections (no addresses, no keys)
    #[command(after_long_help = "\
Examples:
  vpn-node connections
  vpn-node connections --json | jq '.connections | length'")]
    Connections {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print one line about the agent's health and exit with 0 if it is well
    #[command(after_long_help = "\
Exit codes:
  0  healthy
  1  unhealthy; the line says why
  2  wrong command line
  3  the agent is not running or does not answer
  4  this host is not enrolled")]
    Healthcheck,
    /// Let VPN services run only while this host is authorised
    #[command(after_long_help = "\
Examples:
  vpn-node gate enable wg-quick@wg0.service     as root: from now on it is gated
  vpn-node gate status                          every gated service, and why the gate is closed
  vpn-node gate disable wg-quick@wg0.service    as root: it is no longer gated")]
    Gate {
        #[command(subcommand)]
        command: GateCommand,
    },
    /// The identity key of this host: where it lies, sealing it to this machine, a new one
    Identity {
        #[command(subcommand)]
        command: IdentityCommand,
    },
    /// Releases: what is installed, installing one, going back
    #[command(after_long_help = "\
Examples:
  vpn-node update status                         what runs, what is held back, how the last went
  vpn-node update apply 1.5.0                    as root: fetch it, install it on trial, follow it
  vpn-node update apply --offline release.file   as root: the same from one file
  vpn-node update rollback                       as root: back to the version before
  vpn-node update pin 1.4.0                      as root: keep this host at one version

Exit codes of the commands for root are those of vpn-node-updater:
  0  done
  1  this host could not do it; nothing changed
  2  wrong command line
  3  refused: not allowed in, nothing changed; of 'apply VERSION': the agent does not answer
  4  it was tried and sent away again; the former version runs
  5  another updater is at work")]
    Update {
        #[command(subcommand)]
        command: UpdateCommand,
    },
    /// Check or show the configuration
    ///
    /// All its keys are in vpn-node-agent.toml(5) ('man vpn-node-agent.toml').
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum UpdateCommand {
    /// Show what is installed, what is held back, what is fetched and how the last update went
    Status {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
        /// Follow what is going on until it has ended
        #[arg(long, conflicts_with = "json")]
        watch: bool,
    },
    /// Show how updates ended, and what root changed
    History {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// As root: install a version on trial, from the repository or from one file
    ///
    /// The version is fetched by the agent and verified by the updater. What release keys have not
    /// signed is never installed, whoever asks.
    Apply {
        /// The version to fetch; of an offline file: which one of it
        #[arg(value_name = "VERSION", required_unless_present = "offline")]
        release: Option<String>,
        /// Take it from this file, which 'vpn-node-controller release export' made
        #[arg(long, value_name = "FILE")]
        offline: Option<PathBuf>,
        /// Do not wait for its end
        #[arg(long, conflicts_with = "offline")]
        no_wait: bool,
    },
    /// As root: say what an update would do, and what stands against it; change nothing
    Plan {
        /// Plan for this file instead of what the agent fetched
        #[arg(long, value_name = "FILE")]
        offline: Option<PathBuf>,
        /// This version of it
        #[arg(value_name = "VERSION", requires = "offline")]
        release: Option<String>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// As root: go back to the version that ran before the last update
    Rollback,
    /// As root: install no other version than this one
    Pin {
        /// The version
        #[arg(value_name = "VERSION")]
        release: String,
    },
    /// As root: end a pin
    Unpin,
    /// As root: install nothing at all on this host
    Disable,
    /// As root: install releases again
    Enable,
    /// As root: allow another try of a version that ended badly here
    Unblock {
        /// The version
        #[arg(value_name = "VERSION")]
        release: String,
    },
    /// As root: trust root metadata; from then on this host takes releases of its publisher
    Trust {
        /// The file; it must come another way than the releases
        file: PathBuf,
        /// Its SHA-256, as its publisher tells it
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Put it in the place of what is trusted already
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration with the agent's own code
    ///
    /// The running agent takes a change over with 'systemctl reload vpn-node-agent'.
    #[command(after_long_help = "\
Examples:
  vpn-node config check && systemctl reload vpn-node-agent
  vpn-node --config ./agent.toml config check")]
    Check,
    /// Print the effective settings as TOML, each with the place that set it
    Show,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum GateCommand {
    /// Bind a service to the gate: systemd stops it when the authorisation ends
    ///
    /// While the gate is closed the service is stopped; it starts when the gate opens.
    Enable {
        /// The service with its full name, such as wg-quick@wg0.service
        #[arg(value_parser = ServiceName::parse)]
        unit: ServiceName,
    },
    /// Unbind a service; it is neither started nor stopped by that
    Disable {
        /// The service with its full name
        #[arg(value_parser = ServiceName::parse)]
        unit: ServiceName,
    },
    /// Show whether the gate is open and why, and which services are gated
    #[command(after_long_help = "\
Exit codes:
  0  the gate is open, or no service is gated
  1  the gate is closed, a service is gated by half, or the named one is not gated
  2  wrong command line
  3  systemd cannot be asked, so nothing is known")]
    Status {
        /// This service alone, gated or not
        #[arg(value_parser = ServiceName::parse)]
        unit: Option<ServiceName>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// What vpn-node-gate.service runs.
    #[command(hide = true)]
    Hold,
}

#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// Show the identity key's id and epoch, and whether the key is sealed
    Status {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Seal the identity key to this machine with systemd-creds, as root, while the agent is stopped
    ///
    /// A copy of the state directory is of no use on another machine then. It is of no use on this
    /// one either when its TPM is reset or its host key is lost: the host must be enrolled anew.
    #[command(after_long_help = "\
Examples:
  systemctl stop vpn-node-agent
  vpn-node identity seal                   with the TPM and the host key, as far as there are any
  vpn-node identity seal --with tpm2
  systemctl start vpn-node-agent")]
    Seal {
        /// What opens it from now on
        #[arg(long, value_name = "KEY", default_value = "auto", value_parser = SealWith::NAMES)]
        with: String,
    },
    /// Put the identity key back in plain, readable by the agent's user alone; as root, while the
    /// agent is stopped
    Unseal,
    /// Have the running agent give this host a new identity key; as root or the agent's own user
    ///
    /// The old key stays in force until the controller has accepted the new one. 'vpn-node status'
    /// shows the key and since when it is in force.
    #[command(after_long_help = "\
Examples:
  vpn-node identity rotate
  vpn-node status | grep Identity")]
    Rotate,
}

#[derive(Debug, Args)]
pub(super) struct EnrollArguments {
    /// Read the token from this file instead of standard input
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Taken only to refuse a token here with the reason.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub(super) token: Option<Option<OsString>>,
    /// Taken only to refuse a token here with the reason.
    #[arg(hide = true)]
    pub(super) stray: Vec<OsString>,
}
