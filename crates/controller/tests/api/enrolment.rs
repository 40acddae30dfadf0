//! One token, one host, whatever happens on the way.

use vpn_node_protocol::enrolment::{EnrolOutcome, EnrolRefusal, EnrolReply, Hello, KeyStatus};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::limits::HELLO_LIFETIME_MS;

use crate::support::{Host, World, complete, components, other_controller};

fn code(outcome: &EnrolOutcome) -> EnrolRefusal {
    match outcome {
        EnrolOutcome::Refused { code, .. } => *code,
        EnrolOutcome::Enrolled { .. } => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn a_lost_reply_burns_nothing() {
    let world = World::new().await;
    let host = Host::new(&world.token().await, 1);
    let (bytes, first) = host.enrol(&world).await;
    assert_eq!(complete(&world, bytes).await, first);
    // Also with a new greeting, and after the token's own end.
    world.pass(48 * 3600 * 1000);
    let (_, later) = host.enrol(&world).await;
    assert_eq!(later, first);
    assert_eq!(world.count("servers").await, 1);
    assert_eq!(world.count("hardware_verification_log").await, 1);
    let hello: Hello = host.hello(&world).await.hello.peek().unwrap();
    assert!(matches!(hello.key_status, KeyStatus::Used { .. }));
}

#[tokio::test]
async fn another_identity_with_the_same_token_is_refused_and_recorded() {
    let world = World::new().await;
    let token = world.token().await;
    Host::new(&token, 1).enrol(&world).await;
    let (_, outcome) = Host::new(&token, 2).enrol(&world).await;
    let key = world
        .query("SELECT registration_key FROM registration_keys")
        .await;
    assert_eq!(code(&outcome), EnrolRefusal::TokenUsed);
    let events = world.events("registration_key_reuse").await;
    assert_eq!(events[0].severity, "high");
    assert_eq!(events[0].source_id.as_ref(), key.first());
    assert_eq!(world.count("servers").await, 1);
}

#[tokio::test]
async fn of_fifty_racers_exactly_one_enrols() {
    let world = std::sync::Arc::new(World::new().await);
    let token = world.token().await;
    let mut racers = tokio::task::JoinSet::new();
    for seed in 1..=50 {
        let (world, host) = (world.clone(), Host::new(&token, seed));
        racers.spawn(async move { host.enrol(&world).await.1 });
    }
    let outcomes = racers.join_all().await;
    let enrolled = |o: &&EnrolOutcome| matches!(o, EnrolOutcome::Enrolled { .. });
    assert_eq!(outcomes.iter().filter(enrolled).count(), 1);
    assert_eq!(world.count("servers").await, 1);
    // One event, however many tried.
    assert_eq!(world.events("registration_key_reuse").await.len(), 1);
}

#[tokio::test]
async fn a_token_that_is_over_revoked_or_unknown_enrols_nobody() {
    let world = World::new().await;
    let over = Host::new(&world.token().await, 1);
    world.pass(25 * 3600 * 1000);
    assert_eq!(
        code(&over.enrol(&world).await.1),
        EnrolRefusal::TokenExpired
    );
    let token = world.token().await;
    let revoked = Host::new(&token, 2);
    let key = world
        .query("SELECT registration_key FROM registration_keys ORDER BY creation_date DESC")
        .await;
    assert!(world.store.revoke_registration_key(&key[0]).await.unwrap());
    assert_eq!(
        code(&revoked.enrol(&world).await.1),
        EnrolRefusal::TokenRevoked
    );
    let mut made_up = token.clone();
    *made_up.secret = [9; 32];
    let unknown = Host::new(&made_up, 3);
    assert_eq!(
        code(&unknown.enrol(&world).await.1),
        EnrolRefusal::TokenUnknown
    );
    assert_eq!(world.count("servers").await, 0);
}

#[tokio::test]
async fn a_spent_token_leaves_an_event_at_the_greeting() {
    let world = World::new().await;
    let (token, late) = (world.token().await, world.token().await);
    let host = Host::new(&token, 1);
    host.enrol(&world).await;
    assert_eq!(world.count("security_events").await, 0);
    let revoked = Host::new(&world.token().await, 2);
    let key = hex_of(&revoked);
    assert!(world.store.revoke_registration_key(&key).await.unwrap());
    let over = Host::new(&late, 3);
    world.pass(25 * 3600 * 1000);
    for (host, event_type, severity, word) in [
        (&host, "registration_key_presented_again", "low", "nothing"),
        (
            &over,
            "registration_key_presented_expired",
            "medium",
            "expired",
        ),
        (
            &revoked,
            "registration_key_presented_revoked",
            "medium",
            "took back",
        ),
    ] {
        for _ in 0..3 {
            host.hello(&world).await;
        }
        let events = world.events(event_type).await;
        assert_eq!(events.len(), 1, "{event_type}: one a minute");
        assert_eq!(events[0].severity, severity);
        assert!(
            events[0].description.contains(word),
            "{}",
            events[0].description
        );
        let source = format!("192.0.2.1 key {}", &hex_of(host)[..8]);
        assert_eq!(events[0].source_id.as_ref(), Some(&source));
        world.pass(60_000);
        host.hello(&world).await;
        let next = &world.events(event_type).await[0];
        assert!(next.description.contains("2 more"), "{}", next.description);
    }
}

fn hex_of(host: &Host) -> String {
    let key = vpn_node_protocol::keys::PublicKey::from(&host.registration);
    vpn_node_protocol::encoding::Hex(*key.as_bytes()).to_string()
}

#[tokio::test]
async fn what_does_not_hold_together_is_refused_and_spends_nothing() {
    let world = World::new().await;
    let host = Host::new(&world.token().await, 1);
    let hello = host.hello(&world).await.hello;
    let good = host.enrol_request(&world, &hello);
    let both = [&host.registration, &host.key];
    let dir = tempfile::tempdir().unwrap();
    let stranger = other_controller(dir.path());
    // Somebody on the way took a signature out: no signed word about the host's own request.
    for one in [&host.registration, &host.key] {
        let stripped = Envelope::sign(&good, &[one]);
        assert_eq!(stripped.digest(), Envelope::sign(&good, &both).digest());
        let answer = world.post("/v1/enrol/complete", stripped.to_json()).await;
        assert_eq!((answer.status, answer.signed), (401, false));
    }
    assert_eq!(world.events("enrolment_refused").await.len(), 1);
    assert_eq!(world.count("security_events").await, 1);
    let mut cases = vec![];
    let mut case = |name, change: &dyn Fn(&mut vpn_node_protocol::enrolment::EnrolRequest)| {
        let mut request = good.clone();
        change(&mut request);
        cases.push((name, Envelope::sign(&request, &both)));
    };
    case("transcript", &|r| r.transcript = r.verification_hash);
    case("hash", &|r| r.verification_hash = r.transcript);
    case("long name", &|r| r.hostname = "x".repeat(256));
    case("escape in a name", &|r| r.hostname = "a\u{1b}[2J".into());
    case("no name", &|r| r.hostname.clear());
    case("another's hardware", &|r| {
        r.hardware = Host::new(
            &vpn_node_protocol::token::Token {
                url: String::new(),
                root_pin: r.transcript,
                server_pin: None,
                secret: Box::new([1; 32]),
                expires_s: 0,
            },
            9,
        )
        .seal_hardware(&world);
    });
    for (name, envelope) in cases {
        let outcome = complete(&world, envelope.to_json()).await;
        assert_eq!(code(&outcome), EnrolRefusal::BadRequest, "{name}");
    }
    // Another controller's greeting, and an old one.
    let peeked: Hello = hello.peek().unwrap();
    let foreign = host.enrol_request(&world, &stranger.sign(&peeked));
    let outcome = complete(&world, Envelope::sign(&foreign, &both).to_json()).await;
    assert_eq!(code(&outcome), EnrolRefusal::StaleHello);
    world.pass(HELLO_LIFETIME_MS + 1);
    let outcome = complete(&world, Envelope::sign(&good, &both).to_json()).await;
    assert_eq!(code(&outcome), EnrolRefusal::StaleHello);
    assert_eq!(world.count("servers").await, 0);
    assert!(matches!(
        host.enrol(&world).await.1,
        EnrolOutcome::Enrolled { .. }
    ));
}

#[tokio::test]
async fn a_host_without_primary_hardware_is_told_so() {
    let world = World::new().await;
    let mut host = Host::new(&world.token().await, 1);
    host.hardware = Components {
        disk1: Default::default(),
        ..components()
    };
    let EnrolOutcome::Enrolled { warnings, .. } = host.enrol(&world).await.1 else {
        panic!("refused");
    };
    assert_eq!(warnings.len(), 1);
}

#[tokio::test]
async fn the_database_holds_no_secret_of_the_token() {
    let world = World::new().await;
    let token = world.token().await;
    Host::new(&token, 1).enrol(&world).await;
    let secret = vpn_node_protocol::encoding::Hex(*token.secret).to_string();
    world.store.close().await.unwrap();
    let mut looked_at = 0;
    for entry in std::fs::read_dir(&world.config.data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        looked_at += 1;
        let bytes = std::fs::read(&path).unwrap();
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(
            !has(token.secret.as_slice()) && !has(secret.as_bytes()),
            "{path:?}"
        );
    }
    assert!(looked_at >= 3);
}

#[tokio::test]
async fn a_reply_names_its_request() {
    let world = World::new().await;
    let host = Host::new(&world.token().await, 1);
    let hello = host.hello(&world).await.hello;
    let request = host.enrol_request(&world, &hello);
    let envelope = Envelope::sign(&request, &[&host.registration, &host.key]);
    let answer = world.post("/v1/enrol/complete", envelope.to_json()).await;
    let reply: EnrolReply = world.open_own(&answer);
    assert_eq!(reply.request_digest, envelope.digest());
    assert_eq!(reply.controller_time_ms, world.now());
}
