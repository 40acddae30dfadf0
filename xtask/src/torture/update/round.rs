//! One host, one update, one crash (or two), and nobody who helps: what it comes to is judged.

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpn_node_release::version::Version;

use super::agent;
use super::point::{Phase, Point};
use super::promise::{self, Found};
use super::releases::Releases;
use super::tree::{REQUEST, Tree};
use super::watch::{Death, Watch, Who};
use super::{BAD, GOOD};
use crate::lab::Lab;
use crate::shell;
use crate::torture::trace::{self, Followed};

/// Three tries of half a minute each on a machine that is busy.
const RESTS_WITHIN: Duration = Duration::from_secs(240);
/// The stable agent is started at once, or after a second, two, four.
const ANSWERS_WITHIN: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a round is made of.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) lab: &'a Lab,
    pub(super) template: &'a Tree,
    pub(super) releases: &'a Releases,
    /// The disk ignores fsync(2): a fault that must be found.
    pub(super) deaf: bool,
}

/// How a round went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Went {
    /// Boundaries of the supervisor and of the updaters.
    pub(super) counted: [u64; 2],
    /// Whether the crash that was meant came.
    pub(super) crashed: bool,
    /// Whether the new version stayed.
    pub(super) installed: bool,
}

impl Scene<'_> {
    /// Plays `point` in `folder`. An error is a broken promise, as a sentence.
    pub(super) fn play(&self, folder: &Path, point: Point) -> Result<Went> {
        let tree = self.template.copy_to(folder)?;
        let version = if point.bad { &BAD } else { &GOOD };
        self.releases
            .of(version)
            .deliver(&tree.layout.incoming(), REQUEST)?;
        let mut round = Round {
            scene: self,
            tree: &tree,
            before: Found::look(&tree)?,
        };
        let went = round.play(point, version);
        match went {
            Ok(went) => {
                fs::remove_dir_all(folder)?;
                Ok(went)
            }
            Err(error) => {
                let log = fs::read_to_string(tree.log_path()).unwrap_or_default();
                let said = shell::last_lines(log.trim_end(), 8);
                let history = fs::read_to_string(tree.layout.history()).unwrap_or_default();
                let said = format!("{said}\nits history:\n{history}");
                Err(error.context(format!("the host said:\n{}", shell::indent(&said))))
            }
        }
    }
}

struct Round<'a> {
    scene: &'a Scene<'a>,
    tree: &'a Tree,
    /// What may not be fallen back behind.
    before: Found,
}

impl Round<'_> {
    fn play(&mut self, point: Point, version: &Version) -> Result<Went> {
        let (who, alone) = match point.phase {
            Phase::Updater => (Who::Updater, true),
            Phase::Host => (Who::Updater, false),
            Phase::Supervisor => (Who::Supervisor, false),
            Phase::Version => (Who::Other, true),
        };
        let death = |at| Death { who, at, alone };
        let crashes: Vec<Death> = [Some(point.at), point.again]
            .into_iter()
            .flatten()
            .map(death)
            .collect();
        let mut went = Went::default();
        if alone {
            let watch = Watch::default();
            let followed = self.start(&watch, crashes)?;
            if point.phase == Phase::Version {
                went.crashed = self.kill_version(&followed, version, point.at)?;
            }
            wait_for_rest(self.tree, &followed)?;
            went.crashed |= watch.died() > 0;
            went.counted = watch.counted();
            self.judge(point, version, &mut went)?;
            return Ok(went);
        }
        for death in crashes {
            let watch = match point.power {
                Some(_) => Watch::recording(self.tree, self.scene.deaf)?,
                None => Watch::default(),
            };
            let followed = self.start(&watch, vec![death])?;
            let ended = self.until_dead_or_at_rest(followed)?;
            went.crashed |= watch.died() > 0;
            if went.counted == [0, 0] {
                went.counted = watch.counted();
            }
            if let (Some(seed), true) = (point.power, watch.died() > 0) {
                watch.cut(seed)?;
            }
            self.check_now()?;
            if !ended {
                // It came to rest before: there is nothing to kill any more.
                break;
            }
            self.tree.clear_run();
        }
        let followed = self.start(&Watch::default(), Vec::new())?;
        wait_for_rest(self.tree, &followed)?;
        self.judge(point, version, &mut went)?;
        Ok(went)
    }

    fn start(&self, watch: &Watch, deaths: Vec<Death>) -> Result<Followed> {
        let supervise = self.tree.command(&["supervise"]);
        trace::start(&supervise, Vec::new(), self.tree.log()?, watch.ask(deaths))
    }

    /// Whether everything died; what did not is dead afterwards.
    fn until_dead_or_at_rest(&self, followed: Followed) -> Result<bool> {
        let deadline = Instant::now() + RESTS_WITHIN;
        let mut rested = 0;
        while !followed.is_over() {
            shell::check_interrupted()?;
            ensure!(
                Instant::now() < deadline,
                "it neither died nor came to rest"
            );
            thread::sleep(LOOK_AGAIN);
            // Its last words come after the journal's.
            rested = if self.rests() { rested + 1 } else { 0 };
            if rested > 5 {
                break;
            }
        }
        let died = followed.is_over();
        drop(followed);
        wait_for_silence(self.tree)?;
        Ok(died)
    }

    /// Kills the new version so long after its start. False if it was over before.
    fn kill_version(&self, followed: &Followed, version: &Version, after_ms: u64) -> Result<bool> {
        let deadline = Instant::now() + RESTS_WITHIN;
        let pid = loop {
            shell::check_interrupted()?;
            ensure!(Instant::now() < deadline, "the new version was not started");
            ensure!(!followed.is_over(), "the supervisor ended");
            let starts = agent::starts(&self.tree.root)?;
            if let Some(start) = starts.iter().find(|start| start.version == *version) {
                break start.pid;
            }
            thread::sleep(Duration::from_millis(5));
        };
        shell::pause(Duration::from_millis(after_ms))?;
        // Its number is another's only if it was buried already: then a wrong one would die, so
        // the name decides.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let lives = String::from_utf8_lossy(&line).contains(&*self.tree.root.to_string_lossy());
        Ok(lives && kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL).is_ok())
    }

    fn rests(&self) -> bool {
        promise::rests(&self.tree.layout)
    }

    fn check_now(&mut self) -> Result<()> {
        let found = Found::look(self.tree)?;
        let broken = promise::always(&found, &self.before, self.scene.releases);
        ensure!(
            broken.is_empty(),
            "right after the crash: {}",
            broken.join("; ")
        );
        self.before = found;
        Ok(())
    }

    fn judge(&mut self, point: Point, version: &Version, went: &mut Went) -> Result<()> {
        let found = Found::look(self.tree)?;
        let mut broken = promise::always(&found, &self.before, self.scene.releases);
        broken.extend(promise::at_rest(&found));
        went.installed = found.stable().as_ref() == Some(version);
        let ending = found.endings().last();
        let shown = format!("{ending:?}");
        // What two deaths do not excuse: three tries are allowed.
        match point.phase {
            Phase::Version => {}
            _ if point.bad && went.installed => broken.push("a broken release stayed".to_owned()),
            _ if !point.bad && !went.installed => {
                broken.push(format!("a good release was not installed: {shown}"));
            }
            _ => {}
        }
        ensure!(
            broken.is_empty(),
            "at rest: {} ({shown})",
            broken.join("; ")
        );
        Ok(())
    }
}

/// Until nobody has anything left to do, and the stable agent answers.
pub(super) fn wait_for_rest(tree: &Tree, followed: &Followed) -> Result<()> {
    rests_within(tree, followed, RESTS_WITHIN)
}

/// As [`wait_for_rest`], in less time.
pub(super) fn rests_within(tree: &Tree, followed: &Followed, time: Duration) -> Result<()> {
    let started = Instant::now();
    let mut rested_at = None;
    loop {
        shell::check_interrupted()?;
        ensure!(!followed.is_over(), "the supervisor ended");
        thread::sleep(LOOK_AGAIN);
        if !promise::rests(&tree.layout) {
            rested_at = None;
            if started.elapsed() > time {
                let broken = promise::at_rest(&Found::look(tree)?);
                bail!("after {} s: {}", time.as_secs(), broken.join("; "));
            }
            continue;
        }
        let since: Instant = *rested_at.get_or_insert_with(Instant::now);
        let stable = Found::look(tree)?.stable();
        let report = tree.report();
        let is_stable = report
            .as_ref()
            .is_ok_and(|report| stable.is_some_and(|stable| stable.to_string() == report.version));
        // A moment longer: the updater may have its last words to write.
        if is_stable && since.elapsed() > 5 * LOOK_AGAIN && !works(tree) {
            return Ok(());
        }
        if since.elapsed() > ANSWERS_WITHIN {
            bail!("the host rests, and its stable agent does not answer: {report:?}");
        }
    }
}

/// Until so many agents have been started.
pub(super) fn wait_for_start(tree: &Tree, count: usize) -> Result<()> {
    let deadline = Instant::now() + ANSWERS_WITHIN;
    while agent::starts(&tree.root)?.len() < count {
        shell::check_interrupted()?;
        ensure!(Instant::now() < deadline, "the agent was not started");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether an updater runs.
fn works(tree: &Tree) -> bool {
    let lock = File::open(tree.layout.lock()).ok();
    lock.is_some_and(|lock| Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_err())
}

/// Until whoever was killed is really gone: it could still write.
pub(super) fn wait_for_silence(tree: &Tree) -> Result<()> {
    let deadline = Instant::now() + ANSWERS_WITHIN;
    loop {
        let running = File::open(tree.root.with_file_name("running")).ok();
        let gone =
            running.is_none_or(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok());
        if gone && !works(tree) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a process outlived everything");
        thread::sleep(Duration::from_millis(5));
    }
}
