//! One chained request, judged as a whole: place in the chain, effects, reply.

use vpn_node_protocol::chain as chain_value;
use vpn_node_protocol::connection::Stamp;
use vpn_node_protocol::directive::Directive;
use vpn_node_protocol::limits::{MAX_DIRECTIVE_ACKS, is_short_text};
use vpn_node_protocol::message::{
    ConnectionsAck, Header, RefusalCode, Reply, ReplyHeader, Verdict,
};

use crate::rules::boot::Boot;
use crate::rules::chain::{Judgement, Place, judge};
use crate::rules::challenge;
use crate::rules::clones;
use crate::rules::connections::{self, OpenedBatch};
use crate::rules::effect::{ChainStep, Effect, NewEvent, SecondHolder, StandingWrite};
use crate::rules::events::EventType;
use crate::rules::heartbeat;
use crate::rules::request::{Request, Subject};
use crate::rules::rotation::{self, Shown};
use crate::rules::state::{KeyRole, OpenDirective, ServerKey, ServerStatus, Snapshot, standing};

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// The stored reply, byte for byte; nothing changes.
    Repeat(Vec<u8>),
    /// A signed "no"; the chain does not move.
    Refuse {
        /// For programs.
        code: RefusalCode,
        /// For people.
        message: String,
        /// What is written nevertheless.
        effects: Vec<Effect>,
        /// It may come again and again, so its event must be rate-limited.
        repeats: Option<Repeats>,
    },
    /// Accepted.
    Accept(Box<Accepted>),
}

/// What may be sent again and again without any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// An old request: anybody may have recorded it.
    OldRequest,
    /// A request of the holder that is not kept.
    OtherHolder,
}

/// An accepted request, ready to be signed and stored.
#[derive(Debug)]
pub struct Accepted {
    /// The reply, still without its directives.
    pub reply: Reply,
    /// What the reply carries, to be signed one by one.
    pub directives: Vec<Directive>,
    /// What is written besides the chain.
    effects: Vec<Effect>,
    step: ChainStep,
}

impl Accepted {
    /// Everything that is to be written, with the signed reply; the chain first, because that is
    /// the compare-and-set.
    #[must_use]
    pub fn into_effects(self, reply: Vec<u8>) -> Vec<Effect> {
        let mut step = self.step;
        step.reply = reply;
        let mut effects = vec![Effect::Advance(Box::new(step))];
        effects.extend(self.effects);
        effects
    }
}

/// Checks what every header must hold.
///
/// # Errors
/// A sentence for the refusal.
pub fn check_header(header: &Header) -> Result<(), &'static str> {
    if header.directive_acks.len() > MAX_DIRECTIVE_ACKS {
        return Err("the request acknowledges too many directives");
    }
    let detail_is_short = |detail: &String| is_short_text(detail);
    let mut details = header
        .directive_acks
        .iter()
        .filter_map(|ack| ack.detail.as_ref());
    if !details.all(detail_is_short) {
        return Err("the detail of an acknowledgement is too long, or holds control characters");
    }
    // The database's integers end there; no honest chain comes near.
    if header.seq == 0 || i64::try_from(header.seq).is_err() {
        return Err("the request's number is impossible");
    }
    Ok(())
}

/// Decides.
#[must_use]
pub fn decide(snapshot: &Snapshot, request: &Request) -> Outcome {
    let signer = match speaker(snapshot) {
        Ok(signer) => signer,
        Err(refused) => return refused,
    };
    let header = &request.header;
    let chain = rotation::chain_of(snapshot, &signer);
    let shown = rotation::proof(snapshot, &signer, request);
    let place = Place {
        seq: header.seq,
        chain: header.chain,
        nonce: header.nonce,
        digest: request.digest,
        proof: match &shown {
            Shown::Before(reply) => Some(reply),
            Shown::Overtaken | Shown::Nothing => None,
        },
        earlier: snapshot.earlier,
        refused_ahead: snapshot.refused_ahead.contains(&request.digest),
    };
    let mut judged = judge(&chain, &place);
    if let Some(resolving) = &snapshot.resolving {
        judged = clones::while_resolving(&chain, resolving, &place, judged);
    }
    match (judged, &snapshot.last_reply) {
        (Judgement::Repeat, Some(reply)) => Outcome::Repeat(reply.clone()),
        (Judgement::Next | Judgement::AheadProven, _)
            if rotation::is_to_a_taken_key(snapshot, &signer, request) =>
        {
            refuse(RefusalCode::BadRequest, TAKEN_KEY, vec![])
        }
        (Judgement::Next, _) => accept(snapshot, &signer, request, vec![]),
        (Judgement::AheadProven, _) => {
            let event = rollback_event(snapshot, request);
            accept(snapshot, &signer, request, vec![Effect::Event(event)])
        }
        (Judgement::Ahead, _) if matches!(shown, Shown::Overtaken) => {
            if snapshot.resolving.is_some() {
                return other_holder();
            }
            quarantine(snapshot, request, "the old key was used after its rotation")
        }
        (Judgement::Ahead, _) => {
            let refused = Effect::RefusedAhead {
                epoch: header.epoch,
                seq: header.seq,
                digest: request.digest,
            };
            refuse(RefusalCode::Ahead, AHEAD, vec![refused])
        }
        (Judgement::Replayed, _) => {
            refuse_repeated(RefusalCode::BadRequest, REPLAYED, Repeats::OldRequest)
        }
        (Judgement::Forgotten, _) => {
            refuse_repeated(RefusalCode::Behind, FORGOTTEN, Repeats::OldRequest)
        }
        (Judgement::OtherHolder, _) => other_holder(),
        (Judgement::Diverged(how), _) => quarantine(snapshot, request, how),
        (Judgement::Repeat, None) => quarantine(snapshot, request, "its reply is not stored"),
    }
}

/// Why a revoked server is refused.
pub const REVOKED: &str = "this server was revoked, for ever: to use the host again, enrol it as a new server with a new token";
/// Why a replaced key is refused.
pub const RETIRED_KEY: &str = "this identity key was replaced by a newer one: if this host has no newer key, it is a copy or an old backup; enrol it again with a new token";
/// Why a quarantined server is refused.
pub const QUARANTINED: &str = "two holders of this server's identity were seen (a copied disk, or a restored snapshot): both are stopped until an operator keeps one of them at the controller ('server resolve-clone') or enrols the host again";
const TAKEN_KEY: &str =
    "the new key is or was in use already: a host makes a new key for each rotation";
const OTHER_HOLDER: &str = "two holders of this server's identity were seen, and the operator keeps the other one; if this is the right one, enrol it again";
const REPLAYED: &str = "this request was accepted before, and others after it";
const FORGOTTEN: &str =
    "this request is far behind: a host that lives signs this refusal as a witness";
const AHEAD: &str = "the controller does not remember that far: send the last reply as proof";

fn refuse(code: RefusalCode, message: &str, effects: Vec<Effect>) -> Outcome {
    Outcome::Refuse {
        code,
        message: message.to_owned(),
        effects,
        repeats: None,
    }
}

fn refuse_repeated(code: RefusalCode, message: &str, repeats: Repeats) -> Outcome {
    Outcome::Refuse {
        code,
        message: message.to_owned(),
        effects: vec![],
        repeats: Some(repeats),
    }
}

/// The answer to whoever is known as the holder that is not kept.
pub(super) fn other_holder() -> Outcome {
    refuse_repeated(RefusalCode::Quarantined, OTHER_HOLDER, Repeats::OtherHolder)
}

/// The key that signed, when server and key may speak at all. Looked up again in the transaction:
/// the key may have been replaced since the signature was verified.
pub(super) fn speaker(snapshot: &Snapshot) -> Result<ServerKey, Outcome> {
    if snapshot.status == ServerStatus::Revoked {
        return Err(refuse(RefusalCode::Revoked, REVOKED, vec![]));
    }
    let Some(signer) = snapshot.signer.filter(|key| key.role != KeyRole::Retired) else {
        return Err(refuse(RefusalCode::RetiredKey, RETIRED_KEY, vec![]));
    };
    if snapshot.status == ServerStatus::Quarantined {
        return Err(quarantined(vec![]));
    }
    Ok(signer)
}

/// The answer to what can never be accepted.
pub(super) fn bad_request(why: &str) -> Outcome {
    refuse(RefusalCode::BadRequest, why, vec![])
}

pub(super) fn quarantined(effects: Vec<Effect>) -> Outcome {
    refuse(RefusalCode::Quarantined, QUARANTINED, effects)
}

fn accept(
    snapshot: &Snapshot,
    signer: &ServerKey,
    request: &Request,
    mut effects: Vec<Effect>,
) -> Outcome {
    rotation::first_use(snapshot, signer, request, &mut effects);
    let before = StandingWrite {
        verdict: snapshot.verdict,
        reason: snapshot.verdict_reason.clone(),
        challenges_missed: snapshot.challenges_missed,
        available: false,
    };
    let mut now = before.clone();
    let mut hardware_status = snapshot.hardware_status;
    let mut connections_ack = None;
    let mut open = heartbeat::settle_directives(snapshot, request, &mut now, &mut effects);
    match &request.subject {
        Subject::Heartbeat(body) => {
            open = heartbeat::judge(snapshot, request, body, open, &mut now, &mut effects);
        }
        Subject::Answer(answer) => challenge::judge(
            snapshot,
            request,
            answer,
            &open,
            &mut now,
            &mut hardware_status,
            &mut effects,
        ),
        Subject::Batch(batch) => {
            connections_ack = Some(store_batch(snapshot, request, batch, &mut effects));
        }
        Subject::Rotate(new_key) => effects.push(rotation::next_key(new_key, signer, request)),
    }
    open.extend(clones::rotation(snapshot, request, &open, &mut effects));
    // A challenge goes out with a heartbeat, which decides on it; everything else at once.
    let is_heartbeat = matches!(request.subject, Subject::Heartbeat(_));
    let goes_out =
        |d: &&OpenDirective| is_heartbeat || !(d.is_challenge() || d.is_over(request.now_ms));
    let directives = heartbeat::hand_out(
        snapshot,
        request,
        open.iter().filter(goes_out),
        &mut effects,
    );
    let said = |s: &StandingWrite| (s.verdict, s.reason.clone(), s.challenges_missed);
    now.available = snapshot.status == ServerStatus::Active && now.verdict == Verdict::Verified;
    if said(&now) != said(&before) {
        effects.push(Effect::Standing(now.clone()));
    }
    let header = &request.header;
    let step = ChainStep {
        from_epoch: snapshot.chain.epoch,
        from_seq: snapshot.chain.seq,
        epoch: signer.epoch,
        seq: header.seq,
        // From the request's own chain value: after a loss of ours, the host's is the longer one.
        chain: chain_value::next(&header.chain, &request.digest),
        nonce: request.fresh.nonce,
        digest: request.digest,
        reply: vec![],
        boot: boot_of(snapshot, request),
        made_ms: made_ms(snapshot, request),
        peer_ip: request.peer_ip.clone(),
    };
    let reply = Reply {
        header: ReplyHeader {
            server_id: snapshot.server_id.clone(),
            epoch: signer.epoch,
            request_digest: request.digest,
            seq: step.seq,
            chain: step.chain,
            nonce: step.nonce,
            controller_time_ms: request.now_ms,
        },
        standing: standing(
            snapshot.status,
            now.verdict,
            now.reason,
            hardware_status,
            request.policy,
        ),
        heartbeat_interval_s: request.policy.heartbeat_interval_s,
        directives: vec![],
        connections_ack,
    };
    Outcome::Accept(Box::new(Accepted {
        reply,
        directives,
        effects,
        step,
    }))
}

fn boot_of(snapshot: &Snapshot, request: &Request) -> Boot {
    let last_ms = snapshot.last_heartbeat_ms;
    Boot::after(snapshot.boot, &request.header, last_ms, request.now_ms)
}

/// When the host made a request, by our clock: a retried one comes much later.
fn made_ms(snapshot: &Snapshot, request: &Request) -> i64 {
    let up_ms = i64::try_from(request.header.boottime_ms).unwrap_or(i64::MAX);
    let made_ms = boot_of(snapshot, request).at_ms.saturating_add(up_ms);
    made_ms.min(request.now_ms)
}

fn store_batch(
    snapshot: &Snapshot,
    request: &Request,
    batch: &OpenedBatch,
    effects: &mut Vec<Effect>,
) -> ConnectionsAck {
    let acked = match snapshot.ledger_set_back {
        true => batch.before_first(),
        false => snapshot.ledger_acked,
    };
    let plan = connections::plan(acked, batch);
    let header = &request.header;
    let host_now = Stamp {
        boot_id: header.boot_id,
        boottime_ms: boot_of(snapshot, request).up_ms(request.now_ms),
        wall_ms: header.agent_time_ms,
        offset_ms: None,
    };
    let epoch = batch.ledger_epoch;
    for (seq, record) in &plan.apply {
        let write = connections::dated(epoch, *seq, record, &host_now, request.now_ms);
        effects.push(Effect::Connection(Box::new(write)));
    }
    if !plan.apply.is_empty() {
        effects.push(Effect::Holders {
            at_ms: request.now_ms,
        });
    }
    for range in &plan.lost {
        effects.push(Effect::Lost {
            ledger_epoch: epoch,
            range: *range,
        });
    }
    if let Some(first) = plan.lost.first() {
        let count = plan
            .lost
            .iter()
            .fold(0u64, |sum, r| sum.saturating_add(r.last - r.first + 1));
        effects.push(Effect::Event(NewEvent {
            event_type: EventType::ConnectionGap,
            source_id: Some(snapshot.server_id.clone()),
            description: format!(
                "{count} connection records of ledger {epoch} are lost, from sequence {} on ({})",
                first.first, first.reason
            ),
            at_ms: request.now_ms,
        }));
    }
    if plan.ack > acked {
        effects.push(Effect::LedgerAck {
            ledger_epoch: epoch,
            through: plan.ack,
        });
    }
    ConnectionsAck {
        ledger_epoch: epoch,
        acked_through: plan.ack,
    }
}

fn rollback_event(snapshot: &Snapshot, request: &Request) -> NewEvent {
    NewEvent {
        event_type: EventType::ControllerStateRollback,
        source_id: Some(snapshot.server_id.clone()),
        description: format!(
            "the host is at request {} of key epoch {} and proves it with our own signature, but only {} of epoch {} is stored: this database lost its newest commits (restored backup, failover)",
            request.header.seq, request.header.epoch, snapshot.chain.seq, snapshot.chain.epoch
        ),
        at_ms: request.now_ms,
    }
}

fn quarantine(snapshot: &Snapshot, request: &Request, how: &str) -> Outcome {
    let header = &request.header;
    let second = SecondHolder {
        seq: header.seq,
        digest: request.digest,
        place: Some((header.chain, header.nonce)),
        peer_ip: request.peer_ip.clone(),
        boot_id: header.boot_id,
        boottime_ms: header.boottime_ms,
    };
    let suspicion = clones::suspicion(snapshot, second, request.policy, request.now_ms);
    let event = clones::event(EventType::CloneSuspected, snapshot, &suspicion, how);
    quarantined(vec![
        Effect::Quarantine(Box::new(suspicion)),
        Effect::Event(event),
    ])
}
