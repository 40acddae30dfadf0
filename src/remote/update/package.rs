//! The package: fetched into a partial file, which a later attempt goes on with. What is here of it
//! is hashed anew before it is gone on with, and only bytes whose hash is the signed one leave.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::FetchFailure;
use super::rate::Meter;
use super::source::{Rest, Source, Stream};
use crate::core::update::Progress;
use crate::host::{atomic, clock};

/// The part that is here.
const PARTIAL: &str = "package";
/// What it is a part of.
const ABOUT: &str = "package.json";
/// Longest of the latter.
const MAX_ABOUT_BYTES: usize = 4096;
/// Longest entity tag that is kept.
const MAX_ETAG_BYTES: usize = 256;
/// Left free on the disk: connection records need room, too.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// Read at once while hashing.
const CHUNK: usize = 64 * 1024;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What was signed about the package, and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Below the repository's address.
    pub(super) path: String,
    pub(super) length: u64,
    /// Lower-case hexadecimal.
    pub(super) sha256: String,
}

/// What a partial file is a part of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    sha256: String,
    length: u64,
    etag: Option<String>,
}

/// The partial file of one package.
struct Partial {
    folder: PathBuf,
    file: File,
    bytes: u64,
    hash: Sha256,
    etag: Option<String>,
}

/// Fetches the package into `folder`, or the rest of it. Gives the path of the whole, verified and
/// durable file.
pub(super) fn fetch(
    source: &Source,
    wanted: &Wanted,
    folder: &Path,
    tell: &mut dyn FnMut(Progress),
) -> Result<PathBuf, FetchFailure> {
    atomic::create_dir_private(folder)?;
    let mut partial = Partial::resume(folder, wanted)?;
    make_sure_of_space(folder, wanted.length - partial.bytes)?;
    // A part that turns out to be of another file is given up once; a whole file never twice.
    loop {
        let resumed = partial.bytes > 0;
        match partial.complete(source, wanted, tell) {
            Ok(()) => break,
            Err(FetchFailure::WrongRange { .. } | FetchFailure::WrongHash { .. }) if resumed => {
                partial = Partial::begin(folder, wanted)?;
            }
            Err(error) => {
                if matches!(
                    error,
                    FetchFailure::WrongHash { .. } | FetchFailure::TooLong { .. }
                ) {
                    // Nothing of it is worth keeping.
                    Partial::begin(folder, wanted)?;
                }
                return Err(error);
            }
        }
    }
    let path = folder.join(PARTIAL);
    partial
        .file
        .sync_all()
        .map_err(FetchFailure::disk("sync", &path))?;
    Ok(path)
}

impl Partial {
    /// What a former attempt left of this very package, hashed; else nothing.
    fn resume(folder: &Path, wanted: &Wanted) -> Result<Self, FetchFailure> {
        let about = atomic::read_bounded(&folder.join(ABOUT), MAX_ABOUT_BYTES).ok();
        let about: Option<About> = about.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let is_it = |about: &About| about.sha256 == wanted.sha256 && about.length == wanted.length;
        let Some(about) = about.filter(is_it) else {
            return Self::begin(folder, wanted);
        };
        let path = folder.join(PARTIAL);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_NOFOLLOW | O_NONBLOCK)
            .open(&path);
        let Ok(mut file) = opened else {
            return Self::begin(folder, wanted);
        };
        let meta = file
            .metadata()
            .map_err(FetchFailure::disk("look at", &path))?;
        if !meta.is_file() || meta.len() > wanted.length {
            return Self::begin(folder, wanted);
        }
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = file
                .read(&mut buffer)
                .map_err(FetchFailure::disk("read", &path))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            bytes += count as u64;
        }
        Ok(Self {
            folder: folder.to_owned(),
            file,
            bytes,
            hash,
            etag: about.etag,
        })
    }

    /// An empty one.
    fn begin(folder: &Path, wanted: &Wanted) -> Result<Self, FetchFailure> {
        let path = folder.join(PARTIAL);
        atomic::remove(&path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW)
            .open(&path)
            .map_err(FetchFailure::disk("create", &path))?;
        let partial = Self {
            folder: folder.to_owned(),
            file,
            bytes: 0,
            hash: Sha256::new(),
            etag: None,
        };
        partial.keep_about(wanted)?;
        Ok(partial)
    }

    fn keep_about(&self, wanted: &Wanted) -> Result<(), FetchFailure> {
        let about = About {
            sha256: wanted.sha256.clone(),
            length: wanted.length,
            etag: self.etag.clone(),
        };
        let json = serde_json::to_vec(&about).expect("texts and a number serialise");
        Ok(atomic::write(&self.folder.join(ABOUT), &json, 0o600)?)
    }

    /// Fetches what is missing and compares the hash of the whole.
    fn complete(
        &mut self,
        source: &Source,
        wanted: &Wanted,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<(), FetchFailure> {
        let mut url = wanted.path.clone();
        if self.bytes < wanted.length {
            let rest = (self.bytes > 0).then_some(Rest {
                from: self.bytes,
                etag: self.etag.as_deref(),
            });
            let (stream, status) = source.open(&wanted.path, rest)?;
            url = stream.url();
            self.place(&stream, status.as_u16(), wanted)?;
            self.receive(stream, wanted, tell)?;
        }
        let hash =
            vpn_node_protocol::encoding::Hex(self.hash.clone().finalize().into()).to_string();
        match hash == wanted.sha256 {
            true => Ok(()),
            false => Err(FetchFailure::WrongHash { url }),
        }
    }

    /// Where the answer's first byte belongs.
    fn place(
        &mut self,
        stream: &Stream<'_>,
        status: u16,
        wanted: &Wanted,
    ) -> Result<(), FetchFailure> {
        match status {
            // The whole file: it changed since, or the server knows no ranges.
            200 => self.start_over(stream, wanted),
            206 if stream.header("content-range").and_then(range)
                == Some((self.bytes, wanted.length)) =>
            {
                stream.refuse_longer_than(wanted.length - self.bytes)
            }
            _ => Err(FetchFailure::WrongRange { url: stream.url() }),
        }
    }

    fn start_over(&mut self, stream: &Stream<'_>, wanted: &Wanted) -> Result<(), FetchFailure> {
        stream.refuse_longer_than(wanted.length)?;
        let path = self.folder.join(PARTIAL);
        self.file
            .set_len(0)
            .map_err(FetchFailure::disk("empty", &path))?;
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(FetchFailure::disk("rewind", &path))?;
        self.bytes = 0;
        self.hash = Sha256::new();
        // A weak tag says nothing about single bytes (RFC 9110 section 13.1.5).
        let strong = |tag: &&str| tag.starts_with('"') && tag.len() <= MAX_ETAG_BYTES;
        self.etag = stream.header("etag").filter(strong).map(str::to_owned);
        self.keep_about(wanted)
    }

    fn receive(
        &mut self,
        mut stream: Stream<'_>,
        wanted: &Wanted,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<(), FetchFailure> {
        let path = self.folder.join(PARTIAL);
        let mut meter = Meter::default();
        let mut told = None;
        while let Some(chunk) = stream.next()? {
            // Before it is written: no disk fills up with what nobody signed.
            if self.bytes + chunk.len() as u64 > wanted.length {
                return Err(stream.too_long(wanted.length));
            }
            self.file
                .write_all(&chunk)
                .map_err(FetchFailure::disk("write", &path))?;
            self.hash.update(&chunk);
            self.bytes += chunk.len() as u64;
            let now = clock::now().boot;
            if told.is_none_or(|at| now >= at + TELL_EVERY) {
                told = Some(now);
                tell(Progress {
                    bytes: self.bytes,
                    total: wanted.length,
                    bytes_per_s: meter.sample(self.bytes, now),
                });
            }
        }
        tell(Progress {
            bytes: self.bytes,
            total: wanted.length,
            bytes_per_s: 0,
        });
        if self.bytes < wanted.length {
            let why = format!("it ends after {} of {} bytes", self.bytes, wanted.length);
            return Err(FetchFailure::Unreachable {
                url: stream.url(),
                why,
            });
        }
        Ok(())
    }
}

/// First byte and whole length of `Content-Range: bytes FIRST-LAST/LENGTH` (RFC 9110 section 14.4).
fn range(header: &str) -> Option<(u64, u64)> {
    let (part, length) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, length): (u64, u64) = (first.parse().ok()?, length.parse().ok()?);
    let last: u64 = last.parse().ok()?;
    (first <= last && last < length).then_some((first, length))
}

fn make_sure_of_space(folder: &Path, missing: u64) -> Result<(), FetchFailure> {
    let disk = nix::sys::statvfs::statvfs(folder)
        .map_err(|errno| FetchFailure::disk("look at", folder)(errno.into()))?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    let needed = missing.saturating_add(SPARE_BYTES);
    if free < needed {
        let path = folder.to_owned();
        return Err(FetchFailure::NoSpace { path, free, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_content_range_is_read_strictly() {
        assert_eq!(range("bytes 10-99/100"), Some((10, 100)));
        for bad in [
            "bytes 10-99/*",
            "bytes */100",
            "bytes 10-100/100",
            "bytes 11-10/100",
            "10-99/100",
            "items 10-99/100",
            "bytes -1-9/10",
            "",
        ] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_disk_without_room_is_told_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let error = make_sure_of_space(dir.path(), u64::MAX / 2).unwrap_err();
        assert!(error.to_string().contains("make room"), "{error}");
        let failure = crate::core::update::Failure::from(error);
        assert_eq!(failure.code, "no_space");
        assert!(failure.retry.is_some(), "somebody makes room");
        make_sure_of_space(dir.path(), 0).unwrap();
    }

    proptest! {
        #[test]
        fn no_content_range_panics(header in ".{0,60}") {
            let _ = range(&header);
        }
    }
}
