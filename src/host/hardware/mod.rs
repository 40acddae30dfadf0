//! Reads what this host is made of, for its fingerprint.
//!
//! The daemon has no privileges, yet serial numbers of the system board are readable by root only.
//! So root writes those few into a [snapshot] under `/run` before each start
//! (`vpn-node-hardware.service`), and [`probe`] always takes them from there and everything else from `/proc` and `/sys`:
//! never from what the caller may happen to read. Enrolment by root and verification by the daemon
//! therefore give the same components.

mod cpu;
mod disk;
mod machine_id;
mod mounts;
mod smbios;
pub mod snapshot;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use vpn_node_protocol::hardware::Components;

use snapshot::SnapshotError;

/// Where the host is read. Tests point it at a tree of their own.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys`.
    pub sys: PathBuf,
    /// `/etc`, for `machine-id`.
    pub etc: PathBuf,
    /// The snapshot of root, [`snapshot::FILE_NAME`] in a directory that is root's.
    pub snapshot: PathBuf,
    /// The only user whose snapshot is believed: root.
    pub snapshot_owner: u32,
}

impl Roots {
    /// This machine, with the snapshot beside `runtime_dir`: `/run/vpn-node-hardware` for
    /// `/run/vpn-node`, which is the daemon's own and so no place for what root says.
    #[must_use]
    pub fn host(runtime_dir: &Path) -> Self {
        let mut beside = runtime_dir.file_name().unwrap_or_default().to_owned();
        beside.push("-hardware");
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            etc: "/etc".into(),
            snapshot: runtime_dir.with_file_name(beside).join(snapshot::FILE_NAME),
            snapshot_owner: 0,
        }
    }
}

/// What the host is made of, and why parts of that are not known.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The fingerprint, ready to be sealed.
    pub components: Components,
    /// For an operator: what is unavailable, why, and what to do. Holds no serial numbers.
    pub notes: Vec<String>,
    /// Whether root's snapshot was there. Without it a host that was enrolled with one looks
    /// changed: the daemon should say so instead of answering a verification.
    pub snapshot: SnapshotState,
}

/// Whether root's snapshot could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// It was read.
    Read,
    /// There is none: started by hand, or `vpn-node-hardware.service` did not run.
    Absent,
    /// There is one that is not believed or not readable; the notes say why.
    Refused,
}

/// Reads the fingerprint of the host. Takes milliseconds: at start and when verified, never in a
/// heartbeat. What is not there is unavailable, with a note; nothing is an error.
#[must_use]
pub fn probe(roots: &Roots) -> Probe {
    let mut notes = Vec::new();
    let (secret, snapshot) = match snapshot::read(&roots.snapshot, roots.snapshot_owner) {
        Ok(secret) => (secret, SnapshotState::Read),
        Err(error) => {
            notes.push(error.to_string());
            let absent = matches!(error, SnapshotError::Absent { .. });
            let state = if absent {
                SnapshotState::Absent
            } else {
                SnapshotState::Refused
            };
            (snapshot::Snapshot::default(), state)
        }
    };
    let disks = disk::probe(&roots.proc, &roots.sys, &mut notes);
    let cpus = cpu::probe(&roots.proc, &mut notes);
    let smbios = smbios::probe(&roots.sys, &secret, &mut notes);
    let components = Components {
        disk1: disks.first,
        disk2: disks.second,
        cpu1: cpus.first,
        cpu2: cpus.second,
        bios: smbios.bios,
        board: smbios.board,
        product_uuid: secret.product_uuid,
        machine_id: machine_id::probe(&roots.etc, &mut notes),
    };
    if !components.has_primary() {
        notes.push(
            "this host shows neither a serial number of its root disk nor a system UUID: moving it \
             to other hardware will only be noticed as a warning"
                .to_owned(),
        );
    }
    Probe {
        components,
        notes,
        snapshot,
    }
}
