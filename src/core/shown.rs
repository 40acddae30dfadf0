//! How a name from outside is shown to a person.
//!
//! Names of peers, files, servers and errors are opaque bytes that somebody else chose. Shown raw
//! they could move the cursor, hide text or forge a log line, so everything that is not plainly
//! printable is written as an escape, and endless text ends in an ellipsis.

use std::fmt::{self, Write as _};
use std::path::Path;

use vpn_node_protocol::encoding::char_for_terminals;

/// Characters shown before the ellipsis: a few terminal lines, enough for any honest path or URL.
pub const MAX_SHOWN_CHARS: usize = 1024;

/// Opaque bytes, displayed on one line with every control, invisible and invalid byte escaped.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(&'a [u8]);

/// Wraps bytes or text from outside for display.
#[must_use]
pub fn shown<T: AsRef<[u8]> + ?Sized>(bytes: &T) -> Shown<'_> {
    Shown(bytes.as_ref())
}

/// Wraps a path for display: file names are bytes too, and may hold a line feed.
#[must_use]
pub fn shown_path(path: &Path) -> Shown<'_> {
    Shown(path.as_os_str().as_encoded_bytes())
}

/// A duration as people read it: `12 s`, `3 min 12 s`, `5 h 3 min`, `12 d 4 h`.
#[must_use]
pub fn shown_seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = MAX_SHOWN_CHARS;
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if left == 0 {
                    return f.write_str("…");
                }
                left -= 1;
                for shown in char_for_terminals(character) {
                    f.write_char(shown)?;
                }
            }
            for byte in chunk.invalid() {
                if left == 0 {
                    return f.write_str("…");
                }
                left -= 1;
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_and_direction_characters_are_escaped() {
        assert_eq!(shown("wg0").to_string(), "wg0");
        assert_eq!(shown("a\nb\x1b[2J").to_string(), "a\\nb\\u{1b}[2J");
        assert_eq!(shown("\u{202e}txt").to_string(), "\\u{202e}txt");
        assert_eq!(shown(b"\xff\0").to_string(), "\\xff\\0");
        assert_eq!(shown("it's \"fine\"").to_string(), "it's \"fine\"");
    }

    #[test]
    fn durations_are_short() {
        let durations = [0, 59, 60, 192, 3599, 3600, 86_399, 86_400, u64::MAX];
        let texts: Vec<_> = durations.into_iter().map(shown_seconds).collect();
        assert_eq!(
            texts,
            [
                "0 s",
                "59 s",
                "1 min 0 s",
                "3 min 12 s",
                "59 min 59 s",
                "1 h 0 min",
                "23 h 59 min",
                "1 d 0 h",
                "213503982334601 d 7 h"
            ]
        );
    }

    #[test]
    fn endless_text_ends() {
        let long = shown(&"x".repeat(100_000)).to_string();
        assert_eq!(long.chars().count(), MAX_SHOWN_CHARS + 1);
    }

    proptest! {
        #[test]
        fn never_a_control_character(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = shown(&bytes).to_string();
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
