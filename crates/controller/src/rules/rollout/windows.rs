//! Maintenance windows: `Mon-Fri 02:00-05:00 Europe/Berlin`, several of them separated by `;`.
//!
//! A window is open while a clock on the wall of its time zone shows a time in it, on one of its days.
//! So it needs no rule of its own for the days on which clocks are changed: an hour that a day does
//! not have opens nothing, and an hour that it has twice opens twice.

use std::fmt;

use jiff::civil::{Time, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp, Zoned};

/// Windows of one rollout: more is a mistake.
const MAX_WINDOWS: usize = 16;
/// Longest text, in bytes.
const MAX_TEXT: usize = 1024;
/// Every window opens once a week, unless a change of clocks takes that hour.
const LOOK_AHEAD_DAYS: i64 = 15;

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

/// When hosts may be told to update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    text: String,
    windows: Vec<Window>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    /// The days on which it opens, Monday first.
    days: [bool; 7],
    /// Minutes after midnight.
    start: u16,
    /// Minutes after midnight, at most 24 hours; not after `start`: on the next day.
    end: u16,
    zone: TimeZone,
}

/// Why a text names no windows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Its form.
    #[error(
        "{0:?} is no maintenance window: expected days, times and a time zone, for example 'Mon-Fri 02:00-05:00 Europe/Berlin' (or 'daily 22:00-04:00 UTC'), several separated by ';'"
    )]
    Form(String),
    /// A day.
    #[error(
        "{0:?} is no day: expected Mon, Tue, Wed, Thu, Fri, Sat or Sun, a range such as Mon-Fri, a list such as Sat,Sun, or daily"
    )]
    Day(String),
    /// A time.
    #[error(
        "{0:?} is no time: expected hours and minutes, from 00:00 to 24:00 (24:00 only as an end)"
    )]
    Time(String),
    /// No time at all.
    #[error("{0:?} begins and ends at the same time: for a whole day say 00:00-24:00")]
    Empty(String),
    /// A time zone.
    #[error(
        "{0:?} is no known time zone: expected a name of the IANA database such as Europe/Berlin or UTC (abbreviations such as CET and offsets such as +01:00 are not taken: they do not say when clocks are changed)"
    )]
    Zone(String),
    /// Too much of it.
    #[error("there are more than {MAX_WINDOWS} windows, or more than {MAX_TEXT} bytes of them")]
    Many,
}

impl Windows {
    /// Reads windows; `zones` knows the time zones.
    ///
    /// # Errors
    /// [`WindowError`], a sentence that says what was expected.
    pub fn parse(text: &str, zones: &TimeZoneDatabase) -> Result<Self, WindowError> {
        if text.len() > MAX_TEXT {
            return Err(WindowError::Many);
        }
        let text = text.trim();
        let windows: Vec<Window> = text
            .trim_end_matches(';')
            .split(';')
            .map(|one| window(one.trim(), zones))
            .collect::<Result<_, _>>()?;
        if windows.len() > MAX_WINDOWS {
            return Err(WindowError::Many);
        }
        Ok(Self {
            text: text.to_owned(),
            windows,
        })
    }

    /// Whether one of them is open at this instant (milliseconds since the Unix epoch).
    #[must_use]
    pub fn is_open(&self, now_ms: i64) -> bool {
        Timestamp::from_millisecond(now_ms)
            .is_ok_and(|now| self.windows.iter().any(|window| window.is_open(now)))
    }

    /// When the next one opens: `now_ms` itself while one is open. `None` when none opens within two
    /// weeks.
    #[must_use]
    pub fn next_open(&self, now_ms: i64) -> Option<i64> {
        if self.is_open(now_ms) {
            return Some(now_ms);
        }
        let now = Timestamp::from_millisecond(now_ms).ok()?;
        self.windows
            .iter()
            .flat_map(|window| window.openings(now))
            .map(Timestamp::as_millisecond)
            .filter(|at| *at > now_ms && self.is_open(*at))
            .min()
    }
}

/// As it was given.
impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Window {
    fn is_open(&self, now: Timestamp) -> bool {
        let there = now.to_zoned(self.zone.clone());
        let minute = minute_of(there.time());
        let today = there.weekday().to_monday_zero_offset().unsigned_abs() as usize;
        let yesterday = (today + 6) % 7;
        if self.start < self.end {
            return self.days[today] && (self.start..self.end).contains(&minute);
        }
        // Overnight: it belongs to the day on which it begins.
        (self.days[today] && minute >= self.start) || (self.days[yesterday] && minute < self.end)
    }

    /// Instants at which it may open: its beginning on each of the next days, and every change of
    /// clocks among them.
    fn openings(&self, now: Timestamp) -> Vec<Timestamp> {
        let there = now.to_zoned(self.zone.clone());
        let last = now.saturating_add(Span::new().hours(LOOK_AHEAD_DAYS * 24));
        let last = last.unwrap_or(Timestamp::MAX);
        let changes = self.zone.following(now).map(|change| change.timestamp());
        let mut found: Vec<Timestamp> = changes.take_while(|at| *at < last).collect();
        for day in 0..LOOK_AHEAD_DAYS {
            let start = self.start_on(&there, day);
            found.extend(start.map(|start| start.timestamp()));
        }
        found
    }

    fn start_on(&self, there: &Zoned, day: i64) -> Option<Zoned> {
        let date = there.date().checked_add(Span::new().days(day)).ok()?;
        let [hour, minute] = [self.start / 60, self.start % 60].map(i8::try_from);
        let time = Time::new(hour.ok()?, minute.ok()?, 0, 0).ok()?;
        date.to_datetime(time).to_zoned(self.zone.clone()).ok()
    }
}

fn minute_of(time: Time) -> u16 {
    u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
}

fn window(text: &str, zones: &TimeZoneDatabase) -> Result<Window, WindowError> {
    let form = || WindowError::Form(text.to_owned());
    let mut words = text.split_whitespace();
    let (Some(days), Some(times), Some(zone), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(form());
    };
    let (start, end) = times.split_once('-').ok_or_else(form)?;
    let (start, end) = (minutes(start, false)?, minutes(end, true)?);
    if start == end {
        return Err(WindowError::Empty(text.to_owned()));
    }
    Ok(Window {
        days: days_of(days)?,
        start,
        end,
        zone: zone_of(zone, zones)?,
    })
}

fn zone_of(name: &str, zones: &TimeZoneDatabase) -> Result<TimeZone, WindowError> {
    let unknown = || WindowError::Zone(name.to_owned());
    // Abbreviations that the database has as names (CET, EST) are without a slash.
    if !(name.contains('/') || name.eq_ignore_ascii_case("UTC")) {
        return Err(unknown());
    }
    zones.get(name).map_err(|_| unknown())
}

fn minutes(text: &str, is_end: bool) -> Result<u16, WindowError> {
    let bad = || WindowError::Time(text.to_owned());
    let (hours, minutes) = text.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text.len() {
        2 if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse::<u16>().ok(),
        _ => None,
    };
    match (number(hours), number(minutes)) {
        (Some(24), Some(0)) if is_end => Ok(24 * 60),
        (Some(hours @ 0..24), Some(minutes @ 0..60)) => Ok(hours * 60 + minutes),
        _ => Err(bad()),
    }
}

fn days_of(text: &str) -> Result<[bool; 7], WindowError> {
    if text.eq_ignore_ascii_case("daily") {
        return Ok([true; 7]);
    }
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // Fri-Mon goes over the end of the week.
        let span = (last + 7 - first) % 7;
        for n in 0..=span {
            days[(first + n) % 7] = true;
        }
    }
    Ok(days)
}

/// The number of a day, Monday being 0.
fn day(name: &str) -> Result<usize, WindowError> {
    let found = DAYS
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(name));
    let (_, day) = found.ok_or_else(|| WindowError::Day(name.to_owned()))?;
    Ok(day.to_monday_zero_offset().unsigned_abs().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(text: &str) -> Windows {
        Windows::parse(text, &TimeZoneDatabase::bundled()).unwrap()
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn days_times_and_zones_are_read() {
        let text = "Mon-Fri 02:00-05:00 Europe/Berlin; Sat,Sun 00:00-24:00 America/New_York";
        let two = windows(text);
        assert_eq!(two.to_string(), text);
        // Wednesday 25 November 2026, 02:00 in Berlin is 01:00 UTC.
        for (instant, open) in [
            ("2026-11-25T00:59:59Z", false),
            ("2026-11-25T01:00:00Z", true),
            ("2026-11-25T03:59:59Z", true),
            ("2026-11-25T04:00:00Z", false),
            // Saturday in New York begins at 05:00 UTC.
            ("2026-11-28T04:59:59Z", false),
            ("2026-11-28T05:00:00Z", true),
            ("2026-11-30T04:59:59Z", true),
            ("2026-11-30T05:00:00Z", false),
        ] {
            assert_eq!(two.is_open(at(instant)), open, "{instant}");
        }
        assert_eq!(
            two.next_open(at("2026-11-25T04:00:00Z")),
            Some(at("2026-11-26T01:00:00Z"))
        );
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let friday = windows("fri 22:00-04:00 UTC");
        for (instant, open) in [
            ("2026-11-27T03:00:00Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T03:59:59Z", true),
            ("2026-11-28T04:00:00Z", false),
            ("2026-11-28T22:00:00Z", false),
        ] {
            assert_eq!(friday.is_open(at(instant)), open, "{instant}");
        }
        let week_end = windows("Sat-Mon 10:00-11:00 UTC");
        assert!(week_end.is_open(at("2026-11-29T10:30:00Z")));
        assert!(week_end.is_open(at("2026-11-30T10:30:00Z")));
        assert!(!week_end.is_open(at("2026-12-01T10:30:00Z")));
    }

    #[test]
    fn clocks_that_are_changed_move_no_window() {
        // On 28 March 2027 Berlin has no hour from 02:00 to 03:00 (01:00 UTC).
        let gone = windows("Sun 02:00-03:00 Europe/Berlin");
        assert!(!gone.is_open(at("2027-03-28T00:59:59Z")));
        assert!(!gone.is_open(at("2027-03-28T01:00:00Z")));
        assert_eq!(
            gone.next_open(at("2027-03-27T12:00:00Z")),
            Some(at("2027-04-04T00:00:00Z"))
        );
        let half = windows("Sun 02:30-04:00 Europe/Berlin");
        assert_eq!(
            half.next_open(at("2027-03-27T12:00:00Z")),
            Some(at("2027-03-28T01:00:00Z"))
        );
        assert!(half.is_open(at("2027-03-28T01:59:59Z")));
        assert!(!half.is_open(at("2027-03-28T02:00:00Z")));
        // On 25 October 2026 it has the hour from 02:00 to 03:00 twice (00:00 to 02:00 UTC).
        let twice = windows("Sun 02:00-03:00 Europe/Berlin");
        assert!(twice.is_open(at("2026-10-25T00:30:00Z")));
        assert!(twice.is_open(at("2026-10-25T01:30:00Z")));
        assert!(!twice.is_open(at("2026-10-25T02:00:00Z")));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for (text, says) in [
            ("", "no maintenance window"),
            ("Mon-Fri 02:00-05:00", "no maintenance window"),
            ("Mon-Fri 0200 UTC", "no maintenance window"),
            ("Mon 02:00-05:00 UTC UTC", "no maintenance window"),
            (
                "Mon 02:00-05:00 UTC;; Tue 02:00-05:00 UTC",
                "no maintenance window",
            ),
            ("Monday 02:00-05:00 UTC", "no day"),
            ("Mon- 02:00-05:00 UTC", "no day"),
            ("Mon 2:00-05:00 UTC", "no time"),
            ("Mon 24:00-05:00 UTC", "no time"),
            ("Mon 02:00-24:01 UTC", "no time"),
            ("Mon 02:60-05:00 UTC", "no time"),
            ("Mon 02:00-02:00 UTC", "same time"),
            ("Mon 02:00-05:00 CET", "time zone"),
            ("Mon 02:00-05:00 +01:00", "time zone"),
            ("Mon 02:00-05:00 Europe/Nowhere", "time zone"),
            ("Mon 02:00-05:00 ../../etc/passwd", "time zone"),
        ] {
            let error = Windows::parse(text, &TimeZoneDatabase::bundled()).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
        let many = "Mon 02:00-05:00 UTC;".repeat(MAX_WINDOWS + 1);
        let error = Windows::parse(&many, &TimeZoneDatabase::bundled()).unwrap_err();
        assert_eq!(error, WindowError::Many);
    }

    proptest! {
        #[test]
        fn any_text_is_windows_or_a_sentence(text in "\\PC{0,60}") {
            let _ = Windows::parse(&text, &TimeZoneDatabase::bundled());
        }

        #[test]
        fn the_next_opening_is_open_and_nothing_is_open_before_it(
            start in 0u16..1440, end in 0u16..1440, first in 0usize..7, span in 0usize..7,
            // Two years, with four changes of clocks.
            minute in 0i64..1_051_200, zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata",
            ]),
        ) {
            prop_assume!(start != end);
            let text = format!(
                "{}-{} {:02}:{:02}-{:02}:{:02} {zone}",
                DAYS[first].0, DAYS[(first + span) % 7].0, start / 60, start % 60, end / 60, end % 60,
            );
            let windows = windows(&text);
            let now_ms = at("2026-01-01T00:00:00Z") + minute * 60_000;
            let Some(next_ms) = windows.next_open(now_ms) else {
                return Err(TestCaseError::fail("none within two weeks"));
            };
            prop_assert!(windows.is_open(next_ms));
            let mut before = now_ms;
            while before < next_ms {
                prop_assert!(!windows.is_open(before), "{text}: {before} before {next_ms}");
                before += 7 * 60_000;
            }
            prop_assert!(next_ms == now_ms || !windows.is_open(next_ms - 1));
        }
    }
}
