//! `cargo xtask bench update`: what verifying and staging a package of 512 MiB costs, beside
//! `openssl dgst` and `cp`.
//!
//! Both sides read the same file from the page cache in one run, by turns; processor time counts,
//! because it is what the host's other programs miss. The product's own functions run alone in a
//! process (`crates/release/examples/stage.rs`), built as the updater is shipped.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::build;
use crate::shell;

const PACKAGE_MIB: u64 = 512;
/// Turns of each side; the middle one counts. Odd.
const TURNS: usize = 7;
const WITHIN: Duration = Duration::from_secs(120);

/// Verifying: at most so many times `openssl dgst -sha256`.
const VERIFY_AIM: f64 = 1.0;
/// Verifying and staging: at most so many times `cp` and `openssl dgst -sha256`.
const STAGE_AIM: f64 = 1.1;
/// How much memory may grow, in KiB.
const MEMORY_AIM_KIB: u64 = 1024;

/// Arguments of `cargo xtask bench update`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fail if an aim is missed
    #[arg(long)]
    strict: bool,
}

/// One run: a file, the turns, the table.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let openssl =
        shell::find("openssl").context("openssl is not installed (Debian package openssl)")?;
    let stage = build::example("vpn-node-release", "stage", "agent")?;
    let place = shell::repository().join("target");
    let folder = tempfile::tempdir_in(&place)
        .with_context(|| format!("cannot make a folder in {}", place.display()))?;
    let bench = Bench {
        package: folder.path().join("package"),
        copy: folder.path().join("copy"),
        openssl,
        stage,
    };
    anstream::println!("a package of {PACKAGE_MIB} MiB, {TURNS} turns of each");
    bench.make_package()?;
    let sha256 = bench.dgst()?.1;

    let mut turns = Turns::default();
    for _ in 0..TURNS {
        turns.dgst.push(bench.dgst()?.0);
        turns.verify.push(bench.ours(&sha256, false)?);
        turns.copy.push(bench.cp()?);
        turns.stage.push(bench.ours(&sha256, true)?);
    }
    let figures = turns.middle();
    anstream::println!("\n{figures}");
    let missed = figures.missed();
    if missed.is_empty() {
        anstream::println!("bench update: ok: {}", figures.short());
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!(
        "bench update: missed: {}; {}",
        missed.join(", "),
        figures.short()
    );
    Ok(if options.strict {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

struct Bench {
    package: PathBuf,
    copy: PathBuf,
    openssl: PathBuf,
    stage: PathBuf,
}

/// What one of our turns cost.
#[derive(Clone, Copy)]
struct Ours {
    cpu: Duration,
    grown_kib: u64,
}

impl Bench {
    /// Bytes that no file system can make smaller, on disk before anything is measured.
    fn make_package(&self) -> Result<()> {
        let make = || -> io::Result<()> {
            let mut random = File::open("/dev/urandom")?.take(PACKAGE_MIB << 20);
            let mut file = File::create(&self.package)?;
            io::copy(&mut random, &mut file)?;
            file.sync_all()
        };
        make().with_context(|| format!("cannot write {}", self.package.display()))
    }

    /// `openssl dgst`: its processor time, and the digest.
    fn dgst(&self) -> Result<(Duration, String)> {
        let mut command = Command::new(&self.openssl);
        command.args(["dgst", "-sha256", "-r"]).arg(&self.package);
        let (cpu, output) = measured(command)?;
        let digest = output.split(' ').next().unwrap_or_default();
        ensure!(digest.len() == 64, "openssl said {output:?}");
        Ok((cpu, digest.to_owned()))
    }

    /// `cp`, into the page cache.
    fn cp(&self) -> Result<Duration> {
        let mut command = Command::new("cp");
        // A file system that shares blocks would copy nothing.
        command
            .arg("--reflink=never")
            .args([&self.package, &self.copy]);
        let cpu = measured(command)?.0;
        self.settle()?;
        Ok(cpu)
    }

    /// Our own functions: verify, or verify and stage.
    fn ours(&self, sha256: &str, stage: bool) -> Result<Ours> {
        let mut command = Command::new(&self.stage);
        let length = (PACKAGE_MIB << 20).to_string();
        command.arg(&self.package).args([&length, sha256]);
        if stage {
            command.arg(&self.copy);
        }
        let (cpu, output) = measured(command)?;
        if stage {
            self.settle()?;
        }
        let grown_kib = output
            .trim()
            .parse()
            .with_context(|| format!("stage said {output:?}"))?;
        Ok(Ours { cpu, grown_kib })
    }

    /// Removes the copy and lets the disk come to rest, so that no turn pays for another.
    fn settle(&self) -> Result<()> {
        let length = fs::metadata(&self.copy).map_or(0, |about| about.len());
        if length != PACKAGE_MIB << 20 {
            bail!("the copy has {length} bytes");
        }
        fs::remove_file(&self.copy).context("cannot remove the copy")?;
        nix::unistd::sync();
        Ok(())
    }
}

/// The processor time of a program, all of it (wait4(2) of its end), and what it printed.
fn measured(command: Command) -> Result<(Duration, String)> {
    let before = children()?;
    let output = shell::succeed(command, None, WITHIN)?;
    Ok((children()?.saturating_sub(before), output.stdout))
}

fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage failed")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.try_into().unwrap_or(0)))
}

#[derive(Default)]
struct Turns {
    dgst: Vec<Duration>,
    verify: Vec<Ours>,
    copy: Vec<Duration>,
    stage: Vec<Ours>,
}

impl Turns {
    fn middle(&self) -> Figures {
        let cpu = |ours: &[Ours]| middle(ours.iter().map(|turn| turn.cpu).collect());
        let all = self.verify.iter().chain(&self.stage);
        Figures {
            dgst: middle(self.dgst.clone()),
            verify: cpu(&self.verify),
            copy: middle(self.copy.clone()),
            stage: cpu(&self.stage),
            grown_kib: all.map(|turn| turn.grown_kib).max().unwrap_or(0),
        }
    }
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The middle of all turns; for memory the worst.
struct Figures {
    dgst: Duration,
    verify: Duration,
    copy: Duration,
    stage: Duration,
    grown_kib: u64,
}

impl Figures {
    fn verify_ratio(&self) -> f64 {
        self.verify.as_secs_f64() / self.dgst.as_secs_f64()
    }

    fn stage_ratio(&self) -> f64 {
        self.stage.as_secs_f64() / (self.copy + self.dgst).as_secs_f64()
    }

    fn missed(&self) -> Vec<&'static str> {
        let aims = [
            (self.verify_ratio() <= VERIFY_AIM, "verify"),
            (self.stage_ratio() <= STAGE_AIM, "verify and stage"),
            (self.grown_kib <= MEMORY_AIM_KIB, "memory"),
        ];
        aims.iter()
            .filter(|(met, _)| !met)
            .map(|(_, what)| *what)
            .collect()
    }

    fn short(&self) -> String {
        format!(
            "verify {:.2} times openssl (aim {VERIFY_AIM}), verify and stage {:.2} times cp and openssl (aim {STAGE_AIM}), memory +{} KiB (aim {MEMORY_AIM_KIB})",
            self.verify_ratio(),
            self.stage_ratio(),
            self.grown_kib
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<44}{:>14}{:>12}",
            "processor time", "milliseconds", "MiB/s"
        )?;
        let rows = [
            ("openssl dgst -sha256", self.dgst),
            ("verify", self.verify),
            ("cp", self.copy),
            ("cp and openssl dgst -sha256", self.copy + self.dgst),
            ("verify and stage (with fsync)", self.stage),
        ];
        for (what, time) in rows {
            let seconds = time.as_secs_f64();
            let rate = PACKAGE_MIB as f64 / seconds;
            writeln!(f, "{what:<44}{:>14.0}{rate:>12.0}", seconds * 1000.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_or_named() {
        let ms = Duration::from_millis;
        let good = Figures {
            dgst: ms(300),
            verify: ms(290),
            copy: ms(100),
            stage: ms(430),
            grown_kib: 300,
        };
        assert!(good.missed().is_empty(), "{}", good.short());
        let bad = Figures {
            verify: ms(310),
            stage: ms(450),
            grown_kib: 1025,
            ..good
        };
        assert_eq!(bad.missed(), ["verify", "verify and stage", "memory"]);
    }

    #[test]
    fn the_work_of_a_child_is_counted() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i",
        ]);
        let (cpu, output) = measured(command).unwrap();
        assert!(cpu > Duration::ZERO);
        assert_eq!(output.trim(), "20000");
    }
}
