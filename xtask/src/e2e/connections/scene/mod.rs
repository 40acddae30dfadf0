//! Where the scenarios of one daemon play: a lab with a controller, an agent and the daemon.
//!
//! A scenario does things by its methods and states what is true now: [`Scene::began`] a session,
//! [`Scene::ends`] it. Then the controller's rows are awaited that tell exactly that ([`settle`]).
//! Owns what was stated, and which scenario stated it.

mod settle;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::lan::{Client, Lan};
use super::session::{End, Row, Session, Window};
use crate::build::Programs;
use crate::lab::fleet::{AGENT, Fleet};
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
    /// It has been told, or cannot be judged.
    broken: bool,
}

/// Names a stated session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionNo(usize);

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
            broken: false,
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
        let backend = self.backend;
        let what = format!("the row of {}'s session {what}", session.identity);
        let is_it = |row: &Row| {
            let earliest = session.started.from_ms - session.start_within_ms;
            let latest = session.started.to_ms + session.start_within_ms;
            session.is_of(backend, row) && (earliest..=latest).contains(&row.started_ms)
        };
        self.wait_for_rows(&what, within, |rows| {
            rows.into_iter().find(|row| is_it(row) && wanted(row))
        })
    }

    /// All rows, once `wanted` finds in them what it looks for.
    pub(super) fn wait_for_rows<T>(
        &mut self,
        what: &str,
        within: Duration,
        wanted: impl Fn(Vec<Row>) -> Option<T>,
    ) -> Result<T> {
        self.wait_for(what, within, |fleet| {
            let found = wanted(rows(fleet)?);
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

/// All rows of connections.
fn rows(fleet: &Fleet) -> Result<Vec<Row>> {
    let rows = fleet.rows(&["connections", "list", "--limit", ALL_ROWS], "connections")?;
    let rows = rows.iter().map(|row| {
        Row::read(row).with_context(|| format!("a connection without id or start: {row}"))
    });
    rows.collect()
}

/// The clock of all instants here, which is the agent's and the controller's too.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
