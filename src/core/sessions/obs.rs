//! What a backend may say to the reducer.

use std::time::Duration;

use super::types::{Confidence, Endpoint, Net, Reason, Session, SessionKey, Stamp, stamp_of};
use crate::core::Now;

/// One observation of one backend. The first are [`Obs::Reset`] or [`Obs::Snapshot`], since they
/// tell the epoch; until then only [`Obs::Unavailable`] is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obs {
    /// The backend was opened; sessions of another epoch are gone.
    Reset {
        /// Names one life of the interface or daemon: equal as long as keys keep their meaning.
        epoch: u64,
    },
    /// Everything that is connected now.
    Snapshot {
        /// The life of the daemon that was asked.
        epoch: u64,
        /// When it was asked.
        at: Stamp,
        /// Whether absence means anything: an incomplete snapshot infers no ends.
        complete: bool,
        /// The sessions.
        sessions: Vec<Session>,
    },
    /// A session began.
    Up(Box<Session>),
    /// Something about a session changed.
    Update(Patch),
    /// The same session goes on under another key.
    Rekey {
        /// Known so far as.
        old: SessionKey,
        /// From now on.
        new: SessionKey,
    },
    /// A session ended.
    Down {
        /// Which one.
        key: SessionKey,
        /// When and why.
        end: End,
    },
    /// The backend cannot be read at present. Says nothing about its sessions.
    Unavailable {
        /// What failed and what to do, for the operator.
        error: String,
        /// Since when.
        since: Stamp,
    },
}

impl Obs {
    /// Nobody is connected, at an instant when the daemon or interface is known not to run.
    #[must_use]
    pub fn nobody(epoch: u64, at: Stamp) -> Self {
        Self::Snapshot {
            epoch,
            at,
            complete: true,
            sessions: Vec::new(),
        }
    }
}

/// The current values of one session; what is `None` did not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Which session.
    pub key: SessionKey,
    /// Outer address.
    pub endpoint: Option<Endpoint>,
    /// Inner addresses.
    pub virtual_ips: Option<Box<[Net]>>,
    /// The daemon's counter of bytes received from the client.
    pub rx: u64,
    /// The daemon's counter of bytes sent to the client.
    pub tx: u64,
    /// Last sign of life.
    pub last_seen: Stamp,
}

/// The end of a session: why, how sure, and between which instants it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: Reason,
    /// Seen, or concluded.
    pub confidence: Confidence,
    /// It was still alive here.
    pub earliest: Stamp,
    /// The best single answer, between the other two.
    pub at: Stamp,
    /// It was certainly over here.
    pub latest: Stamp,
}

impl End {
    /// An end that was noticed at `now` and happened since the boot-clock instant `earliest`.
    #[must_use]
    pub fn noticed(reason: Reason, confidence: Confidence, earliest: Duration, now: Now) -> Self {
        Self {
            reason,
            confidence,
            earliest: stamp_of(earliest.min(now.boot), now),
            at: now,
            latest: now,
        }
    }

    /// Moves what lies before `started` up to it, on either clock: after a step of the wall
    /// clock a past instant may read earlier than the start that was recorded before the step.
    pub(super) fn not_before(mut self, started: Stamp) -> Self {
        let later = |a: Stamp, b: Stamp| Stamp {
            boot: a.boot.max(b.boot),
            wall_ms: a.wall_ms.max(b.wall_ms),
        };
        self.earliest = later(self.earliest, started);
        self.at = later(self.at, self.earliest);
        self.latest = later(self.latest, self.at);
        self
    }
}
