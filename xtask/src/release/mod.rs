//! `cargo xtask release`: our own package, ready to be signed.
//!
//! The programs are built so that the place of the checkout does not get into them ([`shipped`]), and
//! packed by the writer that the hosts' reader agrees with. `--check` builds all of it again in
//! another place and compares the bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use vpn_node_release::bundle::{
    About, Content, Effort, Entry, EntryPath, Limits, Mode, inspect, pack,
};
use vpn_node_release::copy;
use vpn_node_release::release::OUR_STATE;
use vpn_node_release::version::{Platform, Version};

use crate::build::shipped::{self, Set};
use crate::package::bill_of_agent;
use crate::shell;

/// The programs of a package, all in `bin/`.
pub(crate) const PROGRAMS: [&str; 4] = [
    "vpn-node-agent",
    "vpn-node",
    "vpn-node-updater",
    "vpn-node-wireguard",
];

/// How they are built, for the signed package as for .deb and .rpm.
const SET: Set = Set {
    packages: &["vpn-node", "vpn-node-updater"],
    programs: &PROGRAMS,
    profile: Profile::Agent.name(),
};

/// What else is in a package: where it lies in the repository, and there.
const SHARED: [(&str, &str); 5] = [
    ("README.md", "share/doc/README.md"),
    ("CHANGELOG.md", "share/doc/CHANGELOG.md"),
    ("LICENSE-APACHE", "share/doc/LICENSE-APACHE"),
    ("LICENSE-MIT", "share/doc/LICENSE-MIT"),
    ("config/agent.toml", "share/agent.toml"),
];

/// Arguments of `cargo xtask release`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where the package goes
    #[arg(long, value_name = "DIR", default_value = "target/releases")]
    out: PathBuf,
    /// Its version; that of the sources if it is left out
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
    /// Build it a second time, in another directory, and compare the bytes
    #[arg(long)]
    check: bool,
    /// How the programs are built; `dev` is quick, large and not for publishing
    #[arg(long, value_enum, default_value = "agent")]
    profile: Profile,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    Agent,
    Dev,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Dev => "dev",
        }
    }

    const fn effort(self) -> Effort {
        match self {
            Self::Agent => Effort::Best,
            Self::Dev => Effort::Quick,
        }
    }
}

/// Builds, packs, and with `--check` does it again elsewhere.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let version = match &options.version {
        Some(version) => version.clone(),
        None => Version::parse(env!("CARGO_PKG_VERSION"))?,
    };
    let (platform, effort) = (Platform::here(), options.profile.effort());
    let profile = options.profile.name();
    let out = shell::repository().join(&options.out);

    anstream::println!("building vpn-node {version} for {platform} (profile {profile})");
    let programs = shipped::build(&SET, shell::repository(), &shipped::target(), profile)?;
    let package = package_with(&programs, &version, &platform, effort, &out)?;
    describe(&package)?;
    write_bill(&package, &version)?;
    if !options.check {
        return Ok(ExitCode::SUCCESS);
    }

    let elsewhere = tempfile::Builder::new()
        .prefix("vpn-node-built-again-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    let sources = elsewhere.path().join("another/place/for/the/sources");
    shipped::copy_sources(&sources)?;
    anstream::println!("building it again in {}", sources.display());
    let target = elsewhere.path().join("objects");
    let programs_again = shipped::build(&SET, &sources, &target, profile)?;
    let out_again = elsewhere.path().join("out");
    let again = package_with(&programs_again, &version, &platform, effort, &out_again)?;
    verdict(&package, &again, (&programs, &programs_again))
}

/// Packs the programs in `programs` as version `version`, quickly: for tests and
/// demonstrations, which put other programs there. Returns the package, in the directory `out`.
pub(crate) fn package(
    programs: &Path,
    version: &Version,
    platform: &Platform,
    out: &Path,
) -> Result<PathBuf> {
    package_with(programs, version, platform, Effort::Quick, out)
}

/// The programs of a release, as `cargo xtask release` packs them: the folder they are in.
pub(crate) fn programs() -> Result<PathBuf> {
    shipped::build_here(&SET)
}

/// The manifest of a directory with just these programs, as version `version`.
pub(crate) fn manifest_of(programs: &Path, version: &Version) -> Result<Vec<u8>> {
    let mut entries = Vec::new();
    for program in PROGRAMS {
        let from = programs.join(program);
        entries.push(entry(from, &format!("bin/{program}"), Mode::Executable)?);
    }
    let about = About {
        version: version.clone(),
        platform: Platform::here(),
        state_format: OUR_STATE,
        mtime: 0,
        effort: Effort::Quick,
    };
    // Packed to nowhere: the writer makes the manifest that a host's reader takes.
    let manifest = pack(std::io::sink(), &about, entries)?;
    Ok(serde_json::to_vec(&manifest)?)
}

fn package_with(
    programs: &Path,
    version: &Version,
    platform: &Platform,
    effort: Effort,
    out: &Path,
) -> Result<PathBuf> {
    let mut entries = Vec::new();
    for program in PROGRAMS {
        let from = programs.join(program);
        entries.push(entry(from, &format!("bin/{program}"), Mode::Executable)?);
    }
    for (from, to) in SHARED {
        entries.push(entry(shell::repository().join(from), to, Mode::Plain)?);
    }
    let about = About {
        version: version.clone(),
        platform: platform.clone(),
        state_format: OUR_STATE,
        mtime: source_date_epoch()?,
        effort,
    };
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let path = out.join(format!("vpn-node-{version}-{platform}.tar.zst"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut writer = BufWriter::new(file);
    pack(&mut writer, &about, entries)?;
    writer
        .flush()
        .with_context(|| format!("cannot write {}", path.display()))?;
    // By the rules of a host, before anybody signs it.
    let written = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    inspect(written, &Limits::default())?;
    Ok(path)
}

fn entry(from: PathBuf, to: &str, mode: Mode) -> Result<Entry> {
    Ok(Entry {
        path: EntryPath::parse(to.as_bytes())?,
        mode,
        content: Content::File(from),
    })
}

/// The time of everything in the package (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn source_date_epoch() -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds")),
        Err(_) => Ok(0),
    }
}

/// What is linked into the programs, beside the package: `….cdx.json` for `….tar.zst`.
fn write_bill(package: &Path, version: &Version) -> Result<()> {
    // Not `with_extension`: a version has dots.
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".tar.zst").unwrap_or(&name);
    let file = package.with_file_name(format!("{name}.cdx.json"));
    fs::write(&file, bill_of_agent(version)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    anstream::println!("  bill of materials: {}", file.display());
    Ok(())
}

fn hashed(file: &Path) -> Result<copy::Hashed> {
    let mut open = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    copy::hash(&mut open, u64::MAX).with_context(|| format!("cannot read {}", file.display()))
}

fn describe(package: &Path) -> Result<()> {
    let copy::Hashed { length, digest } = hashed(package)?;
    anstream::println!("{}\n  {length} bytes, SHA-256 {digest}", package.display());
    Ok(())
}

/// Whether both packages have the same bytes, and if not, which program differs.
fn verdict(package: &Path, again: &Path, programs: (&Path, &Path)) -> Result<ExitCode> {
    let (first, second) = (hashed(package)?, hashed(again)?);
    if first == second {
        anstream::println!(
            "release: ok — built twice in two directories, the same {} bytes, SHA-256 {}",
            first.length,
            first.digest
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut differing = Vec::new();
    for program in PROGRAMS {
        if hashed(&programs.0.join(program))? != hashed(&programs.1.join(program))? {
            differing.push(program);
        }
    }
    if differing.is_empty() {
        bail!("the programs are the same, and the packages differ: `pack` is not reproducible");
    }
    anstream::println!(
        "release: failed — built twice, and different: {}",
        differing.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use vpn_node_release::bundle::Manifest;

    use super::*;

    #[test]
    fn any_programs_make_a_package_of_any_version() {
        let folder = tempfile::tempdir().unwrap();
        for program in PROGRAMS {
            fs::write(
                folder.path().join(program),
                format!("#!/bin/sh\necho {program}\n"),
            )
            .unwrap();
        }
        let out = folder.path().join("out");
        let version = Version::parse("7.1.0-rc.1").unwrap();
        let platform = Platform::here();
        let package = package(folder.path(), &version, &platform, &out).unwrap();
        let unpacked = inspect(File::open(&package).unwrap(), &Limits::default()).unwrap();
        assert_eq!(unpacked.manifest.version, version);
        assert_eq!(unpacked.manifest.files.len(), PROGRAMS.len() + SHARED.len());
        let manifest = manifest_of(folder.path(), &version).unwrap();
        let manifest = Manifest::parse(&manifest, &Limits::default()).unwrap();
        assert_eq!(manifest.version, version);
        fs::remove_file(folder.path().join("vpn-node")).unwrap();
        let error = super::package(folder.path(), &version, &platform, &out).unwrap_err();
        assert!(format!("{error:#}").contains("vpn-node"), "{error:#}");
    }
}
