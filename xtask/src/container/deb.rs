//! `cargo xtask container deb`: the life of the Debian packages on a Debian with systemd.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::host::Host;
use super::life::{self, FIRST, SECOND, THIRD};
use super::machine::{self, Machine};
use super::manager::{APT_REPOSITORY, Shelf, Stock};
use super::rootfs;
use crate::lab::story::Story;
use crate::package::Kind;
use crate::shell;

/// The whole of it.
pub(super) fn run(stock: &Stock) -> Result<ExitCode> {
    shell::catch_signals()?;
    if let Some(why) = machine::obstacle() {
        anstream::println!("container deb: skipped — {why}");
        return Ok(ExitCode::SUCCESS);
    }
    let lower = match rootfs::provide()? {
        Ok(lower) => lower,
        Err(why) => {
            anstream::println!("container deb: skipped — {why}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let story = Story::begin();
    let shelf = Shelf::fill(Kind::Deb, &[FIRST, SECOND, THIRD], stock)?;
    story.say("the packages are built");
    let life = live(&lower, &shelf, &story)?;
    anstream::println!(
        "container deb: ok — {life}; {} s",
        story.elapsed().as_secs()
    );
    Ok(ExitCode::SUCCESS)
}

fn live(lower: &Path, shelf: &Shelf, story: &Story) -> Result<String> {
    let mut host = Host::boot(Machine::new(lower)?, shelf)?;
    host.machine.must(&["sh", "-ec", APT_REPOSITORY])?;
    life::play(&mut host, story)
}
