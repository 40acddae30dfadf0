//! The image of a stock Debian: what a virtual machine's disk begins with, its kernel, and the few
//! kilobytes that mount the one and go on in it. Nothing of ours is in it.
//!
//! An image is made from a recipe and kept in `target/vm` under the hash of that recipe, so a
//! changed recipe makes another image. Machines write to overlays, never to the image itself.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use vpn_node_release::digest::Digest;

use super::host::{self, Mirrors};
use super::start;
use crate::shell;

const SUITE: &str = "bookworm";
/// The disk as the guest sees it; on ours it takes what is in it.
const DISK_BYTES: u64 = 3 << 30;
/// The tree, the disk, and the packages, while an image is made.
const NEEDED_BYTES: u64 = 4 << 30;
/// Downloading and unpacking, on a slow line and a busy machine.
const TREE_WITHIN: Duration = Duration::from_secs(1800);
const STEP_WITHIN: Duration = Duration::from_secs(300);

/// What a Debian server of the smallest useful kind has, and what the suites look at it with.
const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "systemd",
    "systemd-sysv",
    "systemd-timesyncd",
    "systemd-coredump",
    "dbus",
    "udev",
    "kmod",
    "sudo",
    "ca-certificates",
    "curl",
    "gpgv",
    "procps",
    "iproute2",
    "iputils-ping",
    "nftables",
    "wireguard-tools",
    "e2fsprogs",
    "dmsetup",
    "zstd",
    "jq",
    // The command channel, and what mounts the disk at boot.
    "qemu-guest-agent",
    "busybox-static",
];

/// See [`Image::python`].
const PYTHON: &[&str] = &["python3-minimal", "libpython3-stdlib"];

/// Files that a machine without a network, a display and a person needs to boot quickly.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "vpn-host\n"),
    ("etc/hosts", "127.0.0.1 localhost vpn-host\n"),
    (
        "etc/fstab",
        "/dev/root / ext4 defaults,errors=remount-ro 0 1\n",
    ),
    ("etc/machine-id", ""),
    (
        // The addresses that qemu's user network gives out.
        "etc/systemd/network/10-ethernet.network",
        "[Match]\nName=eth0\n[Network]\n\
         Address=10.0.2.15/24\nGateway=10.0.2.2\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n",
    ),
    (
        "etc/systemd/journald.conf.d/persistent.conf",
        "[Journal]\nStorage=persistent\n",
    ),
];

const ENABLED: &[&str] = &["systemd-networkd.service", "qemu-guest-agent.service"];
const DISABLED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-timesyncd.service",
];
const MASKED: &[&str] = &["systemd-networkd-wait-online.service", "getty@tty1.service"];

/// See the module's page.
pub(crate) struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image of the recipe, which is made if it is not there yet. `target` is `target/vm`.
    pub(crate) fn provide(target: &Path) -> Result<Self> {
        let key = Digest::of(recipe().as_bytes()).to_string();
        let folder = target.join(format!("image-{}", &key[..16]));
        fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
        let _lock = lock(target)?;
        if !folder.is_dir() {
            let began = Instant::now();
            anstream::println!("making an image of Debian {SUITE}, which takes a minute or three");
            remove_others(target)?;
            make(target, &folder)?;
            anstream::println!("it took {} s", began.elapsed().as_secs());
        }
        Ok(Self { folder })
    }

    /// An ext4 file system without a partition table. It is never written to.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// The kernel as an ELF file, which qemu starts without a boot loader and unpacking.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// What the kernel runs first.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// A Python for this Debian, which has none, as an archive to be unpacked over `/` by whoever
    /// probes with it. Made at the first call.
    pub(crate) fn python(&self) -> Result<PathBuf> {
        let target = self.folder.parent().context("an image without a folder")?;
        let _lock = lock(target)?;
        let archive = self.folder.join("python.tar.zst");
        if !archive.exists() {
            make_python(target, &archive)?;
        }
        Ok(archive)
    }
}

/// Two commands at a time make one image.
fn lock(target: &Path) -> Result<Flock<File>> {
    let lock = File::create(target.join("lock")).context("cannot make a lock")?;
    Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("cannot lock target/vm")
}

/// Everything that makes one image differ from another, as one text.
fn recipe() -> String {
    format!(
        "{SUITE} {DISK_BYTES} {PACKAGES:?} {FILES:?} {ENABLED:?} {DISABLED:?} {MASKED:?} {}",
        start::INIT
    )
}

/// Images of former recipes, and what a crash left of one.
fn remove_others(target: &Path) -> Result<()> {
    for entry in fs::read_dir(target).context("cannot list target/vm")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("image-") {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn make(target: &Path, folder: &Path) -> Result<()> {
    host::must_have_room(target, NEEDED_BYTES)?;
    let work = folder.with_extension("new");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let tree = work.join("tree");
    unpack(target, &work, "minbase", PACKAGES)?;
    configure(&tree)?;
    let disk = File::create(work.join("disk.img")).context("cannot make the disk")?;
    disk.set_len(DISK_BYTES).context("cannot size the disk")?;
    let mut format = Command::new("mke2fs");
    format
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-m", "0"])
        .args(["-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"])
        .arg(&tree)
        .arg(work.join("disk.img"));
    shell::succeed(format, None, STEP_WITHIN)?;
    start::extract_kernel(&tree, &work.join("vmlinux"))?;
    start::pack_initrd(&tree, &work)?;
    fs::remove_dir_all(&tree).context("cannot remove the tree of the image")?;
    fs::rename(&work, folder).context("cannot name the image")
}

/// The programs and libraries of the packages, with what those need; of that a guest keeps its own.
fn make_python(target: &Path, archive: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(target).context("cannot make a folder in target/vm")?;
    unpack(target, work.path(), "extract", PYTHON)?;
    let packed = work.path().join("packed");
    let mut pack = Command::new("tar");
    pack.args(["--create", "--zstd", "--owner=0", "--group=0"])
        .arg("--exclude=gconv")
        .arg("--directory")
        .arg(work.path().join("tree"))
        .arg("--file")
        .arg(&packed)
        .args(["usr/bin", "usr/lib", "lib"]);
    shell::succeed(pack, None, STEP_WITHIN)?;
    fs::rename(&packed, archive).context("cannot name the archive of Python")
}

/// Debian's packages as `tree` in the folder for work, with packages that were downloaded before.
/// `variant` is mmdebstrap's: a system, or files alone.
fn unpack(target: &Path, work: &Path, variant: &str, packages: &[&str]) -> Result<()> {
    let mirrors = Mirrors::of_this_machine()?;
    let sources = work.join("sources.list");
    let list = format!(
        "deb {0} {SUITE} main\ndeb {0} {SUITE}-updates main\ndeb {1} {SUITE}-security main\n",
        mirrors.main, mirrors.security
    );
    fs::write(&sources, list).context("cannot write a list of sources")?;
    let cache = target.join("debs");
    fs::create_dir_all(&cache).context("cannot make the folder for packages")?;
    let cache = cache.display();
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--mode=root", "--format=directory"])
        .arg(format!("--variant={variant}"))
        .arg(format!("--include={}", packages.join(",")))
        .args([
            "--aptopt=Acquire::Languages \"none\"",
            "--aptopt=APT::Install-Recommends \"false\"",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=force-unsafe-io",
            "--skip=download/empty",
            "--skip=essential/unlink",
        ])
        .arg(format!(
            "--setup-hook=mkdir -p \"$1/var/cache/apt/archives\"; \
             cp -n '{cache}'/*.deb \"$1/var/cache/apt/archives/\" 2>/dev/null || true"
        ))
        // The initramfs that the kernel's package makes is not used: let it be made quickly.
        .arg(
            "--essential-hook=mkdir -p \"$1/etc/initramfs-tools/conf.d\"; \
             printf 'MODULES=list\\n' > \"$1/etc/initramfs-tools/conf.d/small\"",
        )
        .arg(format!(
            "--customize-hook=cp -n \"$1\"/var/cache/apt/archives/*.deb '{cache}/' || true"
        ))
        .arg(SUITE)
        .arg(work.join("tree"))
        .arg(&sources);
    shell::succeed(command, None, TREE_WITHIN).map(drop)
}

fn configure(tree: &Path) -> Result<()> {
    for (path, content) in FILES {
        let path = tree.join(path);
        let folder = path.parent().context("a file without a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, content))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    fs::create_dir_all(tree.join("var/log/journal")).context("cannot make a folder")?;
    let systemctl = |verb: &str, units: &[&str]| -> Result<()> {
        let mut command = Command::new("chroot");
        command
            .arg(tree)
            .args(["systemctl", "--quiet", verb])
            .args(units);
        shell::succeed(command, None, STEP_WITHIN).map(drop)
    };
    systemctl("enable", ENABLED)?;
    systemctl("disable", DISABLED)?;
    for unit in MASKED {
        let link = tree.join("etc/systemd/system").join(unit);
        symlink("/dev/null", &link).with_context(|| format!("cannot mask {unit}"))?;
    }
    // With mmdebstrap's settings dpkg would not fsync, unlike on a real host; and what it excluded
    // would be missing from our packages, too.
    for file in [
        "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
        "etc/apt/apt.conf.d/99mmdebstrap",
    ] {
        let _ = fs::remove_file(tree.join(file));
    }
    for file in fs::read_dir(tree.join("var/cache/apt/archives")).context("cannot list a folder")? {
        let path = file?.path();
        if path.extension().is_some_and(|kind| kind == "deb") {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    // Else the first boot would rebuild what is as new as /usr (systemd-update-done.service(8)).
    let mut touch = Command::new("touch");
    touch.arg("-r").arg(tree.join("usr"));
    touch.args([tree.join("etc/.updated"), tree.join("var/.updated")]);
    shell::succeed(touch, None, STEP_WITHIN).map(drop)
}

/// `files` as a read-only disk, which a guest reads with `tar` (ustar, whole sectors).
pub(crate) fn tar(files: &[(&str, &Path)], to: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(to.parent().context("a disk without a folder")?)
        .context("cannot make a folder for files")?;
    let mut names = Vec::new();
    for (name, path) in files {
        symlink(path, folder.path().join(name)).with_context(|| format!("cannot link {name}"))?;
        names.push(*name);
    }
    let mut command = Command::new("tar");
    command
        .args([
            "--create",
            "--dereference",
            "--format=ustar",
            "--owner=0",
            "--group=0",
        ])
        .arg("--directory")
        .arg(folder.path())
        .arg("--file")
        .arg(to)
        .args(&names);
    shell::succeed(command, None, STEP_WITHIN)?;
    let mut disk = File::options()
        .append(true)
        .open(to)
        .context("cannot open the disk")?;
    let length = disk.metadata().context("cannot size the disk")?.len();
    let missing = length.next_multiple_of(1 << 20) - length;
    let missing = usize::try_from(missing).context("a disk too large")?;
    disk.write_all(&vec![0; missing])
        .context("cannot fill the last sector")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_files_is_read_by_tar() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file");
        fs::write(&file, "content").unwrap();
        let disk = folder.path().join("files.tar");
        tar(&[("name", &file)], &disk).unwrap();
        assert_eq!(fs::metadata(&disk).unwrap().len() % (1 << 20), 0);
        let mut read = Command::new("tar");
        read.args(["-xOf"]).arg(&disk).arg("name");
        assert_eq!(
            shell::succeed(read, None, STEP_WITHIN).unwrap().stdout,
            "content"
        );
    }
}
