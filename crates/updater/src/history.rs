//! history.jsonl: how every attempt ended, and what root changed. One line each, appended.
//!
//! A torn last line (a power cut) is closed and skipped; it never hides the others.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::{UpdateError, at};
use crate::layout::Layout;
use crate::status::shorten;

/// So long, in bytes, a file may grow: some thousands of attempts. The one before is kept.
const MAX_BYTES: u64 = 1024 * 1024;

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Wall clock, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// `installed`, `refused`, `failed`, `rolled_back`; `trusted`, `trust_replaced`, `pinned`,
    /// `unpinned`, `disabled`, `enabled`, `unblocked`.
    pub event: String,
    /// The attempt, for its endings.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<String>,
    /// The controller's deployment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deployment: Option<u64>,
    /// The version that ran before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// The version that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Why not, as a stable word.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<String>,
    /// The sentence to it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// Adds a line, durably. An ending of an attempt that is there already is not added again.
///
/// # Errors
/// What the system refused.
pub fn append(layout: &Layout, disk: &Disk, line: &Line) -> Result<(), UpdateError> {
    let path = layout.history();
    let line = &Line {
        detail: line.detail.as_deref().map(shorten),
        ..line.clone()
    };
    // Only the newest: the agent chooses the id of an attempt, and may choose an old one again.
    let newest = read(layout)?.into_iter().rfind(|old| old.attempt.is_some());
    let same = |old: &Line| old.attempt == line.attempt && old.event == line.event;
    if line.attempt.is_some() && newest.as_ref().is_some_and(same) {
        return Ok(());
    }
    let mut file = disk.change("open", &path, || {
        OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o644)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
    })?;
    let length = file.metadata().map_err(at("look at", &path))?.len();
    if length > MAX_BYTES {
        disk.rename(&path, &path.with_extension("jsonl.1"))?;
        return append(layout, disk, line);
    }
    let mut text = serde_json::to_string(line).expect("a line has no map keys but strings");
    text.push('\n');
    if length > 0 && !ends_a_line(&mut file).map_err(at("read", &path))? {
        text.insert(0, '\n');
    }
    disk.change("write", &path, || file.write_all(text.as_bytes()))?;
    disk.change("sync", &path, || file.sync_all())?;
    disk.sync_dir(&layout.state())
}

/// All whole lines, the oldest first; damaged ones are left out.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(layout: &Layout) -> Result<Vec<Line>, UpdateError> {
    let path = layout.history();
    let bytes = match fs::read(&path) {
        Err(none) if none.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at("read", &path))?,
    };
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

fn ends_a_line(file: &mut fs::File) -> std::io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &str, attempt: Option<&str>) -> Line {
        Line {
            at_ms: 1,
            event: event.into(),
            attempt: attempt.map(Into::into),
            ..Line::default()
        }
    }

    #[test]
    fn an_ending_stands_once_and_a_torn_line_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.state()).unwrap();
        let disk = Disk::default();
        assert!(read(&layout).unwrap().is_empty());
        append(&layout, &disk, &line("installed", Some("a"))).unwrap();
        append(&layout, &disk, &line("installed", Some("a"))).unwrap();
        append(&layout, &disk, &line("pinned", None)).unwrap();
        append(&layout, &disk, &line("pinned", None)).unwrap();
        let whole = fs::read(layout.history()).unwrap();
        for cut in 0..whole.len() {
            fs::write(layout.history(), &whole[..cut]).unwrap();
            append(&layout, &disk, &line("failed", Some("b"))).unwrap();
            let lines = read(&layout).unwrap();
            assert_eq!(lines.last().unwrap().event, "failed", "cut after {cut}");
            let before = whole[..cut].iter().filter(|b| **b == b'\n').count();
            assert!(lines.len() > before);
        }
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.state()).unwrap();
        fs::write(layout.history(), vec![b'\n'; 1024 * 1024 + 1]).unwrap();
        append(&layout, &Disk::default(), &line("installed", Some("a"))).unwrap();
        assert_eq!(read(&layout).unwrap().len(), 1);
        assert!(fs::metadata(layout.history()).unwrap().len() < 200);
    }
}
