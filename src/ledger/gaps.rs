//! Ranges of sequences whose records are lost, and why. Pure.

use std::fmt;

/// A range of sequences that hold no record any more; it is delivered like a record and acknowledged like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First missing sequence.
    pub first: u64,
    /// Last missing sequence, inclusive.
    pub last: u64,
    /// Why.
    pub reason: GapReason,
}

impl Gap {
    /// How many sequences it spans: an upper bound of the records that were lost.
    #[must_use]
    pub fn span(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Why records are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The end of the last segment was unreadable at opening: a write cut by a power failure, which
    /// was never accepted, or damage to the last records, which were. The two look the same, so the
    /// gap spans as many sequences as those bytes can have held: often far more than were lost.
    Torn,
    /// Bytes on disk changed; the segment was copied to `quarantine/`.
    Damaged,
    /// A segment file, or a part of it, is not there any more.
    Missing,
    /// The quota was full and the oldest segment was given up for new records.
    Dropped,
    /// The ledger could not take these records and the agent gave them up.
    Refused,
}

impl GapReason {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Torn => 1,
            Self::Damaged => 2,
            Self::Missing => 3,
            Self::Dropped => 4,
            Self::Refused => 5,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        let all = [
            Self::Torn,
            Self::Damaged,
            Self::Missing,
            Self::Dropped,
            Self::Refused,
        ];
        all.into_iter().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Torn => "torn",
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
        })
    }
}

/// Gaps in order of their sequences, disjoint; neighbours of one reason are one gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GapSet(Vec<Gap>);

impl GapSet {
    /// Adds the parts of `gap` that no gap covers yet, and returns them: the first reason stays.
    pub(super) fn insert(&mut self, gap: Gap) -> Vec<Gap> {
        let mut pieces = Vec::new();
        let mut from = gap.first;
        for known in self.0.iter().filter(|k| k.last >= gap.first) {
            if known.first > gap.last || from > gap.last {
                break;
            }
            if known.first > from {
                pieces.push(Gap {
                    first: from,
                    last: known.first - 1,
                    ..gap
                });
            }
            from = from.max(known.last.saturating_add(1));
        }
        if from <= gap.last {
            pieces.push(Gap { first: from, ..gap });
        }
        self.0.extend(&pieces);
        self.0.sort_unstable_by_key(|gap| gap.first);
        self.0.dedup_by(|right, left| {
            let one = left.reason == right.reason && left.last.checked_add(1) == Some(right.first);
            if one {
                left.last = right.last;
            }
            one
        });
        pieces
    }

    /// Forgets everything below `low`.
    pub(super) fn forget_below(&mut self, low: u64) {
        self.0.retain(|gap| gap.last >= low);
        if let Some(oldest) = self.0.first_mut() {
            oldest.first = oldest.first.max(low);
        }
    }

    /// The gap that holds `sequence`.
    pub(super) fn at(&self, sequence: u64) -> Option<Gap> {
        let index = self.0.partition_point(|gap| gap.last < sequence);
        let gap = *self.0.get(index)?;
        (gap.first <= sequence).then_some(gap)
    }

    pub(super) fn as_slice(&self) -> &[Gap] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_are_their_own_inverse() {
        for code in 0..=255 {
            if let Some(reason) = GapReason::from_code(code) {
                assert_eq!(reason.code(), code);
            }
        }
        assert_eq!(GapReason::from_code(0), None);
    }

    proptest! {
        #[test]
        fn the_set_agrees_with_a_map_of_single_sequences(
            ranges in proptest::collection::vec((0u64..60, 0u64..12, 1u8..=5), 0..20),
            low in 0u64..60,
        ) {
            let mut set = GapSet::default();
            let mut model = BTreeMap::new();
            for (first, more, code) in ranges {
                let reason = GapReason::from_code(code).unwrap();
                set.insert(Gap { first, last: first + more, reason });
                for sequence in first..=first + more {
                    model.entry(sequence).or_insert(reason);
                }
            }
            set.forget_below(low);
            model.retain(|sequence, _| *sequence >= low);
            for sequence in 0..80 {
                prop_assert_eq!(
                    set.at(sequence).map(|gap| gap.reason),
                    model.get(&sequence).copied()
                );
            }
            for pair in set.as_slice().windows(2) {
                prop_assert!(pair[0].last < pair[1].first);
                prop_assert!(pair[0].last + 1 < pair[1].first || pair[0].reason != pair[1].reason);
            }
        }
    }
}
