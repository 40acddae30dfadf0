//! The hardware between challenges: looked at when the agent starts and every ten minutes. What
//! changed is told with a heartbeat at once, and the controller's challenge does the rest.
//!
//! Only a hash is kept, and only in memory: what was there before this run, the controller knows.

use std::time::Duration;

use rand_core::CryptoRng;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::message::Purpose;
use zeroize::Zeroizing;

use super::{Agent, Command};
use crate::core::Now;

/// From one look at the hardware to the next. A look costs a millisecond of CPU time or two.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// What was seen of the hardware in this run.
#[derive(Debug)]
pub(super) struct Hardware {
    /// By the boot clock.
    next_look: Duration,
    /// SHA-256 of all components, as they were seen last.
    seen: Option<Digest>,
    /// A change was seen that no answer has told yet.
    changed: bool,
    /// A change was seen once while a challenge waits: a second look decides.
    doubted: bool,
}

impl Hardware {
    /// The first look is due at once.
    pub(super) fn new(now: Now) -> Self {
        Self {
            next_look: now.boot,
            seen: None,
            changed: false,
            doubted: false,
        }
    }

    /// When the hardware is looked at next, by the boot clock.
    pub(super) fn next_look(&self) -> Duration {
        self.next_look
    }

    /// Why a challenge is wanted, if the hardware is the reason.
    pub(super) fn wants_challenge(&self) -> Option<Purpose> {
        self.changed.then_some(Purpose::HardwareChanged)
    }

    /// An answer with the components as they are is on its way.
    pub(super) fn told(&mut self) {
        self.changed = false;
    }
}

impl Agent {
    /// Looks at the hardware when it is time to. A challenge has it looked at anyway.
    pub(super) fn look_at_hardware(&mut self, now: Now) {
        if now.boot < self.hardware.next_look {
            return;
        }
        self.hardware.next_look = now.boot + LOOK_EVERY;
        if self.challenge.is_none() {
            self.probing = true;
            self.commands.push_back(Command::ProbeHardware);
        }
    }

    /// The hardware was looked at, for a challenge or by itself.
    pub(super) fn hardware_seen(
        &mut self,
        components: &Components,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        self.hardware.next_look = now.boot + LOOK_EVERY;
        let digest = digest(components);
        let before = self.hardware.seen.replace(digest);
        let is_new = before.is_some_and(|before| before != digest);
        if is_new && !self.hardware.changed {
            self.hardware.changed = true;
            self.heartbeat_at = self.heartbeat_at.min(now.boot);
            self.memory
                .note("the hardware of this host has changed", now);
        }
        // A mismatch ends only by an operator's hand, so one unlucky look must not be an answer.
        let doubt = is_new && self.challenge.is_some() && !self.hardware.doubted;
        self.hardware.doubted = doubt;
        if doubt {
            self.commands.push_back(Command::ProbeHardware);
        } else {
            self.answer_challenge(components, now, rng);
        }
    }
}

/// Serial numbers are in the text that is hashed: it is wiped.
fn digest(components: &Components) -> Digest {
    let json = Zeroizing::new(serde_json::to_vec(components).expect("components serialise"));
    Digest::of(&[&json])
}
