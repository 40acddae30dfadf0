//! The state machine: an assignment is taken up, fetched, handed over, and its outcome told.

use std::collections::VecDeque;
use std::time::Duration;

use rand_core::Rng;
use uuid::Uuid;
use vpn_node_protocol::update::{DeploymentReport, DeploymentStatus};
use vpn_node_release::code::DownloadCode;
use vpn_node_release::handover::Status;
use vpn_node_release::release::target_path;
use vpn_node_release::version::{Platform, Version};

use super::judge::{self, Refusal};
use super::{Command, Event, Failure, Job, Kept, Order, Progress, Step};
use crate::core::Now;

/// And otherwise: root may pin, or install from a file, and expects the next command to know it.
pub(super) const LOOK_IDLE: Duration = Duration::from_secs(5);
/// The updater is started by the request and says within a second that it has it; a package
/// manager that holds its lock, or a loaded host, may take longer.
pub(super) const UPDATER_SILENT_AFTER: Duration = Duration::from_secs(600);

/// What the machine is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `[update] enabled`.
    pub enabled: bool,
    /// Operating system and architecture, as `linux-amd64`.
    pub platform: Platform,
    /// What a former process kept.
    pub kept: Kept,
}

/// What becomes of an assignment. None: not yet decided, it comes again.
pub type Answer = Option<Result<(), Refusal>>;

/// The state machine.
#[derive(Debug)]
pub struct Updates {
    pub(super) enabled: bool,
    pub(super) platform: Platform,
    pub(super) software: Software,
    pub(super) look_at: Duration,
    pub(super) job: Option<Job>,
    /// The boot-clock instant at which the current step is given up.
    pub(super) until: Duration,
    pub(super) told: Option<DeploymentReport>,
    pub(super) runs: u64,
    pub(super) run: Option<Run>,
    pub(super) progress: Progress,
    pub(super) failures: u32,
    /// Code and sentence of what went wrong last.
    pub(super) problem: Option<(String, String)>,
    pub(super) retry_at: Option<Duration>,
    pub(super) check_at: Duration,
    pub(super) check_failures: u32,
    /// Why the last look at the metadata failed.
    pub(super) check_failure: Option<Failure>,
    pub(super) fresh_ms: Option<i64>,
    /// The same by the clock that nobody can set, if it was in this process.
    pub(super) fresh_boot: Option<Duration>,
    /// Changes of the last deployment's status; and those that a heartbeat took along, and those
    /// that the controller has.
    pub(super) changes: u64,
    pub(super) sent: Option<u64>,
    pub(super) heard: u64,
    pub(super) tell_at: Option<Duration>,
    /// A heartbeat went without a report, since the updater's status was not read yet.
    pub(super) owes_report: bool,
    /// As it is on disk.
    pub(super) kept: Kept,
    pub(super) commands: VecDeque<Command>,
}

/// What is known of the updater.
#[derive(Debug)]
pub(super) enum Software {
    /// Not looked yet.
    Unknown,
    /// There is none.
    Absent,
    /// What it says.
    Status(Box<Status>),
}

/// What the worker does.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: u64,
    pub(super) checks: bool,
}

impl Updates {
    /// The machine of an agent that has just started.
    #[must_use]
    pub fn new(setup: Setup, now: Now) -> Self {
        let kept = setup.kept.clone();
        let job = setup.kept.job;
        let until = match &job {
            Some(job) if job.step == Step::Downloading => now.boot + left(job, now),
            _ => now.boot + UPDATER_SILENT_AFTER,
        };
        let downloading = job
            .as_ref()
            .is_some_and(|job| job.step == Step::Downloading);
        Self {
            enabled: setup.enabled,
            platform: setup.platform,
            software: Software::Unknown,
            look_at: now.boot,
            job,
            until,
            told: setup.kept.told,
            runs: 0,
            run: None,
            progress: Progress::default(),
            failures: 0,
            problem: None,
            retry_at: downloading.then_some(now.boot),
            check_at: Duration::MAX,
            check_failures: 0,
            check_failure: None,
            fresh_ms: setup.kept.fresh_ms,
            fresh_boot: None,
            changes: 1,
            sent: None,
            heard: 0,
            tell_at: None,
            owes_report: false,
            kept,
            commands: VecDeque::new(),
        }
    }

    /// `[update] enabled` was changed.
    pub fn enable(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// The next thing to do, in order.
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do, by the boot clock.
    #[must_use]
    pub fn next_deadline(&self) -> Duration {
        let working = self.step().is_some_and(|step| step != Step::Done);
        let retry = self.retry_at.filter(|_| self.may_fetch());
        let check = (self.may_check()).then_some(self.check_at);
        [
            Some(self.look_at),
            working.then_some(self.until),
            retry,
            check,
        ]
        .into_iter()
        .flatten()
        .fold(Duration::MAX, Duration::min)
    }

    /// The controller's assignment, which lasts for `lasts`. `request` is a random id for it.
    pub fn assigned(
        &mut self,
        directive: Uuid,
        issued_ms: i64,
        order: Order,
        lasts: Duration,
        request: Uuid,
        now: Now,
    ) -> Answer {
        if let Some(job) = &self.job {
            let again = job.order == order && job.step != Step::Done;
            if job.directive == Some(directive) {
                return Some(Ok(()));
            }
            if again {
                if issued_ms > job.issued_ms {
                    self.prolong(directive, issued_ms, lasts, now);
                }
                return Some(Ok(()));
            }
            if job.directive.is_some() && issued_ms < job.issued_ms {
                let detail = "this host was given a newer assignment already";
                return Some(Err(Refusal::new(DownloadCode::Superseded.as_str(), detail)));
            }
        }
        if matches!(self.software, Software::Unknown) || self.is_busy() || !self.outcome_is_heard()
        {
            return None;
        }
        match self.judge(&order, now) {
            Ok(()) => {
                self.begin(Some((directive, issued_ms)), order, lasts, request, now);
                Some(Ok(()))
            }
            Err(refusal) => {
                // A download that is under way goes on: the refused one did not take its place.
                if self.step().is_none_or(|step| step == Step::Done) {
                    self.tell_refused(&order, &refusal, now);
                }
                Some(Err(refusal))
            }
        }
    }

    /// Root of this host wants a version, for as long as `lasts`.
    ///
    /// # Errors
    /// Why it is not taken up.
    pub fn wanted(
        &mut self,
        version: &str,
        lasts: Duration,
        request: Uuid,
        now: Now,
    ) -> Result<(), Refusal> {
        let version = Version::parse(version)
            .map_err(|error| Refusal::new(DownloadCode::WrongTarget.as_str(), error.to_string()))?;
        let order = Order {
            deployment: None,
            target: target_path(&version, &self.platform),
            version: version.to_string(),
            repository: None,
        };
        if matches!(self.software, Software::Unknown) {
            let detail = "the agent has just started: try again in a second";
            let code = DownloadCode::AlreadyHandedOver.as_str();
            return Err(Refusal::new(code, detail));
        }
        if self.with_updater() {
            let detail =
                "the updater is at work: try again when it is done ('vpn-node update status')";
            let code = DownloadCode::AlreadyHandedOver.as_str();
            return Err(Refusal::new(code, detail));
        }
        self.judge(&order, now)?;
        if self.step() == Some(Step::Downloading) {
            let code = DownloadCode::Superseded.as_str();
            self.end(
                DeploymentStatus::Superseded,
                code,
                "root of this host wants another version",
                now,
            );
        }
        self.begin(None, order, lasts, request, now);
        Ok(())
    }

    /// An operator takes a deployment back.
    ///
    /// # Errors
    /// Why it is not cancelled.
    pub fn cancelled(&mut self, deployment: u64, now: Now) -> Result<(), Refusal> {
        let job = self.job.as_ref();
        match job
            .filter(|job| job.order.deployment == Some(deployment))
            .map(|job| job.step)
        {
            Some(Step::Downloading) => {
                let code = DownloadCode::Cancelled.as_str();
                self.end(
                    DeploymentStatus::Superseded,
                    code,
                    "an operator took it back",
                    now,
                );
                Ok(())
            }
            Some(Step::HandedOver) => Err(Refusal::new(
                DownloadCode::AlreadyHandedOver.as_str(),
                "the release is with the updater already: it is judged there",
            )),
            // It came to an end before: that is what was wanted, unless it was installed.
            Some(Step::Done) => Ok(()),
            None => Err(Refusal::new(
                DownloadCode::UnknownDeployment.as_str(),
                format!("this host does not work on deployment {deployment}"),
            )),
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event, now: Now, rng: &mut impl Rng) {
        match event {
            Event::Software(status) => self.software_seen(status, now, rng),
            Event::Fresh { run } if self.is_run(run) => self.fresh(now, rng),
            Event::Progress { run, progress } if self.is_run(run) => self.progress = progress,
            Event::Ended { run, result } if self.is_run(run) => self.ended(result, now, rng),
            // Of a run that was stopped.
            Event::Fresh { .. } | Event::Progress { .. } | Event::Ended { .. } => {}
        }
        self.go_on(now);
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.boot >= self.look_at {
            // Until the answer is here: a disk may take its time.
            self.look_at = now.boot + LOOK_IDLE;
            self.commands.push_back(Command::Look);
        }
        if now.boot >= self.until {
            match self.step() {
                Some(Step::Downloading) => self.too_late(now),
                Some(Step::HandedOver) if !self.updater_has_it() => {
                    let code = DownloadCode::UpdaterSilent.as_str();
                    let detail = "the updater says nothing of the release: 'systemctl status vpn-node-updater.path vpn-node-updater' may say why";
                    self.end(DeploymentStatus::Failed, code, detail, now);
                }
                Some(Step::HandedOver) => self.until = now.boot + UPDATER_SILENT_AFTER,
                Some(Step::Done) | None => {}
            }
        }
        self.go_on(now);
    }

    /// When a heartbeat should tell what has changed, by the boot clock.
    #[must_use]
    pub fn tell_at(&self) -> Option<Duration> {
        self.tell_at
    }

    /// A heartbeat goes out, `with_report` of this instant or without.
    pub fn heartbeat_goes(&mut self, with_report: bool) {
        if with_report {
            self.sent = Some(self.changes);
        }
        self.owes_report = !with_report;
        self.tell_at = None;
    }

    /// The controller accepted the request in flight (`taken`), or did not.
    pub fn heartbeat_ended(&mut self, taken: bool) {
        if let Some(sent) = self.sent.take()
            && taken
        {
            self.heard = sent;
        }
    }

    /// Seconds since metadata was last verified, as far as the clocks can tell.
    pub(super) fn metadata_age_s(&self, now: Now) -> Option<u64> {
        match (self.fresh_boot, self.fresh_ms) {
            (Some(boot), _) => Some(now.boot.saturating_sub(boot).as_secs()),
            (None, Some(ms)) => {
                Some(u64::try_from(now.wall_ms.saturating_sub(ms) / 1000).unwrap_or(0))
            }
            (None, None) => None,
        }
    }

    /// Whether there is an updater that trusts release keys.
    pub(super) fn is_managed(&self) -> bool {
        self.status()
            .is_some_and(|status| status.root_version.is_some())
    }

    pub(super) fn status(&self) -> Option<&Status> {
        match &self.software {
            Software::Status(status) => Some(status),
            Software::Unknown | Software::Absent => None,
        }
    }

    pub(super) fn step(&self) -> Option<Step> {
        self.job.as_ref().map(|job| job.step)
    }

    fn judge(&self, order: &Order, now: Now) -> Result<(), Refusal> {
        judge::judge(
            order,
            self.enabled,
            &self.platform,
            self.status(),
            now.wall_ms,
        )
    }

    /// Whether the updater works, for us or for root.
    pub(super) fn with_updater(&self) -> bool {
        let attempt = self.status().and_then(|status| status.attempt.as_ref());
        self.step() == Some(Step::HandedOver) || attempt.is_some_and(|a| !a.phase.is_final())
    }

    /// Whether a controller's assignment has to wait: for the updater, or for a wish of root.
    fn is_busy(&self) -> bool {
        let of_root = |job: &Job| job.order.deployment.is_none() && job.step == Step::Downloading;
        self.with_updater() || self.job.as_ref().is_some_and(of_root)
    }

    /// Whether the controller knows how the last deployment ended: before, no other takes its place
    /// in the heartbeats.
    fn outcome_is_heard(&self) -> bool {
        let ended = self
            .told
            .as_ref()
            .is_some_and(|told| told.status.is_final());
        !ended || self.heard == self.changes
    }

    /// Whether the updater's last attempt is for our request.
    fn updater_has_it(&self) -> bool {
        let attempt = self.status().and_then(|status| status.attempt.as_ref());
        matches!((&self.job, attempt), (Some(job), Some(attempt)) if job.request == attempt.id)
    }
}

/// How long a job of a former process may still be tried.
fn left(job: &Job, now: Now) -> Duration {
    let left_ms = u64::try_from(job.until_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
    Duration::from_millis(left_ms).min(Duration::from_secs(job.lasts_s))
}
