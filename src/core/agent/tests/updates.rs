//! Releases: an assignment is taken up once, fetched as long as it lasts, handed over, and its
//! outcome told, whatever restarts meanwhile.

use uuid::Uuid;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::message::DirectiveOutcome;
use vpn_node_protocol::update::{DeploymentReport, DeploymentStatus, UpdateReport};
use vpn_node_release::handover::{Blocked, Phase};

use super::releases::updater;
use super::world::{World, s};
use crate::core::update::Step;

pub(super) const A: Uuid = Uuid::from_u128(600);
pub(super) const B: Uuid = Uuid::from_u128(601);

pub(super) fn managed(seed: u64) -> World {
    let mut world = World::new(seed);
    world.releases.updater = Some(updater());
    world.start();
    world.run_for(s(60));
    world
}

pub(super) fn action(deployment_id: u64, version: &str) -> Action {
    Action::Update {
        deployment_id,
        version: version.to_owned(),
        target: format!("vpn-node/{version}/linux-amd64.tar.zst"),
        repository: None,
    }
}

pub(super) fn directive(world: &World, id: Uuid, action: Action) -> Directive {
    let mut directive = world
        .controller
        .directive(id, action, world.controller_ms());
    directive.deadline_s = 3600;
    directive
}

pub(super) fn issue(world: &mut World, id: Uuid, action: Action) {
    let directive = directive(world, id, action);
    world.controller.issue(&directive);
}

pub(super) fn told(world: &World) -> UpdateReport {
    let heartbeat = world
        .controller
        .db
        .last_heartbeat
        .as_ref()
        .expect("a heartbeat");
    heartbeat.update.clone().expect("every heartbeat tells")
}

pub(super) fn deployment(world: &World) -> DeploymentReport {
    told(world).deployment.expect("a deployment")
}

pub(super) fn acks(world: &World, id: Uuid) -> Vec<(DirectiveOutcome, Option<String>)> {
    let acks = world.controller.db.acks.iter().filter(|ack| ack.id == id);
    acks.map(|ack| (ack.outcome, ack.detail.clone())).collect()
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
    assert!(world.releases.cleaned >= 1, "nothing of it is left");
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
