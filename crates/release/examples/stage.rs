//! Verifies a package, or copies and verifies it, as the updater does it, alone in a process:
//! `cargo xtask bench update` measures that. It prints by how many KiB its memory grew.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::process::ExitCode;

use vpn_node_release::bundle::Signed;
use vpn_node_release::digest::Digest;
use vpn_node_release::release::{OUR_STATE, PRODUCT, ReleaseInfo};
use vpn_node_release::version::{Platform, Version, Word};

fn main() -> ExitCode {
    match run() {
        Ok(grown_kib) => {
            println!("{grown_kib}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `stage FILE LENGTH SHA256 [TO]`
fn run() -> Result<u64, Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, length, sha256, to @ ..] = &words[..] else {
        return Err("usage: stage FILE LENGTH SHA256 [TO]".into());
    };
    let signed = signed(length.parse()?, Digest::parse(sha256)?)?;
    let before = memory_kib("VmRSS:")?;
    let mut package = File::open(file)?;
    match to {
        [] => drop(signed.verify(package)?),
        [to, ..] => {
            let own = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(to)?;
            drop(signed.copy(&mut package, own)?);
        }
    }
    Ok(memory_kib("VmHWM:")?.saturating_sub(before))
}

/// A release whose package has this length and hash.
fn signed(length: u64, sha256: Digest) -> Result<Signed, Box<dyn Error>> {
    let version = Version::new(1, 0, 0);
    let Platform { os, arch } = Platform::here();
    let info = ReleaseInfo {
        product: PRODUCT.into(),
        security_floor: version.clone(),
        version,
        channel: Word::parse("stable")?,
        os,
        arch,
        counter: 1,
        min_version_required: None,
        mandatory: false,
        description: String::new(),
        released: "2026-01-01T00:00:00Z".parse()?,
        state_format: OUR_STATE,
    };
    let custom = info.to_custom()?;
    Ok(Signed::new(
        &info.target_path(),
        length,
        sha256,
        Some(&custom),
    )?)
}

/// A line of /proc/self/status (proc(5)).
fn memory_kib(key: &str) -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib
        .ok_or_else(|| format!("/proc/self/status has no {key}"))?
        .parse()?)
}
