//! Enough of HTTP for a conformance suite on this machine: one GET a connection, no TLS, no
//! redirects, and HTTP/1.0 so that no server answers in chunks. (The agent's downloads use reqwest;
//! here it would be 100 crates for loopback.)

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use vpn_node_release::trust::fetch::{Fetch, FetchError, read_bounded};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest status line and headers together, in bytes.
const MAX_HEAD_BYTES: u64 = 16 * 1024;

/// The two base addresses of a repository.
pub(crate) struct Http {
    /// Where metadata is.
    pub(crate) metadata: String,
    /// Where targets are.
    pub(crate) targets: String,
}

impl Fetch for Http {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        match get(&self.metadata, name) {
            Ok(body) => read_bounded(body, limit).map(Some),
            Err(FetchError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn target(&mut self, url_path: &str) -> Result<Box<dyn Read + '_>, FetchError> {
        Ok(Box::new(get(&self.targets, url_path)?))
    }
}

fn get(base: &str, path: &str) -> Result<impl Read + use<>, FetchError> {
    let failed = |text: &str| FetchError::Failed(format!("{base} {path}: {text}"));
    let rest = base
        .strip_prefix("http://")
        .ok_or_else(|| failed("only plain http:// is spoken here"))?;
    let (host, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let folder = folder.trim_end_matches('/');
    let slash = if folder.is_empty() { "" } else { "/" };

    let address = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET /{folder}{slash}{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;

    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    let mut lines = (&mut reader).take(MAX_HEAD_BYTES);
    while !head.ends_with("\r\n\r\n") {
        if lines.read_line(&mut head)? == 0 {
            return Err(failed("the answer has no end of its headers"));
        }
    }
    match head.split(' ').nth(1) {
        Some("200") => {}
        Some("404" | "403") => return Err(FetchError::NotFound),
        other => return Err(failed(&format!("answered {}", other.unwrap_or("nothing")))),
    }
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = None;
    for (name, value) in headers {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(failed("an encoded answer was not asked for"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<u64>().ok();
        }
    }
    // Shorter than announced shows in the signed length and hash.
    Ok(reader.take(length.unwrap_or(u64::MAX)))
}
