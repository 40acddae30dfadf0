//! Trials with real processes: the plain supervisor, fake agents that misbehave on demand, and
//! the real watch. A clock that runs ten times as fast as the host's shortens the waiting; with
//! VPN_NODE_TEST_REAL_TIME set it runs as it is, and the figures printed are those of a host.

mod fake_agent;
mod host;
mod program;

use std::fs;
use std::time::Duration;

use host::{Host, NEW, OLD};
use vpn_node_release::code::UpdaterCode;
use vpn_node_updater::probation::Ending;
use vpn_node_updater::supervisor::{ProcessState, Supervisor};

/// Not a test: what the slots of the other tests run. See [`fake_agent`].
#[test]
fn fake_agent_process() {
    fake_agent::run_if_asked();
}

/// Installs a new version that behaves like this and expects it to be sent away for `code`.
fn sent_away(behaviour: &str, code: UpdaterCode) {
    let mut host = Host::new(behaviour);
    let (ending, took) = host.trial();
    assert!(took <= Duration::from_secs(120), "{took:?}");
    match ending {
        Ending::Revert {
            code: found,
            detail,
        } => assert_eq!(found, code, "{detail}"),
        Ending::Keep { remark } => panic!("it was kept: {remark:?}"),
    }
    host.go_back();
    let back = host.answers(OLD);
    println!(
        "figure: {behaviour}: {code} after {took:.1?}, the former version answers after {back:.1?}"
    );
}

#[test]
fn a_version_that_crashes_at_once_is_sent_away() {
    sent_away("crash", UpdaterCode::StartFailed);
}

#[test]
fn a_version_that_crashes_after_five_seconds_is_sent_away() {
    sent_away("crash_later", UpdaterCode::Crashed);
}

#[test]
fn a_version_that_ends_without_an_error_is_sent_away() {
    sent_away("end", UpdaterCode::Crashed);
}

#[test]
fn a_version_that_cannot_read_the_state_is_sent_away() {
    sent_away("exit_78", UpdaterCode::StateUnreadable);
}

#[test]
fn a_version_that_hangs_is_sent_away() {
    sent_away("hang", UpdaterCode::Unresponsive);
}

#[test]
fn a_version_that_never_answers_is_sent_away() {
    sent_away("mute", UpdaterCode::Unresponsive);
}

#[test]
fn a_version_that_eats_memory_is_sent_away() {
    sent_away("hog", UpdaterCode::MemoryExceeded);
}

#[test]
fn a_version_that_never_heartbeats_is_sent_away() {
    sent_away("no_heartbeat", UpdaterCode::NeverHeartbeats);
}

#[test]
fn a_version_that_drops_connections_is_sent_away() {
    sent_away("drop_sessions", UpdaterCode::SessionsLost);
}

#[test]
fn a_version_that_loses_a_vpn_daemon_is_sent_away() {
    sent_away("lose_backend", UpdaterCode::BackendLost);
}

#[test]
fn a_version_that_cannot_write_its_ledger_is_sent_away() {
    sent_away("ledger", UpdaterCode::LedgerBroken);
}

#[test]
fn a_slot_with_another_version_in_it_is_sent_away() {
    sent_away("wrong_version", UpdaterCode::WrongVersion);
}

#[test]
fn a_version_that_cuts_the_host_off_is_sent_away_after_a_comparison() {
    let mut host = Host::new("cut_off");
    let (ending, took) = host.trial();
    match ending {
        Ending::Revert { code, detail } => assert_eq!(code, UpdaterCode::CutOff, "{detail}"),
        Ending::Keep { remark } => panic!("it was kept: {remark:?}"),
    }
    assert_eq!(
        host.deadlines, 3,
        "the start, the extension, the comparison"
    );
    host.go_back();
    host.answers(OLD);
    println!(
        "figure: cut_off: after {took:.1?}, of which {:?} extension",
        host.extension()
    );
}

#[test]
fn a_good_version_stays() {
    let mut host = Host::new("good");
    let (ending, took) = host.trial();
    assert_eq!(ending, Ending::Keep { remark: None });
    assert_eq!(host.deadlines, 1);
    host.commit();
    host.answers(NEW);
    println!("figure: good: kept after {took:.1?}");
}

/// The controller answers nobody, in one of the ways in which it can.
fn kept_although_the_controller(before: &str, during: &str, remark_has: &str) {
    let mut host = Host::new("good");
    host.shorten();
    host.controller(before);
    let (ending, _) = host.trial_with(|host| host.controller(during));
    match ending {
        Ending::Keep {
            remark: Some(remark),
        } => assert!(remark.contains(remark_has), "{remark}"),
        other => panic!("{other:?}"),
    }
    host.commit();
    host.answers(NEW);
}

#[test]
fn a_controller_that_is_down_before_and_during_the_trial_sends_nothing_away() {
    kept_although_the_controller("unreachable", "unreachable", "so it was before");
}

#[test]
fn a_controller_that_goes_down_with_the_trial_sends_nothing_away() {
    kept_although_the_controller("none", "unreachable", "nor those of the former version");
}

#[test]
fn a_controller_that_answers_429_sends_nothing_away() {
    kept_although_the_controller("none", "busy", "it is there");
}

#[test]
fn a_host_that_is_refused_whatever_it_runs_sends_nothing_away() {
    kept_although_the_controller("none", "refused", "nor those of the former version");
}

#[test]
fn the_start_of_a_running_experiment_starts_it_anew() {
    let host = Host::new("good");
    host.link_experiment();
    let mut supervisor = host.plain();
    let mut pid = || {
        supervisor.start_experiment().unwrap();
        match supervisor.experiment_state().unwrap() {
            ProcessState::Running { pid } => pid,
            other => panic!("{other:?}"),
        }
    };
    let (first, second) = (pid(), pid());
    assert_ne!(first, second);
    assert!(!host::is_alive(first) && host::is_alive(second));
    assert_eq!(supervisor.stable_state().unwrap(), ProcessState::Stopped);
}

#[test]
fn an_experiment_that_ends_is_followed_by_stable_without_any_updater() {
    let host = Host::new("crash_later");
    host.link_experiment();
    host.plain().start_experiment().unwrap();
    host.answers(OLD);
    let state = host.plain().experiment_state().unwrap();
    assert!(matches!(state, ProcessState::Exited { .. }), "{state:?}");
}

#[test]
fn a_killed_stable_agent_is_started_again_and_an_end_leaves_nobody_behind() {
    let mut host = Host::new("good");
    let running = |host: &Host| match host.plain().stable_state().unwrap() {
        ProcessState::Running { pid } => Some(pid),
        _ => None,
    };
    let first = running(&host).unwrap();
    host::kill(first);
    host::eventually(|| running(&host).is_some_and(|pid| pid != first));
    let second = running(&host).unwrap();
    host.end();
    assert!(!host::is_alive(second));
    assert!(!host.layout().supervisor_socket().exists());
}

#[test]
fn a_request_starts_an_updater_until_it_is_taken() {
    let host = Host::new("good");
    let request = host.layout().incoming().join("request.json");
    fs::create_dir_all(request.parent().unwrap()).unwrap();
    fs::write(&request, "{}").unwrap();
    host::eventually(|| !request.exists());
    assert_eq!(host.updater_runs(), 1);
    fs::write(&request, "{}").unwrap();
    host::eventually(|| !request.exists());
    assert_eq!(host.updater_runs(), 2);
}

#[test]
fn no_second_supervisor_starts_beside_a_running_one() {
    let host = Host::new("good");
    let error = host.second_supervisor().to_string();
    assert!(error.contains("another supervisor"), "{error}");
}
