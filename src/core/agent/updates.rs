//! Releases: what directives, wishes of root and heartbeats have to do with [`Updates`].

use std::time::Duration;

use rand_core::CryptoRng;
use uuid::Uuid;
use vpn_node_protocol::message::DirectiveOutcome;

use super::directives::random_uuid;
use super::{Agent, Command};
use crate::core::Now;
use crate::core::update::{Order, Refusal};

/// How long a version that root wants is tried.
const WISH_LASTS: Duration = Duration::from_secs(3600);

impl Agent {
    /// Has the agent fetch a release and hand it to the updater, as root of this host wants it.
    ///
    /// # Errors
    /// Why it does not.
    pub fn want_release(
        &mut self,
        version: &str,
        now: Now,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Refusal> {
        let request = random_uuid(rng);
        let taken = self.updates.wanted(version, WISH_LASTS, request, now);
        self.go_on(now, rng);
        taken
    }

    /// An assignment came (its directive, and when that was made), which lasts for `left`. None: it is not decided yet, and comes again.
    pub(super) fn assigned(
        &mut self,
        (id, issued_ms): (Uuid, i64),
        order: Order,
        left: Duration,
        now: Now,
        rng: &mut impl CryptoRng,
    ) -> Option<(DirectiveOutcome, Option<String>)> {
        let request = random_uuid(rng);
        let answer = self
            .updates
            .assigned(id, issued_ms, order, left, request, now)?;
        Some(self.outcome(answer, now))
    }

    /// An assignment is taken back.
    pub(super) fn update_cancelled(
        &mut self,
        deployment: u64,
        now: Now,
    ) -> (DirectiveOutcome, Option<String>) {
        let answer = self.updates.cancelled(deployment, now);
        self.outcome(answer, now)
    }

    fn outcome(
        &mut self,
        answer: Result<(), Refusal>,
        now: Now,
    ) -> (DirectiveOutcome, Option<String>) {
        self.acknowledge_soon(now);
        match answer {
            Ok(()) => (DirectiveOutcome::Applied, None),
            Err(refusal) => {
                let text = format!("{}: {}", refusal.code, refusal.detail);
                self.memory
                    .note(format!("an update was not taken up: {text}"), now);
                (DirectiveOutcome::Failed, Some(super::backends::short(text)))
            }
        }
    }

    /// Before anything else goes into the lane: what an acknowledgement says is on disk first.
    pub(super) fn pass_update_commands(&mut self) {
        while let Some(command) = self.updates.next_command() {
            self.commands.push_back(Command::Update(command));
        }
    }
}
