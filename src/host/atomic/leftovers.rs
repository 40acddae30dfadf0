//! What a crash leaves of a write that was cut off: the temporary file.

use std::path::Path;

use super::{AtomicError, remove};

/// Removes the temporary files in `dir` that a crash in [`super::write`] left: what stands in them was
/// never current, may be secret, and takes space. Only for who alone writes in `dir` now.
///
/// # Errors
/// [`AtomicError::Io`].
pub fn remove_temporary(dir: &Path) -> Result<(), AtomicError> {
    let failed = |source| AtomicError::io("list", dir)(source);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if is_temporary(entry.file_name().as_encoded_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether [`super::temp_path`] gives such names.
fn is_temporary(name: &[u8]) -> bool {
    name.starts_with(b".") && name.ends_with(b".tmp")
}

#[cfg(test)]
mod tests {
    use super::super::{temp_path, write};
    use super::*;

    #[test]
    fn what_a_crash_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write(&path, b"x", 0o600).unwrap();
        std::fs::write(temp_path(&path), b"half").unwrap();
        remove_temporary(dir.path()).unwrap();
        let left = std::fs::read_dir(dir.path()).unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["state"]);
        assert!(remove_temporary(&path).is_err());
    }
}
