//! The ledger against a disk that lies, and a model that remembers.

mod faults;
mod flips;
mod model;
mod outage;
mod power;
mod quota;
pub(crate) mod sim;
pub(crate) mod torture;
mod usual;
mod worker;

use std::path::Path;

use super::{Epoch, Ledger, LedgerError, Options, Recovery, WhenFull};
use sim::SimDisk;

const DIR: &str = "/ledger";
const EPOCH: Epoch = [5; 16];

/// Small segments, four of them.
const SMALL: Options = Options {
    max_bytes: 4 * 4096,
    segment_bytes: 4096,
    when_full: WhenFull::DropOldest,
};

fn open(disk: &SimDisk) -> Result<(Ledger<SimDisk>, Recovery), LedgerError> {
    Ledger::open_on(disk.clone(), Path::new(DIR), SMALL, EPOCH)
}

/// A payload of `len` bytes, at least 8, that no other number gives.
fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(8), number as u8 | 1);
    bytes
}

/// Appends and syncs records numbered by their sequences until the next sequence is `until`.
fn fill(ledger: &mut Ledger<SimDisk>, until: u64, len: usize) {
    while ledger.next_seq() < until {
        let sequence = ledger.next_seq();
        ledger.append(sequence, &payload(sequence, len)).unwrap();
    }
    ledger.sync().unwrap();
}
