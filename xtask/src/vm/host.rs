//! What this machine needs to run virtual ones: qemu, and the tools that make an image of Debian.
//!
//! On a Debian 12 qemu comes from its backports, because their versions of qemu-utils and of the
//! emulator belong together. apt reads them with package lists of its own below `target/vm`, so
//! that this machine's own sources stay as they are.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::apt::{self, need};
use crate::lab::machine;
use crate::shell;

/// A download on a slow line, not an endless one.
const INSTALL_WITHIN: Duration = Duration::from_secs(900);

const QEMU: [apt::Need; 2] = [
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("qemu-img", "qemu-utils"),
];
const TOOLS: [apt::Need; 9] = [
    need("mmdebstrap", "mmdebstrap"),
    need("mke2fs", "e2fsprogs"),
    need("cpio", "cpio"),
    need("tar", "tar"),
    need("xz", "xz-utils"),
    need("zstd", "zstd"),
    need("lz4", "lz4"),
    need("ip", "iproute2"),
    need("nsenter", "util-linux"),
];

/// Installs what is missing if it may. Why no virtual machine can run here, as a sentence; nothing
/// if one can.
pub(super) fn obstacle(target: &Path, may_install: bool) -> Result<Option<String>> {
    if !shell::is_root() {
        return Ok(Some(
            "only root can make an image of Debian and a network of its own".to_owned(),
        ));
    }
    if !cfg!(target_arch = "x86_64") {
        return Ok(Some("the virtual machines are for x86_64".to_owned()));
    }
    if let Some(why) = machine::obstacle()? {
        return Ok(Some(why));
    }
    if let Some(why) = apt::obstacle() {
        return Ok(Some(why));
    }
    if let Some(missing) = apt::provide(&TOOLS, may_install)? {
        return Ok(Some(missing));
    }
    if apt::provide(&QEMU, false)?.is_none() {
        return Ok(None);
    }
    if may_install && release_name().as_deref() == Some("bookworm") {
        anstream::println!("installing Debian packages from bookworm-backports: qemu");
        if let Err(error) = install_from_backports(target) {
            shell::check_interrupted()?;
            anstream::eprintln!("{error:#}");
        }
    }
    apt::provide(&QEMU, may_install)
}

/// Where this machine's apt gets Debian from, so that a mirror that it knows is used for the image.
pub(super) struct Mirrors {
    pub(super) main: String,
    pub(super) security: String,
}

impl Mirrors {
    pub(super) fn of_this_machine() -> Result<Self> {
        let mirrors = apt::sources()?.into_iter().map(|source| source.mirror);
        let (security, main): (Vec<_>, Vec<_>) =
            mirrors.partition(|mirror| mirror.contains("security"));
        let main = main.into_iter().next();
        let main = main.context("apt knows no mirror of Debian")?;
        Ok(Self {
            security: security.into_iter().next().unwrap_or_else(|| main.clone()),
            main,
        })
    }
}

fn install_from_backports(target: &Path) -> Result<()> {
    let folder = target.join("apt");
    for needed in ["lists/partial", "cache/archives/partial"] {
        let path = folder.join(needed);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let mirror = Mirrors::of_this_machine()?.main;
    let sources = folder.join("sources.list");
    let signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let line = format!("deb {signed} {mirror} bookworm-backports main\n");
    fs::write(&sources, line).context("cannot write a list of sources")?;

    let apt_get = |words: &[&str]| -> Result<()> {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-y", "-q", "-o", "DPkg::Lock::Timeout=300", "-o"])
            .arg(format!("Dir::Etc::sourcelist={}", sources.display()))
            .arg("-o")
            .arg(format!(
                "Dir::State::lists={}",
                folder.join("lists").display()
            ))
            .arg("-o")
            .arg(format!("Dir::Cache={}", folder.join("cache").display()))
            .args(words);
        shell::succeed(command, None, INSTALL_WITHIN).map(drop)
    };
    apt_get(&["update"])?;
    apt_get(&[
        "install",
        "--no-install-recommends",
        "--target-release",
        "bookworm-backports",
        "qemu-system-x86",
        "qemu-utils",
    ])
}

/// VERSION_CODENAME (os-release(5)).
fn release_name() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix("VERSION_CODENAME="));
    values
        .next()
        .map(|value| value.trim_matches('"').to_owned())
}

/// At least this many bytes must be free below `folder`, before anything large is written there.
pub(super) fn must_have_room(folder: &Path, bytes: u64) -> Result<()> {
    let about = nix::sys::statvfs::statvfs(folder)
        .with_context(|| format!("cannot ask how much is free below {}", folder.display()))?;
    let free = about.blocks_available() * about.fragment_size();
    ensure!(
        free >= bytes,
        "{} MiB are free below {}, and {} MiB are needed",
        free >> 20,
        folder.display(),
        bytes >> 20
    );
    Ok(())
}
