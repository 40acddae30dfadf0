//! Answers that are none: old, misdirected, forged, damaged, too large. And the keys behind good
//! ones: renewed, never rolled back, dead when they have ended.

use ed25519_dalek::SigningKey;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::limits::MAX_REPLY_BYTES;
use vpn_node_protocol::message::{Authorisation, Reply, Verdict};

use super::controller::Controller;
use super::world::{Tamper, World, s};

/// The reply, changed, and signed by `key` again.
fn changed(answer: &[u8], key: &SigningKey, change: impl Fn(&mut Reply)) -> Vec<u8> {
    let envelope = Envelope::parse(answer, MAX_REPLY_BYTES).unwrap();
    let mut reply: Reply = envelope.peek().unwrap();
    change(&mut reply);
    Envelope::sign(&reply, &[key]).to_json()
}

/// The answer without what names the key of its signature.
fn without_key_id(answer: &[u8]) -> Vec<u8> {
    let mut json: serde_json::Value = serde_json::from_slice(answer).unwrap();
    json["signatures"][0]["keyid"] = "".into();
    json.to_string().into_bytes()
}

/// With such answers the agent believes nothing, keeps its request and goes on asking, slowly;
/// with good ones it goes on where it was.
fn is_refused(name: &str, tamper: Tamper) {
    let mut world = World::verified(50);
    let before = world.agent().lane_state().clone();
    world.tamper = Some(tamper);
    let attempts = world.attempts.len();
    world.run_for(s(2000));
    let attempts = world.attempts.len() - attempts;
    assert!((10..90).contains(&attempts), "{name}: {attempts} attempts");
    assert!(world.certificates_asked <= attempts as u64 + 1, "{name}");
    let after = world.agent().lane_state().clone();
    assert!(after.pending.is_some(), "{name}");
    let kept = [&before, &after].map(|l| (l.seq, l.chain, l.nonce, l.floor_ms));
    assert_eq!(kept[0], kept[1], "{name}");
    assert_eq!(before.last_reply, after.last_reply, "{name}");
    assert_eq!(world.state(), Authorisation::Lapsed, "{name}");
    assert!(world.report().last_heartbeat.last_error.is_some(), "{name}");
    world.tamper = None;
    world.run_for(s(140));
    assert_eq!(world.state(), Authorisation::Verified, "{name}");
    assert_eq!(world.controller.quarantines, [] as [&str; 0], "{name}");
}

fn resigned(change: fn(&mut Reply)) -> Tamper {
    Box::new(move |controller: &Controller, answer| changed(&answer, &controller.online, change))
}

#[test]
fn an_old_reply_is_no_answer() {
    let mut first = None;
    is_refused(
        "old",
        Box::new(move |controller, answer| {
            let old = changed(&answer, &controller.online, |reply| {
                reply.header.request_digest = Hex([7; 32]);
            });
            first.get_or_insert(old).clone()
        }),
    );
}

#[test]
fn a_reply_to_another_request_server_epoch_or_place_in_the_chain_is_no_answer() {
    is_refused(
        "digest",
        resigned(|r| r.header.request_digest = Hex([1; 32])),
    );
    is_refused("server", resigned(|r| r.header.server_id = "other".into()));
    is_refused("epoch", resigned(|r| r.header.epoch += 1));
    is_refused("number", resigned(|r| r.header.seq += 1));
    is_refused("chain", resigned(|r| r.header.chain = Hex([1; 32])));
}

#[test]
fn an_unsigned_a_forged_and_a_damaged_reply_is_no_answer() {
    is_refused(
        "unsigned",
        Box::new(|_, answer| {
            let mut json: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            json["signatures"] = serde_json::json!([]);
            json.to_string().into_bytes()
        }),
    );
    is_refused(
        "another key",
        Box::new(|_, answer| changed(&answer, &SigningKey::from_bytes(&[66; 32]), |_| {})),
    );
    is_refused(
        "another key without its name",
        Box::new(|_, answer| {
            let forged = changed(&answer, &SigningKey::from_bytes(&[66; 32]), |_| {});
            without_key_id(&forged)
        }),
    );
    is_refused(
        "too large",
        Box::new(|_, mut answer| {
            answer.resize(MAX_REPLY_BYTES + 1, b' ');
            answer
        }),
    );
    is_refused("garbage", Box::new(|_, _| b"<html>502</html>".to_vec()));
    is_refused("nothing", Box::new(|_, _| Vec::new()));
}

#[test]
fn a_new_signing_key_is_learnt_and_kept() {
    let mut world = World::verified(51);
    let now = world.controller_ms();
    world.controller.rotate(now, None);
    world.run_for(s(60));
    assert_eq!(world.state(), Authorisation::Verified);
    assert!(world.certificates_asked >= 1);
    let asked = world.certificates_asked;
    world.restart();
    world.run_for(s(60));
    assert_eq!(world.state(), Authorisation::Verified);
    assert_eq!(world.certificates_asked, asked, "it was kept");
}

#[test]
fn a_new_signing_key_is_learnt_although_nobody_names_it() {
    let mut world = World::verified(52);
    let now = world.controller_ms();
    world.controller.rotate(now, None);
    world.tamper = Some(Box::new(|_, answer| without_key_id(&answer)));
    world.tamper_poll = Some(Box::new(|_, answer| without_key_id(&answer)));
    world.run_for(s(60));
    let serial = world.agent().trust.certificate().serial;
    assert_eq!(serial, 2, "keyid is a hint, and nothing depends on it");
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn an_older_certificate_is_refused() {
    let mut world = World::verified(53);
    let now = world.controller_ms();
    world.controller.rotate(now, None);
    world.controller.certificate.serial = 0;
    let seq = world.disk.lane.seq;
    world.run_for(s(2000));
    assert_eq!(world.state(), Authorisation::Lapsed);
    assert!(world.disk.lane.seq <= seq + 1);
    let errors = world.report().last_errors;
    assert!(errors.iter().any(|e| e.text.contains("is being replayed")));
    world.controller.certificate.serial = 2;
    world.run_for(s(200));
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn a_signing_key_that_has_ended_is_dead_whatever_time_it_states() {
    let mut world = World::verified(54);
    let now = world.controller_ms();
    let old = world.controller.online.clone();
    world.controller.rotate(now, Some(now + 30_000));
    world.run_for(s(120));
    assert_eq!(world.state(), Authorisation::Verified);
    let seq = world.agent().lane_state().seq;
    world.tamper = Some(Box::new(move |_, answer| {
        changed(&answer, &old, |reply| {
            reply.header.controller_time_ms -= 110_000;
            reply.standing.verdict = Verdict::Verified;
        })
    }));
    world.run_for(s(600));
    assert_eq!(world.agent().lane_state().seq, seq);
    // Also for an agent that starts now: the latest time it knew is on disk.
    world.restart();
    world.run_for(s(600));
    assert_eq!(world.agent().lane_state().seq, seq);
    world.tamper = None;
    world.run_for(s(200));
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn the_time_of_a_signed_refusal_counts_too() {
    let mut world = World::verified(55);
    world.run_for(s(60));
    world.controller.bad_requests = 3;
    world.run_for(s(65));
    let refused_at = world.controller_ms();
    world.run_for(s(20));
    world.net.up = false;
    world.run_for(s(60));
    assert!(world.disk.lane.floor_ms > refused_at - 40_000);
}
