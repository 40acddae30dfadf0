//! What the agent says to systemd and gets from it: readiness, status, watchdog, credentials.
//!
//! Started by hand there is no systemd behind the environment variables; then nothing is sent and
//! there are no credentials, and neither is an error.
//!
//! Its parts are for the operator's command: names of units, systemctl, and which services are
//! bound to the gate.

mod gating;
mod systemctl;
mod unit_name;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::{ELOOP, ENOENT, O_NOFOLLOW};
use sd_notify::NotifyState;
use zeroize::Zeroizing;

use crate::host::bounded;
pub use gating::{Change, GATE, Gated, Gating, GatingError};
pub use systemctl::{Systemctl, SystemctlError, UnitFacts};
pub use unit_name::{ServiceName, ServiceNameError};

/// systemd shows the status on one line of `systemctl status`.
const MAX_STATUS: usize = 256;
/// The longest credential the agent has a use for: a wrapped key or a token, a few hundred bytes.
pub const MAX_CREDENTIAL: usize = 64 * 1024;

/// `READY=1` (sd_notify(3)): the agent is up.
///
/// # Errors
/// If `$NOTIFY_SOCKET` is set and cannot be written to.
pub fn notify_ready(status: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))])
}

/// `STATUS=`: one line for `systemctl status`. Control characters are replaced, since a line break
/// would start another assignment; it is cut after 256 characters.
///
/// # Errors
/// As [`notify_ready`].
pub fn notify_status(status: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Status(&one_line(status))])
}

/// `WATCHDOG=1`: the agent makes progress.
///
/// # Errors
/// As [`notify_ready`].
pub fn notify_watchdog() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Watchdog])
}

/// `STOPPING=1`: the agent is about to end.
///
/// # Errors
/// As [`notify_ready`].
pub fn notify_stopping() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Stopping])
}

/// `EXTEND_TIMEOUT_USEC=`: what the unit allows for a stop is not enough, and the next such word
/// comes within `by`.
///
/// # Errors
/// As [`notify_ready`].
pub fn notify_extend_timeout(by: Duration) -> io::Result<()> {
    let usec = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
    sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(usec)])
}

/// `RELOADING=1` with the instant (`CLOCK_MONOTONIC`) at which the reload began, which systemd ≥ 253
/// wants of units with `Type=notify-reload`. [`notify_reloaded`] ends it.
///
/// # Errors
/// As [`notify_ready`].
pub fn notify_reloading(began: Duration) -> io::Result<()> {
    let usec = i128::try_from(began.as_micros()).unwrap_or(i128::MAX);
    sd_notify::notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(usec)])
}

/// `READY=1` alone: the reload is over, and the status line is what it was.
///
/// # Errors
/// As [`notify_ready`].
pub fn notify_reloaded() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Ready])
}

/// How often to call [`notify_watchdog`]: half of what the unit allows (`WatchdogSec=`), as
/// sd_watchdog_enabled(3) recommends. `None` without a watchdog.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    let limit = sd_notify::watchdog_enabled()?;
    (!limit.is_zero()).then(|| limit / 2)
}

/// Why a credential cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum CredentialError {
    #[error("credential name {name:?} is not allowed: letters, digits, '.', '_' and '-' only")]
    Name { name: String },
    #[error("cannot read the credential {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the credential {} is not a regular file; check LoadCredential= of the unit",
        path.display()
    )]
    NotAFile { path: PathBuf },
    #[error("the credential {} has more than {MAX_CREDENTIAL} bytes", path.display())]
    TooLong { path: PathBuf },
}

/// Reads the credential `name` that the unit passes (`LoadCredential=`, systemd.exec(5)).
/// `None` if there are no credentials or none of this name.
///
/// # Errors
/// [`CredentialError`] if it is there and cannot be used.
pub fn credential(name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CredentialError> {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(dir) => read_credential(Path::new(&dir), name),
        None => Ok(None),
    }
}

fn read_credential(dir: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CredentialError> {
    if !is_plain(name) {
        return Err(CredentialError::Name {
            name: name.to_owned(),
        });
    }
    let path = dir.join(name);
    let file = match bounded::open(&path, O_NOFOLLOW) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(ENOENT) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(ELOOP) => {
            return Err(CredentialError::NotAFile { path });
        }
        Err(source) => return Err(CredentialError::Read { path, source }),
    };
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(CredentialError::NotAFile { path }),
        Err(source) => return Err(CredentialError::Read { path, source }),
    }
    match read_secret(&file) {
        Ok(Some(secret)) => Ok(Some(secret)),
        Ok(None) => Err(CredentialError::TooLong { path }),
        Err(source) => Err(CredentialError::Read { path, source }),
    }
}

fn is_plain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(allowed)
}

/// `None` if it is too long. The buffer has its full size from the start: one that grows would
/// leave unwiped copies behind.
fn read_secret(file: &File) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_CREDENTIAL + 1));
    file.take(MAX_CREDENTIAL as u64 + 1)
        .read_to_end(&mut secret)?;
    Ok((secret.len() <= MAX_CREDENTIAL).then_some(secret))
}

fn one_line(status: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    status.chars().take(MAX_STATUS).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// The environment of a process is set from outside, so this runs itself once more as systemd
    /// would start it.
    #[test]
    fn as_a_service() {
        if std::env::var_os("NOTIFY_SOCKET")
            .is_some_and(|s| s.as_encoded_bytes().ends_with(b"test-notify"))
        {
            return child();
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "vnr1.x").unwrap();
        let path = dir.path().join("test-notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "host::systemd::tests::as_a_service"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "20000000")
            .env_remove("WATCHDOG_PID")
            .env("CREDENTIALS_DIRECTORY", dir.path())
            .output()
            .unwrap();
        assert!(
            status.status.success(),
            "{}",
            String::from_utf8_lossy(&status.stdout)
        );
        socket.set_nonblocking(true).unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(len) = socket.recv(&mut buffer) {
            received.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
        assert_eq!(
            received,
            [
                "READY=1\nSTATUS=verified\n",
                "STATUS=one MAINPID=1\n",
                "WATCHDOG=1\n",
                "RELOADING=1\nMONOTONIC_USEC=1500000\n",
                "READY=1\n",
                "STOPPING=1\n",
                "EXTEND_TIMEOUT_USEC=15000000\n",
            ]
        );
    }

    fn child() {
        notify_ready("verified").unwrap();
        notify_status("one\nMAINPID=1").unwrap();
        notify_watchdog().unwrap();
        notify_reloading(Duration::from_millis(1500)).unwrap();
        notify_reloaded().unwrap();
        notify_stopping().unwrap();
        notify_extend_timeout(Duration::from_secs(15)).unwrap();
        assert_eq!(watchdog_interval(), Some(Duration::from_secs(10)));
        assert_eq!(credential("token").unwrap().unwrap().as_slice(), b"vnr1.x");
    }

    #[test]
    fn only_plain_bounded_files_are_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("key"), b"\0\xff\n").unwrap();
        fs::write(at("long"), vec![0; MAX_CREDENTIAL + 1]).unwrap();
        fs::create_dir(at("dir")).unwrap();
        std::os::unix::fs::symlink(at("key"), at("link")).unwrap();
        let read = |name: &str| read_credential(dir.path(), name);
        assert_eq!(read("key").unwrap().unwrap().as_slice(), b"\0\xff\n");
        assert!(read("none").unwrap().is_none());
        assert!(matches!(read("long"), Err(CredentialError::TooLong { .. })));
        assert!(matches!(read("dir"), Err(CredentialError::NotAFile { .. })));
        assert!(matches!(
            read("link"),
            Err(CredentialError::NotAFile { .. })
        ));
        for name in ["", "..", "a/b", "/etc/passwd", ".hidden", "a\0b", "a\nb"] {
            assert!(
                matches!(read(name), Err(CredentialError::Name { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_status_is_one_bounded_line() {
        assert_eq!(one_line("a\nb\0c"), "a b c");
        assert_eq!(one_line(&"é".repeat(1000)).chars().count(), MAX_STATUS);
    }
}
