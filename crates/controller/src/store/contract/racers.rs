//! A thousand hosts with one token at one time: one of them gets it.

use std::future::poll_fn;
use std::task::Poll;

use ed25519_dalek::SigningKey;
use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::EnrolRefusal;

use super::{NOW, enrolment, make_key};
use crate::rules::enrolment::{EnrolEnd, Enrolment};
use crate::store::Store;

const RACERS: u32 = 1000;

/// The racers are spread over `stores`, which are handles of one database, as of replicas that
/// share it. Needs an empty one.
pub(crate) async fn one_of_a_thousand_wins(stores: &[&dyn Store]) {
    let store = stores[0];
    make_key(store, "raced", NOW + 1).await;
    let pattern = enrolment("raced", 0);
    let mut ends = vec![];
    let mut waiting: Vec<_> = (0..RACERS)
        .zip(stores.iter().cycle())
        .map(|(number, store)| store.enrol(racer(&pattern, number)))
        .collect();
    // Polled together, so that they are queued together.
    poll_fn(|context| {
        waiting.retain_mut(|racer| match racer.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(end) => {
                ends.push(end.unwrap());
                false
            }
        });
        match waiting.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;

    let mut winners = vec![];
    let mut refused = 0;
    for end in ends {
        match end {
            EnrolEnd::Enrolled { server_id, .. } => winners.push(server_id),
            EnrolEnd::Refused(why) => {
                assert_eq!(why.code, EnrolRefusal::TokenUsed);
                refused += 1;
            }
        }
    }
    assert_eq!((winners.len(), refused), (1, RACERS - 1));
    let servers = store.list_servers().await.unwrap();
    let ids: Vec<_> = servers.iter().map(|row| row.server_id.clone()).collect();
    assert_eq!(ids, winners);
    let keys = store.list_registration_keys().await.unwrap();
    let spent_on = keys.iter().map(|key| key.used_by_server_id.clone());
    assert_eq!(spent_on.collect::<Vec<_>>(), [winners.pop()]);
}

fn racer(pattern: &Enrolment, number: u32) -> Enrolment {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    let mut racer = pattern.clone();
    racer.identity = (&SigningKey::from_bytes(&seed)).into();
    racer.request.identity_key = racer.identity;
    racer.server_id = Uuid::from_u128(u128::from(number)).to_string();
    racer.nonce = Hex(seed);
    racer.log_id = Uuid::from_bytes(crate::clock::random());
    racer
}
