//! `cargo xtask container deb`: the life of the Debian packages on a Debian with systemd.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::host::Host;
use super::image;
use super::life;
use super::machine::Machine;
use super::manager::{APT_REPOSITORY, Shelf, Stock};
use super::packages::{self, Show};
use crate::lab::story::Story;
use crate::package::Kind;

/// The whole of it.
pub(super) fn run(stock: &Stock) -> Result<ExitCode> {
    let show = Show {
        kind: Kind::Deb,
        prepare: APT_REPOSITORY,
        unprovable: None,
    };
    packages::run(&show, stock, live)
}

fn live(lower: &Path, shelf: &Shelf, story: &Story) -> Result<String> {
    let mut host = Host::boot(Machine::new(lower)?, shelf)?;
    host.machine.must(&["sh", "-ec", APT_REPOSITORY])?;
    let life = life::play(&mut host, story)?;
    image::play(lower, shelf, story, "")?;
    Ok(life)
}
