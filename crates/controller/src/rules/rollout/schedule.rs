//! What a rollout does next: a function of what the tables say and of the time.
//!
//! A deployment is *in flight* from the moment in which its directive is made until it has ended. One
//! whose directive was never handed out is taken back when its host falls silent, or nobody new is to
//! be told any more; after that it waits for its turn again. A directive that got lost is repeated
//! with the same deployment id, which a host recognises.

use vpn_node_protocol::update::DeploymentStatus;

use super::choose::{LeftOut, fit};
use super::{Host, Pace, Release, RolloutState, Terms, UPDATE_DEADLINE_S, is_early};
use crate::rules::state::ServerStatus;

/// Fewer ended deployments than these count as so many: one failure among the first two says less
/// than ten among the first twenty, and two failures stop a rollout early all the same.
pub const MIN_ENDED: u64 = 5;
/// A host that is heard and does not speak of its deployment is told again after this time, in
/// milliseconds.
pub const AGAIN_MS: i64 = 600_000;
/// How often a host is told of one deployment.
pub const MAX_ATTEMPTS: u32 = 5;
/// A deployment that stands still for so long has failed, in milliseconds.
pub const STUCK_MS: i64 = UPDATE_DEADLINE_S as i64 * 1000;

/// One rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Its version.
    pub version: String,
    /// How it stands.
    pub state: RolloutState,
    /// What was set for it.
    pub terms: Terms,
    /// The packages that are published now; none when the release was taken back.
    pub releases: Vec<Release>,
    /// Deployments that were installed since it last began to run.
    pub ended_well: u64,
    /// Deployments that ended badly since then.
    pub ended_badly: u64,
}

/// One deployment with its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The row.
    pub id: i64,
    /// How far it is.
    pub status: DeploymentStatus,
    /// Its directive; none while it waits for its turn.
    pub told: Option<Told>,
    /// How often its host was told.
    pub attempts: u32,
    /// When status or bytes last changed, in milliseconds since the Unix epoch.
    pub changed_ms: i64,
    /// When its host last spoke of it.
    pub reported_ms: Option<i64>,
    /// When it was installed.
    pub installed_ms: Option<i64>,
    /// Whether another deployment is in flight on the same host.
    pub busy: bool,
    /// Whether its host was told to leave it, and has not missed that.
    pub cancelled: bool,
    /// Its host.
    pub host: Host,
}

/// The newest directive of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// When it was made.
    pub at_ms: i64,
    /// Whether it was handed out.
    pub delivered: bool,
    /// When the host dealt with it, or its time was over.
    pub closed_ms: Option<i64>,
}

/// What is looked at in one go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every deployment in flight.
    pub in_flight: Vec<Deployment>,
    /// The canaries: the first [`Terms::canary`] that were not superseded and did not end badly. One
    /// that ends badly stops the rollout; when an operator has it go on, the next one is in its place.
    pub canaries: Vec<Deployment>,
    /// Some of those that wait for their turn.
    pub waiting: Vec<Deployment>,
    /// Whether any deployment has not ended.
    pub any_open: bool,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Tell the host: a directive for this deployment, the first or another one.
    Tell(i64),
    /// Only the window is in its way.
    WaitForWindow(i64),
    /// It waits for its turn again.
    TakeBack(i64),
    /// Tell the host to leave it.
    Cancel(i64),
    /// It has ended, and its host did not say so.
    End {
        /// Which.
        id: i64,
        /// How.
        status: DeploymentStatus,
        /// Why, as a stable word.
        code: &'static str,
        /// Why, as a sentence.
        detail: String,
    },
    /// The rollout stops by itself.
    Halt(String),
    /// Every deployment has ended.
    Complete,
}

/// What is next.
#[must_use]
pub fn decide(rollout: &Rollout, facts: &Facts, pace: Pace, now_ms: i64) -> Vec<Decision> {
    let mut decisions = vec![];
    let runs = rollout.state == RolloutState::Running;
    let stop = if runs {
        reason_to_stop(rollout, facts, pace)
    } else {
        None
    };
    let look = Look {
        state: rollout.state,
        runs: runs && stop.is_none(),
        pace,
        now_ms,
    };
    let mut places = u64::from(rollout.terms.max_in_flight);
    for deployment in &facts.in_flight {
        let next = look.in_flight(deployment);
        if !next.as_ref().is_some_and(gives_its_place) {
            places = places.saturating_sub(1);
        }
        decisions.extend(next);
    }
    if let Some(why) = stop {
        decisions.push(Decision::Halt(why));
    } else if runs && !facts.any_open {
        decisions.push(Decision::Complete);
    } else if runs {
        look.turns(rollout, facts, places, &mut decisions);
    }
    decisions
}

fn gives_its_place(decision: &Decision) -> bool {
    matches!(decision, Decision::TakeBack(_) | Decision::End { .. })
}

fn reason_to_stop(rollout: &Rollout, facts: &Facts, pace: Pace) -> Option<String> {
    if rollout.releases.is_empty() && facts.any_open {
        return Some(format!(
            "release {} is not published any more",
            rollout.version
        ));
    }
    let (well, badly) = (rollout.ended_well, rollout.ended_badly);
    // Only canaries were told since it began to run.
    if badly > 0 && canaries(facts, pace) == Canaries::Alone {
        return Some("the release ended badly on a canary".to_owned());
    }
    too_many_failures(well, badly, rollout.terms.stop_on_failures).then(|| {
        format!(
            "{badly} of {} deployments ended badly, and more than {} percent stop it",
            well + badly,
            rollout.terms.stop_on_failures
        )
    })
}

/// Whether more than `percent` of the ended deployments ended badly; fewer than [`MIN_ENDED`] count
/// as so many.
#[must_use]
pub fn too_many_failures(well: u64, badly: u64, percent: u8) -> bool {
    let ended = well.saturating_add(badly).max(MIN_ENDED);
    badly.saturating_mul(100) > ended.saturating_mul(percent.into())
}

/// How far the canaries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canaries {
    /// There are none to wait for: everybody gets a turn.
    Done,
    /// They are alone.
    Alone,
}

/// Whether the canaries have it, and have been heard for long enough since.
#[must_use]
pub fn canaries(facts: &Facts, pace: Pace) -> Canaries {
    let is_well = |one: &Deployment| {
        let since = one.installed_ms.map(|at| at.saturating_add(pace.soak_ms));
        one.status == DeploymentStatus::Installed
            && since.is_some_and(|since| one.host.last_heartbeat_ms.is_some_and(|at| at >= since))
    };
    match facts.canaries.iter().all(is_well) {
        true => Canaries::Done,
        false => Canaries::Alone,
    }
}

struct Look {
    state: RolloutState,
    /// Whether hosts may be told.
    runs: bool,
    pace: Pace,
    now_ms: i64,
}

impl Look {
    /// What becomes of a deployment that a host was told of.
    fn in_flight(&self, one: &Deployment) -> Option<Decision> {
        let told = one.told.as_ref()?;
        let heard = one.host.is_heard(self.pace, self.now_ms);
        if one.host.status == ServerStatus::Revoked {
            return Some(stopped(one));
        }
        if !told.delivered && (!self.runs || !heard || told.closed_ms.is_some()) {
            return Some(self.taken_back(one));
        }
        if self.state == RolloutState::Aborted && heard && is_early(one.status) && !one.cancelled {
            return Some(Decision::Cancel(one.id));
        }
        let moved_ms = one.changed_ms.max(told.at_ms);
        let still_ms = self.now_ms.saturating_sub(moved_ms);
        if still_ms >= STUCK_MS && !heard {
            return Some(self.taken_back(one));
        }
        if still_ms >= STUCK_MS && self.speaks(one) {
            return Some(stuck(one));
        }
        self.lost(one, told).filter(|_| self.runs && heard)
    }

    /// Whether the host speaks of it, which does not help when nothing moves.
    fn speaks(&self, one: &Deployment) -> bool {
        one.reported_ms
            .is_some_and(|at| self.now_ms.saturating_sub(at) <= self.pace.silent_ms)
    }

    /// Its turn comes again, unless nobody gets one any more.
    fn taken_back(&self, one: &Deployment) -> Decision {
        match self.state {
            RolloutState::Aborted => aborted(one),
            _ => Decision::TakeBack(one.id),
        }
    }

    /// The host has dealt with the directive, or its time is over, and it says nothing of the
    /// deployment.
    fn lost(&self, one: &Deployment, told: &Told) -> Option<Decision> {
        let news_ms = told.closed_ms?.max(one.reported_ms.unwrap_or(i64::MIN));
        if self.now_ms.saturating_sub(news_ms) < AGAIN_MS {
            return None;
        }
        Some(match one.attempts < MAX_ATTEMPTS {
            true => Decision::Tell(one.id),
            false => Decision::End {
                id: one.id,
                status: DeploymentStatus::Failed,
                code: "no_answer",
                detail: format!("the host was told {MAX_ATTEMPTS} times, and says nothing of it"),
            },
        })
    }

    /// Whose turn it is: the canaries alone, or whoever is heard.
    fn turns(
        &self,
        rollout: &Rollout,
        facts: &Facts,
        mut places: u64,
        decisions: &mut Vec<Decision>,
    ) {
        let candidates = match canaries(facts, self.pace) {
            Canaries::Alone => &facts.canaries,
            Canaries::Done => &facts.waiting,
        };
        let terms = &rollout.terms;
        let windows = terms.windows.as_ref().filter(|_| !terms.mandatory);
        let open = windows.is_none_or(|windows| windows.is_open(self.now_ms));
        let waits = |one: &&Deployment| one.told.is_none() && !one.status.is_final();
        for one in candidates.iter().filter(waits) {
            if one.host.status == ServerStatus::Revoked {
                decisions.push(stopped(one));
                continue;
            }
            let active = one.host.status == ServerStatus::Active;
            if !active || one.busy || !one.host.is_heard(self.pace, self.now_ms) {
                continue;
            }
            if let Err(why) = fit(&one.host, &rollout.releases) {
                decisions.push(left_out(one, &why));
            } else if !open {
                if one.status == DeploymentStatus::Pending {
                    decisions.push(Decision::WaitForWindow(one.id));
                }
            } else if places > 0 {
                places -= 1;
                decisions.push(Decision::Tell(one.id));
            }
        }
    }
}

fn stopped(one: &Deployment) -> Decision {
    left_out(one, &LeftOut::Stopped(one.host.status))
}

/// What the host would refuse by now is not asked for. It is no failure of the release, unless the
/// release is blocked there because it ended badly.
fn left_out(one: &Deployment, why: &LeftOut) -> Decision {
    Decision::End {
        id: one.id,
        status: match why {
            LeftOut::Blocked => DeploymentStatus::Blocked,
            _ => DeploymentStatus::Superseded,
        },
        code: why.code(),
        detail: why.sentence(),
    }
}

fn aborted(one: &Deployment) -> Decision {
    Decision::End {
        id: one.id,
        status: DeploymentStatus::Superseded,
        code: "aborted",
        detail: "the rollout was aborted, and the host did not take it up or says no more"
            .to_owned(),
    }
}

fn stuck(one: &Deployment) -> Decision {
    Decision::End {
        id: one.id,
        status: DeploymentStatus::Failed,
        code: "stuck",
        detail: format!("it was {} for a day, and did not move", one.status.as_str()),
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
