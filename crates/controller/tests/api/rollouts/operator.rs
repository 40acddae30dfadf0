//! What operators do to a rollout, and what they see.

use vpn_node_protocol::directive::Action;
use vpn_node_protocol::message::DirectiveOutcome;
use vpn_node_protocol::update::DeploymentStatus;

use super::hosts::{Fleet, bad, publish, report, row, say, schedule, software, update};
use crate::operator::{fails, json, run, shown};

#[tokio::test]
async fn the_plan_says_who_gets_it_and_who_does_not_and_why() {
    let mut fleet = Fleet::new(4).await;
    let ids: Vec<String> = fleet
        .hosts
        .iter()
        .map(|host| host.server_id.clone())
        .collect();
    let mut pinned = software(None);
    pinned.pinned = Some("0.1.0".into());
    say(&fleet.world, &mut fleet.hosts[0], pinned, vec![]).await;
    let mut other = software(None);
    other.platform = "linux-arm64".into();
    say(&fleet.world, &mut fleet.hosts[1], other, vec![]).await;
    fleet
        .world
        .store
        .revoke_server(&ids[2], "sold", fleet.world.now())
        .await
        .unwrap();
    let world = &fleet.world;
    let plan = json(
        world,
        &["rollout", "create", "1.5.0", "--dry-run", "--json"],
    )
    .await;
    assert_eq!(plan["platforms"][0], "linux-amd64");
    assert_eq!(plan["chosen"].as_array().unwrap().len(), 1);
    assert_eq!(plan["chosen"][0]["server_id"], ids[3].as_str());
    let left_out = plan["left_out"].as_array().unwrap();
    for (id, code) in [
        (&ids[0], "pinned"),
        (&ids[1], "no_build"),
        (&ids[2], "server_revoked"),
    ] {
        let found = left_out.iter().find(|one| one["server_id"] == id.as_str());
        assert_eq!(found.unwrap()["code"], code);
    }
    assert_eq!(world.count("rollouts").await, 0);
    let text = shown(world, &["rollout", "create", "1.5.0", "--dry-run"]).await;
    assert!(
        text.contains("no_build") && text.contains("1 host"),
        "{text}"
    );
    // Nobody is there to be asked.
    let error = fails(world, &["rollout", "create", "1.5.0"]).await;
    assert!(error.contains("--yes"), "{error}");
    let error = fails(world, &["rollout", "create", "1.6.0", "--yes"]).await;
    assert!(error.contains("release list"), "{error}");
    let error = fails(
        world,
        &["rollout", "create", "1.5.0", "--channel", "beta", "--yes"],
    )
    .await;
    assert!(error.contains("channel stable only"), "{error}");
    let error = fails(
        world,
        &["rollout", "create", "1.5.0", "--server", &ids[0], "--yes"],
    )
    .await;
    assert!(error.contains("no host gets"), "{error}");
    let window = ["rollout", "create", "1.5.0", "--window", "Mon 2-3 CET"];
    assert_eq!(run(world, &window).await.status.code(), Some(2));
    // The status tells the same.
    fleet.create("rollout create 1.5.0 --yes --json").await;
    let status = json(&fleet.world, &["rollout", "status", "--json"]).await;
    assert_eq!(
        status["rollouts"][0]["left_out"].as_array().unwrap().len(),
        3
    );
    let text = shown(&fleet.world, &["rollout", "status"]).await;
    assert!(
        text.contains("pending") && text.contains("First, alone: 0 of 1 have it"),
        "{text}"
    );
    assert!(
        text.contains("pending") && text.contains("Left out: 3 hosts"),
        "{text}"
    );
}

#[tokio::test]
async fn a_group_is_rolled_out_to_alone() {
    let fleet = Fleet::new(3).await;
    let ids: Vec<&str> = fleet
        .hosts
        .iter()
        .map(|host| host.server_id.as_str())
        .collect();
    let world = &fleet.world;
    let error = fails(
        world,
        &["rollout", "create", "1.5.0", "--group", "eu", "--yes"],
    )
    .await;
    assert!(error.contains("server group list"), "{error}");
    shown(world, &["server", "group", "add", "eu", ids[0], ids[1]]).await;
    let text = shown(world, &["server", "group", "add", "eu", ids[0]]).await;
    assert!(text.contains("0 hosts added"), "{text}");
    let listed = json(world, &["server", "group", "list", "--json"]).await;
    assert_eq!(listed["server_groups"].as_array().unwrap().len(), 2);
    shown(world, &["server", "group", "remove", "eu", ids[1]]).await;
    let words = [
        "rollout", "create", "1.5.0", "--group", "eu", "--server", ids[2], "--yes", "--json",
    ];
    let made = json(world, &words).await;
    let chosen = made["chosen"].as_array().unwrap();
    assert_eq!(chosen.len(), 2);
    assert!(chosen.iter().all(|one| one["server_id"] != ids[1]));
    assert_eq!(made["left_out"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_bad_end_is_told_with_code_and_sentence_and_stops_the_rollout() {
    let mut fleet = Fleet::new(3).await;
    let id = fleet
        .create("rollout create 1.5.0 --canary 1 --yes --json")
        .await;
    let (canary, directive) = fleet.told_one().await;
    let (deployment, _) = update(&directive);
    fleet
        .says(
            canary,
            report(deployment, DeploymentStatus::Probation, 1000),
            &[],
        )
        .await;
    let end = bad(
        deployment,
        DeploymentStatus::RolledBack,
        "sessions_lost",
        "9 of 10 were \u{1b}gone",
    );
    fleet.says(canary, end, &[]).await;
    assert_eq!(fleet.told().await.len(), 0);
    let of = row(&fleet.world, deployment).await;
    assert_eq!(
        of["failure_reason"],
        "sessions_lost: 9 of 10 were \\u{1b}gone"
    );
    let world = &fleet.world;
    assert_eq!(world.events("update_rolled_back").await.len(), 1);
    let events = world.events("rollout_halted").await;
    assert!(events[0].description.contains("canary"), "{events:?}");
    assert_eq!(
        (events[0].severity.as_str(), events[0].source_id.as_deref()),
        ("high", Some(&*id))
    );
    let text = shown(world, &["rollout", "status"]).await;
    assert!(
        text.contains("halted") && text.contains("sessions_lost"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
    let watch = run(world, &["rollout", "status", "--watch"]).await;
    assert_eq!(watch.status.code(), Some(1));
    // An operator has it go on: the next host is the canary, and one that refuses stops it again.
    json(world, &["rollout", "resume", &id, "--json"]).await;
    let (second, directive) = fleet.told_one().await;
    assert_ne!(second, canary);
    let (deployment, _) = update(&directive);
    let end = bad(
        deployment,
        DeploymentStatus::Refused,
        "min_version",
        "too old",
    );
    fleet.says(second, end, &[]).await;
    assert_eq!(fleet.told().await.len(), 0);
    assert_eq!(fleet.world.events("update_failed").await.len(), 1);
    assert_eq!(fleet.world.events("rollout_halted").await.len(), 2);
    let error = fails(&fleet.world, &["rollout", "pause", &id]).await;
    assert!(error.contains("halted"), "{error}");
}

#[tokio::test]
async fn a_directive_that_is_not_taken_up_ends_its_deployment() {
    let mut fleet = Fleet::new(3).await;
    fleet
        .create("rollout create 1.5.0 --canary 0 --stop-on-failures 100 --yes --json")
        .await;
    assert_eq!(schedule(&fleet.world).await, 3);
    for (n, (outcome, detail, status, reason)) in [
        (
            DirectiveOutcome::Failed,
            Some("pinned: root of this host keeps 1.4.0"),
            "refused",
            "pinned: root of this host keeps 1.4.0",
        ),
        (DirectiveOutcome::Failed, None, "refused", "not_taken_up: "),
        (
            DirectiveOutcome::Unsupported,
            None,
            "failed",
            "agent_too_old: the agent on the host does not know updates",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let directives = fleet.beat(n, None, &[], DirectiveOutcome::Applied).await;
        let (deployment, _) = update(&directives[0]);
        let acks = vec![(&directives[0], outcome, detail)];
        say(&fleet.world, &mut fleet.hosts[n], software(None), acks).await;
        let of = row(&fleet.world, deployment).await;
        assert_eq!(
            (of["status"].as_str(), of["failure_reason"].as_str()),
            (Some(status), Some(reason))
        );
    }
    assert_eq!(fleet.world.events("update_failed").await.len(), 3);
    schedule(&fleet.world).await;
    let status = json(&fleet.world, &["rollout", "list", "--json"]).await;
    assert_eq!(status["rollouts"][0]["state"], "completed");
    assert_eq!(status["rollouts"][0]["ended_badly"], 3);
}

#[tokio::test]
async fn an_abort_takes_back_what_no_updater_has() {
    let mut fleet = Fleet::new(4).await;
    let id = fleet
        .create("rollout create 1.5.0 --canary 0 --max-in-flight 3 --yes --json")
        .await;
    let told = fleet.told().await;
    assert_eq!(told.len(), 3);
    let [(loads, first), (tries, second), (forgot, third)] = &told[..] else {
        unreachable!();
    };
    fleet
        .says(
            *loads,
            report(update(first).0, DeploymentStatus::Downloading, 9),
            &[],
        )
        .await;
    fleet
        .says(
            *tries,
            report(update(second).0, DeploymentStatus::Probation, 9),
            &[],
        )
        .await;
    let aborted = json(
        &fleet.world,
        &["rollout", "abort", &id, "--reason", "a bug", "--json"],
    )
    .await;
    assert_eq!(aborted["rollouts"][0]["state"], "aborted");
    let waits = "server_update_deployments WHERE failure_reason = 'aborted: a bug'";
    assert_eq!(fleet.world.count(waits).await, 1);
    schedule(&fleet.world).await;
    schedule(&fleet.world).await;
    assert_eq!(
        fleet
            .world
            .count("directives WHERE kind = 'cancel_update'")
            .await,
        2
    );
    // Who loads it leaves it, and says so.
    let cancel = fleet
        .beat(*loads, None, &[], DirectiveOutcome::Applied)
        .await;
    let deployment_id = update(first).0;
    assert_eq!(cancel[0].action, Action::CancelUpdate { deployment_id });
    fleet
        .beat(*loads, None, &cancel, DirectiveOutcome::Applied)
        .await;
    let of = row(&fleet.world, deployment_id).await;
    assert_eq!(
        (&of["status"], &of["code"]),
        (&"superseded".into(), &"cancelled".into())
    );
    // Who never took it up does not know it.
    let cancel = fleet
        .beat(*forgot, None, &[], DirectiveOutcome::Applied)
        .await;
    let unknown = Some("unknown_deployment: this host does not work on it");
    let acks = vec![(&cancel[0], DirectiveOutcome::Failed, unknown)];
    say(
        &fleet.world,
        &mut fleet.hosts[*forgot],
        software(None),
        acks,
    )
    .await;
    assert_eq!(
        row(&fleet.world, update(third).0).await["status"],
        "superseded"
    );
    // Who tries it is judged there.
    assert!(
        fleet
            .beat(*tries, None, &[], DirectiveOutcome::Applied)
            .await
            .is_empty()
    );
    fleet
        .says(
            *tries,
            report(update(second).0, DeploymentStatus::Installed, 9),
            &[],
        )
        .await;
    assert_eq!(
        row(&fleet.world, update(second).0).await["status"],
        "installed"
    );
    assert_eq!(schedule(&fleet.world).await, 0);
    let error = fails(&fleet.world, &["rollout", "resume", &id]).await;
    assert!(error.contains("aborted"), "{error}");
    let text = shown(&fleet.world, &["rollout", "status", &id[..30]]).await;
    assert!(text.contains("a bug"), "{text}");
}

#[tokio::test]
async fn a_newer_rollout_takes_the_place_of_an_older_one() {
    let mut fleet = Fleet::new(3).await;
    publish(&fleet.world, &[("1.5.0", 7), ("1.6.0", 8)]).await;
    fleet
        .create("rollout create 1.5.0 --canary 0 --max-in-flight 2 --yes --json")
        .await;
    let told = fleet.told().await;
    let [(loads, first), (tries, second)] = &told[..] else {
        panic!("{told:?}");
    };
    fleet
        .says(
            *loads,
            report(update(first).0, DeploymentStatus::Downloading, 9),
            &[],
        )
        .await;
    fleet
        .says(
            *tries,
            report(update(second).0, DeploymentStatus::Staged, 9),
            &[],
        )
        .await;
    fleet
        .create("rollout create 1.6.0 --canary 0 --yes --json")
        .await;
    let of = row(&fleet.world, update(first).0).await;
    assert_eq!(
        (&of["status"], &of["code"]),
        (&"superseded".into(), &"newer_rollout".into())
    );
    assert_eq!(
        row(&fleet.world, update(second).0).await["status"],
        "staged"
    );
    // The older rollout tells nobody any more; the newer one waits for the host that tries the older.
    assert_eq!(schedule(&fleet.world).await, 2);
    let directives = fleet
        .beat(*loads, None, &[], DirectiveOutcome::Applied)
        .await;
    let versions: Vec<&Action> = directives.iter().map(|one| &one.action).collect();
    assert!(
        matches!(
            versions[..],
            [Action::CancelUpdate { .. }, Action::Update { .. }]
        ),
        "{versions:?}"
    );
    assert_eq!(update(&directives[1]).1, "1.6.0");
    assert!(
        fleet
            .beat(*tries, None, &[], DirectiveOutcome::Applied)
            .await
            .is_empty()
    );
    fleet
        .says(
            *tries,
            report(update(second).0, DeploymentStatus::Installed, 9),
            &[],
        )
        .await;
    // The third host takes what it was told of.
    fleet.pass(0).await;
    let (n, directive) = fleet.told_one().await;
    assert_eq!((n, update(&directive).1.as_str()), (*tries, "1.6.0"));
}

#[tokio::test]
async fn a_release_that_is_taken_back_is_not_rolled_out_any_more() {
    let mut fleet = Fleet::new(2).await;
    fleet
        .create("rollout create 1.5.0 --canary 1 --yes --json")
        .await;
    let (n, directive) = fleet.told_one().await;
    publish(&fleet.world, &[]).await;
    assert_eq!(fleet.told().await.len(), 0);
    let events = fleet.world.events("rollout_halted").await;
    assert!(
        events[0].description.contains("not published"),
        "{events:?}"
    );
    let end = bad(
        update(&directive).0,
        DeploymentStatus::Refused,
        "target_missing",
        "gone",
    );
    fleet.says(n, end, &[]).await;
    assert_eq!(
        row(&fleet.world, update(&directive).0).await["status"],
        "refused"
    );
}

#[tokio::test]
async fn a_shut_window_is_waited_for_and_a_mandatory_release_does_not_wait() {
    let mut fleet = Fleet::new(1).await;
    // Shut on the day of the test, whichever that is.
    let day = 24 * 3600 * 1000;
    let tomorrow = (fleet.world.now() / day + 4 + 2) % 7;
    let name =
        ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"][usize::try_from(tomorrow).unwrap()];
    let window = format!("{name} 00:00-24:00 UTC");
    let words = [
        "rollout", "create", "1.5.0", "--window", &window, "--yes", "--json",
    ];
    json(&fleet.world, &words).await;
    assert_eq!(fleet.told().await.len(), 0);
    let waits = "server_update_deployments WHERE status = 'waiting_window'";
    assert_eq!(fleet.world.count(waits).await, 1);
    let text = shown(&fleet.world, &["rollout", "status"]).await;
    assert!(text.contains("opens at"), "{text}");
    // Days pass.
    fleet.world.pass(2 * day);
    fleet.beat(0, None, &[], DirectiveOutcome::Applied).await;
    assert_eq!(schedule(&fleet.world).await, 1);
    fleet.world.pass(-2 * day);
    fleet.beat(0, None, &[], DirectiveOutcome::Applied).await;
    let words = [&words[..], &["--mandatory"]].concat();
    json(&fleet.world, &words).await;
    assert_eq!(schedule(&fleet.world).await, 1);
}
