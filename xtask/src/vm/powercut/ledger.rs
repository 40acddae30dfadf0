//! The connection ledger of a crash state, read as docs/ledger-format.md describes it and with none of
//! the agent's own code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const HEADER: usize = 40;
const RECORD: usize = 16;
const MAX_PAYLOAD: usize = 65_536;
const SEGMENT: &[u8] = b"VPNLEDG\n";
const JOURNAL: &[u8] = b"VPNJRNL\n";
/// The kind of a journal's record that says "this one and all before it were acknowledged".
const ACKNOWLEDGED: u8 = 1;

/// What stands in a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// The records that are whole.
    pub(super) records: BTreeSet<u64>,
    /// The highest that the controller has acknowledged.
    pub(super) acknowledged: u64,
}

impl Ledger {
    /// Reads the ledger in `folder`; an empty one if there is none.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut ledger = Self::default();
        let Ok(entries) = fs::read_dir(folder) else {
            return Ok(ledger);
        };
        for entry in entries {
            let path = entry?.path();
            if !path.is_file() {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let bytes = || fs::read(&path).with_context(|| format!("cannot read {name}"));
            if name == "journal" {
                for (_, payload) in records(&bytes()?, JOURNAL) {
                    if payload.first() == Some(&ACKNOWLEDGED)
                        && let Some(sequence) = payload.get(1..9)
                    {
                        let sequence = sequence.try_into().expect("eight bytes");
                        ledger.acknowledged = ledger.acknowledged.max(u64::from_le_bytes(sequence));
                    }
                }
            } else if name.ends_with(".seg") {
                let whole = records(&bytes()?, SEGMENT);
                ledger
                    .records
                    .extend(whole.into_iter().map(|(sequence, _)| sequence));
            }
        }
        Ok(ledger)
    }

    /// Those up to `durable` that are neither there nor acknowledged.
    pub(super) fn missing(&self, durable: u64) -> Vec<u64> {
        let wanted = self.acknowledged + 1..=durable;
        wanted
            .filter(|sequence| !self.records.contains(sequence))
            .collect()
    }
}

/// Sequence and payload of the good records, up to the first bytes that are none.
fn records(bytes: &[u8], magic: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    let header = bytes.get(..HEADER).filter(|header| {
        header.starts_with(magic) && header[36..] == crc(&[&header[..36]]).to_le_bytes()
    });
    let Some(header) = header else {
        return found;
    };
    let epoch = &header[12..28];
    let mut at = HEADER;
    while let Some(head) = bytes.get(at..at + RECORD) {
        let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(1..=MAX_PAYLOAD).contains(&length) {
            break;
        }
        let Some(payload) = bytes.get(at + RECORD..at + RECORD + length) else {
            break;
        };
        if head[12..] != crc(&[epoch, &head[..12], payload]).to_le_bytes() {
            break;
        }
        let sequence = u64::from_le_bytes(head[4..12].try_into().expect("eight bytes"));
        found.push((sequence, payload.to_vec()));
        at += RECORD + length;
    }
    found
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: a few kilobytes are read here.
fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of docs/ledger-format.md.
    const EXAMPLE: &str = "56504e4c4544470a0100000007070707070707070707070707070707\
                           0100000000000000a4da32ea0300000001000000000000006eb5e359616263";

    fn example() -> Vec<u8> {
        let digits = EXAMPLE.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    #[test]
    fn the_example_of_the_format_is_read() {
        assert_eq!(records(&example(), SEGMENT), [(1, b"abc".to_vec())]);
        assert!(records(&example(), JOURNAL).is_empty());
    }

    #[test]
    fn no_damaged_or_torn_record_counts() {
        let whole = example();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(records(&bytes, SEGMENT).is_empty(), "byte {at}");
            assert!(records(&whole[..at], SEGMENT).is_empty(), "{at} bytes");
        }
    }

    #[test]
    fn what_was_acknowledged_need_not_be_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0000000000000001.seg"), example()).unwrap();
        let ledger = Ledger::read(folder.path()).unwrap();
        assert_eq!(ledger.missing(1), Vec::<u64>::new());
        assert_eq!(ledger.missing(3), [2, 3]);
        let acknowledged = Ledger {
            acknowledged: 2,
            ..ledger
        };
        assert_eq!(acknowledged.missing(3), [3]);
        let nothing = Ledger::read(&folder.path().join("none")).unwrap();
        assert_eq!(nothing, Ledger::default());
    }
}
