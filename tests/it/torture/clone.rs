//! Copies and restored snapshots are found within one heartbeat; honest hosts never are, whatever
//! the network does.

use std::net::IpAddr;
use std::time::Duration;

use super::dice::Dice;
use super::fleet::Fleet;
use super::host::{Disk, Host, Net};
use super::is_full;

const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));
const SECOND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 20));
/// A heartbeat's interval with its jitter, and the exchange itself.
const ONE_HEARTBEAT: Duration = Duration::from_secs(40);

/// The controller keeps the digests of 4,096 requests.
const MORE_THAN_REMEMBERED: u64 = 4_200;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lets these hosts run until `end`, in the order in which things happen.
async fn run(fleet: &Fleet, hosts: &mut [&mut Host], t: &mut Duration, end: Duration) {
    loop {
        let next = hosts
            .iter()
            .enumerate()
            .map(|(n, host)| (host.next_at(*t), n))
            .min();
        let Some((at, n)) = next.filter(|(at, _)| *at <= end) else {
            *t = end;
            fleet.turn(*t);
            return;
        };
        *t = at;
        fleet.turn(*t);
        hosts[n].turn(fleet, *t).await;
    }
}

async fn host(fleet: &Fleet, dice: &mut Dice, n: u64, t: Duration) -> Host {
    let (key, lane) = fleet.enrol(dice, &format!("host-{n}")).await;
    Host::start(fleet, Disk { key, lane }, FIRST, dice.next(), t)
}

/// One host in one way of being doubled. Returns how long it took from the first request of the
/// second holder until both were stopped.
async fn doubled(fleet: &Fleet, n: u64, t: &mut Duration) -> Duration {
    let mut dice = Dice::new(77_000 + n);
    let mut first = host(fleet, &mut dice, n, *t).await;
    let server = first.disk.lane.server_id.clone();
    let history = *t + s(60 + dice.below(1200));
    run(fleet, &mut [&mut first], t, history).await;
    let image = first.disk.clone();
    let restored = n % 8 >= 4;
    // A machine that is set back to the very state it has is just a restart, so not the first way.
    let way = if restored { 1 + n % 3 } else { n % 4 };
    // The original goes on before the copy starts, or before it is set back.
    let ahead = [0, 45, 400, 3_000][way as usize];
    let later = *t + s(ahead + dice.below(ahead + 1));
    run(fleet, &mut [&mut first], t, later).await;
    let mut second = Host::start(fleet, image, SECOND, dice.next(), *t);
    let begun = *t;
    let mut spoke = None;
    while fleet.status(&server).await != "quarantined" {
        let end = *t + Duration::from_millis(500);
        if restored {
            // The machine itself was set back: there is no other any more.
            run(fleet, &mut [&mut second], t, end).await;
        } else {
            run(fleet, &mut [&mut first, &mut second], t, end).await;
        }
        if spoke.is_none() && second.requests > 0 {
            spoke = Some(*t);
        }
        assert!(
            *t - begun < s(600),
            "copy {n} (way {way}, restored: {restored}) goes unnoticed"
        );
    }
    let found = *t;
    // Both are told with their next request.
    let end = *t + s(45);
    run(fleet, &mut [&mut first, &mut second], t, end).await;
    assert_eq!(second.state(*t), "lapsed", "copy {n}");
    if !restored {
        assert_eq!(first.state(*t), "lapsed", "original of {n}");
    }
    found - spoke.unwrap_or(found)
}

/// A copy from more requests ago than the controller remembers: recorded traffic looks the same, so
/// the copy is asked for a witness. Returns as [`doubled`].
async fn forgotten(fleet: &Fleet, t: &mut Duration) -> Duration {
    let mut dice = Dice::new(55);
    let mut first = host(fleet, &mut dice, 999_999, *t).await;
    let server = first.disk.lane.server_id.clone();
    let end = *t + s(120);
    run(fleet, &mut [&mut first], t, end).await;
    let image = first.disk.clone();
    let copied = first.accepted;
    while first.accepted < copied + MORE_THAN_REMEMBERED {
        let end = *t + s(3600);
        run(fleet, &mut [&mut first], t, end).await;
    }
    let mut second = Host::start(fleet, image, SECOND, dice.next(), *t);
    let begun = *t;
    while fleet.status(&server).await != "quarantined" {
        let end = *t + Duration::from_millis(500);
        run(fleet, &mut [&mut first, &mut second], t, end).await;
        assert!(*t - begun < s(600), "an old copy goes unnoticed");
    }
    *t - begun
}

/// Honest hosts on a bad network, with crashes. Returns how many requests were taken.
async fn honest(fleet: &Fleet, shard: u64, want: u64, t: &mut Duration) -> u64 {
    let mut dice = Dice::new(99_000 + shard);
    let mut hosts = Vec::new();
    for n in 0..50 {
        let mut host = host(fleet, &mut dice, 1_000 * (shard + 1) + n, *t).await;
        host.net = Net {
            loss: 300,
            doubled: 100,
        };
        hosts.push(host);
    }
    let taken = |hosts: &[Host]| hosts.iter().map(|host| host.accepted).sum::<u64>();
    while taken(&hosts) < want {
        let end = *t + s(300);
        let mut all: Vec<&mut Host> = hosts.iter_mut().collect();
        run(fleet, &mut all, t, end).await;
        let unlucky = dice.below(50) as usize;
        hosts[unlucky].restart(*t);
    }
    for host in &hosts {
        let server = &host.disk.lane.server_id;
        assert_eq!(fleet.status(server).await, "active", "a false alarm");
    }
    taken(&hosts)
}

fn on_threads<T: Send>(shards: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..shards)
            .map(|shard| {
                scope.spawn({
                    let work = &work;
                    move || work(shard)
                })
            })
            .collect();
        let end = |thread: std::thread::ScopedJoinHandle<'_, T>| thread.join();
        running
            .into_iter()
            .map(|thread| end(thread).unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

#[test]
fn torture_clone() {
    let (clones, heartbeats) = if is_full() {
        (199, 100_000)
    } else {
        (16, 1_500)
    };
    let shards = 2;
    let seen = on_threads(shards, |shard| {
        block_on(async {
            let fleet = Fleet::new().await;
            let mut t = s(1);
            let mut longest = Duration::ZERO;
            for n in (shard..clones).step_by(shards as usize) {
                longest = longest.max(doubled(&fleet, n, &mut t).await);
            }
            if is_full() && shard == 0 {
                longest = longest.max(forgotten(&fleet, &mut t).await);
            }
            let fleet = Fleet::new().await;
            let honest = honest(&fleet, shard, heartbeats / shards, &mut t).await;
            (longest, honest)
        })
    });
    let longest = seen.iter().map(|(longest, _)| *longest).max().unwrap();
    let honest: u64 = seen.iter().map(|(_, honest)| honest).sum();
    assert!(longest <= ONE_HEARTBEAT, "{longest:?}");
    println!(
        "{} copies and restored snapshots all found, at most {:.1} s after their first request; \
         {honest} requests of honest hosts at 30 % loss each way, 10 % repeated up to 5 minutes late: 0 false alarms",
        clones + u64::from(is_full()),
        longest.as_secs_f64()
    );
}
