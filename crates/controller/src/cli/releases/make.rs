//! `release init` and `release make-key`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use ed25519_dalek::SigningKey;
use jiff::SignedDuration;
use vpn_node_release::author;
use vpn_node_release::metadata::Key;

use super::ask::{PassphraseArgs, lifetime};
use super::{Work, now, tell};
use crate::cli::show;
use crate::releases::ceremony::{self, Plan};
use crate::releases::key_file::{self, Cost, short_id};
use crate::releases::{ReleaseError, online, publish, signing, stage::Stage};

/// For so many keys a person is asked at once.
const MAX_KEYS: i64 = 9;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where the new key files go [default: here]
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".",
        hide_default_value = true
    )]
    keys: PathBuf,
    /// How many root keys are made
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=MAX_KEYS), conflicts_with = "root_key")]
    root_keys: u32,
    /// The public half of a root key that exists (NAME.pub); none is made then
    #[arg(long, value_name = "FILE")]
    root_key: Vec<PathBuf>,
    /// How many of the root keys must sign
    #[arg(long, value_name = "N", default_value_t = 2)]
    root_threshold: u32,
    /// How many targets keys are made: they sign releases
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=MAX_KEYS), conflicts_with = "targets_key")]
    targets_keys: u32,
    /// The public half of a targets key that exists (NAME.pub); none is made then
    #[arg(long, value_name = "FILE")]
    targets_key: Vec<PathBuf>,
    /// How many of the targets keys must sign
    #[arg(long, value_name = "N", default_value_t = 1)]
    targets_threshold: u32,
    /// The public half of the controller's online key (see make-key --online) [default: made here]
    #[arg(long, value_name = "FILE")]
    online_key: Option<PathBuf>,
    /// How long the first root is good
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
    root_expires: SignedDuration,
    /// How long the first list of releases is good
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime)]
    targets_expires: SignedDuration,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) async fn init(work: &Work, args: InitArgs) -> anyhow::Result<ExitCode> {
    let tree = &work.tree;
    if tree.exists() || !Stage::load(tree)?.is_empty() {
        return Err(ReleaseError::Exists(tree.dir().to_owned()).into());
    }
    // Before any key is made: files and passphrases of an `init` that then fails would be in the way.
    enough("root", args.root_threshold, &args.root_key, args.root_keys)?;
    enough(
        "targets",
        args.targets_threshold,
        &args.targets_key,
        args.targets_keys,
    )?;
    let (root, mut made) = keys(&args, "root", &args.root_key, args.root_keys)?;
    let (targets, more) = keys(&args, "targets", &args.targets_key, args.targets_keys)?;
    made.extend(more);
    let online = match &args.online_key {
        Some(path) => key_file::read_public(path)?,
        None => online::create(tree)?.0,
    };
    let plan = Plan {
        root,
        root_threshold: args.root_threshold,
        targets,
        targets_threshold: args.targets_threshold,
        online,
        root_lifetime: args.root_expires,
        targets_lifetime: args.targets_expires,
    };
    ceremony::init(tree, &plan, now())?;
    let outcome = if made.is_empty() {
        publish::advance(tree, None, now())?
    } else {
        signing::sign(tree, &Stage::load(tree)?, &made, now())?
    };
    tell::outcome(tree, &outcome)?;
    if outcome.root.is_some() {
        tell::fingerprint(tree)?;
        work.mirror().await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a role can ever have its signatures.
fn enough(role: &str, threshold: u32, given: &[PathBuf], count: u32) -> anyhow::Result<()> {
    let keys = match given.len() {
        0 => count,
        given => u32::try_from(given)?,
    };
    anyhow::ensure!(
        (1..=keys).contains(&threshold),
        "{role} would need {threshold} signatures of {keys} keys: choose --{role}-threshold between 1 and {keys}. Nothing was made."
    );
    Ok(())
}

/// The keys of a role: given, or made with a passphrase each.
fn keys(
    args: &InitArgs,
    role: &str,
    given: &[PathBuf],
    count: u32,
) -> anyhow::Result<(Vec<Key>, Vec<SigningKey>)> {
    if !given.is_empty() {
        let keys = given.iter().map(|path| Ok(key_file::read_public(path)?));
        return Ok((keys.collect::<anyhow::Result<_>>()?, vec![]));
    }
    let mut made = Vec::new();
    for number in 1..=count {
        made.push(make(
            &args.keys.join(format!("{role}-{number}.key")),
            &args.passphrase,
        )?);
    }
    Ok((made.iter().map(author::public_key).collect(), made))
}

#[derive(Debug, Args)]
pub(super) struct MakeKeyArgs {
    /// Where: NAME.key; the public half goes into NAME.pub beside it
    #[arg(value_name = "FILE", required_unless_present = "online")]
    file: Option<PathBuf>,
    /// A key for snapshot and timestamp in the repository itself, without a passphrase
    #[arg(long, conflicts_with_all = ["file", "passphrase_file"])]
    online: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

pub(super) fn key(work: &Work, args: MakeKeyArgs) -> anyhow::Result<ExitCode> {
    let Some(file) = args.file else {
        let (key, public) = online::create(&work.tree)?;
        show::line(format_args!(
            "The online key {} is made. Its public half, for 'release init --online-key' or 'release rotate-key online --add':\n  {}",
            short_id(&key),
            public.display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    };
    make(&file, &args.passphrase)?;
    Ok(ExitCode::SUCCESS)
}

fn make(path: &Path, passphrase: &PassphraseArgs) -> anyhow::Result<SigningKey> {
    if path.extension().is_none_or(|ending| ending != "key") {
        return Err(ReleaseError::Refused(format!(
            "a key file is called NAME.key, and {path:?} is not"
        ))
        .into());
    }
    // Before a passphrase is thought of.
    for taken in [path.to_owned(), key_file::public_path(path)] {
        if taken.exists() {
            return Err(ReleaseError::Disk(crate::releases::DiskError::Exists(taken)).into());
        }
    }
    let words = passphrase.new_for(path)?;
    let key = key_file::create(path, &words, Cost::STRONG)
        .with_context(|| format!("no key was made in {path:?}"))?;
    show::line(format_args!(
        "Key {} is in {}, its public half in {}. Keep a second copy on other media.",
        short_id(&author::public_key(&key)),
        path.display(),
        key_file::public_path(path).display()
    ))?;
    Ok(key)
}
