//! A machine without hardware: systemd as process 1 in namespaces of its own, on an overlay of a
//! root file system ([`super::rootfs`]). It boots in seconds, its disk outlives a power cut, and
//! nothing that it does reaches the system around it. It has no network but its own loopback.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shell;

/// A boot takes two seconds, and more on a busy machine.
const BOOTS_WITHIN: Duration = Duration::from_secs(120);
/// One command inside: the slowest is an installation by a package manager.
const ANSWERS_WITHIN: Duration = Duration::from_secs(180);
/// Until the kernel has buried the last process.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// See the module. Dropping it ends it and removes its disk.
pub(super) struct Machine {
    /// The file system that its disk begins with.
    lower: PathBuf,
    folder: tempfile::TempDir,
    cgroup: PathBuf,
    running: Option<Running>,
}

struct Running {
    outer: Child,
    init: u32,
}

/// Why no such machine can run here.
pub(super) fn obstacle() -> Option<String> {
    if !shell::is_root() {
        return Some("only root can make namespaces with a systemd in them".into());
    }
    for program in ["unshare", "nsenter", "ip", "pivot_root"] {
        if shell::find(program).is_none() {
            return Some(format!("{program} is not installed"));
        }
    }
    cgroup2().err().map(|error| error.to_string())
}

impl Machine {
    /// On a disk that begins with `lower`, and not booted yet.
    pub(super) fn new(lower: &Path) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new()
            .prefix("vpn-node-machine-")
            .tempdir()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vpn-node-machine-{}-{count}", std::process::id());
        let machine = Self {
            lower: lower.to_owned(),
            folder,
            cgroup: cgroup2()?.join(name),
            running: None,
        };
        fs::create_dir_all(machine.folder.path().join("work"))?;
        fs::create_dir_all(machine.folder.path().join("root"))?;
        machine.write("etc/fstab", b"", 0o644)?;
        // Every machine has its own: hosts are told apart by it.
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let id = uuid.replace('-', "");
        machine.write("etc/machine-id", id.as_bytes(), 0o444)?;
        Ok(machine)
    }

    /// What differs from the file system that it began with. Only to be written before a boot.
    pub(super) fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Writes a file on the disk of a machine that is off.
    pub(super) fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        put(&self.disk().join(path), bytes, mode)
    }

    /// The file system of the running machine, as it sees it.
    pub(super) fn root(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root", self.init()?)))
    }

    /// Boots it; how long until nothing is left to be started.
    pub(super) fn boot(&mut self) -> Result<Duration> {
        let began = Instant::now();
        fs::create_dir_all(&self.cgroup).context("cannot make a control group")?;
        let folder = self.folder.path();
        let script = folder.join("init.sh");
        fs::write(&script, init(folder, &self.lower))?;
        let log = File::create(folder.join("log"))?;
        // Into the control group first: what a process is in is the root of its new namespace.
        let enter = "echo $$ > \"$1/cgroup.procs\"; exec unshare --mount --pid --net --uts --ipc \
                     --cgroup --fork --kill-child sh \"$2\"";
        let outer = Command::new("sh")
            .args(["-c", enter, "sh"])
            .args([&self.cgroup, &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start a shell")?;
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        self.running = Some(Running { outer, init: 0 });
        let end = began + BOOTS_WITHIN;
        loop {
            shell::pause(Duration::from_millis(100))?;
            let text = fs::read_to_string(&children).unwrap_or_default();
            let init = text.trim().parse().unwrap_or(0);
            if let Some(running) = &mut self.running {
                running.init = init;
            }
            if init != 0 && self.is_up() {
                return Ok(began.elapsed());
            }
            if Instant::now() >= end {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                bail!("the machine did not boot:\n{}", shell::last_lines(&log, 15));
            }
        }
    }

    fn is_up(&self) -> bool {
        let state = self.run(&["systemctl", "is-active", "multi-user.target"]);
        state.is_ok_and(|output| output.stdout.trim() == "active")
    }

    /// Runs a command inside.
    pub(super) fn run(&self, words: &[&str]) -> Result<shell::Output> {
        self.run_with(words, None)
    }

    /// The same, with this on its standard input.
    pub(super) fn run_with(&self, words: &[&str], input: Option<&str>) -> Result<shell::Output> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init()?.to_string(), "-a", "env", "-i"]);
        command.args(ENVIRONMENT).args(words);
        shell::output(command, input.map(str::as_bytes), ANSWERS_WITHIN)
    }

    /// Runs a command on the disk of a machine that is off, as those do who build images: no
    /// systemd runs, only /proc and some devices are there.
    pub(super) fn run_off(&self, words: &[&str]) -> Result<shell::Output> {
        anyhow::ensure!(self.running.is_none(), "the machine is on");
        let script = self.folder.path().join("image.sh");
        fs::write(&script, image(self.folder.path(), &self.lower))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh"]);
        command.arg(&script).args(["env", "-i"]);
        command.args(ENVIRONMENT).args(words);
        shell::output(command, None, ANSWERS_WITHIN)
    }

    /// Runs a command inside that must succeed; its output.
    pub(super) fn must(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        if !output.status.success() {
            bail!(
                "`{}` failed ({}): {}",
                words.join(" "),
                output.status,
                shell::last_lines(&format!("{}{}", output.stdout, output.stderr), 20)
            );
        }
        Ok(output.stdout)
    }

    /// One property of a unit.
    pub(super) fn property(&self, unit: &str, name: &str) -> Result<String> {
        let property = format!("--property={name}");
        let shown = self.must(&["systemctl", "show", &property, "--value", unit])?;
        Ok(shown.trim().to_owned())
    }

    /// All its processes are gone from one instant to the next.
    pub(super) fn cut_power(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        if running.init != 0 {
            // The end of process 1 is the end of its namespace (pid_namespaces(7)).
            let _ = kill(Pid::from_raw(running.init.try_into()?), Signal::SIGKILL);
        }
        let _ = running.outer.kill();
        running.outer.wait()?;
        Ok(())
    }

    fn init(&self) -> Result<u32> {
        let init = self.running.as_ref().map(|running| running.init);
        init.filter(|init| *init != 0).context("the machine is off")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Best effort: there is nobody to tell.
        let _ = self.cut_power();
        let end = Instant::now() + GONE_WITHIN;
        while self.cgroup.exists() && Instant::now() < end {
            remove_groups(&self.cgroup);
            std::thread::sleep(shell::LOOK_AGAIN);
        }
    }
}

/// Control groups have files that cannot be removed: folder by folder, the deepest first.
fn remove_groups(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Where this machine has the second version of control groups.
fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let mut found = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let place = words.nth(1)?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    found.next().context("no cgroup2 is mounted")
}

/// Writes a file with the folders above it.
pub(super) fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(failed)?;
    let beside = path.with_extension("part");
    fs::write(&beside, bytes).with_context(failed)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).with_context(failed)?;
    fs::rename(&beside, path).with_context(failed)
}

/// What a command inside finds in its environment, and nothing of the machine around it.
const ENVIRONMENT: [&str; 4] = [
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND=noninteractive",
    "LC_ALL=C.UTF-8",
    "HOME=/root",
];

/// From namespaces to systemd. `--make-rshared` before systemd starts, or LoadCredential= fails.
fn init(folder: &Path, lower: &Path) -> Vec<u8> {
    let mut script = mounts(folder, lower);
    script.extend(
        br#"
mount -t sysfs -o ro s sys
mount -t tmpfs -o mode=755 r run
mount -t cgroup2 c sys/fs/cgroup
ip link set lo up
mkdir -p old
pivot_root . old
exec chroot . /bin/sh -c 'umount -l /old; rmdir /old; mount --make-rshared /; exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb /lib/systemd/systemd --system --show-status=false'
"#,
    );
    script
}

/// From namespaces to a command on a disk whose machine is off.
fn image(folder: &Path, lower: &Path) -> Vec<u8> {
    let mut script = mounts(folder, lower);
    script.extend(b"\nexec chroot . \"$@\"\n");
    script
}

/// The disk with /proc, /dev and /tmp, as the directory where the script goes on.
fn mounts(folder: &Path, lower: &Path) -> Vec<u8> {
    let mut script = b"set -e\nfolder=".to_vec();
    script.extend(folder.as_os_str().as_bytes());
    script.extend(b"\nlower=");
    script.extend(lower.as_os_str().as_bytes());
    script.extend(
        br#"
mount --make-rprivate /
mount -t overlay o -o "lowerdir=$lower,upperdir=$folder/disk,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mount -t proc p proc
mount -t tmpfs -o mode=755 d dev
for node in null zero full random urandom tty; do
    touch dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 p dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 t tmp
"#,
    );
    script
}
