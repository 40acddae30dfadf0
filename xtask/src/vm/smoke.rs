//! The machine itself: what the other suites stand on.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Stage;
use super::image;
use super::qemu::{HOST, Options, Root, Vm};
use crate::lab::Lab;
use crate::lab::machine::Machine;

const SOON: Duration = Duration::from_secs(60);
const PORT: u16 = 8443;

pub(super) fn run(stage: &Stage) -> Result<String> {
    let mut lab = Lab::open()?;
    let network = Machine::boot(&mut lab, "network")?;
    let page = lab.path("page");
    fs::write(&page, "a page of the host").context("cannot write a page")?;
    let mut server = network.command("python3");
    server.args(["-m", "http.server", "--bind", "127.0.0.1"]);
    server
        .arg(PORT.to_string())
        .arg("--directory")
        .arg(lab.folder());
    lab.start("server", server)?;

    let files = lab.path("files.tar");
    image::tar(&[("page", &page)], &files)?;
    let mut options = Options::new(&lab, "host", network);
    options.files = Some(files);
    let mut vm = Vm::boot(&mut lab, &stage.image, &options)?;
    let boot = vm.booted_in;
    let state = vm.settle()?;
    ensure!(
        state == "running",
        "systemd says {state}:\n{}",
        vm.sh("systemctl --failed")?
    );
    let settled = vm.booted_in;
    ensure!(
        vm.sh("tar -xOf /dev/disk/by-id/virtio-files page")? == "a page of the host",
        "the disk of files reads differently"
    );
    let fetched = vm.sh(&format!("curl -fsS http://{HOST}:{PORT}/page"))?;
    ensure!(
        fetched == "a page of the host",
        "the guest fetched {fetched:?}"
    );
    vm.sh("ip link add wg0 type wireguard && ip link delete wg0")?;
    vm.put("/root/kept", b"kept")?;
    vm.sh("sync && echo lost > /root/lost")?;
    vm.cut_power(&mut lab)?;

    // Whoever looks at the guest's writes puts something between it and its disk.
    let disk = lab.path("host.qcow2");
    let overlay = std::mem::replace(
        &mut options.root,
        Root::Blockdev(format!(
            "driver=qcow2,node-name=root,file.driver=file,file.filename={}",
            disk.display()
        )),
    );
    let mut vm = Vm::boot(&mut lab, &stage.image, &options)?;
    options.root = overlay;
    ensure!(vm.sh("cat /root/kept")? == "kept", "a flushed file is lost");
    let failed = vm.run("exit 7", SOON)?;
    ensure!(
        failed.status == 7,
        "an exit status is told as {}",
        failed.status
    );
    let began = Instant::now();
    vm.save("state")?;
    let saved_in = began.elapsed();
    vm.cut_power(&mut lab)?;
    options.saved = Some("state".to_owned());
    let mut vm = Vm::boot(&mut lab, &stage.image, &options)?;
    vm.set_clock()?;
    let restored_in = vm.booted_in;
    vm.power_off(&mut lab)?;
    Ok(format!(
        "boot {:.1} s, settled {:.1} s, saved in {:.1} s, restored in {:.1} s",
        boot.as_secs_f64(),
        settled.as_secs_f64(),
        saved_in.as_secs_f64(),
        restored_in.as_secs_f64()
    ))
}
