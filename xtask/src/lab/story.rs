//! What is told to the person in front of the screen, with the time since its beginning.

use std::time::{Duration, Instant};

use crate::shell;

/// See the module's page.
pub(crate) struct Story {
    start: Instant,
}

impl Story {
    pub(crate) fn begin() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn say(&self, sentence: &str) {
        anstream::println!("{:5.1} s  {sentence}", self.start.elapsed().as_secs_f64());
    }

    pub(crate) fn quote(&self, text: &str) {
        anstream::print!("{}", shell::indent(text));
    }
}
