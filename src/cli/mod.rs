//! The command `vpn-node`: arguments in, rendering out. It decides nothing by itself.
//!
//! `status`, `connections` and `healthcheck` ask the running agent over its socket, and `identity
//! rotate` has it do something; `gate` binds services to its answer; `update` reads what the updater
//! says, or becomes the updater; `config` runs
//! the agent's own loader; `enroll` reads the token and hands it to the function that the binary
//! passes in. Exit codes are in [`Exit`].

mod args;
mod config;
mod connections;
mod console;
mod enroll;
mod exit;
mod gate;
mod health;
mod identity;
mod reach;
mod rotate;
mod status;
mod text;
mod update;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use clap::{CommandFactory, Parser};

use args::{Arguments, Command};
use console::Console;
use enroll::TokenInput;
pub use enroll::{EnrollRequest, Enrolled};
pub use exit::Exit;

use crate::host::secrecy;

/// The command line's definition, for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// Runs the command with this process's standard streams.
///
/// `args` begins with the program's name. `enroll` does the enrolment with the controller; its
/// error's `Display` is shown to the operator, escaped.
pub fn run<E: std::error::Error>(
    args: impl IntoIterator<Item = OsString>,
    enroll: impl FnOnce(EnrollRequest) -> Result<Enrolled, E>,
) -> Exit {
    let stdin = std::io::stdin();
    let mut out = anstream::stdout();
    let mut err = anstream::stderr();
    let mut console = Console::new(&mut out, &mut err);
    // Before a token is read.
    if let Err(error) = secrecy::forbid_dumps() {
        console.warning(format_args!(
            "core dumps of this program cannot be forbidden: {error}."
        ));
    }
    // Not through std's buffer: it would keep a copy of the token.
    let raw = stdin.as_fd().try_clone_to_owned().map(std::fs::File::from);
    match raw {
        Ok(mut raw) => {
            let input = TokenInput {
                interactive: stdin.is_terminal(),
                reader: &mut raw,
            };
            run_with(args, &mut console, input, enroll)
        }
        // A closed standard input; no command but enroll reads it, and that says "no token".
        Err(_) => {
            let input = TokenInput {
                interactive: false,
                reader: &mut std::io::empty(),
            };
            run_with(args, &mut console, input, enroll)
        }
    }
}

fn run_with<E: std::error::Error>(
    args: impl IntoIterator<Item = OsString>,
    console: &mut Console<'_>,
    input: TokenInput<'_>,
    enroll: impl FnOnce(EnrollRequest) -> Result<Enrolled, E>,
) -> Exit {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, console),
    };
    let Arguments { global, command } = arguments;
    let exit = match command {
        Command::Status { json } => status::run(&global, json, console),
        Command::Connections { json } => connections::run(&global, json, console),
        Command::Healthcheck => health::run(&global, console),
        Command::Gate { command } => gate::run(&global, command, console),
        Command::Identity { command } => identity::run(&global, command, console),
        Command::Update { command } => update::run(&global, command, console),
        Command::Config { command } => config::run(&global, command, console),
        Command::Enroll(given) => enroll::run(&global, given, input, enroll, console),
    };
    console.finish(exit)
}

/// Help and version are no errors: clap tells them apart.
fn usage(error: &clap::Error, console: &mut Console<'_>) -> Exit {
    let text = error.render().ansi().to_string();
    if error.use_stderr() {
        console.err(&text);
        Exit::Usage
    } else {
        console.out(&text);
        console.finish(Exit::Ok)
    }
}

#[cfg(test)]
mod tests;
