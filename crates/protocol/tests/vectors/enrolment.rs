//! `enrolment.json`: from the token's secret to both signatures, and greetings that end it.

use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use serde_json::{Value, json};
use sha2::Sha256;
use vpn_node_protocol::encoding::{Digest, Hex, length_prefixed};
use vpn_node_protocol::enrolment::{
    EnrolOutcome, EnrolReply, EnrolRequest, Hello, HelloError, HelloRequest, HelloResponse,
};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::keys::PublicKey;

use crate::examples;
use crate::support::{
    TOKEN_SECRET, as_json, cases, envelope, held, hex, identity, keys, online, public,
    registration, root, text, unhex,
};

fn response(hello: &Hello, certified_by: &SigningKey, signed_by: &SigningKey) -> Value {
    let mut certificate = examples::certificate();
    certificate.root = certified_by.into();
    json!(HelloResponse {
        certificate: Envelope::sign(&certificate, &[certified_by]),
        hello: Envelope::sign(hello, &[signed_by]),
    })
}

fn greetings() -> Vec<Value> {
    let hello = examples::hello();
    let stale = Hello {
        client_nonce: Hex([0x99; 32]),
        ..hello.clone()
    };
    let other_key = Hello {
        registration_key: (&identity()).into(),
        ..hello.clone()
    };
    let long_ago = Hello {
        controller_time_ms: 0,
        ..hello.clone()
    };
    [
        (
            "as it should be",
            "ok",
            response(&hello, &root(), &online()),
        ),
        (
            "of another request",
            "other_request",
            response(&stale, &root(), &online()),
        ),
        (
            "about another registration key",
            "other_request",
            response(&other_key, &root(), &online()),
        ),
        (
            "another controller",
            "certificate",
            response(&hello, &identity(), &online()),
        ),
        (
            "signed by a key that is not certified",
            "certificate",
            response(&hello, &root(), &identity()),
        ),
        (
            "signed by the root",
            "certificate",
            response(&hello, &root(), &root()),
        ),
        (
            "at a time when no key was valid",
            "certificate",
            response(&long_ago, &root(), &online()),
        ),
    ]
    .map(|(name, result, response)| json!({"name": name, "result": result, "response": response}))
    .into()
}

/// What [`transcript`] hashes.
fn hashed(
    hello: &Envelope,
    root: &PublicKey,
    registration: &PublicKey,
    identity: &PublicKey,
) -> Vec<u8> {
    let hello = hello.digest();
    let parts = [
        hello.0.as_slice(),
        root.as_bytes(),
        registration.as_bytes(),
        identity.as_bytes(),
    ];
    [
        b"vpn-node enrolment v1".as_slice(),
        &length_prefixed(&parts),
    ]
    .concat()
}

#[test]
fn enrolment_json() {
    let transcript_bytes = hashed(
        &examples::signed_hello(),
        &(&root()).into(),
        &(&registration()).into(),
        &(&identity()).into(),
    );
    let file = held(
        "enrolment.json",
        json!({
            "keys": keys(),
            "registration": {
                "secret": hex(&TOKEN_SECRET),
                "hkdf_salt": "vpn-node registration v1",
                "hkdf_info": "ed25519 seed",
                "seed": hex(registration().as_bytes()),
            },
            "pin": PublicKey::from(&root()).id(),
            "hello_request": examples::hello_request(),
            "greetings": greetings(),
            "transcript": {
                "hello_digest": examples::signed_hello().digest(),
                "hashed": hex(&transcript_bytes),
                "value": examples::enrol_request().transcript,
            },
            "enrol_request": as_json(&examples::signed_enrol_request()),
            "enrol_request_digest": examples::signed_enrol_request().digest(),
            "enrol_replies": [
                as_json(&Envelope::sign(&examples::enrol_reply(), &[&online()])),
                as_json(&Envelope::sign(&examples::enrol_refusal(), &[&online()])),
            ],
        }),
    );
    registration_key_of(&file);
    let hello = greeted(&file);
    enrolled(&file, &hello);
}

fn registration_key_of(file: &Value) {
    let case = &file["registration"];
    let mut seed = [0; 32];
    Hkdf::<Sha256>::new(
        Some(text(case, "hkdf_salt").as_bytes()),
        &unhex(&case["secret"]),
    )
    .expand(text(case, "hkdf_info").as_bytes(), &mut seed)
    .unwrap();
    assert_eq!(hex(&seed), text(case, "seed"));
    let key = PublicKey::from(&SigningKey::from_bytes(&seed));
    assert_eq!(key, public(file, "registration"));
}

/// Judges each greeting, and gives back the good one's envelope.
fn greeted(file: &Value) -> Envelope {
    let request: HelloRequest = serde_json::from_value(file["hello_request"].clone()).unwrap();
    let pin = text(file, "pin").parse().unwrap();
    for case in cases(file, "greetings") {
        let response: HelloResponse = serde_json::from_value(case["response"].clone()).unwrap();
        let found = match response.open(&request, &pin) {
            Ok(_) => "ok",
            Err(HelloError::Certificate(_)) => "certificate",
            Err(HelloError::OtherRequest) => "other_request",
        };
        assert_eq!(found, text(case, "result"), "{}", case["name"]);
    }
    envelope(&file["greetings"][0]["response"]["hello"])
}

fn enrolled(file: &Value, hello: &Envelope) {
    let signed = envelope(&file["enrol_request"]);
    let request: EnrolRequest = signed.open(&public(file, "registration")).unwrap();
    assert_eq!(
        signed
            .open::<EnrolRequest>(&public(file, "identity"))
            .unwrap(),
        request
    );
    assert_eq!(request.hello, *hello);
    let (root, registration) = (public(file, "root"), public(file, "registration"));
    let bytes = hashed(hello, &root, &registration, &request.identity_key);
    assert_eq!(hex(&bytes), text(&file["transcript"], "hashed"));
    assert_eq!(Digest::of(&[&bytes]), request.transcript);
    assert_eq!(
        request.transcript.to_string(),
        text(&file["transcript"], "value")
    );
    assert_eq!(
        signed.digest().to_string(),
        text(file, "enrol_request_digest")
    );

    let replies = cases(file, "enrol_replies").iter().map(|reply| {
        let reply: EnrolReply = envelope(reply).open(&public(file, "online")).unwrap();
        assert_eq!(reply.request_digest, signed.digest());
        matches!(reply.outcome, EnrolOutcome::Enrolled { .. })
    });
    assert_eq!(replies.collect::<Vec<_>>(), [true, false]);
}
