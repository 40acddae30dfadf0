//! The loop of `vpn-node-updater supervise`: children, orders, requests, signals.
//!
//! One thread. What takes long (ending an agent) holds it up for at most 20 seconds.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid};

use super::super::{How, SupervisorError};
use super::child::{Running, bury_orphans};
use super::keeper::Keeper;
use super::{MAX_LINE_BYTES, Order, States};
use crate::clock::{Clock, SystemClock};
use crate::layout::Layout;

/// How long a turn waits when nothing happens.
const TURN_MS: u16 = 250;
/// How long a caller has for its line, and for taking the answer.
const LINE_WITHIN: Duration = Duration::from_secs(2);
/// Recovery reads and writes some small files.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);
/// What an updater has to end: it may be in the middle of an fsync.
const UPDATER_STOPS_WITHIN: Duration = Duration::from_secs(10);
/// First and longest wait before an updater that was killed, or left its request, is started again.
const UPDATER_AGAIN: Duration = Duration::from_secs(2);
const UPDATER_AGAIN_AT_MOST: Duration = Duration::from_secs(600);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where everything lies.
    pub layout: Layout,
    /// Arguments of the agent, in every version.
    pub agent_arguments: Vec<OsString>,
    /// Whom the agent runs as; none: as the supervisor.
    pub user: Option<(Uid, Gid)>,
    /// Program and arguments that bring the host to rest after a crash.
    pub recover: Vec<OsString>,
    /// Program and arguments that work on `request.json`.
    pub updater: Vec<OsString>,
    /// Program and arguments before those of every child: [`super::exec_child`].
    pub launcher: Vec<OsString>,
}

/// Recovers, then runs the agent and, for each request, an updater, until `stop` is set (a signal
/// handler does it). On return nothing of it runs any more.
///
/// # Errors
/// When the socket for orders cannot be made, or another supervisor runs already.
pub fn supervise(plan: &Plan, stop: &AtomicBool) -> Result<(), SupervisorError> {
    let clock = SystemClock;
    refuse_a_second(&plan.layout)?;
    make_runtime_folder(plan);
    // Before the socket is there: its order "back to stable" then finds no supervisor and nothing
    // running, and need not wait for us, who wait for it.
    recover(plan, &clock, stop);
    let listener = listen(&plan.layout)?;
    let mut keeper = Keeper::new(plan, &clock);
    let mut updater = Updater::new(&clock);
    while !stop.load(Ordering::Relaxed) {
        keeper.turn();
        updater.turn(plan, &clock);
        let own: Vec<u32> = keeper.pid().into_iter().chain(updater.pid()).collect();
        bury_orphans(&own);
        let mut wanted = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        // A signal interrupts the wait: then the turn begins anew.
        if poll(&mut wanted, PollTimeout::from(TURN_MS)).is_ok_and(|ready| ready > 0)
            && let Ok((stream, _)) = listener.accept()
            && let Err(error) = answer(&stream, &mut keeper)
        {
            eprintln!("supervise: an order was not understood or its sender has left: {error}");
        }
    }
    // The updater first: it would take the end of the agent for a verdict.
    updater.stop(&clock);
    keeper.stop();
    let _ = fs::remove_file(plan.layout.supervisor_socket());
    Ok(())
}

fn answer(mut stream: &UnixStream, keeper: &mut Keeper<'_>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LINE_WITHIN))?;
    stream.set_write_timeout(Some(LINE_WITHIN))?;
    let mut line = Vec::new();
    BufReader::new(stream)
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', &mut line)?;
    let order: Order = serde_json::from_slice(&line)?;
    let states: Result<States, String> = Ok(keeper.obey(order));
    let mut line = serde_json::to_vec(&states)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The one updater that may run.
struct Updater {
    running: Option<Running>,
    start_at: Duration,
    wait: Duration,
    /// The last one was killed: it must come back, whether its request is still there or not.
    unfinished: bool,
}

impl Updater {
    fn new(clock: &dyn Clock) -> Self {
        Self {
            running: None,
            start_at: clock.now().boot,
            wait: UPDATER_AGAIN,
            unfinished: false,
        }
    }

    fn turn(&mut self, plan: &Plan, clock: &dyn Clock) {
        let now = clock.now().boot;
        if let Some(mut running) = self.running.take() {
            match running.ended() {
                None => self.running = Some(running),
                Some(how) => self.ended(&how, plan, now),
            }
            return;
        }
        let waits = self.unfinished || has_request(&plan.layout);
        if !waits || now < self.start_at {
            return;
        }
        match Running::start(&plan.launcher, &plan.updater, None) {
            Ok(running) => self.running = Some(running),
            Err(error) => self.ended(&How::Other(error.to_string()), plan, now),
        }
    }

    fn ended(&mut self, how: &How, plan: &Plan, now: Duration) {
        let good = *how == How::Code(0) && !has_request(&plan.layout);
        self.unfinished = !matches!(how, How::Code(_));
        if good {
            self.wait = UPDATER_AGAIN;
            self.start_at = now;
            return;
        }
        eprintln!("supervise: the updater ended: {how}");
        self.start_at = now + self.wait;
        self.wait = (self.wait * 2).min(UPDATER_AGAIN_AT_MOST);
    }

    fn stop(&mut self, clock: &dyn Clock) {
        if let Some(running) = self.running.take() {
            running.end(UPDATER_STOPS_WITHIN, clock);
        }
    }

    fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }
}

/// Not followed: what the agent put there is for the updater to judge.
fn has_request(layout: &Layout) -> bool {
    fs::symlink_metadata(layout.incoming().join("request.json")).is_ok()
}

fn recover(plan: &Plan, clock: &dyn Clock, stop: &AtomicBool) {
    let end = clock.now().boot + RECOVERS_WITHIN;
    let how = match Running::start(&plan.launcher, &plan.recover, None) {
        Err(error) => How::Other(error.to_string()),
        Ok(mut running) => loop {
            if let Some(how) = running.ended() {
                break how;
            }
            if clock.now().boot >= end || stop.load(Ordering::Relaxed) {
                break running.end(UPDATER_STOPS_WITHIN, clock);
            }
            clock.sleep(Duration::from_millis(20));
        },
    };
    // The stable agent is started all the same: a host without an agent helps nobody.
    if how != How::Code(0) {
        eprintln!("supervise: the recovery of an interrupted update failed: {how}");
    }
}

fn refuse_a_second(layout: &Layout) -> Result<(), SupervisorError> {
    let path = layout.supervisor_socket();
    if UnixStream::connect(&path).is_err() {
        return Ok(());
    }
    Err(SupervisorError::new(format!(
        "another supervisor runs at {}; two agents would fight for one state",
        path.display()
    )))
}

/// A socket in a folder that only root, or whoever runs this, can enter.
fn listen(layout: &Layout) -> Result<UnixListener, SupervisorError> {
    let path = layout.supervisor_socket();
    let cannot = |error: io::Error| {
        SupervisorError::new(format!("cannot listen on {}: {error}", path.display()))
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder).map_err(cannot)?;
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(cannot)?;
    listener.set_nonblocking(true).map_err(cannot)?;
    Ok(listener)
}

/// What `RuntimeDirectory=` is under systemd: where the agent makes its status socket.
fn make_runtime_folder(plan: &Plan) {
    let socket = plan.layout.status_socket();
    let Some(folder) = socket.parent() else {
        return;
    };
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o755).create(folder);
    let owned = plan.user.map_or(Ok(()), |(uid, gid)| {
        chown(folder, Some(uid.as_raw()), Some(gid.as_raw()))
    });
    if let Err(error) = made.and(owned) {
        eprintln!("supervise: cannot prepare {}: {error}", folder.display());
    }
}
