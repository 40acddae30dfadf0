//! What the kernel says about a process: memory and CPU time, from /proc (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Resident memory, in KiB. PSS counts a page shared by n processes as 1/n.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Memory {
    pub(crate) rss_kib: u64,
    pub(crate) pss_kib: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Self::parse(&read(pid, "smaps_rollup")?)
            .with_context(|| format!("/proc/{pid}/smaps_rollup has no Rss and Pss"))
    }

    fn parse(text: &str) -> Option<Self> {
        let kib = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        };
        Some(Self {
            rss_kib: kib("Rss:")?,
            pss_kib: kib("Pss:")?,
        })
    }
}

/// CPU time of a process since its start, user and system, all threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cpu {
    /// utime + stime of /proc/PID/stat: complete, in steps of 10 ms.
    coarse: Duration,
    /// The scheduler's nanoseconds, summed over living threads; zero where the kernel has none.
    fine: Duration,
}

impl Cpu {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let coarse = Self::coarse(&read(pid, "stat")?)
            .with_context(|| format!("/proc/{pid}/stat has no times"))?;
        Ok(Self {
            coarse,
            fine: Self::fine(pid).unwrap_or_default(),
        })
    }

    /// The time spent since `earlier`: by the scheduler's nanoseconds where there are any. The
    /// coarse times are two numbers that are each rounded down to 10 ms, so a difference of them
    /// is off by up to 20 ms either way: too much for a program that spends 20 ms a minute. (The
    /// fine sum forgets threads that end; neither program ends any in the window, and a sum that
    /// went back shows it.)
    pub(crate) fn since(self, earlier: Self) -> Duration {
        match self.fine.checked_sub(earlier.fine) {
            Some(fine) if !fine.is_zero() => fine,
            _ => self.coarse.saturating_sub(earlier.coarse),
        }
    }

    fn coarse(stat: &str) -> Option<Duration> {
        // Fields 14 and 15, counted from the end of field 2, which may hold spaces. USER_HZ is
        // 100 on every Linux architecture that we build for.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis((user + system) * 10))
    }

    fn fine(pid: u32) -> Option<Duration> {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let times = threads.flatten().filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ')
                .next()?
                .parse()
                .ok()
                .map(Duration::from_nanos)
        });
        Some(times.sum())
    }
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the program ended?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_rollup() {
        let text = "55-7f ---p 00000000 00:00 0 [rollup]\nRss:    5128 kB\nPss:    2311 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(
            Memory::parse(text),
            Some(Memory {
                rss_kib: 5128,
                pss_kib: 2311
            })
        );
        assert_eq!(Memory::parse("Rss: 5 kB"), None);
    }

    #[test]
    fn cpu_time_is_found_behind_any_program_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 1 0 0 0 12 30 0 0 20 0 1 0 99";
        assert_eq!(Cpu::coarse(stat), Some(Duration::from_millis(420)));
    }

    #[test]
    fn work_shows_in_the_cpu_time_of_this_process() {
        let before = Cpu::of(std::process::id()).unwrap();
        let work: u64 = (0..3_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        let spent = Cpu::of(std::process::id()).unwrap().since(before);
        assert!(spent > Duration::ZERO, "{work}");
        assert!(Memory::of(std::process::id()).unwrap().rss_kib > 0);
    }
}
