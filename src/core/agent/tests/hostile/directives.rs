//! Directives inside good answers: each has its own signature, and stands or falls by it.

use uuid::Uuid;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::limits::CHALLENGE_DEADLINE_S;
use vpn_node_protocol::message::{DirectiveOutcome, PollReply, Purpose, Reply};

use super::{POLL, Rig, message_of, poll_reply, reply};

/// Of the bits of a directive in a reply, each of so many, since each takes a new agent. Prime to
/// 8, so that every bit of a byte has its turn. In poll replies all of them come.
const STRIDE: usize = 61;

/// A poll reply with these directives, signed well.
fn carrying(rig: &Rig, directives: Vec<Envelope>) -> Vec<u8> {
    let reply = PollReply {
        request_digest: POLL,
        controller_time_ms: rig.world.controller_ms(),
        directives,
    };
    Envelope::sign(&reply, &[&rig.world.controller.online]).to_json()
}

fn challenge(rig: &Rig, id: u128) -> Directive {
    let action = Action::Challenge {
        value: Hex([3; 32]),
        purpose: Purpose::OnDemand,
    };
    let now = rig.world.controller_ms();
    rig.world
        .controller
        .directive(Uuid::from_u128(id), action, now)
}

fn signed(rig: &Rig, directive: &Directive) -> Envelope {
    Envelope::sign(directive, &[&rig.world.controller.online])
}

/// The directive with one flipped bit, if it is an envelope still and another message.
fn flipped(rig: &Rig, envelope: &Envelope, bit: usize) -> Option<Envelope> {
    let good = envelope.to_json();
    let mut bytes = good.clone();
    bytes[bit / 8] ^= 1 << (bit % 8);
    let names = rig.key_ids();
    let other = message_of(&bytes, &names) != message_of(&good, &names);
    Envelope::parse(&bytes, usize::MAX).ok().filter(|_| other)
}

#[test]
fn every_flipped_bit_of_a_directive_in_a_poll_reply_is_refused() {
    let mut rig = poll_reply();
    let before = rig.believes();
    let good = signed(&rig, &challenge(&rig, 600));
    let mut tried = 0;
    // What is no envelope any more makes the whole answer unreadable: see the flips of answers.
    for bit in 0..good.to_json().len() * 8 {
        let Some(bad) = flipped(&rig, &good, bit) else {
            continue;
        };
        let answer = carrying(&rig, vec![bad]);
        rig.hear(answer);
        assert!(rig.believes() == before);
        tried += 1;
    }
    assert!(tried > 2000, "{tried}");
    let answer = carrying(&rig, vec![good]);
    rig.hear_good(answer);
    assert!(rig.believes() != before, "the control");
}

#[test]
fn a_flipped_bit_of_a_directive_in_a_reply_costs_the_directive_and_nothing_else() {
    let with = |rig: &Rig, directives: Vec<Envelope>| {
        let envelope = Envelope::parse(&rig.good, usize::MAX).unwrap();
        let mut reply: Reply = envelope.peek().unwrap();
        reply.directives = directives;
        Envelope::sign(&reply, &[&rig.world.controller.online]).to_json()
    };
    let rig = reply();
    let good = signed(&rig, &challenge(&rig, 600));
    let told = |mut rig: Rig, directives| {
        let answer = with(&rig, directives);
        rig.hear_good(answer);
        let believed = rig.believes();
        assert!(believed.lane.pending.is_none(), "the reply itself is good");
        // The reply is kept whole, with the directive in it.
        (believed.lane.seq, believed.floor_ms, believed.rest)
    };
    let bits = (0..good.to_json().len() * 8).step_by(STRIDE);
    let bad: Vec<_> = bits.filter_map(|bit| flipped(&rig, &good, bit)).collect();
    let without = told(rig, vec![]);
    for bad in bad {
        assert_eq!(told(reply(), vec![bad]), without);
    }
    assert_ne!(told(reply(), vec![good]), without, "the control");
}

#[test]
fn directives_for_others_of_others_and_doubled_ones_do_nothing() {
    let mut rig = poll_reply();
    let mut first = challenge(&rig, 601);
    first.action = Action::Unknown;
    let known = signed(&rig, &first);
    let answer = carrying(&rig, vec![known.clone()]);
    rig.hear(answer);
    let before = rig.believes();
    let change = |change: fn(&mut Directive)| {
        let mut directive = challenge(&rig, 602);
        change(&mut directive);
        signed(&rig, &directive)
    };
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[66; 32]);
    let bad = [
        change(|d| d.server_id = "another".into()),
        change(|d| d.server_id.clear()),
        change(|d| d.epoch += 1),
        change(|d| d.epoch = 0),
        Envelope::sign(&challenge(&rig, 602), &[&stranger]),
        // Applied before.
        known.clone(),
        // The id was used: another wish under it is none.
        change(|d| d.id = Uuid::from_u128(601)),
        // Signed well, and no directive.
        Envelope::parse(&rig.good, usize::MAX).unwrap(),
    ];
    for envelope in &bad {
        let answer = carrying(&rig, vec![envelope.clone(), envelope.clone()]);
        rig.hear(answer);
        assert!(rig.believes() == before, "{envelope:?}");
    }
    let answer = carrying(&rig, bad.to_vec());
    rig.hear(answer);
    assert!(rig.believes() == before);
}

#[test]
fn an_expired_directive_is_acknowledged_as_late_and_not_obeyed() {
    let mut rig = poll_reply();
    let mut directive = challenge(&rig, 603);
    directive.issued_ms -= i64::from(CHALLENGE_DEADLINE_S) * 1000;
    let envelope = signed(&rig, &directive);
    let state = rig.world.state();
    let answer = carrying(&rig, vec![envelope.clone(), envelope]);
    rig.hear(answer);
    assert!(rig.world.agent().challenge.is_none());
    assert_eq!(rig.world.state(), state);
    let acks = &rig.world.agent().acks;
    let mine: Vec<_> = acks.iter().filter(|ack| ack.id == directive.id).collect();
    assert_eq!(mine.len(), 1, "once");
    assert_eq!(mine[0].outcome, DirectiveOutcome::Late);
}
