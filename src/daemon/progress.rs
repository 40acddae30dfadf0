//! Which parts of the agent have work under way, and since when: what the watchdog is fed by.
//!
//! A part that waits for something to do has no work. One that works says so with a [`Work`], which
//! ends when it is dropped; what consists of many steps says [`Progress::step`] with each of them.
//! Time is that of `CLOCK_MONOTONIC`: a suspended host is not a stuck one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::host::clock;

/// What can hang, in the order in which it is blamed: the loop may wait for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The thread that writes state and ledger.
    Disk,
    /// A request to the controller.
    Exchange,
    /// The event loop.
    Loop,
}

impl Part {
    /// Its stable word in the journal (`PART=`).
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Exchange => "exchange",
            Self::Loop => "loop",
        }
    }
}

/// How long one piece of work may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// One call of the kernel for state or ledger, or a few small ones.
    pub(super) disk: Duration,
    /// One request.
    pub(super) exchange: Duration,
    /// From one turn of the loop to the next.
    pub(super) event_loop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The kernel itself calls a task hung that waits this long for a disk
            // (kernel.hung_task_timeout_secs); an fdatasync(2) of a busy hard disk takes seconds.
            disk: Duration::from_secs(120),
            // The client ends a request after 70 s at most (20 s, and 50 s that the controller may
            // hold it): one that is under way after twice that will never end.
            exchange: Duration::from_secs(150),
            // A turn takes milliseconds and begins every 5 s at least.
            event_loop: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The same for all parts.
    pub(super) const fn all(limit: Duration) -> Self {
        Self {
            disk: limit,
            exchange: limit,
            event_loop: limit,
        }
    }

    const fn of(&self, part: Part) -> Duration {
        match part {
            Part::Disk => self.disk,
            Part::Exchange => self.exchange,
            Part::Loop => self.event_loop,
        }
    }
}

/// A part that has had the same work under way for longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    pub(super) part: Part,
    pub(super) for_: Duration,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.for_.as_secs();
        match self.part {
            Part::Disk => write!(
                f,
                "the disk has not finished what it was told {seconds} s ago: look at 'journalctl -k' and at the storage below the state directory"
            ),
            Part::Exchange => write!(
                f,
                "a request to the controller has been under way for {seconds} s and ended by no time-out: this is a fault of the agent"
            ),
            Part::Loop => write!(
                f,
                "the event loop has stood still for {seconds} s: a mount point in [metrics] disks may hang, or this is a fault of the agent"
            ),
        }
    }
}

/// Shared by all parts and the watchdog.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    table: Arc<Mutex<Table>>,
    /// The watchdog wrote over the loop's status line, and has nothing more to say.
    overwritten: Arc<AtomicBool>,
}

impl Progress {
    /// `part` has work from now on, until the answer is dropped.
    pub(super) fn begin(&self, part: Part) -> Work {
        let id = self.table().begin(part, clock::monotonic());
        let progress = self.clone();
        Work { progress, id }
    }

    /// A step of the work of `part` is done, and the next one begins.
    pub(super) fn step(&self, part: Part) {
        self.table().step(part, clock::monotonic());
    }

    /// What has taken too long.
    pub(super) fn stuck(&self, limits: &Limits) -> Option<Stuck> {
        self.table().stuck(limits, clock::monotonic())
    }

    /// The watchdog's word in the status line is out of date.
    pub(super) fn give_status_line_back(&self) {
        self.overwritten.store(true, Ordering::Relaxed);
    }

    /// Whether the loop must say its status again.
    pub(super) fn is_status_line_lost(&self) -> bool {
        self.overwritten.swap(false, Ordering::Relaxed)
    }

    /// No panic happens while it is held, and if one did, numbers are all there is to break.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work under way.
#[derive(Debug)]
pub(super) struct Work {
    progress: Progress,
    id: u64,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.progress.table().end(self.id);
    }
}

/// Pure: all work under way, with the instant at which it, or its latest step, began.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    under_way: BTreeMap<u64, (Part, Duration)>,
}

impl Table {
    fn begin(&mut self, part: Part, now: Duration) -> u64 {
        self.next += 1;
        self.under_way.insert(self.next, (part, now));
        self.next
    }

    fn step(&mut self, part: Part, now: Duration) {
        for (of, since) in self.under_way.values_mut() {
            if *of == part {
                *since = now;
            }
        }
    }

    fn end(&mut self, id: u64) {
        self.under_way.remove(&id);
    }

    fn stuck(&self, limits: &Limits, now: Duration) -> Option<Stuck> {
        let all = self.under_way.values().map(|(part, since)| Stuck {
            part: *part,
            for_: now.saturating_sub(*since),
        });
        all.filter(|work| work.for_ > limits.of(work.part))
            .min_by_key(|work| (work.part, std::cmp::Reverse(work.for_)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        disk: Duration::from_secs(20),
        exchange: Duration::from_secs(30),
        event_loop: Duration::from_secs(10),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn work_that_lasts_is_named_and_work_that_ends_is_forgotten() {
        let mut table = Table::default();
        assert_eq!(table.stuck(&LIMITS, at(1_000_000)), None, "nothing to do");
        let first = table.begin(Part::Exchange, at(0));
        let second = table.begin(Part::Exchange, at(25));
        assert_eq!(table.stuck(&LIMITS, at(30)), None, "at its limit");
        let stuck = table.stuck(&LIMITS, at(31)).unwrap();
        assert_eq!((stuck.part, stuck.for_), (Part::Exchange, at(31)));
        table.end(first);
        assert_eq!(table.stuck(&LIMITS, at(31)), None);
        assert!(table.stuck(&LIMITS, at(56)).is_some());
        table.end(second);
        assert_eq!(table.stuck(&LIMITS, at(1_000_000)), None);
    }

    #[test]
    fn who_keeps_the_loop_waiting_is_blamed_and_not_the_loop() {
        let mut table = Table::default();
        table.begin(Part::Loop, at(0));
        table.begin(Part::Disk, at(0));
        let part = |now| table.stuck(&LIMITS, at(now)).map(|stuck| stuck.part);
        assert_eq!(part(11), Some(Part::Loop));
        assert_eq!(part(21), Some(Part::Disk));
    }

    #[test]
    fn many_slow_steps_are_not_stuck_and_one_without_end_is() {
        let mut table = Table::default();
        table.begin(Part::Disk, at(0));
        for step in 1..100 {
            table.step(Part::Disk, at(step * 20));
            table.step(Part::Loop, at(step * 20));
            assert_eq!(table.stuck(&LIMITS, at(step * 20 + 20)), None);
        }
        assert!(table.stuck(&LIMITS, at(99 * 20 + 21)).is_some());
    }

    #[test]
    fn the_limits_are_far_above_what_each_part_takes() {
        let limits = Limits::default();
        let longest = vpn_node_protocol::limits::MAX_POLL_WAIT_S;
        let request = crate::remote::ANSWER_TIMEOUT + at(u64::from(longest));
        assert!(limits.exchange >= request * 2);
        assert!(limits.event_loop >= at(5) * 3);
        for part in [Part::Disk, Part::Exchange, Part::Loop] {
            let said = Stuck { part, for_: at(7) }.to_string();
            assert!(said.contains("7 s"), "{said}");
        }
    }

    proptest! {
        /// Whatever begins, steps and ends: what is named is under way and over its limit, and
        /// when nothing is named, nothing is.
        #[test]
        fn exactly_what_is_over_its_limit_counts(
            acts in proptest::collection::vec((0..4u8, 0..3usize, 0..15u64), 0..60)
        ) {
            const PARTS: [Part; 3] = [Part::Disk, Part::Exchange, Part::Loop];
            let mut table = Table::default();
            let mut known: Vec<(u64, Part, u64)> = Vec::new();
            let mut now = 0;
            for (act, which, passes) in acts {
                now += passes;
                let part = PARTS[which];
                match act {
                    0 | 1 => known.push((table.begin(part, at(now)), part, now)),
                    2 => {
                        table.step(part, at(now));
                        known.iter_mut().filter(|w| w.1 == part).for_each(|w| w.2 = now);
                    }
                    _ => {
                        if let Some(place) = known.iter().position(|w| w.1 == part) {
                            table.end(known.remove(place).0);
                        }
                    }
                }
                let late = |part: Part| known.iter().filter(|w| w.1 == part)
                    .map(|w| at(now - w.2)).filter(|for_| *for_ > LIMITS.of(part)).max();
                let expected = PARTS.iter()
                    .find_map(|part| late(*part).map(|for_| Stuck { part: *part, for_ }));
                prop_assert_eq!(table.stuck(&LIMITS, at(now)), expected);
            }
        }
    }
}
