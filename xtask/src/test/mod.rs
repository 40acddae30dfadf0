//! `cargo xtask test`: every check that CI runs, in the order in which they fail fastest.
//!
//! A check that cannot run here is skipped and named with its reason, never passed over. The
//! last line has the figures; the exit status is that of the worst check.

mod steps;
mod tally;

use std::process::ExitCode;

use anyhow::Result;

use self::tally::Tally;
use crate::apt::{self, need};
use crate::shell;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only the tests whose name contains this, and none of the other checks
    filter: Option<String>,
    /// Do not install Debian packages, even as root, nor Python packages
    #[arg(long)]
    no_install: bool,
    /// Also install what must be compiled first (cargo-deny), which takes minutes
    #[arg(long)]
    full: bool,
}

const NEEDS: [apt::Need; 9] = [
    need("faketime", "faketime"),
    need("ip", "iproute2"),
    need("ping", "iputils-ping"),
    need("python3", "python3-venv"),
    need("swtpm", "swtpm"),
    need("systemd-analyze", "systemd"),
    // For its libraries: systemd-creds speaks to a TPM, and to swtpm, with them.
    need("tpm2", "tpm2-tools"),
    need("wg", "wireguard-tools"),
    need("wireguard-go", "wireguard-go"),
];

/// All checks, then the verdict.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let mut tally = Tally::default();
    if let Some(missing) = apt::provide(&NEEDS, !options.no_install)? {
        anstream::println!("{missing}; what needs them is skipped");
    }
    let python = steps::prepare_python(!options.no_install)?;
    let others = steps::Others {
        python: python.as_deref().ok(),
        faketime: steps::faketime(),
    };
    match &options.filter {
        Some(filter) => steps::tests(&mut tally, &others, Some(filter))?,
        None => {
            steps::format(&mut tally)?;
            steps::lints(&mut tally)?;
            steps::tests(&mut tally, &others, None)?;
            steps::doc_tests(&mut tally)?;
            steps::shipped_config(&mut tally)?;
            steps::shipped_units(&mut tally)?;
            steps::crashes(&mut tally)?;
            steps::dependencies(&mut tally, options.full)?;
        }
    }
    if let Err(why) = &python {
        tally.skip(
            "signatures checked by a second implementation (python)",
            why,
        );
    }
    if others.faketime.is_none() {
        tally.skip(
            "hosts with a wrong clock (tests/it/clocks.rs)",
            "libfaketime is not installed (Debian package faketime)",
        );
    }
    if shell::find("swtpm").is_none() || shell::find("tpm2").is_none() {
        tally.skip(
            "sealing with a TPM (src/host/sealing/tests.rs)",
            "swtpm or the TPM libraries are not installed (Debian packages swtpm, tpm2-tools)",
        );
    }
    if !shell::is_root() {
        tally.skip(
            "secrets in the memory of the programs (tests/it/canary.rs)",
            "only root can read it",
        );
    }
    anstream::println!("\n{tally}");
    Ok(if tally.all_well() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
