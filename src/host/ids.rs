//! Who this host says it is: boot id, host name, operating system.
//!
//! All three are for people and for telling boots apart; none of them is trusted as an identity.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::host::bounded;

/// `HOST_NAME_MAX` of Linux (gethostname(2)).
pub const MAX_HOSTNAME: usize = 64;
/// Longer than any `PRETTY_NAME` in use; it is a column of a table.
pub const MAX_OS_VERSION: usize = 128;
/// A UUID and a line break; more is not a boot id.
const MAX_BOOT_ID: usize = 64;
/// os-release files have about 500 bytes.
const MAX_OS_RELEASE: usize = 16 * 1024;

/// Why the host could not be identified.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum IdError {
    #[error(
        "cannot read the boot id from {}: {source}; /proc must be mounted, and not with subset=pid \
         (ProcSubset=all in the unit)",
        path.display()
    )]
    BootIdRead { path: PathBuf, source: io::Error },
    #[error("{} does not hold a boot id (a UUID)", path.display())]
    BootIdFormat { path: PathBuf },
}

/// The id of this boot: `sys/kernel/random/boot_id` under `proc_root` (random(4)).
///
/// # Errors
/// [`IdError`] if the file cannot be read or holds something else.
pub fn boot_id(proc_root: &Path) -> Result<Uuid, IdError> {
    let path = proc_root.join("sys/kernel/random/boot_id");
    let text = match bounded::read_prefix(&path, MAX_BOOT_ID) {
        Ok(text) => text,
        Err(source) => return Err(IdError::BootIdRead { path, source }),
    };
    Uuid::try_parse_ascii(text.trim_ascii())
        .ok()
        .filter(|id| !id.is_nil())
        .ok_or(IdError::BootIdFormat { path })
}

/// The host name (gethostname(2)), at most [`MAX_HOSTNAME`] printable ASCII characters.
#[must_use]
pub fn hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    printable(name.as_encoded_bytes(), MAX_HOSTNAME)
}

/// `PRETTY_NAME` of os-release(5) under `root` (`/`), at most [`MAX_OS_VERSION`] printable ASCII
/// characters. `None` if the host does not say.
#[must_use]
pub fn os_version(root: &Path) -> Option<String> {
    let read = |file| bounded::read_prefix(&root.join(file), MAX_OS_RELEASE);
    let text = read("etc/os-release")
        .or_else(|_| read("usr/lib/os-release"))
        .ok()?;
    let name = pretty_name(&text)?;
    let name = printable(&name, MAX_OS_VERSION);
    (!name.is_empty()).then_some(name)
}

/// The last assignment wins, as in a shell.
fn pretty_name(text: &[u8]) -> Option<Vec<u8>> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| line.trim_ascii().strip_prefix(b"PRETTY_NAME="))
        .next_back()
        .map(unquote)
}

/// Shell quoting as far as os-release(5) allows it.
fn unquote(value: &[u8]) -> Vec<u8> {
    match value {
        [b'\'', inner @ .., b'\''] => inner.to_vec(),
        [b'"', inner @ .., b'"'] => unescape(inner),
        bare => unescape(bare),
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(if byte == b'\\' {
            *bytes.next().unwrap_or(&byte)
        } else {
            byte
        });
    }
    plain
}

/// At most `max` characters; what is not printable ASCII becomes `?`.
fn printable(bytes: &[u8], max: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    text.trim().chars().take(max).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn boot_ids() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            boot_id(dir.path()),
            Err(IdError::BootIdRead { .. })
        ));
        let file = dir.path().join("sys/kernel/random/boot_id");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "d2bd1ac3-15c4-4b07-9a8f-8e0e9f3d5a10\n").unwrap();
        let id = boot_id(dir.path()).unwrap();
        assert_eq!(id.to_string(), "d2bd1ac3-15c4-4b07-9a8f-8e0e9f3d5a10");
        for text in [
            &b"\0\xff\n"[..],
            b"",
            &[b'a'; 65536],
            b"00000000-0000-0000-0000-000000000000",
        ] {
            fs::write(&file, text).unwrap();
            assert!(matches!(
                boot_id(dir.path()),
                Err(IdError::BootIdFormat { .. })
            ));
        }
    }

    #[test]
    fn the_name_of_the_operating_system() {
        for (text, expected) in [
            (
                "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
                Some("Debian GNU/Linux 12 (bookworm)"),
            ),
            (
                "PRETTY_NAME='Alpine Linux v3.20'",
                Some("Alpine Linux v3.20"),
            ),
            ("PRETTY_NAME=Plain", Some("Plain")),
            (
                "PRETTY_NAME=\"A \\\"quoted\\\" one\"\n",
                Some("A \"quoted\" one"),
            ),
            ("PRETTY_NAME=a\nPRETTY_NAME=b\n", Some("b")),
            ("PRETTY_NAME=\"\u{1b}[31mred\u{202e}\"", Some("?[31mred?")),
            ("PRETTY_NAME=\"", Some("\"")),
            ("PRETTY_NAME=\"\"\n", None),
            ("NAME=Debian\n", None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
            fs::write(dir.path().join("usr/lib/os-release"), text).unwrap();
            assert_eq!(os_version(dir.path()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn hostile_os_release_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(os_version(dir.path()), None);
        fs::create_dir(dir.path().join("etc")).unwrap();
        let long = [b"PRETTY_NAME=\0\xff".to_vec(), vec![b'x'; 65536]].concat();
        fs::write(dir.path().join("etc/os-release"), long).unwrap();
        let name = os_version(dir.path()).unwrap();
        assert!(name.starts_with("??x") && name.len() == MAX_OS_VERSION);
    }

    #[test]
    fn this_host_has_a_name() {
        let name = hostname();
        assert!(!name.is_empty() && name.len() <= MAX_HOSTNAME);
    }
}
