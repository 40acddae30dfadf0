//! The only part of the configuration that touches the disk. It reads, and never writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::ConfigError;

/// Largest file: a full configuration is 2 KiB, so anything near this is another file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Most fragments in one folder: packages and tools drop a handful.
const MAX_DROP_INS: usize = 64;

/// Reads one file; `None` if it is not there and need not be.
pub(super) fn read(path: &Path, must_exist: bool) -> Result<Option<String>, ConfigError> {
    match open(path) {
        Ok(file) => read_open(path, file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound && must_exist => {
            Err(ConfigError::Missing {
                path: path.to_owned(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Reads the `*.toml` files of a folder in the byte order of their names. No folder, no fragments.
pub(super) fn drop_ins(folder: &Path) -> Result<Vec<(PathBuf, String)>, ConfigError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, error)),
    };
    let about = fs::metadata(folder).map_err(|error| unreadable(folder, error))?;
    refuse_writable(folder, about.mode())?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        if paths.len() == MAX_DROP_INS {
            return Err(unfit(
                folder,
                format!("holds more than {MAX_DROP_INS} .toml files; join some of them"),
            ));
        }
        paths.push(path);
    }
    paths.sort();
    let mut texts = Vec::with_capacity(paths.len());
    for path in paths {
        if let Some(text) = read(&path, true)? {
            texts.push((path, text));
        }
    }
    Ok(texts)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        // Without O_NONBLOCK opening a FIFO would wait for a writer for ever.
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
}

fn read_open(path: &Path, file: File) -> Result<String, ConfigError> {
    let about = file.metadata().map_err(|error| unreadable(path, error))?;
    if !about.is_file() {
        return Err(unfit(
            path,
            "is not a regular file; name or put a TOML file there".to_owned(),
        ));
    }
    refuse_writable(path, about.mode())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(unfit(
            path,
            format!("is larger than {MAX_FILE_BYTES} bytes; is it the right file?"),
        ));
    }
    String::from_utf8(bytes).map_err(|_| unfit(path, "is not UTF-8 text".to_owned()))
}

/// Whoever may write here chooses the controller that this host obeys.
fn refuse_writable(path: &Path, mode: u32) -> Result<(), ConfigError> {
    if mode & 0o002 == 0 {
        return Ok(());
    }
    Err(unfit(
        path,
        "can be written by every user; run `chmod o-w` on it and check its content".to_owned(),
    ))
}

fn unreadable(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

fn unfit(path: &Path, problem: String) -> ConfigError {
    ConfigError::Unfit {
        path: path.to_owned(),
        problem,
    }
}
