//! Each rule alone: one fault in a release that is otherwise good.

use super::*;
use crate::release::tests::info;

const PACKAGE: Digest = Digest::new([7; 32]);
const OTHER: Digest = Digest::new([8; 32]);

pub(super) fn host() -> HostFacts {
    HostFacts {
        platform: Platform::parse("linux-amd64").unwrap(),
        channel: Word::parse("stable").unwrap(),
        running: Running {
            version: Version::new(1, 4, 0),
            package: Some(Digest::new([6; 32])),
            listed_counter: None,
            state_format: StateFormat::only(1),
        },
        high_water: HighWater {
            counter: 6,
            package: Some(Digest::new([6; 32])),
            security_floor: Some(Version::new(1, 2, 0)),
        },
        blocked: Vec::new(),
        pinned: None,
        disabled: false,
        state_on_disk: 1,
    }
}

fn judged(info: &ReleaseInfo, sha256: Digest, host: &HostFacts) -> Result<Permit, Refusal> {
    judge(Candidate { info, sha256 }, host)
}

/// The code for 1.5.0, changed, on a host, changed; its sentence names what it is about.
fn code(change: impl FnOnce(&mut ReleaseInfo, &mut HostFacts), says: &[&str]) -> PolicyCode {
    let (mut info, mut host) = (info(), host());
    change(&mut info, &mut host);
    let refusal = judged(&info, PACKAGE, &host).expect_err("it is refused");
    for word in says {
        assert!(
            refusal.sentence.contains(word),
            "{word:?} in: {}",
            refusal.sentence
        );
    }
    refusal.code
}

#[test]
fn a_newer_release_is_permitted_and_raises_the_high_water() {
    let permit = judged(&info(), PACKAGE, &host()).unwrap();
    assert!(!permit.needs_snapshot);
    assert_eq!(permit.high_water.counter, 7);
    assert_eq!(permit.high_water.package, Some(PACKAGE));
    assert_eq!(
        permit.high_water.security_floor,
        Some(Version::new(1, 2, 0))
    );
    let mut raised = info();
    raised.security_floor = Version::new(1, 5, 0);
    let permit = judged(&raised, PACKAGE, &host()).unwrap();
    assert_eq!(
        permit.high_water.security_floor,
        Some(Version::new(1, 5, 0))
    );
}

#[test]
fn a_release_for_another_product_is_refused() {
    let code = code(
        |info, _| info.product = "other".into(),
        &["\"other\"", "1.5.0"],
    );
    assert_eq!(code, PolicyCode::WrongProduct);
}

#[test]
fn a_release_for_another_operating_system_is_refused() {
    let code = code(
        |info, _| info.os = Word::parse("freebsd").unwrap(),
        &["freebsd", "linux-amd64"],
    );
    assert_eq!(code, PolicyCode::WrongOs);
}

#[test]
fn a_release_for_another_processor_is_refused() {
    let code = code(
        |info, _| info.arch = Word::parse("arm64").unwrap(),
        &["arm64", "linux-amd64"],
    );
    assert_eq!(code, PolicyCode::WrongArch);
}

#[test]
fn a_release_of_another_channel_is_refused() {
    let code = code(
        |info, _| info.channel = Word::parse("beta").unwrap(),
        &["beta", "stable"],
    );
    assert_eq!(code, PolicyCode::WrongChannel);
}

#[test]
fn an_older_release_than_the_package_managers_version_is_a_step_back() {
    // The high-water mark knows nothing of what a deb brought.
    let older = |listed: Option<u64>| {
        move |info: &mut ReleaseInfo, host: &mut HostFacts| {
            info.version = Version::new(1, 3, 0);
            host.running.package = None;
            host.running.listed_counter = listed;
        }
    };
    for listed in [None, Some(7), Some(8)] {
        let code = code(older(listed), &["1.3.0", "1.4.0", "deb or rpm"]);
        assert_eq!(code, PolicyCode::CounterLower, "{listed:?}");
    }
    // Signed after it: on purpose.
    let (mut info, mut host) = (info(), host());
    older(Some(6))(&mut info, &mut host);
    let _ = judged(&info, PACKAGE, &host).unwrap();
}

#[test]
fn a_lower_counter_is_refused_even_with_a_higher_version() {
    let code = code(
        |info, host| {
            info.version = Version::new(9, 0, 0);
            host.high_water.counter = 8;
        },
        &["counter 7", "counter 8"],
    );
    assert_eq!(code, PolicyCode::CounterLower);
}

#[test]
fn the_same_counter_with_other_bytes_is_refused() {
    let reused = |known: Option<Digest>| {
        code(
            move |_, host| {
                host.high_water.counter = 7;
                host.high_water.package = known;
            },
            &["counter 7"],
        )
    };
    assert_eq!(reused(Some(OTHER)), PolicyCode::CounterReused);
    // Not knowing what it was is no reason to believe it.
    assert_eq!(reused(None), PolicyCode::CounterReused);
}

#[test]
fn the_same_release_may_be_tried_again() {
    let mut host = host();
    host.high_water.counter = 7;
    host.high_water.package = Some(PACKAGE);
    let permit = judged(&info(), PACKAGE, &host).unwrap();
    assert_eq!(permit.high_water, host.high_water);
}

#[test]
fn a_version_below_the_security_floor_is_refused_whatever_its_counter() {
    let code = code(
        |info, host| {
            info.counter = 99;
            host.high_water.security_floor = Some(Version::new(1, 5, 1));
        },
        &["1.5.0", "1.5.1"],
    );
    assert_eq!(code, PolicyCode::BelowSecurityFloor);
    // A candidate of the floor's own version is below it by semver.
    let mut candidate = info();
    candidate.version = Version::parse("1.5.0-rc.1").unwrap();
    let mut host = host();
    host.high_water.security_floor = Some(Version::new(1, 5, 0));
    let refusal = judged(&candidate, PACKAGE, &host).unwrap_err();
    assert_eq!(refusal.code, PolicyCode::BelowSecurityFloor);
}

#[test]
fn an_older_version_with_a_higher_counter_is_a_deliberate_downgrade() {
    let mut downgrade = info();
    downgrade.version = Version::new(1, 3, 0);
    assert!(judged(&downgrade, PACKAGE, &host()).is_ok());
}

#[test]
fn the_release_that_runs_is_refused() {
    let running = |package| {
        code(
            move |info, host| {
                host.running.version = info.version.clone();
                host.running.package = package;
            },
            &["1.5.0", "runs"],
        )
    };
    assert_eq!(running(Some(PACKAGE)), PolicyCode::AlreadyInstalled);
    assert_eq!(running(None), PolicyCode::AlreadyInstalled);
}

#[test]
fn other_content_under_the_running_version_is_refused() {
    let code = code(
        |info, host| {
            host.running.version = info.version.clone();
            host.running.package = Some(OTHER);
        },
        &["1.5.0", "other content"],
    );
    assert_eq!(code, PolicyCode::VersionReused);
}

#[test]
fn nothing_is_installed_where_updates_are_disabled_not_even_a_mandatory_release() {
    let code = code(
        |info, host| {
            info.mandatory = true;
            host.disabled = true;
        },
        &["switched updates off", "`vpn-node update enable`"],
    );
    assert_eq!(code, PolicyCode::UpdatesDisabled);
}

#[test]
fn a_pinned_host_takes_its_own_version_alone_not_even_a_mandatory_release() {
    let code = code(
        |info, host| {
            info.mandatory = true;
            host.pinned = Some(Version::new(1, 4, 0));
        },
        &["1.4.0", "`vpn-node update unpin`"],
    );
    assert_eq!(code, PolicyCode::Pinned);
    let mut host = host();
    host.pinned = Some(Version::new(1, 5, 0));
    assert!(judged(&info(), PACKAGE, &host).is_ok());
}

#[test]
fn a_blocked_version_is_refused_not_even_a_mandatory_release() {
    let code = code(
        |info, host| {
            info.mandatory = true;
            host.blocked = vec![Version::new(1, 3, 0), Version::new(1, 5, 0)];
        },
        &["`vpn-node update unblock 1.5.0`"],
    );
    assert_eq!(code, PolicyCode::Blocked);
}

#[test]
fn a_release_that_wants_a_newer_one_before_it_is_refused_and_bars_no_way() {
    let code = code(
        |info, _| info.min_version_required = Some(Version::new(1, 4, 1)),
        &["1.4.1", "1.4.0"],
    );
    assert_eq!(code, PolicyCode::MinVersionUnmet);
    let mut exactly = info();
    exactly.min_version_required = Some(Version::new(1, 4, 0));
    assert!(judged(&exactly, PACKAGE, &host()).is_ok());
}

#[test]
fn a_release_that_cannot_read_the_state_is_refused() {
    let code = code(
        |info, host| {
            host.state_on_disk = 3;
            info.state_format = StateFormat {
                reads_min: 1,
                reads_max: 2,
                writes: 2,
            };
        },
        &["formats 1 to 2", "format 3"],
    );
    assert_eq!(code, PolicyCode::StateUnreadable);
    let mut too_new = info();
    too_new.state_format = StateFormat {
        reads_min: 2,
        reads_max: 3,
        writes: 3,
    };
    let refusal = judged(&too_new, PACKAGE, &host()).unwrap_err();
    assert_eq!(refusal.code, PolicyCode::StateUnreadable);
}

#[test]
fn a_release_that_writes_what_the_running_one_cannot_read_needs_a_snapshot() {
    let mut migrating = info();
    migrating.state_format = StateFormat {
        reads_min: 1,
        reads_max: 2,
        writes: 2,
    };
    assert!(judged(&migrating, PACKAGE, &host()).unwrap().needs_snapshot);
    let mut host = host();
    host.running.state_format.reads_max = 2;
    assert!(!judged(&migrating, PACKAGE, &host).unwrap().needs_snapshot);
}

#[test]
fn every_code_of_the_policy_is_tried_here() {
    let source = include_str!("tests.rs");
    for code in PolicyCode::ALL {
        assert!(source.contains(&format!("PolicyCode::{code:?}")), "{code}");
    }
}
