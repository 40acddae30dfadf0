//! A fake agent: this very test program, run by a slot's script with `FAKE_AGENT` set. It serves a
//! status socket like the real one, and misbehaves as its slot says.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vpn_node_updater::clock::{Clock, SystemClock};

/// What a slot's agent is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) version: String,
    pub(crate) behaviour: String,
    pub(crate) socket: PathBuf,
    /// A file that says how the controller answers: `none` (no problem), `busy`, …
    pub(crate) controller: PathBuf,
    /// How often its seconds fit into one of the host's.
    pub(crate) speed: u32,
}

/// Plays the part in the environment, for ever; returns at once when there is none.
pub(crate) fn run_if_asked() {
    let Ok(part) = std::env::var("FAKE_AGENT") else {
        return;
    };
    let part: Part = serde_json::from_str(&part).unwrap();
    fs::create_dir_all(part.socket.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&part.socket);
    let listener = UnixListener::bind(&part.socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let start = SystemClock.now().boot;
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    let mut has_answered = false;
    loop {
        let seconds = ((SystemClock.now().boot - start) * part.speed).as_secs();
        match part.behaviour.as_str() {
            // Who ends before it answered did not start, which is another word: on a busy machine
            // half a second of the host's may pass before anybody asks.
            "crash_later" if seconds >= 5 && has_answered => {
                raise(Signal::SIGABRT).unwrap();
            }
            "end" if seconds >= 5 => return,
            "hang" if seconds >= 5 => {
                raise(Signal::SIGSTOP).unwrap();
            }
            // 16 MiB a second, written to, so that they are resident.
            "hog" if eaten.len() < usize::try_from(seconds).unwrap().min(64) => {
                eaten.push(vec![1; 16 << 20]);
            }
            _ => {}
        }
        match listener.accept() {
            Ok((stream, _)) if part.behaviour != "mute" => {
                stream.set_nonblocking(false).unwrap();
                let mut line = String::new();
                let _ = BufReader::new(&stream).read_line(&mut line);
                let answer = json!({"v": 1, "scope": "full", "ok": report(&part, seconds)});
                let _ = writeln!(&stream, "{answer}");
                has_answered = true;
            }
            // Taken, and never answered.
            Ok((stream, _)) => std::mem::forget(stream),
            Err(_) => SystemClock.sleep(Duration::from_millis(5)),
        }
    }
}

fn report(part: &Part, seconds: u64) -> Value {
    let is = |behaviour: &str| part.behaviour == behaviour;
    let controller = match part.behaviour.as_str() {
        "cut_off" => "unreachable".to_owned(),
        _ => word(&part.controller),
    };
    let attempted = if is("no_heartbeat") { 0 } else { 1 + seconds };
    let accepted = if controller == "none" { attempted } else { 0 };
    let up = seconds >= 2 && !(is("lose_backend") && seconds >= 10);
    let sessions = if is("drop_sessions") && seconds >= 10 {
        3
    } else {
        10
    };
    let version = if is("wrong_version") {
        "9.9.9"
    } else {
        &part.version
    };
    json!({
        "schema": 1,
        "version": version,
        "pid": std::process::id(),
        // A former version has been running for a while.
        "uptime_s": 100 + seconds,
        "age_s": 0,
        "enrolled": true,
        "backends": [{
            "kind": "wireguard",
            "instance": "wg0",
            "state": if up { "up" } else { "unavailable" },
            "sessions": if up { sessions } else { 0 },
        }],
        "heartbeats": {
            "attempted": attempted,
            "accepted": accepted,
            "last_problem": controller,
        },
        "last_heartbeat": {
            "at_ms": (accepted > 0).then_some(1),
            "accepted": (accepted > 0).then_some(true),
            "last_error": (controller != "none").then_some("no luck"),
        },
        "ledger": {"writable": !is("ledger"), "error": is("ledger").then_some("no space left")},
    })
}

fn word(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|_| "none".into())
}
