//! The journal on disk: two files with the same content, each with a checksum and a number.
//!
//! Both are written one after the other. A crash between leaves the first one newer by a step that
//! was not begun yet; a torn or lost file leaves the other.

use sha2::{Digest, Sha256};
use vpn_node_release::metadata::hex;

use super::Journal;
use crate::disk::{self, Disk};
use crate::error::UpdateError;
use crate::layout::Layout;
use crate::status::shorten;

/// Longest journal, in bytes: the baseline names at most some dozens of backends.
const MAX_BYTES: u64 = 256 * 1024;
/// First word of the file.
const MAGIC: &str = "vpn-node-journal-1";

/// The newest valid copy; `None` when there is none. Unreadable is none: links decide then.
#[must_use]
pub fn read(layout: &Layout) -> Option<Journal> {
    numbered(layout).map(|(_, journal)| journal)
}

/// Writes both copies, durably. On return what follows may be done.
///
/// # Errors
/// What the system refused. The step must not be done then.
pub fn write(layout: &Layout, disk: &Disk, journal: &Journal) -> Result<(), UpdateError> {
    let number = numbered(layout).map_or(1, |(number, _)| number.saturating_add(1));
    let journal = Journal {
        detail: journal.detail.as_deref().map(shorten),
        ..journal.clone()
    };
    let body = serde_json::to_string(&journal).expect("a journal has no map keys but strings");
    let sum = checksum(number, &body);
    let text = format!("{MAGIC} {number} {sum}\n{body}\n");
    for path in layout.journal() {
        disk.replace(&path, text.as_bytes(), 0o600)?;
    }
    Ok(())
}

fn numbered(layout: &Layout) -> Option<(u64, Journal)> {
    let copies = layout.journal();
    let copies = copies.iter().filter_map(|path| {
        let bytes = disk::read_bounded(path, MAX_BYTES).ok()??;
        parse(&bytes)
    });
    copies.max_by_key(|(number, _)| *number)
}

fn parse(bytes: &[u8]) -> Option<(u64, Journal)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.strip_suffix('\n')?.split_once('\n')?;
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return None;
    }
    let number: u64 = words.next()?.parse().ok()?;
    if words.next()? != checksum(number, body) || words.next().is_some() {
        return None;
    }
    let journal: Journal = serde_json::from_str(body).ok()?;
    (journal.format == 1).then_some((number, journal))
}

/// Over the number too: a copy of an old body under a new number is no journal.
fn checksum(number: u64, body: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(number.to_be_bytes());
    hash.update(body);
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::super::tests::journal;
    use super::*;
    use crate::journal::Phase;

    fn host() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.state()).unwrap();
        (dir, layout)
    }

    #[test]
    fn each_copy_alone_is_enough_and_the_newest_wins() {
        let (_dir, layout) = host();
        assert_eq!(read(&layout), None);
        let [first, second] = layout.journal();
        write(&layout, &Disk::default(), &journal(Phase::Staged)).unwrap();
        let old = std::fs::read(&second).unwrap();
        write(&layout, &Disk::default(), &journal(Phase::Switching)).unwrap();
        std::fs::write(&second, old).unwrap();
        assert_eq!(read(&layout).unwrap().phase, Phase::Switching);
        std::fs::write(&first, b"").unwrap();
        assert_eq!(read(&layout).unwrap().phase, Phase::Staged);
        std::fs::remove_file(&first).unwrap();
        assert_eq!(read(&layout).unwrap().phase, Phase::Staged);
    }

    #[test]
    fn a_torn_or_changed_copy_counts_as_none() {
        let (_dir, layout) = host();
        let [first, second] = layout.journal();
        write(&layout, &Disk::default(), &journal(Phase::Probation)).unwrap();
        std::fs::remove_file(second).unwrap();
        let whole = std::fs::read(&first).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&first, &whole[..cut]).unwrap();
            assert_eq!(read(&layout), None, "cut after {cut}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&first, flipped).unwrap();
            assert_eq!(read(&layout), None, "byte {at}");
        }
        std::fs::write(&first, &whole).unwrap();
        assert_eq!(read(&layout), Some(journal(Phase::Probation)));
    }
}
