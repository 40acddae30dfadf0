//! A model of what surrounds releases on a host: the updater with its status, the worker that
//! downloads, and the file that outlives the agent.

use std::time::Duration;

use vpn_node_release::handover::{Attempt, Phase, Status};
use vpn_node_release::version::Platform;

use crate::core::update::{Command, Event, Failure, Kept, Order, Setup};

pub(super) struct Releases {
    /// None: this host has no updater.
    pub(super) updater: Option<Status>,
    pub(super) enabled: bool,
    /// What a download ends with.
    pub(super) download: Result<(), Failure>,
    /// What a look at the metadata ends with.
    pub(super) check: Result<(), Failure>,
    pub(super) takes: Duration,
    /// The file.
    pub(super) kept: Kept,
    /// How often it was written.
    pub(super) kept_writes: u64,
    /// What was asked of the worker, and when.
    pub(super) fetches: Vec<(Duration, Order, String)>,
    pub(super) checks: Vec<Duration>,
    pub(super) stops: u64,
    pub(super) cleaned: u64,
}

impl Releases {
    pub(super) fn new() -> Self {
        Self {
            updater: None,
            enabled: true,
            download: Ok(()),
            check: Ok(()),
            takes: Duration::from_secs(20),
            kept: Kept::default(),
            kept_writes: 0,
            fetches: Vec::new(),
            checks: Vec::new(),
            stops: 0,
            cleaned: 0,
        }
    }

    pub(super) fn setup(&self) -> Setup {
        Setup {
            enabled: self.enabled,
            platform: Platform::parse("linux-amd64").unwrap(),
            kept: self.kept.clone(),
        }
    }

    /// Does what the agent wants, and gives what happens after how long.
    pub(super) fn obey(&mut self, command: Command, t: Duration) -> Vec<(Duration, Event)> {
        let soon = Duration::from_millis(7);
        match command {
            Command::Look => vec![(soon, Event::Software(self.updater.clone().map(Box::new)))],
            Command::Keep(kept) => {
                self.kept = *kept;
                self.kept_writes += 1;
                Vec::new()
            }
            Command::Fetch {
                run,
                order,
                request,
                known,
                ..
            } => {
                // Also of a restarted agent: what it judges by comes from the updater.
                assert_eq!(known.channel, "stable", "the updater's status was not read");
                self.fetches.push((t, order, request));
                let ended = Event::Ended {
                    run,
                    result: self.download.clone(),
                };
                vec![(soon, Event::Fresh { run }), (self.takes, ended)]
            }
            Command::Check { run, .. } => {
                self.checks.push(t);
                let fresh = self.check.is_ok().then_some((soon, Event::Fresh { run }));
                let ended = Event::Ended {
                    run,
                    result: self.check.clone(),
                };
                fresh.into_iter().chain([(soon * 2, ended)]).collect()
            }
            Command::Stop => {
                self.stops += 1;
                Vec::new()
            }
            Command::Clean => {
                self.cleaned += 1;
                Vec::new()
            }
        }
    }

    /// The updater says how it goes with the request of the last download.
    pub(super) fn attempt(&mut self, phase: Phase, code: Option<&str>) {
        let (_, order, request) = self.fetches.last().expect("something was fetched");
        let status = self.updater.as_mut().expect("there is an updater");
        if phase == Phase::Installed {
            status.stable_version.clone_from(&order.version);
        }
        status.attempt = Some(Attempt {
            id: request.clone(),
            deployment: order.deployment,
            version: order.version.clone(),
            from: "1.2.3".to_owned(),
            phase,
            code: code.map(str::to_owned),
            detail: code.map(|code| format!("a sentence about {code}")),
            started_ms: 0,
            changed_ms: 0,
            deadline_ms: None,
        });
    }
}

/// An updater that trusts release keys and has nothing to do.
pub(super) fn updater() -> Status {
    Status {
        format: 1,
        root_version: Some(1),
        channel: "stable".to_owned(),
        stable: "1.2.3".to_owned(),
        stable_version: "1.2.3".to_owned(),
        counter: 7,
        ..Status::default()
    }
}
