//! What must come of a history, known from the truth alone: one row for one session, each end once,
//! when and why it was, and nothing that did not happen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use uuid::Uuid;

use super::super::*;
use crate::core::Now;

/// One session as it really was. A renewal of it under another key is the same one.
pub(super) struct Session {
    pub(super) backend: usize,
    pub(super) client: u8,
    pub(super) key: SessionKey,
    pub(super) key_since: Now,
    pub(super) port: u16,
    pub(super) rx: u64,
    pub(super) rx_before_key: u64,
    /// The end that the daemon told while its row was open.
    pub(super) told: Option<End>,
    /// Nobody could know that it is one session: its renewal was told to nobody.
    pub(super) may_split: bool,
    started: Now,
    ended: Option<Now>,
    /// The running agent was told of it, and it must have a row.
    seen: bool,
    ordered: Option<Reason>,
    /// The agent crashed before it had recorded what it knew of the end.
    vague: bool,
}

/// A connection as the controller's table has it.
#[derive(Default)]
struct Row {
    sessions: Vec<usize>,
    started: Option<Now>,
    rx: u64,
    end: Option<End>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Oracle {
    pub(super) log: Vec<SessionEvent>,
    sessions: Vec<Session>,
    last_turn: usize,
    /// Where in the log this run of the agent begins.
    run: usize,
}

const COALESCED: Duration = Duration::from_secs(2);

impl Oracle {
    pub(super) fn begins(
        &mut self,
        backend: usize,
        client: u8,
        key: SessionKey,
        now: Now,
    ) -> usize {
        self.sessions.push(Session {
            backend,
            client,
            key,
            key_since: now,
            port: 1000,
            rx: 0,
            rx_before_key: 0,
            told: None,
            may_split: false,
            started: now,
            ended: None,
            seen: false,
            ordered: None,
            vague: false,
        });
        self.sessions.len() - 1
    }

    pub(super) fn session(&mut self, id: usize) -> &mut Session {
        &mut self.sessions[id]
    }

    pub(super) fn up(&self, which: impl Fn(&Session) -> bool) -> Vec<usize> {
        let all = self.sessions.iter().enumerate();
        let up = all.filter(|(_, session)| session.ended.is_none() && which(session));
        up.map(|(id, _)| id).collect()
    }

    /// Whether its client has or had another session that could be taken for this one.
    pub(super) fn has_twin(&self, id: usize) -> bool {
        let of = |session: &Session| (session.backend, session.client);
        let all = self.sessions.iter().enumerate();
        all.filter(|(other, session)| *other != id && of(session) == of(&self.sessions[id]))
            .count()
            > 0
    }

    pub(super) fn ends(&mut self, id: usize, now: Now) {
        self.sessions[id].ended = Some(now);
    }

    pub(super) fn seen(&mut self, id: usize) {
        self.sessions[id].seen = true;
    }

    pub(super) fn ordered(&mut self, id: usize, reason: &Reason) {
        self.sessions[id].ordered = Some(reason.clone());
    }

    /// The daemon's own word, which is about to be heard.
    pub(super) fn down_told(&mut self, id: usize, end: &End) {
        if self.open_row_of(id).is_some() && self.sessions[id].told.is_none() {
            self.sessions[id].told = Some(end.clone());
        }
    }

    pub(super) fn open_row_of(&self, id: usize) -> Option<Uuid> {
        let rows = self.rows();
        let open = rows.iter().filter(|(_, row)| row.end.is_none());
        open.filter(|(_, row)| row.sessions.last() == Some(&id))
            .map(|(id, _)| *id)
            .next()
    }

    /// What the reducer told in one turn: on disk together.
    pub(super) fn turn(&mut self, events: Vec<SessionEvent>) {
        self.last_turn = self.log.len();
        self.log.extend(events);
        self.judge();
    }

    pub(super) fn forget_last_turn(&mut self) {
        let forgotten = self.log.split_off(self.last_turn);
        self.run = self.run.min(self.last_turn);
        let rows = self.rows();
        let present: BTreeSet<usize> = rows.values().flat_map(|row| row.sessions.clone()).collect();
        for event in &forgotten {
            let named =
                named(event).or_else(|| rows.get(&event.connection_id)?.sessions.last().copied());
            let Some(id) = named else { continue };
            let session = &mut self.sessions[id];
            session.seen &= present.contains(&id);
            session.may_split |= matches!(event.what, What::Update { .. });
            session.vague = true;
        }
        // Ends that were held back are forgotten with the rest.
        let open = rows.values().filter(|row| row.end.is_none());
        for id in open.filter_map(|row| row.sessions.last()) {
            self.sessions[*id].vague |= self.sessions[*id].told.is_some();
        }
    }

    pub(super) fn agent_stopped(&mut self) {
        self.run = self.log.len();
        self.last_turn = self.log.len();
    }

    /// After everything was looked at: the open rows are the sessions that are up, and each session
    /// that was ever seen has its row.
    pub(super) fn everything_is_told(&self, reducer: &Reducer) {
        let rows = self.rows();
        let open = rows.iter().filter(|(_, row)| row.end.is_none());
        let mut live: BTreeMap<usize, Uuid> = BTreeMap::new();
        for (id, row) in open {
            let session = *row.sessions.last().expect("it has begun");
            assert!(
                self.sessions[session].ended.is_none(),
                "row {id} stays open"
            );
            assert!(
                live.insert(session, *id).is_none(),
                "two open rows of session {session}"
            );
        }
        assert_eq!(
            live.keys().copied().collect::<Vec<_>>(),
            self.up(|_| true),
            "up, and open"
        );
        let shown: BTreeSet<Uuid> = reducer.live().map(|live| live.connection_id).collect();
        assert_eq!(shown, live.values().copied().collect());
        for (id, session) in self.sessions.iter().enumerate() {
            let rows = rows
                .values()
                .filter(|row| row.sessions.contains(&id))
                .count();
            assert!(rows > 0 || !session.seen, "session {id} is lost");
        }
        for backend in reducer.backends() {
            let count = |what: fn(&What) -> bool| {
                let of_run = self.log[self.run..].iter();
                of_run
                    .filter(|e| e.backend == *backend.id && what(&e.what))
                    .count() as u64
            };
            assert_eq!(
                backend.counts.started,
                count(|what| matches!(what, What::Start))
            );
            // Those given up before their backend was heard are counted for nobody.
            assert!(backend.counts.ended <= count(|what| matches!(what, What::End(_))));
        }
    }

    /// The table so far; its rows begin, go on and end in this order, once each.
    fn rows(&self) -> BTreeMap<Uuid, Row> {
        let mut rows: BTreeMap<Uuid, Row> = BTreeMap::new();
        for event in &self.log {
            let row = rows.entry(event.connection_id).or_default();
            assert!(row.end.is_none(), "{:?} after the end", event.what);
            assert_eq!(
                row.started.is_none(),
                event.what == What::Start,
                "begins once"
            );
            assert!(event.session.rx >= row.rx, "negative bytes");
            row.started.get_or_insert(event.session.started);
            row.rx = event.session.rx;
            if let Some(id) = named(event)
                && row.sessions.last() != Some(&id)
            {
                row.sessions.push(id);
            }
            if let What::End(end) = &event.what {
                row.end = Some(end.clone());
            }
        }
        rows
    }

    /// What holds at any time. Only rows that changed need be looked at.
    fn judge(&self) {
        let rows = self.rows();
        let changed: BTreeSet<Uuid> = self.log[self.last_turn..]
            .iter()
            .map(|e| e.connection_id)
            .collect();
        for id in &changed {
            let row = &rows[id];
            let truth: u64 = row.sessions.iter().map(|id| self.sessions[*id].rx).sum();
            assert!(row.rx <= truth, "{} bytes of {truth}", row.rx);
            for pair in row.sessions.windows(2) {
                self.may_be_one(pair[0], pair[1]);
            }
            for session in &row.sessions {
                let of_it = rows
                    .values()
                    .filter(|row| row.sessions.contains(session))
                    .count();
                assert!(
                    of_it == 1 || self.sessions[*session].may_split,
                    "{of_it} rows of session {session}"
                );
            }
            if let (Some(end), Some(last)) = (&row.end, row.sessions.last()) {
                let started = row.started.expect("it began");
                assert!(
                    end.earliest.wall_ms >= started.wall_ms && end.earliest.boot >= started.boot
                );
                assert!(
                    end.earliest.wall_ms <= end.at.wall_ms && end.at.wall_ms <= end.latest.wall_ms
                );
                assert!(end.earliest.boot <= end.at.boot && end.at.boot <= end.latest.boot);
                self.ended_rightly(&self.sessions[*last], end);
            }
        }
    }

    /// The rule of reconnects, by the truth: the same client, at most two seconds after an end that
    /// nobody ordered.
    fn may_be_one(&self, first: usize, then: usize) {
        let (first, then) = (&self.sessions[first], &self.sessions[then]);
        assert_eq!((first.backend, first.client), (then.backend, then.client));
        if first.may_split {
            return; // A part of it is over, and nobody could know that it goes on.
        }
        assert_eq!(
            first.ordered, None,
            "a comeback after an order is another connection"
        );
        let ended = first.ended.expect("one row has one session at a time");
        let renewed_unseen = first.backend == 0 && first.told.is_none();
        let soon = then.started.boot <= ended.boot + COALESCED;
        assert!(
            soon || renewed_unseen,
            "away from {ended:?} to {:?}",
            then.started
        );
        let apart = [Reason::AdminKick, Reason::Replaced, Reason::Revoked];
        let told = first.told.as_ref().map(|end| &end.reason);
        assert!(
            told.is_none_or(|reason| !apart.contains(reason)),
            "{told:?}"
        );
    }

    /// Order beats exact, exact beats inferred; the truth lies within the interval.
    fn ended_rightly(&self, session: &Session, end: &End) {
        if session.may_split || session.vague {
            return;
        }
        let truth = session.ended.expect("it ended");
        let said = (&end.reason, end.confidence);
        if let Some(reason) = &session.ordered {
            assert_eq!(said, (reason, Confidence::Observed));
        } else if let Some(told) = &session.told {
            assert_eq!(said, (&told.reason, told.confidence));
            assert_eq!(
                (end.earliest.boot, end.latest.boot),
                (told.earliest.boot, told.latest.boot)
            );
        } else {
            assert_eq!(end.confidence, Confidence::Inferred, "{:?}", end.reason);
            let inferred = [
                Reason::Unknown(String::new()),
                Reason::DaemonDown,
                Reason::AgentRestart,
            ];
            assert!(inferred.contains(&end.reason), "{:?}", end.reason);
        }
        let range = end.earliest.boot..=end.latest.boot;
        assert!(range.contains(&truth.boot), "{truth:?} is not in {end:?}");
    }
}

/// Whose session it is: the inner address names it.
fn named(event: &SessionEvent) -> Option<usize> {
    match event.session.virtual_ips.first()?.addr {
        IpAddr::V4(ip) => usize::try_from(u32::from(ip)).ok(),
        IpAddr::V6(_) => None,
    }
}
