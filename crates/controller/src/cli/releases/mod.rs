//! `release …`: which signed releases there are, who signs them, and how they get to hosts.
//!
//! On the controller the repository is `DATA_DIR/releases`, and its table follows every change; with
//! `--repository` any directory will do, without controller, database or network.

mod ask;
mod carry;
mod change;
mod look;
mod make;
mod tell;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use nix::unistd::geteuid;

use super::Place;
use crate::clock;
use crate::config::{Config, RUN_AS_OWNER};
use crate::releases::{Tree, mirror};
use crate::store;

#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// Work on this directory, without controller or database [default: DATA_DIR/releases]
    #[arg(long, global = true, value_name = "DIR")]
    repository: Option<PathBuf>,
    #[command(subcommand)]
    command: ReleaseCommand,
}

#[derive(Debug, Subcommand)]
enum ReleaseCommand {
    /// Make a new repository: the keys that hosts will trust, and an empty list of releases
    Init(make::InitArgs),
    /// Make one key: for a person, or with --online for this controller
    MakeKey(make::MakeKeyArgs),
    /// Stage the release of a package, or of one for each platform
    Add(change::AddArgs),
    /// Sign what is staged; with the last signature that it needs it is published
    Sign(change::SignArgs),
    /// Forget what is staged; what is published stays
    Discard,
    /// Renew snapshot and timestamp now, or finish what a crash left; the server does it by itself
    Refresh(change::RefreshArgs),
    /// Stage the root or the list of releases with a later end
    Renew(change::RenewArgs),
    /// Stage a root with other keys
    RotateKey(change::RotateArgs),
    /// Stage a list of releases without this version
    Revoke(change::RevokeArgs),
    /// Stage an existing version as the newest release: a deliberate way back, or another channel
    Republish(change::RepublishArgs),
    /// Write a version, or the metadata alone, into one file
    Export(carry::ExportArgs),
    /// Take over what was signed elsewhere: an exported file, or a directory of the same layout
    Import(carry::ImportArgs),
    /// Look at everything that is published as a host does, packages included
    Check,
    /// The releases
    List(look::ListArgs),
    /// Keys, versions and ends of what is published, and what waits for whom
    Show(look::ShowArgs),
}

/// The repository of a command, and the controller whose table follows it.
struct Work {
    tree: Tree,
    config: Option<Config>,
}

impl Work {
    fn new(repository: Option<PathBuf>, place: &Place) -> anyhow::Result<Self> {
        if let Some(dir) = repository {
            let dir =
                std::path::absolute(&dir).with_context(|| format!("{dir:?} is no usable path"))?;
            return Ok(Self {
                tree: Tree::at(dir),
                config: None,
            });
        }
        let config = place
            .load()
            .context("a machine without a controller needs --repository DIR")?;
        // Files of another user would stop the server from renewing anything.
        let owner = std::fs::metadata(&config.data_dir).map(|found| found.uid());
        if owner.is_ok_and(|owner| owner != geteuid().as_raw()) {
            bail!("{:?} is another user's{RUN_AS_OWNER}", config.data_dir);
        }
        Ok(Self {
            tree: Tree::at(config.releases()),
            config: Some(config),
        })
    }

    /// After something was published: the table of the controller says the same.
    async fn mirror(&self) -> anyhow::Result<()> {
        if let Some(config) = &self.config {
            let store = store::open(config).await?;
            let end = mirror::mirror(&*store, &self.tree, clock::now_ms()).await;
            store.close().await?;
            tell::mirrored(&end?);
        }
        Ok(())
    }
}

/// Now, as metadata has it.
fn now() -> Timestamp {
    Timestamp::from_millisecond(clock::now_ms()).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(super) async fn run(args: ReleaseArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let work = Work::new(args.repository, place)?;
    match args.command {
        ReleaseCommand::Init(args) => make::init(&work, args).await,
        ReleaseCommand::MakeKey(args) => make::key(&work, args),
        ReleaseCommand::Add(args) => change::add(&work, args),
        ReleaseCommand::Sign(args) => change::sign(&work, args).await,
        ReleaseCommand::Discard => change::discard(&work),
        ReleaseCommand::Refresh(args) => change::refresh(&work, args).await,
        ReleaseCommand::Renew(args) => change::renew(&work, args),
        ReleaseCommand::RotateKey(args) => change::rotate(&work, args),
        ReleaseCommand::Revoke(args) => change::revoke(&work, args),
        ReleaseCommand::Republish(args) => change::republish(&work, args),
        ReleaseCommand::Export(args) => carry::export(&work, args),
        ReleaseCommand::Import(args) => carry::import(&work, args).await,
        ReleaseCommand::Check => look::check(&work),
        ReleaseCommand::List(args) => look::list(&work, args),
        ReleaseCommand::Show(args) => look::show(&work, args),
    }
}
