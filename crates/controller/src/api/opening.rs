//! Opening what is sealed, before any transaction: it costs more than everything else together.

use vpn_node_protocol::connection::ConnectionRecord;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::message::ConnectionBatch;
use vpn_node_protocol::sealing::{Context, Sealed};

use crate::keys::Keys;
use crate::rules::connections::{LostRange, OpenedBatch, gap_reason, is_bounded};

/// Components that a host sealed, or a sentence without any of their content.
pub(super) fn hardware(
    keys: &Keys,
    sealed: &Sealed,
    identity: &Digest,
) -> Result<Components, String> {
    let json = keys
        .unseal(sealed, Context::Hardware { identity })
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&json)
        .map_err(|_| "the sealed hardware components do not parse".to_owned())
}

/// The records of a batch; one that cannot be read keeps its place.
pub(super) fn batch(keys: &Keys, server_id: &str, batch: &ConnectionBatch) -> OpenedBatch {
    let open = |seq: u64, sealed: &Sealed| -> Result<ConnectionRecord, &'static str> {
        let context = Context::Connection {
            server_id,
            ledger_epoch: &batch.ledger_epoch,
            sequence: seq,
        };
        let json = keys.unseal(sealed, context).map_err(|_| "unreadable")?;
        let record: ConnectionRecord = serde_json::from_slice(&json).map_err(|_| "invalid")?;
        if is_bounded(&record) {
            Ok(record)
        } else {
            Err("invalid")
        }
    };
    OpenedBatch {
        ledger_epoch: batch.ledger_epoch,
        records: batch
            .records
            .iter()
            .map(|record| (record.seq, open(record.seq, &record.sealed)))
            .collect(),
        gaps: batch
            .gaps
            .iter()
            .map(|gap| LostRange {
                first: gap.first,
                last: gap.last,
                reason: gap_reason(gap.reason),
            })
            .collect(),
    }
}
