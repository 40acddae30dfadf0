//! `vpn-node connections`: the live connections as a table or JSON. No addresses, no keys. A host
//! that is not enrolled has none, which the exit code tells from a quiet host.

use serde_json::json;

use super::args::Global;
use super::console::Console;
use super::{Exit, reach, text};
use crate::core::report::{ConnectionRow, SCHEMA};
use crate::core::{shown, shown_seconds};
use crate::host::clock;

/// Asks and renders.
pub(super) fn run(global: &Global, json: bool, console: &mut Console<'_>) -> Exit {
    let place = match reach::place(global, json, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    // Only an enrolled host watches its VPN. Everybody may know whether it is one.
    let answer = place.client.health().and_then(|(_, health)| {
        let rows = health.enrolled.then(|| place.client.connections());
        rows.transpose()
    });
    let rows = match answer {
        Ok(Some(rows)) => rows,
        Ok(None) => return reach::not_enrolled(json, console),
        Err(error) => return reach::explain(&place, &error, json, console),
    };
    if json {
        let value = json!({ "schema": SCHEMA, "connections": rows });
        console.json(&value);
    } else {
        console.out(&table(&rows, clock::now().wall_ms));
    }
    Exit::Ok
}

/// One line a connection, oldest first (the ids are ordered by time).
pub(super) fn table(rows: &[ConnectionRow], now_ms: i64) -> String {
    if rows.is_empty() {
        return "No connections.\n".to_owned();
    }
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
