//! The ledger's gaps in a batch for the controller.

use vpn_node_protocol::limits::MAX_GAPS;
use vpn_node_protocol::message::{self, ConnectionBatch};

use crate::ledger::GapReason;

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
pub(super) fn wire_gap(gap: &crate::ledger::Gap) -> message::Gap {
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
