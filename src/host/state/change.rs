//! From one identity key to the next, in files: a rotation, or a new enrolment of the same server.
//!
//! The new key waits in `identity.next.json`. What decides is `chain.slots`, which names the key of
//! its epoch and is replaced in one step: from then on the new key counts, and whoever comes next
//! (the running agent, the next start, the next enrolment) moves the files to their places. Before
//! that the old key counts, and the new file is only a plan.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;
use vpn_node_protocol::keys::PublicKey;

use super::identity::Identity;
use super::{
    ENROLMENT, Enrolment, IDENTITY, IdentityStore, Kek, LANE, MAX_FILE_BYTES, NEXT_IDENTITY,
    PENDING, PendingEnrolment, PendingFile, SEALED, StateDir, StateError, parse,
};
use crate::core::journal;
use crate::core::lane::LaneState;
use crate::host::atomic::{self, AtomicError};
use crate::host::slots::Slots;

pub(super) const NEXT_ENROLMENT: &str = "enrollment.next.json";

impl StateDir {
    /// Moves to its place what `chain.slots` says is in force; called before anything is read. A
    /// host that is not enrolled, or whose lane cannot be read, is left as it is.
    ///
    /// # Errors
    /// [`StateError`]: also when the key in force is in neither file.
    pub fn finish_change(&self, rng: &mut impl CryptoRng) -> Result<(), StateError> {
        let (Some(enrolment), Some(lane)) = (self.enrolment()?, self.lane_as_it_is()) else {
            return Ok(());
        };
        let in_force = lane
            .identity_key
            .filter(|key| lane.server_id == enrolment.server_id && *key != enrolment.identity_key);
        match in_force {
            Some(key) => self.promote(key, &lane, enrolment, rng),
            None => self.tidy(&enrolment, rng),
        }
    }

    /// Makes the key of a rotation durable, with the key of the session hashes beside it: open
    /// sessions keep their names.
    ///
    /// # Errors
    /// [`StateError`]; then no key was stored.
    pub fn store_next_key(
        &self,
        key: &SigningKey,
        rng: &mut impl CryptoRng,
    ) -> Result<(), StateError> {
        // A key that is in force, and not in its place yet, must not be written over.
        self.finish_change(rng)?;
        let next = Identity {
            key: key.clone(),
            kept_session_key: Some(self.any_identity()?.session_key()),
        };
        crash_point()?;
        self.next_identity_store().write(&next, rng)
    }

    /// The key of a rotation that was begun and is not in force; one that cannot be read counts as
    /// none, since the key in force does not depend on it.
    #[must_use]
    pub fn next_key(&self) -> Option<SigningKey> {
        let read = self.next_identity_store().read();
        let next = match read {
            Ok(next) => next?.key,
            Err(error) => {
                tracing::warn!(
                    message_id = %journal::IDENTITY_KEY_LEFT,
                    %error, "the key of a rotation that was begun cannot be read; the key in force stays"
                );
                return None;
            }
        };
        let enrols_anew = self.pending_file().is_ok_and(|pending| {
            pending.is_some_and(|pending| pending.next_key == Some(PublicKey::from(&next)))
        });
        (!enrols_anew).then_some(next)
    }

    /// Writes the key that waits, if one does, as the identity in force is to be written next:
    /// under this key-encryption key, or in plain. One that cannot be read counts as none.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn rewrite_next_key(
        &self,
        kek: Option<Kek>,
        rng: &mut impl CryptoRng,
    ) -> Result<(), StateError> {
        if let Ok(Some(next)) = self.next_identity_store().read() {
            crash_point()?;
            IdentityStore::next(&self.path, kek).write(&next, rng)?;
        }
        Ok(())
    }

    /// Removes a key that will not be used.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn drop_next_key(&self, rng: &mut impl CryptoRng) -> Result<(), StateError> {
        self.finish_change(rng)?;
        self.remove(NEXT_IDENTITY)
    }

    /// The new enrolment of this enrolled host that was begun with this token, if there is one.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn pending_reenrolment(
        &self,
        registration: PublicKey,
    ) -> Result<Option<PendingEnrolment>, StateError> {
        let Some(pending) = self.pending_file()? else {
            return Ok(None);
        };
        if pending.registration_key != registration || pending.next_key.is_none() {
            return Ok(None);
        }
        let key = self.next_identity_store().read()?.map(|next| next.key);
        let is_meant = |key: &SigningKey| pending.next_key == Some(PublicKey::from(key));
        Ok(key.filter(is_meant).map(|key| PendingEnrolment {
            key,
            idempotency_id: pending.idempotency_id,
        }))
    }

    /// Makes a second identity and an idempotency id, durable before either is sent. The identity
    /// in force is not touched, and need not be readable.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn begin_reenrolment(
        &self,
        registration: PublicKey,
        rng: &mut impl CryptoRng,
    ) -> Result<PendingEnrolment, StateError> {
        let mut next = Identity::random(rng);
        match self.any_identity() {
            Ok(identity) => next.kept_session_key = Some(identity.session_key()),
            Err(error) => {
                tracing::warn!(
                    message_id = %journal::ENROLMENT_REMARK,
                    %error, "open connections will be recorded as new ones"
                );
            }
        }
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        let idempotency_id = uuid::Builder::from_random_bytes(id).into_uuid();
        // It names its key, so that the file of another key beside it means nothing.
        let pending = PendingFile {
            version: 1,
            registration_key: registration,
            idempotency_id,
            next_key: Some((&next.key).into()),
        };
        crash_point()?;
        self.write(PENDING, &pending)?;
        crash_point()?;
        self.next_identity_store().write(&next, rng)?;
        Ok(PendingEnrolment {
            key: next.key,
            idempotency_id,
        })
    }

    /// From here on the host is the same server with the new identity. Ledger and sessions stay.
    ///
    /// # Errors
    /// [`StateError`]; the same token finishes it.
    pub fn finish_reenrolment(
        &self,
        enrolment: &Enrolment,
        lane: &LaneState,
        rng: &mut impl CryptoRng,
    ) -> Result<(), StateError> {
        crash_point()?;
        self.write(NEXT_ENROLMENT, enrolment)?;
        crash_point()?;
        self.create_lane(lane)?;
        self.finish_change(rng)
    }

    /// `key` is in force by the lane: its file takes the place of the old one, and the enrolment
    /// names it.
    fn promote(
        &self,
        key: PublicKey,
        lane: &LaneState,
        enrolment: Enrolment,
        rng: &mut impl CryptoRng,
    ) -> Result<(), StateError> {
        let is_meant = |identity: &Identity| PublicKey::from(&identity.key) == key;
        self.seal_next_key(rng)?;
        if self
            .next_identity_store()
            .read()?
            .is_some_and(|i| is_meant(&i))
        {
            crash_point()?;
            replace(&self.path.join(NEXT_IDENTITY), &self.path.join(IDENTITY))?;
        } else if !self.identity_store().read()?.is_some_and(|i| is_meant(&i)) {
            return Err(StateError::Mixed {
                path: self.path.join(LANE),
            });
        }
        let anew: Option<Enrolment> = self.read(NEXT_ENROLMENT, MAX_FILE_BYTES)?;
        let enrolment = match anew.filter(|anew| anew.identity_key == key) {
            Some(anew) => anew,
            None => Enrolment {
                epoch: lane.epoch,
                identity_key: key,
                ..enrolment
            },
        };
        crash_point()?;
        self.write(ENROLMENT, &enrolment)?;
        self.tidy(&enrolment, rng)
    }

    /// The identity was sealed after this was written: no key waits in plain, nor takes the place
    /// of a sealed one.
    fn seal_next_key(&self, rng: &mut impl CryptoRng) -> Result<(), StateError> {
        let in_plain = self.next_identity_store().is_sealed();
        match (&self.kek, in_plain) {
            (Some(kek), Ok(Some(false))) => self.rewrite_next_key(Some(kek.clone()), rng),
            _ => Ok(()),
        }
    }

    /// Removes what a finished or given-up change left. A key that waits stays: its rotation, or
    /// its enrolment, goes on.
    fn tidy(&self, enrolment: &Enrolment, rng: &mut impl CryptoRng) -> Result<(), StateError> {
        self.seal_next_key(rng)?;
        if self.path.join(SEALED).exists()
            && matches!(self.identity_store().is_sealed(), Ok(Some(false)))
        {
            // Of a sealed key that was replaced by one in plain.
            self.remove(SEALED)?;
        }
        if self.path.join(NEXT_ENROLMENT).exists() {
            self.remove(NEXT_ENROLMENT)?;
        }
        let pending = self.pending_file()?;
        if pending.is_some_and(|pending| pending.next_key == Some(enrolment.identity_key)) {
            self.remove(PENDING)?;
        }
        Ok(())
    }

    fn next_identity_store(&self) -> IdentityStore {
        IdentityStore::next(&self.path, self.kek.clone())
    }

    pub(super) fn pending_file(&self) -> Result<Option<PendingFile>, StateError> {
        self.read(PENDING, MAX_FILE_BYTES)
    }

    /// Whose lane this is, if it can be read.
    #[must_use]
    pub fn server_of_lane(&self) -> Option<String> {
        Some(self.lane_as_it_is()?.server_id)
    }

    /// Without a look at whom it belongs to. Whoever needs it says why it cannot be read.
    fn lane_as_it_is(&self) -> Option<LaneState> {
        let path = self.path.join(LANE);
        let (_, bytes) = Slots::open(&path).ok()?;
        parse(&path, &bytes).ok()
    }

    fn remove(&self, name: &str) -> Result<(), StateError> {
        crash_point()?;
        Ok(atomic::remove(&self.path.join(name))?)
    }
}

/// Renames one secret over another, durably, and overwrites the bytes of the other. That is the
/// best that a file system offers: a journal, a snapshot or a flash drive may keep an older copy.
fn replace(from: &Path, to: &Path) -> Result<(), AtomicError> {
    let old = atomic::open_private(to).ok();
    std::fs::rename(from, to).map_err(|source| AtomicError::Io {
        doing: "replace by rename",
        path: to.to_owned(),
        source,
    })?;
    atomic::sync_dir(to.parent().unwrap_or(Path::new(".")))?;
    if let Some(error) = old.and_then(|old| wipe(old).err()) {
        tracing::warn!(
            message_id = %journal::IDENTITY_KEY_LEFT,
            %error, "the old identity key was removed, and could not be overwritten first"
        );
    }
    Ok(())
}

fn wipe(mut file: File) -> std::io::Result<()> {
    let about = file.metadata()?;
    if about.nlink() > 0 {
        // It has another name, which is not ours to empty: root may do this in the directory of
        // a user who has linked something there.
        return Ok(());
    }
    let length = usize::try_from(about.len()).unwrap_or(0);
    file.write_all(&vec![0; length.min(MAX_FILE_BYTES)])?;
    file.sync_all()
}

/// Before each change of a file: where the tests stop the host.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "the tests' one fails")]
fn crash_point() -> Result<(), StateError> {
    Ok(())
}

#[cfg(test)]
use tests::crash_point;

#[cfg(test)]
mod tests;
