//! Releases when something is in the way: bad lines, wrong clocks, a silent updater, withheld news.

use vpn_node_protocol::message::DirectiveOutcome;
use vpn_node_protocol::update::DeploymentStatus;
use vpn_node_release::code::DownloadCode;
use vpn_node_release::handover::Phase;

use super::updates::{A, B, acks, action, deployment, issue, managed, told};
use super::world::{World, s};
use crate::core::update::Failure;

fn failure(code: DownloadCode) -> Failure {
    Failure {
        code: code.as_str(),
        detail: "the mirror is away".to_owned(),
        retry: Some(s(0)),
    }
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
fn the_same_assignment_made_anew_lasts_longer_and_is_fetched_no_second_time() {
    let mut world = managed(65);
    world.releases.download = Err(failure(DownloadCode::TooSlow));
    issue(&mut world, A, action(5, "1.5.0"));
    world.run_for(s(3000));
    issue(&mut world, B, action(5, "1.5.0"));
    world.run_for(s(2000));
    assert_eq!(acks(&world, B), [(DirectiveOutcome::Applied, None)]);
    assert_eq!(deployment(&world).status, DeploymentStatus::Downloading);
    assert_eq!(world.releases.stops, 0);
    world.run_for(s(2000));
    assert_eq!(deployment(&world).status, DeploymentStatus::Failed);
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
