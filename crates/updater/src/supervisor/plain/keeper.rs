//! Which agent should run, which one does, and when to start it again.

use std::time::Duration;

use super::super::{How, ProcessState};
use super::child::Running;
use super::supervise::Plan;
use super::{Order, States};
use crate::clock::Clock;
use crate::layout;

/// What an agent has for its last heartbeat and the ledger's last fdatasync; as the units have.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// First and longest wait before an agent that ended is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);
const RESTART_AFTER_AT_MOST: Duration = Duration::from_secs(30);
/// One that ran this long did not fail at its start.
const RAN_WELL: Duration = Duration::from_secs(60);

/// One of the two agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Stable,
    Experiment,
}

/// See the module.
pub(super) struct Keeper<'a> {
    plan: &'a Plan,
    clock: &'a dyn Clock,
    wanted: Option<Role>,
    agent: Option<(Role, Running, Duration)>,
    /// How the last one of each kind ended, unless it was stopped on request.
    stable: ProcessState,
    experiment: ProcessState,
    start_at: Duration,
    wait: Duration,
}

impl<'a> Keeper<'a> {
    /// Nothing runs; the stable agent is wanted.
    pub(super) fn new(plan: &'a Plan, clock: &'a dyn Clock) -> Self {
        Self {
            plan,
            clock,
            wanted: Some(Role::Stable),
            agent: None,
            stable: ProcessState::Stopped,
            experiment: ProcessState::Stopped,
            start_at: Duration::ZERO,
            wait: RESTART_AFTER,
        }
    }

    /// Notices an end, and starts what is due.
    pub(super) fn turn(&mut self) {
        if let Some((role, mut running, since)) = self.agent.take() {
            match running.ended() {
                None => self.agent = Some((role, running, since)),
                Some(how) => self.ended(role, how, since),
            }
        }
        let Some(role) = self.wanted.filter(|_| self.agent.is_none()) else {
            return;
        };
        if self.clock.now().boot >= self.start_at {
            self.start(role);
        }
    }

    /// Does what the updater says.
    pub(super) fn obey(&mut self, order: Order) -> States {
        match order {
            Order::State => {}
            Order::StartExperiment => {
                self.stop();
                self.want(Role::Experiment);
            }
            Order::Stop => {
                self.stop();
                self.wanted = None;
            }
            Order::BackToStable => {
                if !self.runs(Role::Stable) {
                    self.stop();
                    self.want(Role::Stable);
                }
            }
            Order::Settle => {
                self.stop();
                self.want(Role::Stable);
            }
        }
        self.turn();
        self.states()
    }

    /// Ends what runs and waits for it.
    pub(super) fn stop(&mut self) {
        if let Some((role, running, _)) = self.agent.take() {
            running.end(STOP_WITHIN, self.clock);
            *self.last(role) = ProcessState::Stopped;
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.agent.as_ref().map(|(_, running, _)| running.pid())
    }

    fn states(&self) -> States {
        let state = |role, last: &ProcessState| match &self.agent {
            Some((runs, running, _)) if *runs == role => {
                ProcessState::Running { pid: running.pid() }
            }
            _ => last.clone(),
        };
        States {
            stable: state(Role::Stable, &self.stable),
            experiment: state(Role::Experiment, &self.experiment),
        }
    }

    fn runs(&self, role: Role) -> bool {
        self.agent.as_ref().is_some_and(|(runs, ..)| *runs == role)
    }

    fn want(&mut self, role: Role) {
        self.wanted = Some(role);
        self.start_at = self.clock.now().boot;
        self.wait = RESTART_AFTER;
    }

    fn last(&mut self, role: Role) -> &mut ProcessState {
        match role {
            Role::Stable => &mut self.stable,
            Role::Experiment => &mut self.experiment,
        }
    }

    fn start(&mut self, role: Role) {
        let slot = match role {
            Role::Stable => self.plan.layout.stable(),
            Role::Experiment => self.plan.layout.experiment(),
        };
        let mut words = vec![layout::agent_program(&slot).into_os_string()];
        words.extend(self.plan.agent_arguments.iter().cloned());
        let now = self.clock.now().boot;
        match Running::start(&self.plan.launcher, &words, self.plan.user) {
            Ok(running) => self.agent = Some((role, running, now)),
            Err(error) => {
                let how = How::Other(format!("it could not be started: {error}"));
                self.ended(role, how, now);
            }
        }
    }

    /// A stable agent is started again, later each time; after an experiment the stable one is,
    /// at once and whether or not an updater watches.
    fn ended(&mut self, role: Role, how: How, since: Duration) {
        let now = self.clock.now().boot;
        eprintln!("supervise: the {} agent ended: {how}", role.word());
        *self.last(role) = ProcessState::Exited { how };
        if role == Role::Experiment {
            self.want(Role::Stable);
            return;
        }
        if now.saturating_sub(since) >= RAN_WELL {
            self.wait = RESTART_AFTER;
        }
        self.start_at = now + self.wait;
        self.wait = (self.wait * 2).min(RESTART_AFTER_AT_MOST);
    }
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Experiment => "new",
        }
    }
}
