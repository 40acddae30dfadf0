//! Ledger batches: what is applied, what is lost, and how far the ledger is safe then.
//!
//! A ledger's sequences begin at 1 and come in order. What cannot be read is recorded and
//! acknowledged like a loss, because a ledger that waits for it would wait for ever.

use uuid::Uuid;
use vpn_node_protocol::connection::{Confidence, ConnectionEvent, ConnectionRecord, Stamp};
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::limits::{
    MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_GAPS, MAX_IDENTITY_BYTES, MAX_RECORD_BYTES,
    MAX_VIRTUAL_IPS, is_short_text,
};
use vpn_node_protocol::message::{ConnectionBatch, GapReason};

use crate::rules::state::word;

/// Sequences beyond this do not fit the database's integers.
const MAX_SEQ: u64 = i64::MAX as u64;
/// The longest virtual address with prefix length: an IPv6 address in full and "/128".
const MAX_VIRTUAL_IP_BYTES: usize = 64;

/// A batch whose records have been opened.
#[derive(Clone, Debug)]
pub struct OpenedBatch {
    /// Which ledger.
    pub ledger_epoch: Hex<16>,
    /// In ascending order: the record, or why there is none (`unreadable`, `invalid`).
    pub records: Vec<(u64, Result<ConnectionRecord, &'static str>)>,
    /// In ascending order.
    pub gaps: Vec<LostRange>,
}

impl OpenedBatch {
    /// The sequence before its first record or gap; 0 when it has neither.
    #[must_use]
    pub fn before_first(&self) -> u64 {
        let record = self.records.first().map(|(seq, _)| *seq);
        let gap = self.gaps.first().map(|gap| gap.first);
        let first = record.into_iter().chain(gap).min();
        first.map_or(0, |first| first.saturating_sub(1))
    }
}

/// Lost sequences, first and last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// First.
    pub first: u64,
    /// Last.
    pub last: u64,
    /// The host's word ([`gap_reason`]), or ours: `unreadable`, `invalid` or `not_sent`.
    pub reason: &'static str,
}

/// What a batch does.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// Records to apply, in order.
    pub apply: Vec<(u64, &'a ConnectionRecord)>,
    /// Sequences to record as lost.
    pub lost: Vec<LostRange>,
    /// Everything up to and with this is accounted for.
    pub ack: u64,
}

/// A record as the database takes it.
#[derive(Clone, Debug)]
pub struct ConnectionWrite {
    /// The ledger it comes from.
    pub ledger_epoch: Hex<16>,
    /// Its place there.
    pub seq: u64,
    /// The record itself.
    pub record: ConnectionRecord,
    /// `start`, `update` or `end`.
    pub event: &'static str,
    /// When the connection started, by the controller's clock.
    pub started_ms: i64,
    /// When the event happened, by the controller's clock.
    pub at_ms: i64,
}

/// Checks what a batch must hold whatever is sealed in it.
///
/// # Errors
/// A sentence for the refusal.
pub fn check(batch: &ConnectionBatch) -> Result<(), &'static str> {
    if batch.records.len() > MAX_BATCH_RECORDS || batch.gaps.len() > MAX_GAPS {
        return Err("the batch holds too many records or gaps");
    }
    let sizes = || batch.records.iter().map(|r| r.sealed.as_bytes().len());
    if sizes().any(|size| size > MAX_RECORD_BYTES) || sizes().sum::<usize>() > MAX_BATCH_BYTES {
        return Err("the batch holds a record that is too large, or is too large itself");
    }
    let records = ascends(batch.records.iter().map(|r| (r.seq, r.seq)));
    let gaps = ascends(batch.gaps.iter().map(|g| (g.first, g.last)));
    let overlap = || {
        let inside = |seq| batch.gaps.iter().any(|g| (g.first..=g.last).contains(&seq));
        batch.records.iter().any(|r| inside(r.seq))
    };
    if !records || !gaps || overlap() {
        return Err("the batch's sequences are not in ascending order from 1 on");
    }
    Ok(())
}

/// Whether ranges follow one another, from 1 on, without touching.
fn ascends(mut ranges: impl Iterator<Item = (u64, u64)>) -> bool {
    let mut before = 0;
    ranges.all(|(first, last)| {
        let good = before < first && first <= last && last <= MAX_SEQ;
        before = last;
        good
    })
}

/// The stable word of a gap's reason.
#[must_use]
pub fn gap_reason(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Torn => "torn",
        GapReason::Damaged => "damaged",
        GapReason::Missing => "missing",
        GapReason::Dropped => "dropped",
        GapReason::Refused => "refused",
    }
}

/// Checks the texts of an opened record.
#[must_use]
pub fn is_bounded(record: &ConnectionRecord) -> bool {
    let end_reason = match &record.event {
        ConnectionEvent::End { reason, .. } => reason.as_str(),
        _ => "",
    };
    is_short_text(&record.backend)
        && is_short_text(&record.instance)
        && is_short_text(end_reason)
        && record.identity.as_ref().is_none_or(|identity| {
            is_short_text(&identity.kind) && identity.value.len() <= MAX_IDENTITY_BYTES
        })
        && record.virtual_ips.len() <= MAX_VIRTUAL_IPS
        && record
            .virtual_ips
            .iter()
            .all(|ip| ip.len() <= MAX_VIRTUAL_IP_BYTES && is_short_text(ip))
}

/// What to do with a batch when everything up to `acked` is stored already.
///
/// Sequences missing before the first new entry are a loss of ours (a restored database) or of
/// the host; they are recorded as `not_sent`. After a hole inside the batch nothing is taken: the
/// host sends it again from there.
#[must_use]
pub fn plan(acked: u64, batch: &OpenedBatch) -> Plan<'_> {
    enum Entry<'a> {
        Record(u64, &'a Result<ConnectionRecord, &'static str>),
        Gap(LostRange),
    }
    let mut entries: Vec<(u64, u64, Entry<'_>)> = batch
        .records
        .iter()
        .map(|(seq, record)| (*seq, *seq, Entry::Record(*seq, record)))
        .chain(batch.gaps.iter().map(|g| (g.first, g.last, Entry::Gap(*g))))
        .collect();
    entries.sort_by_key(|(first, ..)| *first);
    let mut plan = Plan {
        apply: Vec::new(),
        lost: Vec::new(),
        ack: acked,
    };
    let mut begun = false;
    for (first, last, entry) in entries {
        if last <= acked {
            continue;
        }
        let expected = plan.ack + 1;
        if first > expected {
            if begun {
                break;
            }
            plan.lost.push(LostRange {
                first: expected,
                last: first - 1,
                reason: "not_sent",
            });
        }
        begun = true;
        plan.ack = last;
        match entry {
            Entry::Record(seq, Ok(record)) => plan.apply.push((seq, record)),
            Entry::Record(seq, Err(reason)) => plan.lost.push(LostRange {
                first: seq,
                last: seq,
                reason,
            }),
            Entry::Gap(gap) => plan.lost.push(LostRange {
                first: gap.first.max(expected),
                ..gap
            }),
        }
    }
    plan
}

/// A record with its instants by the controller's clock. `host_now` is the host's reading at
/// `now_ms`.
#[must_use]
pub fn dated(
    ledger_epoch: Hex<16>,
    seq: u64,
    record: &ConnectionRecord,
    host_now: &Stamp,
    now_ms: i64,
) -> ConnectionWrite {
    let at_ms = record.at.by_controller(host_now, now_ms);
    ConnectionWrite {
        ledger_epoch,
        seq,
        record: record.clone(),
        event: match record.event {
            ConnectionEvent::Start => "start",
            ConnectionEvent::Update => "update",
            ConnectionEvent::End { .. } => "end",
        },
        // A connection does not begin after something happened to it.
        started_ms: record.started.by_controller(host_now, now_ms).min(at_ms),
        at_ms,
    }
}

impl ConnectionWrite {
    /// Reason, confidence word and uncertainty of an end.
    #[must_use]
    pub fn end(&self) -> Option<(&str, String, u64)> {
        match &self.record.event {
            ConnectionEvent::End {
                reason,
                confidence,
                uncertainty_ms,
            } => Some((reason, word::<Confidence>(confidence), *uncertainty_ms)),
            _ => None,
        }
    }

    /// The connection.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.record.connection_id
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(records: &[u64], gaps: &[(u64, u64)]) -> OpenedBatch {
        OpenedBatch {
            ledger_epoch: Hex([1; 16]),
            records: records.iter().map(|s| (*s, Err("unreadable"))).collect(),
            gaps: gaps
                .iter()
                .map(|&(first, last)| LostRange {
                    first,
                    last,
                    reason: "dropped",
                })
                .collect(),
        }
    }

    #[test]
    fn a_hole_inside_a_batch_stops_it_and_one_before_it_is_recorded() {
        assert_eq!(plan(0, &batch(&[1, 2, 4], &[])).ack, 2);
        let after_loss = batch(&[201], &[]);
        let planned = plan(100, &after_loss);
        assert_eq!(planned.ack, 201);
        assert_eq!(
            planned.lost[0],
            LostRange {
                first: 101,
                last: 200,
                reason: "not_sent"
            }
        );
    }

    #[test]
    fn a_gap_that_is_half_known_is_recorded_by_its_new_half() {
        let half = batch(&[], &[(3, 9)]);
        let planned = plan(5, &half);
        assert_eq!((planned.ack, planned.lost[0].first), (9, 6));
    }

    proptest! {
        #[test]
        fn every_sequence_is_accounted_for_exactly_once(
            acked in 0u64..10,
            kinds in prop::collection::vec(0u8..3, 1..30),
            from in 1u64..10,
        ) {
            // A gapless run of records and lost pieces from `from` on.
            let mut next = from;
            let (mut records, mut gaps) = (vec![], vec![]);
            for kind in kinds {
                let len = u64::from(kind).max(1);
                if kind == 0 { records.push(next) } else { gaps.push((next, next + len - 1)) }
                next += len;
            }
            let opened = batch(&records, &gaps);
            let planned = plan(acked, &opened);
            prop_assert_eq!(planned.ack, acked.max(next - 1));
            let mut covered: Vec<u64> = planned.lost.iter().flat_map(|r| r.first..=r.last).collect();
            covered.sort_unstable();
            prop_assert_eq!(covered, (acked + 1..=planned.ack).collect::<Vec<_>>());
            // Once more: nothing new.
            let again = plan(planned.ack, &opened);
            prop_assert!(again.lost.is_empty() && again.apply.is_empty() && again.ack == planned.ack);
        }
    }
}
