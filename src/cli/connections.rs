//! `vpn-node connections`: the live connections, and what goes on at each backend, as tables or JSON. No addresses, no keys. A host
//! that is not enrolled has none, which the exit code tells from a quiet host.

use serde_json::json;

use super::args::Global;
use super::console::Console;
use super::status::backend_row;
use super::{Exit, reach, text};
use crate::core::report::{BackendStatus, ConnectionRow, SCHEMA};
use crate::core::{shown, shown_seconds};
use crate::host::clock;
use crate::status::Status;

/// Asks and renders.
pub(super) fn run(global: &Global, json: bool, console: &mut Console<'_>) -> Exit {
    let place = match reach::place(global, json, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    // Only an enrolled host watches its VPN. Everybody may know whether it is one.
    let answer = place.client.health().and_then(|(_, health)| {
        let ask = || Ok((place.client.connections()?, place.client.status()?));
        health.enrolled.then(ask).transpose()
    });
    let (rows, backends) = match answer {
        Ok(Some((rows, Status::Full(report)))) => (rows, report.backends),
        // Whoever may see the connections may see the report, unless he was just taken that right.
        Ok(Some((rows, Status::Public(_)))) => (rows, Vec::new()),
        Ok(None) => return reach::not_enrolled(json, console),
        Err(error) => return reach::explain(&place, &error, json, console),
    };
    if json {
        let value = json!({ "schema": SCHEMA, "connections": rows, "backends": backends });
        console.json(&value);
    } else {
        console.out(&table(&rows, &backends, clock::now().wall_ms));
    }
    Exit::Ok
}

/// One line a connection, oldest first (the ids are ordered by time); then one line a backend.
pub(super) fn table(rows: &[ConnectionRow], backends: &[BackendStatus], now_ms: i64) -> String {
    let mut text = match rows {
        [] => "No connections.\n".to_owned(),
        rows => connections(rows, now_ms),
    };
    if !backends.is_empty() {
        let lines: Vec<_> = backends.iter().map(backend_row).collect();
        text.push('\n');
        text.push_str(&text::columns(&lines, &[2, 3, 4, 5], ""));
    }
    text
}

fn connections(rows: &[ConnectionRow], now_ms: i64) -> String {
    let head = ["ID", "BACKEND", "SINCE", "DURATION", "RECEIVED", "SENT"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        vec![
            shown(&row.id).to_string(),
            shown(&row.backend).to_string(),
            text::instant(row.started_ms),
            shown_seconds(text::seconds_between(row.started_ms, now_ms)),
            text::bytes(row.rx),
            text::bytes(row.tx),
        ]
    }));
    let count = text::count(rows.len() as u64, "connection");
    format!("{}{count}\n", text::columns(&cells, &[3, 4, 5], ""))
}
