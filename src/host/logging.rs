//! Sets up logging, once a process: to the journal where standard error is the journal, else to
//! standard error.
//!
//! In the journal each value is a field of its own (`journalctl SERVER_ID=…`) without a prefix, so
//! no value may be named like a field of systemd.journal-fields(7) (`priority`, `unit`, …). The
//! configured level holds for our own crates; libraries never say more than warnings, since what
//! they print below that includes addresses. Level and node id may change while the process runs.

mod text;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use nix::sys::stat::fstat;
use tracing::Subscriber;
use tracing_journald::Layer as Journal;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use crate::core::journal;

/// All targets of this repository start so: `vpn_node::…`, `vpn_node_agent`, `vpn_node_protocol`.
const OWN_TARGETS: &str = "vpn_node";

/// What may change in this process.
static CHANGEABLE: OnceLock<Changeable> = OnceLock::new();

struct Changeable {
    identifier: String,
    level: Handle<Targets, Registry>,
    /// None where the log is no journal.
    journal: Option<Handle<Journal, Registry>>,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum LoggingError {
    #[error("log_level {level:?} is not a level: use error, warn, info, debug or trace")]
    Level { level: String },
    #[error("logging is already set up in this process")]
    AlreadySetUp,
}

/// Sets up logging at `level`, as `identifier` (`SYSLOG_IDENTIFIER` in the journal).
///
/// Without a reachable journal it falls back to standard error and says so.
///
/// # Errors
/// [`LoggingError`] if `level` is none, or if it was called before.
pub fn init(identifier: &str, level: &str) -> Result<(), LoggingError> {
    let (filter, level) = reload::Layer::new(filter(parse_level(level)?));
    let changeable = |journal| Changeable {
        identifier: identifier.to_owned(),
        level,
        journal,
    };
    let mut unreachable = None;
    if is_journal(
        std::env::var_os("JOURNAL_STREAM").as_deref(),
        stderr_device(),
    ) {
        match journal(identifier, None) {
            Ok(journal) => {
                let (journal, handle) = reload::Layer::new(journal);
                return install(journal.with_filter(filter), changeable(Some(handle)));
            }
            Err(error) => unreachable = Some(error),
        }
    }
    let ansi = wants_ansi(io::stderr().is_terminal(), std::env::var_os("NO_COLOR"));
    let text = text_layer(io::stderr, ansi).with_filter(filter);
    install(text, changeable(None))?;
    if let Some(error) = unreachable {
        tracing::warn!(
            message_id = %journal::HOST_UNUSUAL,
            %error, "cannot reach the journal; logging to standard error instead"
        );
    }
    Ok(())
}

/// Sets up logging of errors where standard error is the journal, and says whether it is; for a
/// program that fails before it knows its settings.
#[must_use]
pub fn init_in_journal(identifier: &str) -> bool {
    let stream = std::env::var_os("JOURNAL_STREAM");
    is_journal(stream.as_deref(), stderr_device()) && init(identifier, "error").is_ok()
}

/// Logs at `level` from now on.
///
/// # Errors
/// [`LoggingError::Level`] if it is none.
pub fn set_level(level: &str) -> Result<(), LoggingError> {
    let filter = filter(parse_level(level)?);
    if let Some(changeable) = CHANGEABLE.get() {
        // It fails only when the subscriber is gone, and with it the log.
        let _ = changeable.level.reload(filter);
        tracing::callsite::rebuild_interest_cache();
    }
    Ok(())
}

/// Every further entry of the journal carries `NODE_ID=`: the server id that the controller gave.
pub fn set_node_id(id: &str) {
    let Some(changeable) = CHANGEABLE.get() else {
        return;
    };
    if let Some(handle) = &changeable.journal
        && let Ok(journal) = journal(&changeable.identifier, Some(id))
    {
        let _ = handle.reload(journal);
    }
}

fn journal(identifier: &str, node_id: Option<&str>) -> io::Result<Journal> {
    let journal = tracing_journald::layer()?
        .with_field_prefix(None)
        .with_syslog_identifier(identifier.to_owned())
        .with_priority_mappings(priorities());
    Ok(match node_id {
        Some(id) => journal.with_custom_fields([("NODE_ID", id)]),
        None => journal,
    })
}

/// The level of a configuration file.
///
/// # Errors
/// [`LoggingError::Level`] for anything but error, warn, info, debug and trace.
pub fn parse_level(level: &str) -> Result<LevelFilter, LoggingError> {
    Ok(match level {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => {
            return Err(LoggingError::Level {
                level: level.to_owned(),
            });
        }
    })
}

fn install<L>(layer: L, changeable: Changeable) -> Result<(), LoggingError>
where
    L: Layer<Registry> + Send + Sync,
{
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(|_| LoggingError::AlreadySetUp)?;
    // Set up once, as the line before has proved.
    let _ = CHANGEABLE.set(changeable);
    Ok(())
}

fn filter(level: LevelFilter) -> Targets {
    Targets::new()
        .with_target(OWN_TARGETS, level)
        .with_default(level.min(LevelFilter::WARN))
}

/// Our info is the journal's info; the default of the crate is one step higher.
fn priorities() -> PriorityMappings {
    PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    }
}

fn text_layer<S, W>(writer: W, ansi: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer()
        .fmt_fields(text::Fields)
        .compact()
        .with_writer(writer)
        .with_ansi(ansi)
}

/// Colours for people only, and not for those who said no (no-color.org: set and not empty).
fn wants_ansi(is_terminal: bool, no_color: Option<OsString>) -> bool {
    is_terminal && no_color.is_none_or(|value| value.is_empty())
}

/// `$JOURNAL_STREAM` is `device:inode` of the stream which systemd connected (systemd.exec(5)). A
/// child whose standard error was redirected inherits the variable but not the stream.
fn is_journal(journal_stream: Option<&OsStr>, stderr: Option<(u64, u64)>) -> bool {
    let stream = journal_stream
        .and_then(OsStr::to_str)
        .and_then(|text| text.split_once(':'))
        .and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    stream.is_some() && stream == stderr
}

fn stderr_device() -> Option<(u64, u64)> {
    let stat = fstat(io::stderr()).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn logged(level: &str, ansi: bool, log: impl FnOnce()) -> String {
        let sink = Arc::new(Mutex::new(Vec::new()));
        let layer =
            text_layer(Sink(sink.clone()), ansi).with_filter(filter(parse_level(level).unwrap()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let text = sink.lock().unwrap().clone();
        String::from_utf8(text).unwrap()
    }

    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_wrong_level_says_which_there_are() {
        for level in ["", "INFO", "verbose", "vpn_node=debug", "info\n"] {
            let message = parse_level(level).unwrap_err().to_string();
            assert!(
                message.contains("use error, warn, info, debug or trace"),
                "{message}"
            );
        }
    }

    #[test]
    fn libraries_stay_at_warnings() {
        let text = logged("debug", false, || {
            tracing::debug!(target: "vpn_node::daemon", "ours");
            tracing::debug!(target: "vpn_node_agent", "the bin");
            tracing::info!(target: "reqwest::connect", "connecting to 192.0.2.1");
            tracing::warn!(target: "reqwest", "theirs");
        });
        assert!(text.contains("ours") && text.contains("the bin") && text.contains("theirs"));
        assert!(!text.contains("192.0.2.1"));
        let text = logged("error", false, || {
            tracing::warn!(target: "reqwest", "theirs");
            tracing::warn!(target: "vpn_node", "ours");
        });
        assert_eq!(text, "");
    }

    #[test]
    fn plain_text_has_no_escape_sequences() {
        let log = || tracing::info!(target: "vpn_node", name = "\u{1b}[31mred", "seen");
        let text = logged("info", false, log);
        assert!(
            text.contains("seen") && !text.contains('\u{1b}'),
            "{text:?}"
        );
        assert!(logged("info", true, log).contains('\u{1b}'));
    }

    #[test]
    fn what_is_for_the_journal_alone_is_not_shown_to_people() {
        let text = logged("info", false, || {
            tracing::info!(
                target: "vpn_node",
                message_id = %journal::VERIFIED, error_code = "some_code", "seen {}", 7
            );
        });
        assert!(
            text.trim_end().ends_with("seen 7 error_code=\"some_code\""),
            "{text}"
        );
        assert!(!text.contains(&journal::VERIFIED.to_string()), "{text}");
    }

    #[test]
    fn colours_need_a_terminal_and_no_objection() {
        assert!(wants_ansi(true, None));
        assert!(wants_ansi(true, Some("".into())));
        assert!(!wants_ansi(true, Some("1".into())));
        assert!(!wants_ansi(false, None));
    }

    #[test]
    fn the_journal_is_recognised_by_its_stream() {
        let stderr = Some((8, 12345));
        assert!(is_journal(Some(OsStr::new("8:12345")), stderr));
        for other in ["8:12346", "8", "", "x:y", "8:12345:1"] {
            assert!(!is_journal(Some(OsStr::new(other)), stderr), "{other}");
        }
        assert!(!is_journal(None, stderr));
        assert!(!is_journal(None, None));
    }
}
