//! What the systemd of a host makes of our units: which of their lines it does not know, and
//! whether each of them starts there. Trials are started by the updates ([`super::self_update`]).

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};

use super::host::{Expect, Host};
use super::life::FIRST;
use super::machine::Machine;
use super::manager::{AGENT, APT_REPOSITORY, By, CONTROLLER, Shelf, Step};
use super::rootfs::Suite;
use super::units::{READER, UPDATER};
use crate::lab::story::Story;

/// Started by the agent's start and by its questions.
const BY_THE_AGENT: [&str; 2] = ["vpn-node-hardware.service", READER];
/// Started here. Without a request the updater finds nothing to do, and ends.
const BY_HAND: [&str; 4] = [
    UPDATER,
    "vpn-node-updater-recover.service",
    "vpn-node-updater-rescue.service",
    "vpn-node-gate.service",
];

/// Lines that this systemd passes over. What that costs stands in docs/security.md.
const fn unknown_to(suite: Suite) -> &'static [&'static str] {
    match suite {
        Suite::Bookworm => &[],
        Suite::Bullseye => &[
            "Failed to parse address family, ignoring: none",
            "Unknown key name 'SocketBindDeny' in section 'Service'",
            "Unknown key name 'Upholds' in section 'Unit'",
        ],
    }
}

/// Installs both packages on a machine of their own, and starts everything.
pub(super) fn play(lower: &Path, shelf: &Shelf, story: &Story, suite: Suite) -> Result<()> {
    let mut host = Host::boot(Machine::new(lower)?, shelf)?;
    host.machine.must(&["sh", "-ec", APT_REPOSITORY])?;
    host.does(By::Repository, Step::Install, CONTROLLER, FIRST)?;
    host.start_controller()?;
    host.does(By::Repository, Step::Install, AGENT, FIRST)?;
    let unknown = unknown(&host)?;
    let expected: BTreeSet<_> = unknown_to(suite).iter().map(|&line| line.into()).collect();
    ensure!(
        unknown == expected,
        "of our units systemd says {unknown:?}, and not {expected:?} (xtask/src/container/dialect.rs)"
    );
    host.enrol()?;
    for unit in BY_THE_AGENT {
        host.eventually(&format!("a start of {unit}"), || {
            let started = host.machine.property(unit, "ExecMainStartTimestamp")?;
            Ok((!started.is_empty()).then_some(()))
        })?;
    }
    for unit in BY_HAND {
        host.machine.must(&["systemctl", "start", unit])?;
    }
    for unit in BY_THE_AGENT.into_iter().chain(BY_HAND) {
        let result = host.machine.property(unit, "Result")?;
        ensure!(result == "success", "{unit} has ended with {result}");
    }
    host.look(&Expect {
        stable: "system",
        runs: true,
    })?;
    let version = host.systemd()?;
    let passed_over = match unknown.len() {
        0 => "knows each of their lines".to_owned(),
        _ => unknown.into_iter().collect::<Vec<_>>().join("; "),
    };
    story.say(&format!(
        "systemd {version}: every unit starts; {passed_over}"
    ));
    Ok(())
}

/// What systemd says of our unit files, without names of files and numbers of lines; but for what it
/// misses of a version on trial, of which there is none.
/// (A folder of drop-ins ends in "d".)
fn unknown(host: &Host<'_>) -> Result<BTreeSet<String>> {
    let verify = "SYSTEMD_LOG_COLOR=0 systemd-analyze verify --man=no \
                  /usr/lib/systemd/system/vpn-node-*[!d] 2>&1 || true";
    let said = host.machine.must(&["sh", "-c", verify])?;
    let lines = said
        .lines()
        .filter(|line| !line.contains("/opt/vpn-node/experiment/"));
    Ok(lines
        .map(|line| match line.split_once(": ") {
            Some((place, words)) if place.starts_with('/') => words,
            _ => line,
        })
        .map(|words| words.trim_end_matches('.').trim_end_matches(", ignoring"))
        .map(str::to_owned)
        .collect())
}
