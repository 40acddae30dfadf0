//! Arguments, then text or JSON. Everything here is for a person at a terminal or a script.

mod asked;
mod connections;
mod devices;
mod events;
mod init;
mod lists;
mod named;
mod personal_keys;
mod registration;
mod releases;
mod rollouts;
mod servers;
mod serving;
mod show;
mod span;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Config, DEFAULT_CONFIG, DEFAULT_DATA_DIR, FILE_NAME};
use crate::secrecy;
use crate::store::{self, Store};

/// The control plane of a vpn-node fleet.
#[derive(Debug, Parser)]
#[command(name = "vpn-node-controller", version, about)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Where the controller's settings and data are.
#[derive(Debug, Args)]
struct Place {
    /// Settings file [default: /etc/vpn-node/controller.toml if it exists]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "data_dir")]
    config: Option<PathBuf>,
    /// Data directory with its own controller.toml [default: /var/lib/vpn-node-controller]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set a new controller up: keys, certificate, database
    Init(init::InitArgs),
    /// Answer the hosts
    Serve,
    /// Make, list and revoke the tokens that enrol hosts
    #[command(subcommand)]
    RegistrationKey(registration::RegistrationCommand),
    /// List, show, approve, verify and revoke the hosts of the fleet, their keys and their hardware
    #[command(subcommand)]
    Server(servers::ServerCommand),
    /// Who is and was connected; what is lost of that; ending a connection
    #[command(subcommand)]
    Connections(connections::ConnectionsCommand),
    /// Make, list, rotate, verify and revoke the keys that stand for users
    #[command(subcommand)]
    PersonalKey(personal_keys::PersonalKeyCommand),
    /// Add, list, show and revoke the devices of users, and say what VPN daemons call them
    #[command(subcommand)]
    Device(devices::DeviceCommand),
    /// Have hosts install a published release, a few at a time; watch, pause, resume and abort that
    #[command(subcommand)]
    Rollout(rollouts::RolloutCommand),
    /// Make, sign, publish and revoke the releases that hosts install
    Release(releases::ReleaseArgs),
    /// What hosts said of themselves
    #[command(subcommand)]
    Heartbeats(lists::HeartbeatsCommand),
    /// What an operator should look at, and what was done about it
    #[command(subcommand)]
    Events(events::EventsCommand),
}

/// The command line's definition, for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    Cli::command()
}

/// Runs the program: 0 well, 1 failed, 2 wrong arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = secrecy::forbid_dumps() {
        show::note(format_args!(
            "vpn-node-controller: core dumps of this process cannot be forbidden: {error}"
        ));
    }
    let serves = matches!(cli.command, Command::Serve);
    let runtime = if serves {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
    } else {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    let result = runtime
        .context("the program's tasks cannot be started")
        .and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("vpn-node-controller: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The chain of reasons as one line; what a sentence says already is not said again.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for reason in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
    }
    text
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let place = cli.place;
    match cli.command {
        Command::Init(args) => init::run(args, place.data_dir, place.config).await,
        Command::Serve => serving::run(place.load()?).await,
        Command::RegistrationKey(command) => registration::run(command, &place.load()?).await,
        Command::Server(command) => servers::run(command, &place.load()?).await,
        Command::Connections(command) => connections::run(command, &place.load()?).await,
        Command::PersonalKey(command) => personal_keys::run(command, &place.load()?).await,
        Command::Device(command) => devices::run(command, &place.load()?).await,
        Command::Rollout(command) => rollouts::run(command, &place.load()?).await,
        Command::Release(args) => releases::run(args, &place).await,
        Command::Heartbeats(command) => lists::heartbeats(command, &place.load()?).await,
        Command::Events(command) => events::run(command, &place.load()?).await,
    }
}

impl Place {
    fn load(&self) -> anyhow::Result<Config> {
        let path = match (&self.config, &self.data_dir) {
            (Some(file), _) => file.clone(),
            (None, Some(dir)) => dir.join(FILE_NAME),
            (None, None) if Path::new(DEFAULT_CONFIG).exists() => DEFAULT_CONFIG.into(),
            (None, None) => Path::new(DEFAULT_DATA_DIR).join(FILE_NAME),
        };
        let config = Config::load(&path)?;
        config.check_data_dir()?;
        Ok(config)
    }
}

async fn open(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    Ok(store::open(config).await?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_reason_is_said_once() {
        let full = std::io::Error::other("disk full");
        let within = anyhow::Error::new(full).context("a.db: disk full");
        assert_eq!(sentence(&within), "a.db: disk full");
        let apart = anyhow::anyhow!("disk full").context("a.db failed");
        assert_eq!(sentence(&apart), "a.db failed: disk full");
    }

    #[test]
    fn a_list_of_nothing_is_a_wrong_argument() {
        for limit in ["0", "-1", "99999999999"] {
            let words = ["vpn-node-controller", "events", "list", "--limit", limit];
            let error = Cli::try_parse_from(words).unwrap_err();
            assert!(error.to_string().contains("invalid value"), "{error}");
        }
    }

    #[test]
    fn the_documented_command_lines_parse() {
        for line in [
            "init --url https://c.example:8443 --listen 0.0.0.0:8443 --name a --name b",
            "init --url https://c --tls-cert c.pem --tls-key k.pem",
            "serve",
            "--data-dir /x serve",
            "registration-key create --expires 24h --note rack-7 --json",
            "registration-key create --server host-1 --expires 1h",
            "registration-key list --json",
            "registration-key revoke abcd --json",
            "server list --json",
            "server show host-1 --json",
            "server approve host-1 --json",
            "server verify host-1 --json",
            "server revoke host-1 --reason stolen --json",
            "server rotate-key host-1 --json",
            "server resolve-clone host-1 --json",
            "server resolve-clone host-1 --keep 192.0.2.1 --json",
            "server permit-rehost host-1 --for 1h --json",
            "server permit-rehost host-1 --for 0",
            "server hardware diff host-1 --show-serials --json",
            "server hardware log host-1 --limit 5 --json",
            "connections list --server host-1 --active --limit 5 --json",
            "connections list --user alice --device laptop --active",
            "connections list --unmapped --json",
            "connections show 0199c0de --json",
            "connections gaps --server host-1 --limit 5 --json",
            "connections disconnect 0199c0de --json",
            "personal-key create --user alice --email alice@example.net --expires 365d --note staff --json",
            "personal-key rotate alice --expires 365d --json",
            "personal-key revoke alice --reason left --wait 0s --json",
            "personal-key list --json",
            "personal-key verify alice --json",
            "device add --key alice --name laptop --platform linux --fingerprint 12ab --json",
            "device list --json",
            "device show laptop --json",
            "device revoke laptop --reason stolen --wait 30s --json",
            "device identity add laptop --wireguard KEY --json",
            "device identity add laptop --cert alice@laptop",
            "device identity add laptop --eap alice",
            "device identity add laptop --ike C=CH,CN=alice",
            "device identity remove laptop --user alice --json",
            "rollout create 1.5.0",
            "rollout create 1.5.0 --channel beta --group eu --group us --server host-1 --canary 2 --percent 10 --max-in-flight 5 --stop-on-failures 0 --mandatory --note soon --dry-run --yes --json",
            "rollout status --watch",
            "rollout status 0199c0de --json",
            "rollout list --json",
            "rollout pause 0199c0de --reason lunch --json",
            "rollout resume 1.5.0 --json",
            "rollout abort 0199c0de --reason bad --json",
            "server group add eu host-1 host-2",
            "server group remove eu host-1",
            "server group list eu --json",
            "release init --root-keys 3 --root-threshold 2 --targets-keys 2 --keys k --passphrase-file p",
            "release --repository r init --root-key a.pub --root-key b.pub --targets-key c.pub --online-key o.pub",
            "release make-key alice.key",
            "release make-key --online",
            "release add a.tar.zst b.tar.zst --channel beta --security-floor 1.4.0 --min-version 1.2.0 --mandatory --description faster",
            "release sign --key alice.key --repository r",
            "release refresh --above 12",
            "release renew root --expires 730d",
            "release rotate-key targets --add bob.pub --remove 1a2b3c4d",
            "release rotate-key root --threshold 2",
            "release revoke 1.5.0 --platform linux-arm64 --security-floor 1.5.1",
            "release republish 1.4.0 --channel stable",
            "release export 1.5.0 --platform linux-amd64 --to f.tar",
            "release export --to f.tar",
            "release import f.tar --root-sha256 00",
            "release list --json",
            "release show --json",
            "release check",
            "release discard",
            "heartbeats list --server host-1 --limit 5 --json",
            "events list --limit 5 --json",
            "events list --type clone_suspected --severity high --unhandled --server a --since 24h",
            "events show 17 --json",
            "events handle 17 18 --note restored --json",
        ] {
            let words = ["vpn-node-controller"].into_iter().chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let both = [
            "vpn-node-controller",
            "--config",
            "a",
            "--data-dir",
            "b",
            "serve",
        ];
        assert!(Cli::try_parse_from(both).is_err());
    }
}
