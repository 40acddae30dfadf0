//! What survives a restart of the agent: connection ids by a keyed hash, nobody in clear.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;

use super::{
    event::SessionRecord,
    types::{BackendId, SessionKey, Stamp},
};

/// HMAC-SHA256 of a session key: finds a session again, and tells nobody without the key whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyHash(Hex<32>);

impl KeyHash {
    /// The hash of `key` on `backend` under the agent's `id_key`.
    pub(super) fn of(id_key: &[u8; 32], backend: &BackendId, key: &SessionKey) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(id_key).expect("HMAC takes keys of any size");
        // The instance is the only part of free length, so its length keeps the parts apart.
        let instance = backend.instance.as_bytes();
        mac.update(b"vpn-node session key v1\0");
        mac.update(backend.kind.as_str().as_bytes());
        mac.update(&[0]);
        mac.update(&(instance.len() as u64).to_be_bytes());
        mac.update(instance);
        mac.update(&key.durable_bytes());
        Self(Hex(mac.finalize().into_bytes().into()))
    }
}

fn total(earlier: u64, now: u64, at_start: u64) -> u64 {
    earlier.saturating_add(now.saturating_sub(at_start))
}

/// A connection as it is kept on disk: no identity, no address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownSession {
    /// Its connection id.
    pub connection_id: Uuid,
    /// Where it is connected.
    pub backend: BackendId,
    /// The life of the daemon in which `key_hash` means something.
    pub epoch: u64,
    /// The boot of the host in which the boot-clock times below mean something.
    pub boot_id: Uuid,
    /// Finds it again in the daemon's next snapshot.
    pub key_hash: KeyHash,
    /// Start on the boot clock, nanoseconds.
    pub started_boot_ns: u64,
    /// Start on the wall clock, Unix milliseconds.
    pub started_wall_ms: i64,
    /// Last sign of life on the boot clock, nanoseconds.
    pub seen_boot_ns: u64,
    /// Last sign of life on the wall clock, Unix milliseconds.
    pub seen_wall_ms: i64,
    /// The daemon's counter, bytes from the client. Lower next time: another session.
    pub rx: u64,
    /// The daemon's counter, bytes to the client.
    pub tx: u64,
    /// That counter when the session began.
    pub rx_at_start: u64,
    /// Likewise.
    pub tx_at_start: u64,
    /// Bytes from the client in reconnects that were coalesced.
    pub earlier_rx: u64,
    /// Bytes to the client, likewise.
    pub earlier_tx: u64,
}

impl KnownSession {
    /// The start; on the boot clock only if that was this boot.
    pub(super) fn started(&self, boot_id: Uuid) -> Stamp {
        self.stamp(boot_id, self.started_boot_ns, self.started_wall_ms)
    }

    /// The last sign of life, likewise.
    pub(super) fn last_seen(&self, boot_id: Uuid) -> Stamp {
        self.stamp(boot_id, self.seen_boot_ns, self.seen_wall_ms)
    }

    /// What can still be said about it.
    pub(super) fn record(&self, boot_id: Uuid) -> SessionRecord {
        SessionRecord {
            identity: None,
            endpoint: None,
            virtual_ips: Box::default(),
            started: self.started(boot_id),
            last_seen: self.last_seen(boot_id),
            rx: total(self.earlier_rx, self.rx, self.rx_at_start),
            tx: total(self.earlier_tx, self.tx, self.tx_at_start),
        }
    }

    fn stamp(&self, boot_id: Uuid, boot_ns: u64, wall_ms: i64) -> Stamp {
        let boot = if self.boot_id == boot_id {
            Duration::from_nanos(boot_ns)
        } else {
            Duration::ZERO
        };
        Stamp { boot, wall_ms }
    }
}
