//! The C library that published programs are linked against: that of Debian 11.
//!
//! A program needs at least the glibc whose newest symbol it was linked against, so one that is
//! linked on today's machine does not start on an older host. The compilers stay this machine's;
//! only the headers and libraries are the old ones, in a directory that gcc takes as its root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vpn_node_release::copy;

use crate::apt::{self, need};
use crate::shell;

/// The newest version of glibc that published programs may need: Debian 11 has it, RHEL 9 has 2.34.
pub(crate) const NEWEST_GLIBC: (u32, u32) = (2, 31);

/// Where Debian 11 is, now and after it has moved. Not HTTPS: what comes is compared with the
/// hashes below.
const MIRRORS: [&str; 2] = [
    "http://deb.debian.org/debian",
    "http://archive.debian.org/debian",
];
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(300);
const UNPACK_WITHIN: Duration = Duration::from_secs(60);

/// A package of Debian 11: where it lies in the pool, and its SHA-256 (from the signed Packages).
struct Deb(&'static str, &'static str);

const AMD64: [Deb; 4] = [
    Deb(
        "g/glibc/libc6_2.31-13+deb11u11_amd64.deb",
        "05f7264da867b37f4c5ce49266b558ea1e81e05a9464f623152fca70f3550282",
    ),
    Deb(
        "g/glibc/libc6-dev_2.31-13+deb11u11_amd64.deb",
        "e7f7b45d9c5cfcf37609f0b6efd3c645272c812144703af89dfd32218fcb0fd3",
    ),
    Deb(
        "l/linux/linux-libc-dev_5.10.223-1_amd64.deb",
        "e3be603bd12377bb90fcfb0f2048ca3a81c886e49d6f09945b82159d1c54f7b2",
    ),
    Deb(
        "g/gcc-10/libgcc-s1_10.2.1-6_amd64.deb",
        "e478f2709d8474165bb664de42e16950c391f30eaa55bc9b3573281d83a29daf",
    ),
];

const ARM64: [Deb; 4] = [
    Deb(
        "g/glibc/libc6_2.31-13+deb11u11_arm64.deb",
        "baaa9aa184e2f21738c5819055e6740cc5b22f198e3f416e33f82b40ff6933d8",
    ),
    Deb(
        "g/glibc/libc6-dev_2.31-13+deb11u11_arm64.deb",
        "28d478134722dcd4b0bd2045a199301d18713bf95947b9fce66634e7aeacab2e",
    ),
    Deb(
        "l/linux/linux-libc-dev_5.10.223-1_arm64.deb",
        "8b6374a64412d33eac61d74f77b8f932da4b8a707ea8a614791e2a35b8917618",
    ),
    Deb(
        "g/gcc-10/libgcc-s1_10.2.1-6_arm64.deb",
        "e2fcdb378d3c1ad1bcb64d4fb6b37aab44011152beca12a4944f435a2582df1f",
    ),
];

/// An unpacked one, and the compiler that uses it.
pub(crate) struct Sysroot {
    /// The directory.
    pub(crate) folder: PathBuf,
    /// gcc with that directory as its root: compiles C, and links for rustc. A program and not a
    /// flag, since cargo hashes flags, and this one names a directory.
    pub(crate) compiler: PathBuf,
}

/// Gets it for this machine's architecture: from `target/sysroot/`, else from Debian.
pub(crate) fn provide() -> Result<Sysroot> {
    let top = shell::repository().join("target/sysroot");
    let (name, packages) = match std::env::consts::ARCH {
        "x86_64" => ("debian-11-amd64", &AMD64),
        "aarch64" => ("debian-11-arm64", &ARM64),
        other => bail!("published programs are built on x86_64 and aarch64; this is {other}"),
    };
    let sysroot = Sysroot {
        folder: top.join(name),
        compiler: top.join(format!("{name}-cc")),
    };
    if !sysroot.folder.is_dir() {
        make(&sysroot.folder, packages)?;
    }
    let folder = text(&sysroot.folder)?;
    let libraries = format!("{}-linux-gnu", std::env::consts::ARCH);
    // -B: a native gcc would take crt1.o and libc.so from beside itself, whatever its root is.
    let script = format!(
        "#!/bin/sh\nexec gcc '--sysroot={folder}' '-B{folder}/usr/lib/{libraries}' \
         '-B{folder}/lib/{libraries}' \"$@\"\n"
    );
    // Not written again: build scripts look at the time of their compiler.
    if fs::read_to_string(&sysroot.compiler).ok().as_deref() != Some(&script) {
        fs::write(&sysroot.compiler, script)
            .and_then(|()| fs::set_permissions(&sysroot.compiler, PermissionsExt::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", sysroot.compiler.display()))?;
    }
    Ok(sysroot)
}

fn make(folder: &Path, packages: &[Deb]) -> Result<()> {
    let needs = [
        need("curl", "curl"),
        need("dpkg-deb", "dpkg"),
        need("gcc", "gcc"),
    ];
    if let Some(missing) = apt::provide(&needs, true)? {
        bail!("the C library of published programs: {missing}");
    }
    // In place under its name only when it is whole.
    let top = folder.parent().context("the sysroot lies in a folder")?;
    fs::create_dir_all(top).with_context(|| format!("cannot make {}", top.display()))?;
    let unfinished = tempfile::Builder::new()
        .prefix("unfinished-")
        .tempdir_in(top)
        .with_context(|| format!("cannot make a folder in {}", top.display()))?;
    for package in packages {
        let file = unfinished.path().join("package.deb");
        download(package, &file)?;
        let mut unpack = Command::new("dpkg-deb");
        unpack
            .arg("-x")
            .arg(&file)
            .arg(unfinished.path().join("root"));
        shell::succeed(unpack, None, UNPACK_WITHIN)?;
    }
    let root = unfinished.path().join("root");
    turn_inwards(&root, &root)?;
    fs::rename(&root, folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn download(Deb(path, sha256): &Deb, to: &Path) -> Result<()> {
    let mut errors = String::new();
    for mirror in MIRRORS {
        let address = format!("{mirror}/pool/main/{path}");
        anstream::println!("fetching {address} (once)");
        let mut fetch = Command::new("curl");
        fetch.args([
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--output",
        ]);
        fetch.arg(to).arg(&address);
        match shell::succeed(fetch, None, DOWNLOAD_WITHIN) {
            Ok(_) => {
                let mut file = fs::File::open(to)?;
                let found = copy::hash(&mut file, u64::MAX)?.digest.to_string();
                if found == *sha256 {
                    return Ok(());
                }
                errors.push_str(&format!("\n{address} has SHA-256 {found}, not {sha256}"));
            }
            Err(error) => {
                shell::check_interrupted()?;
                errors.push_str(&format!("\n{error:#}"));
            }
        }
    }
    bail!("a package of Debian 11 cannot be had:{errors}")
}

/// Makes absolute links lead into the directory, not to this machine's libraries.
fn turn_inwards(root: &Path, folder: &Path) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_symlink() {
            let target = fs::read_link(&path)?;
            let Ok(inside) = target.strip_prefix("/") else {
                continue;
            };
            let depth = folder.strip_prefix(root)?.components().count();
            let up: PathBuf = std::iter::repeat_n("..", depth).collect();
            fs::remove_file(&path)?;
            symlink(up.join(inside), &path)
                .with_context(|| format!("cannot link {}", path.display()))?;
        } else if path.is_dir() {
            turn_inwards(root, &path)?;
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .filter(|text| !text.contains('\''))
        .with_context(|| format!("a path that no shell takes: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_links_are_turned_inwards() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("usr/lib/arch");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(root.path().join("lib/arch")).unwrap();
        fs::write(root.path().join("lib/arch/libx.so.1"), "old").unwrap();
        symlink("/lib/arch/libx.so.1", deep.join("libx.so")).unwrap();
        symlink("libx.so", deep.join("liby.so")).unwrap();
        turn_inwards(root.path(), root.path()).unwrap();
        assert_eq!(fs::read_to_string(deep.join("liby.so")).unwrap(), "old");
    }
}
