//! One of several fleets that are tortured side by side: its controller, and a fresh host for each
//! crash point. It brings every host from the crash to an accepted heartbeat, with nothing but
//! what an operator would do: the same command with the same token, or the agent's next start.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::Pid;

use super::point::{Phase, Point};
use super::promise::{self, Bound};
use crate::build::Programs;
use crate::lab::Lab;
use crate::lab::fleet::{AGENT, CONTROLLER, Fleet, Token};
use crate::lab::host::{COMMAND_WITHIN, Host};
use crate::lab::machine::Machine;
use crate::shell;
use crate::torture::power::Recorder;
use crate::torture::random::Random;
use crate::torture::trace::{self, Ended, Followed, Next};

/// The shortest that a controller may ask for.
const HEARTBEAT_S: u32 = 1;
/// From a start to an accepted heartbeat it takes a fraction of a second; the host's retries wait
/// a few seconds at most after a short outage. Long for machines that are busy.
const BEAT_WITHIN: Duration = Duration::from_secs(40);
/// How often the agent is asked for its heartbeat. Each question is a dozen of its boundaries, so
/// seldom enough that most boundaries are its own.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// The credential's name in the unit.
const CREDENTIAL: &str = "registration-token";
/// What the traced programs say.
pub(super) const TRACED: &str = "traced";

/// See the module's page.
pub(crate) struct Shard {
    lab: Lab,
    fleet: Fleet,
    /// Every token that was made, and what came of it.
    bound: Vec<Bound>,
}

impl Shard {
    /// A fleet whose controller runs.
    pub(crate) fn open(programs: Programs) -> Result<Self> {
        let mut lab = Lab::open_in_memory()?;
        let fleet = Fleet::new(&lab, programs, Machine::Here, HEARTBEAT_S, "")?;
        fleet.init_controller()?;
        fleet.start_controller(&mut lab)?;
        Ok(Self {
            lab,
            fleet,
            bound: Vec::new(),
        })
    }

    /// Crashes at `point` and repairs nothing: the promise must hold. Returns how many boundaries
    /// the program came to, and whether it was killed at the one that was meant.
    pub(crate) fn crash(&mut self, point: Point) -> Result<Ended> {
        let outcome = self.try_crash(point);
        if outcome.is_err() {
            // Whatever runs on must not disturb the next point.
            self.lab.stop(AGENT)?;
            self.restart_controller()?;
        }
        outcome
    }

    /// Every promise that only the controller's tables can tell about, for all points together.
    pub(crate) fn judge(&self) -> Result<Vec<String>> {
        promise::of_tables(&self.fleet, &self.lab, &self.bound)
    }

    fn try_crash(&mut self, point: Point) -> Result<Ended> {
        let number = self.bound.len();
        let host = self
            .fleet
            .add_host(&format!("{}-{number}", point.phase.name()))?;
        let token = self.fleet.create_token()?;
        self.bound.push(Bound {
            point,
            key: token.key.clone(),
            token: token.text.clone(),
            server: None,
        });
        let ended = match point.phase {
            Phase::Enroll => self.crash_enroll(&host, &token, point)?,
            Phase::Credential => self.crash_credential(&host, &token, point)?,
            Phase::Agent => self.crash_agent(&host, &token, point)?,
            Phase::Controller => self.crash_controller(&host, &token, point)?,
        };
        self.lab.stop(AGENT)?;
        self.bound[number].server = Some(promise::of_files(&host, &token)?);
        fs::remove_dir_all(host.folder())
            .with_context(|| format!("cannot remove {}", host.folder().display()))?;
        Ok(ended)
    }

    fn crash_enroll(&mut self, host: &Host, token: &Token, point: Point) -> Result<Ended> {
        let mut command = host.cli();
        command.arg("enroll");
        let ended = self.kill_at(host, &command, token, point, || false)?;
        ensure!(
            ended.killed || ended.status == Some(0),
            "`vpn-node enroll` failed without a crash ({ended:?})"
        );
        host.enroll(&token.text)
            .context("the same token does not finish the enrolment")?;
        self.beat(host.agent(), host, 0)?;
        Ok(ended)
    }

    fn crash_credential(&mut self, host: &Host, token: &Token, point: Point) -> Result<Ended> {
        let folder = host.folder().join("credentials");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .and_then(|()| fs::write(folder.join(CREDENTIAL), &token.text))
            .context("cannot write the credential")?;
        let mut agent = host.agent();
        agent.env("CREDENTIALS_DIRECTORY", &folder);
        let ended = self.kill_at(host, &agent, token, point, || beats(host))?;
        // Both ways to the end: the unit starts again, or a person takes over with the command.
        if point.at % 2 == 1 {
            host.enroll(&token.text)
                .context("the same token does not finish the enrolment by command")?;
            agent = host.agent();
        }
        self.beat(agent, host, 0)?;
        fs::remove_dir_all(&folder).context("cannot remove the credential")?;
        Ok(ended)
    }

    fn crash_agent(&mut self, host: &Host, token: &Token, point: Point) -> Result<Ended> {
        host.enroll(&token.text)?;
        let ended = self.kill_at(host, &host.agent(), token, point, || beats(host))?;
        self.beat(host.agent(), host, 0)?;
        Ok(ended)
    }

    /// The host enrols and beats while its controller dies, and comes back, and dies.
    fn crash_controller(&mut self, host: &Host, token: &Token, point: Point) -> Result<Ended> {
        let mut deaths = vec![point.at];
        deaths.extend(point.again);
        let mut controller = Mortal::follow(self, point, deaths)?;
        let mut command = host.cli();
        command.arg("enroll");
        let input = token.text.clone().into_bytes();
        let enrolling = thread::spawn(move || shell::output(command, Some(&input), COMMAND_WITHIN));
        while !enrolling.is_finished() {
            shell::check_interrupted()?;
            controller.revive(self)?;
            thread::sleep(ASK_AGAIN);
        }
        let output = enrolling
            .join()
            .map_err(|_| anyhow!("a thread panicked"))??;
        if !output.status.success() {
            controller.revive(self)?;
            host.enroll(&token.text)
                .context("the same token does not finish the enrolment")?;
        }
        self.lab.start(AGENT, host.agent())?;
        let deadline = Instant::now() + BEAT_WITHIN;
        while controller.is_mortal() && Instant::now() < deadline {
            shell::check_interrupted()?;
            controller.revive(self)?;
            // Its first accepted heartbeat is the end of the phase.
            if beats(host) {
                controller.kill();
            }
            thread::sleep(ASK_AGAIN);
        }
        let since = now_ms();
        let ended = controller.first.context("the controller was not killed")?;
        self.wait_for_beat(host, since)?;
        Ok(ended)
    }

    /// Runs `command` and kills it at the point's boundary, or when `enough` says so; then the
    /// same again if the point says so. The end of the first run is returned.
    fn kill_at(
        &mut self,
        host: &Host,
        command: &Command,
        token: &Token,
        point: Point,
        enough: impl Fn() -> bool,
    ) -> Result<Ended> {
        let mut first = None;
        for at in [Some(point.at), point.again].into_iter().flatten() {
            let recorder = recorder(point, &host.state_dir())?;
            let input = token.text.clone().into_bytes();
            let followed =
                trace::start(command, input, self.log()?, observe(at, recorder.clone()))?;
            let deadline = Instant::now() + BEAT_WITHIN;
            while !followed.is_over() {
                shell::check_interrupted()?;
                ensure!(
                    Instant::now() < deadline,
                    "no heartbeat was accepted within {} s of a start under the tracer",
                    BEAT_WITHIN.as_secs()
                );
                thread::sleep(ASK_AGAIN);
                if enough() {
                    followed.kill();
                }
            }
            let ended = followed.end()?;
            if ended.killed {
                cut_power(recorder, point)?;
            }
            first.get_or_insert(ended);
        }
        first.context("nothing ran")
    }

    /// Starts the agent and waits for [`Self::wait_for_beat`].
    fn beat(&mut self, agent: Command, host: &Host, since_ms: i64) -> Result<()> {
        self.lab.start(AGENT, agent)?;
        self.wait_for_beat(host, since_ms)
    }

    /// Until the controller has accepted a heartbeat and, which may take one more, verified the host.
    fn wait_for_beat(&mut self, host: &Host, since_ms: i64) -> Result<()> {
        let what = "an accepted heartbeat of a verified host";
        self.lab.wait_for(what, BEAT_WITHIN, || {
            let accepted = host.accepted_heartbeat();
            Ok(accepted
                .filter(|at| *at >= since_ms && host.is_verified())
                .map(drop))
        })
    }

    fn restart_controller(&mut self) -> Result<()> {
        self.lab.stop(CONTROLLER)?;
        self.fleet.start_controller(&mut self.lab).map(drop)
    }

    fn log(&self) -> Result<Stdio> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.lab.log(TRACED));
        log.map(Stdio::from).context("cannot open a log")
    }
}

/// A controller that dies where it was said, and is started again each time.
struct Mortal {
    point: Point,
    alive: Option<(Followed, Option<SharedRecorder>)>,
    /// The boundaries of its deaths, the next one last.
    deaths: Vec<u64>,
    first: Option<Ended>,
}

impl Mortal {
    fn follow(shard: &mut Shard, point: Point, mut deaths: Vec<u64>) -> Result<Self> {
        deaths.reverse();
        // Started anew for each point, so that boundaries mean the same each time.
        let mut mortal = Self {
            point,
            alive: None,
            deaths,
            first: None,
        };
        shard.restart_controller()?;
        mortal.follow_next(shard)?;
        Ok(mortal)
    }

    fn follow_next(&mut self, shard: &mut Shard) -> Result<()> {
        let Some(at) = self.deaths.pop() else {
            return Ok(());
        };
        let recorder = recorder(self.point, &shard.fleet.data_dir())?;
        let pid = shard
            .lab
            .pid(CONTROLLER)
            .context("the controller does not run")?;
        let followed = trace::attach(pid, observe(at, recorder.clone()))?;
        self.alive = Some((followed, recorder));
        Ok(())
    }

    /// If it has died: loses power if it must, and starts again.
    fn revive(&mut self, shard: &mut Shard) -> Result<()> {
        match self.alive.take() {
            Some((followed, recorder)) if followed.is_over() => {
                let ended = followed.end()?;
                shard.lab.forget(CONTROLLER)?;
                if ended.killed {
                    cut_power(recorder, self.point)?;
                }
                self.first.get_or_insert(ended);
                shard.fleet.start_controller(&mut shard.lab)?;
                self.follow_next(shard)
            }
            alive => {
                self.alive = alive;
                Ok(())
            }
        }
    }

    fn kill(&self) {
        self.alive.iter().for_each(|(followed, _)| followed.kill());
    }

    /// Whether it has a death before it.
    fn is_mortal(&self) -> bool {
        self.alive.is_some()
    }
}

type SharedRecorder = Arc<Mutex<Recorder>>;

fn recorder(point: Point, folder: &Path) -> Result<Option<SharedRecorder>> {
    let recorder = point.power.map(|_| Recorder::new(folder)).transpose()?;
    Ok(recorder.map(|recorder| Arc::new(Mutex::new(recorder))))
}

fn observe(
    at: u64,
    recorder: Option<SharedRecorder>,
) -> impl FnMut(u64, Pid) -> Next + Send + 'static {
    move |stop, thread| {
        if let Some(recorder) = &recorder {
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            recorder.observe(thread);
        }
        if stop == at { Next::Kill } else { Next::GoOn }
    }
}

fn cut_power(recorder: Option<SharedRecorder>, point: Point) -> Result<()> {
    let Some((recorder, seed)) = recorder.zip(point.power) else {
        return Ok(());
    };
    let Some(recorder) = Arc::into_inner(recorder) else {
        bail!("the tracer still records");
    };
    let recorder = recorder
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    recorder.cut(&mut Random::new(seed))
}

fn beats(host: &Host) -> bool {
    host.accepted_heartbeat().is_some()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
