//! The serial numbers that only root may read, handed to the unprivileged daemon.
//!
//! Root writes them before each start into a directory of its own under `/run`, a tmpfs: they never
//! touch a disk. The daemon believes the file only if root owns it and nobody else could have written it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;
use serde::{Deserialize, Serialize};

pub use super::smbios::Snapshot;
use super::{Roots, smbios};
use crate::host::bounded;

/// Its name in its directory.
pub const FILE_NAME: &str = "hardware.json";
/// Three components of 256 bytes and their names fit many times.
const MAX_SNAPSHOT: usize = 16 * 1024;
/// The version of the file's format.
const FORMAT: u32 = 1;
/// Readable by root and by the group of its directory, that is the daemon.
const MODE: u32 = 0o640;

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    #[serde(flatten)]
    snapshot: Snapshot,
}

/// Why there is no usable snapshot.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum SnapshotError {
    #[error(
        "no hardware snapshot at {}: serial numbers that only root may read are unavailable; start \
         the agent with systemctl (vpn-node-hardware.service runs before it and writes the snapshot; \
         its journal says why it could not)",
        path.display()
    )]
    Absent { path: PathBuf },
    #[error(
        "hardware snapshot {} is not believed: {why}; remove it and restart vpn-node-agent.service \
         (vpn-node-hardware.service writes it anew)",
        path.display()
    )]
    Untrusted { path: PathBuf, why: String },
    #[error("cannot read the hardware snapshot {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the hardware snapshot {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Reads what only root may read and writes it to `roots.snapshot`. For root, at every boot.
///
/// # Errors
/// [`SnapshotError::Write`] if its directory is missing or not writable.
pub fn write(roots: &Roots) -> Result<Snapshot, SnapshotError> {
    let snapshot = smbios::probe_secret(&roots.sys);
    let path = &roots.snapshot;
    replace(path, &snapshot).map_err(|source| SnapshotError::Write {
        path: path.clone(),
        source,
    })?;
    Ok(snapshot)
}

/// Reads the snapshot if only `owner` (root) can have written it.
///
/// # Errors
/// [`SnapshotError::Absent`] if there is none; [`SnapshotError::Untrusted`] if it is a symbolic
/// link or no regular file, belongs to somebody else, is writable by group or others, is too long
/// or does not parse; [`SnapshotError::Read`] if the system refuses.
pub fn read(path: &Path, owner: u32) -> Result<Snapshot, SnapshotError> {
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(nix::libc::ENOENT) => SnapshotError::Absent {
            path: path.to_owned(),
        },
        Some(nix::libc::ELOOP) => untrusted(path, "it is a symbolic link"),
        _ => SnapshotError::Read {
            path: path.to_owned(),
            source,
        },
    };
    let file = bounded::open(path, O_NOFOLLOW).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(untrusted(path, "it is not a regular file"));
    }
    if metadata.uid() != owner {
        return Err(untrusted(
            path,
            &format!("user {} owns it, not {owner}", metadata.uid()),
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(untrusted(path, "others than its owner may write it"));
    }
    let text = bounded::prefix_of(&file, MAX_SNAPSHOT + 1).map_err(failed)?;
    if text.len() > MAX_SNAPSHOT {
        return Err(untrusted(
            path,
            &format!("it has more than {MAX_SNAPSHOT} bytes"),
        ));
    }
    let on_disk: OnDisk =
        serde_json::from_slice(&text).map_err(|error| untrusted(path, &error.to_string()))?;
    if on_disk.format != FORMAT {
        let why = format!(
            "its format is {}, this agent reads {FORMAT}",
            on_disk.format
        );
        return Err(untrusted(path, &why));
    }
    Ok(on_disk.snapshot)
}

fn untrusted(path: &Path, why: &str) -> SnapshotError {
    SnapshotError::Untrusted {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

/// New file beside the old one, then rename. Whoever owns the directory, nothing in it is followed
/// or reused (`create_new`), and the file is closed to the daemon until it is complete. There
/// is no fsync: the directory is a tmpfs, and the next boot writes anew.
fn replace(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(&temporary)?;
    let written = fill(&mut file, snapshot)
        .and_then(|()| give_to(&file, fs::metadata(dir)?.gid()))
        .and_then(|()| file.set_permissions(Permissions::from_mode(MODE)))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error is what matters; a leftover is removed by the next run or with the tmpfs.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A process with that group as its own has made it so already, and needs no right to chown.
fn give_to(file: &File, gid: u32) -> io::Result<()> {
    if file.metadata()?.gid() == gid {
        return Ok(());
    }
    fchown(file, None, Some(gid))
}

fn fill(file: &mut File, snapshot: &Snapshot) -> io::Result<()> {
    let on_disk = OnDisk {
        format: FORMAT,
        snapshot: snapshot.clone(),
    };
    file.write_all(&serde_json::to_vec(&on_disk)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpn_node_protocol::hardware::Component;

    fn own_uid() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn sample() -> Snapshot {
        Snapshot {
            product_uuid: Component::from_raw_uuid(b"4c4c4544-0058-4b10-8032-b7c04f593133"),
            product_serial: Component::from_raw(b"7XK2Y13"),
            board_serial: Component::UNAVAILABLE,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        for _ in 0..2 {
            replace(&path, &sample()).unwrap();
            assert_eq!(read(&path, own_uid()).unwrap(), sample());
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftovers");
    }

    #[test]
    fn only_the_owner_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        replace(&path, &sample()).unwrap();
        let error = read(&path, own_uid() + 1).unwrap_err();
        assert!(matches!(error, SnapshotError::Untrusted { .. }), "{error}");
        for mode in [0o660, 0o646] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path, own_uid()).unwrap_err();
            assert!(error.to_string().contains("may write it"), "{error}");
        }
    }

    #[test]
    fn links_fifos_long_and_damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        replace(&at("real"), &sample()).unwrap();
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let write = |name: &str, text: &[u8]| {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), Permissions::from_mode(0o600)).unwrap();
        };
        let whole = fs::read(at("real")).unwrap();
        write("cut", &whole[..whole.len() / 2]);
        write("long", &[&whole[..], &[b' '; MAX_SNAPSHOT]].concat());
        write("binary", b"\0\xff\n");
        write("format", br#"{"format":2,"product_uuid":"unavailable","product_serial":"unavailable","board_serial":"unavailable"}"#);
        write("hostile", br#"{"format":1,"product_uuid":{"value":"a|b"},"product_serial":"unavailable","board_serial":"unavailable"}"#);
        for name in ["link", "fifo", "cut", "long", "binary", "format", "hostile"] {
            let error = read(&at(name), own_uid()).unwrap_err();
            assert!(
                matches!(error, SnapshotError::Untrusted { .. }),
                "{name}: {error}"
            );
        }
        assert!(matches!(
            read(&at("none"), own_uid()),
            Err(SnapshotError::Absent { .. })
        ));
    }
}
