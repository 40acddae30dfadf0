//! The running controller keeps its repository fresh: it renews snapshot and timestamp, finishes
//! what a crash left, makes the table follow, and says in time that people must sign again.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp as Instant};
use tokio::sync::watch;
use vpn_node_release::metadata::Header;

use super::error::ReleaseError;
use super::publish::{self, Outcome};
use super::stage::{Progress, Stage};
use super::tree::{Published, Tree};
use super::{DiskError, mirror, online};
use crate::api;
use crate::clock::Clock;
use crate::rules::effect::NewEvent;
use crate::rules::events::EventType;
use crate::store::{EventFilter, Store};

/// How often it looks, by a clock that stands still while the machine sleeps: so an hour of sleep
/// costs a minute at most. A look costs a few signatures.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often the table is compared although nothing was published: somebody may have changed it.
const MIRROR_EVERY_MS: i64 = 3600 * 1000;
/// People who sign need this long to come together.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// The same warning comes once in this time.
const REPEAT_MS: i64 = 24 * 3600 * 1000;

/// What a look found.
#[derive(Debug, Default)]
pub struct Look {
    /// What was renewed or finished, if anything was to do.
    pub outcome: Option<Outcome>,
    /// Version of the list of releases, if there is one.
    pub targets: Option<u64>,
    /// Sentences about what ends soon.
    pub ends: Vec<String>,
    /// Why something that is signed could not be published.
    pub problem: Option<String>,
}

/// Keeps the repository until the controller stops.
pub async fn keep(
    tree: Tree,
    store: Arc<dyn Store>,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) {
    let mut mirrored: (Option<u64>, i64) = (None, i64::MIN);
    loop {
        let now_ms = clock();
        round(&tree, &*store, now_ms, &mut mirrored).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = api::stopped(&mut stop) => return,
        }
    }
}

/// One look, with everything that follows from it. `mirrored` is which list of releases the table
/// followed last, and when.
async fn round(tree: &Tree, store: &dyn Store, now_ms: i64, mirrored: &mut (Option<u64>, i64)) {
    let now = Instant::from_millisecond(now_ms).unwrap_or(Instant::UNIX_EPOCH);
    let own = tree.clone();
    let looked = tokio::task::spawn_blocking(move || look(&own, now)).await;
    let looked = match looked {
        Ok(Ok(looked)) => looked,
        // An operator's command is at work: the next look sees what it did.
        Ok(Err(ReleaseError::Disk(DiskError::Locked(_)))) => return,
        Ok(Err(error)) => {
            tracing::error!(%error, "the releases could not be kept fresh");
            return warn(
                store,
                EventType::ReleaseRefreshFailed,
                error.to_string(),
                now_ms,
            )
            .await;
        }
        Err(error) => return tracing::error!(%error, "the look at the releases ended badly"),
    };
    if let Some(outcome) = &looked.outcome {
        tracing::info!(
            root = outcome.root,
            targets = outcome.targets,
            "a new snapshot and timestamp of the releases are published"
        );
    }
    if let Some(problem) = looked.problem {
        warn(store, EventType::ReleaseRefreshFailed, problem, now_ms).await;
    }
    for sentence in looked.ends {
        warn(store, EventType::ReleaseMetadataExpires, sentence, now_ms).await;
    }
    let is_old = now_ms.saturating_sub(mirrored.1) >= MIRROR_EVERY_MS || now_ms < mirrored.1;
    if looked.targets.is_some() && (looked.targets != mirrored.0 || is_old) {
        match mirror::mirror(store, tree, now_ms).await {
            Ok(_) => *mirrored = (looked.targets, now_ms),
            Err(error) => tracing::error!(%error, "the table of releases could not follow"),
        }
    }
}

/// Renews what is due.
///
/// # Errors
/// [`ReleaseError`]; hosts see what they saw before.
pub fn look(tree: &Tree, now: Instant) -> Result<Look, ReleaseError> {
    let Some(published) = tree.load_optional()? else {
        return Ok(Look::default());
    };
    let has_key = online::load(tree, &published.root().role)?.is_some();
    let is_due = has_key && online::is_due(&published, now);
    let (mut outcome, mut problem) = (None, None);
    if is_due || (has_key && is_signed(tree, &published)) {
        match publish::advance(tree, None, now) {
            Ok(done) => outcome = Some(done).filter(|done| done.live),
            Err(ReleaseError::Disk(error @ DiskError::Locked(_))) => return Err(error.into()),
            // Whatever is wrong with what waits: hosts go on to get what is published.
            Err(error) => problem = Some(error.to_string()),
        }
        if is_due && outcome.is_none() {
            outcome = Some(publish::renew(tree, now)?);
        }
    }
    let published = tree.load()?;
    let root = published.root().role.header.clone();
    let targets = published
        .targets
        .as_ref()
        .map(|file| file.role.header.clone());
    // A mirror is kept fresh by its source; that it is not is all that can be said here.
    let timestamp = published
        .timestamp
        .as_ref()
        .map(|file| file.role.header.clone());
    let timestamp = timestamp.filter(|_| !has_key);
    let ends = [
        ends("the root", Some(&root), WARN_BEFORE, now),
        ends("the list of releases", targets.as_ref(), WARN_BEFORE, now),
        ends(
            "the timestamp",
            timestamp.as_ref(),
            SignedDuration::from_hours(48),
            now,
        ),
    ];
    Ok(Look {
        outcome,
        targets: targets.map(|header| header.version),
        ends: ends.into_iter().flatten().collect(),
        problem,
    })
}

/// Whether something waits that has all its signatures: a crash came before it was published.
fn is_signed(tree: &Tree, published: &Published) -> bool {
    let progress = Stage::load(tree).and_then(|stage| stage.progress(Some(published)));
    progress.is_ok_and(|all| all.iter().any(Progress::is_complete))
}

fn ends(
    what: &str,
    header: Option<&Header>,
    before: SignedDuration,
    now: Instant,
) -> Option<String> {
    let header = header?;
    let left = header.expires.instant().duration_since(now);
    let verb = if left.is_positive() {
        "ends"
    } else {
        "has ended"
    };
    (left < before).then(|| {
        format!(
            "{what} (version {}) {verb} at {}: hosts take no news after that",
            header.version, header.expires
        )
    })
}

/// An event, unless the same was recorded in the last day.
async fn warn(store: &dyn Store, event_type: EventType, description: String, now_ms: i64) {
    let filter = EventFilter {
        event_type: Some(event_type),
        since_ms: Some(now_ms - REPEAT_MS),
        ..EventFilter::newest(20)
    };
    let beginning: String = description.chars().take(24).collect();
    let recorded = match store.list_events(filter).await {
        Ok(events) => events
            .iter()
            .any(|event| event.description.starts_with(&beginning)),
        Err(_) => false,
    };
    if recorded {
        return;
    }
    tracing::warn!(%description, "releases: somebody must act");
    let event = NewEvent {
        event_type,
        source_id: None,
        description,
        at_ms: now_ms,
    };
    if let Err(error) = store.record_event(event).await {
        tracing::error!(%error, "an event about the releases could not be recorded");
    }
}
