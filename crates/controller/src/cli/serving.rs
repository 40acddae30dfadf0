//! `serve`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Config;
use crate::serve;

pub(super) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    log();
    let stop = "signals cannot be caught";
    let mut terminate = signal(SignalKind::terminate()).context(stop)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(stop)?;
    let running = serve::start(config).await?;
    anstream::println!("listening on https://{}", running.addr);
    tracing::info!(address = %running.addr, "the controller serves");
    notify(&NotifyState::Ready);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    notify(&NotifyState::Stopping);
    running.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Tells systemd, when it is there (sd_notify(3)).
fn notify(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

/// To the journal when systemd connected our standard error to it, else to standard error.
fn log() {
    let registry = tracing_subscriber::registry().with(LevelFilter::INFO);
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal.with_field_prefix(None)).init();
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        registry.with(layer).init();
    }
}
