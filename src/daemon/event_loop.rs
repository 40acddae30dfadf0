//! The loop: wait for an event, a deadline or a signal; ask the core; do what it says.

use std::sync::Arc;
use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use tokio::sync::{mpsc, watch};

use super::controller;
use super::disk::{Disk, DiskCommand};
use super::host_signals::{Stop, notify};
use super::updates::Downloads;
use super::watch::Readers;
use crate::core::agent::{Agent, Command, Event};
use crate::core::report::StatusReport;
use crate::host::metrics::Sampler;
use crate::host::{clock, systemd};
use crate::remote::Client;
use crate::status::Wish;
use crate::vpn::{Order, Report, Word};

/// Answers of the controller that can be under way at once: a chained request, a directive
/// request, a certificate, an introduction and a witness.
const ANSWERS_QUEUED: usize = 5;
/// The report is rebuilt this often at most: with many connections it is not free.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// And this often at least: a gate believes no report that is three times as old
/// (`core::gate::MAX_REPORT_AGE`). Also the longest sleep, for a clock that a suspend stopped.
const REPORT_AT_LEAST_EVERY: Duration = Duration::from_secs(5);

/// Everyone who does what the core says.
pub(super) struct Workers {
    /// To the controller.
    pub(super) client: Arc<Client>,
    /// From and to the VPN daemons.
    pub(super) readers: Readers,
    /// State and ledger.
    pub(super) disk: Disk,
    /// From local users who may act.
    pub(super) wishes: mpsc::Receiver<Wish>,
    /// Releases.
    pub(super) downloads: Downloads,
    /// The host's figures.
    pub(super) sampler: Sampler,
}

/// The loop and what it holds.
pub(super) struct EventLoop {
    agent: Agent,
    workers: Workers,
    reports: watch::Sender<Arc<StatusReport>>,
    answers: mpsc::Receiver<Event>,
    to_answers: mpsc::Sender<Event>,
    rng: UnwrapErr<SysRng>,
    /// When the next report may be made; none while nothing has changed.
    report_at: Option<Duration>,
    reported_at: Duration,
    status_line: String,
}

impl EventLoop {
    pub(super) fn new(
        agent: Agent,
        workers: Workers,
        reports: watch::Sender<Arc<StatusReport>>,
    ) -> Self {
        let (to_answers, answers) = mpsc::channel(ANSWERS_QUEUED);
        Self {
            agent,
            workers,
            reports,
            answers,
            to_answers,
            rng: UnwrapErr(SysRng),
            report_at: Some(Duration::ZERO),
            reported_at: Duration::ZERO,
            status_line: String::new(),
        }
    }

    /// Runs until told to stop; then everything seen is on disk.
    pub(super) async fn run(mut self, stop: &mut Stop) {
        let watchdog = systemd::watchdog_interval().unwrap_or(REPORT_AT_LEAST_EVERY);
        self.agent.handle_timeout(clock::now(), &mut self.rng);
        loop {
            self.obey().await;
            self.report_if_due();
            notify(systemd::notify_watchdog);
            let sleep = self.sleep().min(watchdog);
            let load = self.workers.disk.load();
            let has_room = load.has_room();
            tokio::select! {
                () = stop.wait() => break,
                Some(event) = self.answers.recv() => self.handle(event),
                Some(word) = self.workers.readers.word(), if has_room => self.told(word),
                () = load.changed(), if !has_room => {}
                Some(wish) = self.workers.wishes.recv() => self.grant(wish),
                event = self.workers.disk.event() => self.handle(event),
                event = self.workers.downloads.event() => self.handle(Event::Update(event)),
                () = tokio::time::sleep(sleep) => {
                    self.agent.handle_timeout(clock::now(), &mut self.rng);
                }
            }
        }
        self.agent.finish(clock::now());
        self.obey().await;
        self.workers.disk.finish().await;
    }

    fn handle(&mut self, event: Event) {
        self.agent.handle(event, clock::now(), &mut self.rng);
        self.report_soon();
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::RotateIdentity(answer) => {
                let begun = self.agent.rotate(&mut self.rng);
                // Whoever asked may have gone.
                let _ = answer.send(begun.map_err(|why| why.to_string()));
            }
            Wish::ApplyRelease(version, answer) => {
                let now = clock::now();
                let taken = self.agent.want_release(&version, now, &mut self.rng);
                let _ = answer.send(taken.map_err(|why| format!("{} ({})", why.detail, why.code)));
            }
        }
        self.report_soon();
    }

    fn told(&mut self, word: Word) {
        match word {
            Word::Seen(reports) => reports.into_iter().for_each(|report| self.seen(report)),
            Word::Done { order, result } => self.handle(Event::Disconnected { order, result }),
        }
        self.report_soon();
    }

    fn seen(&mut self, report: Report) {
        if let Some(details) = report.details {
            self.handle(Event::Details(report.backend.clone(), details));
        }
        for obs in report.obs {
            self.handle(Event::Observed(report.backend.clone(), obs));
        }
    }

    /// Hands an order to its reader; that it cannot be handed over is an answer, too.
    fn order(&mut self, order: Order) {
        let id = order.id;
        if !self.workers.readers.order(order) {
            let result = Err("the reader of the VPN daemon does not answer".to_owned());
            self.handle(Event::Disconnected { order: id, result });
        }
    }

    /// Does what the core wants, in its order, until it wants nothing more.
    async fn obey(&mut self) {
        while let Some(command) = self.agent.next_command() {
            match command {
                Command::Send { state, body } => {
                    let written = self.workers.disk.store_lane(state).await;
                    controller::send(&self.workers.client, written, body, &self.to_answers);
                }
                Command::Poll { body, wait } => {
                    controller::poll(&self.workers.client, body, wait, &self.to_answers);
                }
                Command::Introduce { body } => {
                    controller::introduce(&self.workers.client, body, &self.to_answers);
                }
                Command::Witness { body } => {
                    controller::witness(&self.workers.client, body, &self.to_answers);
                }
                Command::StoreNextKey(key) => {
                    self.workers.disk.tell(DiskCommand::StoreNextKey(key)).await;
                }
                Command::DropNextKey => self.workers.disk.tell(DiskCommand::DropNextKey).await,
                Command::FetchCertificate => {
                    controller::fetch_certificate(&self.workers.client, &self.to_answers);
                }
                Command::Sample => {
                    let now = clock::now();
                    let metrics = self.workers.sampler.sample(now);
                    self.agent
                        .handle(Event::Sampled(metrics), now, &mut self.rng);
                }
                Command::StoreCertificate(envelope) => {
                    self.workers
                        .disk
                        .tell(DiskCommand::StoreCertificate(envelope))
                        .await;
                }
                Command::ProbeHardware => self.workers.disk.tell(DiskCommand::ProbeHardware).await,
                Command::Record(recording) => {
                    self.workers.disk.tell(DiskCommand::Record(recording)).await;
                }
                Command::Disconnect {
                    order,
                    backend,
                    key,
                } => self.order(Order {
                    id: order,
                    backend,
                    key,
                }),
                Command::Update(command) => {
                    if let Some(command) = self.workers.downloads.obey(command) {
                        self.workers.disk.tell(DiskCommand::Update(command)).await;
                    }
                }
                Command::ReadBatch => self.workers.disk.tell(DiskCommand::ReadBatch).await,
                Command::Acked { through, proof } => {
                    self.workers
                        .disk
                        .tell(DiskCommand::Acked { through, proof })
                        .await;
                }
            }
        }
    }

    fn report_soon(&mut self) {
        self.report_at
            .get_or_insert(self.reported_at + REPORT_EVERY);
    }

    fn report_if_due(&mut self) {
        let now = clock::now();
        let latest = self.reported_at + REPORT_AT_LEAST_EVERY;
        if now.boot < self.report_at.unwrap_or(latest).min(latest) {
            return;
        }
        self.report_at = None;
        self.reported_at = now.boot;
        let report = self.agent.report(now);
        let line = status_line(&report);
        if line != self.status_line {
            notify(|| systemd::notify_status(&line));
            self.status_line = line;
        }
        self.reports.send_replace(Arc::new(report));
    }

    fn sleep(&self) -> Duration {
        let now = clock::now().boot;
        let next = [self.agent.next_deadline(), self.report_at]
            .into_iter()
            .flatten()
            .fold(self.reported_at + REPORT_AT_LEAST_EVERY, Duration::min);
        next.saturating_sub(now)
    }
}

/// What `systemctl status` shows: changes with the state, not with every heartbeat.
fn status_line(report: &StatusReport) -> String {
    let sessions: u64 = report.backends.iter().map(|backend| backend.sessions).sum();
    let mut line = format!(
        "{}, {sessions} connections",
        report.verification.state.as_str()
    );
    if let Some(update) = &report.update {
        line.push_str(
            &update
                .line()
                .map(|line| format!("; {line}"))
                .unwrap_or_default(),
        );
    }
    line
}
