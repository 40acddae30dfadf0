//! The exchanges with the controller: each a task that sends bytes and brings bytes back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::core::agent::{Event, Problem, SendFailure};
use crate::remote::{Client, ClientError, Path};

/// Sends the chained request once its state is on disk (`written`).
pub(super) fn send(
    client: &Arc<Client>,
    written: oneshot::Receiver<Result<(), String>>,
    body: Vec<u8>,
    events: &mpsc::Sender<Event>,
) {
    let (client, events) = (client.clone(), events.clone());
    tokio::spawn(async move {
        let stored = written
            .await
            .unwrap_or_else(|_| Err("the disk thread has ended".into()));
        let event = match stored {
            // Not on disk, so not sent: a crash now would make the retry another message.
            Err(message) => Event::SendFailed(SendFailure {
                message,
                retry_after: None,
                problem: Problem::Unreachable,
            }),
            Ok(()) => {
                tracing::debug!("a request of the chain goes out");
                match client
                    .exchange(Path::Messages, Some(body), Duration::ZERO)
                    .await
                {
                    Ok(answer) => Event::Answer(answer.bytes),
                    Err(error) if error.is_unknown_key() => Event::UnknownKey(failure(&error)),
                    Err(error) => Event::SendFailed(failure(&error)),
                }
            }
        };
        let _ = events.send(event).await;
    });
}

/// Sends the directive request; the controller may hold it for `wait`.
pub(super) fn poll(
    client: &Arc<Client>,
    body: Vec<u8>,
    wait: Duration,
    events: &mpsc::Sender<Event>,
) {
    let (client, events) = (client.clone(), events.clone());
    tokio::spawn(async move {
        let event = match client.exchange(Path::Poll, Some(body), wait).await {
            Ok(answer) => Event::PollAnswer(answer.bytes),
            Err(error) => Event::PollFailed(failure(&error)),
        };
        let _ = events.send(event).await;
    });
}

/// Sends an introduction.
pub(super) fn introduce(client: &Arc<Client>, body: Vec<u8>, events: &mpsc::Sender<Event>) {
    let (client, events) = (client.clone(), events.clone());
    tokio::spawn(async move {
        let event = match client
            .exchange(Path::Introduction, Some(body), Duration::ZERO)
            .await
        {
            Ok(answer) => Event::IntroductionAnswer(answer.bytes),
            Err(error) => Event::IntroductionFailed(failure(&error)),
        };
        let _ = events.send(event).await;
    });
}

/// Sends a witness: signed, not chained, so it waits for no disk.
pub(super) fn witness(client: &Arc<Client>, body: Vec<u8>, events: &mpsc::Sender<Event>) {
    let (client, events) = (client.clone(), events.clone());
    tokio::spawn(async move {
        let event = match client
            .exchange(Path::Messages, Some(body), Duration::ZERO)
            .await
        {
            Ok(answer) => Event::WitnessAnswer(answer.bytes),
            Err(error) => Event::WitnessFailed(failure(&error)),
        };
        let _ = events.send(event).await;
    });
}

/// Asks for the controller's certificate.
pub(super) fn fetch_certificate(client: &Arc<Client>, events: &mpsc::Sender<Event>) {
    let (client, events) = (client.clone(), events.clone());
    tokio::spawn(async move {
        let event = match client
            .exchange(Path::Certificate, None, Duration::ZERO)
            .await
        {
            Ok(answer) => Event::Certificate(answer.bytes),
            Err(error) => Event::CertificateFailed(failure(&error)),
        };
        let _ = events.send(event).await;
    });
}

fn failure(error: &ClientError) -> SendFailure {
    SendFailure {
        message: error.to_string(),
        retry_after: error.retry_after(),
        problem: match error {
            ClientError::Status {
                status: 429 | 500..,
                ..
            } => Problem::Busy,
            ClientError::Status { .. } => Problem::Refused,
            _ => Problem::Unreachable,
        },
    }
}
