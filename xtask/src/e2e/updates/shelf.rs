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
pub(super) const NO_HEARTBEAT: &str = "2.6.0";
pub(super) const DROPS_SESSIONS: &str = "2.7.0";
pub(super) const LOSES_BACKEND: &str = "2.8.0";
pub(super) const CANNOT_READ: &str = "2.9.0";

/// The real agent, from here.
const REAL: &str = "exec \"${0%/*}/vpn-node\" \"$@\"\n";

/// A release and what its agent does in the place of the real one; nothing: it is the real one.
const RELEASES: [(&str, Option<(&str, bool)>); 11] = [
    (GOOD, None),
    (BETTER, None),
    (
        CRASHES,
        Some(("echo 'no such symbol' >&2; exit 1\n", false)),
    ),
    (CRASHES_LATER, Some(("(sleep 5; kill -SEGV $$) &\n", true))),
    (HANGS, Some(("(sleep 5; kill -STOP $$) &\n", true))),
    (MUTE, Some(("exec sleep 100000\n", false))),
    // 400 MiB, all of them used; the limit is 256.
    (
        HOG,
        Some(("exec dd if=/dev/zero of=/dev/null bs=400M\n", false)),
    ),
    // It does not find the enrolment, so it has nobody to send heartbeats to.
    (
        NO_HEARTBEAT,
        Some((
            "sed 's|^state_dir = \"\\(.*\\)/vpn-node\"|state_dir = \"\\1/empty/vpn-node\"|' \"$2\" > \"$2.empty\"\n\
             d=${2%/etc/*}; mkdir -p -m 700 \"$d/var/lib/empty/vpn-node\"\n\
             exec \"${0%/*}/vpn-node\" --config \"$2.empty\"\n",
            false,
        )),
    ),
    // The same interface, with peers of whom nobody is connected.
    (
        DROPS_SESSIONS,
        Some((
            "sed 's|/wg-full\"|/wg-empty\"|' \"$2\" > \"$2.other\"\n\
             exec \"${0%/*}/vpn-node\" --config \"$2.other\"\n",
            false,
        )),
    ),
    (
        LOSES_BACKEND,
        Some((
            "sed 's|/wg-full\"|/wg-none\"|' \"$2\" > \"$2.other\"\n\
             exec \"${0%/*}/vpn-node\" --config \"$2.other\"\n",
            false,
        )),
    ),
    (
        CANNOT_READ,
        Some(("echo 'the state has format 9' >&2; exit 78\n", false)),
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
    /// Makes it in the folder of `lab`.
    pub(super) fn fill(lab: &Lab, programs: Programs) -> Result<Self> {
        let stock = Stock::of(&programs, &lab.path("stock"))?;
        let keys = lab.path("keys");
        let publisher = Publisher::offline(&programs.controller, &lab.path("releases"), &keys);
        publisher.init(2, 1)?;
        let out = lab.path("packages");
        std::fs::create_dir_all(&out).context("cannot make the folder for packages")?;
        for (version, agent) in RELEASES {
            let package = package(&stock, version, agent, &out)?;
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

fn package(
    stock: &Stock,
    version: &str,
    agent: Option<(&str, bool)>,
    out: &Path,
) -> Result<PathBuf> {
    let Some((script, goes_on)) = agent else {
        return pack(stock.folder(), version, &[], out);
    };
    let script = format!("#!/bin/sh\n{script}{}", if goes_on { REAL } else { "" });
    let agent = ("vpn-node-agent", Content::Script(&script));
    if script.contains("vpn-node\"") {
        let real = ("vpn-node", Content::Program("vpn-node-agent"));
        return pack(stock.folder(), version, &[agent, real], out);
    }
    // Nobody will ever start the other two.
    let none = Content::Script("#!/bin/sh\nexit 1\n");
    let other = Content::Script("#!/bin/sh\nexit 1\n");
    let changed = [agent, ("vpn-node", none), ("vpn-node-updater", other)];
    pack(stock.folder(), version, &changed, out)
}
