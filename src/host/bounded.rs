//! Reads small files that someone else wrote, never more of them than asked for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::O_NONBLOCK;

/// Reads at most `max` bytes of `path`; what lies beyond is not read.
///
/// # Errors
/// What open(2) or read(2) say.
pub(crate) fn read_prefix(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    prefix_of(&open(path, 0)?, max)
}

/// Opens for reading with extra open(2) flags. A FIFO in place of a file must not hang the agent,
/// hence `O_NONBLOCK`, which means nothing to a file.
pub(crate) fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | flags)
        .open(path)
}

/// Opens a file whose whole content somebody is to have written before: anything but a regular file
/// is an error. Of a FIFO nobody could say whether what is read is all.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = open(path, 0)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Reads at most `max` bytes from where `file` stands.
pub(crate) fn prefix_of(file: &File, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        std::fs::write(&path, vec![b'x'; 65536]).unwrap();
        assert_eq!(read_prefix(&path, 100).unwrap().len(), 100);
    }

    #[test]
    fn a_fifo_without_a_writer_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_prefix(&path, 100).unwrap(), b"");
        let error = open_regular(&path).unwrap_err();
        assert_eq!(error.to_string(), "it is not a regular file");
    }
}
