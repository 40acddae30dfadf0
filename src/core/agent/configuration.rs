//! What of the configuration may change while the agent runs.

use std::collections::BTreeMap;

use super::Agent;
use crate::core::Now;
use crate::core::sessions::{BackendId, BackendKind};

/// The part of it that the core needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Where the operator says the host is.
    pub location: Option<String>,
    /// The controller's address, for the report.
    pub controller_url: String,
    /// `[update] enabled`
    pub updates_enabled: bool,
    /// Changed keys that the next start will read.
    pub needs_restart: Vec<String>,
}

impl Agent {
    /// A changed configuration is in force. Authorisation, chain and connections stay as they are.
    pub fn configure(&mut self, configured: Configured) {
        self.about.location = configured.location;
        self.about.controller_url = configured.controller_url;
        self.updates.enable(configured.updates_enabled);
        self.memory.configuration.error = None;
        self.memory.configuration.needs_restart = configured.needs_restart;
    }

    /// A changed configuration cannot be used, for this reason; the former one stays in force.
    pub fn configuration_refused(&mut self, why: &str, now: Now) {
        self.memory.note(why, now);
        self.memory.configuration.error = Some(super::report::bounded(why));
    }

    /// Another reader looks at VPN software of this kind from now on.
    pub fn reader_restarts(&mut self, kind: BackendKind) {
        self.reducer.reader_restarts(kind);
    }

    /// Nobody looks at VPN software of this kind any more.
    pub fn reader_ends(&mut self, kind: BackendKind, now: Now) {
        let events = self.reducer.reader_ends(kind, now);
        self.record(events, now);
    }

    /// The backends of all connections that are known, with their epochs: for readers that start
    /// while the agent runs. See [`Agent::expected_backends`].
    #[must_use]
    pub fn known_backends(&self) -> BTreeMap<BackendId, u64> {
        let epochs = self.reducer.epochs();
        epochs.map(|(id, epoch)| (id.clone(), epoch)).collect()
    }
}
