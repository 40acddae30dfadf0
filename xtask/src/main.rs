//! `cargo xtask …`: every command that a person or CI runs on this repository.
//!
//! Each command is a module whose first function reads as the story of what it does.
//! What they share: [`shell`] (programs with deadlines), [`apt`] (Debian packages),
//! [`build`] (our programs), [`lab`] (a throw-away fleet).

mod apt;
mod bench;
mod build;
mod container;
mod demo;
mod e2e;
mod lab;
mod package;
mod release;
mod sandbox;
mod shell;
mod test;
mod torture;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Commands of the vpn-node repository"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the product end to end: enrol a host, verify it, watch one WireGuard client come and go, update the host
    Demo(demo::Options),
    /// Run every check that CI runs, and say what was skipped and why
    Test(test::Options),
    /// Measure
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Show one promise of the product end to end, with figures
    E2e {
        #[command(subcommand)]
        what: e2e::What,
    },
    /// Show on a machine in namespaces what only a host with a running systemd can show
    Container {
        #[command(subcommand)]
        what: Option<container::What>,
    },
    /// Break what a promise must survive, again and again, until it is broken or proven
    Torture {
        #[command(subcommand)]
        what: torture::What,
    },
    /// Show on a real Debian in a virtual machine what only a host with its own kernel can show
    Vm(vm::Options),
    /// What an unprivileged user sends, in there
    #[command(hide = true)]
    VmFrames(vm::frames::Options),
    /// Build the .deb and .rpm packages
    Package(package::Options),
    /// Build the package of a release, ready to be signed; or prove that it is reproducible
    Release(release::Options),
}

#[derive(Subcommand)]
enum Bench {
    /// The agent's memory, CPU, start and size beside prometheus-node-exporter, in one run
    Footprint(bench::Options),
    /// Reading 10,000 to 100,000 WireGuard peers beside `wg show` and a Prometheus exporter
    Peers(bench::peers::Options),
    /// How long an event takes to the disk and to the controller, beside the disk's own fdatasync
    Events(bench::events::Options),
    /// Verifying and staging a package of 512 MiB beside `openssl dgst` and `cp`
    Update(bench::update::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench {
            what: Bench::Footprint(options),
        } => bench::run(&options),
        Command::Bench {
            what: Bench::Peers(options),
        } => bench::peers::run(&options),
        Command::Bench {
            what: Bench::Events(options),
        } => bench::events::run(&options),
        Command::Bench {
            what: Bench::Update(options),
        } => bench::update::run(&options),
        Command::E2e { what } => e2e::run(&what),
        Command::Container { what } => container::run(what.as_ref()),
        Command::Torture { what } => torture::run(&what),
        Command::Vm(options) => vm::run(&options),
        Command::VmFrames(options) => vm::frames::run(&options),
        Command::Package(options) => package::run(&options),
        Command::Release(options) => release::run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if shell::was_interrupted(&error) => {
            anstream::eprintln!("interrupted: everything that was started is stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
