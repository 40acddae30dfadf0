//! `cargo xtask vm [SUITE…]`: what only a real host can show: a Debian with its own kernel, real
//! systemd and kernel WireGuard, in a virtual machine whose power can be cut.
//!
//! [`host`] is what this machine needs for it, [`image`] the Debian, [`qemu`] one virtual machine,
//! [`guest`] the way to run commands in it. [`site`] is a host with its controller, [`survivor`]
//! one that has much to endure. Each suite is a file.

mod faults;
pub(crate) mod frames;
mod gate;
mod guest;
mod host;
mod image;
mod install;
mod page;
mod powercut;
mod qemu;
mod replay;
mod sandbox;
mod site;
mod smoke;
mod start;
mod survivor;
mod update;
mod user;
mod wireguard;
mod writelog;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use vpn_node_release::version::Version;

use self::image::Image;
use crate::build::{self, Programs};
use crate::lab::Lab;
use crate::package;
use crate::shell;

/// Arguments of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these suites; without one, all of them
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Also what takes more than a few minutes
    #[arg(long)]
    full: bool,
    /// Keep the folder of a suite that fails, with disks and logs, and say where it is
    #[arg(long)]
    keep: bool,
    /// Do not install Debian packages
    #[arg(long)]
    no_install: bool,
    /// What is left to chance follows from this
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// It is a failure when no virtual machine can run here
    #[arg(long)]
    must: bool,
}

/// What can be shown, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// The machine itself: boot, commands, files, a power cut, a saved state
    Smoke,
    /// From a stock Debian to a host of the fleet and back, by docs/install.md
    Install,
    /// A gated VPN runs only while its host is authorised
    Gate,
    /// A good release is kept, bad ones go by themselves
    Update,
    /// An unprivileged user reads nothing, commands nothing, disturbs nothing
    User,
    /// What each service must not do is denied to it, tried from inside
    Sandbox,
    /// The power goes at any instant: each time the host comes back as one that can be trusted
    Power,
    /// Full and read-only disks, wrong clocks, bad networks, no memory, kill -9
    Faults,
}

const ALL: [Suite; 8] = [
    Suite::Smoke,
    Suite::Install,
    Suite::Gate,
    Suite::Update,
    Suite::User,
    Suite::Sandbox,
    Suite::Power,
    Suite::Faults,
];

/// What a suite works with.
pub(crate) struct Stage {
    pub(crate) image: Image,
    /// A debug build: of them the controller runs beside the guest.
    pub(crate) programs: Programs,
    /// The packages that a guest installs.
    pub(crate) debs: Debs,
    /// For what one suite leaves to the next.
    folder: tempfile::TempDir,
    /// Whether there is time for everything.
    pub(crate) full: bool,
    /// Whether a failed suite leaves its folder.
    pub(crate) keep: bool,
    /// What is left to chance follows from this.
    pub(crate) seed: u64,
}

impl Stage {
    /// The disk of a machine that was saved with the package installed, once there is one.
    fn installed(&self) -> PathBuf {
        self.folder.path().join("installed.qcow2")
    }

    /// The end of a suite: one that failed leaves its folder and what runs, if it was asked to.
    fn end(&self, lab: Lab, outcome: Result<String>) -> Result<String> {
        let Err(error) = outcome else {
            return outcome;
        };
        if !self.keep || shell::was_interrupted(&error) {
            return Err(error);
        }
        let folder = lab.folder().display().to_string();
        lab.keep()?;
        Err(error.context(format!(
            "what runs goes on, with disks and logs in {folder} (`cargo xtask demo --stop` ends it)"
        )))
    }
}

/// Runs the suites one after the other, each with a line for its verdict, and one for all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let began = Instant::now();
    let target = target();
    if let Some(why) = host::obstacle(&target, !options.no_install)? {
        anstream::println!("skipped: no virtual machine can run here: {why}");
        return Ok(ExitCode::from(u8::from(options.must)));
    }
    let stage = Stage {
        image: Image::provide(&target)?,
        programs: build::programs(None, false)?,
        debs: debs(None)?,
        folder: tempfile::tempdir_in(&target).context("cannot make a folder in target/vm")?,
        full: options.full,
        keep: options.keep,
        seed: options.seed,
    };
    let wanted = |suite: &Suite| options.suites.is_empty() || options.suites.contains(suite);
    let suites: Vec<Suite> = ALL.into_iter().filter(wanted).collect();
    let mut failed = Vec::new();
    for suite in &suites {
        let began = Instant::now();
        let name = format!("{suite:?}").to_lowercase();
        anstream::println!("{name}:");
        match play(*suite, &stage) {
            Ok(figures) => {
                anstream::println!("{name}: ok — {figures}; {} s", began.elapsed().as_secs())
            }
            Err(error) if shell::was_interrupted(&error) => return Err(error),
            Err(error) => {
                anstream::println!("{name}: FAILED after {} s", began.elapsed().as_secs());
                anstream::eprintln!("{}", shell::indent(&format!("{error:#}")));
                failed.push(name);
            }
        }
    }
    let seconds = began.elapsed().as_secs();
    if failed.is_empty() {
        anstream::println!("vm: ok — {} suites in {seconds} s", suites.len());
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!(
        "vm: FAILED — {} of {} suites: {}",
        failed.len(),
        suites.len(),
        failed.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

fn play(suite: Suite, stage: &Stage) -> Result<String> {
    match suite {
        Suite::Smoke => smoke::run(stage),
        Suite::Install => install::run(stage),
        Suite::Gate => gate::run(stage),
        Suite::Update => update::run(stage),
        Suite::User => user::run(stage),
        Suite::Sandbox => sandbox::run(stage),
        Suite::Power => powercut::run(stage),
        Suite::Faults => faults::run(stage),
    }
}

/// Both packages of one version.
pub(crate) struct Debs {
    pub(crate) agent: PathBuf,
    pub(crate) controller: PathBuf,
}

/// The packages of this tree, from a debug build; without a version that of the sources.
fn debs(version: Option<&Version>) -> Result<Debs> {
    let built = package::build(&package::Wanted {
        kinds: vec![package::Kind::Deb],
        flavour: package::Flavour::Quick,
        version: version.cloned(),
        agent_programs: None,
    })?;
    Ok(Debs {
        agent: built.agent_deb.context("no package of the agent")?,
        controller: built
            .controller_deb
            .context("no package of the controller")?,
    })
}

/// Where images, and the packages that they are made of, are kept.
fn target() -> PathBuf {
    shell::repository().join("target/vm")
}
