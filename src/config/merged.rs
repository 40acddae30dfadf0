//! Several files as one: the later file wins, key by key, and each value remembers its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::fragment::{self, Fragment};

/// The place where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
}

/// Origins by (section, key); a key that is not in here has its default.
pub(super) type Origins = BTreeMap<(&'static str, &'static str), Origin>;

/// A value and where it was set.
#[derive(Debug)]
pub(super) struct Set<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

type Slot<T> = Option<Set<T>>;

/// All files in one. The fields are the keys.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) state_dir: Slot<String>,
    pub(super) runtime_dir: Slot<String>,
    pub(super) log_level: Slot<String>,
    pub(super) location: Slot<String>,
    pub(super) urls: Slot<Vec<String>>,
    pub(super) ca_file: Slot<String>,
    pub(super) proxy: Slot<String>,
    pub(super) wireguard_enabled: Slot<bool>,
    pub(super) wireguard_socket_dir: Slot<String>,
    pub(super) wireguard_kernel: Slot<bool>,
    pub(super) wireguard_reader: Slot<String>,
    pub(super) wireguard_poll_s: Slot<i64>,
    pub(super) openvpn_enabled: Slot<bool>,
    pub(super) openvpn_management: Slot<Vec<String>>,
    pub(super) openvpn_password_file: Slot<String>,
    pub(super) openvpn_status_files: Slot<Vec<String>>,
    pub(super) strongswan_enabled: Slot<bool>,
    pub(super) strongswan_vici: Slot<String>,
    pub(super) ocserv_enabled: Slot<bool>,
    pub(super) ocserv_socket: Slot<String>,
    pub(super) ledger_max_bytes: Slot<i64>,
    pub(super) ledger_when_full: Slot<String>,
    pub(super) disks: Slot<Vec<String>>,
    pub(super) update_enabled: Slot<bool>,
    pub(super) update_repository: Slot<String>,
    pub(super) update_min_rate: Slot<i64>,
    pub(super) update_max_bytes: Slot<i64>,
}

impl Merged {
    /// Lays one file over what was read before.
    pub(super) fn absorb(&mut self, file: &Path, text: &str, fragment: Fragment) {
        let source = Source { file, text };
        let Fragment {
            state_dir,
            runtime_dir,
            log_level,
            location,
            controller,
            wireguard,
            openvpn,
            strongswan,
            ocserv,
            ledger,
            metrics,
            update,
        } = fragment;
        source.lay(&mut self.state_dir, state_dir);
        source.lay(&mut self.runtime_dir, runtime_dir);
        source.lay(&mut self.log_level, log_level);
        source.lay(&mut self.location, location);
        source.lay(&mut self.urls, controller.urls);
        source.lay(&mut self.ca_file, controller.ca_file);
        source.lay(&mut self.proxy, controller.proxy);
        source.lay(&mut self.wireguard_enabled, wireguard.enabled);
        source.lay(&mut self.wireguard_socket_dir, wireguard.socket_dir);
        source.lay(&mut self.wireguard_kernel, wireguard.kernel);
        source.lay(&mut self.wireguard_reader, wireguard.reader);
        source.lay(&mut self.wireguard_poll_s, wireguard.poll_s);
        source.lay(&mut self.openvpn_enabled, openvpn.enabled);
        source.lay(&mut self.openvpn_management, openvpn.management);
        source.lay(&mut self.openvpn_password_file, openvpn.password_file);
        source.lay(&mut self.openvpn_status_files, openvpn.status_files);
        source.lay(&mut self.strongswan_enabled, strongswan.enabled);
        source.lay(&mut self.strongswan_vici, strongswan.vici);
        source.lay(&mut self.ocserv_enabled, ocserv.enabled);
        source.lay(&mut self.ocserv_socket, ocserv.socket);
        source.lay(&mut self.ledger_max_bytes, ledger.max_bytes);
        source.lay(&mut self.ledger_when_full, ledger.when_full);
        source.lay(&mut self.disks, metrics.disks);
        source.lay(&mut self.update_enabled, update.enabled);
        source.lay(&mut self.update_repository, update.repository);
        source.lay(&mut self.update_min_rate, update.min_rate);
        source.lay(&mut self.update_max_bytes, update.max_bytes);
    }
}

struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn lay<T>(&self, slot: &mut Slot<T>, given: Option<Spanned<T>>) {
        if let Some(given) = given {
            *slot = Some(Set {
                origin: Origin {
                    file: self.file.to_owned(),
                    line: fragment::line_of(self.text, Some(given.span())),
                },
                value: given.into_inner(),
            });
        }
    }
}
