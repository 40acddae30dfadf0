//! prometheus_wireguard_exporter as the measure: installed from crates.io into our target folder,
//! run by us on a loopback port.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::median;
use crate::bench::exporter::scrape;
use crate::bench::process::Cpu;
use crate::lab::{Lab, fleet};
use crate::shell;

const PROGRAM: &str = "prometheus_wireguard_exporter";
/// It compiles some hundred crates.
const INSTALLED_WITHIN: Duration = Duration::from_secs(1800);
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// It takes seconds for 10,000 peers, more on a busy machine.
const SCRAPED_WITHIN: Duration = Duration::from_secs(300);

/// The program, not started.
pub(super) struct PeersExporter {
    file: PathBuf,
}

impl PeersExporter {
    pub(super) fn find(may_install: bool) -> Result<Self> {
        if let Some(file) = shell::find(PROGRAM) {
            return Ok(Self { file });
        }
        let folder = shell::repository().join("target/peers-exporter");
        let file = folder.join("bin").join(PROGRAM);
        if !file.is_file() {
            let mut command = shell::cargo();
            command.args(["install", PROGRAM, "--locked", "--root"]);
            command.arg(&folder);
            if !may_install {
                bail!(
                    "there is nothing to compare with: {PROGRAM} is not installed (`{}`)",
                    shell::show(&command)
                );
            }
            anstream::println!("installing {PROGRAM} (minutes, once)");
            shell::succeed(command, None, INSTALLED_WITHIN)?;
        }
        Ok(Self { file })
    }

    /// The middle one of its CPU times for a scrape, in milliseconds. `on` makes the command that
    /// runs a program where the peers are.
    pub(super) fn scrape(
        &self,
        lab: &mut Lab,
        on: impl Fn(&Path) -> Command,
        count: usize,
    ) -> Result<f64> {
        let address = fleet::free_address()?;
        let mut command = on(&self.file);
        command.args(["-l", &address.ip().to_string()]);
        command.args(["-p", &address.port().to_string()]);
        let pid = lab.start(PROGRAM, command)?;
        lab.wait_for("the exporter's port", ANSWERS_WITHIN, || {
            let tried = std::net::TcpStream::connect_timeout(&address, ANSWERS_WITHIN);
            Ok(tried.is_ok().then_some(()))
        })?;
        let mut figures = Vec::new();
        for _ in 0..count {
            let before = Cpu::of(pid)?;
            let page = scrape(address, SCRAPED_WITHIN)?;
            if !String::from_utf8_lossy(&page).contains("wireguard_received_bytes_total") {
                bail!("the page of {PROGRAM} has no peers");
            }
            let spent = Cpu::of(pid)?.since(before);
            figures.push(spent.as_secs_f64() * 1000.0);
        }
        lab.stop(PROGRAM).context("cannot stop the exporter")?;
        median(figures)
    }
}
