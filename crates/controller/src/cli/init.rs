//! `init`.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::config::{Config, DEFAULT_DATA_DIR, port_of};
use crate::{clock, setup, tls};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// How hosts reach this controller
    #[arg(long, value_name = "https://HOST:PORT")]
    url: String,
    /// Where the server listens [default: 0.0.0.0:8443]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// A certificate chain of your own, instead of a self-signed one
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A further name or address in the self-signed certificate
    #[arg(long, value_name = "DNS", conflicts_with = "tls_cert")]
    name: Vec<String>,
}

pub(super) async fn run(
    args: InitArgs,
    data_dir: Option<PathBuf>,
    config_file: Option<PathBuf>,
) -> anyhow::Result<ExitCode> {
    let data_dir = data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).with_context(|| format!("{path:?} is no usable path"))
    };
    let mut config = Config::new(absolute(data_dir)?, args.url);
    config.listen = args.listen.unwrap_or(config.listen);
    config.tls_cert = args.tls_cert.map(absolute).transpose()?;
    config.tls_key = args.tls_key.map(absolute).transpose()?;
    let place = match &config_file {
        Some(file) => format!(" --config {}", file.display()),
        None if config.data_dir == Path::new(DEFAULT_DATA_DIR) => String::new(),
        None => format!(" --data-dir {}", config.data_dir.display()),
    };
    refuse_anothers_directory(&config.data_dir)?;
    let made = setup::init(&config, &args.name, config_file, clock::now_ms()).await?;
    super::show::line(format_args!(
        "The controller is set up in {data}.

  settings   {settings}
  root pin   {pin}
             (SHA-256 of the root key: every token carries it)
{ports}
Next:
  1. Start it:        {start}
  2. Make a token:    vpn-node-controller{place} registration-key create
  3. Paste the token on the host, as the command says.

The root key certifies the other keys and is not needed to serve. Move
  {root}
to a safe place offline, for example onto two encrypted media, and delete it here.
Back the data directory up: without the keys in it no host can be answered.",
        data = config.data_dir.display(),
        settings = made.config_file.display(),
        pin = made.root_pin,
        start = start(&place),
        ports = other_port(&config).unwrap_or_default(),
        root = made.root_file.display(),
    ))?;
    if let Some(fault) = tls::name_fault(&config)? {
        super::show::note(format_args!("vpn-node-controller: note: {fault}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Keys that one user makes in the directory of another are no use to either: above all root's in
/// the directory that the package made for its service.
fn refuse_anothers_directory(data_dir: &Path) -> anyhow::Result<()> {
    let Ok(found) = std::fs::metadata(data_dir) else {
        return Ok(());
    };
    let (owner, we) = (found.uid(), nix::unistd::geteuid());
    anyhow::ensure!(
        owner == we.as_raw(),
        "{} belongs to {}: run this as that user (sudo -u {} vpn-node-controller init ...)",
        data_dir.display(),
        name_of(owner),
        name_of(owner),
    );
    Ok(())
}

/// The user's name, or the number of one without.
fn name_of(user: u32) -> String {
    let found = nix::unistd::User::from_uid(user.into()).ok().flatten();
    found.map_or_else(|| user.to_string(), |user| user.name)
}

/// How the server is started: by systemd where the package put it.
fn start(place: &str) -> String {
    let unit = "/usr/lib/systemd/system/vpn-node-controller.service";
    if place.is_empty() && Path::new(unit).exists() {
        return "sudo systemctl enable --now vpn-node-controller".into();
    }
    format!("vpn-node-controller{place} serve")
}

/// A note when the URL leads to another port than the one that the server listens on.
fn other_port(config: &Config) -> Option<String> {
    let url_port = port_of(config.url.strip_prefix("https://")?)?;
    let port = config.listen.port();
    (url_port != port).then(|| {
        format!(
            "
Note: hosts call port {url_port} of {url:?}, and the server listens on {listen}.
A proxy or a port forward must lead there, or set url or listen in the settings.
",
            url = config.url,
            listen = config.listen,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_port_in_the_url_is_noted() {
        let noted = |url: &str| other_port(&Config::new("/x".into(), url.into()));
        assert_eq!(noted("https://c.example:8443/path"), None);
        assert_eq!(noted("https://[2001:db8::1]:8443"), None);
        let note = noted("https://c.example").unwrap();
        assert!(
            note.contains("port 443") && note.contains("0.0.0.0:8443"),
            "{note}"
        );
        assert!(noted("https://c.example:9443").unwrap().contains("9443"));
    }

    #[test]
    fn the_directory_of_another_user_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        refuse_anothers_directory(folder.path()).unwrap();
        refuse_anothers_directory(&folder.path().join("none")).unwrap();
        let anothers = if nix::unistd::geteuid().is_root() {
            let nobody = nix::unistd::Uid::from_raw(65534);
            nix::unistd::chown(folder.path(), Some(nobody), None).unwrap();
            folder.path()
        } else {
            Path::new("/")
        };
        let error = refuse_anothers_directory(anothers).unwrap_err().to_string();
        assert!(
            error.contains("belongs to") && error.contains("sudo -u"),
            "{error}"
        );
        assert!(
            error.contains("root") || error.contains("nobody"),
            "{error}"
        );
    }
}
