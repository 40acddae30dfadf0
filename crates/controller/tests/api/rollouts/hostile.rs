//! A host that says of updates what is not so.

use vpn_node_protocol::message::DirectiveOutcome;
use vpn_node_protocol::update::DeploymentStatus;

use super::hosts::{Fleet, report, row, say, software, update};

#[tokio::test]
async fn a_host_moves_no_deployment_but_its_own_and_leaves_one_event() {
    let mut fleet = Fleet::new(3).await;
    fleet
        .create("rollout create 1.5.0 --canary 1 --yes --json")
        .await;
    let (canary, directive) = fleet.told_one().await;
    let (deployment, _) = update(&directive);
    let others: Vec<usize> = (0..3).filter(|n| *n != canary).collect();
    let rows = "SELECT group_concat(status || attempts || bytes || COALESCE(code, ''))
                FROM server_update_deployments";
    let before = fleet.world.query(rows).await;
    let ids = fleet
        .world
        .query("SELECT CAST(deployment_id AS TEXT) FROM server_update_deployments ORDER BY 1")
        .await;
    let mut claims: Vec<u64> = ids.iter().map(|id| id.parse().unwrap()).collect();
    claims.extend([0, 4711, i64::MAX as u64, u64::MAX]);
    for id in claims {
        for status in [DeploymentStatus::Installed, DeploymentStatus::RolledBack] {
            fleet.says(others[0], report(id, status, 77), &[]).await;
        }
    }
    // Also its own one, which it was never told of.
    assert_eq!(fleet.world.query(rows).await, before);
    let events = fleet.world.events("update_report_ignored").await;
    assert_eq!(events.len(), 1, "{events:?}");
    let id = &fleet.hosts[others[0]].server_id;
    assert_eq!(events[0].source_id.as_deref(), Some(id.as_str()));
    // Another version of its own deployment.
    let mut other = report(deployment, DeploymentStatus::Installed, 1);
    other.version = "9.9.9".into();
    fleet.says(canary, other, &[]).await;
    assert_eq!(row(&fleet.world, deployment).await["status"], "pending");
    assert_eq!(fleet.world.events("update_report_ignored").await.len(), 2);
    assert_eq!(fleet.told().await.len(), 0);
}

#[tokio::test]
async fn absurd_sizes_leave_the_heartbeat_good_and_the_tables_small() {
    let mut fleet = Fleet::new(1).await;
    let mut absurd = software(None);
    absurd.blocked = vec!["1.0.0".into(); 5000];
    absurd.platform = "x".repeat(10_000);
    say(&fleet.world, &mut fleet.hosts[0], absurd, vec![]).await;
    assert_eq!(fleet.world.events("update_report_ignored").await.len(), 1);
    let longest = fleet
        .world
        .query("SELECT CAST(MAX(LENGTH(system_metrics)) AS TEXT) FROM heartbeats")
        .await;
    assert!(longest[0].parse::<usize>().unwrap() < 5000, "{longest:?}");
    let platform = fleet
        .world
        .query("SELECT platform FROM server_software")
        .await;
    assert_eq!(platform, ["linux-amd64"]);
}

#[tokio::test]
async fn a_host_without_news_is_told_of_once_a_day() {
    let mut fleet = Fleet::new(1).await;
    let mut stale = software(None);
    stale.metadata_age_s = Some(8 * 24 * 3600);
    for _ in 0..3 {
        say(&fleet.world, &mut fleet.hosts[0], stale.clone(), vec![]).await;
    }
    let events = fleet.world.events("host_metadata_stale").await;
    assert_eq!(events.len(), 1);
    assert!(events[0].description.contains("8 days"), "{events:?}");
    fleet.world.pass(24 * 3600 * 1000 + 1);
    say(&fleet.world, &mut fleet.hosts[0], stale, vec![]).await;
    assert_eq!(fleet.world.events("host_metadata_stale").await.len(), 2);
    fleet.beat(0, None, &[], DirectiveOutcome::Applied).await;
}
