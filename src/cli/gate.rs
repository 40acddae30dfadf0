//! `vpn-node gate`: binds VPN services to this host's authorisation (`docs/gate.md`).
//!
//! `enable` and `disable` change files of systemd's and need root; `status` tells everybody;
//! `hold` is the process of vpn-node-gate.service. What they decide is in `core::gate`, what
//! they write in `host::systemd`.

mod hold;
pub(super) mod show;

use nix::unistd::geteuid;

use super::Exit;
use super::args::{GateCommand, Global};
use super::console::Console;
use super::reach;
use crate::core::gate;
use crate::host::systemd::{Change, GATE, Gating, ServiceName};

/// Runs one of its commands.
pub(super) fn run(global: &Global, command: GateCommand, console: &mut Console<'_>) -> Exit {
    match command {
        GateCommand::Status { unit, json } => {
            show::run(global, unit, json, &Gating::of_this_host(), console)
        }
        GateCommand::Hold => hold::run(global, console),
        GateCommand::Enable { .. } | GateCommand::Disable { .. } if !geteuid().is_root() => {
            console.error("Only root can bind a service. Run this with sudo.");
            Exit::Failed
        }
        GateCommand::Enable { unit } => enable(global, &unit, &Gating::of_this_host(), console),
        GateCommand::Disable { unit } => disable(&unit, &Gating::of_this_host(), console),
    }
}

pub(super) fn enable(
    global: &Global,
    unit: &ServiceName,
    gating: &Gating,
    console: &mut Console<'_>,
) -> Exit {
    let change = match gating.enable(unit) {
        Ok(change) => change,
        Err(error) => return failed(&error, console),
    };
    let begin = match change.nothing_to_do {
        true => format!("{unit} was gated already."),
        false => format!("{unit} is gated: it runs only while this host is authorised."),
    };
    let end = match (change.open, change.ran) {
        (true, true) => "The gate is open.".to_owned(),
        (true, false) => {
            format!("The gate is open; start the service with `systemctl start {unit}`.")
        }
        (false, _) => format!(
            "The gate is closed{}. The service is stopped until it opens, and starts then.",
            why(global, console)
        ),
    };
    console.out(&format!("{begin} {end}\n"));
    Exit::Ok
}

pub(super) fn disable(unit: &ServiceName, gating: &Gating, console: &mut Console<'_>) -> Exit {
    match gating.disable(unit) {
        Ok(Change {
            nothing_to_do: true,
            ..
        }) => console.out(&format!("{unit} was not gated.\n")),
        Ok(change) => {
            let how = match change.open && change.ran {
                true => "It goes on running.".to_owned(),
                false => format!("If it does not run, start it: `systemctl start {unit}`."),
            };
            console.out(&format!("{unit} is no longer gated. {how}\n"));
        }
        Err(error) => return failed(&error, console),
    }
    Exit::Ok
}

fn failed(error: &impl std::fmt::Display, console: &mut Console<'_>) -> Exit {
    console.error(error);
    Exit::Failed
}

/// The reason as the end of a sentence; nothing while the gate has not looked yet.
fn why(global: &Global, console: &mut Console<'_>) -> String {
    let Ok(place) = reach::place(global, false, console) else {
        return String::new();
    };
    let heard = place
        .client
        .with_deadline(gate::ANSWER_WITHIN)
        .authorisation();
    match heard.map_err(|error| error.to_string()) {
        Ok(answer) => match gate::judge(&answer) {
            Ok(_) => format!(" ({GATE} has not opened it yet)"),
            Err(closed) => format!(": {}", closed.to_string().trim_end_matches('.')),
        },
        Err(error) => format!(": {}", error.trim_end_matches('.')),
    }
}
