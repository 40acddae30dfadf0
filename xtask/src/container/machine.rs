//! A machine without hardware: systemd as process 1 in namespaces of its own, on an overlay of this
//! machine's file system. It boots in seconds, its disk outlives a power cut, and nothing that it
//! does reaches the system around it. It has no network but its own loopback.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shell;

/// A boot takes two seconds, and more on a busy machine.
const BOOTS_WITHIN: Duration = Duration::from_secs(120);
/// One command inside.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Until the kernel has buried the last process.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const SYSTEMD: &str = "/lib/systemd/systemd";

/// See the module. Dropping it ends it and removes its disk.
pub(super) struct Machine {
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
    for program in ["unshare", "nsenter", "ip", "pivot_root", SYSTEMD] {
        if shell::find(program).is_none() && !Path::new(program).exists() {
            return Some(format!("{program} is not installed"));
        }
    }
    cgroup2().err().map(|error| error.to_string())
}

impl Machine {
    /// With an empty /etc/systemd/system, and not booted yet.
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("vpn-node-machine-")
            .tempdir()?;
        let cgroup = cgroup2()?.join(format!("vpn-node-machine-{}", std::process::id()));
        let machine = Self {
            folder,
            cgroup,
            running: None,
        };
        fs::create_dir_all(machine.folder.path().join("work"))?;
        fs::create_dir_all(machine.folder.path().join("root"))?;
        machine.write("etc/fstab", b"", 0o644)?;
        // What runs on the machine around it is not to run in here.
        let units = machine.disk().join("etc/systemd/system");
        fs::create_dir_all(&units)?;
        let mut opaque = Command::new("python3");
        let set = "import os,sys; os.setxattr(sys.argv[1], 'trusted.overlay.opaque', b'y')";
        opaque.args(["-c", set]).arg(&units);
        shell::succeed(opaque, None, ANSWERS_WITHIN)?;
        Ok(machine)
    }

    /// What differs from the machine around it. Only to be written before a boot.
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
        fs::write(&script, init(folder))?;
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
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init()?.to_string(), "-a"]);
        command.args(words);
        shell::output(command, None, ANSWERS_WITHIN)
    }

    /// Runs a command inside that must succeed; its output.
    pub(super) fn must(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        if !output.status.success() {
            bail!("`{}` failed: {}", words.join(" "), output.stderr.trim());
        }
        Ok(output.stdout)
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

/// From namespaces to systemd. `--make-rshared` before systemd starts, or LoadCredential= fails.
fn init(folder: &Path) -> Vec<u8> {
    let mut script = b"set -e\nfolder=".to_vec();
    script.extend(folder.as_os_str().as_bytes());
    script.extend(
        br#"
mount --make-rprivate /
mount -t overlay o -o "lowerdir=/,upperdir=$folder/disk,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mount -t proc p proc
mount -t sysfs -o ro s sys
mount -t tmpfs -o mode=755 d dev
for node in null zero full random urandom tty; do
    touch dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 p dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 r run
mount -t tmpfs t tmp
mount -t cgroup2 c sys/fs/cgroup
ip link set lo up
mkdir -p old
pivot_root . old
exec chroot . /bin/sh -c 'umount -l /old; mount --make-rshared /; exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb /lib/systemd/systemd --system --show-status=false'
"#,
    );
    script
}
