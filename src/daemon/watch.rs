//! The thread that reads the VPN daemons, and what it sends to the loop.

use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::OBSERVATIONS_QUEUED;
use crate::config::Settings;
use crate::core::sessions::BackendId;
use crate::host::clock;
use crate::vpn::wireguard::{self, WireGuard};
use crate::vpn::{Backend, Report};

/// Starts the reader. It ends when the receiver is dropped.
///
/// `expected` are the backends of connections that a former process left.
pub(super) fn spawn(settings: &Settings, expected: Vec<BackendId>) -> mpsc::Receiver<Vec<Report>> {
    let (reports, receiver) = mpsc::channel(OBSERVATIONS_QUEUED);
    if !settings.wireguard.enabled {
        return receiver;
    }
    let wireguard = wireguard::Settings {
        socket_dir: settings.wireguard.socket_dir.clone(),
        kernel: settings.wireguard.kernel,
    };
    let every = settings.wireguard.poll;
    thread::Builder::new()
        .name("vpn-watch".into())
        .spawn(move || watch(&mut WireGuard::new(wireguard, expected), every, &reports))
        .expect("a thread can be started when the daemon starts");
    receiver
}

fn watch(backend: &mut impl Backend, every: Duration, reports: &mpsc::Sender<Vec<Report>>) {
    loop {
        let seen = backend.poll(clock::now());
        if !seen.is_empty() && reports.blocking_send(seen).is_err() {
            return;
        }
        if reports.is_closed() {
            return;
        }
        thread::sleep(every);
    }
}
