//! The exchanges with the controller: each a task that sends bytes and brings bytes back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::progress::{Part, Progress};
use crate::core::agent::{Event, Problem, SendFailure};
use crate::remote::{Answer, Client, ClientError, Path};

/// Answers of the controller that can be under way at once: a chained request, a directive
/// request, a certificate, an introduction and a witness.
const ANSWERS_QUEUED: usize = 5;

/// The loop's side of the exchanges.
pub(super) struct Controller {
    client: Arc<Client>,
    progress: Progress,
    to_answers: mpsc::Sender<Event>,
    answers: mpsc::Receiver<Event>,
}

impl Controller {
    pub(super) fn new(client: Client, progress: Progress) -> Self {
        let (to_answers, answers) = mpsc::channel(ANSWERS_QUEUED);
        Self {
            client: Arc::new(client),
            progress,
            to_answers,
            answers,
        }
    }

    /// Another way to the controller, for all further exchanges.
    pub(super) fn use_client(&mut self, client: Client) {
        self.client = Arc::new(client);
    }

    /// The address in use.
    pub(super) fn url(&self) -> &str {
        self.client.url()
    }

    /// What an exchange has brought.
    pub(super) async fn answer(&mut self) -> Event {
        let answer = self.answers.recv().await;
        answer.expect("one of its senders is here")
    }

    /// Sends the chained request once its state is on disk (`written`).
    pub(super) fn send(&self, written: oneshot::Receiver<Result<(), String>>, body: Vec<u8>) {
        self.spawn(async move |exchange: Exchange| {
            let stored = written
                .await
                .unwrap_or_else(|_| Err("the disk thread has ended".into()));
            if let Err(message) = stored {
                // Not on disk, so not sent: a crash now would make the retry another message.
                return Event::SendFailed(SendFailure {
                    message,
                    retry_after: None,
                    problem: Problem::Unreachable,
                });
            }
            tracing::debug!("a request of the chain goes out");
            match exchange.post(Path::Messages, body, Duration::ZERO).await {
                Ok(answer) => Event::Answer(answer.bytes),
                Err(error) if error.is_unknown_key() => Event::UnknownKey(failure(&error)),
                Err(error) => Event::SendFailed(failure(&error)),
            }
        });
    }

    /// Sends the directive request; the controller may hold it for `wait`.
    pub(super) fn poll(&self, body: Vec<u8>, wait: Duration) {
        self.spawn(async move |exchange: Exchange| {
            match exchange.post(Path::Poll, body, wait).await {
                Ok(answer) => Event::PollAnswer(answer.bytes),
                Err(error) => Event::PollFailed(failure(&error)),
            }
        });
    }

    /// Sends an introduction.
    pub(super) fn introduce(&self, body: Vec<u8>) {
        self.spawn(async move |exchange: Exchange| {
            match exchange
                .post(Path::Introduction, body, Duration::ZERO)
                .await
            {
                Ok(answer) => Event::IntroductionAnswer(answer.bytes),
                Err(error) => Event::IntroductionFailed(failure(&error)),
            }
        });
    }

    /// Sends a witness: signed, not chained, so it waits for no disk.
    pub(super) fn witness(&self, body: Vec<u8>) {
        self.spawn(async move |exchange: Exchange| {
            match exchange.post(Path::Messages, body, Duration::ZERO).await {
                Ok(answer) => Event::WitnessAnswer(answer.bytes),
                Err(error) => Event::WitnessFailed(failure(&error)),
            }
        });
    }

    /// Asks for the controller's certificate.
    pub(super) fn fetch_certificate(&self) {
        self.spawn(async move |exchange: Exchange| {
            let answer = exchange.perform(Path::Certificate, None, Duration::ZERO);
            match answer.await {
                Ok(answer) => Event::Certificate(answer.bytes),
                Err(error) => Event::CertificateFailed(failure(&error)),
            }
        });
    }

    fn spawn<W, F>(&self, work: W)
    where
        W: FnOnce(Exchange) -> F + Send + 'static,
        F: Future<Output = Event> + Send + 'static,
    {
        let exchange = Exchange {
            client: self.client.clone(),
            progress: self.progress.clone(),
        };
        let events = self.to_answers.clone();
        tokio::spawn(async move {
            let event = work(exchange).await;
            let _ = events.send(event).await;
        });
    }
}

/// What one exchange needs.
struct Exchange {
    client: Arc<Client>,
    progress: Progress,
}

impl Exchange {
    async fn post(&self, path: Path, body: Vec<u8>, wait: Duration) -> Result<Answer, ClientError> {
        self.perform(path, Some(body), wait).await
    }

    async fn perform(
        &self,
        path: Path,
        body: Option<Vec<u8>>,
        wait: Duration,
    ) -> Result<Answer, ClientError> {
        let _work = self.progress.begin(Part::Exchange);
        self.client.exchange(path, body, wait).await
    }
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
