//! The process of vpn-node-gate.service: asks the agent, tells systemd, ends when the gate closes.
//!
//! It holds nothing but its own life: systemd stops the bound services when it ends, by itself or
//! by the watchdog, and starts it anew. It never decides by what it did not hear a second ago.

use std::mem::{Discriminant, discriminant};
use std::thread;

use super::super::Exit;
use super::super::args::Global;
use super::super::console::Console;
use super::super::reach;
use crate::core::gate::{ANSWER_WITHIN, Closed, Gate, LOOK_EVERY, Step};
use crate::host::{clock, systemd};

/// Runs until the gate closes, or has waited long enough for it to open. Both end with success:
/// the unit's `Restart=always` goes by neither.
pub(super) fn run(global: &Global, console: &mut Console<'_>) -> Exit {
    let client = match reach::place(global, false, console) {
        Ok(place) => place.client.with_deadline(ANSWER_WITHIN),
        Err(exit) => return exit,
    };
    let mut gate = Gate::new(clock::now().boot);
    let mut told = Told { last: None };
    loop {
        let asked = clock::now().boot;
        let heard = client.authorisation().map_err(|error| error.to_string());
        let state = heard.as_ref().map(|answer| answer.state);
        match gate.look(heard.as_ref().map_err(Clone::clone), asked) {
            Step::Open => {
                let state = state.map_or("", |state| state.as_str());
                let line = format!("open: this host is authorised ({state})");
                // Without it systemd would never start what is bound.
                if let Err(error) = systemd::notify_ready(&line) {
                    console.error(format_args!(
                        "systemd cannot be told that the gate is open: {error}"
                    ));
                    return Exit::Failed;
                }
                console.err(&format!("{line}\n"));
                told.last = None;
                alive(console);
            }
            Step::Hold => {
                told.last = None;
                alive(console);
            }
            Step::Wait(why) => told.once("closed", &why, console),
            Step::Doubt(why) => told.once("open, but", &why, console),
            Step::Close(why) => {
                console.err(&format!("closing: {why}\n"));
                // The status is a courtesy; the end of this process is the message.
                let _ = systemd::notify_status(&format!("closed: {why}"));
                return Exit::Ok;
            }
            Step::StartAnew => {
                console.err("still closed: starting anew, so that nothing waits for ever\n");
                return Exit::Ok;
            }
        }
        let took = clock::now().boot.saturating_sub(asked);
        thread::sleep(LOOK_EVERY.saturating_sub(took));
    }
}

/// For systemd's watchdog. If it cannot be told, it will end this process, which is right.
fn alive(console: &mut Console<'_>) {
    if let Err(error) = systemd::notify_watchdog() {
        console.error(format_args!("systemd's watchdog cannot be told: {error}"));
    }
}

/// A kind of reason is said when it begins, not every second.
struct Told {
    last: Option<Discriminant<Closed>>,
}

impl Told {
    fn once(&mut self, state: &str, why: &Closed, console: &mut Console<'_>) {
        if self.last.replace(discriminant(why)) == Some(discriminant(why)) {
            return;
        }
        let line = format!("{state}: {why}");
        console.err(&format!("{line}\n"));
        let _ = systemd::notify_status(&line);
    }
}
