//! SMBIOS strings in `/sys/class/dmi/id`: who made the system and its board.
//!
//! The `bios` component is vendor, product name and product serial of the *system* (type 1), not
//! the firmware's vendor, version or date: those change with every firmware update, these never.
//! `product_version` is left out as well, since hypervisors put their own version there. A machine
//! with a device tree instead (single-board computers) has its model and serial number from there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vpn_node_protocol::hardware::Component;

use crate::host::bounded;

/// An SMBIOS string has at most 255 characters in practice; the kernel shows a page at most.
const MAX_STRING: usize = 4096;

pub(super) struct Smbios {
    pub(super) bios: Component,
    pub(super) board: Component,
}

/// What only root may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// SMBIOS type 1 UUID.
    pub product_uuid: Component,
    /// SMBIOS type 1 serial.
    pub product_serial: Component,
    /// SMBIOS type 2 serial.
    pub board_serial: Component,
}

/// What anybody may read, completed by what only root may.
pub(super) fn probe(sys: &Path, secret: &Snapshot, notes: &mut Vec<String>) -> Smbios {
    let dir = dir(sys);
    if !dir.is_dir() {
        notes.push(format!(
            "{} does not exist: this host has no SMBIOS (container, or firmware without it)",
            dir.display()
        ));
        let tree = sys.join("firmware/devicetree/base");
        return Smbios {
            bios: Component::join(&[
                Component::UNAVAILABLE,
                string(&tree, "model"),
                string(&tree, "serial-number"),
            ]),
            board: Component::UNAVAILABLE,
        };
    }
    Smbios {
        bios: Component::join(&[
            string(&dir, "sys_vendor"),
            string(&dir, "product_name"),
            secret.product_serial.clone(),
        ]),
        board: Component::join(&[
            string(&dir, "board_vendor"),
            string(&dir, "board_name"),
            secret.board_serial.clone(),
        ]),
    }
}

/// What only root may read (mode 0400).
pub(super) fn probe_secret(sys: &Path) -> Snapshot {
    let dir = dir(sys);
    let uuid = bounded::read_prefix(&dir.join("product_uuid"), MAX_STRING);
    Snapshot {
        product_uuid: uuid.map_or(Component::UNAVAILABLE, |raw| Component::from_raw_uuid(&raw)),
        product_serial: string(&dir, "product_serial"),
        board_serial: string(&dir, "board_serial"),
    }
}

fn dir(sys: &Path) -> PathBuf {
    sys.join("class/dmi/id")
}

fn string(dir: &Path, name: &str) -> Component {
    bounded::read_prefix(&dir.join(name), MAX_STRING)
        .map_or(Component::UNAVAILABLE, |raw| Component::from_raw(&raw))
}
