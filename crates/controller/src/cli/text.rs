//! What an operator writes down for others: why a host was revoked, how an event was dealt with.

use vpn_node_protocol::limits::{MAX_TEXT_BYTES, is_short_text};

/// A text that says something, fits an event, and harms no terminal; without space around it.
pub(super) fn short_text(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it says nothing".to_owned());
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(format!("it is longer than {MAX_TEXT_BYTES} bytes"));
    }
    if !is_short_text(text) {
        return Err("it holds control characters, such as a line break".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_short_and_says_something() {
        assert_eq!(
            short_text(" found it: büro"),
            Ok("found it: büro".to_owned())
        );
        for bad in ["", "  ", "a\nb", "a\u{1b}[2J", "x".repeat(256).as_str()] {
            assert!(short_text(bad).is_err(), "{bad:?}");
        }
    }
}
