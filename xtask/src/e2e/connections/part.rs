//! The part of one daemon: what it has to say for itself, its scenarios, and how they are played.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::scene::Scene;
use crate::apt;
use crate::build::Programs;
use crate::lab::Lab;
use crate::shell;

/// A VPN daemon, with whatever of it lives from scenario to scenario.
///
/// To add one: implement this in a file of its own, and add a line to `PARTS` in `mod.rs`. Daemons
/// run on [`Scene::host`], each client on a machine from [`Scene::new_client`]; both are started by
/// `scene.lab.start(NAME, machine.command(PROGRAM))`, ended by `scene.lab.stop` (SIGTERM) and
/// `scene.lab.crash` (SIGKILL). A program that ends by itself must be told to `scene.lab.forget`,
/// or the next wait fails. The lab's folder is seen by all machines: it is the place for
/// configurations and sockets. A machine's mounts are its own, so two daemons that insist on one
/// path get a tmpfs each: `machine.run(&["mount", "-t", "tmpfs", "tmpfs", PATH])`.
pub(super) trait Daemon: Sized {
    /// The `connection_type` of its rows, and its name on the command line.
    const NAME: &'static str;
    /// The Debian packages that it and its clients come in.
    const NEEDS: &'static [apt::Need];
    /// Names of programs whose logs are quoted when a scenario fails, besides agent and controller.
    const LOGS: &'static [&'static str];

    /// What else is missing here, as a sentence; nothing if all is well.
    fn obstacle() -> Result<Option<String>> {
        Ok(None)
    }

    /// Its section of agent.toml, from `[name]` on.
    fn settings(lab: &Lab) -> String;

    /// Starts the daemon on [`Scene::host`]. The agent runs already, and has been verified.
    fn start(scene: &mut Scene) -> Result<Self>;

    /// In the order in which they are played.
    fn scenarios() -> Vec<Scenario<Self>>;
}

/// How much is played: each also plays what the shorter ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Length {
    /// What CI has the time for.
    Short,
    Usual,
    Full,
}

/// One scenario.
pub(super) struct Scenario<D> {
    pub(super) name: &'static str,
    /// It is played in runs of this length and longer ones.
    pub(super) from: Length,
    /// Does things to the daemon and states what is true ([`Scene::began`], [`Scene::ends`]). An
    /// error breaks it, and the next is played.
    pub(super) play: fn(&mut D, &mut Scene) -> Result<()>,
}

/// Shorthand for a table of scenarios.
pub(super) fn scenario<D>(
    from: Length,
    name: &'static str,
    play: fn(&mut D, &mut Scene) -> Result<()>,
) -> Scenario<D> {
    Scenario { name, from, play }
}

/// A [`Daemon`] without its type, for the list of all.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) needs: &'static [apt::Need],
    pub(super) obstacle: fn() -> Result<Option<String>>,
    pub(super) play: fn(Programs, &str, Length) -> Result<Report>,
}

/// How a part went.
pub(super) struct Report {
    pub(super) name: &'static str,
    pub(super) scenarios: usize,
    pub(super) sessions: usize,
    /// The names of those that broke.
    pub(super) broken: Vec<&'static str>,
    pub(super) figures: Vec<String>,
}

impl Report {
    /// Of a part that could not be played.
    pub(super) fn failed(name: &'static str) -> Self {
        Self {
            name,
            scenarios: 0,
            sessions: 0,
            broken: vec!["it could not be played"],
            figures: Vec::new(),
        }
    }

    pub(super) fn broken_ones(&self) -> impl Iterator<Item = String> {
        let named = move |broken: &&str| format!("{}: {broken}", self.name);
        self.broken.iter().map(named)
    }

    pub(super) fn all_figures(&self) -> impl Iterator<Item = String> {
        let named = move |figure: &String| format!("{} {figure}, ", self.name);
        self.figures.iter().map(named)
    }
}

impl Part {
    pub(super) const fn of<D: Daemon>() -> Self {
        Self {
            name: D::NAME,
            needs: D::NEEDS,
            obstacle: D::obstacle,
            play: play::<D>,
        }
    }
}

/// Plays the scenarios of one daemon. `others` is the rest of agent.toml.
fn play<D: Daemon>(programs: Programs, others: &str, length: Length) -> Result<Report> {
    let mut scene = Scene::set(D::NAME, programs, |lab| {
        format!("{others}{}", D::settings(lab))
    })?;
    let mut daemon = D::start(&mut scene)
        .with_context(|| format!("{} does not come up", D::NAME))
        .inspect_err(|_| anstream::eprintln!("{}", scene.words(D::LOGS)))?;
    let scenarios: Vec<Scenario<D>> = D::scenarios()
        .into_iter()
        .filter(|scenario| scenario.from <= length)
        .collect();
    let mut report = Report {
        name: D::NAME,
        scenarios: scenarios.len(),
        sessions: 0,
        broken: Vec::new(),
        figures: Vec::new(),
    };
    for scenario in &scenarios {
        let begun = Instant::now();
        scene.open(scenario.name);
        let played = (scenario.play)(&mut daemon, &mut scene).and_then(|()| scene.settle());
        shell::check_interrupted()?;
        match played {
            Ok(()) => scene.say(&format!("ok      {} ({})", scenario.name, took(begun))),
            Err(error) => {
                report.broken.push(scenario.name);
                let told = format!("{error:#}{}", scene.words(D::LOGS));
                tell_broken(&scene, scenario.name, &told);
                scene.give_up();
                scene.mend()?;
            }
        }
    }
    if let Some(due) = scene.last_due() {
        let seconds = due.as_secs();
        scene.say(&format!(
            "waiting for the ends that show later (at most {seconds} s)"
        ));
    }
    for mistake in scene.settle_all()? {
        let name = mistake.scenario.unwrap_or("nothing else is counted");
        if !report.broken.contains(&name) {
            report.broken.push(name);
            let told = format!("in the end: {}{}", mistake.told, scene.words(D::LOGS));
            tell_broken(&scene, name, &told);
        }
    }
    report.sessions = scene.sessions();
    report.figures = scene.figures();
    Ok(report)
}

fn tell_broken(scene: &Scene, scenario: &str, told: &str) {
    scene.say(&format!(
        "BROKEN  {scenario}\n{}",
        shell::indent(told).trim_end()
    ));
}

fn took(begun: Instant) -> String {
    format!("{:.1} s", Duration::as_secs_f64(&begun.elapsed()))
}
