//! What the WireGuard reader costs the agent: the same dump of a prepared kernel, read by the agent
//! itself and through the reader. The reader runs in a thread here, so that each side's CPU time is
//! its thread's.

use std::{
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::{
    resource::UsageWho,
    socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, recv, socket,
        socketpair,
    },
};
use serde_json::json;
use vpn_node::{
    core::sessions::Obs,
    host::clock,
    vpn::wireguard::{
        ReadError, Settings, WireGuard,
        netlink::{DeviceParser, Link},
        peers::{HandshakeClock, PeerTable},
        reader_process::{Asked, Datagrams, Server},
    },
};

use super::cpu;

const FAMILY: u16 = 0x20;
const SEQ: u32 = 2;
/// Peers in a datagram of 32 KiB, as the kernel sends them.
const IN_DATAGRAM: usize = 160;
const BUFFER_BYTES: usize = 64 << 10;

/// Reads `count` times each way, after a first one that learns who is there.
pub(super) fn run(peers: usize, count: usize) -> Result<()> {
    let datagrams = dump_of(peers);
    let direct = direct(&datagrams, peers, count)?;
    let relayed = relayed(datagrams, peers, count)?;
    println!("{}", json!({ "direct": direct, "relayed": relayed }));
    Ok(())
}

/// As the agent reads where it asks the kernel itself; a thread is the kernel.
fn direct(datagrams: &[Vec<u8>], peers: usize, count: usize) -> Result<serde_json::Value> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (agent, kernel) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut kernel = UnixStream::from(kernel);
            for datagram in datagrams.iter().cycle() {
                if kernel.write_all(datagram).is_err() {
                    return; // the agent has read enough
                }
            }
        });
        let mut table = PeerTable::new(HandshakeClock::Unix);
        let mut buffer = vec![0; BUFFER_BYTES];
        let figures = measure(count, || {
            let mut parser = DeviceParser::new(FAMILY, SEQ);
            let mut round = table.begin(clock::now());
            let mut seen = 0;
            loop {
                let len = recv(agent.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
                let over = parser.feed(&buffer[..len], &mut |peer| {
                    seen += 1;
                    round.see(peer);
                })?;
                buffer[..len].fill(0);
                if over {
                    break;
                }
            }
            drop(round.finish(1, true));
            ensure!(seen == peers, "{seen} peers were read");
            Ok(())
        });
        drop(agent);
        figures
    })
}

fn relayed(datagrams: Vec<Vec<u8>>, peers: usize, count: usize) -> Result<serde_json::Value> {
    let folder = std::env::temp_dir().join(format!("wireguard-reader-{}", std::process::id()));
    std::fs::create_dir(&folder).context("cannot make a folder")?;
    let path = folder.join("reader.sock");
    let server = Server::on(listening(&path)?)?;
    let mut kernel = Prepared {
        datagrams,
        buffer: vec![0; BUFFER_BYTES],
    };
    let reader = thread::spawn(move || server.serve_with(&mut kernel, Duration::from_secs(1)));
    let settings = Settings {
        socket_dir: folder.join("none"),
        kernel: true,
        reader: Some(path),
        poll: Duration::ZERO,
    };
    let mut wireguard = WireGuard::new(settings, []);
    let connected = peers.div_ceil(20);
    let mut first = true;
    let figures = measure(count, || {
        let mut sessions = 0;
        for obs in wireguard.poll(clock::now()).into_iter().flat_map(|r| r.obs) {
            match obs {
                Obs::Unavailable { error, .. } => anyhow::bail!("{error}"),
                Obs::Snapshot { sessions: all, .. } => sessions = all.len(),
                _ => {}
            }
        }
        if std::mem::take(&mut first) {
            ensure!(
                sessions == connected,
                "{sessions} of {connected} are connected"
            );
        }
        Ok(())
    });
    let ended = reader.join();
    std::fs::remove_dir_all(&folder).context("cannot remove the folder")?;
    ended.ok().context("the reader panicked")??;
    figures
}

/// CPU time of this thread, and time that passed, for each of `count` readings.
fn measure(count: usize, mut read: impl FnMut() -> Result<()>) -> Result<serde_json::Value> {
    read()?;
    let (mut cpu_us, mut wall_us) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (before, began) = (cpu(UsageWho::RUSAGE_THREAD)?, Instant::now());
        read()?;
        wall_us.push(began.elapsed().as_micros());
        cpu_us.push((cpu(UsageWho::RUSAGE_THREAD)? - before).as_micros());
    }
    Ok(json!({ "cpu_us": cpu_us, "wall_us": wall_us }))
}

fn listening(path: &std::path::Path) -> Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(8).map_err(io::Error::from)?)?;
    Ok(fd.into())
}

/// A kernel that says the same again and again.
struct Prepared {
    datagrams: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Asked for Prepared {
    fn links(&mut self, _names: &[&str]) -> Result<Vec<Link>, ReadError> {
        Ok(vec![Link {
            index: 9,
            name: b"wg0".to_vec(),
            up: true,
            wireguard: true,
        }])
    }

    fn dump(&mut self, _ifindex: u32, each: Datagrams<'_>) -> Result<(), ReadError> {
        for datagram in &self.datagrams {
            // As recv(2) and the wiping behind it.
            let copy = &mut self.buffer[..datagram.len()];
            copy.copy_from_slice(datagram);
            let over = each(FAMILY, SEQ, copy)?;
            copy.fill(0);
            if over {
                break;
            }
        }
        Ok(())
    }

    fn remove(&mut self, _ifindex: u32, _public_keys: &[[u8; 32]]) -> Result<(), ReadError> {
        Ok(())
    }
}

/// One peer of twenty is connected.
fn dump_of(peers: usize) -> Vec<Vec<u8>> {
    let now = clock::now().wall_ms.cast_unsigned() / 1000;
    let numbers: Vec<usize> = (0..peers).collect();
    let mut datagrams: Vec<Vec<u8>> = numbers
        .chunks(IN_DATAGRAM)
        .map(|some| {
            let mut all = Vec::new();
            for number in some {
                let shaken = if number % 20 == 0 {
                    now - 5
                } else {
                    now - 4000
                };
                put(&mut all, 0x8000, &peer(*number, shaken));
            }
            let mut device = vec![0, 1, 0, 0];
            put(&mut device, 8 | 0x8000, &all);
            message(FAMILY, &device)
        })
        .collect();
    datagrams.push(message(3, &[0; 4])); // NLMSG_DONE
    datagrams
}

fn peer(number: usize, shaken: u64) -> Vec<u8> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(
        &(number as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes(),
    );
    let mut endpoint = [2, 0, 0x9c, 0x41, 10, 0, 0, 0].to_vec();
    endpoint[4..].copy_from_slice(&(number as u32 | 10 << 24).to_be_bytes());
    endpoint.extend([0; 8]);
    let mut ip = Vec::new();
    put(&mut ip, 1, &2_u16.to_ne_bytes());
    put(&mut ip, 2, &(number as u32 | 10 << 24).to_be_bytes());
    put(&mut ip, 3, &[32]);
    let mut ips = Vec::new();
    put(&mut ips, 0x8000, &ip);
    let mut peer = Vec::new();
    put(&mut peer, 1, &key);
    put(&mut peer, 2, &[0xee; 32]);
    put(&mut peer, 6, &[shaken.to_ne_bytes(), [0; 8]].concat());
    put(&mut peer, 5, &0_u16.to_ne_bytes());
    put(&mut peer, 8, &6_u64.to_ne_bytes());
    put(&mut peer, 7, &5_u64.to_ne_bytes());
    put(&mut peer, 10, &1_u32.to_ne_bytes());
    put(&mut peer, 4, &endpoint);
    put(&mut peer, 9 | 0x8000, &ips);
    peer
}

fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(2_u16.to_ne_bytes());
    message.extend(SEQ.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    message
}
