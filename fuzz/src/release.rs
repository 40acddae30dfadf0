//! What must hold for any bytes, in `crates/release`. The fuzzer calls these functions, and so do
//! the tests that replay the corpora (`crates/release/tests/fuzz_corpus.rs`).

use serde::Serialize;
use serde::de::DeserializeOwned;
use vpn_node_release::bundle::{Limits, Unpacked, inspect};
use vpn_node_release::handover::{Request, Status};
use vpn_node_release::json;
use vpn_node_release::metadata::{Envelope, Role, Root, Snapshot, Targets, Timestamp};

/// Packages. The first byte says what the rest is: `p` a package; `t` an archive, which gets a
/// frame around it, and checksums as they should be, so that changes reach what is behind them.
pub fn bundle(data: &[u8]) -> Option<Unpacked> {
    let limits = Limits {
        total_bytes: 1 << 20,
        ..Limits::default()
    };
    let package = match data.split_first()? {
        (b'p', package) => package.to_vec(),
        (b't', archive) => framed(&sealed(archive)),
        _ => return None,
    };
    let unpacked = inspect(&package[..], &limits).ok()?;
    assert!(unpacked.manifest.total_bytes() <= limits.total_bytes);
    assert!(unpacked.manifest.files.len() <= limits.entries);
    for file in &unpacked.manifest.files {
        let path = file.path.as_str();
        assert!(!path.starts_with('/') && path.is_ascii() && path.len() <= 200);
        assert!(path.split('/').all(|part| !["", ".", ".."].contains(&part)));
    }
    Some(unpacked)
}

/// Metadata of all roles: what is read can be written, and is read again as the same.
pub fn metadata(data: &[u8]) -> bool {
    if let Ok(value) = json::parse(data)
        && let Ok(canonical) = json::canonical(&value)
    {
        let again = json::parse_canonical(&canonical).expect("canonical JSON is read back");
        assert_eq!(again, value);
    }
    let Ok(envelope) = Envelope::parse(data, "fuzz") else {
        return false;
    };
    let again = Envelope::parse(&envelope.to_bytes(), "fuzz").expect("what is written is read");
    assert_eq!(again, envelope);
    role::<Root>(&envelope)
        | role::<Timestamp>(&envelope)
        | role::<Snapshot>(&envelope)
        | role::<Targets>(&envelope)
}

fn role<T: Role>(envelope: &Envelope) -> bool {
    let Ok(read) = envelope.unverified::<T>("fuzz") else {
        return false;
    };
    read.role
        .check()
        .expect("what does not hold is refused when it is read");
    true
}

/// The two files between agent and updater.
pub fn handover(data: &[u8]) -> bool {
    same_again::<Request>(data) | same_again::<Status>(data)
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(data) else {
        return false;
    };
    let written = serde_json::to_vec(&read).expect("it can be written");
    assert_eq!(
        serde_json::from_slice::<T>(&written).expect("and read"),
        read
    );
    true
}

/// Every block that looks like a ustar header, with the right checksum.
fn sealed(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    archive
}

/// A zstd frame of blocks that are not compressed (RFC 8878, 3.1.1).
fn framed(archive: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    let mut blocks = archive.chunks(64 * 1024).peekable();
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let size = u32::try_from(block.len()).unwrap_or(0);
        frame.extend(&((size << 3) | last).to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}
