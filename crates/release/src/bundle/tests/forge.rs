//! Packages that no honest tool makes: archives from single blocks, in frames made by hand.

use std::fs;
use std::io;

use super::super::unpack::Sink;
use super::super::*;
use super::round_trip::{about, entries, verified};
use crate::code::PackageCode;

/// A tar archive under construction.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    /// An archive that begins with the manifest of these files.
    pub(super) fn with_manifest_of(files: Vec<Entry>) -> Self {
        let (manifest, ..) = parts(files);
        Self::default().file(MANIFEST, &manifest)
    }

    /// A header with these fields, right checksum, and nothing behind it.
    pub(super) fn header(mut self, name: &str, kind: u8, mode: u32, size: u64) -> Self {
        self.0.extend(block(name, kind, mode, size));
        self
    }

    /// A header whose bytes are changed before its checksum is made.
    pub(super) fn changed(
        mut self,
        name: &str,
        kind: u8,
        size: u64,
        change: impl Fn(&mut [u8; 512]),
    ) -> Self {
        let mut block = block(name, kind, 0o644, size);
        change(&mut block);
        seal(&mut block);
        self.0.extend(block);
        self
    }

    pub(super) fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.header(name, b'0', 0o644, bytes.len() as u64)
            .content(bytes)
    }

    pub(super) fn program(self, name: &str, bytes: &[u8]) -> Self {
        self.header(name, b'0', 0o755, bytes.len() as u64)
            .content(bytes)
    }

    pub(super) fn directory(self, name: &str) -> Self {
        self.header(name, b'5', 0o755, 0)
    }

    pub(super) fn content(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Two blocks of zeros.
    pub(super) fn end(mut self) -> Self {
        self.0.extend([0; 1024]);
        self
    }

    /// Why it is refused, ended and compressed.
    pub(super) fn refused(self) -> PackageCode {
        refused(&compressed(&self.end().0))
    }
}

/// The manifest and the rest of an honest archive, both as blocks.
pub(super) fn parts(files: Vec<Entry>) -> (Vec<u8>, Vec<u8>) {
    let mut package = Vec::new();
    pack(&mut package, &about(), files).unwrap();
    let tar = zstd::decode_all(&package[..]).unwrap();
    let size = tar[124..135]
        .iter()
        .fold(0, |size, digit| size * 8 + usize::from(digit - b'0'));
    let manifest = tar[512..512 + size].to_vec();
    let rest = tar[512 + size.next_multiple_of(512)..].to_vec();
    (manifest, rest)
}

/// The honest archive.
pub(super) fn honest_tar() -> Vec<u8> {
    zstd::decode_all(&super::round_trip::packed(entries())[..]).unwrap()
}

pub(super) fn compressed(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 1).unwrap()
}

fn block(name: &str, kind: u8, mode: u32, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    block[108..124].copy_from_slice(b"0000000\x000000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..345].copy_from_slice(b"0000000\x000000000\0");
    seal(&mut block);
    block
}

pub(super) fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Unpacks a package that is genuine as far as signatures go, and looks what came of it: only what
/// its manifest names, and nothing beside the directory.
pub(super) fn refused(package: &[u8]) -> PackageCode {
    let error = attempt(package, &Limits::default()).expect_err("it is refused");
    assert!(
        error.what.len() < 1000 && !error.what.contains(char::is_control),
        "{}",
        error.what
    );
    // Whoever only looks is told the same, unless it is about what is signed.
    if error.code != PackageCode::ManifestMismatch {
        let looked = inspect(package, &Limits::default()).unwrap_err();
        assert_eq!(looked.code, error.code);
    }
    error.code
}

pub(super) fn attempt(package: &[u8], limits: &Limits) -> Result<Unpacked, BundleError> {
    let folder = tempfile::tempdir().unwrap();
    let name = EntryPath::parse(b"new").unwrap();
    let mut sink = Watched {
        below: DirSink::create(folder.path(), &name).unwrap(),
        manifest: None,
    };
    let outcome = unpack(verified(package), &mut sink, limits);
    let beside: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(beside.len(), 1);
    outcome
}

/// A directory whose every change must be one that the manifest allows.
struct Watched {
    below: DirSink,
    manifest: Option<Manifest>,
}

impl Watched {
    fn manifest(&self) -> &Manifest {
        self.manifest
            .as_ref()
            .expect("nothing comes before the manifest")
    }
}

impl Sink for Watched {
    fn begin(&mut self, manifest: &Manifest) -> io::Result<()> {
        assert!(self.manifest.replace(manifest.clone()).is_none());
        self.below.begin(manifest)
    }

    fn directory(&mut self, path: &EntryPath) -> io::Result<()> {
        let files = &self.manifest().files;
        let allowed = super::super::path::directories(files.iter().map(|file| &file.path));
        assert!(allowed.contains(path), "{path}");
        self.below.directory(path)
    }

    fn file(&mut self, path: &EntryPath, mode: Mode) -> io::Result<()> {
        let known = self
            .manifest()
            .file(path)
            .is_some_and(|file| file.mode == mode);
        assert!(known || path.as_str() == MANIFEST, "{path}");
        self.below.file(path, mode)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.below.write(bytes)
    }

    fn file_end(&mut self) -> io::Result<()> {
        self.below.file_end()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.below.finish()
    }
}
