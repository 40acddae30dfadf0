//! The download of releases: a thread of its own while there is something to fetch, nothing
//! otherwise. It believes nothing of what it fetches before its signatures and hashes hold, and
//! hands it to the updater, which believes nothing of the agent.
//!
//! Reading order: this file (one run), `source` (HTTP), `workflow` (TUF), `package` (the download
//! that goes on where it was), `incoming` (the hand-over), `rate`, `error`.

mod error;
mod incoming;
mod package;
mod rate;
mod source;
mod workflow;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use vpn_node_protocol::encoding::Digest;
use vpn_node_release::handover::Request;

use self::error::FetchFailure;
use self::package::Wanted;
use self::rate::MinimumRate;
use self::source::{Access, Source};
use self::workflow::{Anchor, Files};
use super::tls;
use crate::core::journal;
use crate::core::update::{Event, Failure, Known, Order};
use crate::host::clock;

pub use incoming::Folders;

/// Over which time the minimum rate is measured: long enough for a link that stalls for a moment.
const RATE_WINDOW: Duration = Duration::from_secs(30);
/// The controller's own repository, below its address.
const OF_CONTROLLER: &str = "/v1/releases";

/// Where releases come from, and what they may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agent's folders.
    pub folders: Folders,
    /// The root that the updater trusts; everyone may read it.
    pub updater_root: PathBuf,
    /// `[update] repository`: the host's operator wins.
    pub repository: Option<String>,
    /// The controller's addresses.
    pub controllers: Vec<String>,
    /// SHA-256 of the controller's TLS key.
    pub server_pin: Option<Digest>,
    /// CA certificates for the controller.
    pub ca_file: Option<PathBuf>,
    /// Proxy for everything.
    pub proxy: Option<String>,
    /// `[update] min_rate`, in bytes a second.
    pub min_rate: u64,
    /// `[update] max_bytes`, of one package.
    pub max_bytes: u64,
    /// An instant that is over for certain: the controller has signed it.
    pub past_ms: i64,
}

/// The worker: at most one thread works.
#[derive(Debug)]
pub struct Worker {
    settings: Arc<Settings>,
    events: mpsc::Sender<Event>,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

/// What a run is for.
enum Task {
    Check,
    Fetch {
        order: Order,
        request: String,
        known: Known,
    },
}

impl Worker {
    /// A worker that tells what happens to `events`.
    #[must_use]
    pub fn new(settings: Settings, events: mpsc::Sender<Event>) -> Self {
        Self {
            settings: Arc::new(settings),
            events,
            running: None,
        }
    }

    /// Changes the settings, for the next run.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(Arc::make_mut(&mut self.settings));
    }

    /// Fetches a release, verifies it, hands it to the updater.
    pub fn fetch(&mut self, run: u64, order: Order, request: String, known: Known, failures: u32) {
        let task = Task::Fetch {
            order,
            request,
            known,
        };
        self.start(run, task, failures);
    }

    /// Fetches metadata alone.
    pub fn check(&mut self, run: u64, failures: u32) {
        self.start(run, Task::Check, failures);
    }

    /// Stops what runs; what it still says is about no run that anybody waits for.
    pub fn stop(&mut self) {
        if let Some((stop, _)) = &self.running {
            stop.send_replace(true);
        }
    }

    /// Removes what was downloaded and the request, after whatever runs has stopped: it cannot
    /// leave anything behind that nobody wants any more.
    pub fn clean(&mut self) {
        self.stop();
        let former = self.running.take();
        let folders = self.settings.folders.clone();
        let (stop, _) = watch::channel(false);
        let started = thread::Builder::new().name("update".into()).spawn(move || {
            if let Some((_, former)) = former {
                let _ = former.join();
            }
            if let Err(error) = folders.clean() {
                tracing::warn!(
                    message_id = %journal::UPDATE_REMARK,
                    %error, "a former download cannot be removed"
                );
            }
        });
        match started {
            Ok(thread) => self.running = Some((stop, thread)),
            Err(error) => tracing::warn!(
                message_id = %journal::UPDATE_REMARK,
                %error, "no thread to remove a former download"
            ),
        }
    }

    fn start(&mut self, run: u64, task: Task, failures: u32) {
        self.stop();
        let former = self.running.take();
        let (settings, events) = (self.settings.clone(), self.events.clone());
        let (stop, stopped) = watch::channel(false);
        let started = thread::Builder::new().name("update".into()).spawn(move || {
            if let Some((_, former)) = former {
                // Two in one folder would be in each other's way. What it ended with, it said.
                let _ = former.join();
            }
            let run = Run {
                id: run,
                settings,
                events,
                stopped,
            };
            let result = run.perform(&task, failures).map_err(Failure::from);
            run.say(Event::Ended {
                run: run.id,
                result,
            });
        });
        match started {
            Ok(thread) => self.running = Some((stop, thread)),
            Err(error) => {
                let failure = FetchFailure::Setup(format!("no thread for it: {error}"));
                let result = Err(failure.into());
                // The queue has room for it: nothing runs.
                let _ = self.events.try_send(Event::Ended { run, result });
            }
        }
    }
}

struct Run {
    id: u64,
    settings: Arc<Settings>,
    events: mpsc::Sender<Event>,
    stopped: watch::Receiver<bool>,
}

impl Run {
    fn perform(&self, task: &Task, failures: u32) -> Result<(), FetchFailure> {
        let settings = &self.settings;
        settings.folders.create()?;
        let repository = match task {
            Task::Check => None,
            Task::Fetch { order, .. } => order.repository.as_deref(),
        };
        let source = self.source(repository, failures)?;
        self.work(task, &source)
    }

    /// The thread's work, from wherever `source` leads.
    fn work(&self, task: &Task, source: &Source) -> Result<(), FetchFailure> {
        let settings = &self.settings;
        if matches!(task, Task::Fetch { .. }) {
            // Of a release that another one has taken the place of.
            settings.folders.withdraw()?;
        }
        let anchor = Anchor {
            root: &settings.updater_root,
            folders: &settings.folders,
            now: clock::now(),
            past_ms: settings.past_ms,
        };
        let mut files = Files::of(source);
        workflow::refresh(&anchor, &mut files)?;
        self.say(Event::Fresh { run: self.id });
        let Task::Fetch {
            order,
            request,
            known,
        } = task
        else {
            return Ok(());
        };
        let found = workflow::find(&anchor, &mut files, order, known)?;
        drop(files);
        let length = found.target.length;
        if length > settings.max_bytes {
            let most = settings.max_bytes;
            return Err(FetchFailure::TooLarge { length, most });
        }
        let url_path = found.target.url_path();
        let wanted = Wanted {
            path: format!("targets/{url_path}"),
            length,
            sha256: found.sha256,
        };
        let partial = settings.folders.partial();
        let package = package::fetch(source, &wanted, &partial, &mut |progress| {
            // A loop that is busy hears the next one.
            let _ = self.events.try_send(Event::Progress {
                run: self.id,
                progress,
            });
        })?;
        let request = Request {
            format: 1,
            id: request.clone(),
            deployment: order.deployment,
            version: order.version.clone(),
            target: order.target.clone(),
        };
        if *self.stopped.borrow() {
            return Err(FetchFailure::Stopped);
        }
        settings
            .folders
            .hand_over(&found.metadata, &package, &url_path, &request)
    }

    /// The repository: the operator's of this host, else the assignment's, else the controller's.
    fn source(&self, assigned: Option<&str>, failures: u32) -> Result<Source, FetchFailure> {
        let settings = &self.settings;
        let rate = MinimumRate {
            least: settings.min_rate,
            window: RATE_WINDOW,
        };
        let (base, tls) = match settings.repository.as_deref().or(assigned) {
            Some(mirror) => (mirror.to_owned(), tls::config(None, None)),
            None => {
                let urls = &settings.controllers;
                let url = urls
                    .get(failures as usize % urls.len().max(1))
                    .ok_or_else(|| {
                        FetchFailure::Setup("no controller's address is known".to_owned())
                    })?;
                let tls = tls::config(settings.server_pin, settings.ca_file.as_deref());
                (format!("{url}{OF_CONTROLLER}"), tls)
            }
        };
        let access = Access {
            tls: tls.map_err(FetchFailure::setup)?,
            proxy: settings.proxy.clone(),
            rate,
            https_only: true,
        };
        Source::new(&base, access, self.stopped.clone())
    }

    /// The daemon may be gone.
    fn say(&self, event: Event) {
        let _ = self.events.blocking_send(event);
    }
}

#[cfg(test)]
mod tests;
