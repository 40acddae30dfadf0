//! A virtual machine: qemu with a Debian that boots for real, whose power can be cut.
//!
//! Everything is emulated (TCG): KVM does not work on the machines that these checks run on, so
//! none of them may depend on it. A boot takes 15 seconds, and longer on a busy machine. The guest
//! reaches what listens on 127.0.0.1 of its [`Machine`] as 10.0.2.2, and nothing else, because
//! that machine has no other network. Commands go through the [`guest`](super::guest) agent.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::guest::{Channel, Output};
use super::image::Image;
use crate::lab::Lab;
use crate::lab::machine::Machine;
use crate::shell;

/// What the guest calls the loopback of its [`Machine`].
pub(crate) const HOST: &str = "10.0.2.2";
/// Ten to fifteen seconds on an idle machine, and minutes on one with ten times as much to do.
const BOOTS_WITHIN: Duration = Duration::from_secs(480);
const SETTLES_WITHIN: Duration = Duration::from_secs(240);
const ENDS_WITHIN: Duration = Duration::from_secs(120);
const COMMAND_WITHIN: Duration = Duration::from_secs(300);
/// Writing the guest's memory to a disk that others use, too.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(120);
/// How much of the serial console an error quotes.
const QUOTED_LINES: usize = 25;

/// What a machine is made of, besides the image's kernel.
pub(crate) struct Options {
    /// Its name in messages, and that of its process in the lab.
    pub(crate) name: String,
    /// Whose loopback it reaches as [`HOST`].
    pub(crate) network: Machine,
    pub(crate) root: Root,
    /// A disk of files that the guest reads with `tar xf /dev/disk/by-id/virtio-files`: see
    /// [`tar`](super::image::tar).
    pub(crate) files: Option<PathBuf>,
    /// What its battery-backed clock says at the start, as `2035-06-01T00:00:00` in UTC; nothing
    /// is the right time.
    pub(crate) clock: Option<String>,
    /// The name of a state that [`Vm::save`] put into the overlay; nothing is a cold boot.
    pub(crate) saved: Option<String>,
    /// Further words for qemu: more disks, say.
    pub(crate) more: Vec<String>,
}

/// What the guest's first disk is.
pub(crate) enum Root {
    /// A qcow2 file over the image, which is made if it is not there. Whoever boots it again goes
    /// on with the same disk.
    Overlay(PathBuf),
    /// The words of a `-blockdev` with the node name `root`: a write log between guest and file,
    /// say.
    Blockdev(String),
}

impl Options {
    /// A machine called `name` on a fresh disk in the lab, with the right time.
    pub(crate) fn new(lab: &Lab, name: &str, network: Machine) -> Self {
        Self {
            name: name.to_owned(),
            network,
            root: Root::Overlay(lab.path(&format!("{name}.qcow2"))),
            files: None,
            clock: None,
            saved: None,
            more: Vec::new(),
        }
    }
}

/// See the module's page. Its process belongs to the lab, which ends it.
pub(crate) struct Vm {
    name: String,
    serial: PathBuf,
    monitor: PathBuf,
    channel: Channel,
    /// From qemu's start to the first answer of the guest.
    pub(crate) booted_in: Duration,
}

impl Vm {
    /// Starts it and waits until it takes commands; its services may still be starting.
    pub(crate) fn boot(lab: &mut Lab, image: &Image, options: &Options) -> Result<Self> {
        let began = Instant::now();
        let name = &options.name;
        if let Root::Overlay(overlay) = &options.root {
            make_overlay(image, overlay)?;
        }
        let (socket, serial, monitor) = (
            lab.path(&format!("{name}.agent")),
            lab.log(&format!("{name}.serial")),
            lab.path(&format!("{name}.monitor")),
        );
        for stale in [&socket, &monitor] {
            let _ = fs::remove_file(stale);
        }
        let mut command = options.network.command("qemu-system-x86_64");
        command.args(machine_words(image, options));
        command.args(channel_words(&socket, &serial, &monitor));
        lab.start(name, command)?;
        let channel = lab.wait_for(
            &format!("the guest agent of {name} to answer"),
            BOOTS_WITHIN,
            || Channel::open(&socket).map(Some),
        );
        let vm = Self {
            name: name.clone(),
            channel: channel.with_context(|| end_of(&serial))?,
            serial,
            monitor,
            booted_in: began.elapsed(),
        };
        Ok(vm)
    }

    /// Waits until systemd has started everything. Returns its word for the result: `running`, or
    /// `degraded` when a unit has failed.
    pub(crate) fn settle(&mut self) -> Result<String> {
        let output = self.run("systemctl is-system-running --wait", SETTLES_WITHIN)?;
        Ok(output.stdout.trim().to_owned())
    }

    /// Runs a script as root, with bash. Its failure is an error; what it printed comes back.
    pub(crate) fn sh(&mut self, script: &str) -> Result<String> {
        self.sh_within(script, COMMAND_WITHIN)
    }

    /// The same for what takes long.
    pub(crate) fn sh_within(&mut self, script: &str, within: Duration) -> Result<String> {
        let output = self.run(script, within)?;
        ensure!(
            output.status == 0,
            "in {}, `{script}` failed (exit status {}):\n{}",
            self.name,
            output.status,
            shell::indent(&shell::last_lines(
                &format!("{}{}", output.stdout, output.stderr),
                QUOTED_LINES
            ))
        );
        Ok(output.stdout)
    }

    /// Runs a script as root and keeps what it left behind. Fails when the machine does not answer
    /// or the time is over.
    pub(crate) fn run(&mut self, script: &str, within: Duration) -> Result<Output> {
        self.run_with(script, None, within)
    }

    /// The same with standard input, for secrets.
    pub(crate) fn run_with(
        &mut self,
        script: &str,
        input: Option<&[u8]>,
        within: Duration,
    ) -> Result<Output> {
        let outcome = self.channel.run(script, input, within);
        outcome.with_context(|| format!("in {}, `{script}`{}", self.name, end_of(&self.serial)))
    }

    /// Starts a script and does not wait for it.
    pub(crate) fn start(&mut self, script: &str) -> Result<()> {
        let outcome = self.channel.start(script, None).map(drop);
        outcome.with_context(|| format!("in {}, `{script}`{}", self.name, end_of(&self.serial)))
    }

    /// Writes a file of the guest, as root with mode 0600; not for more than a few megabytes.
    pub(crate) fn put(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let outcome = self.channel.put(path, bytes);
        outcome.with_context(|| format!("in {}, writing {path}{}", self.name, end_of(&self.serial)))
    }

    /// Looks at `attempt` until it gives a value. `what` completes the sentence "waited for …".
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        loop {
            shell::check_interrupted()?;
            let tried = attempt(self);
            if let Ok(Some(value)) = tried {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                let last = tried
                    .err()
                    .map(|error| format!("; the last try said: {error:#}"));
                bail!(
                    "waited {} s in vain for this: {what}{}",
                    within.as_secs(),
                    last.unwrap_or_default()
                );
            }
            shell::pause(Duration::from_millis(300))?;
        }
    }

    /// Ends it at this very moment, as a power cut would: what the guest has not flushed is lost
    /// with its memory. A cold boot of the same overlay comes after it.
    pub(crate) fn cut_power(self, lab: &mut Lab) -> Result<()> {
        lab.crash(&self.name)
    }

    /// Shuts it down in order.
    pub(crate) fn power_off(mut self, lab: &mut Lab) -> Result<()> {
        lab.may_end(&self.name);
        self.start("systemctl poweroff")?;
        let deadline = Instant::now() + ENDS_WITHIN;
        while lab.runs(&self.name)? {
            ensure!(
                Instant::now() < deadline,
                "{} did not shut down within {} s{}",
                self.name,
                ENDS_WITHIN.as_secs(),
                end_of(&self.serial)
            );
            shell::pause(shell::LOOK_AGAIN)?;
        }
        Ok(())
    }

    /// Keeps the whole state, memory included, under `state` in its overlay, for
    /// [`Options::saved`]. Every disk that the guest writes to must be qcow2.
    pub(crate) fn save(&mut self, state: &str) -> Result<()> {
        let words = json!({"command-line": format!("savevm {state}")});
        let said = ask_monitor(&self.monitor, "human-monitor-command", &words)?;
        let said = said.as_str().unwrap_or_default().trim().to_owned();
        ensure!(said.is_empty(), "qemu did not save {}: {said}", self.name);
        Ok(())
    }

    /// Sets the guest's clock to this machine's, after a [`save`](Self::save)d state was loaded.
    pub(crate) fn set_clock(&mut self) -> Result<()> {
        let now = jiff::Timestamp::now().as_second();
        self.sh(&format!("date --set=@{now}")).map(drop)
    }
}

fn make_overlay(image: &Image, overlay: &Path) -> Result<()> {
    if overlay.exists() {
        return Ok(());
    }
    let mut command = Command::new("qemu-img");
    command
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&image.disk(), overlay]);
    shell::succeed(command, None, COMMAND_WITHIN).map(drop)
}

fn machine_words(image: &Image, options: &Options) -> Vec<String> {
    let mut words: Vec<String> = [
        "-nodefaults",
        "-no-reboot",
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi,tb-size=512",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "1024",
        "-display",
        "none",
        "-append",
        "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off audit=0 \
         random.trust_cpu=on 8250.nr_uarts=1",
        "-netdev",
        "user,id=net",
        "-device",
        "virtio-net-pci,netdev=net,romfile=",
        "-device",
        "virtio-rng-pci",
    ]
    .map(str::to_owned)
    .to_vec();
    let clock = options.clock.as_deref().unwrap_or("utc");
    words.extend(["-rtc".to_owned(), format!("base={clock}")]);
    words.extend(["-kernel".to_owned(), image.kernel().display().to_string()]);
    words.extend(["-initrd".to_owned(), image.initrd().display().to_string()]);

    let root = match &options.root {
        // Writeback: a flush of the guest reaches the file, and what it did not flush may not.
        Root::Overlay(file) => format!(
            "driver=qcow2,node-name=root,discard=unmap,file.driver=file,file.filename={}",
            file.display()
        ),
        Root::Blockdev(words) => words.clone(),
    };
    words.extend(disk(&root, "root"));
    if let Some(files) = &options.files {
        let files = files.display();
        let read_only = format!(
            "driver=raw,node-name=files,read-only=on,file.driver=file,file.filename={files}"
        );
        words.extend(disk(&read_only, "files"));
    }
    if let Some(state) = &options.saved {
        words.extend(["-loadvm".to_owned(), state.clone()]);
    }
    words.extend(options.more.iter().cloned());
    words
}

/// A disk of the node `name`, which the guest finds under this name, too: the words for
/// [`Options::more`].
pub(crate) fn disk(blockdev: &str, name: &str) -> [String; 4] {
    [
        "-blockdev".to_owned(),
        blockdev.to_owned(),
        "-device".to_owned(),
        format!("virtio-blk-pci,drive={name},serial={name}"),
    ]
}

fn channel_words(socket: &Path, serial: &Path, monitor: &Path) -> [String; 10] {
    let (socket, serial, monitor) = (socket.display(), serial.display(), monitor.display());
    [
        "-device".to_owned(),
        "virtio-serial-pci".to_owned(),
        "-chardev".to_owned(),
        format!("socket,id=agent,path={socket},server=on,wait=off"),
        "-device".to_owned(),
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0".to_owned(),
        "-serial".to_owned(),
        format!("file:{serial}"),
        "-qmp".to_owned(),
        format!("unix:{monitor},server=on,wait=off"),
    ]
}

/// One command of qemu's own protocol (QMP), and its result.
fn ask_monitor(socket: &Path, command: &str, arguments: &Value) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).context("qemu's monitor does not answer")?;
    stream
        .set_read_timeout(Some(SNAPSHOT_WITHIN))
        .context("cannot set a deadline")?;
    let mut lines = BufReader::new(stream.try_clone().context("cannot read from the monitor")?);
    for request in [
        json!({"execute": "qmp_capabilities"}),
        json!({"execute": command, "arguments": arguments}),
    ] {
        writeln!(stream, "{request}").context("cannot write to the monitor")?;
    }
    // A greeting, an empty result for the capabilities, events at any time, then the result.
    let mut results = 0;
    loop {
        let mut line = String::new();
        ensure!(
            lines
                .read_line(&mut line)
                .context("qemu's monitor is silent")?
                > 0,
            "qemu's monitor hung up"
        );
        let mut answer: Value = serde_json::from_str(&line).context("qemu's monitor: no JSON")?;
        if let Some(error) = answer.get("error") {
            bail!("qemu refused {command}: {error}");
        }
        if let Some(result) = answer.get_mut("return") {
            results += 1;
            if results == 2 {
                return Ok(result.take());
            }
        }
    }
}

fn end_of(serial: &Path) -> String {
    let text = fs::read(serial).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if text.trim().is_empty() {
        return "\nthe serial console is empty".to_owned();
    }
    let lines = shell::indent(&shell::last_lines(&text, QUOTED_LINES));
    format!("\nthe end of the serial console:\n{}", lines.trim_end())
}
