//! A flood of what strangers can trigger fills no table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::body::Body;
use axum::http::{Request, header};
use uuid::Uuid;
use vpn_node_controller::api::Peer;
use vpn_node_controller::rules::events::EventType;
use vpn_node_controller::rules::state::Kept;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::HelloRequest;
use vpn_node_protocol::envelope::{CONTENT_TYPE, Envelope, Payload as _};
use vpn_node_protocol::identity::Introduction;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Poll, RefusalCode};

use crate::clones::{copy_of, is_refused, next};
use crate::raw;
use crate::resolving::keep;
use crate::support::{Host, World};

/// Requests of one kind from one source.
const FLOOD: usize = 20;
/// More than the minute in which one is kept.
const MINUTE_MS: i64 = 61_000;

/// One request that leaves an event.
struct Trigger {
    event_type: EventType,
    what: What,
}

enum What {
    /// A path and a body.
    Bytes(&'static str, Vec<u8>),
    /// An enrolment, signed by both keys or by one only. Made when it is sent: a greeting is good
    /// for ten minutes.
    Enrolment(Box<Host>, bool),
}

impl Trigger {
    fn bytes(event_type: EventType, path: &'static str, body: Vec<u8>) -> Self {
        let what = What::Bytes(path, body);
        Self { event_type, what }
    }

    fn enrolment(event_type: EventType, host: &Host, both: bool) -> Self {
        let what = What::Enrolment(Box::new(host.clone()), both);
        Self { event_type, what }
    }

    async fn made(&self, world: &World) -> (&'static str, Vec<u8>) {
        match &self.what {
            What::Bytes(path, body) => (path, body.clone()),
            What::Enrolment(host, both) => {
                let hello = host.hello(world).await.hello;
                let request = host.enrol_request(world, &hello);
                let keys = [&host.registration, &host.key];
                let envelope = Envelope::sign(&request, if *both { &keys } else { &keys[..1] });
                ("/v1/enrol/complete", envelope.to_json())
            }
        }
    }

    async fn send(world: &World, (path, body): &(&'static str, Vec<u8>), from: &str) {
        let mut request = Request::post(*path)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .body(Body::from(body.clone()))
            .unwrap();
        let from: IpAddr = from.parse().unwrap();
        request.extensions_mut().insert(Peer(from));
        world.send(request).await;
    }
}

#[tokio::test]
async fn a_flood_leaves_one_event_a_minute_for_each_type_and_source() {
    let world = World::new().await;
    let triggers = triggers(&world).await;
    let tried: BTreeSet<&str> = triggers.iter().map(|t| t.event_type.word()).collect();
    let strangers_can: BTreeSet<&str> = EventType::ALL
        .iter()
        .filter(|one| one.component() == "api")
        .map(|one| one.word())
        .collect();
    assert_eq!(tried, strangers_can);
    for trigger in &triggers {
        let word = trigger.event_type.word();
        world.pass(MINUTE_MS);
        let made = trigger.made(&world).await;
        let before = world.events(word).await.len();
        for n in 0..FLOOD {
            Trigger::send(&world, &made, "192.0.2.50").await;
            // One network of 64 bits is one source.
            Trigger::send(&world, &made, &format!("2001:db8::{n:x}")).await;
        }
        let kept = world.events(word).await;
        assert_eq!(kept.len() - before, 2, "{word}");
        assert!(!kept[0].description.contains("more like it"), "{word}");
        world.pass(MINUTE_MS);
        for source in ["192.0.2.50", "2001:db8::77"] {
            Trigger::send(&world, &made, source).await;
            let next = &world.events(word).await[0];
            let said = format!("; {} more like it were not recorded", FLOOD - 1);
            assert!(
                next.description.ends_with(&said),
                "{word}: {}",
                next.description
            );
            assert!(next.description.contains(source), "{word}");
            assert_eq!(next.severity, trigger.event_type.severity().as_str());
        }
        assert_eq!(world.events(word).await.len() - before, 4, "{word}");
    }
}

async fn triggers(world: &World) -> Vec<Trigger> {
    let mut all = enrolments(world).await;
    // Enrolled after them, since the tokens that are to be over have made time pass.
    let mut host = Host::enrolled(world, 1).await;
    let older = poll_of(&host);
    let stranger = Host::new(&world.token().await, 99);
    let replayed = host.sign(host.header(world), host.heartbeat());
    let answer = world.post("/v1/messages", replayed.to_json()).await;
    host.take(world, &replayed, &answer);
    host.beat(world).await;
    host.beat(world).await;
    let poll = poll_of(&host);
    world.post("/v1/poll", poll.to_json()).await;
    let beat = host.sign(host.header(world), host.heartbeat());
    let mut forged: serde_json::Value = serde_json::from_slice(&beat.to_json()).unwrap();
    forged["signatures"][0]["sig"] =
        serde_json::to_value(&older).unwrap()["signatures"][0]["sig"].clone();
    let mut other = host.header(world);
    other.server_id = Uuid::from_u128(1).to_string();
    let nonsense = raw::signed(Poll::TYPE, b"{}", &[&host.key]);
    for (event_type, path, body) in [
        (EventType::UnreadableRequest, "/v1/messages", b"{".to_vec()),
        (
            EventType::UnknownKey,
            "/v1/messages",
            stranger
                .sign(stranger.header(world), stranger.heartbeat())
                .to_json(),
        ),
        (
            EventType::BadSignature,
            "/v1/messages",
            forged.to_string().into_bytes(),
        ),
        (EventType::WrongType, "/v1/messages", poll.to_json()),
        (EventType::BadPayload, "/v1/poll", nonsense),
        (
            EventType::MessageForAnotherServer,
            "/v1/messages",
            host.sign(other, host.heartbeat()).to_json(),
        ),
        (
            EventType::ReplayedRequest,
            "/v1/messages",
            replayed.to_json(),
        ),
        (EventType::StalePoll, "/v1/poll", older.to_json()),
        (EventType::ReplayedPoll, "/v1/poll", poll.to_json()),
    ] {
        all.push(Trigger::bytes(event_type, path, body));
    }
    all.extend(former_holders(world).await);
    all
}

/// What is left by keys that count no longer, or do not count yet.
async fn former_holders(world: &World) -> Vec<Trigger> {
    let mut rotated = Host::enrolled(world, 20).await;
    rotated.beat(world).await;
    let before = next(&rotated, world);
    rotated.rotate(world, 120).await;
    rotated.beat(world).await;

    let mut host = Host::enrolled(world, 21).await;
    host.beat(world).await;
    let mut copy = copy_of(&host);
    host.beat(world).await;
    copy.chain = Hex([7; 32]);
    is_refused(&copy, world, RefusalCode::Quarantined).await;
    assert!(keep(world, &host.server_id, Kept::First).await);

    let revoked = Host::enrolled(world, 22).await;
    let done = world
        .store
        .revoke_server(&revoked.server_id, "stolen", world.now());
    assert!(done.await.unwrap());

    let claimed = Introduction {
        server_id: host.server_id.clone(),
        epoch: 2,
        rotations: vec![],
    };
    [
        (
            EventType::IntroductionRefused,
            "/v1/introduction",
            Envelope::sign(&claimed, &[&rotated.key]),
        ),
        (EventType::RetiredKeyUsed, "/v1/messages", before),
        (
            EventType::OtherHolderRefused,
            "/v1/messages",
            next(&copy, world),
        ),
        (
            EventType::RevokedServerSpoke,
            "/v1/messages",
            next(&revoked, world),
        ),
    ]
    .map(|(event_type, path, envelope)| Trigger::bytes(event_type, path, envelope.to_json()))
    .into()
}

/// What tokens can leave, from the greeting on.
async fn enrolments(world: &World) -> Vec<Trigger> {
    let (used, late, revoked) = (
        world.token().await,
        world.token().await,
        world.token().await,
    );
    let mut unknown = used.clone();
    *unknown.secret = [9; 32];
    let first = Host::new(&used, 10);
    first.enrol(world).await;
    let second = Host::new(&used, 11);
    let (late, revoked, unknown) = (
        Host::new(&late, 12),
        Host::new(&revoked, 13),
        Host::new(&unknown, 14),
    );
    let key = Hex(*PublicKey::from(&revoked.registration).as_bytes());
    let taken = world.store.revoke_registration_key(&key.to_string()).await;
    assert!(taken.unwrap());
    world.pass(25 * 3600 * 1000);
    let mut all = vec![];
    for (host, presented, used) in [
        (
            &second,
            Some(EventType::RegistrationKeyPresentedAgain),
            EventType::RegistrationKeyReuse,
        ),
        (
            &late,
            Some(EventType::RegistrationKeyPresentedExpired),
            EventType::RegistrationKeyExpiredUsed,
        ),
        (
            &revoked,
            Some(EventType::RegistrationKeyPresentedRevoked),
            EventType::RegistrationKeyRevokedUsed,
        ),
        (&unknown, None, EventType::RegistrationKeyUnknown),
    ] {
        let asked = HelloRequest {
            registration_key: (&host.registration).into(),
            client_nonce: Hex([1; 32]),
        };
        let greeting = serde_json::to_vec(&asked).unwrap();
        all.extend(presented.map(|one| Trigger::bytes(one, "/v1/enrol/hello", greeting)));
        all.push(Trigger::enrolment(used, host, true));
    }
    let refused = EventType::EnrolmentRefused;
    all.push(Trigger::enrolment(refused, &unknown, false));
    all
}

fn poll_of(host: &Host) -> Envelope {
    let poll = Poll {
        server_id: host.server_id.clone(),
        epoch: 1,
        nonce: host.nonce,
        boot_id: host.boot_id,
        request_id: Uuid::from_bytes(vpn_node_controller::clock::random()),
        wait_s: 0,
    };
    Envelope::sign(&poll, &[&host.key])
}
