//! `server group …`: hosts that rollouts take together.

use std::process::ExitCode;

use clap::Subcommand;

use super::find;
use crate::cli::show;
use crate::clock;
use crate::store::{GroupChange, GroupRow, Store};

/// Longest name of a group, in bytes.
const MAX_NAME: usize = 64;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum GroupCommand {
    /// Put hosts into a group, which begins with its first one
    Add {
        /// Letters, digits, '.', '_' and '-'
        #[arg(value_parser = group_name)]
        group: String,
        /// Host names, server ids, or beginnings of ids
        #[arg(required = true, value_name = "SERVER")]
        servers: Vec<String>,
    },
    /// Take hosts out of a group, which ends with its last one; rollouts that have begun go on
    Remove {
        /// Its name
        #[arg(value_parser = group_name)]
        group: String,
        /// Host names, server ids, or beginnings of ids
        #[arg(required = true, value_name = "SERVER")]
        servers: Vec<String>,
    },
    /// The groups and their hosts
    List {
        /// This group only
        group: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn group_name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(good) {
        return Err(format!(
            "expected 1 to {MAX_NAME} letters, digits, '.', '_' or '-'"
        ));
    }
    Ok(text.to_owned())
}

pub(super) async fn run(command: GroupCommand, store: &dyn Store) -> anyhow::Result<ExitCode> {
    match command {
        GroupCommand::Add { group, servers } => {
            let added = store
                .add_to_group(change(store, &group, &servers).await?)
                .await?;
            store.close().await?;
            show::line(format_args!(
                "{} added to group {group}.",
                show::count(added, "host")
            ))?;
        }
        GroupCommand::Remove { group, servers } => {
            let change = change(store, &group, &servers).await?;
            let removed = store.remove_from_group(change).await?;
            store.close().await?;
            let told = show::count(removed, "host");
            show::line(format_args!("{told} removed from group {group}."))?;
        }
        GroupCommand::List { group, json } => list(store, group.as_deref(), json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(store: &dyn Store, group: &str, servers: &[String]) -> anyhow::Result<GroupChange> {
    let mut server_ids = vec![];
    for server in servers {
        server_ids.push(find(store, server).await?.server_id);
    }
    Ok(GroupChange {
        group_name: group.to_owned(),
        server_ids,
        at_ms: clock::now_ms(),
    })
}

async fn list(store: &dyn Store, group: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let mut found = store.groups().await?;
    found.retain(|row| group.is_none_or(|group| row.group_name == group));
    if as_json {
        return show::json("server_groups", &found);
    }
    let row = |row: &GroupRow| {
        vec![
            show::escaped(&row.group_name),
            show::escaped(&row.hostname),
            row.server_id.clone(),
            show::instant(Some(&row.created_at)),
        ]
    };
    show::table(
        &["GROUP", "HOST", "SERVER", "SINCE"],
        found.iter().map(row).collect(),
        "No server is in such a group: 'server group add GROUP SERVER' begins one.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups_are_plain() {
        assert_eq!(group_name("eu-west.1"), Ok("eu-west.1".to_owned()));
        for bad in ["", "a b", "a\u{1b}", "ü", &"x".repeat(65)] {
            assert!(group_name(bad).is_err(), "{bad}");
        }
    }
}
