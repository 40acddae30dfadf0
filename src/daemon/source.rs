//! Where the settings come from: the configuration, and what the command line puts over it.

use std::path::PathBuf;

use crate::config::{self, ConfigError, Settings};

/// The same at the start and at each reload.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    /// `--config`
    pub(super) config: Option<PathBuf>,
    /// `--state-dir`, absolute.
    pub(super) state_dir: Option<PathBuf>,
    /// `--runtime-dir`, absolute.
    pub(super) runtime_dir: Option<PathBuf>,
}

impl Source {
    /// Reads and validates.
    ///
    /// # Errors
    /// As [`config::load`].
    pub(super) fn load(&self) -> Result<Settings, ConfigError> {
        let mut settings = config::load(self.config.as_deref())?.settings;
        if let Some(dir) = &self.state_dir {
            settings.state_dir.clone_from(dir);
        }
        if let Some(dir) = &self.runtime_dir {
            settings.runtime_dir.clone_from(dir);
        }
        Ok(settings)
    }
}
