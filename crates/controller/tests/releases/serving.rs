//! The tree over real HTTP: the client refreshes and downloads, and nothing else is to be had.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use vpn_node_controller::api::{self, App};
use vpn_node_controller::clock::{Clock, to_text};
use vpn_node_controller::config::Config;
use vpn_node_controller::keys::Keys;
use vpn_node_controller::releases::{Tree, keeper};
use vpn_node_controller::rules::events::EventType;
use vpn_node_controller::setup;
use vpn_node_controller::store::{self, EventFilter, Store};
use vpn_node_release::trust::{Fetch, FetchError};

use crate::support::{Machine, days, start};

/// A controller whose repository people can work on, with its routes on loopback.
struct Served {
    machine: Machine,
    addr: SocketAddr,
    store: Arc<dyn Store>,
    now_ms: Arc<AtomicI64>,
    stopping: watch::Sender<bool>,
}

impl Served {
    async fn new() -> Self {
        let mut machine = Machine::empty();
        let url = "https://127.0.0.1:8443".to_owned();
        let config = Config::new(machine.dir.path().join("data"), url);
        let now_ms = start().as_millisecond();
        setup::init(&config, &[], None, now_ms).await.unwrap();
        machine.tree = Tree::at(config.releases());
        let online = vpn_node_controller::releases::online::create(&machine.tree)
            .unwrap()
            .0;
        machine.init(online, 1).unwrap();
        let now_ms = Arc::new(AtomicI64::new(now_ms));
        let turned = Arc::clone(&now_ms);
        let clock: Clock = Arc::new(move || turned.load(Ordering::Relaxed));
        let store = store::open(&config).await.unwrap();
        let keys = Arc::new(Keys::load(&config.data_dir).unwrap());
        let (stopping, stop) = watch::channel(false);
        let app = App::new(
            Arc::clone(&store),
            keys,
            &config,
            Arc::clone(&clock),
            stop.clone(),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, api::router(app)).await });
        Self {
            machine,
            addr,
            store,
            now_ms,
            stopping,
        }
    }

    /// One round of the keeper, as a controller that has just started.
    async fn keep(&self) {
        let turned = Arc::clone(&self.now_ms);
        let clock: Clock = Arc::new(move || turned.load(Ordering::Relaxed));
        let (sender, stop) = watch::channel(true);
        keeper::keep(
            self.machine.tree.clone(),
            Arc::clone(&self.store),
            clock,
            stop,
        )
        .await;
        drop(sender);
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let (addr, path) = (self.addr, path.to_owned());
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        tokio::task::spawn_blocking(move || get(addr, "GET", &path, &headers))
            .await
            .unwrap()
    }

    async fn events(&self, event_type: EventType) -> Vec<String> {
        let filter = EventFilter {
            event_type: Some(event_type),
            ..EventFilter::newest(50)
        };
        let found = self.store.list_events(filter).await.unwrap();
        found.into_iter().map(|event| event.description).collect()
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

fn get(addr: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
    )
    .unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head,
        body: bytes[end + 4..].to_vec(),
    }
}

/// A host's way to the tree.
struct Http(SocketAddr);

impl Fetch for Http {
    fn metadata(&mut self, name: &str, _limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        let answer = get(self.0, "GET", &format!("/v1/releases/metadata/{name}"), "");
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            other => Err(FetchError::Failed(other.to_string())),
        }
    }

    fn target(&mut self, url_path: &str) -> Result<Box<dyn Read + '_>, FetchError> {
        let answer = get(
            self.0,
            "GET",
            &format!("/v1/releases/targets/{url_path}"),
            "",
        );
        match answer.status {
            200 => Ok(Box::new(std::io::Cursor::new(answer.body))),
            _ => Err(FetchError::NotFound),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_refreshes_and_downloads_over_http() {
    let served = Served::new().await;
    let path = served.machine.release("1.5.0-rc.1").target_path();
    let (addr, now, mut host) = (served.addr, served.machine.now, served.machine.host());
    let bytes = tokio::task::spawn_blocking(move || host.download(&mut Http(addr), &path, now));
    let package = std::fs::read(served.machine.package("1.5.0-rc.1")).unwrap();
    assert_eq!(bytes.await.unwrap().unwrap(), package);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_conditions_are_answered_and_caches_know_what_changes() {
    let served = Served::new().await;
    served.machine.release("1.5.0");
    let dir = served.machine.tree.dir().join("targets/vpn-node/1.5.0");
    let name = std::fs::read_dir(dir)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let path = format!(
        "/v1/releases/targets/vpn-node/1.5.0/{}",
        name.to_str().unwrap()
    );
    let whole = served.get(&path, &[]).await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("content-type"), Some("application/zstd"));
    assert!(whole.header("cache-control").unwrap().contains("immutable"));
    let part = served.get(&path, &[("Range", "bytes=10-19")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[10..20]));
    let rest = served.get(&path, &[("Range", "bytes=100-")]).await;
    assert_eq!((rest.status, &rest.body[..]), (206, &whole.body[100..]));
    let beyond = served.get(&path, &[("Range", "bytes=99999999-")]).await;
    assert_eq!(beyond.status, 416);
    let etag = whole.header("etag").unwrap();
    assert_eq!(
        served.get(&path, &[("If-None-Match", etag)]).await.status,
        304
    );
    let timestamp = served
        .get("/v1/releases/metadata/timestamp.json", &[])
        .await;
    assert_eq!(timestamp.header("cache-control"), Some("no-cache"));
    assert_eq!(timestamp.header("content-type"), Some("application/json"));
    let root = served.get("/v1/releases/metadata/1.root.json", &[]).await;
    assert!(root.header("cache-control").unwrap().contains("immutable"));
    let next = served.get("/v1/releases/metadata/2.root.json", &[]).await;
    assert_eq!(
        (next.status, next.header("cache-control")),
        (404, Some("no-store"))
    );
    let addr = served.addr;
    let head = tokio::task::spawn_blocking(move || get(addr, "HEAD", &path, ""))
        .await
        .unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_tree_is_to_be_had() {
    let served = Served::new().await;
    served.machine.release("1.5.0");
    served.machine.add("1.6.0").unwrap();
    let online = served.machine.tree.dir().join("online-keys");
    let online = std::fs::read_dir(online)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let online = online.to_str().unwrap();
    std::fs::write(
        served
            .machine
            .tree
            .dir()
            .join("metadata/.new-timestamp.json"),
        "x",
    )
    .unwrap();
    std::os::unix::fs::symlink(
        "/etc/passwd",
        served.machine.tree.dir().join("metadata/9.link.json"),
    )
    .unwrap();
    for path in [
        "metadata",
        "metadata/",
        "targets",
        "targets/",
        "targets/vpn-node",
        "targets/vpn-node/",
        "targets/vpn-node/1.5.0",
        "targets/vpn-node/1.5.0/",
        "metadata/../lock",
        "metadata/%2e%2e/lock",
        "metadata/..%2flock",
        "metadata/.new-timestamp.json",
        "metadata/9.link.json",
        "targets/../../controller.toml",
        "targets/%2e%2e/%2e%2e/controller.toml",
        "targets/vpn-node/..%2f..%2f..%2fcontroller.toml",
        "staged/targets.json",
        "metadata/1.root.json%00",
        "metadata//1.root.json",
        "metadata/targets.json",
        &format!("metadata/..%2fonline-keys%2f{online}"),
        &format!("online-keys/{online}"),
        "trust/root.json",
        "",
    ] {
        let answer = served.get(&format!("/v1/releases/{path}"), &[]).await;
        assert!(matches!(answer.status, 404 | 400), "{path}: {answer:?}");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            !body.contains("1.5.0") && !body.contains("root:"),
            "{path}: {body}"
        );
    }
    let staged = std::fs::read_dir(
        served
            .machine
            .tree
            .dir()
            .join("staged/targets/vpn-node/1.6.0"),
    );
    let staged = staged.unwrap().next().unwrap().unwrap().file_name();
    let path = format!(
        "/v1/releases/targets/vpn-node/1.6.0/{}",
        staged.to_str().unwrap()
    );
    assert_eq!(served.get(&path, &[]).await.status, 404, "not signed yet");
    let addr = served.addr;
    let put = tokio::task::spawn_blocking(move || {
        get(
            addr,
            "PUT",
            "/v1/releases/metadata/timestamp.json",
            "Content-Length: 0\r\n",
        )
    });
    assert_eq!(put.await.unwrap().status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_controller_renews_mirrors_and_says_what_ends() {
    let served = Served::new().await;
    served.machine.release("1.5.0");
    served.keep().await;
    let rows = served.store.releases().await.unwrap();
    assert_eq!(
        (rows.len(), rows[0].state.as_str(), rows[0].counter),
        (1, "published", 1)
    );
    assert_eq!(rows[0].release_date, to_text(start().as_millisecond()));
    assert_eq!(served.events(EventType::ReleasePublished).await.len(), 1);
    assert!(
        served
            .events(EventType::ReleaseMetadataExpires)
            .await
            .is_empty()
    );
    // Asleep for eleven months.
    let later = start() + days(340);
    served
        .now_ms
        .store(later.as_millisecond(), Ordering::Relaxed);
    served.keep().await;
    let (addr, mut host) = (served.addr, served.machine.host());
    let seen = tokio::task::spawn_blocking(move || host.refresh(&mut Http(addr), later));
    seen.await.unwrap().unwrap();
    served.keep().await;
    let ends = served.events(EventType::ReleaseMetadataExpires).await;
    assert_eq!(ends.len(), 2, "{ends:?}");
    assert!(
        served
            .events(EventType::ReleaseRefreshFailed)
            .await
            .is_empty()
    );
    // The root has ended: nothing can be renewed, and that is said once a day.
    let late = start() + days(366);
    served
        .now_ms
        .store(late.as_millisecond(), Ordering::Relaxed);
    served.keep().await;
    served.keep().await;
    let failed = served.events(EventType::ReleaseRefreshFailed).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].contains("expired"), "{failed:?}");
    served.stopping.send(true).unwrap();
}
