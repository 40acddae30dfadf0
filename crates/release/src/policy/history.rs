//! Whole lives of a host: releases in any order, rollbacks, switches of root in between. Whatever
//! happens, what is let in never has a lower counter than anything before it, nor a version below
//! any floor before it.

use proptest::prelude::*;

use super::tests::host;
use super::*;
use crate::release::tests::info;

#[derive(Clone, Debug)]
enum Event {
    /// It is assigned; installed if the judge lets it in.
    Assigned {
        release: Box<ReleaseInfo>,
        content: u8,
    },
    /// Probation ended badly, or root went back: the former version runs again.
    RolledBack,
    /// Root's switches, one bit each: disabled, pinned to what runs, block what runs.
    Root(u8),
}

fn version() -> impl Strategy<Value = Version> {
    (0..3_u64, 0..3_u64, 0..4_u64, any::<bool>()).prop_map(|(major, minor, patch, candidate)| {
        let pre = if candidate { "-rc.1" } else { "" };
        Version::parse(&format!("{major}.{minor}.{patch}{pre}")).unwrap()
    })
}

fn event() -> impl Strategy<Value = Event> {
    let assigned = (
        version(),
        version(),
        1..12_u64,
        0..3_u8,
        any::<bool>(),
        proptest::option::of(version()),
    );
    prop_oneof![
        6 => assigned.prop_map(|(version, floor, counter, content, mandatory, min)| {
            let security_floor = floor.min(version.clone());
            let release = Box::new(ReleaseInfo {
                version, counter, mandatory, security_floor, min_version_required: min, ..info()
            });
            Event::Assigned { release, content }
        }),
        1 => Just(Event::RolledBack),
        1 => (0..8_u8).prop_map(Event::Root),
    ]
}

proptest! {
    #[test]
    fn nothing_older_and_nothing_below_the_floor_is_ever_let_in(events in proptest::collection::vec(event(), 0..60)) {
        let mut host = host();
        host.running.version = Version::new(0, 0, 1);
        host.high_water = HighWater::default();
        let mut former = host.running.clone();
        let mut accepted: Vec<(u64, Digest)> = Vec::new();
        let mut floors: Vec<Version> = Vec::new();
        for event in events {
            match event {
                Event::Assigned { release, content } => {
                    let sha256 = Digest::new([content; 32]);
                    let Ok(permit) = judge(Candidate { info: &release, sha256 }, &host) else { continue };
                    for (counter, package) in &accepted {
                        prop_assert!(release.counter >= *counter);
                        prop_assert!(release.counter > *counter || sha256 == *package);
                    }
                    prop_assert!(floors.iter().all(|floor| release.version >= *floor));
                    prop_assert!(!host.disabled && !host.blocked.contains(&release.version));
                    prop_assert!(host.pinned.iter().all(|pinned| *pinned == release.version));
                    prop_assert!(permit.high_water.counter >= host.high_water.counter);
                    prop_assert!(permit.high_water.security_floor >= host.high_water.security_floor);
                    accepted.push((release.counter, sha256));
                    floors.push(release.security_floor.clone());
                    host.high_water = permit.high_water;
                    former = std::mem::replace(&mut host.running, Running {
                        version: release.version,
                        package: Some(sha256),
                        listed_counter: None,
                        state_format: release.state_format,
                    });
                }
                Event::RolledBack => host.running = former.clone(),
                Event::Root(switches) => {
                    let running = host.running.version.clone();
                    host.disabled = switches & 1 != 0;
                    host.pinned = (switches & 2 != 0).then(|| running.clone());
                    host.blocked = (switches & 4 != 0).then_some(running).into_iter().collect();
                }
            }
        }
    }
}
