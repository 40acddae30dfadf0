//! What the tests of both sides share: a controller, a host with both programs, a WireGuard
//! daemon that says what a test tells it, and a proxy that reads along.

#![expect(
    clippy::disallowed_methods,
    reason = "real programs are waited for by a real clock"
)]

pub(crate) mod controller;
pub(crate) mod host;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod secrets;
pub(crate) mod wireguard;

use std::path::Path;
use std::time::{Duration, Instant};

/// Waits until `found` gives something; the longest any of these waits may take, on a machine
/// that compiles beside the test, is a minute.
pub(crate) fn wait_for<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    wait_at_most(Duration::from_secs(60), what, found)
}

/// The same, for what is known to take longer.
pub(crate) fn wait_at_most<T>(
    longest: Duration,
    what: &str,
    mut found: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + longest;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How often a promise about time is measured, at most.
const TRIES: usize = 4;

/// Plays until it takes less than `promised`, and gives what came of that: a busy machine is late now
/// and then, a product that breaks its promise each time.
pub(crate) fn in_time<T>(promised: Duration, mut play: impl FnMut() -> (T, Duration)) -> T {
    let mut late = Vec::new();
    while late.len() < TRIES {
        let (value, took) = play();
        if took < promised {
            return value;
        }
        late.push(took);
    }
    panic!("{promised:?} are promised, and it took {late:?}");
}

/// The file as text, whatever is in it.
pub(crate) fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}
