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
    words: mpsc::Receiver<Word>,
    orders: Vec<(BackendKind, Orders)>,
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
            orders: Vec::new(),
        };
        for (kind, backend) in backends(settings, expected) {
            let to_loop = to_loop.clone();
            let tell = move |word| to_loop.blocking_send(word).map_err(|_| Closed);
            let (line, orders) = line(Box::new(tell))?;
            thread::Builder::new()
                .name(format!("vpn-{}", kind.as_str()))
                .spawn(move || backend.run(line))?;
            readers.orders.push((kind, orders));
        }
        Ok(readers)
    }

    /// What the readers tell next; `None` when there are none.
    pub(super) async fn word(&mut self) -> Option<Word> {
        self.words.recv().await
    }

    /// Hands an order to the reader that it is for; false when that cannot take it.
    #[must_use]
    pub(super) fn order(&self, order: Order) -> bool {
        let kind = order.backend.kind;
        let reader = self.orders.iter().find(|(of, _)| *of == kind);
        reader.is_some_and(|(_, orders)| orders.give(order))
    }
}

/// One reader for each kind that the configuration does not switch off.
fn backends(
    settings: &Settings,
    expected: &BTreeMap<BackendId, u64>,
) -> Vec<(BackendKind, Box<dyn Backend>)> {
    let mut all: Vec<(BackendKind, Box<dyn Backend>)> = Vec::new();
    if settings.wireguard.enabled {
        let wireguard = wireguard::Settings {
            socket_dir: settings.wireguard.socket_dir.clone(),
            kernel: settings.wireguard.kernel,
            reader: settings.wireguard.reader.clone(),
            poll: settings.wireguard.poll,
        };
        let reader = WireGuard::new(wireguard, expected.keys().cloned());
        all.push((BackendKind::WireGuard, Box::new(reader)));
    }
    if settings.openvpn.enabled {
        let expected = expected.iter().map(|(id, epoch)| (id.clone(), *epoch));
        let reader = OpenVpn::new(openvpn_settings(settings), expected);
        all.push((BackendKind::OpenVpn, Box::new(reader)));
    }
    if settings.strongswan.enabled {
        let strongswan = strongswan::Settings {
            vici: settings.strongswan.vici.clone(),
            expected: settings.strongswan.expected,
        };
        let reader = StrongSwan::new(strongswan, expected.keys().cloned());
        all.push((BackendKind::StrongSwan, Box::new(reader)));
    }
    if settings.ocserv.enabled {
        let ocserv = ocserv::Settings {
            socket: settings.ocserv.socket.clone(),
            expected: settings.ocserv.expected,
        };
        let reader = Ocserv::new(ocserv, expected.keys().cloned());
        all.push((BackendKind::Ocserv, Box::new(reader)));
    }
    all
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
