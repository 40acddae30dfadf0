//! Recording a host's disk while it enrols, records connections, updates itself and is upgraded; and
//! what had been promised after which write.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::judge::{CAREFUL, CARELESS, CONTROL_LINE, CONTROL_LINES, Promised};
use crate::shell;
use crate::vm::Stage;
use crate::vm::qemu::{Root, Vm};
use crate::vm::survivor::{DPKG_WITHIN, RELEASE, SECOND, Scene, report, verified};
use crate::vm::{replay, wireguard, writelog};

/// Turning the disk into one without a format.
const CONVERT_WITHIN: Duration = Duration::from_secs(300);
/// A trial of ten seconds, and the rest of an update on an emulated processor.
const UPDATE_WITHIN: Duration = Duration::from_secs(400);
const SOON: Duration = Duration::from_secs(120);
/// Connections that come and go while the controller is away.
const SESSIONS: u32 = 6;

/// Files that are renamed into their place without and with an fsync; then something else is synced,
/// which takes the names to the disk. (A rename over a file that exists would not do: ext4 writes
/// that one's content first, as ext4(5) says of `auto_da_alloc`.)
const CONTROL: &str = r#"set -e
mkdir -p "/$CARELESS" "/$CAREFUL"; sync
for n in 1 2 3 4 5 6; do
    yes "$LINE" | head -n "$LINES" >"/$CARELESS/$n.part"
    mv "/$CARELESS/$n.part" "/$CARELESS/$n.done"
    yes "$LINE" | head -n "$LINES" >"/$CAREFUL/$n.part"
    sync "/$CAREFUL/$n.part"
    mv "/$CAREFUL/$n.part" "/$CAREFUL/$n.done"
    sync "/$CAREFUL"
done
"#;

/// A stretch of the log, and what was promised when.
pub(super) struct Recording {
    /// The disk from before the log.
    pub(super) start: PathBuf,
    pub(super) log: PathBuf,
    pub(super) chapters: Vec<Chapter>,
    /// Promises, each with the number of writes after which it holds; the last ones are what counts.
    claims: Vec<(usize, Promised)>,
}

/// Something that the host did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chapter {
    pub(super) name: &'static str,
    /// Entries of the log from its beginning to its end.
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Recording {
    /// What had been promised when `at` entries were written. While something changes, neither the
    /// old nor the new is.
    pub(super) fn promised(&self, at: usize) -> Promised {
        let holding = self.claims.iter().rfind(|(from, _)| *from <= at);
        holding.map_or_else(Promised::default, |(_, promised)| promised.clone())
    }

    /// Boots the host with a log between it and its disk, and lets it do everything.
    pub(super) fn make(scene: &mut Scene, stage: &Stage) -> Result<Self> {
        let path = |name: &str| scene.lab.path(name);
        let (start, disk, log) = (path("start.img"), path("disk.img"), path("writes.log"));
        let Root::Overlay(overlay) = &scene.host.root else {
            unreachable!("a scene begins with an overlay");
        };
        convert(overlay, &start)?;
        replay::copy(&start, &disk)?;
        std::fs::File::create(&log).context("cannot make the log")?;
        let words = format!(
            "driver=blklogwrites,node-name=root,log-super-update-interval=1,\
             file.driver=file,file.filename={},log.driver=file,log.filename={}",
            disk.display(),
            log.display()
        );
        let overlay = std::mem::replace(&mut scene.host.root, Root::Blockdev(words));
        let mut recorder = Recorder {
            recording: Self {
                start,
                log,
                chapters: Vec::new(),
                claims: Vec::new(),
            },
            promised: Promised::default(),
            vm: scene.boot(stage)?,
        };
        scene.host.root = overlay;
        recorder.vm.settle()?;
        recorder.live(scene)?;
        let (_, broken) = scene.witnessed()?;
        ensure!(broken.is_empty(), "{}", broken.join("; "));
        recorder.vm.cut_power(&mut scene.lab)?;
        let _ = std::fs::remove_file(&disk);
        Ok(recorder.recording)
    }
}

struct Recorder {
    recording: Recording,
    promised: Promised,
    vm: Vm,
}

impl Recorder {
    fn live(&mut self, scene: &mut Scene) -> Result<()> {
        self.chapter("control", |it| it.control())?;
        self.promised.package = Some("1.0.0".into());
        self.promised.stable = Some("system".into());
        self.claim()?;
        self.chapter("enrolment", |it| {
            scene.enrol(&mut it.vm)?;
            it.promised.enrolled = true;
            Ok(())
        })?;
        scene.stop_controller()?;
        self.chapter("ledger", Self::connections)?;
        scene.start_controller()?;
        self.chapter("acknowledgement", Self::acknowledged)?;

        self.promised.stable = None;
        self.chapter("update", |it| {
            it.update()?;
            it.promised.stable = Some(RELEASE.to_string());
            Ok(())
        })?;
        self.promised.stable = None;
        self.promised.package = None;
        self.chapter("upgrade", |it| {
            it.vm
                .sh_within("dpkg -i /root/in/second.deb", DPKG_WITHIN)?;
            it.promised.stable = Some("system".into());
            it.promised.package = Some(SECOND.to_string());
            verified(&mut it.vm, SOON).map(drop)
        })
    }

    /// What `act` does is a chapter. It begins and ends with a claim of what is promised then.
    fn chapter(
        &mut self,
        name: &'static str,
        act: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let from = self.claim()?;
        act(self).with_context(|| format!("recording the {name}"))?;
        let to = self.claim()?;
        self.recording.chapters.push(Chapter { name, from, to });
        Ok(())
    }

    /// From here on what is promised now holds. Returns how many entries the log has.
    fn claim(&mut self) -> Result<usize> {
        let written = writelog::entries_so_far(&self.recording.log)?;
        self.recording.claims.push((written, self.promised.clone()));
        Ok(written)
    }

    fn control(&mut self) -> Result<()> {
        let given = format!(
            "CARELESS='{CARELESS}' CAREFUL='{CAREFUL}' LINE='{CONTROL_LINE}' LINES={CONTROL_LINES}\n"
        );
        self.vm.sh(&format!("{given}{CONTROL}")).map(drop)
    }

    /// Clients come and go. What the agent counts as stored is promised from then on.
    fn connections(&mut self) -> Result<()> {
        wireguard::serve(&mut self.vm)?;
        for number in 0..SESSIONS {
            wireguard::session(&mut self.vm, number + 2, "3")?;
            self.stored()?;
        }
        let wanted = u64::from(SESSIONS);
        self.vm.wait_for("the records of all clients", SOON, |vm| {
            let records = report(vm)?["backlog"]["records"].as_u64();
            Ok(records.filter(|records| *records >= wanted))
        })?;
        self.stored()
    }

    fn stored(&mut self) -> Result<()> {
        let records = report(&mut self.vm)?["backlog"]["records"].as_u64();
        // The controller is away since before the first one, so all of them are in there.
        self.promised.records = records.context("the report has no backlog")?;
        self.claim().map(drop)
    }

    fn acknowledged(&mut self) -> Result<()> {
        self.vm
            .wait_for("the controller to take all records", SOON, |vm| {
                let records = report(vm)?["backlog"]["records"].as_u64();
                Ok((records == Some(0)).then_some(()))
            })
    }

    fn update(&mut self) -> Result<()> {
        let words = format!("vpn-node update apply {RELEASE}");
        self.vm.sh_within(&words, UPDATE_WITHIN)?;
        let link = self.vm.sh("readlink /opt/vpn-node/stable")?;
        ensure!(
            link.trim() == format!("versions/{RELEASE}"),
            "the update ended, and stable leads to {link}"
        );
        Ok(())
    }
}

/// A qcow2 file and what is below it, as one without a format and with its holes.
fn convert(overlay: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-O", "raw"]).args([overlay, to]);
    shell::succeed(command, None, CONVERT_WITHIN).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_holds_from_its_write_on() {
        let promised = |records| Promised {
            records,
            ..Promised::default()
        };
        let recording = Recording {
            start: PathBuf::new(),
            log: PathBuf::new(),
            chapters: Vec::new(),
            claims: vec![(10, promised(1)), (20, promised(2)), (20, promised(3))],
        };
        for (at, records) in [(0, 0), (9, 0), (10, 1), (19, 1), (20, 3), (99, 3)] {
            assert_eq!(recording.promised(at).records, records, "{at}");
        }
    }
}
