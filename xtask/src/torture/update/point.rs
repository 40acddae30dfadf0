//! Where an update is crashed: who dies, when, and what else happens there.

use std::fmt;
use std::str::FromStr;

use crate::torture::random::Random;

/// Who dies, and what counts the way to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The updater, at a system call of its own; the supervisor starts it again.
    Updater,
    /// Everything, at a system call of the updater; the supervisor is started again.
    Host,
    /// Everything, at a system call of the supervisor itself.
    Supervisor,
    /// The new version, so many milliseconds after its start.
    Version,
}

impl Phase {
    pub(super) const ALL: [Self; 4] = [Self::Updater, Self::Host, Self::Supervisor, Self::Version];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Updater => "updater",
            Self::Host => "host",
            Self::Supervisor => "supervisor",
            Self::Version => "version",
        }
    }
}

/// One crash, as `--only` takes it: `host:57` dies at boundary 57, `host:57+33` also at boundary 33
/// of the recovery, `host:57~8` loses power with chances of seed 8, `bad-host:57` does so while a
/// release is installed that does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) phase: Phase,
    /// The release does not start.
    pub(super) bad: bool,
    pub(super) at: u64,
    pub(super) again: Option<u64>,
    pub(super) power: Option<u64>,
}

impl Point {
    /// Killed once, on the way to a good release.
    pub(super) fn once(phase: Phase, at: u64) -> Self {
        Self {
            phase,
            bad: false,
            at,
            again: None,
            power: None,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad = if self.bad { "bad-" } else { "" };
        write!(f, "{bad}{}:{}", self.phase.name(), self.at)?;
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
        let wrong = || format!("`{text}` is no point like host:57, bad-updater:57+33 or host:57~8");
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (bad, name) = match name.strip_prefix("bad-") {
            Some(name) => (true, name),
            None => (false, name),
        };
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
            bad,
            at: number(at)?,
            again,
            power,
        })
    }
}

/// How many boundaries the updater and the supervisor have, each with a good and with a bad
/// release, and how many milliseconds a new version runs until it is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Boundaries {
    /// Of the updater: with a good release, with a bad one.
    pub(super) updater: [u64; 2],
    pub(super) supervisor: [u64; 2],
    pub(super) version_ms: u64,
}

/// Kills, about `number` of them: half of them of the updater alone or of everything, a quarter
/// twice, the rest of the supervisor and the new version. `u64::MAX` is every boundary of the
/// updater, once.
pub(super) fn kills(boundaries: &Boundaries, number: u64, seed: u64) -> Vec<Point> {
    let mut random = Random::new(seed);
    let mut points = Vec::new();
    for (phase, share) in [
        (Phase::Updater, 12),
        (Phase::Host, 10),
        (Phase::Supervisor, 4),
        (Phase::Version, 4),
    ] {
        for (bad, part) in [(false, 2), (true, 1)] {
            let all = match phase {
                Phase::Updater | Phase::Host => boundaries.updater[usize::from(bad)],
                Phase::Supervisor => boundaries.supervisor[usize::from(bad)],
                // A bad one dies by itself.
                Phase::Version if bad => continue,
                Phase::Version => boundaries.version_ms,
            };
            let part = if phase == Phase::Version { 3 } else { part };
            let full = number == u64::MAX && matches!(phase, Phase::Updater | Phase::Host);
            let wanted = match number {
                u64::MAX => 1_000,
                number => number,
            };
            let count = if full {
                all
            } else {
                (wanted * share * part).div_ceil(120)
            };
            for at in spread(all, count, &mut random) {
                points.push(Point {
                    bad,
                    ..Point::once(phase, at)
                });
            }
            if !matches!(phase, Phase::Updater | Phase::Host) {
                continue;
            }
            // As often again: the recovery dies too.
            let twice = (wanted * share * part).div_ceil(240);
            for at in spread(all, twice, &mut random) {
                points.push(Point {
                    bad,
                    again: Some(1 + random.below(all)),
                    ..Point::once(phase, at)
                });
            }
        }
    }
    random.shuffle(&mut points);
    points
}

/// Power cuts at boundaries of the updater, a fifth of them with a second one in the recovery.
pub(super) fn cuts(boundaries: &Boundaries, number: u64, seed: u64) -> Vec<Point> {
    let mut random = Random::new(seed ^ 0x9e37);
    let mut points = Vec::new();
    for (bad, part) in [(false, 2), (true, 1)] {
        let all = boundaries.updater[usize::from(bad)];
        let count = match number {
            u64::MAX => all,
            number => (number * part).div_ceil(3),
        };
        for at in spread(all, count, &mut random) {
            points.push(Point {
                bad,
                again: (random.below(5) == 0).then(|| 1 + random.below(all)),
                power: Some(random.below(1_000_000)),
                ..Point::once(Phase::Host, at)
            });
        }
    }
    random.shuffle(&mut points);
    points
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

    const BOUNDARIES: Boundaries = Boundaries {
        updater: [3000, 2500],
        supervisor: [400, 300],
        version_ms: 10_000,
    };

    #[test]
    fn a_point_reads_back_as_it_is_shown() {
        for text in [
            "updater:1",
            "bad-host:57+33",
            "host:12~8",
            "host:3+4~5",
            "version:900",
        ] {
            assert_eq!(text.parse::<Point>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            "host:",
            "host:x",
            "host:1+",
            "host:1~x",
            "good-host:1",
        ] {
            assert!(text.parse::<Point>().unwrap_err().contains("host:57"));
        }
    }

    #[test]
    fn the_kills_are_about_as_many_as_wanted_and_of_every_kind() {
        let points = kills(&BOUNDARIES, 1000, 1);
        assert!((1000..1400).contains(&points.len()), "{}", points.len());
        for phase in Phase::ALL {
            assert!(points.iter().filter(|point| point.phase == phase).count() >= 100);
        }
        assert!(points.iter().filter(|point| point.again.is_some()).count() > 200);
        assert!(points.iter().filter(|point| point.bad).count() > 200);
        let every = kills(&BOUNDARIES, u64::MAX, 1);
        let once = |point: &&Point| point.phase == Phase::Host && point.again.is_none();
        assert_eq!(every.iter().filter(once).count(), 5500);
    }

    #[test]
    fn a_seed_repeats_and_cuts_are_of_everything() {
        let show = |points: Vec<Point>| points.iter().map(Point::to_string).collect::<Vec<_>>();
        assert_eq!(
            show(cuts(&BOUNDARIES, 300, 7)),
            show(cuts(&BOUNDARIES, 300, 7))
        );
        let cut = cuts(&BOUNDARIES, 300, 7);
        assert_eq!(cut.len(), 300);
        assert!(
            cut.iter()
                .all(|point| point.power.is_some() && point.phase == Phase::Host)
        );
    }
}
