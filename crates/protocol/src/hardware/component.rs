//! One component of a fingerprint, and the one rule which normalises what firmware reports.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::UNAVAILABLE;
use crate::encoding::Digest;

/// The longest normalised value in bytes. Serials have up to 40 and WWIDs up to about 120; what is
/// longer is replaced by its hash, so a hostile firmware cannot bloat messages or tables.
pub const MAX_COMPONENT_LEN: usize = 256;

/// The most parts that [`Component::join`] takes: SMBIOS components have three.
pub const MAX_JOIN_PARTS: usize = 8;

/// A component that a host has, or the explicit statement that it has none.
///
/// On the wire `{"value":"…"}` or `"unavailable"`. A value in any other form than the normalised
/// one is refused when parsed, so text from outside never carries a `|`, a line break or an escape
/// sequence into a hash, a log or a terminal.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Component(Option<String>);

/// Why a component that arrived is refused.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// Not in the form that [`Component::from_raw`] gives.
    #[error(
        "hardware component is not in normalised form ({0} bytes): the sender must trim, collapse \
         white space, percent-encode and drop placeholders as the protocol says"
    )]
    NotNormalised(usize),
}

impl Component {
    /// The host does not have it, or does not let us read it.
    pub const UNAVAILABLE: Self = Self(None);

    /// Normalises what firmware or the kernel reported:
    ///
    /// 1. white space and NUL at both ends are dropped, runs of white space become one space
    ///    (white space: 0x09–0x0D and 0x20);
    /// 2. nothing left, or a placeholder of a vendor: unavailable;
    /// 3. bytes outside 0x20–0x7E, `|` and `%` become `%XX` (uppercase hex);
    /// 4. a result over [`MAX_COMPONENT_LEN`] becomes `sha256:` and the hex SHA-256 of it.
    #[must_use]
    pub fn from_raw(raw: &[u8]) -> Self {
        let text = collapse(raw);
        if is_placeholder(&text) {
            return Self::UNAVAILABLE;
        }
        Self::bounded(encode(&text))
    }

    /// Normalises a system UUID to lowercase with hyphens. What is not a UUID, and UUIDs that
    /// vendors ship in every machine, are unavailable.
    #[must_use]
    pub fn from_raw_uuid(raw: &[u8]) -> Self {
        match Uuid::try_parse_ascii(&collapse(raw)) {
            Ok(uuid) if !is_bogus_uuid(uuid) => Self(Some(uuid.hyphenated().to_string())),
            _ => Self::UNAVAILABLE,
        }
    }

    /// One component out of several parts, joined by `;` with `-` for an unavailable part.
    /// Unavailable if all parts are. Takes the first [`MAX_JOIN_PARTS`].
    #[must_use]
    pub fn join(parts: &[Self]) -> Self {
        let parts = &parts[..parts.len().min(MAX_JOIN_PARTS)];
        if parts.iter().all(|part| !part.is_available()) {
            return Self::UNAVAILABLE;
        }
        let texts: Vec<&str> = parts.iter().map(|p| p.value().unwrap_or("-")).collect();
        Self::bounded(texts.join(";"))
    }

    /// The normalised value, if the host has one.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether the host has it.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.0.is_some()
    }

    fn bounded(encoded: String) -> Self {
        if encoded.len() > MAX_COMPONENT_LEN {
            Self(Some(format!(
                "sha256:{}",
                Digest::of(&[encoded.as_bytes()])
            )))
        } else {
            Self(Some(encoded))
        }
    }

    /// Accepts a value only if decoding and normalising it gives the very same text again.
    fn from_normalised(value: String) -> Result<Self, ComponentError> {
        let refused = ComponentError::NotNormalised(value.len());
        if value.len() > MAX_COMPONENT_LEN {
            return Err(refused);
        }
        let Some(raw) = decode(value.as_bytes()) else {
            return Err(refused);
        };
        let component = Self::from_raw(&raw);
        if component.value() == Some(value.as_str()) {
            Ok(component)
        } else {
            Err(refused)
        }
    }
}

/// Shows no serial number: a fingerprint may end up in a debug log.
impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => write!(f, "Component({} bytes)", value.len()),
            None => f.write_str("Component(unavailable)"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", rename = "Component")]
enum Wire<'a> {
    Value(std::borrow::Cow<'a, str>),
    Unavailable,
}

impl Serialize for Component {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value() {
            Some(value) => Wire::Value(value.into()),
            None => Wire::Unavailable,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Wire::deserialize(deserializer)? {
            Wire::Value(value) => {
                Self::from_normalised(value.into_owned()).map_err(serde::de::Error::custom)
            }
            Wire::Unavailable => Ok(Self::UNAVAILABLE),
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, 0x09..=0x0D | b' ')
}

/// Step 1.
fn collapse(raw: &[u8]) -> Vec<u8> {
    let padding = |byte: &u8| is_space(*byte) || *byte == 0;
    let start = raw.iter().position(|b| !padding(b)).unwrap_or(raw.len());
    let end = raw
        .iter()
        .rposition(|b| !padding(b))
        .map_or(start, |i| i + 1);
    let mut text = Vec::with_capacity(end - start);
    for &byte in &raw[start..end] {
        if !is_space(byte) {
            text.push(byte);
        } else if text.last() != Some(&b' ') {
            text.push(b' ');
        }
    }
    text
}

/// Step 3: bytes that would be ambiguous in the hashed text, a log line or a terminal.
fn needs_escape(byte: u8) -> bool {
    !matches!(byte, 0x20..=0x7E) || matches!(byte, b'|' | b'%')
}

fn encode(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        if needs_escape(byte) {
            encoded.push_str(&format!("%{byte:02X}"));
        } else {
            encoded.push(char::from(byte));
        }
    }
    encoded
}

fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            text.push(byte);
            continue;
        }
        let digits = [*rest.next()?, *rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        // from_str_radix also takes a sign; the comparison in from_normalised refuses that form.
        text.push(u8::from_str_radix(digits, 16).ok()?);
    }
    Some(text)
}

/// What vendors leave in SMBIOS tables and disk serials that nobody filled in, lowercase and
/// without a final full stop.
const PLACEHOLDERS: [&str; 33] = [
    "0123456789",
    "012345678901234567",
    "1234567890",
    "123456789",
    "12345678",
    "base board serial number",
    "board serial number",
    "chassis serial number",
    "default",
    "default string",
    "empty",
    "invalid",
    "n/a",
    "na",
    "no serial number",
    "none",
    "not applicable",
    "not available",
    "not defined",
    "not present",
    "not specified",
    "null",
    // Every disk of Google's cloud that is attached as NVMe.
    "nvme_card",
    "nvme_card-pd",
    "o.e.m",
    "oem",
    "serial number",
    "system manufacturer",
    "system product name",
    "system serial number",
    "to be filled by o.e.m",
    "unknown",
    UNAVAILABLE,
];

/// Step 2: says nothing about this machine.
fn is_placeholder(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_suffix(b".").unwrap_or(&lower);
    PLACEHOLDERS.iter().any(|known| known.as_bytes() == bare) || is_filler(&lower) || is_slot(text)
}

/// Nothing but separators, or one filler character over and over ("0", "00000000", "FF-FF", "xxx").
fn is_filler(lower: &[u8]) -> bool {
    let mut letters = lower.iter().filter(|b| !b" -_.:,/".contains(b));
    match letters.next() {
        None => true,
        Some(first) => b"0fx#*?".contains(first) && letters.all(|byte| byte == first),
    }
}

/// Disk serials and identifiers that name the slot, the same in every virtual machine: `QM00001`
/// and `drive-scsi0` of QEMU, `persistent-disk-0` of Google's cloud, `SN: 000001` of Azure's.
fn is_slot(text: &[u8]) -> bool {
    let last_word = text.rsplit(|byte| *byte == b' ').next().unwrap_or(text);
    let number = |after: Option<&[u8]>, digits: std::ops::RangeInclusive<usize>| {
        after.is_some_and(|n| digits.contains(&n.len()) && n.iter().all(u8::is_ascii_digit))
    };
    number(last_word.strip_prefix(b"QM"), 5..=5)
        || number(last_word.strip_prefix(b"persistent-disk-"), 1..=4)
        || number(text.strip_prefix(b"SN: "), 6..=6)
        || last_word.starts_with(b"drive-")
}

/// UUIDs that are shipped in many machines. Nil and all-F are "not set" in SMBIOS.
fn is_bogus_uuid(uuid: Uuid) -> bool {
    const SHARED: [u128; 7] = [
        0x03000200_0400_0500_0006_000700080009, // American Megatrends default
        0x00020003_0004_0005_0006_000700080009, // the same in the other byte order
        0x12345678_1234_5678_90ab_cddeefaabbcc,
        0x12345678_1234_1234_1234_123456789abc,
        0x4c4c4544_0000_2010_8020_80c04f202020, // Dell, made of a service tag that is blank
        0x4c4c4544_0020_2010_8020_a0c04f202020, // the same
        0xfefefefe_fefe_fefe_fefe_fefefefefefe,
    ];
    uuid.is_nil() || uuid.is_max() || SHARED.contains(&uuid.as_u128())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn debug_shows_no_serial() {
        let shown = format!("{:?}", Component::from_raw(b"S3CR3T"));
        assert_eq!(shown, "Component(6 bytes)");
    }

    #[test]
    fn what_is_not_normalised_is_refused() {
        for value in [
            "",
            " ",
            "a  b",
            "a ",
            "a|b",
            "a\nb",
            "a\u{1b}[31m",
            "caf\u{e9}",
            "50%",
            "a%7c",
            "a%41",
            "%+1",
            "None",
            "unavailable",
            "QM00001",
            "drive-scsi0",
            "nvme_card-pd",
            "0",
        ] {
            let json = serde_json::json!({ "value": value });
            assert!(
                serde_json::from_value::<Component>(json).is_err(),
                "{value:?} was accepted"
            );
        }
        let long = serde_json::json!({ "value": "a".repeat(MAX_COMPONENT_LEN + 1) });
        assert!(serde_json::from_value::<Component>(long).is_err());
    }

    #[test]
    fn a_joined_component_keeps_the_place_of_what_is_absent() {
        let part = |raw: &str| Component::from_raw(raw.as_bytes());
        let joined = Component::join(&[part("Dell Inc."), part("R640"), part("None")]);
        assert_eq!(joined.value(), Some("Dell Inc.;R640;-"));
        assert_eq!(Component::join(&[part("None")]), Component::UNAVAILABLE);
    }

    proptest! {
        #[test]
        fn every_input_gives_a_value_that_is_accepted(raw in prop::collection::vec(any::<u8>(), 0..600)) {
            let component = Component::from_raw(&raw);
            if let Some(value) = component.value() {
                prop_assert!(!value.is_empty() && value.len() <= MAX_COMPONENT_LEN);
                prop_assert!(value.bytes().all(|b| (0x20..=0x7E).contains(&b) && b != b'|'));
            }
            let json = serde_json::to_string(&component).unwrap();
            prop_assert_eq!(serde_json::from_str::<Component>(&json).unwrap(), component);
        }

        #[test]
        fn joined_values_are_accepted(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)) {
            let parts: Vec<Component> = parts.iter().map(|raw| Component::from_raw(raw)).collect();
            let component = Component::join(&parts);
            let json = serde_json::to_string(&component).unwrap();
            prop_assert_eq!(serde_json::from_str::<Component>(&json).unwrap(), component);
        }

        #[test]
        fn padding_never_matters(serial in "[A-Z0-9]{6,20}", before in "[ \t\n]{0,5}", after in "[ \n\0]{0,5}") {
            let padded = Component::from_raw(format!("{before}{serial}{after}").as_bytes());
            prop_assert_eq!(padded, Component::from_raw(serial.as_bytes()));
        }

        #[test]
        fn arbitrary_text_parses_or_is_refused_without_a_panic(value in any::<String>()) {
            let json = serde_json::json!({ "value": value });
            if let Ok(component) = serde_json::from_value::<Component>(json) {
                prop_assert_eq!(component.value(), Some(value.as_str()));
            }
        }
    }
}
