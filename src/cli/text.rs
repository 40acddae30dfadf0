//! Numbers as people read them. Pure; the exact values are in the JSON output.

/// `512 B`, `1.5 KiB`, `3.2 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    // Tenths in integers: exact for every u64.
    let mut tenths = u128::from(count) * 10 / 1024;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `2026-11-22 03:15:05 UTC`.
pub(super) fn instant(unix_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => "an impossible time".to_owned(),
    }
}

/// `1 record`, `2 records`.
pub(super) fn count(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

/// Whole seconds from one instant to a later one; 0 if a clock went back between.
pub(super) fn seconds_between(from_ms: i64, to_ms: i64) -> u64 {
    u64::try_from(to_ms.saturating_sub(from_ms) / 1000).unwrap_or(0)
}

/// Rows as aligned columns two spaces apart, the columns in `right` set flush right.
pub(super) fn columns(rows: &[Vec<String>], right: &[usize], indent: &str) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let cell = if right.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            };
            if column > 0 {
                line.push_str("  ");
            }
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 1024, 1536, 1 << 20, (1 << 20) - 1, u64::MAX];
        let texts: Vec<_> = sizes.into_iter().map(bytes).collect();
        assert_eq!(
            texts,
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "1.5 KiB",
                "1.0 MiB",
                "1023.9 KiB",
                "15.9 EiB"
            ]
        );
    }

    #[test]
    fn instants_survive_any_number() {
        assert_eq!(instant(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(instant(i64::MAX), "an impossible time");
        assert_eq!(seconds_between(5000, 1000), 0);
        assert_eq!(seconds_between(i64::MIN, i64::MAX), i64::MAX as u64 / 1000);
    }
}
