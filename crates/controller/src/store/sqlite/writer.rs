//! Group commit: one task writes, many requests share one fsync.
//!
//! It takes what is queued, at most [`GROUP`] operations, runs each in its own savepoint inside one
//! transaction, commits, and only then acknowledges each. An operation that fails is rolled back
//! alone. The queue is bounded: a caller that cannot be queued within [`QUEUE_WAIT`] is told so.

use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::map::database;
use crate::store::{Answer, StoreError};

/// Operations of one transaction: bounds how long the first of a group waits for its answer.
const GROUP: usize = 256;
/// Operations that may wait: about a second of a small machine's work.
const QUEUE: usize = 4096;
/// A host gives up after some ten seconds; an answer later than this is wasted work.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// Sends the result once it is known whether the group was committed.
type Acknowledge = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Runs one operation; the flag says whether its changes are to be kept.
type Operation =
    Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> Answer<'c, (bool, Acknowledge)> + Send>;

pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Operation>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self {
            queue: Mutex::new(Some(sender)),
            task: Mutex::new(Some(tokio::spawn(run(connection, receiver)))),
        }
    }

    pub(super) async fn write<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Answer<'c, T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let boxed: Operation = Box::new(move |connection| {
            Box::pin(async move {
                let result = operation(connection).await;
                let keep = result.is_ok();
                let acknowledge: Acknowledge = Box::new(move |committed| {
                    // The caller may have gone: the write stands all the same.
                    let _ = sender.send(committed.and(result));
                });
                Ok((keep, acknowledge))
            })
        });
        let queue = self.queue.lock().await.clone().ok_or(StoreError::Closed)?;
        match tokio::time::timeout(QUEUE_WAIT, queue.send(boxed)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(StoreError::Closed),
            Err(_) => return Err(StoreError::Busy(QUEUE)),
        }
        drop(queue);
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// Takes nothing more, and waits until everything queued is committed.
    pub(super) async fn close(&self) {
        self.queue.lock().await.take();
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the database writer ended badly");
        }
    }
}

async fn run(mut connection: SqliteConnection, mut queue: mpsc::Receiver<Operation>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut group, GROUP).await > 0 {
        write_group(&mut connection, &mut group).await;
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the database was not closed cleanly; it recovers at the next start");
    }
}

async fn write_group(connection: &mut SqliteConnection, group: &mut Vec<Operation>) {
    let mut acknowledgements = Vec::with_capacity(group.len());
    let begun = execute(connection, "BEGIN IMMEDIATE").await;
    let mut outcome = begun.clone();
    for operation in group.drain(..) {
        if outcome.is_err() {
            // Dropped unrun: its caller hears that the store did not answer.
            continue;
        }
        outcome = run_one(connection, operation, &mut acknowledgements).await;
    }
    if begun.is_ok() {
        outcome = match outcome {
            Ok(()) => execute(connection, "COMMIT").await,
            Err(error) => Err(error),
        };
    }
    if let Err(error) = &outcome {
        tracing::error!(%error, "a group of writes failed; every host in it will ask again");
        if begun.is_ok() {
            let _ = execute(connection, "ROLLBACK").await;
        }
    }
    for acknowledge in acknowledgements {
        acknowledge(outcome.clone());
    }
}

/// Runs one operation in its own savepoint, so that its failure is its own.
async fn run_one(
    connection: &mut SqliteConnection,
    operation: Operation,
    acknowledgements: &mut Vec<Acknowledge>,
) -> Result<(), StoreError> {
    execute(connection, "SAVEPOINT operation").await?;
    let (keep, acknowledge) = operation(connection).await?;
    acknowledgements.push(acknowledge);
    if !keep {
        execute(connection, "ROLLBACK TO operation").await?;
    }
    execute(connection, "RELEASE operation").await
}

async fn execute(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), StoreError> {
    sqlx::query(statement)
        .execute(connection)
        .await
        .map(drop)
        .map_err(database)
}
