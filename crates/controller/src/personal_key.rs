//! The secret of a personal key: made, shown once, and kept as its hash.
//!
//! `vpnk_` and base64url of the 32 secret bytes with four bytes of a checksum, which finds typing
//! errors and proves nothing. Hashing takes its time and its memory on purpose, so it happens in the
//! operator's commands alone, and never in the process that answers hosts.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use vpn_node_protocol::encoding::{Digest, Hex, from_base64url, to_base64url};
use zeroize::Zeroizing;

/// What every secret starts with.
pub const PREFIX: &str = "vpnk_";
/// The secret of a personal key: as much as any key here has.
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const CHECKSUM_CONTEXT: &[u8] = b"vpn-node personal key v1";
/// RFC 9106 section 3.1: 16 bytes are enough for every application.
pub const SALT_BYTES: usize = 16;

// The least that OWASP's Password Storage Cheat Sheet takes for Argon2id: 19 MiB, two passes, one
// lane. These secrets are random and nobody can guess them, so more would only cost the operator
// time; the slow hash is for the day when a person brings a secret of his own.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Why a text is no secret of a personal key. The sentence does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing, or something else.
    #[error(
        "this is no secret of a personal key: one starts with \"{PREFIX}\" and has 48 characters after that; copy the whole string again"
    )]
    Malformed,
    /// A typing error.
    #[error("the secret has a typing error, or a part is missing: copy the whole string again")]
    Checksum,
}

/// The secret itself; wiped from memory when it is dropped.
pub struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

/// What is stored of it.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// Argon2id as a PHC string, parameters and salt included.
    pub key_hash: String,
    /// The salt alone, in hex.
    pub key_salt: String,
}

impl Secret {
    /// From random bytes.
    #[must_use]
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// From the text that was shown once.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let coded = text.strip_prefix(PREFIX).ok_or(SecretError::Malformed)?;
        let bytes = Zeroizing::new(from_base64url(coded).ok_or(SecretError::Malformed)?);
        let (secret, checksum) = bytes
            .split_first_chunk::<SECRET_BYTES>()
            .ok_or(SecretError::Malformed)?;
        if checksum.len() != CHECKSUM_BYTES {
            return Err(SecretError::Malformed);
        }
        let secret = Self::new(*secret);
        if secret.checksum() != checksum {
            return Err(SecretError::Checksum);
        }
        Ok(secret)
    }

    /// The text to be shown once.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES + CHECKSUM_BYTES]);
        bytes[..SECRET_BYTES].copy_from_slice(&*self.0);
        bytes[SECRET_BYTES..].copy_from_slice(&self.checksum());
        let coded = Zeroizing::new(to_base64url(&*bytes));
        // Its full size from the start: a text that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + coded.len()));
        text.push_str(PREFIX);
        text.push_str(&coded);
        text
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let digest = Digest::of(&[CHECKSUM_CONTEXT, &*self.0]);
        let mut checksum = [0; CHECKSUM_BYTES];
        checksum.copy_from_slice(&digest.0[..CHECKSUM_BYTES]);
        checksum
    }

    /// What is stored of it. Takes 19 MiB and some ten milliseconds.
    ///
    /// # Panics
    /// Never: the parameters and the sizes are constants.
    #[must_use]
    pub fn hash(&self, salt: &[u8; SALT_BYTES]) -> Hashed {
        let hash = hasher()
            .hash_password_with_salt(&*self.0, salt)
            .expect("the parameters are constants within Argon2's bounds");
        Hashed {
            key_hash: hash.to_string(),
            key_salt: Hex(*salt).to_string(),
        }
    }

    /// Whether this is the secret that `key_hash` was made of, with the parameters that stand there.
    /// What is no hash at all fits nothing.
    #[must_use]
    pub fn fits(&self, key_hash: &str) -> bool {
        PasswordHash::new(key_hash)
            .is_ok_and(|hash| hasher().verify_password(&*self.0, &hash).is_ok())
    }
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .expect("the parameters are constants within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_secret_reads_back_and_its_hash_knows_it_and_no_other() {
        let secret = Secret::new([7; SECRET_BYTES]);
        let text = secret.to_text();
        assert_eq!(text.len(), 53);
        let hashed = Secret::parse(&text).unwrap().hash(&[1; SALT_BYTES]);
        assert!(
            hashed
                .key_hash
                .starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{}",
            hashed.key_hash
        );
        assert_eq!(hashed.key_salt, "01".repeat(SALT_BYTES));
        assert!(secret.fits(&hashed.key_hash));
        assert!(!Secret::new([8; SECRET_BYTES]).fits(&hashed.key_hash));
        assert_ne!(secret.hash(&[2; SALT_BYTES]).key_hash, hashed.key_hash);
        for damaged in ["", "$argon2id$", "x", &hashed.key_hash[..60]] {
            assert!(!secret.fits(damaged), "{damaged}");
        }
    }

    #[test]
    fn a_typing_error_is_found_and_the_sentence_does_not_repeat_it() {
        let text = Secret::new([7; SECRET_BYTES]).to_text();
        let typo = text.replacen('H', "I", 1);
        assert!(matches!(Secret::parse(&typo), Err(SecretError::Checksum)));
        for bad in ["", "vpnk_", &text[..52], &text[5..], &format!("{}A", *text)] {
            assert!(
                matches!(Secret::parse(bad), Err(SecretError::Malformed)),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}", bytes in any::<[u8; 32]>()) {
            let _ = Secret::parse(&text);
            let _ = Secret::parse(&format!("{PREFIX}{text}"));
            let secret = Secret::new(bytes);
            prop_assert_eq!(*Secret::parse(&secret.to_text()).unwrap().0, bytes);
        }
    }
}
