//! Running systemd-creds(1): a program of a fixed place, an empty environment, secrets through
//! pipes only.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{SealWith, SealedTo};

/// Where the program is on the systems that we support; the first that has it counts. Not `$PATH`:
/// root runs it.
pub const PROGRAM_DIRS: [&str; 2] = ["/usr/bin", "/bin"];

const PROGRAM: &str = "systemd-creds";
/// Bound into what is sealed, so that another credential cannot be put in its place.
const NAME: &str = "--name=vpn-node.identity-key";
/// The TPM is asked for itself, not for the state of the boot chain: an update of firmware or of
/// Secure Boot's lists must not lock a host out. Register 16 is for debugging and stays zero
/// (TCG PC Client Platform TPM Profile, section 4.6.2); what is sealed with no register at all,
/// systemd 252 does not open again.
const NO_BOOT_CHAIN: &str = "--tpm2-pcrs=16";
/// A sealed key has a kilobyte.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;
/// What of its complaints an operator sees.
const MAX_COMPLAINT_BYTES: u64 = 4 * 1024;

/// Why systemd-creds did not do it.
#[derive(Debug, thiserror::Error)]
pub enum CredsError {
    /// Not there.
    #[error(
        "the program {PROGRAM} is not in {0}: sealing needs systemd 250 or later (on Debian it is in the package 'systemd')"
    )]
    Missing(String),
    /// It did not run.
    #[error("{path} cannot be run: {source}")]
    Run {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It refused.
    #[error("{path} {verb} failed: {why}")]
    Refused {
        /// The program.
        path: PathBuf,
        /// "encrypt" or "decrypt".
        verb: &'static str,
        /// Its last line, escaped.
        why: String,
    },
}

/// The program, found.
#[derive(Clone, Debug)]
pub struct SystemdCreds(PathBuf);

impl SystemdCreds {
    /// The first of these directories that has the program.
    ///
    /// # Errors
    /// [`CredsError::Missing`].
    pub fn find(dirs: &[&Path]) -> Result<Self, CredsError> {
        let mut paths = dirs.iter().map(|dir| dir.join(PROGRAM));
        paths.find(|path| path.is_file()).map(Self).ok_or_else(|| {
            let names: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            CredsError::Missing(names.join(" or "))
        })
    }

    pub(super) fn encrypt(&self, secret: &[u8], with: SealWith) -> Result<Vec<u8>, CredsError> {
        let with = format!("--with-key={}", with.name());
        let blob = self.run("encrypt", &[NAME, &with, NO_BOOT_CHAIN], secret)?;
        Ok(blob.to_vec())
    }

    pub(super) fn decrypt(&self, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, CredsError> {
        self.run("decrypt", &[NAME], blob)
    }

    fn run(
        &self,
        verb: &'static str,
        options: &[&str],
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CredsError> {
        let fail = |source| CredsError::Run {
            path: self.0.clone(),
            source,
        };
        let mut child = Command::new(&self.0)
            .arg(verb)
            .args(options)
            .args(["-", "-"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(fail)?;
        let (mut stdin, stdout, stderr) = (
            child.stdin.take().expect("piped"),
            child.stdout.take().expect("piped"),
            child.stderr.take().expect("piped"),
        );
        let complaint = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.take(MAX_COMPLAINT_BYTES).read_to_end(&mut text);
            text
        });
        // One that refuses before it has read says why on standard error.
        let _ = stdin.write_all(input);
        drop(stdin);
        // Its full size from the start: a buffer that grows would leave copies of the key.
        let room = usize::try_from(MAX_OUTPUT_BYTES).expect("fits");
        let mut output = Zeroizing::new(Vec::with_capacity(room));
        let read = stdout.take(MAX_OUTPUT_BYTES).read_to_end(&mut output);
        let status = child.wait().map_err(fail)?;
        let complaint = complaint.join().unwrap_or_default();
        if read.is_ok() && status.success() {
            return Ok(output);
        }
        Err(CredsError::Refused {
            path: self.0.clone(),
            verb,
            why: last_line(&complaint).unwrap_or_else(|| status.to_string()),
        })
    }
}

fn last_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    Some(crate::core::shown(line).to_string())
}

/// The first 16 bytes of what systemd-creds makes, for each kind (systemd, src/shared/creds-util.h).
pub(super) const BY_HOST: u128 = 0x5a1c_6a86_df9d_4096_b1d5_a65e_0862_f19a;
pub(super) const BY_TPM2: u128 = 0x0c7c_c07b_1176_4591_9c4b_0bea_08bc_20fe;
pub(super) const BY_HOST_AND_TPM2: u128 = 0x93a8_9409_4874_4490_90ca_f2fc_93ca_b553;
/// Encrypted with a key of zeros.
pub(super) const BY_NOTHING: u128 = 0x0584_69da_f6f5_4324_8005_49da_0f8e_a2fb;

/// What opens it; `None` when nothing of a machine is needed.
pub(super) fn protection(blob: &[u8]) -> Option<SealedTo> {
    let text: Vec<u8> = blob
        .iter()
        .copied()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let bytes = STANDARD.decode(text).unwrap_or_default();
    let kind = bytes.first_chunk().map(|id| u128::from_be_bytes(*id));
    match kind {
        Some(BY_NOTHING) => None,
        Some(BY_HOST) => Some(SealedTo::Host),
        Some(BY_TPM2) => Some(SealedTo::Tpm2),
        Some(BY_HOST_AND_TPM2) => Some(SealedTo::HostAndTpm2),
        _ => Some(SealedTo::Unknown),
    }
}

/// As [`protection`], for something that was taken before.
pub(super) fn sealed_to(blob: &[u8]) -> SealedTo {
    protection(blob).unwrap_or(SealedTo::Unknown)
}
