use vpn_node_protocol::encoding::Hex;

use super::*;
use crate::rules::state::ChainState;

const NOW: i64 = 1_790_000_000_000;

fn snapshot(known: Option<KnownDeployment>) -> Snapshot {
    let mut snapshot = Snapshot::at(ChainState {
        epoch: 1,
        seq: 4,
        chain: Hex([0; 32]),
        nonce: Hex([0; 32]),
        last_digest: None,
    });
    snapshot.deployment = known;
    snapshot
}

fn known(status: DeploymentStatus) -> KnownDeployment {
    KnownDeployment {
        server_id: "s".into(),
        version: "1.5.0".into(),
        status,
        told: true,
    }
}

fn told(status: DeploymentStatus) -> DeploymentReport {
    DeploymentReport {
        id: 9,
        version: "1.5.0".into(),
        status,
        bytes: 10,
        total: 20,
        bytes_per_s: 3,
        code: None,
        detail: None,
        previous_version: Some("1.4.0".into()),
    }
}

fn report(deployment: Option<DeploymentReport>) -> UpdateReport {
    UpdateReport {
        platform: "linux-amd64".into(),
        managed: true,
        channel: "stable".into(),
        deployment,
        ..UpdateReport::default()
    }
}

fn judged(snapshot: &Snapshot, report: UpdateReport) -> Vec<Effect> {
    let heartbeat: Heartbeat = serde_json::from_value(serde_json::json!({
        "version": "1.4.0", "uptime_s": 1, "backends": [],
        "metrics": vpn_node_protocol::metrics::SystemMetrics::default(),
        "clock_offset_ms": null, "backlog": {"records": 0, "bytes": 0, "lost": 0},
        "location": null, "authorisation": "verified", "update": report,
    }))
    .unwrap();
    let mut effects = vec![];
    judge(snapshot, &heartbeat, NOW, &mut effects);
    effects
}

fn write(effects: &[Effect]) -> Option<&DeploymentWrite> {
    effects.iter().find_map(|effect| match effect {
        Effect::Deployment(write) => Some(&**write),
        _ => None,
    })
}

fn quiet(effects: &[Effect]) -> Vec<&NewEvent> {
    let events = effects.iter().filter_map(|effect| match effect {
        Effect::QuietEvent { event, .. } => Some(event),
        _ => None,
    });
    events.collect()
}

#[test]
fn a_deployment_moves_forward_only_and_its_end_stays() {
    for before in DeploymentStatus::ALL {
        for said in DeploymentStatus::ALL {
            let snapshot = snapshot(Some(known(before)));
            let effects = judged(&snapshot, report(Some(told(said))));
            assert!(quiet(&effects).is_empty());
            let write = write(&effects);
            if before.is_final() {
                assert_eq!(write, None, "{before:?} {said:?}");
                continue;
            }
            let write = write.unwrap();
            assert_eq!(write.status, before.max(said));
            assert_eq!(write.progress.is_some(), said >= before);
            assert_eq!(write.event.is_some(), ended_badly(said), "{said:?}");
        }
    }
}

#[test]
fn a_host_speaks_of_its_own_deployment_and_of_none_other() {
    use DeploymentStatus::{Installed, Pending};
    let others = KnownDeployment {
        server_id: "other".into(),
        ..known(Pending)
    };
    let untold = KnownDeployment {
        told: false,
        ..known(Pending)
    };
    let another_version = KnownDeployment {
        version: "1.6.0".into(),
        ..known(Pending)
    };
    for (stored, says) in [
        (None, "nobody knows"),
        (Some(others), "another host"),
        (Some(untold), "never told"),
        (Some(another_version), "another version"),
    ] {
        let effects = judged(&snapshot(stored), report(Some(told(Installed))));
        assert_eq!(write(&effects), None, "{says}");
        let events = quiet(&effects);
        assert!(events[0].description.contains(says), "{events:?}");
        // What it says of itself counts all the same.
        assert!(matches!(effects[0], Effect::Software(_)));
    }
}

#[test]
fn absurd_sizes_are_ignored_as_a_whole() {
    let long = "x".repeat(256);
    let with = |change: &dyn Fn(&mut UpdateReport)| {
        let mut report = report(Some(told(DeploymentStatus::Downloading)));
        change(&mut report);
        report
    };
    let cases: [UpdateReport; 7] = [
        with(&|r| r.platform.clone_from(&long)),
        with(&|r| r.channel = "a\u{1b}[2J".into()),
        with(&|r| r.pinned = Some(long.clone())),
        with(&|r| r.blocked = vec!["1.0.0".into(); MAX_BLOCKED + 1]),
        with(&|r| r.counter = u64::MAX),
        with(&|r| r.deployment.as_mut().unwrap().bytes = u64::MAX),
        with(&|r| r.deployment.as_mut().unwrap().previous_version = Some(long.clone())),
    ];
    for report in cases {
        let effects = judged(&snapshot(Some(known(DeploymentStatus::Pending))), report);
        assert_eq!(effects.len(), 1);
        assert_eq!(
            quiet(&effects)[0].event_type,
            EventType::UpdateReportIgnored
        );
    }
    let mut impossible = report(Some(told(DeploymentStatus::Downloading)));
    impossible.deployment.as_mut().unwrap().id = u64::MAX;
    let effects = judged(&snapshot(None), impossible);
    assert_eq!(quiet(&effects).len(), 1);
}

#[test]
fn code_and_sentence_are_cut_and_escaped() {
    let mut deployment = told(DeploymentStatus::RolledBack);
    deployment.code = Some("\u{1b}[31m".to_owned() + &"c".repeat(1000));
    deployment.detail = Some("first\nsecond \u{202e}".to_owned() + &"d".repeat(10_000));
    let effects = judged(
        &snapshot(Some(known(DeploymentStatus::Probation))),
        report(Some(deployment)),
    );
    let write = write(&effects).unwrap();
    let (code, detail) = write.failure.as_ref().unwrap();
    assert!(code.len() <= MAX_CODE_BYTES + 3 && detail.len() <= MAX_DETAIL_BYTES + 3);
    assert!(code.starts_with("\\u{1b}[31m"), "{code}");
    let event = write.event.as_ref().unwrap();
    assert_eq!(event.event_type, EventType::UpdateRolledBack);
    for text in [code, detail, &event.description] {
        let bad = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!text.contains(bad), "{text}");
    }
    assert_eq!(write.previous_version.as_deref(), Some("1.4.0"));
}

#[test]
fn what_stands_in_the_way_of_a_download_is_kept_while_it_is_tried_again() {
    let mut deployment = told(DeploymentStatus::Downloading);
    deployment.code = Some("package_hash_mismatch".into());
    let before = snapshot(Some(known(DeploymentStatus::Downloading)));
    let effects = judged(&before, report(Some(deployment.clone())));
    let kept = write(&effects).unwrap();
    assert_eq!(kept.failure.as_ref().unwrap().0, "package_hash_mismatch");
    deployment.code = None;
    let effects = judged(&before, report(Some(deployment)));
    assert_eq!(write(&effects).unwrap().failure, None);
}

#[test]
fn a_host_without_news_for_a_week_is_told_of() {
    for (age_s, events) in [(None, 0), (Some(STALE_S), 0), (Some(STALE_S + 1), 1)] {
        let mut report = report(None);
        report.metadata_age_s = age_s;
        let effects = judged(&snapshot(None), report);
        assert_eq!(quiet(&effects).len(), events);
    }
}
