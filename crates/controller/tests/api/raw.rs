//! Envelopes that no honest program writes: any bytes under any type, signed by any key.

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use vpn_node_protocol::encoding::Base64;
use vpn_node_protocol::envelope::pae;
use vpn_node_protocol::keys::PublicKey;

/// An envelope of these bytes, signed well.
pub(crate) fn envelope(payload_type: &str, payload: &[u8], keys: &[&SigningKey]) -> Value {
    let message = pae(payload_type, payload);
    let signature = |key: &&SigningKey| {
        json!({
            "keyid": PublicKey::from(*key).id(),
            "sig": Base64(key.sign(&message).to_bytes().to_vec()),
        })
    };
    json!({
        "payload": Base64(payload.to_vec()),
        "payloadType": payload_type,
        "signatures": keys.iter().map(signature).collect::<Vec<_>>(),
    })
}

/// The same, ready to send.
pub(crate) fn signed(payload_type: &str, payload: &[u8], keys: &[&SigningKey]) -> Vec<u8> {
    envelope(payload_type, payload, keys)
        .to_string()
        .into_bytes()
}
