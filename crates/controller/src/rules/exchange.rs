//! One chained request, judged as a whole: place in the chain, effects, reply.

use uuid::Uuid;
use vpn_node_protocol::chain as chain_value;
use vpn_node_protocol::connection::Stamp;
use vpn_node_protocol::directive::Directive;
use vpn_node_protocol::limits::MAX_DIRECTIVE_ACKS;
use vpn_node_protocol::message::{
    ConnectionsAck, Header, RefusalCode, Reply, ReplyHeader, Verdict,
};

use crate::rules::boot::Boot;
use crate::rules::chain::{Judgement, Place, judge};
use crate::rules::challenge;
use crate::rules::connections::{self, OpenedBatch};
use crate::rules::effect::{ChainStep, Effect, NewEvent, Severity, StandingWrite};
use crate::rules::heartbeat;
use crate::rules::request::{Request, Subject};
use crate::rules::state::{ServerStatus, Snapshot, standing};

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
        /// It is old: anybody may send it again and again, so its event must be rate-limited.
        old: bool,
    },
    /// Accepted.
    Accept(Box<Accepted>),
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
    // The database's integers end there; no honest chain comes near.
    if header.seq == 0 || i64::try_from(header.seq).is_err() {
        return Err("the request's number is impossible");
    }
    Ok(())
}

/// Decides.
#[must_use]
pub fn decide(snapshot: &Snapshot, request: &Request) -> Outcome {
    match snapshot.status {
        ServerStatus::Revoked => return refuse(RefusalCode::Revoked, REVOKED, vec![]),
        ServerStatus::Quarantined => return refuse(RefusalCode::Quarantined, QUARANTINED, vec![]),
        ServerStatus::Pending | ServerStatus::Active => {}
    }
    let header = &request.header;
    let place = Place {
        seq: header.seq,
        chain: header.chain,
        nonce: header.nonce,
        digest: request.digest,
        proof: request.proof.as_ref(),
        earlier: snapshot.earlier,
    };
    match (judge(&snapshot.chain, &place), &snapshot.last_reply) {
        (Judgement::Repeat, Some(reply)) => Outcome::Repeat(reply.clone()),
        (Judgement::Next, _) => accept(snapshot, request, vec![]),
        (Judgement::AheadProven, _) => {
            let event = rollback_event(snapshot, request);
            accept(snapshot, request, vec![Effect::Event(event)])
        }
        (Judgement::Ahead, _) => refuse(RefusalCode::Ahead, AHEAD, vec![]),
        (Judgement::Replayed, _) => old(RefusalCode::BadRequest, REPLAYED),
        (Judgement::Forgotten, _) => old(RefusalCode::Quarantined, FORGOTTEN),
        (Judgement::Diverged(how), _) => quarantine(snapshot, request, how),
        (Judgement::Repeat, None) => quarantine(snapshot, request, "its reply is not stored"),
    }
}

const REVOKED: &str = "this server was revoked; to use the host again, enrol it with a new token";
const QUARANTINED: &str = "two holders of this server's identity were seen (a copied disk, or a restored snapshot): both are stopped until an operator resolves it or the host is enrolled again";
const REPLAYED: &str = "this request was accepted before, and others after it";
const FORGOTTEN: &str = "this request is far behind: it was recorded and sent again, or this host was restored from an old snapshot; if so, enrol it again";
const AHEAD: &str = "the controller does not remember that far: send the last reply as proof";

fn refuse(code: RefusalCode, message: &str, effects: Vec<Effect>) -> Outcome {
    Outcome::Refuse {
        code,
        message: message.to_owned(),
        effects,
        old: false,
    }
}

fn old(code: RefusalCode, message: &str) -> Outcome {
    Outcome::Refuse {
        code,
        message: message.to_owned(),
        effects: vec![],
        old: true,
    }
}

fn accept(snapshot: &Snapshot, request: &Request, mut effects: Vec<Effect>) -> Outcome {
    let before = StandingWrite {
        verdict: snapshot.verdict,
        reason: snapshot.verdict_reason.clone(),
        challenges_missed: snapshot.challenges_missed,
        available: false,
    };
    let mut now = before.clone();
    let mut hardware_status = snapshot.hardware_status;
    let mut directives = vec![];
    let mut connections_ack = None;
    let open = heartbeat::settle_directives(snapshot, request, &mut now, &mut effects);
    match &request.subject {
        Subject::Heartbeat(body) => {
            directives = heartbeat::judge(snapshot, request, body, open, &mut now, &mut effects);
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
    }
    let said = |s: &StandingWrite| (s.verdict, s.reason.clone(), s.challenges_missed);
    now.available = snapshot.status == ServerStatus::Active && now.verdict == Verdict::Verified;
    if said(&now) != said(&before) {
        effects.push(Effect::Standing(now.clone()));
    }
    let header = &request.header;
    let step = ChainStep {
        from_seq: snapshot.chain.seq,
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
            epoch: snapshot.chain.epoch,
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
    let plan = connections::plan(snapshot.ledger_acked, batch);
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
            event_type: "connection_gap",
            severity: Severity::Medium,
            component: "connections",
            source_id: Some(snapshot.server_id.clone()),
            description: format!(
                "{count} connection records of ledger {epoch} are lost, from sequence {} on ({})",
                first.first, first.reason
            ),
            at_ms: request.now_ms,
        }));
    }
    if plan.ack > snapshot.ledger_acked {
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
        event_type: "controller_state_rollback",
        severity: Severity::Medium,
        component: "chain",
        source_id: Some(snapshot.server_id.clone()),
        description: format!(
            "the host is at request {} and proves it with our own signature, but only {} is stored: this database lost its newest commits (restored backup, failover)",
            request.header.seq, snapshot.chain.seq
        ),
        at_ms: request.now_ms,
    }
}

fn quarantine(snapshot: &Snapshot, request: &Request, how: &str) -> Outcome {
    let boot = |id: Option<Uuid>| id.map_or("no boot yet".to_owned(), |id| format!("boot {id}"));
    let event = NewEvent {
        event_type: "clone_suspected",
        severity: Severity::High,
        component: "chain",
        source_id: Some(snapshot.server_id.clone()),
        description: format!(
            "two holders of one identity, or a restored snapshot: request {} from {} ({}) does not follow request {} from {} ({}): {how}; both are quarantined",
            request.header.seq,
            request.peer_ip,
            boot(Some(request.header.boot_id)),
            snapshot.chain.seq,
            snapshot.peer_ip,
            boot(snapshot.boot.map(|boot| boot.id)),
        ),
        at_ms: request.now_ms,
    };
    refuse(
        RefusalCode::Quarantined,
        QUARANTINED,
        vec![Effect::Quarantine, Effect::Event(event)],
    )
}
