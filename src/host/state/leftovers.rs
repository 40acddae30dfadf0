//! What a crash leaves in the state directory, and its removal.

use super::{PENDING, StateDir, StateError};
use crate::host::atomic;

impl StateDir {
    /// Removes what a crash left behind: files whose writing was cut off, and on an enrolled host
    /// the beginning of the enrolment that it has. Only for who alone writes here now: an enrolment under
    /// [`StateDir::lock_enrolment`], or the agent of an enrolled host under [`StateDir::lock`].
    ///
    /// # Errors
    /// [`StateError`].
    pub fn remove_leftovers(&self) -> Result<(), StateError> {
        atomic::remove_temporary(self.path())?;
        let pending = self.path().join(PENDING);
        if !pending.exists() || self.enrolment()?.is_none() {
            return Ok(());
        }
        // A new enrolment of this enrolled host names its next key, and may have spent its token.
        match self.pending_file()? {
            Some(begun) if begun.next_key.is_some() => Ok(()),
            _ => Ok(atomic::remove(&pending)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_enrolment_stays_until_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        let pending = dir.path().join(PENDING);
        let half = dir.path().join(".identity.json.1-0.tmp");
        std::fs::write(&pending, "{}").unwrap();
        std::fs::write(&half, "a secret").unwrap();
        state.remove_leftovers().unwrap();
        assert!(pending.exists() && !half.exists());
    }
}
