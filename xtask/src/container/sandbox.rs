//! `cargo xtask container sandbox`: every denial of our units, tried from inside of each service
//! ([`crate::sandbox`]) on a machine in namespaces.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::machine::{self, Machine};
use super::rootfs::Suite;
use super::units;
use crate::build::{self, Programs};
use crate::lab::story::Story;
use crate::package::{self, Flavour};
use crate::release::PROGRAMS;
use crate::sandbox::{self, Said, System};

/// What a package would have done.
const AS_INSTALLED: &str = "
systemd-sysusers
systemd-tmpfiles --create
ln -sfn system /opt/vpn-node/stable
for name in vpn-node vpn-node-agent vpn-node-updater; do
    ln -s /opt/vpn-node/stable/bin/$name /usr/bin/$name
done
";

/// Arguments of `cargo xtask container sandbox`.
#[derive(Default, clap::Args)]
pub(crate) struct Options {
    /// Take our programs from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// The Debian that they run on
    #[arg(long, value_enum, default_value = "bookworm")]
    suite: Suite,
    /// Show the answer to each attempt
    #[arg(long)]
    verbose: bool,
}

/// The whole of it.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let Some(lower) = super::prepare("sandbox", options.suite)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let programs = match (&options.programs, options.suite.flavour()) {
        (None, Flavour::Rehearsal) => package::published(true)?,
        (folder, _) => build::programs(folder.as_deref(), false)?,
    };
    let story = Story::begin();
    let mut machine = set(&lower, &programs, &story)?;
    let (figures, broken) = sandbox::play(&mut machine, &story, options.verbose)?;
    let seconds = story.elapsed().as_secs();
    if broken.is_empty() {
        anstream::println!("container sandbox: ok — {figures}; {seconds} s");
        return Ok(ExitCode::SUCCESS);
    }
    for one in &broken {
        anstream::eprintln!("broken: {one}");
    }
    anstream::println!(
        "container sandbox: FAILED — {} broken; {figures}; {seconds} s",
        broken.len()
    );
    Ok(ExitCode::FAILURE)
}

/// A machine with our programs and units.
fn set(lower: &Path, programs: &Programs, story: &Story) -> Result<Machine> {
    let mut machine = Machine::new(lower)?;
    let bin = machine.disk().join("opt/vpn-node/system/bin");
    std::fs::create_dir_all(&bin)?;
    let folder = programs
        .agent
        .parent()
        .context("programs lie in a folder")?;
    for name in PROGRAMS {
        let from = folder.join(name);
        std::fs::copy(&from, bin.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    units::ship(&machine)?;
    let booted = machine.boot()?;
    story.say(&format!(
        "the machine has booted in {:.1} s",
        booted.as_secs_f64()
    ));
    machine.must(&["sh", "-ec", AS_INSTALLED])?;
    Ok(machine)
}

impl System for Machine {
    fn run(&mut self, words: &[&str]) -> Result<Said> {
        let output = Machine::run(self, words)?;
        Ok(Said {
            well: output.status.success(),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    fn put(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let place = self.root()?.join(path.trim_start_matches('/'));
        machine::put(&place, bytes, mode)
    }
}
