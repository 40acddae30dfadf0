//! An OpenVPN server without a tunnel: its management interface tells of clients that connect one
//! after the other, and lists them when asked. It notes when it listed each for the first time.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::unix_us;

/// How often it looks for new clients while nobody asks.
const TURN: Duration = Duration::from_millis(5);
/// Unix seconds at which the server started, and its clients connected.
const SINCE: u64 = 1_795_000_000;
const COLUMNS: &str = "HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\t\
    Bytes Received\tBytes Sent\tConnected Since (time_t)\tClient ID\r\n";

/// See the module's page. Dropping it stops it.
pub(super) struct Daemon {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    /// Clients a second.
    rate: u64,
    over: AtomicBool,
    lists: AtomicU64,
    /// When clients began to come.
    begun: Mutex<Option<Instant>>,
    /// Microseconds since the Unix epoch at which each client was listed first, in their order.
    told: Mutex<Vec<u64>>,
}

impl Daemon {
    /// Listens at `socket`. No client yet.
    pub(super) fn start(socket: &Path, rate: u64) -> Result<Self> {
        let listener = UnixListener::bind(socket)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let state = Arc::new(State {
            rate,
            over: AtomicBool::new(false),
            lists: AtomicU64::new(0),
            begun: Mutex::new(None),
            told: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            while !shared.is_over() {
                match listener.accept() {
                    // Whoever hangs up may come again.
                    Ok((stream, _)) => drop(serve(stream, &shared)),
                    Err(_) => thread::sleep(TURN),
                }
            }
        });
        Ok(Self {
            state,
            thread: Some(thread),
        })
    }

    /// Whether somebody has seen that there are no clients yet.
    pub(super) fn was_asked(&self) -> bool {
        self.state.lists.load(Ordering::Acquire) > 0
    }

    pub(super) fn let_clients_come(&self) {
        *locked(&self.state.begun) = Some(Instant::now());
    }

    /// No more of them; when each was listed first.
    pub(super) fn end(mut self) -> Vec<u64> {
        self.stop();
        locked(&self.state.told).clone()
    }

    fn stop(&mut self) {
        self.state.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// How many clients have come.
    fn clients(&self) -> u64 {
        let begun = *locked(&self.begun);
        begun.map_or(0, |at| at.elapsed().as_millis() as u64 * self.rate / 1000)
    }
}

/// Answers what is asked, and tells when clients have come.
fn serve(mut stream: UnixStream, state: &State) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TURN))?;
    stream.write_all(b">INFO:OpenVPN Management Interface Version 5 -- type 'help'\r\n")?;
    let (mut asked, mut buffer, mut announced) = (Vec::new(), [0; 1024], 0);
    while !state.is_over() {
        let come = state.clients();
        for client in announced..come {
            write!(
                stream,
                ">CLIENT:ESTABLISHED,{client}\r\n>CLIENT:ENV,END\r\n"
            )?;
        }
        announced = come;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => asked.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        while let Some(end) = asked.iter().position(|byte| *byte == b'\n') {
            let command: Vec<u8> = asked.drain(..=end).collect();
            answer(&mut stream, command.trim_ascii_end(), state)?;
        }
    }
    Ok(())
}

fn answer(stream: &mut UnixStream, command: &[u8], state: &State) -> io::Result<()> {
    match command {
        b"version" => stream.write_all(b"OpenVPN Version: OpenVPN 2.6.14 bench\r\nEND\r\n"),
        b"pid" => stream.write_all(b"SUCCESS: pid=5\r\n"),
        b"state" => write!(stream, "{SINCE},CONNECTED,SUCCESS,,,,,,\r\nEND\r\n"),
        b"status 3" => list(stream, state),
        _ => stream.write_all(b"SUCCESS: ok\r\n"),
    }
}

fn list(stream: &mut UnixStream, state: &State) -> io::Result<()> {
    let clients = state.clients();
    let mut text = COLUMNS.to_owned();
    for client in 0..clients {
        let (high, low) = (client >> 8 & 255, client & 255);
        let _ = write!(
            text,
            "CLIENT_LIST\tclient-{client}\t192.0.2.1:{}\t10.8.{high}.{low}\t1000\t1000\t{SINCE}\t{client}\r\n",
            1024 + client % 60_000,
        );
    }
    text += "END\r\n";
    locked(&state.told).resize(clients as usize, unix_us());
    stream.write_all(text.as_bytes())?;
    state.lists.fetch_add(1, Ordering::AcqRel);
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
