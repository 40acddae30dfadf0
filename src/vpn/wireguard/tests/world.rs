//! Random histories: whatever daemon, network, clock and agent do, the records make sense.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::core::sessions::{Identity, Stamp, What};

const PEERS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Wait(u16),
    Handshake(usize),
    Traffic(usize),
    Remove(usize),
    Add(usize),
    Poll,
    /// A dump that misses some peers, and says so.
    PartialPoll(u8),
    InterfaceDown,
    NewInterface,
    AgentRestart,
    ClockJump(i32),
    Reboot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u16..250).prop_map(Step::Wait),
        6 => (0..PEERS).prop_map(Step::Handshake),
        3 => (0..PEERS).prop_map(Step::Traffic),
        1 => (0..PEERS).prop_map(Step::Remove),
        2 => (0..PEERS).prop_map(Step::Add),
        12 => Just(Step::Poll),
        2 => any::<u8>().prop_map(Step::PartialPoll),
        1 => Just(Step::InterfaceDown),
        1 => Just(Step::NewInterface),
        2 => Just(Step::AgentRestart),
        1 => (-400_000_000_i32..400_000_000).prop_map(Step::ClockJump),
        1 => Just(Step::Reboot),
    ]
}

/// What is true on the host.
struct World {
    now: Now,
    boot_id: Uuid,
    epoch: u64,
    polled_epoch: Option<u64>,
    peers: [Option<PeerReading>; PEERS],
}

impl World {
    fn rebuilt(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            *peer = PeerReading {
                public_key: peer.public_key,
                ..PeerReading::default()
            };
        }
    }

    fn poll(&mut self, agent: &mut Agent, mask: Option<u8>) -> Vec<SessionEvent> {
        let mut obs = Vec::new();
        if self.polled_epoch != Some(self.epoch) {
            obs.extend(agent.table.interface_down(self.now));
            obs.push(Obs::Reset { epoch: self.epoch });
            self.polled_epoch = Some(self.epoch);
        }
        let mut round = agent.table.begin(self.now);
        for (index, peer) in self.peers.iter().enumerate() {
            if let Some(peer) = peer
                && mask.is_none_or(|mask| mask & 1 << index != 0)
            {
                round.see(peer);
            }
        }
        obs.extend(round.finish(self.epoch, mask.is_none()));
        agent.reduce(self.now, obs)
    }

    fn apply(&mut self, step: &Step, agent: &mut Agent) -> Vec<SessionEvent> {
        let wall_ms = self.now.wall_ms;
        match *step {
            Step::Wait(secs) => {
                self.now = self.now.after(Duration::from_secs(secs.into()));
                return agent.reducer.tick(self.now);
            }
            Step::Handshake(index) => {
                if let Some(peer) = &mut self.peers[index] {
                    peer.handshake = Handshake {
                        secs: u64::try_from(wall_ms / 1000).unwrap_or_default(),
                        nanos: peer.handshake.nanos + 1,
                    };
                    peer.rx += 148;
                    peer.tx += 92;
                }
            }
            Step::Traffic(index) => {
                if let Some(peer) = &mut self.peers[index] {
                    peer.rx += 1000;
                }
            }
            Step::Remove(index) => self.peers[index] = None,
            Step::Add(index) => {
                self.peers[index].get_or_insert_with(|| peer(index as u8, 0, 0, 0));
            }
            Step::Poll => return self.poll(agent, None),
            Step::PartialPoll(mask) => return self.poll(agent, Some(mask)),
            Step::InterfaceDown => {
                let obs = agent.table.interface_down(self.now);
                return agent.reduce(self.now, obs);
            }
            Step::NewInterface => {
                self.epoch += 1;
                self.rebuilt();
            }
            Step::AgentRestart => self.restart(agent),
            Step::ClockJump(secs) => self.now.wall_ms += i64::from(secs) * 1000,
            Step::Reboot => {
                self.boot_id = Uuid::from_u128(self.boot_id.as_u128() + 1);
                self.now.boot = Duration::from_secs(7);
                self.rebuilt();
                self.restart(agent);
            }
        }
        Vec::new()
    }

    fn restart(&mut self, agent: &mut Agent) {
        let kept = serde_json::to_vec(&agent.reducer.persistable()).unwrap();
        let kept = serde_json::from_slice(&kept).unwrap();
        *agent = Agent::new(HandshakeClock::Unix, kept, self.boot_id, agent.ids);
        self.polled_epoch = None;
    }
}

/// What a reader of the records believes.
#[derive(Default)]
struct Records {
    open: HashMap<Uuid, (Identity, Stamp)>,
    ended: HashSet<Uuid>,
}

impl Records {
    fn take(&mut self, event: &SessionEvent) {
        let id = event.connection_id;
        match &event.what {
            What::Start => {
                assert!(!self.ended.contains(&id), "a start after the end");
                let identity = event.session.identity.clone().unwrap();
                let same = self.open.values().filter(|(open, _)| *open == identity);
                assert_eq!(same.count(), 0, "two starts without an end");
                let start = (identity, event.session.started);
                assert!(
                    self.open.insert(id, start).is_none(),
                    "two starts of one id"
                );
            }
            What::Update { .. } => assert!(self.open.contains_key(&id), "an update of nothing"),
            What::End(end) => {
                let (_, started) = self.open.remove(&id).expect("an end without a start");
                assert!(self.ended.insert(id));
                assert!(
                    end.earliest.wall_ms >= started.wall_ms,
                    "an end before its start"
                );
                assert!(end.earliest.wall_ms <= end.at.wall_ms);
                assert!(end.at.wall_ms <= end.latest.wall_ms);
                assert!(end.earliest.boot <= end.at.boot && end.at.boot <= end.latest.boot);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_history_gives_records_that_make_sense(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut agent = Agent::new(HandshakeClock::Unix, Vec::new(), Uuid::nil(), 0);
        let mut world = World {
            now: at(1000),
            boot_id: Uuid::nil(),
            epoch: 1,
            polled_epoch: None,
            peers: [0, 1, 2].map(|index| Some(peer(index, 0, 0, 0))),
        };
        let mut records = Records::default();
        for step in &steps {
            for event in world.apply(step, &mut agent) {
                records.take(&event);
            }
            let kept: HashSet<Uuid> = agent
                .reducer
                .persistable()
                .iter()
                .map(|known| known.connection_id)
                .collect();
            let open: HashSet<Uuid> = records.open.keys().copied().collect();
            prop_assert_eq!(kept, open, "what is kept is what is open");
        }
    }

    /// A client that renews in time is one connection, however the agent polls and restarts.
    #[test]
    fn a_steady_client_is_one_connection(
        gaps in prop::collection::vec((1_u64..60, any::<bool>()), 1..200)
    ) {
        let mut agent = Agent::fresh();
        let mut events = Vec::new();
        let mut secs = 1000;
        for (gap, restart) in gaps {
            secs += gap;
            if restart && gap % 4 == 0 {
                let kept = agent.reducer.persistable();
                agent = Agent::new(HandshakeClock::Guess, kept, Uuid::nil(), agent.ids);
            }
            let handshake = 1000 + (secs - 1000) / 120 * 120;
            events.extend(agent.poll(at(secs), true, &[peer(1, handshake, secs, secs)]));
        }
        events.extend(agent.reducer.tick(at(secs + 10)));
        prop_assert_eq!(events.len(), 1);
    }
}
