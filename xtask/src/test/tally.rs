//! Counting: what passed, failed and was skipped, and why.

use std::fmt;

/// The count so far. A check without tests of its own counts as one.
#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<String>,
    reasons: Vec<String>,
}

/// What a test runner reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    /// One check ended.
    pub(crate) fn check(&mut self, name: &str, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(name.to_owned());
        }
    }

    /// One check could not run here.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        anstream::println!("skipped: {name}: {why}");
        self.skipped += 1;
        self.reasons.push(format!("{name}: {why}"));
    }

    /// A test runner ended with this exit status. Without counts it failed to run at all.
    pub(crate) fn tests(&mut self, name: &str, counts: Option<Counts>, succeeded: bool) {
        let counts = counts.unwrap_or_default();
        self.passed += counts.passed;
        self.failed += counts.failed;
        self.skipped += counts.skipped;
        if counts.skipped > 0 {
            self.reasons.push(format!(
                "{name}: {} ignored or filtered out",
                counts.skipped
            ));
        }
        if !succeeded && counts.failed == 0 {
            self.failed += 1;
        }
        if !succeeded {
            self.failures.push(name.to_owned());
        }
    }

    pub(crate) fn all_well(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "failed: {failure}")?;
        }
        for reason in &self.reasons {
            writeln!(f, "skipped: {reason}")?;
        }
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Reads nextest's line `Summary [ 1.2s] 5 tests run: 3 passed (1 slow), 2 failed, 1 skipped`.
pub(crate) fn of_nextest(text: &str) -> Option<Counts> {
    let line = text
        .lines()
        .rev()
        .find(|line| line.trim_start().starts_with("Summary ["))?;
    let after = line.split_once("run:")?.1;
    // A test that timed out or could not start is a failure to us.
    let failed = ["failed", "timed out", "exec failed"];
    Some(Counts {
        passed: number_before(after, "passed"),
        failed: failed.iter().map(|word| number_before(after, word)).sum(),
        skipped: number_before(after, "skipped"),
    })
}

/// Reads all lines `test result: ok. 3 passed; 0 failed; 1 ignored; …` of cargo's own runner.
pub(crate) fn of_cargo_test(text: &str) -> Option<Counts> {
    let lines = text.lines().filter(|line| line.starts_with("test result:"));
    lines.fold(None, |sum, line| {
        let sum = sum.unwrap_or_default();
        Some(Counts {
            passed: sum.passed + number_before(line, "passed"),
            failed: sum.failed + number_before(line, "failed"),
            skipped: sum.skipped + number_before(line, "ignored"),
        })
    })
}

/// The number of a part like `2 failed`, where parts are separated by `,`, `;`, `.` or `(`.
fn number_before(line: &str, words: &str) -> usize {
    line.split([',', ';', '.', '('])
        .filter_map(|part| part.trim().split_once(' '))
        .find(|(_, after)| after.trim_end() == words)
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_is_read() {
        let text = "  PASS x\n     Summary [   0.010s] 7 tests run: 4 passed (1 slow), 2 failed, 1 timed out, 3 skipped\n";
        assert_eq!(
            of_nextest(text),
            Some(Counts {
                passed: 4,
                failed: 3,
                skipped: 3
            })
        );
        let stopped = "Summary [ 0.1s] 2/9 tests run: 1 passed, 1 failed, 0 skipped";
        assert_eq!(
            of_nextest(stopped),
            Some(Counts {
                passed: 1,
                failed: 1,
                skipped: 0
            })
        );
        assert_eq!(of_nextest("error: could not compile"), None);
    }

    #[test]
    fn cargo_test_is_summed_over_all_binaries() {
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured\n";
        assert_eq!(
            of_cargo_test(text),
            Some(Counts {
                passed: 4,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(of_cargo_test(""), None);
    }

    #[test]
    fn a_runner_that_fails_without_counts_is_one_failure() {
        let mut tally = Tally::default();
        tally.tests("tests", None, false);
        assert!(!tally.all_well());
        assert_eq!(
            tally.to_string(),
            "failed: tests\n0 passed, 1 failed, 0 skipped"
        );
    }

    #[test]
    fn the_last_line_has_the_figures_and_the_reasons_stand_above() {
        let mut tally = Tally::default();
        tally.check("format", true);
        tally.tests(
            "tests",
            Some(Counts {
                passed: 3,
                failed: 0,
                skipped: 1,
            }),
            true,
        );
        tally.skip("cargo-deny", "not installed");
        assert!(tally.all_well());
        let text = tally.to_string();
        assert!(
            text.contains("skipped: cargo-deny: not installed\n"),
            "{text}"
        );
        assert!(text.ends_with("4 passed, 0 failed, 2 skipped"), "{text}");
    }
}
