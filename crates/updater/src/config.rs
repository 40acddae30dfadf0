//! `/etc/vpn-node/updater.toml`: optional, strict. An unknown key is an error, never a default.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use vpn_node_release::code::UpdaterCode;
use vpn_node_release::version::Word;

use crate::disk;
use crate::error::UpdateError;
use crate::layout::Layout;

/// Longest configuration, in bytes; the shipped one is 1 KB.
const MAX_BYTES: u64 = 64 * 1024;

/// The settings that hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who starts and stops the agent.
    pub supervisor: SupervisorKind,
    /// Which releases this host takes.
    pub channel: String,
    /// How long a new version is watched before it is judged.
    #[serde(deserialize_with = "duration")]
    pub probation: Duration,
    /// How much longer when nothing could be judged.
    #[serde(deserialize_with = "duration")]
    pub extension: Duration,
    /// How many old versions are kept beside stable and previous.
    pub keep: u32,
    /// Most resident memory of the new agent, in bytes.
    #[serde(deserialize_with = "size")]
    pub experiment_memory: u64,
}

/// Who starts and stops the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorKind {
    /// systemd's units.
    Systemd,
    /// `vpn-node-updater supervise`.
    Plain,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            supervisor: SupervisorKind::Systemd,
            channel: "stable".into(),
            probation: Duration::from_secs(120),
            extension: Duration::from_secs(3600),
            keep: 1,
            // Below the units' MemoryMax=128M: the updater says what it was, the kernel only kills.
            experiment_memory: 96 * 1024 * 1024,
        }
    }
}

impl Config {
    /// What the file says; defaults when there is none.
    ///
    /// # Errors
    /// A file that cannot be read or has a mistake: file, line and key are named.
    pub fn read(layout: &Layout) -> Result<Self, UpdateError> {
        let path = layout.config();
        let Some(bytes) = disk::read_bounded(&path, MAX_BYTES)? else {
            return Ok(Self::default());
        };
        let wrong = |why: &str| {
            UpdateError::failed(
                UpdaterCode::ConfigInvalid,
                format!(
                    "{}: {why}; nothing is installed until it is mended",
                    path.display()
                ),
            )
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is not UTF-8"))?;
        let config: Self = toml::from_str(text).map_err(|error| wrong(error.to_string().trim()))?;
        config.check().map_err(|why| wrong(&why))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let between = |key: &str, value: Duration, least: u64, most: u64| {
            if (least..=most).contains(&value.as_secs()) {
                return Ok(());
            }
            Err(format!("{key} must be from {least} s to {most} s"))
        };
        // Shorter than three heartbeats of a slow controller nothing could be seen.
        between("probation", self.probation, 10, 86_400)?;
        between("extension", self.extension, 0, 7 * 86_400)?;
        if self.keep > 20 {
            return Err("keep must be from 0 to 20".into());
        }
        if self.experiment_memory < 16 * 1024 * 1024 {
            return Err("experiment_memory must be at least \"16MiB\"".into());
        }
        Word::parse(&self.channel)
            .map(drop)
            .map_err(|error| format!("channel: {error}"))
    }
}

/// "90s", "5m", "1h".
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    scaled(&text, &units)
        .map(Duration::from_secs)
        .ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is not a time like \"90s\", \"5m\" or \"1h\""
            ))
        })
}

/// "256MiB", "1GiB".
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    let units = [("MiB", 1 << 20), ("GiB", 1 << 30)];
    scaled(&text, &units).ok_or_else(|| {
        de::Error::custom(format!(
            "{text:?} is not a size like \"256MiB\" or \"1GiB\""
        ))
    })
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?;
        let plain = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
        plain.then_some(())?;
        number.parse::<u64>().ok()?.checked_mul(*factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_key_and_its_default() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/updates.md");
        let text = std::fs::read_to_string(file).unwrap();
        let rows = text.lines().filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let key = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
            let default = cells.get(3)?.strip_prefix('`')?.strip_suffix('`')?;
            Some(format!("{key} = {default}\n"))
        });
        let known = [
            "supervisor",
            "channel",
            "probation",
            "extension",
            "keep",
            "experiment_memory",
        ];
        let documented: Vec<String> = rows
            .filter(|row| {
                known
                    .iter()
                    .any(|key| row.starts_with(&format!("{key} = ")))
            })
            .collect();
        assert_eq!(documented.len(), known.len(), "{documented:?}");
        assert_eq!(read(&documented.concat()).unwrap(), Config::default());
    }

    fn read(text: &str) -> Result<Config, UpdateError> {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.config().parent().unwrap()).unwrap();
        std::fs::write(layout.config(), text).unwrap();
        Config::read(&layout)
    }

    #[test]
    fn an_empty_file_and_none_are_the_defaults() {
        assert_eq!(read("").unwrap(), Config::default());
        let nowhere = Layout::new("/nonexistent");
        assert_eq!(Config::read(&nowhere).unwrap(), Config::default());
    }

    #[test]
    fn every_key_is_read() {
        let text = "supervisor = 'plain'\nchannel = 'beta'\nprobation = '2m'\nextension = '2h'\n\
                    keep = 3\nexperiment_memory = '64MiB'\n";
        let config = read(text).unwrap();
        assert_eq!(config.supervisor, SupervisorKind::Plain);
        assert_eq!(config.channel, "beta");
        assert_eq!(config.probation, Duration::from_secs(120));
        assert_eq!(config.extension, Duration::from_secs(7200));
        assert_eq!((config.keep, config.experiment_memory), (3, 64 << 20));
    }

    #[test]
    fn a_mistake_is_an_error_that_names_the_file_and_the_key() {
        for (text, named) in [
            ("probaton = '2m'", "probaton"),
            ("probation = '2'", "probation"),
            ("probation = '1s'", "probation"),
            ("probation = 120", "probation"),
            ("extension = '9999999999999999999h'", "extension"),
            ("keep = 21", "keep"),
            ("keep = -1", "keep"),
            ("channel = '../x'", "channel"),
            ("channel = ''", "channel"),
            ("experiment_memory = '1KiB'", "experiment_memory"),
            ("supervisor = 'openrc'", "supervisor"),
            ("keep =", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.code, "config_invalid", "{text}");
            assert!(error.sentence.contains("updater.toml"), "{error}");
            assert!(error.sentence.contains(named), "{text}: {error}");
        }
    }
}
