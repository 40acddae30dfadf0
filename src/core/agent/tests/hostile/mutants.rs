//! Answers that look like answers: old, misdirected, mixed, cut, and signed by the wrong one.

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::limits::MAX_REPLY_BYTES;
use vpn_node_protocol::message::{Refusal, RefusalCode, Reply};

use super::super::dice::Dice;
use super::{Door, KINDS, Rig, message_of, reply};
use crate::core::agent::Event;

const DOORS: [Door; 3] = [Event::Answer, Event::PollAnswer, Event::Certificate];
const MUTANTS: u64 = 10_000;
/// Lengths of answers that are nothing but one character.
const MOST: [usize; 3] = [0, 1000, MAX_REPLY_BYTES + 1];

/// A reply that the controller's own key signed, changed where it says to whom and to what.
#[test]
fn a_signed_reply_to_anything_else_changes_nothing() {
    let mut rig = reply();
    let before = rig.believes();
    let last = Envelope::parse(&rig.good, usize::MAX).unwrap();
    let good: Reply = last.peek().unwrap();
    let after_its_end = rig.world.controller.certificate.signing_keys[0]
        .validity
        .not_after_ms;
    let changes: [&dyn Fn(&mut Reply); 12] = [
        &|r| r.header.server_id = "another".into(),
        &|r| r.header.server_id.clear(),
        &|r| r.header.epoch += 1,
        &|r| r.header.epoch = 0,
        &|r| r.header.seq += 1,
        &|r| r.header.seq -= 1,
        &|r| r.header.seq = 0,
        &|r| r.header.seq = u64::MAX,
        &|r| r.header.chain = Hex([1; 32]),
        &|r| r.header.chain = r.header.nonce,
        &|r| r.header.request_digest = Hex([1; 32]),
        &|r| r.header.controller_time_ms = after_its_end,
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut reply = good.clone();
        change(&mut reply);
        let signed = Envelope::sign(&reply, &[&rig.world.controller.online]);
        for door in DOORS {
            rig.hear_at(door, signed.to_json());
            assert!(rig.believes() == before, "change {n}");
        }
    }
    // A time before the newest that is known is no lie about the request: the reply counts, and
    // the newest time stays.
    let mut reply = good;
    reply.header.controller_time_ms = i64::MIN;
    let signed = Envelope::sign(&reply, &[&rig.world.controller.online]);
    let floor = rig.world.agent().trust.floor_ms();
    rig.hear_good(signed.to_json());
    assert!(rig.believes() != before, "the control");
    assert_eq!(rig.world.agent().trust.floor_ms(), floor, "never back");
}

#[test]
fn refusals_of_other_requests_and_by_others_change_nothing() {
    let mut rig = reply();
    let before = rig.believes();
    let request = Envelope::parse(&rig.world.last_request, usize::MAX).unwrap();
    let (mine, other) = (request.digest(), Hex([7; 32]));
    let stranger = SigningKey::from_bytes(&[66; 32]);
    let now = rig.world.controller_ms();
    let codes = [
        RefusalCode::Ahead,
        RefusalCode::Quarantined,
        RefusalCode::Revoked,
        RefusalCode::BadRequest,
    ];
    for code in codes {
        let elsewhere = rig.world.controller.refuse(other, code, now);
        let refusal = Refusal {
            request_digest: mine,
            controller_time_ms: now,
            code,
            message: "no".into(),
        };
        let forged = Envelope::sign(&refusal, &[&stranger]).to_json();
        // The host's own key is no controller's.
        let own = Envelope::sign(&refusal, &[&rig.world.agent().key]).to_json();
        for bad in [elsewhere, forged, own] {
            for door in DOORS {
                rig.hear_at(door, bad.clone());
                assert!(rig.believes() == before, "{code:?}");
            }
        }
    }
}

#[test]
fn certificates_of_others_and_older_ones_change_nothing() {
    let mut rig = reply();
    let before = rig.believes();
    let mut certificate = rig.world.controller.certificate.clone();
    let stranger = SigningKey::from_bytes(&[66; 32]);
    let mut bad = vec![
        Envelope::sign(&certificate, &[&stranger]),
        Envelope::sign(&certificate, &[&rig.world.controller.online]),
    ];
    // Another root that certifies itself.
    certificate.root = (&stranger).into();
    certificate.serial += 9;
    bad.push(Envelope::sign(&certificate, &[&stranger]));
    rig.world.controller.certificate.serial = 0;
    bad.push(rig.world.controller.signed_certificate());
    for envelope in bad {
        for door in DOORS {
            rig.hear_at(door, envelope.to_json());
            assert!(rig.believes() == before);
        }
    }
}

/// Answers of all kinds and of the past, cut, mixed and garbled, at every door.
#[test]
fn ten_thousand_garbled_answers_change_nothing() {
    let mut rig = reply();
    let mut pool = rig.past.clone();
    pool.push(rig.world.last_request.clone());
    // Of the same world, so that they are all but the answer to this very request.
    pool.extend(KINDS.iter().map(|(_, make)| make().good));
    pool.retain(|answer| !is_lawful(&mut rig, answer));
    assert!(pool.len() > 8, "{}", pool.len());
    let before = rig.believes();
    for answer in &pool {
        for door in DOORS {
            rig.hear_at(door, answer.clone());
            assert!(
                rig.believes() == before,
                "{}",
                String::from_utf8_lossy(answer)
            );
        }
    }
    pool.push(rig.good.clone());
    let names = rig.key_ids();
    let messages: Vec<_> = pool
        .iter()
        .map(|answer| message_of(answer, &names))
        .collect();
    let mut dice = Dice::new(5);
    let mut tried = 0;
    while tried < MUTANTS {
        let mutant = garbled(&pool, &mut dice);
        // In other words or whole, it is none.
        let message = message_of(&mutant, &names);
        if message.is_some() && messages.contains(&message) {
            continue;
        }
        let door = DOORS[usize::try_from(dice.below(3)).unwrap()];
        rig.hear_at(door, mutant.clone());
        assert!(
            rig.believes() == before,
            "{}",
            String::from_utf8_lossy(&mutant)
        );
        tried += 1;
    }
    rig.hear_good(rig.good.clone());
    assert!(rig.believes() != before, "the control");
}

/// Whether an answer of another run is one to this request too, or a certificate that counts.
fn is_lawful(rig: &mut Rig, answer: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(answer, usize::MAX) else {
        return false;
    };
    let request = rig
        .world
        .agent()
        .lane
        .state()
        .pending
        .as_ref()
        .map(Envelope::digest);
    let refusal = envelope.peek::<Refusal>().ok().map(|r| r.request_digest);
    let reply = envelope
        .peek::<Reply>()
        .ok()
        .map(|r| r.header.request_digest);
    let answers = refusal
        .or(reply)
        .is_some_and(|digest| Some(digest) == request);
    let kind = envelope.payload_type();
    answers || kind.contains("certificate") || kind.contains("poll-reply")
}

fn garbled(pool: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let below = |dice: &mut Dice, n: usize| usize::try_from(dice.below(n as u64)).unwrap();
    let (one, two) = (below(dice, pool.len()), below(dice, pool.len()));
    let mut bytes = pool[one].clone();
    let read = |at: usize| serde_json::from_slice::<Value>(&pool[at]).unwrap();
    let (mut json, other) = (read(one), read(two));
    let name = ["payload", "payloadType", "signatures"][below(dice, 3)];
    match dice.below(9) {
        0 => bytes.truncate(below(dice, pool[one].len())),
        1 => bytes.extend(&pool[two]),
        2 => {
            let (from, to) = (below(dice, bytes.len()), below(dice, bytes.len()));
            bytes[from.min(to)..from.max(to)].reverse();
        }
        3 => {
            let at = below(dice, bytes.len());
            bytes[at] = dice.bytes::<1>()[0];
        }
        4 => bytes = vec![[b'[', b'{', b' ', 0][below(dice, 4)]; MOST[below(dice, 3)]],
        5 => {
            json[name] = other[name].clone();
            bytes = json.to_string().into_bytes();
        }
        6 => {
            let odd = [
                json!(null),
                json!([]),
                json!({}),
                json!(""),
                json!(-1),
                json!([{}]),
            ];
            json[name] = odd[below(dice, odd.len())].clone();
            bytes = json.to_string().into_bytes();
        }
        7 => {
            json.as_object_mut().expect("an envelope").remove(name);
            bytes = json.to_string().into_bytes();
        }
        // The same field twice.
        _ => {
            let more = format!("{{\"{name}\":{},", other[name]);
            bytes.splice(..1, more.into_bytes());
        }
    }
    bytes
}
