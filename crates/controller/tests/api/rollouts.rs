//! Rollouts from the operator's command to the host and back.

mod hostile;
mod hosts;
mod many;
mod operator;

use std::sync::Arc;
use std::time::Duration;

use vpn_node_controller::api;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::message::{DirectiveOutcome, PollReply};
use vpn_node_protocol::update::DeploymentStatus;

use crate::operator::{json, shown};
use crate::poll::{ask, poll};
use hosts::{Fleet, report, row, schedule, update};

#[tokio::test]
async fn a_release_goes_to_a_canary_first_and_then_to_the_others() {
    let mut fleet = Fleet::new(3).await;
    let id = fleet
        .create("rollout create 1.5.0 --canary 1 --yes --json")
        .await;
    let (canary, directive) = fleet.told_one().await;
    let (deployment, version) = update(&directive);
    assert_eq!(version, "1.5.0");
    let Action::Update {
        target, repository, ..
    } = &directive.action
    else {
        unreachable!();
    };
    assert_eq!(target, "vpn-node/1.5.0/linux-amd64.tar.zst");
    assert_eq!((repository, directive.deadline_s), (&None, 24 * 3600));
    // Nobody else is told while it works, also not when it is done and not heard for long enough.
    for (status, bytes) in [
        (DeploymentStatus::Downloading, 10),
        (DeploymentStatus::Downloading, 900),
        (DeploymentStatus::Verified, 1000),
        (DeploymentStatus::Staged, 1000),
        (DeploymentStatus::Probation, 1000),
    ] {
        fleet
            .says(canary, report(deployment, status, bytes), &[])
            .await;
        assert_eq!(fleet.told().await.len(), 0);
        let of = row(&fleet.world, deployment).await;
        assert_eq!(
            (of["status"].as_str(), of["bytes"].as_u64()),
            (Some(status.as_str()), Some(bytes))
        );
    }
    // An older word comes late: nothing moves back.
    fleet
        .says(
            canary,
            report(deployment, DeploymentStatus::Downloading, 5),
            &[],
        )
        .await;
    let of = row(&fleet.world, deployment).await;
    assert_eq!(
        (of["status"].as_str(), of["bytes"].as_u64()),
        (Some("probation"), Some(1000))
    );
    let mut installed = report(deployment, DeploymentStatus::Installed, 1000);
    installed.previous_version = Some("1.4.0".into());
    fleet.says(canary, installed, &[]).await;
    let of = row(&fleet.world, deployment).await;
    assert_eq!(of["previous_version"], "1.4.0");
    let at = of["installation_time"].clone();
    assert!(at.is_string());
    assert_eq!(
        fleet.told().await.len(),
        0,
        "the canary was not heard for long enough"
    );
    fleet.pass(120_000).await;
    let others = fleet.told().await;
    assert_eq!(others.len(), 2);
    assert!(others.iter().all(|(n, _)| *n != canary));
    // The end stays as it is, whatever comes after it.
    fleet
        .says(
            canary,
            report(deployment, DeploymentStatus::RolledBack, 0),
            &[],
        )
        .await;
    let of = row(&fleet.world, deployment).await;
    assert_eq!(
        (&of["status"], &of["installation_time"]),
        (&"installed".into(), &at)
    );
    for (n, directive) in others {
        let (deployment, _) = update(&directive);
        let done = report(deployment, DeploymentStatus::Installed, 1000);
        fleet.says(n, done, &[directive]).await;
    }
    fleet.told().await;
    let status = json(&fleet.world, &["rollout", "status", &id, "--json"]).await;
    let rollout = &status["rollouts"][0];
    assert_eq!(
        (&rollout["state"], &rollout["installed"]),
        (&"completed".into(), &3.into())
    );
    assert_eq!(rollout["in_flight"].as_array().unwrap().len(), 0);
    assert_eq!(rollout["counts"][0]["deployments"], 3);
    // Nothing is left for the scheduler to look at.
    assert_eq!(
        fleet.world.store.rollouts_to_roll().await.unwrap(),
        [] as [&str; 0]
    );
    let text = shown(
        &fleet.world,
        &["server", "show", &fleet.hosts[canary].server_id],
    )
    .await;
    for part in ["linux-amd64", "1.5.0: installed", "possible"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_rollout_reaches_a_held_poll_and_survives_a_restart() {
    let fleet = Fleet::new(1).await;
    let (world, mut hosts) = (Arc::new(fleet.world), fleet.hosts);
    tokio::spawn(api::watch_directives(Arc::clone(&world.app)));
    let held = {
        let (world, envelope) = (world.clone(), poll(&hosts[0], 50));
        tokio::spawn(async move { ask(&world, &envelope).await })
    };
    json(&world, &["rollout", "create", "1.5.0", "--yes", "--json"]).await;
    assert_eq!(schedule(&world).await, 1);
    let answer = tokio::time::timeout(Duration::from_secs(20), held).await;
    let reply: PollReply = world.open_own(&answer.unwrap().unwrap());
    let directives = hosts[0].directives(&world, &reply.directives);
    let (deployment, _) = update(&directives[0]);
    // Until it is acknowledged, heartbeats carry the same one.
    let again = hosts::beat(&world, &mut hosts[0], None, &[], DirectiveOutcome::Applied).await;
    assert_eq!(again, directives);
    // Another process takes over: the same deployment, and no second directive.
    let pause = ["rollout", "pause", "1.5.0", "--reason", "lunch", "--json"];
    let paused = json(&world, &pause).await;
    assert_eq!(paused["rollouts"][0]["state_reason"], "lunch");
    assert_eq!(schedule(&world).await, 0);
    json(&world, &["rollout", "resume", "1.5.0", "--json"]).await;
    assert_eq!(schedule(&world).await, 0);
    let words = Some(report(deployment, DeploymentStatus::Downloading, 1));
    let after = hosts::beat(
        &world,
        &mut hosts[0],
        words,
        &directives,
        DirectiveOutcome::Applied,
    )
    .await;
    assert!(after.is_empty());
    assert_eq!(world.count("directives WHERE kind = 'update'").await, 1);
}

#[tokio::test]
async fn a_controller_that_restarts_goes_on_where_the_tables_are() {
    let mut fleet = Fleet::new(2).await;
    fleet
        .create("rollout create 1.5.0 --canary 1 --yes --json")
        .await;
    let (canary, directive) = fleet.told_one().await;
    let (deployment, _) = update(&directive);
    fleet.world = fleet.world.restart().await;
    assert_eq!(fleet.told().await.len(), 0);
    let done = report(deployment, DeploymentStatus::Installed, 1000);
    fleet.says(canary, done, &[directive]).await;
    fleet.world = fleet.world.restart().await;
    fleet.pass(120_000).await;
    let (other, _) = fleet.told_one().await;
    assert_ne!(other, canary);
}

#[tokio::test]
async fn a_host_that_forgot_is_told_again_of_the_same_deployment() {
    let mut fleet = Fleet::new(1).await;
    fleet.create("rollout create 1.5.0 --yes --json").await;
    let (n, first) = fleet.told_one().await;
    fleet
        .beat(
            n,
            None,
            std::slice::from_ref(&first),
            DirectiveOutcome::Applied,
        )
        .await;
    for _ in 0..11 {
        fleet.world.pass(60_000);
        fleet.beat(n, None, &[], DirectiveOutcome::Applied).await;
    }
    let (_, second) = fleet.told_one().await;
    assert_ne!(first.id, second.id);
    assert_eq!(update(&first), update(&second));
    let of = row(&fleet.world, update(&second).0).await;
    assert_eq!(
        (&of["status"], &of["attempts"]),
        (&"pending".into(), &2.into())
    );
}

/// What a host was told, for others of this suite.
pub(crate) fn is_update(directive: &Directive) -> bool {
    matches!(
        directive.action,
        Action::Update { .. } | Action::CancelUpdate { .. }
    )
}

#[tokio::test]
async fn a_silent_host_waits_and_gets_its_turn_when_it_is_heard() {
    let mut fleet = Fleet::new(2).await;
    fleet.world.pass(200_000);
    fleet.beat(0, None, &[], DirectiveOutcome::Applied).await;
    fleet
        .create("rollout create 1.5.0 --canary 0 --yes --json")
        .await;
    assert_eq!(schedule(&fleet.world).await, 1);
    // The host that was told falls silent before the directive is handed out: its turn comes again.
    fleet.world.pass(200_000);
    assert_eq!(schedule(&fleet.world).await, 0);
    let open = "directives WHERE kind = 'update' AND status = 'pending'";
    assert_eq!(fleet.world.count(open).await, 0);
    fleet.beat(1, None, &[], DirectiveOutcome::Applied).await;
    let (n, _) = fleet.told_one().await;
    assert_eq!(n, 1);
    fleet.beat(0, None, &[], DirectiveOutcome::Applied).await;
    let (n, directive) = fleet.told_one().await;
    assert_eq!(n, 0);
    let of = row(&fleet.world, update(&directive).0).await;
    assert_eq!(of["attempts"], 1);
}
