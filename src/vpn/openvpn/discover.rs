//! Which OpenVPN servers this host has: by their configurations, as Debian's units start them.
//!
//! Lists two folders, reads what is in them, and gives each server a name, its management
//! interface and its status file. Thin; what a configuration means is told by [`super::config`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::super::Address;
use super::config::{self, ServerConfig};
use super::{Places, Settings};
use crate::host::bounded;

/// Most servers read on one host.
pub(super) const MAX_SERVERS: usize = 32;

/// Most entries of one folder that are looked at.
const MAX_ENTRIES: usize = 1024;

/// Longest configuration: certificates and keys may be in it.
const MAX_CONFIG: usize = 256 * 1024;

/// Longest name of an instance.
const MAX_NAME: usize = 64;

/// A server that may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Printable ASCII, at most [`MAX_NAME`] bytes.
    pub(super) name: String,
    pub(super) config: ServerConfig,
    /// Named in the agent's configuration: that it cannot be read is a failure.
    pub(super) wanted: bool,
}

/// All servers, and what could not be looked into.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    pub(super) servers: Vec<Found>,
    /// Which file or folder, and why.
    pub(super) unreadable: Option<(PathBuf, io::Error)>,
}

/// Looks for servers. What the agent's configuration names comes first and replaces what would be
/// found; configurations that name the same interface lend it their name.
pub(super) fn discover(settings: &Settings) -> Discovery {
    let mut discovery = Discovery::default();
    let mut configured = configured(&settings.places, &mut discovery.unreadable);
    let mut servers: BTreeMap<String, Found> = BTreeMap::new();
    if let Some(addresses) = &settings.management {
        let known = std::mem::take(&mut configured);
        for address in addresses {
            let same = known
                .iter()
                .find(|found| found.config.management.as_ref() == Some(address));
            let mut found = same.cloned().unwrap_or_else(|| Found {
                name: name_of(address),
                ..Found::default()
            });
            let taken = servers.get(&found.name);
            if taken.is_some_and(|other| other.config.management.as_ref() != Some(address)) {
                found.name = whole_name(&whole_address(address));
            }
            found.config.management = Some(address.clone());
            found.wanted = true;
            servers.insert(found.name.clone(), found);
        }
    }
    for found in configured {
        servers.entry(found.name.clone()).or_insert(found);
    }
    if let Some(files) = &settings.status_files {
        servers
            .values_mut()
            .for_each(|found| found.config.status = None);
        for path in files {
            let mut name = status_name(path);
            let taken = servers.get(&name);
            let status = taken.and_then(|other| other.config.status.as_ref());
            if status.is_some_and(|other| other != path) {
                name = whole_name(&path.to_string_lossy());
            }
            let found = servers.entry(name.clone()).or_insert_with(|| Found {
                name,
                ..Found::default()
            });
            found.config.status = Some(path.clone());
            found.wanted = true;
        }
    }
    discovery.servers = servers.into_values().take(MAX_SERVERS).collect();
    discovery
}

/// The servers of both folders. One name in both: the newer unit's (`openvpn-server@`) is taken
/// as it is, the other one's gets its folder's name.
fn configured(places: &Places, unreadable: &mut Option<(PathBuf, io::Error)>) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for (folder, status) in [
        (
            &places.server_configs,
            StatusName::Server(&places.server_status),
        ),
        (&places.configs, StatusName::Plain(&places.status)),
    ] {
        let files = match list(folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                *unreadable = Some((folder.clone(), error));
                continue;
            }
        };
        for path in files {
            let mut config = match read(&path) {
                Ok(text) => match config::parse(&text, folder) {
                    Some(config) => config,
                    None => continue,
                },
                Err(error) => {
                    *unreadable = Some((path, error));
                    continue;
                }
            };
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            config.status.get_or_insert_with(|| status.of(&stem));
            if !is_another(&mut config, &all) {
                continue;
            }
            let mut name = printable(&stem);
            if all.iter().any(|found| found.name == name) {
                name = printable(&format!("openvpn/{stem}"));
            }
            all.push(Found {
                name,
                config,
                wanted: false,
            });
        }
    }
    all
}

/// Whether this is a server of its own. A configuration that was copied, into the other folder for
/// instance, is not: read twice, each client of the server would be two. Of two servers that write one
/// status file the first has it.
fn is_another(config: &mut ServerConfig, all: &[Found]) -> bool {
    let others = || all.iter().map(|found| &found.config);
    if config.management.is_some() && others().any(|other| other.management == config.management) {
        return false;
    }
    if others().any(|other| other.status == config.status) {
        config.status = None;
    }
    config.management.is_some() || config.status.is_some()
}

/// Where Debian's units have the status file written.
#[derive(Clone, Copy)]
enum StatusName<'a> {
    /// `openvpn-server@.service`: `status-NAME.log`
    Server(&'a Path),
    /// `openvpn@.service`: `NAME.status`
    Plain(&'a Path),
}

impl StatusName<'_> {
    fn of(self, name: &str) -> PathBuf {
        match self {
            Self::Server(folder) => folder.join(format!("status-{name}.log")),
            Self::Plain(folder) => folder.join(format!("{name}.status")),
        }
    }
}

/// The `*.conf` files of a folder, by name.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.take(MAX_ENTRIES) {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
            && may_be_config(&path)
        {
            files.push(path);
        }
    }
    files.sort();
    files.truncate(MAX_SERVERS);
    Ok(files)
}

/// Whether a daemon could be started with it. A FIFO cannot be read a second time, which is said.
fn may_be_config(path: &Path) -> bool {
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_file() || kind.is_fifo())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let text = bounded::prefix_of(&bounded::open_regular(path)?, MAX_CONFIG + 1)?;
    if text.len() > MAX_CONFIG {
        // What follows may be what forbids to connect.
        return Err(io::Error::other("it is larger than any configuration"));
    }
    Ok(text)
}

/// The name of a server of which only the management interface is known.
fn name_of(address: &Address) -> String {
    match address {
        Address::Unix(path) => printable(&path.file_stem().unwrap_or_default().to_string_lossy()),
        Address::Tcp(_) => printable(&whole_address(address)),
    }
}

fn whole_address(address: &Address) -> String {
    match address {
        Address::Unix(path) => path.to_string_lossy().into_owned(),
        Address::Tcp(address) => address.to_string(),
    }
}

/// The name of a server whose short name is another one's: the end of the whole.
fn whole_name(whole: &str) -> String {
    let skipped = whole.chars().count().saturating_sub(MAX_NAME);
    printable(&whole.chars().skip(skipped).collect::<String>())
}

/// `server` of `status-server.log` or `server.status`.
fn status_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    printable(stem.strip_prefix("status-").unwrap_or(&stem))
}

fn printable(name: &str) -> String {
    let mut name: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .take(MAX_NAME)
        .collect();
    if name.is_empty() {
        name.push('_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "server 10.8.0.0 255.255.255.0\n";

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(host.0.path().join("openvpn/server")).unwrap();
            host
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join("openvpn").join(name), text).unwrap();
        }

        fn settings(&self) -> Settings {
            Settings {
                management: None,
                status_files: None,
                password_file: None,
                places: Places {
                    server_configs: self.0.path().join("openvpn/server"),
                    configs: self.0.path().join("openvpn"),
                    server_status: "/run/openvpn-server".into(),
                    status: "/run/openvpn".into(),
                },
            }
        }
    }

    #[test]
    fn the_servers_of_debians_units_with_their_status_files() {
        let host = Host::new();
        host.write(
            "server/site.conf",
            &format!("{SERVER}management /run/s.sock unix\n"),
        );
        host.write("server/client.conf", "client\n");
        host.write("old.conf", &format!("{SERVER}status /var/log/ovpn.log\n"));
        host.write("site.conf", SERVER);
        host.write("notes.txt", SERVER);
        let found = discover(&host.settings()).servers;
        let shown: Vec<_> = found
            .iter()
            .map(|found| {
                let status = found.config.status.as_ref().unwrap().to_str().unwrap();
                (&found.name[..], status)
            })
            .collect();
        let expected = [
            ("old", "/var/log/ovpn.log"),
            ("openvpn/site", "/run/openvpn/site.status"),
            ("site", "/run/openvpn-server/status-site.log"),
        ];
        assert_eq!(shown, expected);
        assert!(found.iter().all(|found| !found.wanted));
    }

    #[test]
    fn a_host_without_openvpn_has_none_and_says_nothing() {
        let host = Host::new();
        let mut settings = host.settings();
        settings.places.configs = "/nonexistent".into();
        settings.places.server_configs = "/nonexistent".into();
        let discovery = discover(&settings);
        assert_eq!(discovery.servers, []);
        assert!(discovery.unreadable.is_none());
    }

    #[test]
    fn what_is_named_replaces_what_is_found_and_keeps_the_configurations_name() {
        let host = Host::new();
        host.write(
            "server/site.conf",
            &format!("{SERVER}management 127.0.0.1 7505\n"),
        );
        host.write(
            "server/other.conf",
            &format!("{SERVER}management 127.0.0.1 7506\n"),
        );
        let mut settings = host.settings();
        settings.management = Some(vec![
            Address::Tcp("127.0.0.1:7505".parse().unwrap()),
            Address::Unix("/run/x/my vpn.sock".into()),
        ]);
        settings.status_files = Some(vec!["/srv/status-site.log".into(), "/srv/b.status".into()]);
        let found = discover(&settings).servers;
        let names: Vec<&str> = found.iter().map(|found| &found.name[..]).collect();
        assert_eq!(names, ["b", "my_vpn", "site"]);
        assert_eq!(
            found[2].config.status.as_deref(),
            Some(Path::new("/srv/status-site.log"))
        );
        assert!(found.iter().all(|found| found.wanted));
    }

    #[test]
    fn a_server_that_is_configured_twice_is_read_once() {
        let host = Host::new();
        let socket = format!("{SERVER}management /run/s.sock unix\n");
        host.write("server/site.conf", &socket);
        host.write("site.conf", &socket);
        // Debian's sample has this line; neither has a management interface.
        let status = format!("{SERVER}status /var/log/openvpn/openvpn-status.log\n");
        host.write("server/tcp.conf", &status);
        host.write("tcp.conf", &status);
        // Two servers that overwrite each other's file.
        host.write("udp.conf", &format!("{status}management 127.0.0.1 7505\n"));
        let found = discover(&host.settings()).servers;
        let names: Vec<&str> = found.iter().map(|found| &found.name[..]).collect();
        assert_eq!(names, ["site", "tcp", "udp"]);
        assert!(found[1].config.status.is_some() && found[2].config.status.is_none());
    }

    #[test]
    fn addresses_and_files_of_one_name_are_servers_of_their_own() {
        let host = Host::new();
        let mut settings = host.settings();
        let long = format!("/run/{}/m.sock", "x".repeat(99));
        let sockets = [
            "/run/udp/m.sock",
            "/run/tcp/m.sock",
            "/run/udp/m.sock",
            &long,
        ];
        settings.management = Some(sockets.map(|path| Address::Unix(path.into())).to_vec());
        settings.status_files = Some(vec!["/run/a/b.status".into(), "/run/c/b.status".into()]);
        let found = discover(&settings).servers;
        let names: Vec<&str> = found.iter().map(|found| &found.name[..]).collect();
        let tail = format!("{}/m.sock", "x".repeat(57));
        let expected = ["/run/c/b.status", "/run/tcp/m.sock", "b", "m", &tail[..]];
        assert_eq!(names, expected);
        assert_eq!(tail.len(), MAX_NAME);
    }

    #[test]
    fn a_fifo_holds_nobody_up_and_is_told() {
        let host = Host::new();
        host.write("server/site.conf", SERVER);
        let fifo = host.0.path().join("openvpn/server/fifo.conf");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // How a unit's configuration is masked, which is no server's.
        std::os::unix::fs::symlink("/dev/null", host.0.path().join("openvpn/off.conf")).unwrap();
        let discovery = discover(&host.settings());
        let names: Vec<&str> = discovery
            .servers
            .iter()
            .map(|found| &found.name[..])
            .collect();
        assert_eq!(names, ["site"]);
        let (path, error) = discovery.unreadable.unwrap();
        assert_eq!(path, fifo);
        assert_eq!(error.to_string(), "it is not a regular file");
    }

    #[test]
    fn too_many_and_too_long_ones_are_left_out() {
        let host = Host::new();
        for n in 0..100 {
            host.write(&format!("server/{n:03}.conf"), SERVER);
        }
        let long = format!("{}\n{SERVER}", "#".repeat(MAX_CONFIG));
        host.write("server/000.conf", &long);
        let found = discover(&host.settings()).servers;
        assert_eq!(found.len(), MAX_SERVERS - 1);
        assert_eq!(found[0].name, "001");
        assert_eq!(printable(&"ü".repeat(99)).len(), MAX_NAME);
    }
}
