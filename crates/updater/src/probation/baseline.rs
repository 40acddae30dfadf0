//! How the host was under the former version: what the new one must at least do.

use serde::{Deserialize, Serialize};

use crate::evidence::{Backend, Report};

/// Most backends that are kept: the journal is bounded, and no host has more VPN daemons.
const MAX_BACKENDS: usize = 256;
/// Longest name of a backend that is kept, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// How the host was before the switch; it goes through the journal and is opaque to the run.
/// The default is that of an agent that did not answer: nothing is known, so nothing is compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Baseline {
    /// Whether the host was enrolled; none when nobody answered.
    pub enrolled: Option<bool>,
    /// Whether the controller's latest word was a good one.
    pub in_touch: bool,
    /// Whether connection records could not be stored even then.
    pub ledger_broken: bool,
    /// The VPN daemons that answered.
    pub up: Vec<BackendBefore>,
}

/// A VPN daemon that answered the former version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendBefore {
    /// `wireguard`, `openvpn`, …
    pub kind: String,
    /// Which one.
    pub instance: String,
    /// Live connections.
    pub sessions: u64,
}

impl Baseline {
    /// What a report of the former version says.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let short = |b: &&Backend| b.kind.len().max(b.instance.len()) <= MAX_NAME_BYTES;
        let up = report
            .backends
            .iter()
            .filter(|b| b.state == "up" && short(b));
        let up = up.take(MAX_BACKENDS).map(|backend| BackendBefore {
            kind: backend.kind.clone(),
            instance: backend.instance.clone(),
            sessions: backend.sessions,
        });
        Self {
            enrolled: Some(report.enrolled),
            in_touch: report.in_touch(),
            ledger_broken: !report.ledger_works(),
            up: up.collect(),
        }
    }

    /// All its connections.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        let counts = self.up.iter().map(|backend| backend.sessions);
        counts.fold(0, u64::saturating_add)
    }

    /// The connections that `report` has at the same daemons.
    #[must_use]
    pub fn sessions_in(&self, report: &Report) -> u64 {
        let counts = self.up.iter().filter_map(|before| before.found_in(report));
        counts.fold(0, |sum, now| sum.saturating_add(now.sessions))
    }

    /// The first daemon that does not answer any more, by its name for people.
    #[must_use]
    pub fn lost_in(&self, report: &Report) -> Option<String> {
        let answers = |b: &&BackendBefore| b.found_in(report).is_some_and(|b| b.state == "up");
        let lost = self.up.iter().find(|before| !answers(before))?;
        // Names of interfaces and files: escaped.
        Some(format!(
            "{}/{}",
            lost.kind.escape_debug(),
            lost.instance.escape_debug()
        ))
    }
}

impl BackendBefore {
    fn found_in<'r>(&self, report: &'r Report) -> Option<&'r Backend> {
        let mut all = report.backends.iter();
        all.find(|now| now.kind == self.kind && now.instance == self.instance)
    }
}
