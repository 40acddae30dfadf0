//! The corpus of `crates/protocol/vectors/hosts/` through the real probe: each host as a tree of
//! files as its kernel shows it, then what happens to hosts, and what becomes of the verdict.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use serde::Deserialize;
use vpn_node_protocol::hardware::{
    ChangeKind, Comparison, ComponentName, Components, Verdict, compare,
};

use super::tests::FakeHost;

const FILES: [&str; 4] = [
    include_str!("../../../crates/protocol/vectors/hosts/metal.json"),
    include_str!("../../../crates/protocol/vectors/hosts/virtual.json"),
    include_str!("../../../crates/protocol/vectors/hosts/cloud.json"),
    include_str!("../../../crates/protocol/vectors/hosts/small.json"),
];

#[derive(Clone, Deserialize)]
struct Host {
    name: String,
    dmi: BTreeMap<String, String>,
    cpuinfo: String,
    machine_id: String,
    disks: Vec<Disk>,
    layers: Vec<Layer>,
    /// Members of the btrfs that holds `/`.
    btrfs: Vec<String>,
    device_tree: BTreeMap<String, String>,
    root: Root,
    root_disks: Vec<String>,
    components: BTreeMap<String, Option<String>>,
    /// Files that say nothing about the hardware.
    #[serde(skip)]
    more: Vec<(String, String)>,
}

#[derive(Clone, Deserialize)]
struct Disk {
    name: String,
    device: String,
    number: String,
    files: BTreeMap<String, Raw>,
    partitions: Vec<(String, String)>,
}

/// The bytes of a file.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Raw {
    Text(String),
    Binary { hex: String },
}

/// A device of md or dm.
#[derive(Clone, Deserialize)]
struct Layer {
    name: String,
    number: String,
    slaves: Vec<String>,
    dm_name: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Root {
    number: String,
    fs: String,
    source: String,
    subroot: String,
}

fn hosts() -> Vec<Host> {
    let parse = |file: &&str| serde_json::from_str::<Vec<Host>>(file).unwrap();
    FILES.iter().flat_map(parse).collect()
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Binary { hex } => (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
                .collect(),
        }
    }
}

impl Host {
    /// The tree, and what the agent makes of it.
    fn probe(&self) -> Components {
        let tree = FakeHost::new();
        for (name, text) in &self.dmi {
            tree.dmi(name, text);
        }
        for (name, text) in &self.device_tree {
            tree.put(&format!("sys/firmware/devicetree/base/{name}"), text);
        }
        tree.put("proc/cpuinfo", &self.cpuinfo);
        tree.put("etc/machine-id", &self.machine_id);
        for disk in &self.disks {
            tree.disk(&disk.device, &disk.number);
            for (file, raw) in &disk.files {
                tree.put_in_disk(&disk.name, file, &raw.bytes());
            }
            for (name, number) in &disk.partitions {
                tree.partition(&disk.name, name, number);
            }
        }
        let sys = tree.roots().sys;
        let device = |name: &str| fs::canonicalize(sys.join("class/block").join(name)).unwrap();
        for layer in &self.layers {
            tree.disk(&format!("virtual/block/{}", layer.name), &layer.number);
            if let Some(name) = &layer.dm_name {
                fs::create_dir_all(tree.disk_dir(&layer.name).join("dm")).unwrap();
                tree.put_in_disk(&layer.name, "dm/name", format!("{name}\n").as_bytes());
            }
            let slaves = tree.disk_dir(&layer.name).join("slaves");
            for slave in &layer.slaves {
                symlink(device(slave), slaves.join(slave)).unwrap();
            }
        }
        let devices = sys.join("fs/btrfs/0b9a1c2d-0000-4000-8000-000000000001/devices");
        for member in &self.btrfs {
            fs::create_dir_all(&devices).unwrap();
            symlink(device(member), devices.join(member)).unwrap();
        }
        let Root {
            number,
            fs,
            source,
            subroot,
        } = &self.root;
        let line = format!(
            "22 27 0:21 / /proc rw - proc proc rw\n27 1 {number} {subroot} / rw,relatime shared:1 - {fs} {source} rw\n"
        );
        tree.put("proc/self/mountinfo", line);
        for (path, text) in &self.more {
            tree.put(path, text);
        }
        tree.snapshot();
        tree.probe().components
    }

    /// The host after something happened to it.
    fn after(&self, what: impl FnOnce(&mut Self)) -> Components {
        let mut host = self.clone();
        what(&mut host);
        host.probe()
    }

    fn more(&mut self, path: &str, text: &str) {
        self.more.push((path.to_owned(), text.to_owned()));
    }

    fn has(&self, name: ComponentName) -> bool {
        self.components[name.as_str()].is_some()
    }
}

/// The names and numbers of disks of one kind turn round, as after another order of discovery.
fn swap_disks(host: &mut Host) {
    let mut renamed = BTreeMap::new();
    for kind in ["sd", "vd", "nvme"] {
        let at: Vec<usize> = (0..host.disks.len())
            .filter(|i| host.disks[*i].name.starts_with(kind))
            .collect();
        let names: Vec<_> = at
            .iter()
            .map(|i| (host.disks[*i].name.clone(), host.disks[*i].number.clone()))
            .collect();
        for (i, (name, number)) in at.into_iter().zip(names.into_iter().rev()) {
            rename(&mut host.disks[i], &name, &number, &mut renamed);
        }
    }
    let new = |name: &mut String| {
        if let Some((now, _)) = renamed.get(name) {
            name.clone_from(now);
        }
    };
    for layer in &mut host.layers {
        layer.slaves.iter_mut().for_each(new);
    }
    host.btrfs.iter_mut().for_each(new);
    let source = host.root.source.strip_prefix("/dev/").unwrap_or_default();
    // A btrfs goes on naming the same device, which is another member now.
    if let Some((name, number)) = renamed.get(source).filter(|_| host.btrfs.is_empty()) {
        host.root.source = format!("/dev/{name}");
        host.root.number.clone_from(number);
    }
}

fn rename(
    disk: &mut Disk,
    name: &str,
    number: &str,
    renamed: &mut BTreeMap<String, (String, String)>,
) {
    let minor = |number: &str| number.split(':').nth(1).unwrap().parse::<u32>().unwrap();
    let major = number.split(':').next().unwrap();
    for (part, part_number) in &mut disk.partitions {
        let offset = minor(part_number) - minor(&disk.number);
        let old = part.clone();
        *part = part.replacen(&disk.name, name, 1);
        *part_number = format!("{major}:{}", minor(number) + offset);
        renamed.insert(old, (part.clone(), part_number.clone()));
    }
    renamed.insert(disk.name.clone(), (name.to_owned(), number.to_owned()));
    let (bus, _) = disk.device.rsplit_once('/').unwrap();
    disk.device = format!("{bus}/{name}");
    (disk.name, disk.number) = (name.to_owned(), number.to_owned());
}

/// Something that happens to a host.
type Happens = fn(&mut Host);

/// What must never be noticed.
fn harmless() -> Vec<(&'static str, Happens)> {
    vec![
        ("reboot, disks found in another order", swap_disks),
        ("update of the operating system", |host| {
            host.more("etc/os-release", "PRETTY_NAME=\"Next OS 99\"\n");
        }),
        ("update of the kernel", |host| {
            host.more("proc/version", "Linux version 7.0.0 (gcc 16)\n");
            host.cpuinfo = host
                .cpuinfo
                .replace("lahf_lm", "lahf_lm avx10 newflag")
                .replace("bugs\t\t: ", "bugs\t\t: of_next_year ");
        }),
        ("update of the microcode", |host| {
            host.cpuinfo = host.cpuinfo.replace("microcode\t: 0x", "microcode\t: 0xf");
        }),
        ("another clock rate and more CPUs", |host| {
            host.cpuinfo = host.cpuinfo.replace("00.000\n", "17.123\n");
            let more = host.cpuinfo.clone();
            host.cpuinfo += &more;
        }),
        ("update of the firmware", |host| {
            for file in ["bios_version", "bios_date", "product_version"] {
                if let Some(text) = host.dmi.get_mut(file) {
                    "next\n".clone_into(text);
                }
            }
        }),
        ("firmware that spells the UUID as SMBIOS 2.6", |host| {
            let Some(text) = host.dmi.get_mut("product_uuid") else {
                return;
            };
            let uuid = uuid::Uuid::try_parse(text.trim()).unwrap();
            *text = format!("{}\n", uuid::Uuid::from_bytes_le(*uuid.as_bytes()));
        }),
        ("more memory", |host| {
            host.more("proc/meminfo", "MemTotal:       527955968 kB\n");
        }),
        ("another network card", |host| {
            host.more("sys/class/net/eth9/address", "52:54:00:12:34:56\n");
        }),
        ("a stick is plugged in", |host| {
            let files = [("removable", "1\n"), ("serial", "0A-STICK\n")];
            host.disks.push(Disk {
                name: "sdz".to_owned(),
                device: "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host9/block/sdz".to_owned(),
                number: "65:144".to_owned(),
                files: files
                    .map(|(name, text)| (name.to_owned(), Raw::Text(text.to_owned())))
                    .into(),
                partitions: Vec::new(),
            });
        }),
    ]
}

fn named(comparison: &Comparison) -> Vec<ComponentName> {
    comparison.changed.iter().map(|c| c.component).collect()
}

#[test]
fn the_probe_finds_what_each_host_is_made_of() {
    let hosts = hosts();
    assert!(hosts.len() >= 40, "{}", hosts.len());
    for host in &hosts {
        let found = host.probe();
        for name in ComponentName::ALL {
            let expected = host.components[name.as_str()].as_deref();
            let value = found.get(name).value();
            assert_eq!(value, expected, "{}: {}", host.name, name.as_str());
        }
    }
}

#[test]
fn updates_reboots_and_memory_never_change_a_verdict() {
    for host in hosts() {
        let enrolled = host.probe();
        let same = |now: &Components| compare(&enrolled, now).verdict == Verdict::Verified;
        let all_at_once = host.after(|host| harmless().iter().for_each(|(_, what)| what(host)));
        if same(&host.after(swap_disks)) && same(&all_at_once) {
            continue;
        }
        for (what, happens) in harmless() {
            let comparison = compare(&enrolled, &host.after(happens));
            println!("{}: {what}: {comparison}", host.name);
        }
        panic!("{}: one of these changed the fingerprint", host.name);
    }
}

#[test]
fn another_root_disk_is_a_mismatch_where_there_was_a_serial() {
    for host in hosts() {
        let enrolled = host.probe();
        let now = host.after(|host| {
            for disk in &mut host.disks {
                if host.root_disks.contains(&disk.name) {
                    let serial = format!("NEW-{}", disk.name);
                    disk.files = [("serial".to_owned(), Raw::Text(serial))].into();
                }
            }
        });
        let verdict = compare(&enrolled, &now).verdict;
        let expected = match host.has(ComponentName::Disk1) {
            true => Verdict::Mismatch,
            false => Verdict::Verified,
        };
        assert_eq!(verdict, expected, "{}", host.name);
    }
}

#[test]
fn an_image_on_other_hardware_is_a_mismatch_where_there_is_something_primary() {
    let hosts = hosts();
    let all: Vec<(&Host, Components)> = hosts.iter().map(|host| (host, host.probe())).collect();
    for (from, enrolled) in &all {
        for (to, there) in all.iter().filter(|(to, _)| to.name != from.name) {
            // The image brings its machine id along.
            let moved = Components {
                machine_id: enrolled.machine_id.clone(),
                ..there.clone()
            };
            let comparison = compare(enrolled, &moved);
            assert_eq!(
                comparison.verdict == Verdict::Mismatch,
                enrolled.has_primary(),
                "{} on {}: {comparison}",
                from.name,
                to.name
            );
        }
    }
}

#[test]
fn a_cloned_machine_is_told_by_its_system_uuid() {
    for host in hosts().iter().filter(|h| h.has(ComponentName::ProductUuid)) {
        // The disk keeps its serial where the configuration sets it, and its contents.
        let clone = host.after(|host| {
            let uuid = "5ec0ffee-0000-4000-8000-00000000beef\n".to_owned();
            host.dmi.insert("product_uuid".to_owned(), uuid);
        });
        let comparison = compare(&host.probe(), &clone);
        assert_eq!(comparison.verdict, Verdict::Mismatch, "{}", host.name);
        assert_eq!(named(&comparison), [ComponentName::ProductUuid]);
    }
}

#[test]
fn a_copied_or_a_new_machine_id_alone_is_a_warning() {
    let hosts = hosts();
    for (host, other) in hosts.iter().zip(hosts.iter().skip(1)) {
        let now = host.after(|host| host.machine_id.clone_from(&other.machine_id));
        let comparison = compare(&host.probe(), &now);
        if host.has(ComponentName::MachineId) {
            assert_eq!(comparison.verdict, Verdict::VerifiedWithWarning);
            assert_eq!(named(&comparison), [ComponentName::MachineId]);
        } else {
            assert_eq!(comparison.verdict, Verdict::Verified, "{}", host.name);
        }
    }
}

#[test]
fn repairs_and_upgrades_are_warnings_that_name_the_part() {
    for host in hosts() {
        let enrolled = host.probe();
        let cpu = compare(
            &enrolled,
            &host.after(|host| {
                host.cpuinfo = host
                    .cpuinfo
                    .replace("stepping\t: ", "stepping\t: 9")
                    .replace("CPU revision\t: ", "CPU revision\t: 9");
            }),
        );
        assert_eq!(cpu.verdict, Verdict::VerifiedWithWarning, "{}", host.name);
        assert_eq!(named(&cpu)[0], ComponentName::Cpu1);

        let board = compare(
            &enrolled,
            &host.after(|host| {
                let serial = "REPLACED-1\n".to_owned();
                host.dmi.insert("board_serial".to_owned(), serial);
            }),
        );
        if host.has(ComponentName::Board) {
            assert_eq!(board.verdict, Verdict::VerifiedWithWarning, "{}", host.name);
            assert_eq!(named(&board), [ComponentName::Board]);
        }

        let removed = compare(
            &enrolled,
            &host.after(|host| {
                let kept = |disk: &Disk| host.root_disks.contains(&disk.name);
                host.disks.retain(kept);
            }),
        );
        let second_is_gone = host.has(ComponentName::Disk2) && host.root_disks.len() < 2;
        let changed = named(&removed);
        assert_ne!(removed.verdict, Verdict::Mismatch, "{}", host.name);
        assert!(changed.iter().all(|c| *c == ComponentName::Disk2));
        assert!(!changed.is_empty() || !second_is_gone, "{}", host.name);
        if second_is_gone {
            assert_eq!(removed.changed[0].kind, ChangeKind::Missing);
        }
    }
}

#[test]
fn identifiers_that_many_machines_share_are_nobodys() {
    let shared = [
        "QM00001",
        "drive-scsi",
        "persistent-disk",
        "nvme_card",
        "SN: 0",
        "03000200-0400",
        "4c4c4544-0000-2010",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff",
        "To be filled",
        "To Be Filled",
        "Default string",
        "System Serial Number",
    ];
    for host in hosts() {
        let components = host.probe();
        for name in ComponentName::ALL {
            let value = components.get(name).value().unwrap_or_default();
            for text in shared {
                assert!(!value.contains(text), "{}: {value}", host.name);
            }
        }
    }
}
