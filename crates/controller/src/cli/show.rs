//! Tables and JSON. What came from outside is escaped in tables.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::Value;
use vpn_node_protocol::encoding::{char_for_terminals, json_for_terminals};

/// Version of the JSON that commands print.
const SCHEMA: u32 = 1;

/// A text from outside, safe for a terminal: control characters, direction marks and the like
/// are shown as escapes.
pub(super) fn escaped(text: &str) -> String {
    text.chars().flat_map(char_for_terminals).collect()
}

/// An identity as hosts write it: printable ASCII with escapes of its own, which are not escaped once
/// more. In quotes where a space at its end would not be seen.
pub(super) fn identity(text: &str) -> String {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let shown = if plain {
        text.to_owned()
    } else {
        escaped(text)
    };
    if shown.trim() == shown {
        shown
    } else {
        format!("\"{shown}\"")
    }
}

/// So many things of a kind whose plural ends with "s".
pub(super) fn count(number: impl Into<u64>, thing: &str) -> String {
    match number.into() {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

/// The same for a cell that may be empty.
pub(super) fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), escaped)
}

pub(super) fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// An instant without the milliseconds, which no person reads.
pub(super) fn instant(text: Option<&str>) -> String {
    let seconds = |text: &str| text.split('.').next().unwrap_or(text).replace('T', " ");
    text.map_or_else(|| "-".to_owned(), |text| escaped(&seconds(text)))
}

/// How far a host's clock is from the controller's, in the largest unit that says it in full.
pub(super) fn clock_offset(offset_ms: Option<i64>) -> String {
    let Some(offset_ms) = offset_ms else {
        return "-".to_owned();
    };
    let side = if offset_ms < 0 { "behind" } else { "ahead" };
    let amount = match offset_ms.unsigned_abs() {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms @ 1_000..120_000 => format!("{} s", ms / 1_000),
        ms @ 120_000..7_200_000 => format!("{} min", ms / 60_000),
        ms @ 7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        ms => format!("{} days", ms / 86_400_000),
    };
    format!("{amount} {side}")
}

/// Prints a text and ends the line.
pub(super) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // The reader (`head`) has seen enough; that is no error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("the output could not be written completely"),
    }
}

/// Says something to a person, on standard error: standard output may be redirected.
pub(super) fn note(text: impl Display) {
    // Nobody may be there to read it; what was done is done.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Prints rows as a table, or says that there are none.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, none: &str) -> anyhow::Result<()> {
    if rows.is_empty() {
        return line(none);
    }
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let lines: Vec<String> = table.lines().map(|row| row.trim_end().to_owned()).collect();
    line(lines.join("\n"))
}

/// Prints names with their values, one a line.
pub(super) fn fields(fields: &[(&'static str, String)]) -> anyhow::Result<()> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect();
    line(lines.join("\n"))
}

/// Bytes, in the largest unit that leaves a digit before the point.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    match unit {
        "B" => format!("{count} B"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// Prints `{"schema":1, PLURAL: [...]}`.
pub(super) fn json(plural: &str, rows: &impl Serialize) -> anyhow::Result<()> {
    let mut object = serde_json::Map::new();
    object.insert(plural.to_owned(), serde_json::to_value(rows)?);
    self::object(object)
}

/// Prints an object, with the version of its form.
pub(super) fn object(mut object: serde_json::Map<String, Value>) -> anyhow::Result<()> {
    object.insert("schema".to_owned(), Value::from(SCHEMA));
    line(json_for_terminals(&serde_json::to_string_pretty(&object)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_cannot_move_the_cursor_or_turn_the_text() {
        assert_eq!(escaped("a\u{1b}[2J\n"), "a\\u{1b}[2J\\n");
        assert_eq!(escaped("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(escaped("büro-\"1\""), "büro-\"1\"");
    }

    #[test]
    fn an_identity_is_escaped_once_and_its_spaces_are_seen() {
        // `opaque_text` has escaped these two already.
        assert_eq!(identity("a\\nb"), "a\\nb");
        assert_eq!(identity("J\\xc3\\xbcrgen"), "J\\xc3\\xbcrgen");
        assert_eq!(identity("alice "), "\"alice \"");
        assert_eq!(identity("a\u{1b}[2J"), "a\\u{1b}[2J");
    }

    #[test]
    fn one_of_a_kind_has_no_plural() {
        assert_eq!(count(0_u32, "connection"), "0 connections");
        assert_eq!(count(1_u32, "connection"), "1 connection");
        assert_eq!(count(2_u32, "connection"), "2 connections");
    }

    #[test]
    fn bytes_are_told_in_a_unit_that_fits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_234_567, "1.2 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_clock_offset_is_told_in_a_unit_that_fits() {
        for (offset_ms, text) in [
            (None, "-"),
            (Some(0), "0 ms ahead"),
            (Some(-250), "250 ms behind"),
            (Some(61_500), "61 s ahead"),
            (Some(-7_199_999), "119 min behind"),
            (Some(7_200_000), "2 h ahead"),
            (Some(-315_576_000_000), "3652 days behind"),
            (Some(i64::MIN), "106751991167 days behind"),
        ] {
            assert_eq!(clock_offset(offset_ms), text);
        }
    }
}
