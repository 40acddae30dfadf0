//! A thousand hosts: how many are told at once, and what a bad release does to them.

use sqlx::sqlite::SqlitePool;
use vpn_node_controller::rolling::Scheduler;

use super::hosts::Fleet;

const HOSTS: usize = 1000;

/// Copies the one host of a fleet; all are heard now and go on to be.
async fn multiply(pool: &SqlitePool) {
    for sql in [
        "CREATE TEMP TABLE copies AS SELECT * FROM servers",
        "CREATE TEMP TABLE chains AS SELECT * FROM server_chains",
        "CREATE TEMP TABLE soft AS SELECT * FROM server_software",
    ] {
        sqlx::query(sql).execute(pool).await.unwrap();
    }
    for n in 1..HOSTS {
        let id = format!("copy-{n}");
        for sql in [
            "UPDATE copies SET server_id = ?1, identity_key_id = ?1, public_key = ?1, hostname = ?1,
                 registered_with_key = NULL, idempotency_id = ?1",
            "UPDATE chains SET server_id = ?1",
            "UPDATE soft SET server_id = ?1",
        ] {
            sqlx::query(sql).bind(&id).execute(pool).await.unwrap();
        }
        for sql in [
            "INSERT INTO servers SELECT * FROM copies",
            "INSERT INTO server_chains SELECT * FROM chains",
            "INSERT INTO server_software SELECT * FROM soft",
        ] {
            sqlx::query(sql).execute(pool).await.unwrap();
        }
    }
}

/// Hosts take what they were told of, and are done with it: every fifth badly when `bad`.
async fn hosts(pool: &SqlitePool, bad: bool, now: &str) {
    let sql = [
        "UPDATE servers SET last_heartbeat = ?1",
        "UPDATE directives SET delivered_at = ?1, status = 'applied', closed_at = ?1
         WHERE kind = 'update' AND status = 'pending'",
        "UPDATE rollouts SET
             ended_badly = ended_badly + (SELECT COUNT(*) FROM server_update_deployments
                 WHERE directive_id IS NOT NULL AND status = 'pending' AND ?2 AND deployment_id % 5 = 0),
             ended_well = ended_well + (SELECT COUNT(*) FROM server_update_deployments
                 WHERE directive_id IS NOT NULL AND status = 'pending' AND NOT (?2 AND deployment_id % 5 = 0))",
        "UPDATE server_update_deployments SET changed_at = ?1, installation_time = ?1,
             status = CASE WHEN ?2 AND deployment_id % 5 = 0 THEN 'rolled_back' ELSE 'installed' END
         WHERE directive_id IS NOT NULL AND status = 'pending'",
    ];
    for one in sql {
        sqlx::query(one)
            .bind(now)
            .bind(bad)
            .execute(pool)
            .await
            .unwrap();
    }
}

/// Rolls out to a thousand hosts; returns how many were told, the most at once, and the end.
async fn roll(bad: bool) -> (usize, usize, String) {
    let fleet = Fleet::new(1).await;
    let world = &fleet.world;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(world.config.database());
    let one = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = one.connect_with(options).await.unwrap();
    multiply(&pool).await;
    fleet
        .create(
            "rollout create 1.5.0 --canary 4 --max-in-flight 50 --stop-on-failures 10 --yes --json",
        )
        .await;
    let mut scheduler = Scheduler::new(30);
    let (mut told, mut most, mut still) = (0, 0, 0);
    while still < 3 {
        let now = scheduler.step(&*world.store, world.now()).await.unwrap();
        told += now;
        most = most.max(now);
        still = if now == 0 { still + 1 } else { 0 };
        let open = world
            .count(
                "server_update_deployments WHERE directive_id IS NOT NULL AND status = 'pending'",
            )
            .await;
        assert!(open <= 50, "{open} at once");
        world.pass(30_000 * 5);
        hosts(
            &pool,
            bad,
            &vpn_node_controller::clock::to_text(world.now()),
        )
        .await;
    }
    let state = world.query("SELECT state FROM rollouts").await.remove(0);
    pool.close().await;
    (told, most, state)
}

#[tokio::test]
async fn a_good_release_reaches_a_thousand_hosts_fifty_at_a_time() {
    assert_eq!(roll(false).await, (HOSTS, 50, "completed".to_owned()));
}

#[tokio::test]
async fn a_bad_release_stops_after_the_first_few() {
    let (told, _, state) = roll(true).await;
    assert_eq!(state, "halted");
    assert_eq!(told, 4 + 50);
}
