//! The files of `/var/lib/vpn-node`: what this host is, and where its chain stands.
//!
//! | file | content |
//! |---|---|
//! | `identity.json` | the identity key: the one secret (`state/identity.rs`) |
//! | `identity.sealed` | what opens a sealed identity key, sealed to this machine (`sealing.rs`) |
//! | `identity.next.json` | the key that will follow it (`state/change.rs`) |
//! | `enrollment.pending.json` | an enrolment that was begun: which token, which idempotency id |
//! | `enrollment.json` | who this host is and whom it believes; its presence says "enrolled" |
//! | `enrollment.next.json` | what will follow it: the host was enrolled anew, as the same server |
//! | `chain.slots` | the lane: sequence, chain, nonce, the request in flight |
//! | `sessions.json`, `sessions.log` | live connections by keyed hash (`state/sessions.rs`) |
//!
//! Each is written whole, by temporary file and rename, or as one of two copies (`chain.slots`),
//! but for `sessions.log`, to which entries are added;
//! one that cannot be read stops the agent.

mod advice;
mod change;
mod format;
mod identity;
mod leftovers;
mod sessions;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::keys::PublicKey;
use zeroize::Zeroizing;

use super::atomic::{self, AtomicError};
use super::slots::{Slots, SlotsError};
use crate::core::lane::LaneState;
use crate::core::sessions::KnownSession;
use advice::ENROL_ANEW;
use identity::{IDENTITY, NEXT_IDENTITY};
pub use identity::{Identity, IdentityStore, Kek, SEALED};
pub use sessions::SessionsFile;

const PENDING: &str = "enrollment.pending.json";
const ENROLMENT: &str = "enrollment.json";
const LANE: &str = "chain.slots";
const LOCK: &str = "agent.lock";
const ENROLMENT_LOCK: &str = "enrollment.lock";

/// One file but `sessions.json`: a lane holds a request (512 KiB at most) and a reply in JSON.
const MAX_FILE_BYTES: usize = 2 * 1024 * 1024;
/// All of them are the daemon's alone.
const MODE: u32 = 0o600;

/// Why the state on disk cannot be used. The agent stops: guessing would burn an identity.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system.
    #[error(transparent)]
    File(#[from] AtomicError),
    /// The file system, or a value that is too large.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// Not what it should hold.
    #[error("{path} cannot be understood ({why}): {}", advice::about(path))]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer program wrote it.
    #[error(
        "{path} is of format {found}, and this version of vpn-node reads formats {known}: install the version that wrote it, or a newer one"
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The formats that this version reads.
        known: &'static str,
    },
    /// The identity is encrypted, and nothing brought the key to it.
    #[error(
        "the identity key in {path} is sealed, and this start did not unseal it. Was the agent started by hand? Run 'vpn-node-agent --unseal-identity' as root first. The unit vpn-node-agent.service does that by itself; if it did, the key is sealed to another machine, or this machine's TPM or host key has changed since (what systemd-creds said stands above, in the journal of vpn-node-agent). Nothing on this host can open it any more then: {ENROL_ANEW}"
    )]
    Sealed {
        /// The identity file.
        path: PathBuf,
    },
    /// The identity is encrypted with another key.
    #[error(
        "{path} cannot be opened with the key that was unsealed: it was changed, or it and identity.sealed are of different copies; restore these two, and nothing else, from one backup that was made since this host's key last changed, or {ENROL_ANEW}"
    )]
    WrongKek {
        /// The identity file.
        path: PathBuf,
    },
    /// Files that belong to different enrolments.
    #[error(
        "{path} belongs to another enrolment than {ENROLMENT} in the same directory: an old file or another host's was put there. Put back what was there before; if that is lost, enrol this host anew: {ENROL_ANEW}"
    )]
    Mixed {
        /// The odd one.
        path: PathBuf,
    },
    /// Another agent runs here.
    #[error(
        "another vpn-node-agent runs with {path} already: two would look like a cloned host; stop that one first ('systemctl stop vpn-node-agent')"
    )]
    Locked {
        /// The state directory.
        path: PathBuf,
    },
    /// Another enrolment runs here.
    #[error(
        "another enrolment of this host is running, with {path}: wait until it has ended, and look with 'vpn-node status' what became of it"
    )]
    Enrolling {
        /// The state directory.
        path: PathBuf,
    },
    /// `enrollment.json` is missing where it is needed.
    #[error("this host is not enrolled: run 'vpn-node enroll' and paste a token")]
    NotEnrolled,
}

/// Who this host is and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Format of this file; 1.
    pub version: u32,
    /// Its id with the controller.
    pub server_id: String,
    /// Epoch of the identity key.
    pub epoch: u32,
    /// When, by this host's clock, in milliseconds since the Unix epoch.
    pub enrolled_ms: i64,
    /// Controller addresses.
    pub urls: Vec<String>,
    /// SHA-256 of the controller's root key.
    pub root_pin: Digest,
    /// SHA-256 of the server certificate's public key, if the token had one.
    pub server_pin: Option<Digest>,
    /// The public half of the identity key.
    pub identity_key: PublicKey,
    /// The public half of the registration key: which token enrolled this host. Absent in a file
    /// of a version that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_key: Option<PublicKey>,
    /// The controller's newest certificate, signed by the root.
    pub certificate: Envelope,
}

/// An enrolment that was begun: the same token finishes it.
pub struct PendingEnrolment {
    /// The identity key.
    pub key: SigningKey,
    /// Names this enrolment to the controller.
    pub idempotency_id: Uuid,
}

/// The open file of the lane.
#[derive(Debug)]
pub struct LaneFile(Slots);

impl LaneFile {
    /// Makes the lane durable.
    ///
    /// # Errors
    /// [`StateError`]; the state before it stays.
    pub fn store(&mut self, lane: &LaneState) -> Result<(), StateError> {
        Ok(self.0.write(&json(lane))?)
    }
}

/// Live connections of a former process of the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KeptSessions {
    /// Format of this file; 1.
    pub version: u32,
    /// Which snapshot: the entries of the log that belong to it have the same.
    #[serde(default)]
    pub generation: u64,
    /// By keyed hash.
    pub sessions: Vec<KnownSession>,
    /// Those whose start may not have reached the ledger.
    pub unrecorded: BTreeSet<Uuid>,
}

#[derive(Serialize, Deserialize)]
struct PendingFile {
    version: u32,
    registration_key: PublicKey,
    idempotency_id: Uuid,
    /// Set when an enrolled host is enrolled anew: the key in `identity.next.json` that this is
    /// about. Absent: the one in `identity.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_key: Option<PublicKey>,
}

/// Holds the state directory for one agent (flock(2)); the kernel frees it however it ends.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "held, never read")] File);

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    kek: Option<Kek>,
}

impl StateDir {
    /// Names a state directory; touches nothing.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            kek: None,
        }
    }

    /// The same, with the key that the identity file is encrypted with from now on.
    #[must_use]
    pub fn with_kek(self, kek: Option<Kek>) -> Self {
        Self { kek, ..self }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the connection ledger is.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }

    /// Takes the directory for one agent, until the lock is dropped: two agents with one identity
    /// would be quarantined as clones.
    ///
    /// # Errors
    /// [`StateError::Locked`], [`StateError::File`].
    pub fn lock(&self) -> Result<StateLock, StateError> {
        atomic::create_dir_private(&self.path)?;
        let path = self.path.join(LOCK);
        let file = atomic::open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(StateLock(file)),
            Err(_) => Err(StateError::Locked {
                path: self.path.clone(),
            }),
        }
    }

    /// Takes the directory for one enrolment, until the lock is dropped: of two at once, one would
    /// replace the identity that the other is about to bind. The agent that waits for an enrolment
    /// has [`StateDir::lock`], so this is another one.
    ///
    /// # Errors
    /// [`StateError::Enrolling`], [`StateError::File`].
    pub fn lock_enrolment(&self) -> Result<StateLock, StateError> {
        atomic::create_dir_private(&self.path)?;
        let file = atomic::open_lock(&self.path.join(ENROLMENT_LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(StateLock(file)),
            Err(_) => Err(StateError::Enrolling {
                path: self.path.clone(),
            }),
        }
    }

    /// The enrolment, if this host has one.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn enrolment(&self) -> Result<Option<Enrolment>, StateError> {
        self.read(ENROLMENT, MAX_FILE_BYTES)
    }

    /// The identity file.
    #[must_use]
    pub fn identity_store(&self) -> IdentityStore {
        IdentityStore::new(&self.path, self.kek.clone())
    }

    /// The identity of this enrolment.
    ///
    /// # Errors
    /// [`StateError`]: also when the file is readable by others.
    pub fn identity(&self, enrolment: &Enrolment) -> Result<Identity, StateError> {
        let identity = self.any_identity()?;
        if PublicKey::from(&identity.key) != enrolment.identity_key {
            return Err(StateError::Mixed {
                path: self.path.join(IDENTITY),
            });
        }
        Ok(identity)
    }

    /// The lane of this enrolment, and the file to write it to from now on.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn lane(&self, enrolment: &Enrolment) -> Result<(LaneState, LaneFile), StateError> {
        let path = self.path.join(LANE);
        let damaged = |why: String| StateError::Damaged {
            path: path.clone(),
            why,
        };
        let (slots, bytes) = Slots::open(&path).map_err(|error| match error {
            SlotsError::File(error) if error.is_not_found() => {
                damaged("the file is missing".into())
            }
            SlotsError::File(error) => StateError::File(error),
            other => damaged(other.to_string()),
        })?;
        let lane: LaneState = parse(&path, &bytes)?;
        let of_key = |key| key == enrolment.identity_key;
        if lane.server_id != enrolment.server_id
            || lane.epoch != enrolment.epoch
            || !lane.identity_key.is_none_or(of_key)
        {
            return Err(StateError::Mixed { path });
        }
        Ok((lane, LaneFile(slots)))
    }

    /// Makes the first state of a lane durable.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn create_lane(&self, lane: &LaneState) -> Result<(), StateError> {
        Ok(Slots::create(&self.path.join(LANE), &json(lane))?)
    }

    /// Keeps a newer certificate of the controller.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn store_certificate(&self, certificate: Envelope) -> Result<(), StateError> {
        let enrolment = self.enrolment()?.ok_or(StateError::NotEnrolled)?;
        self.write(
            ENROLMENT,
            &Enrolment {
                certificate,
                ..enrolment
            },
        )
    }

    /// The enrolment that was begun with this token, if there is one.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn pending_enrolment(
        &self,
        registration: PublicKey,
    ) -> Result<Option<PendingEnrolment>, StateError> {
        let Some(pending) = self.read::<PendingFile>(PENDING, MAX_FILE_BYTES)? else {
            return Ok(None);
        };
        if pending.registration_key != registration || pending.next_key.is_some() {
            return Ok(None);
        }
        // The key was written before the file that was just read.
        Ok(Some(PendingEnrolment {
            key: self.any_identity()?.key,
            idempotency_id: pending.idempotency_id,
        }))
    }

    /// Makes an identity and an idempotency id, and makes both durable before either is sent.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn begin_enrolment(
        &self,
        registration: PublicKey,
        rng: &mut impl CryptoRng,
    ) -> Result<PendingEnrolment, StateError> {
        atomic::create_dir_private(&self.path)?;
        // An older pending file must not name the new key.
        atomic::remove(&self.path.join(PENDING))?;
        // Nor must the key of another enrolment's rotation follow it.
        atomic::remove(&self.path.join(NEXT_IDENTITY))?;
        let identity = Identity::random(rng);
        self.identity_store().write(&identity, rng)?;
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        let idempotency_id = uuid::Builder::from_random_bytes(id).into_uuid();
        self.write(
            PENDING,
            &PendingFile {
                version: 1,
                registration_key: registration,
                idempotency_id,
                next_key: None,
            },
        )?;
        Ok(PendingEnrolment {
            key: identity.key,
            idempotency_id,
        })
    }

    /// From here on the host is enrolled.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn finish_enrolment(&self, enrolment: &Enrolment) -> Result<(), StateError> {
        self.write(ENROLMENT, enrolment)?;
        Ok(atomic::remove(&self.path.join(PENDING))?)
    }

    fn any_identity(&self) -> Result<Identity, StateError> {
        let missing = || self.identity_missing();
        self.identity_store().read()?.ok_or_else(missing)
    }

    /// What is wrong with an enrolled host that has no identity file.
    pub(super) fn identity_missing(&self) -> StateError {
        StateError::Damaged {
            path: self.path.join(IDENTITY),
            why: "the file is missing".into(),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str, limit: usize) -> Result<Option<T>, StateError> {
        let path = self.path.join(name);
        let bytes = match atomic::read_private(&path, limit) {
            Err(error) if error.is_not_found() => return Ok(None),
            read => read?,
        };
        parse(&path, &bytes).map(Some)
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        Ok(atomic::write(&self.path.join(name), &json(value), MODE)?)
    }
}

fn json<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(serde_json::to_vec(value).expect("state types serialise"))
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, StateError> {
    let damaged = |why: serde_json::Error| StateError::Damaged {
        path: path.to_owned(),
        why: why.to_string(),
    };
    let format: FormatOnly = serde_json::from_slice(bytes).map_err(damaged)?;
    if format.version != 1 {
        return Err(StateError::Format {
            path: path.to_owned(),
            found: format.version,
            known: "1",
        });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[derive(Deserialize)]
struct FormatOnly {
    version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_enrolment_at_a_time_also_beside_a_waiting_agent() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("state"));
        let _agent = state.lock().unwrap();
        let first = state.lock_enrolment().unwrap();
        let second = state.lock_enrolment();
        assert!(matches!(second, Err(StateError::Enrolling { .. })));
        drop(first);
        assert!(state.lock_enrolment().is_ok());
    }
}
