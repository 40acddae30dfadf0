//! One controller on a simulated clock: its router over its own store. Nothing listens.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use ed25519_dalek::SigningKey;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use uuid::Uuid;
use vpn_node::core::lane::LaneState;
use vpn_node_controller::api::{self, App, Peer};
use vpn_node_controller::config::Config;
use vpn_node_controller::keys::Keys;
use vpn_node_controller::store::{self, ServerRow, Store};
use vpn_node_controller::{clock, registration, setup};
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::{
    EnrolOutcome, EnrolReply, EnrolRequest, HelloRequest, HelloResponse, transcript,
};
use vpn_node_protocol::envelope::{CONTENT_TYPE, Envelope};
use vpn_node_protocol::hardware::{Component, Components};
use vpn_node_protocol::keys::{PublicKey, registration_key};
use vpn_node_protocol::sealing::{Context, Sealed};
use vpn_node_protocol::token::Token;

use super::dice::Dice;

/// The simulation begins on 1 January 2027.
pub(super) const BEGIN_MS: i64 = 1_798_761_600_000;
const YEAR_MS: i64 = 365 * 86_400_000;

/// The controller.
pub(super) struct Fleet {
    pub(super) keys: Arc<Keys>,
    config: Config,
    store: Arc<dyn Store>,
    app: Arc<App>,
    now_ms: Arc<AtomicI64>,
    _stopping: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

impl Fleet {
    /// A new one, in memory where the system has a place for that: no power fails here.
    pub(super) async fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        builder.prefix("vpn-node-torture");
        let shm = Path::new("/dev/shm");
        let dir = builder
            .tempdir_in(shm)
            .or_else(|_| builder.tempdir())
            .unwrap();
        let config = Config::new(dir.path().join("data"), "https://127.0.0.1:8443".to_owned());
        setup::init(&config, &[], None, BEGIN_MS).await.unwrap();
        let now_ms = Arc::new(AtomicI64::new(BEGIN_MS));
        let turned = Arc::clone(&now_ms);
        let clock: clock::Clock = Arc::new(move || turned.load(Ordering::Relaxed));
        let store = store::open(&config).await.unwrap();
        let keys = Arc::new(Keys::load(&config.data_dir).unwrap());
        let (stopping, stop) = watch::channel(false);
        let app = App::new(Arc::clone(&store), Arc::clone(&keys), &config, clock, stop);
        Self {
            keys,
            config,
            store,
            app,
            now_ms,
            _stopping: stopping,
            _dir: dir,
        }
    }

    /// Turns the controller's clock.
    pub(super) fn turn(&self, t: Duration) {
        let ms = BEGIN_MS + i64::try_from(t.as_millis()).unwrap();
        self.now_ms.store(ms, Ordering::Relaxed);
    }

    /// One request from this address: what came back, signed or not.
    pub(super) async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        peer: IpAddr,
    ) -> (StatusCode, Vec<u8>) {
        let mut request = Request::post(path)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .body(Body::from(body))
            .unwrap();
        request.extensions_mut().insert(Peer(peer));
        let service = TowerToHyperService::new(api::router(Arc::clone(&self.app)));
        let response = service.call(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, body.to_vec())
    }

    /// A newly enrolled host: its key and the first state of its lane.
    pub(super) async fn enrol(&self, dice: &mut Dice, hostname: &str) -> (SigningKey, LaneState) {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let made =
            registration::create(&*self.store, &self.config, YEAR_MS, None, None, now_ms).await;
        let token = Token::parse(&made.unwrap().text).unwrap();
        let registration = registration_key(&token.secret);
        let peer = IpAddr::from([192, 0, 2, 1]);
        let asked = HelloRequest {
            registration_key: (&registration).into(),
            client_nonce: Hex(dice.bytes()),
        };
        let (_, body) = self
            .post("/v1/enrol/hello", serde_json::to_vec(&asked).unwrap(), peer)
            .await;
        let greeting: HelloResponse = serde_json::from_slice(&body).unwrap();
        let (certificate, hello) = greeting.open(&asked, &token.root_pin).unwrap();
        let key = SigningKey::from_bytes(&dice.bytes());
        let identity = PublicKey::from(&key);
        let components = components();
        let id = identity.id();
        let sealed = Sealed::seal(
            certificate.sealing_key(hello.controller_time_ms).unwrap(),
            Context::Hardware { identity: &id },
            &serde_json::to_vec(&components).unwrap(),
            dice,
        );
        let request = EnrolRequest {
            transcript: transcript(
                &greeting.hello,
                &certificate.root,
                &(&registration).into(),
                &identity,
            ),
            hello: greeting.hello,
            idempotency_id: Uuid::from_bytes(dice.bytes()),
            identity_key: identity,
            capabilities: vec![],
            version: "0.1.0".to_owned(),
            hostname: hostname.to_owned(),
            os_version: String::new(),
            location: None,
            hardware: sealed.unwrap(),
            verification_hash: components.verification_hash(),
        };
        let envelope = Envelope::sign(&request, &[&registration, &key]);
        let (_, body) = self
            .post("/v1/enrol/complete", envelope.to_json(), peer)
            .await;
        let answer = Envelope::parse(&body, 1 << 20).unwrap();
        let reply: EnrolReply = self.keys.open_own(&answer).unwrap();
        let EnrolOutcome::Enrolled {
            server_id,
            epoch,
            nonce,
            ..
        } = reply.outcome
        else {
            panic!("{:?}", reply.outcome);
        };
        let lane = LaneState::enrolled(&server_id, epoch, identity, nonce, now_ms);
        (key, lane)
    }

    pub(super) async fn servers(&self) -> Vec<ServerRow> {
        self.store.list_servers().await.unwrap()
    }

    pub(super) async fn status(&self, server_id: &str) -> String {
        let servers = self.servers().await;
        let server = servers.iter().find(|row| row.server_id == server_id);
        server.expect("it was enrolled").status.clone()
    }
}

/// What the hosts are made of.
pub(super) fn components() -> Components {
    Components {
        disk1: Component::from_raw(b"S4EMNX0R"),
        cpu1: Component::from_raw(b"model cpu"),
        ..Components::default()
    }
}
