//! The controller's keys: root, online signing key, sealing keys, and the certificate over them.
//!
//! They stand as files in `DATA_DIR/keys`, 0600, raw private bytes in base64. The server needs the
//! certificate, the signing key and the sealing keys; the root key may be moved offline once the
//! certificate exists. A key file that others can read stops the start.

mod files;

use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use vpn_node_protocol::certificate::{
    ControllerCertificate, SealingKeyEntry, SealingKeyId, SigningKeyEntry, Validity,
};
use vpn_node_protocol::encoding::{Base64, Digest};
use vpn_node_protocol::envelope::{Envelope, Payload};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::MAX_REPLY_BYTES;
use vpn_node_protocol::sealing::{Context, SealError, Sealed, SealingSecret};
use zeroize::Zeroizing;

pub(crate) use files::read_own;
pub use files::{create_private, read_private};

use crate::clock;
use crate::config::advice;

/// How long the first online keys are valid: until they are rotated, in practice. Ten years, so
/// that no fleet stops on a day that nobody wrote down.
const VALIDITY_MS: i64 = 10 * 365 * 24 * 3600 * 1000;
/// Validity begins a day early: the controller's clock may be set back a little after `init`.
const BACKDATE_MS: i64 = 24 * 3600 * 1000;

/// Why keys cannot be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("{path:?} cannot be {action}: {source}{}", advice(source))]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// What `init` made once is not there any more.
    #[error(
        "{0:?} is missing: restore it from the backup of the data directory; nothing else can replace it"
    )]
    Missing(PathBuf),
    /// Others can read a private key.
    #[error(
        "{path:?} can be read by others (mode {mode:04o}): run 'chmod 600 {}', and consider the key known if this machine has other users",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key.
    #[error("{path:?} is damaged ({reason}): restore it from the backup of the data directory")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What the server works with: no root key.
pub struct Keys {
    certificate: ControllerCertificate,
    certificate_envelope: Envelope,
    signing: SigningKey,
    sealing: Vec<SealingSecret>,
}

/// What [`create`] made.
pub struct Created {
    /// SHA-256 of the root public key: the pin in every token.
    pub root_pin: Digest,
    /// The root's private key; may be moved offline.
    pub root_file: PathBuf,
}

/// Makes root, signing and sealing key and the certificate in a new data directory.
///
/// # Errors
/// [`KeyError::File`].
pub fn create(data_dir: &Path, now_ms: i64) -> Result<Created, KeyError> {
    let root_bytes = Zeroizing::new(clock::random::<32>());
    let signing_bytes = Zeroizing::new(clock::random::<32>());
    let sealing_bytes = Zeroizing::new(clock::random::<32>());
    let root = SigningKey::from_bytes(&root_bytes);
    let sealing = SealingSecret::from_bytes(&sealing_bytes);
    let validity = Validity {
        not_before_ms: now_ms - BACKDATE_MS,
        not_after_ms: now_ms + VALIDITY_MS,
    };
    let certificate = ControllerCertificate {
        serial: 1,
        root: (&root).into(),
        issued_ms: now_ms,
        signing_keys: vec![SigningKeyEntry {
            key: (&SigningKey::from_bytes(&signing_bytes)).into(),
            validity,
        }],
        sealing_keys: vec![SealingKeyEntry {
            id: sealing.id(),
            key: Base64(sealing.public().to_vec()),
            validity,
        }],
    };
    let keys = data_dir.join("keys");
    files::create_dir(&keys)?;
    let root_file = keys.join("root.key");
    files::write_key(&root_file, &root_bytes)?;
    files::write_key(&keys.join("signing.key"), &signing_bytes)?;
    files::write_key(&sealing_path(&keys, &sealing.id()), &sealing_bytes)?;
    let envelope = Envelope::sign(&certificate, &[&root]);
    create_private(&data_dir.join("certificate.json"), &envelope.to_json())?;
    Ok(Created {
        root_pin: certificate.root.id(),
        root_file,
    })
}

fn sealing_path(keys: &Path, id: &SealingKeyId) -> PathBuf {
    keys.join(format!("sealing-{id}.key"))
}

/// The certificate of a data directory, without any private key: enough to make a token.
///
/// # Errors
/// [`KeyError`].
pub fn certificate(data_dir: &Path) -> Result<(ControllerCertificate, Envelope), KeyError> {
    let path = data_dir.join("certificate.json");
    let damaged = |reason: String| KeyError::Damaged {
        path: path.clone(),
        reason,
    };
    let json = read_own(&path)?;
    let envelope =
        Envelope::parse(&json, MAX_REPLY_BYTES).map_err(|error| damaged(error.to_string()))?;
    let root = envelope
        .peek::<ControllerCertificate>()
        .map_err(|error| damaged(error.to_string()))?
        .root;
    let certificate = envelope
        .open(&root)
        .map_err(|error| damaged(error.to_string()))?;
    Ok((certificate, envelope))
}

impl Keys {
    /// Loads what the server needs; the root key's file is not looked at.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(data_dir: &Path) -> Result<Self, KeyError> {
        let (certificate, certificate_envelope) = certificate(data_dir)?;
        let keys = data_dir.join("keys");
        let signing_path = keys.join("signing.key");
        let signing = SigningKey::from_bytes(&*files::read_key(&signing_path)?);
        let public = PublicKey::from(&signing);
        if !certificate.signing_keys.iter().any(|e| e.key == public) {
            return Err(KeyError::Damaged {
                path: signing_path,
                reason: "it is not the key of the certificate".into(),
            });
        }
        let sealing = certificate
            .sealing_keys
            .iter()
            .map(|entry| {
                let secret = files::read_key(&sealing_path(&keys, &entry.id))?;
                Ok(SealingSecret::from_bytes(&secret))
            })
            .collect::<Result<_, KeyError>>()?;
        Ok(Self {
            certificate,
            certificate_envelope,
            signing,
            sealing,
        })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &ControllerCertificate {
        &self.certificate
    }

    /// The certificate as the root signed it.
    #[must_use]
    pub fn certificate_envelope(&self) -> &Envelope {
        &self.certificate_envelope
    }

    /// Signs with the online key.
    #[must_use]
    pub fn sign<P: Payload>(&self, payload: &P) -> Envelope {
        Envelope::sign(payload, &[&self.signing])
    }

    /// What one of our own signing keys signed, now or earlier; `None` for anything else.
    #[must_use]
    pub fn open_own<P: Payload>(&self, envelope: &Envelope) -> Option<P> {
        self.certificate
            .signing_keys
            .iter()
            .find_map(|entry| envelope.open(&entry.key).ok())
    }

    /// Opens what was sealed to any of our sealing keys, old ones included.
    ///
    /// # Errors
    /// [`SealError::DoesNotOpen`].
    pub fn unseal(
        &self,
        sealed: &Sealed,
        context: Context<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let id = sealed.key_id();
        self.sealing
            .iter()
            .find(|secret| secret.id() == id)
            .ok_or(SealError::DoesNotOpen(id))?
            .open(sealed, context)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn serves_without_the_root_key_and_refuses_an_exposed_one() {
        let dir = tempfile::tempdir().unwrap();
        let created = create(dir.path(), 1_000).unwrap();
        fs::remove_file(&created.root_file).unwrap();
        let keys = Keys::load(dir.path()).unwrap();
        assert_eq!(keys.certificate().root.id(), created.root_pin);
        let signing = dir.path().join("keys/signing.key");
        fs::set_permissions(&signing, fs::Permissions::from_mode(0o644)).unwrap();
        let Err(error) = Keys::load(dir.path()) else {
            panic!("an exposed key was loaded");
        };
        let text = error.to_string();
        assert!(
            text.contains("chmod 600") && text.contains("0644"),
            "{text}"
        );
    }

    #[test]
    fn a_lost_key_is_restored_and_another_users_key_is_read_as_that_user() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), 0).unwrap();
        fs::remove_file(dir.path().join("keys/signing.key")).unwrap();
        let Err(error) = Keys::load(dir.path()) else {
            panic!("loaded without its signing key");
        };
        let text = error.to_string();
        assert!(
            text.contains("signing.key") && text.contains("backup"),
            "{text}"
        );
        let denied = KeyError::File {
            path: dir.path().to_owned(),
            action: "read",
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        let text = denied.to_string();
        assert!(text.contains("sudo -u vpn-node-controller"), "{text}");
    }

    #[test]
    fn another_signing_key_than_the_certificates_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        create(one.path(), 0).unwrap();
        create(two.path(), 0).unwrap();
        let key = "keys/signing.key";
        fs::copy(two.path().join(key), one.path().join(key)).unwrap();
        assert!(matches!(
            Keys::load(one.path()),
            Err(KeyError::Damaged { .. })
        ));
    }
}
