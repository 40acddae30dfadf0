//! Trials told as scripts: what is seen in each second, and what the judge must say, when.

use proptest::prelude::*;

use super::super::baseline::BackendBefore;
use super::*;
use crate::evidence::{Backend, Heartbeats, Ledger};

const MIB: u64 = 1 << 20;

fn limits() -> Limits {
    Limits {
        probation: Duration::from_secs(120),
        extension: Duration::from_secs(3600),
        memory: 256 * MIB,
    }
}

fn version() -> Version {
    Version::new(1, 5, 0)
}

/// An enrolled host in touch with its controller, with one VPN daemon and these connections.
fn before(sessions: u64) -> Baseline {
    Baseline {
        enrolled: Some(true),
        in_touch: true,
        ledger_broken: false,
        up: vec![BackendBefore {
            kind: "wireguard".into(),
            instance: "wg0".into(),
            sessions,
        }],
    }
}

fn report(sessions: u64, attempted: u64, accepted: u64, problem: &str) -> Report {
    Report {
        version: "1.5.0".into(),
        enrolled: true,
        backends: vec![Backend {
            kind: "wireguard".into(),
            instance: "wg0".into(),
            state: "up".into(),
            sessions,
        }],
        heartbeats: Some(Heartbeats {
            attempted,
            accepted,
            last_problem: Some(problem.into()),
        }),
        ..Report::default()
    }
}

fn good() -> Report {
    report(10, 3, 3, "none")
}

fn look(second: u64, report: Result<Report, Silence>) -> Look {
    Look {
        at: Duration::from_secs(1000 + second),
        process: Some(ProcessState::Running { pid: 7 }),
        stable_runs: false,
        memory: Some(20 * MIB),
        report,
    }
}

/// Shows a look a second until something other than "watching" is said (extensions are counted
/// and passed over); gives the second and the word.
fn tried(
    baseline: &Baseline,
    limits: Limits,
    mut script: impl FnMut(u64) -> Look,
) -> (u64, Verdict, usize) {
    let version = version();
    let start = Duration::from_secs(1000);
    let mut judge = Judge::new(&version, baseline, limits, Demand::Everything, start);
    let mut extensions = 0;
    for second in 0..6000 {
        match judge.see(&script(second)) {
            Verdict::Watching => {}
            Verdict::Extended { .. } => extensions += 1,
            last => {
                assert_eq!(judge.see(&look(9999, Ok(good()))), last, "it stands");
                return (second, last, extensions);
            }
        }
    }
    panic!("no verdict");
}

fn sick_with(script: impl FnMut(u64) -> Look) -> (u64, UpdaterCode) {
    match tried(&before(10), limits(), script) {
        (second, Verdict::Sick { code, .. }, 0) => (second, code),
        other => panic!("{other:?}"),
    }
}

fn nobody() -> Result<Report, Silence> {
    Err(Silence::Nobody("no such file".into()))
}

fn exited(second: u64, how: How) -> Look {
    Look {
        process: Some(ProcessState::Exited { how }),
        ..look(second, nobody())
    }
}

#[test]
fn a_good_version_stays_when_the_time_is_over_and_not_before() {
    let (second, verdict, extensions) = tried(&before(10), limits(), |s| look(s, Ok(good())));
    assert_eq!(verdict, Verdict::Healthy { remark: None });
    assert_eq!((second, extensions), (120, 0));
}

#[test]
fn every_kind_of_bad_release_has_its_own_code_within_two_minutes() {
    let lost_daemon = |s: u64| {
        let mut report = good();
        report.backends[0].state = "unavailable".into();
        look(s, Ok(report))
    };
    let broken_ledger = |s: u64| {
        let ledger = Ledger {
            writable: Some(false),
            error: Some("no space".into()),
        };
        look(s, Ok(Report { ledger, ..good() }))
    };
    let hog = |s: u64| Look {
        memory: Some(s * 100 * MIB),
        ..look(s, Ok(good()))
    };
    let wrong = |s: u64| {
        let running_from = Some("1.4.0".into());
        look(
            s,
            Ok(Report {
                running_from,
                ..good()
            }),
        )
    };
    let stuck = |s: u64| {
        let age_s = s;
        look(s, Ok(Report { age_s, ..good() }))
    };
    let found = [
        sick_with(|s| exited(s, How::Code(1))),
        sick_with(|s| {
            if s < 5 {
                look(s, Ok(good()))
            } else {
                exited(s, How::Signal("SIGSEGV".into()))
            }
        }),
        sick_with(|s| exited(s, How::Code(78))),
        sick_with(|s| exited(s, How::Watchdog)),
        sick_with(|s| look(s, nobody())),
        sick_with(|s| {
            look(
                s,
                if s < 5 {
                    Ok(good())
                } else {
                    Err(Silence::Timeout)
                },
            )
        }),
        sick_with(stuck),
        sick_with(hog),
        sick_with(|s| exited(s, How::Memory)),
        sick_with(|s| look(s, Ok(report(10, 0, 0, "none")))),
        sick_with(|s| look(s, Ok(report(7, 3, 3, "none")))),
        sick_with(lost_daemon),
        sick_with(broken_ledger),
        sick_with(wrong),
    ];
    assert_eq!(
        found,
        [
            (0, UpdaterCode::StartFailed),
            (5, UpdaterCode::Crashed),
            (0, UpdaterCode::StateUnreadable),
            (0, UpdaterCode::Unresponsive),
            (60, UpdaterCode::Unresponsive),
            (35, UpdaterCode::Unresponsive),
            (51, UpdaterCode::Unresponsive),
            (6, UpdaterCode::MemoryExceeded),
            (0, UpdaterCode::MemoryExceeded),
            (60, UpdaterCode::NeverHeartbeats),
            (45, UpdaterCode::SessionsLost),
            (45, UpdaterCode::BackendLost),
            (15, UpdaterCode::LedgerBroken),
            (0, UpdaterCode::WrongVersion),
        ]
    );
}

#[test]
fn a_slow_start_and_a_short_lack_are_forgiven() {
    let (second, verdict, _) = tried(&before(10), limits(), |s| {
        look(
            s,
            match s {
                0..=40 => nobody(),
                60..=85 => Err(Silence::Timeout),
                90..=100 => Ok(report(0, 3, 3, "none")),
                _ => Ok(good()),
            },
        )
    });
    assert_eq!((second, verdict), (120, Verdict::Healthy { remark: None }));
    // A doubt at the end of the time holds the verdict up until it is settled.
    let (second, verdict, _) = tried(&before(10), limits(), |s| {
        look(
            s,
            if (115..=125).contains(&s) {
                Ok(report(0, 3, 3, "none"))
            } else {
                Ok(good())
            },
        )
    });
    assert_eq!((second, verdict), (126, Verdict::Healthy { remark: None }));
}

#[test]
fn a_host_that_is_not_enrolled_needs_no_heartbeat() {
    let baseline = Baseline {
        enrolled: Some(false),
        ..Baseline::default()
    };
    let unenrolled = Report {
        enrolled: false,
        ..report(0, 0, 0, "none")
    };
    for baseline in [baseline, Baseline::default()] {
        let (second, verdict, _) = tried(&baseline, limits(), |s| look(s, Ok(unenrolled.clone())));
        assert_eq!((second, verdict), (120, Verdict::Healthy { remark: None }));
    }
    // One that was enrolled, and of which the new version knows nothing: that is its fault.
    assert_eq!(
        sick_with(|s| look(
            s,
            Ok(Report {
                enrolled: false,
                ..report(10, 0, 0, "none")
            })
        )),
        (60, UpdaterCode::NeverHeartbeats)
    );
}

#[test]
fn a_controller_that_was_silent_before_costs_an_extension_and_no_blame() {
    let baseline = Baseline {
        in_touch: false,
        ..before(10)
    };
    let silent = |s| look(s, Ok(report(10, 9, 0, "unreachable")));
    let (second, verdict, extensions) = tried(&baseline, limits(), silent);
    assert_eq!((second, extensions), (3720, 1));
    assert!(
        matches!(verdict, Verdict::Healthy { remark: Some(_) }),
        "{verdict:?}"
    );
    // It comes back in the meantime: at once.
    let (second, verdict, _) = tried(&baseline, limits(), |s| {
        look(s, Ok(report(10, 9, u64::from(s >= 500), "unreachable")))
    });
    assert_eq!((second, verdict), (500, Verdict::Healthy { remark: None }));
}

#[test]
fn a_controller_that_was_there_and_is_silent_is_compared_by_the_former_version() {
    let silent = |s| look(s, Ok(report(10, 9, 0, "unreachable")));
    let (second, verdict, extensions) = tried(&before(10), limits(), silent);
    assert_eq!((second, extensions), (3720, 1));
    assert!(
        matches!(verdict, Verdict::CounterCheck { .. }),
        "{verdict:?}"
    );
    // Refusals are compared at once: an hour of them would end the host's authorisation.
    let refused = |s| look(s, Ok(report(10, 9, 0, "refused")));
    let (second, verdict, extensions) = tried(&before(10), limits(), refused);
    assert_eq!((second, extensions), (120, 0));
    assert!(
        matches!(verdict, Verdict::CounterCheck { .. }),
        "{verdict:?}"
    );
    // A busy one is there: nothing to compare.
    let busy = |s| look(s, Ok(report(10, 9, 0, "busy")));
    let (second, verdict, _) = tried(&before(10), limits(), busy);
    assert_eq!(second, 3720);
    assert!(
        matches!(verdict, Verdict::Healthy { remark: Some(_) }),
        "{verdict:?}"
    );
}

#[test]
fn connections_that_go_slowly_in_an_hour_are_no_loss_and_a_fall_is() {
    let slowly = |s: u64| look(s, Ok(report(1000 - s / 6, 9, 0, "busy")));
    let (_, verdict, extensions) = tried(&before(1000), limits(), slowly);
    assert!(
        matches!(verdict, Verdict::Healthy { .. }) && extensions == 1,
        "{verdict:?}"
    );
    let fall = |s: u64| {
        look(
            s,
            Ok(report(if s < 2000 { 1000 } else { 700 }, 9, 0, "busy")),
        )
    };
    let (second, verdict, _) = tried(&before(1000), limits(), fall);
    assert!(matches!(
        verdict,
        Verdict::Sick {
            code: UpdaterCode::SessionsLost,
            ..
        }
    ));
    assert_eq!(second, 2015);
}

#[test]
fn time_in_which_nobody_looked_counts_neither_for_nor_against() {
    let late = |s: u64| {
        let slept = if s > 20 { 8 * 3600 } else { 0 };
        let silent = (18..=22).contains(&s);
        Look {
            at: Duration::from_secs(1000 + s + slept),
            ..look(
                s,
                if silent {
                    Err(Silence::Timeout)
                } else {
                    Ok(good())
                },
            )
        }
    };
    let (second, verdict, _) = tried(&before(10), limits(), late);
    assert_eq!((second, verdict), (111, Verdict::Healthy { remark: None }));
}

#[test]
fn who_starts_stable_by_hand_blames_nobody_and_who_stops_it_does() {
    let stopped = |stable_runs| {
        move |s| Look {
            process: Some(if s < 9 {
                ProcessState::Running { pid: 7 }
            } else {
                ProcessState::Stopped
            }),
            stable_runs,
            ..look(s, if s < 9 { Ok(good()) } else { nobody() })
        }
    };
    let (second, verdict, _) = tried(&before(10), limits(), stopped(true));
    assert!(
        matches!(verdict, Verdict::Abandoned { .. }) && second == 14,
        "{verdict:?}"
    );
    assert_eq!(sick_with(stopped(false)), (14, UpdaterCode::Crashed));
}

fn controller() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("unreachable"),
        Just("busy"),
        Just("refused"),
        Just("new word")
    ]
}

fn any_look(second: u64, kind: u8) -> Look {
    match kind {
        0 => look(second, Ok(good())),
        1 => look(second, nobody()),
        2 => look(second, Ok(report(0, 1, 0, "busy"))),
        3 => exited(second, How::Code(1)),
        4 => look(second, Ok(report(10, 5, 0, "unreachable"))),
        5 => Look {
            process: None,
            ..look(second, Err(Silence::Timeout))
        },
        6 => Look {
            process: Some(ProcessState::Stopped),
            ..look(second, nobody())
        },
        _ => Look {
            memory: Some(u64::MAX),
            ..look(second, Ok(good()))
        },
    }
}

proptest! {
    /// A controller that answers nobody never blames a version whose local evidence is good.
    #[test]
    fn the_controller_alone_never_makes_a_version_sick(
        words in proptest::collection::vec(controller(), 1..20),
        in_touch: bool,
        probation in 10_u64..300,
        extension in 0_u64..1000,
        gap in 1_u64..4,
    ) {
        let baseline = Baseline { in_touch, ..before(10) };
        let limits = Limits {
            probation: Duration::from_secs(probation),
            extension: Duration::from_secs(extension),
            memory: 256 * MIB,
        };
        let (_, verdict, _) = tried(&baseline, limits, |turn| {
            let word = words[usize::try_from(turn).unwrap() % words.len()];
            look(turn * gap, Ok(report(10, 1 + turn, 0, word)))
        });
        let fine = matches!(verdict, Verdict::Healthy { remark: Some(_) } | Verdict::CounterCheck { .. });
        prop_assert!(fine, "{:?}", verdict);
        let compared = matches!(verdict, Verdict::CounterCheck { .. });
        prop_assert!(in_touch || !compared);
    }

    /// Connections or daemons that stay away are found, whenever that begins within the trial.
    #[test]
    fn what_is_lost_for_good_is_always_found(
        sessions in 3_u64..5000, begins in 0_u64..100, daemon: bool, accepted: bool, problem in controller(),
    ) {
        let left = (sessions - allowed_churn(sessions)).saturating_sub(1);
        let (second, verdict, _) = tried(&before(sessions), limits(), |s| {
            let mut seen = report(sessions, 1, u64::from(accepted), problem);
            if s >= begins && daemon {
                seen.backends[0].state = "unavailable".into();
            } else if s >= begins {
                seen.backends[0].sessions = left;
            }
            look(s, Ok(seen))
        });
        let expected = if daemon { UpdaterCode::BackendLost } else { UpdaterCode::SessionsLost };
        let found = matches!(verdict, Verdict::Sick { code, .. } if code == expected);
        prop_assert!(found, "{:?}", verdict);
        prop_assert!(second <= 120, "{} s", second);
    }

    /// Whatever is seen afterwards, a final word stands; and an end of the process ends the trial.
    #[test]
    fn a_verdict_never_flips(kinds in proptest::collection::vec((0_u8..8, 1_u64..20), 1..400)) {
        let (version, baseline) = (version(), before(10));
        let start = Duration::from_secs(1000);
        let mut judge = Judge::new(&version, &baseline, limits(), Demand::Everything, start);
        let mut last_word: Option<Verdict> = None;
        let mut second = 0;
        for (kind, gap) in kinds {
            second += gap;
            let said = judge.see(&any_look(second, kind));
            if let Some(last_word) = &last_word {
                prop_assert_eq!(&said, last_word);
            } else if !matches!(said, Verdict::Watching | Verdict::Extended { .. }) {
                last_word = Some(said);
            } else {
                prop_assert_ne!(kind, 3, "a process that ended is a verdict");
            }
        }
    }
}
