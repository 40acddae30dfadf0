//! `NAME.key`: the Ed25519 key of a person who signs, encrypted with a passphrase; `NAME.pub`
//! beside it: the public half, a key object as it stands in TUF metadata.
//!
//! A key file is one JSON object. Argon2id (RFC 9106) makes a key of the passphrase, and
//! ChaCha20-Poly1305 (RFC 8439) seals the 32 secret bytes under it; every other field, the public
//! half among them, is the additional data. A checksum over all of it tells a damaged file from a
//! wrong passphrase; it proves nothing.

use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key as CipherKey, KeyInit as _, Nonce};
use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vpn_node_release::metadata::{Key, hex, unhex};
use zeroize::Zeroizing;

use super::disk::{self, DiskError};
use super::passphrase::Passphrase;
use crate::clock;

/// Longest key file, in bytes: ours have 600.
const MAX_FILE_BYTES: u64 = 4096;
/// What [`KeyFile::format`] says in files of this version.
const FORMAT: u32 = 1;
/// Most memory that a key file may ask for: more would be an attack on the machine that opens it.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
/// Most passes that a key file may ask for, for the same reason.
const MAX_PASSES: u32 = 16;
/// Most lanes that a key file may ask for.
const MAX_LANES: u32 = 16;

/// What opening a key file costs, for its owner and for whoever guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Memory of Argon2id, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Cost {
    /// RFC 9106, section 4, second recommendation (64 MiB, three passes): a key is opened a few
    /// times a year.
    pub const STRONG: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 4,
    };
}

/// Why a key file cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Not what was written.
    #[error("the key file {path:?} is damaged ({reason}): take its other copy")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another version of this program made it.
    #[error(
        "the key file {path:?} has format {format}, and this program knows {FORMAT}: use a newer one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
    /// The passphrase opens it not.
    #[error("the passphrase is not that of {path:?} (key {id}): nothing was signed; try again")]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
        /// The key's id, shortened.
        id: String,
    },
    /// Not a public half.
    #[error(
        "{path:?} is no public half of an Ed25519 key ({reason}): give the NAME.pub that lies beside NAME.key"
    )]
    NotPublic {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// An encrypted key, not opened yet.
pub struct KeyFile {
    path: PathBuf,
    sealed: Sealed,
}

/// The file. What stands before `sealed` is the additional data.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    header: Header,
    sealed: String,
    checksum: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    what: String,
    format: u64,
    public: String,
    kdf: String,
    cost: Cost,
    salt: String,
    cipher: String,
    nonce: String,
}

const WHAT: &str = "vpn-node release key";
const KDF: &str = "argon2id";
const CIPHER: &str = "chacha20poly1305";

/// Makes `PATH` (0600) and the public half beside it. Overwrites nothing.
///
/// # Errors
/// [`KeyFileError::Disk`].
///
/// # Panics
/// Never: `cost` is a constant within the bounds of Argon2, and the cipher takes any 32 bytes.
pub fn create(
    path: &Path,
    passphrase: &Passphrase,
    cost: Cost,
) -> Result<SigningKey, KeyFileError> {
    let public_path = public_path(path);
    disk::refuse_existing(&public_path)?;
    let secret = Zeroizing::new(clock::random::<32>());
    let signing = SigningKey::from_bytes(&secret);
    let header = Header {
        what: WHAT.into(),
        format: FORMAT.into(),
        public: hex(signing.verifying_key().as_bytes()),
        kdf: KDF.into(),
        cost,
        salt: hex(&clock::random::<16>()),
        cipher: CIPHER.into(),
        nonce: hex(&clock::random::<12>()),
    };
    let sealed = header
        .cipher(passphrase)
        .and_then(|(cipher, nonce)| {
            let payload = Payload {
                msg: &*secret,
                aad: &header.additional_data(),
            };
            cipher.encrypt(&nonce, payload).ok()
        })
        .expect("the parameters are constants within the bounds");
    let sealed = hex(&sealed);
    let file = Sealed {
        checksum: header.checksum(&sealed),
        header,
        sealed,
    };
    let mut text = serde_json::to_vec_pretty(&file).expect("it has string keys only");
    text.push(b'\n');
    disk::create_new(path, &text, 0o600)?;
    write_public(&public_path, &signing.verifying_key())?;
    Ok(signing)
}

impl KeyFile {
    /// Reads a key file without opening it.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = disk::read_bounded(path, MAX_FILE_BYTES)?;
        let damaged = |reason: &str| KeyFileError::Damaged {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|_| damaged("it is cut off, or was never a key file"))?;
        let header = &value["header"];
        if header["what"] != WHAT {
            return Err(damaged("it was never a key file of this program"));
        }
        match header["format"].as_u64() {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) if format > u64::from(FORMAT) => {
                return Err(KeyFileError::Newer {
                    path: path.to_owned(),
                    format,
                });
            }
            _ => return Err(damaged("it has no format")),
        }
        let sealed: Sealed =
            serde_json::from_value(value).map_err(|error| damaged(&error.to_string()))?;
        if sealed.checksum != sealed.header.checksum(&sealed.sealed) {
            return Err(damaged("its checksum does not fit"));
        }
        if !sealed.header.is_bounded() {
            return Err(damaged(
                "it asks for other algorithms or for more work than any of ours",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            sealed,
        })
    }

    /// The public half that the file names; proven only by [`Self::open`].
    ///
    /// # Errors
    /// [`KeyFileError::Damaged`].
    pub fn public(&self) -> Result<Key, KeyFileError> {
        let bytes = unhex(&self.sealed.header.public).and_then(|bytes| bytes.try_into().ok());
        bytes
            .and_then(|bytes: [u8; 32]| VerifyingKey::from_bytes(&bytes).ok())
            .map(|key| Key::ed25519(&key))
            .ok_or_else(|| self.damaged("its public half is none"))
    }

    /// The key itself. Takes 64 MiB and part of a second.
    ///
    /// # Errors
    /// [`KeyFileError::WrongPassphrase`], [`KeyFileError::Damaged`].
    pub fn open(&self, passphrase: &Passphrase) -> Result<SigningKey, KeyFileError> {
        let public = self.public()?;
        let header = &self.sealed.header;
        let sealed =
            unhex(&self.sealed.sealed).ok_or_else(|| self.damaged("it is not hexadecimal"))?;
        let (cipher, nonce) = header
            .cipher(passphrase)
            .ok_or_else(|| self.damaged("its parameters cannot be used"))?;
        let payload = Payload {
            msg: &sealed,
            aad: &header.additional_data(),
        };
        let secret = cipher
            .decrypt(&nonce, payload)
            .map(Zeroizing::new)
            .map_err(|_| KeyFileError::WrongPassphrase {
                path: self.path.clone(),
                id: short_id(&public),
            })?;
        let secret = <&[u8; 32]>::try_from(secret.as_slice())
            .map_err(|_| self.damaged("it does not hold 32 bytes"))?;
        let signing = SigningKey::from_bytes(secret);
        if Key::ed25519(&signing.verifying_key()) != public {
            return Err(self.damaged("its two halves do not belong together"));
        }
        Ok(signing)
    }

    fn damaged(&self, reason: &str) -> KeyFileError {
        KeyFileError::Damaged {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

impl Header {
    fn additional_data(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it has string keys only")
    }

    fn checksum(&self, sealed: &str) -> String {
        let mut sha256 = Sha256::new();
        sha256.update(self.additional_data());
        sha256.update(sealed);
        hex(&sha256.finalize())
    }

    fn is_bounded(&self) -> bool {
        self.kdf == KDF
            && self.cipher == CIPHER
            && self.cost.memory_kib <= MAX_MEMORY_KIB
            && self.cost.passes <= MAX_PASSES
            && self.cost.lanes <= MAX_LANES
    }

    /// The cipher under the passphrase; nothing for parameters that Argon2 does not take.
    fn cipher(&self, passphrase: &Passphrase) -> Option<(ChaCha20Poly1305, Nonce)> {
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = self.cost;
        let params = Params::new(memory_kib, passes, lanes, Some(32)).ok()?;
        let salt = unhex(&self.salt)?;
        let nonce: [u8; 12] = unhex(&self.nonce)?.try_into().ok()?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.bytes(), &salt, &mut *key)
            .ok()?;
        let cipher = ChaCha20Poly1305::new(&CipherKey::from(*key));
        Some((cipher, Nonce::from(nonce)))
    }
}

/// Where the public half of a key file lies.
#[must_use]
pub fn public_path(path: &Path) -> PathBuf {
    path.with_extension("pub")
}

/// Writes a public half for others: not secret. Overwrites nothing.
///
/// # Errors
/// [`KeyFileError::Disk`].
pub fn write_public(path: &Path, key: &VerifyingKey) -> Result<(), KeyFileError> {
    let mut text = serde_json::to_vec_pretty(&Key::ed25519(key)).expect("it has string keys only");
    text.push(b'\n');
    Ok(disk::create_new(path, &text, 0o644)?)
}

/// Reads a public half.
///
/// # Errors
/// [`KeyFileError::NotPublic`], [`KeyFileError::Disk`].
pub fn read_public(path: &Path) -> Result<Key, KeyFileError> {
    let refused = |reason: String| KeyFileError::NotPublic {
        path: path.to_owned(),
        reason,
    };
    let bytes = disk::read_bounded(path, MAX_FILE_BYTES)?;
    let key: Key = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    let bytes = unhex(&key.keyval.public).and_then(|bytes| bytes.try_into().ok());
    let parsed = bytes.and_then(|bytes: [u8; 32]| VerifyingKey::from_bytes(&bytes).ok());
    // In the one form that we write ourselves: the same key has the same id everywhere.
    match parsed
        .filter(|key| !key.is_weak())
        .map(|parsed| Key::ed25519(&parsed))
    {
        Some(ours) if ours == key => Ok(ours),
        Some(_) => Err(refused("it is written in another way".into())),
        None => Err(refused("its bytes are no such key".into())),
    }
}

/// The first 16 digits of a key id: enough to tell keys apart on a screen.
#[must_use]
pub fn short_id(key: &Key) -> String {
    key.id().to_string().chars().take(16).collect()
}

#[cfg(test)]
mod tests;
