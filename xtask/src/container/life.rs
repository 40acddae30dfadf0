//! The life of both packages on a host: installed, upgraded, downgraded, removed, with what an
//! operator did in between. After each step [`Host::look`] looks at everything.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::host::{CONTROLLER_UNIT, Expect, Host, PATH_UNIT};
use super::manager::{AGENT, By, CONTROLLER, Step};
use super::units::STABLE;
use crate::lab::story::Story;
use crate::package::Kind;

pub(super) const FIRST: &str = "1.0.0";
pub(super) const SECOND: &str = "1.5.0";
pub(super) const THIRD: &str = "3.0.0";
/// What belongs to the machine and not to us: what package managers, systemd and the kernel write.
const OTHERS: [&str; 15] = [
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/log",
    "/var/cache",
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/lib/rpm",
    "/var/lib/dnf",
    "/var/lib/systemd",
    "/root",
    "/var/tmp",
    "/usr/lib/sysimage",
];

/// The whole life; figures for the verdict.
pub(super) fn play(host: &mut Host<'_>, story: &Story) -> Result<String> {
    let before = files(host)?;
    begin(host, story)?;
    let enabled = host.unit_files()?;
    upgrade(host, story, By::File, SECOND)?;
    ensure!(
        host.unit_files()? == enabled,
        "an upgrade has changed what is enabled"
    );
    operator(host, story)?;
    ensure!(
        host.unit_files()? == enabled,
        "what was enabled again is not"
    );
    downgrade(host, story)?;
    fail_and_recover(host, story)?;
    remove(host, story)?;
    let left = clear(host, story, &before)?;
    Ok(format!("{} looks; {left}", host.looks))
}

/// The controller first: what both packages share must not become its own.
fn begin(host: &mut Host<'_>, story: &Story) -> Result<()> {
    host.does(By::File, Step::Install, CONTROLLER, FIRST)?;
    enable_as_operator(host)?;
    host.start_controller()?;
    host.does(By::File, Step::Install, AGENT, FIRST)?;
    let active = host.machine.property(STABLE, "ActiveState")?;
    ensure!(
        active == "inactive",
        "the agent of a host that is not enrolled is {active}"
    );
    host.all_enabled("after the installation")?;
    let way = host.enrol()?;
    host.look(&Expect {
        stable: "system",
        runs: true,
    })?;
    story.say(&format!(
        "{FIRST} is installed; the host is enrolled by {way}, and verified"
    ));
    Ok(())
}

/// RPM systems enable what a preset names. That is not the controller: README.md says how.
fn enable_as_operator(host: &Host<'_>) -> Result<()> {
    if host.shelf.kind == Kind::Rpm {
        host.machine
            .must(&["systemctl", "enable", CONTROLLER_UNIT])?;
    }
    Ok(())
}

fn upgrade(host: &mut Host<'_>, story: &Story, by: By, version: &str) -> Result<()> {
    let (agent, controller) = (host.pid(STABLE)?, host.pid(CONTROLLER_UNIT)?);
    host.both(by, Step::Upgrade, version)?;
    host.look(&Expect {
        stable: "system",
        runs: true,
    })?;
    ensure!(host.pid(STABLE)? != agent, "the agent was not restarted");
    ensure!(
        host.pid(CONTROLLER_UNIT)? != controller,
        "the controller was not restarted"
    );
    story.say(&format!(
        "{version} by {by:?}: both run it, with the same keys, enrolment and ledger"
    ));
    Ok(())
}

/// What an operator has decided outlives an upgrade.
fn operator(host: &mut Host<'_>, story: &Story) -> Result<()> {
    let machine = &host.machine;
    machine.must(&["systemctl", "disable", "--now", STABLE])?;
    machine.must(&["systemctl", "mask", "--now", PATH_UNIT])?;
    machine.must(&["sh", "-c", "echo '# ours' >> /etc/vpn-node/agent.toml"])?;
    let set = host.unit_files()?;
    host.both(By::Repository, Step::Upgrade, THIRD)?;
    host.look(&Expect {
        stable: "system",
        runs: false,
    })?;
    ensure!(
        host.unit_files()? == set,
        "an upgrade has undone what an operator has set"
    );
    let active = host.machine.property(STABLE, "ActiveState")?;
    ensure!(
        active == "inactive",
        "an agent that was stopped by hand is {active} after an upgrade"
    );
    let ours = "tail -n 1 /etc/vpn-node/agent.toml | grep -qx '# ours'";
    host.machine
        .must(&["sh", "-c", ours])
        .context("a changed setting was replaced")?;
    story.say("disabled, masked and changed by an operator: all of it outlives an upgrade");
    let machine = &host.machine;
    machine.must(&["systemctl", "unmask", PATH_UNIT])?;
    machine.must(&["systemctl", "start", PATH_UNIT])?;
    machine.must(&["systemctl", "enable", "--now", STABLE])?;
    host.look(&Expect {
        stable: "system",
        runs: true,
    })
}

fn downgrade(host: &mut Host<'_>, story: &Story) -> Result<()> {
    for (by, step, version) in [
        (By::File, Step::Downgrade, SECOND),
        (By::File, Step::Reinstall, SECOND),
        (By::Repository, Step::Downgrade, FIRST),
        (By::Repository, Step::Reinstall, FIRST),
    ] {
        host.both(by, step, version)?;
        host.look(&Expect {
            stable: "system",
            runs: true,
        })
        .with_context(|| format!("after {step:?} to {version} by {by:?}"))?;
    }
    story.say("downgraded and installed again, from files and from a repository");
    Ok(())
}

/// The script behind the files fails in the middle of an upgrade: nobody can make users.
fn fail_and_recover(host: &mut Host<'_>, story: &Story) -> Result<()> {
    // Not in /usr/bin on every Debian 11.
    let found = host.machine.must(&["which", "systemd-sysusers"])?;
    let (program, aside) = (found.trim(), "/usr/bin/aside");
    host.machine.must(&["mv", program, aside])?;
    let done = host.does(By::File, Step::Upgrade, AGENT, SECOND);
    let deb = host.shelf.kind == Kind::Deb;
    if deb {
        ensure!(done.is_err(), "a configuration that fails went through");
        let state = host
            .machine
            .must(&["dpkg-query", "-W", "-f", "${db:Status-Status}", AGENT])?;
        ensure!(state == "half-configured", "the package is {state}");
    }
    host.same_state()?;
    let active = host.machine.property(STABLE, "ActiveState")?;
    ensure!(
        active == "active",
        "the agent is {active} after a configuration that failed"
    );
    host.machine.must(&["mv", aside, program])?;
    let way = if deb {
        host.machine.must(&["dpkg", "--configure", "-a"])?;
        "dpkg --configure -a"
    } else {
        host.does(By::File, Step::Reinstall, AGENT, SECOND)?;
        "installing it again"
    };
    host.does(By::File, Step::Upgrade, CONTROLLER, SECOND)?;
    host.look(&Expect {
        stable: "system",
        runs: true,
    })?;
    story.say(&format!(
        "a configuration failed half-way: the agent went on, and {way} put it right"
    ));
    Ok(())
}

/// Removed and installed again: settings, keys and records are still there.
fn remove(host: &mut Host<'_>, story: &Story) -> Result<()> {
    let before = host.unit_files()?;
    for (by, version) in [(By::File, SECOND), (By::Repository, THIRD)] {
        host.both(by, Step::Remove, version)?;
        gone(host, true)?;
        put_settings_back(host)?;
        host.same_state()?;
        host.both(by, Step::Install, version)?;
        enable_as_operator(host)?;
        let after = host.unit_files()?;
        ensure!(
            after == before,
            "installed again, units are {after:?}, and were {before:?}"
        );
        host.machine
            .must(&["systemctl", "start", CONTROLLER_UNIT, STABLE, PATH_UNIT])?;
        host.look(&Expect {
            stable: "system",
            runs: true,
        })?;
    }
    story.say("removed and installed again: the same host, enabled as before");
    Ok(())
}

/// RPM sets changed settings aside when their package goes; an operator puts them back.
fn put_settings_back(host: &Host<'_>) -> Result<()> {
    if host.shelf.kind == Kind::Deb {
        return Ok(());
    }
    let back =
        "cd /etc/vpn-node; grep -qx '# ours' agent.toml.rpmsave; mv agent.toml.rpmsave agent.toml";
    let done = host.machine.must(&["sh", "-ec", back]);
    done.map(drop)
        .context("changed settings have gone with their package")
}

/// Nothing of ours runs or can be started. Debian keeps the links of what is enabled until a purge,
/// so that a package which comes back is enabled as it was.
fn gone(host: &Host<'_>, may_come_back: bool) -> Result<()> {
    // A unit that is masked by its removed package, as Debian's helpers do it, is no unit.
    let units = host.unit_files()?;
    let left: Vec<_> = units
        .iter()
        .filter(|(_, state)| *state != "masked")
        .collect();
    ensure!(left.is_empty(), "unit files after the removal: {left:?}");
    let running = "ps -eo args | grep '^/opt/vpn-node\\|^/usr/bin/vpn-node' || true; \
                   ls /usr/bin | grep vpn-node || true";
    let running = host.machine.must(&["sh", "-c", running])?;
    ensure!(
        running.is_empty(),
        "after the removal there is still: {running}"
    );
    if !(may_come_back && host.shelf.kind == Kind::Deb) {
        let links = host
            .machine
            .must(&["find", "/etc/systemd", "-xtype", "l"])?;
        ensure!(
            links.is_empty(),
            "after the removal there are still: {links}"
        );
    }
    Ok(())
}

/// Away with all of it; what is left of it, and why.
fn clear(host: &mut Host<'_>, story: &Story, before: &BTreeSet<String>) -> Result<String> {
    let step = match host.shelf.kind {
        Kind::Deb => Step::Purge,
        Kind::Rpm => Step::Remove,
    };
    host.does(By::Repository, step, AGENT, THIRD)?;
    host.does(By::File, step, CONTROLLER, THIRD)?;
    gone(host, false)?;
    let after = files(host)?;
    let left: Vec<&String> = after.difference(before).collect();
    // dpkg takes an empty directory with it that no other package has.
    let lost: Vec<&String> = before
        .difference(&after)
        .filter(|path| *path != "/opt")
        .collect();
    ensure!(
        lost.is_empty(),
        "what was there before has gone too: {lost:?}"
    );
    let kept = |path: &str| {
        // The token that this test brought. What RPM leaves: keys and records, as it knows no purge.
        path.starts_with("/etc/credstore")
            || (step == Step::Remove
                && ["/var/lib/vpn-node", "/etc/vpn-node", "/opt/vpn-node"].iter().any(|place| path.starts_with(place)))
            // Accounts that systemd-sysusers or useradd have changed keep a copy of before.
            || ["/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock"].contains(&path)
    };
    let ours: Vec<&&String> = left.iter().filter(|path| !kept(path)).collect();
    ensure!(ours.is_empty(), "left behind: {ours:?}");
    let users = host.machine.must(&[
        "sh",
        "-c",
        "getent passwd vpn-node vpn-node-controller | wc -l",
    ])?;
    ensure!(
        users.trim() == "2",
        "the users are gone: their files would belong to the next ones"
    );
    let said = match step {
        Step::Purge => {
            "purged: nothing is left but the two users, whose numbers must not go to others"
                .to_owned()
        }
        _ => {
            host.same_state()?;
            format!(
                "erased: {} files of state and settings are left, and the two users",
                left.len()
            )
        }
    };
    story.say(&said);
    Ok(said)
}

/// Every path of the machine that packages could bring.
fn files(host: &Host<'_>) -> Result<BTreeSet<String>> {
    let listed = host.machine.must(&["find", "/", "-xdev"])?;
    let others = |path: &&str| {
        !OTHERS.iter().any(|other| path.starts_with(other)) && !path.contains("/__pycache__")
    };
    Ok(listed.lines().filter(others).map(str::to_owned).collect())
}
