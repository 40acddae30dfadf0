//! A map by public key that remembers the order of its entries.
//!
//! A daemon tells its peers in the same order again and again as long as none comes or goes
//! (wireguard-go does not, the kernel does). So the next key asked for is most often the one
//! behind the last one: then a comparison finds it, and nothing is hashed. An entry costs its
//! key, its value and about ten bytes.

use std::hash::{BuildHasher as _, RandomState};

/// No place of the index is fuller than 3 of 4, so that a search ends after two or three looks.
const FULL: (usize, usize) = (3, 4);

/// See the module's page.
pub(super) struct Roster<T> {
    entries: Vec<Entry<T>>,
    /// Place of the entry + 1, or 0; open addressing, a power of two long.
    index: Box<[u32]>,
    /// `SipHash` with a key that nobody outside knows, so nobody can choose public keys that meet in
    /// one place. Products with random numbers would be quicker and are not enough: for some of
    /// those numbers, keys that are alike stand in one long row.
    hasher: RandomState,
    /// The place that is expected next.
    next: usize,
}

struct Entry<T> {
    key: [u8; 32],
    value: T,
}

impl<T> Roster<T> {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: Box::default(),
            hasher: RandomState::new(),
            next: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The next key asked for will probably be the first one.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// The place of `key`, which is good until the next [`Self::retain`].
    pub(super) fn find(&mut self, key: &[u8; 32]) -> Option<usize> {
        let place = match self.entries.get(self.next) {
            Some(entry) if entry.key == *key => self.next,
            _ => self.search(key).ok()?,
        };
        self.next = place + 1;
        Some(place)
    }

    /// What is at a place that [`Self::find`] or [`Self::insert`] told.
    pub(super) fn at(&mut self, place: usize) -> &mut T {
        &mut self.entries[place].value
    }

    /// Adds a key that [`Self::find`] did not find, behind all others.
    pub(super) fn insert(&mut self, key: [u8; 32], value: T) -> usize {
        let place = self.entries.len();
        self.entries.push(Entry { key, value });
        if self.entries.len() * FULL.1 > self.index.len() * FULL.0 {
            self.reindex();
        } else if let Err(free) = self.search(&key) {
            self.index[free] = name_of(place);
        }
        self.next = place + 1;
        place
    }

    /// Removes all entries of which `keep` (of place, key and value) says false.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(usize, &[u8; 32], &mut T) -> bool) {
        let mut place = 0;
        self.entries.retain_mut(|entry| {
            place += 1;
            keep(place - 1, &entry.key, &mut entry.value)
        });
        self.entries.shrink_to(self.entries.len() * 2);
        self.reindex();
    }

    /// All keys and values in their order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&[u8; 32], &mut T)> {
        self.entries
            .iter_mut()
            .map(|entry| (&entry.key, &mut entry.value))
    }

    /// The place of `key`, or where in the index it would be.
    fn search(&self, key: &[u8; 32]) -> Result<usize, usize> {
        if self.index.is_empty() {
            return Err(0);
        }
        let mask = self.index.len() - 1;
        let mut at = self.hash(key);
        while let Some(place) = place_of(self.index[at]) {
            if self.entries[place].key == *key {
                return Ok(place);
            }
            at = (at + 1) & mask;
        }
        Err(at)
    }

    fn reindex(&mut self) {
        let least = self.entries.len() * FULL.1 / FULL.0 + 2;
        self.index = vec![0; least.next_power_of_two()].into_boxed_slice();
        let mask = self.index.len() - 1;
        for place in 0..self.entries.len() {
            let mut at = self.hash(&self.entries[place].key);
            while self.index[at] != 0 {
                at = (at + 1) & mask;
            }
            self.index[at] = name_of(place);
        }
    }

    /// Where in the index to begin: the upper bits, of which there is at least one.
    fn hash(&self, key: &[u8; 32]) -> usize {
        (self.hasher.hash_one(key) >> (u64::BITS - self.index.len().trailing_zeros())) as usize
    }
}

/// Peers are fewer than 2^32 by far ([`super::MAX_PEERS`]).
fn name_of(place: usize) -> u32 {
    u32::try_from(place + 1).expect("the number of peers is bounded")
}

fn place_of(name: u32) -> Option<usize> {
    (name as usize).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u16) -> [u8; 32] {
        let mut key = [0; 32];
        key[30..].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn what_is_asked_in_order_is_found_without_a_search() {
        let mut roster = Roster::new();
        for number in 0..1000 {
            assert_eq!(roster.find(&key(number)), None);
            roster.insert(key(number), number);
        }
        roster.index.fill(0); // no search finds anything now
        roster.rewind();
        for number in 0..1000 {
            assert_eq!(roster.find(&key(number)), Some(usize::from(number)));
        }
        assert_eq!(roster.find(&key(7)), None);
    }

    #[test]
    fn keys_that_differ_in_few_bits_do_not_meet() {
        let shifts = [0, 7, 64, 128, 248];
        for shift in shifts.into_iter().cycle().take(200) {
            let mut roster = Roster::new();
            for number in 0..250_u128 {
                let mut key = [0; 32];
                let (low, high) = key.split_at_mut(16);
                low.copy_from_slice(&number.checked_shl(shift).unwrap_or(0).to_le_bytes());
                high.copy_from_slice(
                    &number
                        .checked_shl(shift.wrapping_sub(128))
                        .unwrap_or(0)
                        .to_le_bytes(),
                );
                roster.insert(key, ());
            }
            let longest = roster
                .index
                .split(|name| *name == 0)
                .map(<[u32]>::len)
                .max();
            assert!(longest < Some(100), "{shift}: {longest:?} in a row");
        }
    }

    #[test]
    fn entries_of_the_table_are_as_small_as_promised() {
        let mut roster = Roster::new();
        for number in 0..50_000 {
            roster.insert(key(number), [0_u64; 4]);
        }
        let bytes = roster.len() * size_of::<Entry<[u64; 4]>>() + roster.index.len() * 4;
        assert!(bytes / roster.len() < 75, "{bytes}");
    }

    proptest! {
        /// It is a map, whatever is done in whichever order.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u16..200, 0_u8..12), 1..400)) {
            let mut roster = Roster::new();
            let mut model = BTreeMap::new();
            for (number, what) in steps {
                let found = roster.find(&key(number));
                prop_assert_eq!(found.is_some(), model.contains_key(&number));
                match (what, found) {
                    (0, _) => roster.rewind(),
                    (1, _) => {
                        roster.retain(|_, _, value| *value % 3 != number % 3);
                        model.retain(|_, value| *value % 3 != number % 3);
                    }
                    (_, Some(place)) => prop_assert_eq!(*roster.at(place), model[&number]),
                    (_, None) => {
                        let place = roster.insert(key(number), number);
                        prop_assert_eq!(*roster.at(place), number);
                        model.insert(number, number);
                    }
                }
                prop_assert_eq!(roster.len(), model.len());
            }
            let all: BTreeMap<u16, u16> = roster
                .iter_mut()
                .map(|(key, value)| (u16::from_be_bytes([key[30], key[31]]), *value))
                .collect();
            prop_assert_eq!(all, model);
        }
    }
}
