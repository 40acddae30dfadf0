//! The figures of both sides, their ratios, and what we aim at.

use std::fmt::Write as _;

/// Extra memory at 100,000 peers that is well, in MB.
const MEMORY_AIM: f64 = 10.0;
/// Growth of our CPU time from 10,000 to 100,000 peers that is well.
const GROWTH_AIM: f64 = 11.0;

/// What the prepared answers gave.
pub(super) struct Figures {
    pub(super) peers: Vec<Row>,
    /// The most memory with the most peers, less that with one.
    pub(super) extra_kib: u64,
}

/// One line of the table.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) ours: f64,
    pub(super) theirs: f64,
    aim: Aim,
}

enum Aim {
    /// Only shown.
    None,
    /// Ours divided by theirs is at most so much.
    Ratio(f64),
    /// Ours is at most so much, whatever theirs is.
    Most(f64),
}

impl Row {
    /// CPU times in milliseconds.
    pub(super) fn cpu(what: String, ours: f64, theirs: f64, aim: Option<f64>) -> Self {
        let aim = aim.map_or(Aim::None, Aim::Ratio);
        Self {
            what,
            ours,
            theirs,
            aim,
        }
    }

    /// Growth of CPU time from the small to the large prepared answer.
    pub(super) fn growth(ours: f64, theirs: f64) -> Self {
        Self {
            what: "growth to 10 times the peers".to_owned(),
            ours,
            theirs,
            aim: Aim::Most(GROWTH_AIM),
        }
    }

    /// Memory of the reading process beyond what it needs for one peer.
    pub(super) fn memory(extra_kib: u64) -> Self {
        Self {
            what: "memory of 100,000 peers, MB".to_owned(),
            ours: (extra_kib * 1024) as f64 / 1e6,
            theirs: f64::NAN,
            aim: Aim::Most(MEMORY_AIM),
        }
    }

    /// A sentence if the aim is missed. What is no number meets none.
    pub(super) fn missed(&self) -> Option<String> {
        let (figure, name, aim) = match self.aim {
            Aim::None => return None,
            Aim::Ratio(aim) => (self.ours / self.theirs, "ratio ", aim),
            Aim::Most(aim) => (self.ours, "", aim),
        };
        let met = figure <= aim;
        (!met).then(|| format!("{}: {name}{figure:.4}, aim {aim}", self.what))
    }
}

/// The whole table.
pub(super) fn show(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<30}{:>12}{:>12}{:>10}{:>10}\n",
        "CPU time of one reading, ms", "vpn-node", "the other", "ratio", "aim"
    );
    for row in rows {
        let number = |figure: f64| {
            if figure.is_nan() {
                "–".to_owned()
            } else {
                format!("{figure:.2}")
            }
        };
        let ratio = row.ours / row.theirs;
        let ratio = if ratio.is_nan() {
            "–".to_owned()
        } else {
            format!("{ratio:.4}")
        };
        let aim = match row.aim {
            Aim::None => String::new(),
            Aim::Ratio(aim) | Aim::Most(aim) => format!("≤ {aim}"),
        };
        let verdict = if row.missed().is_some() {
            "  missed"
        } else {
            ""
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<30}{:>12}{:>12}{ratio:>10}{aim:>10}{verdict}",
            row.what,
            number(row.ours),
            number(row.theirs),
        );
    }
    text.push_str(
        "The other is `wg show all dump`, for the reader the agent that asks the kernel itself, and \
         for the scrape prometheus_wireguard_exporter without the `wg` that it runs.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_a_ratio_or_a_most() {
        let cpu = |ours, aim| Row::cpu("a".to_owned(), ours, 10.0, aim).missed();
        assert_eq!(cpu(1.5, Some(0.15)), None);
        assert_eq!(cpu(1.6, Some(0.15)).unwrap(), "a: ratio 0.1600, aim 0.15");
        assert_eq!(cpu(9.0, None), None);
        assert!(Row::growth(11.1, 9.0).missed().is_some());
        assert_eq!(Row::growth(10.9, 9.0).missed(), None);
        assert_eq!(Row::memory(9_760).missed(), None);
        assert!(Row::memory(9_770).missed().is_some());
    }

    #[test]
    fn figures_of_zero_meet_nothing() {
        let row = Row::cpu("a".to_owned(), 0.0, 0.0, Some(0.15));
        assert!(row.missed().is_some());
        assert!(show(&[row]).contains("missed"));
    }
}
