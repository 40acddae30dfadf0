//! What root decided about updates on this host, and which versions ended badly here: policy.json.
//!
//! A file that cannot be read holds everything back: a pin or an opt-out must not vanish with it.

use serde::{Deserialize, Serialize};
use vpn_node_release::code::UpdaterCode;
use vpn_node_release::handover::{self, BLOCK_MAX_MS};
use vpn_node_release::version::Version;

use crate::disk::{self, Disk};
use crate::error::UpdateError;
use crate::layout::Layout;

/// Longest policy.json, in bytes: [`MAX_BLOCKED`] versions are 30 KB.
const MAX_BYTES: u64 = 256 * 1024;
/// Most versions that are remembered as blocked; the one that ends first makes room.
const MAX_BLOCKED: usize = 100;
/// How long the first block lasts, in milliseconds: one day. Each further one doubles it.
pub const BLOCK_MS: i64 = 24 * 3600 * 1000;

/// The content of policy.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// 1.
    pub format: u32,
    /// Only this version may be installed.
    pub pinned: Option<Version>,
    /// No version may be installed.
    pub disabled: bool,
    /// What is not tried again for a while.
    pub blocked: Vec<Block>,
}

/// A version that ended badly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Which.
    pub version: Version,
    /// How it ended, as a stable word.
    pub code: String,
    /// How often.
    pub count: u32,
    /// Wall clock, milliseconds since the Unix epoch.
    pub until_ms: i64,
    /// The attempt that was counted last: counting it again changes nothing.
    pub attempt: String,
}

impl Hold {
    /// What root decided; a missing file decides nothing.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(layout: &Layout) -> Result<Self, UpdateError> {
        let path = layout.policy();
        let Some(bytes) = disk::read_bounded(&path, MAX_BYTES)? else {
            return Ok(Self {
                format: 1,
                ..Self::default()
            });
        };
        let unreadable = |why: String| {
            UpdateError::failed(
                UpdaterCode::PolicyUnreadable,
                format!(
                    "cannot read {}: {why}; nothing is installed until it is mended or removed \
                     (removing it forgets pin, opt-out and blocked versions)",
                    path.display()
                ),
            )
        };
        let hold: Self =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if hold.format != 1 {
            return Err(unreadable(format!("its format is {}, not 1", hold.format)));
        }
        Ok(hold)
    }

    /// Replaces policy.json, durably.
    ///
    /// # Errors
    /// What the system refused; the old content stays.
    pub fn write(&self, layout: &Layout, disk: &Disk) -> Result<(), UpdateError> {
        let text = serde_json::to_string_pretty(self).expect("no map keys but strings");
        disk.replace(&layout.policy(), text.as_bytes(), 0o644)
    }

    /// The block that holds `version` at this instant.
    #[must_use]
    pub fn blocked_now(&self, version: &Version, now_ms: i64) -> Option<&Block> {
        self.blocked.iter().find(|block| {
            block.version == *version && handover::block_holds(block.until_ms, now_ms)
        })
    }

    /// Blocks `version` for a day, two, four, at most thirty; once an attempt.
    pub fn block(&mut self, version: &Version, code: &str, attempt: &str, now_ms: i64) {
        let former = self.blocked.iter().position(|b| b.version == *version);
        let former = former.map(|at| self.blocked.remove(at));
        if let Some(counted) = former.as_ref().filter(|b| b.attempt == attempt) {
            self.blocked.push(counted.clone());
            return;
        }
        let count = former.map_or(0, |b| b.count).saturating_add(1);
        let days = 1i64 << (count - 1).min(5);
        if self.blocked.len() >= MAX_BLOCKED {
            let first = self
                .blocked
                .iter()
                .enumerate()
                .min_by_key(|(_, b)| b.until_ms);
            let first = first.map_or(0, |(at, _)| at);
            self.blocked.remove(first);
        }
        self.blocked.push(Block {
            version: version.clone(),
            code: code.to_owned(),
            count,
            until_ms: now_ms.saturating_add((days * BLOCK_MS).min(BLOCK_MAX_MS)),
            attempt: attempt.to_owned(),
        });
    }

    /// Forgets that `version` ended badly; false when it was not blocked.
    pub fn unblock(&mut self, version: &Version) -> bool {
        let before = self.blocked.len();
        self.blocked.retain(|block| block.version != *version);
        self.blocked.len() != before
    }

    /// The blocks for the status.
    #[must_use]
    pub fn blocked_for_status(&self) -> Vec<handover::Blocked> {
        let blocked = self.blocked.iter().map(|block| handover::Blocked {
            version: block.version.to_string(),
            code: block.code.clone(),
            count: block.count,
            until_ms: block.until_ms,
        });
        blocked.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_000_000_000;

    #[test]
    fn a_block_doubles_with_every_attempt_and_counts_each_once() {
        let (mut hold, version) = (Hold::default(), Version::new(1, 5, 0));
        let mut days = Vec::new();
        for attempt in ["a", "b", "b", "c", "d", "e", "f", "g"] {
            hold.block(&version, "crashed", attempt, NOW);
            days.push((hold.blocked[0].until_ms - NOW) / BLOCK_MS);
        }
        assert_eq!(days, [1, 2, 2, 4, 8, 16, 30, 30]);
        assert!(hold.blocked_now(&version, NOW + 29 * BLOCK_MS).is_some());
        assert!(hold.blocked_now(&version, NOW + 30 * BLOCK_MS).is_none());
        assert!(hold.blocked_now(&Version::new(1, 5, 1), NOW).is_none());
        assert!(hold.unblock(&version) && !hold.unblock(&version));
    }

    #[test]
    fn a_block_made_in_2099_holds_nothing_back_in_2026() {
        let (mut hold, version) = (Hold::default(), Version::new(1, 5, 0));
        hold.block(&version, "crashed", "a", 4_070_908_800_000);
        assert!(hold.blocked_now(&version, NOW).is_none());
    }

    #[test]
    fn the_list_is_bounded() {
        let mut hold = Hold::default();
        for n in 0..300 {
            hold.block(&Version::new(1, n, 0), "crashed", &n.to_string(), NOW);
        }
        assert_eq!(hold.blocked.len(), MAX_BLOCKED);
        assert!(hold.blocked_now(&Version::new(1, 299, 0), NOW).is_some());
    }

    #[test]
    fn a_torn_file_holds_everything_back_and_a_missing_one_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.state()).unwrap();
        let mut hold = Hold::read(&layout).unwrap();
        assert!(!hold.disabled && hold.pinned.is_none());
        hold.pinned = Some(Version::new(1, 4, 0));
        hold.write(&layout, &Disk::default()).unwrap();
        assert_eq!(Hold::read(&layout).unwrap(), hold);
        let whole = std::fs::read(layout.policy()).unwrap();
        std::fs::write(layout.policy(), &whole[..whole.len() / 2]).unwrap();
        assert_eq!(Hold::read(&layout).unwrap_err().code, "policy_unreadable");
    }
}
