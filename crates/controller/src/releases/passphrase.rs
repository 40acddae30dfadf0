//! The passphrase of a key file: wiped from memory when it is dropped, never shown.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Fewer characters are guessed in hours by whoever finds the key file.
pub const MIN_CHARS: usize = 12;
/// Longest passphrase, in bytes: a page of text.
pub const MAX_BYTES: usize = 1024;

/// A passphrase.
pub struct Passphrase(Zeroizing<Vec<u8>>);

/// Why a text is no passphrase, or a file has none. The sentence does not repeat it.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// Guessed too soon.
    #[error("the passphrase has fewer than {MIN_CHARS} characters: take four random words")]
    Short,
    /// Too much.
    #[error("the passphrase has more than {MAX_BYTES} bytes")]
    Long,
    /// A line break, a NUL.
    #[error("the passphrase holds a control character, which no terminal can type again")]
    Control,
    /// Not text.
    #[error("the passphrase is not UTF-8")]
    NotText,
    /// The file system refused.
    #[error("the passphrase file {path:?} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl Passphrase {
    /// As it was typed, without its line break. [`Self::check_strength`] says whether it is good
    /// for a new key.
    ///
    /// # Errors
    /// [`PassphraseError::Long`], [`PassphraseError::Control`], [`PassphraseError::NotText`].
    pub fn new(typed: Zeroizing<Vec<u8>>) -> Result<Self, PassphraseError> {
        if typed.len() > MAX_BYTES {
            return Err(PassphraseError::Long);
        }
        let text = std::str::from_utf8(&typed).map_err(|_| PassphraseError::NotText)?;
        if text.chars().any(char::is_control) {
            return Err(PassphraseError::Control);
        }
        Ok(Self(typed))
    }

    /// The only line of a file, which may be a pipe or a device of a secret manager.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn from_file(path: &Path) -> Result<Self, PassphraseError> {
        // Its full size from the start: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 4));
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES as u64 + 3).read_to_end(&mut bytes))
            .map_err(|source| PassphraseError::File {
                path: path.to_owned(),
                source,
            })?;
        for ending in *b"\n\r" {
            if bytes.last() == Some(&ending) {
                bytes.pop();
            }
        }
        Self::new(bytes)
    }

    /// Whether it may protect a new key.
    ///
    /// # Errors
    /// [`PassphraseError::Short`].
    pub fn check_strength(&self) -> Result<(), PassphraseError> {
        let chars = std::str::from_utf8(&self.0).map_or(0, |text| text.chars().count());
        if chars < MIN_CHARS {
            return Err(PassphraseError::Short);
        }
        Ok(())
    }

    /// Whether both are the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_line_and_nothing_that_cannot_be_typed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Passphrase::from_file(&path)
        };
        for line in [
            "correct horse battery",
            "correct horse battery\n",
            "correct horse battery\r\n",
        ] {
            assert_eq!(
                read(line.as_bytes()).unwrap().bytes(),
                b"correct horse battery"
            );
        }
        assert!(matches!(
            read(b"two\nlines\n"),
            Err(PassphraseError::Control)
        ));
        assert!(matches!(read(b"\xff\xfe"), Err(PassphraseError::NotText)));
        assert!(matches!(read(&[b'x'; 5000]), Err(PassphraseError::Long)));
        let short = read("zwölf.zeich".as_bytes()).unwrap();
        assert!(matches!(
            short.check_strength(),
            Err(PassphraseError::Short)
        ));
        let missing = Passphrase::from_file(&dir.path().join("none")).map(drop);
        assert!(missing.unwrap_err().to_string().contains("none"));
    }
}
