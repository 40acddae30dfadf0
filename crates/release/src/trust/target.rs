//! One file that may be used: what was signed about it, and whether some bytes are those (section
//! 5.7). For packages, `bundle` makes a type of the answer: what is unpacked was verified.

use std::io::{self, Read, Write};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha512};

use super::fetch::{Fetch, FetchError};
use crate::code::MetadataCode;
use crate::metadata::{Hashes, Rejection, TargetFile, name};

/// Bytes that are read at once while hashing.
const CHUNK: usize = 64 * 1024;

/// What trusted metadata says about one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    /// Its path in the metadata.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its hashes: at least one that is known.
    pub hashes: Hashes,
    /// What the signer says about it; the policy reads it.
    pub custom: Option<Map<String, Value>>,
    /// The role that speaks for it: `targets`, or a delegated one.
    pub role: String,
    /// Whether its hash stands before its name in the address.
    consistent: bool,
}

impl TargetInfo {
    /// # Errors
    /// [`MetadataCode::TargetHash`] if no hash of a known algorithm is given.
    pub(super) fn new(
        path: &str,
        file: &TargetFile,
        role: &str,
        consistent: bool,
    ) -> Result<Self, Rejection> {
        let info = Self {
            path: path.to_owned(),
            length: file.length,
            hashes: file.hashes.clone(),
            custom: file.custom.clone(),
            role: role.to_owned(),
            consistent,
        };
        if info.hash_in_name().is_none() {
            return Err(info.rejected(
                MetadataCode::TargetHash,
                "neither a SHA-256 nor a SHA-512 was signed for it, so it cannot be verified",
            ));
        }
        Ok(info)
    }

    /// Its SHA-256 in lower-case hexadecimal. Releases always have one.
    #[must_use]
    pub fn sha256(&self) -> Option<String> {
        self.hashes.sha256()
    }

    /// Where it lies below the targets' base address, percent-encoded.
    #[must_use]
    pub fn url_path(&self) -> String {
        let hash = self.hash_in_name().filter(|_| self.consistent);
        name::target_url_path(&self.path, hash.as_deref())
    }

    /// Reads all of `from` and says whether it is this file.
    ///
    /// # Errors
    /// [`MetadataCode::TargetLength`] as soon as there is a byte more than was signed, or at the
    /// end if there are fewer; [`MetadataCode::TargetHash`]; [`MetadataCode::FetchFailed`] when
    /// reading fails.
    pub fn check(&self, from: impl Read) -> Result<(), Rejection> {
        self.copy(from, &mut io::sink())
    }

    /// Copies `from` to `to` while hashing, never more than the signed length. Until this says
    /// `Ok`, what is in `to` is not to be used.
    ///
    /// # Errors
    /// As [`Self::check`]; [`MetadataCode::TrustStoreUnwritable`] when writing fails.
    pub fn copy(&self, mut from: impl Read, to: &mut impl Write) -> Result<(), Rejection> {
        // Each only if it was signed: a second hash costs as much as the first.
        let mut sha256 = self.hashes.sha256().map(|_| Sha256::new());
        let mut sha512 = self.hashes.sha512().map(|_| Sha512::new());
        let mut buffer = vec![0; CHUNK];
        let mut length: u64 = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(self.rejected(
                        MetadataCode::FetchFailed,
                        format_args!("reading it failed after {length} bytes: {error}"),
                    ));
                }
            };
            length += count as u64;
            // 5.7.3: "download the target (up to the number of bytes specified ...)".
            if length > self.length {
                return Err(self.rejected(
                    MetadataCode::TargetLength,
                    format_args!(
                        "it has more than the {} bytes that were signed",
                        self.length
                    ),
                ));
            }
            let bytes = &buffer[..count];
            sha256.iter_mut().for_each(|hasher| hasher.update(bytes));
            sha512.iter_mut().for_each(|hasher| hasher.update(bytes));
            to.write_all(bytes).map_err(|error| {
                self.rejected(
                    MetadataCode::TrustStoreUnwritable,
                    format_args!("it could not be written: {error}"),
                )
            })?;
        }
        if length < self.length {
            return Err(self.rejected(
                MetadataCode::TargetLength,
                format_args!("it ends after {length} of {} bytes", self.length),
            ));
        }
        // 5.7.3: "and verify that its hashes match the targets metadata".
        let sha256 = sha256.map(|hasher| hasher.finalize().to_vec());
        let sha512 = sha512.map(|hasher| hasher.finalize().to_vec());
        let digests = (sha256.unwrap_or_default(), sha512.unwrap_or_default());
        if !self.hashes.match_digests(&digests.0, &digests.1) {
            return Err(self.rejected(
                MetadataCode::TargetHash,
                "its bytes are not those that were signed; it is damaged or was replaced",
            ));
        }
        Ok(())
    }

    /// Downloads it into `to` while hashing, as [`Self::copy`].
    ///
    /// # Errors
    /// As [`Self::copy`]; [`MetadataCode::Missing`] when the repository does not have it.
    pub fn download(&self, fetch: &mut dyn Fetch, to: &mut impl Write) -> Result<(), Rejection> {
        match fetch.target(&self.url_path()) {
            Ok(from) => self.copy(from, to),
            Err(error @ FetchError::NotFound) => Err(self.rejected(MetadataCode::Missing, error)),
            Err(error) => Err(self.rejected(MetadataCode::FetchFailed, error)),
        }
    }

    fn hash_in_name(&self) -> Option<String> {
        self.hashes.sha256().or_else(|| self.hashes.sha512())
    }

    fn rejected(&self, code: MetadataCode, sentence: impl std::fmt::Display) -> Rejection {
        let what = format!("target \"{}\"", self.path.escape_debug());
        Rejection::new(code, &what, sentence)
    }
}
