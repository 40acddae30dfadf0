//! Every release that the scenarios need: packed, signed and published once, offline, in a
//! repository of which each controller gets a copy.
//!
//! A release that misbehaves is signed like any other. Its agent is a shell script, which spoils
//! something and becomes the real agent, or never does; that lies beside it as `bin/vpn-node`,
//! so that it still runs from the slot of its version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::Programs;
use crate::lab::Lab;
use crate::lab::installed::Stock;
use crate::lab::publisher::{Content, Publisher, pack};
use crate::shell;

/// The version that every host begins with: that of these sources.
pub(super) const BASE: &str = env!("CARGO_PKG_VERSION");
pub(super) const GOOD: &str = "1.1.0";
pub(super) const BETTER: &str = "1.2.0";
pub(super) const CRASHES: &str = "2.1.0";
pub(super) const CRASHES_LATER: &str = "2.2.0";
pub(super) const HANGS: &str = "2.3.0";
pub(super) const MUTE: &str = "2.4.0";
pub(super) const HOG: &str = "2.5.0";
pub(super) const NOT_ENROLLED: &str = "2.6.0";
pub(super) const DROPS_SESSIONS: &str = "2.7.0";
pub(super) const LOSES_BACKEND: &str = "2.8.0";
pub(super) const CANNOT_READ: &str = "2.9.0";

/// The real agent, from here.
const REAL: &str = "exec \"${0%/*}/vpn-node\" \"$@\"\n";

/// From here, with its own argument for `--config`.
const REAL_WITH: &str = "exec \"${0%/*}/vpn-node\" --config \"$2.other\"\n";

/// A release.
struct Made {
    version: &'static str,
    /// Whether a scenario of `--short` needs it.
    short: bool,
    /// What its agent does in the place of the real one, and after what it goes on as that;
    /// nothing: it is the real one.
    agent: Option<(&'static str, &'static str)>,
}

const fn made(version: &'static str, agent: Option<(&'static str, &'static str)>) -> Made {
    Made {
        version,
        short: true,
        agent,
    }
}

const fn long(version: &'static str, agent: Option<(&'static str, &'static str)>) -> Made {
    Made {
        version,
        short: false,
        agent,
    }
}

const RELEASES: [Made; 11] = [
    made(GOOD, None),
    long(BETTER, None),
    made(CRASHES, Some(("echo 'no such symbol' >&2; exit 1\n", ""))),
    made(CRASHES_LATER, Some(("(sleep 5; kill -ABRT $$) &\n", REAL))),
    made(HANGS, Some(("(sleep 5; kill -STOP $$) &\n", REAL))),
    long(MUTE, Some(("exec sleep 100000\n", ""))),
    // 400 MiB, all of them used; the limit is 256.
    made(
        HOG,
        Some(("exec dd if=/dev/zero of=/dev/null bs=400M\n", "")),
    ),
    // It looks for enrolment and ledger in another place.
    long(
        NOT_ENROLLED,
        Some((
            "sed 's|^state_dir = \"\\(.*\\)/vpn-node\"|state_dir = \"\\1/empty/vpn-node\"|' \"$2\" > \"$2.other\"\n\
             d=${2%/etc/*}; mkdir -p -m 700 \"$d/var/lib/empty/vpn-node\"\n",
            REAL_WITH,
        )),
    ),
    // The same interface, with peers of whom nobody is connected.
    long(
        DROPS_SESSIONS,
        Some((
            "sed 's|/wg-full\"|/wg-empty\"|' \"$2\" > \"$2.other\"\n",
            REAL_WITH,
        )),
    ),
    long(
        LOSES_BACKEND,
        Some((
            "sed 's|^enabled = true|enabled = false|' \"$2\" > \"$2.other\"\n",
            REAL_WITH,
        )),
    ),
    made(
        CANNOT_READ,
        Some(("echo 'the state has format 9' >&2; exit 78\n", "")),
    ),
];

/// See the module's page. The folder is that of a lab, and ends with it.
pub(super) struct Shelf {
    pub(super) programs: Programs,
    pub(super) stock: Stock,
    pub(super) publisher: Publisher,
    keys: PathBuf,
}

impl Shelf {
    /// Makes it in the folder of `lab`: what `--short` needs, or everything.
    pub(super) fn fill(lab: &Lab, programs: Programs, everything: bool) -> Result<Self> {
        let stock = Stock::of(&programs, &lab.path("stock"))?;
        let keys = lab.path("keys");
        let publisher = Publisher::offline(&programs.controller, &lab.path("releases"), &keys);
        publisher.init(2, 1)?;
        let out = lab.path("packages");
        std::fs::create_dir_all(&out).context("cannot make the folder for packages")?;
        for made in RELEASES.iter().filter(|made| made.short || everything) {
            let package = package(&stock, made, &out)?;
            publisher.add(&package, "for a scenario")?;
        }
        publisher.sign()?;
        Ok(Self {
            programs,
            stock,
            publisher,
            keys,
        })
    }

    /// Puts a copy of the repository where a controller has its own. Files are never changed in
    /// place, so they are shared.
    pub(super) fn copy_to(&self, data_dir: &Path) -> Result<()> {
        let mut copy = Command::new("cp");
        copy.arg("-al").arg(self.publisher.repository());
        copy.arg(data_dir.join("releases"));
        shell::succeed(copy, None, super::scene::SOON).map(drop)
    }

    /// Who publishes on a controller of its own, with the keys of this shelf.
    pub(super) fn publisher_at(&self, data_dir: &Path) -> Publisher {
        let repository = data_dir.join("releases");
        Publisher::offline(&self.programs.controller, &repository, &self.keys)
    }
}

/// Nobody will ever start the command line of a release here, and the updater only of one that stays.
fn package(stock: &Stock, made: &Made, out: &Path) -> Result<PathBuf> {
    let nothing = || Content::Script("#!/bin/sh\nexit 1\n");
    let Some((script, then)) = made.agent else {
        return pack(
            stock.folder(),
            made.version,
            &[("vpn-node", nothing())],
            out,
        );
    };
    let script = format!("#!/bin/sh\n{script}{then}");
    let real = match then.is_empty() {
        true => nothing(),
        false => Content::Program("vpn-node-agent"),
    };
    let changed = [
        ("vpn-node-agent", Content::Script(&script)),
        ("vpn-node", real),
        ("vpn-node-updater", nothing()),
        ("vpn-node-wireguard", nothing()),
    ];
    pack(stock.folder(), made.version, &changed, out)
}
