//! `cargo xtask package`: the .deb and the .rpm of the agent and of the controller.
//!
//! The story: programs ([`programs`]), the files of each package ([`assets`], and those that are made,
//! [`extras`]), and a crate without code whose Cargo.toml says all of it to cargo-deb and
//! cargo-generate-rpm ([`recipe`]). Then lintian and rpmlint have their say ([`check`]).
//! Other commands of the xtask take packages to try from [`build`].

mod assets;
mod check;
mod dependencies;
mod extras;
mod paper;
mod programs;
mod recipe;
mod sbom;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use vpn_node_release::version::Version;

use crate::build::Programs;
use crate::release;
use crate::shell;

/// Arguments of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this kind
    #[arg(value_enum)]
    kind: Option<Kind>,
    /// From the programs of a debug build, for tests: quick to make, large, not for publishing
    #[arg(long)]
    quick: bool,
    /// Their version; that of the sources if it is left out
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
}

/// Whose package.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Debian's
    Deb,
    /// Fedora's and its relatives'
    Rpm,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Deb, Self::Rpm];
}

/// Which programs are in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavour {
    /// What is published.
    Release,
    /// The same programs in packages that tests give versions to.
    Rehearsal,
    /// Those of `cargo build`, stripped: for tests.
    Quick,
}

/// Which packages somebody needs.
pub(crate) struct Wanted {
    /// Each once.
    pub(crate) kinds: Vec<Kind>,
    /// How the programs are built.
    pub(crate) flavour: Flavour,
    /// The version that the packages and the agent's manifest.json state; that of the sources if
    /// it is none. The programs themselves always state that of the sources.
    pub(crate) version: Option<Version>,
    /// A folder whose programs are to be in the agent's package in place of built ones: all that
    /// `release::PROGRAMS` names, as they are.
    pub(crate) agent_programs: Option<PathBuf>,
}

/// Where the packages are. What was not wanted is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Built {
    /// `vpn-node-agent_VERSION_ARCH.deb`
    pub(crate) agent_deb: Option<PathBuf>,
    /// `vpn-node-agent-VERSION.ARCH.rpm`
    pub(crate) agent_rpm: Option<PathBuf>,
    /// `vpn-node-controller_VERSION_ARCH.deb`
    pub(crate) controller_deb: Option<PathBuf>,
    /// `vpn-node-controller-VERSION.ARCH.rpm`
    pub(crate) controller_rpm: Option<PathBuf>,
}

/// The two packages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Package {
    Agent,
    Controller,
}

impl Package {
    const ALL: [Self; 2] = [Self::Agent, Self::Controller];

    /// The name that both package managers know.
    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "vpn-node-agent",
            Self::Controller => "vpn-node-controller",
        }
    }

    /// Where its documents lie on a host.
    fn documents(self) -> String {
        format!("/usr/share/doc/{}", self.name())
    }

    /// Cargo's packages whose programs are in it.
    const fn crates(self) -> &'static [&'static str] {
        match self {
            Self::Agent => &["vpn-node", "vpn-node-updater"],
            Self::Controller => &["vpn-node-controller"],
        }
    }

    /// Scripts and description, which a person writes.
    fn folder(self) -> PathBuf {
        shell::repository().join(match self {
            Self::Agent => "packaging/agent",
            Self::Controller => "packaging/controller",
        })
    }
}

impl Flavour {
    /// Everything that is made for it lies there.
    fn folder(self) -> PathBuf {
        shell::repository().join(match self {
            Self::Release => "target/package/release",
            Self::Rehearsal => "target/package/rehearsal",
            Self::Quick => "target/package/quick",
        })
    }
}

/// Builds all packages, or those of one kind, and says where they are.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let built = build(&Wanted {
        kinds: match options.kind {
            Some(kind) => vec![kind],
            None => Kind::ALL.to_vec(),
        },
        flavour: if options.quick {
            Flavour::Quick
        } else {
            Flavour::Release
        },
        version: options.version.clone(),
        agent_programs: None,
    })?;
    let mut sizes = Vec::new();
    for file in Kind::ALL.into_iter().flat_map(|kind| built.of_kind(kind)) {
        let length = fs::metadata(file)
            .with_context(|| format!("cannot read {}", file.display()))?
            .len();
        anstream::println!("{}", file.display());
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        sizes.push(format!("{name} {length}"));
    }
    let skipped = check::run(&built)?;
    for sentence in &skipped {
        anstream::println!("{sentence}");
    }
    anstream::println!("package: ok — bytes: {}", sizes.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// Builds what is wanted, into `target/package/`. A second call with another version does not
/// remove the packages of the first.
pub(crate) fn build(wanted: &Wanted) -> Result<Built> {
    let version = match &wanted.version {
        Some(version) => version.clone(),
        None => Version::parse(env!("CARGO_PKG_VERSION"))?,
    };
    let tools: Vec<(Kind, PathBuf)> = wanted
        .kinds
        .iter()
        .map(|kind| Ok((*kind, tools::provide(*kind)?)))
        .collect::<Result<_>>()?;
    let flavour = wanted.flavour.folder();
    fs::create_dir_all(&flavour).with_context(|| format!("cannot make {}", flavour.display()))?;
    let programs = programs::provide(wanted, &flavour.join("bin"))?;
    let mut built = Built::default();
    for package in Package::ALL {
        let folder = flavour.join(package.name());
        let mut files = assets::of(package, &programs, &flavour, &version)?;
        let made = folder.join("made");
        files.extend(extras::make(package, &programs.manuals, &made, &version)?);
        recipe::write(package, wanted.flavour, &version, &files, &folder)?;
        for (kind, tool) in &tools {
            let file = recipe::pack(*kind, tool, &folder, &version, wanted.flavour)?;
            *built.place(package, *kind) = Some(file);
        }
    }
    Ok(built)
}

/// The programs of packages that are published; those of an earlier build if they are not to be built.
pub(crate) fn published(build: bool) -> Result<Programs> {
    programs::published(build)
}

/// The bill of materials of the agent's programs, as the signed package has them too.
pub(crate) fn bill_of_agent(version: &Version) -> Result<String> {
    let linked = dependencies::of(Package::Agent.crates())?;
    let bill = sbom::cyclonedx("vpn-node", &version.to_string(), &linked);
    Ok(bill)
}

impl Built {
    /// Those of one kind that an earlier run left.
    pub(crate) fn before(kind: Kind, flavour: Flavour, version: &str) -> Result<Self> {
        let version = Version::parse(version)?;
        let mut built = Self::default();
        for package in Package::ALL {
            let file = recipe::place(kind, package.name(), &version, flavour);
            anyhow::ensure!(file.exists(), "there is no {}", file.display());
            *built.place(package, kind) = Some(file);
        }
        Ok(built)
    }

    fn place(&mut self, package: Package, kind: Kind) -> &mut Option<PathBuf> {
        match (package, kind) {
            (Package::Agent, Kind::Deb) => &mut self.agent_deb,
            (Package::Agent, Kind::Rpm) => &mut self.agent_rpm,
            (Package::Controller, Kind::Deb) => &mut self.controller_deb,
            (Package::Controller, Kind::Rpm) => &mut self.controller_rpm,
        }
    }

    /// All of this kind that were built.
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &PathBuf> {
        let both = match kind {
            Kind::Deb => [&self.agent_deb, &self.controller_deb],
            Kind::Rpm => [&self.agent_rpm, &self.controller_rpm],
        };
        both.into_iter().flatten()
    }
}

/// What `/opt/vpn-node/system/manifest.json` says: the updater reads there which version the
/// package brought, as in every directory beside it.
fn write_manifest(programs: &Path, version: &Version, file: &Path) -> Result<()> {
    fs::write(file, release::manifest_of(programs, version)?)
        .with_context(|| format!("cannot write {}", file.display()))
}
