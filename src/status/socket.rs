//! Makes the socket's file, safely, and takes it away at the end.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use thiserror::Error;

use super::client::{self, Reach};
use crate::core::shown_path;

/// Why the agent cannot listen on its status socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The folder cannot be made or looked at.
    #[error(
        "The runtime folder {} cannot be used: {source}. Create it for the agent's user, or let \
         systemd do it (RuntimeDirectory=vpn-node).",
        shown_path(path)
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others could swap files in the folder.
    #[error(
        "The runtime folder {} is not safe: {problem}. Run `chown` and `chmod 0755` on it.",
        shown_path(path)
    )]
    UnsafeFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// Something that is not a socket is in the way.
    #[error(
        "{} is there and is not a socket; the agent does not remove it. Remove it by hand.",
        shown_path(path)
    )]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// Another agent answers there.
    #[error(
        "Another vpn-node-agent answers on {}. Stop it first: `systemctl stop vpn-node-agent`.",
        shown_path(path)
    )]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The kernel refused the socket.
    #[error("The status socket {} cannot be made: {source}.", shown_path(path))]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A bound status socket; its file goes away with it.
#[derive(Debug)]
pub struct StatusSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file: a successor's file is not ours to remove.
    identity: (u64, u64),
}

impl StatusSocket {
    /// Binds `path` (mode 0666, so that everyone may ask). Its folder is made with 0755 if it is
    /// not there; a dead socket of an earlier run is replaced.
    ///
    /// # Errors
    /// When the folder is unsafe, another agent answers there, or the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        make_folder(folder)?;
        check_folder(folder)?;
        remove_stale(path)?;
        let bind_error = |source| SocketError::Bind {
            path: path.to_owned(),
            source,
        };
        let listener = UnixListener::bind(path).map_err(bind_error)?;
        // Only we (and root) can change names in the checked folder, so this is our socket.
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(bind_error)?;
        listener.set_nonblocking(true).map_err(bind_error)?;
        let made = fs::symlink_metadata(path).map_err(bind_error)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: (made.dev(), made.ino()),
        })
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours {
            // A leftover is harmless: the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn make_folder(folder: &Path) -> Result<(), SocketError> {
    let fail = |source| SocketError::Folder {
        path: folder.to_owned(),
        source,
    };
    match DirBuilder::new().mode(0o755).create(folder) {
        // A strict umask would lock out the users who may ask.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(fail),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

fn check_folder(folder: &Path) -> Result<(), SocketError> {
    let about = fs::symlink_metadata(folder).map_err(|source| SocketError::Folder {
        path: folder.to_owned(),
        source,
    })?;
    let problem = if !about.is_dir() {
        "it is not a folder (a symbolic link is not followed)"
    } else if about.uid() != 0 && about.uid() != geteuid().as_raw() {
        "it belongs to another user"
    } else if about.mode() & 0o022 != 0 {
        "others may write in it"
    } else {
        return Ok(());
    };
    Err(SocketError::UnsafeFolder {
        path: folder.to_owned(),
        problem,
    })
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let bind_error = |source| SocketError::Bind {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bind_error(error)),
        Ok(about) if !about.file_type().is_socket() => {
            return Err(SocketError::InTheWay {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match client::reach(path) {
        Reach::Refused => fs::remove_file(path).map_err(bind_error),
        Reach::Gone => Ok(()),
        Reach::Answers => Err(SocketError::AlreadyRunning {
            path: path.to_owned(),
        }),
        Reach::Failed(error) => Err(bind_error(error)),
    }
}
