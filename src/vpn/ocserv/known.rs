//! What is known of the sessions of one ocserv between two looks. Pure.
//!
//! A look says who is connected; hints from the events say why somebody is not any more.

use std::{collections::HashMap, time::Duration};

use super::events::Hint;
use crate::core::{
    Now,
    sessions::{COALESCE, Confidence, End, Obs, Reason, Session, SessionKey, Stamp},
};

/// Hints that wait for the look that they cause: more are not of sessions that were known.
const MAX_HINTS: usize = 65_536;

/// A hint that no look explained is forgotten: ids are process ids and come again.
const HINT_LIFE: Duration = Duration::from_secs(5);

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Known {
    epoch: Option<u64>,
    sessions: HashMap<SessionKey, Seen>,
    hints: HashMap<u64, (Reason, Stamp)>,
    /// Sessions that a look did not find any more, and no event has told of yet.
    unexplained: Vec<(SessionKey, Stamp)>,
    /// The session that ocserv was told to end, and when.
    ordered: Option<(SessionKey, Stamp)>,
}

/// A session at the last look.
#[derive(Debug)]
struct Seen {
    rx: u64,
    last_seen: Stamp,
}

impl Known {
    /// The life of ocserv that it is known of.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Whether this session was there at the last look.
    pub(super) fn has(&self, key: &SessionKey) -> bool {
        self.sessions.contains_key(key)
    }

    /// An event; the next look is to come soon.
    pub(super) fn hint(&mut self, hint: Hint, now: Now) {
        if let Hint::Went { id, reason } = hint
            && self.hints.len() < MAX_HINTS
        {
            self.hints.insert(id, (reason, now));
        }
    }

    /// ocserv is told at `now` to end this session: it was there until then.
    pub(super) fn ordered(&mut self, key: SessionKey, now: Now) {
        self.ordered = Some((key, now));
    }

    /// A look at `now` found these.
    pub(super) fn looked(&mut self, epoch: u64, mut sessions: Vec<Session>, now: Now) -> Vec<Obs> {
        let mut obs = Vec::new();
        if self.epoch != Some(epoch) {
            obs.extend(self.gone(now));
            obs.push(Obs::Reset { epoch });
            self.epoch = Some(epoch);
        }
        let mut before = std::mem::take(&mut self.sessions);
        for session in &mut sessions {
            if let Some(seen) = before.remove(&session.key) {
                let heard = session.rx > seen.rx;
                session.last_seen = if heard { now } else { seen.last_seen };
            }
            let seen = Seen {
                rx: session.rx,
                last_seen: session.last_seen,
            };
            self.sessions.insert(session.key.clone(), seen);
        }
        let mut ended: Vec<SessionKey> = before.into_keys().collect();
        ended.sort();
        // A look may be quicker than the event; then the reducer holds the end for a moment.
        let mut missing = std::mem::take(&mut self.unexplained);
        missing.extend(ended.into_iter().map(|key| (key, now)));
        for (key, missed_at) in missing {
            let SessionKey::Ocserv { id, .. } = key else {
                continue;
            };
            if let Some((reason, told_at)) = self.hints.remove(&id) {
                let first = told_at.boot <= missed_at.boot;
                obs.push(down(key, reason, if first { told_at } else { missed_at }));
            } else if let Some((_, asked_at)) = self.ordered.take_if(|(of, _)| *of == key) {
                let (reason, sure) = (Reason::AdminKick, Confidence::Observed);
                let end = End::noticed(reason, sure, asked_at.boot, missed_at);
                obs.push(Obs::Down { key, end });
            } else if now.boot < missed_at.boot + COALESCE {
                self.unexplained.push((key, missed_at));
            }
        }
        let young = now.boot.saturating_sub(HINT_LIFE);
        self.hints.retain(|_, (_, at)| at.boot >= young);
        obs.push(Obs::Snapshot {
            epoch,
            at: now,
            complete: true,
            sessions,
        });
        obs
    }

    /// ocserv is gone, and all its sessions with it: at the time of their last event, if there was
    /// one.
    pub(super) fn gone(&mut self, now: Now) -> Vec<Obs> {
        self.epoch = None;
        let mut keys: Vec<SessionKey> = self.sessions.drain().map(|(key, _)| key).collect();
        keys.sort();
        self.unexplained.clear();
        self.ordered = None;
        let hints = std::mem::take(&mut self.hints);
        let ends = keys.into_iter().map(|key| {
            let hint = match key {
                SessionKey::Ocserv { id, .. } => hints.get(&id),
                _ => None,
            };
            match hint {
                Some((Reason::Unknown(_), at)) => down(key, Reason::DaemonDown, *at),
                Some((reason, at)) => down(key, reason.clone(), *at),
                None => down(key, Reason::DaemonDown, now),
            }
        });
        ends.collect()
    }
}

fn down(key: SessionKey, reason: Reason, at: Stamp) -> Obs {
    Obs::Down {
        key,
        end: End::noticed(reason, Confidence::Observed, at.boot, at),
    }
}
