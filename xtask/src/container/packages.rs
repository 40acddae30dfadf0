//! What `cargo xtask container deb` and `… rpm` share: packages of four versions are built, then
//! their life on one machine and the updates on another are played at the same time.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::life::{FIRST, SECOND, THIRD};
use super::manager::{Shelf, Stock};
use super::rootfs::Suite;
use super::self_update::{self, LAST};
use crate::lab::story::Story;
use crate::package::Kind;

/// What one kind of package has of its own.
pub(super) struct Show {
    pub(super) kind: Kind,
    /// The Debian that it is shown on.
    pub(super) suite: Suite,
    /// A script that makes the package manager of a machine know the repository.
    pub(super) prepare: &'static str,
    /// What this cannot show.
    pub(super) unprovable: Option<&'static str>,
}

/// The whole of it; `live` plays the life of the packages and gives figures for the verdict.
pub(super) fn run(
    show: &Show,
    stock: &Stock,
    live: impl FnOnce(&Path, &Shelf, &Story) -> Result<String>,
) -> Result<ExitCode> {
    let name = match show.kind {
        Kind::Deb => "deb",
        Kind::Rpm => "rpm",
    };
    let Some(lower) = super::prepare(name, show.suite)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let story = Story::begin();
    let flavour = show.suite.flavour();
    let programs = stock.programs(flavour)?;
    let versions = [FIRST, SECOND, THIRD, LAST];
    let shelf = Shelf::fill(show.kind, &versions, flavour, stock)?;
    story.say("the packages are built");
    // Mostly they wait, each for its own machine.
    let (life, updates) = std::thread::scope(|scope| {
        let updates = scope.spawn(|| {
            let ended = self_update::play(&lower, &shelf, &programs, &story, show.prepare);
            ended.inspect_err(|error| story.say(&format!("the updates have failed: {error:#}")))
        });
        let life = live(&lower, &shelf, &story);
        let life = life.inspect_err(|error| story.say(&format!("failed: {error:#}")));
        (life, updates.join())
    });
    let updates = updates.map_err(|_| anyhow::anyhow!("the updates panicked"))?;
    let mut figures = format!("{}; {}", life?, updates?);
    if let Some(unprovable) = show.unprovable {
        figures += &format!("; {unprovable}");
    }
    anstream::println!(
        "container {name}: ok — Debian {}: {figures}; {} s",
        show.suite.name(),
        story.elapsed().as_secs()
    );
    Ok(ExitCode::SUCCESS)
}
