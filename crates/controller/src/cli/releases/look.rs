//! `release list`, `show` and `check`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use vpn_node_release::bundle::Signed;
use vpn_node_release::metadata::{Header, TopRole, hex};

use super::{Work, now, tell};
use crate::cli::show;
use crate::releases::key_file::short_id;
use crate::releases::stage::Stage;
use crate::releases::tree::Published;
use crate::releases::{ReleaseError, check as client, transfer};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn list(work: &Work, args: ListArgs) -> anyhow::Result<ExitCode> {
    let published = work.tree.load()?;
    let targets = published.targets.as_ref();
    let mut releases = targets.map_or(Ok(vec![]), |file| client::releases(&file.role))?;
    releases.sort_by(|a, b| {
        let key = |one: &Signed| (one.info().version.clone(), one.info().platform());
        key(b).cmp(&key(a))
    });
    if args.json {
        let rows: Vec<Value> = releases.iter().map(row).collect();
        show::json("releases", &rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = releases.iter().map(|signed| {
        let info = signed.info();
        vec![
            info.version.to_string(),
            info.platform().to_string(),
            info.channel.to_string(),
            info.counter.to_string(),
            info.security_floor.to_string(),
            show::optional(
                info.min_version_required
                    .as_ref()
                    .map(ToString::to_string)
                    .as_deref(),
            ),
            show::yes_no(info.mandatory).to_owned(),
            info.released.to_string().replace('T', " ").replace('Z', ""),
            show::bytes(signed.length()),
            show::escaped(&info.description),
        ]
    });
    show::table(
        &[
            "VERSION",
            "PLATFORM",
            "CHANNEL",
            "COUNTER",
            "FLOOR",
            "FROM",
            "MANDATORY",
            "RELEASED",
            "SIZE",
            "WHAT",
        ],
        rows.collect(),
        "There are no releases yet: see 'release add'.",
    )?;
    Ok(ExitCode::SUCCESS)
}

fn row(signed: &Signed) -> Value {
    let info = signed.info();
    json!({
        "version": info.version, "os": info.os, "arch": info.arch, "channel": info.channel,
        "counter": info.counter, "security_floor": info.security_floor,
        "min_version_required": info.min_version_required, "mandatory": info.mandatory,
        "description": info.description, "released": info.released.to_string(),
        "length": signed.length(), "sha256": signed.sha256(), "target_path": info.target_path(),
    })
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn show(work: &Work, args: ShowArgs) -> anyhow::Result<ExitCode> {
    let published = work.tree.load_optional()?;
    let stage = Stage::load(&work.tree)?;
    if published.is_none() && stage.is_empty() {
        return Err(ReleaseError::Missing(work.tree.dir().to_owned()).into());
    }
    let waits = stage.progress(published.as_ref())?;
    if args.json {
        let waits = waits.iter().map(|one| {
            json!({"role": one.role.as_str(), "version": one.version, "signatures": one.signed,
                   "needed": one.needed, "missing": one.missing})
        });
        let mut object = published.as_ref().map_or_else(Map::new, as_object);
        object.insert("staged".into(), waits.collect());
        show::object(object)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(published) = &published {
        show_published(published)?;
    }
    tell::staged(published.as_ref(), &stage)?;
    tell::waits(&waits)?;
    Ok(ExitCode::SUCCESS)
}

fn headers(published: &Published) -> Vec<(&'static str, Header)> {
    let root = Some(("root", published.root().role.header.clone()));
    let targets = published
        .targets
        .as_ref()
        .map(|file| ("targets", file.role.header.clone()));
    let snapshot = published
        .snapshot
        .as_ref()
        .map(|file| ("snapshot", file.role.header.clone()));
    let timestamp = published
        .timestamp
        .as_ref()
        .map(|file| ("timestamp", file.role.header.clone()));
    [root, targets, snapshot, timestamp]
        .into_iter()
        .flatten()
        .collect()
}

fn show_published(published: &Published) -> anyhow::Result<()> {
    let first = hex(&Sha256::digest(&published.roots[0].bytes));
    show::line(format_args!("First root (SHA-256): {first}\n"))?;
    let root = &published.root().role;
    let rows = headers(published).into_iter().map(|(role, header)| {
        let signers = TopRole::ALL.into_iter().find(|one| one.as_str() == role);
        let signers = signers.map(|role| root.signers(role));
        let keys = signers.as_ref().map_or_else(Vec::new, |signers| {
            signers.keys.values().map(|key| short_id(key)).collect()
        });
        vec![
            role.to_owned(),
            header.version.to_string(),
            header
                .expires
                .to_string()
                .replace('T', " ")
                .replace('Z', ""),
            format!(
                "{} of {}",
                signers.map_or(0, |signers| signers.threshold),
                keys.len()
            ),
            keys.join(" "),
        ]
    });
    show::table(
        &["ROLE", "VERSION", "UNTIL", "NEEDS", "KEYS"],
        rows.collect(),
        "",
    )
}

fn as_object(published: &Published) -> Map<String, Value> {
    let root = &published.root().role;
    let roles = headers(published).into_iter().map(|(role, header)| {
        let signers = TopRole::ALL.into_iter().find(|one| one.as_str() == role);
        let signers = signers.map(|role| root.signers(role));
        let keys: Vec<String> = signers.as_ref().map_or_else(Vec::new, |signers| {
            signers.keys.keys().map(|id| id.to_string()).collect()
        });
        json!({"role": role, "version": header.version, "expires": header.expires.to_string(),
               "threshold": signers.map(|signers| signers.threshold), "keys": keys})
    });
    let first = hex(&Sha256::digest(&published.roots[0].bytes));
    Map::from_iter([
        ("first_root_sha256".to_owned(), first.into()),
        ("roles".to_owned(), roles.collect()),
    ])
}

/// As a host looks, and every package besides.
pub(super) fn check(work: &Work) -> anyhow::Result<ExitCode> {
    let published = work.tree.load()?;
    if published.timestamp.is_some() {
        client::published(&work.tree, now())?;
    }
    let count = transfer::check_packages(&work.tree, &published)?;
    let what = show::count(count as u64, "package");
    if published.timestamp.is_some() {
        show::line(format_args!(
            "A host would take what is published: metadata and {what}."
        ))?;
    } else {
        show::line(format_args!(
            "Root, list of releases and {what} are as they were signed. There is no timestamp of the online key here, so no host could use it yet."
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
