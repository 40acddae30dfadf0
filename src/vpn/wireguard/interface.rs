//! One interface from poll to poll: what it held, whether it can be read, what it offers.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    ANSWER_LIMIT,
    discover::{self, Found, Source},
    error::ReadError,
    kernel::Kernel,
    peers::{HandshakeClock, PeerTable},
    reading::{DeviceReading, Dump, PeerReading},
    uapi_socket,
};
use crate::core::journal;
use crate::{
    core::{
        Now,
        sessions::{BackendId, BackendKind, Obs, Stamp},
    },
    vpn::{BackendDetails, Report, health::Health},
};

/// An interface that let a whole [`ANSWER_LIMIT`] pass is left alone for so long.
const STALLED_PAUSE: Duration = Duration::from_secs(30);

/// How often the public key of a userspace daemon is worked out from its private key, which is
/// passed over at all other times.
const DERIVE_EVERY: Duration = Duration::from_secs(60);

/// Longest wait for a daemon to take peers out.
const REMOVE_LIMIT: Duration = Duration::from_secs(1);

/// See the module's page.
pub(super) struct Interface {
    pub(super) table: PeerTable,
    kernel: bool,
    epoch: Option<u64>,
    health: Health<ReadError>,
    retry_at: Duration,
    device: DeviceReading,
    derive_at: Duration,
    /// What was told of it last.
    details: Option<BackendDetails>,
}

impl Interface {
    pub(super) fn new(source: &Source) -> Self {
        let clock = match source {
            Source::Kernel { .. } => HandshakeClock::Unix,
            Source::Socket { .. } => HandshakeClock::Guess,
        };
        Self {
            table: PeerTable::new(clock),
            kernel: matches!(source, Source::Kernel { .. }),
            epoch: None,
            health: Health::default(),
            retry_at: Duration::ZERO,
            device: DeviceReading::default(),
            derive_at: Duration::ZERO,
            details: None,
        }
    }

    /// Whether it stalled a short time ago.
    pub(super) fn is_paused(&self, now: Now) -> bool {
        now.boot < self.retry_at
    }

    /// Asks it once.
    pub(super) fn poll(
        &mut self,
        found: &Found,
        kernel: Kernel<'_>,
        now: Now,
        buffer: &mut [u8],
    ) -> Report {
        let mut obs = Vec::new();
        if self.epoch != Some(found.epoch) {
            obs.extend(self.table.interface_down(now));
            obs.push(Obs::Reset { epoch: found.epoch });
            self.epoch = Some(found.epoch);
            self.derive_at = now.boot;
        }
        if !found.up {
            obs.extend(self.failed(&found.name, ReadError::Down, now));
            return report(&found.name, obs);
        }
        let derive = now.boot >= self.derive_at;
        let mut round = self.table.begin(now);
        let mut see = |peer: &PeerReading| round.see(peer);
        let read = match &found.source {
            Source::Socket { path } => {
                uapi_socket::read(path, ANSWER_LIMIT, derive, buffer, &mut see)
                    .map(|device| (Dump::Clean, device))
            }
            // Retried once; a second interruption leaves a dump without removals.
            Source::Kernel { ifindex } => {
                let first = kernel.read(*ifindex, ANSWER_LIMIT, buffer, &mut see);
                match first {
                    Ok((Dump::Interrupted, _)) => {
                        kernel.read(*ifindex, ANSWER_LIMIT, buffer, &mut see)
                    }
                    first => first,
                }
            }
        };
        obs.extend(round.finish(found.epoch, matches!(read, Ok((Dump::Clean, _)))));
        let mut report = report(&found.name, obs);
        match read {
            Ok((_, device)) => {
                if self.health.recovered() {
                    log_recovery(&found.name);
                }
                report.details = self.news(found, device, now);
            }
            Err(error) => report.obs.extend(self.failed(&found.name, error, now)),
        }
        report
    }

    /// Takes peers out of it. Only the next poll shows whether they are.
    pub(super) fn remove(
        found: &Found,
        kernel: Kernel<'_>,
        public_keys: &[[u8; 32]],
        buffer: &mut [u8],
    ) -> Result<(), ReadError> {
        match &found.source {
            Source::Socket { path } => uapi_socket::remove(path, REMOVE_LIMIT, public_keys, buffer),
            Source::Kernel { ifindex } => {
                kernel.remove(*ifindex, REMOVE_LIMIT, public_keys, buffer)
            }
        }
    }

    /// Whether the kernel has it, so that the kernel's list would name it.
    pub(super) fn is_kernels(&self) -> bool {
        self.kernel
    }

    /// The kernel's list cannot be read, so this one was not asked: that says nothing about it.
    pub(super) fn unlisted(&mut self, name: &str, why: &ReadError, now: Now) -> Report {
        let round = self.table.begin(now);
        let mut obs = round.finish(self.epoch.unwrap_or_default(), false);
        let since = self.health.failed(why, now).since;
        obs.push(unavailable(why, since));
        report(name, obs)
    }

    /// Only what is gone or down ends sessions; any other failure says nothing about them.
    pub(super) fn failed(&mut self, name: &str, error: ReadError, now: Now) -> Vec<Obs> {
        let mut obs = Vec::new();
        if matches!(error, ReadError::Deadline(_)) {
            self.retry_at = now.boot.saturating_add(STALLED_PAUSE);
        }
        if error.ends_sessions() {
            obs.extend(self.table.interface_down(now));
            obs.push(Obs::nobody(self.epoch.unwrap_or_default(), now));
        }
        let failure = self.health.failed(&error, now);
        if failure.is_news {
            log_failure(name, &error);
        }
        obs.push(unavailable(&error, failure.since));
        obs
    }

    /// What it offers, if that is not what was told already.
    fn news(&mut self, found: &Found, told: DeviceReading, now: Now) -> Option<BackendDetails> {
        self.device.listen_port = told.listen_port;
        if self.kernel || now.boot >= self.derive_at {
            self.device.public_key = told.public_key;
            self.derive_at = now.boot.saturating_add(DERIVE_EVERY);
        }
        let details = BackendDetails {
            version: self.kernel.then(discover::kernel_version).flatten(),
            interface: Some(found.name.clone()),
            port: self.device.listen_port,
            public_key: self.device.public_key.map(|key| STANDARD.encode(key)),
        };
        if self.details.as_ref() == Some(&details) {
            return None;
        }
        self.details = Some(details.clone());
        Some(details)
    }
}

/// Says a failure in the log that is news.
pub(super) fn log_failure(what: &str, error: &ReadError) {
    if error.ends_sessions() {
        tracing::info!(
            message_id = %journal::BACKEND_GONE,
            interface = what, reason = %error, "WireGuard interface ended"
        );
    } else {
        tracing::error!(
            message_id = %journal::BACKEND_UNREADABLE,
            interface = what, %error, "cannot read WireGuard"
        );
    }
}

/// Says in the log that a failure is over.
pub(super) fn log_recovery(what: &str) {
    tracing::info!(
        message_id = %journal::BACKEND_UP,
        interface = what, "WireGuard is read again"
    );
}

pub(super) fn unavailable(error: &ReadError, since: Stamp) -> Obs {
    Obs::Unavailable {
        error: error.to_string(),
        since,
    }
}

pub(super) fn report(instance: &str, obs: Vec<Obs>) -> Report {
    let backend = BackendId {
        kind: BackendKind::WireGuard,
        instance: instance.to_owned(),
    };
    Report {
        backend,
        obs,
        details: None,
    }
}
