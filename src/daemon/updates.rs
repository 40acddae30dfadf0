//! What the daemon does about releases: the updater's status, what is kept of a deployment, and the
//! worker that downloads.

use std::path::PathBuf;

use tokio::sync::mpsc;
use vpn_node_release::handover::{MAX_FILE_BYTES, Status};

use crate::config::Settings;
use crate::core::journal;
use crate::core::update::{Command, Event, Kept};
use crate::host::atomic;
use crate::host::state::Enrolment;
use crate::remote::update::{self, Folders, Worker};

/// Events of the worker that may wait for the loop; progress beyond them is dropped.
const EVENTS_QUEUED: usize = 8;
/// Longest file of what is kept: texts in it are bounded.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// The loop's side of the downloads.
pub(super) struct Downloads {
    worker: Worker,
    events: mpsc::Receiver<Event>,
}

impl Downloads {
    pub(super) fn new(
        settings: &Settings,
        enrolment: &Enrolment,
        controllers: Vec<String>,
        past_ms: i64,
    ) -> Self {
        let (to_events, events) = mpsc::channel(EVENTS_QUEUED);
        let fixed = update::Settings {
            folders: Folders::new(&settings.state_dir),
            updater_root: settings.updater_dir().join("trust/root.json"),
            repository: None,
            controllers: Vec::new(),
            server_pin: enrolment.server_pin,
            ca_file: None,
            proxy: None,
            min_rate: settings.update.min_rate,
            max_bytes: settings.update.max_bytes,
            past_ms,
        };
        let worker = Worker::new(fixed, to_events);
        let mut downloads = Self { worker, events };
        downloads.configure(settings, controllers);
        downloads
    }

    /// Takes over what may change while the agent runs; a download under way goes on as it began.
    pub(super) fn configure(&mut self, settings: &Settings, controllers: Vec<String>) {
        let proxy = settings.controller.proxy.as_ref();
        self.worker.configure(|worker| {
            worker.repository.clone_from(&settings.update.repository);
            worker.controllers = controllers;
            worker.ca_file.clone_from(&settings.controller.ca_file);
            worker.proxy = proxy.map(|proxy| proxy.expose().to_owned());
            worker.min_rate = settings.update.min_rate;
            worker.max_bytes = settings.update.max_bytes;
        });
    }

    /// The next thing that the worker has to say.
    pub(super) async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Does what is the worker's; gives back what is for the disk.
    pub(super) fn obey(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Fetch {
                run,
                order,
                request,
                known,
                failures,
            } => {
                self.worker.fetch(run, order, request, known, failures);
            }
            Command::Check { run, failures } => self.worker.check(run, failures),
            Command::Stop => self.worker.stop(),
            Command::Clean => self.worker.clean(),
            other => return Some(other),
        }
        None
    }
}

/// The disk thread's part.
pub(super) struct UpdateFiles {
    folders: Folders,
    status: PathBuf,
    /// Why the updater's status could not be read, the last time: said when it changes.
    problem: Option<String>,
}

impl UpdateFiles {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            folders: Folders::new(&settings.state_dir),
            status: settings.updater_dir().join("status.json"),
            problem: None,
        }
    }

    /// What a former process kept. What cannot be read is nothing: then the controller says again
    /// what it wants, and the updater knows what it has.
    pub(super) fn kept(&self) -> Kept {
        let bytes = match atomic::read_bounded(&self.folders.kept(), MAX_KEPT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Kept::default(),
            Err(error) => {
                tracing::warn!(
                    message_id = %journal::UPDATE_REMARK,
                    %error, "the last deployment cannot be read; it begins anew"
                );
                return Kept::default();
            }
        };
        match serde_json::from_slice::<Kept>(&bytes) {
            Ok(kept) if kept.format == 1 => kept,
            _ => {
                tracing::warn!(
                    message_id = %journal::UPDATE_REMARK,
                    "the last deployment is not understood; it begins anew"
                );
                Kept::default()
            }
        }
    }

    /// Does one command; an answer if it asks for one.
    pub(super) fn obey(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Look => return Some(Event::Software(self.look().map(Box::new))),
            Command::Keep(kept) => {
                let json = serde_json::to_vec(&kept).expect("texts and numbers serialise");
                let written = self
                    .folders
                    .create()
                    .and_then(|()| atomic::write(&self.folders.kept(), &json, 0o600));
                if let Err(error) = written {
                    tracing::error!(
                        message_id = %journal::STATE_NOT_KEPT,
                        %error, "the deployment cannot be kept: a restart forgets it"
                    );
                }
            }
            // The worker's: they wait for no disk here.
            Command::Fetch { .. } | Command::Check { .. } | Command::Stop | Command::Clean => {}
        }
        None
    }

    fn look(&mut self) -> Option<Status> {
        let limit = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
        let read = match atomic::read_bounded(&self.status, limit) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.is_not_found() => {
                self.problem = None;
                return None;
            }
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(status) => {
                self.problem = None;
                Some(status)
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        message_id = %journal::UPDATE_REMARK,
                        path = %self.status.display(), %problem, "the updater's status cannot be read"
                    );
                    self.problem = Some(problem);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn files(dir: &Path) -> UpdateFiles {
        UpdateFiles::new(&Settings {
            state_dir: dir.join("vpn-node"),
            ..Settings::default()
        })
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_damaged_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = files(dir.path());
        assert_eq!(files.kept(), Kept::default());
        let kept = Kept {
            format: 1,
            fresh_ms: Some(7),
            ..Kept::default()
        };
        assert!(files.obey(Command::Keep(Box::new(kept.clone()))).is_none());
        assert_eq!(files.kept(), kept);
        for damaged in [
            "",
            "{",
            r#"{"format":2,"job":null,"told":null,"fresh_ms":null}"#,
        ] {
            std::fs::write(files.folders.kept(), damaged).unwrap();
            assert_eq!(files.kept(), Kept::default());
        }
    }

    #[test]
    fn the_updaters_status_is_read_beside_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = files(dir.path());
        let look = |files: &mut UpdateFiles| match files.obey(Command::Look) {
            Some(Event::Software(status)) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(look(&mut files), None);
        let updater = dir.path().join("vpn-node-updater");
        std::fs::create_dir(&updater).unwrap();
        let status = Status {
            format: 1,
            stable_version: "1.4.0".into(),
            ..Status::default()
        };
        let json = serde_json::to_vec(&status).unwrap();
        std::fs::write(updater.join("status.json"), &json).unwrap();
        assert_eq!(look(&mut files).as_deref(), Some(&status));
        std::fs::write(updater.join("status.json"), &json[..20]).unwrap();
        assert_eq!(look(&mut files), None, "half a file says nothing");
        let giant = vec![b' '; 1 << 20];
        std::fs::write(updater.join("status.json"), giant).unwrap();
        assert_eq!(look(&mut files), None);
    }
}
