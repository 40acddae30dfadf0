//! `rollout create`: who gets a release, and whether that is what is wanted.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::left_out::{self, Out, in_scope};
use crate::cli::text::short_text;
use crate::cli::{servers, show};
use crate::clock;
use crate::config::Config;
use crate::rules::rollout::choose::{Plan, choose};
use crate::rules::rollout::{Host, Pace, Release, Windows};
use crate::store::{FleetHost, NewRollout, Store};

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArgs {
    /// Version of a published release, for example 1.5.0
    version: String,
    /// Channel of the release; hosts of other channels are left out
    #[arg(long, value_name = "NAME", default_value = "stable")]
    channel: String,
    /// Only hosts of this group (may be repeated; with --server: these as well)
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// Only this host: its name, its id, or the beginning of its id (may be repeated)
    #[arg(long = "server", value_name = "SERVER")]
    servers: Vec<String>,
    /// So many hosts first, alone, until they have it and are still heard; 0: nobody is first
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    canary: u32,
    /// Of the hosts that can take it; the same hosts for a greater number later
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// Hosts that may be at it at once
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_in_flight: u32,
    /// When hosts may be told, for example 'Mon-Fri 02:00-05:00 Europe/Berlin', several separated by
    /// ';' [default: at any time]
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    window: Option<Windows>,
    /// Stop when more than this percentage of those that have ended did so badly, of five at least;
    /// a canary that ends badly stops it at once
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    stop_on_failures: u8,
    /// Do not wait for the window, as for a release that is signed as mandatory. A host that pins its version or disables updates is not overruled
    #[arg(long)]
    mandatory: bool,
    /// Say more about it; shown by 'rollout status'
    #[arg(long, value_name = "TEXT", value_parser = short_text)]
    note: Option<String>,
    /// Show the plan, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn window(text: &str) -> Result<Windows, String> {
    Windows::parse(text, jiff::tz::db()).map_err(|error| error.to_string())
}

pub(super) async fn run(
    store: &dyn Store,
    config: &Config,
    mut args: CreateArgs,
) -> anyhow::Result<ExitCode> {
    let releases = published(store, &args).await?;
    args.mandatory |= releases.iter().any(|one| one.mandatory);
    let members = store.groups().await?;
    left_out::check_groups(&members, &args.groups)?;
    let mut named = vec![];
    for server in &args.servers {
        named.push(servers::find(store, server).await?.server_id);
    }
    let fleet = in_scope(store.fleet().await?, &members, &args.groups, &named);
    let now_ms = clock::now_ms();
    let hosts: Vec<Host> = fleet.iter().map(|one| one.host.clone()).collect();
    let pace = Pace::of(config.heartbeat_interval_s);
    let plan = choose(&hosts, &releases, args.percent, pace, now_ms);
    let told = Told {
        args: &args,
        releases: &releases,
        fleet: fleet
            .iter()
            .map(|one| (one.host.server_id.as_str(), one))
            .collect(),
        plan: &plan,
        pace,
        now_ms,
    };
    if args.json && args.dry_run {
        told.json(None)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.json {
        told.text()?;
    }
    if plan.chosen.is_empty() {
        bail!(
            "no host gets release {}: the reasons are above (--dry-run --json has all)",
            show::escaped(&args.version)
        );
    }
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !agreed(plan.chosen.len(), &args.version)? {
        show::note("Nothing was done.");
        return Ok(ExitCode::FAILURE);
    }
    let rollout_id = clock::uuid_v7(now_ms).to_string();
    store
        .create_rollout(new(
            &args,
            rollout_id.clone(),
            named,
            plan.chosen.clone(),
            now_ms,
        ))
        .await?;
    store.close().await?;
    if args.json {
        told.json(Some(&rollout_id))?;
    } else {
        show::line(format_args!(
            "\nRollout {rollout_id} has begun: see 'rollout status {rollout_id} --watch'."
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The packages of the version in the channel.
async fn published(store: &dyn Store, args: &CreateArgs) -> anyhow::Result<Vec<Release>> {
    let all = store.published(&args.version).await?;
    if all.is_empty() {
        bail!(
            "no release {} is published here: see 'release list'",
            show::escaped(&args.version)
        );
    }
    let channels: BTreeSet<&str> = all.iter().map(|one| one.channel.as_str()).collect();
    let channels: Vec<String> = channels.into_iter().map(show::escaped).collect();
    let mut ours = all.clone();
    ours.retain(|one| one.channel == args.channel);
    if ours.is_empty() {
        bail!(
            "release {} is published in channel {} only: name it with --channel",
            show::escaped(&args.version),
            channels.join(", ")
        );
    }
    Ok(ours)
}

fn new(
    args: &CreateArgs,
    rollout_id: String,
    servers: Vec<String>,
    chosen: Vec<(String, String)>,
    created_ms: i64,
) -> NewRollout {
    NewRollout {
        rollout_id,
        version: args.version.clone(),
        channel: args.channel.clone(),
        created_ms,
        groups: args.groups.clone(),
        servers,
        canary: args.canary,
        percent: args.percent,
        max_in_flight: args.max_in_flight,
        window: args.window.as_ref().map(ToString::to_string),
        stop_on_failures: args.stop_on_failures,
        mandatory: args.mandatory,
        notes: args.note.clone(),
        chosen,
    }
}

/// Asks on the terminal.
fn agreed(hosts: usize, version: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("nobody is there to be asked: say --yes, or --dry-run to see the plan alone");
    }
    show::note(format_args!(
        "\nRoll release {} out to {}? [y/N]",
        show::escaped(version),
        show::count(hosts as u64, "host")
    ));
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    read.context("the answer cannot be read")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The plan as it is told.
struct Told<'a> {
    args: &'a CreateArgs,
    releases: &'a [Release],
    fleet: HashMap<&'a str, &'a FleetHost>,
    plan: &'a Plan,
    pace: Pace,
    now_ms: i64,
}

impl Told<'_> {
    fn out(&self) -> Vec<Out> {
        let out = self.plan.left_out.iter();
        out.filter_map(|(id, why)| Some(Out::new(self.fleet.get(id.as_str())?, why)))
            .collect()
    }

    fn json(&self, rollout_id: Option<&str>) -> anyhow::Result<()> {
        let ids = self.plan.chosen.iter().map(|(id, _)| id);
        let chosen: Vec<_> = ids
            .filter_map(|id| self.fleet.get(id.as_str()))
            .map(|one| {
                json!({
                    "server_id": one.host.server_id,
                    "hostname": one.hostname,
                    "version": one.host.version,
                    "heard": one.host.is_heard(self.pace, self.now_ms),
                })
            })
            .collect();
        let platforms: Vec<&str> = self
            .releases
            .iter()
            .map(|one| one.platform.as_str())
            .collect();
        let mut object = serde_json::Map::new();
        object.insert("rollout_id".into(), json!(rollout_id));
        object.insert("version".into(), json!(self.args.version));
        object.insert("platforms".into(), json!(platforms));
        object.insert("chosen".into(), json!(chosen));
        object.insert("left_out".into(), json!(self.out()));
        show::object(object)
    }

    fn text(&self) -> anyhow::Result<()> {
        let platforms: Vec<String> = self
            .releases
            .iter()
            .map(|one| show::escaped(&one.platform))
            .collect();
        let chosen = self.plan.chosen.len();
        let window = self.args.window.as_ref().map(|windows| {
            let over = if self.args.mandatory {
                ", which it does not wait for"
            } else {
                ""
            };
            format!(
                "{windows}{over}; {}",
                super::status::next_window(windows, self.now_ms)
            )
        });
        show::fields(&[
            (
                "Release",
                format!(
                    "{} ({})",
                    show::escaped(&self.args.version),
                    show::escaped(&self.args.channel)
                ),
            ),
            ("For", platforms.join(", ")),
            ("Gets it", show::count(chosen as u64, "host")),
            (
                "First, alone",
                show::count(self.args.canary.min(u32::try_from(chosen)?), "host"),
            ),
            ("At once", self.args.max_in_flight.to_string()),
            ("Window", window.unwrap_or_else(|| "at any time".to_owned())),
            (
                "Stops at",
                format!(
                    "more than {} percent that end badly",
                    self.args.stop_on_failures
                ),
            ),
        ])?;
        if chosen > 0 {
            show::line("")?;
            let ids = self.plan.chosen.iter().take(left_out::ROWS);
            let rows = ids
                .filter_map(|(id, _)| self.fleet.get(id.as_str()))
                .map(|one| self.row(one));
            show::table(&["HOST", "SERVER", "RUNS", "NOW"], rows.collect(), "")?;
            left_out::more(chosen)?;
        }
        left_out::table(&self.out())
    }

    fn row(&self, one: &FleetHost) -> Vec<String> {
        let now = match (&one.open_version, one.host.is_heard(self.pace, self.now_ms)) {
            (Some(version), _) => format!(
                "has a deployment of {}, which gives way unless it is with the updater",
                show::escaped(version)
            ),
            (None, true) => "heard".to_owned(),
            (None, false) => "silent: it gets it when it is heard".to_owned(),
        };
        vec![
            show::escaped(&one.hostname),
            one.host.server_id.clone(),
            show::escaped(&one.host.version),
            now,
        ]
    }
}
