//! Ed25519 keys (RFC 8032) as this protocol names and derives them.

use ed25519_dalek::{SigningKey, VerifyingKey};
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::encoding::{Base64, Digest};

/// An Ed25519 public key: in JSON the 32 raw bytes in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads 32 raw bytes. `None` when they are no point of the curve, a second spelling of one
    /// (RFC 8032 section 5.1.3: `y` is below the prime), or one of small order (for which a
    /// signature proves nothing).
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        (below_prime(bytes) && !key.is_weak()).then_some(Self(key))
    }

    /// The 32 raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// How envelopes name the key: SHA-256 of its raw bytes.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&[self.0.as_bytes()])
    }

    /// The key as the verifier takes it.
    #[must_use]
    pub(crate) fn verifying(&self) -> &VerifyingKey {
        &self.0
    }
}

impl From<&SigningKey> for PublicKey {
    fn from(key: &SigningKey) -> Self {
        Self(key.verifying_key())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Base64(self.0.as_bytes().to_vec()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Base64::deserialize(deserializer)?.0;
        <&[u8; 32]>::try_from(bytes.as_slice())
            .ok()
            .and_then(Self::from_bytes)
            .ok_or_else(|| serde::de::Error::custom("expected an Ed25519 public key in base64"))
    }
}

/// Whether `y` of a compressed point is below 2^255 - 19: only then is the name of a key, which
/// is a hash of these bytes, its only name.
fn below_prime(bytes: &[u8; 32]) -> bool {
    bytes[31] & 0x7f != 0x7f || bytes[1..31].iter().any(|byte| *byte != 0xff) || bytes[0] < 0xed
}

/// The registration key of a token's secret: HKDF-SHA256 (RFC 5869) gives the Ed25519 seed.
///
/// Both sides derive it; the controller forgets the private half at once and stores only the
/// public one, so that a dump of its database enrols nobody.
#[must_use]
pub fn registration_key(secret: &[u8; 32]) -> SigningKey {
    let mut seed = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(b"vpn-node registration v1"), secret)
        .expand(b"ed25519 seed", seed.as_mut())
        .expect("32 bytes are within HKDF's bound of 255 * 32");
    SigningKey::from_bytes(&seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_order_points_are_no_keys() {
        // The neutral element and a point of order 2 (RFC 8032 section 5.1 curve).
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut order_two = [0xff; 32];
        order_two[0] = 0xec;
        order_two[31] = 0x7f;
        assert_eq!(PublicKey::from_bytes(&neutral), None);
        assert_eq!(PublicKey::from_bytes(&order_two), None);
    }

    #[test]
    fn a_point_has_one_spelling() {
        // y = 3 is on the curve and of large order; p + 3 spells the same point.
        let mut three = [0; 32];
        three[0] = 3;
        let mut again = [0xff; 32];
        again[0] = 0xf0;
        again[31] = 0x7f;
        assert!(PublicKey::from_bytes(&three).is_some());
        assert!(VerifyingKey::from_bytes(&again).is_ok());
        assert_eq!(PublicKey::from_bytes(&again), None);
    }

    #[test]
    fn one_secret_gives_one_registration_key() {
        assert_eq!(registration_key(&[7; 32]), registration_key(&[7; 32]));
        assert_ne!(registration_key(&[7; 32]), registration_key(&[8; 32]));
    }
}
