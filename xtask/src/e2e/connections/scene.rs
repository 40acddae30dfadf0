//! Where the scenarios of one daemon play: a lab with a controller, an agent and the daemon.
//!
//! A scenario does things by its methods and states what is true now: [`Scene::began`] a session,
//! [`Scene::ends`] it. [`Scene::settle`] then waits until the controller's rows tell exactly that.
//! Owns what was stated, and which scenario stated it.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lan::{Client, Lan};
use super::session::{self, End, Row, Session, Window};
use crate::build::Programs;
use crate::lab::fleet::{AGENT, CONTROLLER, Fleet};
use crate::lab::host::COMMAND_WITHIN;
use crate::lab::machine::Machine;
use crate::lab::{Lab, story::Story};
use crate::shell;

/// Seconds between heartbeats here (30 in production), so that a short run has several.
const HEARTBEAT_S: u32 = 2;
/// Within this the controller must show what the agent could see at once, on a machine that is
/// busy with four such scenes.
pub(super) const SOON: Duration = Duration::from_secs(30);
/// How often the controller's rows are read: reading starts a program, in four scenes at once.
const ROWS_EVERY: Duration = Duration::from_millis(250);
/// More than a run makes.
const ALL_ROWS: &str = "100000";

/// See the module's page.
pub(super) struct Scene {
    pub(super) lab: Lab,
    pub(super) fleet: Fleet,
    pub(super) lan: Lan,
    backend: &'static str,
    story: Story,
    zero_ms: i64,
    /// What is being played, for whom mistakes are blamed.
    scenario: &'static str,
    /// How long each program's log was when that began.
    said: BTreeMap<String, usize>,
    stated: Vec<Stated>,
    figures: BTreeMap<&'static str, String>,
    broken_aims: Vec<String>,
}

/// A session and what became of its row.
struct Stated {
    session: Session,
    /// The scenario that said something about it last.
    scenario: &'static str,
    /// When the row must tell it at the latest; not before then if `later`.
    by: Instant,
    later: bool,
}

/// Names a stated session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionNo(usize);

/// What is wrong, and which scenario it breaks; without one it is nobody's.
pub(super) struct Mistake {
    pub(super) scenario: Option<&'static str>,
    pub(super) told: String,
}

/// How a command of the controller's went.
pub(super) struct Told {
    pub(super) success: bool,
    /// Both streams.
    pub(super) text: String,
    pub(super) took: Duration,
}

impl Scene {
    /// Controller and agent run, the host is verified; `settings` is what agent.toml has besides.
    pub(super) fn set(
        backend: &'static str,
        programs: Programs,
        settings: impl FnOnce(&Lab) -> String,
    ) -> Result<Self> {
        let mut lab = Lab::open()?;
        let machine = Machine::boot(&mut lab, "vpn-host")?;
        let settings = settings(&lab);
        let fleet = Fleet::new(&lab, programs, machine, HEARTBEAT_S, &settings)?;
        let lan = Lan::lay(machine)?;
        fleet.init_controller()?;
        fleet.start_controller(&mut lab)?;
        fleet.host.enroll(&fleet.create_token()?.text)?;
        fleet.start_agent(&mut lab)?;
        lab.wait_for("the controller's verdict `verified`", SOON, || {
            let rows = fleet.rows(&["server", "list"], "servers")?;
            let verified = rows.iter().any(|row| row["verdict"] == "verified");
            Ok(verified.then_some(()))
        })?;
        Ok(Self {
            lab,
            fleet,
            lan,
            backend,
            story: Story::begin(),
            zero_ms: now_ms(),
            scenario: "",
            said: BTreeMap::new(),
            stated: Vec::new(),
            figures: BTreeMap::new(),
            broken_aims: Vec::new(),
        })
    }

    /// The VPN host, where the daemons run.
    pub(super) fn host(&self) -> Machine {
        self.fleet.machine
    }

    /// A new client's machine.
    pub(super) fn new_client(&mut self, name: &str) -> Result<Client> {
        self.lan.join(&mut self.lab, name)
    }

    /// Tells what happens.
    pub(super) fn say(&self, sentence: &str) {
        self.story.say(&format!("{}: {sentence}", self.backend));
    }

    /// A figure for the line of verdict; it takes the place of an earlier one of this name.
    pub(super) fn figure(&mut self, name: &'static str, figure: String) {
        self.say(&figure);
        self.figures.insert(name, figure);
    }

    /// Does `act`, and in which window of time it was done.
    pub(super) fn timed<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(Window, T)> {
        let from_ms = now_ms();
        let value = act(self)?;
        let to_ms = now_ms();
        Ok((Window { from_ms, to_ms }, value))
    }

    /// States that a session began.
    pub(super) fn began(&mut self, session: Session) -> SessionNo {
        self.stated.push(Stated {
            session,
            scenario: self.scenario,
            by: Instant::now() + SOON,
            later: false,
        });
        SessionNo(self.stated.len() - 1)
    }

    /// States how a session ended.
    pub(super) fn ends(&mut self, session: SessionNo, end: End) {
        self.ends_within(session, end, SOON);
        self.stated[session.0].later = false;
    }

    /// The same for an end that the agent can only know `within` some time. The scenario does not
    /// wait for it: others are played meanwhile, and the verdict on it comes last.
    pub(super) fn ends_within(&mut self, session: SessionNo, end: End, within: Duration) {
        let stated = &mut self.stated[session.0];
        stated.session.end = Some(end);
        stated.scenario = self.scenario;
        stated.by = Instant::now() + within;
        stated.later = true;
    }

    /// Whether the session has not been stated to have ended.
    pub(super) fn is_up(&self, session: SessionNo) -> bool {
        self.stated[session.0].session.end.is_none()
    }

    /// The controller's row of a stated session, once it is there.
    pub(super) fn row(&mut self, session: SessionNo) -> Result<Row> {
        self.row_that(session, "is there", SOON, |_| true)
    }

    /// The controller's row of a stated session, once it is as `wanted`; `what` completes the
    /// sentence "the row of …".
    pub(super) fn row_that(
        &mut self,
        session: SessionNo,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Row) -> bool,
    ) -> Result<Row> {
        let session = self.stated[session.0].session.clone();
        let what = format!("the row of {}'s session {what}", session.identity);
        let is_it = |row: &Row| {
            let earliest = session.started.from_ms - session.start_within_ms;
            let latest = session.started.to_ms + session.start_within_ms;
            row.identity == session.identity && (earliest..=latest).contains(&row.started_ms)
        };
        self.wait_for_rows(&what, within, |rows| {
            rows.into_iter().find(|row| is_it(row) && wanted(row))
        })
    }

    /// All rows of this daemon, once `wanted` finds in them what it looks for.
    pub(super) fn wait_for_rows<T>(
        &mut self,
        what: &str,
        within: Duration,
        wanted: impl Fn(Vec<Row>) -> Option<T>,
    ) -> Result<T> {
        let backend = self.backend;
        self.wait_for(what, within, |fleet| {
            let found = wanted(rows(fleet, backend)?);
            if found.is_none() {
                shell::pause(ROWS_EVERY)?;
            }
            Ok(found)
        })
    }

    /// Looks at `attempt` until it gives a value ([`Lab::wait_for`]).
    pub(super) fn wait_for<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut attempt: impl FnMut(&Fleet) -> Result<Option<T>>,
    ) -> Result<T> {
        let Self { lab, fleet, .. } = self;
        lab.wait_for(what, within, || attempt(fleet))
    }

    /// A command of the controller's, such as `["connections", "disconnect", ID]`.
    pub(super) fn controller(&self, words: &[&str]) -> Result<Told> {
        let mut command = self.fleet.controller();
        command.args(words);
        let begun = Instant::now();
        let output = shell::output(command, None, COMMAND_WITHIN)?;
        Ok(Told {
            success: output.status.success(),
            text: output.stdout + &output.stderr,
            took: begun.elapsed(),
        })
    }

    /// The same for one that must succeed.
    pub(super) fn order(&self, words: &[&str]) -> Result<Told> {
        let told = self.controller(words)?;
        if !told.success {
            bail!(
                "`vpn-node-controller {}` failed:\n{}",
                words.join(" "),
                shell::indent(&told.text).trim_end()
            );
        }
        Ok(told)
    }

    /// Ends the agent as a crash would (kill -9). Its state stays.
    pub(super) fn kill_agent(&mut self) -> Result<()> {
        self.lab.crash(AGENT)
    }

    /// Starts the agent again, with the state it left.
    pub(super) fn start_agent(&mut self) -> Result<()> {
        self.fleet.start_agent(&mut self.lab).map(drop)
    }

    /// An aim that was measured and missed breaks the scenario without ending it.
    pub(super) fn aim_missed(&mut self, sentence: String) {
        self.broken_aims.push(sentence);
    }
}

/// What runs the scenarios: not for them.
impl Scene {
    /// From here on statements are this scenario's, and so is what programs say.
    pub(super) fn open(&mut self, scenario: &'static str) {
        self.scenario = scenario;
        self.said = self.sizes_of_logs();
        self.broken_aims.clear();
    }

    /// Waits until the rows tell what the open scenario stated, but for what shows later.
    pub(super) fn settle(&mut self) -> Result<()> {
        let scenario = self.scenario;
        if let Some(aim) = self.broken_aims.pop() {
            bail!(aim);
        }
        self.settle_those(|stated| stated.scenario == scenario && !stated.later)
            .map_err(|mistakes| told(&mistakes))
    }

    /// Waits for all that shows later, then looks once more at everything, and at what nobody
    /// stated.
    pub(super) fn settle_all(&mut self) -> Result<Vec<Mistake>> {
        if let Err(mistakes) = self.settle_those(|stated| stated.later) {
            self.say(&format!("{} in vain", mistakes.len()));
        }
        shell::check_interrupted()?;
        self.mistakes(|_| true, true)
    }

    /// When the last thing that shows later must show.
    pub(super) fn last_due(&self) -> Option<Duration> {
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
    pub(super) fn mend(&mut self) -> Result<()> {
        if !self.lab.runs(CONTROLLER)? {
            self.fleet.start_controller(&mut self.lab)?;
        }
        if !self.lab.runs(AGENT)? {
            self.start_agent()?;
        }
        Ok(())
    }

    /// How many sessions were stated.
    pub(super) fn sessions(&self) -> usize {
        self.stated.len()
    }

    /// The figures for the line of verdict.
    pub(super) fn figures(&self) -> Vec<String> {
        self.figures.values().cloned().collect()
    }

    /// The last words of these programs since the scenario began, and of agent and controller.
    pub(super) fn words(&self, others: &[&str]) -> String {
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

/// All rows of one kind of daemon.
fn rows(fleet: &Fleet, backend: &str) -> Result<Vec<Row>> {
    let rows = fleet.rows(&["connections", "list", "--limit", ALL_ROWS], "connections")?;
    let rows = rows.iter().map(|row| {
        Row::read(row).with_context(|| format!("a connection without id or start: {row}"))
    });
    let rows = rows.collect::<Result<Vec<Row>>>()?;
    Ok(rows
        .into_iter()
        .filter(|row| row.backend == backend)
        .collect())
}

/// The clock of all instants here, which is the agent's and the controller's too.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
