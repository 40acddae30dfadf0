//! Hostile messages against the whole controller, and a hash over its store.
//!
//! A message that is not exactly what its sender signed, or not the valid next one, is refused and
//! changes nothing: every single flipped bit of every kind of message, and many structured mutants,
//! also such as the holder of the right key signs. What such a holder may lawfully do (speak, fork
//! the chain, spend a token) is judged as `oracle` works it out from the protocol, on a store that
//! is set back afterwards. The short form runs with all tests; the full one takes minutes:
//! `cargo xtask torture hostile`.

mod change;
mod dice;
mod guard;
mod introduction;
mod mutants;
mod oracle;
mod scene;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use serde_json::Value;
use tokio::time::Instant;
use vpn_node_controller::api;
use vpn_node_protocol::enrolment::{EnrolOutcome, EnrolReply, HelloResponse};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::identity::IntroductionReply;
use vpn_node_protocol::message::{Poll, PollReply, Refusal, RefusalCode, Reply};

use self::dice::Dice;
use self::guard::Guard;
use self::mutants::{FAMILIES, Material, Mutant, is_dressing};
use self::oracle::{Expect, expect};
use self::scene::{KINDS, Kind, Scene, payload};
use crate::poll::on_demand;
use crate::support::Answered;

/// Set to `full` for every bit and every mutant.
const TORTURE: &str = "VPN_NODE_TORTURE";
/// Without it: all bits of a heartbeat, and of the other kinds each of so many. Prime to 8, so that
/// every bit of a byte has its turn.
const STRIDE: usize = 101;
const FEW_MUTANTS: u32 = 2000;
const ALL_MUTANTS: u32 = 100_000;
/// The hash is computed at least once in so many requests, whatever `data_version` says.
const HASH_EVERY: usize = 1000;
/// Bits that change nothing that is signed: five letters of seven bits (the eighth is no UTF-8) of a
/// `keyid`, an unauthenticated hint.
const DRESSING_BITS: usize = 35;
/// The kinds in which keys are tried without their hint, and how many such keys there are: the
/// message names them itself.
const DRESSED: [(&str, usize); 3] = [("enrol-request", 2), ("rotate", 1), ("introduction", 1)];

#[test]
fn torture_hostile_messages_are_refused_and_change_nothing() {
    let full = std::env::var(TORTURE).is_ok_and(|value| value == "full");
    let began = Instant::now();
    let (figures, of_mutants) = thread::scope(|threads| {
        let running: Vec<_> = KINDS
            .iter()
            .map(|kind| {
                let whole = full || kind.name == "heartbeat";
                let stride = if whole { 1 } else { STRIDE };
                threads.spawn(move || alone(flips(kind, stride)))
            })
            .collect();
        let of_mutants = alone(mutants(if full { ALL_MUTANTS } else { FEW_MUTANTS }));
        let mut figures = Figures::default();
        for one in running {
            figures.add(one.join().expect("a kind fails with its own message"));
        }
        (figures, of_mutants)
    });
    println!(
        "hostile: {} kinds; {} flips: {figures}; {} mutants: {of_mutants}; {} s",
        KINDS.len(),
        figures.total(),
        of_mutants.total(),
        began.elapsed().as_secs()
    );
}

/// Each controller has a thread of its own.
fn alone<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

/// What became of so many messages.
#[derive(Default)]
struct Figures {
    by_end: BTreeMap<Expect, u64>,
    hashed: u64,
}

impl Figures {
    fn count(&mut self, end: Expect) {
        *self.by_end.entry(end).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.by_end.values().sum()
    }

    fn add(&mut self, other: Self) {
        for (end, count) in other.by_end {
            *self.by_end.entry(end).or_default() += count;
        }
        self.hashed += other.hashed;
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (end, count) in &self.by_end {
            write!(f, "{count} {end:?}, ")?;
        }
        write!(f, "{} hashes", self.hashed)
    }
}

/// Each `stride`-th bit of the valid next message of a kind, which is delivered in the end.
async fn flips(kind: &'static Kind, stride: usize) -> Figures {
    let mut scene = Scene::new().await;
    // An unsigned greeting changes nothing itself, however often it is asked for.
    let (is_greeting, is_poll) = (kind.name == "hello", kind.name == "poll");
    scene.poll_wait_s = 50;
    let original = (kind.make)(&scene);
    let mut guard = Guard::new(&scene.world.config.database()).await;
    let (mut figures, mut dressing) = (Figures::default(), vec![]);
    for bit in (0..original.len() * 8).step_by(stride) {
        let mut flipped = original.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let end = expect(&scene, kind.path, &flipped);
        if end.changes() {
            assert!(is_dressing(&original, &flipped), "{}: bit {bit}", kind.name);
            dressing.push(flipped);
            continue;
        }
        assert!(
            end == Expect::Refused || is_greeting,
            "{}: bit {bit}",
            kind.name
        );
        let answer = scene.deliver(kind.path, flipped.clone()).await;
        agrees(&scene, end, kind.path, &flipped, &answer);
        assert!(
            guard.is_unchanged().await,
            "{}: bit {bit} changed the store",
            kind.name
        );
        if (bit / stride).is_multiple_of(HASH_EVERY) {
            assert!(
                guard.is_unchanged_by_hash().await,
                "{}: bit {bit}",
                kind.name
            );
        }
        figures.count(end);
    }
    assert!(guard.is_unchanged_by_hash().await, "{}", kind.name);
    if is_poll {
        // Something to take away, once the challenge that is open has ended.
        scene.world.pass(61_000);
        let (store, id) = (&scene.world.store, &scene.host.server_id);
        store
            .queue_challenge(id, on_demand(&scene.world))
            .await
            .unwrap();
        tokio::spawn(api::watch_directives(Arc::clone(&scene.world.app)));
        guard.take_as_it_is().await;
    }
    let end = expect(&scene, kind.path, &original);
    let answer = scene.deliver(kind.path, original.clone()).await;
    agrees(&scene, end, kind.path, &original, &answer);
    assert!(
        end != Expect::Refused,
        "{}: the original is not good",
        kind.name
    );
    let changed = guard.take_as_it_is().await;
    assert_eq!(changed, !is_greeting, "{}: the control", kind.name);
    if stride == 1 {
        let dressed = DRESSED.iter().find(|(name, _)| *name == kind.name);
        let some = dressed.map_or(0, |(_, keys)| keys * DRESSING_BITS);
        assert_eq!(dressing.len(), some, "{}", kind.name);
    }
    // What was signed is the same: it is answered like the original, which has had its effect.
    for flipped in dressing {
        let again = scene.deliver(kind.path, flipped).await;
        assert_eq!(again, answer, "{}", kind.name);
        assert!(guard.is_unchanged().await);
        figures.count(Expect::Repeated);
    }
    assert!(guard.is_unchanged_by_hash().await, "{}", kind.name);
    figures.hashed = guard.hashed;
    figures
}

/// So many structured mutants of all kinds.
async fn mutants(count: u32) -> Figures {
    let mut scene = Scene::new().await;
    let material = Material::of(&scene);
    let mut guard = Guard::new(&scene.world.config.database()).await;
    let mut dice = Dice(7);
    let mut figures = Figures::default();
    let mut families = [0_u64; FAMILIES.len()];
    for n in 0..count {
        let (family, mutant, end) = next(&scene, &material, &mut dice);
        let Mutant { path, body } = mutant;
        let answer = scene.deliver(path, body.clone()).await;
        let what = || {
            let (name, _) = FAMILIES[family];
            let start = String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned();
            format!("mutant {n} ({name}) to {path}, {end:?}: {start}")
        };
        agrees(&scene, end, path, &body, &answer);
        if end.changes() {
            assert!(!guard.is_unchanged().await, "{}", what());
            took_effect(&mut guard, end, path, &body).await;
            guard.set_back().await;
        } else {
            assert!(guard.is_unchanged().await, "{}", what());
        }
        if path == "/v1/poll" && end == Expect::Answered {
            scene.polled(poll_of(&body).request_id);
        }
        if (n as usize).is_multiple_of(HASH_EVERY) {
            assert!(guard.is_unchanged_by_hash().await, "{}", what());
        }
        families[family] += 1;
        figures.count(end);
    }
    assert!(guard.is_unchanged_by_hash().await);
    assert!(families.iter().all(|n| *n > 0), "{families:?}");
    for end in [
        Expect::Refused,
        Expect::InAnothersName,
        Expect::NotKnown,
        Expect::Known,
        Expect::Accepted,
        Expect::Quarantined,
        Expect::Ahead,
        Expect::Enrolled,
        Expect::Introduced,
    ] {
        assert!(figures.by_end.contains_key(&end), "no mutant was {end:?}");
    }
    figures.hashed = guard.hashed;
    figures
}

/// A mutant, and what must become of it. A lawful poll that asks to be held is passed over: there
/// is nothing that would end it.
fn next(scene: &Scene, material: &Material, dice: &mut Dice) -> (usize, Mutant, Expect) {
    loop {
        let (family, mutant) = material.mutant(scene, dice);
        let end = expect(scene, mutant.path, &mutant.body);
        let held = mutant.path == "/v1/poll"
            && end == Expect::Answered
            && poll_of(&mutant.body).wait_s > 0;
        if !held {
            return (family, mutant, end);
        }
    }
}

fn poll_of(body: &[u8]) -> Poll {
    Envelope::parse(body, usize::MAX).unwrap().peek().unwrap()
}

/// The answer is the one that is expected.
fn agrees(scene: &Scene, end: Expect, path: &str, body: &[u8], answer: &Answered) {
    let digest = || Envelope::parse(body, usize::MAX).unwrap().digest();
    let outcome = || scene.own::<EnrolReply>(answer).map(|reply| reply.outcome);
    let refused = |code| {
        let refusal = scene.own::<Refusal>(answer);
        refusal.is_some_and(|it| (it.code, it.request_digest) == (code, digest()))
    };
    let good = match (end, path) {
        (Expect::Refused, "/v1/enrol/complete") => match outcome() {
            Some(outcome) => matches!(outcome, EnrolOutcome::Refused { .. }),
            None => answer.status >= 400,
        },
        (Expect::Refused, _) => answer.status >= 400,
        (Expect::InAnothersName, _) => {
            let problem = serde_json::from_slice::<Value>(&answer.body);
            let code = |problem: Value| problem["error"]["code"] == "another_server";
            (answer.status, answer.signed) == (400, false) && problem.is_ok_and(code)
        }
        (Expect::NotKnown | Expect::Known | Expect::Introduced, _) => {
            scene.own::<IntroductionReply>(answer).is_some_and(|reply| {
                reply.request_digest == digest() && reply.known == (end != Expect::NotKnown)
            })
        }
        (Expect::Answered, "/v1/enrol/hello") => {
            serde_json::from_slice::<HelloResponse>(&answer.body).is_ok()
        }
        (Expect::Answered, _) => scene
            .own::<PollReply>(answer)
            .is_some_and(|reply| reply.request_digest == digest()),
        (Expect::Repeated, "/v1/messages") => {
            let other = scene.last_of_other().reply.to_json();
            answer.body == other || Some(answer) == scene.answers.last()
        }
        (Expect::Repeated | Expect::Enrolled, _) => {
            matches!(outcome(), Some(EnrolOutcome::Enrolled { .. }))
        }
        (Expect::Accepted, _) => scene
            .own::<Reply>(answer)
            .is_some_and(|reply| reply.header.request_digest == digest()),
        (Expect::Quarantined, _) => refused(RefusalCode::Quarantined),
        (Expect::Ahead, _) => refused(RefusalCode::Ahead),
    };
    assert!(
        good,
        "expected {end:?} of {path}, but {}: {}\nof {}",
        answer.status,
        String::from_utf8_lossy(&answer.body),
        String::from_utf8_lossy(&body[..body.len().min(3000)])
    );
}

/// The lawful change is the one that is expected, and the only one that can be told apart.
async fn took_effect(guard: &mut Guard, end: Expect, path: &str, body: &[u8]) {
    let envelope = Envelope::parse(body, usize::MAX).unwrap();
    let digest = envelope.digest();
    match end {
        Expect::Quarantined => {
            guard.lift_quarantine(&server_named(&envelope)).await;
            assert!(
                guard.is_unchanged_by_hash().await,
                "a quarantine changed more"
            );
        }
        Expect::Ahead => {
            guard.forget_ahead(digest).await;
            assert!(guard.is_unchanged_by_hash().await, "a refusal changed more");
        }
        Expect::Accepted => {
            let moved = format!(
                "SELECT CAST(COUNT(*) AS TEXT) FROM server_chains WHERE last_digest = '{digest}'"
            );
            assert_eq!(guard.ask(&moved).await, "1");
        }
        Expect::Introduced => {
            let next = format!(
                "SELECT CAST(COUNT(*) AS TEXT) FROM server_keys
                 WHERE status = 'next' AND server_id = '{}'",
                server_named(&envelope)
            );
            assert_eq!(guard.ask(&next).await, "1");
        }
        Expect::Enrolled => {
            let servers = "SELECT CAST(COUNT(*) AS TEXT) FROM servers";
            assert_eq!(guard.ask(servers).await, "4");
        }
        _ => unreachable!("{end:?} to {path} changes nothing"),
    }
}

/// In the header of a chained request, or at the top.
fn server_named(envelope: &Envelope) -> String {
    let payload = payload(&serde_json::to_value(envelope).unwrap());
    let inside = payload.pointer("/header/server_id");
    let named = inside.unwrap_or(&payload["server_id"]);
    named.as_str().expect("a text").to_owned()
}
