//! Runs `vectors/hardware.json`, the test vectors that a second implementation must pass too.

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Vectors {
    normalise: Vec<Normalise>,
    normalise_uuid: Vec<Normalise>,
    hash: Vec<Hash>,
    compare: Vec<Compare>,
}

#[derive(Deserialize)]
struct Normalise {
    #[serde(default)]
    name: String,
    raw: Option<String>,
    raw_hex: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
struct Hash {
    components: Components,
    text: String,
    sha256: String,
}

#[derive(Deserialize)]
struct Compare {
    name: String,
    enrolled: Components,
    now: Components,
    verdict: Verdict,
    changed: Vec<Change>,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../vectors/hardware.json")).unwrap()
}

impl Normalise {
    fn raw(&self) -> Vec<u8> {
        match (&self.raw, &self.raw_hex) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(hex)) => (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
                .collect(),
            _ => panic!("{}: either raw or raw_hex", self.name),
        }
    }
}

#[test]
fn normalisation() {
    let vectors = vectors();
    for case in &vectors.normalise {
        let component = Component::from_raw(&case.raw());
        assert_eq!(component.value(), case.value.as_deref(), "{}", case.name);
    }
    for case in &vectors.normalise_uuid {
        let component = Component::from_raw_uuid(&case.raw());
        assert_eq!(component.value(), case.value.as_deref(), "{:?}", case.raw);
    }
}

#[test]
fn hashes() {
    for case in vectors().hash {
        assert_eq!(case.components.hashed_text(), case.text);
        assert_eq!(case.components.verification_hash().to_string(), case.sha256);
    }
}

#[test]
fn comparisons() {
    for case in vectors().compare {
        let outcome = compare(&case.enrolled, &case.now);
        assert_eq!(outcome.verdict, case.verdict, "{}", case.name);
        assert_eq!(outcome.changed, case.changed, "{}", case.name);
    }
}
