//! Sizes, types, TLS.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{Request, header};
use hyper::body::Frame;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vpn_node_controller::{serve, tls};
use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::envelope::{CONTENT_TYPE, Envelope};

use crate::support::World;

/// A body that must not be read.
struct Untouched;

impl hyper::body::Body for Untouched {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        panic!("a body that was announced as too large was read");
    }
}

#[tokio::test]
async fn an_announced_hundred_megabytes_are_refused_before_the_first_byte() {
    let world = World::new().await;
    for path in [
        "/v1/messages",
        "/v1/poll",
        "/v1/enrol/hello",
        "/v1/enrol/complete",
    ] {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(header::CONTENT_LENGTH, 100 * 1024 * 1024)
            .body(Body::new(Untouched))
            .unwrap();
        assert_eq!(world.send(request).await.status, 413, "{path}");
        // Unannounced, it is cut off while it comes.
        let endless = Body::from(vec![b'['; 1024 * 1024]);
        assert_eq!(world.post(path, endless).await.status, 413, "{path}");
    }
    assert_eq!(world.events("unreadable_request").await.len(), 1);
}

#[tokio::test]
async fn what_is_no_envelope_is_refused_without_a_signature() {
    let world = World::new().await;
    let before = world.dump().await;
    for body in [&b""[..], b"{}", b"[", b"\xff\xff", &[b'['; 5000]] {
        let answer = world.post("/v1/messages", body).await;
        assert_eq!((answer.status, answer.signed), (400, false));
        let error: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(error["error"]["message"].is_string());
    }
    let plain = Request::post("/v1/messages")
        .body(Body::from("{}"))
        .unwrap();
    assert_eq!(world.send(plain).await.status, 415);
    assert_eq!(world.dump().await, before);
}

#[tokio::test]
async fn too_many_greetings_of_one_address_are_told_to_wait() {
    let world = World::new().await;
    let mut statuses = vec![];
    for _ in 0..601 {
        statuses.push(world.post("/v1/enrol/hello", "{}").await.status);
    }
    assert_eq!((statuses[0], statuses[599], statuses[600]), (400, 400, 429));
}

#[tokio::test]
async fn serves_over_tls_and_stops() {
    let world = World::with(|config| config.listen = "127.0.0.1:0".parse().unwrap()).await;
    world.store.close().await.unwrap();
    let running = serve::start(world.config.clone()).await.unwrap();
    let (cert, _, self_signed) = world.config.tls_files();
    assert!(self_signed && tls::server_pin(&world.config).unwrap().is_some());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(cert).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let socket = tokio::net::TcpStream::connect(running.addr).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    let request = "GET /v1/certificate HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains(CONTENT_TYPE),
        "{head}"
    );
    let envelope = Envelope::parse(body.as_bytes(), 1 << 20).unwrap();
    let pin = world.keys.certificate().root.id();
    assert!(ControllerCertificate::open(&envelope, &pin, 0).is_ok());
    // A connection that says nothing does not hold the end up.
    let _idle = tokio::net::TcpStream::connect(running.addr).await.unwrap();
    let addr = running.addr;
    running.stop().await;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn one_silent_source_does_not_take_every_place() {
    let world = World::with(|config| config.listen = "127.0.0.1:0".parse().unwrap()).await;
    world.store.close().await.unwrap();
    let running = serve::start(world.config.clone()).await.unwrap();
    let mut silent = vec![];
    for _ in 0..257 {
        silent.push(tokio::net::TcpStream::connect(running.addr).await.unwrap());
    }
    // The last one has no place: it ends at once, and not when its handshake takes too long.
    let mut last = silent.pop().unwrap();
    let mut byte = [0];
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), last.read(&mut byte));
    assert!(matches!(ended.await, Ok(Ok(0) | Err(_))));
    running.stop().await;
}
