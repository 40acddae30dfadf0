//! Those who do what the agent says: disk, probe, sampler and the way to the controller.

use std::time::Duration;

use vpn_node_protocol::metrics::SystemMetrics;

use super::super::controller::{Polled, Said};
use super::super::disk::Crash;
use super::{Happening, TIMEOUT, World, s};
use crate::core::agent::{Command, Event, Problem, SendFailure};
use crate::core::lane::LaneState;

impl World {
    pub(super) fn perform(&mut self, command: Command) -> Result<(), Crash> {
        match command {
            Command::Send { state, body } => self.send(&state, body)?,
            Command::Poll { body, wait } => {
                self.polls.push(self.t);
                let at = self.trip();
                match self.gets_through() {
                    true => self.later(at, Happening::Poll(body, self.run, wait)),
                    false => self.fail(Event::PollFailed),
                }
            }
            Command::Introduce { body } => {
                let at = self.trip();
                match self.gets_through() {
                    true => self.later(at, Happening::Introduction(body, self.run)),
                    false => self.fail(Event::IntroductionFailed),
                }
            }
            Command::Witness { body } => {
                let at = self.trip();
                match self.gets_through() {
                    true => self.later(at, Happening::Witness(body, self.run)),
                    false => self.fail(Event::WitnessFailed),
                }
            }
            Command::StoreNextKey(key) => {
                let event = Event::NextKeyStored(self.disk.store_next_key(key));
                let after = Duration::from_millis(1 + self.dice.below(20));
                self.later(after, Happening::ToAgent(self.run, event));
                self.fuse.burn()?;
            }
            Command::DropNextKey => self.disk.next_identity = None,
            Command::FetchCertificate => {
                self.certificates_asked += 1;
                let at = self.trip();
                match self.gets_through() {
                    true => self.later(at, Happening::Certificate(self.run)),
                    false => self.fail(Event::CertificateFailed),
                }
            }
            Command::Settled { .. } => {}
            Command::StoreCertificate(envelope) => self.disk.certificate = *envelope,
            Command::Sample if self.sampler_works => {
                let now = self.now();
                let agent = self.agent.as_mut().expect("it commands");
                let event = Event::Sampled(SystemMetrics::default());
                agent.handle(event, now, &mut self.dice);
            }
            Command::Sample => {}
            Command::ProbeHardware => {
                self.probes += 1;
                if self.probe_works {
                    let event = Event::Hardware(Box::new(self.hardware.clone()));
                    self.later(self.probe_takes, Happening::ToAgent(self.run, event));
                }
            }
            Command::Record(recording) => {
                self.disk.record(*recording, &mut self.fuse)?;
                self.facts_changed();
            }
            Command::Disconnect { order, key, .. } => {
                if let Some((after, result)) = self.ordered(key) {
                    let event = Event::Disconnected { order, result };
                    self.later(after, Happening::ToAgent(self.run, event));
                }
            }
            Command::ReadBatch => {
                let event = Event::Batch(self.disk.read_batch());
                let after = Duration::from_millis(1 + self.dice.below(20));
                self.later(after, Happening::ToAgent(self.run, event));
            }
            Command::Update(command) => {
                let happens = self.releases.obey(command, self.t);
                for (after, event) in happens {
                    self.later(after, Happening::ToAgent(self.run, Event::Update(event)));
                }
                self.fuse.burn()?;
            }
            Command::Acked { through, .. } => {
                self.disk.acked(through);
                self.fuse.burn()?;
                self.facts_changed();
            }
        }
        Ok(())
    }

    fn send(&mut self, state: &LaneState, body: Vec<u8>) -> Result<(), Crash> {
        assert!(!self.in_flight, "one chained request at a time");
        self.in_flight = true;
        if let Err(message) = self.disk.store_lane(state) {
            let failure = SendFailure {
                message,
                retry_after: None,
                problem: Problem::Unreachable,
            };
            let event = Event::SendFailed(failure);
            self.later(
                Duration::from_millis(5),
                Happening::ToAgent(self.run, event),
            );
            return Ok(());
        }
        let first = match &self.outstanding {
            Some((place, before, first)) if *place == (state.epoch, state.seq + 1) => {
                assert!(*before == body, "a retry is the same bytes");
                *first
            }
            _ => {
                let pending = self.disk.lane.pending.as_ref().expect("on disk");
                assert_eq!(pending.to_json(), body, "sent as it is on disk");
                self.t
            }
        };
        self.outstanding = Some(((state.epoch, state.seq + 1), body.clone(), first));
        self.fuse.burn()?;
        self.disk.finish_change();
        self.fuse.burn()?;
        self.attempts.push(self.t);
        self.last_request.clone_from(&body);
        let at = self.trip();
        if self.net.up && self.dice.chance(self.net.doubled) {
            let late = at + Duration::from_millis(self.dice.below(self.net.copy_delay.max(1)));
            self.later(late, Happening::Message(body.clone(), None));
        }
        match self.gets_through() {
            true => self.later(at, Happening::Message(body, Some(self.run))),
            false => self.fail(Event::SendFailed),
        }
        // After this the bytes are with the kernel: they may arrive although the host stops.
        self.fuse.burn()
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Message(bytes, waiting) => {
                let said = match self.net.up {
                    true => self.controller.message(&bytes, self.controller_ms()),
                    false => Said::Nothing,
                };
                let Some(run) = waiting else { return };
                match said {
                    Said::Answer(mut answer) if self.gets_through() => {
                        if let Some(tamper) = &mut self.tamper {
                            answer = tamper(&self.controller, answer);
                        }
                        let at = self.trip();
                        self.later(at, Happening::ToAgent(run, Event::Answer(answer)));
                    }
                    Said::UnknownKey if self.gets_through() => self.fail(Event::UnknownKey),
                    _ => self.fail(Event::SendFailed),
                }
            }
            Happening::Introduction(bytes, run) => {
                if let Some(held) = &mut self.held_introductions {
                    held.push(bytes);
                    return;
                }
                let said = match self.net.up {
                    true => self.controller.introduction(&bytes, self.controller_ms()),
                    false => Said::Nothing,
                };
                match said {
                    Said::Answer(answer) if self.gets_through() => {
                        let at = self.trip();
                        let event = Event::IntroductionAnswer(answer);
                        self.later(at, Happening::ToAgent(run, event));
                    }
                    _ => self.fail(Event::IntroductionFailed),
                }
            }
            Happening::Witness(bytes, run) => {
                let said = match self.net.up {
                    true => self.controller.message(&bytes, self.controller_ms()),
                    false => Said::Nothing,
                };
                match said {
                    Said::Answer(answer) if self.gets_through() => {
                        let at = self.trip();
                        self.later(at, Happening::ToAgent(run, Event::WitnessAnswer(answer)));
                    }
                    _ => self.fail(Event::WitnessFailed),
                }
            }
            Happening::Poll(bytes, run, wait) => {
                match self.controller.poll(&bytes, self.controller_ms()) {
                    Polled::Hold(digest) if self.net.up => {
                        let until = self.t + wait;
                        self.happen(Happening::PollHeld(digest, run, until));
                    }
                    Polled::Answer(answer) if self.net.up => {
                        let at = self.trip();
                        self.later(at, Happening::ToAgent(run, Event::PollAnswer(answer)));
                    }
                    _ => self.fail(Event::PollFailed),
                }
            }
            Happening::PollHeld(digest, run, until) => {
                let now_ms = self.controller_ms();
                let refused = self.controller.poll_refused(digest, now_ms);
                let nothing_to_say = self.controller.db.unacked.is_empty() && refused.is_none();
                if nothing_to_say && self.t < until && run == self.run {
                    let look = s(1).min(until - self.t);
                    return self.later(look, Happening::PollHeld(digest, run, until));
                }
                if !self.gets_through() {
                    return self.fail(Event::PollFailed);
                }
                let mut answer =
                    refused.unwrap_or_else(|| self.controller.poll_reply(digest, now_ms));
                if let Some(tamper) = &mut self.tamper_poll {
                    answer = tamper(&self.controller, answer);
                }
                let at = self.trip();
                self.later(at, Happening::ToAgent(run, Event::PollAnswer(answer)));
            }
            Happening::Certificate(run) => {
                let bytes = self.controller.signed_certificate().to_json();
                let at = self.trip();
                self.later(at, Happening::ToAgent(run, Event::Certificate(bytes)));
            }
            Happening::ToAgent(run, event) if run == self.run => self.deliver(event),
            Happening::ToAgent(..) => {}
            Happening::Facts(run) if run == self.run => {
                self.facts_queued = false;
                let facts = self.disk.facts();
                self.tell(Event::Ledger(facts));
            }
            Happening::Facts(_) => {}
        }
    }

    fn gets_through(&mut self) -> bool {
        self.net.up && !self.dice.chance(self.net.loss)
    }

    fn trip(&mut self) -> Duration {
        Duration::from_millis(self.net.latency / 2 + self.dice.below(self.net.latency + 1))
    }

    /// An exchange fails: refused at once, or nobody answers until the time is over.
    fn fail(&mut self, event: fn(SendFailure) -> Event) {
        let silent = self.dice.chance(500);
        let after = if silent { TIMEOUT } else { self.trip() };
        let failure = SendFailure {
            message: "the controller does not answer".to_owned(),
            retry_after: self.net.retry_after,
            problem: Problem::Unreachable,
        };
        self.later(after, Happening::ToAgent(self.run, event(failure)));
    }

    /// As a watch channel: the newest facts, once.
    fn facts_changed(&mut self) {
        if !std::mem::replace(&mut self.facts_queued, true) {
            let after = Duration::from_millis(1 + self.dice.below(20));
            self.later(after, Happening::Facts(self.run));
        }
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.t + after, self.queued), happening);
    }
}
