//! Which hosts a rollout is for, in which order, and why the others are left out.
//!
//! Whether a host is among the first percents follows from SHA-256 over its server id and the version
//! alone: the same hosts for a greater percentage later, and other ones for another version, so that
//! no host is always the first to try things.

use std::cmp::Ordering;

use semver::Version;
use vpn_node_protocol::encoding::Digest;

use super::{Host, Pace, Release};
use crate::rules::state::{ServerStatus, word};

/// Why a host is not part of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// Revoked, quarantined, or not approved.
    Stopped(ServerStatus),
    /// Its agent never said anything of its software.
    NoReport,
    /// It has no updater, or trusts no release keys.
    NotManaged,
    /// There is no package for its platform.
    NoBuild(String),
    /// It takes another channel.
    OtherChannel(String),
    /// Its root wants no updates.
    Disabled,
    /// Its root keeps it at another version.
    Pinned(String),
    /// The version ended badly there.
    Blocked,
    /// It runs that version.
    AlreadyThere,
    /// It has verified a later release, and refuses an earlier one.
    Later(u64),
    /// It runs a version that is too old for this step.
    MinVersion(String),
    /// It is not among the percents that were asked for.
    Percent,
}

impl LeftOut {
    /// The stable word: that of the host for the same (`docs/releases.md`), where it has one.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Stopped(ServerStatus::Revoked) => "server_revoked",
            Self::Stopped(ServerStatus::Quarantined) => "server_quarantined",
            Self::Stopped(_) => "server_not_approved",
            Self::NoReport => "no_report",
            Self::NotManaged => "not_managed",
            Self::NoBuild(_) => "no_build",
            Self::OtherChannel(_) => "wrong_channel",
            Self::Disabled => "updates_disabled",
            Self::Pinned(_) => "pinned",
            Self::Blocked => "blocked",
            Self::AlreadyThere => "already_installed",
            Self::Later(_) => "counter_lower",
            Self::MinVersion(_) => "min_version_unmet",
            Self::Percent => "percent",
        }
    }

    /// A sentence. What came from hosts is escaped in it.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Stopped(status) => format!("the server is {}", word(status)),
            Self::NoReport => "its agent says nothing of its software: it is too old for updates from here, or was not heard yet".to_owned(),
            Self::NotManaged => "it has no updater, or its updater trusts no release keys: run 'vpn-node update trust' there".to_owned(),
            Self::NoBuild(platform) => format!("there is no package for its platform {platform:?}"),
            Self::OtherChannel(channel) => format!("it takes channel {channel:?}"),
            Self::Disabled => "its root has disabled updates".to_owned(),
            Self::Pinned(version) => format!("its root keeps it at version {version:?}"),
            Self::Blocked => "this version ended badly there, and is blocked for a while".to_owned(),
            Self::AlreadyThere => "it runs this version".to_owned(),
            Self::Later(counter) => {
                format!("it has verified a later release (counter {counter}), and refuses an earlier one")
            }
            Self::MinVersion(least) => format!("it must run version {least} at least before this one"),
            Self::Percent => "it is not among the percents that were asked for".to_owned(),
        }
    }
}

/// Who gets a release, in the order in which they get it, and who does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Server ids with their row of `server_updates`. Those that are heard come first, because the
    /// first ones are the canaries.
    pub chosen: Vec<(String, String)>,
    /// Server ids, and why not.
    pub left_out: Vec<(String, LeftOut)>,
}

/// Chooses among `hosts`, which are those that an operator named, or all.
#[must_use]
pub fn choose(hosts: &[Host], releases: &[Release], percent: u8, pace: Pace, now_ms: i64) -> Plan {
    let mut plan = Plan::default();
    let mut chosen = vec![];
    for host in hosts {
        match fit(host, releases) {
            Err(why) => plan.left_out.push((host.server_id.clone(), why)),
            Ok(release) => {
                let place = place(&host.server_id, &release.version);
                if is_among(place, percent) {
                    chosen.push((!host.is_heard(pace, now_ms), place, host, release));
                } else {
                    let id = host.server_id.clone();
                    plan.left_out.push((id, LeftOut::Percent));
                }
            }
        }
    }
    chosen.sort_by_key(|(silent, place, host, _)| (*silent, *place, host.server_id.as_str()));
    plan.chosen = chosen
        .into_iter()
        .map(|(_, _, host, release)| (host.server_id.clone(), release.update_id.clone()))
        .collect();
    plan
}

/// The release that a host can install, as far as the controller knows. The host has the last word.
///
/// # Errors
/// Why there is none.
pub fn fit<'a>(host: &Host, releases: &'a [Release]) -> Result<&'a Release, LeftOut> {
    if host.status != ServerStatus::Active {
        return Err(LeftOut::Stopped(host.status));
    }
    let Some(software) = &host.software else {
        return Err(LeftOut::NoReport);
    };
    if !software.managed {
        return Err(LeftOut::NotManaged);
    }
    let build = releases
        .iter()
        .find(|one| one.platform == software.platform);
    let Some(release) = build else {
        return Err(LeftOut::NoBuild(software.platform.clone()));
    };
    if software.channel != release.channel {
        return Err(LeftOut::OtherChannel(software.channel.clone()));
    }
    if software.disabled {
        return Err(LeftOut::Disabled);
    }
    if let Some(pinned) = software
        .pinned
        .as_ref()
        .filter(|pin| **pin != release.version)
    {
        return Err(LeftOut::Pinned(pinned.clone()));
    }
    if host.version == release.version {
        return Err(LeftOut::AlreadyThere);
    }
    if software.blocked.contains(&release.version) {
        return Err(LeftOut::Blocked);
    }
    if software.counter > release.counter {
        return Err(LeftOut::Later(software.counter));
    }
    match &release.min_version {
        Some(least) if is_older(&host.version, least) => Err(LeftOut::MinVersion(least.clone())),
        _ => Ok(release),
    }
}

/// Whether a version is older than another one. One that cannot be read is: its host may be anything.
fn is_older(version: &str, than: &str) -> bool {
    match (Version::parse(version), Version::parse(than)) {
        (Ok(version), Ok(than)) => version.cmp_precedence(&than) == Ordering::Less,
        _ => true,
    }
}

/// A host's place among all, from 0 to 2^64: the first eight bytes of SHA-256 over server id and
/// version, big-endian.
#[must_use]
pub fn place(server_id: &str, version: &str) -> u64 {
    let digest = Digest::of(&[server_id.as_bytes(), version.as_bytes()]);
    u64::from_be_bytes(std::array::from_fn(|i| digest.0[i]))
}

/// Whether a place is among the first percents.
#[must_use]
pub fn is_among(place: u64, percent: u8) -> bool {
    (u128::from(place) * 100) >> 64 < u128::from(percent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Software;
    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    fn pace() -> Pace {
        Pace::of(30)
    }

    fn release() -> Release {
        Release {
            update_id: "u-amd64".into(),
            platform: "linux-amd64".into(),
            version: "1.5.0".into(),
            channel: "stable".into(),
            counter: 7,
            min_version: Some("1.2.0".into()),
            mandatory: false,
        }
    }

    fn host(server_id: &str) -> Host {
        Host {
            server_id: server_id.into(),
            status: ServerStatus::Active,
            version: "1.4.0".into(),
            last_heartbeat_ms: Some(NOW),
            software: Some(Software {
                platform: "linux-amd64".into(),
                managed: true,
                channel: "stable".into(),
                counter: 6,
                ..Software::default()
            }),
        }
    }

    #[test]
    fn whoever_cannot_install_it_is_left_out_with_a_reason() {
        type Change = fn(&mut Host);
        let cases: [(Change, &str); 16] = [
            (|_| {}, ""),
            (|h| h.status = ServerStatus::Revoked, "server_revoked"),
            (
                |h| h.status = ServerStatus::Quarantined,
                "server_quarantined",
            ),
            (|h| h.status = ServerStatus::Pending, "server_not_approved"),
            (|h| h.software = None, "no_report"),
            (|h| soft(h).managed = false, "not_managed"),
            (|h| soft(h).platform = "linux-arm64".into(), "no_build"),
            (|h| soft(h).channel = "beta".into(), "wrong_channel"),
            (|h| soft(h).disabled = true, "updates_disabled"),
            (|h| soft(h).pinned = Some("1.4.0".into()), "pinned"),
            (|h| soft(h).pinned = Some("1.5.0".into()), ""),
            (|h| soft(h).blocked = vec!["1.5.0".into()], "blocked"),
            (|h| h.version = "1.5.0".into(), "already_installed"),
            (|h| soft(h).counter = 8, "counter_lower"),
            (|h| h.version = "1.2.0-rc.1".into(), "min_version_unmet"),
            (|h| h.version = "what?".into(), "min_version_unmet"),
        ];
        let releases = [release()];
        for (change, code) in cases {
            let mut host = host("a");
            change(&mut host);
            let found = fit(&host, &releases).map_err(|why| {
                assert!(!why.sentence().is_empty());
                why.code()
            });
            assert_eq!(found.err().unwrap_or_default(), code);
        }
    }

    fn soft(host: &mut Host) -> &mut Software {
        host.software.as_mut().unwrap()
    }

    #[test]
    fn names_from_hosts_are_escaped() {
        let hostile = "x\u{1b}[2J\u{202e}";
        for why in [
            LeftOut::NoBuild(hostile.into()),
            LeftOut::OtherChannel(hostile.into()),
            LeftOut::Pinned(hostile.into()),
        ] {
            assert!(!why.sentence().contains(['\u{1b}', '\u{202e}']), "{why:?}");
        }
    }

    #[test]
    fn the_place_of_a_host_is_as_documented() {
        // printf %s host-a1.5.0 | sha256sum
        assert_eq!(place("host-a", "1.5.0"), 0x121f_b1e1_5a87_6429);
    }

    #[test]
    fn hosts_that_are_heard_come_first() {
        let mut silent = host("silent");
        silent.last_heartbeat_ms = None;
        let hosts = [silent, host("a"), host("b"), host("c")];
        let plan = choose(&hosts, &[release()], 100, pace(), NOW);
        assert_eq!(plan.chosen.len(), 4);
        assert_eq!(plan.chosen[3].0, "silent");
    }

    proptest! {
        #[test]
        fn a_greater_percentage_keeps_the_hosts_of_a_smaller_one(
            few in 0u8..=100, more in 0u8..=100, n in 1usize..200,
        ) {
            prop_assume!(few <= more);
            let hosts: Vec<Host> = (0..n).map(|n| host(&format!("host-{n}"))).collect();
            let few = choose(&hosts, &[release()], few, pace(), NOW);
            let more_of = choose(&hosts, &[release()], more, pace(), NOW);
            prop_assert!(few.chosen.iter().all(|one| more_of.chosen.contains(one)));
            prop_assert_eq!(few.chosen.len() + few.left_out.len(), n);
            if more == 100 {
                prop_assert_eq!(more_of.chosen.len(), n);
            }
        }
    }

    #[test]
    fn percents_are_about_percents() {
        let among = |percent| {
            let ids = (0..10_000).map(|n| format!("host-{n}"));
            ids.filter(|id| is_among(place(id, "1.5.0"), percent))
                .count()
        };
        for percent in [1, 10, 50, 90] {
            let expected = usize::from(percent) * 100;
            assert!(among(percent).abs_diff(expected) < 300, "{percent}");
        }
        assert_eq!((among(0), among(100)), (0, 10_000));
    }
}
