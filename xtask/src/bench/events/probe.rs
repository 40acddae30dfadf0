//! The disk's own measure while the agent works: a write of 4 KiB, which is what the kernel writes
//! for a record, and fdatasync(2), again and again, on the same file system.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// Between two writes.
const PACE: Duration = Duration::from_millis(40);
const PAGE: usize = 4096;
const PAGES: u64 = 256;

/// See the module's page. Dropping it stops it.
pub(super) struct Probe {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Vec<u64>>>>,
}

impl Probe {
    /// Writes to a new file in `folder`, into space that is written already, as the ledger's is.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let path = folder.join("measure");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).write(true).open(&path);
        let file = file
            .and_then(|file| {
                file.write_all_at(&vec![1; PAGE * PAGES as usize], 0)?;
                file.sync_all().map(|()| file)
            })
            .with_context(|| format!("cannot write {}", path.display()))?;
        let over = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while !shared.load(Ordering::Acquire) {
                thread::sleep(PACE);
                times.push(once(&file, times.len() as u64)?);
            }
            Ok(times)
        });
        Ok(Self {
            over,
            thread: Some(thread),
        })
    }

    /// Microseconds that each took.
    pub(super) fn end(mut self) -> Result<Vec<u64>> {
        self.over.store(true, Ordering::Release);
        let thread = self.thread.take().context("the measure has ended before")?;
        let times = thread.join().map_err(|_| anyhow!("the measure failed"))?;
        times.context("the disk could not be measured")
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

fn once(file: &File, number: u64) -> io::Result<u64> {
    let begun = Instant::now();
    file.write_all_at(&[number as u8; PAGE], number % PAGES * PAGE as u64)?;
    file.sync_data()?;
    Ok(begun.elapsed().as_micros() as u64)
}
