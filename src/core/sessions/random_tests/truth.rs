//! Daemons with real clients. What they tell reaches the reducer at once, late, or never; the agent
//! crashes and comes back; the controller has sessions ended. The [`Oracle`] watches.

use std::time::Duration;

use uuid::Uuid;

use super::super::*;
use super::history::How;
use super::oracle::{Oracle, Session as Truth};
use crate::core::Now;

/// One VPN daemon and its reader.
pub(super) struct Daemon {
    pub(super) id: BackendId,
    pub(super) epoch: u64,
    pub(super) next_key: u64,
    /// Whether the reader of this run of the agent has told the epoch in which the daemon is.
    pub(super) opened: bool,
    pub(super) lose: u8,
    /// Ends that are told a moment later.
    pub(super) late: Vec<(usize, Obs)>,
    /// A look whose answer is still under way, and whom it lists.
    pub(super) asked: Option<(Obs, Vec<usize>)>,
}

pub(super) struct World {
    pub(super) reducer: Option<Reducer>,
    pub(super) daemons: Vec<Daemon>,
    pub(super) now: Now,
    pub(super) ids: u64,
    /// What is on disk, and what was there before the last turn.
    pub(super) saved: Vec<KnownSession>,
    pub(super) saved_before: Vec<KnownSession>,
    pub(super) oracle: Oracle,
}

pub(super) const ID_KEY: [u8; 32] = [5; 32];
const LONGEST_LOOK: Duration = Duration::from_secs(10);
pub(super) const BOOT: Uuid = Uuid::from_u128(9);

impl World {
    pub(super) fn new() -> Self {
        // The last one has no events: it is only looked at.
        let kinds = [
            BackendKind::StrongSwan,
            BackendKind::OpenVpn,
            BackendKind::Ocserv,
        ];
        let daemon = |kind: BackendKind| Daemon {
            id: BackendId {
                kind,
                instance: "server".to_owned(),
            },
            epoch: 1,
            next_key: 0,
            opened: false,
            lose: 0,
            late: Vec::new(),
            asked: None,
        };
        Self {
            reducer: Some(Reducer::new(BOOT, ID_KEY, Vec::new())),
            daemons: kinds.into_iter().map(daemon).collect(),
            now: Now {
                boot: Duration::from_secs(1000),
                wall_ms: 1_700_000_000_000,
            },
            ids: 0,
            saved: Vec::new(),
            saved_before: Vec::new(),
            oracle: Oracle::default(),
        }
    }

    pub(super) fn stopped(&mut self) {
        self.oracle.agent_stopped();
        for daemon in &mut self.daemons {
            daemon.opened = false;
            daemon.asked = None;
        }
    }

    pub(super) fn wait(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
        if let Some(reducer) = &mut self.reducer {
            let events = reducer.tick(self.now);
            let due = reducer.next_deadline();
            assert!(
                due.is_none_or(|due| due > self.now.boot),
                "nothing due stays undone"
            );
            self.took(events);
        }
    }

    /// One of the sessions that are up and for which `which` holds.
    pub(super) fn pick(&mut self, nth: u8, which: impl Fn(&Truth) -> bool) -> Option<usize> {
        let up = self.oracle.up(which);
        (!up.is_empty()).then(|| up[usize::from(nth) % up.len()])
    }

    pub(super) fn connect(&mut self, backend: usize, client: u8) {
        let key = self.next_key(backend);
        let id = self.oracle.begins(backend, client, key, self.now);
        let session = self.as_told(id);
        if self.event(backend, Obs::Up(Box::new(session))) {
            self.oracle.seen(id);
        }
    }

    pub(super) fn next_key(&mut self, backend: usize) -> SessionKey {
        let daemon = &mut self.daemons[backend];
        daemon.next_key += 1;
        let (number, since) = (daemon.next_key, self.now.wall_ms / 1000);
        match daemon.id.kind {
            BackendKind::OpenVpn => SessionKey::OpenVpn {
                cid: number,
                connected_since: since,
            },
            BackendKind::Ocserv => SessionKey::Ocserv { id: number, since },
            _ => SessionKey::Ike { unique_id: number },
        }
    }

    /// The session as its daemon shows it now. Its inner address names it.
    pub(super) fn as_told(&mut self, id: usize) -> Session {
        let now = self.now;
        let truth = self.oracle.session(id);
        Session {
            key: truth.key.clone(),
            identity: Identity::Eap(vec![truth.client]),
            started: truth.key_since,
            last_seen: now,
            endpoint: Some(Endpoint {
                ip: [192, 0, 2, truth.client].into(),
                port: Some(truth.port),
            }),
            virtual_ips: [Net {
                addr: std::net::Ipv4Addr::from(id as u32).into(),
                prefix: 32,
            }]
            .into(),
            rx: truth.rx - truth.rx_before_key,
            tx: 0,
            rx_at_start: 0,
            tx_at_start: 0,
        }
    }

    pub(super) fn update(&mut self, id: usize) {
        let session = self.as_told(id);
        let backend = self.oracle.session(id).backend;
        let patch = Patch {
            key: session.key,
            endpoint: session.endpoint,
            virtual_ips: None,
            rx: session.rx,
            tx: session.tx,
            last_seen: session.last_seen,
        };
        self.event(backend, Obs::Update(patch));
    }

    /// Another SA takes over, with the counters of the old one.
    pub(super) fn rekey(&mut self, id: usize) {
        let (new, now) = (self.next_key(0), self.now);
        let truth = self.oracle.session(id);
        let old = std::mem::replace(&mut truth.key, new.clone());
        truth.key_since = now;
        if !self.event(0, Obs::Rekey { old, new }) {
            self.oracle.session(id).may_split = true;
        }
    }

    /// The SA is torn down and made anew within 10 ms: the same session.
    pub(super) fn reauth(&mut self, which: u8) {
        let Some(id) = self.pick(which, |truth| truth.backend == 0) else {
            return;
        };
        let heard = self.daemons[0].opened && self.daemons[0].lose == 0;
        // One that a former process left and that was not listed since has no identity to find it by.
        let row = self.oracle.open_row_of(id);
        let known = self.reducer.as_ref().is_some_and(|reducer| {
            let mut live = reducer.live();
            live.any(|live| Some(live.connection_id) == row)
        });
        if !heard || !known || self.oracle.has_twin(id) {
            self.oracle.session(id).may_split = true;
        }
        let old = self.oracle.session(id).key.clone();
        let end = self.exact(Reason::ClientDisconnect);
        self.event(0, Obs::Down { key: old, end });
        self.wait(10);
        let key = self.next_key(0);
        let now = self.now;
        let truth = self.oracle.session(id);
        (truth.key, truth.key_since, truth.rx_before_key) = (key, now, truth.rx);
        let session = self.as_told(id);
        if self.event(0, Obs::Up(Box::new(session))) {
            self.oracle.seen(id);
        }
    }

    pub(super) fn exact(&self, reason: Reason) -> End {
        End::noticed(reason, Confidence::Observed, self.now.boot, self.now)
    }

    pub(super) fn end(&mut self, id: usize, how: How, late: bool) {
        let reason = match how {
            How::Goodbye => Reason::ClientDisconnect,
            How::Silence => Reason::Timeout,
            How::Kick => Reason::AdminKick,
            How::Reset => Reason::ConnectionReset,
            How::Replaced => Reason::Replaced,
        };
        let end = self.exact(reason);
        let key = self.oracle.session(id).key.clone();
        let backend = self.oracle.session(id).backend;
        self.oracle.ends(id, self.now);
        let down = Obs::Down { key, end };
        if late {
            self.daemons[backend].late.push((id, down));
        } else {
            self.tell_down(id, backend, down);
        }
    }

    pub(super) fn tell_down(&mut self, id: usize, backend: usize, down: Obs) {
        let Obs::Down { end, .. } = &down else {
            unreachable!("only ends are late")
        };
        let end = end.clone();
        // Said before it is heard: the oracle judges what comes of it.
        let before = self.oracle.session(id).told.clone();
        self.oracle.down_told(id, &end);
        if !self.event(backend, down) {
            self.oracle.session(id).told = before;
        }
    }

    pub(super) fn tell_late(&mut self) {
        for backend in 0..self.daemons.len() {
            let late = std::mem::take(&mut self.daemons[backend].late);
            if !late.is_empty() {
                self.wait(700);
            }
            for (id, down) in late {
                self.tell_down(id, backend, down);
            }
        }
    }

    /// No answer takes longer than the longest look.
    pub(super) fn answers_come(&mut self, millis: u64) {
        let then = self.now.after(Duration::from_millis(millis)).boot;
        for backend in 0..self.daemons.len() {
            if let Some((Obs::Snapshot { at, .. }, _)) = &self.daemons[backend].asked
                && at.boot + LONGEST_LOOK < then
            {
                self.tell_asked(backend);
            }
        }
    }

    pub(super) fn daemon_restarts(&mut self, backend: usize) {
        for id in self.oracle.up(|truth| truth.backend == backend) {
            self.oracle.ends(id, self.now);
        }
        let daemon = &mut self.daemons[backend];
        daemon.epoch += 1;
        daemon.next_key = 0;
        daemon.opened = false;
        daemon.late.clear();
        daemon.asked = None;
    }

    pub(super) fn look(&mut self, backend: usize, complete: bool) {
        self.tell_asked(backend);
        let (snapshot, listed) = self.snapshot(backend, complete);
        self.open(backend);
        self.tell_snapshot(backend, snapshot, &listed);
    }

    pub(super) fn open(&mut self, backend: usize) {
        let daemon = &mut self.daemons[backend];
        if self.reducer.is_some() && !std::mem::replace(&mut daemon.opened, true) {
            let epoch = daemon.epoch;
            self.tell(backend, Obs::Reset { epoch });
        }
    }

    pub(super) fn tell_asked(&mut self, backend: usize) {
        if self.daemons[backend].opened
            && let Some((snapshot, listed)) = self.daemons[backend].asked.take()
        {
            self.tell_snapshot(backend, snapshot, &listed);
        }
    }

    pub(super) fn tell_snapshot(&mut self, backend: usize, snapshot: Obs, listed: &[usize]) {
        if self.reducer.is_some() {
            for id in listed {
                self.oracle.seen(*id);
            }
        }
        self.tell(backend, snapshot);
    }

    /// What the daemon says to a look, and whom that lists. An incomplete answer lacks some.
    pub(super) fn snapshot(&mut self, backend: usize, complete: bool) -> (Obs, Vec<usize>) {
        let mut listed = self.oracle.up(|truth| truth.backend == backend);
        if !complete {
            listed.retain(|id| id % 2 == 0);
        }
        let sessions = listed.iter().map(|id| self.as_told(*id)).collect();
        let (epoch, at) = (self.daemons[backend].epoch, self.now);
        (
            Obs::Snapshot {
                epoch,
                at,
                complete,
                sessions,
            },
            listed,
        )
    }

    /// An event of the daemon. False if nobody hears it.
    pub(super) fn event(&mut self, backend: usize, obs: Obs) -> bool {
        let daemon = &mut self.daemons[backend];
        if daemon.lose > 0 {
            daemon.lose -= 1;
            return false;
        }
        let heard = daemon.opened && daemon.id.kind != BackendKind::Ocserv;
        if heard {
            self.tell(backend, obs);
        }
        heard
    }

    pub(super) fn tell(&mut self, backend: usize, obs: Obs) {
        let (id, now) = (self.daemons[backend].id.clone(), self.now);
        let Some(reducer) = &mut self.reducer else {
            return;
        };
        let ids = &mut self.ids;
        let mut random = || {
            *ids += 1;
            let mut bytes = [0; 10];
            bytes[2..].copy_from_slice(&ids.to_be_bytes());
            bytes
        };
        let events = reducer.observe(&id, obs, now, &mut random);
        self.took(events);
    }

    /// As the agent does: what is kept for the next start is written with every record.
    pub(super) fn took(&mut self, events: Vec<SessionEvent>) {
        if events.is_empty() {
            return;
        }
        let reducer = self.reducer.as_ref().expect("it told");
        let kept = reducer.persistable();
        self.saved_before = std::mem::replace(&mut self.saved, kept);
        self.oracle.turn(events);
    }
}
