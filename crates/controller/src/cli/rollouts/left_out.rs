//! Who is part of a rollout, who is left out, and why.

use std::collections::HashSet;

use anyhow::bail;
use serde::Serialize;

use crate::cli::show;
use crate::rules::rollout::choose::LeftOut;
use crate::store::{FleetHost, GroupRow};

/// Rows of a table of hosts; JSON has all of them.
pub(super) const ROWS: usize = 20;

/// A host without a deployment.
#[derive(Debug, Serialize)]
pub(super) struct Out {
    pub(super) server_id: String,
    pub(super) hostname: String,
    pub(super) code: &'static str,
    pub(super) reason: String,
}

impl Out {
    pub(super) fn new(host: &FleetHost, why: &LeftOut) -> Self {
        Self {
            server_id: host.host.server_id.clone(),
            hostname: host.hostname.clone(),
            code: why.code(),
            reason: why.sentence(),
        }
    }
}

/// The hosts of these groups and these servers; every host when neither is named.
pub(super) fn in_scope(
    fleet: Vec<FleetHost>,
    members: &[GroupRow],
    groups: &[String],
    servers: &[String],
) -> Vec<FleetHost> {
    if groups.is_empty() && servers.is_empty() {
        return fleet;
    }
    let grouped = members
        .iter()
        .filter(|row| groups.contains(&row.group_name));
    let ids: HashSet<&str> = grouped
        .map(|row| row.server_id.as_str())
        .chain(servers.iter().map(String::as_str))
        .collect();
    let mut fleet = fleet;
    fleet.retain(|one| ids.contains(one.host.server_id.as_str()));
    fleet
}

/// A group that nobody is in was not meant.
pub(super) fn check_groups(members: &[GroupRow], groups: &[String]) -> anyhow::Result<()> {
    for group in groups {
        if !members.iter().any(|row| row.group_name == *group) {
            bail!(
                "no server is in group \"{}\": see 'server group list'",
                show::escaped(group)
            );
        }
    }
    Ok(())
}

/// Prints who is left out: each reason with its hosts counted, then the first of them.
pub(super) fn table(out: &[Out]) -> anyhow::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    show::line(format_args!(
        "\nLeft out: {}",
        show::count(out.len() as u64, "host")
    ))?;
    let rows = out.iter().take(ROWS).map(|one| {
        vec![
            show::escaped(&one.hostname),
            one.server_id.clone(),
            one.code.to_owned(),
            one.reason.clone(),
        ]
    });
    show::table(&["HOST", "SERVER", "WHY", ""], rows.collect(), "")?;
    more(out.len())
}

/// Says how many rows a table does not show.
pub(super) fn more(all: usize) -> anyhow::Result<()> {
    match all.saturating_sub(ROWS) {
        0 => Ok(()),
        rest => show::line(format_args!("… and {rest} more (--json has all)")),
    }
}
