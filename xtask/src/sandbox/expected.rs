//! What each service may do of what the probe attempts. Everything else must be denied.

use anyhow::{Context, Result};

use super::Results;

/// What is allowed to one service.
pub(super) struct Service {
    unit: &'static str,
    may: &'static [&'static str],
}

/// The agent speaks to the controller and to the host's VPN daemons.
const AGENT: &[&str] = &["write_own", "unix", "inet", "inet6"];
/// The updater replaces programs and signals nobody, but the kernel lets root signal root. systemctl
/// may need the system bus. Files of other users it reads for the sake of one: the agent's state is
/// closed to all but its user.
const UPDATER: &[&str] = &[
    "write_own",
    "write_programs",
    "unix",
    "system_bus",
    "see_processes",
    "signal_others",
    "read_others_secret",
];

const SERVICES: [Service; 9] = [
    service("vpn-node-agent.service", AGENT),
    service("vpn-node-agent-exp.service", AGENT),
    service("vpn-node-updater.service", UPDATER),
    service("vpn-node-updater-recover.service", UPDATER),
    service("vpn-node-updater-rescue.service", UPDATER),
    service("vpn-node-gate.service", &["write_own", "unix"]),
    service("vpn-node-hardware.service", &["write_own", "signal_others"]),
    service("vpn-node-wireguard.service", &["write_own", "netlink"]),
    service(
        "vpn-node-controller.service",
        &["write_own", "unix", "inet", "inet6", "listen_tcp"],
    ),
];

const fn service(unit: &'static str, may: &'static [&'static str]) -> Service {
    Service { unit, may }
}

/// The entry of a unit: a new one must be thought about here.
pub(super) fn of(unit: &str) -> Result<&'static Service> {
    SERVICES
        .iter()
        .find(|service| service.unit == unit)
        .with_context(|| {
            format!("what {unit} may do stands nowhere (xtask/src/sandbox/expected.rs)")
        })
}

/// What was seen of one service.
pub(super) struct Judged {
    pub(super) denied: usize,
    pub(super) allowed: usize,
    pub(super) broken: Vec<String>,
}

impl Service {
    /// Compares. What is `unprovable` on this kernel is left out if it was not denied.
    pub(super) fn judge(&self, unit: &str, results: &Results, unprovable: &[&str]) -> Judged {
        let mut judged = Judged {
            denied: 0,
            allowed: 0,
            broken: Vec::new(),
        };
        for (name, said) in results {
            let may = self.may.contains(&name.as_str());
            match (may, said == "ok") {
                (true, true) => judged.allowed += 1,
                (false, false) => judged.denied += 1,
                (false, true) if unprovable.contains(&name.as_str()) => {}
                (false, true) => judged.broken.push(format!("{unit} can: {name}")),
                (true, false) => judged
                    .broken
                    .push(format!("{unit} cannot: {name} ({said})")),
            }
        }
        judged
    }
}

/// The attempts that failed outside of a sandbox although they should not.
pub(super) fn fair(who: &str, results: &Results, should: impl Fn(&str) -> bool) -> Vec<String> {
    results
        .iter()
        .filter(|(name, said)| should(name) && *said != "ok")
        .map(|(name, said)| {
            format!("control as {who}: {name} fails outside of a sandbox too ({said})")
        })
        .collect()
}

/// What needs no root: a service without root that is denied it is denied by its sandbox.
pub(super) fn nobody_may(name: &str) -> bool {
    const NEED_ROOT: [&str; 26] = [
        // "nobody" has no home.
        "write_login",
        "read_shadow",
        "read_others_secret",
        "read_kernel_log",
        "write_etc",
        "write_usr",
        "write_programs",
        "write_boot",
        "write_cgroup",
        "open_sysctl",
        "packet",
        "change_user",
        "signal_others",
        "mount",
        "unshare_mount",
        "unshare_net",
        "chroot",
        "load_module",
        "bpf",
        "perf",
        "realtime",
        "set_clock",
        "set_hostname",
        "swap",
        "make_device",
        "unshare_user",
    ];
    !NEED_ROOT.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::services;

    #[test]
    fn every_service_of_ours_stands_here_and_no_other() {
        let mut ours: Vec<_> = SERVICES.iter().map(|service| service.unit).collect();
        ours.sort_unstable();
        assert_eq!(services().unwrap(), ours);
    }

    #[test]
    fn what_is_not_allowed_must_be_denied_and_the_other_way_round() {
        let said = |name: &str, said: &str| (name.to_owned(), said.to_owned());
        let results = Results::from([
            said("unix", "EPERM"),
            said("mount", "ok"),
            said("swap", "EPERM"),
        ]);
        let judged = service("a", &["unix"]).judge("a", &results, &[]);
        assert_eq!(judged.broken, ["a can: mount", "a cannot: unix (EPERM)"]);
        assert_eq!((judged.denied, judged.allowed), (1, 0));
    }
}
