//! `release add`, `sign`, `refresh`, `renew`, `rotate-key`, `revoke`, `republish`, `discard`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use vpn_node_release::metadata::TopRole;
use vpn_node_release::version::{Platform, Version, Word};

use super::ask::{PassphraseArgs, lifetime};
use super::{Work, now, tell};
use crate::cli::show;
use crate::cli::text::short_text;
use crate::releases::adding::{self, Wish};
use crate::releases::ceremony::{self, Rotation, Whose};
use crate::releases::key_file::{self, KeyFile};
use crate::releases::passphrase::Passphrase;
use crate::releases::{publish, signing, stage::Stage};

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// Packages (.tar.zst), one for each platform
    #[arg(required = true, value_name = "FILE")]
    packages: Vec<PathBuf>,
    /// For the hosts of this channel
    #[arg(long, value_name = "WORD", default_value = "stable")]
    channel: Word,
    /// From this release on no host installs a lower version [default: as before]
    #[arg(long, value_name = "VERSION")]
    security_floor: Option<Version>,
    /// Only hosts that run at least this version take it
    #[arg(long, value_name = "VERSION")]
    min_version: Option<Version>,
    /// It does not wait for maintenance windows
    #[arg(long)]
    mandatory: bool,
    /// What is new, in one line
    #[arg(long, value_name = "TEXT", value_parser = short_text)]
    description: Option<String>,
    /// How long the list of releases is good
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
    expires: SignedDuration,
}

pub(super) fn add(work: &Work, args: AddArgs) -> anyhow::Result<ExitCode> {
    let wish = Wish {
        channel: args.channel,
        security_floor: args.security_floor,
        min_version: args.min_version,
        mandatory: args.mandatory,
        description: args.description.unwrap_or_default(),
        lifetime: args.expires,
    };
    for package in &args.packages {
        let info = adding::add(&work.tree, package, &wish, now())?;
        show::line(format_args!("Staged: {}.", tell::release(&info)))?;
    }
    waiting(work)
}

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// A key file (NAME.key)
    #[arg(long, required = true, value_name = "FILE")]
    key: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) async fn sign(work: &Work, args: SignArgs) -> anyhow::Result<ExitCode> {
    let tree = &work.tree;
    let published = tree.load_optional()?;
    let stage = Stage::load(tree)?;
    let mut opened = Vec::new();
    let files: Vec<KeyFile> = args
        .key
        .iter()
        .map(|path| KeyFile::read(path))
        .collect::<Result<_, _>>()?;
    // Whoever may not sign is told so before he types, and whoever may sees what.
    for file in &files {
        stage.check_signer(published.as_ref(), &file.public()?)?;
    }
    tell::staged(published.as_ref(), &stage)?;
    // All are asked for first: opening takes a moment, and nobody types into the dark meanwhile.
    let passphrases = args.key.iter().map(|path| args.passphrase.of(path));
    let passphrases: Vec<Passphrase> = passphrases.collect::<Result<_, _>>()?;
    for (file, passphrase) in files.iter().zip(&passphrases) {
        opened.push(file.open(passphrase)?);
    }
    let outcome = signing::sign(tree, &stage, &opened, now())?;
    tell::outcome(tree, &outcome)?;
    if outcome.root == Some(1) {
        tell::fingerprint(tree)?;
    }
    if outcome.root.is_some() || outcome.targets.is_some() {
        work.mirror().await?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn discard(work: &Work) -> anyhow::Result<ExitCode> {
    ceremony::discard(&work.tree)?;
    show::line("Nothing is staged any more.")?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub(super) struct RefreshArgs {
    /// Versions of snapshot and timestamp go on above this: after a restored backup, what hosts say
    /// that they have
    #[arg(
        long,
        value_name = "VERSION",
        default_value_t = 0,
        hide_default_value = true
    )]
    above: u64,
}

pub(super) async fn refresh(work: &Work, args: RefreshArgs) -> anyhow::Result<ExitCode> {
    let tree = &work.tree;
    let outcome = publish::advance(tree, Some(args.above), now())?;
    if !outcome.live && !outcome.has_online_key && outcome.targets.is_none() {
        tell::outcome(tree, &outcome)?;
        anyhow::bail!(
            "this machine has not the online key that the root names: snapshot and timestamp are renewed where it is"
        );
    }
    tell::outcome(tree, &outcome)?;
    work.mirror().await?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RenewWhat {
    Root,
    Targets,
}

#[derive(Debug, Args)]
pub(super) struct RenewArgs {
    /// Which
    role: RenewWhat,
    /// How long it is good from now on
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
    expires: SignedDuration,
}

pub(super) fn renew(work: &Work, args: RenewArgs) -> anyhow::Result<ExitCode> {
    let role = match args.role {
        RenewWhat::Root => TopRole::Root,
        RenewWhat::Targets => TopRole::Targets,
    };
    ceremony::renew(&work.tree, role, args.expires, now())?;
    waiting(work)
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RotateWhose {
    Root,
    Targets,
    Online,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(super) struct RotateArgs {
    /// Whose keys
    role: RotateWhose,
    /// The public half of a new key (NAME.pub)
    #[arg(long, value_name = "FILE", group = "what")]
    add: Vec<PathBuf>,
    /// The id of a key that goes, or its beginning
    #[arg(long, value_name = "ID", group = "what")]
    remove: Vec<String>,
    /// How many of the keys must sign from now on [default: as before]
    #[arg(long, value_name = "N", group = "what")]
    threshold: Option<u32>,
    /// How long the new root is good
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
    expires: SignedDuration,
}

pub(super) fn rotate(work: &Work, args: RotateArgs) -> anyhow::Result<ExitCode> {
    let add = args.add.iter().map(|path| key_file::read_public(path));
    let rotation = Rotation {
        whose: match args.role {
            RotateWhose::Root => Whose::Root,
            RotateWhose::Targets => Whose::Targets,
            RotateWhose::Online => Whose::Online,
        },
        add: add.collect::<Result<_, _>>()?,
        remove: args.remove,
        threshold: args.threshold,
        lifetime: args.expires,
    };
    ceremony::rotate(&work.tree, &rotation, now())?;
    waiting(work)
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// Which version
    version: Version,
    /// For this platform only, for example linux-arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Take everything below this version with it, and tell hosts never to go below it
    #[arg(long, value_name = "VERSION")]
    security_floor: Option<Version>,
    /// How long the list of releases is good
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
    expires: SignedDuration,
}

pub(super) fn revoke(work: &Work, args: RevokeArgs) -> anyhow::Result<ExitCode> {
    let (platform, floor) = (args.platform.as_ref(), args.security_floor.as_ref());
    let gone = adding::revoke(
        &work.tree,
        &args.version,
        platform,
        floor,
        args.expires,
        now(),
    )?;
    for info in gone {
        show::line(format_args!("Staged without: {}.", tell::release(&info)))?;
    }
    waiting(work)
}

#[derive(Debug, Args)]
pub(super) struct RepublishArgs {
    /// Which version
    version: Version,
    /// In this channel instead of its own
    #[arg(long, value_name = "WORD")]
    channel: Option<Word>,
    /// How long the list of releases is good
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
    expires: SignedDuration,
}

pub(super) fn republish(work: &Work, args: RepublishArgs) -> anyhow::Result<ExitCode> {
    let channel = args.channel.as_ref();
    for info in adding::republish(&work.tree, &args.version, channel, args.expires, now())? {
        show::line(format_args!("Staged: {}.", tell::release(&info)))?;
    }
    waiting(work)
}

/// Who has to sign what, after something was staged.
fn waiting(work: &Work) -> anyhow::Result<ExitCode> {
    let published = work.tree.load()?;
    let stage = Stage::load(&work.tree)?;
    tell::waits(&stage.progress(Some(&published))?)?;
    Ok(ExitCode::SUCCESS)
}
