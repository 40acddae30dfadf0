//! The CPU packages, from `/proc/cpuinfo` (proc_cpuinfo(5)).
//!
//! A package is described by what is burnt in: vendor, family, model, stepping and name. Microcode,
//! flags, frequency and the number of CPUs are left out, since updates, kernels, power saving and
//! hot-plugging change them. Sockets of a virtual machine are a setting, so it has only `cpu1`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use vpn_node_protocol::hardware::Component;

use crate::host::bounded;

/// About 600 CPUs of 1.6 KB. On a machine with more, the second package may not be seen, which is
/// the same at every reading.
const MAX_CPUINFO: u64 = 1024 * 1024;
/// A `flags` line has about 2 KB; what is longer is cut.
const MAX_LINE: u64 = 8 * 1024;

pub(super) struct Cpus {
    pub(super) first: Component,
    pub(super) second: Component,
}

pub(super) fn probe(proc: &Path, notes: &mut Vec<String>) -> Cpus {
    let path = proc.join("cpuinfo");
    let mut packages = bounded::open(&path, 0)
        .map(packages)
        .unwrap_or_default()
        .into_values();
    let cpus = Cpus {
        first: packages.next().unwrap_or_default(),
        second: packages.next().unwrap_or_default(),
    };
    if !cpus.first.is_available() {
        notes.push(format!("{} does not name a CPU", path.display()));
    }
    cpus
}

/// Up to two packages by their physical id.
fn packages(file: File) -> BTreeMap<u64, Component> {
    let mut reader = BufReader::new(file.take(MAX_CPUINFO));
    let mut found = BTreeMap::new();
    while found.len() < 2 {
        let Some(block) = Block::read(&mut reader) else {
            break;
        };
        let virtual_machine = block.hypervisor;
        let package = block.package;
        found.entry(package).or_insert_with(|| block.describe());
        if virtual_machine {
            break;
        }
    }
    found
}

/// One logical CPU: the lines up to an empty one.
#[derive(Default)]
struct Block {
    package: u64,
    hypervisor: bool,
    fields: [Vec<u8>; FIELDS.len()],
}

/// What describes a package, on x86 and then on arm64. Each in the order in which it is printed.
const FIELDS: [&[u8]; 9] = [
    b"vendor_id",
    b"cpu family",
    b"model",
    b"stepping",
    b"model name",
    b"CPU implementer",
    b"CPU variant",
    b"CPU part",
    b"CPU revision",
];
const X86: std::ops::Range<usize> = 0..5;
const ARM: std::ops::Range<usize> = 5..9;

impl Block {
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut block = Self::default();
        let mut any = false;
        while let Some(line) = line(reader) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                if any && line.trim_ascii().is_empty() {
                    break;
                }
                continue;
            };
            any = true;
            block.take(line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        }
        any.then_some(block)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) {
        match key {
            b"physical id" => self.package = number(value),
            b"flags" => self.hypervisor = value.split(|b| *b == b' ').any(|f| f == b"hypervisor"),
            _ => {
                if let Some(index) = FIELDS.iter().position(|field| *field == key) {
                    value.clone_into(&mut self.fields[index]);
                }
            }
        }
    }

    fn describe(&self) -> Component {
        let (lead, range) = if self.fields[ARM.start].is_empty() {
            (&b""[..], X86)
        } else {
            (&b"arm;"[..], ARM)
        };
        let fields = &self.fields[range];
        if fields.iter().all(Vec::is_empty) {
            return Component::UNAVAILABLE;
        }
        Component::from_raw(&[lead, &fields.join(&b';')].concat())
    }
}

/// The next line, cut at [`MAX_LINE`]; `None` at the end.
fn line(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let read = reader
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)
        .ok()?;
    if read as u64 == MAX_LINE && line.last() != Some(&b'\n') {
        reader.skip_until(b'\n').ok()?;
    }
    (read > 0).then_some(line)
}

fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
