//! Releases: an assignment is taken up once, fetched as long as it lasts, handed over, and its
//! outcome told, whatever restarts meanwhile.

use uuid::Uuid;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::message::DirectiveOutcome;
use vpn_node_protocol::update::{DeploymentReport, DeploymentStatus, UpdateReport};
use vpn_node_release::code::DownloadCode;
use vpn_node_release::handover::{Blocked, Phase};

use super::releases::updater;
use super::world::{World, s};
use crate::core::update::{Failure, Step};

const A: Uuid = Uuid::from_u128(600);
const B: Uuid = Uuid::from_u128(601);

fn managed(seed: u64) -> World {
    let mut world = World::new(seed);
    world.releases.updater = Some(updater());
    world.start();
    world.run_for(s(60));
    world
}

fn action(deployment_id: u64, version: &str) -> Action {
    Action::Update {
        deployment_id,
        version: version.to_owned(),
        target: format!("vpn-node/{version}/linux-amd64.tar.zst"),
        repository: None,
    }
}

fn directive(world: &World, id: Uuid, action: Action) -> Directive {
    let mut directive = world
        .controller
        .directive(id, action, world.controller_ms());
    directive.deadline_s = 3600;
    directive
}

fn issue(world: &mut World, id: Uuid, action: Action) {
    let directive = directive(world, id, action);
    world.controller.issue(&directive);
}

fn told(world: &World) -> UpdateReport {
    let heartbeat = world
        .controller
        .db
        .last_heartbeat
        .as_ref()
        .expect("a heartbeat");
    heartbeat.update.clone().expect("every heartbeat tells")
}

fn deployment(world: &World) -> DeploymentReport {
    told(world).deployment.expect("a deployment")
}

fn acks(world: &World, id: Uuid) -> Vec<(DirectiveOutcome, Option<String>)> {
    let acks = world.controller.db.acks.iter().filter(|ack| ack.id == id);
    acks.map(|ack| (ack.outcome, ack.detail.clone())).collect()
}

fn failure(code: DownloadCode) -> Failure {
    Failure {
        code: code.as_str(),
        detail: "the mirror is away".to_owned(),
        retry: Some(s(0)),
    }
}

#[test]
fn an_assignment_is_acknowledged_fetched_handed_over_and_its_outcome_told() {
    let mut world = managed(1);
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(3));
    assert_eq!(acks(&world, A), [(DirectiveOutcome::Applied, None)]);
    assert_eq!(
        world.releases.kept.job.as_ref().unwrap().step,
        Step::Downloading
    );
    let report = deployment(&world);
    assert_eq!(
        (report.id, report.status),
        (5, DeploymentStatus::Downloading)
    );
    assert_eq!(report.previous_version.as_deref(), Some("1.2.3"));

    world.run_for(s(20));
    assert_eq!(deployment(&world).status, DeploymentStatus::Verified);
    assert_eq!(world.releases.fetches.len(), 1);
    for (phase, status) in [
        (Phase::Staged, DeploymentStatus::Staged),
        (Phase::Probation, DeploymentStatus::Probation),
        (Phase::Installed, DeploymentStatus::Installed),
    ] {
        world.releases.attempt(phase, None);
        // A look every two seconds, and a heartbeat of its own.
        world.run_for(s(4));
        assert_eq!(deployment(&world).status, status);
    }
    world.run_for(s(7200));
    assert_eq!(
        deployment(&world).status,
        DeploymentStatus::Installed,
        "told for ever"
    );
    assert_eq!(world.releases.fetches.len(), 1);
    assert!(world.releases.cleaned >= 2, "before and after");
}

#[test]
fn an_agent_that_restarts_at_any_step_goes_on_or_tells_the_outcome() {
    for step in 0..5 {
        let mut world = managed(10 + step);
        issue(&mut world, A, action(5, "1.5.0"));
        world.run_for(s(5));
        if step == 0 {
            world.restart();
        }
        world.run_for(s(40));
        let phases = [Phase::Verified, Phase::Probation, Phase::RolledBack];
        for (index, phase) in phases.into_iter().enumerate() {
            world
                .releases
                .attempt(phase, (phase == Phase::RolledBack).then_some("crashed"));
            match step == index as u64 + 1 {
                true => world.reboot(),
                false => world.run_for(s(3)),
            }
        }
        if step == 4 {
            world.restart();
        }
        world.run_for(s(90));
        let report = deployment(&world);
        assert_eq!(report.status, DeploymentStatus::RolledBack, "step {step}");
        assert_eq!(report.code.as_deref(), Some("crashed"));
        assert_eq!(acks(&world, A).len(), 1);
        let requests = world.releases.fetches.iter().map(|(.., request)| request);
        let requests: std::collections::BTreeSet<_> = requests.collect();
        assert_eq!(
            requests.len(),
            1,
            "one request, however often it was fetched"
        );
    }
}

/// Bad update 15: an assignment for host A shown to host B.
#[test]
fn an_assignment_for_another_server_or_key_is_refused_and_nothing_is_fetched() {
    let mut world = managed(20);
    let mut other = directive(&world, A, action(5, "1.5.0"));
    other.server_id = "server-2".to_owned();
    world.controller.issue(&other);
    let mut old = directive(&world, B, action(5, "1.5.0"));
    old.epoch = 2;
    world.controller.issue(&old);
    world.run_for(s(90));
    assert!(world.releases.fetches.is_empty() && world.releases.kept.job.is_none());
    assert_eq!((acks(&world, A).len(), acks(&world, B).len()), (0, 0));
    let errors = world.report().last_errors;
    assert!(errors.iter().any(|e| e.text.contains("another server")));
}

#[test]
fn what_this_host_does_not_take_is_refused_with_its_code_and_nothing_is_fetched() {
    let good = || action(5, "1.5.0");
    let with = |change: fn(&mut vpn_node_release::handover::Status)| {
        let mut status = updater();
        change(&mut status);
        Some(status)
    };
    let target = |target: &str| Action::Update {
        deployment_id: 5,
        version: "1.5.0".to_owned(),
        target: target.to_owned(),
        repository: None,
    };
    let from = |address: &str| Action::Update {
        deployment_id: 5,
        version: "1.5.0".to_owned(),
        target: "vpn-node/1.5.0/linux-amd64.tar.zst".to_owned(),
        repository: Some(address.to_owned()),
    };
    let cases = [
        ("not_managed", good(), None),
        ("not_managed", good(), with(|s| s.root_version = None)),
        ("updates_disabled", good(), with(|s| s.disabled = true)),
        (
            "pinned",
            good(),
            with(|s| s.pinned = Some("1.2.3".to_owned())),
        ),
        ("already_installed", action(5, "1.2.3"), with(|_| {})),
        (
            "wrong_target",
            target("vpn-node/1.5.0/linux-arm64.tar.zst"),
            with(|_| {}),
        ),
        (
            "wrong_target",
            target("vpn-node/1.4.0/linux-amd64.tar.zst"),
            with(|_| {}),
        ),
        ("wrong_target", target("../../etc/passwd"), with(|_| {})),
        ("wrong_target", action(5, "../1.5.0"), with(|_| {})),
        (
            "bad_repository",
            from("http://mirror.example"),
            with(|_| {}),
        ),
        (
            "bad_repository",
            from("https://user:pw@mirror.example"),
            with(|_| {}),
        ),
        ("bad_repository", from("file:///etc"), with(|_| {})),
    ];
    for (index, (code, action, status)) in cases.into_iter().enumerate() {
        let mut world = managed(30 + index as u64);
        world.releases.updater = status;
        world.run_for(s(61));
        issue(&mut world, A, action);
        world.run_for(s(5));
        let [(DirectiveOutcome::Failed, Some(detail))] = &acks(&world, A)[..] else {
            panic!("{code}: {:?}", acks(&world, A));
        };
        assert!(detail.starts_with(&format!("{code}: ")), "{code}: {detail}");
        let report = deployment(&world);
        assert_eq!(report.status, DeploymentStatus::Refused);
        assert_eq!(report.code.as_deref(), Some(code));
        assert!(world.releases.fetches.is_empty());
    }
}

#[test]
fn a_blocked_version_is_refused_until_its_time_is_over() {
    let mut world = managed(50);
    let until_ms = world.now().wall_ms + 600_000;
    world
        .releases
        .updater
        .as_mut()
        .unwrap()
        .blocked
        .push(Blocked {
            version: "1.5.0".to_owned(),
            code: "crashed".to_owned(),
            count: 1,
            until_ms,
        });
    world.run_for(s(61));
    assert_eq!(told(&world).blocked, ["1.5.0"]);
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(5));
    let report = deployment(&world);
    assert_eq!(
        (report.status, report.code.as_deref()),
        (DeploymentStatus::Blocked, Some("blocked"))
    );
    world.run_for(s(600));
    issue(&mut world, B, action(5, "1.5.0"));
    world.run_for(s(5));
    assert_eq!(deployment(&world).status, DeploymentStatus::Downloading);
}

#[test]
fn switched_off_in_the_configuration_nothing_is_fetched_or_looked_at() {
    let mut world = managed(51);
    world.releases.enabled = false;
    world.restart();
    world.run_for(s(30));
    let checks = world.releases.checks.len();
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(7200));
    assert_eq!(deployment(&world).code.as_deref(), Some("updates_disabled"));
    assert!(told(&world).disabled);
    assert!(world.releases.fetches.is_empty() && world.releases.checks.len() == checks);
}

#[test]
fn a_newer_assignment_takes_the_place_of_a_download_and_an_older_one_does_not() {
    let mut world = managed(52);
    let older = directive(&world, A, action(4, "1.4.0"));
    world.run_for(s(5));
    issue(&mut world, B, action(5, "1.5.0"));
    world.run_for(s(3));
    world.controller.issue(&older);
    world.run_for(s(5));
    let [(DirectiveOutcome::Failed, Some(detail))] = &acks(&world, A)[..] else {
        panic!("{:?}", acks(&world, A));
    };
    assert!(detail.starts_with("superseded: "), "{detail}");
    assert_eq!(deployment(&world).id, 5);

    let newest = Uuid::from_u128(602);
    issue(&mut world, newest, action(6, "1.6.0"));
    world.run_for(s(3));
    assert_eq!(acks(&world, newest), [(DirectiveOutcome::Applied, None)]);
    assert_eq!(deployment(&world).id, 6);
    assert_eq!(world.releases.stops, 1, "the download of 1.5.0");
    world.run_for(s(30));
    assert_eq!(world.releases.fetches.len(), 2);
    assert_eq!(
        world.releases.kept.job.as_ref().unwrap().order.version,
        "1.6.0"
    );
}

#[test]
fn an_assignment_waits_while_the_updater_has_another_and_until_its_outcome_was_heard() {
    let mut world = managed(53);
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(30));
    world.releases.attempt(Phase::Probation, None);
    issue(&mut world, B, action(6, "1.6.0"));
    world.run_for(s(300));
    assert_eq!(acks(&world, B), []);
    world.controller.db.last_heartbeat = None;
    world.releases.attempt(Phase::RolledBack, Some("hangs"));
    let mut seen = Vec::new();
    for _ in 0..100 {
        world.run_for(s(1) / 10);
        let heartbeat = world.controller.db.last_heartbeat.as_ref();
        if let Some(update) = heartbeat.and_then(|heartbeat| heartbeat.update.as_ref()) {
            let report = update.deployment.as_ref().unwrap();
            seen.push((report.id, report.status));
        }
    }
    seen.dedup();
    assert!(
        seen.contains(&(5, DeploymentStatus::RolledBack)),
        "{seen:?}"
    );
    assert_eq!(seen.last(), Some(&(6, DeploymentStatus::Downloading)));
}

#[test]
fn an_assignment_is_taken_back_before_it_is_handed_over_and_not_after() {
    let cancel = |deployment_id| Action::CancelUpdate { deployment_id };
    let mut world = managed(54);
    issue(&mut world, A, cancel(5));
    world.run_for(s(3));
    assert!(
        acks(&world, A)[0]
            .1
            .as_ref()
            .unwrap()
            .starts_with("unknown_deployment: ")
    );

    issue(&mut world, B, action(5, "1.5.0"));
    world.run_for(s(3));
    let third = Uuid::from_u128(602);
    issue(&mut world, third, cancel(5));
    world.run_for(s(3));
    assert_eq!(acks(&world, third), [(DirectiveOutcome::Applied, None)]);
    let report = deployment(&world);
    assert_eq!(report.status, DeploymentStatus::Superseded);
    assert_eq!(report.code.as_deref(), Some("cancelled"));
    world.run_for(s(60));
    assert_eq!(
        deployment(&world).status,
        DeploymentStatus::Superseded,
        "the download was stopped"
    );

    let (fourth, fifth) = (Uuid::from_u128(603), Uuid::from_u128(604));
    issue(&mut world, fourth, action(6, "1.6.0"));
    world.run_for(s(30));
    issue(&mut world, fifth, cancel(6));
    world.run_for(s(3));
    assert!(
        acks(&world, fifth)[0]
            .1
            .as_ref()
            .unwrap()
            .starts_with("already_handed_over: ")
    );
    assert_eq!(deployment(&world).status, DeploymentStatus::Verified);
}

#[test]
fn a_failed_download_is_tried_again_while_the_assignment_lasts_and_heartbeats_go_on() {
    let mut world = managed(55);
    world.releases.download = Err(failure(DownloadCode::RepositoryUnreachable));
    issue(&mut world, A, action(5, "1.5.0"));
    let before = world.controller.db.heartbeats;
    world.run_for(s(3500));
    let report = deployment(&world);
    assert_eq!(report.status, DeploymentStatus::Downloading);
    assert_eq!(report.code.as_deref(), Some("repository_unreachable"));
    let tries = world.releases.fetches.len();
    assert!((5..40).contains(&tries), "{tries}");
    let heartbeats = world.controller.db.heartbeats - before;
    assert!((100..180).contains(&heartbeats), "{heartbeats} in an hour");
    world.run_for(s(200));
    let report = deployment(&world);
    assert_eq!(report.status, DeploymentStatus::Failed);
    assert_eq!(
        report.code.as_deref(),
        Some("repository_unreachable"),
        "the reason, not the clock"
    );
    let tries = world.releases.fetches.len();
    world.run_for(s(7200));
    assert_eq!(world.releases.fetches.len(), tries);
}

#[test]
fn a_restart_and_a_host_that_was_off_lengthen_nothing() {
    let mut world = managed(56);
    world.releases.download = Err(failure(DownloadCode::TooSlow));
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(600));
    for _ in 0..6 {
        world.reboot();
        world.run_for(s(480));
    }
    assert_eq!(deployment(&world).status, DeploymentStatus::Downloading);
    world.run_for(s(300));
    assert_eq!(deployment(&world).status, DeploymentStatus::Failed);

    let mut world = managed(57);
    world.releases.download = Err(failure(DownloadCode::TooSlow));
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(60));
    world.kill();
    let tries = world.releases.fetches.len();
    world.run_for(s(7200));
    world.reboot();
    world.run_for(s(30));
    let report = deployment(&world);
    assert_eq!(report.status, DeploymentStatus::Failed);
    assert_eq!(report.code.as_deref(), Some("deadline_passed"));
    assert_eq!(world.releases.fetches.len(), tries);
}

#[test]
fn a_wrong_clock_can_shorten_a_deadline_after_a_restart_and_never_lengthen_it() {
    for skew_ms in [-1_700_000_000_000, 2_300_000_000_000] {
        let mut world = managed(58);
        world.releases.download = Err(failure(DownloadCode::TooSlow));
        issue(&mut world, A, action(5, "1.5.0"));
        world.run_for(s(600));
        world.wall_skew_ms = skew_ms;
        world.restart();
        world.run_for(s(3700));
        assert_eq!(deployment(&world).status, DeploymentStatus::Failed);
    }
}

#[test]
fn what_cannot_get_better_is_refused_at_once() {
    let mut world = managed(59);
    world.releases.download = Err(Failure {
        code: "counter_lower",
        detail: "it is older".to_owned(),
        retry: None,
    });
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(120));
    let report = deployment(&world);
    assert_eq!(report.status, DeploymentStatus::Refused);
    assert_eq!(report.code.as_deref(), Some("counter_lower"));
    assert_eq!(world.releases.fetches.len(), 1);
}

#[test]
fn an_updater_that_says_nothing_is_told_and_the_request_withdrawn() {
    let mut world = managed(60);
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(500));
    assert_eq!(deployment(&world).status, DeploymentStatus::Verified);
    let cleaned = world.releases.cleaned;
    world.run_for(s(200));
    let report = deployment(&world);
    assert_eq!(report.status, DeploymentStatus::Failed);
    assert_eq!(report.code.as_deref(), Some("updater_silent"));
    assert_eq!(world.releases.cleaned, cleaned + 1);
    // It was slow, not dead: the truth is told.
    world.releases.attempt(Phase::Installed, None);
    world.run_for(s(100));
    assert_eq!(deployment(&world).status, DeploymentStatus::Installed);
}

/// Bad updates 7 and 13: withheld news, and dropped requests.
#[test]
fn metadata_is_looked_at_every_hour_and_its_age_tells_who_withholds_it() {
    let mut world = managed(61);
    world.run_for(s(24 * 3600));
    let checks = world.releases.checks.len();
    assert!((20..28).contains(&checks), "{checks} in a day");
    assert!(told(&world).metadata_age_s.unwrap() < 4000);
    world.releases.check = Err(Failure {
        code: "expired",
        detail: "timestamp is past its expiry".to_owned(),
        retry: Some(s(300)),
    });
    world.run_for(s(3 * 24 * 3600));
    assert!(told(&world).metadata_age_s.unwrap() > 2 * 24 * 3600);
    let report = world.report();
    let warnings = report.update_warnings();
    assert!(warnings[0].contains("(expired)"), "{warnings:?}");
    assert!(
        !report
            .health()
            .reasons
            .iter()
            .any(|r| r.contains("metadata"))
    );
    // A restart does not make old news new.
    world.restart();
    world.run_for(s(60));
    assert!(told(&world).metadata_age_s.unwrap() > 2 * 24 * 3600);
    world.releases.check = Ok(());
    world.run_for(s(7200));
    assert!(world.report().update_warnings().is_empty());
}

#[test]
fn a_host_without_an_updater_says_so_and_asks_nobody() {
    let mut world = World::verified(62);
    world.run_for(s(7200));
    let report = told(&world);
    assert!(!report.managed && report.metadata_age_s.is_none());
    assert!(world.releases.checks.is_empty());
    assert_eq!(world.releases.kept_writes, 0);
}

#[test]
fn root_may_want_a_version_which_no_assignment_displaces() {
    let mut world = managed(63);
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(3));
    let (now, mut dice) = (world.now(), world.dice.clone());
    world.agent().want_release("1.4.9", now, &mut dice).unwrap();
    world.run_for(s(3));
    let report = deployment(&world);
    assert_eq!(
        (report.id, report.status),
        (5, DeploymentStatus::Superseded)
    );
    issue(&mut world, B, action(6, "1.6.0"));
    world.run_for(s(30));
    assert_eq!(world.releases.fetches.last().unwrap().1.version, "1.4.9");
    assert_eq!(acks(&world, B), []);
    let (now, mut dice) = (world.now(), world.dice.clone());
    let refused = world
        .agent()
        .want_release("1.4.8", now, &mut dice)
        .unwrap_err();
    assert_eq!(refused.code, "already_handed_over");
    world.releases.attempt(Phase::Installed, None);
    world.run_for(s(10));
    assert_eq!(acks(&world, B), [(DirectiveOutcome::Applied, None)]);
    assert_eq!(deployment(&world).id, 6);
}

#[test]
fn the_trial_of_this_version_reads_how_it_gets_on_with_the_controller() {
    let mut world = managed(64);
    let beats = world.report().heartbeats;
    assert!(beats.attempted >= beats.accepted && beats.accepted > 0);
    assert_eq!(beats.last_problem, "none");
    world.net.up = false;
    world.run_for(s(300));
    assert_eq!(world.report().heartbeats.last_problem, "unreachable");
    assert_eq!(world.report().heartbeats.accepted, beats.accepted);
    assert!(world.report().ledger.writable);
}
