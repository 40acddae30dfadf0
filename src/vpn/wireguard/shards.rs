//! A map by public key in pieces, so that growing it copies one piece at a time: one large map
//! needs half as much memory again while it doubles.

use std::collections::{HashMap, hash_map::Entry};

const SHARDS: usize = 16;

/// Public keys are random, so their first byte spreads them evenly.
pub(super) struct Shards<T>([HashMap<[u8; 32], T>; SHARDS]);

impl<T> Shards<T> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| HashMap::new()))
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(HashMap::len).sum()
    }

    pub(super) fn entry(&mut self, key: [u8; 32]) -> Entry<'_, [u8; 32], T> {
        self.of(&key).entry(key)
    }

    pub(super) fn get_mut(&mut self, key: &[u8; 32]) -> Option<&mut T> {
        self.of(key).get_mut(key)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flat_map(HashMap::values_mut)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&[u8; 32], &mut T) -> bool) {
        for shard in &mut self.0 {
            shard.retain(&mut keep);
        }
    }

    fn of(&mut self, key: &[u8; 32]) -> &mut HashMap<[u8; 32], T> {
        &mut self.0[usize::from(key[0]) % SHARDS]
    }
}
