//! `rollout status`: how far a rollout is.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use vpn_node_protocol::update::DeploymentStatus;

use super::left_out::{self, Out, in_scope};
use super::{KIND, find};
use crate::cli::show;
use crate::clock;
use crate::config::Config;
use crate::rules::rollout::choose::{LeftOut, choose};
use crate::rules::rollout::{Host, Pace, Windows};
use crate::store::{
    DeploymentFilter, DeploymentRow, FleetHost, RolloutRow, StatusCount, Store, Which,
};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Characters of a full bar.
const BAR: i64 = 40;
/// Why a host has no deployment that would get one now.
const CAME_LATER: &str =
    "it could not take it when the rollout began, and could now: begin another one";
/// The most that is asked for in one list.
const ALL: u32 = u32::MAX;

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    /// Its id, the beginning of it, or its version [default: the newest one]
    rollout: Option<String>,
    /// Show it again every two seconds, until it has ended or stopped
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A rollout with everything that is told of it.
#[derive(Serialize)]
struct Full {
    #[serde(flatten)]
    row: RolloutRow,
    counts: Vec<StatusCount>,
    /// Of those that have not ended, hosts that are not heard.
    silent: usize,
    /// Who gets it first, alone.
    canaries: Vec<DeploymentRow>,
    in_flight: Vec<DeploymentRow>,
    failures: Vec<DeploymentRow>,
    left_out: Vec<Out>,
}

pub(super) async fn run(
    store: &dyn Store,
    config: &Config,
    args: StatusArgs,
) -> anyhow::Result<ExitCode> {
    let mut row = match &args.rollout {
        Some(named) => find(store, named).await?,
        None => newest(store).await?,
    };
    let clears = args.watch && std::io::stdout().is_terminal();
    loop {
        let id = row.rollout_id.clone();
        let full = full(store, config, row).await?;
        if args.json {
            show::json("rollouts", &[full])?;
            return Ok(ExitCode::SUCCESS);
        }
        if clears {
            // ECMA-48: to the first line, and erase what is there.
            show::line("\u{1b}[H\u{1b}[2J")?;
        }
        text(&full)?;
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        let goes_on = matches!(full.row.state.as_str(), "running" | "paused");
        if !goes_on && full.in_flight.is_empty() {
            return Ok(match full.row.state.as_str() {
                "completed" => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            });
        }
        tokio::time::sleep(WATCH_EVERY).await;
        row = KIND.pick(store.rollouts().await?, &id)?;
    }
}

async fn newest(store: &dyn Store) -> anyhow::Result<RolloutRow> {
    match store.rollouts().await?.into_iter().next() {
        Some(row) => Ok(row),
        None => bail!("there are no rollouts yet: begin one with 'rollout create'"),
    }
}

async fn full(store: &dyn Store, config: &Config, row: RolloutRow) -> anyhow::Result<Full> {
    let list = |which, limit| DeploymentFilter {
        rollout_id: Some(row.rollout_id.clone()),
        which,
        limit,
        ..DeploymentFilter::default()
    };
    let pace = Pace::of(config.heartbeat_interval_s);
    let fleet = store.fleet().await?;
    let has = store.rollout_servers(&row.rollout_id).await?;
    let has: HashSet<String> = has.into_iter().collect();
    let now_ms = clock::now_ms();
    let is_silent = |one: &&FleetHost| {
        let open = one.open_version.as_deref() == Some(&row.version);
        open && has.contains(&one.host.server_id) && !one.host.is_heard(pace, now_ms)
    };
    Ok(Full {
        counts: store.rollout_counts(&row.rollout_id).await?,
        silent: fleet.iter().filter(is_silent).count(),
        canaries: match u32::try_from(row.canary)? {
            0 => vec![],
            canary => store.deployments(list(Which::Canaries, canary)).await?,
        },
        in_flight: store.deployments(list(Which::InFlight, ALL)).await?,
        failures: store.deployments(list(Which::Bad, ALL)).await?,
        left_out: without(store, &row, fleet, &has, pace, now_ms).await?,
        row,
    })
}

/// Hosts of the rollout's groups and servers that have no deployment of it, and why that is so now.
async fn without(
    store: &dyn Store,
    row: &RolloutRow,
    fleet: Vec<FleetHost>,
    has: &HashSet<String>,
    pace: Pace,
    now_ms: i64,
) -> anyhow::Result<Vec<Out>> {
    let groups: Vec<String> = serde_json::from_str(&row.group_names)?;
    let servers: Vec<String> = serde_json::from_str(&row.server_ids)?;
    let mut releases = store.published(&row.version).await?;
    releases.retain(|one| one.channel == row.channel);
    let mut fleet = in_scope(fleet, &store.groups().await?, &groups, &servers);
    fleet.retain(|one| !has.contains(&one.host.server_id));
    let hosts: Vec<Host> = fleet.iter().map(|one| one.host.clone()).collect();
    let percent = u8::try_from(row.percent).unwrap_or(100);
    let plan = choose(&hosts, &releases, percent, pace, now_ms);
    let why: HashMap<String, LeftOut> = plan.left_out.into_iter().collect();
    let out = |one: &FleetHost| match why.get(&one.host.server_id) {
        Some(why) => Out::new(one, why),
        None => Out {
            code: "came_later",
            reason: CAME_LATER.to_owned(),
            ..Out::new(one, &LeftOut::Percent)
        },
    };
    Ok(fleet.iter().map(out).collect())
}

fn text(full: &Full) -> anyhow::Result<()> {
    show::fields(&fields(&full.row))?;
    show::line("")?;
    for status in DeploymentStatus::ALL {
        let word = status.as_str();
        if let Some(count) = full.counts.iter().find(|one| one.status == word) {
            show::line(bar(word, count.deployments, full.row.deployments))?;
        }
    }
    if full.silent > 0 {
        let hosts = show::count(full.silent as u64, "host");
        show::line(format_args!(
            "\nSilent: {hosts} of those that have not ended; a host gets its turn when it is heard."
        ))?;
    }
    canaries(full)?;
    if !full.in_flight.is_empty() {
        show::line("\nIn flight:")?;
        let rows = full
            .in_flight
            .iter()
            .take(left_out::ROWS)
            .map(in_flight)
            .collect();
        show::table(
            &[
                "HOST",
                "STATUS",
                "BYTES",
                "RATE",
                "LEFT",
                "SINCE",
                "LAST HEARD",
                "WHY",
            ],
            rows,
            "",
        )?;
        left_out::more(full.in_flight.len())?;
    }
    if !full.failures.is_empty() {
        show::line("\nEnded badly:")?;
        let rows = full
            .failures
            .iter()
            .take(left_out::ROWS)
            .map(failure)
            .collect();
        show::table(&["HOST", "STATUS", "RUNS", "AT", "WHY"], rows, "")?;
        left_out::more(full.failures.len())?;
    }
    left_out::table(&full.left_out)
}

/// The canaries that everybody else waits for.
fn canaries(full: &Full) -> anyhow::Result<()> {
    let ended = matches!(full.row.state.as_str(), "completed" | "aborted");
    let waits = |row: &&DeploymentRow| row.status != "installed";
    let waited_for: Vec<&DeploymentRow> = full.canaries.iter().filter(waits).collect();
    if ended || waited_for.is_empty() {
        return Ok(());
    }
    show::line(format_args!(
        "\nFirst, alone: {} of {} have it; the others wait for",
        full.canaries.len() - waited_for.len(),
        full.canaries.len()
    ))?;
    let rows = waited_for.iter().take(left_out::ROWS).map(|row| {
        vec![
            show::escaped(&row.hostname),
            row.server_id.clone(),
            show::escaped(&row.status),
            show::instant(row.last_heartbeat.as_deref()),
        ]
    });
    show::table(
        &["HOST", "SERVER", "STATUS", "LAST HEARD"],
        rows.collect(),
        "",
    )
}

fn fields(row: &RolloutRow) -> Vec<(&'static str, String)> {
    let list = |json: &str| {
        let texts: Vec<String> = serde_json::from_str(json).unwrap_or_default();
        texts
            .iter()
            .map(|text| show::escaped(text))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let scope = match (list(&row.group_names), list(&row.server_ids)) {
        (groups, servers) if groups.is_empty() && servers.is_empty() => "every host".to_owned(),
        (groups, servers) if servers.is_empty() => format!("groups {groups}"),
        (groups, servers) if groups.is_empty() => format!("servers {servers}"),
        (groups, servers) => format!("groups {groups}; servers {servers}"),
    };
    let since = show::instant(Some(&row.state_changed_at));
    let reason = row.state_reason.as_deref();
    let reason = reason.map_or_else(String::new, |why| format!(": {}", show::escaped(why)));
    let mut fields = vec![
        ("Rollout", row.rollout_id.clone()),
        (
            "Release",
            format!(
                "{} ({})",
                show::escaped(&row.version),
                show::escaped(&row.channel)
            ),
        ),
        (
            "State",
            format!("{} since {since} UTC{reason}", show::escaped(&row.state)),
        ),
        ("For", format!("{scope}; {} percent", row.percent)),
        (
            "Way",
            format!(
                "{} first, alone; then {} at once; stops at more than {} percent that end badly",
                row.canary, row.max_in_flight, row.stop_on_failures
            ),
        ),
    ];
    if let Some(text) = &row.maintenance_window {
        let opens = Windows::parse(text, jiff::tz::db()).map_or_else(
            |error| error.to_string(),
            |windows| next_window(&windows, clock::now_ms()),
        );
        let over = if row.mandatory {
            "; it does not wait for it"
        } else {
            ""
        };
        fields.push(("Window", format!("{}; {opens}{over}", show::escaped(text))));
    }
    if let Some(note) = &row.notes {
        fields.push(("Note", show::escaped(note)));
    }
    fields
}

/// When a window is open, as a part of a sentence.
pub(super) fn next_window(windows: &Windows, now_ms: i64) -> String {
    match windows.next_open(now_ms) {
        Some(at) if at == now_ms => "open now".to_owned(),
        Some(at) => format!("opens at {} UTC", show::instant(Some(&clock::to_text(at)))),
        None => "opens at no time within two weeks".to_owned(),
    }
}

fn bar(word: &str, count: i64, all: i64) -> String {
    // One of very many is seen all the same.
    let filled = (count * BAR / all.max(1)).clamp(i64::from(count > 0), BAR);
    let bar: String = (0..BAR)
        .map(|n| if n < filled { '#' } else { '.' })
        .collect();
    format!("{word:<15} {bar} {count} of {all}")
}

fn in_flight(row: &DeploymentRow) -> Vec<String> {
    let [bytes, total, rate] = [row.bytes, row.total, row.bytes_per_s].map(i64::unsigned_abs);
    let amount = match total {
        0 => "-".to_owned(),
        total => format!("{} of {}", show::bytes(bytes), show::bytes(total)),
    };
    let downloads = row.status == "downloading" && total > 0;
    let left = (downloads && rate > 0).then(|| total.saturating_sub(bytes).div_ceil(rate));
    let status = match row.status.as_str() {
        // What the host has not spoken of yet.
        "pending" => format!("told (attempt {})", row.attempts),
        status => show::escaped(status),
    };
    vec![
        show::escaped(&row.hostname),
        status,
        amount,
        match downloads {
            true => format!("{}/s", show::bytes(rate)),
            false => "-".to_owned(),
        },
        left.map_or_else(|| "-".to_owned(), seconds),
        show::instant(row.changed_at.as_deref()),
        show::instant(row.last_heartbeat.as_deref()),
        why(row),
    ]
}

/// What the host says of it; escaped when it was stored.
fn why(row: &DeploymentRow) -> String {
    let said = row.failure_reason.as_deref();
    said.map_or_else(|| "-".to_owned(), show::identity)
}

fn seconds(left: u64) -> String {
    match left {
        0..120 => format!("{left} s"),
        120..7200 => format!("{} min", left.div_ceil(60)),
        _ => format!("{} h", left.div_ceil(3600)),
    }
}

fn failure(row: &DeploymentRow) -> Vec<String> {
    vec![
        show::escaped(&row.hostname),
        show::escaped(&row.status),
        show::optional(row.previous_version.as_deref()),
        show::instant(row.changed_at.as_deref()),
        why(row),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_one_of_very_many_and_is_never_too_long() {
        assert_eq!(bar("failed", 1, 100_000).matches('#').count(), 1);
        assert_eq!(bar("failed", 0, 10).matches('#').count(), 0);
        assert_eq!(bar("installed", 10, 10).matches('#').count(), BAR as usize);
        assert_eq!(bar("installed", 5, 10).matches('#').count(), 20);
        assert!(bar("installed", 1, 0).contains("1 of 0"));
    }

    #[test]
    fn the_time_left_is_told_in_a_unit_that_fits() {
        let told: Vec<String> = [0, 119, 120, 7199, 7200].map(seconds).into();
        assert_eq!(told, ["0 s", "119 s", "2 min", "120 min", "2 h"]);
    }
}
