//! Many requests of one server at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{read, server, step};
use crate::store::{Decision, Store, Wants};

pub(super) async fn concurrent_exchanges_are_one_after_the_other(store: &dyn Store) {
    let id = server(store, 2).await;
    let accepted = Arc::new(AtomicU32::new(0));
    let racers = (0..50).map(|_| {
        let accepted = Arc::clone(&accepted);
        let decide = Box::new(move |snapshot: &crate::rules::Snapshot| {
            // Every racer takes itself for the first request.
            let mine = snapshot.chain.seq == 0;
            accepted.fetch_add(u32::from(mine), Ordering::Relaxed);
            Decision {
                repeats: None,
                effects: if mine { vec![step(0)] } else { vec![] },
                status: 200,
                body: vec![],
            }
        });
        store.exchange(id.clone(), Wants::default(), decide)
    });
    let mut waiting: Vec<_> = racers.collect();
    // Polled together, so that they are queued together.
    std::future::poll_fn(|context| {
        waiting.retain_mut(|racer| match racer.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(result) => {
                result.unwrap();
                false
            }
        });
        match waiting.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    assert_eq!(read(store, &id).await.chain.seq, 1);
}
