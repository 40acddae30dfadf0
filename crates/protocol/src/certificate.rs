//! The controller's certificate: the root key says which online keys speak for the controller.
//!
//! The root key can live offline. It signs this list, and the agent, which pins the root from
//! its token on, believes a reply only under a signing key of the list, and seals only to a
//! sealing key of it.

use serde::{Deserialize, Serialize};

use crate::encoding::{Base64, Digest, Hex};
use crate::envelope::{Envelope, EnvelopeError, Payload};
use crate::keys::PublicKey;

/// How a sealing key is named: the first 8 bytes of SHA-256 of the raw X25519 public key.
pub type SealingKeyId = Hex<8>;

/// The signed list of online keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerCertificate {
    /// Grows with each certificate of this root; an agent never goes back to a lower one.
    pub serial: u64,
    /// The root key that signs this; its SHA-256 is the pin of the token.
    pub root: PublicKey,
    /// When it was signed, by the controller's clock, in milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// Keys that sign replies, challenges and directives.
    pub signing_keys: Vec<SigningKeyEntry>,
    /// Keys to seal to. Agents take the last one that is valid; the controller keeps the old
    /// ones until every backlog has drained.
    pub sealing_keys: Vec<SealingKeyEntry>,
}

/// An online signing key and when it may sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKeyEntry {
    /// Ed25519.
    pub key: PublicKey,
    /// When it may sign.
    pub validity: Validity,
}

/// A sealing key and when it may be sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKeyEntry {
    /// Its name in sealed data.
    pub id: SealingKeyId,
    /// X25519 public key (RFC 7748), 32 bytes.
    pub key: Base64,
    /// When it may be sealed to.
    pub validity: Validity,
}

/// A span by the controller's clock, in milliseconds since the Unix epoch; the end is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// First valid instant.
    pub not_before_ms: i64,
    /// First instant that is no longer valid.
    pub not_after_ms: i64,
}

impl Validity {
    /// Whether `at_ms` lies inside.
    #[must_use]
    pub fn covers(&self, at_ms: i64) -> bool {
        (self.not_before_ms..self.not_after_ms).contains(&at_ms)
    }
}

impl Payload for ControllerCertificate {
    const TYPE: &'static str = "application/vnd.vpn-node.controller-certificate.v1+json";
}

/// Why the agent does not believe a controller's certificate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CertificateError {
    /// Another root than the pinned one.
    #[error(
        "the controller's root key is {found}, and this host expects {pinned}: the address leads to another controller, or someone stands between"
    )]
    WrongRoot {
        /// SHA-256 of the root that the certificate names.
        found: Digest,
        /// The pin.
        pinned: Digest,
    },
    /// The root's signature does not hold.
    #[error("the controller's certificate is not signed by its root key: {0}")]
    Unsigned(#[from] EnvelopeError),
    /// Lower serial than one seen before.
    #[error(
        "the controller showed certificate {found}, and {known} was seen before: an old certificate is being replayed"
    )]
    Older {
        /// Serial that came.
        found: u64,
        /// Serial seen before.
        known: u64,
    },
    /// No key by that name, or not valid at that time.
    #[error(
        "no signing key {key_id} in the controller's certificate {serial} is valid at the time that the reply states"
    )]
    NoSigningKey {
        /// The key asked for.
        key_id: Digest,
        /// The certificate's serial.
        serial: u64,
    },
    /// No sealing key can be used.
    #[error(
        "the controller's certificate {serial} has no valid sealing key: connection records and hardware serials cannot be sealed"
    )]
    NoSealingKey {
        /// The certificate's serial.
        serial: u64,
    },
}

impl ControllerCertificate {
    /// Verifies a certificate against the pin, and that it is not older than one seen before
    /// (`known_serial`; 0 when none was).
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn open(
        envelope: &Envelope,
        pin: &Digest,
        known_serial: u64,
    ) -> Result<Self, CertificateError> {
        // The payload names the root; the pin decides whether that is the one to verify with.
        let root = envelope.peek::<Self>()?.root;
        if root.id() != *pin {
            return Err(CertificateError::WrongRoot {
                found: root.id(),
                pinned: *pin,
            });
        }
        let certificate: Self = envelope.open(&root)?;
        if certificate.serial < known_serial {
            return Err(CertificateError::Older {
                found: certificate.serial,
                known: known_serial,
            });
        }
        Ok(certificate)
    }

    /// The signing key named `key_id`, if it is valid at `at_ms` (the controller's clock).
    ///
    /// # Errors
    /// [`CertificateError::NoSigningKey`].
    pub fn signing_key(&self, key_id: &Digest, at_ms: i64) -> Result<&PublicKey, CertificateError> {
        self.signing_keys
            .iter()
            .find(|entry| entry.key.id() == *key_id && entry.validity.covers(at_ms))
            .map(|entry| &entry.key)
            .ok_or(CertificateError::NoSigningKey {
                key_id: *key_id,
                serial: self.serial,
            })
    }

    /// The newest sealing key that is valid at `at_ms`.
    ///
    /// # Errors
    /// [`CertificateError::NoSealingKey`].
    pub fn sealing_key(&self, at_ms: i64) -> Result<&SealingKeyEntry, CertificateError> {
        self.sealing_keys
            .iter()
            .rfind(|entry| entry.validity.covers(at_ms) && entry.key.0.len() == 32)
            .ok_or(CertificateError::NoSealingKey {
                serial: self.serial,
            })
    }

    /// Opens what a controller signed with one of its online keys: `time_of` reads the
    /// controller's time from the payload, and the key must have been valid then. `floor_ms` is
    /// the latest controller time that was ever verified; a key that ended before it is dead,
    /// whatever time the message states.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn open_signed<P: Payload>(
        &self,
        envelope: &Envelope,
        floor_ms: i64,
        time_of: impl Fn(&P) -> i64,
    ) -> Result<P, CertificateError> {
        // The hint may be absent, or name keys that the certificate does not have: it narrows the
        // search and decides nothing (DSSE protocol.md).
        let hints: Vec<Digest> = envelope.key_ids().collect();
        let mut refused = CertificateError::NoSigningKey {
            key_id: hints.first().copied().unwrap_or(Hex([0; 32])),
            serial: self.serial,
        };
        let meant = |entry: &&SigningKeyEntry| hints.is_empty() || hints.contains(&entry.key.id());
        for entry in self.signing_keys.iter().filter(meant) {
            match envelope.open::<P>(&entry.key) {
                Ok(payload) => {
                    self.signing_key(&entry.key.id(), time_of(&payload).max(floor_ms))?;
                    return Ok(payload);
                }
                Err(error) => refused = error.into(),
            }
        }
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Timed {
        at_ms: i64,
    }
    impl Payload for Timed {
        const TYPE: &'static str = "application/vnd.vpn-node.timed.v1+json";
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn certificate(serial: u64) -> ControllerCertificate {
        let validity = Validity {
            not_before_ms: 100,
            not_after_ms: 200,
        };
        ControllerCertificate {
            serial,
            root: (&key(1)).into(),
            issued_ms: 100,
            signing_keys: vec![SigningKeyEntry {
                key: (&key(2)).into(),
                validity,
            }],
            sealing_keys: vec![SealingKeyEntry {
                id: Hex([9; 8]),
                key: Base64(vec![9; 32]),
                validity,
            }],
        }
    }

    #[test]
    fn only_the_pinned_root_certifies() {
        let pin = PublicKey::from(&key(1)).id();
        let good = Envelope::sign(&certificate(3), &[&key(1)]);
        assert_eq!(
            ControllerCertificate::open(&good, &pin, 3),
            Ok(certificate(3))
        );

        let other_pin = PublicKey::from(&key(5)).id();
        assert!(matches!(
            ControllerCertificate::open(&good, &other_pin, 0),
            Err(CertificateError::WrongRoot { .. })
        ));
        let forged = Envelope::sign(&certificate(3), &[&key(5)]);
        assert!(matches!(
            ControllerCertificate::open(&forged, &pin, 0),
            Err(CertificateError::Unsigned(_))
        ));
        assert_eq!(
            ControllerCertificate::open(&good, &pin, 4),
            Err(CertificateError::Older { found: 3, known: 4 })
        );
    }

    #[test]
    fn a_signing_key_is_dead_outside_its_validity_whatever_the_message_says() {
        let at = |at_ms| Envelope::sign(&Timed { at_ms }, &[&key(2)]);
        let open =
            |envelope, floor| certificate(1).open_signed(&envelope, floor, |t: &Timed| t.at_ms);
        assert_eq!(open(at(150), 0), Ok(Timed { at_ms: 150 }));
        assert!(matches!(
            open(at(200), 0),
            Err(CertificateError::NoSigningKey { .. })
        ));
        assert!(matches!(
            open(at(150), 200),
            Err(CertificateError::NoSigningKey { .. })
        ));
        let stranger = Envelope::sign(&Timed { at_ms: 150 }, &[&key(3)]);
        assert!(matches!(
            open(stranger, 0),
            Err(CertificateError::NoSigningKey { .. })
        ));
    }

    #[test]
    fn without_a_hint_every_signing_key_is_tried() {
        let mut two = certificate(1);
        let mut second = two.signing_keys[0].clone();
        second.key = (&key(3)).into();
        two.signing_keys.push(second);
        let signed = Envelope::sign(&Timed { at_ms: 150 }, &[&key(3)]);
        let mut json: serde_json::Value = serde_json::from_slice(&signed.to_json()).unwrap();
        json["signatures"][0]["keyid"] = "".into();
        let unnamed = Envelope::parse(json.to_string().as_bytes(), 4096).unwrap();
        let open = |envelope| two.open_signed(envelope, 0, |t: &Timed| t.at_ms);
        assert_eq!(open(&unnamed), Ok(Timed { at_ms: 150 }));
        // A signature that means nothing here does not hide the one that does.
        let both = Envelope::sign(&Timed { at_ms: 150 }, &[&key(9), &key(3)]);
        assert_eq!(open(&both), Ok(Timed { at_ms: 150 }));
    }

    #[test]
    fn the_newest_valid_sealing_key_is_taken() {
        let mut two = certificate(1);
        let mut newer = two.sealing_keys[0].clone();
        newer.id = Hex([7; 8]);
        two.sealing_keys.push(newer);
        assert_eq!(two.sealing_key(150).unwrap().id, Hex([7; 8]));
        assert!(two.sealing_key(99).is_err());
    }
}
