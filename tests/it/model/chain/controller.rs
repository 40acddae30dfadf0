//! What a controller does: one transaction a request, judged by the product's own rule.

use std::collections::{BTreeMap, BTreeSet};

use vpn_node_controller::rules::chain::{Judgement, Place, judge};
use vpn_node_controller::rules::clones::while_resolving;
use vpn_node_controller::rules::state::{ChainState, Kept, Resolving};
use vpn_node_protocol::chain;
use vpn_node_protocol::encoding::{Digest, Hex};
use vpn_node_protocol::message::ReplyHeader;

use super::{Chain, Fault, Kind, Message, NOBODY, Reply, Request, State, Steps, start, step};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Status {
    Active,
    Quarantined,
    /// An operator keeps one holder, whose new key is not in use yet.
    Resolving,
}

/// Where the second holder's chain stood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Suspicion {
    second: Request,
    holder: usize,
}

/// What an operator decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Choice {
    kept: Kept,
    epoch: u32,
    /// Number and digest of the request that showed the second holder.
    second: (u64, Digest),
}

impl Choice {
    fn rule(&self) -> Resolving {
        Resolving {
            kept: self.kept,
            epoch: self.epoch,
            second_seq: self.second.0,
            second_digest: self.second.1,
            rotation_ms: None,
        }
    }
}

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::model) struct Db {
    status: Status,
    key: u8,
    epoch: u32,
    next_key: Option<u8>,
    retired: BTreeSet<u8>,
    seq: u64,
    chain: Digest,
    nonce: u8,
    last_digest: Option<Digest>,
    last_reply: Option<Reply>,
    /// Requests that were refused as ahead.
    ahead: BTreeSet<Digest>,
    /// Whom an operator keeps, while that one has no new key.
    resolving: Option<Choice>,
    digests: BTreeMap<u64, Digest>,
    suspicion: Option<Suspicion>,
    /// Whose request was accepted last.
    first: usize,
    /// Which holder goes on after the resolution.
    kept: Option<usize>,
    pub(super) accepted: BTreeSet<Digest>,
    pub(super) judged_new: [bool; 2],
    pub(super) found: bool,
    pub(super) resolved: bool,
    pub(super) other_went_on: bool,
}

impl Db {
    pub(super) fn new() -> Self {
        Self {
            status: Status::Active,
            key: 1,
            epoch: 1,
            next_key: None,
            retired: BTreeSet::new(),
            seq: 0,
            chain: start(1, 1),
            nonce: 0,
            last_digest: None,
            last_reply: None,
            ahead: BTreeSet::new(),
            resolving: None,
            digests: BTreeMap::new(),
            suspicion: None,
            first: 0,
            kept: None,
            accepted: BTreeSet::new(),
            judged_new: [false; 2],
            found: false,
            resolved: false,
            other_went_on: false,
        }
    }

    pub(super) fn quarantined(&self) -> bool {
        self.status == Status::Quarantined
    }

    fn quarantine(&mut self, second: &Request, holder: usize) {
        self.found = true;
        self.status = Status::Quarantined;
        self.suspicion = Some(Suspicion {
            second: second.clone(),
            holder,
        });
    }
}

/// A living holder signed a fresh refusal: it is behind, so there are two.
pub(super) fn witnessed(state: &mut State, n: usize) {
    let pending = state.holders[n]
        .as_ref()
        .and_then(|h| h.memory.pending.clone());
    if let (Some(request), Status::Active) = (pending, state.db.status) {
        state.db.quarantine(&request, n);
    }
}

fn nonce(n: u8) -> Digest {
    Hex([n; 32])
}

impl Chain {
    pub(super) fn judge(&self, state: &mut State, from: usize, request: &Request) {
        let reply = self.transaction(state, request);
        // These ask back, for a sign of life, a proof or another request: the holder has not had
        // his say yet.
        let asks = |reply: &Reply| matches!(reply.kind, Kind::Behind | Kind::Ahead | Kind::Bad);
        let asked = reply.as_ref().is_some_and(asks);
        if request.after_copy && !asked {
            state.db.judged_new[request.holder] = true;
        }
        if let Some(reply) = reply.filter(|_| from != NOBODY) {
            self.send(state, Message::Reply(from, reply));
        }
    }

    fn transaction(&self, state: &mut State, request: &Request) -> Option<Reply> {
        let db = &state.db;
        if db.retired.contains(&request.key) {
            return Some(refusal(request, Kind::Stopped));
        }
        let first_use = db.next_key == Some(request.key) && request.key != db.key;
        if !first_use && db.key != request.key {
            return Some(refusal(request, Kind::Stopped));
        }
        if db.status == Status::Quarantined {
            return Some(refusal(request, Kind::Stopped));
        }
        match self.judgement(db, request, first_use) {
            Judgement::Repeat => db.last_reply.clone(),
            Judgement::Replayed => Some(refusal(request, Kind::Bad)),
            Judgement::Ahead => {
                if self.fault == Fault::LastAheadOnly {
                    state.db.ahead.clear();
                }
                if self.fault != Fault::AheadForgotten {
                    state.db.ahead.insert(request.digest);
                }
                Some(refusal(request, Kind::Ahead))
            }
            Judgement::Forgotten if self.fault == Fault::BehindIsProof => {
                state.db.quarantine(request, request.holder);
                Some(refusal(request, Kind::Stopped))
            }
            Judgement::Forgotten => Some(refusal(request, Kind::Behind)),
            Judgement::OtherHolder => Some(refusal(request, Kind::Stopped)),
            Judgement::Diverged(_) => {
                state.db.quarantine(request, request.holder);
                Some(refusal(request, Kind::Stopped))
            }
            Judgement::Next | Judgement::AheadProven => {
                Some(self.accept(state, request, first_use))
            }
        }
    }

    fn judgement(&self, db: &Db, request: &Request, first_use: bool) -> Judgement {
        let stored = if first_use {
            ChainState {
                epoch: db.epoch + 1,
                seq: 0,
                chain: start(db.epoch + 1, request.key),
                nonce: nonce(db.nonce),
                last_digest: None,
            }
        } else {
            ChainState {
                epoch: db.epoch,
                seq: db.seq,
                chain: db.chain,
                nonce: nonce(db.nonce),
                last_digest: db.last_digest,
            }
        };
        let proof = request.proof.as_deref().map(|reply| ReplyHeader {
            server_id: String::new(),
            epoch: reply.epoch,
            request_digest: reply.to,
            seq: reply.seq,
            chain: reply.chain,
            nonce: nonce(reply.nonce),
            controller_time_ms: 0,
        });
        let mut place = Place {
            seq: request.seq,
            chain: request.chain,
            nonce: nonce(request.nonce),
            digest: request.digest,
            proof: proof.as_ref(),
            earlier: db.digests.get(&request.seq).copied().filter(|_| !first_use),
            refused_ahead: db.ahead.contains(&request.digest),
        };
        if self.fault == Fault::NumbersOnly {
            (place.chain, place.nonce) = (stored.chain, stored.nonce);
        }
        let judged = judge(&stored, &place);
        match &db.resolving {
            Some(choice) if self.fault == Fault::KeptByPlaceOnly => match judged {
                Judgement::Diverged(_) | Judgement::Forgotten => Judgement::OtherHolder,
                Judgement::Ahead | Judgement::AheadProven if choice.kept == Kept::Second => {
                    Judgement::OtherHolder
                }
                other => other,
            },
            Some(choice) => while_resolving(&stored, &choice.rule(), &place, judged),
            None => judged,
        }
    }

    fn accept(&self, state: &mut State, request: &Request, first_use: bool) -> Reply {
        let fresh = state.fresh;
        state.fresh += 1;
        let db = &mut state.db;
        // The holder that an operator keeps may be so old that its request was taken before: its
        // record, heartbeat or answer is then known by its own number.
        let chosen = db
            .resolving
            .as_ref()
            .is_some_and(|c| c.second.1 == request.digest);
        state.twice |= !db.accepted.insert(request.digest) && !chosen;
        if db.kept.is_some_and(|kept| kept != request.holder) && request.after_copy {
            db.other_went_on = true;
        }
        if first_use {
            db.retired.insert(db.key);
            (db.key, db.epoch, db.next_key) = (request.key, db.epoch + 1, None);
            db.digests.clear();
            if db.status == Status::Resolving {
                db.status = Status::Active;
                db.resolving = None;
                db.resolved = true;
                db.suspicion = None;
            }
        }
        if let Some(key) = request.rotate_to {
            db.next_key = Some(key);
        }
        db.seq = request.seq;
        db.chain = chain::next(&request.chain, &request.digest);
        db.nonce = fresh;
        db.last_digest = Some(request.digest);
        db.digests.insert(request.seq, request.digest);
        let oldest = request.seq.saturating_sub(u64::from(self.bounds.memory));
        db.digests.retain(|seq, _| *seq > oldest);
        db.first = request.holder;
        let reply = Reply {
            to: request.digest,
            epoch: request.epoch,
            seq: request.seq,
            chain: db.chain,
            nonce: fresh,
            kind: Kind::Accepted,
            rotate: db.status == Status::Resolving && request.rotate_to.is_none(),
        };
        if self.fault == Fault::NoStoredReply {
            db.last_digest = None;
        } else {
            db.last_reply = Some(reply.clone());
        }
        reply
    }

    pub(super) fn operator_steps(&self, state: &State, out: &mut Steps) {
        if self.fault == Fault::ChainAfterEffect && state.crashes < self.bounds.crashes {
            let requests = state.network.iter().filter_map(|message| match message {
                Message::Request(_, request) => Some(request),
                _ => None,
            });
            for request in requests.filter(|r| r.seq == state.db.seq + 1) {
                let name = format!("controller dies after the effect of {}", request.seq);
                step(out, state, name, |s| {
                    s.crashes += 1;
                    s.twice |= !s.db.accepted.insert(request.digest);
                });
            }
        }
        if state.rollbacks < self.bounds.rollbacks {
            match &state.backup {
                None => step(out, state, "backup".to_owned(), |s| {
                    s.backup = Some(Box::new(s.db.clone()));
                }),
                Some(backup) => step(out, state, "controller is restored".to_owned(), |s| {
                    s.db = (**backup).clone();
                    s.rollbacks += 1;
                }),
            }
        }
        if state.resolutions < self.bounds.resolutions && state.db.quarantined() {
            self.resolve(state, out);
        }
    }

    fn resolve(&self, state: &State, out: &mut Steps) {
        let Some(Suspicion { second, holder }) = state.db.suspicion.clone() else {
            return;
        };
        let to = match self.fault {
            Fault::ResolvedWithoutRotation => Status::Active,
            _ => Status::Resolving,
        };
        let epoch = state.db.epoch;
        let choice = |kept| {
            (to == Status::Resolving).then_some(Choice {
                kept,
                epoch,
                second: (second.seq, second.digest),
            })
        };
        step(out, state, "operator keeps the first".to_owned(), |s| {
            s.resolutions += 1;
            s.db.status = to;
            s.db.resolving = choice(Kept::First);
            s.db.kept = Some(s.db.first);
            s.db.resolved |= to == Status::Active;
        });
        step(out, state, "operator keeps the second".to_owned(), |s| {
            s.resolutions += 1;
            let db = &mut s.db;
            db.status = to;
            db.resolving = choice(Kept::Second);
            db.kept = Some(holder);
            db.resolved |= to == Status::Active;
            (db.seq, db.chain, db.nonce) = (second.seq - 1, second.chain, second.nonce);
            (db.last_digest, db.last_reply) = (None, None);
            db.next_key = None;
            db.digests.clear();
        });
    }
}

fn refusal(request: &Request, kind: Kind) -> Reply {
    Reply {
        to: request.digest,
        epoch: request.epoch,
        seq: request.seq,
        chain: request.chain,
        nonce: 0,
        kind,
        rotate: false,
    }
}
