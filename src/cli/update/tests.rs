//! The updater's command line, the screens, and the sentences.

use vpn_node_release::handover::{Attempt, Blocked, Phase};

use super::*;
use crate::core::report::DownloadStatus;

fn words(command: &UpdateCommand, root: Option<&str>) -> Vec<String> {
    let line = arguments(command, root.map(PathBuf::from));
    line.into_iter()
        .map(|word| word.into_string().unwrap())
        .collect()
}

#[test]
fn commands_become_the_updaters_with_values_that_are_no_options() {
    let apply = UpdateCommand::Apply {
        release: Some("--replace".into()),
        offline: Some("-file".into()),
        no_wait: false,
    };
    assert_eq!(
        words(&apply, Some("/tree")),
        [
            "--root=/tree",
            "apply",
            "--version=--replace",
            "--",
            "-file"
        ]
    );
    let plan = UpdateCommand::Plan {
        offline: Some("a b".into()),
        release: None,
        json: true,
    };
    assert_eq!(words(&plan, None), ["plan", "--offline=a b", "--json"]);
    let trust = UpdateCommand::Trust {
        file: "root.json".into(),
        sha256: Some("ab".into()),
        replace: true,
    };
    assert_eq!(
        words(&trust, None),
        ["trust", "--sha256=ab", "--replace", "--", "root.json"]
    );
    let pin = UpdateCommand::Pin {
        release: "1.4.0".into(),
    };
    assert_eq!(words(&pin, None), ["pin", "--", "1.4.0"]);
    assert_eq!(words(&UpdateCommand::Rollback, None), ["rollback"]);
}

#[test]
fn the_tree_of_a_state_directory_is_told_to_the_updater() {
    let root = |path: &str| root_of(Path::new(path));
    assert_eq!(root("/var/lib/vpn-node"), None);
    assert_eq!(root("/tree/var/lib/vpn-node"), Some("/tree".into()));
    assert_eq!(root("/srv/agent"), None);
    assert_eq!(root("/"), None);
}

#[test]
fn the_updater_beside_this_program_is_taken_first_and_only_whole_paths_count() {
    let dir = tempfile::tempdir().unwrap();
    let [slot, system] = ["slot", "system"].map(|name| dir.path().join(name));
    for folder in [&slot, &system] {
        std::fs::create_dir(folder).unwrap();
    }
    let path = std::env::join_paths([Path::new("relative"), &system]).unwrap();
    assert_eq!(find(Some(&slot), &path), None);
    std::fs::write(system.join(UPDATER), "").unwrap();
    assert_eq!(find(Some(&slot), &path), Some(system.join(UPDATER)));
    std::fs::write(slot.join(UPDATER), "").unwrap();
    assert_eq!(find(Some(&slot), &path), Some(slot.join(UPDATER)));
    assert_eq!(find(None, OsStr::new("")), None);
}

fn known_of(change: impl FnOnce(&mut UpdateStatus)) -> Known {
    let mut update = UpdateStatus {
        enabled: true,
        platform: "linux-amd64".into(),
        managed: true,
        metadata_age_s: Some(125),
        updater: Some(Installed {
            root_version: Some(2),
            channel: "stable".into(),
            stable: "1.4.0".into(),
            stable_version: "1.4.0".into(),
            previous: Some("system".into()),
            counter: 8,
            security_floor: Some("1.0.0".into()),
            ..Installed::default()
        }),
        ..UpdateStatus::default()
    };
    change(&mut update);
    Known {
        update,
        by_agent: true,
    }
}

/// Without colours.
fn plain(known: &Known) -> String {
    anstream::adapter::strip_str(&show::screen(known)).to_string()
}

#[test]
fn the_screen_says_what_is_installed_held_back_and_under_way() {
    let quiet = plain(&known_of(|_| {}));
    for part in [
        "1.4.0 (slot 1.4.0)",
        "Previous      system",
        "stable, release 8 seen, nothing below 1.0.0",
        "verified 2 min 5 s ago",
    ] {
        assert!(quiet.contains(part), "{part}: {quiet}");
    }
    let busy = plain(&known_of(|update| {
        update.download = Some(DownloadStatus {
            version: "1.5.0".into(),
            step: "downloading".into(),
            bytes: 5 << 20,
            total: 20 << 20,
            bytes_per_s: 1 << 20,
            ..DownloadStatus::default()
        });
        let status = update.updater.as_mut().unwrap();
        status.pinned = Some("1.4.0".into());
        status.blocked.push(Blocked {
            version: "1.4.9".into(),
            code: "crashed\x1b[31m".into(),
            count: 2,
            until_ms: 0,
        });
    }));
    let bar = "1.5.0 [######                  ]  25 %  5.0 MiB of 20.0 MiB  1.0 MiB/s  15 s left";
    for part in [
        bar,
        "pinned to 1.4.0",
        "1.4.9 ended badly 2 times",
        "1970-01-01",
    ] {
        assert!(busy.contains(part), "{part}: {busy}");
    }
    assert!(!busy.contains('\x1b'), "{busy}");
}

#[test]
fn a_progress_line_survives_every_number() {
    for (bytes, total, bytes_per_s) in [
        (0, 0, 0),
        (u64::MAX, 1, 1),
        (1, u64::MAX, 1),
        (u64::MAX, u64::MAX, u64::MAX),
    ] {
        let line = show::progress(&DownloadStatus {
            step: "downloading".into(),
            bytes,
            total,
            bytes_per_s,
            ..DownloadStatus::default()
        });
        assert!(!line.is_empty());
    }
}

#[test]
fn an_outcome_is_a_sentence_with_code_and_reason() {
    let attempt = Attempt {
        id: "1".into(),
        deployment: None,
        version: "1.5.0".into(),
        from: "1.4.0".into(),
        phase: Phase::RolledBack,
        code: Some("crashed".into()),
        detail: Some("it ended after 2 s".into()),
        started_ms: 0,
        changed_ms: 0,
        deadline_ms: Some(1),
    };
    let text = anstream::adapter::strip_str(&show::outcome(&attempt)).to_string();
    assert_eq!(
        text,
        "1.5.0 ran badly, 1.4.0 runs again; crashed: it ended after 2 s (1970-01-01 00:00:00 UTC)"
    );
}

#[test]
fn the_history_is_read_line_by_line_and_a_torn_line_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    assert!(show::history(&show::read_history(dir.path()).unwrap()).contains("No update"));
    let text = r#"{"at_ms":0,"event":"pinned","version":"1.4.0"}
{"at_ms":1000,"event":"rolled_back","attempt":"x","from":"1.4.0","version":"1.5.0","code":"hangs","detail":"no answer","newer":1}
{"at_ms":2000,"eve"#;
    std::fs::write(dir.path().join("history.jsonl"), text).unwrap();
    let lines = show::read_history(dir.path()).unwrap();
    assert_eq!(lines.len(), 2);
    let text = anstream::adapter::strip_str(&show::history(&lines)).to_string();
    assert!(
        text.contains("1.5.0 from 1.4.0  hangs: no answer"),
        "{text}"
    );
}

#[test]
fn the_updaters_file_is_read_when_the_agent_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(installed(dir.path()), Ok(None));
    let status = Installed {
        format: 1,
        stable_version: "1.4.0".into(),
        ..Installed::default()
    };
    std::fs::write(
        dir.path().join("status.json"),
        serde_json::to_vec(&status).unwrap(),
    )
    .unwrap();
    assert_eq!(installed(dir.path()), Ok(Some(status)));
    std::fs::write(dir.path().join("status.json"), "{").unwrap();
    assert!(
        installed(dir.path())
            .unwrap_err()
            .contains("not understood")
    );
}
