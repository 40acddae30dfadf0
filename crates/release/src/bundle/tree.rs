//! The digest of an unpacked version, and whether a directory still is what was unpacked.
//!
//! The digest lies in the directory, in [`TREE_MARK`], and is written last: a version without it
//! was never finished. It finds what a disk or a hand has changed; it is no signature.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::error::BundleError;
use super::limits::Limits;
use super::manifest::{MANIFEST, Manifest};
use super::path::{EntryPath, directories};
use super::unpack::manifest_path;
use crate::code::PackageCode;
use crate::copy;
use crate::digest::Digest;

/// The file with the digest: 64 hexadecimal digits and a newline.
pub const TREE_MARK: &str = "tree.sha256";

/// SHA-256 over a sorted list of everything in a version's directory but the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeDigest(Digest);

impl TreeDigest {
    /// The content of [`TREE_MARK`].
    #[must_use]
    pub fn mark(&self) -> String {
        format!("{}\n", self.0)
    }
}

impl fmt::Display for TreeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The digest of a directory with these files and this manifest.
#[must_use]
pub fn tree_digest(manifest: &Manifest, manifest_digest: Digest) -> TreeDigest {
    let mut tree = Tree::default();
    for path in directories(manifest.files.iter().map(|file| &file.path)) {
        tree.directory(path, 0o755);
    }
    for file in &manifest.files {
        tree.file(file.path.clone(), file.mode.bits(), file.sha256);
    }
    tree.file(manifest_path(), 0o644, manifest_digest);
    tree.digest()
}

/// Looks at every file of an unpacked version: its digest is the one in its mark.
///
/// # Errors
/// `tree_unmarked`, `tree_mismatch`, or `package_unreadable` when the system cannot read it.
pub fn check_tree(dir: &Path) -> Result<(Manifest, TreeDigest), BundleError> {
    let mark = match read_small(&dir.join(TREE_MARK), 65) {
        Ok(mark) => mark,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BundleError::new(
                PackageCode::TreeUnmarked,
                format!("{dir:?} was never unpacked to its end: remove it"),
            ));
        }
        Err(error) => return Err(unreadable(dir, error)),
    };
    let mut tree = Tree::default();
    tree.walk(dir, "", 0o755)
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => mismatch(dir, &error.to_string()),
            _ => unreadable(dir, error),
        })?;
    let digest = tree.digest();
    if digest.mark().as_bytes() != mark {
        return Err(mismatch(dir, "a file has changed, is missing or was added"));
    }
    let limits = Limits::default();
    let bytes = read_small(&dir.join(MANIFEST), limits.manifest_bytes)
        .map_err(|error| unreadable(dir, error))?;
    let manifest = Manifest::parse(&bytes, &limits)?;
    if tree_digest(&manifest, Digest::of(&bytes)) != digest {
        return Err(mismatch(dir, "its manifest names other files"));
    }
    Ok((manifest, digest))
}

#[derive(Default)]
struct Tree {
    lines: BTreeMap<EntryPath, String>,
}

impl Tree {
    fn directory(&mut self, path: EntryPath, mode: u32) {
        self.lines.insert(path, format!("d {mode:04o}"));
    }

    fn file(&mut self, path: EntryPath, mode: u32, digest: Digest) {
        self.lines.insert(path, format!("f {mode:04o} {digest}"));
    }

    fn digest(&self) -> TreeDigest {
        let mut text = String::from("vpn-node tree 1\n");
        for (path, line) in &self.lines {
            text.push_str(&format!("{line} {path}\n"));
        }
        TreeDigest(Digest::of(text.as_bytes()))
    }

    /// Adds what is in `dir`, whose path from the top is `above`. What no package has is
    /// [`io::ErrorKind::InvalidData`].
    fn walk(&mut self, dir: &Path, above: &str, mode: u32) -> io::Result<()> {
        let strange = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if fs::symlink_metadata(dir)?.mode() & 0o7777 != mode {
            return strange(format!("the directory {dir:?} has not mode 0755"));
        }
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = [above.as_bytes(), entry.file_name().as_bytes()].concat();
            if name == TREE_MARK.as_bytes() {
                continue;
            }
            let Ok(path) = EntryPath::parse(&name) else {
                return strange(format!("it has the name \"{}\"", name.escape_ascii()));
            };
            let about = fs::symlink_metadata(entry.path())?;
            if about.is_dir() {
                self.walk(&entry.path(), &format!("{path}/"), mode)?;
                self.directory(path, mode);
            } else if about.is_file() {
                let mut file = open(&entry.path())?;
                let hashed = copy::hash(&mut file, Limits::default().file_bytes)?;
                self.file(path, about.mode() & 0o7777, hashed.digest);
            } else {
                return strange(format!("{path} is neither a file nor a directory"));
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
}

fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn mismatch(dir: &Path, why: &str) -> BundleError {
    BundleError::new(
        PackageCode::TreeMismatch,
        format!("{dir:?} is not what was unpacked: {why}; install the version again"),
    )
}

fn unreadable(dir: &Path, source: io::Error) -> BundleError {
    BundleError {
        code: PackageCode::PackageUnreadable,
        what: format!("cannot read {dir:?}: {source}; look at the disk"),
        source: Some(source),
    }
}
