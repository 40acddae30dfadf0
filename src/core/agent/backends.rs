//! What the heartbeat and the status say of each VPN backend: how many, how much, how fast.

use std::collections::BTreeMap;
use std::time::Duration;

use vpn_node_protocol::limits::{MAX_BACKENDS, MAX_TEXT_BYTES};
use vpn_node_protocol::message::{BackendDetails, BackendReport};

use super::Agent;
use crate::core::report::{Activity, BackendState, BackendStatus};
use crate::core::sessions::{self, BackendId, Counts};
use crate::core::{Now, shown};

/// The status measures rates over this long at least: some readers look every ten seconds only.
const STATUS_WINDOW: Duration = Duration::from_secs(30);
/// Two heartbeats can follow each other at once; what is measured in between tells no rate.
const HEARTBEAT_WINDOW: Duration = Duration::from_secs(1);
/// Backends of which something is kept here: more than a host has.
const MAX_DETAILS: usize = 32 * MAX_BACKENDS;

/// What is known of the backends beside their sessions.
#[derive(Debug, Default)]
pub(super) struct Backends {
    details: BTreeMap<BackendId, BackendDetails>,
    heartbeat: Meters,
    status: Meters,
}

/// One [`Meter`] a backend.
#[derive(Debug, Default)]
struct Meters(BTreeMap<BackendId, Meter>);

/// Turns growing sums into rates.
#[derive(Debug)]
struct Meter {
    since: Duration,
    rx: u64,
    tx: u64,
    /// Bytes a second, as last measured.
    rates: (u64, u64),
}

impl Meters {
    /// Bytes a second from and to the clients of `backend` since it was measured before, if that is
    /// `window` ago; else what was measured then. First since `began`.
    fn rates(
        &mut self,
        backend: &sessions::BackendStatus<'_>,
        window: Duration,
        began: Duration,
        now: Now,
    ) -> (u64, u64) {
        let Counts { rx, tx, .. } = backend.counts;
        if !self.0.contains_key(backend.id) {
            if self.0.len() >= MAX_DETAILS {
                self.0.clear(); // Interfaces came and went: they are measured anew.
            }
            let meter = Meter {
                since: began,
                rx: 0,
                tx: 0,
                rates: (0, 0),
            };
            self.0.insert(backend.id.clone(), meter);
        }
        let meter = self.0.get_mut(backend.id).expect("just inserted");
        let elapsed = now.boot.saturating_sub(meter.since);
        if elapsed >= window {
            let rate = |before: u64, after: u64| {
                let grown = u128::from(after.saturating_sub(before)) * 1000;
                u64::try_from(grown / elapsed.as_millis().max(1)).unwrap_or(u64::MAX)
            };
            *meter = Meter {
                since: now.boot,
                rates: (rate(meter.rx, rx), rate(meter.tx, tx)),
                rx,
                tx,
            };
        }
        meter.rates
    }
}

impl Agent {
    /// A backend told what its server offers.
    pub(super) fn details_came(&mut self, backend: BackendId, details: BackendDetails) {
        let known = &mut self.backends.details;
        if known.len() < MAX_DETAILS || known.contains_key(&backend) {
            let details = BackendDetails {
                version: details.version.map(short),
                interface: details.interface.map(short),
                port: details.port,
                public_key: details.public_key.map(short),
            };
            known.insert(backend, details);
        }
    }

    /// For the heartbeat. Where there are more than it can name, those that are up come first.
    pub(super) fn backend_reports(&mut self, now: Now) -> Vec<BackendReport> {
        let mut all: Vec<_> = self.reducer.backends().collect();
        all.sort_by_key(|backend| !backend.is_up());
        let (details, meters) = (&self.backends.details, &mut self.backends.heartbeat);
        let began = self.started.boot;
        all.into_iter()
            .take(MAX_BACKENDS)
            .map(|backend| {
                let rates = meters.rates(&backend, HEARTBEAT_WINDOW, began, now);
                BackendReport {
                    kind: backend.id.kind.as_str().to_owned(),
                    instance: backend.id.instance.clone(),
                    up: backend.is_up(),
                    active: u32::try_from(backend.live).unwrap_or(u32::MAX),
                    started: backend.counts.started,
                    ended: backend.counts.ended,
                    rx_bytes: backend.counts.rx,
                    tx_bytes: backend.counts.tx,
                    rx_bytes_per_s: rates.0,
                    tx_bytes_per_s: rates.1,
                    details: details.get(backend.id).cloned(),
                }
            })
            .collect()
    }

    /// For people and monitors on this host.
    pub(super) fn backend_statuses(&mut self, now: Now) -> Vec<BackendStatus> {
        let (meters, began) = (&mut self.backends.status, self.started.boot);
        self.reducer
            .backends()
            .map(|backend| {
                let rates = meters.rates(&backend, STATUS_WINDOW, began, now);
                BackendStatus {
                    kind: backend.id.kind.as_str().to_owned(),
                    instance: backend.id.instance.clone(),
                    state: match backend.is_up() {
                        true => BackendState::Up,
                        false => BackendState::Unavailable,
                    },
                    was_up: backend.was_up,
                    error: backend.unavailable.map(|(error, _)| error.to_owned()),
                    sessions: backend.live as u64,
                    activity: Activity {
                        started: backend.counts.started,
                        ended: backend.counts.ended,
                        rx: backend.counts.rx,
                        tx: backend.counts.tx,
                        rx_per_s: rates.0,
                        tx_per_s: rates.1,
                    },
                }
            })
            .collect()
    }
}

/// A text of a daemon as the controller takes it: on one line, bounded.
pub(super) fn short(text: String) -> String {
    let mut text = shown(&text).to_string();
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    text
}
