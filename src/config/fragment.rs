//! One file as it is written: every key optional, every value with its place, nothing unknown.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::ConfigError;
use super::keys::{self, KEYS};
use crate::core::shown;

/// One parsed file. The fields are documented in [`KEYS`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Fragment {
    pub(super) state_dir: Option<Spanned<String>>,
    pub(super) runtime_dir: Option<Spanned<String>>,
    pub(super) log_level: Option<Spanned<String>>,
    pub(super) location: Option<Spanned<String>>,
    pub(super) controller: ControllerFragment,
    pub(super) wireguard: WireguardFragment,
    pub(super) openvpn: OpenvpnFragment,
    pub(super) strongswan: StrongswanFragment,
    pub(super) ocserv: OcservFragment,
    pub(super) ledger: LedgerFragment,
    pub(super) metrics: MetricsFragment,
    pub(super) update: UpdateFragment,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ControllerFragment {
    pub(super) urls: Option<Spanned<Vec<String>>>,
    pub(super) ca_file: Option<Spanned<String>>,
    pub(super) proxy: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WireguardFragment {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) socket_dir: Option<Spanned<String>>,
    pub(super) kernel: Option<Spanned<bool>>,
    pub(super) reader: Option<Spanned<String>>,
    pub(super) poll_s: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OpenvpnFragment {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) management: Option<Spanned<Vec<String>>>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) status_files: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StrongswanFragment {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) vici: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OcservFragment {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) socket: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LedgerFragment {
    pub(super) max_bytes: Option<Spanned<i64>>,
    pub(super) when_full: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MetricsFragment {
    pub(super) disks: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UpdateFragment {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) repository: Option<Spanned<String>>,
    pub(super) min_rate: Option<Spanned<i64>>,
    pub(super) max_bytes: Option<Spanned<i64>>,
}

/// Parses one file; `path` is only named in errors.
pub(super) fn parse(path: &Path, text: &str) -> Result<Fragment, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| {
        let line = line_of(text, error.span());
        let hint = match is_unquoted(text, line) {
            true => "; a text needs quotes: key = \"value\"",
            false => "",
        };
        ConfigError::Syntax {
            path: path.to_owned(),
            line,
            problem: format!("{}{hint}", error.message()),
        }
    })?;
    refuse_unknown(path, text, document.get_ref())?;
    let places = places(document.get_ref());
    Fragment::deserialize(Deserializer::from(document)).map_err(|error| {
        let place = error
            .span()
            .and_then(|span| places.iter().find(|place| encloses(&place.span, &span)));
        let problem = match error.message().split_once(" \"") {
            // It repeats a text, which may be a URL with a password.
            Some((before, text)) if text.contains('@') => Some(before),
            // What serde expected is told in its own words; ours are better.
            _ => error.message().split(", expected ").next(),
        };
        ConfigError::Invalid {
            path: path.to_owned(),
            line: line_of(text, error.span()),
            key: place.map_or_else(|| "a value".to_owned(), |place| place.title.clone()),
            problem: shown(problem.unwrap_or_default()).to_string(),
            allowed: place.map_or("another type", |place| place.allowed),
        }
    })
}

/// Whether the value on this line (counted from 1) begins like a text that nobody has quoted.
fn is_unquoted(text: &str, line: usize) -> bool {
    let line = text.lines().nth(line - 1).unwrap_or_default();
    let Some((_, value)) = line.split_once('=') else {
        return false;
    };
    let end = |c: char| c.is_whitespace() || c == '#';
    let word = value.trim_start().split(end).next().unwrap_or_default();
    word.starts_with(|c: char| c.is_alphabetic() || c == '/')
        && !["true", "false", "inf", "nan"].contains(&word)
}

/// The line of a byte offset, counted from 1.
pub(super) fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let end = span.map_or(0, |span| span.start).min(text.len());
    1 + text.as_bytes()[..end]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

fn refuse_unknown(path: &Path, text: &str, root: &DeTable<'_>) -> Result<(), ConfigError> {
    let refuse = |span, problem| {
        Err(ConfigError::UnknownKey {
            path: path.to_owned(),
            line: line_of(text, Some(span)),
            problem,
        })
    };
    for (name, value) in root {
        let given: &str = name.get_ref();
        if let Some(section) = keys::sections().find(|section| *section == given) {
            for inner in value
                .get_ref()
                .as_table()
                .into_iter()
                .flat_map(DeTable::keys)
            {
                if keys::find(section, inner.get_ref()).is_none() {
                    return refuse(inner.span(), unknown_key(section, inner.get_ref()));
                }
            }
        } else if value.get_ref().is_table() {
            return refuse(name.span(), unknown_section(given));
        } else if keys::find("", given).is_none() {
            return refuse(name.span(), unknown_key("", given));
        }
    }
    Ok(())
}

fn unknown_key(section: &str, given: &str) -> String {
    let place = if section.is_empty() {
        "at the top level".to_owned()
    } else {
        format!("in [{section}]")
    };
    let here = KEYS.iter().filter(|key| key.section == section);
    let hint = if let Some(elsewhere) = KEYS.iter().find(|key| key.name == given) {
        match elsewhere.section {
            "" => "; it belongs at the top of the file, before the first section".to_owned(),
            right => format!("; it belongs in [{right}]"),
        }
    } else if let Some(near) = keys::nearest(given, here.map(|key| key.name)) {
        format!("; did you mean \"{near}\"?")
    } else {
        "; remove it (vpn-node-agent.toml(5) lists all keys)".to_owned()
    };
    format!("unknown key \"{}\" {place}{hint}", shown(given))
}

fn unknown_section(given: &str) -> String {
    let hint = match keys::nearest(given, keys::sections()) {
        Some(near) => format!("did you mean [{near}]?"),
        None => {
            let all: Vec<_> = keys::sections().map(|name| format!("[{name}]")).collect();
            format!("there are {}", all.join(", "))
        }
    };
    format!("unknown section [{}]; {hint}", shown(given))
}

/// Where the value of a known key or section stands in the file.
struct Place {
    title: String,
    allowed: &'static str,
    span: Range<usize>,
}

/// The places of all values, the inner ones first.
fn places(root: &DeTable<'_>) -> Vec<Place> {
    let value_of = |key: &keys::Key| match key.section {
        "" => root.get(key.name).map(Spanned::span),
        section => {
            let table = root.get(section).map(Spanned::get_ref);
            let inner = table.and_then(DeValue::as_table)?;
            inner.get(key.name).map(Spanned::span)
        }
    };
    let of_keys = KEYS.iter().filter_map(|key| {
        Some(Place {
            title: key.title(),
            allowed: key.allowed,
            span: value_of(key)?,
        })
    });
    let of_sections = keys::sections().filter_map(|name| {
        Some(Place {
            title: name.to_owned(),
            allowed: "a section in square brackets",
            span: root.get(name)?.span(),
        })
    });
    of_keys.chain(of_sections).collect()
}

fn encloses(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}
