//! `server resolve-clone`: which of two holders of an identity goes on.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use super::find;
use crate::cli::show;
use crate::clock;
use crate::rules::clones::{Named, pick};
use crate::rules::lifecycle::ROTATE_DEADLINE_S;
use crate::rules::state::{Kept, word};
use crate::store::{CloneResolution, ServerRow, Store, SuspicionRow};

#[derive(Debug, Args)]
pub(in crate::cli) struct ResolveClone {
    /// Host name, server id, or the beginning of an id
    server: String,
    /// The holder that goes on: first, second, its address, or the beginning of its boot id
    #[arg(long, value_name = "HOLDER")]
    keep: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(store: &dyn Store, args: ResolveClone) -> anyhow::Result<ExitCode> {
    let server = find(store, &args.server).await?;
    let Some(suspicion) = store.unresolved_clone(&server.server_id).await? else {
        bail!(
            "{} ({}) is {}: no two holders of its identity wait for a decision",
            show::escaped(&server.hostname),
            server.server_id,
            show::escaped(&server.status)
        );
    };
    let Some(keep) = &args.keep else {
        return print(&server, suspicion, args.json);
    };
    if suspicion.status != "open" {
        bail!("{}", decided(&server, &suspicion));
    }
    let kept = pick(keep, first(&suspicion), second(&suspicion))?;
    let now_ms = clock::now_ms();
    let decision = CloneResolution {
        server_id: server.server_id.clone(),
        suspicion_id: suspicion.suspicion_id,
        kept,
        directive_id: clock::uuid_v7(now_ms),
        deadline_s: ROTATE_DEADLINE_S,
        now_ms,
    };
    let done = store.resolve_clone(decision).await?;
    let after = store.unresolved_clone(&server.server_id).await?;
    store.close().await?;
    if !done {
        bail!(
            "{} was changed by somebody else just now: look again with 'server resolve-clone'",
            show::escaped(&server.hostname)
        );
    }
    let suspicion = after.context("the decision is not in the database any more")?;
    if args.json {
        show::json("clone_suspicions", &[suspicion])?;
    } else {
        show::line(kept_sentence(&server, &suspicion, kept))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn first(row: &SuspicionRow) -> Named<'_> {
    Named {
        address: &row.first_peer_ip,
        boot_id: row.first_boot_id.as_deref(),
    }
}

fn second(row: &SuspicionRow) -> Named<'_> {
    Named {
        address: &row.second_peer_ip,
        boot_id: Some(&row.second_boot_id),
    }
}

fn print(server: &ServerRow, row: SuspicionRow, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        show::json("clone_suspicions", &[row])?;
        return Ok(ExitCode::SUCCESS);
    }
    let host = show::escaped(&server.hostname);
    show::line(format_args!(
        "Two holders of the identity of {host} ({}) were seen:\n",
        server.server_id
    ))?;
    let holder = |name: &str, seq: i64, named: Named<'_>, seen: Option<&str>| {
        vec![
            name.to_owned(),
            show::escaped(named.address),
            show::optional(named.boot_id),
            seq.to_string(),
            show::instant(seen),
        ]
    };
    let seen = row.first_seen_at.as_deref();
    let rows = vec![
        holder("first", row.first_seq, first(&row), seen),
        holder("second", row.second_seq, second(&row), Some(&row.seen_at)),
    ];
    show::table(&["HOLDER", "ADDRESS", "BOOT", "REQUEST", "SEEN"], rows, "")?;
    let next = match row.status.as_str() {
        "open" => format!(
            "Both are stopped. Keep one with 'server resolve-clone {} --keep first' or '--keep second'.",
            server.server_id
        ),
        _ => decided(server, &row),
    };
    show::line(format_args!(
        "\nIt looks like: {}. In words: {}.\n{next}",
        show::escaped(&row.likely).replace('_', " "),
        show::escaped(&row.reason)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A decision stands: the chain has gone on from it.
fn decided(server: &ServerRow, row: &SuspicionRow) -> String {
    format!(
        "The {} holder of {} is kept already, and must take a new key with its next requests. If that was wrong, stop it and enrol the right host again with a token for this server.",
        show::optional(row.kept.as_deref()),
        show::escaped(&server.hostname)
    )
}

fn kept_sentence(server: &ServerRow, row: &SuspicionRow, kept: Kept) -> String {
    let (named, other) = match kept {
        Kept::Second => (second(row), first(row)),
        Kept::First | Kept::Reenrolled => (first(row), second(row)),
    };
    let boot = |named: Named<'_>| show::optional(named.boot_id);
    format!(
        "The {} holder of {} ({}, boot {}) is kept. It goes on with its next request, is told to take a new key, and is challenged; after that the other one ({}, boot {}) is refused for ever. If that one is a machine of its own, stop it now and erase its state directory (/var/lib/vpn-node).",
        word(&kept),
        show::escaped(&server.hostname),
        show::escaped(named.address),
        boot(named),
        show::escaped(other.address),
        boot(other),
    )
}
