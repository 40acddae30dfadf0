//! Structured mutants: JSON that still looks like a message.
//!
//! Two attackers: one without a key changes envelopes, and must change nothing that is believed.
//! One with a key (a compromised host, or a compromised controller) signs any payload, and must
//! get a refusal or a value that reads back as itself; never a panic.

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use vpn_node_protocol::encoding::Base64;
use vpn_node_protocol::enrolment::Hello;
use vpn_node_protocol::envelope::{Payload as _, pae};
use vpn_node_protocol::keys::PublicKey;

use crate::corpus::{Example, examples};

const UNSIGNED_MUTANTS: u32 = 20_000;
const SIGNED_MUTANTS: u32 = 5_000;

/// One change; where it happens is drawn apart from what happens.
#[derive(Clone, Debug)]
enum Change {
    Remove,
    Duplicate,
    Rename,
    Replace(String),
    Nest(usize),
    Text(String),
}

fn change() -> impl Strategy<Value = Change> {
    let other_types = prop::sample::select(vec![
        "null",
        "true",
        "[]",
        "{}",
        "\"\"",
        "0",
        "-1",
        "1.5",
        "1e400",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "[[[]]]",
        "99999999999999999999999999999999999999999999999999",
        "{\"kind\":\"unknown\"}",
        "\"AA==\"",
    ]);
    prop_oneof![
        3 => Just(Change::Remove),
        3 => Just(Change::Duplicate),
        1 => Just(Change::Rename),
        5 => other_types.prop_map(|json| Change::Replace(json.to_owned())),
        1 => (1..3000_usize).prop_map(Change::Nest),
        2 => ".{0,40}".prop_map(Change::Text),
    ]
}

/// Applies a change at the `at`-th place of a JSON value, and writes the whole as text: some
/// mutants (a field twice, numbers beyond any range) exist as text only.
fn mutated(value: &Value, at: Index, change: &Change) -> String {
    let mut target = at.index(places(value));
    let mut out = String::new();
    write(value, &mut target, change, &mut out);
    out
}

/// How many places a change can happen at: every member of every object and list.
fn places(value: &Value) -> usize {
    let inside = |v: &Value| 1 + places(v);
    match value {
        Value::Object(map) => map.values().map(inside).sum(),
        Value::Array(list) => list.iter().map(inside).sum(),
        _ => 0,
    }
}

fn write(value: &Value, target: &mut usize, change: &Change, out: &mut String) {
    let (open, close, members): (_, _, Vec<(Option<&String>, &Value)>) = match value {
        Value::Object(map) => ('{', '}', map.iter().map(|(k, v)| (Some(k), v)).collect()),
        Value::Array(list) => ('[', ']', list.iter().map(|v| (None, v)).collect()),
        leaf => return out.push_str(&leaf.to_string()),
    };
    out.push(open);
    let mut first = true;
    let mut member = |key: Option<&str>, json: &str, out: &mut String| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        if let Some(key) = key {
            out.push_str(&json!(key).to_string());
            out.push(':');
        }
        out.push_str(json);
    };
    for (key, inner) in members {
        let here = *target == 0;
        *target = target.wrapping_sub(1);
        let key = key.map(String::as_str);
        let plain = inner.to_string();
        if !here {
            let mut inside = String::new();
            write(inner, target, change, &mut inside);
            member(key, &inside, out);
            continue;
        }
        // Spent: no later place may match, whatever the count says.
        *target = usize::MAX / 2;
        match change {
            Change::Remove => {}
            Change::Duplicate => {
                member(key, &plain, out);
                member(key, &plain, out);
            }
            Change::Rename => member(key.map(|_| "renamed"), &plain, out),
            Change::Replace(json) => member(key, json, out),
            Change::Nest(depth) => {
                let nested = format!("{}{plain}{}", "[".repeat(*depth), "]".repeat(*depth));
                member(key, &nested, out);
            }
            Change::Text(text) => member(key, &json!(text).to_string(), out),
        }
    }
    out.push(close);
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn without_a_key_nothing_that_is_believed_changes() {
    let corpus = examples();
    let strategy = (any::<Index>(), any::<Index>(), change());
    let outcome = runner(UNSIGNED_MUTANTS).run(&strategy, |(which, at, change)| {
        let example = &corpus[which.index(corpus.len())];
        let mutant = mutated(&example.envelope, at, &change);
        if let Ok(found) = example.receive(mutant.as_bytes()) {
            prop_assert_eq!(found, example.believed());
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn with_a_key_a_mutant_is_refused_or_reads_back_as_itself() {
    let corpus = examples();
    let strategy = (any::<Index>(), any::<Index>(), change());
    let outcome = runner(SIGNED_MUTANTS).run(&strategy, |(which, at, change)| {
        let example = &corpus[which.index(corpus.len())];
        let payload: Value = serde_json::from_str(&example.payload).unwrap();
        let mutant = mutated(&payload, at, &change);
        reads_back(example, &mutant)
    });
    outcome.unwrap();
}

/// What was understood, written and signed again, is understood as the same.
fn reads_back(example: &Example, payload: &str) -> Result<(), TestCaseError> {
    let keys: Vec<_> = example.signers.iter().collect();
    let Ok((understood, _)) = example.receive(&signed(example, payload, &keys)) else {
        return Ok(());
    };
    let again = example.receive(&signed(example, &understood, &keys));
    prop_assert_eq!(again.map(|(payload, _)| payload), Ok(understood));
    Ok(())
}

fn signed(example: &Example, payload: &str, keys: &[&SigningKey]) -> Vec<u8> {
    let message = pae(&example.payload_type, payload.as_bytes());
    let signatures: Vec<Value> = keys
        .iter()
        .map(|key| {
            json!({
                "keyid": PublicKey::from(*key).id(),
                "sig": Base64(key.sign(&message).to_bytes().to_vec()),
            })
        })
        .collect();
    let envelope = json!({
        "payload": Base64(payload.as_bytes().to_vec()),
        "payloadType": example.payload_type,
        "signatures": signatures,
    });
    envelope.to_string().into_bytes()
}

#[test]
fn a_required_field_that_is_absent_or_null_is_refused() {
    // The fields that have a meaning when they are absent; null means absent to some of them.
    const OPTIONAL: [&str; 10] = [
        "directive_acks",
        "proof",
        "location",
        "clock_offset_ms",
        "verification_wanted",
        "gaps",
        "directives",
        "connections_ack",
        "reason",
        "details",
    ];
    for example in examples() {
        let payload: Value = serde_json::from_str(&example.payload).unwrap();
        let keys: Vec<_> = example.signers.iter().collect();
        for (pointer, name) in fields(&payload, "") {
            // A greeting names a server only when its key is for one.
            let of_a_greeting = name == "server_id" && example.payload_type == Hello::TYPE;
            if OPTIONAL.contains(&name.as_str()) || pointer.contains("/metrics/") || of_a_greeting {
                continue;
            }
            let mut null = payload.clone();
            *null.pointer_mut(&pointer).unwrap() = Value::Null;
            let mut absent = payload.clone();
            let parent = absent
                .pointer_mut(pointer.rsplit_once('/').unwrap().0)
                .unwrap();
            parent.as_object_mut().unwrap().remove(&name);
            for changed in [null, absent] {
                let found = example.receive(&signed(&example, &changed.to_string(), &keys));
                assert!(found.is_err(), "{}: {pointer} of {changed}", example.name);
            }
        }
    }
}

/// The JSON pointers (RFC 6901) of all named fields, except inside free-form details.
fn fields(value: &Value, at: &str) -> Vec<(String, String)> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, inner)| {
                let here = format!("{at}/{name}");
                let inside = if name == "details" || name == "hello" || name == "proof" {
                    Vec::new()
                } else {
                    fields(inner, &here)
                };
                std::iter::once((here, name.clone())).chain(inside)
            })
            .filter(|(_, name)| name != "keyid")
            .collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .flat_map(|(i, inner)| fields(inner, &format!("{at}/{i}")))
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn extra_and_exchanged_signatures_prove_nothing() {
    let stranger = SigningKey::from_bytes(&[0x77; 32]);
    let corpus = examples();
    for example in &corpus {
        let keys: Vec<_> = example.signers.iter().collect();
        let believed = example.believed();
        // A stranger's signature beside the right ones takes nothing away and adds nothing.
        let with_stranger = [&[&stranger], keys.as_slice()].concat();
        let found = example.receive(&signed(example, &example.payload, &with_stranger));
        assert_eq!(found, Ok(believed), "{}", example.name);
        assert!(
            example
                .receive(&signed(example, &example.payload, &[&stranger]))
                .is_err()
        );
        // A missing one of two is refused.
        for key in keys.iter().filter(|_| keys.len() > 1) {
            assert!(
                example
                    .receive(&signed(example, &example.payload, &[key]))
                    .is_err()
            );
        }
        // The signatures of every other message say nothing about this one.
        for other in corpus
            .iter()
            .filter(|other| other.payload != example.payload)
        {
            let mut exchanged = example.envelope.clone();
            exchanged["signatures"] = other.envelope["signatures"].clone();
            assert!(example.receive(exchanged.to_string().as_bytes()).is_err());
        }
    }
}

#[test]
fn deep_nesting_ends_in_a_refusal_and_not_on_the_stack() {
    for open in ["[", "{\"payload\":", "{\"signatures\":["] {
        let deep = open.repeat(200_000 / open.len());
        for example in examples().iter().take(2) {
            assert!(example.receive(deep.as_bytes()).is_err());
        }
    }
    for example in examples() {
        let keys: Vec<_> = example.signers.iter().collect();
        let deep = "[".repeat(100_000);
        assert!(example.receive(&signed(&example, &deep, &keys)).is_err());
    }
}
