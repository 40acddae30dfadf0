//! Whom the agent believes: the pinned root, its newest certificate, and the latest time that
//! the controller ever signed.

use std::time::Duration;

use vpn_node_protocol::certificate::{CertificateError, ControllerCertificate};
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::{Envelope, EnvelopeError, Payload};

use crate::core::Now;

/// The agent's view of the controller's keys and clock.
#[derive(Clone, Debug)]
pub struct Trust {
    pin: Digest,
    certificate: ControllerCertificate,
    /// Latest controller time that was verified, in milliseconds since the Unix epoch: a signing
    /// key that ended before it is dead, whatever a message says.
    floor_ms: i64,
    /// The same instant by the boot clock, once a reply came in this run.
    seen_at: Option<Duration>,
}

impl Trust {
    /// Trust as it stands on disk: `certificate` was verified against `pin` when it was stored,
    /// and is verified again by whoever reads it.
    #[must_use]
    pub fn new(pin: Digest, certificate: ControllerCertificate, floor_ms: i64) -> Self {
        Self {
            pin,
            certificate,
            floor_ms,
            seen_at: None,
        }
    }

    /// The certificate in force.
    #[must_use]
    pub fn certificate(&self) -> &ControllerCertificate {
        &self.certificate
    }

    /// The latest controller time that was verified, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn floor_ms(&self) -> i64 {
        self.floor_ms
    }

    /// What the controller's clock shows at `now`, in milliseconds since the Unix epoch: its
    /// last signed time, and what the boot clock counted since. Before the first reply of this
    /// run the time is only known not to be earlier.
    #[must_use]
    pub fn controller_now_ms(&self, now: Now) -> i64 {
        let since = self
            .seen_at
            .map_or(Duration::ZERO, |at| now.boot.saturating_sub(at));
        self.floor_ms
            .saturating_add(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Opens what the controller signed. `time_of` reads the controller's time from it.
    ///
    /// # Errors
    /// [`CertificateError`]; [`is_unknown_key`] tells when a newer certificate may help.
    pub fn open<P: Payload>(
        &self,
        envelope: &Envelope,
        time_of: impl Fn(&P) -> i64,
    ) -> Result<P, CertificateError> {
        self.certificate
            .open_signed(envelope, self.floor_ms, time_of)
    }

    /// Moves the floor to a verified controller time. Never back.
    pub fn saw_controller_time(&mut self, controller_ms: i64, now: Now) {
        if controller_ms >= self.floor_ms {
            self.floor_ms = controller_ms;
            self.seen_at = Some(now.boot);
        }
    }

    /// Takes a newer certificate, if the pinned root signed it.
    ///
    /// # Errors
    /// [`CertificateError`]; the one in force stays.
    pub fn renew(&mut self, envelope: &Envelope) -> Result<(), CertificateError> {
        self.certificate =
            ControllerCertificate::open(envelope, &self.pin, self.certificate.serial)?;
        Ok(())
    }
}

/// Whether a message failed only because its signing key is not (or no longer) in the
/// certificate: then the controller may have a newer one. Without a key's name beside it, a
/// signature of an unknown key looks like a bad one, and nothing may depend on that name.
#[must_use]
pub fn is_unknown_key(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::NoSigningKey { .. }
            | CertificateError::Unsigned(EnvelopeError::BadSignature { .. })
    )
}
