//! The figures of both programs, their ratios, and what we aim at.

use std::fmt;
use std::time::Duration;

use super::process::Memory;

/// What one program cost.
pub(crate) struct Figures {
    pub(crate) memory: Memory,
    pub(crate) cpu_ms_per_minute: f64,
    pub(crate) start: Duration,
    /// Bytes.
    pub(crate) size: u64,
}

/// Both programs.
pub(crate) struct Table {
    pub(crate) agent: Figures,
    pub(crate) exporter: Figures,
}

struct Row {
    what: &'static str,
    agent: f64,
    exporter: f64,
    /// The largest ratio that is well; none for figures that are only shown.
    aim: Option<f64>,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.agent / self.exporter
    }

    fn is_missed(&self) -> bool {
        let ratio = self.ratio();
        self.aim.is_some_and(|aim| ratio > aim || ratio.is_nan())
    }
}

impl Table {
    /// A sentence for each aim that is missed.
    pub(crate) fn missed_aims(&self) -> Vec<String> {
        let missed = self.rows().into_iter().filter(Row::is_missed);
        missed
            .map(|row| {
                format!(
                    "{}: ratio {:.3}, aim {}",
                    row.what,
                    row.ratio(),
                    row.aim.unwrap_or(0.0)
                )
            })
            .collect()
    }

    fn rows(&self) -> [Row; 5] {
        let row = |what, aim, figure: fn(&Figures) -> f64| Row {
            what,
            agent: figure(&self.agent),
            exporter: figure(&self.exporter),
            aim,
        };
        [
            row("RSS, MB", None, |of| of.memory.rss_kib as f64 / 1024.0),
            row("PSS, MB", Some(0.25), |of| {
                of.memory.pss_kib as f64 / 1024.0
            }),
            row("CPU, ms a minute", Some(0.05), |of| of.cpu_ms_per_minute),
            row("start, ms", Some(0.25), |of| {
                of.start.as_secs_f64() * 1000.0
            }),
            row("binary, MB", Some(0.5), |of| of.size as f64 / 1e6),
        ]
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<18}{:>16}{:>16}{:>9}{:>9}",
            "", "vpn-node-agent", "node-exporter", "ratio", "aim"
        )?;
        for row in self.rows() {
            let aim = row.aim.map(|aim| format!("≤ {aim}")).unwrap_or_default();
            let verdict = if row.is_missed() { "  missed" } else { "" };
            writeln!(
                f,
                "{:<18}{:>16.1}{:>16.1}{:>9.3}{aim:>9}{verdict}",
                row.what,
                row.agent,
                row.exporter,
                row.ratio()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(scale: u64) -> Figures {
        Figures {
            memory: Memory {
                rss_kib: 20_480 * scale,
                pss_kib: 20_480 * scale,
            },
            cpu_ms_per_minute: 10.0 * scale as f64,
            start: Duration::from_millis(10 * scale),
            size: 1_000_000 * scale,
        }
    }

    #[test]
    fn aims_are_ratios() {
        let table = Table {
            agent: figures(1),
            exporter: figures(4),
        };
        // 1/4 meets 0.25 and 0.5, and misses 0.05.
        assert_eq!(
            table.missed_aims(),
            ["CPU, ms a minute: ratio 0.250, aim 0.05"]
        );
        let table = Table {
            agent: figures(1),
            exporter: figures(20),
        };
        assert!(table.missed_aims().is_empty());
    }

    #[test]
    fn a_figure_of_zero_on_both_sides_meets_nothing() {
        let mut table = Table {
            agent: figures(1),
            exporter: figures(20),
        };
        table.agent.cpu_ms_per_minute = 0.0;
        table.exporter.cpu_ms_per_minute = 0.0;
        assert_eq!(table.missed_aims().len(), 1);
        assert!(table.to_string().contains("missed"));
    }
}
