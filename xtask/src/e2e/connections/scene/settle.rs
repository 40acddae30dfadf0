//! Whether the controller's rows tell what the scenarios of a [`Scene`] stated.
//!
//! For what plays the scenarios; a scenario itself only calls [`Scene::settle`], to have what it
//! stated so far judged before it goes on.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::super::session::{self, Session};
use super::{ROWS_EVERY, Scene, Stated, rows};
use crate::lab::fleet::{AGENT, CONTROLLER};
use crate::shell;

/// What is wrong, and which scenario it breaks; without one it is nobody's.
pub(in crate::e2e::connections) struct Mistake {
    pub(in crate::e2e::connections) scenario: Option<&'static str>,
    pub(in crate::e2e::connections) told: String,
}

impl Scene {
    /// From here on statements are this scenario's, and so is what programs say.
    pub(in crate::e2e::connections) fn open(&mut self, scenario: &'static str) {
        self.scenario = scenario;
        self.said = self.sizes_of_logs();
        self.broken_aims.clear();
    }

    /// Waits until the rows tell what the open scenario stated, but for what shows later.
    pub(in crate::e2e::connections) fn settle(&mut self) -> Result<()> {
        let scenario = self.scenario;
        if let Some(aim) = self.broken_aims.pop() {
            bail!(aim);
        }
        self.settle_those(|stated| stated.scenario == scenario && !stated.later)
            .map_err(|mistakes| told(&mistakes))
    }

    /// Waits for all that shows later, then looks once more at everything, and at what nobody
    /// stated.
    pub(in crate::e2e::connections) fn settle_all(&mut self) -> Result<Vec<Mistake>> {
        if let Err(mistakes) = self.settle_those(|stated| stated.later) {
            self.say(&format!("{} in vain", mistakes.len()));
        }
        shell::check_interrupted()?;
        self.mistakes(|_| true, true)
    }

    /// When the last thing that shows later must show.
    pub(in crate::e2e::connections) fn last_due(&self) -> Option<Duration> {
        let later = self.stated.iter().filter(|stated| stated.later);
        let last = later.map(|stated| stated.by).max()?;
        Some(last.saturating_duration_since(Instant::now()))
    }

    fn settle_those(&mut self, which: impl Fn(&Stated) -> bool) -> Result<(), Vec<Mistake>> {
        loop {
            let mistakes = match self.mistakes(&which, false) {
                Ok(mistakes) => mistakes,
                Err(error) => vec![Mistake {
                    scenario: None,
                    told: format!("{error:#}"),
                }],
            };
            let due = self.stated.iter().filter(|stated| which(stated));
            let over = due.map(|stated| stated.by).max() <= Some(Instant::now());
            if mistakes.is_empty() {
                return Ok(());
            }
            if over || shell::pause(ROWS_EVERY).is_err() {
                return Err(mistakes);
            }
        }
    }

    fn mistakes(&self, which: impl Fn(&Stated) -> bool, strangers: bool) -> Result<Vec<Mistake>> {
        let rows = rows(&self.fleet, self.backend)?;
        let sessions: Vec<&Session> = self.stated.iter().map(|stated| &stated.session).collect();
        let judged = session::judge(&sessions, &rows);
        let mut mistakes = Vec::new();
        for (stated, wrong) in self.stated.iter().zip(judged.sessions) {
            if wrong.is_empty() || !which(stated) {
                continue;
            }
            let found = rows
                .iter()
                .filter(|row| row.identity == stated.session.identity)
                .map(|row| format!("\n  found:    {}", row.told(self.zero_ms)));
            let found: String = found.collect();
            mistakes.push(Mistake {
                scenario: Some(stated.scenario),
                told: format!(
                    "{}\n  expected: {}{}",
                    wrong.join("; "),
                    stated.session.told(self.backend, self.zero_ms),
                    if found.is_empty() {
                        "\n  found:    no row"
                    } else {
                        &found
                    }
                ),
            });
        }
        if strangers {
            let told = |at: usize| format!("nobody made this: {}", rows[at].told(self.zero_ms));
            mistakes.extend(judged.strangers.into_iter().map(|at| Mistake {
                scenario: None,
                told: told(at),
            }));
        }
        Ok(mistakes)
    }

    /// After a scenario that went wrong: the next one finds an agent and a controller.
    pub(in crate::e2e::connections) fn mend(&mut self) -> Result<()> {
        if !self.lab.runs(CONTROLLER)? {
            self.fleet.start_controller(&mut self.lab)?;
        }
        if !self.lab.runs(AGENT)? {
            self.start_agent()?;
        }
        Ok(())
    }

    /// How many sessions were stated.
    pub(in crate::e2e::connections) fn sessions(&self) -> usize {
        self.stated.len()
    }

    /// The figures for the line of verdict.
    pub(in crate::e2e::connections) fn figures(&self) -> Vec<String> {
        self.figures.values().cloned().collect()
    }

    /// The last words of these programs since the scenario began, and of agent and controller.
    pub(in crate::e2e::connections) fn words(&self, others: &[&str]) -> String {
        let names = [AGENT, CONTROLLER];
        let names = names.iter().chain(others);
        let said = |name: &&str| {
            let before = self.said.get(*name).copied().unwrap_or_default();
            self.lab.words_since(name, before)
        };
        names.map(said).collect()
    }

    fn sizes_of_logs(&self) -> BTreeMap<String, usize> {
        let logs = fs::read_dir(self.lab.path("logs")).into_iter().flatten();
        let size = |log: fs::DirEntry| {
            let bytes = usize::try_from(log.metadata().ok()?.len()).ok()?;
            let name = log.path().file_stem()?.to_str()?.to_owned();
            Some((name, bytes))
        };
        logs.flatten().filter_map(size).collect()
    }
}

/// Mistakes as one error.
fn told(mistakes: &[Mistake]) -> anyhow::Error {
    let told: Vec<&str> = mistakes.iter().map(|one| one.told.as_str()).collect();
    anyhow::anyhow!("{}", told.join("\n"))
}
