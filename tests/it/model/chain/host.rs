//! What an agent does: it writes a request down, sends it, repeats it to the byte, and takes only
//! the answer to it.

use std::collections::BTreeSet;

use vpn_node_protocol::chain;
use vpn_node_protocol::encoding::Digest;

use super::{Chain, Fault, Kind, Message, NOBODY, Reply, Request, State, Steps, start, step};

/// `chain.slots`, and the same in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::model) struct Lane {
    pub(super) key: u8,
    pub(super) epoch: u32,
    pub(super) seq: u64,
    pub(super) chain: Digest,
    pub(super) nonce: u8,
    pub(super) last: Option<Reply>,
    pub(super) pending: Option<Request>,
    pub(super) received: u8,
    /// The key that a rotation makes, on disk apart from the lane.
    pub(super) next_key: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::model) struct Holder {
    pub(super) running: bool,
    pub(super) disk: Lane,
    pub(super) memory: Lane,
    pub(super) prove: bool,
    pub(super) rotate: bool,
    pub(super) made: u8,
    /// Keys whose secret halves are on disk.
    pub(super) keys: BTreeSet<u8>,
    /// Requests whose records it no longer keeps.
    pub(super) forgotten: BTreeSet<Digest>,
}

impl Holder {
    pub(super) fn new() -> Self {
        let lane = Lane {
            key: 1,
            epoch: 1,
            seq: 0,
            chain: start(1, 1),
            nonce: 0,
            last: None,
            pending: None,
            received: 0,
            next_key: None,
        };
        Self {
            running: true,
            disk: lane.clone(),
            memory: lane,
            prove: false,
            rotate: false,
            made: 0,
            keys: BTreeSet::from([1]),
            forgotten: BTreeSet::new(),
        }
    }

    /// The next request, as it would be made now.
    fn request(&self, n: usize, after_copy: bool) -> Request {
        let lane = &self.memory;
        let rotate_to = self.rotate.then_some(lane.next_key).flatten();
        let proof = lane.last.clone().filter(|_| self.prove).map(Box::new);
        let proven = [u8::from(proof.is_some()), rotate_to.unwrap_or(0)];
        let number = [n as u8, self.made, lane.key];
        let digest = Digest::of(&[&lane.chain.0, &number, &proven, &lane.seq.to_be_bytes()]);
        Request {
            digest,
            holder: n,
            after_copy,
            key: lane.key,
            epoch: lane.epoch,
            seq: lane.seq + 1,
            chain: lane.chain,
            nonce: lane.nonce,
            proof,
            rotate_to,
        }
    }
}

fn holder(state: &mut State, n: usize) -> &mut Holder {
    state.holders[n].as_mut().expect("it takes a step")
}

impl Chain {
    pub(super) fn holder_steps(&self, state: &State, n: usize, out: &mut Steps) {
        let Some(host) = &state.holders[n] else {
            return;
        };
        let copied = state.holders[1].is_some();
        if !copied && self.bounds.copies > 0 {
            step(out, state, "is copied".to_owned(), |s| {
                let mut copy = holder(s, 0).clone();
                copy.memory = copy.disk.clone();
                (copy.prove, copy.rotate) = (false, false);
                s.holders[1] = Some(copy);
            });
        }
        if !host.running && !host.keys.contains(&host.disk.key) {
            return; // It cannot sign any more, for ever.
        }
        if !host.running {
            step(out, state, format!("{n} starts"), |s| {
                let host = holder(s, n);
                host.running = true;
                host.memory = host.disk.clone();
                (host.prove, host.rotate) = (false, false);
            });
            return;
        }
        if state.crashes < self.bounds.crashes {
            step(out, state, format!("{n} is killed"), |s| {
                s.crashes += 1;
                holder(s, n).running = false;
                give_up_connection(s, n);
            });
        }
        match &host.memory.pending {
            Some(request) => self.retry(state, n, request, out),
            None if host.memory.received < self.bounds.enough || host.rotate => {
                self.make(state, n, copied, out);
            }
            None => {}
        }
        let may_rotate = state.rotations < self.bounds.rotations && !host.rotate;
        if may_rotate && host.memory.pending.is_none() {
            step(out, state, format!("{n} is told to rotate"), |s| {
                s.rotations += 1;
                holder(s, n).rotate = true;
            });
        }
    }

    fn make(&self, state: &State, n: usize, copied: bool, out: &mut Steps) {
        let host = state.holders[n].as_ref().expect("it takes a step");
        if host.rotate && host.memory.next_key.is_none() {
            let key = 10 * (n as u8 + 1) + host.made;
            step(out, state, format!("{n} makes a key"), |s| {
                let host = holder(s, n);
                host.made += 1;
                host.memory.next_key = Some(key);
                if self.fault != Fault::NextKeyNotDurable {
                    host.keys.insert(key);
                    host.disk.next_key = Some(key);
                }
            });
            return;
        }
        let request = host.request(n, copied);
        step(
            out,
            state,
            format!("{n} makes request {}", request.seq),
            |s| {
                let host = holder(s, n);
                host.made += 1;
                host.memory.pending = Some(request.clone());
                if self.fault == Fault::AckedWhenSent {
                    host.forgotten.insert(request.digest);
                }
                if self.fault != Fault::SentBeforeDurable {
                    host.disk = host.memory.clone();
                }
            },
        );
    }

    fn retry(&self, state: &State, n: usize, request: &Request, out: &mut Steps) {
        let message = Message::Request(n, request.clone());
        // Given up, the earlier attempt may still arrive.
        let given_up = Message::Request(NOBODY, request.clone());
        if !state.network.contains(&message) || !state.network.contains(&given_up) {
            step(out, state, format!("{n} sends {}", request.seq), |s| {
                give_up_connection(s, n);
                self.send(s, message.clone());
            });
        }
        let made = state.holders[n].as_ref().map_or(0, |host| host.made);
        if self.fault == Fault::RetryIsAnother && made < 3 {
            step(out, state, format!("{n} makes it anew"), |s| {
                let copied = s.holders[1].is_some();
                let host = holder(s, n);
                host.made += 1;
                host.memory.pending = Some(host.request(n, copied));
                host.disk = host.memory.clone();
            });
        }
        if self.fault == Fault::SentBeforeDurable {
            step(out, state, format!("{n} writes it down"), |s| {
                let host = holder(s, n);
                host.disk = host.memory.clone();
            });
        }
    }

    /// Only the answer to the request that waits counts.
    pub(super) fn answered(&self, state: &mut State, n: usize, reply: &Reply) {
        let Some(host) = state.holders[n].as_mut().filter(|host| host.running) else {
            return;
        };
        let waits = host.memory.pending.clone().filter(|p| p.digest == reply.to);
        let Some(pending) = waits else { return };
        match reply.kind {
            Kind::Accepted => take(host, &pending, reply),
            Kind::Ahead => {
                host.memory.pending = None;
                host.prove = true;
            }
            Kind::Bad => {
                host.memory.pending = None;
                host.rotate = false;
                host.memory.next_key = None;
            }
            Kind::Behind => self.send(state, Message::Witness(n)),
            Kind::Stopped => {}
        }
    }
}

/// One attempt at a time: what an earlier one brings is not listened to.
fn give_up_connection(state: &mut State, n: usize) {
    let network = std::mem::take(&mut state.network);
    state.network = network
        .into_iter()
        .filter_map(|message| match message {
            Message::Request(from, request) if from == n => Some(Message::Request(NOBODY, request)),
            Message::Reply(to, _) if to == n => None,
            other => Some(other),
        })
        .collect();
}

fn take(host: &mut Holder, pending: &Request, reply: &Reply) {
    let lane = &mut host.memory;
    lane.pending = None;
    lane.received = lane.received.saturating_add(1).min(9);
    host.prove = false;
    host.rotate |= reply.rotate;
    host.forgotten.insert(pending.digest);
    if let Some(key) = pending.rotate_to {
        // Of the disk only the lane follows, with the next request: that is the commit.
        (lane.key, lane.epoch, lane.seq) = (key, lane.epoch + 1, 0);
        lane.chain = start(lane.epoch, key);
        lane.nonce = reply.nonce;
        lane.last = None;
        lane.next_key = None;
        host.rotate = false;
        return;
    }
    assert_eq!(reply.chain, chain::next(&lane.chain, &pending.digest));
    (lane.seq, lane.chain, lane.nonce) = (reply.seq, reply.chain, reply.nonce);
    lane.last = Some(reply.clone());
}
