//! Traffic of the network cards.
//!
//! What a tunnel carries passes a card too, so only interfaces with a device behind them count
//! (`/sys/class/net/NAME/device`). A host without any counts all but the loopback.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vpn_node_protocol::metrics::Network;

use super::kept::Kept;
use super::parse::{self, Traffic};
use super::rate;

/// About 2,000 interfaces of 130 bytes. A host with more (one interface a client) reports the
/// first ones, and cards come first since they exist first.
const MAX_NET_DEV: usize = 256 * 1024;
/// Names that are remembered as card or not. Interfaces of dial-in clients come and go with new
/// names, so the memory is emptied when it is full.
const MAX_REMEMBERED: usize = 4096;
/// `IFNAMSIZ` without the final NUL (netdevice(7)).
const MAX_NAME: usize = 15;

#[derive(Debug)]
pub(super) struct NetworkReader {
    dev: Kept,
    class: PathBuf,
    is_card: HashMap<Vec<u8>, bool>,
    last: Option<(Traffic, Duration)>,
}

impl NetworkReader {
    pub(super) fn open(proc_root: &Path, sys_root: &Path) -> Self {
        Self {
            dev: Kept::open(&proc_root.join("net/dev")),
            class: sys_root.join("class/net"),
            is_card: HashMap::new(),
            last: None,
        }
    }

    pub(super) fn read(&mut self, buffer: &mut Vec<u8>, boot: Duration) -> Option<Network> {
        let text = self.dev.read_lines(buffer, MAX_NET_DEV)?;
        let total = self.total(text);
        let before = self.last.replace((total, boot));
        let elapsed = |at: Duration| boot.saturating_sub(at);
        Some(Network {
            rx_bytes: total.rx,
            tx_bytes: total.tx,
            rx_bytes_per_s: before.and_then(|(was, at)| rate(was.rx, total.rx, elapsed(at))),
            tx_bytes_per_s: before.and_then(|(was, at)| rate(was.tx, total.tx, elapsed(at))),
        })
    }

    fn total(&mut self, text: &[u8]) -> Traffic {
        let (mut cards, mut all, mut any_card) = (Traffic::default(), Traffic::default(), false);
        for (name, traffic) in parse::net_dev(text) {
            if name == b"lo" {
                continue;
            }
            add(&mut all, traffic);
            if self.is_card(name) {
                any_card = true;
                add(&mut cards, traffic);
            }
        }
        if any_card { cards } else { all }
    }

    fn is_card(&mut self, name: &[u8]) -> bool {
        if let Some(known) = self.is_card.get(name) {
            return *known;
        }
        if self.is_card.len() >= MAX_REMEMBERED {
            self.is_card.clear();
        }
        let found = has_device(&self.class, name);
        self.is_card.insert(name.to_vec(), found);
        found
    }
}

/// Interface names are chosen by whoever makes the interface, so only plain ones become a path
/// (the kernel forbids the others as well, dev_valid_name).
fn has_device(class: &Path, name: &[u8]) -> bool {
    let plain = name.len() <= MAX_NAME
        && !matches!(name, b"." | b"..")
        && name.iter().all(|b| b.is_ascii_graphic() && *b != b'/');
    let Some(name) = plain.then(|| std::str::from_utf8(name).ok()).flatten() else {
        return false;
    };
    class.join(name).join("device").exists()
}

fn add(sum: &mut Traffic, more: Traffic) {
    sum.rx = sum.rx.saturating_add(more.rx);
    sum.tx = sum.tx.saturating_add(more.tx);
}
