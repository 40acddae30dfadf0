//! Package managers in a machine: the low one that is given files (dpkg, rpm), and the high one that
//! takes versions from a repository (apt, dnf).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::machine::Machine;
use crate::build::{self, Programs};
use crate::package::{self, Built, Flavour, Kind, Wanted};
use crate::shell;
use vpn_node_release::version::Version;

/// Our two packages.
pub(super) const AGENT: &str = "vpn-node-agent";
pub(super) const CONTROLLER: &str = "vpn-node-controller";
/// Where the machine has the packages.
pub(super) const REPOSITORY: &str = "/srv/repository";

/// Who does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// dpkg or rpm, from a file.
    File,
    /// apt or dnf, from a repository.
    Repository,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Install,
    Upgrade,
    Downgrade,
    Reinstall,
    Remove,
    /// Debian's alone.
    Purge,
}

/// Where packages come from.
#[derive(Default, clap::Args)]
pub(crate) struct Stock {
    /// Take the packages that an earlier run built, whatever was changed since
    #[arg(long)]
    built_before: bool,
}

impl Stock {
    /// The programs that the packages are made of.
    pub(super) fn programs(&self, flavour: Flavour) -> Result<Programs> {
        if flavour == Flavour::Rehearsal {
            return package::published(!self.built_before);
        }
        let before = shell::repository().join("target/debug");
        build::programs(self.built_before.then_some(before.as_path()), false)
    }
}

/// Packages of several versions.
pub(super) struct Shelf {
    pub(super) kind: Kind,
    versions: Vec<(&'static str, Built)>,
}

impl Shelf {
    /// Builds them; or takes those that were built before and say nothing of newer sources.
    pub(super) fn fill(
        kind: Kind,
        versions: &[&'static str],
        flavour: Flavour,
        stock: &Stock,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for version in versions {
            if stock.built_before {
                all.push((*version, Built::before(kind, flavour, version)?));
                continue;
            }
            let built = package::build(&Wanted {
                kinds: vec![kind],
                flavour,
                version: Some(Version::parse(version)?),
                agent_programs: None,
            })?;
            all.push((*version, built));
        }
        Ok(Self {
            kind,
            versions: all,
        })
    }

    /// Copies all of them onto the disk of a machine that is off.
    pub(super) fn deliver(&self, machine: &Machine) -> Result<()> {
        let folder = machine.disk().join(&REPOSITORY[1..]);
        std::fs::create_dir_all(&folder).context("cannot make the repository")?;
        for (version, _) in &self.versions {
            for package in [AGENT, CONTROLLER] {
                let from = self.file(package, version)?;
                let name = from.file_name().context("a package has a name")?;
                std::fs::copy(&from, folder.join(name))
                    .with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        Ok(())
    }

    fn file(&self, package: &str, version: &str) -> Result<PathBuf> {
        let found = self.versions.iter().find(|(known, _)| *known == version);
        let (_, built) = found.with_context(|| format!("no package {version} was built"))?;
        let file = match (self.kind, package == AGENT) {
            (Kind::Deb, true) => &built.agent_deb,
            (Kind::Deb, false) => &built.controller_deb,
            (Kind::Rpm, true) => &built.agent_rpm,
            (Kind::Rpm, false) => &built.controller_rpm,
        };
        file.clone()
            .with_context(|| format!("no {package} {version} was built"))
    }

    /// The path of a package inside of the machine.
    pub(super) fn inside(&self, package: &str, version: &str) -> Result<String> {
        let file = self.file(package, version)?;
        let name = file.file_name().context("a package has a name")?;
        Ok(format!("{REPOSITORY}/{}", name.to_string_lossy()))
    }

    /// The words of a command. `version` is of no use to a removal.
    pub(super) fn words(
        &self,
        by: By,
        step: Step,
        package: &str,
        version: &str,
    ) -> Result<Vec<String>> {
        let file = match step {
            Step::Remove | Step::Purge => package.to_owned(),
            _ => self.inside(package, version)?,
        };
        let numbered = |between: &str| match step {
            Step::Remove | Step::Purge => package.to_owned(),
            _ => format!("{package}{between}{version}-1"),
        };
        let (command, what) = match (self.kind, by) {
            (Kind::Deb, By::File) => (
                match step {
                    Step::Remove => "dpkg --remove",
                    Step::Purge => "dpkg --purge",
                    _ => "dpkg --install",
                },
                file,
            ),
            (Kind::Deb, By::Repository) => (
                match step {
                    Step::Remove => "apt-get -q -y remove",
                    Step::Purge => "apt-get -q -y purge",
                    Step::Reinstall => "apt-get -q -y install --reinstall",
                    Step::Downgrade => "apt-get -q -y install --allow-downgrades",
                    Step::Install | Step::Upgrade => "apt-get -q -y install",
                },
                numbered("="),
            ),
            (Kind::Rpm, By::File) => (
                match step {
                    Step::Install => "rpm --force-debian --install",
                    Step::Upgrade => "rpm --force-debian --upgrade",
                    Step::Downgrade => "rpm --force-debian --upgrade --oldpackage",
                    Step::Reinstall => "rpm --force-debian --upgrade --replacepkgs",
                    Step::Remove | Step::Purge => "rpm --force-debian --erase",
                },
                file,
            ),
            (Kind::Rpm, By::Repository) => (
                match step {
                    Step::Install => "dnf -q -y --releasever=9 install",
                    Step::Upgrade => "dnf -q -y --releasever=9 upgrade",
                    Step::Downgrade => "dnf -q -y --releasever=9 downgrade",
                    Step::Reinstall => "dnf -q -y --releasever=9 reinstall",
                    Step::Remove | Step::Purge => "dnf -q -y --releasever=9 remove",
                },
                numbered("-"),
            ),
        };
        let mut words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        words.push(what);
        Ok(words)
    }

    /// Does it; what the package manager said.
    pub(super) fn run(
        &self,
        machine: &Machine,
        by: By,
        step: Step,
        package: &str,
        version: &str,
    ) -> Result<String> {
        let words = self.words(by, step, package, version)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = machine.run(&words)?;
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            output.status.success(),
            "`{}` failed ({}):\n{}",
            words.join(" "),
            output.status,
            shell::indent(&shell::last_lines(&said, 25))
        );
        Ok(said)
    }
}

/// Lets apt find the packages: it reads what dpkg-deb says of each.
pub(super) const APT_REPOSITORY: &str = "
cd /srv/repository
for file in *.deb; do
    dpkg-deb --field $file | sed '/^$/d'
    echo Filename: ./$file
    echo Size: $(stat -c %s $file)
    echo SHA256: $(sha256sum < $file | cut -d' ' -f1)
    echo
done > Packages
echo 'deb [trusted=yes] file:/srv/repository ./' > /etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
apt-get -q update
";
