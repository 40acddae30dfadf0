//! An operator's `server verify` over both sides: how long it takes while the agent's poll is held.

use std::time::Duration;

use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::wait_for;

/// The agent's next poll is held again after this: it lets two seconds pass between two polls.
const POLL_IS_HELD_AGAIN: Duration = Duration::from_millis(2300);
/// A second is promised; this machine may compile beside the test.
const BOUND: Duration = Duration::from_secs(3);
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
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        std::thread::sleep(POLL_IS_HELD_AGAIN);
        let (row, time) = controller.verify(&server_id);
        assert_eq!(row.verification_result, Some(true), "{row:?}");
        assert!(time < BOUND, "{time:?}");
        took.push(time);
    }
    took.sort();
    println!(
        "server verify, {ROUNDS} times: fastest {:?}, middle {:?}, slowest {:?}",
        took[0],
        took[ROUNDS / 2],
        took[ROUNDS - 1]
    );
}
