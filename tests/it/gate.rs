//! The gate's process (`vpn-node gate hold`) against a status socket and a notification socket
//! that a test plays: it opens on a fresh yes, and closes on everything else.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::wait_for;

/// What the agent that is played does with a question.
#[derive(Clone)]
enum Agent {
    /// Answers with this line.
    Says(String),
    /// Takes the question and says nothing, as a stopped process.
    Silent,
    /// Says this byte again and again, without an end of the line.
    Endless(u8),
    /// One byte in a while: every read succeeds, the answer never comes.
    Drips,
}

fn answer(state: &str, valid_for_ms: u64, age_ms: u64) -> Agent {
    Agent::Says(format!(
        r#"{{"v":1,"scope":"full","ok":{{"schema":1,"state":"{state}","valid_for_ms":{valid_for_ms},"age_ms":{age_ms},"detail":"why"}}}}"#
    ))
}

fn verified() -> Agent {
    answer("verified", 1_800_000, 100)
}

/// The folder with both sockets, the agent that is played, and the gate's process.
struct Stage {
    dir: tempfile::TempDir,
    agent: Arc<Mutex<Agent>>,
    /// Questions so far.
    looks: Arc<AtomicUsize>,
    notifications: UnixDatagram,
    gate: Option<Child>,
}

impl Stage {
    /// Both sockets, and an agent that does `agent`; no gate yet.
    fn set(agent: Agent) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let notifications = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notifications.set_nonblocking(true).unwrap();
        let stage = Self {
            dir,
            agent: Arc::new(Mutex::new(agent)),
            looks: Arc::default(),
            notifications,
            gate: None,
        };
        stage.serve();
        stage
    }

    /// A stage whose gate is open.
    fn open() -> Self {
        let mut stage = Self::set(verified());
        stage.raise();
        stage.expect("READY=1");
        stage.expect("WATCHDOG=1");
        stage
    }

    fn serve(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (agent, looks) = (Arc::clone(&self.agent), Arc::clone(&self.looks));
        thread::spawn(move || {
            for stream in listener.incoming() {
                looks.fetch_add(1, Ordering::Relaxed);
                let agent = agent.lock().unwrap().clone();
                thread::spawn(move || agent.converse(stream.unwrap()));
            }
        });
    }

    /// Starts the gate's process as the unit does.
    fn raise(&mut self) {
        let child = self.command(&self.dir.path().join("notify")).spawn();
        self.gate = Some(child.unwrap());
    }

    fn command(&self, notify: &Path) -> Command {
        let config = self.dir.path().join("agent.toml");
        std::fs::write(&config, "").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vpn-node"));
        command
            .arg("--config")
            .arg(config)
            .arg("--socket")
            .arg(self.socket())
            .args(["gate", "hold"])
            .env("NOTIFY_SOCKET", notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("status.sock")
    }

    fn becomes(&self, agent: Agent) {
        *self.agent.lock().unwrap() = agent;
    }

    /// The next notification, if there is one.
    fn heard(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.notifications.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Waits for a notification with this line.
    fn expect(&self, line: &str) {
        wait_for(line, || {
            self.heard().filter(|text| text.lines().any(|l| l == line))
        });
    }

    /// Waits for so many more questions.
    fn after_looks(&self, count: usize) {
        let end = self.looks.load(Ordering::Relaxed) + count;
        wait_for("questions", || {
            (self.looks.load(Ordering::Relaxed) >= end).then_some(())
        });
    }

    /// Waits until the gate has ended: its status, the lines that systemd heard, and its words.
    fn ended(&mut self) -> (ExitStatus, Vec<String>, String) {
        let mut gate = self.gate.take().unwrap();
        let status = wait_for("the end of the gate", || gate.try_wait().unwrap());
        let lines = std::iter::from_fn(|| self.heard())
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let mut words = String::new();
        gate.stderr
            .take()
            .unwrap()
            .read_to_string(&mut words)
            .unwrap();
        (status, lines, words)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            let _ = gate.kill();
            let _ = gate.wait();
        }
    }
}

impl Agent {
    fn converse(self, mut stream: UnixStream) {
        let mut request = [0; 256];
        let length = stream.read(&mut request).unwrap_or(0);
        if let Self::Says(line) = &self {
            assert_eq!(&request[..length], b"{\"v\":1,\"get\":\"authorisation\"}\n");
            // A gate that has ended meanwhile is the test's business, not this thread's.
            let _ = stream.write_all(format!("{line}\n").as_bytes());
            return;
        }
        let (byte, pause) = match self {
            Self::Endless(byte) => (vec![byte; 64 * 1024], Duration::ZERO),
            Self::Drips => (vec![b' '], Duration::from_millis(20)),
            Self::Silent | Self::Says(_) => (Vec::new(), Duration::from_millis(20)),
        };
        // Until the other side leaves.
        stream.set_nonblocking(true).unwrap();
        while !matches!(stream.read(&mut [0; 16]), Ok(0)) {
            match stream.write(&byte) {
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
                _ => thread::sleep(pause.max(Duration::from_millis(1))),
            }
        }
    }
}

/// Opens, then lets the agent become `agent`: the gate must end, and the watchdog must not have
/// heard of it more than the once that was under way. Returns how many questions that took.
fn closes(agent: Agent, word: &str) -> usize {
    let mut stage = Stage::open();
    stage.becomes(agent);
    let before = stage.looks.load(Ordering::Relaxed);
    let (status, heard, words) = stage.ended();
    assert!(status.success(), "{status}: {words}");
    let alive = heard.iter().filter(|line| *line == "WATCHDOG=1").count();
    assert!(alive <= 1, "{heard:?}");
    assert!(
        words.contains("closing: ") && words.contains(word),
        "{words}"
    );
    assert!(
        heard.iter().any(|line| line.starts_with("STATUS=closed: ")),
        "{heard:?}"
    );
    stage.looks.load(Ordering::Relaxed) - before
}

#[test]
fn it_closes_at_the_first_no() {
    assert!(closes(answer("lapsed", 0, 0), "lapsed: why") <= 2);
    assert!(closes(answer("unverified", 0, 0), "unverified: why") <= 2);
    assert!(closes(answer("verified", 0, 0), "lease") <= 2);
}

/// At once, since each takes its seconds: they close after `looks`, or one more if the change fell
/// between a question and its answer.
fn all_close(agents: &[(Agent, &str)], looks: usize) {
    thread::scope(|scope| {
        for (agent, word) in agents {
            scope.spawn(move || {
                let took = closes(agent.clone(), word);
                assert!((looks..=looks + 1).contains(&took), "{word}: {took}");
            });
        }
    });
}

#[test]
fn it_closes_after_a_few_looks_at_an_agent_that_says_nothing() {
    let agents = [
        (Agent::Silent, "does not answer"),
        (Agent::Drips, "does not answer"),
    ];
    all_close(&agents, 4);
}

#[test]
fn it_closes_after_some_looks_at_an_agent_that_says_nothing_new() {
    all_close(&[(answer("verified", 1_800_000, 60_000), "loop hangs")], 7);
}

#[test]
fn it_closes_on_garbage_and_on_answers_without_an_end() {
    let busy = r#"{"v":1,"error":{"code":"busy","message":"Too many\u001b[2J"}}"#;
    let wrong = "not a vpn-node-agent";
    let agents = [
        (Agent::Says("garbage".into()), wrong),
        (
            Agent::Says(r#"{"v":1,"scope":"full","ok":{}}"#.into()),
            wrong,
        ),
        (Agent::Says("[".repeat(100_000)), wrong),
        (Agent::Says(busy.into()), "refused"),
        (Agent::Endless(b'x'), "vpn-node-agent"),
        (Agent::Endless(0), "vpn-node-agent"),
    ];
    all_close(&agents, 4);
}

#[test]
fn it_closes_when_the_socket_is_dead_or_gone() {
    let mut stage = Stage::open();
    std::fs::remove_file(stage.socket()).unwrap();
    let (status, _, words) = stage.ended();
    assert!(status.success() && words.contains("not running"), "{words}");

    let mut stage = Stage::open();
    std::fs::remove_file(stage.socket()).unwrap();
    drop(UnixListener::bind(stage.socket()).unwrap());
    let (status, _, words) = stage.ended();
    assert!(status.success() && words.contains("not running"), "{words}");
}

#[test]
fn it_does_not_outlive_the_lease_that_it_was_told() {
    let mut stage = Stage::set(answer("grace", 500, 0));
    stage.raise();
    stage.expect("READY=1");
    stage.becomes(Agent::Says("garbage".into()));
    let before = stage.looks.load(Ordering::Relaxed);
    let (_, _, words) = stage.ended();
    assert!(words.contains("lease"), "{words}");
    assert!(stage.looks.load(Ordering::Relaxed) - before <= 2);
}

#[test]
fn it_waits_without_a_word_to_the_watchdog_until_the_agent_says_yes() {
    let mut stage = Stage::set(answer("unverified", 0, 0));
    stage.raise();
    for agent in [
        answer("lapsed", 0, 0),
        answer("verified", 1_800_000, 60_000),
        answer("verified", 0, 0),
        Agent::Says("garbage".into()),
    ] {
        stage.becomes(agent);
        stage.after_looks(2);
    }
    let heard: Vec<String> = std::iter::from_fn(|| stage.heard()).collect();
    assert!(
        heard.iter().all(|text| text.starts_with("STATUS=closed: ")),
        "{heard:?}"
    );
    stage.becomes(answer("grace", 60_000, 0));
    stage.expect("READY=1");
    stage.expect("WATCHDOG=1");
}

#[test]
fn it_waits_for_an_agent_that_is_not_there_yet() {
    let mut stage = Stage::set(verified());
    let aside = stage.dir.path().join("aside");
    std::fs::rename(stage.socket(), &aside).unwrap();
    stage.raise();
    wait_for("the first status", || {
        stage.heard().filter(|text| text.contains("not running"))
    });
    std::fs::rename(&aside, stage.socket()).unwrap();
    stage.expect("READY=1");
}

#[test]
fn a_hiccup_closes_nothing() {
    let mut stage = Stage::open();
    stage.becomes(Agent::Says("garbage".into()));
    stage.after_looks(2);
    stage.becomes(verified());
    stage.after_looks(2);
    while stage.heard().is_some() {}
    stage.expect("WATCHDOG=1");
    assert!(stage.gate.as_mut().unwrap().try_wait().unwrap().is_none());
}

#[test]
fn a_systemd_that_cannot_be_told_is_a_failure() {
    let stage = Stage::set(verified());
    let output = stage
        .command(Path::new("/nowhere/notify"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("systemd cannot be told"), "{words}");
}
