//! Reading a package: every entry is judged before a byte of it is given on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::error::BundleError;
use super::frame::Frame;
use super::header::{self, BLOCK, Header, Kind};
use super::limits::Limits;
use super::manifest::{self, MANIFEST, Manifest, ManifestFile};
use super::path::{EntryPath, Mode, directories};
use super::tree::{TreeDigest, tree_digest};
use super::verified::Verified;
use crate::code::PackageCode;
use crate::digest::Digest;
use crate::release::ReleaseInfo;

/// So much of a file is given on at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Where the files go. It is told only of what the manifest names, of directories before what
/// lies in them, and of no path twice.
pub trait Sink {
    /// The package is going to be unpacked: is there room?
    ///
    /// # Errors
    /// Any of these functions ends the unpacking with its error.
    fn begin(&mut self, manifest: &Manifest) -> io::Result<()>;
    /// A directory with mode 0755.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn directory(&mut self, path: &EntryPath) -> io::Result<()>;
    /// A file begins.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn file(&mut self, path: &EntryPath, mode: Mode) -> io::Result<()>;
    /// More bytes of that file.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// That file is whole, and was what the manifest says.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn file_end(&mut self) -> io::Result<()>;
    /// Everything came and nothing else: make it durable.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn finish(&mut self) -> io::Result<()>;
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Its manifest.
    pub manifest: Manifest,
    /// The digest of the directory it was unpacked into.
    pub tree: TreeDigest,
}

/// Unpacks a verified package. After an error the sink's content is to be thrown away.
///
/// # Errors
/// The package is not exactly what [`super::pack`] makes of its manifest, does not agree with what
/// is signed, is beyond a limit, or the sink failed.
pub fn unpack<R: Read>(
    package: Verified<R>,
    sink: &mut impl Sink,
    limits: &Limits,
) -> Result<Unpacked, BundleError> {
    let (reader, info) = package.into_parts();
    read_package(reader, Some(&info), sink, limits)
}

/// Judges a package that is not signed yet, or by whom does not matter; writes nothing.
///
/// # Errors
/// As [`unpack`].
pub fn inspect(package: impl Read, limits: &Limits) -> Result<Unpacked, BundleError> {
    read_package(package, None, &mut Nowhere, limits)
}

pub(super) fn read_package(
    package: impl Read,
    signed: Option<&ReleaseInfo>,
    sink: &mut impl Sink,
    limits: &Limits,
) -> Result<Unpacked, BundleError> {
    let mut archive = Archive {
        frame: Frame::open(package, limits)?,
        limits,
        entries: 0,
        total: 0,
        mtime: None,
        names: BTreeMap::new(),
        directories: BTreeSet::new(),
    };
    let (manifest, bytes) = archive.manifest()?;
    if let Some(info) = signed {
        manifest.agrees_with(info)?;
    }
    let written = |error| BundleError::write(MANIFEST, error);
    sink.begin(&manifest).map_err(written)?;
    let path = manifest_path();
    sink.file(&path, Mode::Plain).map_err(written)?;
    sink.write(&bytes).map_err(written)?;
    sink.file_end().map_err(written)?;

    let wanted_directories = directories(manifest.files.iter().map(|file| &file.path));
    while let Some(header) = archive.next()? {
        match header.kind {
            Kind::Directory if wanted_directories.contains(&header.path) => {
                let written = |error| BundleError::write(header.path.as_str(), error);
                sink.directory(&header.path).map_err(written)?;
            }
            Kind::Directory => return not_in_manifest(&header.path),
            Kind::File { mode, size } => match manifest.file(&header.path) {
                Some(file) => archive.file(file, mode, size, sink)?,
                None => return not_in_manifest(&header.path),
            },
        }
    }
    let missing = manifest.files.iter().find(|file| !archive.has(&file.path));
    if let Some(file) = missing {
        return Err(BundleError::bad(
            PackageCode::MissingFromPackage,
            format_args!("its manifest names {}, which is not there", file.path),
        ));
    }
    archive.frame.end()?;
    let everything = |error| BundleError::write("the end of the package", error);
    sink.finish().map_err(everything)?;
    let tree = tree_digest(&manifest, Digest::of(&bytes));
    Ok(Unpacked { manifest, tree })
}

struct Archive<'a, R: Read> {
    frame: Frame<R>,
    limits: &'a Limits,
    entries: usize,
    /// Bytes of all files so far, as stated.
    total: u64,
    mtime: Option<u64>,
    /// What came, by how a file system without case sees it.
    names: BTreeMap<String, EntryPath>,
    directories: BTreeSet<EntryPath>,
}

impl<R: Read> Archive<'_, R> {
    /// The first entry.
    fn manifest(&mut self) -> Result<(Manifest, Vec<u8>), BundleError> {
        let first = self.next()?;
        let size = match first {
            Some(Header {
                path,
                kind:
                    Kind::File {
                        mode: Mode::Plain,
                        size,
                    },
                ..
            }) if path.as_str() == MANIFEST => size,
            _ => {
                return Err(BundleError::bad(
                    PackageCode::ManifestMissing,
                    format_args!("its first entry is not {MANIFEST}"),
                ));
            }
        };
        if size > self.limits.manifest_bytes {
            return Err(BundleError::bad(
                PackageCode::FileTooLarge,
                format_args!("its manifest has {size} bytes"),
            ));
        }
        let mut bytes = Vec::new();
        self.content(size, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok((Manifest::parse(&bytes, self.limits)?, bytes))
    }

    /// The next entry, judged as far as its header goes; none at the end mark.
    fn next(&mut self) -> Result<Option<Header>, BundleError> {
        let mut block = [0; BLOCK];
        self.exactly(&mut block)?;
        if header::is_end(&block) {
            self.exactly(&mut block)?;
            if header::is_end(&block) {
                return Ok(None);
            }
            return Err(malformed("the end mark is followed by another header"));
        }
        let header = Header::parse(&block)?;
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(BundleError::bad(
                PackageCode::TooManyEntries,
                format_args!("it has more than {} entries", self.limits.entries),
            ));
        }
        if *self.mtime.get_or_insert(header.mtime) != header.mtime {
            return Err(malformed(format_args!(
                "{} has another time than the first entry",
                header.path
            )));
        }
        self.place(&header.path)?;
        match header.kind {
            Kind::Directory => {
                self.directories.insert(header.path.clone());
            }
            Kind::File { size, .. } => {
                self.total = self.total.saturating_add(size);
                manifest::check_size(&header.path, size, self.total, self.limits)?;
            }
        }
        Ok(Some(header))
    }

    /// The name is new, and lies in a directory that came before.
    fn place(&mut self, path: &EntryPath) -> Result<(), BundleError> {
        if let Some(other) = self.names.insert(path.folded(), path.clone()) {
            return Err(if other == *path {
                BundleError::bad(
                    PackageCode::PathDuplicate,
                    format_args!("{path} comes twice"),
                )
            } else {
                BundleError::bad(
                    PackageCode::PathCaseCollision,
                    format_args!("{other} and {path} differ in case only"),
                )
            });
        }
        match path
            .parents()
            .find(|parent| !self.directories.contains(parent))
        {
            None => Ok(()),
            Some(parent) => Err(BundleError::bad(
                PackageCode::PathConflict,
                format_args!("{path} comes, and {parent} did not come before it as a directory"),
            )),
        }
    }

    fn has(&self, path: &EntryPath) -> bool {
        self.names.get(&path.folded()) == Some(path)
    }

    /// The content of a file, which must be what the manifest says.
    fn file(
        &mut self,
        file: &ManifestFile,
        mode: Mode,
        size: u64,
        sink: &mut impl Sink,
    ) -> Result<(), BundleError> {
        let differs = |what: &str| {
            Err(BundleError::bad(
                PackageCode::FileMismatch,
                format_args!("{} has other {what} than its manifest says", file.path),
            ))
        };
        if mode != file.mode {
            return differs("permissions");
        }
        if size != file.size {
            return differs("size");
        }
        let written = |error| BundleError::write(file.path.as_str(), error);
        sink.file(&file.path, mode).map_err(written)?;
        let mut sha256 = Sha256::new();
        self.content(size, |piece| {
            sha256.update(piece);
            sink.write(piece).map_err(written)
        })?;
        if Digest::new(sha256.finalize().into()) != file.sha256 {
            return differs("content");
        }
        sink.file_end().map_err(written)
    }

    /// `size` bytes in pieces, then zeros up to the next block.
    fn content(
        &mut self,
        size: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), BundleError>,
    ) -> Result<(), BundleError> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(PIECE_BYTES)
                .min(PIECE_BYTES);
            let got = self.frame.read(&mut piece[..want])?;
            if got == 0 {
                return Err(truncated());
            }
            take(&piece[..got])?;
            left -= got as u64;
        }
        let mut rest = [0; BLOCK];
        let rest = &mut rest[..header::padding(size)];
        self.exactly(rest)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(malformed("something is hidden between two entries"));
        }
        Ok(())
    }

    fn exactly(&mut self, into: &mut [u8]) -> Result<(), BundleError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.frame.read(&mut into[filled..])? {
                0 => return Err(truncated()),
                got => filled += got,
            }
        }
        Ok(())
    }
}

pub(super) fn manifest_path() -> EntryPath {
    EntryPath::parse(MANIFEST.as_bytes()).expect("it is a plain name")
}

fn not_in_manifest<T>(path: &EntryPath) -> Result<T, BundleError> {
    Err(BundleError::bad(
        PackageCode::NotInManifest,
        format_args!("{path} is not in its manifest"),
    ))
}

fn truncated() -> BundleError {
    BundleError::bad(
        PackageCode::ArchiveTruncated,
        "the archive ends before its end mark",
    )
}

fn malformed(what: impl std::fmt::Display) -> BundleError {
    BundleError::bad(PackageCode::ArchiveMalformed, what)
}

/// Takes everything and keeps nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn begin(&mut self, _: &Manifest) -> io::Result<()> {
        Ok(())
    }
    fn directory(&mut self, _: &EntryPath) -> io::Result<()> {
        Ok(())
    }
    fn file(&mut self, _: &EntryPath, _: Mode) -> io::Result<()> {
        Ok(())
    }
    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn file_end(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
