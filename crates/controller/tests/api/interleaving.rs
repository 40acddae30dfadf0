//! A thousand steps of heartbeats, rotations, lost replies, retries and old keys in any order,
//! against a small oracle.

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::sqlite::SqlitePool;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::message::RefusalCode;

use crate::support::{Answered, Host, World};

/// Steps of one run.
const STEPS: usize = 1000;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A heartbeat; in a new epoch it is the first use of the key.
    Beat,
    /// A new key.
    Rotate,
    /// The same two, and the reply does not arrive.
    BeatLost,
    RotateLost,
    /// The pending request once more, to the byte, or the last one when nothing is pending.
    Retry,
    /// The rotation to the next key once more.
    RotateAgain,
    /// A key that was replaced, this many keys ago.
    OldKey(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Beat),
        2 => Just(Step::Rotate),
        2 => Just(Step::BeatLost),
        2 => Just(Step::RotateLost),
        3 => Just(Step::Retry),
        1 => Just(Step::RotateAgain),
        2 => any::<u8>().prop_map(Step::OldKey),
    ]
}

/// A request that is on the host's disk, with the answer that it got first.
struct Sent {
    envelope: Envelope,
    answer: Answered,
    new_key: Option<SigningKey>,
}

/// What must be so.
struct Oracle {
    database: SqlitePool,
    host: Host,
    pending: Option<Sent>,
    last: Option<Sent>,
    /// The host as it was with each key that is dead.
    dead: Vec<Host>,
    /// The host before the rotation to the key that is not used yet.
    before_rotation: Option<Host>,
    made: u64,
}

impl Oracle {
    /// Sends the next request of the host.
    async fn send(&mut self, world: &World, new_key: Option<SigningKey>) {
        let host = &self.host;
        let envelope = match &new_key {
            Some(key) => host.rotate_request(world, key),
            None => host.sign(host.header(world), host.heartbeat()),
        };
        let answer = world.post("/v1/messages", envelope.to_json()).await;
        assert_eq!(answer.status, 200);
        // Accepted in a new epoch: the key before is dead from here on.
        self.dead.extend(self.before_rotation.take());
        self.pending = Some(Sent {
            envelope,
            answer,
            new_key,
        });
    }

    /// The reply arrives.
    fn arrives(&mut self, world: &World) {
        let Some(sent) = self.pending.take() else {
            return;
        };
        match &sent.new_key {
            None => {
                self.host.take(world, &sent.envelope, &sent.answer);
            }
            Some(key) => {
                self.before_rotation = Some(self.host.clone());
                let (request, key) = (sent.envelope.clone(), key.clone());
                self.host.take_rotation(world, request, &sent.answer, key);
                // Enough for a test.
                self.host.rotations.clear();
            }
        }
        self.last = Some(sent);
    }

    fn key(&mut self) -> SigningKey {
        self.made += 1;
        let mut seed = [0xee; 32];
        seed[..8].copy_from_slice(&self.made.to_be_bytes());
        SigningKey::from_bytes(&seed)
    }

    async fn run(&mut self, world: &World, step: Step) {
        match step {
            // An agent has one request in flight: what is pending comes first.
            Step::Beat | Step::Rotate | Step::BeatLost | Step::RotateLost
                if self.pending.is_some() =>
            {
                self.again(world).await;
                self.arrives(world);
            }
            Step::Beat | Step::BeatLost => {
                self.send(world, None).await;
                if matches!(step, Step::Beat) {
                    self.arrives(world);
                }
            }
            Step::Rotate | Step::RotateLost => {
                let key = self.key();
                self.send(world, Some(key)).await;
                if matches!(step, Step::Rotate) {
                    self.arrives(world);
                }
            }
            Step::Retry | Step::RotateAgain => self.again(world).await,
            Step::OldKey(back) => {
                let Some(n) = self.dead.len().checked_sub(1 + usize::from(back) % 8) else {
                    return;
                };
                let old = &self.dead[n];
                let envelope = old.sign(old.header(world), old.heartbeat());
                let before = stored(&self.database).await;
                let (status, refusal) = old.refused(world, &envelope).await;
                assert_eq!((status, refusal.code), (403, RefusalCode::RetiredKey));
                assert_eq!(stored(&self.database).await, before);
            }
        }
    }

    /// The newest request once more gets the same bytes, as long as its key is alive.
    async fn again(&self, world: &World) {
        let Some(sent) = self.pending.as_ref().or(self.last.as_ref()) else {
            return;
        };
        let before = stored(&self.database).await;
        let answer = world.post("/v1/messages", sent.envelope.to_json()).await;
        assert_eq!(answer, sent.answer);
        assert_eq!(stored(&self.database).await, before);
    }

    /// What the controller has stored is what the oracle knows.
    async fn check(&self, world: &World) {
        // A pending request was taken: the controller is one further than the host.
        let pending = self.pending.as_ref();
        let next = match (pending, &self.before_rotation) {
            (Some(sent), _) if sent.new_key.is_some() => sent
                .new_key
                .as_ref()
                .map(|key| (key.clone(), self.host.epoch + 1)),
            (_, Some(_)) => Some((self.host.key.clone(), self.host.epoch)),
            _ => None,
        };
        let current = self.before_rotation.as_ref().unwrap_or(&self.host);
        let row = &world.store.list_servers().await.unwrap()[0];
        assert_eq!(row.status, "active");
        assert_eq!(row.identity_key_id, current.identity().id().to_string());
        assert_eq!(row.key_epoch, i64::from(current.epoch));
        let next = next.map(|(key, _)| {
            vpn_node_protocol::keys::PublicKey::from(&key)
                .id()
                .to_string()
        });
        assert_eq!(row.next_key_id, next);
    }

    /// None is forgotten, and none is made up.
    async fn count_keys(&self, world: &World) {
        let retired = world.count("server_keys WHERE status = 'retired'").await;
        assert_eq!(retired, self.dead.len());
        assert_eq!(world.count("server_keys WHERE status = 'current'").await, 1);
    }
}

/// What no refused and no repeated request may touch.
async fn stored(database: &SqlitePool) -> String {
    sqlx::query_scalar(
        "SELECT c.key_epoch || ' ' || c.seq || ' ' || c.chain || ' ' || c.nonce || ' ' ||
                s.identity_key_id || ' ' || (SELECT COUNT(*) FROM heartbeats) || ' ' ||
                (SELECT group_concat(identity_key_id || status) FROM server_keys)
         FROM server_chains c JOIN servers s ON s.server_id = c.server_id",
    )
    .fetch_one(database)
    .await
    .unwrap()
}

async fn play(steps: Vec<Step>) {
    let world = World::new().await;
    let mut oracle = Oracle {
        database: world.database().await,
        host: Host::enrolled(&world, 1).await,
        pending: None,
        last: None,
        dead: vec![],
        before_rotation: None,
        made: 0,
    };
    for step in steps {
        oracle.run(&world, step).await;
        oracle.check(&world).await;
    }
    oracle.count_keys(&world).await;
    assert!(world.events("clone_suspected").await.is_empty());
    assert_eq!(
        world.events("key_rotated").await.len(),
        oracle.dead.len().min(1000)
    );
}

#[test]
fn any_order_leaves_what_the_oracle_knows() {
    let config = Config {
        cases: 1,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), STEPS);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    TestRunner::new(config)
        .run(&steps, |steps| {
            runtime.block_on(play(steps));
            Ok(())
        })
        .unwrap();
}
