//! `rollout …`: which hosts get which release, and when.

mod create;
mod left_out;
mod status;

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;

use super::named::Kind;
use super::text::short_text;
use super::{open, show};
use crate::clock;
use crate::config::Config;
use crate::rules::rollout::RolloutState;
use crate::rules::state::word;
use crate::store::{RolloutChange, RolloutRow, Store};

#[derive(Debug, Subcommand)]
pub(super) enum RolloutCommand {
    /// Have hosts install a published release: shows who gets it and who does not, and asks
    Create(create::CreateArgs),
    /// How far a rollout is: counts, what is in flight, what failed and why, who is left out and why
    Status(status::StatusArgs),
    /// All rollouts, newest first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell no further host for now; what hosts were told of goes on
    Pause {
        /// Its id, the beginning of it, or its version
        rollout: String,
        /// Why; shown by 'rollout status'
        #[arg(long, value_name = "TEXT", value_parser = short_text)]
        reason: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Go on with a paused rollout, or with one that stopped by itself: failures are counted anew then
    Resume {
        /// Its id, the beginning of it, or its version
        rollout: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a rollout: hosts that have not handed the release to their updater are told to leave it
    Abort {
        /// Its id, the beginning of it, or its version
        rollout: String,
        /// Why; shown by 'rollout status'
        #[arg(long, value_name = "TEXT", value_parser = short_text)]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: RolloutCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let store = open(config).await?;
    match command {
        RolloutCommand::Create(args) => create::run(&*store, config, args).await,
        RolloutCommand::Status(args) => status::run(&*store, config, args).await,
        RolloutCommand::List { json } => list(&*store, json).await,
        RolloutCommand::Pause {
            rollout,
            reason,
            json,
        } => change(&*store, &rollout, RolloutState::Paused, reason, json).await,
        RolloutCommand::Resume { rollout, json } => {
            change(&*store, &rollout, RolloutState::Running, None, json).await
        }
        RolloutCommand::Abort {
            rollout,
            reason,
            json,
        } => change(&*store, &rollout, RolloutState::Aborted, Some(reason), json).await,
    }
}

const KIND: Kind<RolloutRow> = Kind {
    word: "rollout",
    list: "rollout list",
    id: |row| &row.rollout_id,
    name: |row| Some(&row.version),
    about: |row| {
        let at = show::instant(Some(&row.created_at));
        format!("{} of {at} UTC, {}", show::escaped(&row.version), row.state)
    },
};

async fn find(store: &dyn Store, named: &str) -> anyhow::Result<RolloutRow> {
    let rows = store.rollouts().await?;
    KIND.pick(rows, named)
}

async fn list(store: &dyn Store, as_json: bool) -> anyhow::Result<ExitCode> {
    let found = store.rollouts().await?;
    if as_json {
        show::json("rollouts", &found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found
        .iter()
        .map(|row| {
            vec![
                row.rollout_id.clone(),
                show::escaped(&row.version),
                show::escaped(&row.channel),
                show::escaped(&row.state),
                row.deployments.to_string(),
                row.installed.to_string(),
                row.ended_badly.to_string(),
                show::instant(Some(&row.created_at)),
                show::optional(row.state_reason.as_deref()),
            ]
        })
        .collect();
    show::table(
        &[
            "ID",
            "VERSION",
            "CHANNEL",
            "STATE",
            "HOSTS",
            "INSTALLED",
            "BAD",
            "CREATED",
            "REASON",
        ],
        rows,
        "There are no rollouts yet: publish a release, then 'vpn-node-controller rollout create'.",
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn change(
    store: &dyn Store,
    named: &str,
    to: RolloutState,
    reason: Option<String>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let before = find(store, named).await?;
    let change = RolloutChange {
        rollout_id: before.rollout_id.clone(),
        to,
        reason,
        at_ms: clock::now_ms(),
    };
    if !store.change_rollout(change).await? {
        let now = find(store, &before.rollout_id).await?;
        bail!(
            "rollout {} of {} is {}{}",
            now.rollout_id,
            show::escaped(&now.version),
            show::escaped(&now.state),
            match to {
                RolloutState::Running => ": only a paused or halted one can go on",
                RolloutState::Paused => ": only a running one can be paused",
                _ => ": it has ended already",
            }
        );
    }
    let now = find(store, &before.rollout_id).await?;
    store.close().await?;
    if as_json {
        show::json("rollouts", &[now])?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = &now.rollout_id;
    show::line(match to {
        RolloutState::Running => format!("Rollout {id} goes on."),
        RolloutState::Paused => format!(
            "Rollout {id} is paused: no further host is told. What hosts were told of goes on; see 'rollout status'."
        ),
        _ => format!(
            "Rollout {id} is {}. Hosts that were told of it and have not handed it to their updater are told to leave it, as soon as the controller hears them; what is with an updater is judged there. See 'rollout status'.",
            word(&to)
        ),
    })?;
    Ok(ExitCode::SUCCESS)
}
