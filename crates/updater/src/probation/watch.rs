//! Takes the baseline, looks once a second, and does what the judge asks for.
//!
//! It keeps nothing on disk: an updater that is killed goes back to stable at its next start
//! ([`crate::recovery`]) and tries again from the beginning, so a trial has no half-way state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// How long the start of a version may wait for the end of the other one. That has 75 s on a slow
/// disk (`EXTEND_TIMEOUT_USEC`), and systemd gives up after 240 s (`JobRunningTimeoutSec=`): then it
/// starts this one no more, which the judge sees as the work of somebody else.
const STARTS_WITHIN: Duration = Duration::from_secs(300);
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
    layout: &'a Layout,
    limits: Limits,
    clock: &'a dyn Clock,
    answer_within: Duration,
    stop: Arc<AtomicBool>,
}

impl<'a> Watch<'a> {
    /// One that looks at the host of `layout`.
    #[must_use]
    pub fn new(layout: &'a Layout, config: &Config, clock: &'a dyn Clock) -> Self {
        Self {
            layout,
            limits: Limits {
                probation: config.probation,
                extension: config.extension,
                memory: config.experiment_memory,
            },
            clock,
            answer_within: evidence::ANSWER_WITHIN,
            stop: Arc::default(),
        }
    }

    /// Ends a trial, on the former version, once `stop` is set (a signal handler does it).
    #[must_use]
    pub fn until(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
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
            let last = self.clock.now().boot >= end || self.stop.load(Ordering::Relaxed);
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
        if self.wait_for_start(supervisor)? {
            note(self.deadline(self.limits.probation, None))?;
        }
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
            self.go_on()?;
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
            self.go_on()?;
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
        self.wait_for_start(supervisor)?;
        let now = self.clock.now().boot;
        let demand = Demand::LocalEvidence;
        let mut judge = Judge::new(trial.version, trial.baseline, limits, demand, now);
        loop {
            self.go_on()?;
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

    /// Until something of the version on trial runs: what the other one needs for its end is no
    /// fault of this one, so no time of the judge's passes. Tells whether there was a wait.
    fn wait_for_start(&self, supervisor: &mut dyn Supervisor) -> Result<bool, UpdateError> {
        let end = self.clock.now().boot + STARTS_WITHIN;
        let mut waited = false;
        loop {
            self.go_on()?;
            match supervisor.experiment_state() {
                Ok(ProcessState::Waiting) => waited = true,
                // Asked again: the answer before was that it waits.
                Err(_) if waited => {}
                Ok(_) | Err(_) => return Ok(waited),
            }
            if self.clock.now().boot >= end {
                return Err(abandoned(&format!(
                    "it was not started within {} s, since the former version did not end",
                    STARTS_WITHIN.as_secs()
                )));
            }
            self.clock.sleep(LOOK_EVERY);
        }
    }

    /// Whether nobody has ended the trial.
    fn go_on(&self) -> Result<(), UpdateError> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(abandoned("a signal ended the trial")),
            false => Ok(()),
        }
    }

    fn look(&self, supervisor: &mut dyn Supervisor) -> Look {
        let process = supervisor.experiment_state().ok();
        let stopped = process == Some(ProcessState::Stopped);
        let stable_runs = stopped
            && supervisor.stable_state().is_ok_and(|state| {
                !matches!(state, ProcessState::Exited { .. } | ProcessState::Stopped)
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

    /// Only a process that runs is asked: while there is none, who answers is another one, for
    /// example the former version that still ends, or that somebody has started. If the supervisor
    /// cannot be asked, whoever answers must do.
    fn ask(&self, process: Option<&ProcessState>) -> Result<Report, Silence> {
        let pid = pid(process);
        if process.is_some() && pid.is_none() {
            return Err(Silence::Nobody("it does not run".into()));
        }
        evidence::ask(self.layout, pid, self.answer_within, self.clock)
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::clock::SystemClock;
    use crate::clock::fake::FakeClock;
    use crate::supervisor::How;

    struct Says<F>(F);

    impl<F: FnMut() -> Option<ProcessState>> Supervisor for Says<F> {
        fn stable_state(&mut self) -> Result<ProcessState, SupervisorError> {
            Ok(ProcessState::Running { pid: 1 })
        }

        fn experiment_state(&mut self) -> Result<ProcessState, SupervisorError> {
            (self.0)().ok_or_else(|| SupervisorError::new("busy"))
        }

        fn start_experiment(&mut self) -> Result<(), SupervisorError> {
            unreachable!("nothing is started by a look")
        }

        fn stop(&mut self) -> Result<(), SupervisorError> {
            unreachable!("nothing is stopped by a look")
        }

        fn back_to_stable(&mut self) -> Result<(), SupervisorError> {
            unreachable!("nothing is started by a look")
        }

        fn settle(&mut self) -> Result<(), SupervisorError> {
            unreachable!("nothing is started by a look")
        }
    }

    /// A host whose agent answers that it is this version.
    fn answering(version: &str) -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.agent_state()).unwrap();
        std::fs::create_dir_all(layout.status_socket().parent().unwrap()).unwrap();
        let listener = UnixListener::bind(layout.status_socket()).unwrap();
        let answer =
            format!("{{\"v\":1,\"scope\":\"full\",\"ok\":{{\"version\":\"{version}\"}}}}\n");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                let _ = BufReader::new(&stream).read_line(&mut line);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        (dir, layout)
    }

    #[test]
    fn what_the_former_version_answers_is_not_taken_for_the_new_ones_words() {
        let (_dir, layout) = answering("1.4.0");
        let config = Config::default();
        let watch = Watch::new(&layout, &config, &SystemClock);
        let how = How::Code(1);
        for process in [
            ProcessState::Waiting,
            ProcessState::Starting,
            ProcessState::Stopped,
            ProcessState::Exited { how },
        ] {
            let look = watch.look(&mut Says(|| Some(process.clone())));
            assert!(
                matches!(look.report, Err(Silence::Nobody(_))),
                "{process:?}: {look:?}"
            );
        }
        let pid = std::process::id();
        for process in [Some(ProcessState::Running { pid }), None] {
            let look = watch.look(&mut Says(|| process.clone()));
            assert_eq!(look.report.unwrap().version, "1.4.0");
        }
    }

    /// A trial of 1.5.0 whose unit waits for so many seconds, and then takes 55 to be ready.
    fn tried(waits_s: u64) -> (Result<Ending, UpdateError>, Vec<Deadline>) {
        let (_dir, layout) = answering("1.5.0");
        let (config, clock) = (Config::default(), FakeClock::default());
        let began = clock.now().boot;
        let mut supervisor = Says(|| {
            let pid = std::process::id();
            match (clock.now().boot - began).as_secs() {
                passed if passed < waits_s => match passed % 10 {
                    9 => None,
                    _ => Some(ProcessState::Waiting),
                },
                passed if passed < waits_s + 55 => Some(ProcessState::Starting),
                _ => Some(ProcessState::Running { pid }),
            }
        });
        let trial = Trial {
            version: &"1.5.0".parse().unwrap(),
            baseline: &Baseline::default(),
            migrates: false,
        };
        let mut told = Vec::new();
        let ending = Watch::new(&layout, &config, &clock).watch(trial, &mut supervisor, &mut |d| {
            told.push(d);
            Ok(())
        });
        (ending, told)
    }

    #[test]
    fn what_the_former_version_takes_to_end_is_not_counted_against_the_new_one() {
        let (ending, told) = tried(0);
        assert_eq!(ending.unwrap(), Ending::Keep { remark: None });
        assert_eq!(told.len(), 1);
        let (ending, told) = tried(75);
        assert_eq!(ending.unwrap(), Ending::Keep { remark: None });
        let later = told[1].at_ms - told[0].at_ms;
        assert_eq!(later, 75_000, "who waits for the verdict is told anew");
    }

    #[test]
    fn a_former_version_that_does_not_end_brings_no_blame_on_the_new_one() {
        let error = tried(u64::MAX / 2).0.unwrap_err();
        assert_eq!((error.kind, error.code), (Kind::RolledBack, "interrupted"));
        assert!(error.sentence.contains("did not end"), "{error}");
    }
}
