//! The format of the whole state directory: one number in one file, which the updater reads before
//! it lets another version run here.

use super::{StateDir, StateError};
use crate::host::atomic;

/// Its file.
pub(super) const FILE: &str = "state-format";
/// The format that this version reads and writes.
const FORMAT: u64 = 1;
/// A number and a line feed.
const MAX_BYTES: usize = 32;

impl StateDir {
    /// Refuses a directory that a newer version has migrated, before anything in it is touched; a
    /// directory without the file gets one.
    ///
    /// # Errors
    /// [`StateError::Format`] for a newer format; what the disk says.
    pub fn check_format(&self) -> Result<(), StateError> {
        let path = self.path.join(FILE);
        let bytes = match atomic::read_bounded(&path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                let text = format!("{FORMAT}\n");
                return Ok(atomic::write(&path, text.as_bytes(), 0o600)?);
            }
            Err(error) => return Err(error.into()),
        };
        let found = std::str::from_utf8(&bytes).ok().map(str::trim);
        match found.and_then(|text| text.parse().ok()) {
            Some(FORMAT) => Ok(()),
            Some(found) => Err(StateError::Format {
                path,
                found,
                known: "1",
            }),
            None => Err(StateError::Damaged {
                path,
                why: "it holds no number".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_gets_the_format_and_a_newer_one_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        let file = dir.path().join(FILE);
        state.check_format().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"1\n");
        state.check_format().unwrap();
        for (text, code) in [
            ("2", "format 2"),
            ("0", "format 0"),
            ("", "no number"),
            ("1x", "no number"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = state.check_format().unwrap_err().to_string();
            assert!(error.contains(code), "{error}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }
}
