//! What the updater's status says of the release that it was given.

use vpn_node_protocol::update::DeploymentStatus;
use vpn_node_release::code::PolicyCode;
use vpn_node_release::handover::{Attempt, Phase};

use super::report::short;
use super::{Command, Step, Updates};
use crate::core::Now;

impl Updates {
    /// The updater's status was read: if it is about our release, that is how it is.
    pub(super) fn follow_updater(&mut self, now: Now) {
        let (Some(job), Some(status)) = (&self.job, self.status()) else {
            return;
        };
        let attempt = status
            .attempt
            .as_ref()
            .filter(|attempt| attempt.id == job.request);
        match attempt.cloned() {
            Some(attempt) => self.attempted(&attempt, now),
            // Attempted and forgotten (root did another thing since), but it runs.
            None if job.step == Step::HandedOver && status.stable_version == job.order.version => {
                self.proceed(Step::Done, DeploymentStatus::Installed, now);
                self.push(Command::Clean);
            }
            None => {}
        }
    }

    fn attempted(&mut self, attempt: &Attempt, now: Now) {
        let was = self.step();
        let step = match attempt.phase.is_final() {
            true => Step::Done,
            false => Step::HandedOver,
        };
        if let Some(job) = &mut self.job {
            job.step = step;
        }
        let (code, detail) = (attempt.code.as_deref(), attempt.detail.as_deref());
        self.problem = code.map(|code| (short(code), short(detail.unwrap_or_default())));
        self.tell(now, |told| {
            told.status = status_of(attempt);
            told.code = code.map(short);
            told.detail = detail.map(short);
            told.previous_version = Some(short(&attempt.from));
            told.bytes_per_s = 0;
        });
        if step == Step::Done && was != Some(Step::Done) {
            self.push(Command::Clean);
        }
    }
}

fn status_of(attempt: &Attempt) -> DeploymentStatus {
    match attempt.phase {
        Phase::Verified => DeploymentStatus::Verified,
        Phase::Staged => DeploymentStatus::Staged,
        Phase::Probation => DeploymentStatus::Probation,
        Phase::Installed => DeploymentStatus::Installed,
        Phase::Refused if attempt.code.as_deref() == Some(PolicyCode::Blocked.as_str()) => {
            DeploymentStatus::Blocked
        }
        Phase::Refused => DeploymentStatus::Refused,
        Phase::Failed => DeploymentStatus::Failed,
        Phase::RolledBack => DeploymentStatus::RolledBack,
    }
}
