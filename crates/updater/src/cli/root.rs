//! What root of the host decides about updates: pin, opt-out, blocks. These wait for no update.

use vpn_node_release::version::Version;

use crate::clock::Clock;
use crate::config::Config;
use crate::disk::Disk;
use crate::error::UpdateError;
use crate::history::{self, Line};
use crate::hold::Hold;
use crate::layout::Layout;
use crate::{lock, status};

/// The means for it.
pub(super) struct Root<'a> {
    pub(super) layout: &'a Layout,
    pub(super) disk: &'a Disk,
    pub(super) clock: &'a dyn Clock,
}

impl Root<'_> {
    pub(super) fn pin(&self, version: Version) -> Result<(), UpdateError> {
        self.change("pinned", Some(&version), |hold| {
            hold.pinned = Some(version.clone());
            format!("this host takes no other version than {version} ('unpin' ends that)")
        })
    }

    pub(super) fn unpin(&self) -> Result<(), UpdateError> {
        self.change("unpinned", None, |hold| match hold.pinned.take() {
            Some(version) => format!("this host is not kept at {version} any more"),
            None => "there was no pin".into(),
        })
    }

    pub(super) fn disable(&self, disabled: bool) -> Result<(), UpdateError> {
        let event = if disabled { "disabled" } else { "enabled" };
        self.change(event, None, |hold| {
            hold.disabled = disabled;
            if disabled {
                "nothing is installed on this host any more ('enable' ends that)".into()
            } else {
                "releases are installed on this host".into()
            }
        })
    }

    pub(super) fn unblock(&self, version: &Version) -> Result<(), UpdateError> {
        self.change("unblocked", Some(version), |hold| {
            if hold.unblock(version) {
                format!("version {version} may be tried again")
            } else {
                format!("version {version} was not blocked")
            }
        })
    }

    /// A status that cannot be written, or a mistake in updater.toml, is no reason to say that the
    /// change failed; both are said.
    pub(super) fn tell_status(&self) {
        let config = Config::read(self.layout).unwrap_or_else(|error| {
            super::complain(&super::told(&error));
            Config::default()
        });
        let told = status::write(self.layout, self.disk, &config, self.clock.now());
        if let Err(error) = told {
            super::complain(&format!("the status could not be written: {error}"));
        }
    }

    fn change(
        &self,
        event: &str,
        version: Option<&Version>,
        change: impl FnOnce(&mut Hold) -> String,
    ) -> Result<(), UpdateError> {
        {
            let _lock = lock::brief(self.layout)?;
            let mut hold = Hold::read(self.layout)?;
            let before = hold.clone();
            let said = change(&mut hold);
            if hold != before {
                hold.write(self.layout, self.disk)?;
                let line = Line {
                    at_ms: self.clock.now().wall_ms,
                    event: event.into(),
                    version: version.map(ToString::to_string),
                    ..Line::default()
                };
                history::append(self.layout, self.disk, &line)?;
            }
            super::say(&said);
        }
        self.tell_status();
        Ok(())
    }
}
