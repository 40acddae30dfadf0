//! `controller.toml`: read, checked, unknown keys refused.

mod parse;

use std::fs::{self, File};
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vpn_node_protocol::limits::MAX_LEASE_S;
use vpn_node_protocol::token::MAX_URL_BYTES;

/// Where the data directory is unless said otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/vpn-node-controller";
/// Where the configuration of an installed controller is looked for first.
pub const DEFAULT_CONFIG: &str = "/etc/vpn-node/controller.toml";
/// The configuration's name inside a data directory.
pub const FILE_NAME: &str = "controller.toml";

/// The port of a URL that names none (RFC 9110, section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// The controller's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Keys, certificate and database.
    pub data_dir: PathBuf,
    /// How hosts reach the controller; stands in every token.
    pub url: String,
    /// Where the server listens.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The operator's certificate chain (PEM); without it a self-signed one in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Seconds from one heartbeat of a host to the next.
    #[serde(default = "default_heartbeat_interval_s")]
    pub heartbeat_interval_s: u32,
    /// How long a verdict stands without another word, in seconds.
    #[serde(default = "default_lease_s")]
    pub lease_s: u32,
    /// Seconds from one good verification of a host to the next challenge.
    #[serde(default = "default_verification_interval_s")]
    pub verification_interval_s: u32,
    /// Whether an enrolled host is active at once, or waits for an operator.
    #[serde(default = "default_auto_approve")]
    pub auto_approve: bool,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}
fn default_heartbeat_interval_s() -> u32 {
    30
}
fn default_lease_s() -> u32 {
    MAX_LEASE_S
}
fn default_verification_interval_s() -> u32 {
    6 * 3600
}
fn default_auto_approve() -> bool {
    true
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error(
        "there is no configuration at {0:?}: run 'vpn-node-controller init --url https://HOST:PORT', or name it with --config or --data-dir"
    )]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("{path:?} cannot be read: {source}{}", advice(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{path:?}, line {line}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key, what is wrong, and what is near to it.
        problem: String,
    },
    /// A key that has no default is not there.
    #[error("{path:?}: {key} is missing: every controller needs its own")]
    Lacks {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// Others could change the file, or put other files into the directory.
    #[error(
        "{path:?} can be written by others (mode {mode:04o}), who could so take the controller over: look whether its content is still yours, and run 'chmod {cure} {}'",
        path.display()
    )]
    Exposed {
        /// The settings or the data directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode's change that mends it.
        cure: &'static str,
    },
    /// A value that cannot work.
    #[error("{key} is {value:?}, but {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What must hold.
        rule: &'static str,
    },
    /// The same in a file.
    #[error("{path:?}: {source}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<ConfigError>,
    },
}

/// What to do about a refusal of the file system, to follow its sentence.
pub(crate) fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => RUN_AS_OWNER,
        _ => "",
    }
}

/// Keys and database belong to one user, and so does whoever works with them.
pub(crate) const RUN_AS_OWNER: &str =
    "; run as the user that owns it (sudo -u vpn-node-controller vpn-node-controller ...)";

impl Config {
    /// Settings with every default, as `init` writes them.
    #[must_use]
    pub fn new(data_dir: PathBuf, url: String) -> Self {
        Self {
            data_dir,
            url,
            listen: default_listen(),
            tls_cert: None,
            tls_key: None,
            heartbeat_interval_s: default_heartbeat_interval_s(),
            lease_s: default_lease_s(),
            verification_interval_s: default_verification_interval_s(),
            auto_approve: default_auto_approve(),
        }
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => ConfigError::Missing(path.to_owned()),
            _ => ConfigError::Unreadable {
                path: path.to_owned(),
                source,
            },
        };
        let mut file = File::open(path).map_err(failed)?;
        // Whoever may write here chooses the keys and the database. The open file's mode, not the
        // path's: nobody can exchange it in between.
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o002 != 0 {
            return Err(ConfigError::Exposed {
                path: path.to_owned(),
                mode,
                cure: "o-w",
            });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let config = parse::parse(path, &text)?;
        config.check().map_err(|source| ConfigError::InFile {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Ok(config)
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, value: String, rule| Err(ConfigError::Value { key, value, rule });
        check_url(&self.url)?;
        if !(1..=3600).contains(&self.heartbeat_interval_s) {
            let value = self.heartbeat_interval_s.to_string();
            return refuse(
                "heartbeat_interval_s",
                value,
                "it must be 1 to 3600 seconds",
            );
        }
        if !(1..=MAX_LEASE_S).contains(&self.lease_s) {
            let value = self.lease_s.to_string();
            return refuse("lease_s", value, "it must be 1 to 1800 seconds");
        }
        if !(60..=604_800).contains(&self.verification_interval_s) {
            let value = self.verification_interval_s.to_string();
            return refuse(
                "verification_interval_s",
                value,
                "it must be 60 to 604800 seconds (a minute to seven days)",
            );
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return refuse(
                match self.tls_cert {
                    Some(_) => "tls_key",
                    None => "tls_cert",
                },
                String::new(),
                "tls_cert and tls_key go together",
            );
        }
        Ok(())
    }

    /// Refuses a data directory in which others could replace keys and database. That others may
    /// look into it is no reason to stop: what is secret in it has modes of its own.
    ///
    /// # Errors
    /// [`ConfigError::Exposed`].
    pub fn check_data_dir(&self) -> Result<(), ConfigError> {
        // One that is missing is told by whoever needs a file of it.
        let Ok(found) = fs::metadata(&self.data_dir) else {
            return Ok(());
        };
        let mode = found.mode() & 0o7777;
        if mode & 0o022 == 0 {
            return Ok(());
        }
        Err(ConfigError::Exposed {
            path: self.data_dir.clone(),
            mode,
            cure: "700",
        })
    }

    /// The database file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("controller.db")
    }

    /// The release repository.
    #[must_use]
    pub fn releases(&self) -> PathBuf {
        self.data_dir.join("releases")
    }

    /// Certificate chain and private key in PEM, and whether they are our own self-signed ones.
    #[must_use]
    pub fn tls_files(&self) -> (PathBuf, PathBuf, bool) {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone(), false),
            _ => (
                self.data_dir.join("tls.pem"),
                self.data_dir.join("keys").join("tls.key"),
                true,
            ),
        }
    }
}

/// Checks a controller URL as tokens carry it.
///
/// # Errors
/// [`ConfigError::Value`].
pub fn check_url(url: &str) -> Result<(), ConfigError> {
    let refuse = |rule| {
        Err(ConfigError::Value {
            key: "url",
            value: url.chars().take(120).collect(),
            rule,
        })
    };
    let Some(rest) = url.strip_prefix("https://") else {
        return refuse("it must begin with https://");
    };
    if url.len() > MAX_URL_BYTES {
        return refuse("it must have at most 512 bytes");
    }
    if !url.chars().all(|c| c.is_ascii_graphic()) {
        return refuse("it must be printable ASCII without blanks");
    }
    if host_of(rest).is_empty() {
        return refuse("it names no host");
    }
    if port_of(rest).is_none() {
        return refuse("its port must be a number from 1 to 65535");
    }
    Ok(())
}

/// The port of `HOST[:PORT][/...]`, 443 when there is none; `None` for an impossible one.
#[must_use]
pub fn port_of(authority: &str) -> Option<u16> {
    let authority = authority.split('/').next().unwrap_or_default();
    let after_host = authority
        .rsplit_once(']')
        .map_or(authority, |(_, after)| after);
    match after_host.split_once(':') {
        None => Some(HTTPS_PORT),
        Some((_, port)) => port.parse().ok().filter(|port| *port != 0),
    }
}

/// The host of `HOST[:PORT][/...]`, IPv6 without its brackets.
#[must_use]
pub fn host_of(authority: &str) -> &str {
    let authority = authority.split('/').next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, text).unwrap();
        Config::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        let config = load("data_dir = '/x'\nurl = 'https://c.example:1'").unwrap();
        assert_eq!(
            config,
            Config::new("/x".into(), "https://c.example:1".into())
        );
        assert_eq!((config.heartbeat_interval_s, config.lease_s), (30, 1800));
        assert!(config.auto_approve);
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        let good = "data_dir = '/x'\nurl = 'https://c'\n";
        for (extra, word) in [
            ("leese_s = 3", "leese_s"),
            ("lease_s = 1801", "1800"),
            ("lease_s = 0", "1800"),
            ("heartbeat_interval_s = 0", "3600"),
            ("verification_interval_s = 59", "604800"),
            ("verification_interval_s = 604801", "604800"),
            ("tls_cert = '/a'", "together"),
        ] {
            let error = load(&format!("{good}{extra}")).unwrap_err();
            assert!(error.contains(word), "{error}");
            assert!(error.contains(FILE_NAME), "{error}");
        }
        assert!(load("data_dir='/x'\nurl='http://c'").is_err());
        for url in [
            "https://c:0",
            "https://c:65536",
            "https://c:x/",
            "https://[::1]:x",
        ] {
            let error = check_url(url).unwrap_err().to_string();
            assert!(error.contains("65535"), "{url}: {error}");
        }
        for url in [
            "https://c",
            "https://c:1/x:y",
            "https://[::1]",
            "https://[::1]:8443",
        ] {
            check_url(url).unwrap();
        }
    }

    #[test]
    fn the_documentation_has_every_key_and_its_default() {
        let page = include_str!("../../../docs/controller.md");
        let mut config = Config::new("/x".into(), "https://c".into());
        let defaults = toml::Table::try_from(&config).unwrap();
        config.tls_cert = Some("/cert".into());
        config.tls_key = Some("/key".into());
        for key in toml::Table::try_from(&config).unwrap().keys() {
            let default = match (key.as_str(), defaults.get(key)) {
                ("data_dir" | "url", _) => "required".to_owned(),
                (_, Some(default)) => format!("`{default}`"),
                (_, None) => "not set".to_owned(),
            };
            let row = format!("| `{key}` | {default} | ");
            assert!(page.contains(&row), "docs/controller.md lacks {row}");
        }
    }

    #[test]
    fn the_host_of_a_url_is_found() {
        assert_eq!(host_of("vpn.example.org:8443/x"), "vpn.example.org");
        assert_eq!(host_of("[::1]:8443"), "::1");
        assert_eq!(host_of("10.0.0.1"), "10.0.0.1");
        assert_eq!(port_of("vpn.example.org:8443/x:1"), Some(8443));
        assert_eq!((port_of("[::1]:9"), port_of("[::1]")), (Some(9), Some(443)));
        assert_eq!((port_of("c:0"), port_of("c:")), (None, None));
    }
}
