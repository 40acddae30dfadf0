//! Every denial of our units on a real host: its own kernel, its own process 1, Debian's systemd, our
//! packages ([`crate::sandbox`]). Afterwards the agent is in touch with its controller as before.

use std::fs;

use anyhow::{Context, Result, bail};

use super::Stage;
use super::qemu::Vm;
use super::site::{INSTALLS_WITHIN, Plan, SOON, Site};
use crate::sandbox::{self, Said, System};

/// What the guest has already it keeps: only what Python needs besides is new.
const UNPACK: &str = "tar --extract --zstd --skip-old-files --keep-directory-symlink \
                      --directory / --file /root/python.tar.zst && rm /root/python.tar.zst";

pub(super) fn run(stage: &Stage) -> Result<String> {
    let mut site = Site::installed(stage, &Plan::default())?;
    let outcome = play(&mut site, stage);
    site.end(stage, outcome)
}

fn play(site: &mut Site, stage: &Stage) -> Result<String> {
    bring(&mut site.vm, stage)?;
    site.vm.sh("systemctl stop 'vpn-node-*'")?;
    let (figures, broken) = sandbox::play(&mut site.vm, &site.story, false)?;
    if !broken.is_empty() {
        bail!("{}\n{figures}", broken.join("\n"));
    }
    site.vm.sh("systemctl start vpn-node-agent.service")?;
    site.beats_on()?;
    Ok(figures)
}

/// The package of the controller, whose unit is probed too, and a Python for the probe.
fn bring(vm: &mut Vm, stage: &Stage) -> Result<()> {
    for (place, file) in [
        ("/root/controller.deb", stage.debs.controller.clone()),
        ("/root/python.tar.zst", stage.image.python()?),
    ] {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        vm.put(place, &bytes)?;
    }
    vm.sh_within("dpkg -i /root/controller.deb", INSTALLS_WITHIN)?;
    vm.sh_within(UNPACK, INSTALLS_WITHIN).map(drop)
}

impl System for Vm {
    fn run(&mut self, words: &[&str]) -> Result<Said> {
        let output = Vm::run(self, &script(words), SOON)?;
        Ok(Said {
            well: output.status == 0,
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    fn put(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let (folder, _) = path.rsplit_once('/').context("a file has a folder")?;
        self.sh(&script(&["mkdir", "-p", folder]))?;
        Vm::put(self, path, bytes)?;
        self.sh(&script(&["chmod", &format!("{mode:o}"), path]))
            .map(drop)
    }
}

/// One command for a shell, each word as it is.
fn script(words: &[&str]) -> String {
    let quoted = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_each_word_as_it_is() {
        let words = ["printf", "%s|", "a b", "it's", "$HOME", ""];
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script(&words)]);
        let said = crate::shell::succeed(shell, None, SOON).unwrap().stdout;
        assert_eq!(said, "a b|it's|$HOME||");
    }
}
