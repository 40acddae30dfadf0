//! The fixed keys, the files, and the few encodings that the tests share.

use std::convert::Infallible;
use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use rand_core::{TryCryptoRng, TryRng};
use serde_json::{Value, json};
use vpn_node_protocol::envelope::{Envelope, EnvelopeError};
use vpn_node_protocol::keys::{PublicKey, registration_key};
use vpn_node_protocol::sealing::SealingSecret;

/// The secret of the token of all vectors.
pub(crate) const TOKEN_SECRET: [u8; 32] = [4; 32];
/// The private sealing key of all vectors.
pub(crate) const SEALING_SECRET: [u8; 32] = [5; 32];
/// What the random number generator gives when something is sealed.
pub(crate) const EPHEMERAL_IKM: [u8; 32] = [6; 32];

pub(crate) fn root() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(crate) fn online() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

pub(crate) fn identity() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// The identity after a rotation.
pub(crate) fn next_identity() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(crate) fn registration() -> SigningKey {
    registration_key(&TOKEN_SECRET)
}

pub(crate) fn sealing() -> SealingSecret {
    SealingSecret::from_bytes(&SEALING_SECRET)
}

/// Compares `built` with the file, or writes the file; gives back what stands there.
pub(crate) fn held(name: &str, built: Value) -> Value {
    let path = path(name);
    if std::env::var_os("VPN_NODE_WRITE_VECTORS").is_some_and(|value| value == "1") {
        let mut text = serde_json::to_string_pretty(&built).unwrap();
        text.push('\n');
        std::fs::write(&path, text).unwrap();
    }
    let found = read(name);
    assert!(
        found == built,
        "vectors/{name} is not what this code computes. When the change is meant, run the tests \
         of this package once with VPN_NODE_WRITE_VECTORS=1 and read the difference"
    );
    found
}

/// A vector file as it stands in the repository.
pub(crate) fn read(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path(name)).unwrap()).unwrap()
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "vectors", name]
        .iter()
        .collect()
}

/// The keys, as every file that needs them shows them.
pub(crate) fn keys() -> Value {
    let pair = |key: &SigningKey| {
        let public = PublicKey::from(key);
        json!({"seed": hex(key.as_bytes()), "public": public, "id": public.id()})
    };
    json!({
        "root": pair(&root()),
        "online": pair(&online()),
        "identity": pair(&identity()),
        "next_identity": pair(&next_identity()),
        "registration": pair(&registration()),
    })
}

/// The public key called `name` in a file's `keys`.
pub(crate) fn public(file: &Value, name: &str) -> PublicKey {
    serde_json::from_value(file["keys"][name]["public"].clone()).unwrap()
}

/// The name of an error in the files.
pub(crate) fn error_name(error: &EnvelopeError) -> &'static str {
    match error {
        EnvelopeError::TooLarge { .. } => "too_large",
        EnvelopeError::NotAnEnvelope(_) => "not_an_envelope",
        EnvelopeError::WrongType { .. } => "wrong_type",
        EnvelopeError::BadSignature { .. } => "bad_signature",
        EnvelopeError::BadPayload(_) => "bad_payload",
    }
}

/// An envelope that stands in a file as a JSON object.
pub(crate) fn envelope(value: &Value) -> Envelope {
    Envelope::parse(value.to_string().as_bytes(), 1 << 20).unwrap()
}

pub(crate) fn as_json(envelope: &Envelope) -> Value {
    serde_json::to_value(envelope).unwrap()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

pub(crate) fn unhex32(value: &Value) -> [u8; 32] {
    unhex(value).try_into().unwrap()
}

pub(crate) fn cases<'a>(file: &'a Value, list: &str) -> &'a [Value] {
    let cases = file[list].as_array().unwrap();
    assert!(!cases.is_empty(), "{list}");
    cases
}

pub(crate) fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {case}"))
}

/// A generator that gives the same 32 bytes whenever it is asked: vectors must not be random.
pub(crate) struct Fixed(pub(crate) [u8; 32]);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("HPKE draws whole keys")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("HPKE draws whole keys")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}
