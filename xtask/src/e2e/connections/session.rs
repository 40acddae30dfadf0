//! What a scenario made happen, and whether the controller's rows tell exactly that.
//!
//! A [`Session`] is a real session as its scenario saw it; a [`Row`] is what the controller has
//! stored. [`judge`] pairs them one to one and says in a sentence what is wrong. Pure: no clock, no
//! programs.

use serde_json::Value;

use crate::lab::fleet::column;

/// How far two looks at the same clock may be apart, and rounding to whole seconds.
const CLOCK_SLACK_MS: i64 = 1_000;

/// When something truly happened: not before the first instant and not after the second, in
/// milliseconds since the Unix epoch. What a scenario does takes a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
}

/// One real session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// As the row's `client_identity` must show it.
    pub(super) identity: String,
    pub(super) started: Window,
    /// How far the row's start may be off.
    pub(super) start_within_ms: i64,
    /// `None`: it is up.
    pub(super) end: Option<End>,
}

/// How a session must have ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) at: Window,
    /// How far the row's end may be off.
    pub(super) within_ms: i64,
    /// The widest interval in which the row may say that the end lies.
    pub(super) uncertainty_ms: i64,
    /// Any one of these.
    pub(super) reasons: &'static [&'static str],
    /// `observed` or `inferred`; empty: either.
    pub(super) confidence: &'static str,
}

/// A row of `connections list --json`.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: String,
    /// `connection_type`.
    pub(super) backend: String,
    pub(super) identity: String,
    pub(super) client_ip: String,
    pub(super) client_port: String,
    pub(super) started_ms: i64,
    pub(super) ended_ms: Option<i64>,
    pub(super) reason: String,
    pub(super) confidence: String,
    pub(super) uncertainty_ms: i64,
    /// All its columns.
    pub(super) all: Value,
}

impl Window {
    /// How far `instant_ms` is outside.
    fn distance_ms(self, instant_ms: i64) -> i64 {
        let before = self.from_ms.saturating_sub(instant_ms);
        let after = instant_ms.saturating_sub(self.to_ms);
        before.max(after).max(0)
    }
}

impl Row {
    /// Nothing if it is not a row of connections, which the caller says.
    pub(super) fn read(all: &Value) -> Option<Self> {
        let instant = |name| {
            let text = column(all, name);
            let instant = text.parse::<jiff::Timestamp>().ok()?;
            Some(instant.as_millisecond())
        };
        Some(Self {
            id: column(all, "connection_id"),
            backend: column(all, "connection_type"),
            identity: column(all, "client_identity"),
            client_ip: column(all, "client_ip"),
            client_port: column(all, "client_port"),
            started_ms: instant("connection_start")?,
            ended_ms: instant("connection_end"),
            reason: column(all, "disconnection_reason"),
            confidence: column(all, "end_confidence"),
            uncertainty_ms: all["end_uncertainty_ms"].as_i64().unwrap_or_default(),
            all: all.clone(),
        })
    }

    /// What is compared, in one line, with instants relative to `zero_ms`.
    pub(super) fn told(&self, zero_ms: i64) -> String {
        let start = seconds(self.started_ms - zero_ms);
        let end = match self.ended_ms {
            None => "up".to_owned(),
            Some(end) => format!(
                "ended {} as {} ({}, ± within {} ms)",
                seconds(end - zero_ms),
                self.reason,
                self.confidence,
                self.uncertainty_ms
            ),
        };
        format!(
            "{} of {}: started {start}, {end} [{}]",
            self.backend, self.identity, self.id
        )
    }
}

impl Session {
    /// What is expected, in one line, with instants relative to `zero_ms`.
    pub(super) fn told(&self, backend: &str, zero_ms: i64) -> String {
        let start = seconds(self.started.from_ms - zero_ms);
        let end = match &self.end {
            None => "up".to_owned(),
            Some(end) => format!(
                "ended {} (± {} ms) as {} ({}, ± within at most {} ms)",
                seconds(end.at.from_ms - zero_ms),
                end.within_ms,
                end.reasons.join(" or "),
                match end.confidence {
                    "" => "observed or inferred",
                    word => word,
                },
                end.uncertainty_ms
            ),
        };
        format!(
            "{backend} of {}: started {start} (± {} ms), {end}",
            self.identity, self.start_within_ms
        )
    }

    /// Whether the row is one of this client's.
    pub(super) fn is_of(&self, backend: &str, row: &Row) -> bool {
        row.backend == backend && row.identity == self.identity
    }

    /// What is wrong with `row`, as a sentence for each mistake.
    fn mistakes(&self, row: &Row) -> Vec<String> {
        let mut mistakes = Vec::new();
        let off = self.started.distance_ms(row.started_ms);
        if off > self.start_within_ms {
            mistakes.push(format!("its start is off by {off} ms"));
        }
        match (&self.end, row.ended_ms) {
            (None, None) => {}
            (None, Some(_)) => mistakes.push(format!("it has ended as {}", row.reason)),
            (Some(_), None) => mistakes.push("it has not ended".to_owned()),
            (Some(end), Some(ended_ms)) => end.mistakes(row, ended_ms, &mut mistakes),
        }
        mistakes
    }
}

impl End {
    fn mistakes(&self, row: &Row, ended_ms: i64, mistakes: &mut Vec<String>) {
        let off = self.at.distance_ms(ended_ms);
        if off > self.within_ms {
            mistakes.push(format!("its end is off by {off} ms"));
        }
        // What the row itself says about its end must be true, too.
        if off > row.uncertainty_ms.saturating_add(CLOCK_SLACK_MS) {
            mistakes.push(format!(
                "its end is off by {off} ms, more than the {} ms it admits",
                row.uncertainty_ms
            ));
        }
        if row.uncertainty_ms > self.uncertainty_ms {
            mistakes.push(format!("its end is uncertain by {} ms", row.uncertainty_ms));
        }
        if !self.reasons.contains(&row.reason.as_str()) {
            mistakes.push(format!("its reason is {:?}", row.reason));
        }
        if !self.confidence.is_empty() && row.confidence != self.confidence {
            mistakes.push(format!("its end is {:?}", row.confidence));
        }
    }
}

/// The judgement of all sessions of one daemon.
pub(super) struct Judgement {
    /// One a session: its mistakes, empty if the rows tell exactly what happened.
    pub(super) sessions: Vec<Vec<String>>,
    /// Rows of no session that anybody made, by their place.
    pub(super) strangers: Vec<usize>,
}

/// Pairs sessions of `backend` with rows: the same identity, and of those the nearest start. A row
/// that is left over is blamed on the session of its identity that is nearest, or on nobody.
pub(super) fn judge(backend: &str, sessions: &[&Session], rows: &[Row]) -> Judgement {
    let mut taken = vec![false; rows.len()];
    let mut judged: Vec<Vec<String>> = Vec::with_capacity(sessions.len());
    for session in sessions {
        let off = |row: &Row| session.started.distance_ms(row.started_ms);
        let nearest = rows
            .iter()
            .enumerate()
            .filter(|(at, row)| !taken[*at] && session.is_of(backend, row))
            .filter(|(_, row)| off(row) <= session.start_within_ms)
            .min_by_key(|(_, row)| off(row));
        judged.push(match nearest {
            None => vec!["there is no row with this identity and start".to_owned()],
            Some((at, row)) => {
                taken[at] = true;
                session.mistakes(row)
            }
        });
    }
    let mut strangers = Vec::new();
    let left = rows.iter().enumerate().filter(|(at, _)| !taken[*at]);
    for (at, row) in left {
        let owner = sessions
            .iter()
            .enumerate()
            .filter(|(_, session)| session.is_of(backend, row))
            .min_by_key(|(_, session)| session.started.distance_ms(row.started_ms));
        match owner {
            Some((owner, _)) => judged[owner].push(format!(
                "there is one more row than sessions, connection {}",
                row.id
            )),
            None => strangers.push(at),
        }
    }
    Judgement {
        sessions: judged,
        strangers,
    }
}

fn seconds(milliseconds: i64) -> String {
    // A figure for people: no harm in the rounding of f64.
    #[expect(clippy::cast_precision_loss, reason = "minutes, not ages of the world")]
    let seconds = milliseconds as f64 / 1000.0;
    format!("at {seconds:.1} s")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(started_ms: i64, end: Option<End>) -> Session {
        Session {
            identity: "alice".to_owned(),
            started: at(started_ms),
            start_within_ms: 2_000,
            end,
        }
    }

    fn at(ms: i64) -> Window {
        Window {
            from_ms: ms,
            to_ms: ms + 100,
        }
    }

    fn end(ms: i64) -> End {
        End {
            at: at(ms),
            within_ms: 2_000,
            uncertainty_ms: 5_000,
            reasons: &["peer_removed"],
            confidence: "observed",
        }
    }

    fn row(identity: &str, start: &str, end: Option<&str>, reason: &str) -> Row {
        Row::read(&json!({
            "connection_id": "c",
            "connection_type": "wireguard",
            "client_identity": identity,
            "connection_start": start,
            "connection_end": end,
            "disconnection_reason": reason,
            "end_confidence": "observed",
            "end_uncertainty_ms": 1_000,
        }))
        .unwrap()
    }

    #[test]
    fn a_row_that_tells_the_truth_has_no_mistakes() {
        let ended = row(
            "alice",
            "1970-01-01T00:00:10.5Z",
            Some("1970-01-01T00:01:00Z"),
            "peer_removed",
        );
        let judged = judge(
            "wireguard",
            &[&session(10_000, Some(end(60_000)))],
            &[ended],
        );
        assert!(judged.sessions[0].is_empty(), "{:?}", judged.sessions);
        assert!(judged.strangers.is_empty());
    }

    #[test]
    fn each_mistake_is_named() {
        let ended = row(
            "alice",
            "1970-01-01T00:00:10Z",
            Some("1970-01-01T00:01:10Z"),
            "timeout",
        );
        let judged = judge(
            "wireguard",
            &[&session(10_000, Some(end(60_000)))],
            &[ended],
        );
        let told = judged.sessions[0].join("; ");
        for mistake in ["off by 9900 ms", "1000 ms it admits", "\"timeout\""] {
            assert!(told.contains(mistake), "{told}");
        }
        let up = row("alice", "1970-01-01T00:00:10Z", None, "");
        let judged = judge("wireguard", &[&session(10_000, Some(end(60_000)))], &[up]);
        assert_eq!(judged.sessions[0], ["it has not ended"]);
    }

    #[test]
    fn a_lost_session_one_counted_twice_and_one_of_nobody_are_found() {
        let up = || row("alice", "1970-01-01T00:00:10Z", None, "");
        let stranger = row("mallory", "1970-01-01T00:00:10Z", None, "");
        let late = session(500_000, None);
        let (sessions, rows) = ([&session(10_000, None), &late], [up(), up(), stranger]);
        let judged = judge("wireguard", &sessions, &rows);
        assert!(judged.sessions[0][0].contains("one more row"));
        assert!(judged.sessions[1][0].contains("no row"));
        assert_eq!(judged.strangers, [2]);
        // What another daemon counts is nobody's, too.
        assert_eq!(judge("openvpn", &sessions, &rows).strangers, [0, 1, 2]);
    }

    #[test]
    fn two_sessions_of_one_client_take_a_row_each_by_their_starts() {
        let rows = [
            row("alice", "1970-01-01T00:00:12Z", None, ""),
            row("alice", "1970-01-01T00:00:10Z", None, ""),
        ];
        let sessions = [session(10_000, None), session(12_000, None)];
        let judged = judge("wireguard", &[&sessions[0], &sessions[1]], &rows);
        assert!(judged.sessions.iter().all(Vec::is_empty));
    }
}
