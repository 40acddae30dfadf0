//! Clocks that lie: steps of years, suspends, stopped processes, paused machines, outages.
//!
//! Two promises for every schedule: no grace lasts longer than 30 minutes of true time (and one
//! second), and whatever the clocks did, the host is verified again soon after the controller
//! can be reached. One thing no host can know: that its machine was paused, when its wall clock is
//! set back as well (`docs/security.md`); the schedules do not combine those two within one lease.
//! `VPN_NODE_TORTURE=full` plays 10,000 schedules, else 150.

use std::thread;
use std::time::Duration;

use vpn_node_protocol::message::Authorisation;

use super::dice::Dice;
use super::world::{World, s};

const YEARS_10_MS: i64 = 10 * 365 * 86_400_000;
const GRACE: Duration = Duration::from_secs(30 * 60 + 1);
/// After an outage: the longest backoff (120 s), an attempt that times out (15 s), a heartbeat,
/// a challenge and its answer, each at its place in the interval of a minute.
const BACK_WITHIN: Duration = Duration::from_secs(6 * 60);

/// What became of one schedule.
#[derive(Default)]
struct Outcome {
    /// The longest true time from the sending of the last verified request to the last moment
    /// at which the host still served.
    longest_grace: Duration,
    longest_return: Duration,
    lapses: u64,
    steps: u64,
}

impl Outcome {
    fn join(&mut self, other: &Self) {
        self.longest_grace = self.longest_grace.max(other.longest_grace);
        self.longest_return = self.longest_return.max(other.longest_return);
        self.lapses += other.lapses;
        self.steps += other.steps;
    }
}

/// Looks at the host as the gate would, once in the middle of every action.
fn look(world: &World, outcome: &mut Outcome) {
    if world.agent.is_none() {
        return;
    }
    match world.state() {
        Authorisation::Verified | Authorisation::Grace => {
            let sent = world.verified_sent().expect("nobody vouched for this run");
            let served = world.t - sent;
            assert!(served <= GRACE, "served {served:?} without a word");
            outcome.longest_grace = outcome.longest_grace.max(served);
        }
        Authorisation::Lapsed => outcome.lapses += 1,
        Authorisation::Unverified => {}
    }
}

fn step_the_clock(world: &mut World, set_back: &mut Option<Duration>) {
    let forward = [YEARS_10_MS, 3_600_000, 1_500][world.dice.below(3) as usize];
    if world.dice.chance(500) {
        world.wall_skew_ms += forward;
    } else if !world.was_paused() {
        world.wall_skew_ms -= forward;
        *set_back = Some(world.t);
    }
}

fn play(seed: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let mut world = World::new(seed);
    world.controller.interval_s = 60;
    world.wall_skew_ms = [0, YEARS_10_MS, -YEARS_10_MS][world.dice.below(3) as usize];
    world.start();
    world.run_for(s(120));
    assert_eq!(world.state(), Authorisation::Verified, "at first");
    let mut set_back = None;
    let actions = 6 + world.dice.below(10);
    for _ in 0..actions {
        outcome.steps += 1;
        let pause = world.dice.below(900_000);
        match world.dice.below(12) {
            0..=2 => step_the_clock(&mut world, &mut set_back),
            3 => world.suspend(Duration::from_millis(4 * pause)),
            // SIGSTOP: time runs, nobody looks; events wait.
            4 => world.suspend(Duration::from_millis(pause)),
            5 if set_back < world.verified_sent() => {
                world.pause_machine(Duration::from_millis(4 * pause));
            }
            6 => world.restart(),
            7 => world.reboot(),
            8 | 9 => world.net.up = !world.net.up,
            // The controller's own clock is corrected: no host may suffer for it.
            10 => world.controller_skew_ms += 60_000,
            _ => {}
        }
        look(&world, &mut outcome);
        // Often, so that no overdue moment is missed between two actions.
        for _ in 0..8 {
            world.run_for(Duration::from_millis(pause / 8));
            look(&world, &mut outcome);
        }
    }
    world.net.up = true;
    let back = world.t;
    while world.state() != Authorisation::Verified {
        world.run_for(s(5));
        assert!(world.t - back <= BACK_WITHIN, "locked out by seed {seed}");
    }
    outcome.longest_return = world.t - back;
    assert_eq!(world.controller.quarantines, [] as [&str; 0]);
    outcome
}

#[test]
fn torture_clock() {
    let full = std::env::var_os("VPN_NODE_TORTURE").is_some_and(|value| value == "full");
    let schedules: u64 = if full { 10_000 } else { 150 };
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let first = Dice::new(2026).next() >> 16;
    let mut all = Outcome::default();
    thread::scope(|scope| {
        let shards: Vec<_> = (0..threads)
            .map(|shard| {
                scope.spawn(move || {
                    let mut sum = Outcome::default();
                    for n in (shard..schedules).step_by(threads as usize) {
                        sum.join(&play(first + n));
                    }
                    sum
                })
            })
            .collect();
        for shard in shards {
            all.join(&shard.join().expect("a schedule broke a promise"));
        }
    });
    // The control: the schedules are long and wild enough to reach the limit.
    assert!(
        all.longest_grace > Duration::from_secs(29 * 60),
        "{:?}",
        all.longest_grace
    );
    assert!(all.lapses > schedules / 4, "{}", all.lapses);
    println!(
        "{schedules} schedules, {} actions, longest grace {:.1} s (limit 1801), longest return to verified {} s, 0 locked out",
        all.steps,
        all.longest_grace.as_secs_f64(),
        all.longest_return.as_secs(),
    );
}
