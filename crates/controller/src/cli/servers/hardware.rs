//! `server permit-rehost` and `server hardware diff|log`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::find;
use crate::cli::show;
use crate::cli::span::span_ms;
use crate::clock;
use crate::rules::challenge::from_json;
use crate::rules::drift::{self, Drift, Seen};
use crate::rules::effect::NewEvent;
use crate::rules::events::EventType;
use crate::rules::state::MAX_REHOST_PERMIT_MS;
use crate::store::{HardwareLogRow, RehostPermit, Store};
use crate::verification;

/// Fingerprints that are looked at for "since": years of a quiet host.
const MOST_SEEN: u32 = 5000;
/// Rows of the log shown unless asked otherwise.
const DEFAULT_LIMIT: u32 = 100;

#[derive(Debug, Args)]
pub(in crate::cli) struct PermitArgs {
    /// Host name, server id, or the beginning of an id
    server: String,
    /// For how long: a number with s, m, h or d, at most 7d; 0 takes the permit back
    #[arg(long = "for", value_name = "TIME", allow_hyphen_values = true, value_parser = permit_ms)]
    lasts: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum HardwareCommand {
    /// How the hardware of a host differs from the enrolled one, and since when
    Diff {
        /// Host name, server id, or the beginning of an id
        server: String,
        /// Print the values too, which are serial numbers
        #[arg(long)]
        show_serials: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Every attempt at verifying the hardware of a host, newest first
    Log {
        /// Host name, server id, or the beginning of an id
        server: String,
        /// The newest N
        #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT, allow_negative_numbers = true,
              value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn permit(args: PermitArgs, store: &dyn Store) -> anyhow::Result<ExitCode> {
    let server = find(store, &args.server).await?;
    let host = show::escaped(&server.hostname);
    let now_ms = clock::now_ms();
    let until_ms = (args.lasts > 0).then(|| now_ms.saturating_add(args.lasts));
    let until = until_ms.map(clock::to_text);
    if until.is_none() && server.rehost_permitted_until.is_none() {
        bail!("{host} has no permit for a rehost that could be taken back");
    }
    let (event_type, description) = match &until {
        Some(until) => (
            EventType::RehostPermitted,
            format!("an operator expects other hardware until {until}"),
        ),
        None => (
            EventType::RehostPermitWithdrawn,
            "an operator took the permit for other hardware back".to_owned(),
        ),
    };
    let permit = RehostPermit {
        until_ms,
        event: NewEvent {
            event_type,
            source_id: Some(server.server_id.clone()),
            description,
            at_ms: now_ms,
        },
        challenge: (until.is_some() && server.status == "active")
            .then(|| verification::on_demand(now_ms)),
    };
    let done = store.permit_rehost(&server.server_id, permit).await?;
    let server = find(store, &server.server_id).await?;
    store.close().await?;
    if !done {
        bail!(
            "{host} is {}: only an active or a pending server can be permitted other hardware",
            show::escaped(&server.status)
        );
    }
    let challenged = match server.status.as_str() {
        "active" => "It is challenged now",
        _ => "It is challenged once it is approved",
    };
    if args.json {
        show::json("servers", &[server])?;
    } else if let Some(until) = &until {
        show::line(format_args!(
            "Permitted until {} UTC: when {host} answers a challenge from other hardware, that is its enrolled one from then on, once. {challenged}; see 'server show' and 'server hardware diff'.",
            show::instant(Some(until))
        ))?;
    } else {
        show::line(format_args!(
            "The permit is taken back: other hardware of {host} is a mismatch again."
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn hardware(
    command: HardwareCommand,
    store: &dyn Store,
) -> anyhow::Result<ExitCode> {
    match command {
        HardwareCommand::Diff {
            server,
            show_serials,
            json,
        } => diff(store, &server, show_serials, json).await,
        HardwareCommand::Log {
            server,
            limit,
            json,
        } => log(store, &server, limit, json).await,
    }
}

async fn diff(
    store: &dyn Store,
    name: &str,
    show_serials: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let server_id = find(store, name).await?.server_id;
    let enrolled = store
        .enrolled_hardware(&server_id)
        .await?
        .as_deref()
        .and_then(from_json)
        .context("the controller holds no components of this server's enrolment")?;
    let log = store.list_hardware_log(&server_id, MOST_SEEN).await?;
    let seen: Vec<Seen> = log.iter().filter_map(seen).collect();
    let drift = drift::of(&enrolled, &seen, show_serials);
    if as_json {
        show::json("components", &drift)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut header = vec![
        "COMPONENT",
        "WEIGHT",
        "ENROLLED",
        "PRESENT",
        "STATE",
        "SINCE",
    ];
    if show_serials {
        header.extend(["ENROLLED VALUE", "PRESENT VALUE"]);
    }
    let rows = drift.iter().map(|row| cells(row, show_serials)).collect();
    show::table(&header, rows, "There are no components.")?;
    Ok(ExitCode::SUCCESS)
}

/// A fingerprint that was compared; what else came says nothing about the hardware.
fn seen(row: &HardwareLogRow) -> Option<Seen> {
    let compared = matches!(
        row.verification_result.as_deref(),
        Some("success" | "mismatch")
    );
    Some(Seen {
        at: row.created_at.clone()?,
        components: row
            .raw_components
            .as_deref()
            .filter(|_| compared)
            .and_then(from_json)?,
    })
}

fn cells(row: &Drift, show_serials: bool) -> Vec<String> {
    let mut cells = vec![
        row.component.as_str().to_owned(),
        row.weight.as_str().to_owned(),
        show::optional(row.enrolled.as_deref()),
        show::optional(row.present.as_deref()),
        row.state.as_str().to_owned(),
        show::instant(row.since.as_deref()),
    ];
    if show_serials {
        cells.push(show::optional(row.enrolled_value.as_deref()));
        cells.push(show::optional(row.present_value.as_deref()));
    }
    cells
}

async fn log(store: &dyn Store, name: &str, limit: u32, as_json: bool) -> anyhow::Result<ExitCode> {
    let server_id = find(store, name).await?.server_id;
    let found = store.list_hardware_log(&server_id, limit).await?;
    if as_json {
        show::json("hardware_log", &found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = found
        .iter()
        .map(|row| {
            vec![
                show::instant(row.created_at.as_deref()),
                show::optional(row.verification_result.as_deref()),
                show::optional(row.error_details.as_deref()),
                show::optional(row.client_ip.as_deref()),
                show::optional(row.os_version.as_deref()),
                show::optional(row.hardware_id.get(..16)),
            ]
        })
        .collect();
    show::table(
        &[
            "TIME",
            "RESULT",
            "DETAILS",
            "FROM",
            "OPERATING SYSTEM",
            "HARDWARE",
        ],
        rows,
        "The hardware of this host was never looked at.",
    )?;
    Ok(ExitCode::SUCCESS)
}

fn permit_ms(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    let ms = span_ms(text)?;
    if (1..=MAX_REHOST_PERMIT_MS).contains(&ms) {
        Ok(ms)
    } else {
        Err("it must be more than 0s and at most 7d, or 0 to take the permit back".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_bounded_and_nothing_takes_it_back() {
        assert_eq!(permit_ms("0"), Ok(0));
        assert_eq!(permit_ms("1h"), Ok(3_600_000));
        assert_eq!(permit_ms("7d"), Ok(MAX_REHOST_PERMIT_MS));
        for bad in ["8d", "169h", "-1h", "0s", "", "h", "4294967296d", "1w"] {
            assert!(permit_ms(bad).is_err(), "{bad}");
        }
    }
}
