//! Spans of time as people type them: `90s`, `30m`, `24h`, `7d`.

/// The span in milliseconds.
pub(super) fn span_ms(text: &str) -> Result<i64, String> {
    let bad = || "expected a number with s, m, h or d, for example 24h".to_owned();
    let unit_at = text.len().checked_sub(1).ok_or_else(bad)?;
    let (number, unit) = text.split_at_checked(unit_at).ok_or_else(bad)?;
    let unit_ms = match unit {
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return Err(bad()),
    };
    let number: u32 = number.parse().map_err(|_| bad())?;
    Ok(i64::from(number) * unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_nonsense_is_not() {
        assert_eq!(span_ms("24h"), Ok(86_400_000));
        assert_eq!(span_ms("90s"), Ok(90_000));
        assert_eq!(span_ms("4294967295d"), Ok(4_294_967_295 * 86_400_000));
        for bad in ["", "h", "24", "24 h", "-1h", "1é", "4294967296s", "1w"] {
            assert!(span_ms(bad).is_err(), "{bad}");
        }
    }
}
