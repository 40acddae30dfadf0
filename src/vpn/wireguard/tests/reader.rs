//! Agent and WireGuard reader over a real socket, with a kernel that a test can make say anything.

use std::{
    os::{
        fd::AsRawFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen,
        recv, send, shutdown, socket,
    },
};
use proptest::prelude::*;

use super::{
    super::{
        ReadError, Settings, WireGuard,
        netlink::{DeviceParser, Link},
        reader_process::{
            Asked, Datagrams, Server, client,
            scrub::scrub,
            wire::{Answer, Failure, MAX_PACKET, Question},
        },
        reading::Dump,
    },
    parsers::{attribute, message},
    replay::dumps,
    *,
};
use crate::{core::sessions::Reason, core::sessions::What, host::clock, vpn::Report};

const FAMILY: u16 = 0x20;
const SEQ: u32 = 2;
/// Every byte of every secret in here.
const SECRET: u8 = 0xee;

/// What the kernel has, for test and fake to share.
#[derive(Default)]
pub(super) struct World {
    links: Vec<Link>,
    /// `(key, handshake)`.
    peers: Vec<([u8; 32], u64)>,
    errno: Option<Errno>,
    /// The next dump, if it takes long to make.
    prepared: Option<Vec<Vec<u8>>>,
}

struct FakeKernel(Arc<Mutex<World>>);

impl FakeKernel {
    fn fails(&self) -> Result<(), ReadError> {
        match self.0.lock().unwrap().errno {
            Some(errno) => Err(ReadError::of("netlink", errno)),
            None => Ok(()),
        }
    }
}

impl Asked for FakeKernel {
    fn links(&mut self, names: &[&str]) -> Result<Vec<Link>, ReadError> {
        let world = self.0.lock().unwrap();
        let asked =
            |link: &&Link| link.wireguard || names.iter().any(|n| n.as_bytes() == link.name);
        Ok(world.links.iter().filter(asked).cloned().collect())
    }

    fn dump(&mut self, ifindex: u32, each: Datagrams<'_>) -> Result<(), ReadError> {
        self.fails()?;
        assert_eq!(ifindex, 9);
        let datagrams = {
            let mut world = self.0.lock().unwrap();
            let prepared = world.prepared.take();
            prepared.unwrap_or_else(|| dump_of(&world.peers))
        };
        for mut datagram in datagrams {
            if each(FAMILY, SEQ, &mut datagram)? {
                return Ok(());
            }
        }
        panic!("a dump has an end");
    }

    fn remove(&mut self, ifindex: u32, public_keys: &[[u8; 32]]) -> Result<(), ReadError> {
        self.fails()?;
        assert_eq!(ifindex, 9);
        let peers = &mut self.0.lock().unwrap().peers;
        peers.retain(|(key, _)| !public_keys.contains(key));
        Ok(())
    }
}

/// The datagrams of a dump, with a private key in the first and a preshared one in each peer.
fn dump_of(peers: &[([u8; 32], u64)]) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    for (number, some) in peers.chunks(100).enumerate() {
        let some: Vec<u8> = some
            .iter()
            .flat_map(|(key, handshake)| attribute(0x8000, &peer_of(key, *handshake)))
            .collect();
        let mut device = vec![0, 1, 0, 0];
        if number == 0 {
            device.extend(attribute(3, &[SECRET; 32]));
            device.extend(attribute(6, &51820_u16.to_ne_bytes()));
            device.extend(attribute(0x3abc, &[SECRET; 40])); // of a newer kernel
        }
        device.extend(attribute(8 | 0x8000, &some));
        datagrams.push(message(FAMILY, 2, SEQ, &device));
    }
    datagrams.push(message(3, 2, SEQ, &[0; 4]));
    datagrams
}

fn peer_of(key: &[u8; 32], handshake: u64) -> Vec<u8> {
    let ip = [attribute(2, &[10, 0, 0, 1]), attribute(3, &[32])].concat();
    let time = [handshake.to_ne_bytes(), [0; 8]].concat();
    [
        attribute(1, key),
        attribute(2, &[SECRET; 32]),
        attribute(6, &time),
        attribute(7, &5_u64.to_ne_bytes()),
        attribute(8, &6_u64.to_ne_bytes()),
        attribute(99, &[SECRET; 7]), // of a newer kernel
        attribute(9 | 0x8000, &attribute(0, &ip)),
    ]
    .concat()
}

fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|four| four == [SECRET; 4])
}

/// A reader that runs until it is dropped.
pub(super) struct Running {
    path: PathBuf,
    world: Arc<Mutex<World>>,
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(path: &Path, world: Arc<Mutex<World>>) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = listening(path);
        let server = Server::on(listener.try_clone().unwrap()).unwrap();
        let mut kernel = FakeKernel(world.clone());
        let forever = Duration::from_secs(3600);
        let thread = thread::spawn(move || {
            // Until its socket is shut.
            let _ = server.serve_with(&mut kernel, forever);
        });
        Self {
            path: path.to_owned(),
            world,
            listener,
            thread: Some(thread),
        }
    }

    /// All packets of the answer to these bytes.
    fn raw(&self, question: &[u8]) -> Vec<Vec<u8>> {
        let stream = connected(&self.path);
        send(stream.as_raw_fd(), question, MsgFlags::MSG_NOSIGNAL).unwrap();
        let mut packets = Vec::new();
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            match recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC).unwrap() {
                0 => return packets,
                len => packets.push(buffer[..len].to_vec()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        self.thread.take().unwrap().join().unwrap();
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) fn listening(path: &Path) -> UnixListener {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&fd, Backlog::new(8).unwrap()).unwrap();
    fd.into()
}

fn connected(path: &Path) -> UnixStream {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    fd.into()
}

fn link(name: &str, index: u32, wireguard: bool) -> Link {
    Link {
        index,
        name: name.into(),
        up: true,
        wireguard,
    }
}

pub(super) fn world(peers: Vec<([u8; 32], u64)>) -> Arc<Mutex<World>> {
    Arc::new(Mutex::new(World {
        links: vec![link("wg0", 9, true), link("eth0", 2, false)],
        peers,
        ..World::default()
    }))
}

pub(super) fn wireguard(dir: &Path, expected: Vec<BackendId>) -> WireGuard {
    let settings = Settings {
        socket_dir: dir.join("none"),
        kernel: true,
        reader: Some(dir.join("reader.sock")),
        poll: Duration::from_secs(5),
    };
    WireGuard::new(settings, expected)
}

pub(super) fn seconds_ago(seconds: u64) -> u64 {
    clock::now().wall_ms.cast_unsigned() / 1000 - seconds
}

pub(super) fn reduce(agent: &mut Agent, reports: Vec<Report>) -> Vec<What> {
    let mut whats = Vec::new();
    for report in reports {
        assert_eq!(report.backend, wg0());
        let events = agent.reduce(clock::now(), report.obs);
        whats.extend(events.into_iter().map(|event| event.what));
    }
    whats
}

pub(super) fn unavailable(agent: &Agent) -> Option<String> {
    let mut backends = agent.reducer.backends();
    backends.find_map(|backend| backend.unavailable.map(|(why, _)| why.to_owned()))
}

#[test]
fn nothing_of_a_key_is_in_any_packet_of_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let peers: Vec<_> = (0..250_u8).map(|n| ([n % 0xed; 32], 1)).collect();
    assert!(dump_of(&peers).iter().take(3).all(|d| has_secret(d)));
    let reader = Running::start(&dir.path().join("reader.sock"), world(peers));
    let packets = reader.raw(&Question::Dump { ifindex: 9 }.to_packet());
    assert_eq!(packets.len(), 4);
    assert!(packets.iter().all(|packet| !has_secret(packet)));
    assert!(packets.iter().flatten().all(|byte| *byte != SECRET));
}

#[test]
fn recorded_dumps_lose_their_keys_and_read_as_before() {
    for datagrams in dumps().values() {
        let mut before = Vec::new();
        let mut after = Vec::new();
        let mut plain = DeviceParser::new(FAMILY, 0);
        let mut scrubbed = DeviceParser::new(FAMILY, 0);
        let mut private: Option<Vec<u8>> = None;
        for datagram in datagrams {
            let mut datagram = datagram.clone();
            if let Some(at) = datagram.windows(4).position(|four| four == [0x24, 0, 3, 0]) {
                private = Some(datagram[at + 4..at + 36].to_vec());
            }
            let over = plain.feed(&datagram, &mut |peer| before.push(peer.clone()));
            assert_eq!(scrub(&mut datagram, FAMILY), over);
            assert_eq!(
                scrubbed.feed(&datagram, &mut |peer| after.push(peer.clone())),
                over
            );
            let private = private.as_ref().expect("the first has it");
            assert!(!datagram.windows(32).any(|bytes| bytes == private));
        }
        assert!(!before.is_empty());
        assert_eq!(before, after);
        assert_eq!(plain.device(), scrubbed.device());
    }
}

#[test]
fn what_is_no_dump_is_refused_as_a_whole() {
    let peer = attribute(0x8000, &peer_of(&[7; 32], 1));
    let device = [vec![0, 1, 0, 0], attribute(8, &peer)].concat();
    let good = message(FAMILY, 2, SEQ, &device);
    assert_eq!(scrub(&mut good.clone(), FAMILY), Ok(false));
    for cut in 1..good.len() {
        assert!(scrub(&mut good[..cut].to_vec(), FAMILY).is_err(), "{cut}");
    }
    let other = message(FAMILY + 1, 2, SEQ, &device);
    assert!(scrub(&mut other.clone(), FAMILY).is_err());
    // An attribute that claims to be longer than what it lies in, and one shorter than its header.
    for len in [200_u16, 3] {
        let mut bad = good.clone();
        bad[20..22].copy_from_slice(&len.to_ne_bytes());
        assert!(scrub(&mut bad, FAMILY).is_err(), "{len}");
    }
}

proptest! {
    #[test]
    fn whatever_the_kernel_says_a_scrubbed_datagram_reads_the_same(
        at in 0_usize..400,
        byte in any::<u8>(),
        garbage in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut datagram = dump_of(&[([7; 32], 1), ([8; 32], 2)]).concat();
        let at = at % datagram.len();
        datagram[at] = byte;
        let read = |datagram: &[u8]| {
            let mut parser = DeviceParser::new(FAMILY, SEQ);
            let mut peers = Vec::new();
            let over = parser.feed(datagram, &mut |peer| peers.push(peer.clone()));
            (over, peers, parser.device())
        };
        let before = read(&datagram);
        if scrub(&mut datagram, FAMILY).is_ok() {
            prop_assert_eq!(read(&datagram), before);
        }
        let _ = scrub(&mut garbage.clone(), FAMILY);
    }
}

#[test]
fn connections_are_seen_through_the_reader_and_ended_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let peers = vec![([1; 32], seconds_ago(5)), ([2; 32], 0)];
    let reader = Running::start(&dir.path().join("reader.sock"), world(peers));
    let mut wireguard = wireguard(dir.path(), Vec::new());
    let mut agent = Agent::fresh();
    let reports = wireguard.poll(clock::now());
    assert_eq!(reports[0].details.as_ref().unwrap().port, Some(51820));
    assert_eq!(reduce(&mut agent, reports), [What::Start]);

    let packets = reader.raw(
        &Question::Remove {
            ifindex: 9,
            public_keys: &[[1; 32], [200; 32]],
        }
        .to_packet(),
    );
    assert_eq!(packets, [Answer::Removed.to_packet()]);
    let ended = reduce(&mut agent, wireguard.poll(clock::now()));
    let [What::End(end)] = &ended[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(end.reason, Reason::PeerRemoved);
}

#[test]
fn a_reader_that_is_down_ends_nothing_and_is_used_again_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("reader.sock");
    let reader = Running::start(&socket, world(vec![([1; 32], seconds_ago(5))]));
    let world = reader.world.clone();
    let mut wireguard = wireguard(dir.path(), Vec::new());
    let mut agent = Agent::fresh();
    let started = reduce(&mut agent, wireguard.poll(clock::now()));
    assert_eq!(started, [What::Start]);
    drop(reader);

    // Its socket is there and nobody listens: as after a crash of systemd's making.
    drop(listening(&socket));
    assert_eq!(reduce(&mut agent, wireguard.poll(clock::now())), []);
    let why = unavailable(&agent).unwrap();
    assert!(
        why.contains("reader.sock does not answer") && why.contains("systemctl status"),
        "{why}"
    );

    let reader = Running::start(&socket, world);
    assert_eq!(reduce(&mut agent, wireguard.poll(clock::now())), []);
    assert_eq!(unavailable(&agent), None);

    // What the kernel says counts as if it had been asked by the agent.
    reader.world.lock().unwrap().errno = Some(Errno::EPERM);
    assert_eq!(reduce(&mut agent, wireguard.poll(clock::now())), []);
    let why = unavailable(&agent).unwrap();
    assert!(why.contains("vpn-node-wireguard.service"), "{why}");
    reader.world.lock().unwrap().errno = Some(Errno::ENODEV);
    let ended = reduce(&mut agent, wireguard.poll(clock::now()));
    let [What::End(end)] = &ended[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(end.reason, Reason::InterfaceDown);
}

#[test]
fn connections_of_a_former_process_wait_for_a_reader_that_is_down() {
    let dir = tempfile::tempdir().unwrap();
    drop(listening(&dir.path().join("reader.sock")));
    let mut wireguard = wireguard(dir.path(), vec![wg0()]);
    for _ in 0..2 {
        let reports = wireguard.poll(clock::now());
        assert!(
            matches!(&reports[..], [Report { backend, obs, .. }]
                if *backend == wg0() && matches!(&obs[..], [Obs::Unavailable { .. }])),
            "{reports:?}"
        );
    }
}

#[test]
fn a_question_that_is_none_is_refused_and_the_next_one_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Running::start(&dir.path().join("reader.sock"), world(Vec::new()));
    let refused = Answer::Failed(Failure::Question).to_packet();
    for bad in [
        &b"\x02\x02\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\n",
        &[1; 1 << 17],
    ] {
        assert_eq!(reader.raw(bad), std::slice::from_ref(&refused));
    }
    drop(connected(&reader.path)); // and one who says nothing
    let names = vec![&b"eth0"[..], b"\xff", b"none"];
    let packets = reader.raw(&Question::List { names }.to_packet());
    let links = vec![link("wg0", 9, true), link("eth0", 2, false)];
    assert_eq!(packets, [Answer::Links(links).to_packet()]);
}

#[test]
fn a_hundred_thousand_peers_come_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reader.sock");
    let peers: Vec<_> = (0..100_000_u32)
        .map(|number| {
            let mut key = [7; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            (key, 1)
        })
        .collect();
    let world = world(Vec::new());
    world.lock().unwrap().prepared = Some(dump_of(&peers));
    let _reader = Running::start(&path, world);
    let mut read = Vec::new();
    let mut buffer = vec![0; MAX_PACKET];
    // Not the product's limit: this build is not optimised, and the machine may be busy.
    let patient = Duration::from_secs(120);
    let (dump, _) = client::read(&path, 9, patient, &mut buffer, &mut |peer| {
        read.push((peer.public_key, peer.handshake.secs));
    })
    .unwrap();
    assert_eq!(dump, Dump::Clean);
    assert!(read == peers);
}

#[test]
fn it_ends_when_nobody_asks() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(listening(&dir.path().join("reader.sock"))).unwrap();
    server
        .serve_with(&mut FakeKernel(world(Vec::new())), Duration::from_millis(1))
        .unwrap();
}

#[test]
fn what_is_no_socket_of_systemd_is_refused_with_a_sentence() {
    let (one, _other) = UnixStream::pair().unwrap();
    let error = Server::on(std::os::fd::OwnedFd::from(one).into())
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("vpn-node-wireguard.socket"),
        "{error}"
    );
}
