//! Following an update to its end: one line that changes on a terminal, a line a change elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use vpn_node_release::handover::Attempt;

use super::{known, show};
use crate::cli::console::Console;
use crate::cli::{Exit, reach};
use crate::core::report::UpdateStatus;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So long may nothing at all go on before following ends: the updater starts in a second, and an
/// agent that restarts into another version says nothing for some.
const PATIENCE: u32 = 30;

/// Until neither a download nor an attempt is under way.
pub(super) fn until_nothing_goes_on(place: &reach::Place, console: &mut Console<'_>) -> Exit {
    follow(place, console, |update| match doing(update) {
        Doing::Something(line) => Look::GoesOn(line),
        Doing::Nothing => Look::Ended(last(update), Exit::Ok),
    })
}

/// Until this version is installed, or is not.
pub(super) fn version(place: &reach::Place, version: &str, console: &mut Console<'_>) -> Exit {
    let before = known(place).ok();
    let before = before
        .and_then(|known| known.update.updater?.attempt)
        .map(|attempt| attempt.id);
    let mut silent = 0;
    follow(place, console, |update| {
        if let Doing::Something(line) = doing(update) {
            silent = 0;
            return Look::GoesOn(line);
        }
        let attempt = update
            .updater
            .as_ref()
            .and_then(|updater| updater.attempt.as_ref());
        if let Some(attempt) =
            attempt.filter(|a| a.version == version && Some(&a.id) != before.as_ref())
        {
            return Look::Ended(show::outcome(attempt), exit(attempt));
        }
        let download = update
            .download
            .as_ref()
            .filter(|download| download.version == version);
        if let Some(download) = download.filter(|d| d.step == "done" && d.code.is_some()) {
            return Look::Ended(show::progress(download), Exit::Failed);
        }
        silent += 1;
        match silent > PATIENCE {
            true => Look::Ended(last(update), Exit::Failed),
            false => Look::GoesOn("waits for the agent and the updater".to_owned()),
        }
    })
}

enum Look {
    GoesOn(String),
    Ended(String, Exit),
}

enum Doing {
    Something(String),
    Nothing,
}

fn doing(update: &UpdateStatus) -> Doing {
    let attempt = update
        .updater
        .as_ref()
        .and_then(|updater| updater.attempt.as_ref());
    if let Some(attempt) = attempt.filter(|attempt| !attempt.phase.is_final()) {
        return Doing::Something(show::outcome(attempt));
    }
    match &update.download {
        Some(download) if download.step != "done" => Doing::Something(show::progress(download)),
        _ => Doing::Nothing,
    }
}

fn last(update: &UpdateStatus) -> String {
    let attempt = update
        .updater
        .as_ref()
        .and_then(|updater| updater.attempt.as_ref());
    match (attempt, &update.download) {
        (Some(attempt), _) => show::outcome(attempt),
        (None, Some(download)) => show::progress(download),
        (None, None) => "nothing goes on".to_owned(),
    }
}

fn exit(attempt: &Attempt) -> Exit {
    match attempt.phase {
        vpn_node_release::handover::Phase::Installed => Exit::Ok,
        _ => Exit::Failed,
    }
}

fn follow(
    place: &reach::Place,
    console: &mut Console<'_>,
    mut judge: impl FnMut(&UpdateStatus) -> Look,
) -> Exit {
    let redraws = std::io::stdout().is_terminal();
    let mut drawn = String::new();
    loop {
        let look = match known(place) {
            Ok(known) => judge(&known.update),
            Err(error) => Look::Ended(error, Exit::Failed),
        };
        let (line, ended) = match look {
            Look::GoesOn(line) => (line, None),
            Look::Ended(line, exit) => (line, Some(exit)),
        };
        if line != drawn {
            // Carriage return and "erase to the end of the line" (ECMA-48 EL).
            match redraws {
                true => console.out(&format!("\r{line}\x1b[K")),
                false => console.out(&format!("{line}\n")),
            }
            console.flush();
            drawn = line;
        }
        if let Some(exit) = ended {
            if redraws {
                console.out("\n");
            }
            return exit;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
