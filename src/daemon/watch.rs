//! The threads that read the VPN daemons, and how they and the loop reach each other.

use std::collections::BTreeMap;
use std::io;
use std::thread;

use tokio::sync::mpsc;

use super::OBSERVATIONS_QUEUED;
use crate::config::{ManagementAddress, Settings};
use crate::core::sessions::{BackendId, BackendKind};
use crate::vpn::ocserv::{self, Ocserv};
use crate::vpn::openvpn::{self, OpenVpn};
use crate::vpn::strongswan::{self, StrongSwan};
use crate::vpn::wireguard::{self, WireGuard};
use crate::vpn::{Address, Backend, Closed, Order, Orders, Word, line};

/// All readers. They end when this is dropped.
pub(super) struct Readers {
    words: mpsc::Receiver<(u64, Word)>,
    to_loop: mpsc::Sender<(u64, Word)>,
    readers: Vec<Reader>,
    /// Readers that were ever started: the number of the next one.
    started: u64,
}

/// The loop's end of one reader.
struct Reader {
    kind: BackendKind,
    /// Tells its words from those of one that it took the place of.
    number: u64,
    orders: Orders,
}

impl Readers {
    /// Starts a thread for each kind of VPN software that is to be read.
    ///
    /// `expected` are the backends of connections that a former process left, and their epochs.
    ///
    /// # Errors
    /// The kernel gives no thread or no eventfd(2).
    pub(super) fn spawn(
        settings: &Settings,
        expected: &BTreeMap<BackendId, u64>,
    ) -> io::Result<Self> {
        let (to_loop, words) = mpsc::channel(OBSERVATIONS_QUEUED);
        let mut readers = Self {
            words,
            to_loop,
            readers: Vec::new(),
            started: 0,
        };
        for kind in KINDS {
            readers.start(kind, settings, expected)?;
        }
        Ok(readers)
    }

    /// Starts the reader of one kind, in the place of the one that runs; none if the configuration
    /// switches it off. What the former one still says is not heard.
    ///
    /// # Errors
    /// As [`Readers::spawn`]; then the former one goes on.
    pub(super) fn start(
        &mut self,
        kind: BackendKind,
        settings: &Settings,
        expected: &BTreeMap<BackendId, u64>,
    ) -> io::Result<()> {
        let mut reader = None;
        if let Some(backend) = backend(kind, settings, expected) {
            let number = self.started;
            let to_loop = self.to_loop.clone();
            let tell = move |word| to_loop.blocking_send((number, word)).map_err(|_| Closed);
            let (line, orders) = line(Box::new(tell))?;
            thread::Builder::new()
                .name(format!("vpn-{}", kind.as_str()))
                .spawn(move || backend.run(line))?;
            self.started += 1;
            reader = Some(Reader {
                kind,
                number,
                orders,
            });
        }
        self.readers.retain(|reader| reader.kind != kind);
        self.readers.extend(reader);
        Ok(())
    }

    /// What the readers tell next.
    pub(super) async fn word(&mut self) -> Word {
        loop {
            let (number, word) = self.words.recv().await.expect("one of its senders is here");
            if self.readers.iter().any(|reader| reader.number == number) {
                return word;
            }
        }
    }

    /// Hands an order to the reader that it is for; false when that cannot take it.
    #[must_use]
    pub(super) fn order(&self, order: Order) -> bool {
        let kind = order.backend.kind;
        let reader = self.readers.iter().find(|reader| reader.kind == kind);
        reader.is_some_and(|reader| reader.orders.give(order))
    }
}

/// All kinds, in the order in which their readers start.
const KINDS: [BackendKind; 4] = [
    BackendKind::WireGuard,
    BackendKind::OpenVpn,
    BackendKind::StrongSwan,
    BackendKind::Ocserv,
];

/// The kinds whose settings differ, and whether each is still read.
pub(super) fn changed(before: &Settings, after: &Settings) -> Vec<(BackendKind, bool)> {
    let differs = |kind: &BackendKind| match kind {
        BackendKind::WireGuard => before.wireguard != after.wireguard,
        BackendKind::OpenVpn => before.openvpn != after.openvpn,
        BackendKind::StrongSwan => before.strongswan != after.strongswan,
        BackendKind::Ocserv => before.ocserv != after.ocserv,
    };
    let changed = KINDS.into_iter().filter(differs);
    changed
        .map(|kind| (kind, is_enabled(kind, after)))
        .collect()
}

/// The settings of one kind as they were.
pub(super) fn put_back(kind: BackendKind, before: &Settings, after: &mut Settings) {
    match kind {
        BackendKind::WireGuard => after.wireguard.clone_from(&before.wireguard),
        BackendKind::OpenVpn => after.openvpn.clone_from(&before.openvpn),
        BackendKind::StrongSwan => after.strongswan.clone_from(&before.strongswan),
        BackendKind::Ocserv => after.ocserv.clone_from(&before.ocserv),
    }
}

fn is_enabled(kind: BackendKind, settings: &Settings) -> bool {
    match kind {
        BackendKind::WireGuard => settings.wireguard.enabled,
        BackendKind::OpenVpn => settings.openvpn.enabled,
        BackendKind::StrongSwan => settings.strongswan.enabled,
        BackendKind::Ocserv => settings.ocserv.enabled,
    }
}

/// The reader of one kind, unless the configuration switches it off.
fn backend(
    kind: BackendKind,
    settings: &Settings,
    expected: &BTreeMap<BackendId, u64>,
) -> Option<Box<dyn Backend>> {
    if !is_enabled(kind, settings) {
        return None;
    }
    Some(match kind {
        BackendKind::WireGuard => {
            let wireguard = wireguard::Settings {
                socket_dir: settings.wireguard.socket_dir.clone(),
                kernel: settings.wireguard.kernel,
                reader: settings.wireguard.reader.clone(),
                poll: settings.wireguard.poll,
            };
            Box::new(WireGuard::new(wireguard, expected.keys().cloned()))
        }
        BackendKind::OpenVpn => {
            let expected = expected.iter().map(|(id, epoch)| (id.clone(), *epoch));
            Box::new(OpenVpn::new(openvpn_settings(settings), expected))
        }
        BackendKind::StrongSwan => {
            let strongswan = strongswan::Settings {
                vici: settings.strongswan.vici.clone(),
                expected: settings.strongswan.expected,
            };
            Box::new(StrongSwan::new(strongswan, expected.keys().cloned()))
        }
        BackendKind::Ocserv => {
            let ocserv = ocserv::Settings {
                socket: settings.ocserv.socket.clone(),
                expected: settings.ocserv.expected,
            };
            Box::new(Ocserv::new(ocserv, expected.keys().cloned()))
        }
    })
}

fn openvpn_settings(settings: &Settings) -> openvpn::Settings {
    let settings = &settings.openvpn;
    let address = |address: &ManagementAddress| match address {
        ManagementAddress::Unix(path) => Address::Unix(path.clone()),
        ManagementAddress::Tcp(address) => Address::Tcp(*address),
    };
    let management = settings.management.as_ref();
    openvpn::Settings {
        management: management.map(|all| all.iter().map(address).collect()),
        password_file: settings.password_file.clone(),
        status_files: settings.status_files.clone(),
        places: openvpn::Places::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_put_back_is_found_changed_by_the_next_reload() {
        let before = Settings::default();
        let mut wanted = Settings::default();
        wanted.wireguard.enabled ^= true;
        wanted.openvpn.enabled ^= true;
        wanted.strongswan.enabled ^= true;
        wanted.ocserv.enabled ^= true;
        let kinds: Vec<_> = changed(&before, &wanted).iter().map(|one| one.0).collect();
        assert_eq!(kinds, KINDS);
        for kind in KINDS {
            let mut after = wanted.clone();
            put_back(kind, &before, &mut after);
            let left = changed(&before, &after);
            assert!(left.iter().all(|one| one.0 != kind) && left.len() + 1 == KINDS.len());
            assert!(changed(&after, &wanted).iter().any(|one| one.0 == kind));
        }
    }
}
