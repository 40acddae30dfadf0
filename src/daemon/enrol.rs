//! Enrolment with this host's own facts: for `vpn-node enroll` and for the daemon's credential.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::Path;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::limits::{MAX_TEXT_BYTES, is_short_text};
use vpn_node_protocol::token::{Token, TokenError};

use crate::config::Settings;
use crate::core::journal;
use crate::core::{schedule, shown};
use crate::host::hardware::{self, Roots, snapshot};
use crate::host::ids;
use crate::host::sealing::{self, PROGRAM_DIRS, SealingError};
use crate::host::state::StateDir;
use crate::remote::enrol::{EnrolError, Enrolled, Host, enrol};
use crate::remote::{ClientError, Options};

/// How often a person at a terminal is kept waiting: under ten seconds in all.
const COMMAND_ATTEMPTS: u32 = 4;

/// Enrols this host with the controller of the token. Where the identity is sealed, the new one is
/// sealed under the same key, if this process can open that (root can); otherwise it is in plain,
/// and a warning says so.
///
/// # Errors
/// [`EnrolError`]: its text is for the operator.
pub async fn this_host(token: &Token, settings: &Settings) -> Result<Enrolled, EnrolError> {
    let state = StateDir::new(&settings.state_dir);
    let was_sealed = sealing::was_sealed(&state);
    let (state, why) = match sealing::with_kek(state.clone(), &PROGRAM_DIRS.map(Path::new)) {
        Ok(state) => (state, None),
        Err(error) => (state, Some(error)),
    };
    let mut rng = UnwrapErr(SysRng);
    let done = enrol(token, options(settings), &facts(settings), &state, &mut rng).await;
    let mut enrolled = done?;
    if was_sealed && matches!(state.identity_store().is_sealed(), Ok(Some(false))) {
        enrolled.warnings.push(in_plain(why.as_ref()));
    }
    Ok(enrolled)
}

fn in_plain(why: Option<&SealingError>) -> String {
    let why = why.map_or_else(|| "its file was lost".to_owned(), ToString::to_string);
    format!(
        "the identity key of this host was sealed, and the new one is in plain, since the old one could not be opened ({why}). To seal the new one, run 'vpn-node identity seal' as root before the agent starts"
    )
}

/// `vpn-node enroll`: the same, for a program without a runtime of its own. What may heal by
/// itself (network, overload) is tried again; `told` gets a line, safe to print, with why and when.
///
/// # Errors
/// [`CommandError`]: its text is for the operator.
pub fn by_command(
    token: &str,
    settings: &Settings,
    told: impl Fn(&str),
) -> Result<Enrolled, CommandError> {
    let token = Token::parse(token)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(CommandError::Runtime)?.block_on(async {
        for attempt in 1..COMMAND_ATTEMPTS {
            let error = match this_host(&token, settings).await {
                // A person mends the URL sooner than the port changes its protocol.
                Err(error @ EnrolError::Client(ClientError::NotTls { .. })) => {
                    return Err(CommandError::GivenUp(error));
                }
                Err(error) if error.is_temporary() => error,
                done => return Ok(done?),
            };
            let wait = schedule::backoff(attempt, None, &mut UnwrapErr(SysRng));
            let why = error.to_string();
            let wait_s = wait.as_secs_f32();
            told(&format!("{}; trying again in {wait_s:.1} s", shown(&why)));
            tokio::time::sleep(wait).await;
        }
        match this_host(&token, settings).await {
            Err(error) if error.is_temporary() => Err(CommandError::GivenUp(error)),
            done => Ok(done?),
        }
    })
}

/// Why `vpn-node enroll` failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The text is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The last attempt failed as those before it.
    #[error("{0}; when that is mended, run 'vpn-node enroll' again with the same token")]
    GivenUp(EnrolError),
    /// Everything after that.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// No runtime.
    #[error("cannot start the event loop: {0}")]
    Runtime(std::io::Error),
}

/// How the configuration says the controller is reached.
fn options(settings: &Settings) -> Options {
    Options {
        urls: settings.controller.urls.clone().unwrap_or_default(),
        server_pin: None,
        ca_file: settings.controller.ca_file.clone(),
        proxy: settings
            .controller
            .proxy
            .as_ref()
            .map(|proxy| proxy.expose().to_owned()),
    }
}

/// How the enrolment says that the controller is reached, where the configuration does not.
pub(super) struct Reach {
    pub(super) urls: Vec<String>,
    pub(super) server_pin: Option<Digest>,
}

/// The two together.
pub(super) fn options_of(settings: &Settings, reach: &Reach) -> Options {
    let mut options = options(settings);
    if options.urls.is_empty() {
        options.urls.clone_from(&reach.urls);
    }
    options.server_pin = reach.server_pin;
    options
}

/// Looks at the hardware. Root first writes the part that only root can read, so that the answer
/// is the same as in the unprivileged daemon, whose unit has root write it at each start.
pub(super) fn probe(settings: &Settings) -> hardware::Probe {
    let roots = Roots::host(&settings.runtime_dir);
    if nix::unistd::geteuid().is_root() {
        // The unit makes it at its first start, which comes after the enrolment.
        if let Some(dir) = roots.snapshot.parent()
            && let Err(error) = make_snapshot_dir(dir, settings)
        {
            tracing::warn!(
                message_id = %journal::HOST_UNUSUAL,
                %error, "the directory of the hardware snapshot cannot be made"
            );
        }
        if let Err(error) = snapshot::write(&roots) {
            tracing::warn!(
                message_id = %journal::HOST_UNUSUAL,
                %error, "the hardware snapshot cannot be written"
            );
        }
    }
    hardware::probe(&roots)
}

/// Root's, and the group may read who owns the state: as the unit would.
fn make_snapshot_dir(path: &Path, settings: &Settings) -> io::Result<()> {
    match DirBuilder::new().mode(0o750).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    match std::fs::metadata(&settings.state_dir) {
        Ok(owner) => chown(path, None, Some(owner.gid())),
        Err(_) => Ok(()),
    }
}

fn facts(settings: &Settings) -> Host {
    Host {
        hostname: short(ids::hostname()),
        os_version: short(ids::os_version(Path::new("/")).unwrap_or_default()),
        location: settings.location.clone(),
        components: probe(settings).components,
        capabilities: Vec::new(),
    }
}

/// A text within the protocol's bounds: what does not fit is left out, not refused.
pub(super) fn short(text: String) -> String {
    if is_short_text(&text) {
        return text;
    }
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    clean[..clean.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}
