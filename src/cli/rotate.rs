//! `vpn-node identity rotate`: has the running agent give this host a new identity key.

use super::args::Global;
use super::console::Console;
use super::{Exit, reach};
use crate::core::shown;
use crate::status::ClientError;

/// Asks, and says what the agent said.
pub(super) fn run(global: &Global, console: &mut Console<'_>) -> Exit {
    let place = match reach::place(global, false, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    match place.client.rotate_identity() {
        Ok(answer) if answer.begun => {
            console.out(&format!("{}\n", shown(&answer.detail)));
            Exit::Ok
        }
        Ok(answer) => {
            console.error(format_args!(
                "no rotation was begun: {}",
                shown(&answer.detail)
            ));
            Exit::Failed
        }
        // The group is not enough here, so the usual advice would mislead.
        Err(ClientError::Denied {
            detail,
            by_agent: true,
            ..
        }) => {
            console.error(format_args!("{} Run this as root.", shown(&detail)));
            Exit::Failed
        }
        Err(error) => reach::explain(&place, &error, false, console),
    }
}
