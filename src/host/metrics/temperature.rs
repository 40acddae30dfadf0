//! Finds the one sensor which stands for the host: the CPU package.

use std::path::{Path, PathBuf};

use super::kept::Kept;
use crate::host::bounded;

/// Zones and chips looked at, and the longest name: real hosts have a few dozen of 20 bytes.
const MAX_SENSORS: usize = 128;
const MAX_NAME: usize = 64;

/// Thermal zone types and hwmon chip names of CPUs, the best first.
const CPU_SENSORS: [&str; 9] = [
    "x86_pkg_temp",
    "coretemp",
    "k10temp",
    "zenpower",
    "cpu-thermal",
    "cpu_thermal",
    "soc-thermal",
    "soc_thermal",
    "acpitz",
];

/// Opens the best CPU sensor, or nothing: virtual machines have none.
pub(super) fn open(sys_root: &Path) -> Kept {
    let zones = sensors(&sys_root.join("class/thermal"), "type", "temp");
    let chips = sensors(&sys_root.join("class/hwmon"), "name", "temp1_input");
    let best = zones.into_iter().chain(chips).min();
    best.map(|(_, path)| Kept::open(&path)).unwrap_or_default()
}

/// Rank and path of each known sensor under `class`.
fn sensors(class: &Path, name_file: &str, value_file: &str) -> Vec<(usize, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(class) else {
        return Vec::new();
    };
    entries
        .flatten()
        .take(MAX_SENSORS)
        .filter_map(|entry| {
            let name = bounded::read_prefix(&entry.path().join(name_file), MAX_NAME).ok()?;
            let name = name.trim_ascii();
            let rank = CPU_SENSORS.iter().position(|s| s.as_bytes() == name)?;
            let value = entry.path().join(value_file);
            value.exists().then_some((rank, value))
        })
        .collect()
}
