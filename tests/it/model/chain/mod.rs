//! A request chain with everything that can happen to it: crashes on both sides, a network that
//! loses, repeats and delays, a copy of the host, a controller that is restored from a backup, a
//! rotation of the key, an operator who resolves.
//!
//! [`host`] is what an agent does, [`controller`] what a controller does (its judgement is the
//! product's own), [`tests`] the searches with their bounds and the seeded faults.

mod controller;
mod host;
mod tests;

use std::collections::BTreeSet;

use vpn_node_protocol::encoding::Digest;

use super::explorer::Model;
use controller::Db;
use host::Holder;

/// What is built wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A request is sent before it is on disk.
    SentBeforeDurable,
    /// A retry is a new request of the same number.
    RetryIsAnother,
    /// The controller forgets its reply, so a retry looks like another holder.
    NoStoredReply,
    /// The effect is committed, and the chain in a transaction of its own.
    ChainAfterEffect,
    /// Numbers are compared, chain values and nonces are not.
    NumbersOnly,
    /// The request that was refused as ahead is not remembered.
    AheadForgotten,
    /// Only the last such request is remembered, so a recorded older one hides it.
    LastAheadOnly,
    /// The second holder is kept by its place in the chain, which both may have built on.
    KeptByPlaceOnly,
    /// The host forgets its records when it has sent them.
    AckedWhenSent,
    /// Recorded traffic that is older than the memory counts as a second holder.
    BehindIsProof,
    /// An operator's choice does not replace the key.
    ResolvedWithoutRotation,
    /// The new key is used before it is on disk.
    NextKeyNotDurable,
}

/// How much of each may happen in one search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) crashes: u8,
    pub(super) repeats: u8,
    pub(super) copies: u8,
    pub(super) rollbacks: u8,
    pub(super) rotations: u8,
    pub(super) resolutions: u8,
    /// Answered requests after which a holder is content.
    pub(super) enough: u8,
    /// Messages under way at once.
    pub(super) network: usize,
    /// Older digests that the controller remembers.
    pub(super) memory: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Request {
    pub(super) digest: Digest,
    pub(super) holder: usize,
    /// Made after the copy was made: no longer common to both.
    pub(super) after_copy: bool,
    /// Which key signed.
    pub(super) key: u8,
    pub(super) epoch: u32,
    pub(super) seq: u64,
    pub(super) chain: Digest,
    pub(super) nonce: u8,
    pub(super) proof: Option<Box<Reply>>,
    /// The new key, for a rotation.
    pub(super) rotate_to: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reply {
    pub(super) to: Digest,
    pub(super) epoch: u32,
    pub(super) seq: u64,
    pub(super) chain: Digest,
    pub(super) nonce: u8,
    pub(super) kind: Kind,
    pub(super) rotate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Accepted,
    Ahead,
    Behind,
    /// Quarantined, or the key is retired: the same request asks again, slowly.
    Stopped,
    /// The same request will never be accepted.
    Bad,
}

/// A connection that was given up, or somebody who recorded: the answer reaches no holder.
pub(super) const NOBODY: usize = 9;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Message {
    /// From this holder, who waits at the other end of a connection, or from [`NOBODY`].
    Request(usize, Request),
    /// To this holder.
    Reply(usize, Reply),
    /// A living holder's answer to [`Kind::Behind`].
    Witness(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) holders: [Option<Holder>; 2],
    pub(super) db: Db,
    pub(super) backup: Option<Box<Db>>,
    /// Never used twice, also not after a rollback: it is random in the product.
    pub(super) fresh: u8,
    pub(super) network: BTreeSet<Message>,
    pub(super) crashes: u8,
    pub(super) repeats: u8,
    pub(super) rollbacks: u8,
    pub(super) rotations: u8,
    pub(super) resolutions: u8,
    /// A request had its effect twice.
    pub(super) twice: bool,
}

pub(super) struct Chain {
    pub(super) fault: Fault,
    pub(super) bounds: Bounds,
}

pub(super) type Steps = Vec<(String, State)>;

/// Adds a step: the state with a change.
pub(super) fn step(out: &mut Steps, state: &State, name: String, change: impl FnOnce(&mut State)) {
    let mut next = state.clone();
    change(&mut next);
    out.push((name, next));
}

/// The value before the first request of an epoch.
pub(super) fn start(epoch: u32, key: u8) -> Digest {
    Digest::of(&[b"start", &epoch.to_be_bytes(), &[key]])
}

impl Chain {
    /// A message under way; one too many is lost, which it may be anyway.
    pub(super) fn send(&self, state: &mut State, message: Message) {
        if state.network.len() < self.bounds.network {
            state.network.insert(message);
        }
    }

    fn network_steps(&self, state: &State, out: &mut Steps) {
        for message in &state.network {
            step(out, state, format!("lost: {}", named(message)), |s| {
                s.network.remove(message);
            });
            for again in [false, true] {
                let may_repeat =
                    state.repeats < self.bounds.repeats && matches!(message, Message::Request(..));
                if again && !may_repeat {
                    continue;
                }
                let name = format!(
                    "comes{}: {}",
                    if again { ", and again" } else { "" },
                    named(message)
                );
                step(out, state, name, |s| {
                    if again {
                        s.repeats += 1;
                    } else {
                        s.network.remove(message);
                    }
                    match message {
                        Message::Request(from, request) => {
                            self.judge(s, if again { NOBODY } else { *from }, request);
                        }
                        Message::Reply(to, reply) => self.answered(s, *to, reply),
                        Message::Witness(holder) => controller::witnessed(s, *holder),
                    }
                });
            }
        }
    }
}

fn named(message: &Message) -> String {
    match message {
        Message::Request(_, r) => format!(
            "request {}/{} of {} ({})",
            r.epoch,
            r.seq,
            r.holder,
            &r.digest.to_string()[..6]
        ),
        Message::Reply(n, r) => format!("{:?} for {n} to {}", r.kind, &r.to.to_string()[..6]),
        Message::Witness(holder) => format!("witness of {holder}"),
    }
}

impl Model for Chain {
    type State = State;

    fn initial(&self) -> State {
        State {
            holders: [Some(Holder::new()), None],
            db: Db::new(),
            backup: None,
            fresh: 1,
            network: BTreeSet::new(),
            crashes: 0,
            repeats: 0,
            rollbacks: 0,
            rotations: 0,
            resolutions: 0,
            twice: false,
        }
    }

    fn next(&self, state: &State) -> Steps {
        let mut out = Vec::new();
        for n in [0, 1] {
            self.holder_steps(state, n, &mut out);
        }
        self.network_steps(state, &mut out);
        self.operator_steps(state, &mut out);
        out
    }

    fn check(&self, state: &State) -> Result<(), String> {
        if state.twice {
            return Err("one request had its effect twice".to_owned());
        }
        let copied = state.holders[1].is_some();
        if !copied && state.db.quarantined() {
            return Err("a false alarm".to_owned());
        }
        if copied && state.db.judged_new == [true, true] && !state.db.found {
            return Err("both holders spoke, and nobody noticed".to_owned());
        }
        if state.db.resolved && state.db.other_went_on {
            return Err("the holder that was not kept goes on".to_owned());
        }
        for holder in state.holders.iter().flatten() {
            let lost = holder.forgotten.difference(&state.db.accepted).next();
            if state.rollbacks == 0 && lost.is_some() {
                return Err("the host forgot what the controller does not have".to_owned());
            }
        }
        Ok(())
    }

    fn is_goal(&self, state: &State) -> bool {
        let content = |h: &Holder| h.running && h.memory.received >= self.bounds.enough;
        !state.db.quarantined() && state.holders.iter().flatten().any(content)
    }

    fn must_reach_goal(&self, state: &State) -> bool {
        // A quarantine that no operator may resolve any more is the right end of a copy.
        !state.db.quarantined() || state.resolutions < self.bounds.resolutions
    }
}
