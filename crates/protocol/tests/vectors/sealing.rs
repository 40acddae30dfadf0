//! `sealing.json`: sealed bytes with a known generator, and what must not open.

use serde_json::{Value, json};
use vpn_node_protocol::certificate::SealingKeyEntry;
use vpn_node_protocol::connection::ConnectionRecord;
use vpn_node_protocol::encoding::{Base64, Digest, Hex, length_prefixed};
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::sealing::{Context, SealError, Sealed, SealingSecret};

use crate::examples::{components, sealing_entry};
use crate::support::{
    EPHEMERAL_IKM, Fixed, SEALING_SECRET, cases, held, hex, identity, sealing, text, unhex,
};

/// A record as the agent writes it; the controller reads these bytes after it has opened them.
const RECORD: &str = r#"{"connection_id":"01920000-0000-7000-8000-000000000001","event":{"kind":"end","reason":"timeout","confidence":"inferred","uncertainty_ms":5000},"at":{"boot_id":"00000000-0000-4000-8000-000000000001","boottime_ms":70000,"wall_ms":1790000060000,"offset_ms":-250},"started":{"boot_id":"00000000-0000-4000-8000-000000000001","boottime_ms":10000,"wall_ms":1790000000000,"offset_ms":-250},"backend":"wireguard","instance":"wg0","identity":{"kind":"wireguard","value":"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="},"client_ip":"2001:db8::7","client_port":51820,"virtual_ips":["10.0.0.2/32"],"rx_bytes":1024,"tx_bytes":4096}"#;

/// A context as the file shows it.
struct Place(Value);

impl Place {
    /// The context, built from the file by `docs/protocol.md`.
    fn with<R>(&self, then: impl FnOnce(Context<'_>) -> R) -> R {
        if text(&self.0, "kind") == "hardware" {
            let identity = text(&self.0, "identity").parse().unwrap();
            return then(Context::Hardware {
                identity: &identity,
            });
        }
        then(Context::Connection {
            server_id: text(&self.0, "server_id"),
            ledger_epoch: &text(&self.0, "ledger_epoch").parse().unwrap(),
            sequence: self.0["sequence"].as_u64().unwrap(),
        })
    }

    /// The additional data, by the document and not by the code under test.
    fn aad(&self, key_id: &[u8]) -> Vec<u8> {
        let header = [&[1], key_id].concat();
        let kind = text(&self.0, "kind").as_bytes();
        if kind == b"hardware" {
            return length_prefixed(&[&header, kind, &unhex(&self.0["identity"])]);
        }
        length_prefixed(&[
            &header,
            kind,
            text(&self.0, "server_id").as_bytes(),
            &unhex(&self.0["ledger_epoch"]),
            &self.0["sequence"].as_u64().unwrap().to_be_bytes(),
        ])
    }
}

fn hardware(identity: Digest) -> Value {
    json!({"kind": "hardware", "identity": identity})
}

fn connection(server_id: &str, epoch: u8, sequence: u64) -> Value {
    json!({
        "kind": "connection",
        "server_id": server_id,
        "ledger_epoch": Hex([epoch; 16]),
        "sequence": sequence,
    })
}

fn seal(name: &str, context: Value, plaintext: &str) -> Value {
    let sealed = Place(context.clone()).with(|context| {
        Sealed::seal(
            &sealing_entry(),
            context,
            plaintext.as_bytes(),
            &mut Fixed(EPHEMERAL_IKM),
        )
    });
    json!({
        "name": name,
        "context": context,
        "plaintext": plaintext,
        "aad": hex(&Place(context.clone()).aad(&sealing().id().0)),
        "sealed": sealed.unwrap(),
    })
}

fn refused(sealed: &Value) -> Vec<Value> {
    let bytes: Base64 = serde_json::from_value(sealed.clone()).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes.0);
        json!(bytes)
    };
    let here = connection("srv-1", 7, 42);
    [
        ("another server", "does_not_open", connection("srv-2", 7, 42), sealed.clone()),
        ("another ledger", "does_not_open", connection("srv-1", 8, 42), sealed.clone()),
        ("another place", "does_not_open", connection("srv-1", 7, 43), sealed.clone()),
        ("another kind", "does_not_open", hardware(PublicKey::from(&identity()).id()), sealed.clone()),
        ("key id changed", "does_not_open", here.clone(), changed(&|b| b[1] ^= 1)),
        ("encapsulated key changed", "does_not_open", here.clone(), changed(&|b| b[9] ^= 1)),
        ("encapsulated key of small order", "does_not_open", here.clone(), changed(&|b| b[9..41].fill(0))),
        ("ciphertext changed", "does_not_open", here.clone(), changed(&|b| b[41] ^= 1)),
        ("tag changed", "does_not_open", here.clone(), changed(&|b| *b.last_mut().unwrap() ^= 1)),
        ("one byte less", "does_not_open", here.clone(), changed(&|b| b.truncate(b.len() - 1))),
        ("one byte more", "does_not_open", here.clone(), changed(&|b| b.push(0))),
        ("version 2", "damaged", here.clone(), changed(&|b| b[0] = 2)),
        ("shorter than header and tag", "damaged", here.clone(), changed(&|b| b.truncate(56))),
        ("nothing", "damaged", here, json!("")),
    ]
    .map(|(name, error, context, sealed)| {
        json!({"name": name, "error": error, "context": context, "sealed": sealed})
    })
    .into()
}

fn error_name(error: &SealError) -> &'static str {
    match error {
        SealError::BadKey(_) => "bad_key",
        SealError::Damaged => "damaged",
        SealError::DoesNotOpen(_) => "does_not_open",
    }
}

fn open(secret: &SealingSecret, case: &Value) -> Result<Vec<u8>, SealError> {
    let bytes: Base64 = serde_json::from_value(case["sealed"].clone()).unwrap();
    let sealed = Sealed::from_bytes(bytes.0)?;
    Place(case["context"].clone()).with(|context| secret.open(&sealed, context).map(|p| p.to_vec()))
}

#[test]
fn sealing_json() {
    let fingerprint = serde_json::to_string(&components()).unwrap();
    let record = seal("a connection record", connection("srv-1", 7, 42), RECORD);
    let file = held(
        "sealing.json",
        json!({
            "secret": hex(&SEALING_SECRET),
            "public": hex(sealing().public()),
            "key_id": sealing().id(),
            "info": hex(b"vpn-node sealing v1"),
            "ephemeral_ikm": hex(&EPHEMERAL_IKM),
            "refused": refused(&record["sealed"]),
            "sealed": [
                record,
                seal("hardware", hardware(PublicKey::from(&identity()).id()), &fingerprint),
                seal("nothing", connection("srv-1", 7, 0), ""),
                seal("the largest sequence", connection("srv-1", 7, u64::MAX), "x"),
            ],
        }),
    );
    let secret = SealingSecret::from_bytes(&unhex(&file["secret"]).try_into().unwrap());
    assert_eq!(hex(secret.public()), text(&file, "public"));
    assert_eq!(secret.id().to_string(), text(&file, "key_id"));
    for case in cases(&file, "sealed") {
        assert_eq!(
            open(&secret, case).unwrap(),
            text(case, "plaintext").as_bytes()
        );
        let bytes: Base64 = serde_json::from_value(case["sealed"].clone()).unwrap();
        assert_eq!(
            opened_by_hand(&file, case, &bytes.0),
            text(case, "plaintext").as_bytes()
        );
    }
    for case in cases(&file, "refused") {
        let error = open(&secret, case).unwrap_err();
        assert_eq!(error_name(&error), text(case, "error"), "{}", case["name"]);
    }
    let record: ConnectionRecord =
        serde_json::from_str(text(&file["sealed"][0], "plaintext")).unwrap();
    assert_eq!(serde_json::to_string(&record).unwrap(), RECORD);
    let fingerprint: Components =
        serde_json::from_str(text(&file["sealed"][1], "plaintext")).unwrap();
    assert_eq!(fingerprint, components());
}

/// The layout of `docs/protocol.md` with nothing but HPKE and the file.
fn opened_by_hand(file: &Value, case: &Value, sealed: &[u8]) -> Vec<u8> {
    use hpke::{Deserializable, Kem, OpModeR, kem::X25519HkdfSha256};
    let (version_and_id, rest) = sealed.split_at(9);
    let (enc, ciphertext) = rest.split_at(32);
    assert_eq!(version_and_id, [vec![1], unhex(&file["key_id"])].concat());
    let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&unhex(&file["secret"]));
    hpke::single_shot_open::<hpke::aead::ChaCha20Poly1305, hpke::kdf::HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private.unwrap(),
        &<X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(enc).unwrap(),
        &unhex(&file["info"]),
        ciphertext,
        &unhex(&case["aad"]),
    )
    .unwrap()
}

#[test]
fn no_flipped_bit_opens() {
    let file = crate::support::read("sealing.json");
    let case = &file["sealed"][0];
    let bytes: Base64 = serde_json::from_value(case["sealed"].clone()).unwrap();
    for bit in 0..bytes.0.len() * 8 {
        let mut flipped = case.clone();
        let mut changed = bytes.clone();
        changed.0[bit / 8] ^= 1 << (bit % 8);
        flipped["sealed"] = json!(changed);
        // X25519 ignores the highest bit of a public key (RFC 7748 section 5), but HPKE binds
        // the bytes as they came (RFC 9180 section 4.1, kem_context).
        assert!(open(&sealing(), &flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_key_that_gives_no_secret_is_refused_by_the_sealer() {
    for public in [vec![0; 32], vec![9; 31], Vec::new()] {
        let entry = SealingKeyEntry {
            key: Base64(public),
            ..sealing_entry()
        };
        let context = Context::Hardware {
            identity: &Hex([0; 32]),
        };
        let sealed = Sealed::seal(&entry, context, b"x", &mut Fixed(EPHEMERAL_IKM));
        assert_eq!(sealed, Err(SealError::BadKey(entry.id)));
    }
}
