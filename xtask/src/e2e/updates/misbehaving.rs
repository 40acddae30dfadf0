//! Releases that are signed and bad: each must be gone within two minutes of its start, blocked,
//! and the former version must run as if nothing had been.

use anyhow::Result;

use super::good::Vpn;
use super::scene::{Plan, SHORT, Scene, seconds};
use super::shelf::{
    CANNOT_READ, CRASHES, CRASHES_LATER, DROPS_SESSIONS, HANGS, HOG, LOSES_BACKEND, MUTE,
    NOT_ENROLLED, Shelf,
};
use super::{Figure, Listed};

pub(super) const SCENARIOS: Listed = &[
    ("never-answers", false, |shelf| {
        gone(shelf, MUTE, SHORT, "unresponsive")
    }),
    ("finds-no-enrolment", false, |shelf| {
        gone(shelf, NOT_ENROLLED, MINUTE, "ledger_broken")
    }),
    ("drops-sessions", false, |shelf| {
        with_vpn(shelf, DROPS_SESSIONS, "sessions_lost")
    }),
    ("loses-backend", false, |shelf| {
        with_vpn(shelf, LOSES_BACKEND, "backend_lost")
    }),
    ("hangs", true, |shelf| {
        gone(shelf, HANGS, LATER, "unresponsive")
    }),
    ("crashes-at-once", true, |shelf| {
        gone(shelf, CRASHES, SHORT, "start_failed")
    }),
    ("crashes-after-5-s", true, |shelf| {
        gone(shelf, CRASHES_LATER, LATER, "crashed")
    }),
    ("memory-hog", true, |shelf| {
        gone(shelf, HOG, SHORT, "memory_exceeded")
    }),
    ("cannot-read-state", true, |shelf| {
        gone(shelf, CANNOT_READ, SHORT, "state_unreadable")
    }),
];

/// What goes well for five seconds, which take longer on a busy machine.
const LATER: &str = "supervisor = \"plain\"\nprobation = \"30s\"\nextension = \"6s\"\n";
/// What takes a minute to be seen needs a probation that is longer.
const MINUTE: &str = "supervisor = \"plain\"\nprobation = \"75s\"\nextension = \"6s\"\n";

fn gone(shelf: &Shelf, version: &str, updater: &str, code: &str) -> Result<Figure> {
    play(
        shelf,
        version,
        code,
        &Plan {
            updater,
            ..Plan::default()
        },
    )
}

fn with_vpn(shelf: &Shelf, version: &str, code: &str) -> Result<Figure> {
    let vpn = Vpn::serve()?;
    let plan = Plan {
        updater: MINUTE,
        agent: &vpn.settings,
        ..Plan::default()
    };
    play(shelf, version, code, &plan)
}

fn play(shelf: &Shelf, version: &str, code: &str, plan: &Plan<'_>) -> Result<Figure> {
    let mut scene = Scene::set(shelf, plan)?;
    let id = scene.roll_out(version, &[])?;
    let end = scene.watch(0, version)?;
    scene.is_sent_away(0, version, &end, code)?;
    scene.is_halted(&id)?;
    // Asking again is in vain until root says otherwise.
    scene.leaves_out(0, version, "blocked")?;
    Ok(Figure {
        text: format!(
            "gone after {} [{code}], blocked: {}",
            seconds(end.after_start),
            end.detail
        ),
        back: Some(end.after_start),
    })
}
