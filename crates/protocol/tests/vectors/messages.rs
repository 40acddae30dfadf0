//! `messages.json`: one signed example of each payload type.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::encoding::{Base64, Digest};
use vpn_node_protocol::enrolment::{EnrolReply, EnrolRequest, Hello};
use vpn_node_protocol::envelope::{Envelope, EnvelopeError, Payload, pae};
use vpn_node_protocol::identity::{Introduction, IntroductionReply, Rotate, Witness};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits;
use vpn_node_protocol::message::{
    ChallengeAnswer, ConnectionBatch, Heartbeat, Message, Poll, PollReply, Refusal, Reply,
    SealedRecord,
};
use vpn_node_protocol::sealing::{OVERHEAD_BYTES, Sealed};

use crate::examples;
use crate::support::{
    as_json, cases, envelope, held, identity, keys, next_identity, online, public, registration,
    root, text,
};

fn example<P: Payload>(name: &str, payload: &P, signed_by: &[&str]) -> Value {
    let all: [(&str, SigningKey); 5] = [
        ("root", root()),
        ("online", online()),
        ("identity", identity()),
        ("next_identity", next_identity()),
        ("registration", registration()),
    ];
    let key = |name: &&str| &all.iter().find(|(known, _)| known == name).unwrap().1;
    let signed = Envelope::sign(payload, &signed_by.iter().map(key).collect::<Vec<_>>());
    json!({
        "name": name,
        "type": P::TYPE,
        "signed_by": signed_by,
        "payload": serde_json::to_string(payload).unwrap(),
        "digest": signed.digest(),
        "envelope": as_json(&signed),
    })
}

fn built() -> Value {
    let both = ["registration", "identity"];
    let rotates = ["identity", "next_identity"];
    json!({
        "keys": keys(),
        "messages": [
            example("certificate", &examples::certificate(), &["root"]),
            example("enrol-hello", &examples::hello(), &["online"]),
            example("enrol-hello, for an enrolled server", &examples::hello_again(), &["online"]),
            example("enrol-request", &examples::enrol_request(), &both),
            example("enrol-reply", &examples::enrol_reply(), &["online"]),
            example("enrol-reply, refused", &examples::enrol_refusal(), &["online"]),
            example("heartbeat", &examples::heartbeat(), &["identity"]),
            example("challenge-answer", &examples::challenge_answer(), &["identity"]),
            example("connections, with proof and gap", &examples::connections(), &["identity"]),
            example("reply, with a directive", &examples::reply(), &["online"]),
            example("reply to connections", &examples::connections_reply(), &["online"]),
            example("refusal", &examples::refusal(), &["online"]),
            example("directive", &examples::directive(), &["online"]),
            example("poll", &examples::poll(), &["identity"]),
            example("poll-reply", &examples::poll_reply(), &["online"]),
            example("directive, rotate", &examples::rotate_directive(), &["online"]),
            example("rotate", &examples::rotate(), &rotates),
            example("introduction", &examples::introduction(), &["next_identity"]),
            example("introduction-reply", &examples::introduction_reply(), &["online"]),
            example("witness", &examples::witness(), &["identity"]),
        ],
    })
}

/// Opens by type, and writes what was understood again.
fn reopened(
    payload_type: &str,
    envelope: &Envelope,
    key: &PublicKey,
) -> Result<String, EnvelopeError> {
    fn as_kind<P: Payload>(envelope: &Envelope, key: &PublicKey) -> Result<String, EnvelopeError> {
        Ok(serde_json::to_string(&envelope.open::<P>(key)?).unwrap())
    }
    match payload_type {
        ControllerCertificate::TYPE => as_kind::<ControllerCertificate>(envelope, key),
        Hello::TYPE => as_kind::<Hello>(envelope, key),
        EnrolRequest::TYPE => as_kind::<EnrolRequest>(envelope, key),
        EnrolReply::TYPE => as_kind::<EnrolReply>(envelope, key),
        <Message<Heartbeat> as Payload>::TYPE => as_kind::<Message<Heartbeat>>(envelope, key),
        <Message<ChallengeAnswer> as Payload>::TYPE => {
            as_kind::<Message<ChallengeAnswer>>(envelope, key)
        }
        <Message<ConnectionBatch> as Payload>::TYPE => {
            as_kind::<Message<ConnectionBatch>>(envelope, key)
        }
        Reply::TYPE => as_kind::<Reply>(envelope, key),
        Refusal::TYPE => as_kind::<Refusal>(envelope, key),
        Directive::TYPE => as_kind::<Directive>(envelope, key),
        Poll::TYPE => as_kind::<Poll>(envelope, key),
        PollReply::TYPE => as_kind::<PollReply>(envelope, key),
        <Message<Rotate> as Payload>::TYPE => as_kind::<Message<Rotate>>(envelope, key),
        Introduction::TYPE => as_kind::<Introduction>(envelope, key),
        IntroductionReply::TYPE => as_kind::<IntroductionReply>(envelope, key),
        Witness::TYPE => as_kind::<Witness>(envelope, key),
        other => panic!("no kind {other}"),
    }
}

#[test]
fn messages_json() {
    let file = held("messages.json", built());
    let mut kinds = BTreeSet::new();
    for case in cases(&file, "messages") {
        let payload_type = text(case, "type");
        let payload = text(case, "payload");
        let envelope = envelope(&case["envelope"]);
        kinds.insert(payload_type);
        let hashed = Digest::of(&[&pae(payload_type, payload.as_bytes())]);
        assert_eq!(hashed.to_string(), text(case, "digest"));
        assert_eq!(envelope.digest(), hashed);
        for signer in cases(case, "signed_by") {
            let key = public(&file, signer.as_str().unwrap());
            assert_eq!(reopened(payload_type, &envelope, &key).unwrap(), payload);
        }
    }
    assert_eq!(kinds.len(), 16, "one example of each kind: {kinds:#?}");
}

#[test]
fn a_message_of_one_kind_is_never_taken_for_another() {
    let file = built();
    for case in cases(&file, "messages") {
        let key = public(&file, case["signed_by"][0].as_str().unwrap());
        for other in cases(&file, "messages") {
            if other["type"] == case["type"] {
                continue;
            }
            let as_other = reopened(text(other, "type"), &envelope(&case["envelope"]), &key);
            assert!(matches!(as_other, Err(EnvelopeError::WrongType { .. })));
            // Renamed, it is no longer what was signed.
            let mut renamed = case["envelope"].clone();
            renamed["payloadType"] = other["type"].clone();
            let as_other = reopened(text(other, "type"), &envelope(&renamed), &key);
            assert!(matches!(as_other, Err(EnvelopeError::BadSignature { .. })));
        }
    }
}

#[test]
fn a_directive_of_a_newer_controller_reads_as_unknown() {
    let mut json = serde_json::to_value(examples::directive()).unwrap();
    json["action"] = json!({"kind": "install", "release": {"version": "9.0.0"}});
    let read: Directive = serde_json::from_value(json).unwrap();
    assert_eq!(read.action, Action::Unknown);
    assert_eq!(read.id, examples::directive().id);
}

#[test]
fn a_full_batch_with_proof_fits_the_request_limit() {
    let mut full = examples::connections();
    let record = limits::MAX_BATCH_BYTES / limits::MAX_BATCH_RECORDS;
    let mut bytes = vec![0; record];
    bytes[0] = 1;
    full.body.records = (0..limits::MAX_BATCH_RECORDS as u64)
        .map(|seq| SealedRecord {
            seq: u64::MAX - seq,
            sealed: Sealed::from_bytes(bytes.clone()).unwrap(),
        })
        .collect();
    full.body.gaps = vec![full.body.gaps[0].clone(); limits::MAX_GAPS];
    full.header.directive_acks = vec![
        examples::challenge_answer().header.directive_acks[0].clone();
        limits::MAX_DIRECTIVE_ACKS
    ];
    let mut proof = examples::reply();
    proof.directives = vec![proof.directives[0].clone(); limits::MAX_DIRECTIVES];
    full.header.proof = Some(Box::new(Envelope::sign(&proof, &[&online()])));
    let size = Envelope::sign(&full, &[&identity()]).to_json().len();
    assert!(
        record > OVERHEAD_BYTES && size <= limits::MAX_REQUEST_BYTES,
        "{size} bytes"
    );
}

#[test]
fn the_largest_enrolment_fits_its_limit() {
    let mut request = examples::enrol_request();
    let text = "\u{1f511}".repeat(limits::MAX_TEXT_BYTES / 4);
    (request.version, request.hostname) = (text.clone(), text.clone());
    (request.os_version, request.location) = (text.clone(), Some(text));
    let mut sealed = vec![1; 8 * 1024 + OVERHEAD_BYTES];
    sealed[1..9].fill(0);
    request.hardware = serde_json::from_value(json!(Base64(sealed))).unwrap();
    let size = Envelope::sign(&request, &[&registration(), &identity()])
        .to_json()
        .len();
    assert!(size <= limits::MAX_ENROLMENT_BYTES / 2, "{size} bytes");
}

#[test]
fn the_longest_introduction_fits_the_request_limit() {
    let mut longest = examples::introduction();
    let one = &mut longest.rotations[0];
    let mut reply: Reply = one.reply.open(&(&online()).into()).unwrap();
    let directive = Envelope::sign(&examples::directive(), &[&online()]);
    reply.directives = vec![directive; 2];
    reply.standing.reason = Some("r".repeat(512));
    one.reply = Envelope::sign(&reply, &[&online()]);
    longest.rotations = vec![one.clone(); limits::MAX_ROTATIONS];
    let size = Envelope::sign(&longest, &[&next_identity()])
        .to_json()
        .len();
    assert!(size <= limits::MAX_REQUEST_BYTES, "{size} bytes");
}
