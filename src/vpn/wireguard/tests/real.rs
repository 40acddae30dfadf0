//! A real wireguard-go in namespaces of its own. Where there is none, or no right to run one,
//! nothing is tested; `cargo xtask e2e connections` insists on it.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{super::uapi_socket, *};

const LIMIT: Duration = Duration::from_secs(2);

struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Nothing where it cannot run.
    fn start() -> Option<Self> {
        let hold = "mkdir -p /run/wireguard && mount -t tmpfs tmpfs /run/wireguard \
                    && exec wireguard-go --foreground wg0";
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--", "sh", "-c", hold])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let socket = format!("/proc/{}/root/run/wireguard/wg0.sock", child.id());
        loop {
            if UnixStream::connect(&socket).is_ok() {
                let socket = PathBuf::from(socket);
                return Some(Self { child, socket });
            }
            if child.try_wait().ok()?.is_some() {
                return None;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configure(socket: &Path, request: &str) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"errno=0\n\n");
}

fn peers(socket: &Path) -> Vec<[u8; 32]> {
    let mut keys = Vec::new();
    let mut sink = |peer: &PeerReading| keys.push(peer.public_key);
    uapi_socket::read(socket, LIMIT, false, &mut [0; 4096], &mut sink).unwrap();
    keys.sort_unstable();
    keys
}

#[test]
fn a_real_daemon_takes_peers_out_and_does_not_mind_unknown_ones() {
    let Some(daemon) = Daemon::start() else {
        eprintln!("skipped: wireguard-go cannot run here");
        return;
    };
    let socket = &daemon.socket;
    let mut request = format!("set=1\nprivate_key={}\nlisten_port=0\n", "11".repeat(32));
    for key in 1..=100_u8 {
        request += &format!(
            "public_key={}\nallowed_ip=10.0.0.{key}/32\n",
            format!("{key:02x}").repeat(32)
        );
    }
    configure(socket, &(request + "\n"));
    assert_eq!(peers(socket).len(), 100);
    let out: Vec<[u8; 32]> = (1..=64).map(|key| [key; 32]).collect();
    uapi_socket::remove(socket, LIMIT, &out, &mut [0; 4096]).unwrap();
    let left: Vec<[u8; 32]> = (65..=100).map(|key| [key; 32]).collect();
    assert_eq!(peers(socket), left);
    // Gone already, and never there.
    uapi_socket::remove(socket, LIMIT, &[[1; 32], [200; 32]], &mut [0; 4096]).unwrap();
    assert_eq!(peers(socket), left);
    let device = uapi_socket::read(socket, LIMIT, true, &mut [0; 4096], &mut |_| {}).unwrap();
    assert!(device.public_key.is_some());
}
