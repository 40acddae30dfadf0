//! `identity.json`: the identity key, in plain or encrypted under a key that this machine seals.
//!
//! | format | content |
//! |---|---|
//! | 1 | the secret payload, in base64 |
//! | 2 | the public key, a nonce, and the payload in ChaCha20-Poly1305 (RFC 8439) under the key-encryption key, with format and public key as additional data |
//!
//! The payload is the 32-byte seed of the Ed25519 key, and behind it, if there is one, the 32-byte
//! key of the session hashes. Who seals the key-encryption key is `host/sealing.rs`'s business.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use rand_core::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use vpn_node_protocol::encoding::Base64;
use vpn_node_protocol::keys::PublicKey;
use zeroize::Zeroizing;

use super::{FormatOnly, MODE, StateError};
use crate::host::atomic;

pub(super) const IDENTITY: &str = "identity.json";
/// An identity that is not in force yet.
pub(super) const NEXT_IDENTITY: &str = "identity.next.json";

/// The sealed key-encryption key, beside an encrypted identity.
pub const SEALED: &str = "identity.sealed";

/// About 300 bytes in either format.
const MAX_BYTES: usize = 4 * 1024;
/// What is written, so that the buffer never grows and leaves a copy of the secret behind.
const ROOM: usize = 1024;
/// Seed and session key.
const MAX_PAYLOAD_BYTES: usize = 64;
/// Of Poly1305.
const TAG_BYTES: usize = 16;
const AAD_CONTEXT: &[u8] = b"vpn-node identity v2";

/// The key-encryption key: random, this machine's alone, wiped when dropped.
#[derive(Clone)]
pub struct Kek(Zeroizing<[u8; 32]>);

impl Kek {
    /// A new one.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut());
        Self(bytes)
    }

    /// `None` unless these are 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = <&[u8; 32]>::try_from(bytes).ok()?;
        Some(Self(Zeroizing::new(*bytes)))
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Kek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kek")
    }
}

/// What the file keeps secret. Both keys are wiped when dropped.
#[derive(Clone)]
pub struct Identity {
    /// The identity key.
    pub key: SigningKey,
    /// The key of the session hashes, kept when it can no longer be derived from `key`: after a
    /// rotation the open sessions must keep their hashes.
    pub kept_session_key: Option<Zeroizing<[u8; 32]>>,
}

impl Identity {
    /// A new identity.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(secret.as_mut());
        Self {
            key: SigningKey::from_bytes(&secret),
            kept_session_key: None,
        }
    }

    /// The key of the session hashes: the kept one, else derived from the identity key.
    #[must_use]
    pub fn session_key(&self) -> Zeroizing<[u8; 32]> {
        if let Some(kept) = &self.kept_session_key {
            return kept.clone();
        }
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"vpn-node session hashes v1"), self.key.as_bytes())
            .expand(b"hmac key", key.as_mut())
            .expect("32 bytes are within HKDF's bound of 255 * 32");
        key
    }

    /// With room for the tag, so that encrypting it in place moves nothing.
    fn to_payload(&self) -> Zeroizing<Vec<u8>> {
        let mut payload = Zeroizing::new(Vec::with_capacity(MAX_PAYLOAD_BYTES + TAG_BYTES));
        payload.extend_from_slice(self.key.as_bytes());
        if let Some(kept) = &self.kept_session_key {
            payload.extend_from_slice(kept.as_ref());
        }
        payload
    }

    fn from_payload(payload: &[u8]) -> Option<Self> {
        let (seed, rest) = payload.split_first_chunk::<32>()?;
        let kept_session_key = match rest {
            [] => None,
            rest => Some(Zeroizing::new(*<&[u8; 32]>::try_from(rest).ok()?)),
        };
        Some(Self {
            key: SigningKey::from_bytes(seed),
            kept_session_key,
        })
    }
}

/// `identity.json` of one state directory, with the key-encryption key if the start brought one.
#[derive(Clone, Debug)]
pub struct IdentityStore {
    path: PathBuf,
    kek: Option<Kek>,
}

impl IdentityStore {
    /// Names the file in this directory; touches nothing.
    #[must_use]
    pub fn new(dir: &Path, kek: Option<Kek>) -> Self {
        Self {
            path: dir.join(IDENTITY),
            kek,
        }
    }

    /// The same for an identity that is not in force yet (`identity.next.json`).
    #[must_use]
    pub fn next(dir: &Path, kek: Option<Kek>) -> Self {
        Self {
            path: dir.join(NEXT_IDENTITY),
            kek,
        }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity, if there is one.
    ///
    /// # Errors
    /// [`StateError::Sealed`] without the key-encryption key, [`StateError::WrongKek`] with
    /// another one; [`StateError`] else: also when the file is readable by others.
    pub fn read(&self) -> Result<Option<Identity>, StateError> {
        let Some(file) = self.read_file()? else {
            return Ok(None);
        };
        let payload = match file {
            IdentityFile::Plain(file) => file.secret.0,
            IdentityFile::Sealed(file) => {
                let Some(kek) = &self.kek else {
                    return Err(StateError::Sealed {
                        path: self.path.clone(),
                    });
                };
                file.open(kek).ok_or_else(|| StateError::WrongKek {
                    path: self.path.clone(),
                })?
            }
        };
        match Identity::from_payload(&payload) {
            Some(identity) => Ok(Some(identity)),
            None => Err(self.damaged("the key is neither 32 nor 64 bytes long".into())),
        }
    }

    /// Whether the file is there, and encrypted; needs no key.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn is_sealed(&self) -> Result<Option<bool>, StateError> {
        let file = self.read_file()?;
        Ok(file.map(|file| matches!(file, IdentityFile::Sealed(_))))
    }

    /// Replaces the file durably: encrypted if there is a key-encryption key, else in plain. With
    /// the identity in force in plain, a sealed key-encryption key opens nothing any more, and goes
    /// away; with the one that waits in plain, it still opens the one in force.
    ///
    /// # Errors
    /// [`StateError::File`]; the file before it stays.
    pub fn write(&self, identity: &Identity, rng: &mut impl CryptoRng) -> Result<(), StateError> {
        // Filled in place: a buffer that grows would leave the secret behind.
        let mut json = Zeroizing::new(Vec::with_capacity(ROOM));
        let payload = identity.to_payload();
        let written = match &self.kek {
            Some(kek) => {
                let public = PublicKey::from(&identity.key);
                let file = SealedFile::seal(kek, public, payload, rng);
                serde_json::to_writer(&mut *json, &file)
            }
            None => serde_json::to_writer(
                &mut *json,
                &PlainFile {
                    version: 1,
                    secret: Secret(payload),
                },
            ),
        };
        written.expect("the identity serialises");
        atomic::write(&self.path, &json, MODE)?;
        if self.kek.is_none() && self.path.ends_with(IDENTITY) {
            atomic::remove(&self.path.with_file_name(SEALED))?;
        }
        Ok(())
    }

    fn read_file(&self) -> Result<Option<IdentityFile>, StateError> {
        let bytes = match atomic::read_private(&self.path, MAX_BYTES) {
            Err(error) if error.is_not_found() => return Ok(None),
            read => read?,
        };
        let damaged = |why: serde_json::Error| self.damaged(why.to_string());
        let format: FormatOnly = serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(Some(match format.version {
            1 => IdentityFile::Plain(serde_json::from_slice(&bytes).map_err(damaged)?),
            2 => IdentityFile::Sealed(serde_json::from_slice(&bytes).map_err(damaged)?),
            found => {
                return Err(StateError::Format {
                    path: self.path.clone(),
                    found,
                    known: "1 and 2",
                });
            }
        }))
    }

    fn damaged(&self, why: String) -> StateError {
        StateError::Damaged {
            path: self.path.clone(),
            why,
        }
    }
}

enum IdentityFile {
    Plain(PlainFile),
    Sealed(Box<SealedFile>),
}

#[derive(Serialize, Deserialize)]
struct PlainFile {
    version: u32,
    secret: Secret,
}

#[derive(Serialize, Deserialize)]
struct SealedFile {
    version: u32,
    public_key: PublicKey,
    nonce: Base64,
    ciphertext: Base64,
}

impl SealedFile {
    /// A random nonce for each file: under one key there are as many files as key rotations, far
    /// from the 2^32 where random 96-bit nonces become a risk.
    fn seal(
        kek: &Kek,
        public_key: PublicKey,
        mut payload: Zeroizing<Vec<u8>>,
        rng: &mut impl CryptoRng,
    ) -> Self {
        let mut nonce = [0; 12];
        rng.fill_bytes(&mut nonce);
        cipher(kek)
            .encrypt_in_place(&Nonce::from(nonce), &aad(&public_key), &mut *payload)
            .expect("a payload of 64 bytes is below the cipher's bound");
        Self {
            version: 2,
            public_key,
            nonce: Base64(nonce.to_vec()),
            ciphertext: Base64(std::mem::take(&mut *payload)),
        }
    }

    /// `None` when it was not sealed so, under this key, for this public key.
    fn open(self, kek: &Kek) -> Option<Zeroizing<Vec<u8>>> {
        let nonce = <[u8; 12]>::try_from(self.nonce.0).ok()?;
        let mut payload = Zeroizing::new(self.ciphertext.0);
        cipher(kek)
            .decrypt_in_place(&Nonce::from(nonce), &aad(&self.public_key), &mut *payload)
            .ok()?;
        Some(payload)
    }
}

fn cipher(kek: &Kek) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(kek.as_bytes().into())
}

fn aad(public_key: &PublicKey) -> Vec<u8> {
    [AAD_CONTEXT, public_key.as_bytes()].concat()
}

/// Base64 in JSON like [`Base64`], but nothing of it stays in memory.
struct Secret(Zeroizing<Vec<u8>>);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Borrowed from the file's own buffer, which is wiped.
        let text = <&str>::deserialize(deserializer)?;
        match STANDARD.decode(text) {
            Ok(bytes) => Ok(Self(Zeroizing::new(bytes))),
            Err(_) => Err(serde::de::Error::custom("expected base64 with padding")),
        }
    }
}

#[cfg(test)]
mod tests {
    use getrandom::SysRng;
    use getrandom::rand_core::UnwrapErr;

    use super::*;

    fn rng() -> UnwrapErr<SysRng> {
        UnwrapErr(SysRng)
    }

    fn store(dir: &tempfile::TempDir, kek: Option<&Kek>) -> IdentityStore {
        IdentityStore::new(dir.path(), kek.cloned())
    }

    #[test]
    fn reads_back_what_it_wrote_plain_and_sealed_with_and_without_a_kept_session_key() {
        let dir = tempfile::tempdir().unwrap();
        assert!(store(&dir, None).read().unwrap().is_none());
        assert_eq!(store(&dir, None).is_sealed().unwrap(), None);
        let mut identity = Identity::random(&mut rng());
        let derived = identity.session_key();
        for kept in [None, Some(Zeroizing::new([7; 32]))] {
            identity.kept_session_key = kept;
            for kek in [None, Some(Kek::random(&mut rng()))] {
                let store = store(&dir, kek.as_ref());
                store.write(&identity, &mut rng()).unwrap();
                let read = store.read().unwrap().unwrap();
                assert_eq!(read.key, identity.key);
                assert_eq!(read.session_key(), identity.session_key());
                assert_eq!(store.is_sealed().unwrap(), Some(kek.is_some()));
                let file = std::fs::read(store.path()).unwrap();
                let seed = STANDARD.encode(&identity.key.as_bytes()[..30]);
                let in_plain = file.windows(40).any(|w| w == seed.as_bytes());
                assert_eq!(in_plain, kek.is_none(), "the control, and the promise");
            }
        }
        assert_ne!(identity.session_key(), derived);
    }

    #[test]
    fn a_sealed_identity_needs_its_own_key_and_is_not_to_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let kek = Kek::random(&mut rng());
        let sealed = store(&dir, Some(&kek));
        sealed
            .write(&Identity::random(&mut rng()), &mut rng())
            .unwrap();
        assert!(matches!(
            store(&dir, None).read(),
            Err(StateError::Sealed { .. })
        ));
        let other = Kek::random(&mut rng());
        assert!(matches!(
            store(&dir, Some(&other)).read(),
            Err(StateError::WrongKek { .. })
        ));
        let json = std::fs::read(sealed.path()).unwrap();
        let good: SealedFile = serde_json::from_slice(&json).unwrap();
        let refused = |file: &SealedFile| {
            let json = serde_json::to_vec(file).unwrap();
            atomic::write(sealed.path(), &json, MODE).unwrap();
            matches!(sealed.read(), Err(StateError::WrongKek { .. }))
        };
        for at in 0..good.ciphertext.0.len() {
            let mut bad: SealedFile = serde_json::from_slice(&json).unwrap();
            bad.ciphertext.0[at] ^= 1;
            assert!(refused(&bad), "ciphertext, byte {at}");
        }
        for at in 0..12 {
            let mut bad: SealedFile = serde_json::from_slice(&json).unwrap();
            bad.nonce.0[at] ^= 1;
            assert!(refused(&bad), "nonce, byte {at}");
        }
        let mut bad: SealedFile = serde_json::from_slice(&json).unwrap();
        bad.public_key = (&Identity::random(&mut rng()).key).into();
        assert!(refused(&bad), "another public key");
        let mut bad: SealedFile = serde_json::from_slice(&json).unwrap();
        bad.nonce.0.pop();
        assert!(refused(&bad), "a shorter nonce");
        assert!(!refused(&good), "the control");
    }

    #[test]
    fn a_file_of_a_later_format_and_a_key_of_another_length_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir, None);
        let read = |json: &str| {
            atomic::write(store.path(), json.as_bytes(), MODE).unwrap();
            store.read().err().unwrap().to_string()
        };
        assert!(read(r#"{"version":3}"#).contains("reads formats 1 and 2"));
        assert!(read(r#"{"version":1,"secret":"AAAA"}"#).contains("neither 32 nor 64"));
        assert!(read(r#"{"version":1,"secret":"A"}"#).contains("base64"));
        assert!(read(r#"{"version":1}"#).contains("secret"));
    }
}
