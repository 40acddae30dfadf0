//! `init`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::config::{Config, DEFAULT_DATA_DIR, port_of};
use crate::{clock, setup};

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
    let made = setup::init(&config, &args.name, config_file, clock::now_ms()).await?;
    super::show::line(format_args!(
        "The controller is set up in {data}.

  settings   {settings}
  root pin   {pin}
             (SHA-256 of the root key: every token carries it)
{ports}
Next:
  1. Start it:        vpn-node-controller{place} serve
  2. Make a token:    vpn-node-controller{place} registration-key create
  3. Paste the token on the host, as the command says.

The root key certifies the other keys and is not needed to serve. Move
  {root}
to a safe place offline, for example onto two encrypted media, and delete it here.
Back the data directory up: without the keys in it no host can be answered.",
        data = config.data_dir.display(),
        settings = made.config_file.display(),
        pin = made.root_pin,
        ports = other_port(&config).unwrap_or_default(),
        root = made.root_file.display(),
    ))?;
    Ok(ExitCode::SUCCESS)
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
}
