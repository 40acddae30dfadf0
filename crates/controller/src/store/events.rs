//! What an operator asks of the security events, and does with them.

use std::collections::BTreeSet;

use crate::rules::events::{EventType, Severity};

/// Which security events are meant: those that match everything that is set.
#[derive(Clone, Debug)]
pub struct EventFilter {
    /// Of this type.
    pub event_type: Option<EventType>,
    /// Of this severity.
    pub severity: Option<Severity>,
    /// Those that nobody has handled.
    pub unhandled: bool,
    /// About this server id, key or address (`security_events.source_id`).
    pub source_id: Option<String>,
    /// From this instant on, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// The newest so many.
    pub limit: u32,
}

impl EventFilter {
    /// The newest events, whatever they are.
    #[must_use]
    pub fn newest(limit: u32) -> Self {
        Self {
            event_type: None,
            severity: None,
            unhandled: false,
            source_id: None,
            since_ms: None,
            limit,
        }
    }
}

/// An operator has dealt with events.
#[derive(Clone, Debug)]
pub struct Handling {
    /// Which.
    pub event_ids: BTreeSet<i64>,
    /// What was found or done: a short text (`docs/protocol.md`, "Conventions").
    pub note: String,
    /// The operating system's name of whoever did it.
    pub by_user: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandleEnd {
    /// All are handled now.
    Handled,
    /// Nothing was written: there are no events with these ids.
    Unknown(Vec<i64>),
    /// Nothing was written: these were handled before.
    Already(Vec<i64>),
}
