//! Whole probes of fake hosts: trees in a temporary directory, shaped like sysfs.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use vpn_node_protocol::hardware::{Component, Verdict, compare};

use super::*;

pub(super) struct FakeHost {
    dir: TempDir,
}

const XEON: &str = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n\
    model name\t: Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz\nstepping\t: 7\n";

impl FakeHost {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Two sockets, a SATA disk with a partition for `/`, an NVMe disk, a USB stick, a loop device.
    fn metal() -> Self {
        let host = Self::new();
        host.cpuinfo(&[
            (0, "0x1000", "800.1", ""),
            (0, "0x1000", "900.2", ""),
            (1, "0x1000", "1.0", ""),
        ]);
        host.dmi("sys_vendor", "Dell Inc.\n");
        host.dmi("product_name", "PowerEdge R640\n");
        host.dmi("product_serial", "7XK2Y13\n");
        host.dmi("product_uuid", "4C4C4544-0058-4B10-8032-B7C04F593133\n");
        host.dmi("bios_version", "2.1.8\n");
        host.dmi("board_vendor", "Dell Inc.\n");
        host.dmi("board_name", "0H28RR\n");
        host.dmi("board_serial", ".7XK2Y13.CNWS3000000000.\n");
        host.put("etc/machine-id", "0123456789abcdeffedcba9876543210\n");
        host.disk(
            "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
            "8:0",
        );
        host.put_in_disk(
            "sda",
            "device/vpd_pg80",
            b"\0\x80\0\x14     WD-WCC4N7KXA3ZP",
        );
        host.put_in_disk("sda", "device/wwid", b"naa.50014ee2b1a2c3d4\n");
        host.partition("sda", "sda1", "8:1");
        host.disk("pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1", "259:0");
        host.put_in_disk("nvme0n1", "device/serial", b"S4EVNX0M123457      \n");
        host.put_in_disk("nvme0n1", "wwid", b"eui.0025385a91b0c5d1\n");
        host.disk(
            "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/host6/block/sdb",
            "8:16",
        );
        host.put_in_disk("sdb", "device/vpd_pg80", b"\0\x80\0\x04AAAA");
        host.disk("virtual/block/loop0", "7:0");
        host.put_in_disk("loop0", "serial", b"AAA");
        host.mounted("8:1", "ext4", "/dev/sda1");
        host
    }

    pub(super) fn roots(&self) -> Roots {
        let at = |name: &str| self.dir.path().join(name);
        Roots {
            proc: at("proc"),
            sys: at("sys"),
            etc: at("etc"),
            snapshot: at("run").join(snapshot::FILE_NAME),
            snapshot_owner: nix::unistd::geteuid().as_raw(),
        }
    }

    pub(super) fn put(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn dmi(&self, name: &str, text: impl AsRef<[u8]>) {
        self.put(&format!("sys/class/dmi/id/{name}"), text);
    }

    /// `(physical id, microcode, MHz, flags)` of each logical CPU.
    fn cpuinfo(&self, cpus: &[(u32, &str, &str, &str)]) {
        let text: String = cpus
            .iter()
            .enumerate()
            .map(|(i, (package, microcode, mhz, flags))| {
                format!(
                    "processor\t: {i}\n{XEON}microcode\t: {microcode}\ncpu MHz\t\t: {mhz}\n\
                     physical id\t: {package}\nflags\t\t: fpu vme {flags}\n\n"
                )
            })
            .collect();
        self.put("proc/cpuinfo", text);
    }

    /// A disk under `/sys/devices/…`, linked as the kernel links it.
    pub(super) fn disk(&self, device: &str, number: &str) {
        let sys = self.dir.path().join("sys");
        let dir = sys.join("devices").join(device);
        fs::create_dir_all(dir.join("slaves")).unwrap();
        fs::create_dir_all(dir.join("device")).unwrap();
        fs::write(dir.join("removable"), "0\n").unwrap();
        self.link("block", device.rsplit('/').next().unwrap(), device);
        self.link("class/block", device.rsplit('/').next().unwrap(), device);
        self.link("dev/block", number, device);
    }

    fn link(&self, class: &str, name: &str, device: &str) {
        let class_dir = self.dir.path().join("sys").join(class);
        fs::create_dir_all(&class_dir).unwrap();
        let up = "../".repeat(class.split('/').count());
        symlink(format!("{up}devices/{device}"), class_dir.join(name)).unwrap();
    }

    pub(super) fn disk_dir(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path().join("sys/block").join(name)).unwrap()
    }

    pub(super) fn put_in_disk(&self, name: &str, file: &str, text: &[u8]) {
        fs::write(self.disk_dir(name).join(file), text).unwrap();
    }

    pub(super) fn partition(&self, disk: &str, name: &str, number: &str) {
        let dir = self.disk_dir(disk).join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("partition"), "1\n").unwrap();
        let sys = fs::canonicalize(self.dir.path().join("sys/devices")).unwrap();
        let device = dir.strip_prefix(sys).unwrap().to_str().unwrap();
        self.link("dev/block", number, device);
        self.link("class/block", name, device);
    }

    pub(super) fn mounted(&self, number: &str, fs_type: &str, source: &str) {
        let line = format!("27 1 {number} / / rw,relatime shared:1 - {fs_type} {source} rw\n");
        self.put("proc/self/mountinfo", line);
    }

    pub(super) fn snapshot(&self) {
        fs::create_dir_all(self.dir.path().join("run")).unwrap();
        snapshot::write(&self.roots()).unwrap();
    }

    pub(super) fn probe(&self) -> Probe {
        probe(&self.roots())
    }
}

fn value(component: &Component) -> &str {
    component.value().unwrap_or("unavailable")
}

#[test]
fn bare_metal_with_the_snapshot_of_root() {
    let host = FakeHost::metal();
    host.snapshot();
    let probe = host.probe();
    let c = &probe.components;
    assert_eq!(value(&c.disk1), "WD-WCC4N7KXA3ZP");
    assert_eq!(value(&c.disk2), "S4EVNX0M123457");
    assert_eq!(
        value(&c.cpu1),
        "GenuineIntel;6;85;7;Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz"
    );
    assert_eq!(c.cpu1, c.cpu2);
    assert_eq!(value(&c.bios), "Dell Inc.;PowerEdge R640;7XK2Y13");
    assert_eq!(value(&c.board), "Dell Inc.;0H28RR;.7XK2Y13.CNWS3000000000.");
    assert_eq!(
        value(&c.product_uuid),
        "4c4c4544-0058-4b10-8032-b7c04f593133"
    );
    assert_eq!(value(&c.machine_id), "f316d8d242204d2d9505695dc492821e");
    assert_eq!(probe.snapshot, SnapshotState::Read);
    assert_eq!(probe.notes, Vec::<String>::new());
}

#[test]
fn without_the_snapshot_nothing_of_root_is_read_even_by_root() {
    let probe = FakeHost::metal().probe();
    assert_eq!(probe.snapshot, SnapshotState::Absent);
    assert_eq!(value(&probe.components.bios), "Dell Inc.;PowerEdge R640;-");
    assert!(!probe.components.product_uuid.is_available());
    assert!(
        probe.notes[0].contains("no hardware snapshot at"),
        "{:?}",
        probe.notes
    );
    assert!(probe.notes.iter().all(|note| !note.contains("7XK2Y13")));
}

#[test]
fn updates_reboots_and_power_saving_change_nothing() {
    let host = FakeHost::metal();
    host.snapshot();
    let enrolled = host.probe().components;
    // Firmware, microcode and kernel update; one CPU of the first package off; more memory.
    host.dmi("bios_version", "2.19.1\n");
    host.dmi("product_version", "next\n");
    host.cpuinfo(&[
        (0, "0x2000", "3900.0", "newflag"),
        (1, "0x2000", "800.0", "newflag"),
    ]);
    host.put("proc/meminfo", "MemTotal: 999 kB\n");
    fs::remove_file(host.roots().snapshot).unwrap();
    host.snapshot();
    let now = host.probe().components;
    assert_eq!(compare(&enrolled, &now).verdict, Verdict::Verified);
    assert_eq!(enrolled.verification_hash(), now.verification_hash());
}

#[test]
fn kernel_names_of_disks_may_change_places() {
    let swapped = FakeHost::new();
    for (name, number, serial) in [
        ("sda", "8:0", "CCC3"),
        ("sdb", "8:16", "AAA1"),
        ("sdc", "8:32", "BBB2"),
    ] {
        swapped.disk(&format!("pci0000:00/ata-{serial}/block/{name}"), number);
        swapped.put_in_disk(name, "serial", serial.as_bytes());
    }
    swapped.mounted("8:0", "xfs", "/dev/sda");
    let components = swapped.probe().components;
    assert_eq!(value(&components.disk1), "CCC3");
    assert_eq!(value(&components.disk2), "AAA1");
}

#[test]
fn root_on_lvm_over_raid_is_found_on_its_disks() {
    let host = FakeHost::metal();
    host.disk("virtual/block/md0", "9:0");
    host.disk("virtual/block/dm-0", "253:0");
    let slave = |of: &str, name: &str, target: PathBuf| {
        symlink(target, host.disk_dir(of).join("slaves").join(name)).unwrap();
    };
    slave("md0", "sda1", host.disk_dir("sda").join("sda1"));
    slave("md0", "nvme0n1", host.disk_dir("nvme0n1"));
    slave("dm-0", "md0", host.disk_dir("md0"));
    host.mounted("253:0", "ext4", "/dev/mapper/vg-root");
    let components = host.probe().components;
    assert_eq!(
        value(&components.disk1),
        "S4EVNX0M123457",
        "the lowest serial of the array"
    );
    assert_eq!(value(&components.disk2), "WD-WCC4N7KXA3ZP");

    fs::create_dir_all(host.disk_dir("dm-0").join("dm")).unwrap();
    host.put_in_disk("dm-0", "dm/name", b"vg-root\n");
    host.mounted("0:25", "btrfs", "/dev/mapper/vg-root");
    assert_eq!(host.probe().components.disk1, components.disk1);
    // A circle, which the kernel never makes, ends.
    slave("md0", "dm-0", host.disk_dir("dm-0"));
    assert_eq!(host.probe().components.disk1, components.disk1);
}

#[test]
fn btrfs_is_found_by_the_name_of_its_source() {
    let host = FakeHost::metal();
    host.mounted("0:25", "btrfs", "/dev/sda1");
    assert_eq!(value(&host.probe().components.disk1), "WD-WCC4N7KXA3ZP");
}

#[test]
fn a_container_shows_little_and_says_so() {
    let host = FakeHost::new();
    host.cpuinfo(&[
        (0, "0x1", "1.0", "hypervisor"),
        (1, "0x1", "1.0", "hypervisor"),
    ]);
    host.mounted("0:50", "overlay", "overlay");
    let probe = host.probe();
    assert!(probe.components.cpu1.is_available());
    assert!(
        !probe.components.cpu2.is_available(),
        "sockets of a virtual machine are a setting"
    );
    assert!(!probe.components.has_primary());
    let notes = probe.notes.join("\n");
    for expected in [
        "/ is a file system of type overlay",
        "no SMBIOS",
        "no machine id",
        "neither a serial number of its root disk nor a system UUID",
    ] {
        assert!(
            notes.contains(expected),
            "{expected:?} is missing in:\n{notes}"
        );
    }
}

#[test]
fn an_empty_host_is_no_error() {
    let host = FakeHost::new();
    assert_eq!(host.probe().components, Components::default());
}

#[test]
fn virtual_disks_without_a_serial_are_named() {
    let host = FakeHost::new();
    host.disk("pci0000:00/virtio1/block/vda", "254:0");
    host.put_in_disk("vda", "serial", b"");
    host.put_in_disk(
        "vda",
        "device/wwid",
        b"t10.ATA     QEMU HARDDISK      QM00001\n",
    );
    host.mounted("254:0", "ext4", "/dev/vda");
    let probe = host.probe();
    assert!(!probe.components.disk1.is_available());
    assert!(
        probe
            .notes
            .iter()
            .any(|note| note.contains("(vda) has no serial number"))
    );
}

#[test]
fn arm64_is_described_by_implementer_and_part() {
    let host = FakeHost::new();
    let cpu = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n\
        CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n";
    host.put("proc/cpuinfo", cpu.repeat(4));
    let components = host.probe().components;
    assert_eq!(value(&components.cpu1), "arm;0x41;0x3;0xd0c;1");
    assert!(!components.cpu2.is_available());
}

#[test]
fn removable_hidden_and_boot_areas_are_not_the_second_disk() {
    let host = FakeHost::metal();
    let sata = "pci0000:00/0000:00:17.0";
    for (name, flag) in [
        ("sdc", "removable"),
        ("sdd", "hidden"),
        ("mmcblk0boot0", "x"),
    ] {
        host.disk(&format!("{sata}/{name}"), &format!("99:{}", name.len()));
        host.put_in_disk(name, "serial", b"AAAA");
        host.put_in_disk(name, flag, b"1\n");
        fs::remove_file(
            host.dir
                .path()
                .join(format!("sys/dev/block/99:{}", name.len())),
        )
        .unwrap();
    }
    assert_eq!(value(&host.probe().components.disk2), "S4EVNX0M123457");
}

#[test]
fn hostile_values_are_bounded_and_escaped_everywhere() {
    let long = vec![b'A'; 65536];
    let noise: &[u8] = b"\0\xff\n|\x1b[31m\xc3(\n\n: :\n";
    for hostile in [&long[..], noise] {
        let host = FakeHost::metal();
        for name in [
            "sys_vendor",
            "product_name",
            "product_serial",
            "product_uuid",
            "board_vendor",
            "board_name",
            "board_serial",
        ] {
            host.dmi(name, hostile);
        }
        for file in [
            "device/vpd_pg80",
            "device/wwid",
            "serial",
            "device/serial",
            "removable",
        ] {
            host.put_in_disk("sda", file, hostile);
            host.put_in_disk("nvme0n1", file, hostile);
        }
        host.put("etc/machine-id", hostile);
        host.put(
            "proc/cpuinfo",
            [b"model name\t: ", hostile, b"\nvendor_id : ", hostile].concat(),
        );
        host.snapshot();
        let probe = host.probe();
        assert_eq!(probe.snapshot, SnapshotState::Read);
        let json = serde_json::to_string(&probe.components).unwrap();
        assert!(
            json.len() < 4096 && json.is_ascii() && !json.contains('\\'),
            "{json}"
        );
        assert_eq!(
            serde_json::from_str::<Components>(&json).unwrap(),
            probe.components
        );
        assert!(!probe.components.machine_id.is_available());
        assert!(!probe.components.product_uuid.is_available());

        host.put("proc/self/mountinfo", hostile);
        assert!(!host.probe().components.disk1.is_available());
        host.mounted("0:1", "\u{1b}[31mfs", "/dev/../../etc");
        let notes = host.probe().notes.join("");
        assert!(
            !notes.contains('\u{1b}') && notes.contains("\\x1b"),
            "{notes}"
        );
    }
}

#[test]
fn this_machine_can_be_probed_twice_with_one_result() {
    let runtime = tempfile::tempdir().unwrap();
    let roots = Roots::host(&runtime.path().join("run"));
    assert_eq!(probe(&roots).components, probe(&roots).components);
}
