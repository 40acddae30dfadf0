//! The loop: wait for an event, a deadline or a signal; ask the core; do what it says.

mod reload;

use std::sync::Arc;
use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use tokio::sync::{mpsc, watch};

use super::controller::Controller;
use super::disk::{Disk, DiskCommand};
use super::host_signals::{Ask, Signals, notify};
use super::life;
use super::progress::{Part, Progress, Work};
use super::updates::Downloads;
use super::watch::Readers;
use super::watchdog::Watchdog;
use crate::core::agent::{Agent, Command, Event};
use crate::core::journal;
use crate::core::report::{Lives, StatusReport};
use crate::host::metrics::Sampler;
use crate::host::{clock, systemd};
use crate::status::Wish;
use crate::vpn::{Order, Report, Word};

/// The report is rebuilt this often at most: with many connections it is not free.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// And this often at least: a gate believes no report that is three times as old
/// (`core::gate::MAX_REPORT_AGE`). Also the longest sleep, for a clock that a suspend stopped.
const REPORT_AT_LEAST_EVERY: Duration = Duration::from_secs(5);

pub(super) use self::reload::{Configuration, before_enrolment, disks};

/// How long the last words to the controller may take: a request takes milliseconds, and one that
/// got no answer is sent again by the next start.
const LAST_WORD_TAKES: Duration = Duration::from_secs(5);
/// How long a stop may take in all, on a disk that is slow: then what it did not take is given up,
/// as in a crash.
const STOP_TAKES_AT_MOST: Duration = Duration::from_secs(60);

/// Everyone who does what the core says.
pub(super) struct Workers {
    /// To the controller.
    pub(super) controller: Controller,
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
    configuration: Configuration,
    workers: Workers,
    reports: watch::Sender<Arc<StatusReport>>,
    progress: Progress,
    /// The turn under way: ends while it waits for room in the disk's queue, which is the disk's to
    /// answer for.
    turn: Option<Work>,
    rng: UnwrapErr<SysRng>,
    /// When the next report may be made; none while nothing has changed.
    report_at: Option<Duration>,
    reported_at: Duration,
    status_line: String,
    lives: Lives,
}

impl EventLoop {
    pub(super) fn new(
        agent: Agent,
        configuration: Configuration,
        workers: Workers,
        reports: watch::Sender<Arc<StatusReport>>,
        progress: Progress,
    ) -> Self {
        Self {
            agent,
            configuration,
            workers,
            reports,
            progress,
            turn: None,
            rng: UnwrapErr(SysRng),
            report_at: Some(Duration::ZERO),
            reported_at: Duration::ZERO,
            status_line: String::new(),
            lives: Lives::default(),
        }
    }

    /// Runs until told to stop; then everything seen is on disk, unless it was told twice or that
    /// takes too long.
    pub(super) async fn run(mut self, signals: &mut Signals, watchdog: &Watchdog) {
        self.agent.handle_timeout(clock::now(), &mut self.rng);
        loop {
            self.turn = Some(self.progress.begin(Part::Loop));
            self.obey().await;
            self.report_if_due();
            let sleep = self.sleep();
            let load = self.workers.disk.load();
            let has_room = load.has_room();
            tokio::select! {
                ask = signals.next() => match ask {
                    Ask::Stop => break,
                    Ask::Reload => self.reload().await,
                },
                event = self.workers.controller.answer() => self.handle(event),
                word = self.workers.readers.word(), if has_room => self.told(word),
                () = load.changed(), if !has_room => {}
                Some(wish) = self.workers.wishes.recv() => self.grant(wish),
                event = self.workers.disk.event() => self.handle(event),
                event = self.workers.downloads.event() => self.handle(Event::Update(event)),
                () = tokio::time::sleep(sleep) => {
                    self.agent.handle_timeout(clock::now(), &mut self.rng);
                }
            }
        }
        tracing::info!(
            message_id = %journal::STOPPING,
            "stopping"
        );
        notify(systemd::notify_stopping);
        watchdog.stopping(STOP_TAKES_AT_MOST);
        tokio::select! {
            () = self.finish() => {}
            () = signals.stop() => {
                tracing::warn!(
                    message_id = %journal::STOP_CUT_SHORT,
                    "told to stop a second time: what is not on disk yet is given up"
                );
            }
            () = tokio::time::sleep(STOP_TAKES_AT_MOST) => {
                tracing::error!(
                    message_id = %journal::STOP_CUT_SHORT,
                    "the disk takes too long: what is not on disk yet is given up"
                );
            }
        }
    }

    /// What is known of connections goes to disk, the controller hears how this host was last, and
    /// everything that the disk was told is done.
    async fn finish(mut self) {
        self.agent.finish(clock::now());
        self.obey().await;
        // A controller that does not answer now hears it from the next start: the request is on disk.
        let _ = tokio::time::timeout(LAST_WORD_TAKES, self.say_last_word()).await;
        self.turn = None;
        self.workers.disk.finish().await;
    }

    /// Waits for the chained request under way, and sends one last heartbeat.
    async fn say_last_word(&mut self) {
        self.agent.last_word(clock::now(), &mut self.rng);
        loop {
            self.turn = Some(self.progress.begin(Part::Loop));
            self.obey().await;
            if !self.agent.is_speaking(clock::now()) {
                return;
            }
            let sleep = self.sleep();
            tokio::select! {
                event = self.workers.controller.answer() => self.handle(event),
                event = self.workers.disk.event() => self.handle(event),
                () = tokio::time::sleep(sleep) => {
                    self.agent.handle_timeout(clock::now(), &mut self.rng);
                }
            }
        }
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
            let controller = &self.workers.controller;
            match command {
                Command::Send { state, body } => {
                    self.turn = None;
                    let written = self.workers.disk.store_lane(state).await;
                    self.turn = Some(self.progress.begin(Part::Loop));
                    self.workers.controller.send(written, body);
                }
                Command::Poll { body, wait } => controller.poll(body, wait),
                Command::Introduce { body } => controller.introduce(body),
                Command::Witness { body } => controller.witness(body),
                Command::FetchCertificate => controller.fetch_certificate(),
                Command::Sample => {
                    let now = clock::now();
                    let metrics = self.workers.sampler.sample(now);
                    self.agent
                        .handle(Event::Sampled(metrics), now, &mut self.rng);
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
                Command::Settled {
                    directive,
                    outcome,
                    detail,
                } => life::directive(directive, outcome, detail.as_deref()),
                Command::Update(command) => {
                    if let Some(command) = self.workers.downloads.obey(command) {
                        self.tell_disk(DiskCommand::Update(command)).await;
                    }
                }
                Command::StoreNextKey(key) => self.tell_disk(DiskCommand::StoreNextKey(key)).await,
                Command::DropNextKey => self.tell_disk(DiskCommand::DropNextKey).await,
                Command::StoreCertificate(envelope) => {
                    self.tell_disk(DiskCommand::StoreCertificate(envelope))
                        .await;
                }
                Command::ProbeHardware => self.tell_disk(DiskCommand::ProbeHardware).await,
                Command::Record(recording) => self.tell_disk(DiskCommand::Record(recording)).await,
                Command::ReadBatch => self.tell_disk(DiskCommand::ReadBatch).await,
                Command::Acked { through, proof } => {
                    self.tell_disk(DiskCommand::Acked { through, proof }).await;
                }
            }
        }
    }

    /// Tells the disk thread, and waits for room in its queue if need be.
    async fn tell_disk(&mut self, command: DiskCommand) {
        self.turn = None;
        self.workers.disk.tell(command).await;
        self.turn = Some(self.progress.begin(Part::Loop));
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
        self.lives.news(&report, now).iter().for_each(life::tell);
        let line = status_line(&report);
        if line != self.status_line || self.progress.is_status_line_lost() {
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
