//! Serves the newest report on the status socket. It only reads, and passes wishes on to the
//! agent's loop; nobody can make it keep state.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::wire::{self, Code, Get, MAX_REQUEST_BYTES, Refusal, Request};
use super::{Peer, Policy, Scope, StatusSocket};
use crate::core::report::StatusReport;
use crate::host::clock;

/// What one user of the socket can take from the agent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the request to arrive, and again for the answer to be taken.
    pub deadline: Duration,
    /// Conversations at once with root and the agent's own user, apart from all others: the gate
    /// asks as that user, and closes when it is turned away.
    pub own: usize,
    /// The same with the group, who may see everything.
    pub full: usize,
    /// The same for all others, apart: a crowd of strangers does not shut out the operator.
    pub public: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(2),
            own: 8,
            full: 8,
            public: 8,
        }
    }
}

/// Something that a user of the socket wants done, and where the answer goes.
#[derive(Debug)]
pub enum Wish {
    /// A new identity key; the answer is why not, as a sentence.
    RotateIdentity(oneshot::Sender<Result<(), String>>),
    /// This version, fetched and handed to the updater; the answer is why not, as a sentence.
    ApplyRelease(String, oneshot::Sender<Result<(), String>>),
}

/// After a failed accept(2) (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers until the sender of the reports is gone. Dropping the future ends all conversations
/// and removes the socket's file. Needs a tokio runtime with I/O and time.
///
/// # Errors
/// When the listener cannot be handed to the runtime.
pub async fn serve(
    socket: StatusSocket,
    reports: watch::Receiver<Arc<StatusReport>>,
    wishes: mpsc::Sender<Wish>,
    policy: Policy,
    limits: Limits,
) -> std::io::Result<()> {
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let mut ended = reports.clone();
    tokio::select! {
        () = accept_all(&listener, &reports, &wishes, &policy, limits) => {}
        () = async { while ended.changed().await.is_ok() {} } => {}
    }
    Ok(())
}

async fn accept_all(
    listener: &UnixListener,
    reports: &watch::Receiver<Arc<StatusReport>>,
    wishes: &mpsc::Sender<Wish>,
    policy: &Policy,
    limits: Limits,
) {
    let own = Arc::new(Semaphore::new(limits.own));
    let full = Arc::new(Semaphore::new(limits.full));
    let public = Arc::new(Semaphore::new(limits.public));
    let mut conversations = JoinSet::new();
    let mut failing = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Said once per streak: a local user can cause it.
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "the status socket cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        while conversations.try_join_next().is_some() {}
        let Ok(peer) = peer_of(&stream) else {
            // Without credentials there is nobody to answer.
            continue;
        };
        let scope = policy.scope(peer);
        let wishes = policy.may_act(peer).then(|| wishes.clone());
        let seats = match scope {
            Scope::Full if wishes.is_some() => &own,
            Scope::Full => &full,
            Scope::Public => &public,
        };
        match Arc::clone(seats).try_acquire_owned() {
            Ok(seat) => {
                let reports = reports.clone();
                conversations.spawn(async move {
                    converse(stream, &reports, scope, wishes, limits.deadline).await;
                    drop(seat);
                });
            }
            Err(_) => turn_away(stream),
        }
    }
}

fn peer_of(stream: &UnixStream) -> std::io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    Ok(Peer {
        uid: credentials.uid(),
        gid: credentials.gid(),
    })
}

/// One short line into the empty buffer of a new socket never waits.
fn turn_away(stream: UnixStream) {
    let busy = Refusal::new(Code::Busy, "Too many programs ask at once.");
    if let Ok(mut stream) = stream.into_std() {
        // Whoever is turned away may have left already.
        let _ = stream.write(&busy.to_line());
    }
}

async fn converse(
    mut stream: UnixStream,
    reports: &watch::Receiver<Arc<StatusReport>>,
    scope: Scope,
    wishes: Option<mpsc::Sender<Wish>>,
    deadline: Duration,
) {
    let answer = match timeout(deadline, read_request(&mut stream)).await {
        Ok(Ok(Some(request))) if request.is_wish() && reports.borrow().enrolled => {
            match timeout(deadline, grant(request, scope, wishes)).await {
                Ok(answer) => answer,
                Err(_) => Refusal::new(Code::Busy, "The agent's loop does not answer.").to_line(),
            }
        }
        Ok(Ok(Some(request))) => {
            let report = Arc::clone(&reports.borrow());
            wire::answer(&request, scope, &report, clock::now())
        }
        Ok(Ok(None)) => return,
        Ok(Err(refusal)) => refusal.to_line(),
        Err(_) => Refusal::new(Code::Timeout, "The request did not arrive in time.").to_line(),
    };
    let written = timeout(deadline, async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a user of the status socket left before the answer"),
        Err(_) => debug!("a user of the status socket did not take the answer in time"),
    }
}

/// Passes the wish on, if this user may have one.
async fn grant(request: Request, scope: Scope, wishes: Option<mpsc::Sender<Wish>>) -> Vec<u8> {
    let Some(wishes) = wishes else {
        let text = "Only root and the agent's own user may have the agent do something.";
        return Refusal::new(Code::Denied, text).to_line();
    };
    let (to_answer, answer) = oneshot::channel();
    let ended = || Err("The agent is stopping.".to_owned());
    let wish = match request.version {
        Some(version) => Wish::ApplyRelease(version, to_answer),
        None => Wish::RotateIdentity(to_answer),
    };
    let said = match wishes.send(wish).await {
        Ok(()) => answer.await.unwrap_or_else(|_| ended()),
        Err(_) => ended(),
    };
    match request.get {
        Get::ApplyRelease => wire::applied(scope, said),
        _ => wire::rotation(scope, said),
    }
}

/// Reads up to the line feed; `None` if the peer left without a word.
async fn read_request(stream: &mut UnixStream) -> Result<Option<Request>, Refusal> {
    let mut line = Vec::new();
    let mut chunk = [0_u8; 1024];
    loop {
        let count = match stream.read(&mut chunk).await {
            Ok(0) | Err(_) if line.is_empty() => return Ok(None),
            Ok(0) | Err(_) => {
                return Err(Refusal::new(
                    Code::BadRequest,
                    "The request does not end with a line feed.",
                ));
            }
            Ok(count) => count,
        };
        let fresh = &chunk[..count];
        let end = fresh.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&fresh[..end.unwrap_or(count)]);
        if line.len() > MAX_REQUEST_BYTES {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("The request is longer than {MAX_REQUEST_BYTES} bytes."),
            ));
        }
        if end.is_some() {
            return Request::parse(&line).map(Some);
        }
    }
}
