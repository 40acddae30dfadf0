//! The bytes of the ledger: file headers and records. Pure; `docs/ledger-format.md` is the contract.
//!
//! Segments and the journal share this layout, only their magic differs. Every checksum covers the
//! epoch, so bytes that belong to another ledger never pass as ours. All integers little-endian.

/// The 16 random bytes that tell one ledger from every other; part of each event's id.
pub type Epoch = [u8; 16];

/// Largest payload of a record, in bytes: a sealed connection event has about 500, and a damaged
/// length must not make a reader believe in gigabytes.
pub const MAX_RECORD: usize = 64 * 1024;

/// Bytes of a record before its payload: length, sequence, checksum.
pub(super) const RECORD_HEADER: usize = 4 + 8 + 4;

/// Bytes of a file's header: magic, version, epoch, first sequence, checksum.
pub(super) const FILE_HEADER: usize = 8 + 4 + 16 + 8 + 4;

/// The version of the format that this code writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;

/// First bytes of a segment.
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"VPNLEDG\n";

/// First bytes of the journal.
pub(super) const JOURNAL_MAGIC: [u8; 8] = *b"VPNJRNL\n";

/// A record whose checksum holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) sequence: u64,
    pub(super) payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes that the record takes on disk.
    pub(super) fn len(&self) -> usize {
        RECORD_HEADER + self.payload.len()
    }
}

/// Appends one record to `out`. The caller has checked that the payload has 1 to [`MAX_RECORD`] bytes.
pub(super) fn encode(epoch: &Epoch, sequence: u64, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!((1..=MAX_RECORD).contains(&payload.len()));
    let length = u32::try_from(payload.len()).expect("MAX_RECORD fits in 32 bits");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&checksum(epoch, length, sequence, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The record at the start of `bytes`, if there is one and nothing in it was changed.
pub(super) fn decode<'a>(epoch: &Epoch, bytes: &'a [u8]) -> Option<Record<'a>> {
    let (length, sequence) = claims(bytes)?;
    let end = RECORD_HEADER.checked_add(length)?;
    let crc = u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?);
    let payload = bytes.get(RECORD_HEADER..end)?;
    let length = u32::try_from(length).ok()?;
    (checksum(epoch, length, sequence, payload) == crc).then_some(Record { sequence, payload })
}

/// What the bytes claim to be, checksum not looked at: payload length and sequence.
pub(super) fn claims(bytes: &[u8]) -> Option<(usize, u64)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let sequence = u64::from_le_bytes(bytes.get(4..12)?.try_into().ok()?);
    (1..=MAX_RECORD)
        .contains(&length)
        .then_some((length, sequence))
}

fn checksum(epoch: &Epoch, length: u32, sequence: u64, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(epoch);
    let crc = crc32c::crc32c_append(crc, &length.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &sequence.to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

/// The header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) magic: [u8; 8],
    pub(super) epoch: Epoch,
    /// Lowest sequence that may be in the file.
    pub(super) first: u64,
}

/// Why a header is not one of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Whole, but of a version that this code does not know.
    Version(u32),
    /// Changed, cut short, or something else entirely.
    Damaged,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER] {
        let mut out = [0; FILE_HEADER];
        out[..8].copy_from_slice(&self.magic);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..28].copy_from_slice(&self.epoch);
        out[28..36].copy_from_slice(&self.first.to_le_bytes());
        let crc = crc32c::crc32c(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(magic: [u8; 8], bytes: &[u8]) -> Result<Self, BadHeader> {
        let bytes: &[u8; FILE_HEADER] = bytes.first_chunk().ok_or(BadHeader::Damaged)?;
        let crc = u32::from_le_bytes(word(bytes, 36));
        if bytes[..8] != magic || crc32c::crc32c(&bytes[..36]) != crc {
            return Err(BadHeader::Damaged);
        }
        // Only after the checksum: a flipped bit is damage, not a newer version.
        match u32::from_le_bytes(word(bytes, 8)) {
            VERSION => Ok(Self {
                magic,
                epoch: word(bytes, 12),
                first: u64::from_le_bytes(word(bytes, 28)),
            }),
            other => Err(BadHeader::Version(other)),
        }
    }
}

fn word<const N: usize>(bytes: &[u8; FILE_HEADER], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Epoch = [7; 16];

    #[test]
    fn the_bytes_are_those_of_the_document() {
        // The worked example of docs/ledger-format.md: a change here is a new format version.
        let header = Header {
            magic: SEGMENT_MAGIC,
            epoch: EPOCH,
            first: 1,
        };
        let mut bytes = header.encode().to_vec();
        encode(&EPOCH, 1, b"abc", &mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "56504e4c4544470a010000000707070707070707070707070707070701000000000000\
             00a4da32ea0300000001000000000000006eb5e359616263"
        );
        let document = include_str!("../../docs/ledger-format.md").replace(['\n', ' '], "");
        assert!(document.contains(&hex), "the document shows other bytes");
    }

    #[test]
    fn a_header_of_another_version_is_not_called_damage() {
        let mut bytes = Header {
            magic: JOURNAL_MAGIC,
            epoch: EPOCH,
            first: 0,
        }
        .encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            Header::decode(JOURNAL_MAGIC, &bytes),
            Err(BadHeader::Version(2))
        );
        assert_eq!(
            Header::decode(SEGMENT_MAGIC, &bytes),
            Err(BadHeader::Damaged)
        );
    }

    #[test]
    fn lengths_of_nothing_and_of_too_much_are_refused() {
        for length in [0, MAX_RECORD as u32 + 1, u32::MAX] {
            let mut bytes = vec![0; RECORD_HEADER + MAX_RECORD + 1];
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            let crc = crc32c::crc32c_append(crc32c::crc32c(&EPOCH), &bytes[..12]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(decode(&EPOCH, &bytes), None);
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_and_only_under_its_epoch(
            sequence: u64,
            payload in proptest::collection::vec(any::<u8>(), 1..600),
            rest in proptest::collection::vec(any::<u8>(), 0..20),
            other: Epoch,
        ) {
            let mut bytes = Vec::new();
            encode(&EPOCH, sequence, &payload, &mut bytes);
            let len = bytes.len();
            bytes.extend_from_slice(&rest);
            let record = decode(&EPOCH, &bytes).unwrap();
            prop_assert_eq!((record.sequence, record.payload), (sequence, &payload[..]));
            prop_assert_eq!(record.len(), len);
            prop_assert!(decode(&EPOCH, &bytes[..len - 1]).is_none());
            prop_assert!(other == EPOCH || decode(&other, &bytes).is_none());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&EPOCH, &bytes);
            let _ = Header::decode(SEGMENT_MAGIC, &bytes);
        }

        #[test]
        fn a_changed_bit_of_a_header_is_damage(first: u64, bit in 0..FILE_HEADER * 8) {
            let header = Header { magic: SEGMENT_MAGIC, epoch: EPOCH, first };
            let mut bytes = header.encode();
            prop_assert_eq!(Header::decode(SEGMENT_MAGIC, &bytes), Ok(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(SEGMENT_MAGIC, &bytes), Err(BadHeader::Damaged));
        }
    }
}
