//! Two holders of one identity: what they look like, which of them an operator means, and whose
//! requests count until the kept one has a new key (`docs/protocol.md`, "Replay and clones").

use std::net::IpAddr;

use crate::rules::chain::{Judgement, Place};
use crate::rules::effect::{
    Effect, FirstHolder, Likely, NewEvent, NewRotation, NewSuspicion, SecondHolder,
};
use crate::rules::events::EventType;
use crate::rules::lifecycle::ROTATE_DEADLINE_S;
use crate::rules::request::Request;
use crate::rules::state::{
    ChainState, Kept, OpenDirective, Policy, Resolving, Snapshot, Want, word,
};

/// A holder counts as alive for this many heartbeat intervals after its last heartbeat.
const ALIVE_INTERVALS: i64 = 2;

/// What is known when a second holder shows itself.
#[must_use]
pub fn suspicion(
    snapshot: &Snapshot,
    second: SecondHolder,
    policy: Policy,
    now_ms: i64,
) -> NewSuspicion {
    let (likely, reason) = likely(snapshot, &second, policy, now_ms);
    NewSuspicion {
        at_ms: now_ms,
        epoch: snapshot.chain.epoch,
        status_before: snapshot.status,
        likely,
        reason,
        first: FirstHolder {
            seq: snapshot.chain.seq,
            seen_ms: snapshot.last_heartbeat_ms,
            peer_ip: snapshot.peer_ip.clone(),
            boot_id: snapshot.boot.map(|boot| boot.id),
        },
        second,
    }
}

/// What two holders look like, and a sentence that says what to do.
fn likely(
    snapshot: &Snapshot,
    second: &SecondHolder,
    policy: Policy,
    now_ms: i64,
) -> (Likely, &'static str) {
    let (Some(boot), Some(seen_ms)) = (snapshot.boot, snapshot.last_heartbeat_ms) else {
        return (Likely::Unknown, UNKNOWN);
    };
    let same_boot = boot.id == second.boot_id;
    let alive_ms = ALIVE_INTERVALS * i64::from(policy.heartbeat_interval_s) * 1000;
    let first_is_alive = now_ms.saturating_sub(seen_ms) <= alive_ms;
    let behind = second.seq <= snapshot.chain.seq;
    // Uptime stands still in a saved memory image, and goes on in a copy that runs.
    if same_boot && second.boottime_ms <= boot.up_ms(seen_ms) {
        (Likely::RestoredSnapshot, MEMORY_SET_BACK)
    } else if first_is_alive {
        (Likely::Copy, COPY)
    } else if !same_boot && behind {
        (Likely::RestoredSnapshot, DISK_SET_BACK)
    } else {
        (Likely::Unknown, UNKNOWN)
    }
}

const MEMORY_SET_BACK: &str = "the second holder is in the same boot as the first and no further in it, so this machine was most likely set back to a snapshot of its memory: make sure that no other machine runs with this identity, then keep the second";
const DISK_SET_BACK: &str = "the first holder fell silent and the second one is behind it in another boot, so this machine's disk was most likely restored from a snapshot or a backup: make sure that no other machine runs with this identity, then keep the second";
const COPY: &str = "the first holder was heard a moment ago, so two machines most likely run with this identity (a copied disk or a cloned virtual machine): find out which one is yours, stop and erase the other one, then keep the right one";
const UNKNOWN: &str = "it cannot be told whether a machine was copied or set back: look at both before you keep one, and stop the other one";

/// The event of a second holder: names both.
#[must_use]
pub fn event(
    event_type: EventType,
    snapshot: &Snapshot,
    suspicion: &NewSuspicion,
    how: &str,
) -> NewEvent {
    let (first, second) = (&suspicion.first, &suspicion.second);
    let first_boot = first
        .boot_id
        .map_or_else(|| "no boot yet".to_owned(), |id| format!("boot {id}"));
    NewEvent {
        event_type,
        source_id: Some(snapshot.server_id.clone()),
        description: format!(
            "two holders of one identity, or a restored snapshot: request {} from {} (boot {}) does not follow request {} from {} ({first_boot}): {how}; both are quarantined; {}",
            second.seq, second.peer_ip, second.boot_id, first.seq, first.peer_ip, suspicion.reason,
        ),
        at_ms: suspicion.at_ms,
    }
}

/// Whose requests count until the kept holder's new key is in use. Nothing that the other one
/// sends changes anything, also when it can show old replies of ours.
#[must_use]
pub fn while_resolving(
    stored: &ChainState,
    resolving: &Resolving,
    place: &Place<'_>,
    judged: Judgement,
) -> Judgement {
    // In the epoch of its new key the kept holder is alone.
    let keeps_second = resolving.kept == Kept::Second && stored.epoch == resolving.epoch;
    // The first holder built requests on that place too, and they may have been recorded: only
    // the very request that showed the second holder counts there.
    if keeps_second
        && stored.seq.checked_add(1) == Some(resolving.second_seq)
        && place.seq == resolving.second_seq
    {
        return if place.digest == resolving.second_digest {
            Judgement::Next
        } else {
            Judgement::OtherHolder
        };
    }
    match judged {
        Judgement::Diverged(_) | Judgement::Forgotten => Judgement::OtherHolder,
        // The first holder is further than the second, and our own replies to it prove that.
        Judgement::Ahead | Judgement::AheadProven if keeps_second => Judgement::OtherHolder,
        other => other,
    }
}

/// The directive that a kept holder must follow, when none is open and the last one is old.
pub(super) fn rotation(
    snapshot: &Snapshot,
    request: &Request,
    open: &[OpenDirective],
    effects: &mut Vec<Effect>,
) -> Option<OpenDirective> {
    let resolving = snapshot.resolving?;
    let now_ms = request.now_ms;
    let deadline_ms = i64::from(ROTATE_DEADLINE_S) * 1000;
    let is_recent = |made_ms: i64| now_ms.saturating_sub(made_ms) <= deadline_ms;
    let is_open = open.iter().any(|d| d.want == Want::Rotate);
    if is_open || resolving.rotation_ms.is_some_and(is_recent) {
        return None;
    }
    let rotation = NewRotation {
        id: request.fresh.rotation_id,
        issued_ms: now_ms,
        deadline_s: ROTATE_DEADLINE_S,
        delivered: true,
    };
    effects.push(Effect::OpenRotation(rotation));
    Some(OpenDirective {
        id: rotation.id,
        want: Want::Rotate,
        issued_ms: rotation.issued_ms,
        deadline_s: rotation.deadline_s,
        delivered: true,
        applied: false,
    })
}

/// What the first use of the kept holder's new key leaves: nothing when nothing was to be resolved.
#[must_use]
pub fn resolved(snapshot: &Snapshot, now_ms: i64) -> Vec<Effect> {
    let Some(Resolving { kept, .. }) = snapshot.resolving else {
        return vec![];
    };
    vec![
        Effect::ResolveClones {
            kept,
            at_ms: now_ms,
        },
        Effect::Event(NewEvent {
            event_type: EventType::CloneResolved,
            source_id: Some(snapshot.server_id.clone()),
            description: format!(
                "the {} holder of the identity is kept, and its new key is in use: the other one is refused for ever",
                word(&kept)
            ),
            at_ms: now_ms,
        }),
    ]
}

/// How an operator may tell a holder from the other one.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its address.
    pub address: &'a str,
    /// Its boot, when that is known.
    pub boot_id: Option<&'a str>,
}

/// Why it is not clear which holder is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// Both are meant.
    #[error(
        "both holders have {what} {keep:?}: name one as 'first' or 'second', or by what they do not share"
    )]
    Both {
        /// What was asked for.
        keep: String,
        /// What they share.
        what: &'static str,
    },
    /// None is meant.
    #[error(
        "neither holder is {0:?}: name one as 'first' or 'second', by its address, or by the beginning of its boot id"
    )]
    None(String),
}

/// The holder that an operator means: `first`, `second`, an address, or the beginning of a boot id.
///
/// # Errors
/// [`PickError`].
pub fn pick(keep: &str, first: Named<'_>, second: Named<'_>) -> Result<Kept, PickError> {
    match keep {
        "first" => return Ok(Kept::First),
        "second" => return Ok(Kept::Second),
        _ => {}
    }
    let address: Option<IpAddr> = keep.parse().ok();
    let meant = |holder: Named<'_>| match address {
        Some(address) => holder.address.parse().ok() == Some(address.to_canonical()),
        None => {
            let boot_id = holder.boot_id.unwrap_or_default();
            !keep.is_empty() && boot_id.starts_with(&keep.to_ascii_lowercase())
        }
    };
    match (meant(first), meant(second)) {
        (true, false) => Ok(Kept::First),
        (false, true) => Ok(Kept::Second),
        (false, false) => Err(PickError::None(keep.to_owned())),
        (true, true) => Err(PickError::Both {
            keep: keep.to_owned(),
            what: match address {
                Some(_) => "the address",
                None => "a boot id that begins with",
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use vpn_node_protocol::encoding::Hex;

    use super::*;
    use crate::rules::boot::Boot;
    use crate::rules::state::ServerStatus;

    const NOW: i64 = 1_000_000_000;
    const POLICY: Policy = Policy {
        heartbeat_interval_s: 30,
        lease_s: 1800,
        verification_interval_s: 21_600,
    };

    /// At request 20, in boot 1 for 1000 seconds now, heard so many seconds ago.
    fn first(heard_s: Option<i64>) -> Snapshot {
        Snapshot {
            status: ServerStatus::Pending,
            boot: Some(Boot {
                id: Uuid::from_u128(1),
                at_ms: NOW - 1_000_000,
            }),
            peer_ip: "192.0.2.1".into(),
            last_heartbeat_ms: heard_s.map(|s| NOW - s * 1000),
            ..Snapshot::at(ChainState {
                epoch: 3,
                seq: 20,
                chain: Hex([0; 32]),
                nonce: Hex([0; 32]),
                last_digest: None,
            })
        }
    }

    fn second(seq: u64, boot: u128, up_s: u64) -> SecondHolder {
        SecondHolder {
            seq,
            digest: Hex([1; 32]),
            place: None,
            peer_ip: "192.0.2.2".into(),
            boot_id: Uuid::from_u128(boot),
            boottime_ms: up_s * 1000,
        }
    }

    #[test]
    fn what_two_holders_look_like() {
        for (heard_s, seq, boot, up_s, expected, words) in [
            // Both alive, in boots of their own; or a running copy of a running machine.
            (Some(10), 15, 2, 500, Likely::Copy, "two machines"),
            (Some(60), 21, 2, 500, Likely::Copy, "two machines"),
            (Some(10), 15, 1, 1000, Likely::Copy, "two machines"),
            // No further in the same boot than the first was when it spoke last.
            (Some(10), 15, 1, 990, Likely::RestoredSnapshot, "memory"),
            (Some(900), 15, 1, 50, Likely::RestoredSnapshot, "memory"),
            // Silence, then something older.
            (
                Some(61),
                15,
                2,
                50,
                Likely::RestoredSnapshot,
                "disk was most",
            ),
            (
                Some(61),
                20,
                2,
                50,
                Likely::RestoredSnapshot,
                "disk was most",
            ),
            // Silence, and then something that is not older.
            (Some(61), 21, 2, 50, Likely::Unknown, "cannot be told"),
            (Some(600), 15, 1, 900, Likely::Unknown, "cannot be told"),
            (None, 15, 2, 50, Likely::Unknown, "cannot be told"),
        ] {
            let found = suspicion(&first(heard_s), second(seq, boot, up_s), POLICY, NOW);
            assert_eq!(found.likely, expected, "{heard_s:?} {seq} {boot} {up_s}");
            assert!(found.reason.contains(words), "{}", found.reason);
            assert_eq!(
                (found.epoch, found.status_before),
                (3, ServerStatus::Pending)
            );
        }
        let mut never = first(Some(1));
        never.boot = None;
        let found = suspicion(&never, second(1, 1, 1), POLICY, NOW);
        assert_eq!(found.likely, Likely::Unknown);
        let event = event(EventType::CloneSuspected, &never, &found, "why");
        assert!(event.description.contains("(no boot yet)"), "{event:?}");
    }

    #[test]
    fn the_number_of_the_second_holder_is_its_own_in_its_own_epoch_only() {
        let resolving = Resolving {
            kept: Kept::Second,
            epoch: 3,
            second_seq: 1,
            second_digest: Hex([1; 32]),
            rotation_ms: None,
        };
        let mut stored = first(None).chain;
        stored.seq = 0;
        let place = |digest| Place {
            seq: 1,
            chain: stored.chain,
            nonce: stored.nonce,
            digest,
            proof: None,
            earlier: None,
            refused_ahead: false,
        };
        let judged = |stored: &ChainState, digest, judged| {
            while_resolving(stored, &resolving, &place(digest), judged)
        };
        let (seen, other) = (Hex([1; 32]), Hex([2; 32]));
        assert_eq!(judged(&stored, seen, Judgement::Ahead), Judgement::Next);
        assert_eq!(
            judged(&stored, other, Judgement::Next),
            Judgement::OtherHolder
        );
        // The first request with the new key.
        let next = ChainState {
            epoch: 4,
            ..stored.clone()
        };
        assert_eq!(judged(&next, other, Judgement::Next), Judgement::Next);
        let proven = judged(&next, other, Judgement::AheadProven);
        assert_eq!(proven, Judgement::AheadProven);
    }

    #[test]
    fn a_holder_is_named_in_its_own_words_only() {
        let of = |address, boot_id| Named {
            address,
            boot_id: Some(boot_id),
        };
        let (a, b) = (of("192.0.2.1", "abc1"), of("2001:db8::1", "abd2"));
        for (keep, kept) in [
            ("first", Kept::First),
            ("second", Kept::Second),
            ("192.0.2.1", Kept::First),
            ("::ffff:192.0.2.1", Kept::First),
            ("2001:DB8:0::1", Kept::Second),
            ("abc", Kept::First),
            ("ABD2", Kept::Second),
        ] {
            assert_eq!(pick(keep, a, b), Ok(kept), "{keep}");
        }
        for keep in ["", "First", "192.0.2.2", "abc12", "2001:db8::", "\u{1b}[2J"] {
            assert_eq!(pick(keep, a, b), Err(PickError::None(keep.into())));
        }
        let shared = pick("ab", a, b).unwrap_err();
        assert!(shared.to_string().contains("both holders have a boot id"));
        let unknown = Named { boot_id: None, ..a };
        assert_eq!(pick("abd", unknown, b), Ok(Kept::Second));
        let shared = pick(
            "192.0.2.1",
            a,
            Named {
                address: "192.0.2.1",
                ..b
            },
        )
        .unwrap_err();
        assert!(shared.to_string().contains("both holders have the address"));
    }
}
