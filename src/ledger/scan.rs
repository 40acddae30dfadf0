//! Finding the records in the bytes of a file, whatever happened to them. Pure.
//!
//! A scan believes only a record whose checksum holds and whose sequence is in its place. After
//! damage it looks on, byte by byte, for the next such record.

use std::ops::Range;

use super::record::{self, Epoch, FILE_HEADER, RECORD_HEADER};

/// The next record of a file may be this far ahead at most: given-up ranges are far smaller, and a
/// chance match of a checksum in garbage would have to fit in here as well.
const MAX_STEP: u64 = 1 << 48;

/// A run of records without a hole, neither in their bytes nor in their sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) bytes: Range<u64>,
    /// First and last sequence, inclusive.
    pub(super) first: u64,
    pub(super) last: u64,
}

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) extents: Vec<Extent>,
    /// Where the last good record ends: the place of the next one.
    pub(super) end: u64,
    /// Something unreadable lies before good records.
    pub(super) damaged: bool,
    /// Bytes after `end` up to the last one that is not zero: a torn write, or damage at the end.
    pub(super) tail: u64,
    /// How many records that tail can have held at most.
    pub(super) tail_records: u64,
}

/// Scans the whole content of a file for records whose sequences lie in `sequences`.
///
/// `each` sees every good record once, in order.
pub(super) fn scan(
    epoch: &Epoch,
    image: &[u8],
    sequences: Range<u64>,
    mut each: impl FnMut(&record::Record<'_>),
) -> Scan {
    let mut found = Scan::default();
    let mut at = FILE_HEADER.min(image.len());
    let mut next = sequences.start;
    let data_end = data_end(image);
    loop {
        if let Some(record) = plausible(epoch, &image[at..], next, sequences.end) {
            each(&record);
            found.push(at, &record);
            at += record.len();
            next = record.sequence + 1;
            continue;
        }
        found.end = at as u64;
        if at >= data_end {
            return found;
        }
        let resync = (at + 1..data_end)
            .find(|&place| plausible(epoch, &image[place..], next, sequences.end).is_some());
        match resync {
            Some(place) => {
                found.damaged = true;
                at = place;
            }
            None => {
                let tail = &image[at..data_end];
                found.tail = tail.len() as u64;
                found.tail_records = records_in_tail(tail, next);
                return found;
            }
        }
    }
}

impl Scan {
    fn push(&mut self, at: usize, record: &record::Record<'_>) {
        let bytes = at as u64..(at + record.len()) as u64;
        match self.extents.last_mut() {
            Some(run) if run.bytes.end == bytes.start && run.last + 1 == record.sequence => {
                run.bytes.end = bytes.end;
                run.last = record.sequence;
            }
            _ => self.extents.push(Extent {
                bytes,
                first: record.sequence,
                last: record.sequence,
            }),
        }
    }
}

/// Where the data ends: the unused rest of a file is zeros. Compared by pages, because that rest has
/// megabytes.
fn data_end(image: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut end = image.len();
    for page in image.rchunks(ZEROS.len()) {
        if page != &ZEROS[..page.len()] {
            let used = page.iter().rposition(|byte| *byte != 0);
            return end - page.len() + used.map_or(0, |last| last + 1);
        }
        end -= page.len();
    }
    0
}

/// The record at the start of `bytes`, if its sequence can stand here; the cheap tests come first.
fn plausible<'a>(
    epoch: &Epoch,
    bytes: &'a [u8],
    next: u64,
    below: u64,
) -> Option<record::Record<'a>> {
    let (_, sequence) = record::claims(bytes)?;
    (sequence >= next && sequence < below && sequence - next < MAX_STEP)
        .then(|| record::decode(epoch, bytes))
        .flatten()
}

/// One record cut short is the usual case and is told by its own header. Anything else counts as
/// the most records that have room, because their sequences must never be given out again.
fn records_in_tail(tail: &[u8], next: u64) -> u64 {
    match record::claims(tail) {
        Some((length, sequence)) if sequence == next && RECORD_HEADER + length >= tail.len() => 1,
        _ => tail.len().div_ceil(RECORD_HEADER + 1) as u64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::{Header, SEGMENT_MAGIC};
    use super::*;

    const EPOCH: Epoch = [3; 16];

    fn image(payloads: &[Vec<u8>]) -> Vec<u8> {
        let header = Header {
            magic: SEGMENT_MAGIC,
            epoch: EPOCH,
            first: 10,
        };
        let mut image = header.encode().to_vec();
        for (sequence, payload) in (10..).zip(payloads) {
            record::encode(&EPOCH, sequence, payload, &mut image);
        }
        image
    }

    fn read(image: &[u8]) -> (Scan, Vec<(u64, Vec<u8>)>) {
        let mut records = Vec::new();
        let scan = scan(&EPOCH, image, 10..1000, |record| {
            records.push((record.sequence, record.payload.to_vec()));
        });
        (scan, records)
    }

    #[test]
    fn a_clean_file_is_one_extent() {
        let mut bytes = image(&[vec![1; 30], vec![2; 5], vec![3; 80]]);
        let used = bytes.len() as u64;
        bytes.resize(4096, 0);
        let (scan, records) = read(&bytes);
        assert_eq!(records.len(), 3);
        assert_eq!((scan.end, scan.damaged, scan.tail), (used, false, 0));
        assert_eq!((scan.extents[0].first, scan.extents[0].last), (10, 12));
        assert_eq!(scan.extents.len(), 1);
    }

    #[test]
    fn a_record_cut_short_counts_as_one() {
        let bytes = image(&[vec![1; 30], vec![2; 50]]);
        for cut in 1..60 {
            let (scan, records) = read(&bytes[..bytes.len() - cut]);
            assert_eq!(records.len(), 1, "cut {cut}");
            let whole_header = cut <= 50;
            assert!(
                scan.tail_records == 1 || !whole_header,
                "cut {cut}: {scan:?}"
            );
            assert!(scan.tail > 0 && !scan.damaged);
        }
    }

    #[test]
    fn a_record_of_an_earlier_life_of_the_file_is_not_believed() {
        let mut bytes = image(&[vec![1; 30], vec![2; 30]]);
        record::encode(&EPOCH, 10, &[9; 30], &mut bytes);
        record::encode(&EPOCH, 1000, &[9; 30], &mut bytes);
        let (scan, records) = read(&bytes);
        assert_eq!(records, [(10, vec![1; 30]), (11, vec![2; 30])]);
        assert_eq!(scan.tail, 2 * 46);
    }

    proptest! {
        #[test]
        fn overwritten_bytes_lose_only_the_records_that_they_touch(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 1..20),
            place in 0.0f64..1.0,
            noise in proptest::collection::vec(any::<u8>(), 1..80),
        ) {
            let clean = image(&payloads);
            let mut bytes = clean.clone();
            let body = bytes.len() - FILE_HEADER;
            let at = FILE_HEADER + ((body as f64 * place) as usize).min(body - 1);
            for (byte, noise) in bytes[at..].iter_mut().zip(&noise) {
                *byte = *noise;
            }
            let (_, records) = read(&bytes);
            let mut expected = Vec::new();
            let mut offset = FILE_HEADER;
            for (sequence, payload) in (10..).zip(&payloads) {
                let end = offset + RECORD_HEADER + payload.len();
                if bytes[offset..end] == clean[offset..end] {
                    expected.push((sequence, payload.clone()));
                }
                offset = end;
            }
            prop_assert_eq!(records, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (scan, _) = read(&bytes);
            prop_assert!(scan.end as usize <= bytes.len());
        }
    }
}
