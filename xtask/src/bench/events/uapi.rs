//! A WireGuard daemon without a tunnel: it answers `get=1` (<https://www.wireguard.com/xplatform/>)
//! with clients that shook hands since the question before, and notes when it told of each.

use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// Clients a second.
const RATE: u64 = 100;
/// A question is seven bytes and comes at once.
const ASKS_WITHIN: Duration = Duration::from_secs(2);

/// See the module's page. Dropping it stops it.
pub(super) struct Daemon {
    socket: PathBuf,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    over: AtomicBool,
    asked: AtomicU64,
    /// When clients began to come.
    begun: Mutex<Option<Instant>>,
    /// Microseconds since the Unix epoch at which each client was told of, in their order.
    told: Mutex<Vec<u64>>,
}

impl Daemon {
    /// Listens for questions in `folder`, which it makes. No client yet.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join("wg0.sock");
        let failed = || format!("cannot listen on {}", socket.display());
        let made = DirBuilder::new().mode(0o700).create(folder);
        let listener = made
            .and_then(|()| UnixListener::bind(&socket))
            .with_context(failed)?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.over.load(Ordering::Acquire) {
                    return;
                }
                // Whoever hangs up has asked in vain.
                let _ = answer(stream, &shared);
            }
        });
        Ok(Self {
            socket,
            state,
            thread: Some(thread),
        })
    }

    /// Whether somebody has seen that there are no clients yet.
    pub(super) fn was_asked(&self) -> bool {
        self.state.asked.load(Ordering::Acquire) > 1
    }

    pub(super) fn let_clients_come(&self) {
        let mut begun = self
            .state
            .begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *begun = Some(Instant::now());
    }

    /// No more of them; when each was told of.
    pub(super) fn end(mut self) -> Vec<u64> {
        self.stop();
        let told = self.state.told.lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(&mut self) {
        self.state.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // Wakes it.
            let _ = UnixStream::connect(&self.socket);
            let _ = thread.join();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answer(mut stream: UnixStream, state: &State) -> std::io::Result<()> {
    stream.set_read_timeout(Some(ASKS_WITHIN))?;
    stream.set_write_timeout(Some(ASKS_WITHIN))?;
    let mut question = [0; 7];
    stream.read_exact(&mut question)?;
    state.asked.fetch_add(1, Ordering::AcqRel);
    let begun = *state.begun.lock().unwrap_or_else(PoisonError::into_inner);
    let clients = begun.map_or(0, |at| at.elapsed().as_millis() as u64 * RATE / 1000);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let mut text = "listen_port=51820\n".to_owned();
    for client in 0..clients {
        describe(&mut text, client, now);
    }
    text += "errno=0\n\n";
    let mut told = state.told.lock().unwrap_or_else(PoisonError::into_inner);
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_us = now_us.unwrap_or_default().as_micros() as u64;
    let known = told.len().max(clients as usize);
    told.resize(known, now_us);
    drop(told);
    stream.write_all(text.as_bytes())
}

/// A client that shook hands a moment ago.
fn describe(text: &mut String, client: u64, now: Duration) {
    let _ = write!(
        text,
        "public_key={:064x}\nprotocol_version=1\nendpoint=192.0.2.1:{}\n\
         last_handshake_time_sec={}\nlast_handshake_time_nsec={}\n\
         tx_bytes=1000\nrx_bytes=1000\npersistent_keepalive_interval=25\n\
         allowed_ip=10.{}.{}.{}/32\n",
        client + 1,
        1024 + client % 60_000,
        now.as_secs(),
        now.subsec_nanos(),
        client >> 16 & 255,
        client >> 8 & 255,
        client & 255,
    );
}
