//! The scheduler of rollouts as it runs in the server: one step of each rollout every second.
//!
//! It decides nothing ([`crate::rules::rollout::schedule`]) and remembers nothing that matters: where it
//! looks on among the hosts that wait is lost with the process, everything else is in the tables. A
//! step reads what is in flight and at most a few hundred of those that wait, through partial indexes,
//! so its cost does not grow with the fleet; without a rollout it is one look-up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::api;
use crate::clock::Clock;
use crate::rules::rollout::Pace;
use crate::store::{Rolled, Store, StoreError, Turn};

/// How soon a place that became free is given to the next host. A directive reaches a host that holds
/// its request open within a tenth of a second after that.
const ROLL_EVERY: Duration = Duration::from_secs(1);
/// After an error: a database that is in trouble is not asked every second.
const AFTER_ERROR: Duration = Duration::from_secs(10);

/// Goes on with every rollout, until the controller stops. `interval_s` is that of heartbeats.
pub async fn roll(
    store: Arc<dyn Store>,
    clock: Clock,
    interval_s: u32,
    mut stop: watch::Receiver<bool>,
) {
    let mut scheduler = Scheduler::new(interval_s);
    let mut pause = ROLL_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = api::stopped(&mut stop) => return,
        }
        pause = match scheduler.step(&*store, clock()).await {
            Ok(_) => ROLL_EVERY,
            Err(error) => {
                tracing::warn!(%error, "rollouts do not go on: the next look is in 10 seconds");
                AFTER_ERROR
            }
        };
    }
}

/// Goes from rollout to rollout.
pub struct Scheduler {
    pace: Pace,
    /// For each rollout, where the next step looks on.
    after: HashMap<String, i64>,
}

impl Scheduler {
    /// For hosts that are heard every `interval_s` seconds.
    #[must_use]
    pub fn new(interval_s: u32) -> Self {
        Self {
            pace: Pace::of(interval_s),
            after: HashMap::new(),
        }
    }

    /// One step of every rollout. Returns how many hosts were told.
    ///
    /// # Errors
    /// [`StoreError`] of the first rollout that did not go on; the others did.
    pub async fn step(&mut self, store: &dyn Store, now_ms: i64) -> Result<usize, StoreError> {
        let rollouts = store.rollouts_to_roll().await?;
        self.after.retain(|id, _| rollouts.contains(id));
        let (mut told, mut failed) = (0, Ok(()));
        for rollout_id in rollouts {
            let after = self.after.get(&rollout_id).copied().unwrap_or(0);
            let turn = Turn {
                rollout_id: rollout_id.clone(),
                after,
                now_ms,
                pace: self.pace,
            };
            match store.roll(turn).await {
                Ok(rolled) => {
                    told += rolled.told;
                    log(&rollout_id, rolled);
                    self.after.insert(rollout_id, rolled.after);
                }
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed.map(|()| told)
    }
}

fn log(rollout_id: &str, rolled: Rolled) {
    if rolled.told > 0 {
        tracing::info!(rollout_id, hosts = rolled.told, "hosts are told to update");
    } else if rolled.decided > 0 {
        tracing::debug!(rollout_id, decided = rolled.decided, "a rollout went on");
    }
}
