//! Which WireGuard interfaces this host has: kernel ones by netlink, userspace ones by socket.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Path, PathBuf},
};

use super::{super::epoch, error::ReadError, netlink::Link};

/// Most interfaces read on one host; more would not fit into one poll.
pub(super) const MAX_INTERFACES: usize = 64;

/// Longest name of an interface (`IFNAMSIZ` with its terminating zero).
pub(super) const MAX_NAME: usize = 15;

/// An interface that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Printable ASCII without path separators, at most [`MAX_NAME`] bytes.
    pub(super) name: String,
    pub(super) source: Source,
    /// Names one life of it: another number when it was made anew. Never 0.
    pub(super) epoch: u64,
    pub(super) up: bool,
}

/// How an interface is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Kernel { ifindex: u32 },
    Socket { path: PathBuf },
}

/// The kernel's interfaces among `links`. The index serves as epoch: a new interface gets a new
/// one.
pub(super) fn kernel(links: &[Link]) -> Vec<Found> {
    let found = links
        .iter()
        .filter(|link| link.wireguard)
        .filter_map(|link| {
            Some(Found {
                name: interface_name(&link.name)?,
                source: Source::Kernel {
                    ifindex: link.index,
                },
                epoch: u64::from(link.index),
                up: link.up,
            })
        });
    sorted(found.collect())
}

/// Marks the interfaces of userspace daemons that are set down. Of one in another network
/// namespace nothing is known: its daemon decides.
pub(super) fn mark_down(found: &mut [Found], links: &[Link]) {
    for interface in found {
        let same = |link: &&Link| link.name == interface.name.as_bytes() && !link.wireguard;
        interface.up = links.iter().find(same).is_none_or(|link| link.up);
    }
}

/// The version of the kernel's module, such as `1.0.0`, if it tells.
pub(super) fn kernel_version() -> Option<String> {
    let version = fs::read_to_string("/sys/module/wireguard/version").ok()?;
    let version = version.trim();
    let good = (1..=32).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| version.to_owned())
}

/// The interfaces whose daemons keep `NAME.sock` in `dir`; no such directory, no such daemons.
pub(super) fn sockets(dir: &Path) -> Result<Vec<Found>, ReadError> {
    let list_error = |source| ReadError::List {
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(list_error(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(list_error)?;
        let file_name = entry.file_name();
        let Some(name) = file_name.as_bytes().strip_suffix(b".sock") else {
            continue;
        };
        // Gone since it was listed, or no socket at all: not an interface.
        let Some((name, metadata)) = interface_name(name).zip(entry.metadata().ok()) else {
            continue;
        };
        if metadata.file_type().is_socket() {
            found.push(Found {
                name,
                source: Source::Socket { path: entry.path() },
                epoch: epoch::of_socket(&metadata),
                up: true,
            });
        }
    }
    Ok(sorted(found))
}

fn sorted(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.truncate(MAX_INTERFACES);
    found
}

/// What the kernel accepts as a name (`dev_valid_name`), and printable. Others stay unread.
fn interface_name(name: &[u8]) -> Option<String> {
    let good = |byte: &u8| byte.is_ascii_graphic() && !b"/:".contains(byte);
    let valid = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.iter().all(good)
        && name != b"."
        && name != b"..";
    valid.then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_sockets_with_names_of_interfaces_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let _listeners = [
            "wg1.sock",
            "wg0.sock",
            "a-name-too-long0.sock",
            "a b.sock",
            "wg2.txt",
        ]
        .map(|name| UnixListener::bind(dir.path().join(name)).unwrap());
        fs::write(dir.path().join("wg3.sock"), "no socket").unwrap();
        let found = sockets(dir.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["wg0", "wg1"]);
        assert!(found.iter().all(|found| found.epoch != 0));
        assert_ne!(found[0].epoch, found[1].epoch);
    }

    #[test]
    fn a_missing_directory_means_no_daemons() {
        let found = sockets(Path::new("/nonexistent/wireguard"));
        assert_eq!(found.unwrap(), []);
    }

    fn link(name: &str, up: bool, wireguard: bool) -> Link {
        Link {
            index: 7,
            name: name.into(),
            up,
            wireguard,
        }
    }

    #[test]
    fn a_daemons_interface_is_down_when_its_link_is_and_no_kernel_interface_of_that_name() {
        let dir = tempfile::tempdir().unwrap();
        let _listeners = ["wg0", "wg1", "wg2", "wg3"]
            .map(|name| UnixListener::bind(dir.path().join(format!("{name}.sock"))).unwrap());
        let mut found = sockets(dir.path()).unwrap();
        let links = [
            link("wg0", true, false),
            link("wg1", false, false),
            link("wg2", false, true),
        ];
        mark_down(&mut found, &links);
        let up: Vec<bool> = found.iter().map(|found| found.up).collect();
        assert_eq!(up, [true, false, true, true]);
        let kernel = kernel(&links);
        assert_eq!(kernel.len(), 1);
        assert_eq!((kernel[0].name.as_str(), kernel[0].up), ("wg2", false));
    }

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for name in [
            &b"../x"[..],
            b"..",
            b".",
            b"",
            b"a/b",
            b"a:b",
            b"w\xffg",
            b"w\n",
        ] {
            assert_eq!(interface_name(name), None, "{}", name.escape_ascii());
        }
        assert_eq!(interface_name(b"wg-home.1").as_deref(), Some("wg-home.1"));
    }
}
