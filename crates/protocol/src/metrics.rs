//! What a heartbeat says about how the host is.
//!
//! Integers only, so that the signed bytes never depend on how a language prints fractions. An
//! absent value means that the host does not have it or does not show it (container, sandbox),
//! never zero.

use serde::{Deserialize, Serialize};

/// The most file systems that one report lists; a heartbeat stays small whatever is configured.
pub const MAX_DISKS: usize = 32;

/// One sample of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemMetrics {
    /// Busy time of all CPUs since the sample before, 0 to 1000 per mille. Busy is everything but
    /// idle and iowait (`/proc/stat`, proc_stat(5)). Absent in the first sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_permille: Option<u16>,
    /// Load averages (`/proc/loadavg`, proc_loadavg(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Memory and swap (`/proc/meminfo`, proc_meminfo(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The configured file systems, at most [`MAX_DISKS`] (statvfs(3)).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Network traffic (`/proc/net/dev`, proc_pid_net(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Open file handles of the whole host (`/proc/sys/fs/file-nr`, proc_sys_fs(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<OpenFiles>,
    /// CPU temperature in thousandths of a degree Celsius (`/sys/class/thermal` or hwmon).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_millidegrees: Option<i32>,
    /// Seconds since boot, suspend included (`/proc/uptime`, proc_uptime(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    /// Resident memory of the agent itself in bytes (`/proc/self/statm`, proc_pid_statm(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_rss_bytes: Option<u64>,
}

/// Load averages in hundredths: 125 is a load of 1.25.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Over 1 minute.
    pub one: u32,
    /// Over 5 minutes.
    pub five: u32,
    /// Over 15 minutes.
    pub fifteen: u32,
}

/// Memory and swap in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// `MemTotal`.
    pub total_bytes: u64,
    /// `MemAvailable`: what a new process could get without swapping.
    pub available_bytes: u64,
    /// `SwapTotal`; 0 without swap.
    pub swap_total_bytes: u64,
    /// `SwapFree`.
    pub swap_free_bytes: u64,
}

/// One file system in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The configured path, as configured.
    pub mount: String,
    /// `f_blocks` × `f_frsize`.
    pub total_bytes: u64,
    /// `f_bavail` × `f_frsize`: what an unprivileged process may still write.
    pub free_bytes: u64,
}

/// Traffic of the host's network cards, so that what a tunnel carries counts once. A host without
/// one (a container) counts all interfaces but the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Bytes received since boot.
    pub rx_bytes: u64,
    /// Bytes sent since boot.
    pub tx_bytes: u64,
    /// Bytes a second received since the sample before. Absent in the first sample and after a
    /// counter went back (an interface went away).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_bytes_per_s: Option<u64>,
    /// Bytes a second sent, like `rx_bytes_per_s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_bytes_per_s: Option<u64>,
}

/// Open file handles of the whole host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFiles {
    /// Allocated handles.
    pub allocated: u64,
    /// The kernel's limit (`fs.file-max`).
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_does_not_have_is_not_on_the_wire() {
        assert_eq!(
            serde_json::to_string(&SystemMetrics::default()).unwrap(),
            "{}"
        );
        let parsed: SystemMetrics = serde_json::from_str("{}").unwrap();
        assert_eq!(parsed, SystemMetrics::default());
    }

    #[test]
    fn a_later_agent_may_say_more() {
        let parsed: SystemMetrics =
            serde_json::from_str(r#"{"cpu_permille":7,"pressure":{"some":1}}"#).unwrap();
        assert_eq!(parsed.cpu_permille, Some(7));
    }
}
