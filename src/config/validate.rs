//! Merged values into [`Settings`]: each is checked against what [`KEYS`](super::KEYS) allows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::merged::{Merged, Origins, Set};
use super::{
    ConfigError, LogLevel, ManagementAddress, ProxyUrl, Settings, WhenFull, keys, without_userinfo,
};
use crate::core::shown;

/// Poll at most this seldom: a WireGuard session ends after 180 s, and three looks must fit.
const MAX_POLL_S: i64 = 60;

/// A ledger needs room for two segments of 8 MiB.
const MIN_LEDGER_BYTES: i64 = 16 * 1024 * 1024;

/// Above this somebody typed a digit too many.
const MAX_LEDGER_BYTES: i64 = 1024 * 1024 * 1024 * 1024;

/// Whoever asks for more gives up good mirrors.
const MAX_MIN_RATE: i64 = 1024 * 1024;

/// A package of ours has some megabytes.
const MIN_PACKAGE_BYTES: i64 = 1024 * 1024;

/// The release format allows no more (`vpn_node_release::bundle`).
const MAX_PACKAGE_BYTES: i64 = 1024 * 1024 * 1024;

/// Replicas of one controller; each costs a connection attempt when all are down.
const MAX_URLS: usize = 8;

/// Each disk costs a statvfs(2) a heartbeat, which can hang on a dead network mount; and nobody runs
/// as many OpenVPN servers on one host.
const MAX_PATHS: usize = 16;

/// A place's name goes into every heartbeat.
const MAX_LOCATION_CHARS: usize = 128;

/// RFC 9110 section 4.1 asks for 8,000; no address of a controller is near this.
const MAX_URL_BYTES: usize = 2048;

/// PATH_MAX of Linux.
const MAX_PATH_BYTES: usize = 4096;

/// The longest path that fits `sun_path` of unix(7), less "/status.sock".
const MAX_RUNTIME_DIR_BYTES: usize = 107 - "/status.sock".len();

type Problem = String;

/// Checks every value; the defaults fill what is not set.
pub(super) fn validate(merged: Merged) -> Result<(Settings, Origins), ConfigError> {
    let mut settings = Settings::default();
    let mut check = Check(Origins::new());
    let to = &mut settings;
    check.set("", "state_dir", merged.state_dir, |v| {
        absolute(v).map(|path| to.state_dir = path)
    })?;
    check.set("", "runtime_dir", merged.runtime_dir, |v| {
        runtime_dir(v).map(|path| to.runtime_dir = path)
    })?;
    check.set("", "log_level", merged.log_level, |v| {
        log_level(v).map(|level| to.log_level = level)
    })?;
    check.set("", "location", merged.location, |v| {
        location(v).map(|text| to.location = Some(text))
    })?;
    check.set("controller", "urls", merged.urls, |v| {
        urls(v).map(|urls| to.controller.urls = Some(urls))
    })?;
    check.set("controller", "ca_file", merged.ca_file, |v| {
        absolute(v).map(|path| to.controller.ca_file = Some(path))
    })?;
    check.set("controller", "proxy", merged.proxy, |v| {
        proxy(v).map(|url| to.controller.proxy = Some(url))
    })?;
    let wireguard = &mut to.wireguard;
    check.set("wireguard", "enabled", merged.wireguard_enabled, |v| {
        wireguard.enabled = v;
        Ok(())
    })?;
    check.set(
        "wireguard",
        "socket_dir",
        merged.wireguard_socket_dir,
        |v| absolute(v).map(|path| wireguard.socket_dir = path),
    )?;
    check.set("wireguard", "kernel", merged.wireguard_kernel, |v| {
        wireguard.kernel = v;
        Ok(())
    })?;
    check.set("wireguard", "reader", merged.wireguard_reader, |v| {
        wireguard.reader = match v.as_str() {
            "" => None,
            _ => Some(absolute(v)?),
        };
        Ok(())
    })?;
    check.set("wireguard", "poll_s", merged.wireguard_poll_s, |v| {
        within(v, 1, MAX_POLL_S).map(|seconds| wireguard.poll = Duration::from_secs(seconds))
    })?;
    let openvpn = &mut to.openvpn;
    check.set("openvpn", "enabled", merged.openvpn_enabled, |v| {
        openvpn.enabled = v;
        Ok(())
    })?;
    check.set("openvpn", "management", merged.openvpn_management, |v| {
        addresses(v).map(|addresses| openvpn.management = Some(addresses))
    })?;
    check.set(
        "openvpn",
        "password_file",
        merged.openvpn_password_file,
        |v| absolute(v).map(|path| openvpn.password_file = Some(path)),
    )?;
    check.set(
        "openvpn",
        "status_files",
        merged.openvpn_status_files,
        |v| paths(v).map(|paths| openvpn.status_files = Some(paths)),
    )?;
    let strongswan = &mut to.strongswan;
    check.set("strongswan", "enabled", merged.strongswan_enabled, |v| {
        strongswan.enabled = v;
        Ok(())
    })?;
    check.set("strongswan", "vici", merged.strongswan_vici, |v| {
        let path = absolute(v)?;
        strongswan.expected = path != strongswan.vici;
        strongswan.vici = path;
        Ok(())
    })?;
    let ocserv = &mut to.ocserv;
    check.set("ocserv", "enabled", merged.ocserv_enabled, |v| {
        ocserv.enabled = v;
        Ok(())
    })?;
    check.set("ocserv", "socket", merged.ocserv_socket, |v| {
        let path = absolute(v)?;
        ocserv.expected = path != ocserv.socket;
        ocserv.socket = path;
        Ok(())
    })?;
    check.set("ledger", "max_bytes", merged.ledger_max_bytes, |v| {
        within(v, MIN_LEDGER_BYTES, MAX_LEDGER_BYTES).map(|bytes| to.ledger.max_bytes = bytes)
    })?;
    check.set("ledger", "when_full", merged.ledger_when_full, |v| {
        when_full(v).map(|policy| to.ledger.when_full = policy)
    })?;
    check.set("metrics", "disks", merged.disks, |v| {
        paths(v).map(|disks| to.metrics.disks = disks)
    })?;
    let update = &mut to.update;
    check.set("update", "enabled", merged.update_enabled, |v| {
        update.enabled = v;
        Ok(())
    })?;
    check.set("update", "repository", merged.update_repository, |v| {
        controller_url(v).map(|url| update.repository = Some(url))
    })?;
    check.set("update", "min_rate", merged.update_min_rate, |v| {
        within(v, 1, MAX_MIN_RATE).map(|rate| update.min_rate = rate)
    })?;
    check.set("update", "max_bytes", merged.update_max_bytes, |v| {
        within(v, MIN_PACKAGE_BYTES, MAX_PACKAGE_BYTES).map(|bytes| update.max_bytes = bytes)
    })?;
    Ok((settings, check.0))
}

/// Remembers where the accepted values came from.
struct Check(Origins);

impl Check {
    fn set<T>(
        &mut self,
        section: &'static str,
        name: &'static str,
        given: Option<Set<T>>,
        accept: impl FnOnce(T) -> Result<(), Problem>,
    ) -> Result<(), ConfigError> {
        let Some(Set { value, origin }) = given else {
            return Ok(());
        };
        accept(value).map_err(|problem| {
            let key = keys::find(section, name);
            ConfigError::Invalid {
                path: origin.file.clone(),
                line: origin.line,
                key: key.map_or_else(|| name.to_owned(), keys::Key::title),
                problem,
                allowed: key.map_or("another value", |key| key.allowed),
            }
        })?;
        self.0.insert((section, name), origin);
        Ok(())
    }
}

fn absolute(value: String) -> Result<PathBuf, Problem> {
    if value.contains('\0') {
        return Err("holds a NUL character".to_owned());
    }
    if value.len() >= MAX_PATH_BYTES {
        return Err(format!("is longer than {MAX_PATH_BYTES} bytes"));
    }
    if !Path::new(&value).is_absolute() {
        return Err(format!("\"{}\" does not begin with /", shown(&value)));
    }
    Ok(PathBuf::from(value))
}

fn runtime_dir(value: String) -> Result<PathBuf, Problem> {
    if value.len() > MAX_RUNTIME_DIR_BYTES {
        return Err(format!(
            "is longer than {MAX_RUNTIME_DIR_BYTES} bytes, so its socket cannot be named (unix(7))"
        ));
    }
    absolute(value)
}

fn log_level(value: String) -> Result<LogLevel, Problem> {
    LogLevel::from_name(&value).ok_or_else(|| format!("\"{}\" is no level", shown(&value)))
}

fn location(value: String) -> Result<String, Problem> {
    if value.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    if value.chars().count() > MAX_LOCATION_CHARS {
        return Err("is too long".to_owned());
    }
    if value.chars().any(char::is_control) {
        return Err("holds a control character".to_owned());
    }
    Ok(value)
}

fn within(value: i64, least: i64, most: i64) -> Result<u64, Problem> {
    if !(least..=most).contains(&value) {
        return Err(format!("{value} is out of range"));
    }
    u64::try_from(value).map_err(|_| format!("{value} is negative"))
}

fn urls(values: Vec<String>) -> Result<Vec<String>, Problem> {
    if values.is_empty() || values.len() > MAX_URLS {
        return Err(format!("holds {} addresses", values.len()));
    }
    values.into_iter().map(controller_url).collect()
}

fn controller_url(value: String) -> Result<String, Problem> {
    let url = parse_url(&value)?;
    let refuse = |why: &str| Err(format!("{} {why}", quoted(&value)));
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password, which the agent never sends".to_owned());
    }
    if url.scheme() != "https" {
        return refuse("does not begin with https://");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("has a part after ? or #");
    }
    Ok(value.trim_end_matches('/').to_owned())
}

fn proxy(value: String) -> Result<ProxyUrl, Problem> {
    let url = parse_url(&value).map_err(|_| "is not a URL with a host".to_owned())?;
    match url.scheme() {
        "http" | "https" => Ok(ProxyUrl(value)),
        other => Err(format!("a {} proxy is not supported", shown(other))),
    }
}

fn parse_url(value: &str) -> Result<Url, Problem> {
    if value.len() > MAX_URL_BYTES {
        return Err(format!("holds a URL longer than {MAX_URL_BYTES} bytes"));
    }
    // The URL standard would silently drop tabs and line feeds; nobody means them.
    if value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("{} holds white space", quoted(value)));
    }
    match Url::parse(value) {
        Ok(url) if url.has_host() => Ok(url),
        Ok(_) => Err(format!("{} names no host", quoted(value))),
        Err(error) => Err(format!("{} is not a URL ({error})", quoted(value))),
    }
}

fn quoted(url: &str) -> String {
    format!("\"{}\"", shown(&*without_userinfo(url)))
}

fn paths(values: Vec<String>) -> Result<Vec<PathBuf>, Problem> {
    if values.len() > MAX_PATHS {
        return Err(format!("holds {} paths", values.len()));
    }
    values.into_iter().map(absolute).collect()
}

fn addresses(values: Vec<String>) -> Result<Vec<ManagementAddress>, Problem> {
    if values.len() > MAX_PATHS {
        return Err(format!("holds {} addresses", values.len()));
    }
    values.into_iter().map(address).collect()
}

fn address(value: String) -> Result<ManagementAddress, Problem> {
    match value.parse() {
        Ok(address) => Ok(ManagementAddress::Tcp(address)),
        Err(_) if value.starts_with('/') => absolute(value).map(ManagementAddress::Unix),
        Err(_) => Err(format!(
            "\"{}\" is neither a path nor an IP address with a port",
            shown(&value)
        )),
    }
}

fn when_full(value: String) -> Result<WhenFull, Problem> {
    [WhenFull::DropOldest, WhenFull::Refuse]
        .into_iter()
        .find(|policy| policy.as_str() == value)
        .ok_or_else(|| format!("\"{}\" is no policy", shown(&value)))
}
