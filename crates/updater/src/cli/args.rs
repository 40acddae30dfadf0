//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use vpn_node_release::digest::Digest;
use vpn_node_release::version::Version;

/// Installs signed releases of vpn-node on this host, tries them, keeps them or goes back.
#[derive(Debug, Parser)]
#[command(
    name = "vpn-node-updater",
    version,
    after_long_help = "\
Examples:
  vpn-node-updater trust root.json --sha256 5f1c…    whom this host believes; once
  vpn-node-updater plan --offline release.vpn-node   what it would do, and what stands against it
  vpn-node-updater apply release.vpn-node            install it now, on trial
  vpn-node-updater rollback                          back to the version before
  vpn-node-updater pin 1.4.0                         keep this host at one version

Exit codes:
  0  done, or nothing to do
  1  this host could not do it (no space, a package manager at work); nothing changed
  2  wrong command line
  3  refused: not allowed in, nothing changed
  4  it was tried and sent away again; the former version runs
  5  another updater is at work"
)]
pub(super) struct Arguments {
    /// Work on the tree below DIR as if it were the host, with the plain supervisor
    #[arg(long, value_name = "DIR", global = true, default_value = "/")]
    pub(super) root: PathBuf,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Recover, then install what the agent asks for (a service starts this)
    Run,
    /// Finish or undo what a crash or a power cut left half done (a service starts this at boot)
    Recover,
    /// Trust root metadata: from then on this host takes releases of its publisher
    ///
    /// The file must come another way than the releases: from the publisher's machine, compared by
    /// its SHA-256. A package of vpn-node may bring one along; then this is not needed.
    Trust {
        /// The root metadata file
        file: PathBuf,
        /// Its SHA-256, as its publisher tells it
        #[arg(long, value_name = "HEX")]
        sha256: Option<Digest>,
        /// Put it in the place of what is trusted already
        ///
        /// Old metadata is forgotten; the highest release and the security floor are not.
        #[arg(long)]
        replace: bool,
    },
    /// Say what an update would do, and what stands against it; change nothing
    Plan {
        /// Plan for this offline file instead of the agent's request
        #[arg(long, value_name = "FILE")]
        offline: Option<PathBuf>,
        /// This version of it [default: the newest with a package for this platform]
        #[arg(long, value_name = "VERSION", requires = "offline")]
        version: Option<Version>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Install from an offline file ('vpn-node-controller release export')
    Apply {
        /// The file
        file: PathBuf,
        /// This version of it [default: the newest with a package for this platform]
        #[arg(long, value_name = "VERSION")]
        version: Option<Version>,
    },
    /// Go back to the version that ran before the last update
    Rollback,
    /// Install no other version than this one
    Pin {
        /// The version
        version: Version,
    },
    /// End a pin
    Unpin,
    /// Install nothing at all on this host
    Disable,
    /// Install releases again
    Enable,
    /// Allow another try of a version that ended badly here
    Unblock {
        /// The version
        version: Version,
    },
    /// Show what is installed, what is held back and how the last update went
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show how all updates ended, and what root changed
    History {
        /// For programs: one line of JSON each
        #[arg(long)]
        json: bool,
    },
    /// Run the agent, and the updater when it is asked for, without systemd (in a container)
    Supervise {
        /// Run the agent as this user
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Arguments of the agent
        #[arg(last = true, value_name = "AGENT ARGUMENTS")]
        agent: Vec<OsString>,
    },
    /// Become another program that ends when the supervisor does
    #[command(hide = true)]
    Child {
        /// The supervisor's process id
        parent: u32,
        /// Program and arguments
        #[arg(last = true, required = true)]
        words: Vec<OsString>,
    },
}
