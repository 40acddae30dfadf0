//! Sealing: what only the controller's sealing keys open.
//!
//! HPKE base mode (RFC 9180), DHKEM(X25519, HKDF-SHA256) / HKDF-SHA256 / ChaCha20-Poly1305.
//! Connection records and hardware serials are sealed when they are captured, so that disks and
//! proxies hold ciphertext only; the agent cannot read its own backlog back. What a sealed blob
//! is, and whose, is its additional data: a blob moved elsewhere does not open.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::certificate::{SealingKeyEntry, SealingKeyId};
use crate::encoding::{Base64, Digest, Hex, length_prefixed};

const INFO: &[u8] = b"vpn-node sealing v1";
const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const ENC_BYTES: usize = 32;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + ENC_BYTES;
const TAG_BYTES: usize = 16;

/// What a sealing adds to its plaintext, in bytes.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// What is sealed, and whose it is: the additional authenticated data.
#[derive(Clone, Copy, Debug)]
pub enum Context<'a> {
    /// Hardware components of the holder of an identity key.
    Hardware {
        /// SHA-256 of the identity public key ([`crate::keys::PublicKey::id`]).
        identity: &'a Digest,
    },
    /// A connection record.
    Connection {
        /// The server that captured it.
        server_id: &'a str,
        /// Its ledger.
        ledger_epoch: &'a Hex<16>,
        /// Its place in that ledger.
        sequence: u64,
    },
}

/// Sealed bytes: version (1), key id (8 bytes), encapsulated key (32 bytes), ciphertext with
/// tag. In JSON base64 of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The certificate's sealing key is no X25519 key.
    #[error("sealing key {0} of the controller is not a usable X25519 key")]
    BadKey(SealingKeyId),
    /// Too short, or of another version.
    #[error("the sealed data is damaged or of an unknown version")]
    Damaged,
    /// Wrong key, wrong owner, or changed on the way.
    #[error(
        "the sealed data does not open with key {0}: it was changed, or belongs to another host or place"
    )]
    DoesNotOpen(SealingKeyId),
}

/// A sealing key's private half. The controller holds these; agents never do.
pub struct SealingSecret {
    id: SealingKeyId,
    secret: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: [u8; 32],
}

impl SealingSecret {
    /// Takes 32 random bytes as an X25519 private key (RFC 7748).
    ///
    /// # Panics
    /// Never: every 32 bytes are an X25519 private key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(bytes)
            .expect("every 32 bytes are an X25519 private key");
        let public: [u8; 32] = X25519HkdfSha256::sk_to_pk(&secret).to_bytes().into();
        Self {
            id: key_id(&public),
            secret,
            public,
        }
    }

    /// The name of the key.
    #[must_use]
    pub fn id(&self) -> SealingKeyId {
        self.id
    }

    /// The public half, 32 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Opens what was sealed to this key in this context.
    ///
    /// # Errors
    /// [`SealError::Damaged`], [`SealError::DoesNotOpen`].
    pub fn open(
        &self,
        sealed: &Sealed,
        context: Context<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (header, ciphertext) = sealed.0.split_at(HEADER_BYTES);
        let fails = SealError::DoesNotOpen(sealed.key_id());
        if sealed.key_id() != self.id {
            return Err(fails);
        }
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&header[1 + KEY_ID_BYTES..])
            .map_err(|_| SealError::Damaged)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.secret,
            &enc,
            INFO,
            ciphertext,
            &aad(&header[..1 + KEY_ID_BYTES], context),
        )
        .map(Zeroizing::new)
        .map_err(|_| fails)
    }
}

impl Sealed {
    /// Seals `plaintext` to the controller's key.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub fn seal(
        key: &SealingKeyEntry,
        context: Context<'_>,
        plaintext: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Self, SealError> {
        let bad = |_| SealError::BadKey(key.id);
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&key.key.0).map_err(bad)?;
        let mut out = Vec::with_capacity(OVERHEAD_BYTES + plaintext.len());
        out.push(VERSION);
        out.extend_from_slice(&key.id.0);
        let aad = aad(&out, context);
        let (enc, ciphertext) = hpke::single_shot_seal_with_rng::<
            ChaCha20Poly1305,
            HkdfSha256,
            X25519HkdfSha256,
        >(&OpModeS::Base, &public, INFO, plaintext, &aad, rng)
        .map_err(bad)?;
        out.extend_from_slice(&enc.to_bytes());
        out.extend_from_slice(&ciphertext);
        Ok(Self(out))
    }

    /// Reads sealed bytes, as they stand in a ledger.
    ///
    /// # Errors
    /// [`SealError::Damaged`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SealError> {
        if bytes.len() < OVERHEAD_BYTES || bytes[0] != VERSION {
            return Err(SealError::Damaged);
        }
        Ok(Self(bytes))
    }

    /// The sealed bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The sealed bytes, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Which sealing key opens it.
    #[must_use]
    pub fn key_id(&self) -> SealingKeyId {
        Hex(std::array::from_fn(|i| self.0[1 + i]))
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Base64(self.0.clone()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_bytes(Base64::deserialize(deserializer)?.0).map_err(serde::de::Error::custom)
    }
}

/// The name of a sealing key.
#[must_use]
pub fn key_id(public: &[u8; 32]) -> SealingKeyId {
    let digest = Digest::of(&[public]);
    Hex(std::array::from_fn(|i| digest.0[i]))
}

/// Additional data: the header without the encapsulated key (HPKE binds that one itself), then
/// the context.
fn aad(header: &[u8], context: Context<'_>) -> Vec<u8> {
    match context {
        Context::Hardware { identity } => length_prefixed(&[header, b"hardware", &identity.0]),
        Context::Connection {
            server_id,
            ledger_epoch,
            sequence,
        } => length_prefixed(&[
            header,
            b"connection",
            server_id.as_bytes(),
            &ledger_epoch.0,
            &sequence.to_be_bytes(),
        ]),
    }
}
