//! `cargo xtask e2e connections`: every connection is one row, with its true end and reason.
//!
//! Real VPN daemons and clients in namespaces, a real agent beside them and a real controller: one
//! lab a daemon, all side by side. Scenarios make sessions begin, roam, and end in every way the
//! daemon knows; what `vpn-node-controller connections list` then shows must be exactly what
//! happened: nothing lost, nothing counted twice, every end with its reason.
//!
//! Reading order: [`part`] (what a daemon's file implements, and how scenarios are played),
//! [`scene`] (what scenarios do and state), [`operator`] (what the controller's commands do to them),
//! [`session`] (the comparison), then a daemon's file.

mod lan;
mod ocserv;
mod openvpn;
mod operator;
mod part;
mod scene;
mod session;
mod strongswan;
mod wireguard;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use self::part::{Choice, Length, Part, Report};
use crate::apt::{self, need};
use crate::build::{self, Programs};
use crate::lab::machine;
use crate::shell;

/// Every daemon that has a part.
const PARTS: &[Part] = &[
    Part::of::<wireguard::WireGuard>(),
    Part::of::<openvpn::OpenVpn>(),
    Part::of::<strongswan::StrongSwan>(),
    Part::of::<ocserv::Ocserv>(),
];

/// The sections of agent.toml: an agent of one lab must not see the daemons of another.
const SECTIONS: [&str; 4] = ["wireguard", "openvpn", "strongswan", "ocserv"];

const NEEDS: [apt::Need; 3] = [
    need("ip", "iproute2"),
    need("nsenter", "util-linux"),
    need("ping", "iputils-ping"),
];

/// Arguments of `cargo xtask e2e connections`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// These daemons only
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Only the scenarios whose names contain this; some go on with what others left
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
    /// What takes three minutes: without the ends that show only after WireGuard's 180 s of silence
    #[arg(long, conflicts_with = "full")]
    short: bool,
    /// Every scenario, and more repetitions of what is measured
    #[arg(long)]
    full: bool,
    /// Take the three programs from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Do not install Debian packages, even as root
    #[arg(long)]
    no_install: bool,
}

/// The whole of it.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let begun = Instant::now();
    let chosen = chosen(&options.only)?;
    let programs = build::programs(options.programs.as_deref(), false)?;
    let mut skipped = Vec::new();
    let mut parts = Vec::new();
    for part in chosen {
        match obstacle(part, !options.no_install)? {
            None => parts.push(part),
            Some(why) => {
                anstream::println!("{} is skipped: {why}", part.name);
                skipped.push(format!("{}: {why}", part.name));
            }
        }
    }
    let length = match (options.short, options.full) {
        (true, _) => Length::Short,
        (_, true) => Length::Full,
        _ => Length::Usual,
    };
    let choice = Choice {
        length,
        name: options.scenario.clone().unwrap_or_default(),
    };
    let reports = play(&parts, &programs, &choice)?;
    Ok(verdict(&reports, &skipped, begun))
}

/// All parts, or those that are named.
fn chosen(only: &[String]) -> Result<Vec<&'static Part>> {
    let known = |name: &String| PARTS.iter().any(|part| part.name == *name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        bail!(
            "--only: there is no part `{unknown}`, only {}",
            names.join(", ")
        );
    }
    let parts = PARTS.iter();
    Ok(parts
        .filter(|part| only.is_empty() || only.iter().any(|name| name == part.name))
        .collect())
}

/// Why a part cannot be played here; nothing if it can.
fn obstacle(part: &Part, may_install: bool) -> Result<Option<String>> {
    for needs in [&NEEDS, part.needs] {
        if let Some(missing) = apt::provide(needs, may_install)? {
            return Ok(Some(missing));
        }
    }
    match machine::obstacle()? {
        None => (part.obstacle)(),
        some => Ok(some),
    }
}

/// Side by side, a thread each. A signal ends them all, and each removes what it made.
fn play(parts: &[&'static Part], programs: &Programs, choice: &Choice) -> Result<Vec<Report>> {
    thread::scope(|scope| {
        let threads: Vec<_> = parts
            .iter()
            .map(|part| {
                let (programs, others) = (programs.clone(), all_off_but(part.name));
                scope.spawn(move || (part.play)(programs, &others, choice))
            })
            .collect();
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        shell::check_interrupted()?;
        let mut reports = Vec::new();
        for (part, ended) in parts.iter().zip(ended) {
            match ended {
                Ok(Ok(report)) => reports.push(report),
                Ok(Err(error)) => {
                    anstream::eprintln!("{}: {error:#}", part.name);
                    reports.push(Report::failed(part.name));
                }
                Err(_) => bail!("the part of {} panicked", part.name),
            }
        }
        Ok(reports)
    })
}

fn all_off_but(name: &str) -> String {
    let others = SECTIONS.iter().filter(|section| **section != name);
    others
        .map(|section| format!("[{section}]\nenabled = false\n\n"))
        .collect()
}

/// The one line, and whether every promise was kept.
fn verdict(reports: &[Report], skipped: &[String], begun: Instant) -> ExitCode {
    let sum = |count: fn(&Report) -> usize| reports.iter().map(count).sum::<usize>();
    let broken: Vec<String> = reports.iter().flat_map(Report::broken_ones).collect();
    let figures: String = reports.iter().flat_map(Report::all_figures).collect();
    let skipped = match skipped {
        [] => String::new(),
        some => format!("; skipped: {}", some.join("; ")),
    };
    let word = match (broken.is_empty(), reports.is_empty()) {
        (false, _) => format!("FAILED ({})", broken.join(", ")),
        (true, true) => "skipped".to_owned(),
        (true, false) => "ok".to_owned(),
    };
    anstream::println!(
        "e2e connections: {word} — {} scenarios of {} daemons, {} broken; {} sessions, {figures}{} s{skipped}",
        sum(|report| report.scenarios),
        reports.len(),
        broken.len(),
        sum(|report| report.sessions),
        begun.elapsed().as_secs()
    );
    ExitCode::from(u8::from(!broken.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_chosen_by_its_name_and_a_typo_is_named() {
        assert_eq!(chosen(&[]).unwrap().len(), PARTS.len());
        let one = chosen(&["wireguard".to_owned()]).unwrap();
        assert_eq!(one[0].name, "wireguard");
        let error = chosen(&["wiregard".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("`wiregard`"), "{error}");
    }

    #[test]
    fn a_lab_watches_its_own_daemon_alone() {
        let others = all_off_but("openvpn");
        assert!(others.contains("[ocserv]\nenabled = false"));
        assert!(!others.contains("openvpn"));
        let parts = PARTS.iter().map(|part| part.name);
        assert!(parts.into_iter().all(|name| SECTIONS.contains(&name)));
    }
}
