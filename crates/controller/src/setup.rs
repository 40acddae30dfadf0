//! `init`: a new data directory with keys, certificate, TLS certificate, settings and database.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use vpn_node_protocol::encoding::Digest;

use crate::config::{self, Config, ConfigError};
use crate::keys::{self, KeyError, create_private};
use crate::store::{self, StoreError};
use crate::tls::{self, TlsError};

/// Why a controller could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Something is there already.
    #[error(
        "{0:?} exists already: a controller is never set up over another one; choose another --data-dir, or move this one away"
    )]
    Exists(PathBuf),
    /// The file system refused.
    #[error("{path:?} cannot be created: {source}{}", config::advice(source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What `init` made, for its report.
pub struct Outcome {
    /// SHA-256 of the root public key.
    pub root_pin: Digest,
    /// Where the root's private key stands, until it is moved offline.
    pub root_file: PathBuf,
    /// Where the settings stand.
    pub config_file: PathBuf,
}

/// Sets a controller up. `names` are further DNS names or addresses of a self-signed certificate;
/// `config_file` is where the settings go (`DATA_DIR/controller.toml` when `None`).
///
/// # Errors
/// [`SetupError`]; nothing of an existing controller is touched.
pub async fn init(
    config: &Config,
    names: &[String],
    config_file: Option<PathBuf>,
    now_ms: i64,
) -> Result<Outcome, SetupError> {
    config.check()?;
    let config_file = config_file.unwrap_or_else(|| config.data_dir.join(config::FILE_NAME));
    if config_file.exists() {
        return Err(SetupError::Exists(config_file));
    }
    // A pair of the operator's that cannot work is found before anything is made.
    if config.tls_cert.is_some() {
        tls::server_config(config)?;
    }
    claim(&config.data_dir)?;
    let created = keys::create(&config.data_dir, now_ms)?;
    if config.tls_cert.is_none() {
        tls::create_self_signed(config, certificate_names(config, names))?;
    }
    store::create(config).await?;
    let text = toml::to_string(config).expect("settings have a TOML form");
    create_private(&config_file, text.as_bytes())?;
    Ok(Outcome {
        root_pin: created.root_pin,
        root_file: created.root_file,
        config_file,
    })
}

/// Makes the directory, or takes an empty one that a package made.
fn claim(path: &Path) -> Result<(), SetupError> {
    let failed = |source| SetupError::Directory {
        path: path.to_owned(),
        source,
    };
    match DirBuilder::new().recursive(false).mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let mut entries = std::fs::read_dir(path).map_err(failed)?;
    if entries.next().is_some() {
        return Err(SetupError::Exists(path.to_owned()));
    }
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    File::open(path)
        .and_then(|dir| dir.set_permissions(owner_only))
        .map_err(failed)
}

/// The URL's host, the operator's names, and loopback for checks on the machine itself.
fn certificate_names(config: &Config, names: &[String]) -> Vec<String> {
    let host = config::host_of(config.url.trim_start_matches("https://"));
    let mut all = vec![host.to_owned()];
    for name in names
        .iter()
        .map(String::as_str)
        .chain(["localhost", "127.0.0.1"])
    {
        if !all.iter().any(|known| known == name) {
            all.push(name.to_owned());
        }
    }
    all
}
