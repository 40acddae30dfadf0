//! The serial numbers of the disks, from sysfs. All of them are readable without privileges.
//!
//! Kernel names (`sda`, `sdb`) may change places at every boot, so nothing here is ordered by them:
//! `disk1` is the disk which holds `/`, and `disk2` is the one with the lowest serial, by bytes, of
//! the other fixed disks. Where `/` lies on several disks (LVM, RAID), `disk1` is the one of them
//! with the lowest serial; a btrfs of several disks counts with all of them, since its mount names
//! whichever the kernel found last.

use std::fs;
use std::path::{Path, PathBuf};

use vpn_node_protocol::hardware::Component;

use super::mounts::{self, RootMount};
use crate::host::bounded;

/// Disks looked at. Storage servers have hundreds; VPN hosts have few.
const MAX_DISKS: usize = 1024;
/// Layers (partition, RAID, LVM, encryption …) and devices between `/` and its disks.
const MAX_LAYERS: usize = 8;
const MAX_LEAVES: usize = 64;
/// A serial, a WWID or a VPD page: 255 bytes and a header at most.
const MAX_IDENTITY: usize = 4096;

pub(super) struct Disks {
    pub(super) first: Component,
    pub(super) second: Component,
}

pub(super) fn probe(proc: &Path, sys: &Path, notes: &mut Vec<String>) -> Disks {
    let first = root_disk(proc, sys, notes);
    let second = fixed_disks(sys)
        .iter()
        .map(|disk| identity(disk))
        .filter(|serial| serial.is_available() && *serial != first)
        .min_by(|a, b| a.value().cmp(&b.value()))
        .unwrap_or_default();
    Disks { first, second }
}

fn root_disk(proc: &Path, sys: &Path, notes: &mut Vec<String>) -> Component {
    let Some(root) = mounts::root(proc) else {
        notes.push(format!(
            "{} does not tell what holds /",
            proc.join("self/mountinfo").display()
        ));
        return Component::UNAVAILABLE;
    };
    let mut leaves = Vec::new();
    for device in device_of(&root, sys)
        .into_iter()
        .flat_map(|device| members(device, sys))
    {
        collect_leaves(&device, MAX_LAYERS, &mut leaves);
    }
    if leaves.is_empty() {
        notes.push(format!(
            "/ is a file system of type {} with no disk behind it that can be found",
            root.fs_type.escape_ascii()
        ));
        return Component::UNAVAILABLE;
    }
    let serial = leaves
        .iter()
        .map(|leaf| identity(leaf))
        .filter(Component::is_available)
        .min_by(|a, b| a.value().cmp(&b.value()));
    serial.unwrap_or_else(|| {
        let names: Vec<_> = leaves
            .iter()
            .map(|leaf| name(leaf).escape_ascii().to_string())
            .collect();
        notes.push(format!(
            "the disk which holds / ({}) has no serial number",
            names.join(", ")
        ));
        Component::UNAVAILABLE
    })
}

/// The block device behind `/`. File systems with several devices (btrfs) have a number of their
/// own; then the name of the source is looked up.
fn device_of(root: &RootMount, sys: &Path) -> Option<PathBuf> {
    let by_number = sys
        .join("dev/block")
        .join(format!("{}:{}", root.major, root.minor));
    if let Ok(device) = fs::canonicalize(by_number) {
        return Some(device);
    }
    let source = std::str::from_utf8(root.source.strip_prefix(b"/dev/")?).ok()?;
    if let Some(mapped) = source.strip_prefix("mapper/") {
        return mapped_device(sys, mapped);
    }
    let plain = !source.is_empty() && !source.starts_with('.') && !source.contains('/');
    plain.then(|| fs::canonicalize(sys.join("class/block").join(source)).ok())?
}

/// All devices of the btrfs that this one is part of; else itself.
fn members(device: PathBuf, sys: &Path) -> Vec<PathBuf> {
    let file_systems = fs::read_dir(sys.join("fs/btrfs")).into_iter().flatten();
    file_systems
        .flatten()
        .take(MAX_DISKS)
        .map(|file_system| entries(&file_system.path().join("devices")))
        .find(|devices| devices.contains(&device))
        .unwrap_or_else(|| vec![device])
}

/// The device-mapper device of this name.
fn mapped_device(sys: &Path, mapped: &str) -> Option<PathBuf> {
    entries(&sys.join("block")).into_iter().find(|device| {
        bounded::read_prefix(&device.join("dm/name"), MAX_IDENTITY)
            .is_ok_and(|found| found.trim_ascii() == mapped.as_bytes())
    })
}

/// The disks below a device: up from a partition, down through the `slaves` of dm and md.
fn collect_leaves(device: &Path, layers: usize, leaves: &mut Vec<PathBuf>) {
    if layers == 0 || leaves.len() >= MAX_LEAVES {
        return;
    }
    if device.join("partition").exists() {
        if let Some(disk) = device.parent() {
            collect_leaves(disk, layers - 1, leaves);
        }
        return;
    }
    let below = entries(&device.join("slaves"));
    if below.is_empty() {
        if !leaves.iter().any(|leaf| leaf == device) {
            leaves.push(device.to_owned());
        }
        return;
    }
    for slave in below {
        collect_leaves(&slave, layers - 1, leaves);
    }
}

/// Disks that are part of the machine: no loop, RAM, device-mapper or RAID devices, no optical
/// drives, nothing removable, nothing on USB.
fn fixed_disks(sys: &Path) -> Vec<PathBuf> {
    let Ok(sys) = fs::canonicalize(sys) else {
        return Vec::new();
    };
    let mut disks = entries(&sys.join("block"));
    disks.retain(|disk| is_fixed(disk.strip_prefix(&sys).unwrap_or(disk), disk));
    disks
}

fn is_fixed(in_sys: &Path, disk: &Path) -> bool {
    let is_one = |file: &str| {
        bounded::read_prefix(&disk.join(file), 8).is_ok_and(|text| text.trim_ascii() == b"1")
    };
    // eMMC boot areas are disks of their own with the serial of their card.
    let boot_area = |name: &[u8]| name.starts_with(b"mmcblk") && name[6..].contains(&b'b');
    let on_usb = in_sys
        .iter()
        .any(|part| part.as_encoded_bytes().starts_with(b"usb"));
    !(in_sys.starts_with("devices/virtual/block")
        || on_usb
        || boot_area(name(disk))
        || is_one("removable")
        || is_one("hidden"))
}

/// What a disk calls itself: virtio; NVMe and MMC; SCSI and SATA; then the World Wide Identifier.
const IDENTITY_FILES: [&str; 5] = ["serial", "device/serial", VPD_FILE, "device/wwid", "wwid"];
const VPD_FILE: &str = "device/vpd_pg80";

fn identity(disk: &Path) -> Component {
    let read = |file: &str| {
        let raw = bounded::read_prefix(&disk.join(file), MAX_IDENTITY).unwrap_or_default();
        Component::from_raw(match file {
            VPD_FILE => unit_serial(&raw),
            // The kernel makes this one of vendor, serial, model and namespace (nvme_ns_wwid): the
            // serial was looked at before, and is none.
            "wwid" if raw.starts_with(b"nvme.") => b"",
            _ => &raw,
        })
    };
    let mut serials = IDENTITY_FILES.iter().map(|file| read(file));
    serials.find(Component::is_available).unwrap_or_default()
}

/// The serial in a SCSI vital product data page 0x80: device, page, two bytes of length, text (SPC-4
/// §7.8.15).
fn unit_serial(page: &[u8]) -> &[u8] {
    match page {
        [_, 0x80, high, low, text @ ..] => {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            &text[..len.min(text.len())]
        }
        _ => b"",
    }
}

/// The entries of a directory of links, resolved.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .take(MAX_DISKS)
        .filter_map(|entry| fs::canonicalize(entry.path()).ok())
        .collect()
}

fn name(device: &Path) -> &[u8] {
    device
        .file_name()
        .map_or(b"", |name| name.as_encoded_bytes())
}
