//! The grace columns of a server in every case: what a host says after a silence, and what ends
//! a grace period.

use vpn_node_controller::store::ServerRow;
use vpn_node_protocol::message::{Authorisation, Verdict};

use crate::support::{Host, World};
use crate::verification::verify;

const LEASE_MS: i64 = 1_800_000;

async fn verified(world: &World) -> Host {
    let mut host = Host::enrolled(world, 1).await;
    verify(world, &mut host).await;
    says(world, &mut host, Authorisation::Verified).await;
    host
}

async fn says(world: &World, host: &mut Host, state: Authorisation) -> Verdict {
    host.authorisation = state;
    host.beat(world).await.standing.verdict
}

/// The heartbeat that was under way when the network failed: made then, and it arrives after `ms`.
async fn outage(world: &World, host: &mut Host, ms: i64) -> i64 {
    world.pass(30_000);
    let made_ms = world.now();
    host.authorisation = Authorisation::Verified;
    let envelope = host.sign(host.header(world), host.heartbeat());
    world.pass(ms);
    let answer = world.post("/v1/messages", envelope.to_json()).await;
    host.take(world, &envelope, &answer);
    made_ms
}

async fn row(world: &World) -> ServerRow {
    world.store.list_servers().await.unwrap().remove(0)
}

/// Enabled, how often used, until when.
async fn grace(world: &World) -> (bool, i64, Option<i64>) {
    let row = row(world).await;
    let until = row.grace_period_expires_at.as_deref();
    (
        row.grace_period_enabled,
        row.grace_period_usage_count,
        until.and_then(vpn_node_controller::clock::from_text),
    )
}

#[tokio::test]
async fn an_outage_within_the_lease_is_one_grace_period_that_runs_from_the_last_request() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    assert_eq!(grace(&world).await, (false, 0, None));
    let made_ms = outage(&world, &mut host, 600_000).await;
    assert_eq!(
        grace(&world).await,
        (false, 0, None),
        "it does not say so yet"
    );
    says(&world, &mut host, Authorisation::Grace).await;
    let (enabled, count, until) = grace(&world).await;
    assert_eq!((enabled, count), (true, 1));
    // The boot's begin is known to a millisecond or two.
    let off_ms = until.unwrap() - (made_ms + LEASE_MS);
    assert!((-5..=50).contains(&off_ms), "{off_ms} ms");
    says(&world, &mut host, Authorisation::Grace).await;
    assert_eq!(grace(&world).await.1, 1, "the same grace period");
    says(&world, &mut host, Authorisation::Verified).await;
    assert_eq!(grace(&world).await, (false, 1, None));
    assert_eq!(row(&world).await.authorisation, "verified");
}

#[tokio::test]
async fn an_outage_beyond_the_lease_is_a_grace_period_that_was_used_up() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    outage(&world, &mut host, LEASE_MS + 60_000).await;
    says(&world, &mut host, Authorisation::Lapsed).await;
    assert_eq!(grace(&world).await, (false, 1, None));
    says(&world, &mut host, Authorisation::Lapsed).await;
    says(&world, &mut host, Authorisation::Verified).await;
    assert_eq!(grace(&world).await, (false, 1, None));

    // First grace, then lapsed: one period, told twice.
    outage(&world, &mut host, 600_000).await;
    says(&world, &mut host, Authorisation::Grace).await;
    says(&world, &mut host, Authorisation::Lapsed).await;
    assert_eq!(grace(&world).await, (false, 2, None));
}

#[tokio::test]
async fn an_agent_that_was_restarted_in_the_outage_knows_of_no_grace() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    outage(&world, &mut host, 600_000).await;
    let verdict = says(&world, &mut host, Authorisation::Unverified).await;
    assert_eq!(verdict, Verdict::Unverified);
    assert_eq!(grace(&world).await, (false, 0, None));
}

#[tokio::test]
async fn a_host_that_our_own_word_stopped_had_no_grace() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    // Another verdict.
    host.hardware.disk1 = vpn_node_protocol::hardware::Component::from_raw(b"OTHER");
    verify(&world, &mut host).await;
    says(&world, &mut host, Authorisation::Lapsed).await;
    assert_eq!(grace(&world).await, (false, 0, None));
}

#[tokio::test]
async fn quarantine_ends_a_grace_period_and_is_none() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    outage(&world, &mut host, 600_000).await;
    says(&world, &mut host, Authorisation::Grace).await;
    // A second holder, at the number that was just taken.
    let mut copy = host.clone();
    copy.seq -= 1;
    copy.chain = vpn_node_protocol::encoding::Hex([9; 32]);
    let envelope = copy.sign(copy.header(&world), copy.heartbeat());
    copy.refused(&world, &envelope).await;
    let row = row(&world).await;
    assert_eq!(
        (row.status.as_str(), row.authorisation.as_str()),
        ("quarantined", "lapsed")
    );
    assert_eq!(grace(&world).await, (false, 1, None));
}

#[tokio::test]
async fn a_restarted_controller_counts_on_and_counts_nothing_twice() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    outage(&world, &mut host, 600_000).await;
    says(&world, &mut host, Authorisation::Grace).await;
    let before = grace(&world).await;
    let backup = world.back_up().await;
    let world = world.restore(backup).await;
    assert_eq!(grace(&world).await, before);
    says(&world, &mut host, Authorisation::Grace).await;
    assert_eq!(grace(&world).await.1, 1);
    says(&world, &mut host, Authorisation::Verified).await;
    outage(&world, &mut host, 300_000).await;
    says(&world, &mut host, Authorisation::Grace).await;
    assert_eq!(grace(&world).await.1, 2);
}

#[tokio::test]
async fn a_grace_period_ends_by_itself_when_the_host_falls_silent() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    outage(&world, &mut host, 600_000).await;
    says(&world, &mut host, Authorisation::Grace).await;
    let (_, _, until) = grace(&world).await;
    let until_ms = until.unwrap();
    assert_eq!(world.store.expire_grace(until_ms - 1).await.unwrap(), 0);
    assert_eq!(world.store.expire_grace(until_ms).await.unwrap(), 1);
    assert_eq!(
        grace(&world).await,
        (false, 1, until),
        "when it ended stays"
    );
    assert_eq!(world.store.expire_grace(until_ms).await.unwrap(), 0);
}
