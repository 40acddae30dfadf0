//! Takes the baseline, looks once a second, and does what the judge asks for.
//!
//! It keeps nothing on disk: an updater that is killed goes back to stable at its next start
//! ([`crate::recovery`]) and tries again from the beginning, so a trial has no half-way state.

use std::path::PathBuf;
use std::time::Duration;

use vpn_node_release::code::UpdaterCode;

use super::judge::{Demand, Judge, Limits, Look, Verdict};
use super::{Baseline, Deadline, Ending, Probation, Trial};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Kind, UpdateError};
use crate::evidence::{self, Report, Silence};
use crate::layout::Layout;
use crate::supervisor::{ProcessState, Supervisor, SupervisorError};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An agent that runs this long has found its VPN daemons and tried a heartbeat.
const SETTLED_S: u64 = 30;
/// How long a baseline waits for that.
const BASELINE_WITHIN: Duration = Duration::from_secs(45);
/// How long the former version has to reach the controller in a counter-check.
const COUNTER_CHECK: Duration = Duration::from_secs(120);
/// How long the new version is watched again after a counter-check.
const SECOND_TRIAL: Duration = Duration::from_secs(45);

/// The real [`Probation`].
pub struct Watch<'a> {
    socket: PathBuf,
    limits: Limits,
    clock: &'a dyn Clock,
    answer_within: Duration,
}

impl<'a> Watch<'a> {
    /// One that looks at the host of `layout`.
    #[must_use]
    pub fn new(layout: &Layout, config: &Config, clock: &'a dyn Clock) -> Self {
        Self {
            socket: layout.status_socket(),
            limits: Limits {
                probation: config.probation,
                extension: config.extension,
                memory: config.experiment_memory,
            },
            clock,
            answer_within: evidence::ANSWER_WITHIN,
        }
    }

    /// With another patience for one answer: a test with a fast clock needs less of it.
    #[must_use]
    pub fn with_answers_within(mut self, time: Duration) -> Self {
        self.answer_within = time;
        self
    }
}

impl Probation for Watch<'_> {
    fn baseline(&mut self, supervisor: &mut dyn Supervisor) -> Baseline {
        let end = self.clock.now().boot + BASELINE_WITHIN;
        loop {
            let report = self.ask(supervisor.stable_state().ok().as_ref());
            let settled = |report: &Report| {
                let tried = !report.enrolled || report.contact() != evidence::Contact::NotTried;
                report.uptime_s.is_none_or(|uptime| uptime >= SETTLED_S) && tried
            };
            let last = self.clock.now().boot >= end;
            match report {
                Ok(report) if last || settled(&report) => return Baseline::of(&report),
                Err(_) if last => return Baseline::default(),
                Ok(_) | Err(_) => self.clock.sleep(LOOK_EVERY),
            }
        }
    }

    fn watch(
        &mut self,
        trial: Trial<'_>,
        supervisor: &mut dyn Supervisor,
        note: &mut dyn FnMut(Deadline) -> Result<(), UpdateError>,
    ) -> Result<Ending, UpdateError> {
        note(self.deadline(self.limits.probation, None))?;
        let began = self.clock.now().boot;
        let everything = Demand::Everything;
        let mut judge = Judge::new(
            trial.version,
            trial.baseline,
            self.limits,
            everything,
            began,
        );
        loop {
            match judge.see(&self.look(supervisor)) {
                Verdict::Watching => self.clock.sleep(LOOK_EVERY),
                Verdict::Extended { why } => {
                    note(self.deadline(self.limits.extension, Some(why)))?;
                }
                Verdict::CounterCheck { why } if trial.migrates => return Err(undecided(&why)),
                Verdict::CounterCheck { why } => {
                    let within = COUNTER_CHECK + SECOND_TRIAL;
                    let words = format!("{why}; the former version is tried for a comparison");
                    note(self.deadline(within, Some(words)))?;
                    return self.counter_check(&trial, supervisor, &why);
                }
                Verdict::Healthy { remark } => return Ok(Ending::Keep { remark }),
                Verdict::Sick { code, detail } => return Ok(Ending::Revert { code, detail }),
                Verdict::Abandoned { detail } => return Err(abandoned(&detail)),
            }
        }
    }
}

impl Watch<'_> {
    /// The former version runs for a while: if it reaches the controller, the new one is to blame.
    fn counter_check(
        &mut self,
        trial: &Trial<'_>,
        supervisor: &mut dyn Supervisor,
        why: &str,
    ) -> Result<Ending, UpdateError> {
        supervisor.back_to_stable().map_err(|e| cannot(&e))?;
        let end = self.clock.now().boot + COUNTER_CHECK;
        while self.clock.now().boot < end {
            let report = self.ask(supervisor.stable_state().ok().as_ref());
            if report.is_ok_and(|report| report.in_touch()) {
                return Ok(Ending::Revert {
                    code: UpdaterCode::CutOff,
                    detail: format!("{why}; it accepts those of the former version"),
                });
            }
            self.clock.sleep(LOOK_EVERY);
        }
        supervisor.start_experiment().map_err(|e| cannot(&e))?;
        self.second_trial(trial, supervisor, why)
    }

    /// The controller answers nobody; the new version must only run as well as before.
    fn second_trial(
        &mut self,
        trial: &Trial<'_>,
        supervisor: &mut dyn Supervisor,
        why: &str,
    ) -> Result<Ending, UpdateError> {
        let limits = Limits {
            probation: SECOND_TRIAL.min(self.limits.probation),
            ..self.limits
        };
        let now = self.clock.now().boot;
        let demand = Demand::LocalEvidence;
        let mut judge = Judge::new(trial.version, trial.baseline, limits, demand, now);
        loop {
            match judge.see(&self.look(supervisor)) {
                Verdict::Healthy { .. } => {
                    let remark =
                        format!("{why}; nor those of the former version, so the new version stays");
                    return Ok(Ending::Keep {
                        remark: Some(remark),
                    });
                }
                Verdict::Sick { code, detail } => return Ok(Ending::Revert { code, detail }),
                Verdict::Abandoned { detail } => return Err(abandoned(&detail)),
                // The last two are not said without a demand for heartbeats.
                Verdict::Watching | Verdict::Extended { .. } | Verdict::CounterCheck { .. } => {
                    self.clock.sleep(LOOK_EVERY);
                }
            }
        }
    }

    fn look(&self, supervisor: &mut dyn Supervisor) -> Look {
        let process = supervisor.experiment_state().ok();
        let stopped = process == Some(ProcessState::Stopped);
        let stable_runs = stopped
            && supervisor.stable_state().is_ok_and(|state| {
                matches!(state, ProcessState::Running { .. } | ProcessState::Starting)
            });
        let report = self.ask(process.as_ref());
        Look {
            at: self.clock.now().boot,
            memory: pid(process.as_ref()).and_then(evidence::memory),
            process,
            stable_runs,
            report,
        }
    }

    fn ask(&self, process: Option<&ProcessState>) -> Result<Report, Silence> {
        evidence::ask(&self.socket, pid(process), self.answer_within, self.clock)
    }

    fn deadline(&self, after: Duration, why: Option<String>) -> Deadline {
        let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        Deadline {
            at_ms: self.clock.now().wall_ms.saturating_add(after),
            why,
        }
    }
}

fn pid(process: Option<&ProcessState>) -> Option<u32> {
    match process {
        Some(ProcessState::Running { pid }) => Some(*pid),
        _ => None,
    }
}

fn abandoned(detail: &str) -> UpdateError {
    UpdateError::of(Kind::RolledBack, UpdaterCode::Interrupted.as_str(), detail)
}

/// The former version cannot read the state that the new one has migrated, so it cannot be asked.
fn undecided(why: &str) -> UpdateError {
    UpdateError::of(
        Kind::RolledBack,
        UpdaterCode::Interrupted.as_str(),
        format!(
            "{why}, and the former version could not be tried for a comparison, since the state \
             was migrated; ask for the update again when the controller answers"
        ),
    )
}

fn cannot(error: &SupervisorError) -> UpdateError {
    UpdateError::of(
        Kind::RolledBack,
        UpdaterCode::Interrupted.as_str(),
        format!("the comparison with the former version failed: {error}"),
    )
}
