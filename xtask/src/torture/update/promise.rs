//! What must hold of a host: at any instant ([`always`]), and when it has come to rest
//! ([`at_rest`]). A function of what stands in its tree and of what its witness saw.

use std::collections::BTreeSet;

use vpn_node_release::handover::{Phase as Told, Status};
use vpn_node_release::trust::{FileStore, HighWater, Store};
use vpn_node_release::version::Version;
use vpn_node_updater::history::{self, Line};
use vpn_node_updater::hold::Hold;
use vpn_node_updater::journal::{self, Journal, Phase, Slot};
use vpn_node_updater::layout::Layout;
use vpn_node_updater::slots::{self, Link, Links};

use super::agent::{self, Start};
use super::releases::{FIRST, Releases};
use super::tree::Tree;

/// Said when nobody knows any more what was trusted.
pub(super) const TRUST_LOST: &str = "the high-water mark is lost";

/// Said of a version directory that is marked as whole.
pub(super) const NOT_AS_PACKED: &str = "has its mark and is not as it was packed";

/// What stands in a tree.
#[derive(Clone, Debug)]
pub(super) struct Found {
    links: Links,
    /// Version directories whose mark and every file are as they were packed.
    intact: BTreeSet<Slot>,
    /// Those with a mark.
    marked: BTreeSet<Slot>,
    pub(super) journal: Option<Journal>,
    history: Vec<Line>,
    status: Option<Status>,
    hold: Option<Hold>,
    trust: Option<HighWater>,
    request: bool,
    leftovers: Vec<String>,
    starts: Vec<Start>,
}

impl Found {
    /// Looks at everything.
    pub(super) fn look(tree: &Tree) -> anyhow::Result<Self> {
        let layout = &tree.layout;
        let marked = slots::whole_slots(layout);
        let intact = marked
            .iter()
            .filter(|slot| slots::check(layout, slot).is_ok());
        let store = FileStore::open(&layout.trust())?;
        let status = std::fs::read(layout.status()).ok();
        let leftovers = [layout.work(), layout.staging()];
        Ok(Self {
            links: Links::read(layout),
            intact: intact.cloned().collect(),
            marked,
            journal: journal::read(layout),
            history: history::read(layout).unwrap_or_default(),
            status: status.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
            hold: Hold::read(layout).ok(),
            trust: store.high_water().ok().flatten().map(|loaded| loaded.value),
            request: layout.incoming().join("request.json").exists(),
            leftovers: leftovers
                .iter()
                .filter(|path| path.exists())
                .map(|path| path.display().to_string())
                .collect(),
            starts: agent::starts(&tree.root)?,
        })
    }

    /// Whether nobody has anything left to do.
    pub(super) fn rests(&self) -> bool {
        let over = self.journal.as_ref().is_none_or(|j| j.phase == Phase::Done);
        over && !self.request && self.links.experiment == Link::Absent
    }

    /// The version that a boot starts.
    pub(super) fn stable(&self) -> Option<Version> {
        self.links.stable.slot().map(version_of)
    }

    /// How attempts ended: event, version and code.
    pub(super) fn endings(&self) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
        let endings = self.history.iter().filter(|line| line.attempt.is_some());
        endings.map(|line| {
            let version = line.version.as_deref().unwrap_or_default();
            (line.event.as_str(), version, line.code.as_deref())
        })
    }

    /// How many agents were started.
    pub(super) fn starts(&self) -> usize {
        self.starts.len()
    }

    /// Why the last thing that was told did not go well.
    pub(super) fn last_code(&self) -> Option<&str> {
        let told = self
            .status
            .as_ref()
            .and_then(|status| status.attempt.as_ref());
        let line = self.history.last().and_then(|line| line.code.as_deref());
        line.or_else(|| told.and_then(|attempt| attempt.code.as_deref()))
    }
}

/// Whether nobody has anything left to do, with few looks.
pub(super) fn rests(layout: &Layout) -> bool {
    let request = layout.incoming().join("request.json").exists();
    let over = journal::read(layout).is_none_or(|journal| journal.phase == Phase::Done);
    !request && over && Links::read(layout).experiment == Link::Absent
}

/// What holds at any instant, also between a crash and the next start. A sentence for each promise
/// that is broken.
pub(super) fn always(found: &Found, before: &Found, releases: &Releases) -> Vec<String> {
    let mut broken = Vec::new();
    // "always the old or the new version": a boot that finds no updater starts this.
    match found.links.stable.slot() {
        Some(slot) if found.intact.contains(slot) => {}
        other => broken.push(format!("stable leads to {other:?}, which is not whole")),
    }
    let torn = found.marked.difference(&found.intact);
    broken.extend(torn.map(|slot| format!("{slot} {NOT_AS_PACKED}")));
    trust(found, before, releases, &mut broken);
    for start in &found.starts {
        if !start.signed {
            broken.push(format!("an unsigned {} was started", start.version));
        }
        if !start.whole {
            broken.push(format!("a half {} was started", start.version));
        }
        if start.second {
            broken.push(format!("{} was started beside another", start.version));
        }
    }
    broken
}

/// "trusted state is never lowered", and no release gets a slot before it is remembered.
fn trust(found: &Found, before: &Found, releases: &Releases, broken: &mut Vec<String>) {
    let Some(now) = &found.trust else {
        broken.push(TRUST_LOST.to_owned());
        return;
    };
    let counter = |trust: &HighWater| trust.releases.values().map(|mark| mark.counter).max();
    for slot in &found.marked {
        let Slot::Version(version) = slot else {
            continue;
        };
        let wanted = releases.of(version).counter;
        if counter(now).is_none_or(|counter| counter < wanted) {
            broken.push(format!("{version} was unpacked and is not remembered"));
        }
    }
    let Some(before) = &before.trust else {
        return;
    };
    let versions = |trust: &HighWater| {
        [
            ("root", Some(trust.root.version)),
            (
                "timestamp",
                trust.timestamp.as_ref().map(|t| t.mark.version),
            ),
            ("snapshot", trust.snapshot.as_ref().map(|s| s.mark.version)),
            ("targets", trust.targets.get("targets").map(|t| t.version)),
            ("release", counter(trust)),
        ]
    };
    for ((name, now), (_, before)) in versions(now).into_iter().zip(versions(before)) {
        if now < before {
            broken.push(format!(
                "the trusted {name} went from {before:?} to {now:?}"
            ));
        }
    }
}

/// What holds when the host has come to rest, besides [`always`].
pub(super) fn at_rest(found: &Found) -> Vec<String> {
    let mut broken = Vec::new();
    if !found.rests() {
        let phase = found.journal.as_ref().map(|journal| journal.phase);
        broken.push(format!(
            "it does not come to rest: journal {phase:?}, request {}, experiment {:?}",
            found.request, found.links.experiment
        ));
        return broken;
    }
    for leftover in &found.leftovers {
        broken.push(format!("{leftover} was left behind"));
    }
    history_is_true(found, &mut broken);
    status_is_true(found, &mut broken);
    broken
}

/// The last ending of an attempt is how the host is; and each attempt has one.
fn history_is_true(found: &Found, broken: &mut Vec<String>) {
    let stable = found.stable().map(|version| version.to_string());
    let last = found.history.iter().rfind(|line| line.attempt.is_some());
    match last.map(|line| (line.event.as_str(), line)) {
        Some(("installed", line)) if line.version != stable => broken.push(format!(
            "history says that {:?} was installed, and stable is {stable:?}",
            line.version
        )),
        Some(("rolled_back" | "failed" | "refused", line)) if line.from != stable => {
            broken.push(format!(
                "history says that {:?} stayed, and stable is {stable:?}",
                line.from
            ))
        }
        None if stable != Some(FIRST.to_string()) => {
            broken.push(format!("history is empty, and stable is {stable:?}"));
        }
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for line in found.history.iter().filter(|line| line.attempt.is_some()) {
        if !seen.insert(line.attempt.clone()) {
            broken.push(format!("attempt {:?} ended twice", line.attempt));
        }
        // Not the version's fault: it is not blamed.
        let innocent = ["interrupted", "installation_gone"];
        let code = line.code.as_deref().unwrap_or_default();
        let sent_away = line.event == "rolled_back" && !innocent.contains(&code);
        let blocked = found.hold.iter().flat_map(|hold| &hold.blocked);
        let version = line.version.clone().unwrap_or_default();
        if sent_away
            && !blocked
                .into_iter()
                .any(|b| b.version.to_string() == version)
        {
            broken.push(format!("{version} was sent away and is not blocked"));
        }
    }
    if let (Some(journal), Some(line)) = (&found.journal, last)
        && journal.attempt == line.attempt.clone().unwrap_or_default()
    {
        let told = match journal.outcome {
            Some(Told::Installed) => "installed",
            Some(Told::Refused) => "refused",
            Some(Told::RolledBack) => "rolled_back",
            _ => "failed",
        };
        if told != line.event {
            broken.push(format!("the journal says {told}, history {}", line.event));
        }
    }
}

fn status_is_true(found: &Found, broken: &mut Vec<String>) {
    let Some(status) = &found.status else {
        broken.push("status.json cannot be read".to_owned());
        return;
    };
    let stable = found.stable().map(|version| version.to_string());
    if Some(&status.stable_version) != stable.as_ref() || status.experiment.is_some() {
        broken.push(format!(
            "status.json says stable {}, experiment {:?}; stable is {stable:?}",
            status.stable_version, status.experiment
        ));
    }
    let journal = found.journal.as_ref().and_then(|j| j.outcome);
    let told = status.attempt.as_ref().map(|attempt| attempt.phase);
    if journal.is_some() && told != journal {
        broken.push(format!(
            "status.json says {told:?}, the journal {journal:?}"
        ));
    }
}

fn version_of(slot: &Slot) -> Version {
    match slot {
        Slot::System => FIRST,
        Slot::Version(version) => version.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::update::agent::Behaviour;
    use crate::torture::update::{GOOD, NEXT};

    fn releases() -> Releases {
        let both = [(GOOD, Behaviour::Good), (NEXT, Behaviour::Good)];
        Releases::make(&both, "/nonexistent".as_ref(), 1).unwrap()
    }

    /// A host with [`GOOD`] over the first version, at rest.
    fn good(releases: &Releases) -> Found {
        let root = serde_json::json!({"version": 1, "digest": "", "issued": null});
        let (counter, sha256) = (1, &releases.all[0].sha256);
        let trust = serde_json::json!({
            "sequence": 1, "root": root, "timestamp": null, "snapshot": null, "targets": {},
            "releases": {"line": {"counter": counter, "sha256": sha256, "security_floor": null}},
        });
        let slots = BTreeSet::from([Slot::System, Slot::Version(GOOD)]);
        Found {
            links: Links {
                stable: Link::To(Slot::Version(GOOD)),
                experiment: Link::Absent,
                previous: Link::To(Slot::System),
            },
            intact: slots.clone(),
            marked: slots,
            journal: None,
            history: vec![Line {
                event: "installed".into(),
                attempt: Some("a".into()),
                from: Some(FIRST.to_string()),
                version: Some(GOOD.to_string()),
                ..Line::default()
            }],
            status: Some(Status {
                stable_version: GOOD.to_string(),
                ..Status::default()
            }),
            hold: Some(Hold::default()),
            trust: Some(serde_json::from_value(trust).unwrap()),
            request: false,
            leftovers: Vec::new(),
            starts: vec![Start {
                pid: 1,
                version: GOOD,
                signed: true,
                whole: true,
                second: false,
            }],
        }
    }

    #[test]
    fn a_good_host_breaks_no_promise() {
        let releases = releases();
        let found = good(&releases);
        assert_eq!(always(&found, &found, &releases), Vec::<String>::new());
        assert_eq!(at_rest(&found), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_found() {
        type Fault = (&'static str, fn(&mut Found));
        let faults: [Fault; 13] = [
            ("not whole", |f| f.intact.clear()),
            ("not whole", |f| f.links.stable = Link::Absent),
            ("is lost", |f| f.trust = None),
            ("from Some(1) to None", |f| {
                f.trust.as_mut().unwrap().releases.clear();
                f.marked.clear();
            }),
            ("is not remembered", |f| {
                f.marked.insert(Slot::Version(NEXT));
            }),
            ("unsigned", |f| f.starts[0].signed = false),
            ("a half", |f| f.starts[0].whole = false),
            ("beside another", |f| f.starts[0].second = true),
            ("come to rest", |f| f.request = true),
            ("left behind", |f| f.leftovers.push("work".into())),
            ("history says", |f| f.links.stable = Link::To(Slot::System)),
            ("ended twice", |f| f.history.push(f.history[0].clone())),
            ("status.json", |f| {
                f.status.as_mut().unwrap().experiment = Some("x".into())
            }),
        ];
        let releases = releases();
        for (words, fault) in faults {
            let before = good(&releases);
            let mut found = before.clone();
            fault(&mut found);
            let mut broken = always(&found, &before, &releases);
            broken.extend(at_rest(&found));
            let said = broken.iter().any(|sentence| sentence.contains(words));
            assert!(said, "{words}: {broken:?}");
        }
    }
}
