//! Private files: created 0600 and durable, never overwritten, refused when others can read them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::KeyError;

/// No file here is larger; a certificate chain in PEM has a few kilobytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Makes a directory that only its owner can enter.
pub(super) fn create_dir(path: &Path) -> Result<(), KeyError> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(failed(path, "created"))
}

/// Writes a new file, 0600, synced together with its directory. Refuses to overwrite.
///
/// # Errors
/// [`KeyError::File`].
pub fn create_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(failed(path, "written"))
}

/// Reads a file that only its owner may be able to read.
///
/// # Errors
/// [`KeyError::File`], [`KeyError::Exposed`].
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut file = File::open(path).map_err(failed(path, "read"))?;
    // The open file's mode, not the path's: nobody can exchange it in between.
    let mode = file.metadata().map_err(failed(path, "read"))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    (&mut file)
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed(path, "read"))?;
    Ok(bytes)
}

/// Reads a private file that `init` made, for which there is only the backup.
pub(crate) fn read_own(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    read_private(path).map_err(|error| match error {
        KeyError::File { path, source, .. } if source.kind() == ErrorKind::NotFound => {
            KeyError::Missing(path)
        }
        other => other,
    })
}

pub(super) fn write_key(path: &Path, secret: &[u8; 32]) -> Result<(), KeyError> {
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(STANDARD.encode(secret))));
    create_private(path, text.as_bytes())
}

pub(super) fn read_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let text = read_own(path)?;
    let bytes = STANDARD
        .decode(text.trim_ascii())
        .map(Zeroizing::new)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    bytes.map(Zeroizing::new).ok_or_else(|| KeyError::Damaged {
        path: path.to_owned(),
        reason: "it does not hold 32 bytes in base64".into(),
    })
}

fn failed(path: &Path, action: &'static str) -> impl Fn(std::io::Error) -> KeyError {
    move |source| KeyError::File {
        path: path.to_owned(),
        action,
        source,
    }
}
