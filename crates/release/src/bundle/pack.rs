//! Writing a package. The same content gives the same bytes: names are sorted, owner and group are
//! 0, the time is an argument, the compression has one thread and no checksum of its own.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use zstd::stream::write::Encoder;

use super::error::BundleError;
use super::header::{BLOCK, Header, Kind, padding};
use super::limits::{Limits, WINDOW_LOG};
use super::manifest::{Manifest, ManifestFile};
use super::path::{EntryPath, Mode, directories};
use super::unpack::manifest_path;
use crate::copy::{self, Hashed};
use crate::release::{PRODUCT, StateFormat};
use crate::version::{Platform, Version};

/// What a package is.
#[derive(Clone, Debug)]
pub struct About {
    /// Its version.
    pub version: Version,
    /// What it runs on.
    pub platform: Platform,
    /// Which state on disk it reads and writes.
    pub state_format: StateFormat,
    /// The time of every entry, in seconds since the Unix epoch (`SOURCE_DATE_EPOCH`, or 0).
    pub mtime: u64,
    /// How small.
    pub effort: Effort,
}

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// zstd 19: what is published.
    Best,
    /// zstd 1: for tests and demonstrations.
    Quick,
}

/// One file to be packed.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it lies in the package.
    pub path: EntryPath,
    /// Its permissions there.
    pub mode: Mode,
    /// Where it comes from.
    pub content: Content,
}

/// What a file has.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is in this file. It is read twice, and must not change meanwhile.
    File(PathBuf),
}

/// Why a package could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// No host would take it.
    #[error(transparent)]
    Refused(#[from] BundleError),
    /// A file cannot be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file was not the same twice.
    #[error("{0} changed while it was packed: build first, then pack")]
    Changed(EntryPath),
    /// The package cannot be written.
    #[error("cannot write the package: {0}")]
    Write(#[source] io::Error),
}

/// Writes the package of these files, with the directories above them and a manifest.
///
/// # Errors
/// A file cannot be read, the package cannot be written, or hosts would refuse it.
pub fn pack(to: impl Write, about: &About, mut entries: Vec<Entry>) -> Result<Manifest, PackError> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let files = entries
        .iter()
        .map(|entry| {
            let hashed = entry.content.copy_to(&mut io::sink())?;
            Ok(ManifestFile {
                path: entry.path.clone(),
                mode: entry.mode,
                size: hashed.length,
                sha256: hashed.digest,
            })
        })
        .collect::<Result<Vec<_>, PackError>>()?;
    let About {
        version,
        platform,
        state_format,
        ..
    } = about;
    let manifest = Manifest::new(PRODUCT, version, platform, *state_format, files);
    let manifest_bytes = manifest.to_bytes();
    Manifest::parse(&manifest_bytes, &Limits::default())?;

    let mut archive = Writer {
        encoder: encoder(to, about.effort).map_err(PackError::Write)?,
        mtime: about.mtime,
    };
    let size = manifest_bytes.len() as u64;
    archive.header(
        manifest_path(),
        Kind::File {
            mode: Mode::Plain,
            size,
        },
    )?;
    archive.content(&Content::Bytes(manifest_bytes))?;
    for path in directories(entries.iter().map(|entry| &entry.path)) {
        archive.header(path, Kind::Directory)?;
    }
    for (entry, file) in entries.iter().zip(&manifest.files) {
        archive.header(
            file.path.clone(),
            Kind::File {
                mode: file.mode,
                size: file.size,
            },
        )?;
        let written = archive.content(&entry.content)?;
        if (written.length, written.digest) != (file.size, file.sha256) {
            return Err(PackError::Changed(file.path.clone()));
        }
    }
    archive.end().map_err(PackError::Write)?;
    Ok(manifest)
}

impl Content {
    fn copy_to(&self, to: &mut impl Write) -> Result<Hashed, PackError> {
        let most = Limits::default().file_bytes;
        match self {
            Self::Bytes(bytes) => copy::copy(&mut &bytes[..], to, most).map_err(PackError::Write),
            Self::File(path) => {
                let read = |source| PackError::Read {
                    path: path.clone(),
                    source,
                };
                let mut file = File::open(path).map_err(read)?;
                copy::copy(&mut file, to, most).map_err(read)
            }
        }
    }
}

fn encoder<W: Write>(to: W, effort: Effort) -> io::Result<Encoder<'static, W>> {
    let level = match effort {
        Effort::Best => 19,
        Effort::Quick => 1,
    };
    let mut encoder = Encoder::new(to, level)?;
    encoder.include_checksum(false)?;
    encoder.window_log(WINDOW_LOG)?;
    Ok(encoder)
}

struct Writer<W: Write> {
    encoder: Encoder<'static, W>,
    mtime: u64,
}

impl<W: Write> Writer<W> {
    fn header(&mut self, path: EntryPath, kind: Kind) -> Result<(), PackError> {
        let header = Header {
            path,
            kind,
            mtime: self.mtime,
        };
        let block = header.encode().ok_or_else(|| {
            PackError::Write(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a size or time does not fit into a tar header",
            ))
        })?;
        self.encoder.write_all(&block).map_err(PackError::Write)
    }

    fn content(&mut self, content: &Content) -> Result<Hashed, PackError> {
        let written = content.copy_to(&mut self.encoder)?;
        let rest = [0; BLOCK];
        let rest = &rest[..padding(written.length)];
        self.encoder.write_all(rest).map_err(PackError::Write)?;
        Ok(written)
    }

    fn end(mut self) -> io::Result<()> {
        self.encoder.write_all(&[0; 2 * BLOCK])?;
        self.encoder.finish()?.flush()
    }
}
