//! The configuration of the agent: raw file, merged, validated.
//!
//! [`load`] reads `agent.toml`, then `agent.d/*.toml` in name order; a later file wins key by key.
//! The daemon and `vpn-node config check` run this same code, so what passes the check starts.
//! Nothing here is a secret but a proxy's password, which is never printed; nor is one that somebody
//! wrote into another URL.

mod error;
mod files;
mod fragment;
mod keys;
mod merged;
mod show;
mod validate;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::ConfigError;
pub use keys::{KEYS, Key};
pub use merged::Origin;
pub use show::changed;

/// Where the configuration is looked for when no `--config` is given.
pub const DEFAULT_FILE: &str = "/etc/vpn-node/agent.toml";

/// The validated configuration. Every value is in its range; every path is absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Identity, enrolment and ledger live here.
    pub state_dir: PathBuf,
    /// The status socket lives here.
    pub runtime_dir: PathBuf,
    /// What the agent logs.
    pub log_level: LogLevel,
    /// Where this host stands, in the operator's words; reported with heartbeats.
    pub location: Option<String>,
    /// `[controller]`
    pub controller: ControllerSettings,
    /// `[wireguard]`
    pub wireguard: WireguardSettings,
    /// `[openvpn]`
    pub openvpn: OpenvpnSettings,
    /// `[strongswan]`
    pub strongswan: StrongswanSettings,
    /// `[ocserv]`
    pub ocserv: OcservSettings,
    /// `[ledger]`
    pub ledger: LedgerSettings,
    /// `[metrics]`
    pub metrics: MetricsSettings,
    /// `[update]`
    pub update: UpdateSettings,
}

/// How the controller is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerSettings {
    /// `https` URLs without a path's trailing slash; they replace the one of the token.
    pub urls: Option<Vec<String>>,
    /// Certificate authorities (PEM) that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The proxy for all requests.
    pub proxy: Option<ProxyUrl>,
}

/// A proxy's URL. It may hold a password: `Debug` and `Display` hide that.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

/// How WireGuard is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardSettings {
    /// Watch WireGuard at all.
    pub enabled: bool,
    /// Where userspace implementations put their sockets.
    pub socket_dir: PathBuf,
    /// Ask the kernel too.
    pub kernel: bool,
    /// The socket of the process that asks it; `None`: the agent asks by itself.
    pub reader: Option<PathBuf>,
    /// Time between two polls.
    pub poll: Duration,
}

/// How OpenVPN is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenvpnSettings {
    /// Watch OpenVPN at all.
    pub enabled: bool,
    /// The management interfaces; `None`: those that are found on this host.
    pub management: Option<Vec<ManagementAddress>>,
    /// The file with their password.
    pub password_file: Option<PathBuf>,
    /// The status files; `None`: those that are found on this host.
    pub status_files: Option<Vec<PathBuf>>,
}

/// Where an OpenVPN daemon has its management interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagementAddress {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port; OpenVPN's manual wants it on a loopback address.
    Tcp(SocketAddr),
}

/// How strongSwan is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrongswanSettings {
    /// Watch strongSwan at all.
    pub enabled: bool,
    /// The VICI socket of charon.
    pub vici: PathBuf,
    /// Whether that is another one than the usual: then its absence is a failure.
    pub expected: bool,
}

/// How ocserv is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcservSettings {
    /// Watch ocserv at all.
    pub enabled: bool,
    /// Its control socket, which occtl(8) uses.
    pub socket: PathBuf,
    /// Whether that is another one than the usual: then its absence is a failure.
    pub expected: bool,
}

/// How much the connection ledger may keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerSettings {
    /// Most bytes on disk.
    pub max_bytes: u64,
    /// What gives way when they are used up.
    pub when_full: WhenFull,
}

/// What gives way in a full ledger. Both are reported as gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest records.
    #[default]
    DropOldest,
    /// The new ones.
    Refuse,
}

impl WhenFull {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DropOldest => "drop_oldest",
            Self::Refuse => "refuse",
        }
    }
}

impl std::fmt::Display for ManagementAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Mount points whose use is reported.
    pub disks: Vec<PathBuf>,
}

/// How releases are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateSettings {
    /// Fetch releases at all.
    pub enabled: bool,
    /// Where from; `None`: from where the controller says, which is its own repository usually.
    pub repository: Option<String>,
    /// Slower is given up, in bytes a second.
    pub min_rate: u64,
    /// Larger packages are not fetched, in bytes.
    pub max_bytes: u64,
}

/// The ladder of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// It healed, but look.
    Warn,
    /// Life events.
    #[default]
    Info,
    /// For developers; the only level that shows client addresses.
    Debug,
    /// Everything.
    Trace,
}

/// Settings together with where each came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The validated settings.
    pub settings: Settings,
    /// The files that were read, in the order in which they were applied.
    pub files: Vec<PathBuf>,
    origins: merged::Origins,
}

/// Reads, merges and validates the configuration.
///
/// `explicit` is the file named with `--config`; it must exist. Without it [`DEFAULT_FILE`] is
/// read if it exists, and the defaults hold if not. Fragments are the `*.toml` files in the folder
/// named like the file with `.d` instead of `.toml` (`agent.d`); they count even without the file.
///
/// # Errors
/// The first problem found, as a sentence with file, line and key.
pub fn load(explicit: Option<&Path>) -> Result<Effective, ConfigError> {
    let main = explicit.unwrap_or(Path::new(DEFAULT_FILE));
    let mut merged = merged::Merged::default();
    let mut read = Vec::new();
    let main_text = files::read(main, explicit.is_some())?.map(|text| (main.to_owned(), text));
    let drop_ins = files::drop_ins(&main.with_extension("d"))?;
    for (path, text) in main_text.into_iter().chain(drop_ins) {
        merged.absorb(&path, &text, fragment::parse(&path, &text)?);
        read.push(path);
    }
    let (settings, origins) = validate::validate(merged)?;
    Ok(Effective {
        settings,
        files: read,
        origins,
    })
}

impl Settings {
    /// The unix socket on which the agent answers `vpn-node status`.
    #[must_use]
    pub fn status_socket(&self) -> PathBuf {
        self.runtime_dir.join("status.sock")
    }

    /// Where the updater keeps its state: beside the agent's, never below it, since the agent could
    /// rename that away.
    #[must_use]
    pub fn updater_dir(&self) -> PathBuf {
        self.state_dir.with_file_name("vpn-node-updater")
    }

    /// The file whose existence says that this host is enrolled.
    #[must_use]
    pub fn enrollment_file(&self) -> PathBuf {
        self.state_dir.join("enrollment.json")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/vpn-node"),
            runtime_dir: PathBuf::from("/run/vpn-node"),
            log_level: LogLevel::Info,
            location: None,
            controller: ControllerSettings::default(),
            wireguard: WireguardSettings {
                enabled: true,
                socket_dir: PathBuf::from("/var/run/wireguard"),
                kernel: true,
                reader: Some(PathBuf::from("/run/vpn-node-wireguard/reader.sock")),
                poll: Duration::from_secs(5),
            },
            openvpn: OpenvpnSettings {
                enabled: true,
                management: None,
                password_file: None,
                status_files: None,
            },
            strongswan: StrongswanSettings {
                enabled: true,
                vici: PathBuf::from("/var/run/charon.vici"),
                expected: false,
            },
            ocserv: OcservSettings {
                enabled: true,
                socket: PathBuf::from("/var/run/occtl.socket"),
                expected: false,
            },
            ledger: LedgerSettings {
                max_bytes: 256 * 1024 * 1024,
                when_full: WhenFull::DropOldest,
            },
            metrics: MetricsSettings {
                disks: vec![PathBuf::from("/")],
            },
            update: UpdateSettings {
                enabled: true,
                repository: None,
                min_rate: 2048,
                max_bytes: 256 * 1024 * 1024,
            },
        }
    }
}

impl LogLevel {
    /// Its name in the configuration, which is also tracing's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [
            Self::Error,
            Self::Warn,
            Self::Info,
            Self::Debug,
            Self::Trace,
        ]
        .into_iter()
        .find(|level| level.as_str() == name)
    }
}

impl ProxyUrl {
    /// The whole URL, password included: for the HTTP client only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&without_userinfo(&self.0))
    }
}

impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

/// A URL, or what was meant as one, without what may be a user name and a password: all before the
/// last @ but a plain scheme.
fn without_userinfo(url: &str) -> Cow<'_, str> {
    let Some((before, host)) = url.rsplit_once('@') else {
        return Cow::Borrowed(url);
    };
    let scheme = before.split_once("://").map(|(scheme, _)| scheme);
    let is_plain = |scheme: &&str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Cow::Owned(match scheme.filter(is_plain) {
        Some(scheme) => format!("{scheme}://***@{host}"),
        None => format!("***@{host}"),
    })
}

#[cfg(test)]
mod tests;
