//! A controller in a temporary directory with a clock that the test turns, and a host.

mod database;
mod identity;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Body;
use axum::http::{Request, header};
use ed25519_dalek::SigningKey;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use uuid::Uuid;
use vpn_node_controller::api::{self, App, Peer};
use vpn_node_controller::config::Config;
use vpn_node_controller::keys::{self, Keys};
use vpn_node_controller::registration;
use vpn_node_controller::store::{self, Store};
use vpn_node_controller::{clock, setup};
use vpn_node_protocol::chain;
use vpn_node_protocol::directive::Directive;
use vpn_node_protocol::encoding::{Digest, Hex, Nonce};
use vpn_node_protocol::enrolment::{
    EnrolOutcome, EnrolReply, EnrolRequest, Hello, HelloRequest, HelloResponse, transcript,
};
use vpn_node_protocol::envelope::{CONTENT_TYPE, Envelope, Payload};
use vpn_node_protocol::hardware::{Component, Components};
use vpn_node_protocol::identity::Rotation;
use vpn_node_protocol::keys::{PublicKey, registration_key};
use vpn_node_protocol::message::{
    Authorisation, BacklogReport, Body as MessageBody, Header, Heartbeat, Message, Refusal, Reply,
};
use vpn_node_protocol::metrics::SystemMetrics;
use vpn_node_protocol::sealing::{Context, Sealed};
use vpn_node_protocol::token::Token;

/// Where every test's clock begins.
pub(crate) const START_MS: i64 = 1_795_000_000_000;

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) app: Arc<App>,
    pub(crate) now_ms: Arc<AtomicI64>,
    _stopping: watch::Sender<bool>,
    _dir: Arc<tempfile::TempDir>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) signed: bool,
    pub(crate) body: Vec<u8>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), change).await
    }

    pub(crate) async fn in_dir(dir: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let dir = Arc::new(dir);
        let url = "https://127.0.0.1:8443".to_owned();
        let mut config = Config::new(dir.path().join("data"), url);
        change(&mut config);
        setup::init(&config, &[], None, START_MS).await.unwrap();
        Self::open(dir, config, START_MS).await
    }

    async fn open(dir: Arc<tempfile::TempDir>, config: Config, now_ms: i64) -> Self {
        let now_ms = Arc::new(AtomicI64::new(now_ms));
        let turned = Arc::clone(&now_ms);
        let clock: clock::Clock = Arc::new(move || turned.load(Ordering::Relaxed));
        let store = store::open(&config).await.unwrap();
        let keys = Arc::new(Keys::load(&config.data_dir).unwrap());
        let (stopping, stop) = watch::channel(false);
        let app = App::new(Arc::clone(&store), Arc::clone(&keys), &config, clock, stop);
        Self {
            config,
            store,
            keys,
            app,
            now_ms,
            _stopping: stopping,
            _dir: dir,
        }
    }

    /// A copy of the database as it is now.
    pub(crate) async fn back_up(&self) -> PathBuf {
        self.back_up_as("backup.db").await
    }

    pub(crate) async fn back_up_as(&self, name: &str) -> PathBuf {
        let copy = self.config.data_dir.join(name);
        let pool = self.database().await;
        sqlx::query("VACUUM INTO ?")
            .bind(copy.to_str().unwrap())
            .execute(&pool)
            .await
            .unwrap();
        pool.close().await;
        copy
    }

    /// The controller once more, on a database that was backed up earlier.
    pub(crate) async fn restore(self, backup: PathBuf) -> Self {
        self.store.close().await.unwrap();
        let database = self.config.database();
        for suffix in ["-wal", "-shm"] {
            let mut path = database.clone().into_os_string();
            path.push(suffix);
            let _ = std::fs::remove_file(path);
        }
        std::fs::rename(backup, &database).unwrap();
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let Self { config, _dir, .. } = self;
        Self::open(_dir, config, now_ms).await
    }

    pub(crate) fn pass(&self, ms: i64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// The controller's process once more, on the same files.
    pub(crate) async fn restart(self) -> Self {
        self.store.close().await.unwrap();
        let now_ms = self.now();
        let Self { config, _dir, .. } = self;
        Self::open(_dir, config, now_ms).await
    }

    pub(crate) async fn token(&self) -> Token {
        self.token_for(None).await
    }

    /// A token for a new server, or for a new identity of this one.
    pub(crate) async fn token_for(&self, server_id: Option<&str>) -> Token {
        let day = 24 * 3600 * 1000;
        let made = registration::create(
            &*self.store,
            &self.config,
            day,
            None,
            server_id.map(str::to_owned),
            self.now(),
        )
        .await;
        Token::parse(&made.unwrap().text).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Answered {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .body(body.into())
            .unwrap();
        self.send(request).await
    }

    /// The same from another address.
    pub(crate) async fn post_from(
        &self,
        address: IpAddr,
        path: &str,
        body: impl Into<Body>,
    ) -> Answered {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .extension(Peer(address))
            .body(body.into())
            .unwrap();
        self.send(request).await
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answered {
        if request.extensions().get::<Peer>().is_none() {
            request.extensions_mut().insert(Peer([192, 0, 2, 1].into()));
        }
        let service = TowerToHyperService::new(api::router(Arc::clone(&self.app)));
        let response = service.call(request).await.unwrap();
        Answered {
            status: response.status().as_u16(),
            signed: response
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(|value| value == CONTENT_TYPE),
            body: response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .to_vec(),
        }
    }

    /// What our own key signed.
    pub(crate) fn open_own<P: Payload>(&self, answer: &Answered) -> P {
        let envelope = Envelope::parse(&answer.body, 1 << 20)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&answer.body)));
        self.keys
            .open_own(&envelope)
            .unwrap_or_else(|| panic!("{} is not a {}", envelope.payload_type(), P::TYPE))
    }

    pub(crate) async fn events(&self, event_type: &str) -> Vec<store::EventRow> {
        let mut events = self
            .store
            .list_events(store::EventFilter::newest(1000))
            .await
            .unwrap();
        events.retain(|event| event.event_type == event_type);
        events
    }
}

/// A host that enrols or has enrolled. Its clone is a copy of the whole host; a clone that is used
/// later is a host that was set back.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) key: SigningKey,
    pub(crate) registration: SigningKey,
    pub(crate) hardware: Components,
    pub(crate) boot_id: Uuid,
    pub(crate) address: IpAddr,
    pub(crate) idempotency_id: Uuid,
    pub(crate) server_id: String,
    /// Of the key.
    pub(crate) epoch: u32,
    pub(crate) seq: u64,
    pub(crate) chain: Digest,
    pub(crate) nonce: Nonce,
    pub(crate) authorisation: Authorisation,
    /// The last reply, for a proof.
    pub(crate) last_reply: Option<Envelope>,
    /// Oldest first.
    pub(crate) rotations: Vec<Rotation>,
}

pub(crate) fn components() -> Components {
    Components {
        disk1: Component::from_raw(b"DISK-ONE"),
        cpu1: Component::from_raw(b"CPU-ONE"),
        ..Components::default()
    }
}

impl Host {
    pub(crate) fn new(token: &Token, seed: u8) -> Self {
        Self {
            key: SigningKey::from_bytes(&[seed; 32]),
            registration: registration_key(&token.secret),
            hardware: components(),
            boot_id: Uuid::from_u128(u128::from(seed)),
            address: [192, 0, 2, 1].into(),
            idempotency_id: Uuid::from_u128(77),
            server_id: String::new(),
            epoch: 1,
            seq: 0,
            chain: Hex([0; 32]),
            nonce: Hex([0; 32]),
            authorisation: Authorisation::Unverified,
            last_reply: None,
            rotations: vec![],
        }
    }

    /// Enrolled with a new token.
    pub(crate) async fn enrolled(world: &World, seed: u8) -> Self {
        let mut host = Self::new(&world.token().await, seed);
        let (_, outcome) = host.enrol(world).await;
        host.take_enrolment(outcome);
        host
    }

    pub(crate) fn identity(&self) -> PublicKey {
        (&self.key).into()
    }

    pub(crate) async fn hello(&self, world: &World) -> HelloResponse {
        let asked = HelloRequest {
            registration_key: (&self.registration).into(),
            client_nonce: Hex([1; 32]),
        };
        let answer = world
            .post("/v1/enrol/hello", serde_json::to_vec(&asked).unwrap())
            .await;
        let response: HelloResponse = serde_json::from_slice(&answer.body).unwrap();
        response
            .open(&asked, &world.keys.certificate().root.id())
            .unwrap();
        response
    }

    pub(crate) fn seal_hardware(&self, world: &World) -> Sealed {
        let entry = world.keys.certificate().sealing_key(world.now()).unwrap();
        let identity = self.identity().id();
        Sealed::seal(
            entry,
            Context::Hardware {
                identity: &identity,
            },
            &serde_json::to_vec(&self.hardware).unwrap(),
            &mut rand_core::UnwrapErr(getrandom::SysRng),
        )
        .unwrap()
    }

    pub(crate) fn enrol_request(&self, world: &World, hello: &Envelope) -> EnrolRequest {
        let peeked: Hello = hello.peek().unwrap();
        EnrolRequest {
            hello: hello.clone(),
            transcript: transcript(
                hello,
                &world.keys.certificate().root,
                &peeked.registration_key,
                &self.identity(),
            ),
            idempotency_id: self.idempotency_id,
            identity_key: self.identity(),
            capabilities: vec![],
            version: "0.1.0".into(),
            hostname: "host-1".into(),
            os_version: "Test OS 1".into(),
            location: Some("Nowhere".into()),
            hardware: self.seal_hardware(world),
            verification_hash: self.hardware.verification_hash(),
        }
    }

    /// Both round trips; returns the request's bytes too, for a retry.
    pub(crate) async fn enrol(&self, world: &World) -> (Vec<u8>, EnrolOutcome) {
        let hello = self.hello(world).await.hello;
        let request = self.enrol_request(world, &hello);
        let envelope = Envelope::sign(&request, &[&self.registration, &self.key]);
        let bytes = envelope.to_json();
        (bytes.clone(), complete(world, bytes).await)
    }

    pub(crate) fn take_enrolment(&mut self, outcome: EnrolOutcome) {
        let EnrolOutcome::Enrolled {
            server_id,
            epoch,
            nonce,
            ..
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        self.chain = chain::start(&server_id, epoch, &self.identity());
        (self.server_id, self.nonce, self.seq) = (server_id, nonce, 0);
        self.epoch = epoch;
    }

    pub(crate) fn header(&self, world: &World) -> Header {
        Header {
            server_id: self.server_id.clone(),
            epoch: self.epoch,
            seq: self.seq + 1,
            chain: self.chain,
            nonce: self.nonce,
            boot_id: self.boot_id,
            agent_time_ms: 0,
            boottime_ms: u64::try_from(world.now() - START_MS).unwrap() + 1_000_000,
            directive_acks: vec![],
            proof: None,
        }
    }

    pub(crate) fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            version: "0.1.0".into(),
            uptime_s: 1,
            backends: vec![],
            metrics: SystemMetrics::default(),
            clock_offset_ms: None,
            backlog: BacklogReport::default(),
            location: None,
            authorisation: self.authorisation,
            verification_wanted: None,
            update: None,
        }
    }

    pub(crate) fn sign<B>(&self, header: Header, body: B) -> Envelope
    where
        B: MessageBody + Serialize + DeserializeOwned,
    {
        Envelope::sign(&Message { header, body }, &[&self.key])
    }

    pub(crate) async fn send(&self, world: &World, envelope: &Envelope) -> Answered {
        let bytes = envelope.to_json();
        world.post_from(self.address, "/v1/messages", bytes).await
    }

    /// Sends the next chained request and takes its reply.
    pub(crate) async fn say<B>(&mut self, world: &World, body: B) -> Reply
    where
        B: MessageBody + Serialize + DeserializeOwned,
    {
        let envelope = self.sign(self.header(world), body);
        let answer = self.send(world, &envelope).await;
        self.take(world, &envelope, &answer)
    }

    pub(crate) async fn beat(&mut self, world: &World) -> Reply {
        self.say(world, self.heartbeat()).await
    }

    pub(crate) fn take(&mut self, world: &World, envelope: &Envelope, answer: &Answered) -> Reply {
        assert_eq!(
            answer.status,
            200,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        let reply: Reply = world.open_own(answer);
        assert_eq!(reply.header.request_digest, envelope.digest());
        let sent: serde_json::Value = serde_json::to_value(&reply.header).unwrap();
        assert_eq!(sent["server_id"], self.server_id);
        assert_eq!(
            reply.header.chain,
            chain::next(&self.chain, &envelope.digest())
        );
        self.seq = reply.header.seq;
        self.chain = reply.header.chain;
        self.nonce = reply.header.nonce;
        self.last_reply = Some(Envelope::parse(&answer.body, 1 << 20).unwrap());
        reply
    }

    /// Sends an envelope that is to be refused with a signed answer.
    pub(crate) async fn refused(&self, world: &World, envelope: &Envelope) -> (u16, Refusal) {
        let answer = self.send(world, envelope).await;
        assert!(answer.signed);
        let refusal: Refusal = world.open_own(&answer);
        assert_eq!(refusal.request_digest, envelope.digest());
        (answer.status, refusal)
    }

    /// The directives of a reply, verified.
    pub(crate) fn directives(&self, world: &World, reply: &[Envelope]) -> Vec<Directive> {
        reply
            .iter()
            .map(|envelope| {
                let directive: Directive = world.keys.open_own(envelope).unwrap();
                assert_eq!(directive.server_id, self.server_id);
                directive
            })
            .collect()
    }
}

pub(crate) async fn complete(world: &World, bytes: Vec<u8>) -> EnrolOutcome {
    let digest = Envelope::parse(&bytes, 1 << 20).unwrap().digest();
    let answer = world.post("/v1/enrol/complete", bytes).await;
    let reply: EnrolReply = world.open_own(&answer);
    assert_eq!(reply.request_digest, digest);
    reply.outcome
}

/// The keys of another controller.
pub(crate) fn other_controller(dir: &std::path::Path) -> Keys {
    keys::create(dir, START_MS).unwrap();
    Keys::load(dir).unwrap()
}
