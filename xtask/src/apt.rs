//! Debian packages that a command needs: looked up, installed when we may, named when we may not.
//! And where this machine's apt gets Debian from, for those who make another Debian.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

/// A download on a slow line, not an endless one.
const INSTALL_WITHIN: Duration = Duration::from_secs(600);
const ASK_WITHIN: Duration = Duration::from_secs(60);
const GUARD: &str = "/usr/sbin/policy-rc.d";

/// A program and the Debian package that has it.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

/// Shorthand for a table of needs.
pub(crate) const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// Installs what is missing if we are root on a Debian, and says so.
/// Returns what is missing after that, as a sentence for the report, or nothing.
pub(crate) fn provide(needs: &[Need], may_install: bool) -> Result<Option<String>> {
    let wanted = missing(needs);
    if wanted.is_empty() {
        return Ok(None);
    }
    if may_install && shell::is_root() && shell::find("apt-get").is_some() {
        anstream::println!(
            "installing Debian packages: apt-get install {}",
            wanted.join(" ")
        );
        if let Err(error) = install(&wanted) {
            shell::check_interrupted()?;
            anstream::eprintln!("{error:#}");
        }
    }
    let wanted = missing(needs);
    Ok((!wanted.is_empty()).then(|| {
        format!(
            "missing Debian packages: {} (as root: apt-get install {})",
            wanted.join(", "),
            wanted.join(" ")
        )
    }))
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = needs
        .iter()
        .filter(|need| shell::find(need.program).is_none())
        .map(|need| need.package)
        .collect();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    let _guard = ServiceGuard::set()?;
    if apt(&["install"], packages).is_err() {
        // A fresh machine has no package lists yet.
        apt(&["update"], &[])?;
        apt(&["install"], packages)?;
    }
    Ok(())
}

fn apt(verb: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-y", "-q", "-o", "DPkg::Lock::Timeout=120"])
        .args(verb);
    if !packages.is_empty() {
        command.arg("--no-install-recommends").args(packages);
    }
    shell::succeed(command, None, INSTALL_WITHIN).map(drop)
}

/// Why no Debian can be made here, as a sentence.
pub(crate) fn obstacle() -> Option<String> {
    let missing = shell::find("apt-get").is_none();
    missing.then(|| "there is no apt-get here, which says where Debian comes from".to_owned())
}

/// A suite of Debian, and where this machine's apt gets it from.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Source {
    pub(crate) mirror: String,
    /// Its codename, with "-updates" and the like.
    pub(crate) suite: String,
}

/// All of them, in the order of apt's lists, so that others use a mirror that this machine knows.
pub(crate) fn sources() -> Result<Vec<Source>> {
    let known = known_sources()?;
    if !known.is_empty() {
        return Ok(known);
    }
    // It tells nothing before it has read the lists; images of containers come without them.
    apt(&["update"], &[])?;
    known_sources()
}

fn known_sources() -> Result<Vec<Source>> {
    let mut ask = Command::new("apt-get");
    let format = "$(REPO_URI) $(RELEASE)";
    ask.args(["indextargets", "--format", format]);
    ask.args(["Created-By: Packages", "Origin: Debian"]);
    Ok(parse(&shell::succeed(ask, None, ASK_WITHIN)?.stdout))
}

fn parse(listed: &str) -> Vec<Source> {
    let pairs = listed.lines().filter_map(|line| line.rsplit_once(' '));
    pairs
        .map(|(mirror, suite)| Source {
            mirror: mirror.to_owned(),
            suite: suite.to_owned(),
        })
        .collect()
}

/// While it lives, a package that is installed may not start its service (Debian policy 9.3.3):
/// our checks want the program, not a daemon that outlives them.
struct ServiceGuard {
    ours: bool,
}

impl ServiceGuard {
    fn set() -> Result<Self> {
        let ours = !Path::new(GUARD).exists();
        if ours {
            fs::write(GUARD, "#!/bin/sh\nexit 101\n")
                .and_then(|()| {
                    fs::set_permissions(GUARD, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                })
                .with_context(|| {
                    format!("cannot write {GUARD}, which keeps services from starting")
                })?;
        }
        Ok(Self { ours })
    }
}

impl Drop for ServiceGuard {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(GUARD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing() {
        assert!(missing(&[need("sh", "dash")]).is_empty());
    }

    #[test]
    fn mirrors_are_read_with_their_suites() {
        let listed = "http://deb.debian.org/debian/ bookworm\n\
                      http://deb.debian.org/debian-security/ bookworm-security\n\
                      nothing\n";
        let source = |mirror: &str, suite: &str| Source {
            mirror: mirror.to_owned(),
            suite: suite.to_owned(),
        };
        let expected = [
            source("http://deb.debian.org/debian/", "bookworm"),
            source(
                "http://deb.debian.org/debian-security/",
                "bookworm-security",
            ),
        ];
        assert_eq!(parse(listed), expected);
    }

    #[test]
    fn two_programs_of_one_package_name_it_once() {
        let needs = [need("no-such-a", "nothing"), need("no-such-b", "nothing")];
        assert_eq!(missing(&needs), ["nothing"]);
        let sentence = provide(&needs, false).unwrap().unwrap();
        assert!(sentence.contains("apt-get install nothing"), "{sentence}");
    }
}
