//! Any change of an honest package: no panic, and never a byte where the manifest has none.

use proptest::prelude::*;

use super::super::{Entry, Limits, Mode};
use super::forge::{attempt, compressed, seal};
use super::round_trip::{entry, packed};

/// Small files, so that most of the bytes are headers and manifest.
fn small() -> Vec<Entry> {
    vec![
        entry("bin/agent", Mode::Executable, &[7; 600]),
        entry("share/doc/empty", Mode::Plain, b""),
        entry("share/text", Mode::Plain, b"text"),
    ]
}

/// One change of some bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip {
        at: usize,
        bit: u8,
    },
    Set {
        at: usize,
        byte: u8,
    },
    Remove {
        at: usize,
        length: usize,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
    /// One block of 512 bytes to another place.
    Move {
        from: usize,
        to: usize,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>();
    prop_oneof![
        (at, 0..8_u8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        (at, any::<u8>()).prop_map(|(at, byte)| Change::Set { at, byte }),
        (at, 1..2000_usize).prop_map(|(at, length)| Change::Remove { at, length }),
        (at, proptest::collection::vec(any::<u8>(), 1..600))
            .prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        (at, any::<usize>()).prop_map(|(from, to)| Change::Move { from, to }),
    ]
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    let length = bytes.len().max(1);
    match change {
        Change::Flip { at, bit } => bytes[at % length] ^= 1 << bit,
        Change::Set { at, byte } => bytes[at % length] = *byte,
        Change::Remove { at, length: many } => {
            let at = at % length;
            bytes.drain(at..(at + many).min(length));
        }
        Change::Insert { at, bytes: new } => {
            let at = at % length;
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Move { from, to } => {
            let blocks = length / 512;
            if blocks > 0 {
                let from = from % blocks * 512;
                let block: Vec<u8> = bytes.drain(from..from + 512).collect();
                let to = to % blocks * 512;
                bytes.splice(to..to, block);
            }
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

/// Makes the checksums of everything that looks like a header right, so that changes get further.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        let block: &mut [u8; 512] = block.try_into().expect("chunks have this size");
        if block[257..262] == *b"ustar" {
            seal(block);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_changed_archive_writes_nothing_that_its_manifest_does_not_name(
        changes in proptest::collection::vec(change(), 1..4),
        mended in any::<bool>(),
    ) {
        let honest = zstd::decode_all(&packed(small())[..]).unwrap();
        let mut tar = honest.clone();
        changes.iter().for_each(|change| apply(change, &mut tar));
        if mended {
            mend(&mut tar);
        }
        let outcome = attempt(&compressed(&tar), &Limits::default());
        if tar == honest {
            prop_assert!(outcome.is_ok());
        } else if let Ok(unpacked) = outcome {
            // Then it is another whole package, for example of the same files at another time.
            prop_assert_eq!(unpacked.manifest.files.len(), small().len());
        }
    }

    #[test]
    fn a_changed_frame_writes_nothing_that_its_manifest_does_not_name(
        changes in proptest::collection::vec(change(), 1..3),
    ) {
        let mut package = packed(small());
        changes.iter().for_each(|change| apply(change, &mut package));
        let _ = attempt(&package, &Limits::default());
    }

    #[test]
    fn any_bytes_at_all_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(attempt(&bytes, &Limits::default()).is_err());
        prop_assert!(attempt(&compressed(&bytes), &Limits::default()).is_err());
    }
}
