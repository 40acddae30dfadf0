//! `vpn-node config show`: the effective settings as TOML, each with the place that set it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use toml::Value;

use super::{Effective, KEYS, Key, Settings};
use crate::core::shown_path;

impl Effective {
    /// The settings as a TOML file that would load to the same values (but for a proxy's password,
    /// which is masked). A key that is not set is a comment. `by_option` is a key of the top level that
    /// an option of the command line has set.
    #[must_use]
    pub fn to_toml(&self, by_option: Option<&str>) -> String {
        let mut lines: Vec<(String, String)> = Vec::new();
        let mut section = "";
        for key in KEYS {
            if key.section != section {
                section = key.section;
                lines.push((String::new(), String::new()));
                lines.push((format!("[{section}]"), String::new()));
            }
            let origin = match self.origins.get(&(key.section, key.name)) {
                _ if key.section.is_empty() && by_option == Some(key.name) => {
                    format!("--{}", key.name.replace('_', "-"))
                }
                Some(origin) => format!("{}:{}", shown_path(&origin.file), origin.line),
                None => "default".to_owned(),
            };
            match value(&self.settings, key.section, key.name) {
                Some(value) => lines.push((format!("{} = {value}", key.name), origin)),
                None => lines.push((format!("# {} is not set", key.name), String::new())),
            }
        }
        let width = lines.iter().map(|(left, _)| left.chars().count()).max();
        let width = width.unwrap_or(0).min(48);
        let mut text = String::new();
        for (left, origin) in lines {
            // Writing to a String cannot fail.
            let _ = if origin.is_empty() {
                writeln!(text, "{left}")
            } else {
                writeln!(text, "{left:width$}  # {origin}")
            };
        }
        text
    }
}

/// The keys whose values differ.
#[must_use]
pub fn changed(before: &Settings, after: &Settings) -> Vec<&'static Key> {
    let differs = |key: &&Key| {
        let of = |settings| value(settings, key.section, key.name);
        match (key.section, key.name) {
            // Shown without its password.
            ("controller", "proxy") => before.controller.proxy != after.controller.proxy,
            _ => of(before) != of(after),
        }
    };
    KEYS.iter().filter(differs).collect()
}

/// The value of one key; none if it is not set (or unknown: the tests hold `KEYS` complete).
fn value(settings: &Settings, section: &str, name: &str) -> Option<Value> {
    let Settings {
        state_dir,
        runtime_dir,
        log_level,
        location,
        controller,
        wireguard,
        openvpn,
        strongswan,
        ocserv,
        ledger,
        metrics,
        update,
    } = settings;
    let text = |text: &str| Value::String(text.to_owned());
    // Paths come from TOML, so they are UTF-8; nothing is lost here.
    let path = |path: &Path| Value::String(path.to_string_lossy().into_owned());
    let paths = |all: &[PathBuf]| Value::Array(all.iter().map(|one| path(one)).collect());
    let number = |number: u64| i64::try_from(number).ok().map(Value::Integer);
    match (section, name) {
        ("", "state_dir") => Some(path(state_dir)),
        ("", "runtime_dir") => Some(path(runtime_dir)),
        ("", "log_level") => Some(text(log_level.as_str())),
        ("", "location") => location.as_deref().map(text),
        ("controller", "urls") => {
            let urls = controller.urls.as_ref()?;
            Some(Value::Array(urls.iter().map(|url| text(url)).collect()))
        }
        ("controller", "ca_file") => controller.ca_file.as_deref().map(path),
        ("controller", "proxy") => controller.proxy.as_ref().map(|url| text(&url.to_string())),
        ("wireguard", "enabled") => Some(Value::Boolean(wireguard.enabled)),
        ("wireguard", "socket_dir") => Some(path(&wireguard.socket_dir)),
        ("wireguard", "kernel") => Some(Value::Boolean(wireguard.kernel)),
        ("wireguard", "reader") => Some(wireguard.reader.as_deref().map_or(text(""), path)),
        ("wireguard", "poll_s") => number(wireguard.poll.as_secs()),
        ("openvpn", "enabled") => Some(Value::Boolean(openvpn.enabled)),
        ("openvpn", "management") => {
            let addresses = openvpn.management.as_ref()?;
            let shown = addresses.iter().map(|address| text(&address.to_string()));
            Some(Value::Array(shown.collect()))
        }
        ("openvpn", "password_file") => openvpn.password_file.as_deref().map(path),
        ("openvpn", "status_files") => openvpn.status_files.as_deref().map(paths),
        ("strongswan", "enabled") => Some(Value::Boolean(strongswan.enabled)),
        ("strongswan", "vici") => Some(path(&strongswan.vici)),
        ("ocserv", "enabled") => Some(Value::Boolean(ocserv.enabled)),
        ("ocserv", "socket") => Some(path(&ocserv.socket)),
        ("ledger", "max_bytes") => number(ledger.max_bytes),
        ("ledger", "when_full") => Some(text(ledger.when_full.as_str())),
        ("metrics", "disks") => Some(paths(&metrics.disks)),
        ("update", "enabled") => Some(Value::Boolean(update.enabled)),
        ("update", "repository") => update.repository.as_deref().map(text),
        ("update", "min_rate") => number(update.min_rate),
        ("update", "max_bytes") => number(update.max_bytes),
        _ => None,
    }
}
