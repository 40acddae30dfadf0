//! Signed envelopes: DSSE v1 (github.com/secure-systems-lab/dsse, protocol.md), Ed25519 only.
//!
//! The order is fixed by the types: [`Envelope::parse`] looks at the size before anything else,
//! [`Envelope::open`] checks the type, verifies the signature over exactly the bytes that came,
//! and only then parses those same bytes.

use ed25519_dalek::{Signature as EdSignature, Signer, SigningKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::encoding::{Base64, Digest};
use crate::keys::PublicKey;
use crate::limits::MAX_SIGNATURES;

/// How much of a parser's complaint is kept: enough for the reason and its place.
const MAX_QUOTED_CHARS: usize = 200;

/// The media type of an envelope in HTTP.
pub const CONTENT_TYPE: &str = "application/vnd.dsse.envelope.v1+json";

/// A payload with its own type string, which carries kind and version.
pub trait Payload: Serialize + DeserializeOwned {
    /// For example `application/vnd.vpn-node.heartbeat.v1+json`.
    const TYPE: &'static str;
}

/// A DSSE v1 envelope that has been read but not believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    payload: Base64,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Signature {
    /// A hint only (DSSE protocol.md): unauthenticated, so it selects a key and proves nothing.
    #[serde(default)]
    keyid: String,
    sig: Base64,
}

/// Why an envelope was refused. Nothing of its payload has been looked at.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Larger than the receiver's limit.
    #[error("the message has {size} bytes; the limit is {limit}")]
    TooLarge {
        /// Bytes received, or announced.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not the JSON of a DSSE envelope.
    #[error("the message is not a DSSE envelope: {0}")]
    NotAnEnvelope(String),
    /// The payload is of another kind or version.
    #[error("the message is of type {found:?}; expected {expected:?}")]
    WrongType {
        /// What came (escaped when shown).
        found: String,
        /// What the receiver takes here.
        expected: &'static str,
    },
    /// No signature of the expected key verifies.
    #[error("no valid signature of key {key_id}")]
    BadSignature {
        /// The key that should have signed.
        key_id: Digest,
    },
    /// The signature holds, but the payload is not what its type says.
    #[error("the signed payload does not parse: {0}")]
    BadPayload(String),
}

impl Envelope {
    /// Signs `payload` with each of the keys.
    ///
    /// # Panics
    /// When the payload has no JSON form: our payload types all have one.
    #[must_use]
    pub fn sign<P: Payload>(payload: &P, keys: &[&SigningKey]) -> Self {
        let bytes = serde_json::to_vec(payload).expect("payload types serialise");
        Self::sign_bytes(P::TYPE, bytes, keys)
    }

    fn sign_bytes(payload_type: &str, payload: Vec<u8>, keys: &[&SigningKey]) -> Self {
        let message = pae(payload_type, &payload);
        let sign = |key: &&SigningKey| Signature {
            keyid: PublicKey::from(*key).id().to_string(),
            sig: Base64(key.sign(&message).to_bytes().to_vec()),
        };
        Self {
            signatures: keys.iter().map(sign).collect(),
            payload_type: payload_type.to_owned(),
            payload: Base64(payload),
        }
    }

    /// Reads an envelope of at most `limit` bytes. Believes nothing yet.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`], [`EnvelopeError::NotAnEnvelope`].
    pub fn parse(bytes: &[u8], limit: usize) -> Result<Self, EnvelopeError> {
        let size = bytes.len();
        if size > limit {
            return Err(EnvelopeError::TooLarge { size, limit });
        }
        let envelope: Self = serde_json::from_slice(bytes)
            .map_err(|error| EnvelopeError::NotAnEnvelope(said(&error)))?;
        match envelope.signatures.len() {
            1..=MAX_SIGNATURES => Ok(envelope),
            n => Err(EnvelopeError::NotAnEnvelope(format!(
                "{n} signatures; expected 1 to {MAX_SIGNATURES}"
            ))),
        }
    }

    /// The envelope as JSON, ready to send.
    ///
    /// # Panics
    /// Never: strings and base64 always have a JSON form.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope serialises")
    }

    /// The unverified type, for dispatch.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The unverified key hints, to select the key to verify with.
    pub fn key_ids(&self) -> impl Iterator<Item = Digest> {
        self.signatures.iter().filter_map(|s| s.keyid.parse().ok())
    }

    /// What names this message in replies and in the chain: SHA-256 over the signed bytes (the
    /// PAE), so that neither the JSON around them nor the signatures matter.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&[&pae(&self.payload_type, &self.payload.0)])
    }

    /// Checks type and signature, and returns the exact bytes that were signed.
    ///
    /// # Errors
    /// [`EnvelopeError::WrongType`], [`EnvelopeError::BadSignature`].
    pub fn verify(&self, expected: &'static str, key: &PublicKey) -> Result<&[u8], EnvelopeError> {
        if self.payload_type != expected {
            return Err(EnvelopeError::WrongType {
                found: self.payload_type.chars().take(80).collect(),
                expected,
            });
        }
        let message = pae(&self.payload_type, &self.payload.0);
        let holds = |signature: &Signature| {
            EdSignature::from_slice(&signature.sig.0)
                .is_ok_and(|sig| key.verifying().verify_strict(&message, &sig).is_ok())
        };
        // The hint spares work with a key that cannot match; an empty hint is allowed by DSSE.
        let id = key.id();
        let meant = |s: &&Signature| s.keyid.is_empty() || s.keyid.parse() == Ok(id);
        if self.signatures.iter().filter(meant).any(holds) {
            Ok(&self.payload.0)
        } else {
            Err(EnvelopeError::BadSignature { key_id: id })
        }
    }

    /// Verifies, then parses exactly the verified bytes.
    ///
    /// # Errors
    /// As [`Envelope::verify`], and [`EnvelopeError::BadPayload`].
    pub fn open<P: Payload>(&self, key: &PublicKey) -> Result<P, EnvelopeError> {
        serde_json::from_slice(self.verify(P::TYPE, key)?)
            .map_err(|error| EnvelopeError::BadPayload(said(&error)))
    }

    /// Parses the payload **without** verifying it. Only for a message of one's own that comes
    /// back, or to find the key that must then verify it.
    ///
    /// # Errors
    /// [`EnvelopeError::WrongType`], [`EnvelopeError::BadPayload`].
    pub fn peek<P: Payload>(&self) -> Result<P, EnvelopeError> {
        if self.payload_type != P::TYPE {
            return Err(EnvelopeError::WrongType {
                found: self.payload_type.chars().take(80).collect(),
                expected: P::TYPE,
            });
        }
        serde_json::from_slice(&self.payload.0)
            .map_err(|error| EnvelopeError::BadPayload(said(&error)))
    }
}

/// The parser's sentence, cut and without control characters: it quotes what came, and anyone can send half a
/// megabyte of terminal escapes to a log.
fn said(error: &serde_json::Error) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let sentence = error.to_string();
    sentence.chars().map(shown).take(MAX_QUOTED_CHARS).collect()
}

/// DSSE's pre-authentication encoding:
/// `"DSSEv1" SP LEN(type) SP type SP LEN(body) SP body`, lengths in ASCII decimal.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }
    impl Payload for Note {
        const TYPE: &'static str = "application/vnd.vpn-node.note.v1+json";
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Other {}
    impl Payload for Other {
        const TYPE: &'static str = "application/vnd.vpn-node.other.v1+json";
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn note() -> Note {
        Note {
            text: "hello".into(),
        }
    }

    #[test]
    fn pae_is_the_published_one() {
        // DSSE protocol.md, "Test Vectors".
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn opens_what_was_signed_and_only_with_its_key() {
        let envelope = Envelope::sign(&note(), &[&key(1)]);
        let read = Envelope::parse(&envelope.to_json(), 4096).unwrap();
        assert_eq!(read.open::<Note>(&(&key(1)).into()), Ok(note()));
        assert!(matches!(
            read.open::<Note>(&(&key(2)).into()),
            Err(EnvelopeError::BadSignature { .. })
        ));
        assert!(matches!(
            read.open::<Other>(&(&key(1)).into()),
            Err(EnvelopeError::WrongType { .. })
        ));
    }

    #[test]
    fn either_of_two_signatures_opens() {
        let envelope = Envelope::sign(&note(), &[&key(1), &key(2)]);
        for seed in [1, 2] {
            assert_eq!(envelope.open::<Note>(&(&key(seed)).into()), Ok(note()));
        }
    }

    #[test]
    fn every_flipped_bit_of_the_json_is_refused_or_leaves_payload_and_digest_unchanged() {
        let envelope = Envelope::sign(&note(), &[&key(1)]);
        let json = envelope.to_json();
        for bit in 0..json.len() * 8 {
            let mut flipped = json.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Ok(read) = Envelope::parse(&flipped, 4096) else {
                continue;
            };
            if let Ok(opened) = read.open::<Note>(&(&key(1)).into()) {
                // Only the unauthenticated hint may differ, and then nothing depends on it.
                assert_eq!((opened, read.digest()), (note(), envelope.digest()));
            }
        }
    }

    #[test]
    fn the_size_is_judged_before_the_content() {
        let big = vec![b'['; 5000];
        assert_eq!(
            Envelope::parse(&big, 4096),
            Err(EnvelopeError::TooLarge {
                size: 5000,
                limit: 4096
            })
        );
    }

    #[test]
    fn a_complaint_quotes_little_and_no_control_character() {
        let long = format!(
            r#"{{"payload":"e30=","signatures":"{}"}}"#,
            "A".repeat(3000)
        );
        let Err(EnvelopeError::NotAnEnvelope(sentence)) = Envelope::parse(long.as_bytes(), 4096)
        else {
            panic!("parsed");
        };
        assert!(sentence.len() <= MAX_QUOTED_CHARS, "{sentence}");

        #[derive(Debug, Serialize, Deserialize)]
        enum Word {
            Yes,
        }
        impl Payload for Word {
            const TYPE: &'static str = Note::TYPE;
        }
        let hostile = br#""\u001b[2J\n""#.to_vec();
        let envelope = Envelope::sign_bytes(Word::TYPE, hostile, &[&key(1)]);
        let Err(EnvelopeError::BadPayload(sentence)) = envelope.open::<Word>(&(&key(1)).into())
        else {
            panic!("parsed");
        };
        assert!(sentence.contains("[2J") && !sentence.contains(char::is_control));
    }

    #[test]
    fn an_envelope_without_signature_is_none() {
        let json = br#"{"payload":"e30=","payloadType":"x","signatures":[]}"#;
        assert!(matches!(
            Envelope::parse(json, 4096),
            Err(EnvelopeError::NotAnEnvelope(_))
        ));
    }
}
