//! `vpn-node enroll`: gets the token safely, hands it on, renders what came of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use thiserror::Error;
use zeroize::Zeroizing;

use super::args::{EnrollArguments, Global};
use super::console::{Console, bold, green};
use super::{Exit, reach};
use crate::config::{ConfigError, Settings};
use crate::core::{shown, shown_path};

/// Longest input in bytes: a token with the longest URL is below 3 KiB.
const MAX_TOKEN_BYTES: usize = 4 * 1024;

/// How every token begins.
const TOKEN_PREFIX: &[u8] = b"vnr1.";

/// What the enrolment is done with.
#[derive(Debug)]
pub struct EnrollRequest {
    /// The token without surrounding white space; not yet parsed.
    pub token: Zeroizing<String>,
    /// The validated settings, with `--state-dir` applied.
    pub settings: Settings,
}

/// What came of a successful enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The id that the controller gave this host.
    pub server_id: String,
    /// The controller.
    pub controller_url: String,
    /// Fingerprint of this host's public key.
    pub key_fingerprint: String,
    /// Whether an operator must still permit this host on the controller.
    pub pending: bool,
    /// What the controller remarked, one sentence each.
    pub warnings: Vec<String>,
}

/// Where the token comes from when no file is named.
pub(super) struct TokenInput<'a> {
    /// A person sits there.
    pub(super) interactive: bool,
    pub(super) reader: &'a mut dyn Read,
}

/// Why there is no token.
#[derive(Debug, Error)]
enum TokenError {
    #[error(
        "A token on the command line can be read by every user of this host and stays in the \
         shell's history, so it is refused. If it was a real one, revoke it on the controller \
         (`vpn-node-controller registration-key revoke`) and make another. Then run `vpn-node \
         enroll` and paste it, or use `--token-file FILE`."
    )]
    OnTheCommandLine,
    #[error("Enroll takes no arguments but options; see `vpn-node enroll --help`.")]
    Stray,
    #[error(
        "This user may not enrol this host: {} is not open to it. Run `sudo vpn-node enroll`. No \
         token was read; the one that you have is good still.",
        shown_path(path)
    )]
    Stranger { path: PathBuf },
    #[error("The token file {} cannot be read: {source}.", shown_path(path))]
    File { path: PathBuf, source: io::Error },
    #[error("The token cannot be read from standard input: {0}.")]
    Input(io::Error),
    #[error(
        "No token was given. Make one on the controller (`vpn-node-controller registration-key \
         create`), then paste it here or use `--token-file FILE`."
    )]
    Empty,
    #[error("What was given is longer than {MAX_TOKEN_BYTES} bytes, so it is no token.")]
    TooLong,
    #[error("What was given is not text, so it is no token.")]
    NotText,
}

/// Reads the token, enrols with `enroll`, renders.
pub(super) fn run<E: std::error::Error>(
    global: &Global,
    given: EnrollArguments,
    input: TokenInput<'_>,
    enroll: impl FnOnce(EnrollRequest) -> Result<Enrolled, E>,
    console: &mut Console<'_>,
) -> Exit {
    if let Err(error) = refuse_arguments(&given) {
        console.error(error);
        return Exit::Usage;
    }
    // Before the token: neither a broken configuration nor a forgotten sudo should cost the operator
    // a paste.
    let settings = match reach::settings(global) {
        Ok(settings) => settings,
        Err(ConfigError::Unreadable { path, source })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            console.error(TokenError::Stranger { path });
            return Exit::Failed;
        }
        Err(error) => {
            console.error(error);
            return Exit::Failed;
        }
    };
    if let Err(error) = refuse_strangers(&settings.state_dir) {
        console.error(error);
        return Exit::Failed;
    }
    let token = match &given.token_file {
        Some(path) => from_file(path, console),
        None => from_input(input, console),
    };
    let token = match token {
        Ok(token) => token,
        Err(error) => {
            console.error(error);
            return Exit::Failed;
        }
    };
    match enroll(EnrollRequest { token, settings }) {
        Ok(enrolled) => {
            console.out(&success(&enrolled));
            Exit::Ok
        }
        Err(error) => {
            console.error(shown(&error.to_string()));
            Exit::Failed
        }
    }
}

/// The secret of a token in argv is everybody's: /proc/PID/cmdline is readable by all (proc(5)).
fn refuse_arguments(given: &EnrollArguments) -> Result<(), TokenError> {
    let is_token = |text: &OsStr| text.as_encoded_bytes().starts_with(TOKEN_PREFIX);
    let file_is_token = given
        .token_file
        .as_ref()
        .is_some_and(|path| is_token(path.as_os_str()));
    if given.token.is_some() || file_is_token || given.stray.iter().any(|text| is_token(text)) {
        return Err(TokenError::OnTheCommandLine);
    }
    if !given.stray.is_empty() {
        return Err(TokenError::Stray);
    }
    Ok(())
}

/// Only who may write there, root or the agent's user, can keep what an enrolment brings. Any other
/// fault of the directory is said by who writes to it.
fn refuse_strangers(state_dir: &Path) -> Result<(), TokenError> {
    let exists = |dir: &&Path| dir.symlink_metadata().is_ok();
    // Before the first enrolment it may have to be made.
    let Some(path) = state_dir.ancestors().find(exists) else {
        return Ok(());
    };
    let writes = AccessFlags::W_OK | AccessFlags::X_OK;
    match faccessat(AT_FDCWD, path, writes, AtFlags::AT_EACCESS) {
        Err(Errno::EACCES | Errno::EPERM) => Err(TokenError::Stranger {
            path: path.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn from_file(path: &Path, console: &mut Console<'_>) -> Result<Zeroizing<String>, TokenError> {
    let fail = |source| TokenError::File {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(fail)?;
    let about = file.metadata().map_err(fail)?;
    if about.is_file() && about.permissions().mode() & 0o077 != 0 {
        console.warning(format_args!(
            "other users may be able to read {}; run `chmod 600` on it, and delete it after the \
             enrolment.",
            shown_path(path)
        ));
    }
    read_token(&mut file, false).map_err(|error| match error {
        TokenError::Input(source) => fail(source),
        other => other,
    })
}

fn from_input(
    input: TokenInput<'_>,
    console: &mut Console<'_>,
) -> Result<Zeroizing<String>, TokenError> {
    if input.interactive {
        console.err("Paste the token that the controller printed (vnr1.…) and press Enter:\n");
    }
    read_token(input.reader, input.interactive)
}

/// Reads to the end, or to the first line that is not empty; nothing of it stays in memory.
fn read_token(reader: &mut dyn Read, one_line: bool) -> Result<Zeroizing<String>, TokenError> {
    let mut buffer = Zeroizing::new([0_u8; MAX_TOKEN_BYTES + 1]);
    let mut length = 0;
    loop {
        match reader.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TokenError::Input(error)),
        }
        if length > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let read = buffer[..length].trim_ascii_start();
        if one_line && read.contains(&b'\n') {
            break;
        }
    }
    let text = std::str::from_utf8(&buffer[..length]).map_err(|_| TokenError::NotText)?;
    match text.trim() {
        "" => Err(TokenError::Empty),
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}

fn success(enrolled: &Enrolled) -> String {
    let next = if enrolled.pending {
        "An operator must permit this host on the controller before it is verified. Compare the \
         key there.\n"
    } else {
        ""
    };
    let warnings: String = enrolled
        .warnings
        .iter()
        .map(|warning| format!("Note: {}\n", shown(warning)))
        .collect();
    format!(
        "{}\n  Server      {}\n  Controller  {}\n  Key         {}\n\n{warnings}{next}Start the agent:\n  {}\n",
        green("This host is enrolled."),
        shown(&enrolled.server_id),
        shown(&enrolled.controller_url),
        shown(&enrolled.key_fingerprint),
        bold("systemctl enable --now vpn-node-agent"),
    )
}
