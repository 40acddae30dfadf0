//! The judge of a trial: pure. It is shown one [`Look`] after the other and gives a [`Verdict`].
//!
//! What blames the new version is local evidence only: its process, its answers, its memory, its
//! ledger, its VPN daemons and their connections, and whether it *tries* to reach the controller.
//! What the controller answers, or that it does not, never blames it: at most it makes the judge
//! ask for a counter-check with the former version. A final verdict stands.

use std::fmt;
use std::time::Duration;

use vpn_node_release::code::UpdaterCode;
use vpn_node_release::version::Version;

use super::Baseline;
use crate::evidence::{Contact, Report, Silence};
use crate::supervisor::{How, ProcessState};

/// A version that has not answered this long after its start does not start. Hashing a large
/// ledger at the start takes seconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// One that answered and is silent this long hangs. systemd's watchdog takes 60 s.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// A report this old comes from a loop that hangs: it makes one every 5 seconds.
const STALE_S: u64 = 20;
/// An enrolled agent tries its first heartbeat at once, and again within seconds.
const TRIES_WITHIN: Duration = Duration::from_secs(60);
/// Until then the new version may still be getting in touch with its VPN daemons.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// A lack that is over sooner than this is none: VPN daemons restart, clients come back.
const SUSTAINED: Duration = Duration::from_secs(15);
/// Too much memory for this long is no peak of the start.
const TOO_LARGE_FOR: Duration = Duration::from_secs(3);
/// A process that is stopped for this long was not just between two states.
const STOPPED_FOR: Duration = Duration::from_secs(5);
/// Counted at most between two looks: time in which nobody looked (suspend, a stopped updater)
/// is time in which nothing was seen, neither good nor bad.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);
/// sysexits.h, EX_CONFIG: the agent's word for "I cannot read the state or the configuration".
const EX_CONFIG: i32 = 78;

/// By what a trial is measured.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it lasts.
    pub probation: Duration,
    /// How much longer when the controller gave no answer.
    pub extension: Duration,
    /// Most memory, in bytes.
    pub memory: u64,
}

/// One look at the version on trial.
#[derive(Clone, Debug)]
pub struct Look {
    /// When (`CLOCK_BOOTTIME`).
    pub at: Duration,
    /// Its process; none when the supervisor could not be asked.
    pub process: Option<ProcessState>,
    /// Whether the stable version runs instead. Only asked for when the process is stopped.
    pub stable_runs: bool,
    /// Its memory in bytes.
    pub memory: Option<u64>,
    /// What it says.
    pub report: Result<Report, Silence>,
}

/// What the judge says after a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet.
    Watching,
    /// Final: it stays.
    Healthy {
        /// What the operator should know nevertheless.
        remark: Option<String>,
    },
    /// Final: it goes, and the version is blocked.
    Sick {
        /// Why.
        code: UpdaterCode,
        /// What was seen.
        detail: String,
    },
    /// Final: somebody else ended the trial; nobody is blamed.
    Abandoned {
        /// What was seen.
        detail: String,
    },
    /// The time is over and the controller has not accepted a heartbeat. The judge watches on
    /// for the extension; said once.
    Extended {
        /// Why.
        why: String,
    },
    /// The former version was in touch with the controller, and this one is not: only a try with
    /// the former one can tell whose fault it is. Final for this judge.
    CounterCheck {
        /// Why.
        why: String,
    },
}

/// What must be seen for a version to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Good local evidence, and a heartbeat that the controller accepted.
    Everything,
    /// Good local evidence: a counter-check has shown that the controller answers nobody.
    LocalEvidence,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Judge<'a> {
    version: &'a Version,
    baseline: &'a Baseline,
    limits: Limits,
    demand: Demand,
    needs_heartbeat: bool,
    last_look: Duration,
    /// Time that was watched, without holes.
    watched: Duration,
    deadline: Duration,
    extended: bool,
    answered: bool,
    contact: Contact,
    silent: Lasting,
    stopped: Lasting,
    too_large: Lasting,
    ledger_broken: Lasting,
    backend_lost: Lasting,
    sessions_lost: Lasting,
    /// What the sessions are compared with; follows them slowly in an extension.
    sessions_before: u64,
    compared_since: Duration,
    last_word: Option<Verdict>,
}

impl<'a> Judge<'a> {
    /// A trial that begins `now` (`CLOCK_BOOTTIME`).
    #[must_use]
    pub fn new(
        version: &'a Version,
        baseline: &'a Baseline,
        limits: Limits,
        demand: Demand,
        now: Duration,
    ) -> Self {
        Self {
            version,
            baseline,
            limits,
            demand,
            needs_heartbeat: false,
            last_look: now,
            watched: Duration::ZERO,
            deadline: limits.probation,
            extended: false,
            answered: false,
            contact: Contact::NotTried,
            silent: Lasting::default(),
            stopped: Lasting::default(),
            too_large: Lasting::default(),
            ledger_broken: Lasting::default(),
            backend_lost: Lasting::default(),
            sessions_lost: Lasting::default(),
            sessions_before: baseline.sessions(),
            compared_since: Duration::ZERO,
            last_word: None,
        }
    }

    /// Takes one look into account.
    pub fn see(&mut self, look: &Look) -> Verdict {
        if let Some(last_word) = &self.last_word {
            return last_word.clone();
        }
        self.watched += look.at.saturating_sub(self.last_look).min(BETWEEN_LOOKS);
        self.last_look = look.at;
        let verdict = self
            .process(look)
            .or_else(|| self.memory(look))
            .or_else(|| match usable(look) {
                Ok(report) => self.report(report),
                Err(why) => self.silence(&why),
            })
            .unwrap_or_else(|| self.time_over());
        if !matches!(verdict, Verdict::Watching | Verdict::Extended { .. }) {
            self.last_word = Some(verdict.clone());
        }
        verdict
    }

    fn process(&mut self, look: &Look) -> Option<Verdict> {
        let stopped = matches!(look.process, Some(ProcessState::Stopped));
        if self.stopped.reaches(STOPPED_FOR, stopped, self.watched) {
            if look.stable_runs {
                return Some(Verdict::Abandoned {
                    detail:
                        "somebody started the stable version during the trial, or it did not end"
                            .into(),
                });
            }
            return sick(UpdaterCode::Crashed, "it ended without an error");
        }
        let Some(ProcessState::Exited { how }) = &look.process else {
            return None;
        };
        match how {
            How::Code(EX_CONFIG) => sick(
                UpdaterCode::StateUnreadable,
                "it refused to start (exit code 78); its last words are in the journal",
            ),
            How::Memory => sick(UpdaterCode::MemoryExceeded, how),
            How::Watchdog => sick(UpdaterCode::Unresponsive, how),
            _ if self.answered => sick(UpdaterCode::Crashed, format!("it ran, and ended: {how}")),
            _ => sick(
                UpdaterCode::StartFailed,
                format!("it ended before it answered: {how}"),
            ),
        }
    }

    fn memory(&mut self, look: &Look) -> Option<Verdict> {
        let bytes = look.memory.unwrap_or(0);
        let most = self.limits.memory;
        let over = self
            .too_large
            .reaches(TOO_LARGE_FOR, bytes > most, self.watched);
        if !over {
            return None;
        }
        let words = format!(
            "it takes {} MiB, and {} MiB is the most (experiment_memory)",
            bytes >> 20,
            most >> 20
        );
        sick(UpdaterCode::MemoryExceeded, words)
    }

    /// Nothing is known of the daemons and the ledger then: what was lost stays lost, no longer.
    fn silence(&mut self, why: &str) -> Option<Verdict> {
        let limit = if self.answered {
            SILENT_FOR
        } else {
            ANSWERS_WITHIN
        };
        let hangs = self.silent.reaches(limit, true, self.watched);
        if !hangs {
            return None;
        }
        let words = format!("no answer for {} s: {why}", limit.as_secs());
        sick(UpdaterCode::Unresponsive, words)
    }

    fn report(&mut self, report: &Report) -> Option<Verdict> {
        if !report.is_version(self.version) {
            let said = report.running_from.as_ref().unwrap_or(&report.version);
            return sick(
                UpdaterCode::WrongVersion,
                format!("what answers is {said:?}, not {}", self.version),
            );
        }
        self.answered = true;
        self.silent = Lasting::default();
        self.contact = report.contact();
        // A host that is not enrolled has no heartbeats.
        let enrolled = report.enrolled || self.baseline.enrolled == Some(true);
        self.needs_heartbeat = enrolled && self.demand == Demand::Everything;
        self.ledger(report)
            .or_else(|| self.backends(report))
            .or_else(|| self.sessions(report))
            .or_else(|| self.tries())
    }

    fn ledger(&mut self, report: &Report) -> Option<Verdict> {
        let broken = !report.ledger_works() && !self.baseline.ledger_broken;
        let lasts = self.ledger_broken.reaches(SUSTAINED, broken, self.watched);
        if !lasts {
            return None;
        }
        let why = report.ledger.error.as_deref().unwrap_or("no reason given");
        let words = format!("connection records cannot be stored: {why:?}");
        sick(UpdaterCode::LedgerBroken, words)
    }

    fn backends(&mut self, report: &Report) -> Option<Verdict> {
        let settled = self.watched >= SETTLES_WITHIN;
        let lost = self.baseline.lost_in(report);
        let lasts = self
            .backend_lost
            .reaches(SUSTAINED, settled && lost.is_some(), self.watched);
        let name = lost.filter(|_| lasts)?;
        let words = format!("{name} answered the former version and does not answer this one");
        sick(UpdaterCode::BackendLost, words)
    }

    fn sessions(&mut self, report: &Report) -> Option<Verdict> {
        let seen = self.baseline.sessions_in(report);
        // Over an hour connections come and go by themselves: there only a fall within the time
        // of one probation counts.
        if self.extended && self.watched >= self.compared_since + self.limits.probation {
            self.compared_since = self.watched;
            self.sessions_before = seen;
        }
        let before = self.sessions_before;
        let settled = self.watched >= SETTLES_WITHIN;
        let fewer = settled && seen < before.saturating_sub(allowed_churn(before));
        let lasts = self.sessions_lost.reaches(SUSTAINED, fewer, self.watched);
        if !lasts {
            return None;
        }
        let words = format!("{seen} VPN connections are left of {before}");
        sick(UpdaterCode::SessionsLost, words)
    }

    fn tries(&self) -> Option<Verdict> {
        let untried = self.contact == Contact::NotTried && self.watched >= TRIES_WITHIN;
        if !self.needs_heartbeat || !untried {
            return None;
        }
        let words = format!("no heartbeat was tried in {} s", TRIES_WITHIN.as_secs());
        sick(UpdaterCode::NeverHeartbeats, words)
    }

    /// Nothing speaks against it at this look: is that enough?
    fn time_over(&mut self) -> Verdict {
        let doubts = [
            &self.silent,
            &self.stopped,
            &self.too_large,
            &self.ledger_broken,
            &self.backend_lost,
            &self.sessions_lost,
        ];
        let settled = self.answered && doubts.iter().all(|doubt| !doubt.is_on());
        if self.watched < self.limits.probation || !settled {
            return Verdict::Watching;
        }
        if !self.needs_heartbeat || self.contact == Contact::Accepted {
            return Verdict::Healthy { remark: None };
        }
        if self.watched < self.deadline {
            return Verdict::Watching;
        }
        let why = why(self.contact);
        let was_in_touch = self.baseline.in_touch;
        // An hour of refusals would end this host's authorisation.
        let hurry = self.contact == Contact::Refused && was_in_touch;
        if !self.extended && !hurry && !self.limits.extension.is_zero() {
            self.extended = true;
            self.deadline = self.watched + self.limits.extension;
            self.compared_since = self.watched;
            return Verdict::Extended { why };
        }
        if was_in_touch && self.contact != Contact::Busy {
            return Verdict::CounterCheck { why };
        }
        let remark = match was_in_touch {
            true => format!("{why}; it is there, so the new version stays"),
            false => format!("{why}; so it was before, so the new version stays"),
        };
        Verdict::Healthy {
            remark: Some(remark),
        }
    }
}

/// How many connections may go by themselves within a probation: two, or a fifth.
fn allowed_churn(before: u64) -> u64 {
    before.div_ceil(5).max(2)
}

fn usable(look: &Look) -> Result<&Report, String> {
    match &look.report {
        Ok(report) if report.age_s > STALE_S => Err(format!(
            "its report is {} s old: its loop hangs",
            report.age_s
        )),
        Ok(report) => Ok(report),
        Err(silence) => Err(silence.to_string()),
    }
}

fn why(contact: Contact) -> String {
    let words = match contact {
        Contact::Busy => "the controller answers that it is busy",
        Contact::Refused => "the controller refuses its heartbeats",
        Contact::NotTried | Contact::Unreachable | Contact::Accepted => {
            "the controller did not answer its heartbeats"
        }
    };
    words.to_owned()
}

fn sick(code: UpdaterCode, detail: impl fmt::Display) -> Option<Verdict> {
    Some(Verdict::Sick {
        code,
        detail: detail.to_string(),
    })
}

/// Since when something is so.
#[derive(Clone, Copy, Debug, Default)]
struct Lasting(Option<Duration>);

impl Lasting {
    /// Whether it has been so for `limit`.
    fn reaches(&mut self, limit: Duration, is_so: bool, now: Duration) -> bool {
        if !is_so {
            self.0 = None;
            return false;
        }
        let since = *self.0.get_or_insert(now);
        now - since >= limit
    }

    fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
