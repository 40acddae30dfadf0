//! Periodic challenges, the mismatch that only an operator ends, and what is recorded of it all.

use std::process::{Command, Output};

use serde_json::Value;
use vpn_node_controller::rules::effect::NewEvent;
use vpn_node_controller::rules::events::EventType;
use vpn_node_controller::store::RehostPermit;
use vpn_node_controller::verification::on_demand;
use vpn_node_protocol::directive::Action;
use vpn_node_protocol::hardware::{Component, HardwareStatus};
use vpn_node_protocol::message::{
    Authorisation, DirectiveAck, DirectiveOutcome, Purpose, Reply, Verdict,
};

use crate::support::{Host, World, components};
use crate::verification::{answer_to, challenge, failures, verify};

const HOUR_MS: i64 = 3_600_000;

async fn verified(world: &World) -> Host {
    let mut host = Host::enrolled(world, 1).await;
    verify(world, &mut host).await;
    host.authorisation = Authorisation::Verified;
    host
}

fn replace_disk(host: &mut Host, serial: &str) {
    host.hardware.disk1 = Component::from_raw(serial.as_bytes());
}

/// What an operator's `permit-rehost` writes.
async fn permit(world: &World, host: &Host, until_ms: Option<i64>) -> bool {
    let permit = RehostPermit {
        until_ms,
        event: NewEvent {
            event_type: EventType::RehostPermitted,
            source_id: Some(host.server_id.clone()),
            description: "a test".into(),
            at_ms: world.now(),
        },
        challenge: until_ms.map(|_| on_demand(world.now())),
    };
    let done = world.store.permit_rehost(&host.server_id, permit).await;
    done.unwrap()
}

/// Answers the challenge that a heartbeat brings.
async fn answer(world: &World, host: &mut Host) -> Reply {
    let reply = host.beat(world).await;
    let directive = host.directives(world, &reply.directives).remove(0);
    host.say(world, answer_to(world, host, &directive)).await
}

/// Results and details of the hardware log, oldest first, without the enrolment's.
async fn log(world: &World) -> Vec<String> {
    let rows = world
        .query(
            "SELECT verification_result || ' ' || COALESCE(error_details, '-')
             FROM hardware_verification_log ORDER BY rowid",
        )
        .await;
    rows[1..].to_vec()
}

#[tokio::test]
async fn a_verified_host_is_challenged_periodically() {
    let world = World::with(|config| config.verification_interval_s = 7200).await;
    let mut host = verified(&world).await;
    for _ in 0..3 {
        world.pass(2 * HOUR_MS - 1);
        assert_eq!(host.beat(&world).await.directives.len(), 0, "not yet");
        world.pass(1);
        let reply = host.beat(&world).await;
        let directive = host.directives(&world, &reply.directives).remove(0);
        let Action::Challenge { purpose, .. } = directive.action else {
            panic!("{directive:?}");
        };
        assert_eq!(purpose, Purpose::Periodic);
        // One is open: no second one.
        assert_eq!(host.beat(&world).await.directives.len(), 1);
        host.say(&world, answer_to(&world, &host, &directive)).await;
    }
    assert_eq!(
        world
            .count("server_verifications WHERE purpose = 'periodic' AND verification_result")
            .await,
        3
    );
    // Not for a host that is not verified.
    replace_disk(&mut host, "OTHER");
    verify(&world, &mut host).await;
    host.authorisation = Authorisation::Lapsed;
    world.pass(3 * HOUR_MS);
    assert_eq!(host.beat(&world).await.directives.len(), 0);
}

#[tokio::test]
async fn a_mismatch_ends_only_by_a_permit() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    replace_disk(&mut host, "DISK-TWO");
    let reply = verify(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Mismatch);
    assert!(reply.standing.reason.unwrap().contains("permit-rehost"));
    // The right hardware again: it stays, and says how to go on.
    world.pass(HOUR_MS);
    replace_disk(&mut host, "DISK-ONE");
    let reply = verify(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Mismatch);
    assert_eq!(reply.standing.hardware_status, HardwareStatus::Mismatch);
    let reason = reply.standing.reason.unwrap();
    assert!(
        reason.contains("is back") && reason.contains("permit-rehost"),
        "{reason}"
    );
    // Neither a bad answer, nor none, nor a restarted agent takes it away.
    world.pass(HOUR_MS);
    let directive = challenge(&world, &mut host).await;
    let mut wrong = answer_to(&world, &host, &directive);
    wrong.verification_hash = wrong.value;
    assert_eq!(
        host.say(&world, wrong).await.standing.verdict,
        Verdict::Mismatch
    );
    for _ in 0..3 {
        world.pass(HOUR_MS);
        challenge(&world, &mut host).await;
        world.pass(61_000);
        assert_eq!(host.beat(&world).await.standing.verdict, Verdict::Mismatch);
    }
    host.authorisation = Authorisation::Unverified;
    assert_eq!(host.beat(&world).await.standing.verdict, Verdict::Mismatch);

    assert!(permit(&world, &host, Some(world.now() + HOUR_MS)).await);
    let reply = answer(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    assert_eq!(reply.standing.reason, None);
    let row = world.store.list_servers().await.unwrap().remove(0);
    assert_eq!(row.rehost_permitted_until, None, "used up");
    assert_eq!(row.hardware_verification_status, "verified");
}

#[tokio::test]
async fn a_permit_makes_other_hardware_the_enrolled_one_once() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    assert!(permit(&world, &host, Some(world.now() + HOUR_MS)).await);
    // The old hardware answers first: the permit is for what comes.
    let reply = answer(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    assert_eq!(world.events("rehost_completed").await.len(), 0);
    world.pass(HOUR_MS / 2);
    replace_disk(&mut host, "DISK-TWO");
    let reply = verify(&world, &mut host).await;
    assert_eq!(reply.standing.verdict, Verdict::Verified);
    let completed = world.events("rehost_completed").await;
    assert_eq!(completed.len(), 1);
    assert!(completed[0].description.contains("disk1 replaced"));
    assert!(
        !completed[0].description.contains("DISK"),
        "a serial is in an event"
    );
    let row = world.store.list_servers().await.unwrap().remove(0);
    assert_eq!(
        row.verification_hash,
        host.hardware.verification_hash().to_string()
    );
    assert_eq!(verify(&world, &mut host).await.standing.reason, None);
    // The former hardware is the wrong one now.
    replace_disk(&mut host, "DISK-ONE");
    assert_eq!(
        verify(&world, &mut host).await.standing.verdict,
        Verdict::Mismatch
    );
}

#[tokio::test]
async fn a_permit_that_is_over_withdrawn_or_impossibly_long_permits_nothing() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    replace_disk(&mut host, "DISK-TWO");
    let now_ms = world.now();
    for until_ms in [Some(now_ms), None, Some(now_ms + 8 * 24 * HOUR_MS)] {
        assert!(permit(&world, &host, until_ms).await);
        let mut heartbeat = host.heartbeat();
        heartbeat.verification_wanted = Some(Purpose::HardwareChanged);
        let reply = host.say(&world, heartbeat).await;
        let directive = host.directives(&world, &reply.directives).remove(0);
        let reply = host.say(&world, answer_to(&world, &host, &directive)).await;
        assert_eq!(reply.standing.verdict, Verdict::Mismatch, "{until_ms:?}");
    }
    assert!(!permit(&world, &Host::new(&world.token().await, 9), Some(now_ms)).await);
}

#[tokio::test]
async fn a_host_on_other_hardware_is_looked_at_every_ten_minutes_not_with_every_heartbeat() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    replace_disk(&mut host, "DISK-TWO");
    verify(&world, &mut host).await;
    host.authorisation = Authorisation::Lapsed;
    let mut challenges = 0;
    for _ in 0..120 {
        world.pass(30_000);
        let mut heartbeat = host.heartbeat();
        heartbeat.verification_wanted = Some(Purpose::Start);
        let reply = host.say(&world, heartbeat).await;
        for directive in host.directives(&world, &reply.directives) {
            challenges += 1;
            host.say(&world, answer_to(&world, &host, &directive)).await;
        }
    }
    assert_eq!(challenges, 6, "in an hour");
    assert_eq!(
        world.events("hardware_mismatch").await.len(),
        1,
        "told once"
    );
    // What the agent saw change is looked at at once, and another change is told.
    replace_disk(&mut host, "DISK-THREE");
    let mut heartbeat = host.heartbeat();
    heartbeat.verification_wanted = Some(Purpose::HardwareChanged);
    let reply = host.say(&world, heartbeat).await;
    let directive = host.directives(&world, &reply.directives).remove(0);
    host.say(&world, answer_to(&world, &host, &directive)).await;
    assert_eq!(world.events("hardware_mismatch").await.len(), 2);
}

#[tokio::test]
async fn a_secondary_change_is_told_once_and_again_when_it_changes_again() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    let mut told = vec![];
    for cpu in [
        "CPU-ONE",
        "CPU-TWO",
        "CPU-TWO",
        "CPU-THREE",
        "CPU-THREE",
        "CPU-ONE",
        "CPU-ONE",
    ] {
        host.hardware.cpu1 = Component::from_raw(cpu.as_bytes());
        let reply = verify(&world, &mut host).await;
        assert_eq!(reply.standing.verdict, Verdict::Verified);
        assert_eq!(reply.standing.reason.is_some(), cpu != "CPU-ONE");
        told.push(world.events("hardware_changed").await.len());
    }
    assert_eq!(told, [0, 1, 1, 2, 2, 3, 3]);
    let events = world.events("hardware_changed").await;
    assert!(events[0].description.contains("again"), "newest first");
    assert!(events[1].description.contains("cpu1 replaced"));
}

#[tokio::test]
async fn every_outcome_is_in_both_logs() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let stranger = Host::enrolled(&world, 2).await;
    world.query("DELETE FROM hardware_verification_log WHERE server_id <> (SELECT server_id FROM servers ORDER BY registration_date, rowid LIMIT 1) RETURNING id").await;
    let enrolled_hash = components().verification_hash().to_string();

    let directive = challenge(&world, &mut host).await;
    let good = answer_to(&world, &host, &directive);
    host.say(&world, good.clone()).await;
    host.say(&world, good.clone()).await;
    let directive = challenge(&world, &mut host).await;
    let mut bad = answer_to(&world, &host, &directive);
    bad.value = bad.verification_hash;
    host.say(&world, bad).await;
    let directive = challenge(&world, &mut host).await;
    let mut bad = answer_to(&world, &host, &directive);
    bad.verification_hash = bad.value;
    let stated = bad.verification_hash.to_string();
    host.say(&world, bad).await;
    let directive = challenge(&world, &mut host).await;
    let mut bad = answer_to(&world, &host, &directive);
    bad.hardware = stranger.seal_hardware(&world);
    host.say(&world, bad).await;
    let directive = challenge(&world, &mut host).await;
    world.pass(60_001);
    host.say(&world, answer_to(&world, &host, &directive)).await;
    // Acknowledged as late.
    let directive = challenge(&world, &mut host).await;
    let mut header = host.header(&world);
    header.directive_acks = vec![DirectiveAck {
        id: directive.id,
        outcome: DirectiveOutcome::Late,
        detail: None,
    }];
    host.authorisation = Authorisation::Verified;
    let envelope = host.sign(header, host.heartbeat());
    let answered = world.post("/v1/messages", envelope.to_json()).await;
    let reply = host.take(&world, &envelope, &answered);
    let directive = host.directives(&world, &reply.directives).remove(0);
    host.say(&world, answer_to(&world, &host, &directive)).await;
    // Not answered, and never delivered.
    challenge(&world, &mut host).await;
    world.pass(60_001);
    let reply = host.beat(&world).await;
    let directive = host.directives(&world, &reply.directives).remove(0);
    host.say(&world, answer_to(&world, &host, &directive)).await;
    let waiting = on_demand(world.now());
    world
        .store
        .queue_challenge(&host.server_id, waiting)
        .await
        .unwrap();
    world.pass(60_001);
    host.beat(&world).await;
    // Other hardware.
    replace_disk(&mut host, "DISK-TWO");
    verify(&world, &mut host).await;

    let outcomes = log(&world).await;
    let sealed = &outcomes[4];
    assert!(sealed.starts_with("error unsealable: "), "{sealed}");
    assert_eq!(
        outcomes[..4],
        [
            "success -",
            "invalid unknown_challenge",
            "invalid value_mismatch",
            "invalid hash_mismatch"
        ]
    );
    assert_eq!(
        outcomes[5..],
        [
            "error late",
            "error late",
            "success -",
            "error no_answer",
            "success -",
            "error not_delivered",
            "mismatch hardware_mismatch: mismatch: disk1 replaced",
        ]
    );
    assert_eq!(
        failures(&world).await,
        [
            "none",
            "unknown_challenge",
            "value_mismatch",
            "hash_mismatch",
            "unsealable",
            "late",
            "late",
            "none",
            "no_answer",
            "none",
            "not_delivered",
            "hardware_mismatch",
        ]
    );
    let hashes = world
        .query("SELECT hardware_id FROM hardware_verification_log WHERE error_details IN ('hash_mismatch', 'no_answer', 'not_delivered') ORDER BY rowid")
        .await;
    assert_eq!(hashes, [stated, enrolled_hash.clone(), enrolled_hash]);
    assert_eq!(
        world
            .query("SELECT DISTINCT verification_method FROM server_verifications")
            .await,
        ["challenge-response+hardware"]
    );
}

fn run(world: &World, words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vpn-node-controller"))
        .arg("--data-dir")
        .arg(&world.config.data_dir)
        .args(words.split(' '))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn an_operator_sees_the_difference_and_permits_it() {
    let world = World::new().await;
    let mut host = verified(&world).await;
    world.pass(HOUR_MS);
    replace_disk(&mut host, "DISK-TWO");
    host.hardware.board = Component::from_raw(b"BOARD");
    verify(&world, &mut host).await;

    let table = said(&run(&world, "server hardware diff host-1"));
    assert!(!table.contains("DISK"), "{table}");
    let line = |name: &str| {
        let found = table.lines().find(|line| line.contains(name)).unwrap();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let disk = line("disk1");
    assert!(
        disk.contains("primary") && disk.contains("replaced"),
        "{disk}"
    );
    assert!(line("cpu1").contains("secondary") && line("cpu1").contains("equal"));
    assert!(line("board").contains("was unavailable"));
    let shown = said(&run(&world, "server hardware diff host-1 --show-serials"));
    assert!(shown.contains("DISK-ONE") && shown.contains("DISK-TWO"));
    let json: Value =
        serde_json::from_str(&said(&run(&world, "server hardware diff host-1 --json"))).unwrap();
    let disk = &json["components"][0];
    assert_eq!(
        (json["schema"].as_u64(), disk["state"].as_str()),
        (Some(1), Some("replaced"))
    );
    assert_eq!(disk["present"].as_str().map(str::len), Some(16));
    assert!(!json.to_string().contains("DISK"), "{json}");
    let since = vpn_node_controller::clock::to_text(world.now());
    assert_eq!(disk["since"], since);
    assert_ne!(json["components"][2]["since"], since, "cpu1 is as it was");

    let log = said(&run(&world, "server hardware log host-1 --limit 2 --json"));
    let log: Value = serde_json::from_str(&log).unwrap();
    assert_eq!(log["hardware_log"].as_array().unwrap().len(), 2);
    assert_eq!(log["hardware_log"][0]["verification_result"], "mismatch");
    assert!(!log.to_string().contains("DISK"), "{log}");
    assert!(said(&run(&world, "server hardware log host-1")).contains("hardware_mismatch"));

    let refused = run(&world, "server permit-rehost host-1 --for 0");
    assert_eq!(refused.status.code(), Some(1), "nothing to take back");
    for bad in ["8d", "-1h", "x"] {
        let refused = run(&world, &format!("server permit-rehost host-1 --for {bad}"));
        assert_eq!(refused.status.code(), Some(2), "{bad}");
    }
    assert!(said(&run(&world, "server permit-rehost host-1 --for 1h")).contains("Permitted until"));
    assert_eq!(world.events("rehost_permitted").await.len(), 1);
    assert!(said(&run(&world, "server show host-1")).contains("until 20"));
    assert_eq!(
        world.count("directives WHERE status = 'pending'").await,
        1,
        "asked at once"
    );
    said(&run(&world, "server permit-rehost host-1 --for 0 --json"));
    assert_eq!(world.events("rehost_permit_withdrawn").await.len(), 1);
    let row = world.store.list_servers().await.unwrap().remove(0);
    assert_eq!(row.rehost_permitted_until, None);
}
