//! The file system that machines in namespaces start from: a Debian made by mmdebstrap, with the
//! tools of RPM systems beside its own. Made once for each recipe and kept in `target/container`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use vpn_node_release::digest::Digest;

use crate::apt::{self, need};
use crate::package::Flavour;
use crate::shell;

/// The Debian of the machine around ours, whose mirrors have the others too.
const SUITE: &str = "bookworm";
/// What is in it beside the essential packages. systemd is process 1; dbus is what systemctl of
/// other users speaks to; dnf brings Python.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,curl,zstd,\
                        rpm,dnf,createrepo-c,gpg,gpg-agent";
/// Smaller and quicker to make; machines here never lose their disk's cache. Pages of the manual
/// and other documents are left out of it, and kept of what is installed later.
const OPTIONS: [&str; 6] = [
    "--mode=root",
    "--variant=minbase",
    "--aptopt=Acquire::Languages \"none\"",
    "--aptopt=APT::Install-Recommends \"false\"",
    "--dpkgopt=force-unsafe-io",
    "--skip=download/empty,essential/unlink",
];
/// A download on a slow line, and the unpacking on a busy machine.
const MADE_WITHIN: Duration = Duration::from_secs(900);

const NEEDS: [apt::Need; 4] = [
    need("mmdebstrap", "mmdebstrap"),
    need("unshare", "util-linux"),
    need("nsenter", "util-linux"),
    need("ip", "iproute2"),
];

/// Which Debian it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum Suite {
    /// Debian 12, systemd 252
    #[default]
    Bookworm,
    /// Debian 11, systemd 247: the oldest that the packages are for. It is given those that are
    /// published, which takes long to build
    Bullseye,
}

impl Suite {
    /// As mirrors call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => SUITE,
            Self::Bullseye => "bullseye",
        }
    }

    /// Which of our programs run there: those of a debug build need this machine's C library.
    pub(super) const fn flavour(self) -> Flavour {
        match self {
            Self::Bookworm => Flavour::Quick,
            Self::Bullseye => Flavour::Rehearsal,
        }
    }
}

/// Its folder, or a sentence that says why there is none.
pub(super) fn provide(suite: Suite) -> Result<Result<PathBuf, String>> {
    if !shell::is_root() {
        return Ok(Err("only root can make a root file system".into()));
    }
    if let Some(why) = apt::obstacle() {
        return Ok(Err(why));
    }
    if let Some(missing) = apt::provide(&NEEDS, true)? {
        return Ok(Err(missing));
    }
    let cache = shell::repository().join("target/container");
    let name = suite.name();
    let recipe = format!("{name} {PACKAGES} {OPTIONS:?}");
    let key = Digest::of(recipe.as_bytes()).to_string();
    let place = cache.join(&key[..16]);
    if place.exists() {
        return Ok(Ok(place));
    }
    let Some(sources) = sources()? else {
        return Ok(Err(format!(
            "apt of this machine knows no mirror of Debian {SUITE}"
        )));
    };
    // " bookworm", " bookworm-updates", " bookworm-security"
    let sources = sources.replace(&format!(" {SUITE}"), &format!(" {name}"));
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    anstream::println!("making a root file system of Debian {name} in target/container");
    match make(&cache, &place, name, &sources) {
        Ok(()) => Ok(Ok(place)),
        Err(error) => {
            shell::check_interrupted()?;
            Ok(Err(format!(
                "the root file system cannot be made (offline?): {error:#}"
            )))
        }
    }
}

/// Beside its place first, so that a half-made one is never used.
fn make(cache: &Path, place: &Path, suite: &str, sources: &str) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("new-")
        .tempdir_in(cache)
        .context("cannot make a folder")?;
    let list = folder.path().join("sources.list");
    fs::write(&list, sources).context("cannot write a list of sources")?;
    let root = folder.path().join("root");
    let mut command = Command::new("mmdebstrap");
    command.args(OPTIONS).arg(format!("--include={PACKAGES}"));
    command.arg(suite).arg(&root).arg(&list);
    shell::succeed(command, None, MADE_WITHIN)?;
    if fs::rename(&root, place).is_err() && !place.exists() {
        anyhow::bail!("cannot move it to {}", place.display());
    }
    Ok(())
}

/// A sources.list for it, with the mirrors that apt of this machine uses.
fn sources() -> Result<Option<String>> {
    let suites = [
        SUITE.to_owned(),
        format!("{SUITE}-updates"),
        format!("{SUITE}-security"),
    ];
    let mut known = apt::sources()?;
    known.retain(|source| suites.contains(&source.suite));
    known.sort();
    known.dedup();
    let whole = known.iter().any(|source| source.suite == SUITE);
    let lines = known
        .iter()
        .map(|source| format!("deb {} {} main\n", source.mirror, source.suite));
    Ok(whole.then(|| lines.collect()))
}
