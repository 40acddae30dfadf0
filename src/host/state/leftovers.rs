//! What a crash or a failing disk leaves in the state directory, and its removal.

use super::{ENROLMENT, LANE, PENDING, StateDir, StateError};
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

impl StateDir {
    /// Whether there is a lane, in whatever state: then this host was enrolled, or is about to be.
    #[must_use]
    pub fn has_lane(&self) -> bool {
        self.path.join(LANE).exists()
    }

    /// Whether there is an identity: one that can be read, or a sealed one, which only the agent's
    /// start opens. Whose it is may be changing just now, so that is not looked at.
    ///
    /// # Errors
    /// [`StateError`]: also when it is missing.
    pub fn has_identity(&self) -> Result<(), StateError> {
        match self.any_identity() {
            Err(StateError::Sealed { .. }) => Ok(()),
            read => read.map(drop),
        }
    }

    /// Removes an enrolment that cannot be read, so that another one can take its place.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn remove_enrolment(&self) -> Result<(), StateError> {
        Ok(atomic::remove(&self.path.join(ENROLMENT))?)
    }
}

impl StateError {
    /// Whether the trouble is what the files hold, or that one is lost, or sealed to another
    /// machine: reading them again gives the same.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. } | Self::Sealed { .. } | Self::WrongKek { .. } | Self::Mixed { .. }
        )
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
