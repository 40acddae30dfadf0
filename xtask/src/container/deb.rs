//! `cargo xtask container deb`: the life of the Debian packages on a Debian with systemd, which may
//! be the oldest that they are for (`--suite bullseye`).

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::dialect;
use super::host::Host;
use super::image;
use super::life::{self, FIRST, SECOND, THIRD};
use super::machine::{self, Machine};
use super::manager::{APT_REPOSITORY, Shelf, Stock};
use super::rootfs::{self, Suite};
use super::self_update::{self, LAST};
use crate::lab::story::Story;
use crate::package::Kind;
use crate::shell;

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
    let (stock, suite) = (&options.stock, options.suite);
    shell::catch_signals()?;
    if let Some(why) = machine::obstacle() {
        anstream::println!("container deb: skipped — {why}");
        return Ok(ExitCode::SUCCESS);
    }
    let lower = match rootfs::provide(suite)? {
        Ok(lower) => lower,
        Err(why) => {
            anstream::println!("container deb: skipped — {why}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let story = Story::begin();
    let programs = stock.programs(suite.flavour())?;
    let versions = [FIRST, SECOND, THIRD, LAST];
    let shelf = Shelf::fill(Kind::Deb, &versions, suite.flavour(), stock)?;
    story.say("the packages are built");
    // Mostly they wait, each for its own machine.
    let (life, updates) = std::thread::scope(|scope| {
        let updates = scope.spawn(|| {
            let ended = self_update::play(&lower, &shelf, &programs, &story, APT_REPOSITORY);
            ended.inspect_err(|error| story.say(&format!("the updates have failed: {error:#}")))
        });
        let life = live(&lower, &shelf, &story, suite);
        let life = life.inspect_err(|error| story.say(&format!("failed: {error:#}")));
        (life, updates.join())
    });
    let updates = updates.map_err(|_| anyhow::anyhow!("the updates panicked"))?;
    let (life, updates) = (life?, updates?);
    anstream::println!(
        "container deb: ok — Debian {}: {life}; {updates}; {} s",
        suite.name(),
        story.elapsed().as_secs()
    );
    Ok(ExitCode::SUCCESS)
}

fn live(lower: &Path, shelf: &Shelf, story: &Story, suite: Suite) -> Result<String> {
    dialect::play(lower, shelf, story, suite)?;
    let mut host = Host::boot(Machine::new(lower)?, shelf)?;
    host.machine.must(&["sh", "-ec", APT_REPOSITORY])?;
    let life = life::play(&mut host, story)?;
    image::play(lower, shelf, story, "")?;
    Ok(life)
}
