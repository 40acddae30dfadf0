//! The life of the daemon: read what is on disk, enrol if told to, run the loop, stop in order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use tokio::sync::{mpsc, watch};
use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::token::{Token, TokenError};
use vpn_node_release::version::Platform;

use super::controller::Controller;
use super::disk::DiskThread;
use super::enrol::Reach;
use super::error::Error;
use super::event_loop::{self, Configuration, EventLoop, Workers};
use super::host_signals::{Ask, Signals, notify};
use super::progress::{Part, Progress};
use super::source::Source;
use super::updates::{Downloads, UpdateFiles};
use super::watch::Readers;
use super::watchdog::Watchdog;
use super::{TOKEN_CREDENTIAL, enrol};
use crate::config::Settings;
use crate::core::agent::{Agent, Setup};
use crate::core::journal;
use crate::core::report::StatusReport;
use crate::core::schedule;
use crate::core::trust::Trust;
use crate::core::update;
use crate::host::clock;
use crate::host::ids;
use crate::host::installation;
use crate::host::logging;
use crate::host::metrics::Sampler;
use crate::host::sealing;
use crate::host::state::{Enrolment, StateDir};
use crate::host::systemd;
use crate::remote::Client;
use crate::status::{self, Limits, Policy, StatusSocket, Wish};

/// Wishes of local users that may wait for the loop; who asks then waits, and gives up in time.
const WISHES_QUEUED: usize = 4;
/// How often a daemon that is not enrolled looks whether it is now.
const LOOK_FOR_ENROLMENT: Duration = Duration::from_secs(2);

/// Runs the daemon until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// [`Error`]: what is on disk cannot be trusted, or the host refuses something basic.
pub(super) async fn run(mut settings: Settings, source: Source) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let state = StateDir::new(&settings.state_dir);
    let _lock = state.lock()?;
    state.check_format()?;
    // Only now: a second agent must not take the first one's key away.
    let state = state.with_kek(sealing::take_kek(&settings.runtime_dir)?);
    state.finish_change(&mut UnwrapErr(SysRng))?;
    let here = installation::here();
    tracing::info!(
        message_id = %journal::STARTED,
        version = %here.version, running_from = here.running_from, "started"
    );
    let (reports, reader) = watch::channel(Arc::new(first_report()));
    let (to_wishes, wishes) = mpsc::channel(WISHES_QUEUED);
    let socket = StatusSocket::bind(&settings.status_socket())?;
    let server = tokio::spawn(status::serve(
        socket,
        reader,
        to_wishes,
        Policy::of_this_host(),
        Limits::default(),
    ));
    notify(|| systemd::notify_ready("starting"));
    let progress = Progress::default();
    let watchdog = Watchdog::start(progress.clone()).map_err(|source| Error::System {
        doing: "start the thread of the watchdog",
        source,
    })?;

    let mut asked = Asked {
        signals: &mut signals,
        source: &source,
        settings: &mut settings,
    };
    let Some(enrolment) = enrolment(&state, &progress, &mut asked).await? else {
        return Ok(());
    };
    logging::set_node_id(&enrolment.server_id);
    tracing::info!(
        message_id = %journal::ENROLLED,
        server_id = %enrolment.server_id, "this host is enrolled"
    );
    let workers = Supervision { progress, watchdog };
    let from = (settings, source);
    run_enrolled(
        from,
        (state, enrolment),
        (reports, wishes),
        workers,
        &mut signals,
    )
    .await?;
    // The loop dropped the reports: the server ends and removes its socket.
    let _ = server.await;
    tracing::info!(
        message_id = %journal::STOPPED,
        "stopped"
    );
    Ok(())
}

fn first_report() -> StatusReport {
    let now = clock::now();
    let here = installation::here();
    StatusReport {
        running_from: here.running_from.clone(),
        ..StatusReport::starting(
            &here.version,
            &ids::hostname(),
            std::process::id(),
            now.boot,
        )
    }
}

/// What the host asks of an agent that is not enrolled.
struct Asked<'a> {
    signals: &'a mut Signals,
    source: &'a Source,
    settings: &'a mut Settings,
}

impl Asked<'_> {
    /// Returns when the daemon is told to stop; reloads meanwhile.
    async fn stop(&mut self) {
        while self.signals.next().await == Ask::Reload {
            event_loop::before_enrolment(self.source, self.settings);
        }
    }
}

/// The enrolment on disk; else by the credential; else waits for `vpn-node enroll`.
/// None when the daemon was told to stop.
async fn enrolment(
    state: &StateDir,
    progress: &Progress,
    asked: &mut Asked<'_>,
) -> Result<Option<Enrolment>, Error> {
    if let Some(enrolment) = state.enrolment()? {
        return Ok(Some(enrolment));
    }
    if let Some(text) = systemd::credential(TOKEN_CREDENTIAL)? {
        let text = std::str::from_utf8(&text).map_err(|_| TokenError::NotAToken)?;
        let token = Token::parse(text)?;
        return enrol_by_credential(&token, progress, asked).await;
    }
    tracing::warn!(
        message_id = %journal::NOT_ENROLLED,
        "this host is not enrolled: run 'vpn-node enroll' and paste a token"
    );
    notify(|| systemd::notify_status("not enrolled: run 'vpn-node enroll'"));
    let mut beat = tokio::time::interval(LOOK_FOR_ENROLMENT);
    loop {
        let _turn = progress.begin(Part::Loop);
        tokio::select! {
            () = asked.stop() => return Ok(None),
            _ = beat.tick() => {}
        }
        if let Some(enrolment) = state.enrolment()? {
            return Ok(Some(enrolment));
        }
    }
}

/// Retries what may heal by itself (network, overload), never what cannot (a spent token).
async fn enrol_by_credential(
    token: &Token,
    progress: &Progress,
    asked: &mut Asked<'_>,
) -> Result<Option<Enrolment>, Error> {
    let mut failures = 0;
    loop {
        let settings = asked.settings.clone();
        let exchange = progress.begin(Part::Exchange);
        let attempt = tokio::select! {
            () = asked.stop() => return Ok(None),
            attempt = enrol::this_host(token, &settings) => attempt,
        };
        drop(exchange);
        let error = match attempt {
            Ok(enrolled) => {
                for warning in &enrolled.warnings {
                    tracing::warn!(
                        message_id = %journal::ENROLMENT_REMARK,
                        %warning, "the controller remarks"
                    );
                }
                return Ok(Some(enrolled.enrolment));
            }
            Err(error) if error.is_temporary() => error,
            Err(error) => return Err(Error::Enrol(error)),
        };
        let mut rng = UnwrapErr(SysRng);
        let wait = schedule::backoff(failures, None, &mut rng);
        failures += 1;
        tracing::warn!(
            message_id = %journal::ENROLMENT_FAILED,
            %error, retry_in_s = wait.as_secs(), "enrolment failed; it will be tried again"
        );
        notify(|| systemd::notify_status(&format!("enrolling: {error}")));
        tokio::select! {
            () = asked.stop() => return Ok(None),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What sees to it that the agent gets on.
struct Supervision {
    progress: Progress,
    watchdog: Watchdog,
}

async fn run_enrolled(
    (settings, source): (Settings, Source),
    (state, enrolment): (StateDir, Enrolment),
    (reports, wishes): (watch::Sender<Arc<StatusReport>>, mpsc::Receiver<Wish>),
    Supervision { progress, watchdog }: Supervision,
    signals: &mut Signals,
) -> Result<(), Error> {
    let settings = &settings;
    let reading = progress.begin(Part::Disk);
    state.remove_leftovers()?;
    let identity = state.identity(&enrolment)?;
    let (lane, lane_file) = state.lane(&enrolment)?;
    let kept = state.sessions()?;
    let reach = Reach {
        urls: enrolment.urls.clone(),
        server_pin: enrolment.server_pin,
    };
    let options = enrol::options_of(settings, &reach);
    let client = Client::new(&options)?;
    let downloads = Downloads::new(settings, &enrolment, options.urls.clone(), lane.floor_ms);
    let certificate = ControllerCertificate::open(&enrolment.certificate, &enrolment.root_pin, 0)?;
    let now = clock::now();
    let agent = Agent::new(
        Setup {
            version: installation::here().version.clone(),
            running_from: installation::here().running_from.clone(),
            updates: update::Setup {
                enabled: settings.update.enabled,
                platform: Platform::here(),
                kept: UpdateFiles::new(settings).kept(),
            },
            pid: std::process::id(),
            hostname: ids::hostname(),
            location: settings.location.clone(),
            controller_url: client.url().to_owned(),
            state_dir: settings.state_dir.clone(),
            boot_id: ids::boot_id(Path::new("/proc"))?,
            enrolled_ms: enrolment.enrolled_ms,
            os_version: enrol::short(ids::os_version(Path::new("/")).unwrap_or_default()),
            trust: Trust::new(enrolment.root_pin, certificate, lane.floor_ms),
            lane,
            session_key: *identity.session_key(),
            key: identity.key,
            next_key: state.next_key(),
            sessions: kept.sessions.clone(),
            unrecorded: kept.unrecorded.clone(),
        },
        now,
    );
    let workers = Workers {
        controller: Controller::new(client, progress.clone()),
        readers: Readers::spawn(settings, &agent.expected_backends()).map_err(|source| {
            let doing = "start the threads that read the VPN daemons";
            Error::System { doing, source }
        })?,
        disk: DiskThread::new(settings, &state, &enrolment, kept, progress.clone())
            .spawn(lane_file),
        wishes,
        downloads,
        sampler: Sampler::open(
            Path::new("/proc"),
            Path::new("/sys"),
            &event_loop::disks(settings),
        ),
    };
    drop(reading);
    let configuration = Configuration {
        source,
        settings: settings.clone(),
        reach,
    };
    EventLoop::new(agent, configuration, workers, reports, progress)
        .run(signals, &watchdog)
        .await;
    Ok(())
}
