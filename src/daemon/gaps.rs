//! The ledger's gaps in a batch for the controller.

use vpn_node_protocol::limits::MAX_GAPS;
use vpn_node_protocol::message::{self, ConnectionBatch};

use crate::ledger::{Gap, GapReason};

/// Orders the gaps and makes one of neighbours. With more of them than a batch may have, the batch
/// ends before the first that is too many: the controller would refuse it for ever.
pub(super) fn limit_gaps(batch: &mut ConnectionBatch) {
    batch.gaps.sort_by_key(|gap| gap.first);
    batch.gaps.dedup_by(|right, left| {
        let one = left.reason == right.reason && left.last + 1 == right.first;
        if one {
            left.last = right.last;
        }
        one
    });
    if let Some(first) = batch.gaps.get(MAX_GAPS).map(|gap| gap.first) {
        batch.gaps.truncate(MAX_GAPS);
        batch.records.retain(|record| record.seq < first);
    }
}

/// A gap in the words of the protocol.
pub(super) fn wire_gap(gap: &Gap) -> message::Gap {
    message::Gap {
        first: gap.first,
        last: gap.last,
        reason: match gap.reason {
            GapReason::Torn => message::GapReason::Torn,
            GapReason::Damaged => message::GapReason::Damaged,
            GapReason::Missing => message::GapReason::Missing,
            GapReason::Dropped => message::GapReason::Dropped,
            GapReason::Refused => message::GapReason::Refused,
        },
    }
}

#[cfg(test)]
mod tests {
    use vpn_node_protocol::encoding::Hex;

    use super::*;

    #[test]
    fn a_batch_has_no_more_gaps_than_the_controller_takes() {
        let gap = |first, last| message::Gap {
            first,
            last,
            reason: message::GapReason::Damaged,
        };
        let mut batch = ConnectionBatch {
            ledger_epoch: Hex([0; 16]),
            records: vec![],
            gaps: (0..200).rev().map(|n| gap(2 * n + 1, 2 * n + 1)).collect(),
        };
        limit_gaps(&mut batch);
        assert_eq!(batch.gaps.len(), MAX_GAPS);
        assert_eq!(batch.gaps.last(), Some(&gap(127, 127)));
        // Five hundred records in a row that nobody can send are one gap.
        batch.gaps = (1..=500).map(|n| gap(n, n)).collect();
        limit_gaps(&mut batch);
        assert_eq!(batch.gaps, [gap(1, 500)]);
    }
}
