//! `cargo xtask container deb`: the life of the Debian packages on a Debian with systemd, which may
//! be the oldest that they are for (`--suite bullseye`).

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::dialect;
use super::host::Host;
use super::image;
use super::life;
use super::machine::Machine;
use super::manager::{APT_REPOSITORY, Shelf, Stock};
use super::packages::{self, Show};
use super::rootfs::Suite;
use crate::lab::story::Story;
use crate::package::Kind;

/// Arguments of `cargo xtask container deb`.
#[derive(Default, clap::Args)]
pub(crate) struct Options {
    /// The Debian that they live on
    #[arg(long, value_enum, default_value = "bookworm")]
    suite: Suite,
    #[command(flatten)]
    stock: Stock,
}

/// The whole of it.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let suite = options.suite;
    let show = Show {
        kind: Kind::Deb,
        suite,
        prepare: APT_REPOSITORY,
        unprovable: None,
    };
    packages::run(&show, &options.stock, |lower, shelf, story| {
        live(lower, shelf, story, suite)
    })
}

fn live(lower: &Path, shelf: &Shelf, story: &Story, suite: Suite) -> Result<String> {
    dialect::play(lower, shelf, story, suite)?;
    let mut host = Host::boot(Machine::new(lower)?, shelf)?;
    host.machine.must(&["sh", "-ec", APT_REPOSITORY])?;
    let life = life::play(&mut host, story)?;
    image::play(lower, shelf, story, "")?;
    Ok(life)
}
