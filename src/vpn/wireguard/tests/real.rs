//! Two real wireguard-go, a server and its client, in namespaces of their own. Where they cannot
//! run nothing is tested; `cargo xtask e2e connections` insists on them.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
};

use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    super::{Settings, WireGuard, uapi_socket},
    *,
};
use crate::{
    core::sessions::{Reason, SessionKey},
    vpn::{Backend as _, Closed, Order, Word, line},
};

const LIMIT: Duration = Duration::from_secs(2);

/// One process that holds everything: when it is killed, all in its namespaces is.
const HOST: &str = "mkdir -p /run/wireguard && mount -t tmpfs tmpfs /run/wireguard || exit 1
ip link set lo up || exit 1
wireguard-go --foreground wg1 & wireguard-go --foreground wg0 &
tries=0
until [ -S /run/wireguard/wg0.sock ] && [ -S /run/wireguard/wg1.sock ]; do
    tries=$((tries + 1)); [ $tries -lt 200 ] || exit 1
    sleep 0.05
done
ip link set wg0 up && ip link set wg1 up && : > /run/wireguard/ready
wait";

struct Host {
    child: Child,
    sockets: PathBuf,
}

impl Host {
    /// Nothing where it cannot run.
    fn boot() -> Option<Self> {
        let child = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--", "sh", "-c", HOST])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let sockets = PathBuf::from(format!("/proc/{}/root/run/wireguard", child.id()));
        let mut host = Self { child, sockets };
        while !host.sockets.join("ready").exists() {
            if host.child.try_wait().ok()?.is_some() {
                eprintln!("skipped: wireguard-go cannot run here");
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some(host)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(name)
    }
}

impl Drop for Host {
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

fn hex(key: [u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn public_key(private: [u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(private)).to_bytes()
}

#[test]
fn a_real_daemon_takes_peers_out_and_does_not_mind_unknown_ones() {
    let Some(host) = Host::boot() else { return };
    let socket = &host.socket("wg0.sock");
    let private = hex([0x11; 32]);
    let mut request = format!("set=1\nprivate_key={private}\nlisten_port=0\n");
    for number in 1..=100_u8 {
        let key = hex([number; 32]);
        request += &format!("public_key={key}\nallowed_ip=10.0.0.{number}/32\n");
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
    assert_eq!(device.public_key, Some(public_key([0x11; 32])));
}

#[test]
fn a_real_session_is_ended_by_an_order_and_does_not_come_back() {
    let Some(host) = Host::boot() else { return };
    let (server, client) = ([0x21; 32], [0x31; 32]);
    let client_key = public_key(client);
    let of_server = format!(
        "set=1\nprivate_key={}\nlisten_port=51820\npublic_key={}\nallowed_ip=10.9.0.2/32\n\n",
        hex(server),
        hex(client_key)
    );
    // A keepalive each second makes the client shake hands by itself, again and again.
    let of_client = format!(
        "set=1\nprivate_key={}\nlisten_port=51821\npublic_key={}\nendpoint=127.0.0.1:51820\n\
         allowed_ip=10.9.0.1/32\npersistent_keepalive_interval=1\n\n",
        hex(client),
        hex(public_key(server))
    );
    configure(&host.socket("wg0.sock"), &of_server);
    configure(&host.socket("wg1.sock"), &of_client);

    let settings = Settings {
        socket_dir: host.sockets.clone(),
        kernel: false,
        reader: None,
        poll: Duration::from_millis(100),
    };
    let (say, words) = channel();
    let (line, orders) = line(Box::new(move |word| say.send(word).map_err(|_| Closed))).unwrap();
    let reader = thread::spawn(move || Box::new(WireGuard::new(settings, [])).run(line));
    let mut ordered: Option<SessionKey> = None;
    let mut down = None;
    for word in words.iter().take(600) {
        let reports = match word {
            Word::Seen(reports) => reports,
            Word::Done { order, result } => {
                assert_eq!((order, result), (5, Ok(())));
                assert_eq!(down, Some(Reason::PeerRemoved), "told before the answer");
                break;
            }
        };
        for obs in reports
            .into_iter()
            .filter(|r| r.backend == wg0())
            .flat_map(|r| r.obs)
        {
            let key = match &obs {
                Obs::Up(session) => Some(&session.key),
                Obs::Snapshot { sessions, .. } => sessions.first().map(|session| &session.key),
                _ => None,
            };
            if let (None, Some(key)) = (&ordered, key) {
                let order = Order {
                    id: 5,
                    backend: wg0(),
                    key: key.clone(),
                };
                assert!(orders.give(order));
                ordered = Some(key.clone());
            }
            match obs {
                Obs::Down { key, end } if Some(&key) == ordered.as_ref() => down = Some(end.reason),
                _ => {}
            }
        }
    }
    assert!(down.is_some(), "the client never connected");
    assert_eq!(peers(&host.socket("wg0.sock")), [[0; 32]; 0]);
    // The client goes on trying, and is nobody any more.
    for word in words.iter().take(15) {
        let Word::Seen(reports) = word else {
            panic!("{word:?}")
        };
        let ups = reports
            .iter()
            .filter(|r| r.backend == wg0())
            .flat_map(|r| &r.obs);
        assert!(ups.clone().all(|obs| !matches!(obs, Obs::Up(_))));
    }
    drop(orders);
    reader.join().unwrap();
}
