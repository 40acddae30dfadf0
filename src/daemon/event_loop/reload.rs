//! A reload (SIGHUP): the configuration is read and checked as at the start, and what changed is
//! applied while everything goes on. One that cannot be used changes nothing.

use super::EventLoop;
use crate::config::{self, Settings};
use crate::core::agent::Configured;
use crate::core::journal;
use crate::daemon::disk::{self, DiskCommand};
use crate::daemon::enrol::{self, Reach};
use crate::daemon::host_signals::notify;
use crate::daemon::source::Source;
use crate::daemon::watch;
use crate::host::{clock, logging, systemd};
use crate::remote::Client;

/// What a reload needs to know.
pub(in crate::daemon) struct Configuration {
    /// Where the settings are read from.
    pub(in crate::daemon) source: Source,
    /// Those in force.
    pub(in crate::daemon) settings: Settings,
    /// How the enrolment says that the controller is reached.
    pub(in crate::daemon) reach: Reach,
}

impl EventLoop {
    /// Reads the configuration again, and tells systemd when that begins and ends.
    pub(super) async fn reload(&mut self) {
        notify(|| systemd::notify_reloading(clock::monotonic()));
        if let Err(why) = self.apply().await {
            refused(&why);
            self.agent.configuration_refused(&why, clock::now());
        }
        self.report_soon();
        notify(systemd::notify_reloaded);
    }

    async fn apply(&mut self) -> Result<(), String> {
        let Configuration {
            source,
            settings: before,
            reach,
        } = &self.configuration;
        let before = before.clone();
        let mut after = source.load().map_err(|error| error.to_string())?;
        let changed = Changed::between(&before, &mut after);
        let options = enrol::options_of(&after, reach);
        // What can fail comes first, and changes nothing. The content of a CA file may be new.
        let new_way = after.controller != before.controller || after.controller.ca_file.is_some();
        if new_way {
            let client = Client::new(&options).map_err(|error| error.to_string())?;
            self.workers.controller.use_client(client);
        }
        self.workers.downloads.configure(&after, options.urls);
        self.workers.sampler.set_disks(&disks(&after));
        let limits = disk::ledger_options(&after);
        self.tell_disk(DiskCommand::LimitLedger(limits)).await;
        let readers = self.change_readers(&before, &mut after);
        // It is one of the five: the configuration was checked.
        let _ = logging::set_level(after.log_level.as_str());
        self.agent.configure(Configured {
            location: after.location.clone(),
            controller_url: self.workers.controller.url().to_owned(),
            updates_enabled: after.update.enabled,
            needs_restart: changed.at_start.clone(),
        });
        self.configuration.settings = after;
        changed.tell();
        readers
    }

    /// A reader that cannot be started goes on with its former settings, which the next reload
    /// finds changed again.
    fn change_readers(&mut self, before: &Settings, after: &mut Settings) -> Result<(), String> {
        let mut outcome = Ok(());
        for (kind, read) in watch::changed(before, after) {
            let known = self.agent.known_backends();
            match self.workers.readers.start(kind, after, &known) {
                Ok(()) if read => self.agent.reader_restarts(kind),
                Ok(()) => self.agent.reader_ends(kind, clock::now()),
                Err(error) => {
                    watch::put_back(kind, before, after);
                    let kind = kind.as_str();
                    outcome = Err(format!(
                        "the reader of {kind} cannot be started anew ({error}): it goes on as before; reload again"
                    ));
                }
            }
        }
        outcome
    }
}

/// `[metrics] disks` as the sampler takes them.
pub(in crate::daemon) fn disks(settings: &Settings) -> Vec<String> {
    let paths = settings.metrics.disks.iter();
    paths.map(|path| path.display().to_string()).collect()
}

/// A reload of an agent that is not enrolled: nothing runs yet that would have to change.
pub(in crate::daemon) fn before_enrolment(source: &Source, settings: &mut Settings) {
    notify(|| systemd::notify_reloading(clock::monotonic()));
    match source.load() {
        Ok(mut after) => {
            Changed::between(settings, &mut after).tell();
            let _ = logging::set_level(after.log_level.as_str());
            *settings = after;
        }
        Err(error) => refused(&error.to_string()),
    }
    notify(systemd::notify_reloaded);
}

/// Keys whose values differ, by when that counts.
struct Changed {
    at_once: Vec<String>,
    at_start: Vec<String>,
}

impl Changed {
    /// Those of `after`; what only a restart reads keeps its value from `before` there.
    fn between(before: &Settings, after: &mut Settings) -> Self {
        let (at_start, at_once): (Vec<_>, Vec<_>) = config::changed(before, after)
            .into_iter()
            .partition(|key| key.needs_restart());
        after.state_dir.clone_from(&before.state_dir);
        after.runtime_dir.clone_from(&before.runtime_dir);
        let titles = |keys: Vec<&config::Key>| keys.into_iter().map(config::Key::title).collect();
        Self {
            at_once: titles(at_once),
            at_start: titles(at_start),
        }
    }

    fn tell(&self) {
        tracing::info!(
            message_id = %journal::CONFIG_RELOADED,
            changed = self.at_once.join(", "), "the configuration is in force"
        );
        if !self.at_start.is_empty() {
            tracing::warn!(
                message_id = %journal::CONFIG_NEEDS_RESTART,
                keys = self.at_start.join(", "),
                "changed keys are read at the next start only: systemctl restart vpn-node-agent"
            );
        }
    }
}

fn refused(why: &str) {
    tracing::error!(
        message_id = %journal::CONFIG_REFUSED,
        error_code = journal::CODE_CONFIG_INVALID,
        "the changed configuration cannot be used as it stands: {why}"
    );
}
