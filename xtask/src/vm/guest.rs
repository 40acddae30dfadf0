//! The command channel into a guest: the protocol of the QEMU guest agent
//! (qemu-ga(8), docs/interop/qemu-ga-ref), JSON lines over a virtual serial port.
//!
//! It needs no network in the guest, and root there is who runs the commands.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::shell;

/// One answer of the agent, which does nothing that takes time itself.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// While the guest boots, a request is lost; so the first one does not wait long.
const SYNC_WITHIN: Duration = Duration::from_secs(2);
/// How often a running command is looked at, at first and at last.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_millis(300);
/// The agent takes requests of this size with room to spare.
const PIECE_BYTES: usize = 1 << 20;

/// What a command left behind.
pub(crate) struct Output {
    /// As a shell has it: 128 and the signal's number for what a signal ended.
    pub(crate) status: i64,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// An open channel.
pub(super) struct Channel {
    stream: BufReader<UnixStream>,
}

impl Channel {
    /// Connects and takes what a former connection left in the line.
    pub(super) fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot connect to the guest agent")?;
        let mut channel = Self {
            stream: BufReader::new(stream),
        };
        channel.deadline(SYNC_WITHIN)?;
        let id = jiff::Timestamp::now().as_millisecond() & 0x7fff_ffff;
        // 0xFF ends whatever request was cut off before (guest-sync-delimited).
        channel.stream.get_mut().write_all(b"\xff")?;
        channel.send("guest-sync-delimited", &json!({ "id": id }))?;
        loop {
            if channel.receive()?["return"] == id {
                channel.deadline(ANSWERS_WITHIN)?;
                return Ok(channel);
            }
        }
    }

    /// Runs a script with bash until it ends. At the deadline its process group is killed.
    pub(super) fn run(
        &mut self,
        script: &str,
        input: Option<&[u8]>,
        within: Duration,
    ) -> Result<Output> {
        let deadline = Instant::now() + within;
        let pid = self.start(script, input)?;
        let mut pause = LOOK_FIRST;
        loop {
            let state = self.ask("guest-exec-status", &json!({ "pid": pid }))?;
            if state["exited"] == true {
                return output(&state);
            }
            if Instant::now() >= deadline {
                let _ = self.start(&format!("pkill -KILL -P {pid}; kill -KILL {pid}"), None);
                bail!(
                    "it did not end within {} s and was killed",
                    within.as_secs()
                );
            }
            shell::check_interrupted()?;
            thread::sleep(pause);
            pause = (pause * 3 / 2).min(LOOK_LAST);
        }
    }

    /// Starts a script with bash. Returns its process id in the guest.
    pub(super) fn start(&mut self, script: &str, input: Option<&[u8]>) -> Result<i64> {
        let mut arguments = json!({
            "path": "/bin/bash",
            "arg": ["-c", script],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME=/root", "LANG=C.UTF-8"],
            "capture-output": true,
        });
        if let Some(bytes) = input {
            arguments["input-data"] = BASE64.encode(bytes).into();
        }
        let started = self.ask("guest-exec", &arguments)?;
        started["pid"]
            .as_i64()
            .context("the guest agent named no process")
    }

    /// Writes a file, root's with mode 0600.
    pub(super) fn put(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let made = self.run(
            "umask 077 && : > \"$(cat)\"",
            Some(path.as_bytes()),
            ANSWERS_WITHIN,
        )?;
        ensure!(made.status == 0, "{}", made.stderr.trim());
        let handle = self.ask("guest-file-open", &json!({"path": path, "mode": "w"}))?;
        for piece in bytes.chunks(PIECE_BYTES) {
            let arguments = json!({"handle": handle, "buf-b64": BASE64.encode(piece)});
            let written = self.ask("guest-file-write", &arguments)?;
            ensure!(
                written["count"] == piece.len(),
                "the guest wrote {} bytes of {}",
                written["count"],
                piece.len()
            );
        }
        self.ask("guest-file-close", &json!({ "handle": handle }))
            .map(drop)
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(command, arguments)?;
        loop {
            let mut answer = self.receive()?;
            if let Some(error) = answer.get("error") {
                bail!("the guest agent refused {command}: {error}");
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let request = json!({"execute": command, "arguments": arguments});
        let stream = self.stream.get_mut();
        writeln!(stream, "{request}").context("cannot write to the guest agent")
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line);
        ensure!(
            read.context("the guest agent is silent")? > 0,
            "the guest agent's line is closed: the machine is off"
        );
        // The delimiter of a sync stands before its answer.
        let begin = line
            .iter()
            .rposition(|byte| *byte == 0xff)
            .map_or(0, |at| at + 1);
        Ok(serde_json::from_slice(&line[begin..]).unwrap_or_default())
    }

    fn deadline(&mut self, within: Duration) -> Result<()> {
        let stream = self.stream.get_mut();
        stream
            .set_read_timeout(Some(within))
            .and_then(|()| stream.set_write_timeout(Some(within)))
            .context("cannot set a deadline")
    }
}

fn output(state: &Value) -> Result<Output> {
    let text = |key: &str| -> Result<String> {
        let bytes = BASE64.decode(state[key].as_str().unwrap_or_default());
        let bytes = bytes.context("the guest agent's base64 is broken")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let status = state["exitcode"].as_i64();
    let signal = || state["signal"].as_i64().map(|signal| 128 + signal);
    Ok(Output {
        status: status.or_else(signal).context("a process without an end")?,
        stdout: text("out-data")?,
        stderr: text("err-data")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_by_a_signal_is_told_as_a_shell_tells_it() {
        let told = json!({"exited": true, "signal": 9, "out-data": "aGk="});
        let output = output(&told).unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (137, "hi"));
    }

    #[test]
    fn a_state_without_an_end_is_an_error() {
        assert!(output(&json!({"exited": true})).is_err());
    }
}
