//! The command line of `vpn-node-wireguard`: the process with CAP_NET_ADMIN, which asks the kernel
//! about WireGuard for the agent ([`reader_process`](crate::vpn::wireguard::reader_process)).
//!
//! Neither runtime nor configuration: what it may do does not depend on anything that could be
//! changed. It says little, on standard error, which is the journal's.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use crate::core::shown;
use crate::host::{installation, secrecy};
use crate::vpn::wireguard::reader_process::{self, IDLE_LIMIT, Server, ServerError};

const USAGE: &str = "\
Asks the kernel about its WireGuard interfaces for vpn-node-agent

Usage: vpn-node-wireguard [--check | --help | --version]

Without an option it answers the agent: systemd starts it so, with the listening
socket of vpn-node-wireguard.socket as standard input, and it ends when nobody has
asked for a minute.

Options:
      --check    As root: list the kernel's WireGuard interfaces as they are read
  -h, --help     Print help
  -V, --version  Print version
";

/// The command line's definition, for its man page; the program itself parses by hand and stays
/// small.
#[must_use]
pub fn command_line() -> clap::Command {
    clap::Command::new("vpn-node-wireguard")
        .version(installation::version_line())
        .about("Asks the kernel about its WireGuard interfaces for vpn-node-agent")
        .long_about(
            "Asks the kernel about its WireGuard interfaces for vpn-node-agent.\n\n\
             Without an option it answers the agent: systemd starts it so, with the listening socket \
             of vpn-node-wireguard.socket as standard input, and it ends when nobody has asked for a \
             minute. It is in /opt/vpn-node/stable/bin.",
        )
        .arg(
            clap::Arg::new("check")
                .long("check")
                .action(clap::ArgAction::SetTrue)
                .help("As root: list the kernel's WireGuard interfaces as they are read"),
        )
}

/// Parses the arguments and runs. Exit codes: 0 done, 1 it did not work, 2 usage.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = args.into_iter().skip(1).collect();
    let words: Vec<Option<&str>> = words.iter().map(|word| word.to_str()).collect();
    match words[..] {
        [] => serve(),
        [Some("--check")] => check(),
        [Some("-h" | "--help")] => {
            anstream::print!("{USAGE}");
            ExitCode::SUCCESS
        }
        [Some("-V" | "--version")] => {
            anstream::println!("vpn-node-wireguard {}", installation::version_line());
            ExitCode::SUCCESS
        }
        [
            Some("--check" | "-h" | "--help" | "-V" | "--version"),
            extra,
            ..,
        ]
        | [extra, ..] => {
            say(&not_understood(extra));
            anstream::eprint!("\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn not_understood(word: Option<&str>) -> String {
    let word = word.map_or_else(
        || "that is not UTF-8".to_owned(),
        |w| format!("'{}'", shown(w)),
    );
    format!("unexpected argument {word}")
}

fn serve() -> ExitCode {
    // The kernel's answers hold private keys, for moments.
    if let Err(error) = secrecy::forbid_dumps() {
        say(&format!(
            "core dumps cannot be forbidden: they would hold keys ({error})"
        ));
    }
    match socket().and_then(|socket| Server::on(socket)?.serve(IDLE_LIMIT)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// `StandardInput=socket` of systemd.exec(5): its listening socket.
fn socket() -> Result<UnixListener, ServerError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let no_socket = |error: io::Error| {
        let errno = error.raw_os_error().unwrap_or_default();
        ServerError::NoSocket(nix::errno::Errno::from_raw(errno))
    };
    stdin.map(UnixListener::from).map_err(no_socket)
}

fn check() -> ExitCode {
    match reader_process::check() {
        Ok(lines) if lines.is_empty() => {
            anstream::println!("the kernel has no WireGuard interface in this network namespace");
            ExitCode::SUCCESS
        }
        Ok(lines) => {
            lines.iter().for_each(|line| anstream::println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    anstream::eprintln!("vpn-node-wireguard: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(not_understood(Some("bogus")), "unexpected argument 'bogus'");
        assert!(!not_understood(Some("\x1b[2J")).contains('\x1b'));
        assert!(not_understood(None).contains("UTF-8"));
    }

    #[test]
    fn help_and_man_page_name_the_same_options_in_the_same_words() {
        for option in command_line().get_arguments() {
            let long = format!("--{}", option.get_long().unwrap());
            let help = option.get_help().unwrap().to_string();
            let line = USAGE
                .lines()
                .find(|line| line.contains(&long) && line.starts_with("  "));
            assert!(
                line.is_some_and(|line| line.ends_with(&help)),
                "{long}: {line:?}"
            );
        }
        assert!(USAGE.starts_with(&command_line().get_about().unwrap().to_string()));
    }
}
