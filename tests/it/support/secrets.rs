//! Looking for a secret: in what forms it could stand somewhere, in files, and in the memory of a
//! process.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// No mapping of our programs is larger; what is larger is only reserved.
const MAX_MAPPING_BYTES: u64 = 256 * 1024 * 1024;

const PAGE_BYTES: usize = 4096;
const UNTOUCHED: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// A secret as it could stand somewhere: raw, in hex, in base64 at each of the three offsets.
pub(crate) fn forms(secret: &[u8; 32]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
    ];
    for skip in 0..3 {
        let inner = &secret[skip..skip + 27];
        forms.push(STANDARD.encode(inner).into_bytes());
        forms.push(URL_SAFE.encode(inner).into_bytes());
    }
    forms
}

/// Everything in the files below this directory.
pub(crate) fn all_files(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            bytes.extend(all_files(&entry.path()));
        } else if kind.is_file() {
            // A file may be replaced between the two calls.
            bytes.extend(fs::read(entry.path()).unwrap_or_default());
        }
    }
    bytes
}

/// Whether these bytes stand in those.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    contains_any(haystack, std::slice::from_ref(&needle.to_vec()))
}

/// Whether any of the needles (of two bytes at least) stands in those bytes. Quick enough for the
/// memory of a process in a debug build: only where the first two bytes fit is more compared.
pub(crate) fn contains_any(haystack: &[u8], needles: &[Vec<u8>]) -> bool {
    let mut begins = vec![false; 1 << 16];
    let index = |a: u8, b: u8| (a as usize) << 8 | b as usize;
    for needle in needles {
        begins[index(needle[0], needle[1])] = true;
    }
    // A plain loop: in a debug build ten times as fast as an iterator.
    let mut at = 1;
    while at < haystack.len() {
        if begins[index(haystack[at - 1], haystack[at])] {
            let rest = &haystack[at - 1..];
            if needles.iter().any(|needle| rest.starts_with(needle)) {
                return true;
            }
        }
        at += 1;
    }
    false
}

/// What a core dump of this process would hold: every mapping that can be written to, and so may
/// hold what the process has learnt (proc_pid_maps(5), proc_pid_mem(5)).
pub(crate) fn memory(pid: u32) -> io::Result<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut bytes = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else {
            continue;
        };
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        if !access.starts_with("rw") || end - start > MAX_MAPPING_BYTES {
            continue;
        }
        let mut mapping = vec![0; usize::try_from(end - start).unwrap()];
        // A mapping may go away meanwhile; the next look finds what is there then.
        if memory.read_exact_at(&mut mapping, start).is_ok() {
            // Most of it was never touched.
            for page in mapping.chunks(PAGE_BYTES).filter(|page| *page != UNTOUCHED) {
                bytes.extend_from_slice(page);
            }
        }
    }
    Ok(bytes)
}
