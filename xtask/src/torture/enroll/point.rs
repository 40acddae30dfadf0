//! Where a run is crashed: a phase, a boundary in it, and what else happens there.

use std::fmt;
use std::str::FromStr;

use crate::torture::random::Random;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `vpn-node enroll`, from its start to its end.
    Enroll,
    /// The agent that enrols by itself with a token from systemd, up to the first accepted heartbeat.
    Credential,
    /// The agent of an enrolled host, from its start to the first accepted heartbeat.
    Agent,
    /// The controller, while a host enrols and beats.
    Controller,
}

impl Phase {
    pub(crate) const ALL: [Self; 4] = [
        Self::Enroll,
        Self::Credential,
        Self::Agent,
        Self::Controller,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Enroll => "enroll",
            Self::Credential => "credential",
            Self::Agent => "agent",
            Self::Controller => "controller",
        }
    }
}

/// One crash, as `--only` takes it: `agent:57` is killed at its boundary 57, `agent:57+33` also at
/// boundary 33 of the next attempt, `agent:57~8` loses power, with chances of seed 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) phase: Phase,
    pub(crate) at: u64,
    pub(crate) again: Option<u64>,
    pub(crate) power: Option<u64>,
}

impl Point {
    /// Killed once.
    pub(crate) fn once(phase: Phase, at: u64) -> Self {
        Self {
            phase,
            at,
            again: None,
            power: None,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.phase.name(), self.at)?;
        if let Some(again) = self.again {
            write!(f, "+{again}")?;
        }
        if let Some(seed) = self.power {
            write!(f, "~{seed}")?;
        }
        Ok(())
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no point like agent:57, agent:57+33 or agent:57~8");
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
        let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name);
        let (rest, power) = match rest.split_once('~') {
            Some((rest, seed)) => (rest, Some(number(seed)?)),
            None => (rest, None),
        };
        let (at, again) = match rest.split_once('+') {
            Some((at, again)) => (at, Some(number(again)?)),
            None => (rest, None),
        };
        Ok(Self {
            phase: phase.ok_or_else(wrong)?,
            at: number(at)?,
            again,
            power,
        })
    }
}

/// How many boundaries each phase has, in the order of [`Phase::ALL`].
pub(crate) type Boundaries = [u64; 4];

/// Points of every phase: `single` of them killed once, spread evenly over the boundaries of each
/// phase (all boundaries if there are no more); a tenth as many killed twice, and a fifth as many
/// that lose power. In any order, so that an early end has seen something of all.
pub(crate) fn sample(boundaries: Boundaries, single: u64, seed: u64) -> Vec<Point> {
    let mut random = Random::new(seed);
    let mut points = Vec::new();
    for (phase, count) in Phase::ALL.into_iter().zip(shares(boundaries, single)) {
        let all = boundaries[phase as usize];
        for at in spread(all, count, &mut random) {
            points.push(Point::once(phase, at));
        }
        for at in spread(all, count.div_ceil(10), &mut random) {
            points.push(Point {
                again: Some(1 + random.below(all)),
                ..Point::once(phase, at)
            });
        }
        for at in spread(all, count.div_ceil(5), &mut random) {
            let power = Some(random.below(1_000_000));
            points.push(Point {
                power,
                ..Point::once(phase, at)
            });
        }
    }
    random.shuffle(&mut points);
    points
}

/// The same number for each phase; what a small one cannot take goes to the others.
fn shares(boundaries: Boundaries, single: u64) -> Boundaries {
    let mut order = [0, 1, 2, 3];
    order.sort_by_key(|phase| boundaries[*phase]);
    let mut shares = [0; 4];
    let mut left = single;
    for (phase, others) in order.into_iter().zip([4, 3, 2, 1]) {
        shares[phase] = left.div_ceil(others).min(boundaries[phase]);
        left -= shares[phase];
    }
    shares
}

/// `count` different numbers from 1 to `all`, one by chance from each of `count` equal stretches.
fn spread(all: u64, count: u64, random: &mut Random) -> Vec<u64> {
    let count = count.min(all);
    let stretch = |number| {
        let (from, to) = (number * all / count, (number + 1) * all / count);
        1 + from + random.below(to - from)
    };
    (0..count).map(stretch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_point_reads_back_as_it_is_shown() {
        for text in [
            "enroll:1",
            "agent:57+33",
            "controller:12~8",
            "credential:3+4~5",
        ] {
            assert_eq!(text.parse::<Point>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "agent",
            "agent:",
            "agent:x",
            "agent:1+",
            "agent:1~x",
            "host:1",
        ] {
            assert!(text.parse::<Point>().unwrap_err().contains("agent:57"));
        }
    }

    #[test]
    fn all_boundaries_are_taken_if_there_are_no_more_and_else_an_even_part() {
        let mut random = Random::new(1);
        assert_eq!(spread(5, 9, &mut random), [1, 2, 3, 4, 5]);
        assert!(spread(0, 9, &mut random).is_empty());
        let some = spread(1000, 100, &mut random);
        for (number, at) in some.iter().enumerate() {
            let from = u64::try_from(number * 10).unwrap();
            assert!((from + 1..=from + 10).contains(at), "{at} of {number}");
        }
    }

    #[test]
    fn a_sample_has_the_number_that_was_asked_for_from_every_phase() {
        let points = sample([100, 2000, 3000, 900], 1000, 7);
        let single = |phase| {
            let of_phase = points.iter().filter(|point| {
                point.phase == phase && point.again.is_none() && point.power.is_none()
            });
            of_phase.map(|point| point.at).collect::<HashSet<_>>().len()
        };
        let [enroll, credential, agent, controller] = Phase::ALL.map(single);
        assert_eq!(enroll, 100);
        assert!(credential == 300 && agent == 300 && controller >= 300);
        assert!(points.iter().filter(|point| point.power.is_some()).count() >= 200);
        assert!(points.iter().any(|point| point.again.is_some()));
        assert_eq!(points, sample([100, 2000, 3000, 900], 1000, 7));
    }
}
