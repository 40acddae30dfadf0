//! Daemons with real clients. What they tell reaches the reducer at once, late, or never; the agent
//! crashes and comes back; the controller has sessions ended. The [`Oracle`] watches.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::super::*;
use super::oracle::{Oracle, Session as Truth};
use crate::core::Now;

/// What happens in the world. Numbers pick a backend, a client, one of the sessions that are up.
#[derive(Clone, Debug)]
enum Step {
    Wait(u16),
    ClockStep(i32),
    Connect {
        backend: u8,
        client: u8,
    },
    Traffic {
        which: u8,
        bytes: u8,
    },
    Roam {
        which: u8,
    },
    Rekey {
        which: u8,
    },
    Reauth {
        which: u8,
    },
    End {
        which: u8,
        how: How,
        late: bool,
    },
    /// The client comes back so many milliseconds after its polite end.
    Reconnect {
        which: u8,
        after: u16,
    },
    /// The controller has it ended.
    Order {
        which: u8,
        course: Course,
        revoked: bool,
    },
    DaemonRestart {
        backend: u8,
    },
    Unavailable {
        backend: u8,
    },
    LoseEvents {
        backend: u8,
        count: u8,
    },
    Look {
        backend: u8,
        complete: bool,
    },
    /// The daemon is asked now, and its answer read later.
    Ask {
        backend: u8,
    },
    AgentStops,
    /// The power fails before what the last turn brought is on disk.
    AgentCrashes,
    AgentStarts,
}

/// How a session ends in the daemon.
#[derive(Clone, Copy, Debug)]
enum How {
    Goodbye,
    Silence,
    Kick,
    Reset,
    Replaced,
}

/// What becomes of an order.
#[derive(Clone, Copy, Debug)]
enum Course {
    DownThenOk,
    OkThenDown,
    /// The daemon's own word of it is lost, and a look from before is read after.
    OkAlone,
    Fails,
    DaemonCrashes,
    RenamedMeanwhile,
    ComesBackAtOnce,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        Just(How::Goodbye),
        Just(How::Silence),
        Just(How::Kick),
        Just(How::Reset),
        Just(How::Replaced),
    ];
    let course = prop_oneof![
        Just(Course::DownThenOk),
        Just(Course::OkThenDown),
        Just(Course::OkAlone),
        Just(Course::Fails),
        Just(Course::DaemonCrashes),
        Just(Course::RenamedMeanwhile),
        Just(Course::ComesBackAtOnce),
    ];
    let backend = || 0_u8..3;
    prop_oneof![
        6 => prop_oneof![0_u16..3000, 0_u16..30_000].prop_map(Step::Wait),
        1 => (-100_000_i32..100_000).prop_map(Step::ClockStep),
        10 => (backend(), 0_u8..4).prop_map(|(backend, client)| Step::Connect { backend, client }),
        5 => any::<(u8, u8)>().prop_map(|(which, bytes)| Step::Traffic { which, bytes }),
        3 => any::<u8>().prop_map(|which| Step::Roam { which }),
        3 => any::<u8>().prop_map(|which| Step::Rekey { which }),
        3 => any::<u8>().prop_map(|which| Step::Reauth { which }),
        6 => (any::<u8>(), how, any::<bool>())
            .prop_map(|(which, how, late)| Step::End { which, how, late }),
        4 => (any::<u8>(), 0_u16..4000).prop_map(|(which, after)| Step::Reconnect { which, after }),
        5 => (any::<u8>(), course, any::<bool>())
            .prop_map(|(which, course, revoked)| Step::Order { which, course, revoked }),
        1 => backend().prop_map(|backend| Step::DaemonRestart { backend }),
        1 => backend().prop_map(|backend| Step::Unavailable { backend }),
        2 => (backend(), 1_u8..4).prop_map(|(backend, count)| Step::LoseEvents { backend, count }),
        8 => (backend(), prop::bool::weighted(0.8))
            .prop_map(|(backend, complete)| Step::Look { backend, complete }),
        3 => backend().prop_map(|backend| Step::Ask { backend }),
        1 => Just(Step::AgentStops),
        1 => Just(Step::AgentCrashes),
        2 => Just(Step::AgentStarts),
    ]
}

/// One VPN daemon and its reader.
struct Daemon {
    id: BackendId,
    epoch: u64,
    next_key: u64,
    /// Whether the reader of this run of the agent has told the epoch in which the daemon is.
    opened: bool,
    lose: u8,
    /// Ends that are told a moment later.
    late: Vec<(usize, Obs)>,
    /// A look whose answer is still under way, and whom it lists.
    asked: Option<(Obs, Vec<usize>)>,
}

struct World {
    reducer: Option<Reducer>,
    daemons: Vec<Daemon>,
    now: Now,
    ids: u64,
    /// What is on disk, and what was there before the last turn.
    saved: Vec<KnownSession>,
    saved_before: Vec<KnownSession>,
    oracle: Oracle,
}

const ID_KEY: [u8; 32] = [5; 32];
const LONGEST_LOOK: Duration = Duration::from_secs(10);
const BOOT: Uuid = Uuid::from_u128(9);

impl World {
    fn new() -> Self {
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

    fn run(steps: &[Step]) -> Vec<SessionEvent> {
        let mut world = Self::new();
        for step in steps {
            world.play(step);
        }
        // In the end everything is looked at, twice, as the readers do for ever.
        world.play(&Step::AgentStarts);
        for _ in 0..2 {
            world.play(&Step::Wait(3000));
            for backend in 0..3 {
                world.play(&Step::Look {
                    backend,
                    complete: true,
                });
            }
        }
        world.play(&Step::Wait(3000));
        let reducer = world.reducer.as_ref().expect("started");
        world.oracle.everything_is_told(reducer);
        world.oracle.log
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Wait(millis) => {
                self.tell_late();
                self.answers_come(u64::from(millis));
                self.wait(millis.into());
            }
            Step::ClockStep(millis) => self.now.wall_ms += i64::from(millis),
            Step::Connect { backend, client } => self.connect(backend.into(), client),
            Step::Traffic { which, bytes } => {
                if let Some(id) = self.pick(which, |_| true) {
                    let session = self.oracle.session(id);
                    session.rx += u64::from(bytes);
                    self.update(id);
                }
            }
            Step::Roam { which } => {
                if let Some(id) = self.pick(which, |_| true) {
                    self.oracle.session(id).port += 1;
                    self.update(id);
                }
            }
            Step::Rekey { which } => self.rekey(which),
            Step::Reauth { which } => self.reauth(which),
            Step::End { which, how, late } => {
                if let Some(id) = self.pick(which, |_| true) {
                    self.end(id, how, late);
                }
            }
            Step::Reconnect { which, after } => {
                if let Some(id) = self.pick(which, |_| true) {
                    let (backend, client) = (
                        self.oracle.session(id).backend,
                        self.oracle.session(id).client,
                    );
                    self.end(id, How::Goodbye, false);
                    self.wait(after.into());
                    self.connect(backend, client);
                }
            }
            Step::Order {
                which,
                course,
                revoked,
            } => self.order(which, course, revoked),
            Step::DaemonRestart { backend } => self.daemon_restarts(backend.into()),
            Step::Unavailable { backend } => {
                let (error, since) = ("no answer".to_owned(), self.now);
                self.tell(backend.into(), Obs::Unavailable { error, since });
            }
            Step::LoseEvents { backend, count } => self.daemons[usize::from(backend)].lose = count,
            Step::Look { backend, complete } => self.look(backend.into(), complete),
            Step::Ask { backend } => {
                if self.daemons[usize::from(backend)].opened {
                    let asked = self.snapshot(backend.into(), true);
                    self.daemons[usize::from(backend)].asked = Some(asked);
                }
            }
            Step::AgentStops => {
                if let Some(reducer) = &mut self.reducer {
                    let events = reducer.finish();
                    self.took(events);
                }
                if let Some(reducer) = self.reducer.take() {
                    self.saved = reducer.persistable();
                    self.stopped();
                }
            }
            Step::AgentCrashes => {
                if self.reducer.take().is_some() {
                    self.saved.clone_from(&self.saved_before);
                    self.oracle.forget_last_turn();
                    self.stopped();
                }
            }
            Step::AgentStarts => {
                if self.reducer.is_none() {
                    let restored = self.saved.clone();
                    self.reducer = Some(Reducer::new(BOOT, ID_KEY, restored));
                    self.saved_before.clone_from(&self.saved);
                    self.wait(0);
                }
            }
        }
    }

    fn stopped(&mut self) {
        self.oracle.agent_stopped();
        for daemon in &mut self.daemons {
            daemon.opened = false;
            daemon.asked = None;
        }
    }

    fn wait(&mut self, millis: u64) {
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
    fn pick(&mut self, nth: u8, which: impl Fn(&Truth) -> bool) -> Option<usize> {
        let up = self.oracle.up(which);
        (!up.is_empty()).then(|| up[usize::from(nth) % up.len()])
    }

    fn connect(&mut self, backend: usize, client: u8) {
        let key = self.next_key(backend);
        let id = self.oracle.begins(backend, client, key, self.now);
        let session = self.as_told(id);
        if self.event(backend, Obs::Up(Box::new(session))) {
            self.oracle.seen(id);
        }
    }

    fn next_key(&mut self, backend: usize) -> SessionKey {
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
    fn as_told(&mut self, id: usize) -> Session {
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

    fn update(&mut self, id: usize) {
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

    fn rekey(&mut self, which: u8) {
        let Some(id) = self.pick(which, |truth| truth.backend == 0) else {
            return;
        };
        let new = self.next_key(0);
        let old = std::mem::replace(&mut self.oracle.session(id).key, new.clone());
        if !self.event(0, Obs::Rekey { old, new }) {
            self.oracle.session(id).may_split = true;
        }
    }

    /// The SA is torn down and made anew within 10 ms: the same session.
    fn reauth(&mut self, which: u8) {
        let Some(id) = self.pick(which, |truth| truth.backend == 0) else {
            return;
        };
        let heard = self.daemons[0].opened && self.daemons[0].lose == 0;
        let known = self.oracle.open_row_of(id).is_some();
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

    fn exact(&self, reason: Reason) -> End {
        End::noticed(reason, Confidence::Observed, self.now.boot, self.now)
    }

    fn end(&mut self, id: usize, how: How, late: bool) {
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

    fn tell_down(&mut self, id: usize, backend: usize, down: Obs) {
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

    fn tell_late(&mut self) {
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

    fn order(&mut self, which: u8, course: Course, revoked: bool) {
        let Some(id) = self.pick(which, |_| true) else {
            return;
        };
        let (Some(row), true) = (self.oracle.open_row_of(id), self.reducer.is_some()) else {
            return;
        };
        let reason = if revoked {
            Reason::Revoked
        } else {
            Reason::AdminKick
        };
        let backend = self.oracle.session(id).backend;
        if matches!(course, Course::OkAlone) {
            self.play(&Step::Ask {
                backend: u8::try_from(backend).unwrap(),
            });
        }
        let now = self.now;
        let reducer = self.reducer.as_mut().expect("just asked");
        let found = reducer.intend(&BTreeSet::from([row]), &reason, now);
        let key = found.up.first().map(|(_, _, key)| key.clone());
        self.took(found.events);
        let Some(key) = key else { return };
        self.wait(20);
        if matches!(course, Course::Fails) {
            self.reducer.as_mut().expect("it runs").forget_intent(row);
            return;
        }
        self.oracle.ordered(id, &reason);
        if matches!(course, Course::DaemonCrashes) {
            self.daemon_restarts(backend);
            self.look(backend, true);
            self.reducer.as_mut().expect("it runs").forget_intent(row);
            return;
        }
        if matches!(course, Course::RenamedMeanwhile) && backend == 0 {
            let new = self.next_key(0);
            let old = std::mem::replace(&mut self.oracle.session(id).key, new.clone());
            if !self.event(0, Obs::Rekey { old, new }) {
                self.oracle.session(id).may_split = true;
            }
        }
        let killed = self.oracle.session(id).key.clone();
        let client = self.oracle.session(id).client;
        self.oracle.ends(id, self.now);
        let down = Obs::Down {
            key: killed.clone(),
            end: self.exact(Reason::ClientDisconnect),
        };
        let told_first = matches!(course, Course::DownThenOk | Course::ComesBackAtOnce);
        if told_first {
            self.event(backend, down.clone());
        }
        if matches!(course, Course::ComesBackAtOnce) {
            self.connect(backend, client);
        }
        let mut asked = key;
        for _ in 0..2 {
            let now = self.now;
            let reducer = self.reducer.as_mut().expect("it runs");
            match reducer.confirmed(row, &asked, now) {
                Confirmed::Over(event) => {
                    self.took(event.into_iter().map(|event| *event).collect())
                }
                Confirmed::Renamed(key) => asked = key,
            }
        }
        if matches!(course, Course::OkThenDown) {
            self.event(backend, down);
        }
        self.tell_asked(backend);
    }

    /// No answer takes longer than the longest look.
    fn answers_come(&mut self, millis: u64) {
        let then = self.now.after(Duration::from_millis(millis)).boot;
        for backend in 0..self.daemons.len() {
            if let Some((Obs::Snapshot { at, .. }, _)) = &self.daemons[backend].asked
                && at.boot + LONGEST_LOOK < then
            {
                self.tell_asked(backend);
            }
        }
    }

    fn daemon_restarts(&mut self, backend: usize) {
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

    fn look(&mut self, backend: usize, complete: bool) {
        self.tell_asked(backend);
        let (snapshot, listed) = self.snapshot(backend, complete);
        self.open(backend);
        self.tell_snapshot(backend, snapshot, &listed);
    }

    fn open(&mut self, backend: usize) {
        let daemon = &mut self.daemons[backend];
        if self.reducer.is_some() && !std::mem::replace(&mut daemon.opened, true) {
            let epoch = daemon.epoch;
            self.tell(backend, Obs::Reset { epoch });
        }
    }

    fn tell_asked(&mut self, backend: usize) {
        if self.daemons[backend].opened
            && let Some((snapshot, listed)) = self.daemons[backend].asked.take()
        {
            self.tell_snapshot(backend, snapshot, &listed);
        }
    }

    fn tell_snapshot(&mut self, backend: usize, snapshot: Obs, listed: &[usize]) {
        if self.reducer.is_some() {
            for id in listed {
                self.oracle.seen(*id);
            }
        }
        self.tell(backend, snapshot);
    }

    /// What the daemon says to a look, and whom that lists. An incomplete answer lacks some.
    fn snapshot(&mut self, backend: usize, complete: bool) -> (Obs, Vec<usize>) {
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
    fn event(&mut self, backend: usize, obs: Obs) -> bool {
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

    fn tell(&mut self, backend: usize, obs: Obs) {
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
    fn took(&mut self, events: Vec<SessionEvent>) {
        if events.is_empty() {
            return;
        }
        let reducer = self.reducer.as_ref().expect("it told");
        let kept = reducer.persistable();
        self.saved_before = std::mem::replace(&mut self.saved, kept);
        self.oracle.turn(events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn no_history_doubles_loses_or_misdates_a_session(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let events = World::run(&steps);
        prop_assert_eq!(events, World::run(&steps), "the same history gives the same events");
    }
}
