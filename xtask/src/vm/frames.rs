//! Hostile frames for a unix socket, from inside a guest: what an unprivileged user can send.
//!
//! It runs in the guest as a hidden command of the xtask, which counts what came back. Each frame
//! is made from its number and a seed, so a run can be repeated.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What the socket promises for one conversation, with room for a slow guest.
const ANSWERS_WITHIN: Duration = Duration::from_secs(8);
/// The longest answer that docs/status.md allows.
const MAX_ANSWER_BYTES: u64 = 4 << 20;
/// The last frames of a run are only begun: as many held open as a client could want.
const HELD_OPEN: usize = 200;

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(crate) struct Options {
    socket: PathBuf,
    count: u64,
    seed: u64,
}

/// What came back.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// By error code, `ok`, `closed`, `silent`, or the error of the connection.
    pub(crate) answers: BTreeMap<String, u64>,
    /// Answers that give more than the public summary, or begin something: there must be none.
    pub(crate) granted: Vec<String>,
    pub(crate) seconds: f64,
}

/// Sends them, and prints the [`Tally`] as JSON.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let began = Instant::now();
    let mut tally = Tally::default();
    for number in 0..options.count {
        let answer = converse(options, &frame(options.seed, number));
        let kind = match answer {
            Ok(answer) => judge(&answer, &mut tally.granted),
            Err(error) => format!("{:?}", error.kind()),
        };
        *tally.answers.entry(kind).or_default() += 1;
    }
    let mut held = Vec::new();
    for _ in 0..HELD_OPEN {
        held.extend(UnixStream::connect(&options.socket).ok().filter(|stream| {
            let mut stream = stream;
            stream.set_nonblocking(true).is_ok() && stream.write_all(b"{\"v\":1,").is_ok()
        }));
    }
    tally.seconds = began.elapsed().as_secs_f64();
    let line = serde_json::to_string(&tally).context("cannot write the tally")?;
    anstream::println!("{line}");
    drop(held);
    Ok(ExitCode::SUCCESS)
}

fn converse(options: &Options, frame: &Frame) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(&options.socket)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
    // A socket may hang up in the middle of a frame that is too long: its answer counts.
    match stream.write_all(&frame.bytes) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    if frame.leaves {
        return Ok(b"left".to_vec());
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

/// What kind of answer it is; one that gives too much is kept.
fn judge(answer: &[u8], granted: &mut Vec<String>) -> String {
    if answer == b"left" {
        return "left".to_owned();
    }
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(answer) else {
        return if answer.is_empty() {
            "closed"
        } else {
            "garbage"
        }
        .to_owned();
    };
    if value["scope"] == "full" || value["ok"]["begun"] == true {
        granted.push(String::from_utf8_lossy(answer).trim().to_owned());
    }
    match value["error"]["code"].as_str() {
        Some(code) => code.to_owned(),
        None => "ok".to_owned(),
    }
}

struct Frame {
    bytes: Vec<u8>,
    /// Hangs up without waiting for an answer.
    leaves: bool,
}

/// The frame with this number: every kind in turn, each with bytes of its own.
fn frame(seed: u64, number: u64) -> Frame {
    let mut random = Random(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let length = |random: &mut Random, most: u64| usize::try_from(random.below(most)).unwrap_or(0);
    let bytes = match number % 12 {
        0 => b"{\"v\":1,\"get\":\"rotate_identity\"}\n".to_vec(),
        1 => b"{\"v\":1,\"get\":\"apply_release\",\"version\":\"9.9.9\"}\n".to_vec(),
        2 => b"{\"v\":1,\"get\":\"connections\"}\n".to_vec(),
        3 => {
            let many = length(&mut random, 600);
            random.bytes(many)
        }
        4 => {
            // Nested deeper than a parser likes.
            let deep = length(&mut random, 2000);
            [b"[".repeat(deep), b"\n".to_vec()].concat()
        }
        5 => {
            // Longer than a request may be.
            let long = 4096 + length(&mut random, 64 << 10);
            [b"{\"v\":1,\"get\":\"".to_vec(), b"a".repeat(long)].concat()
        }
        6 => format!("{{\"v\":{},\"get\":\"status\"}}\n", random.next()).into_bytes(),
        7 => {
            // A good request of which bits are turned.
            let mut good = b"{\"v\":1,\"get\":\"authorisation\"}\n".to_vec();
            for _ in 0..=random.below(4) {
                let most = u64::try_from(good.len()).unwrap_or(1);
                let at = length(&mut random, most);
                good[at] ^= 1 << random.below(8);
            }
            good
        }
        8 => b"{\"v\":1,\"get\":\"status\"}\n".repeat(1 + length(&mut random, 40)),
        9 => {
            b"{\"v\":1,\"get\":\"connections\",\"after\":\"../../etc/shadow\\u0000%s\"}\n".to_vec()
        }
        10 => b"\0\xff\xfe\r\n\r\n".to_vec(),
        _ => b"{\"v\":1,\"ge".to_vec(),
    };
    Frame {
        bytes,
        leaves: random.below(16) == 0,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_the_same_each_time_and_another_with_another_number() {
        assert_eq!(frame(7, 3).bytes, frame(7, 3).bytes);
        assert_ne!(frame(7, 3).bytes, frame(7, 15).bytes);
    }

    #[test]
    fn there_is_a_frame_for_each_number() {
        assert!((0..10_000).all(|number| !frame(1, number).bytes.is_empty() || number % 12 > 2));
    }

    #[test]
    fn what_gives_more_than_the_summary_is_noticed() {
        let mut granted = Vec::new();
        let denied = br#"{"v":1,"error":{"code":"denied","message":"no"}}"#;
        assert_eq!(judge(denied, &mut granted), "denied");
        assert_eq!(
            judge(br#"{"v":1,"scope":"public","ok":{}}"#, &mut granted),
            "ok"
        );
        assert_eq!(judge(b"", &mut granted), "closed");
        assert!(granted.is_empty());
        judge(
            br#"{"v":1,"scope":"full","ok":{"begun":true}}"#,
            &mut granted,
        );
        assert_eq!(granted.len(), 1);
    }
}
