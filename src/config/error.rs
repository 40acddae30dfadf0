//! What is wrong with a configuration, as the sentence that the operator reads.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::core::{shown, shown_path};

/// Why the configuration cannot be used. Each sentence begins with the file.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file was named on the command line and is not there.
    #[error("{}: no such file; check the --config argument", shown_path(path))]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file or folder is there and cannot be read.
    #[error("{}: cannot be read: {source}", shown_path(path))]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not a file that this program takes its settings from.
    #[error("{}: {problem}", shown_path(path))]
    Unfit {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Not TOML.
    #[error("{}:{line}: not valid TOML: {}", shown_path(path), shown(problem))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A key or section that does not exist.
    #[error("{}:{line}: {problem}", shown_path(path))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is unknown, and the nearest known name.
        problem: String,
    },
    /// A value of the wrong type or out of its range.
    #[error("{}:{line}: {key}: {problem}; allowed is {allowed}", shown_path(path))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// `[section] key`.
        key: String,
        /// What is wrong with the value.
        problem: String,
        /// What would be right.
        allowed: &'static str,
    },
}

impl ConfigError {
    /// Whether only the rights of the calling user are in the way: not a fault of the file.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied)
    }
}
