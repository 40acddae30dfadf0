//! `dsse.json`: the pre-authentication encoding, and envelopes with what a receiver makes of them.

use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vpn_node_protocol::encoding::Base64;
use vpn_node_protocol::envelope::{Envelope, EnvelopeError, Payload, pae};
use vpn_node_protocol::keys::PublicKey;

use crate::support::{
    as_json, cases, error_name, held, hex, identity, keys, online, public, text, unhex,
};

const LIMIT: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    text: String,
}

impl Payload for Note {
    const TYPE: &'static str = "application/vnd.vpn-node.note.v1+json";
}

/// A text whose base64 has both characters in which the alphabets differ.
fn note() -> Note {
    Note {
        text: "~~~???\u{ff}".into(),
    }
}

fn signed(keys: &[&SigningKey]) -> Value {
    as_json(&Envelope::sign(&note(), keys))
}

fn base64(bytes: &[u8]) -> Value {
    json!(Base64(bytes.to_vec()))
}

/// An envelope over bytes that are not what the type says.
fn signed_bytes(payload: &[u8]) -> Value {
    let message = pae(Note::TYPE, payload);
    json!({
        "payload": base64(payload),
        "payloadType": Note::TYPE,
        "signatures": [{
            "keyid": PublicKey::from(&identity()).id(),
            "sig": base64(&identity().sign(&message).to_bytes()),
        }],
    })
}

fn pae_cases() -> Vec<Value> {
    let case = |name: &str, payload_type: &str, payload: &[u8]| {
        json!({
            "name": name,
            "type": payload_type,
            "payload": hex(payload),
            "pae": hex(&pae(payload_type, payload)),
        })
    };
    vec![
        case(
            "published in DSSE's protocol.md",
            "http://example.com/HelloWorld",
            b"hello world",
        ),
        case("nothing", "", b""),
        case(
            "lengths are of bytes, not of characters",
            "caf\u{e9}",
            "\u{1f511}".as_bytes(),
        ),
        case("a payload that looks like another field", "a", b" 3 b 1 c"),
        case(
            "bytes that are no text",
            "application/octet-stream",
            &[0, 0xff, 0x0a],
        ),
    ]
}

fn envelope_cases() -> Vec<Value> {
    let good = signed(&[&identity()]);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut json = good.clone();
        change(&mut json);
        json.to_string()
    };
    let url_safe = |value: &mut Value| {
        *value = value
            .as_str()
            .unwrap()
            .replace('+', "-")
            .replace('/', "_")
            .into();
    };
    let flip = |value: &mut Value, at: usize| {
        let mut bytes: Base64 = serde_json::from_value(value.clone()).unwrap();
        bytes.0[at] ^= 1;
        *value = json!(bytes);
    };
    let both = signed(&[&online(), &identity()]).to_string();
    let text = good.to_string();
    let five = with(&|e| {
        let one = e["signatures"][0].clone();
        e["signatures"] = vec![one; 5].into();
    });
    let published = r#"{"payload": "aGVsbG8gd29ybGQ=", "payloadType": "http://example.com/HelloWorld", "signatures": [{"sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}"#;
    [
        ("one signature", "ok", text.clone()),
        ("two signatures, ours second", "ok", both.clone()),
        (
            "empty key id",
            "ok",
            with(&|e| e["signatures"][0]["keyid"] = "".into()),
        ),
        (
            "no key id",
            "ok",
            with(&|e| {
                e["signatures"][0].as_object_mut().unwrap().remove("keyid");
            }),
        ),
        (
            "URL-safe base64",
            "ok",
            with(&|e| {
                url_safe(&mut e["payload"]);
                url_safe(&mut e["signatures"][0]["sig"]);
            }),
        ),
        (
            "unknown fields, which are not signed",
            "ok",
            with(&|e| e["comment"] = "hello".into()),
        ),
        ("white space around", "ok", format!("\n {text} \r\n")),
        (
            "signature of another key only",
            "bad_signature",
            signed(&[&online()]).to_string(),
        ),
        (
            "key id of another key",
            "bad_signature",
            with(&|e| {
                e["signatures"][0]["keyid"] = json!(PublicKey::from(&online()).id());
            }),
        ),
        (
            "two signatures swapped between their keys",
            "bad_signature",
            {
                let mut e: Value = serde_json::from_str(&both).unwrap();
                let first = e["signatures"][0]["sig"].take();
                let second = e["signatures"][1]["sig"].take();
                e["signatures"][0]["sig"] = second;
                e["signatures"][1]["sig"] = first;
                e.to_string()
            },
        ),
        (
            "payload flipped",
            "bad_signature",
            with(&|e| flip(&mut e["payload"], 9)),
        ),
        (
            "signature flipped",
            "bad_signature",
            with(&|e| flip(&mut e["signatures"][0]["sig"], 9)),
        ),
        (
            "signature with S of the next round",
            "bad_signature",
            with(&|e| {
                add_order(&mut e["signatures"][0]["sig"]);
            }),
        ),
        (
            "signature cut short",
            "bad_signature",
            with(&|e| {
                e["signatures"][0]["sig"] = base64(&[7; 63]);
            }),
        ),
        (
            "empty signature",
            "bad_signature",
            with(&|e| e["signatures"][0]["sig"] = "".into()),
        ),
        (
            "another type",
            "wrong_type",
            with(&|e| {
                e["payloadType"] = "application/vnd.vpn-node.note.v2+json".into();
            }),
        ),
        (
            "type in capitals",
            "wrong_type",
            text.replace("note.v1", "NOTE.v1"),
        ),
        (
            "published in DSSE's protocol.md: ECDSA, another type",
            "wrong_type",
            published.into(),
        ),
        (
            "no signature",
            "not_an_envelope",
            with(&|e| e["signatures"] = json!([])),
        ),
        ("five signatures", "not_an_envelope", five),
        (
            "base64 without padding",
            "not_an_envelope",
            with(&|e| {
                e["signatures"][0]["sig"] = e["signatures"][0]["sig"]
                    .as_str()
                    .unwrap()
                    .trim_end_matches('=')
                    .into();
            }),
        ),
        (
            "both alphabets in one text",
            "not_an_envelope",
            with(&|e| e["payload"] = "+/-_".into()),
        ),
        (
            "payload twice",
            "not_an_envelope",
            text.replacen('{', r#"{"payload":"e30=","#, 1),
        ),
        (
            "payload absent",
            "not_an_envelope",
            with(&|e| {
                e.as_object_mut().unwrap().remove("payload");
            }),
        ),
        (
            "payload as an object",
            "not_an_envelope",
            with(&|e| e["payload"] = json!({"text": "x"})),
        ),
        (
            "something follows",
            "not_an_envelope",
            format!("{text}{text}"),
        ),
        (
            "cut short",
            "not_an_envelope",
            text[..text.len() - 1].into(),
        ),
        (
            "too large",
            "too_large",
            format!("{text}{}", " ".repeat(LIMIT)),
        ),
        (
            "signed, but no JSON",
            "bad_payload",
            signed_bytes(b"hello").to_string(),
        ),
        (
            "signed, but a field is absent",
            "bad_payload",
            signed_bytes(b"{}").to_string(),
        ),
        (
            "signed, but a field stands twice",
            "bad_payload",
            signed_bytes(br#"{"text":"a","text":"b"}"#).to_string(),
        ),
    ]
    .map(|(name, result, json)| match result {
        "ok" => json!({
            "name": name, "result": result, "json": json,
            "payload": serde_json::to_string(&note()).unwrap(),
            "digest": Envelope::sign(&note(), &[&identity()]).digest(),
        }),
        _ => json!({"name": name, "result": result, "json": json}),
    })
    .into()
}

/// S + L is the same scalar, written differently (RFC 8032 section 5.1.7 forbids it).
fn add_order(signature: &mut Value) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut bytes: Base64 = serde_json::from_value(signature.clone()).unwrap();
    let mut carry = 0;
    for (byte, add) in bytes.0[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    *signature = json!(bytes);
}

#[test]
fn dsse_json() {
    let file = held(
        "dsse.json",
        json!({
            "keys": keys(),
            "verify_with": "identity",
            "expected_type": Note::TYPE,
            "limit": LIMIT,
            "pae": pae_cases(),
            "envelopes": envelope_cases(),
        }),
    );
    for case in cases(&file, "pae") {
        let found = pae(text(case, "type"), &unhex(&case["payload"]));
        assert_eq!(found, unhex(&case["pae"]), "{}", case["name"]);
    }
    assert_eq!(
        unhex(&file["pae"][0]["pae"]),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
    let key = public(&file, text(&file, "verify_with"));
    for case in cases(&file, "envelopes") {
        let read = Envelope::parse(text(case, "json").as_bytes(), LIMIT);
        let opened = read.and_then(|read| {
            let payload = read.verify(Note::TYPE, &key)?.to_vec();
            let _: Note = read.open(&key)?;
            Ok((payload, read.digest()))
        });
        match opened {
            Ok((payload, digest)) => {
                assert_eq!(text(case, "result"), "ok", "{}", case["name"]);
                assert_eq!(payload, text(case, "payload").as_bytes());
                assert_eq!(digest.to_string(), text(case, "digest"));
            }
            Err(error) => {
                assert_eq!(
                    text(case, "result"),
                    error_name(&error),
                    "{}: {error}",
                    case["name"]
                );
                assert!(!matches!(error, EnvelopeError::NotAnEnvelope(ref why) if why.is_empty()));
            }
        }
    }
}
