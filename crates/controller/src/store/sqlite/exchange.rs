//! Reading what a chained request is judged on.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::clones::all_refused_ahead;
use super::directives::{last_rotation, open_of};
use super::map::{counter, database, enum_of, instant_optional, number, parse, parse_optional};
use super::{hardware, keys, rollouts};
use crate::rules::Snapshot;
use crate::rules::boot::Boot;
use crate::rules::state::{ChainState, KeyUse, Resolving};
use crate::store::{StoreError, Wants};

pub(super) async fn load(
    conn: &mut SqliteConnection,
    server_id: &str,
    wants: Wants,
) -> Result<Snapshot, StoreError> {
    let row = sqlx::query(
        "SELECT s.status, s.verdict, s.verdict_reason, s.challenges_missed, s.authorisation,
                s.hardware_verification_status, s.raw_hardware_components, s.last_heartbeat,
                s.verification_hash, s.last_hardware_verification_at, s.rehost_permitted_until,
                c.key_epoch, c.seq, c.chain, c.nonce, c.last_digest, c.last_reply, c.boot_id,
                c.booted, c.made_at, c.peer_ip, k.kept, k.key_epoch AS clone_epoch, k.second_seq,
                k.second_digest
         FROM servers s JOIN server_chains c ON c.server_id = s.server_id
         LEFT JOIN clone_suspicions k ON k.server_id = s.server_id AND k.status = 'resolving'
         WHERE s.server_id = ?",
    )
    .bind(server_id)
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?
    .ok_or(StoreError::Conflict)?;
    let mut snapshot = snapshot(server_id, &row)?;
    snapshot.directives = open_of(conn, server_id).await?;
    if let Some(key_id) = wants.signer {
        snapshot.signer = keys::of_server(conn, server_id, &key_id).await?;
    }
    if let Some(key) = wants.new_key {
        snapshot.new_key = keys::use_of(conn, server_id, &key).await?;
    }
    if let Some(resolving) = &mut snapshot.resolving {
        resolving.rotation_ms = last_rotation(conn, server_id).await?;
    }
    if wants.seq.is_some_and(|seq| seq <= snapshot.chain.seq) {
        for digest in all_refused_ahead(conn, server_id).await? {
            let digest = parse("ahead_digests.digest", &digest)?;
            snapshot.refused_ahead.push(digest);
        }
    }
    if let Some(seq) = wants.seq.filter(|&seq| seq < snapshot.chain.seq) {
        let digest: Option<String> = sqlx::query_scalar(
            "SELECT digest FROM request_digests WHERE server_id = ? AND seq = ?",
        )
        .bind(server_id)
        .bind(counter(seq))
        .fetch_optional(&mut *conn)
        .await
        .map_err(database)?;
        snapshot.earlier = parse_optional("request_digests.digest", digest.as_deref())?;
    }
    if wants.hardware {
        snapshot.last_hardware = hardware::last(conn, server_id).await?;
    }
    if snapshot.mismatch_stands() {
        let at = hardware::last_challenge(conn, server_id).await?;
        snapshot.last_challenge_ms =
            instant_optional("server_verifications.verification_time", at.as_deref())?;
    }
    if let Some(id) = wants.deployment {
        snapshot.deployment = rollouts::known(conn, id).await?;
    }
    if let Some(epoch) = wants.ledger_epoch {
        let row: Option<(i64, bool)> = sqlx::query_as(
            "SELECT acked_through, set_back FROM connection_ledgers
             WHERE server_id = ? AND ledger_epoch = ?",
        )
        .bind(server_id)
        .bind(epoch.to_string())
        .fetch_optional(conn)
        .await
        .map_err(database)?;
        let (acked, set_back) = row.unwrap_or_default();
        snapshot.ledger_acked = number("connection_ledgers.acked_through", acked)?;
        snapshot.ledger_set_back = set_back;
    }
    Ok(snapshot)
}

fn resolving(row: &SqliteRow) -> Result<Option<Resolving>, StoreError> {
    let Some(kept) = row.get::<Option<&str>, _>("kept") else {
        return Ok(None);
    };
    Ok(Some(Resolving {
        kept: enum_of("clone_suspicions.kept", kept)?,
        epoch: number("clone_suspicions.key_epoch", row.get("clone_epoch"))?,
        second_seq: number("clone_suspicions.second_seq", row.get("second_seq"))?,
        second_digest: parse("clone_suspicions.second_digest", row.get("second_digest"))?,
        rotation_ms: None,
    }))
}

fn boot(row: &SqliteRow) -> Result<Option<Boot>, StoreError> {
    let id = parse_optional("server_chains.boot_id", row.get("boot_id"))?;
    let at_ms = instant_optional("server_chains.booted", row.get("booted"))?;
    Ok(id.zip(at_ms).map(|(id, at_ms)| Boot { id, at_ms }))
}

fn snapshot(server_id: &str, row: &SqliteRow) -> Result<Snapshot, StoreError> {
    Ok(Snapshot {
        server_id: server_id.to_owned(),
        status: enum_of("servers.status", row.get("status"))?,
        signer: None,
        new_key: KeyUse::Free,
        chain: ChainState {
            epoch: number("server_chains.key_epoch", row.get("key_epoch"))?,
            seq: number("server_chains.seq", row.get("seq"))?,
            chain: parse("server_chains.chain", row.get("chain"))?,
            nonce: parse("server_chains.nonce", row.get("nonce"))?,
            last_digest: parse_optional("server_chains.last_digest", row.get("last_digest"))?,
        },
        earlier: None,
        refused_ahead: vec![],
        last_reply: row.get("last_reply"),
        boot: boot(row)?,
        peer_ip: row.get("peer_ip"),
        verdict: enum_of("servers.verdict", row.get("verdict"))?,
        verdict_reason: row.get("verdict_reason"),
        challenges_missed: number("servers.challenges_missed", row.get("challenges_missed"))?,
        authorisation: enum_of("servers.authorisation", row.get("authorisation"))?,
        hardware_status: enum_of(
            "servers.hardware_verification_status",
            row.get("hardware_verification_status"),
        )?,
        raw_hardware: row.get("raw_hardware_components"),
        hardware_id: parse("servers.verification_hash", row.get("verification_hash"))?,
        verified_ms: instant_optional(
            "servers.last_hardware_verification_at",
            row.get("last_hardware_verification_at"),
        )?,
        rehost_until_ms: instant_optional(
            "servers.rehost_permitted_until",
            row.get("rehost_permitted_until"),
        )?,
        last_hardware: None,
        last_challenge_ms: None,
        last_heartbeat_ms: instant_optional("servers.last_heartbeat", row.get("last_heartbeat"))?,
        made_ms: instant_optional("server_chains.made_at", row.get("made_at"))?,
        directives: vec![],
        ledger_acked: 0,
        ledger_set_back: false,
        resolving: resolving(row)?,
        deployment: None,
    })
}
