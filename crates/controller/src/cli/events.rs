//! `events list|show|handle`: what an operator should look at, and what he did about it.

use std::fs;
use std::process::ExitCode;

use anyhow::bail;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use nix::unistd::{Uid, User, getuid};
use serde::Serialize;
use vpn_node_protocol::limits::is_short_text;

use super::lists::ListArgs;
use super::span::span_ms;
use super::text::short_text;
use super::{open, servers, show};
use crate::clock;
use crate::config::Config;
use crate::rules::events::{EventType, Severity};
use crate::store::{EventFilter, EventRow, HandleEnd, Handling, Store};

/// Who logged in, also through sudo (proc_pid_loginuid(5)); 2^32-1 when nobody did.
const LOGIN_UID: &str = "/proc/self/loginuid";

#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// Security events, newest first
    List(EventsListArgs),
    /// One event in full, with what it means and what to do
    Show {
        /// Its number, as 'events list' shows it
        id: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say that events were dealt with: all of them, or none
    Handle {
        /// Their numbers, as 'events list' shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<i64>,
        /// What was found or done
        #[arg(long, value_name = "TEXT", value_parser = short_text)]
        note: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct EventsListArgs {
    /// Of this type only, for example clone_suspected
    #[arg(long = "type", value_name = "TYPE", value_parser = words(), hide_possible_values = true)]
    event_type: Option<String>,
    /// Of this severity only
    #[arg(long, value_parser = severities())]
    severity: Option<String>,
    /// Those that nobody has handled
    #[arg(long)]
    unhandled: bool,
    /// About this host only
    #[arg(long)]
    server: Option<String>,
    /// Not older than this, for example 24h
    #[arg(long, value_name = "TIME", value_parser = span_ms)]
    since: Option<i64>,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn run(command: EventsCommand, config: &Config) -> anyhow::Result<ExitCode> {
    let store = open(config).await?;
    match command {
        EventsCommand::List(args) => list(&*store, args).await?,
        EventsCommand::Show { id, json } => one(&*store, id, json).await?,
        EventsCommand::Handle { ids, note, json } => handle(&*store, ids, note, json).await?,
    }
    store.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn words() -> PossibleValuesParser {
    EventType::ALL.iter().map(|one| one.word()).into()
}

fn severities() -> PossibleValuesParser {
    Severity::ALL.map(Severity::as_str).into()
}

async fn list(store: &dyn Store, args: EventsListArgs) -> anyhow::Result<()> {
    let source_id = match &args.server {
        Some(name) => Some(servers::find(store, name).await?.server_id),
        None => None,
    };
    let severity = |word: &String| Severity::ALL.into_iter().find(|s| s.as_str() == word);
    let filter = EventFilter {
        event_type: args.event_type.as_deref().and_then(EventType::from_word),
        severity: args.severity.as_ref().and_then(severity),
        unhandled: args.unhandled,
        source_id,
        since_ms: args.since.map(|ms| clock::now_ms().saturating_sub(ms)),
        limit: args.list.limit,
    };
    let found = store.list_events(filter).await?;
    if args.list.json {
        return show::json("events", &found);
    }
    let rows = found
        .iter()
        .map(|row| {
            vec![
                row.event_id.to_string(),
                show::instant(Some(&row.timestamp)),
                show::escaped(&row.severity),
                show::escaped(&row.event_type),
                show::yes_no(row.handled).to_owned(),
                show::optional(row.source_id.as_deref()),
                show::escaped(&row.description),
            ]
        })
        .collect();
    show::table(
        &[
            "ID", "TIME", "SEVERITY", "EVENT", "HANDLED", "SOURCE", "WHAT",
        ],
        rows,
        "There are no such security events.",
    )
}

/// An event with what the catalogue says of its type; nothing, when another version of the
/// controller recorded it.
#[derive(Serialize)]
struct Explained<'a> {
    #[serde(flatten)]
    row: &'a EventRow,
    meaning: Option<&'static str>,
    what_to_do: Option<&'static str>,
}

impl<'a> Explained<'a> {
    fn new(row: &'a EventRow) -> Self {
        let known = EventType::from_word(&row.event_type);
        Self {
            row,
            meaning: known.map(EventType::meaning),
            what_to_do: known.map(EventType::what_to_do),
        }
    }
}

async fn one(store: &dyn Store, id: i64, as_json: bool) -> anyhow::Result<()> {
    let Some(row) = store.event(id).await? else {
        bail!("there is no event {id}: see 'events list'");
    };
    let explained = Explained::new(&row);
    if as_json {
        return show::json("events", &[explained]);
    }
    show::fields(&fields(&explained))
}

fn fields(explained: &Explained<'_>) -> Vec<(&'static str, String)> {
    const UNKNOWN: &str = "this version of the controller does not know this type";
    let row = explained.row;
    let mut fields = vec![
        ("Event", row.event_id.to_string()),
        ("Time", show::instant(Some(&row.timestamp))),
        ("Type", show::escaped(&row.event_type)),
        ("Severity", show::escaped(&row.severity)),
        ("Seen by", show::escaped(&row.component)),
        ("Source", show::optional(row.source_id.as_deref())),
        ("What", show::escaped(&row.description)),
        ("Meaning", explained.meaning.unwrap_or(UNKNOWN).to_owned()),
        (
            "What to do",
            explained.what_to_do.unwrap_or(UNKNOWN).to_owned(),
        ),
        ("Handled", show::yes_no(row.handled).to_owned()),
    ];
    if row.handled {
        let by = row.handled_by_user.as_deref().or(row.handled_by.as_deref());
        fields.push(("Handled at", show::instant(row.handled_at.as_deref())));
        fields.push(("Handled by", show::optional(by)));
        fields.push(("Note", show::optional(row.handling_notes.as_deref())));
    }
    fields
}

async fn handle(
    store: &dyn Store,
    ids: Vec<i64>,
    note: String,
    as_json: bool,
) -> anyhow::Result<()> {
    let handling = Handling {
        event_ids: ids.into_iter().collect(),
        note,
        by_user: user_name(),
        at_ms: clock::now_ms(),
    };
    let ids = handling.event_ids.clone();
    match store.handle_events(handling).await? {
        HandleEnd::Handled => {}
        HandleEnd::Unknown(ids) => bail!(
            "there is no event {}, so none was marked: see 'events list'",
            joined(&ids)
        ),
        HandleEnd::Already(ids) => bail!(
            "already handled, so none was marked: event {}; see 'events show'",
            joined(&ids)
        ),
    }
    if !as_json {
        return show::line(format_args!("Handled: {}.", joined(&ids)));
    }
    let mut rows = vec![];
    for id in ids {
        rows.extend(store.event(id).await?);
    }
    show::json("events", &rows)
}

fn joined<'a>(ids: impl IntoIterator<Item = &'a i64>) -> String {
    let ids: Vec<String> = ids.into_iter().map(ToString::to_string).collect();
    ids.join(", ")
}

/// Who is at the terminal. The commands run as the user that owns the data, so whoever logged in
/// tells more, when the system keeps that; a uid without a name stands as a number.
fn user_name() -> String {
    let login = fs::read_to_string(LOGIN_UID).ok();
    let login = login.and_then(|text| text.trim().parse().ok());
    let uid = login
        .filter(|&uid| uid != u32::MAX)
        .map_or_else(getuid, Uid::from_raw);
    match User::from_uid(uid) {
        Ok(Some(user)) if is_short_text(&user.name) => user.name,
        _ => uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_another_version_is_shown_and_hostile_text_is_escaped() {
        let row = EventRow {
            event_id: 7,
            timestamp: "2026-11-22T03:10:24.512Z".into(),
            event_type: "from_the_future".into(),
            severity: "high".into(),
            component: "api".into(),
            source_id: Some("a\u{1b}[2J".into()),
            description: "b\u{202e}c".into(),
            handled: true,
            handled_by: None,
            handling_notes: Some("d\u{7}".into()),
            user_name: None,
            handled_at: None,
            handled_by_user: Some("e\u{9b}".into()),
        };
        let explained = Explained::new(&row);
        assert_eq!((explained.meaning, explained.what_to_do), (None, None));
        let text = format!("{:?}", fields(&explained));
        let hostile = |c: char| c.is_control() || c == '\u{202e}';
        for (name, value) in fields(&explained) {
            assert!(!value.contains(hostile), "{name}");
        }
        assert!(text.contains("does not know this type"));
    }
}
