//! How much waits for the disk thread, so that the readers of VPN daemons wait and not the loop.
//!
//! Each recording holds all live sessions. On a host with very many, or while a daemon floods the
//! agent with beginnings and ends, those that wait would take all memory, and heartbeats would wait
//! behind them.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::core::agent::Recording;

/// Sessions and records that wait before no further words of the readers are listened to: some
/// 30 MB. A recording that is larger by itself waits alone.
const MAX_ENTRIES: usize = 100_000;

/// A record counts for so many sessions: it is sealed, which takes a tenth of a millisecond, and the
/// lane of the next heartbeat waits for it.
const RECORD: usize = 16;

/// Counts what was handed to the disk thread and not taken by it yet.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Load {
    entries: AtomicUsize,
    room: Notify,
}

impl Load {
    /// A recording waits from now on.
    pub(super) fn add(&self, recording: &Recording) {
        self.entries.fetch_add(entries(recording), Ordering::SeqCst);
    }

    /// The disk thread has taken it.
    pub(super) fn taken(&self, recording: &Recording) {
        self.entries.fetch_sub(entries(recording), Ordering::SeqCst);
        self.room.notify_one();
    }

    /// Whether the readers may tell more.
    pub(in crate::daemon) fn has_room(&self) -> bool {
        self.entries.load(Ordering::SeqCst) < MAX_ENTRIES
    }

    /// Waits until something was taken, maybe a moment ago.
    pub(in crate::daemon) async fn changed(&self) {
        self.room.notified().await;
    }
}

fn entries(recording: &Recording) -> usize {
    recording.sessions.len() + RECORD * recording.records.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vpn_node_protocol::encoding::Hex;

    use super::super::DiskCommand;
    use super::super::tests::{enrolment, start, thread};
    use super::*;
    use crate::core::lane::LaneState;
    use crate::host::state::StateDir;

    #[test]
    fn a_disk_that_is_behind_takes_no_more_until_it_has_taken_something() {
        let load = Load::default();
        let mut large = start(1);
        large.records = vec![large.records[0].clone(); MAX_ENTRIES / RECORD - 1];
        load.add(&large);
        assert!(load.has_room());
        load.add(&start(2));
        load.add(&start(3));
        assert!(!load.has_room());
        load.taken(&large);
        assert!(load.has_room());
        // It was taken before anybody waited for that.
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(load.changed());
    }

    #[test]
    fn whatever_the_thread_takes_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path());
        let enrolment = enrolment();
        let key = enrolment.identity_key;
        let lane = LaneState::enrolled(&enrolment.server_id, 1, key, Hex([0; 32]), 0);
        state.create_lane(&lane).unwrap();
        let (_, lane_file) = state.lane(&enrolment).unwrap();
        let disk = thread(folder.path()).spawn(lane_file);
        let load: Arc<Load> = disk.load();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            for id in 1..10 {
                disk.tell(DiskCommand::Record(Box::new(start(id)))).await;
            }
            disk.finish().await;
        });
        assert_eq!(load.entries.load(Ordering::SeqCst), 0);
    }
}
