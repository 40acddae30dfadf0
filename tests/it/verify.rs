//! An operator's `server verify` over both sides: how long it takes while the agent's poll is held.

use std::time::Duration;

use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::{in_time, wait_for};

/// The agent's next poll is held again after this: it lets two seconds pass between two polls.
const POLL_IS_HELD_AGAIN: Duration = Duration::from_millis(2300);
/// From the operator's question to the verdict; the quickest round keeps it.
const PROMISED: Duration = Duration::from_secs(1);
/// Each costs the wait above; an odd number has a middle.
const ROUNDS: usize = 3;

#[test]
fn a_verification_on_demand_is_answered_at_once() {
    let controller = Controller::start();
    let mut host = Host::new("");
    let output = host.command(&["enroll"], &controller.token());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    host.start();
    wait_for("the verdict", || {
        (host.status()["verification"]["state"] == "verified").then_some(())
    });
    let server_id = controller.servers()[0].server_id.clone();
    let took = in_time(PROMISED, || {
        let mut took: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                std::thread::sleep(POLL_IS_HELD_AGAIN);
                let (row, time) = controller.verify(&server_id);
                assert_eq!(row.verification_result, Some(true), "{row:?}");
                time
            })
            .collect();
        took.sort();
        let quickest = took[0];
        (took, quickest)
    });
    println!(
        "server verify, {ROUNDS} times: fastest {:?}, middle {:?}, slowest {:?}",
        took[0],
        took[ROUNDS / 2],
        took[ROUNDS - 1]
    );
}
