//! System metrics of the host, for heartbeats.
//!
//! [`Sampler`] opens the few files of `/proc` and `/sys` once and reads them again with pread(2)
//! into one buffer: no allocation and no path walk a sample. What the host does not show (a
//! container, `ProcSubset=pid`) is absent in the sample, never an error.

mod kept;
mod network;
mod parse;
mod temperature;

use std::path::Path;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::{SysconfVar, sysconf};
use vpn_node_protocol::metrics::{Disk, MAX_DISKS, SystemMetrics};

use crate::core::Now;
use kept::Kept;
use network::NetworkReader;
use parse::CpuTimes;

/// The first line of `/proc/stat` is all that is needed: "cpu" and ten numbers of 20 digits.
const MAX_STAT: usize = 512;
/// `/proc/meminfo` has about 60 lines of 28 bytes, more on kernels to come.
const MAX_MEMINFO: usize = 8 * 1024;
/// The other files are one short line.
const MAX_LINE: usize = 256;

/// Takes samples of the host. Owns its open files; one thread uses it.
#[derive(Debug)]
pub struct Sampler {
    stat: Kept,
    loadavg: Kept,
    meminfo: Kept,
    file_nr: Kept,
    uptime: Kept,
    statm: Kept,
    temperature: Kept,
    network: NetworkReader,
    disks: Vec<String>,
    page_bytes: u64,
    buffer: Vec<u8>,
    last_cpu: Option<CpuTimes>,
}

impl Sampler {
    /// Opens what there is under `proc_root` (`/proc`) and `sys_root` (`/sys`). `disks` are paths
    /// of file systems to report; those beyond [`MAX_DISKS`] are left out.
    #[must_use]
    pub fn open(proc_root: &Path, sys_root: &Path, disks: &[String]) -> Self {
        Self {
            stat: Kept::open(&proc_root.join("stat")),
            loadavg: Kept::open(&proc_root.join("loadavg")),
            meminfo: Kept::open(&proc_root.join("meminfo")),
            file_nr: Kept::open(&proc_root.join("sys/fs/file-nr")),
            uptime: Kept::open(&proc_root.join("uptime")),
            statm: Kept::open(&proc_root.join("self/statm")),
            temperature: temperature::open(sys_root),
            network: NetworkReader::open(proc_root, sys_root),
            disks: disks.iter().take(MAX_DISKS).cloned().collect(),
            page_bytes: page_bytes(),
            buffer: Vec::with_capacity(MAX_MEMINFO),
            last_cpu: None,
        }
    }

    /// Reports these file systems from now on, as in [`Sampler::open`].
    pub fn set_disks(&mut self, disks: &[String]) {
        self.disks = disks.iter().take(MAX_DISKS).cloned().collect();
    }

    /// Takes one sample. Rates are over the time since the sample before.
    ///
    /// Blocks only if a configured file system does (a dead network mount).
    pub fn sample(&mut self, now: Now) -> SystemMetrics {
        let buffer = &mut self.buffer;
        let cpu = self.stat.read(buffer, MAX_STAT).and_then(parse::stat);
        let load = self.loadavg.read(buffer, MAX_LINE).and_then(parse::loadavg);
        let memory = self
            .meminfo
            .read(buffer, MAX_MEMINFO)
            .and_then(parse::meminfo);
        let open_files = self.file_nr.read(buffer, MAX_LINE).and_then(parse::file_nr);
        let uptime_s = self.uptime.read(buffer, MAX_LINE).and_then(parse::uptime);
        let pages = self.statm.read(buffer, MAX_LINE).and_then(parse::statm);
        let temperature_millidegrees = self
            .temperature
            .read(buffer, MAX_LINE)
            .and_then(parse::temperature);
        let network = self.network.read(buffer, now.boot);
        let cpu_permille = permille(self.last_cpu, cpu);
        self.last_cpu = cpu;
        SystemMetrics {
            cpu_permille,
            load,
            memory,
            disks: self.disks.iter().filter_map(|path| disk(path)).collect(),
            network,
            open_files,
            temperature_millidegrees,
            uptime_s,
            agent_rss_bytes: pages.map(|pages| pages.saturating_mul(self.page_bytes)),
        }
    }
}

/// Busy share of the time between two readings. Counters of `/proc/stat` may go back a little
/// (iowait does, proc_stat(5)), hence the saturation.
fn permille(before: Option<CpuTimes>, after: Option<CpuTimes>) -> Option<u16> {
    let (before, after) = (before?, after?);
    let busy = u128::from(after.busy.saturating_sub(before.busy));
    let idle = u128::from(after.idle.saturating_sub(before.idle));
    u16::try_from((busy * 1000).checked_div(busy + idle)?).ok()
}

/// Units a second, if the counter went forward and time did too.
fn rate(before: u64, after: u64, elapsed: Duration) -> Option<u64> {
    let delta = u128::from(after.checked_sub(before)?);
    u64::try_from((delta * 1000).checked_div(elapsed.as_millis())?).ok()
}

fn disk(mount: &str) -> Option<Disk> {
    let stat = statvfs(mount).ok()?;
    Some(Disk {
        mount: mount.to_owned(),
        total_bytes: stat.blocks().saturating_mul(stat.fragment_size()),
        free_bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
    })
}

fn page_bytes() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

#[cfg(test)]
mod tests;
