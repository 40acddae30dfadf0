//! What must hold of a host after a power cut: of its disk as it was left ([`Found::look`]), and after
//! what a boot and an operator would do with it.
//!
//! A crash state is mounted here; the host's own programs run on it in a chroot without network
//! (`after_crash.sh`), since the host's Debian is that of its image and not this machine's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vpn_node_release::digest::Digest;
use vpn_node_updater::journal::Slot;
use vpn_node_updater::layout::Layout;
use vpn_node_updater::slots::{self, Link, Links};

use super::ledger::Ledger;
use crate::shell;

/// Two starts of the agent, some programs and three runs of dpkg, on a busy machine.
const WITHIN: Duration = Duration::from_secs(240);
const AFTER_CRASH: &str = include_str!("after_crash.sh");
/// Namespaces and mounts for the chroot; all of them end with its last process.
const ENTER: &str = r#"set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=755 run "$1/run"
mount -t tmpfs -o mode=1777 tmp "$1/tmp"
mount -t tmpfs -o mode=755 dev "$1/dev"
for node in null zero full random urandom; do
    : > "$1/dev/$node"
    mount --bind "/dev/$node" "$1/dev/$node"
done
ip link set lo up
exec chroot "$1" /bin/sh -s
"#;

/// Where the recorded guest proves that this sees a missing fsync.
pub(super) const CARELESS: &str = "root/careless";
/// The same with the fsync.
pub(super) const CAREFUL: &str = "root/careful";
/// What each of their files is full of.
pub(super) const CONTROL_LINE: &str = "a line that was written and then renamed into its place";
/// How often.
pub(super) const CONTROL_LINES: usize = 300;

/// What had been promised by the instant of a power cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Promised {
    /// `vpn-node enroll` had said that the host is enrolled.
    pub(super) enrolled: bool,
    /// Connection records that the agent had counted as stored.
    pub(super) records: u64,
    /// A release that the updater had told to be installed, and dpkg's had not replaced.
    pub(super) stable: Option<String>,
    /// The version that dpkg had said to have installed last.
    pub(super) package: Option<String>,
}

/// What is known of the programs of this host: every digest that is anybody's.
pub(super) type Known = BTreeSet<String>;

/// What stands on a disk before anything of it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) links: Links,
    /// Slots that a link may lead to, by the updater's own rule, with every file as it was packed.
    intact: BTreeSet<Slot>,
    /// Those that have a mark and differ from what was packed.
    torn: BTreeSet<Slot>,
    ledger: Ledger,
    /// Files of the control that are not what was written.
    careless: usize,
    careful: usize,
}

impl Found {
    /// Looks at everything.
    pub(super) fn look(root: &Path, known: &Known) -> Result<Self> {
        let layout = Layout::new(root);
        let (mut intact, mut torn) = (BTreeSet::new(), BTreeSet::new());
        for slot in slots::whole_slots(&layout) {
            let whole = slots::check(&layout, &slot).is_ok() && genuine(&layout, &slot, known)?;
            if whole { &mut intact } else { &mut torn }.insert(slot);
        }
        Ok(Self {
            links: Links::read(&layout),
            intact,
            torn,
            ledger: Ledger::read(&root.join("var/lib/vpn-node/ledger"))?,
            careless: spoiled(&root.join(CARELESS))?,
            careful: spoiled(&root.join(CAREFUL))?,
        })
    }

    /// Whether the control without fsync shows damage.
    pub(super) fn shows_missing_sync(&self) -> bool {
        self.careless > 0
    }
}

/// Whether every program of a slot is one of ours, byte for byte.
fn genuine(layout: &Layout, slot: &Slot, known: &Known) -> Result<bool> {
    let folder = slots::path_of(layout, slot).join("bin");
    for entry in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // What dpkg unpacks has another name until it is whole.
        if name.ends_with(".dpkg-new") || name.ends_with(".dpkg-tmp") {
            continue;
        }
        let bytes = fs::read(entry.path())?;
        if !known.contains(&Digest::of(&bytes).to_string()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many files there are not what was written.
fn spoiled(folder: &Path) -> Result<usize> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(0);
    };
    let wanted = format!("{CONTROL_LINE}\n").repeat(CONTROL_LINES);
    let mut spoiled = 0;
    for entry in entries {
        let path = entry?.path();
        let renamed = path.extension().is_some_and(|end| end == "done");
        if renamed && fs::read(&path)? != wanted.as_bytes() {
            spoiled += 1;
        }
    }
    Ok(spoiled)
}

/// How the steps after a crash went, by their names in `after_crash.sh`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told(BTreeMap<String, String>);

impl Told {
    /// Does them on the mounted disk.
    pub(super) fn by(root: &Path, deb: &str) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child"]);
        command.args(["sh", "-c", ENTER, "sh"]).arg(root);
        let script = format!("DEB='{deb}'\n{AFTER_CRASH}");
        let output = shell::output(command, Some(script.as_bytes()), WITHIN)?;
        let told = Self::read(&output.stdout);
        ensure!(
            !told.get("repaired.ended").is_empty(),
            "the steps after a crash broke off ({}): {}{}",
            shell::ending(output.status),
            output.stdout,
            output.stderr
        );
        Ok(told)
    }

    fn read(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Self(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// What dpkg wanted: nothing, `configure -a`, or the package again.
    pub(super) fn repair(&self) -> Repair {
        match (self.get("audit"), self.get("again")) {
            ("", _) => Repair::None,
            (_, "") => Repair::Configured,
            _ => Repair::Reinstalled,
        }
    }

    /// Whether recovery had to be done by the package's updater.
    pub(super) fn rescued(&self) -> bool {
        self.get("recovered") == "rescue"
    }
}

/// See [`Told::repair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    None,
    Configured,
    Reinstalled,
}

/// A sentence for each promise that is broken.
pub(super) fn broken(
    found: &Found,
    told: &Told,
    after: &Found,
    promised: &Promised,
) -> Vec<String> {
    let mut broken = Vec::new();
    leads_to_whole(found, promised, &mut broken);
    if !matches!(told.get("recovered"), "stable" | "rescue") {
        broken.push(format!("recovery failed: {}", told.get("recovered")));
    }
    agent_works("agent", told, promised, &mut broken);
    if !told.get("audit.last").is_empty() {
        broken.push(format!(
            "dpkg cannot be brought to rest: {} {} {}",
            told.get("configured"),
            told.get("again"),
            told.get("audit.last")
        ));
    }
    match told.get("package").strip_prefix("ii ") {
        None => broken.push(format!("dpkg says {:?}", told.get("package"))),
        Some(version) => {
            let wanted = promised.package.as_deref();
            if wanted.is_some_and(|wanted| !version.starts_with(wanted)) {
                broken.push(format!(
                    "dpkg had installed {wanted:?} and says {version:?} after the power cut"
                ));
            }
        }
    }
    agent_works("repaired", told, promised, &mut broken);
    if after.links.experiment != Link::Absent {
        broken.push("an experiment outlived the recovery".to_owned());
    }
    broken.extend(torn(after).map(|sentence| format!("{sentence}, after all repairs")));
    broken
}

fn leads_to_whole(found: &Found, promised: &Promised, broken: &mut Vec<String>) {
    match &found.links.stable {
        Link::To(slot) if found.intact.contains(slot) => {}
        other => broken.push(format!("stable leads to {other:?}, which is not whole")),
    }
    if let Link::To(slot) = &found.links.experiment
        && !found.intact.contains(slot)
    {
        broken.push(format!("the experiment is {slot}, which is not whole"));
    }
    if let Some(wanted) = &promised.stable {
        let is = found.links.stable.slot().map(ToString::to_string);
        if is.as_ref() != Some(wanted) {
            broken.push(format!("{wanted} was installed, and stable is {is:?}"));
        }
    }
    broken.extend(torn(found));
    let missing = found.ledger.missing(promised.records);
    if !missing.is_empty() {
        broken.push(format!("records {missing:?} were stored and are lost"));
    }
    if found.careful > 0 {
        broken.push(format!(
            "{} files of the control with fsync are not whole: the disk lies",
            found.careful
        ));
    }
}

fn torn(found: &Found) -> impl Iterator<Item = String> {
    let torn = found.torn.iter();
    torn.map(|slot| format!("{slot} is marked as whole and is not as it was packed"))
}

fn agent_works(key: &str, told: &Told, promised: &Promised, broken: &mut Vec<String>) {
    let said = told.get(&format!("{key}.said"));
    let wanted: &[&str] = match promised.enrolled {
        true => &["0"],
        false => &["0", "4"],
    };
    if !wanted.contains(&told.get(key)) {
        let code = told.get(key);
        broken.push(format!("{key}: the agent does not work ({code}): {said}"));
        return;
    }
    if told.get(&format!("{key}.ended")) != "0" {
        let ended = told.get(&format!("{key}.ended"));
        broken.push(format!("{key}: the agent ended with {ended}"));
    }
    if told.get(key) == "4" {
        return;
    }
    let report: Value = serde_json::from_str(said).unwrap_or_default();
    let ledger = &report["ledger"];
    if ledger["writable"] != true || !ledger["error"].is_null() {
        broken.push(format!("{key}: the ledger is not well: {ledger}"));
    }
    if ledger["quarantined"].as_u64() != Some(0) {
        broken.push(format!("{key}: a part of the ledger was damaged: {ledger}"));
    }
    let lapsed = report["verification"]["state"] == "lapsed";
    if lapsed {
        broken.push(format!("{key}: the host is lapsed: {said}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpn_node_release::version::Version;

    const SLOT: Slot = Slot::Version(Version::new(2, 0, 0));

    fn found() -> Found {
        Found {
            links: Links {
                stable: Link::To(SLOT),
                experiment: Link::Absent,
                previous: Link::To(Slot::System),
            },
            intact: BTreeSet::from([SLOT, Slot::System]),
            torn: BTreeSet::new(),
            ledger: Ledger {
                records: BTreeSet::from([1, 2]),
                acknowledged: 0,
            },
            careless: 1,
            careful: 0,
        }
    }

    fn told() -> Told {
        let said = r#"{"ledger":{"writable":true,"error":null,"quarantined":0,"gaps":0}}"#;
        Told::read(&format!(
            "recovered\tstable\nagent\t0\nagent.said\t{said}\nagent.ended\t0\naudit\tx\n\
             configured\tyes\naudit.last\t\npackage\tii 2.0.0-1\nrepaired\t0\n\
             repaired.said\t{said}\nrepaired.ended\t0\n"
        ))
    }

    fn promised() -> Promised {
        Promised {
            enrolled: true,
            records: 2,
            stable: Some("2.0.0".into()),
            package: Some("2.0.0".into()),
        }
    }

    #[test]
    fn a_host_that_is_well_breaks_no_promise() {
        let all = broken(&found(), &told(), &found(), &promised());
        assert_eq!(all, Vec::<String>::new());
        assert_eq!(told().repair(), Repair::Configured);
        assert!(found().shows_missing_sync());
    }

    #[test]
    fn every_fault_is_found() {
        type Fault = (&'static str, fn(&mut Found, &mut Told));
        let set = |told: &mut Told, key: &str, value: &str| {
            told.0.insert(key.to_owned(), value.to_owned());
        };
        let faults: [Fault; 13] = [
            ("stable leads to Absent", |f, _| {
                f.links.stable = Link::Absent
            }),
            ("which is not whole", |f, _| f.intact.clear()),
            ("2.0.0 was installed", |f, _| {
                f.links.stable = Link::To(Slot::System);
            }),
            ("experiment", |f, _| {
                f.links.experiment = Link::To(Slot::Version(Version::new(3, 0, 0)));
            }),
            ("not as it was packed", |f, _| {
                f.torn.insert(Slot::System);
            }),
            ("records [2]", |f, _| f.ledger.records = BTreeSet::from([1])),
            ("the disk lies", |f, _| f.careful = 1),
            ("recovery failed", |_, t| {
                t.0.insert("recovered".into(), "no: x".into());
            }),
            ("agent: the agent does not work (4)", |_, t| {
                t.0.insert("agent".into(), "4".into());
            }),
            ("cannot be brought to rest", |_, t| {
                t.0.insert("audit.last".into(), "x".into());
            }),
            ("dpkg says", |_, t| {
                t.0.insert("package".into(), "iU 2.0.0".into());
            }),
            ("dpkg had installed", |_, t| {
                t.0.insert("package".into(), "ii 1.0.0".into());
            }),
            ("the ledger is not well", |_, t| {
                t.0.insert("repaired.said".into(), "{}".into());
            }),
        ];
        for (words, fault) in faults {
            let (mut found, mut told) = (found(), told());
            fault(&mut found, &mut told);
            let all = broken(&found, &told, &found, &promised());
            assert!(
                all.iter().any(|sentence| sentence.contains(words)),
                "{words}: {all:?}"
            );
        }
        let mut killed = told();
        set(&mut killed, "agent.ended", "137");
        let all = broken(&found(), &killed, &found(), &promised());
        assert!(all[0].contains("ended with 137"), "{all:?}");
    }

    #[test]
    fn only_finished_files_of_the_control_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("1.part"), "").unwrap();
        assert_eq!(spoiled(folder.path()).unwrap(), 0);
        let whole = format!("{CONTROL_LINE}\n").repeat(CONTROL_LINES);
        fs::write(path("1.done"), &whole).unwrap();
        assert_eq!(spoiled(folder.path()).unwrap(), 0);
        fs::write(path("2.done"), &whole[..4096]).unwrap();
        assert_eq!(spoiled(folder.path()).unwrap(), 1);
        assert_eq!(spoiled(&path("none")).unwrap(), 0);
    }
}
