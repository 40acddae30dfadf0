//! A proxy that ends TLS with the controller's own key and reads everything along: what the
//! operator of a load balancer sees.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::secrets::contains;

/// The proxy, and what it has read in both directions.
#[derive(Clone)]
pub(crate) struct Proxy {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    hold: Arc<Hold>,
}

/// Answers that are held back: those to requests that name this path.
struct Hold {
    path: Mutex<Option<&'static str>>,
    held: watch::Sender<bool>,
    released: watch::Sender<bool>,
}

impl Proxy {
    /// Takes a free port of the loopback.
    pub(crate) async fn bind() -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        Self {
            listener,
            address,
            seen: Arc::default(),
            hold: Arc::new(Hold {
                path: Mutex::default(),
                held: watch::Sender::new(false),
                released: watch::Sender::new(false),
            }),
        }
    }

    /// From now on the answer to the next request for this path does not reach the agent, until
    /// it is [released](Self::release).
    pub(crate) fn hold(&self, path: &'static str) {
        *self.hold.path.lock().unwrap() = Some(path);
        self.hold.held.send_replace(false);
        self.hold.released.send_replace(false);
    }

    /// Whether such an answer waits here.
    pub(crate) fn holds_an_answer(&self) -> bool {
        *self.hold.held.borrow()
    }

    /// Lets everything through again.
    pub(crate) fn release(&self) {
        *self.hold.path.lock().unwrap() = None;
        self.hold.released.send_replace(true);
    }

    /// Relays to the controller, with its own certificate and key, as long as the runtime lives.
    pub(crate) fn serve(&self, certificate: &Path, key: &Path, controller: SocketAddr) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = CertificateDer::pem_file_iter(certificate)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        let (acceptor, connector) = (
            TlsAcceptor::from(Arc::new(server)),
            TlsConnector::from(Arc::new(client)),
        );
        let proxy = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = proxy.listener.accept().await {
                tokio::spawn(proxy.clone().relay(
                    stream,
                    acceptor.clone(),
                    connector.clone(),
                    controller,
                ));
            }
        });
    }

    /// Where agents reach it.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Everything that passed so far, decrypted.
    pub(crate) fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }

    async fn relay(
        self,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        connector: TlsConnector,
        controller: SocketAddr,
    ) {
        let Ok(agent) = acceptor.accept(stream).await else {
            return;
        };
        let upstream = TcpStream::connect(controller).await.unwrap();
        let name = ServerName::from(controller.ip());
        let controller = connector.connect(name, upstream).await.unwrap();
        let (agent_in, agent_out) = tokio::io::split(agent);
        let (controller_in, controller_out) = tokio::io::split(controller);
        let asked = AtomicBool::new(false);
        tokio::join!(
            self.copy(agent_in, controller_out, Side::Agent, &asked),
            self.copy(controller_in, agent_out, Side::Controller, &asked)
        );
    }

    async fn copy(
        &self,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
        side: Side,
        asked: &AtomicBool,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            self.seen
                .lock()
                .unwrap()
                .extend_from_slice(&buffer[..length]);
            match side {
                Side::Agent => {
                    let path = *self.hold.path.lock().unwrap();
                    if path.is_some_and(|path| contains(&buffer[..length], path.as_bytes())) {
                        asked.store(true, Ordering::SeqCst);
                    }
                }
                Side::Controller => {
                    if asked.swap(false, Ordering::SeqCst) {
                        self.hold.held.send_replace(true);
                        let mut released = self.hold.released.subscribe();
                        let _ = released.wait_for(|over| *over).await;
                    }
                }
            }
            if to.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }
}

/// Who speaks.
enum Side {
    Agent,
    Controller,
}

/// The proxy trusts whoever stands behind it.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
