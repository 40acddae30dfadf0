//! The steps of the machine: what follows from what, and what is told and kept of it.

use std::time::Duration;

use rand_core::Rng;
use uuid::Uuid;
use vpn_node_protocol::update::{DeploymentReport, DeploymentStatus};
use vpn_node_release::code::{DownloadCode, MetadataCode};
use vpn_node_release::handover::Status;

use super::judge::Refusal;
use super::machine::{LOOK_IDLE, Run, Software, UPDATER_SILENT_AFTER, Updates};
use super::report::short;
use super::{Command, Failure, Job, Kept, Known, Order, Progress, Step};
use crate::core::{Now, schedule};

/// How often the updater's status is looked at while it works for us: probation takes minutes.
const LOOK_BUSY: Duration = Duration::from_secs(2);
/// Between two looks at the repository's metadata, give or take a tenth.
const CHECK_EVERY: Duration = Duration::from_secs(3600);
/// The first look after a start, at random within this: a fleet that was restarted does not ask
/// in one instant.
const FIRST_CHECK_WITHIN: Duration = Duration::from_secs(600);
/// A retry of a failed download waits as long as a request of the lane, but this long at least:
/// each may cost a whole package.
const RETRY_AT_LEAST: Duration = Duration::from_secs(10);
/// Where the doubling of that ends.
const RETRY_AT_MOST: Duration = Duration::from_secs(1800);
/// A change is told within this, with a heartbeat of its own.
const TELL_WITHIN: Duration = Duration::from_millis(250);

impl Updates {
    pub(super) fn begin(
        &mut self,
        directive: Option<(Uuid, i64)>,
        order: Order,
        lasts: Duration,
        request: Uuid,
        now: Now,
    ) {
        self.stop();
        let lasts_ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
        if let Some(id) = order.deployment {
            let previous = self.status().map(|status| status.stable_version.clone());
            self.told = Some(DeploymentReport {
                previous_version: previous,
                ..told(id, &order, DeploymentStatus::Downloading)
            });
        }
        self.job = Some(Job {
            order,
            directive: directive.map(|(id, _)| id),
            issued_ms: directive.map_or(i64::MIN, |(_, issued_ms)| issued_ms),
            request: request.to_string(),
            lasts_s: lasts.as_secs(),
            until_ms: now.wall_ms.saturating_add(lasts_ms),
            step: Step::Downloading,
        });
        self.until = now.boot.saturating_add(lasts);
        self.failures = 0;
        self.problem = None;
        self.progress = Progress::default();
        self.retry_at = Some(now.boot);
        self.keep();
        self.changed(now);
        self.go_on(now);
    }

    /// The same assignment was made anew: it lasts longer.
    pub(super) fn prolong(&mut self, directive: Uuid, issued_ms: i64, lasts: Duration, now: Now) {
        let Some(job) = &mut self.job else { return };
        let lasts_ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
        job.directive = Some(directive);
        job.issued_ms = issued_ms;
        job.lasts_s = lasts.as_secs();
        job.until_ms = now.wall_ms.saturating_add(lasts_ms);
        if job.step == Step::Downloading {
            self.until = now.boot.saturating_add(lasts);
        }
        self.keep();
    }

    pub(super) fn software_seen(
        &mut self,
        status: Option<Box<Status>>,
        now: Now,
        rng: &mut impl Rng,
    ) {
        let was_managed = self.is_managed();
        self.software = status.map_or(Software::Absent, Software::Status);
        if std::mem::take(&mut self.owes_report) {
            self.tell_at.get_or_insert(now.boot + TELL_WITHIN);
        }
        if self.is_managed() && !was_managed {
            self.check_at = now.boot + schedule::uniform(FIRST_CHECK_WITHIN, rng);
        }
        self.follow_updater(now);
        let wait = if self.with_updater() {
            LOOK_BUSY
        } else {
            LOOK_IDLE
        };
        self.look_at = now.boot + wait;
    }

    pub(super) fn fresh(&mut self, now: Now, rng: &mut impl Rng) {
        self.fresh_ms = Some(now.wall_ms);
        self.fresh_boot = Some(now.boot);
        self.check_failure = None;
        self.check_failures = 0;
        self.check_at = now.boot + schedule::next_heartbeat(CHECK_EVERY, rng);
        self.keep();
    }

    /// The worker is done.
    pub(super) fn ended(&mut self, result: Result<(), Failure>, now: Now, rng: &mut impl Rng) {
        let checked = self.run.take().is_some_and(|run| run.checks);
        match result {
            Ok(()) if checked => {}
            Ok(()) => {
                self.failures = 0;
                self.problem = None;
                self.retry_at = None;
                self.until = now.boot + UPDATER_SILENT_AFTER;
                self.look_at = now.boot + LOOK_BUSY;
                self.proceed(Step::HandedOver, DeploymentStatus::Verified, now);
            }
            Err(failure) if checked => {
                self.check_failures = self.check_failures.saturating_add(1);
                let wait = wait(self.check_failures, failure.retry.unwrap_or_default(), rng);
                self.check_at = now.boot + wait;
                self.check_failure = Some(failure);
            }
            Err(failure) => match failure.retry.filter(|_| !self.is_mistyped(&failure)) {
                None => self.end(
                    DeploymentStatus::Refused,
                    failure.code,
                    &failure.detail,
                    now,
                ),
                Some(at_least) => {
                    self.failures = self.failures.saturating_add(1);
                    self.retry_at = Some(now.boot + wait(self.failures, at_least, rng));
                    self.note(failure.code, &failure.detail, now);
                }
            },
        }
    }

    /// Root asks for a version that verified metadata does not name. An assignment may be early, so
    /// that the repository is looked at again; root waits for an answer.
    fn is_mistyped(&self, failure: &Failure) -> bool {
        let of_root = |job: &Job| job.order.deployment.is_none();
        failure.code == MetadataCode::TargetUnknown.as_str()
            && self.job.as_ref().is_some_and(of_root)
    }

    /// The assignment's time is over, and the package is not here.
    pub(super) fn too_late(&mut self, now: Now) {
        let (code, detail) = match self.problem.take() {
            Some((code, detail)) => (code, format!("not fetched in time: {detail}")),
            None => {
                let code = DownloadCode::DeadlinePassed.as_str().to_owned();
                (code, "not fetched in time".to_owned())
            }
        };
        self.end(DeploymentStatus::Failed, &code, &detail, now);
    }

    /// Starts what may start.
    pub(super) fn go_on(&mut self, now: Now) {
        if let Some(at) = self.retry_at
            && now.boot >= at
            && self.may_fetch()
            && now.boot < self.until
            && let Some(job) = self.job.clone()
        {
            self.stop();
            self.retry_at = None;
            let run = self.start(false);
            self.commands.push_back(Command::Fetch {
                run,
                order: job.order,
                request: job.request,
                known: self.known(),
                failures: self.failures,
            });
        } else if self.may_check() && now.boot >= self.check_at {
            // The answer sets the next.
            let run = self.start(true);
            let failures = self.check_failures;
            self.commands.push_back(Command::Check { run, failures });
        }
    }

    pub(super) fn known(&self) -> Known {
        let status = self.status();
        Known {
            channel: status
                .map(|status| status.channel.clone())
                .unwrap_or_default(),
            counter: status.map_or(0, |status| status.counter),
            security_floor: status.and_then(|status| status.security_floor.clone()),
        }
    }

    /// Not before the updater's status was read: channel, counter and floor come from there.
    pub(super) fn may_fetch(&self) -> bool {
        !matches!(self.software, Software::Unknown)
            && self.step() == Some(Step::Downloading)
            && self.run.as_ref().is_none_or(|run| run.checks)
    }

    pub(super) fn may_check(&self) -> bool {
        let fetching = self.step() == Some(Step::Downloading);
        self.enabled && self.is_managed() && self.run.is_none() && !fetching
    }

    pub(super) fn start(&mut self, checks: bool) -> u64 {
        self.runs += 1;
        self.run = Some(Run {
            id: self.runs,
            checks,
        });
        self.runs
    }

    pub(super) fn stop(&mut self) {
        if self.run.take().is_some() {
            self.commands.push_back(Command::Stop);
        }
    }

    pub(super) fn is_run(&self, id: u64) -> bool {
        self.run.as_ref().is_some_and(|run| run.id == id)
    }

    /// The job goes one step on.
    pub(super) fn proceed(&mut self, step: Step, status: DeploymentStatus, now: Now) {
        if let Some(job) = &mut self.job {
            job.step = step;
        }
        let progress = self.progress;
        self.tell(now, |told| {
            told.status = status;
            told.code = None;
            told.detail = None;
            // A restarted agent has not counted them.
            if progress.total > 0 {
                (told.bytes, told.total) = (progress.bytes, progress.total);
            }
            told.bytes_per_s = 0;
        });
    }

    /// The job is over, and nothing was installed by it.
    pub(super) fn end(&mut self, status: DeploymentStatus, code: &str, detail: &str, now: Now) {
        self.stop();
        self.retry_at = None;
        self.proceed(Step::Done, status, now);
        self.note(code, detail, now);
        self.commands.push_back(Command::Clean);
    }

    /// Says what is in the way, without a change of the status.
    pub(super) fn note(&mut self, code: &str, detail: &str, now: Now) {
        let (code, detail) = (short(code), short(detail));
        self.problem = Some((code.clone(), detail.clone()));
        self.tell(now, |told| {
            told.code = Some(code);
            told.detail = Some(detail);
        });
    }

    /// Changes what is told of the job's deployment, if it is one; and keeps both.
    pub(super) fn tell(&mut self, now: Now, change: impl FnOnce(&mut DeploymentReport)) {
        let id = self.job.as_ref().and_then(|job| job.order.deployment);
        if let Some(told) = self.told.as_mut().filter(|told| Some(told.id) == id) {
            let before = told.clone();
            change(told);
            if *told != before {
                self.changed(now);
            }
        }
        self.keep();
    }

    pub(super) fn push(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    pub(super) fn changed(&mut self, now: Now) {
        self.changes += 1;
        self.tell_at.get_or_insert(now.boot + TELL_WITHIN);
    }

    pub(super) fn keep(&mut self) {
        let kept = Kept {
            format: 1,
            job: self.job.clone(),
            told: self.told.clone(),
            fresh_ms: self.fresh_ms,
        };
        if self.kept != kept {
            self.kept = kept.clone();
            self.commands.push_back(Command::Keep(Box::new(kept)));
        }
    }

    /// The last deployment is one that was not taken up.
    pub(super) fn tell_refused(&mut self, order: &Order, refusal: &Refusal, now: Now) {
        self.told = order.deployment.map(|id| DeploymentReport {
            version: short(&order.version),
            code: Some(refusal.code.to_owned()),
            detail: Some(short(&refusal.detail)),
            ..told(id, order, refusal.status)
        });
        self.keep();
        self.changed(now);
    }
}

/// The wait after so many failures, `at_least` if the other side asked for it.
fn wait(failures: u32, at_least: Duration, rng: &mut impl Rng) -> Duration {
    let doubled = RETRY_AT_LEAST.saturating_mul(1 << failures.min(12));
    let bound = doubled.min(RETRY_AT_MOST);
    at_least.min(RETRY_AT_MOST) + bound / 2 + schedule::uniform(bound / 2, rng)
}

/// A deployment as it is told, with nothing but its status.
fn told(id: u64, order: &Order, status: DeploymentStatus) -> DeploymentReport {
    DeploymentReport {
        id,
        version: order.version.clone(),
        status,
        bytes: 0,
        total: 0,
        bytes_per_s: 0,
        code: None,
        detail: None,
        previous_version: None,
    }
}
