//! A stand-in for a userspace WireGuard daemon: a socket that answers `get=1` (wireguard.com,
//! "Cross-platform Userspace Implementation"). It exists for what a real one would not do on
//! demand; the real ones are in `cargo xtask demo`.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// One peer as the daemon would tell it.
#[derive(Clone)]
pub(crate) struct Peer {
    /// Public key in hex.
    pub(crate) public_key: String,
    /// `IP:PORT`.
    pub(crate) endpoint: String,
    /// Seconds since the Unix epoch; 0 is never.
    pub(crate) handshake_s: u64,
    pub(crate) rx_bytes: u64,
}

/// The stand-in; its peers can be changed while it answers.
#[derive(Clone)]
pub(crate) struct FakeWireGuard {
    peers: Arc<Mutex<Vec<Peer>>>,
}

impl FakeWireGuard {
    /// Listens as `INTERFACE.sock` in `dir`.
    pub(crate) fn start(dir: &Path, interface: &str) -> Self {
        let fake = Self {
            peers: Arc::default(),
        };
        let listener = UnixListener::bind(dir.join(format!("{interface}.sock"))).unwrap();
        let answering = fake.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 64];
                let length = stream.read(&mut request).unwrap_or(0);
                if request[..length].starts_with(b"get=1\n") {
                    // A client that has gone away is its own business.
                    let _ = stream.write_all(answering.answer().as_bytes());
                }
            }
        });
        fake
    }

    /// Changes what it says from now on.
    pub(crate) fn set(&self, peers: Vec<Peer>) {
        *self.peers.lock().unwrap() = peers;
    }

    fn answer(&self) -> String {
        let mut text = format!("private_key={}\nlisten_port=51820\n", "11".repeat(32));
        for peer in self.peers.lock().unwrap().iter() {
            text += &format!(
                "public_key={}\nendpoint={}\nlast_handshake_time_sec={}\nlast_handshake_time_nsec=1\ntx_bytes=10\nrx_bytes={}\npersistent_keepalive_interval=0\nallowed_ip=10.9.0.2/32\nprotocol_version=1\n",
                peer.public_key, peer.endpoint, peer.handshake_s, peer.rx_bytes
            );
        }
        text + "errno=0\n\n"
    }
}

/// Seconds since the Unix epoch, as a handshake tells them.
pub(crate) fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
