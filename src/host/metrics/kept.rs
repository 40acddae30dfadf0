//! A file that stays open and is read again from its beginning.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::host::bounded;

/// Reads grow the buffer by this much, so a long file takes few system calls.
const CHUNK: usize = 16 * 1024;

/// An open file of `/proc` or `/sys`, or none where the host does not have it.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<File>);

impl Kept {
    pub(super) fn open(path: &Path) -> Self {
        Self(bounded::open(path, 0).ok())
    }

    /// What the file says now, up to `max` bytes, in one pread(2): enough for a file which the
    /// kernel prints in one piece. `None` if it cannot be read (a sensor that is off says EAGAIN,
    /// for example) or is empty.
    pub(super) fn read<'b>(&self, buffer: &'b mut Vec<u8>, max: usize) -> Option<&'b [u8]> {
        let len = read_at(self.0.as_ref()?, buffer, 0, max).ok()?;
        (len > 0).then(|| &buffer[..len])
    }

    /// The whole lines among the first `max` bytes of a file which the kernel hands out in pieces.
    pub(super) fn read_lines<'b>(&self, buffer: &'b mut Vec<u8>, max: usize) -> Option<&'b [u8]> {
        let file = self.0.as_ref()?;
        let mut len = 0;
        while len < max {
            match read_at(file, buffer, len, max.min(len + CHUNK)).ok()? {
                0 => break,
                more => len += more,
            }
        }
        let lines = buffer[..len].iter().rposition(|byte| *byte == b'\n')? + 1;
        Some(&buffer[..lines])
    }
}

/// Reads into `buffer[from..to]`; the buffer grows but never shrinks.
fn read_at(file: &File, buffer: &mut Vec<u8>, from: usize, to: usize) -> io::Result<usize> {
    if buffer.len() < to {
        buffer.resize(to, 0);
    }
    file.read_at(&mut buffer[from..to], from as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_the_bound_cuts_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        let text = format!("{}\n123456\n", "x".repeat(2 * CHUNK));
        std::fs::write(&path, &text).unwrap();
        let (kept, mut buffer) = (Kept::open(&path), Vec::new());
        let mut lines = |max| kept.read_lines(&mut buffer, max).map(<[u8]>::len);
        assert_eq!(lines(text.len()), Some(text.len()));
        assert_eq!(lines(text.len() - 3), Some(2 * CHUNK + 1));
        assert_eq!(lines(CHUNK), None);
    }
}
