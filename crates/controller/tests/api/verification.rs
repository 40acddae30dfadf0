//! One challenge, one answer; and what hardware says.

use uuid::Uuid;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::hardware::{Component, HardwareStatus};
use vpn_node_protocol::message::{
    Authorisation, ChallengeAnswer, DirectiveAck, DirectiveOutcome, Purpose, Reply, Verdict,
};

use crate::support::{Host, World};

/// A heartbeat that asks, and the challenge that comes.
pub(crate) async fn challenge(world: &World, host: &mut Host) -> Directive {
    let mut heartbeat = host.heartbeat();
    heartbeat.verification_wanted = Some(Purpose::Start);
    let reply = host.say(world, heartbeat).await;
    assert_eq!(reply.directives.len(), 1, "{reply:?}");
    host.directives(world, &reply.directives).remove(0)
}

pub(crate) fn answer_to(world: &World, host: &Host, directive: &Directive) -> ChallengeAnswer {
    let Action::Challenge { value, purpose } = directive.action.clone() else {
        panic!("{directive:?}");
    };
    ChallengeAnswer {
        challenge_id: directive.id,
        value,
        purpose,
        hardware: host.seal_hardware(world),
        verification_hash: host.hardware.verification_hash(),
        os_version: "Test OS 2".into(),
    }
}

pub(crate) async fn verify(world: &World, host: &mut Host) -> Reply {
    let directive = challenge(world, host).await;
    let answer = answer_to(world, host, &directive);
    let mut header = host.header(world);
    header.directive_acks = vec![DirectiveAck {
        id: directive.id,
        outcome: DirectiveOutcome::Applied,
        detail: None,
    }];
    let envelope = host.sign(header, answer);
    let answered = world.post("/v1/messages", envelope.to_json()).await;
    host.take(world, &envelope, &answered)
}

pub(crate) async fn failures(world: &World) -> Vec<String> {
    world
        .query("SELECT COALESCE(failure_reason, 'none') FROM server_verifications ORDER BY verification_id")
        .await
}

#[tokio::test]
async fn an_answered_challenge_verifies_until_the_agent_restarts() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Unverified);
    assert_eq!(reply.standing.lease_s, 0);
    let reply = verify(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    assert_eq!(reply.standing.lease_s, 1800);
    assert_eq!(reply.standing.hardware_status, HardwareStatus::Verified);
    host.authorisation = Authorisation::Verified;
    let reply = host.beat(&world).await;
    assert_eq!(
        (reply.standing.verdict, reply.directives.len()),
        (Verdict::Verified, 0)
    );
    let row = world.store.list_servers().await.unwrap().remove(0);
    assert!(row.available);
    assert_eq!(row.os_version.as_deref(), Some("Test OS 2"));
    assert!(row.last_hardware_verification_at.is_some());
    assert_eq!(
        world
            .query("SELECT verification_result FROM hardware_verification_log")
            .await,
        ["success", "success"]
    );
    // The next process of the agent knows nothing of it.
    host.authorisation = Authorisation::Unverified;
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Unverified);
    assert_eq!(reply.directives.len(), 1);
    assert!(!world.store.list_servers().await.unwrap()[0].available);
}

#[tokio::test]
async fn one_challenge_has_one_answer() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let directive = challenge(&world, &mut host).await;
    // Asked again, the same challenge comes, byte for byte: one is open at a time.
    assert_eq!(challenge(&world, &mut host).await, directive);
    let answer = answer_to(&world, &host, &directive);
    let reply = host.say(&world, answer.clone()).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    // The same answer in a new message: recorded, and without effect.
    let reply = host.say(&world, answer.clone()).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    let mut made_up = answer;
    made_up.challenge_id = Uuid::from_u128(1);
    host.say(&world, made_up).await;
    assert_eq!(
        failures(&world).await,
        ["none", "unknown_challenge", "unknown_challenge"]
    );
}

#[tokio::test]
async fn a_late_answer_fails() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let directive = challenge(&world, &mut host).await;
    world.pass(60_001);
    let reply = host.say(&world, answer_to(&world, &host, &directive)).await;
    assert_eq!(
        (reply.standing.verdict, reply.standing.lease_s),
        (Verdict::Failed, 0)
    );
    assert!(reply.standing.reason.unwrap().contains("too late"));
    assert_eq!(failures(&world).await, ["late"]);
    // Its next chance.
    let reply = verify(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
}

#[tokio::test]
async fn two_challenges_without_an_answer_fail_and_one_does_not() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    verify(&world, &mut host).await;
    host.authorisation = Authorisation::Verified;
    challenge(&world, &mut host).await;
    world.pass(61_000);
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    assert_eq!(
        reply.directives.len(),
        1,
        "the next challenge comes at once"
    );
    world.pass(61_000);
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Failed);
    let directive = host.directives(&world, &reply.directives).remove(0);
    let reply = host.say(&world, answer_to(&world, &host, &directive)).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    assert_eq!(
        failures(&world).await,
        ["none", "no_answer", "no_answer", "none"]
    );
}

#[tokio::test]
async fn a_wrong_answer_fails_with_its_own_code() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let stranger = Host::enrolled(&world, 2).await;
    for code in [
        "value_mismatch",
        "value_mismatch",
        "hash_mismatch",
        "unsealable",
    ] {
        let directive = challenge(&world, &mut host).await;
        let mut answer = answer_to(&world, &host, &directive);
        match code {
            "hash_mismatch" => answer.verification_hash = answer.value,
            "unsealable" => answer.hardware = stranger.seal_hardware(&world),
            _ if answer.purpose == Purpose::Start && failures(&world).await.len() == 1 => {
                answer.purpose = Purpose::Periodic;
            }
            _ => answer.value = answer.verification_hash,
        }
        let reply = host.say(&world, answer).await;
        assert_eq!(reply.standing.verdict, Verdict::Failed, "{code}");
        assert_eq!(failures(&world).await.last().unwrap(), code);
    }
    assert_eq!(
        world.query("SELECT verification_result FROM hardware_verification_log WHERE verification_result <> 'success' ORDER BY verification_result").await,
        ["error", "invalid", "invalid", "invalid"]
    );
}

#[tokio::test]
async fn primary_hardware_stops_a_host_and_secondary_hardware_warns() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.hardware.cpu1 = Component::from_raw(b"CPU-TWO");
    let reply = verify(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    assert!(reply.standing.reason.unwrap().contains("cpu1 replaced"));
    host.hardware.disk1 = Component::from_raw(b"DISK-TWO");
    let reply = verify(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Mismatch);
    assert_eq!(reply.standing.hardware_status, HardwareStatus::Mismatch);
    assert_eq!(reply.standing.lease_s, 0);
    let events = world.events("hardware_mismatch").await;
    assert_eq!(events[0].severity, "high");
    assert!(
        !events[0].description.contains("DISK"),
        "a serial is in an event"
    );
    // A restart does not change that.
    host.authorisation = Authorisation::Unverified;
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Mismatch);
    assert!(!world.store.list_servers().await.unwrap()[0].available);
}

#[tokio::test]
async fn grace_is_recorded_once_for_each_period() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    verify(&world, &mut host).await;
    for state in [
        Authorisation::Grace,
        Authorisation::Grace,
        Authorisation::Verified,
        Authorisation::Grace,
    ] {
        host.authorisation = state;
        host.beat(&world).await;
    }
    let row = world.store.list_servers().await.unwrap().remove(0);
    assert_eq!(
        (row.grace_period_usage_count, row.grace_period_enabled),
        (2, true)
    );
    assert!(row.grace_period_expires_at.is_some());
}

#[tokio::test]
async fn a_hosts_clock_offset_is_the_last_one_it_stated_as_host_minus_controller() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    assert_eq!(
        world.store.list_servers().await.unwrap()[0].clock_offset_ms,
        None
    );
    // Controller minus host on the wire. The last number has no opposite, and hurts nobody.
    for (stated, shown) in [
        (Some(250), Some(-250)),
        (Some(-315_360_000_000), Some(315_360_000_000)),
        (Some(i64::MAX), Some(-i64::MAX)),
        (Some(i64::MIN), Some(i64::MAX)),
        (None, None),
    ] {
        let mut heartbeat = host.heartbeat();
        heartbeat.clock_offset_ms = stated;
        host.say(&world, heartbeat).await;
        let row = world.store.list_servers().await.unwrap().remove(0);
        assert_eq!(row.clock_offset_ms, shown, "{stated:?}");
    }
}
