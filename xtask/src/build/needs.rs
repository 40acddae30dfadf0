//! What a built program needs of the host that it runs on: shared libraries and versions of glibc.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::sysroot::NEWEST_GLIBC;
use crate::shell;

const READ_WITHIN: Duration = Duration::from_secs(60);

/// The libraries that a published program may need: glibc's, and gcc's for unwinding. Each is on
/// every host that has systemd.
const LIBRARIES: [&str; 8] = [
    "ld-linux-aarch64.so.1",
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
];

/// An error if `program` would not start on a host with the oldest glibc that we promise.
/// Returns the version that it needs.
pub(crate) fn check(program: &Path) -> Result<(u32, u32)> {
    let mut read = Command::new("objdump");
    read.env("LC_ALL", "C").arg("-p").arg(program);
    let needs = of(&shell::succeed(read, None, READ_WITHIN)?.stdout)
        .with_context(|| format!("{} is no dynamic program", program.display()))?;
    let foreign: Vec<&String> = needs
        .libraries
        .iter()
        .filter(|library| !LIBRARIES.contains(&library.as_str()))
        .collect();
    if !foreign.is_empty() {
        bail!(
            "{} needs libraries that a host may not have: {foreign:?}",
            program.display()
        );
    }
    if needs.glibc > NEWEST_GLIBC {
        bail!(
            "{} needs glibc {}.{}, and hosts may have {}.{}",
            program.display(),
            needs.glibc.0,
            needs.glibc.1,
            NEWEST_GLIBC.0,
            NEWEST_GLIBC.1
        );
    }
    Ok(needs.glibc)
}

struct Needs {
    libraries: Vec<String>,
    glibc: (u32, u32),
}

/// Reads what `objdump -p` says: `NEEDED libc.so.6` and, below "Version References", lines that end
/// with `GLIBC_2.17` (elf(5), SHT_GNU_verneed).
fn of(listing: &str) -> Option<Needs> {
    let libraries = listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("NEEDED "))
        .map(|name| name.trim().to_owned())
        .collect();
    let glibc = listing
        .split_once("Version References")?
        .1
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix("GLIBC_"))
        .filter_map(|version| {
            // The third number of old ones (2.3.4) decides nothing here.
            let mut numbers = version.split('.').map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .max()?;
    Some(Needs { libraries, glibc })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
Dynamic Section:
  NEEDED               libgcc_s.so.1
  NEEDED               libc.so.6
  INIT                 0x0000000000010000

Version definitions:
1 0x01 0x0f63f944 GLIBC_2.99

Version References:
  required from libc.so.6:
    0x09691974 0x00 08 GLIBC_2.3.4
    0x06969191 0x00 06 GLIBC_2.31
    0x06969189 0x00 05 GLIBC_2.9
  required from libgcc_s.so.1:
    0x0b792650 0x00 04 GCC_3.0
";

    #[test]
    fn the_newest_version_counts_by_number_and_not_by_letter() {
        let needs = of(LISTING).unwrap();
        assert_eq!(needs.glibc, (2, 31));
        assert_eq!(needs.libraries, ["libgcc_s.so.1", "libc.so.6"]);
        assert!(of("not an ELF file").is_none());
    }

    #[test]
    fn a_program_of_this_machine_is_judged() {
        // This test's own program is linked against this machine's glibc, whatever that is.
        let mine = std::env::current_exe().unwrap();
        match check(&mine) {
            Ok(version) => assert!(version <= NEWEST_GLIBC),
            Err(error) => assert!(format!("{error:#}").contains("glibc"), "{error:#}"),
        }
    }
}
