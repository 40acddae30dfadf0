//! Whether the controller's rows tell what the scenarios of a [`Scene`] stated.
//!
//! For what plays the scenarios; a scenario itself only calls [`Scene::settle`], to have what it
//! stated so far judged before it goes on.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::super::session::{self, Session};
use super::{ROWS_EVERY, Scene, Stated, rows};
use crate::lab::fleet::{AGENT, CONTROLLER};
use crate::shell;

/// What is wrong with one session or row.
pub(in crate::e2e::connections) struct Mistake {
    /// The place of the stated session; nothing for a row that nobody made.
    session: Option<usize>,
    /// The scenario that stated it.
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

    /// Waits until the rows tell what was stated so far, but for what shows later. Sessions of
    /// earlier scenarios are among it: whoever makes them flap breaks.
    pub(in crate::e2e::connections) fn settle(&mut self) -> Result<()> {
        self.settle_those(|stated| !stated.later)?;
        match self.broken_aims.pop() {
            Some(aim) => bail!(aim),
            None => Ok(()),
        }
    }

    /// Waits for all that shows later, then looks once more at everything: also at what nobody
    /// stated, and at what the controller knows to be lost.
    pub(in crate::e2e::connections) fn settle_all(&mut self) -> Result<Vec<Mistake>> {
        while let Some(due) = self.last_due() {
            let wrong = self.mistakes(|stated| stated.later)?;
            if due.is_zero() || wrong.iter().all(|mistake| mistake.session.is_none()) {
                break;
            }
            shell::pause(ROWS_EVERY)?;
        }
        let mut mistakes = self.mistakes(|_| true)?;
        if let Err(error) = self.nothing_lost() {
            shell::check_interrupted()?;
            mistakes.push(Mistake {
                session: None,
                scenario: None,
                told: format!("{error:#}"),
            });
        }
        Ok(mistakes)
    }

    fn nothing_lost(&self) -> Result<()> {
        let gaps = self.fleet.rows(&["connections", "gaps"], "gaps")?;
        ensure!(
            gaps.is_empty(),
            "the controller knows of lost records: {gaps:?}"
        );
        Ok(())
    }

    /// How long until the last thing that shows later must show.
    pub(in crate::e2e::connections) fn last_due(&self) -> Option<Duration> {
        let later = self.stated.iter().filter(|stated| stated.later);
        let last = later.map(|stated| stated.by).max()?;
        Some(last.saturating_duration_since(Instant::now()))
    }

    /// The error is the mistakes; the sessions that have them are not judged again.
    fn settle_those(&mut self, which: impl Fn(&Stated) -> bool) -> Result<()> {
        loop {
            let mut wrong = self.mistakes(&which)?;
            wrong.retain(|mistake| mistake.session.is_some());
            if wrong.is_empty() {
                return Ok(());
            }
            let due = self.stated.iter().filter(|stated| which(stated));
            if due.map(|stated| stated.by).max() > Some(Instant::now()) {
                shell::pause(ROWS_EVERY)?;
                continue;
            }
            let told: Vec<&str> = wrong.iter().map(|mistake| mistake.told.as_str()).collect();
            let told = told.join("\n");
            for session in wrong.iter().filter_map(|mistake| mistake.session) {
                self.stated[session].broken = true;
            }
            bail!(told);
        }
    }

    /// What is wrong with those sessions, and which rows are nobody's.
    fn mistakes(&self, which: impl Fn(&Stated) -> bool) -> Result<Vec<Mistake>> {
        let rows = rows(&self.fleet)?;
        let sessions: Vec<&Session> = self.stated.iter().map(|stated| &stated.session).collect();
        let judged = session::judge(self.backend, &sessions, &rows);
        let mut mistakes = Vec::new();
        for (at, wrong) in judged.sessions.into_iter().enumerate() {
            let stated = &self.stated[at];
            if wrong.is_empty() || stated.broken || !which(stated) {
                continue;
            }
            let of_identity = rows
                .iter()
                .filter(|row| stated.session.is_of(self.backend, row));
            let mut found: String = of_identity
                .map(|row| format!("\n  found:    {}", row.told(self.zero_ms)))
                .collect();
            if found.is_empty() {
                found = "\n  found:    no row".to_owned();
            }
            let expected = stated.session.told(self.backend, self.zero_ms);
            mistakes.push(Mistake {
                session: Some(at),
                scenario: Some(stated.scenario),
                told: format!("{}\n  expected: {expected}{found}", wrong.join("; ")),
            });
        }
        mistakes.extend(judged.strangers.into_iter().map(|at| Mistake {
            session: None,
            scenario: None,
            told: format!("nobody made this: {}", rows[at].told(self.zero_ms)),
        }));
        Ok(mistakes)
    }

    /// What a scenario stated that broke half-way may be wrong: it is not judged again.
    pub(in crate::e2e::connections) fn give_up(&mut self) {
        let scenario = self.scenario;
        let of_it = self.stated.iter_mut();
        of_it
            .filter(|stated| stated.scenario == scenario)
            .for_each(|stated| stated.broken = true);
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
