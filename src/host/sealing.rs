//! The optional sealing of the identity key to this machine, by systemd-creds(1).
//!
//! A random key-encryption key (KEK) encrypts `identity.json`; the KEK itself is sealed to the
//! machine's host key, its TPM, or both, in `identity.sealed`. Root unseals it at each start of the
//! agent (`vpn-node-agent --unseal-identity`, in the unit), hands it over in a file of the runtime
//! directory, and the agent takes that file away. So the agent itself needs neither root nor TPM,
//! also when it writes a new identity under the same KEK.

mod creds;
mod handover;

use std::fmt;
use std::path::{Path, PathBuf};

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;

use super::atomic::{self, AtomicError};
use super::state::{IdentityStore, Kek, SEALED, StateDir, StateError};
pub use creds::{CredsError, PROGRAM_DIRS, SystemdCreds};
pub use handover::{KEK_FILE, take_kek};

/// A sealed KEK is about 300 bytes with the host key and 1 KiB with a TPM.
const MAX_SEALED_BYTES: usize = 64 * 1024;
const MODE: u32 = 0o600;

/// What a new KEK is sealed with: `--with-key=` of systemd-creds(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealWith {
    /// The TPM and the host key, as far as there are any.
    Auto,
    /// The key in /var/lib/systemd/credential.secret.
    Host,
    /// The TPM.
    Tpm2,
    /// Both: either alone does not open it.
    HostAndTpm2,
}

impl SealWith {
    /// All of them, as systemd-creds(1) calls them.
    pub const NAMES: [&str; 4] = ["auto", "host", "tpm2", "host+tpm2"];

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Auto, Self::Host, Self::Tpm2, Self::HostAndTpm2];
        all.into_iter().find(|with| with.name() == name)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Tpm2 => "tpm2",
            Self::HostAndTpm2 => "host+tpm2",
        }
    }
}

/// What a sealed KEK needs to be opened, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedTo {
    /// The host key.
    Host,
    /// The TPM.
    Tpm2,
    /// Both.
    HostAndTpm2,
    /// A kind that this program does not know.
    Unknown,
}

impl fmt::Display for SealedTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Tpm2 => "tpm2",
            Self::HostAndTpm2 => "host+tpm2",
            Self::Unknown => "unknown",
        })
    }
}

/// Why the identity key was not sealed or unsealed.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// Files of the state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Files.
    #[error(transparent)]
    File(#[from] AtomicError),
    /// The program.
    #[error(transparent)]
    Creds(#[from] CredsError),
    /// There is nothing to do.
    #[error(
        "the identity key in {state_dir} is sealed already (with {with}): run 'vpn-node identity unseal' first, to seal it with something else"
    )]
    AlreadySealed {
        /// The state directory.
        state_dir: PathBuf,
        /// With what.
        with: SealedTo,
    },
    /// There is nothing to undo.
    #[error("the identity key in {state_dir} is not sealed")]
    NotSealed {
        /// The state directory.
        state_dir: PathBuf,
    },
    /// It would protect nothing.
    #[error(
        "systemd-creds sealed the identity key to nothing of this machine, since it has neither a TPM nor a host key; the key stays as it was. Run 'systemd-creds setup' to make a host key, and try again"
    )]
    Unprotected,
    /// What was sealed does not open.
    #[error(
        "systemd-creds does not give back what it has just sealed; the identity key stays as it was"
    )]
    NotProven,
    /// The machine cannot open it.
    #[error(
        "the identity key in {state_dir} cannot be unsealed: it is sealed to another machine, or this machine's TPM or host key has changed since ({why}). If that is not a passing fault, nothing on this host can open it any more: make a token for the same server on the controller ('vpn-node-controller registration-key create --server NAME'), and run 'vpn-node enroll' here"
    )]
    CannotUnseal {
        /// The state directory.
        state_dir: PathBuf,
        /// What systemd-creds said, or that the file is not there.
        why: String,
    },
    /// The runtime directory does not take it.
    #[error(
        "{path} cannot be used: {why}. It is made by 'vpn-node-agent --unseal-identity' at each start (ExecStartPre= of vpn-node-agent.service); remove it and start the service again"
    )]
    Handover {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// How the identity key lies on the disk: sealed, with what; `None` in plain.
///
/// # Errors
/// [`SealingError`]: also [`StateError::NotEnrolled`].
pub fn status(state: &StateDir) -> Result<Option<SealedTo>, SealingError> {
    match state.identity_store().is_sealed()? {
        None => Err(match state.enrolment()? {
            Some(_) => state.identity_missing(),
            None => StateError::NotEnrolled,
        }
        .into()),
        Some(false) => Ok(None),
        Some(true) => Ok(Some(match read_sealed(state) {
            Ok(blob) => creds::sealed_to(&blob),
            Err(_) => SealedTo::Unknown,
        })),
    }
}

/// Seals the identity key of this enrolled host; the caller holds the state directory's lock.
/// The KEK is sealed, durable and proven to open before the plain identity is replaced; a crash at
/// any step leaves an identity that can be read.
///
/// # Errors
/// [`SealingError`]; the identity stays as it was.
pub fn seal(
    state: &StateDir,
    creds: &SystemdCreds,
    with: SealWith,
) -> Result<SealedTo, SealingError> {
    if let Some(with) = status(state)? {
        return Err(SealingError::AlreadySealed {
            state_dir: state.path().to_owned(),
            with,
        });
    }
    let mut rng = UnwrapErr(SysRng);
    // What is sealed is the key in force, wherever a stop of the agent has left it.
    state.finish_change(&mut rng)?;
    let enrolment = state.enrolment()?.ok_or(StateError::NotEnrolled)?;
    let identity = state.identity(&enrolment)?;
    let kek = Kek::random(&mut rng);
    let blob = creds.encrypt(kek.as_bytes(), with)?;
    let sealed_to = match creds::protection(&blob) {
        Some(sealed_to) => sealed_to,
        None => return Err(SealingError::Unprotected),
    };
    atomic::write(&state.path().join(SEALED), &blob, MODE)?;
    // From the disk, as every later start will.
    let proven = read_sealed(state).map(|blob| creds.decrypt(&blob));
    if !matches!(&proven, Ok(Ok(opened)) if opened.as_slice() == kek.as_bytes()) {
        atomic::remove(&state.path().join(SEALED))?;
        return Err(match proven {
            Ok(Err(error)) => error.into(),
            _ => SealingError::NotProven,
        });
    }
    IdentityStore::new(state.path(), Some(kek.clone())).write(&identity, &mut rng)?;
    // Were it cut off here, the next start would seal the key that waits.
    state.rewrite_next_key(Some(kek), &mut rng)?;
    Ok(sealed_to)
}

/// Puts the identity key back in plain; the caller holds the state directory's lock.
///
/// # Errors
/// [`SealingError`]; the identity stays as it was.
pub fn unseal(state: &StateDir, creds: &SystemdCreds) -> Result<(), SealingError> {
    if status(state)?.is_none() {
        return Err(SealingError::NotSealed {
            state_dir: state.path().to_owned(),
        });
    }
    let mut rng = UnwrapErr(SysRng);
    let state = state.clone().with_kek(Some(open_kek(state, creds)?));
    state.finish_change(&mut rng)?;
    let identity = state.identity_store().read()?;
    let identity = identity.ok_or(StateError::NotEnrolled)?;
    // The key that waits first: as long as the one in force is sealed, the seal of both stays, and
    // all of this can be done again.
    state.rewrite_next_key(None, &mut rng)?;
    // Takes `identity.sealed` away too, afterwards.
    IdentityStore::new(state.path(), None).write(&identity, &mut rng)?;
    Ok(())
}

/// The same directory, with the key to a sealed identity, so that a new one is sealed under it as
/// well. Nothing is asked of the machine while the identity is in plain, or missing.
///
/// # Errors
/// [`SealingError`].
pub fn with_kek(state: StateDir, program_dirs: &[&Path]) -> Result<StateDir, SealingError> {
    if !matches!(state.identity_store().is_sealed(), Ok(Some(true))) {
        return Ok(state);
    }
    let kek = open_kek(&state, &SystemdCreds::find(program_dirs)?)?;
    Ok(state.with_kek(Some(kek)))
}

/// Whether the identity of this host was sealed, as far as its files tell.
#[must_use]
pub fn was_sealed(state: &StateDir) -> bool {
    let sealed = state.identity_store().is_sealed();
    matches!(sealed, Ok(Some(true))) || state.path().join(SEALED).exists()
}

/// At each start, as root: unseals the KEK and hands it over to the agent. Does nothing for a host
/// whose identity key is in plain, or which has none.
///
/// # Errors
/// [`SealingError`]; then there is no file for the agent.
pub fn unseal_for_start(
    state: &StateDir,
    runtime_dir: &Path,
    program_dirs: &[&Path],
) -> Result<(), SealingError> {
    handover::clear(runtime_dir)?;
    if state.identity_store().is_sealed()? != Some(true) {
        return Ok(());
    }
    let kek = open_kek(state, &SystemdCreds::find(program_dirs)?)?;
    handover::give(runtime_dir, state.path(), &kek)
}

fn open_kek(state: &StateDir, creds: &SystemdCreds) -> Result<Kek, SealingError> {
    let fail = |why: String| SealingError::CannotUnseal {
        state_dir: state.path().to_owned(),
        why,
    };
    let blob = match read_sealed(state) {
        Err(error) if error.is_not_found() => return Err(fail(format!("{SEALED} is missing"))),
        read => read?,
    };
    let opened = creds
        .decrypt(&blob)
        .map_err(|error| fail(error.to_string()))?;
    Kek::from_bytes(&opened).ok_or_else(|| fail("what was sealed is no key".into()))
}

fn read_sealed(state: &StateDir) -> Result<Vec<u8>, AtomicError> {
    let blob = atomic::read_private(&state.path().join(SEALED), MAX_SEALED_BYTES)?;
    Ok(blob.to_vec())
}

#[cfg(test)]
mod tests;
