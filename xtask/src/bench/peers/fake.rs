//! A daemon's socket that serves a prepared answer: as many peers as wanted, and no work of its own.
//!
//! All peers have shaken hands at some time, one of [`CONNECTED`] is connected, and the counters of
//! those grow from one answer to the next.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use std::{io, thread};

use anyhow::{Context, Result, bail};

use crate::lab::machine::Machine;

/// One peer of so many is connected.
const CONNECTED: usize = 20;
/// Counters have 12 digits, so that they can grow where they stand.
const FIRST_COUNT: u64 = 100_000_000_000;
/// A client that hangs must not hold up the next one for ever.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// Serves until it is dropped.
pub(crate) struct Fake {
    path: PathBuf,
    connected: usize,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Listens on the machine's /run/wireguard with an answer of so many peers.
    pub(super) fn serve(machine: Machine, peers: usize) -> Result<Self> {
        let Machine::Held(holder) = machine else {
            bail!("a socket of ours does not belong among the real ones of this machine");
        };
        let path = PathBuf::from(format!("/proc/{holder}/root/run/wireguard/wgbench0.sock"));
        Self::serve_at(path, peers, CONNECTED)
    }

    /// Listens at `path` with an answer of so many peers, of whom one of `one_of` is connected.
    pub(crate) fn serve_at(path: PathBuf, peers: usize, one_of: usize) -> Result<Self> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .context("the clock stands before 1970")?;
        let mut answer = Answer::of(peers, one_of, now.as_secs());
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                // A client that leaves early is its own business: `wg` does, to see who is there.
                let _ = stream.and_then(|stream| serve(stream, &mut answer));
            }
        });
        Ok(Self {
            path,
            connected: peers.div_ceil(one_of),
            stop,
            thread: Some(thread),
        })
    }

    /// How many of its peers are connected.
    pub(crate) fn connected(&self) -> usize {
        self.connected
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let woken = UnixStream::connect(&self.path);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn serve(mut stream: UnixStream, answer: &mut Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(WRITTEN_WITHIN))?;
    stream.set_write_timeout(Some(WRITTEN_WITHIN))?;
    let mut request = [0; 7];
    stream.read_exact(&mut request)?;
    if &request == b"get=1\n\n" {
        answer.grow();
        stream.write_all(&answer.bytes)?;
    }
    Ok(())
}

/// What wireguard-go would say, and where the counters of the connected peers stand in it.
struct Answer {
    bytes: Vec<u8>,
    counters: Vec<Range<usize>>,
    count: u64,
}

impl Answer {
    fn of(peers: usize, one_of: usize, unix_now: u64) -> Self {
        let mut text = format!("private_key={:064x}\nlisten_port=51820\n", 1);
        let mut counters = Vec::new();
        for number in 0..peers {
            let connected = number % one_of == 0;
            let handshake = if connected {
                unix_now - 5
            } else {
                unix_now - 4000 - number as u64
            };
            let inside = address(number);
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "public_key={}\npreshared_key={:064x}\nprotocol_version=1\n\
                 endpoint={inside}:40001\nlast_handshake_time_sec={handshake}\n\
                 last_handshake_time_nsec=90579966\n",
                hex(number),
                0
            );
            for name in ["tx_bytes", "rx_bytes"] {
                let _ = writeln!(text, "{name}={FIRST_COUNT}");
                if connected {
                    let end = text.len() - 1;
                    counters.push(end - 12..end);
                }
            }
            let _ = write!(
                text,
                "persistent_keepalive_interval=0\nallowed_ip={inside}/32\n"
            );
        }
        text.push_str("errno=0\n\n");
        Self {
            bytes: text.into_bytes(),
            counters,
            count: FIRST_COUNT,
        }
    }

    fn grow(&mut self) {
        self.count += 1480;
        let digits = self.count.to_string();
        for counter in &self.counters {
            self.bytes[counter.clone()].copy_from_slice(digits.as_bytes());
        }
    }
}

/// `wg addconf` of these peers.
pub(super) fn config(peers: Range<usize>) -> String {
    let mut text = String::new();
    for number in peers {
        let _ = write!(
            text,
            "[Peer]\nPublicKey = {}\nAllowedIPs = {}/32\n",
            base64(number),
            address(number)
        );
    }
    text
}

/// A public key, any 32 bytes: spread as those of real peers are (splitmix64).
fn key(number: usize) -> [u8; 32] {
    let mut state = number as u64;
    let mut key = [0; 32];
    for word in key.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    key
}

fn hex(number: usize) -> String {
    key(number).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// RFC 4648 §4 of 32 bytes.
fn base64(number: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in key(number).chunks(3) {
        let bits = three
            .iter()
            .fold(0, |bits: u32, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for at in 0..=three.len() {
            let six = bits >> (18 - 6 * at) & 0x3f;
            text.push(char::from(ALPHABET[six as usize]));
        }
    }
    text + "="
}

/// An address of 10.0.0.0/8.
fn address(number: usize) -> String {
    let [_, a, b, c] = (number as u32).to_be_bytes();
    format!("10.{a}.{b}.{c}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connected_peers_grow_from_answer_to_answer_and_the_others_do_not() {
        let mut answer = Answer::of(40, CONNECTED, 1_700_000_000);
        let before = String::from_utf8(answer.bytes.clone()).unwrap();
        answer.grow();
        let after = String::from_utf8(answer.bytes).unwrap();
        let changed: Vec<&str> = before
            .lines()
            .zip(after.lines())
            .filter_map(|(before, after)| (before != after).then_some(after))
            .collect();
        let grown = ["tx_bytes=100000001480", "rx_bytes=100000001480"];
        assert_eq!(changed, [grown, grown].concat());
        assert!(after.ends_with("allowed_ip=10.0.0.39/32\nerrno=0\n\n"));
    }

    #[test]
    fn keys_differ_and_are_written_as_wg_reads_them() {
        assert_ne!(hex(1), hex(2));
        assert_eq!(hex(7).len(), 64);
        let text = base64(7);
        assert_eq!((text.len(), text.ends_with('=')), (44, true));
        assert_eq!(config(0..3).matches("PublicKey").count(), 3);
    }
}
