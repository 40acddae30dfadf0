//! `certificate.json`: which certificates an agent takes, and which keys of them at which time.

use serde_json::{Value, json};
use vpn_node_protocol::certificate::{
    CertificateError, ControllerCertificate, SigningKeyEntry, Validity,
};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::Refusal;

use crate::examples::{self, NOW, sealing_entry};
use crate::support::{as_json, cases, envelope, held, hex, identity, keys, online, root, text};

const START: i64 = NOW - 1000;
const END: i64 = NOW + 1000;

/// Two online keys, the second of which follows the first.
fn certificate() -> ControllerCertificate {
    let span = |not_before_ms, not_after_ms| Validity {
        not_before_ms,
        not_after_ms,
    };
    let entry = |key, validity| SigningKeyEntry { key, validity };
    let mut old = sealing_entry();
    old.validity = span(START, END + 5000);
    let mut new = examples::sealing_entry();
    new.validity = span(END, END + 5000);
    (new.key.0, new.id) = newer_sealing_key();
    ControllerCertificate {
        serial: 7,
        signing_keys: vec![
            entry((&online()).into(), span(START, END)),
            entry((&identity()).into(), span(END, END + 1000)),
        ],
        sealing_keys: vec![old, new],
        ..examples::certificate()
    }
}

fn newer_sealing_key() -> (Vec<u8>, vpn_node_protocol::encoding::Hex<8>) {
    let newer = vpn_node_protocol::sealing::SealingSecret::from_bytes(&[8; 32]);
    (newer.public().to_vec(), newer.id())
}

fn opened() -> Vec<Value> {
    let pin = PublicKey::from(&root()).id();
    let other_pin = PublicKey::from(&online()).id();
    let good = as_json(&Envelope::sign(&certificate(), &[&root()]));
    let forged = as_json(&Envelope::sign(&certificate(), &[&online()]));
    // Another root that names itself: well signed, and still not ours.
    let mut own = certificate();
    own.root = (&online()).into();
    let own = as_json(&Envelope::sign(&own, &[&online()]));
    let mut later = good.clone();
    later["payload"] =
        as_json(&Envelope::sign(&examples::certificate(), &[&root()]))["payload"].clone();
    let wrong_type = as_json(&examples::signed_hello());
    [
        ("pinned root, first certificate", "ok", &good, pin, 0),
        ("pinned root, the same certificate again", "ok", &good, pin, 7),
        ("an older one than was seen", "older", &good, pin, 8),
        ("another pin", "wrong_root", &good, other_pin, 0),
        ("another root that certifies itself", "wrong_root", &own, pin, 0),
        ("signed by an online key", "unsigned", &forged, pin, 0),
        ("payload exchanged", "unsigned", &later, pin, 0),
        ("a greeting in its place", "unsigned", &wrong_type, pin, 0),
    ]
    .map(|(name, result, envelope, pin, known)| {
        json!({"name": name, "result": result, "envelope": envelope, "pin": pin, "known_serial": known})
    })
    .into()
}

fn signed() -> Vec<Value> {
    let at = |ms: i64, keys: &[&ed25519_dalek::SigningKey]| {
        let refusal = Refusal {
            controller_time_ms: ms,
            ..examples::refusal()
        };
        as_json(&Envelope::sign(&refusal, keys))
    };
    let unnamed = |mut envelope: Value| {
        envelope["signatures"][0]["keyid"] = "".into();
        envelope
    };
    let (first, second) = (online(), identity());
    let mut changed = at(NOW, &[&first]);
    changed["payload"] = at(NOW + 1, &[&first])["payload"].clone();
    [
        ("first instant", "ok", at(START, &[&first]), 0),
        ("last instant", "ok", at(END - 1, &[&first]), 0),
        ("the key that follows", "ok", at(END, &[&second]), 0),
        ("without a key id", "ok", unnamed(at(END, &[&second])), 0),
        ("behind a stranger's signature", "ok", at(NOW, &[&root(), &first]), 0),
        ("before it was valid", "no_signing_key", at(START - 1, &[&first]), 0),
        ("when it was over", "no_signing_key", at(END, &[&first]), 0),
        ("the key that follows, too early", "no_signing_key", at(NOW, &[&second]), 0),
        ("states an old time, but a later one was seen", "no_signing_key", at(NOW, &[&first]), END),
        ("the root itself", "no_signing_key", at(NOW, &[&root()]), 0),
        ("payload exchanged", "unsigned", changed, 0),
    ]
    .map(|(name, result, envelope, floor)| {
        json!({"name": name, "result": result, "envelope": envelope, "floor_ms": floor})
    })
    .into()
}

fn sealing_keys() -> Vec<Value> {
    [START - 1, START, END - 1, END, END + 4999, END + 5000]
        .map(|at_ms| {
            let id = certificate().sealing_key(at_ms).ok().map(|entry| entry.id);
            json!({"at_ms": at_ms, "id": id})
        })
        .into()
}

fn result<T>(opened: &Result<T, CertificateError>) -> &'static str {
    match opened {
        Ok(_) => "ok",
        Err(CertificateError::WrongRoot { .. }) => "wrong_root",
        Err(CertificateError::Unsigned(_)) => "unsigned",
        Err(CertificateError::Older { .. }) => "older",
        Err(CertificateError::NoSigningKey { .. }) => "no_signing_key",
        Err(CertificateError::NoSealingKey { .. }) => "no_sealing_key",
    }
}

#[test]
fn certificate_json() {
    let file = held(
        "certificate.json",
        json!({
            "keys": keys(),
            "pin_is_sha256_of": hex(PublicKey::from(&root()).as_bytes()),
            "certificates": opened(),
            "signed": signed(),
            "sealing_key_at": sealing_keys(),
        }),
    );
    for case in cases(&file, "certificates") {
        let pin = text(case, "pin").parse().unwrap();
        let known = case["known_serial"].as_u64().unwrap();
        let found = ControllerCertificate::open(&envelope(&case["envelope"]), &pin, known);
        assert_eq!(result(&found), text(case, "result"), "{}", case["name"]);
    }
    let first = &file["certificates"][0];
    let pin = text(first, "pin").parse().unwrap();
    let taken = ControllerCertificate::open(&envelope(&first["envelope"]), &pin, 0).unwrap();
    for case in cases(&file, "signed") {
        let floor = case["floor_ms"].as_i64().unwrap();
        let found = taken.open_signed(&envelope(&case["envelope"]), floor, |refusal: &Refusal| {
            refusal.controller_time_ms
        });
        assert_eq!(result(&found), text(case, "result"), "{}", case["name"]);
    }
    for case in cases(&file, "sealing_key_at") {
        let found = taken.sealing_key(case["at_ms"].as_i64().unwrap());
        assert_eq!(
            json!(found.ok().map(|entry| entry.id)),
            case["id"],
            "{case}"
        );
    }
}
