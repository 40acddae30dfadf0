//! From the text of `controller.toml` to settings: what is wrong is told as one sentence, with its
//! line, its key, and the known key that is nearest.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize as _;
use toml::de::{DeTable, Deserializer};

use super::{Config, ConfigError};

/// Every key; a test compares them with [`Config`].
const KEYS: [&str; 9] = [
    "data_dir",
    "url",
    "listen",
    "tls_cert",
    "tls_key",
    "heartbeat_interval_s",
    "lease_s",
    "verification_interval_s",
    "auto_approve",
];
/// Those without a default.
const REQUIRED: [&str; 2] = ["data_dir", "url"];

/// Parses the text; `path` is only named in errors.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let invalid = |span: Option<Range<usize>>, problem: String| ConfigError::Invalid {
        path: path.to_owned(),
        line: line_of(text, span),
        problem,
    };
    let document = DeTable::parse(text)
        .map_err(|error| invalid(error.span(), format!("not valid TOML: {}", error.message())))?;
    let table = document.get_ref();
    for key in table.keys() {
        let given: &str = key.get_ref();
        if !KEYS.contains(&given) {
            return Err(invalid(Some(key.span()), unknown(given)));
        }
    }
    for key in REQUIRED {
        if !table.contains_key(key) {
            return Err(ConfigError::Lacks {
                path: path.to_owned(),
                key,
            });
        }
    }
    let values: Vec<(String, Range<usize>)> = table
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), value.span()))
        .collect();
    Config::deserialize(Deserializer::from(document)).map_err(|error| {
        let span = error.span();
        let within = |value: &Range<usize>| {
            span.as_ref()
                .is_some_and(|span| value.start <= span.start && span.end <= value.end)
        };
        let key = values.iter().find(|(_, value)| within(value));
        let key = key.map_or("a value", |(key, _)| key);
        let problem = format!("{key}: {}", error.message());
        invalid(span, problem)
    })
}

fn unknown(given: &str) -> String {
    // As near as a slip of the finger.
    let near = KEYS
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance < name.len().max(4) / 2)
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((_, name)) => format!("unknown key {given:?}; did you mean {name:?}?"),
        None => format!(
            "unknown key {given:?}; remove it (there are {})",
            KEYS.join(", ")
        ),
    }
}

/// The line of a byte offset, counted from 1.
fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let end = span.map_or(0, |span| span.start).min(text.len());
    let before = &text.as_bytes()[..end];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "data_dir = '/x'\nurl = 'https://c'\n";

    fn refused(text: &str) -> String {
        let error = parse(Path::new("/c.toml"), text).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn every_key_is_known() {
        let mut config = Config::new("/x".into(), "https://c".into());
        config.tls_cert = Some("/cert".into());
        config.tls_key = Some("/key".into());
        let table = toml::Table::try_from(&config).unwrap();
        let mut known = KEYS.map(str::to_owned).to_vec();
        known.sort();
        assert_eq!(table.keys().cloned().collect::<Vec<_>>(), known);
    }

    #[test]
    fn a_slip_is_told_with_its_line_and_the_nearest_key() {
        assert_eq!(
            refused(&format!("{GOOD}\nleese_s = 3")),
            "\"/c.toml\", line 4: unknown key \"leese_s\"; did you mean \"lease_s\"?"
        );
        let far = refused(&format!("{GOOD}[logging]\nlevel = 3"));
        assert!(
            far.starts_with("\"/c.toml\", line 3: unknown key \"logging\"; remove it"),
            "{far}"
        );
        // No escape reaches a terminal.
        let hostile = refused(&format!("{GOOD}\"a\\u001b[2J\" = 3"));
        assert!(!hostile.contains('\u{1b}'), "{hostile}");
    }

    #[test]
    fn a_wrong_value_is_told_with_its_line_and_key() {
        let error = refused(&format!("{GOOD}lease_s = 'long'"));
        assert!(
            error.starts_with("\"/c.toml\", line 3: lease_s: invalid type"),
            "{error}"
        );
        let error = refused(&format!("{GOOD}listen = 'here'"));
        assert!(
            error.starts_with("\"/c.toml\", line 3: listen: "),
            "{error}"
        );
        let error = refused(&format!("{GOOD}lease_s = "));
        assert!(
            error.starts_with("\"/c.toml\", line 3: not valid TOML"),
            "{error}"
        );
        let error = refused("data_dir = '/x'");
        assert!(error.contains("url is missing"), "{error}");
    }
}
