//! prometheus-node-exporter as the measure: installed from Debian, run by us on a loopback port,
//! never as a service.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::apt::{self, need};
use crate::lab::{Lab, fleet};
use crate::shell;

pub(super) const PROGRAM: &str = "prometheus-node-exporter";
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// A page of node-exporter has about 60 KB, one with 10,000 WireGuard peers some MB.
const LARGEST_PAGE: u64 = 64 << 20;

/// The program, not started.
pub(crate) struct Exporter {
    file: PathBuf,
}

/// The program, running.
pub(crate) struct Scraped {
    pub(crate) file: PathBuf,
    pub(crate) pid: u32,
    /// From its start to its first complete page.
    pub(crate) start: Duration,
    address: SocketAddr,
}

impl Exporter {
    pub(crate) fn find(may_install: bool) -> Result<Self> {
        if let Some(missing) = apt::provide(&[need(PROGRAM, PROGRAM)], may_install)? {
            bail!("there is nothing to compare with: {missing}");
        }
        let file = shell::find(PROGRAM).context("prometheus-node-exporter vanished")?;
        Ok(Self { file })
    }

    pub(crate) fn start(&self, lab: &mut Lab) -> Result<Scraped> {
        let address = fleet::free_address()?;
        let mut command = Command::new(&self.file);
        command.arg(format!("--web.listen-address={address}"));
        let begin = Instant::now();
        let pid = lab.start(PROGRAM, command)?;
        let mut scraped = Scraped {
            file: self.file.clone(),
            pid,
            start: Duration::ZERO,
            address,
        };
        // Not `wait_for`, whose step is longer than this start.
        while scraped.scrape().is_err() {
            if begin.elapsed() > ANSWERS_WITHIN {
                scraped
                    .scrape()
                    .context("prometheus-node-exporter does not start")?;
            }
            shell::pause(Duration::from_millis(1))?;
        }
        scraped.start = begin.elapsed();
        Ok(scraped)
    }
}

impl Scraped {
    /// One scrape, as Prometheus does it.
    pub(crate) fn scrape(&self) -> Result<()> {
        scrape(self.address, ANSWERS_WITHIN).map(drop)
    }
}

/// Gets `/metrics` at `address`, whoever serves it there. Returns head and page.
pub(super) fn scrape(address: SocketAddr, within: Duration) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWERS_WITHIN)
        .with_context(|| format!("the exporter does not accept connections on {address}"))?;
    stream
        .set_read_timeout(Some(within))
        .context("cannot set a time-out")?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .context("cannot ask the exporter")?;
    let mut page = Vec::new();
    stream
        .take(LARGEST_PAGE)
        .read_to_end(&mut page)
        .context("the exporter's page broke off")?;
    if !page.starts_with(b"HTTP/1.0 200") && !page.starts_with(b"HTTP/1.1 200") {
        bail!("the exporter did not answer with its page");
    }
    Ok(page)
}
