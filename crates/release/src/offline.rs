//! A release in one file, for hosts without a way out and for the way from the machine of the
//! signers to the controller: a plain ustar archive of `metadata/…` and `targets/…`, regular files
//! only, each once.
//!
//! Nothing of it is believed: what [`read`] hands out goes through the client as if it came from a
//! network. The reader takes exactly the headers that [`Writer`] writes.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};

use crate::bundle::header::{BLOCK, Header, Kind, is_end, padding};
use crate::bundle::{BundleError, EntryPath, Limits, Mode};

/// Most files in one: 1024 roots, the other roles, packages of a few platforms.
pub const MAX_FILES: usize = 2048;
/// Most bytes in one: four packages of the largest size.
pub const MAX_BYTES: u64 = 4 << 30;

/// Why such a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Not one of ours, cut off, or changed.
    #[error("the offline file is damaged, or was not made by 'release export': {0}")]
    Malformed(String),
    /// The system refused.
    #[error("the offline file cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

impl From<BundleError> for OfflineError {
    fn from(error: BundleError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Writes one. Files are written in the order in which they come, with the time 0: the same
/// release gives the same bytes.
pub struct Writer<W> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Into `to`.
    pub const fn new(to: W) -> Self {
        Self { to }
    }

    /// Adds a file of `size` bytes.
    ///
    /// # Errors
    /// The path has characters that none of ours has, `from` has fewer bytes, or writing failed.
    pub fn file(&mut self, path: &str, size: u64, from: impl Read) -> Result<(), OfflineError> {
        let header = Header {
            path: EntryPath::parse(path.as_bytes())?,
            kind: Kind::File {
                mode: Mode::Plain,
                size,
            },
            mtime: 0,
        };
        let block = header
            .encode()
            .ok_or_else(|| malformed("a name or a size does not fit into a header"))?;
        self.to.write_all(&block)?;
        let copied = io::copy(&mut from.take(size), &mut self.to)?;
        if copied != size {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        self.to.write_all(&[0; BLOCK][..padding(size)])?;
        Ok(())
    }

    /// Ends the archive, and gives back what it was written into.
    ///
    /// # Errors
    /// Writing failed.
    pub fn finish(mut self) -> Result<W, OfflineError> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Hands every file to `each`, with its path below the archive and its bytes, of which it may leave
/// some. Paths have the two forms `metadata/NAME` and `targets/…/NAME`.
///
/// # Errors
/// The archive is not exactly as [`Writer`] writes it, is beyond a limit, cannot be read, or `each`
/// failed.
pub fn read(
    mut from: impl Read,
    mut each: impl FnMut(&EntryPath, &mut dyn Read) -> io::Result<()>,
) -> Result<(), OfflineError> {
    let mut names = BTreeSet::new();
    let mut total: u64 = 0;
    let package_bytes = Limits::default().package_bytes;
    loop {
        let block = block(&mut from)?;
        if is_end(&block) {
            break;
        }
        let Header { path, kind, .. } = Header::parse(&block)?;
        let Kind::File {
            mode: Mode::Plain,
            size,
        } = kind
        else {
            return Err(malformed("it has something else than plain files"));
        };
        let in_metadata = path.as_str().strip_prefix("metadata/");
        let known = in_metadata.is_some_and(|name| !name.contains('/'))
            || path.as_str().starts_with("targets/");
        if !known {
            return Err(malformed("it has a file outside of metadata/ and targets/"));
        }
        total = total.saturating_add(size);
        if size > package_bytes || total > MAX_BYTES || names.len() == MAX_FILES {
            return Err(malformed("it has more than any of ours"));
        }
        let mut content = (&mut from).take(size);
        each(&path, &mut content)?;
        // What was left by `each`, and then whether all of it was there.
        let rest = content.limit();
        if io::copy(&mut content, &mut io::sink())? != rest {
            return Err(malformed("it is cut off"));
        }
        if !names.insert(path) {
            return Err(malformed("it has a file twice"));
        }
        let mut rest = [0; BLOCK];
        let rest = &mut rest[..padding(size)];
        exact(&mut from, rest)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(malformed("it has something between two files"));
        }
    }
    if !is_end(&block(&mut from)?) {
        return Err(malformed("it has no end mark"));
    }
    match from.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(malformed("it has something behind its end")),
        Err(error) => Err(error.into()),
    }
}

fn block(from: &mut impl Read) -> Result<[u8; BLOCK], OfflineError> {
    let mut block = [0; BLOCK];
    exact(from, &mut block)?;
    Ok(block)
}

fn exact(from: &mut impl Read, into: &mut [u8]) -> Result<(), OfflineError> {
    from.read_exact(into).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => malformed("it is cut off"),
        _ => error.into(),
    })
}

fn malformed(why: &str) -> OfflineError {
    OfflineError::Malformed(why.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (path, bytes) in files {
            writer.file(path, bytes.len() as u64, *bytes).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read_back(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, OfflineError> {
        let mut files = Vec::new();
        read(bytes, |path, content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            files.push((path.as_str().to_owned(), bytes));
            Ok(())
        })?;
        Ok(files)
    }

    const LONG: &str = "targets/vpn-node/1.5.0/0123456789012345678901234567890123456789012345678901234567890123.linux-amd64.tar.zst";

    #[test]
    fn what_is_written_is_read_back_also_if_nobody_looks_at_it() {
        let files: [(&str, &[u8]); 3] = [
            ("metadata/1.root.json", b"{}"),
            ("metadata/timestamp.json", b""),
            (LONG, &[7; 1024]),
        ];
        let bytes = written(&files);
        let read_files = read_back(&bytes).unwrap();
        assert_eq!(read_files.len(), 3);
        for ((path, content), (name, read)) in files.iter().zip(&read_files) {
            assert_eq!((*path, *content), (name.as_str(), read.as_slice()));
        }
        read(&bytes[..], |_, _| Ok(())).unwrap();
        assert_eq!(bytes, written(&files));
    }

    #[test]
    fn every_cut_and_everything_more_is_refused() {
        let bytes = written(&[("metadata/a", b"x"), ("targets/b/c", &[1; 600])]);
        for end in 0..bytes.len() {
            assert!(read_back(&bytes[..end]).is_err(), "{end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(read_back(&longer).is_err());
        for at in [513, bytes.len() - 1, bytes.len() - 1024] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(read_back(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn files_elsewhere_twice_or_of_another_kind_are_refused() {
        for files in [
            &[("metadata/a", b"" as &[u8]), ("metadata/a", b"")][..],
            &[("metadata/a/b", b"")],
            &[("other", b"")],
            &[("targets", b"")],
        ] {
            assert!(read_back(&written(files)).is_err(), "{files:?}");
        }
        assert!(Writer::new(Vec::new()).file("../a", 0, &b""[..]).is_err());
        assert!(
            Writer::new(Vec::new())
                .file("metadata/a", 2, &b"x"[..])
                .is_err()
        );
        let directory = Header {
            path: EntryPath::parse(b"targets/a").unwrap(),
            kind: Kind::Directory,
            mtime: 0,
        };
        let mut bytes = directory.encode().unwrap().to_vec();
        bytes.extend([0; 1024]);
        assert!(read_back(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_panics_and_never_adds_a_file(at in 0_usize..3072, bits in 1_u8..) {
            let mut bytes = written(&[("metadata/a", b"x"), ("targets/b/c", &[1; 600])]);
            let at = at % bytes.len();
            bytes[at] ^= bits;
            // Within a file's content nothing is known here; everywhere else it is refused.
            if let Ok(files) = read_back(&bytes) {
                prop_assert_eq!(files.len(), 2);
            }
        }

        #[test]
        fn any_bytes_are_no_offline_file(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            prop_assert!(read_back(&bytes).is_err());
        }
    }
}
