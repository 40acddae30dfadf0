//! A machine on which our packages are, and what is looked at after each step: state, links, units,
//! users and what was left behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::machine::{self, Machine};
use super::manager::{AGENT, By, CONTROLLER, REPOSITORY, Shelf, Step};
use super::units::{STABLE, UPDATER};
use crate::package::Kind;
use crate::shell;

/// An agent that starts on a busy machine and gets its first answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// The first systemd that looks for credentials by itself (docs/install.md).
const CREDENTIAL_STORES: u32 = 250;
pub(super) const CONTROLLER_UNIT: &str = "vpn-node-controller.service";
pub(super) const PATH_UNIT: &str = "vpn-node-updater.path";

/// See the module.
pub(super) struct Host<'a> {
    pub(super) machine: Machine,
    pub(super) shelf: &'a Shelf,
    /// What must never change, since the host was enrolled.
    known: Option<Known>,
    /// How often something was looked at.
    pub(super) looks: usize,
}

#[derive(PartialEq, Eq, Debug)]
struct Known {
    server: String,
    /// Digests, owners and modes of keys and enrolment; users' ids; the ledger's inode.
    facts: BTreeMap<String, String>,
}

/// What should be seen.
pub(super) struct Expect<'a> {
    /// Where `/opt/vpn-node/stable` leads.
    pub(super) stable: &'a str,
    /// The agent runs, and its heartbeats are accepted.
    pub(super) runs: bool,
}

impl<'a> Host<'a> {
    /// Boots a machine with the packages at hand, none of them installed.
    pub(super) fn boot(mut machine: Machine, shelf: &'a Shelf) -> Result<Self> {
        if !machine.disk().join(&REPOSITORY[1..]).exists() {
            shelf.deliver(&machine)?;
        }
        machine.boot()?;
        Ok(Self {
            machine,
            shelf,
            known: None,
            looks: 0,
        })
    }

    /// One step with one package.
    pub(super) fn does(&self, by: By, step: Step, package: &str, version: &str) -> Result<String> {
        self.shelf.run(&self.machine, by, step, package, version)
    }

    /// The same with both.
    pub(super) fn both(&self, by: By, step: Step, version: &str) -> Result<()> {
        self.does(by, step, CONTROLLER, version)?;
        self.does(by, step, AGENT, version).map(drop)
    }

    /// A controller with keys that serves on the loopback, as README.md says.
    pub(super) fn start_controller(&self) -> Result<()> {
        self.controller(&[
            "init",
            "--url",
            "https://127.0.0.1:8443",
            "--listen",
            "127.0.0.1:8443",
        ])?;
        let toml = "/var/lib/vpn-node-controller/controller.toml";
        let quicker = "s/^heartbeat_interval_s.*/heartbeat_interval_s = 5/";
        self.machine.must(&["sed", "-i", quicker, toml])?;
        self.machine
            .must(&["systemctl", "start", CONTROLLER_UNIT])
            .map(drop)
    }

    /// `vpn-node-controller …` as its user.
    pub(super) fn controller(&self, words: &[&str]) -> Result<String> {
        let mut all = vec!["runuser", "-u", CONTROLLER, "--", CONTROLLER];
        all.extend(words);
        self.machine.must(&all)
    }

    /// Enrols the host by a token in a credential, without anybody at a keyboard; where systemd has
    /// no credential stores, by a command. How it was done.
    pub(super) fn enrol(&mut self) -> Result<&'static str> {
        let made = self.controller(&["registration-key", "create", "--expires", "1h", "--json"])?;
        let made: Value = serde_json::from_str(&made).context("no JSON")?;
        let token = made["token"].as_str().context("no token")?;
        let place = "/etc/credstore/vpn-node.registration-token";
        let inside = self.machine.root()?.join(&place[1..]);
        machine::put(&inside, token.as_bytes(), 0o600)?;
        let by_credential = self.systemd()? >= CREDENTIAL_STORES;
        if !by_credential {
            self.machine
                .must(&["vpn-node", "enroll", "--token-file", place])?;
        }
        self.machine.must(&["systemctl", "restart", STABLE])?;
        let report = self.heard()?;
        self.known = Some(Known {
            server: report["server_id"].as_str().unwrap_or_default().to_owned(),
            facts: self.facts()?,
        });
        Ok(if by_credential {
            "a token in a credential"
        } else {
            "`vpn-node enroll`"
        })
    }

    /// The version of its systemd.
    pub(super) fn systemd(&self) -> Result<u32> {
        let said = self.machine.must(&["systemctl", "--version"])?;
        let version = said.split(' ').nth(1).and_then(|word| word.parse().ok());
        version.with_context(|| format!("systemctl says: {said}"))
    }

    /// Looks at everything that a step must leave right.
    pub(super) fn look(&mut self, expect: &Expect<'_>) -> Result<()> {
        self.looks += 1;
        let machine = &self.machine;
        let stable = machine.must(&["readlink", "/opt/vpn-node/stable"])?;
        ensure!(
            stable.trim() == expect.stable,
            "stable leads to {stable}, not to {}",
            expect.stable
        );
        machine
            .must(&["sh", "-ec", SOUND])
            .context("what is installed is not sound")?;
        if self.shelf.kind == Kind::Rpm {
            // Settings may be changed: that is what they are for.
            let verify =
                "rpm --verify vpn-node-agent vpn-node-controller | grep -v ' c /etc/' || true";
            let differs = machine.must(&["sh", "-c", verify])?;
            ensure!(differs.is_empty(), "rpm --verify: {differs}");
        }
        self.same_state()?;
        if expect.runs {
            let report = self.heard()?;
            let server = self.known.as_ref().map(|known| known.server.as_str());
            ensure!(
                report["server_id"].as_str() == server,
                "another identity: {report}"
            );
            let ledger = &report["ledger"];
            let sound =
                ledger["writable"] == true && ledger["gaps"] == 0 && ledger["quarantined"] == 0;
            ensure!(sound, "the ledger is not sound: {ledger}");
            let program = self.program()?;
            let right = program.starts_with(&format!("/opt/vpn-node/{}/bin/", expect.stable));
            ensure!(
                right,
                "what runs is {program}, and stable leads to {}",
                expect.stable
            );
            let active = self.machine.property(CONTROLLER_UNIT, "ActiveState")?;
            ensure!(active == "active", "the controller is {active}");
        }
        Ok(())
    }

    /// Keys, enrolment, ledger and users are as they were when the host was enrolled.
    pub(super) fn same_state(&self) -> Result<()> {
        let Some(known) = &self.known else {
            return Ok(());
        };
        let facts = self.facts()?;
        for (name, before) in &known.facts {
            let now = facts.get(name).map_or("gone", String::as_str);
            ensure!(now == before, "{name} was {before} and is {now}");
        }
        Ok(())
    }

    fn facts(&self) -> Result<BTreeMap<String, String>> {
        let said = self.machine.must(&["sh", "-c", FACTS])?;
        let pairs = said.lines().filter_map(|line| line.split_once('='));
        Ok(pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    /// The agent's report, once the running agent's heartbeats are accepted.
    pub(super) fn heard(&self) -> Result<Value> {
        self.eventually("an agent whose heartbeats are accepted", || {
            let output =
                self.machine
                    .run(&["/opt/vpn-node/system/bin/vpn-node", "status", "--json"])?;
            let report: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            let heard = report["heartbeats"]["accepted"].as_u64().unwrap_or(0) > 0;
            let pid = self.machine.property(STABLE, "MainPID")?;
            let ours = report["pid"].as_u64() == pid.parse().ok()
                || self.machine.property(STABLE, "ActiveState")? != "active";
            Ok((heard && ours).then_some(report))
        })
    }

    /// The file that the running agent was started from.
    pub(super) fn program(&self) -> Result<String> {
        let pid = self.machine.property(STABLE, "MainPID")?;
        let path = self
            .machine
            .must(&["readlink", &format!("/proc/{pid}/exe")])?;
        Ok(path.trim().to_owned())
    }

    /// The process id of a unit.
    pub(super) fn pid(&self, unit: &str) -> Result<String> {
        self.machine.property(unit, "MainPID")
    }

    /// Every unit file of ours and whether it is enabled.
    pub(super) fn unit_files(&self) -> Result<BTreeMap<String, String>> {
        let words = [
            "systemctl",
            "list-unit-files",
            "--no-legend",
            "--no-pager",
            "vpn-node*",
        ];
        let listed = self.machine.run(&words)?.stdout;
        let rows = listed.lines().map(str::split_whitespace);
        Ok(rows
            .filter_map(|mut row| Some((row.next()?.to_owned(), row.next()?.to_owned())))
            .collect())
    }

    /// Whatever a boot must start is enabled; `when` is for the error.
    pub(super) fn all_enabled(&self, when: &str) -> Result<()> {
        let states = self.unit_files()?;
        for unit in [
            STABLE,
            CONTROLLER_UNIT,
            PATH_UNIT,
            "vpn-node-updater-recover.service",
        ] {
            let state = states.get(unit).map_or("missing", String::as_str);
            ensure!(state == "enabled", "{unit} is {state} {when}");
        }
        Ok(())
    }

    /// Waits until `look` finds something.
    pub(super) fn eventually<T>(
        &self,
        what: &str,
        look: impl Fn() -> Result<Option<T>>,
    ) -> Result<T> {
        self.within(ANSWERS_WITHIN, what, look)
    }

    /// The same, for what takes longer.
    pub(super) fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        look: impl Fn() -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if Instant::now() >= end {
                let words = [
                    "journalctl",
                    "-q",
                    "--no-pager",
                    "-n",
                    "30",
                    "-u",
                    STABLE,
                    "-u",
                    UPDATER,
                ];
                let journal = self.machine.must(&words)?;
                bail!(
                    "{what} did not come; the journal:\n{}",
                    shell::indent(&journal)
                );
            }
            shell::pause(Duration::from_millis(200))?;
        }
    }
}

/// Links lead to programs, nothing half-done lies around, no unit of ours has failed.
const SOUND: &str = r#"
for name in vpn-node vpn-node-agent vpn-node-updater; do
    [ "$(readlink /usr/bin/$name)" = /opt/vpn-node/stable/bin/$name ] || { echo "/usr/bin/$name leads elsewhere"; exit 1; }
    [ -x /usr/bin/$name ] || { echo "/usr/bin/$name leads to nothing"; exit 1; }
done
[ "$(stat -c '%U:%G %a' /etc/vpn-node)" = 'root:root 755' ] || { stat /etc/vpn-node; exit 1; }
left=$(find /opt/vpn-node /etc/vpn-node /usr/bin /usr/lib/systemd /usr/lib/sysusers.d /usr/lib/tmpfiles.d \
    -name '*.new' -o -name '*.dpkg-new' -o -name '*.dpkg-tmp' -o -name '*.rpmsave' -o -name '*;????????')
[ -z "$left" ] || { echo "left behind: $left"; exit 1; }
failed=$(systemctl list-units --failed --no-legend --plain 'vpn-node*')
[ -z "$failed" ] || { echo "failed: $failed"; exit 1; }
dangling=$(find /etc/systemd/system -xtype l)
[ -z "$dangling" ] || { echo "links to nothing: $dangling"; exit 1; }
"#;

/// One `name=value` a line.
const FACTS: &str = r#"
for file in /var/lib/vpn-node/identity.json /var/lib/vpn-node/enrollment.json /var/lib/vpn-node/state-format \
    /var/lib/vpn-node-controller/keys/* /var/lib/vpn-node-controller/certificate.json; do
    echo "$file=$(sha256sum < $file | cut -c 1-64) $(stat -c '%U:%G %a' $file)"
done
for folder in /var/lib/vpn-node /var/lib/vpn-node-controller /var/lib/vpn-node/ledger; do
    echo "$folder=$(stat -c '%U:%G %a' $folder)"
done
echo "ledger=$(stat -c %i /var/lib/vpn-node/ledger/journal)"
for user in vpn-node vpn-node-controller; do echo "user $user=$(id $user)"; done
"#;
