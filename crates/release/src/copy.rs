//! Reading and copying large files while hashing them: one pass, one buffer.
//!
//! The bytes that are hashed are the bytes that are written. A file that somebody changes meanwhile
//! gives a copy with the hash of what is in the copy.

use std::io::{self, ErrorKind, Read, Write};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// So much is read at a time: it stays in a processor's own cache between the read, the hash and
/// the write, and system calls do not count any more.
const BUFFER_BYTES: usize = 128 * 1024;

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// How many bytes.
    pub length: u64,
    /// Their SHA-256.
    pub digest: Digest,
}

/// Hashes everything that `from` has, up to `limit` bytes.
///
/// # Errors
/// What `from` said; [`ErrorKind::FileTooLarge`] as soon as more than `limit` bytes come.
pub fn hash(from: &mut impl Read, limit: u64) -> io::Result<Hashed> {
    copy(from, &mut io::sink(), limit)
}

/// Copies everything that `from` has to `to`, up to `limit` bytes, and hashes it on the way. What
/// `to` buffers is for the caller to flush.
///
/// # Errors
/// What `from` or `to` said; [`ErrorKind::FileTooLarge`] as soon as more than `limit` bytes come,
/// of which none beyond `limit` is written.
pub fn copy(from: &mut impl Read, to: &mut impl Write, limit: u64) -> io::Result<Hashed> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut sha256 = Sha256::new();
    let mut length: u64 = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(again) if again.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        length = length.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if length > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        sha256.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
    }
    Ok(Hashed {
        length,
        digest: Digest::new(sha256.finalize().into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of odd sizes, and is interrupted in between.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(3) {
                return Err(ErrorKind::Interrupted.into());
            }
            let most = (self.1 * 7919) % 70_000 + 1;
            let end = into.len().min(most);
            self.0.read(&mut into[..end])
        }
    }

    #[test]
    fn a_copy_has_the_bytes_and_their_hash() {
        let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n * 31 % 251) as u8).collect();
        let mut copied = Vec::new();
        let hashed = copy(&mut Pieces(&bytes, 0), &mut copied, 700_000).unwrap();
        assert_eq!(hashed.length, 700_000);
        assert_eq!(hashed.digest, Digest::of(&bytes));
        assert!(copied == bytes);
    }

    #[test]
    fn a_byte_beyond_the_limit_ends_it_and_is_not_written() {
        let mut copied = Vec::new();
        let error = copy(&mut &[1; 11][..], &mut copied, 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert!(copied.len() <= 10);
        let error = hash(&mut io::repeat(0), 1_000_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn every_byte_counts_also_behind_two_gib() {
        // CVE-2026-34155: a signature that covered only what fits in 31 bits.
        let length = (1_u64 << 31) + 1;
        let mut zeros = io::repeat(0).take(length - 1);
        let mut last_differs = (&mut zeros).chain(&[1_u8][..]);
        let differs = hash(&mut last_differs, length).unwrap();
        assert_eq!(differs.length, length);
        let prefix =
            Digest::parse("a7c744c13cc101ed66c29f672f92455547889cc586ce6d44fe76ae824958ea51")
                .unwrap();
        assert_ne!(differs.digest, prefix);
        let whole =
            Digest::parse("60f8b76720e075ea4e7151a3b56c5ebc97934e47f08ee20f9fffc891c35882fc")
                .unwrap();
        assert_eq!(differs.digest, whole);
    }
}
