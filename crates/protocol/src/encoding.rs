//! Bytes in JSON: fixed-size values as lower-case hex, everything else as base64 (RFC 4648).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// `N` bytes that are written as `2 * N` lower-case hex digits, in JSON and for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A SHA-256 digest (FIPS 180-4) or a chain value made of them.
pub type Digest = Hex<32>;

/// A random value that its maker uses once.
pub type Nonce = Hex<32>;

/// Why a text is not the hex form of a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected {expected} lower-case hex digits")]
pub struct HexError {
    expected: usize,
}

impl Hex<32> {
    /// SHA-256 over the parts, one after the other. Callers whose parts vary in length put the
    /// length before each (see [`length_prefixed`]).
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        let bad = HexError { expected: 2 * N };
        let digits = text.as_bytes();
        if digits.len() != 2 * N {
            return Err(bad);
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => return Err(bad),
            }
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Bytes of any length, in JSON as standard base64 with padding.
/// Reading accepts the URL-safe alphabet too, as DSSE asks of verifiers.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Base64(pub Vec<u8>);

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        STANDARD
            .decode(text.as_bytes())
            .or_else(|_| URL_SAFE.decode(text.as_bytes()))
            .map(Self)
            .map_err(|_| serde::de::Error::custom("expected base64 with padding"))
    }
}

/// URL-safe base64 without padding, for the token.
#[must_use]
pub fn to_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of an URL-safe base64 text without padding; `None` when it is not one, with nothing
/// of it left in memory: it may be most of a secret.
#[must_use]
pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    // Its full size from the start: a buffer that grows leaves copies behind.
    let mut bytes = zeroize::Zeroizing::new(vec![0; text.len()]);
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(std::mem::take(&mut *bytes))
}

/// Each part behind its length as a big-endian u32, so that no two lists of parts give the
/// same bytes.
#[must_use]
pub fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum());
    for part in parts {
        let length = u32::try_from(part.len()).expect("parts are bounded far below 4 GiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// A character of a text from outside as a terminal may show it: what steers a terminal or is not
/// seen becomes an escape. Quotes, which Rust would escape too, are harmless there and stay.
pub fn char_for_terminals(c: char) -> impl Iterator<Item = char> {
    let plain = matches!(c, '\'' | '"').then_some(c);
    let escaped = plain.is_none().then(|| c.escape_debug());
    plain.into_iter().chain(escaped.into_iter().flatten())
}

/// The same JSON, safe for a terminal too: what serde_json leaves as it is, but no terminal shows
/// (C1 controls, direction marks and the like, which stand in strings only), becomes a `\u` escape.
#[must_use]
pub fn json_for_terminals(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        let shown = c.is_ascii() && c != '\u{7f}' || c.escape_debug().len() == 1;
        if shown {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_reads_back_what_it_wrote_and_nothing_else() {
        let value = Hex([0x00, 0x7f, 0xff]);
        assert_eq!(value.to_string(), "007fff");
        assert_eq!("007fff".parse(), Ok(value));
        for bad in ["007ff", "007FFF", "007fff0", "00 7ff", "0x7fff"] {
            assert_eq!(
                bad.parse::<Hex<3>>(),
                Err(HexError { expected: 6 }),
                "{bad}"
            );
        }
    }

    #[test]
    fn base64_accepts_both_alphabets_as_dsse_asks() {
        let standard: Base64 = serde_json::from_str("\"+/8=\"").unwrap();
        let url_safe: Base64 = serde_json::from_str("\"-_8=\"").unwrap();
        assert_eq!(standard, url_safe);
        assert!(serde_json::from_str::<Base64>("\"+/8\"").is_err());
    }

    #[test]
    fn length_prefixes_keep_lists_apart() {
        assert_ne!(
            length_prefixed(&[b"ab", b"c"]),
            length_prefixed(&[b"a", b"bc"])
        );
    }

    #[test]
    fn only_what_is_seen_and_steers_nothing_is_shown_as_it_is() {
        for (c, shown) in [
            ('ü', "ü"),
            ('"', "\""),
            ('\'', "'"),
            ('\\', "\\\\"),
            ('\n', "\\n"),
            ('\u{1b}', "\\u{1b}"),
            ('\u{9b}', "\\u{9b}"),
            ('\u{202e}', "\\u{202e}"),
            ('\u{301}', "\\u{301}"),
        ] {
            assert_eq!(char_for_terminals(c).collect::<String>(), shown);
        }
    }

    #[test]
    fn json_means_the_same_and_holds_nothing_that_steers_a_terminal() {
        let hostile = "büro\u{9b}2J\u{202e}x\u{7f}\u{e0001}\u{1b}\n\"";
        let json = serde_json::to_string_pretty(&[hostile]).unwrap();
        let plain = json_for_terminals(&json);
        assert!(plain.contains("büro\\u009b2J\\u202ex\\u007f"), "{plain}");
        assert!(
            !plain
                .chars()
                .any(|c| c != '\n' && c.escape_debug().len() > 2)
        );
        let back: Vec<String> = serde_json::from_str(&plain).unwrap();
        assert_eq!(back, [hostile]);
    }
}
