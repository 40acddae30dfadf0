//! A front before the controller: with the controller's own TLS key, so that hosts take it for the
//! controller. It passes everything on, or does what a hijacked mirror or a loaded controller does.
//!
//! One thread and one request a connection, HTTP/1.1 alone: enough for a handful of hosts.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{Stream, crypto::ring};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// Longer than the controller holds a request open.
const SILENT_FOR: Duration = Duration::from_secs(120);
/// Longest head of a request that is taken.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const TARGETS: &str = "/v1/releases/targets/";
const METADATA: &str = "/v1/releases/metadata/";
const RELEASES: &str = "/v1/releases/";

/// What it does with requests.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    /// Pass them on.
    Pass,
    /// 429 to everything but the signed files.
    Busy,
    /// Packages with one byte changed.
    OtherBytes,
    /// A package that never ends.
    EndlessPackage,
    /// A timestamp that never ends.
    EndlessMetadata,
    /// The metadata of another time, from this folder.
    Older(PathBuf),
    /// Packages at so many bytes a second.
    Throttled(usize),
}

/// See the module's page. Ends when it is dropped.
pub(super) struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    /// The byte at which each request for a package began.
    asked: Mutex<Vec<u64>>,
    upstream: Mutex<Option<Upstream>>,
    stop: AtomicBool,
}

#[derive(Clone)]
struct Upstream {
    address: SocketAddr,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Front {
    /// Listens; nobody is answered before [`Front::serve`].
    pub(super) fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let address = listener.local_addr().context("no address")?;
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            asked: Mutex::new(Vec::new()),
            upstream: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let all = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if all.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared) = (stream, all.clone()) else {
                    continue;
                };
                // A client that leaves in the middle is what half of the scenarios are about.
                thread::spawn(move || shared.answer(stream));
            }
        });
        Ok(Self { address, shared })
    }

    /// Where hosts reach it.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stands before the controller at `address` from now on, with the TLS key of its data.
    pub(super) fn serve(&self, address: SocketAddr, data_dir: &Path) -> Result<()> {
        let certificate = CertificateDer::from_pem_file(data_dir.join("tls.pem"))
            .context("cannot read the controller's certificate")?;
        let key = PrivateKeyDer::from_pem_file(data_dir.join("keys/tls.key"))
            .context("cannot read the controller's TLS key")?;
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        *lock(&self.shared.upstream) = Some(Upstream {
            address,
            server: Arc::new(server),
            client: Arc::new(client),
        });
        Ok(())
    }

    /// From the next request on.
    pub(super) fn set(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
    }

    /// The byte at which each request for a package began, so far.
    pub(super) fn asked(&self) -> Vec<u64> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn answer(&self, mut socket: TcpStream) -> Option<()> {
        let upstream = lock(&self.upstream).clone()?;
        socket.set_read_timeout(Some(SILENT_FOR)).ok()?;
        let mut tls = ServerConnection::new(upstream.server.clone()).ok()?;
        let mut host = Stream::new(&mut tls, &mut socket);
        let request = Request::read(&mut host)?;
        let mode = lock(&self.mode).clone();
        let (package, metadata) = (request.is_for(TARGETS), request.is_for(METADATA));
        if package {
            lock(&self.asked).push(request.range());
        }
        match mode {
            Mode::Busy if !request.is_for(RELEASES) => {
                let head = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n\
                            content-length: 0\r\nconnection: close\r\n\r\n";
                host.write_all(head.as_bytes()).ok()?;
            }
            Mode::EndlessPackage if package => endless(&mut host)?,
            Mode::EndlessMetadata if metadata && request.file() == "timestamp.json" => {
                endless(&mut host)?;
            }
            Mode::Older(folder) if metadata => match fs::read(folder.join(request.file())) {
                Ok(bytes) => whole(&mut host, &bytes)?,
                Err(_) => not_there(&mut host)?,
            },
            other => pass(&upstream, &request, &mut host, package.then_some(other))?,
        }
        tls.send_close_notify();
        tls.complete_io(&mut socket).ok()?;
        Some(())
    }
}

/// Asks the controller and gives its answer on, changed as `mode` has it.
fn pass(
    upstream: &Upstream,
    request: &Request,
    host: &mut impl Write,
    mode: Option<Mode>,
) -> Option<()> {
    let mut socket = TcpStream::connect(upstream.address).ok()?;
    socket.set_read_timeout(Some(SILENT_FOR)).ok()?;
    let name = ServerName::from(upstream.address.ip());
    let mut tls = ClientConnection::new(upstream.client.clone(), name).ok()?;
    let mut controller = Stream::new(&mut tls, &mut socket);
    controller.write_all(request.head.as_bytes()).ok()?;
    controller.write_all(&request.body).ok()?;
    controller.flush().ok()?;
    let (chunk, rest) = match mode {
        // Twenty times a second.
        Some(Mode::Throttled(rate)) => (rate.div_ceil(20), Duration::from_millis(50)),
        _ => (64 * 1024, Duration::ZERO),
    };
    let mut buffer = vec![0; chunk];
    let mut passed = 0;
    loop {
        let count = match controller.read(&mut buffer) {
            // A peer that closes without TLS's own farewell has ended all the same.
            Ok(0) | Err(_) => return Some(()),
            Ok(count) => count,
        };
        // Well behind the head, and before the end of every package.
        if mode == Some(Mode::OtherBytes) && (passed..passed + count).contains(&20_000) {
            buffer[20_000 - passed] ^= 1;
        }
        passed += count;
        host.write_all(&buffer[..count]).ok()?;
        host.flush().ok()?;
        thread::sleep(rest);
    }
}

/// Bytes until the other side has enough of them.
fn endless(host: &mut impl Write) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    host.write_all(head.as_bytes()).ok()?;
    let spaces = [b' '; 64 * 1024];
    loop {
        host.write_all(&spaces).ok()?;
    }
}

fn whole(host: &mut impl Write, bytes: &[u8]) -> Option<()> {
    let length = bytes.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    host.write_all(head.as_bytes()).ok()?;
    host.write_all(bytes).ok()
}

fn not_there(host: &mut impl Write) -> Option<()> {
    let head = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    host.write_all(head.as_bytes()).ok()
}

struct Request {
    /// As it came, but for the connection, which is used once.
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn read(host: &mut impl Read) -> Option<Self> {
        let mut reader = BufReader::new(host);
        let mut head = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            if line == "\r\n" {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if !lower.starts_with("connection:") {
                head.push_str(&line);
            }
            if head.len() > MAX_HEAD_BYTES {
                return None;
            }
        }
        head.push_str("connection: close\r\n\r\n");
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body).ok()?;
        Some(Self { head, body })
    }

    fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    fn is_for(&self, folder: &str) -> bool {
        self.path().starts_with(folder)
    }

    fn file(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    /// Where the wanted part begins.
    fn range(&self) -> u64 {
        let lower = self.head.to_ascii_lowercase();
        let range = lower
            .lines()
            .find_map(|line| line.strip_prefix("range: bytes="));
        let first = range.and_then(|range| range.split('-').next()?.parse().ok());
        first.unwrap_or(0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_to_its_end_and_used_for_one_connection() {
        let text = "GET /v1/releases/targets/a/b.tar.zst HTTP/1.1\r\nRange: bytes=77-\r\n\
                    Connection: keep-alive\r\nContent-Length: 2\r\n\r\nabrest";
        let request = Request::read(&mut text.as_bytes()).unwrap();
        assert!(request.is_for(TARGETS) && request.is_for(RELEASES) && !request.is_for(METADATA));
        assert_eq!((request.file(), request.range()), ("b.tar.zst", 77));
        assert_eq!(request.body, b"ab");
        assert!(request.head.ends_with("\r\nconnection: close\r\n\r\n"));
        assert!(!request.head.contains("keep-alive"));
    }
}
