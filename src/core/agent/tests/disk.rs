//! A model of the disk thread (`daemon::disk`): the lane, the kept sessions and the ledger, in the
//! same order of writes, with a fuse that stops the host before any of them.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use uuid::Uuid;
use vpn_node_protocol::connection::ConnectionRecord;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use vpn_node_protocol::message::{ConnectionBatch, SealedRecord};
use vpn_node_protocol::sealing::Sealed;

use crate::core::agent::{LedgerFacts, Recording};
use crate::core::lane::LaneState;
use crate::core::sessions::KnownSession;

/// The host stops here.
#[derive(Debug)]
pub(super) struct Crash;

/// Counts the boundaries between commands and before writes, and stops the host at one of them.
#[derive(Debug, Default)]
pub(super) struct Fuse {
    pub(super) passed: u64,
    pub(super) stop_at: Option<u64>,
}

impl Fuse {
    pub(super) fn burn(&mut self) -> Result<(), Crash> {
        self.passed += 1;
        match self.stop_at == Some(self.passed) {
            true => Err(Crash),
            false => Ok(()),
        }
    }
}

type Sessions = BTreeMap<Uuid, KnownSession>;

pub(super) struct Disk {
    pub(super) identity: SigningKey,
    pub(super) next_identity: Option<SigningKey>,
    pub(super) lane: LaneState,
    pub(super) certificate: Envelope,
    pub(super) sessions: Sessions,
    pub(super) unrecorded: BTreeSet<Uuid>,
    pub(super) ledger: BTreeMap<u64, Vec<u8>>,
    pub(super) ledger_epoch: [u8; 16],
    pub(super) next_seq: u64,
    pub(super) acked: u64,
    /// Takes nothing.
    pub(super) full: bool,
    pub(super) lane_writes: u64,
    /// In memory, gone with the process.
    kept: Sessions,
    unsure: BTreeSet<Uuid>,
    waiting: Recording,
    error: Option<String>,
}

impl Disk {
    pub(super) fn new(identity: SigningKey, lane: LaneState, certificate: Envelope) -> Self {
        Self {
            identity,
            next_identity: None,
            lane,
            certificate,
            sessions: Sessions::new(),
            unrecorded: BTreeSet::new(),
            ledger: BTreeMap::new(),
            ledger_epoch: [1; 16],
            next_seq: 1,
            acked: 0,
            full: false,
            lane_writes: 0,
            kept: Sessions::new(),
            unsure: BTreeSet::new(),
            waiting: Recording::default(),
            error: None,
        }
    }

    /// What a new process finds.
    pub(super) fn reopen(&mut self) {
        self.finish_change();
        self.kept = self.sessions.clone();
        self.unsure = self.unrecorded.clone();
        self.waiting = Recording::default();
        self.error = None;
    }

    /// A new, empty ledger.
    pub(super) fn lose_ledger(&mut self) {
        self.ledger.clear();
        self.ledger_epoch = self.ledger_epoch.map(|byte| byte + 1);
        self.next_seq = 1;
        self.acked = 0;
    }

    /// So many copies of the newest record: what an outage of days leaves.
    pub(super) fn fill(&mut self, records: usize) {
        let (_, newest) = self.ledger.last_key_value().expect("one to copy");
        let newest = newest.clone();
        for _ in 0..records {
            self.ledger.insert(self.next_seq, newest.clone());
            self.next_seq += 1;
        }
    }

    pub(super) fn facts(&self) -> LedgerFacts {
        LedgerFacts {
            records: self.ledger.len() as u64,
            bytes: self.ledger.len() as u64 * 600,
            error: self.error.clone(),
            ..LedgerFacts::default()
        }
    }

    pub(super) fn store_lane(&mut self, lane: &LaneState) -> Result<(), String> {
        if self.full {
            return Err("the disk is full".to_owned());
        }
        // The file format must carry everything.
        if self.lane_writes < 50 {
            let json = serde_json::to_vec(lane).unwrap();
            assert_eq!(serde_json::from_slice::<LaneState>(&json).unwrap(), *lane);
        }
        self.lane_writes += 1;
        self.lane = lane.clone();
        Ok(())
    }

    /// As `StateDir::finish_change`: the key that the lane names is in force.
    pub(super) fn finish_change(&mut self) {
        let in_force = self.lane.identity_key.expect("the lane names its key");
        if PublicKey::from(&self.identity) != in_force {
            self.identity = self.next_identity.take().expect("it was stored before");
            assert_eq!(PublicKey::from(&self.identity), in_force);
        }
    }

    pub(super) fn store_next_key(&mut self, key: SigningKey) -> Result<(), String> {
        self.finish_change();
        if self.full {
            return Err("the disk is full".to_owned());
        }
        self.next_identity = Some(key);
        Ok(())
    }

    /// As `DiskThread::record`.
    pub(super) fn record(&mut self, recording: Recording, fuse: &mut Fuse) -> Result<(), Crash> {
        let mut all = std::mem::take(&mut self.waiting);
        all.sessions = recording.sessions;
        all.starts.extend(recording.starts);
        all.ends.extend(recording.ends);
        all.records.extend(recording.records);
        all.seal_to = recording.seal_to.or(all.seal_to);
        let of = |known: &KnownSession| (known.connection_id, known.clone());
        let after: Sessions = all.sessions.iter().map(of).collect();
        let ended = all.ends.iter().filter_map(|id| self.kept.get(id)).map(of);
        let before: Sessions = ended.chain(after.clone()).collect();
        self.unsure.extend(all.starts.iter().copied());
        self.unsure.retain(|id| before.contains_key(id));
        fuse.burn()?;
        if !self.full {
            self.sessions.clone_from(&before);
            self.unrecorded.clone_from(&self.unsure);
            self.kept = before;
        }
        if all.records.is_empty() {
            return Ok(());
        }
        fuse.burn()?;
        if self.full {
            self.error = Some("the disk is full".to_owned());
            self.waiting = all;
            return Ok(());
        }
        assert!(all.seal_to.is_some(), "records can be sealed");
        for record in &all.records {
            self.ledger.insert(self.next_seq, sealed(record));
            self.next_seq += 1;
        }
        self.error = None;
        fuse.burn()?;
        for id in &all.starts {
            self.unsure.remove(id);
        }
        self.kept = after;
        Ok(())
    }

    pub(super) fn read_batch(&self) -> ConnectionBatch {
        let mut room = MAX_BATCH_BYTES;
        let records = self.ledger.iter().take(MAX_BATCH_RECORDS);
        let fits = records.take_while(|(_, bytes)| {
            let fits = bytes.len() <= room;
            room = room.saturating_sub(bytes.len());
            fits
        });
        ConnectionBatch {
            ledger_epoch: Hex(self.ledger_epoch),
            records: fits
                .map(|(seq, bytes)| SealedRecord {
                    seq: *seq,
                    sealed: Sealed::from_bytes(bytes.clone()).unwrap(),
                })
                .collect(),
            gaps: Vec::new(),
        }
    }

    pub(super) fn acked(&mut self, through: u64) {
        assert!(
            through < self.next_seq,
            "acknowledged what was never written"
        );
        self.ledger = self.ledger.split_off(&(through + 1));
        self.acked = self.acked.max(through);
    }
}

/// Looks like a sealed record to whoever does not open it. Sealing is the daemon's work and has
/// its own tests; here it would only cost time.
fn sealed(record: &ConnectionRecord) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[0] = 1;
    serde_json::to_writer(&mut bytes, record).unwrap();
    bytes.extend([0; TAG]);
    bytes
}

pub(super) fn unsealed(sealed: &Sealed) -> ConnectionRecord {
    let bytes = sealed.as_bytes();
    serde_json::from_slice(&bytes[HEADER..bytes.len() - TAG]).unwrap()
}

const HEADER: usize = 41;
const TAG: usize = 16;
