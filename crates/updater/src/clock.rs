//! The only place of the updater that asks for the time, waits, or asks which boot this is.
//!
//! Deadlines are kept by `CLOCK_BOOTTIME`: it neither jumps nor stands still in suspend. The wall
//! clock only stands in what people read; it may be 1970 or 2099 and decides nothing here.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since this boot, suspend included (`CLOCK_BOOTTIME`).
    pub boot: Duration,
    /// Milliseconds since the Unix epoch (`CLOCK_REALTIME`), right or wrong.
    pub wall_ms: i64,
}

/// The time, as a value that tests can turn.
pub trait Clock {
    /// Both clocks now.
    fn now(&self) -> Now;
    /// Waits; a test turns its clock instead.
    fn sleep(&self, time: Duration);
    /// The kernel's id of this boot: another one means that nothing of before is running.
    fn boot_id(&self) -> String;
}

/// The host's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now {
            boot: read(ClockId::CLOCK_BOOTTIME),
            wall_ms: i64::try_from(read(ClockId::CLOCK_REALTIME).as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// random(4), "/proc/sys/kernel/random/boot_id".
    fn boot_id(&self) -> String {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        // Without /proc no boot can be told from another: recovery then takes the careful way.
        id.map_or_else(|_| String::from("unknown"), |id| id.trim().to_owned())
    }
}

/// A new id for an attempt (random(4), "/proc/sys/kernel/random/uuid").
///
/// # Errors
/// When /proc is not there.
pub fn new_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?
        .trim()
        .to_owned())
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock)
        .expect("clock_gettime must be allowed (see the unit's SystemCallFilter=)");
    // Before 1970 there is no Duration; 0 is as wrong as such a clock.
    Duration::new(
        u64::try_from(time.tv_sec()).unwrap_or(0),
        u32::try_from(time.tv_nsec()).unwrap_or(0),
    )
}

#[cfg(test)]
pub mod fake {
    //! A clock that moves only when someone sleeps on it.

    use super::{Clock, Now};
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    /// See the module.
    #[derive(Debug)]
    pub struct FakeClock {
        /// What [`Clock::now`] gives.
        pub now: Cell<Now>,
        /// What [`Clock::boot_id`] gives.
        pub boot: RefCell<String>,
    }

    impl Default for FakeClock {
        fn default() -> Self {
            let now = Now {
                boot: Duration::from_secs(1000),
                wall_ms: 1_795_000_000_000,
            };
            Self {
                now: Cell::new(now),
                boot: RefCell::new("boot-1".into()),
            }
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> Now {
            self.now.get()
        }

        fn sleep(&self, time: Duration) {
            let now = self.now.get();
            self.now.set(Now {
                boot: now.boot + time,
                wall_ms: now.wall_ms + i64::try_from(time.as_millis()).unwrap(),
            });
        }

        fn boot_id(&self) -> String {
            self.boot.borrow().clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_both_times_one_boot_and_ever_new_ids() {
        let (first, later) = (SystemClock.now(), SystemClock.now());
        assert!(later.boot >= first.boot && first.wall_ms > 0);
        assert_eq!(SystemClock.boot_id(), SystemClock.boot_id());
        assert_eq!(SystemClock.boot_id().len(), 36);
        assert_ne!(new_id().unwrap(), new_id().unwrap());
    }
}
