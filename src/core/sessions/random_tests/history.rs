//! What happens in the world, step by step; what an order may come to; and the property that all
//! histories have.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::*;
use super::truth::{BOOT, ID_KEY, World};

/// What happens in the world. Numbers pick a backend, a client, one of the sessions that are up.
#[derive(Clone, Debug)]
enum Step {
    Wait(u16),
    ClockJumps(i32),
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
pub(super) enum How {
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
        1 => (-100_000_i32..100_000).prop_map(Step::ClockJumps),
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

impl World {
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
            Step::ClockJumps(millis) => self.now.wall_ms += i64::from(millis),
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
            Step::Rekey { which } => {
                if let Some(id) = self.pick(which, |truth| truth.backend == 0) {
                    self.rekey(id);
                }
            }
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
            self.rekey(id);
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
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_history_doubles_loses_or_misdates_a_session(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let events = World::run(&steps);
        prop_assert_eq!(events, World::run(&steps), "the same history gives the same events");
    }
}
