//! What a heartbeat changes: acknowledgements, overdue challenges, the verdict, a new challenge.

use vpn_node_protocol::directive::{Action, Directive, DisconnectReason};
use vpn_node_protocol::limits::{
    CHALLENGE_DEADLINE_S, MAX_BACKENDS, MAX_DIRECTIVES, is_short_text,
};
use vpn_node_protocol::message::{
    Authorisation, BackendReport, DirectiveAck, DirectiveOutcome, Heartbeat, Verdict,
};
use vpn_node_protocol::metrics::MAX_DISKS;

use crate::rules::devices;
use crate::rules::effect::{Effect, HeartbeatWrite, NewChallenge, NewEvent, StandingWrite};
use crate::rules::grace::Grace;
use crate::rules::request::Request;
use crate::rules::rollout::report;
use crate::rules::state::{OpenDirective, ServerStatus, Snapshot, Want};
use crate::rules::verification::{due, missed};

/// Checks what a heartbeat must hold.
///
/// # Errors
/// A sentence for the refusal.
pub fn check(heartbeat: &Heartbeat) -> Result<(), &'static str> {
    let texts = [Some(&heartbeat.version), heartbeat.location.as_ref()];
    if !texts.into_iter().flatten().all(|text| is_short_text(text)) {
        return Err("version or location is too long, or holds control characters");
    }
    if heartbeat.backends.len() > MAX_BACKENDS || !heartbeat.backends.iter().all(backend_is_short) {
        return Err("there are too many backends, or one has an impossible name or detail");
    }
    let disks = &heartbeat.metrics.disks;
    if disks.len() > MAX_DISKS || !disks.iter().all(|disk| is_short_text(&disk.mount)) {
        return Err("there are too many disks, or one has an impossible path");
    }
    Ok(())
}

fn backend_is_short(backend: &BackendReport) -> bool {
    let details = backend.details.as_ref();
    let texts = details.map_or([None, None, None], |d| {
        [&d.version, &d.interface, &d.public_key].map(Option::as_ref)
    });
    [&backend.kind, &backend.instance]
        .into_iter()
        .chain(texts.into_iter().flatten())
        .all(|text| is_short_text(text))
}

/// What a chained request says about directives, whatever else it is about. Returns those that
/// are still open afterwards.
pub(super) fn settle_directives(
    snapshot: &Snapshot,
    request: &Request,
    standing: &mut StandingWrite,
    effects: &mut Vec<Effect>,
) -> Vec<OpenDirective> {
    let mut open = snapshot.directives.clone();
    for ack in &request.header.directive_acks {
        let Some(directive) = open.iter_mut().find(|d| d.id == ack.id) else {
            continue;
        };
        let (status, failure) = match ack.outcome {
            DirectiveOutcome::Applied => ("applied", None),
            DirectiveOutcome::Late => ("late", Some("late")),
            DirectiveOutcome::Unsupported => ("unsupported", Some("unsupported")),
            DirectiveOutcome::Failed => ("failed", Some("failed")),
        };
        effects.push(Effect::DirectiveStatus {
            id: ack.id,
            status,
            detail: ack.detail.clone(),
        });
        effects.extend(not_enforced(snapshot, request, directive, status, ack).map(Effect::Event));
        effects.extend(report::acknowledged(snapshot, request, directive, ack));
        match failure {
            None if directive.ends_when_applied() => open.retain(|d| d.id != ack.id),
            None => directive.applied = true,
            Some(failure) => {
                missed(snapshot, request, directive, failure, standing, effects);
                open.retain(|d| d.id != ack.id);
            }
        }
    }
    open
}

/// The event of a revocation that the host did not carry out.
fn not_enforced(
    snapshot: &Snapshot,
    request: &Request,
    directive: &OpenDirective,
    status: &str,
    ack: &DirectiveAck,
) -> Option<NewEvent> {
    let Want::Disconnect {
        connection_ids,
        reason: DisconnectReason::Revoked,
    } = &directive.want
    else {
        return None;
    };
    matches!(
        ack.outcome,
        DirectiveOutcome::Failed | DirectiveOutcome::Unsupported
    )
    .then(|| {
        devices::not_enforced(
            &snapshot.server_id,
            status,
            connection_ids.len(),
            ack.detail.as_deref(),
            request.now_ms,
        )
    })
}

/// What a heartbeat does beyond its row. Returns the directives that are still open afterwards.
pub(super) fn judge(
    snapshot: &Snapshot,
    request: &Request,
    heartbeat: &Heartbeat,
    mut open: Vec<OpenDirective>,
    standing: &mut StandingWrite,
    effects: &mut Vec<Effect>,
) -> Vec<OpenDirective> {
    let now_ms = request.now_ms;
    open.retain(|directive| {
        let over = directive.is_over(now_ms);
        if over {
            effects.push(Effect::DirectiveStatus {
                id: directive.id,
                status: "expired",
                detail: None,
            });
            missed(snapshot, request, directive, "no_answer", standing, effects);
        }
        !over
    });
    let active = snapshot.status == ServerStatus::Active;
    // A verdict is for one run of the agent: one that says it is unverified has been restarted.
    let restarted = heartbeat.authorisation == Authorisation::Unverified;
    if active && restarted && standing.verdict == Verdict::Verified {
        standing.verdict = Verdict::Unverified;
        standing.reason = None;
    }
    let free = active && !open.iter().any(OpenDirective::is_challenge);
    if let Some(purpose) = due(snapshot, request, heartbeat, standing).filter(|_| free) {
        let challenge = NewChallenge {
            id: request.fresh.challenge_id,
            value: request.fresh.challenge_value,
            purpose,
            issued_ms: now_ms,
            deadline_s: CHALLENGE_DEADLINE_S,
            delivered: true,
        };
        open.push(OpenDirective {
            id: challenge.id,
            want: Want::Challenge {
                value: challenge.value,
                purpose,
            },
            issued_ms: now_ms,
            deadline_s: CHALLENGE_DEADLINE_S,
            delivered: true,
            applied: false,
        });
        effects.push(Effect::OpenChallenge(challenge));
    }
    standing.available = active && standing.verdict == Verdict::Verified;
    effects.push(Effect::Heartbeat(Box::new(row(
        snapshot,
        request,
        heartbeat,
        standing.available,
    ))));
    report::judge(snapshot, heartbeat, now_ms, effects);
    open
}

/// The directives that a reply carries: until they are acknowledged, with every one.
pub(super) fn hand_out<'a>(
    snapshot: &Snapshot,
    request: &Request,
    wanted: impl Iterator<Item = &'a OpenDirective>,
    effects: &mut Vec<Effect>,
) -> Vec<Directive> {
    let out: Vec<&OpenDirective> = wanted.filter(|d| !d.applied).take(MAX_DIRECTIVES).collect();
    let undelivered: Vec<_> = out.iter().filter(|d| !d.delivered).map(|d| d.id).collect();
    if !undelivered.is_empty() {
        effects.push(Effect::Delivered(undelivered));
    }
    out.into_iter()
        .map(|directive| to_wire(directive, &snapshot.server_id, request.header.epoch))
        .collect()
}

/// The directive as the host gets it: made from the row, so that it is the same each time.
#[must_use]
pub fn to_wire(directive: &OpenDirective, server_id: &str, epoch: u32) -> Directive {
    Directive {
        id: directive.id,
        server_id: server_id.to_owned(),
        epoch,
        issued_ms: directive.issued_ms,
        deadline_s: directive.deadline_s,
        action: match &directive.want {
            &Want::Challenge { value, purpose } => Action::Challenge { value, purpose },
            Want::Rotate => Action::Rotate,
            Want::Disconnect {
                connection_ids,
                reason,
            } => Action::Disconnect {
                connection_ids: connection_ids.clone(),
                reason: *reason,
            },
            Want::Update {
                deployment_id,
                version,
                target,
                repository,
            } => Action::Update {
                deployment_id: deployment_id.unsigned_abs(),
                version: version.clone(),
                target: target.clone(),
                repository: repository.clone(),
            },
            Want::CancelUpdate { deployment_id } => Action::CancelUpdate {
                deployment_id: deployment_id.unsigned_abs(),
            },
        },
    }
}

fn row(
    snapshot: &Snapshot,
    request: &Request,
    heartbeat: &Heartbeat,
    available: bool,
) -> HeartbeatWrite {
    let grace = Grace::of(snapshot, heartbeat.authorisation, request.policy);
    // What it says of updates has its own place, and is checked there.
    let body = Heartbeat {
        update: None,
        ..heartbeat.clone()
    };
    HeartbeatWrite {
        received_ms: request.now_ms,
        active_connections: heartbeat.backends.iter().map(|b| u64::from(b.active)).sum(),
        location: heartbeat.location.clone(),
        backends: heartbeat.backends.clone(),
        body: serde_json::to_string(&body).expect("heartbeats have a JSON form"),
        version: heartbeat.version.clone(),
        peer_ip: request.peer_ip.clone(),
        available,
        authorisation: heartbeat.authorisation,
        grace_expires_ms: grace.expires_ms,
        grace_began: grace.began,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use vpn_node_protocol::encoding::Hex;
    use vpn_node_protocol::message::{BackendDetails, Header};

    use super::*;
    use crate::rules::events::EventType;
    use crate::rules::request::{Fresh, Subject};
    use crate::rules::state::{ChainState, Policy};

    const NOW: i64 = 1_790_000_000_000;

    fn snapshot(want: Want) -> Snapshot {
        let mut snapshot = Snapshot::at(ChainState {
            epoch: 1,
            seq: 4,
            chain: Hex([0; 32]),
            nonce: Hex([0; 32]),
            last_digest: None,
        });
        snapshot.directives = vec![OpenDirective {
            id: Uuid::from_u128(1),
            want,
            issued_ms: NOW,
            deadline_s: 120,
            delivered: true,
            applied: false,
        }];
        snapshot
    }

    fn disconnect(reason: DisconnectReason) -> Want {
        Want::Disconnect {
            connection_ids: vec![Uuid::from_u128(7)],
            reason,
        }
    }

    fn heartbeat() -> Heartbeat {
        serde_json::from_value(serde_json::json!({
            "version": "0.1.0", "uptime_s": 1, "backends": [],
            "metrics": vpn_node_protocol::metrics::SystemMetrics::default(),
            "clock_offset_ms": null, "backlog": {"records": 0, "bytes": 0, "lost": 0},
            "location": null, "authorisation": "verified",
        }))
        .unwrap()
    }

    fn request(outcome: Option<DirectiveOutcome>, now_ms: i64) -> Request {
        let ack = |outcome| DirectiveAck {
            id: Uuid::from_u128(1),
            outcome,
            detail: Some("openvpn server: \u{202e}busy".into()),
        };
        Request {
            header: Header {
                server_id: "s".into(),
                epoch: 1,
                seq: 5,
                chain: Hex([0; 32]),
                nonce: Hex([0; 32]),
                boot_id: Uuid::nil(),
                agent_time_ms: 0,
                boottime_ms: 0,
                directive_acks: outcome.into_iter().map(ack).collect(),
                proof: None,
            },
            subject: Subject::Heartbeat(Box::new(heartbeat())),
            digest: Hex([0; 32]),
            proof: None,
            peer_ip: String::new(),
            now_ms,
            policy: Policy {
                heartbeat_interval_s: 30,
                lease_s: 1800,
                verification_interval_s: 21_600,
            },
            fresh: Fresh {
                nonce: Hex([0; 32]),
                challenge_id: Uuid::nil(),
                challenge_value: Hex([0; 32]),
                rotation_id: Uuid::nil(),
                log_id: Uuid::nil(),
            },
        }
    }

    /// What becomes of a directive by this request: what is open then, and what is written.
    fn settled(want: Want, request: &Request) -> (Vec<OpenDirective>, Vec<Effect>) {
        let snapshot = snapshot(want);
        let before = StandingWrite {
            verdict: Verdict::Verified,
            reason: None,
            challenges_missed: 1,
            available: true,
        };
        let (mut standing, mut effects) = (before.clone(), vec![]);
        let open = settle_directives(&snapshot, request, &mut standing, &mut effects);
        let open = judge(
            &snapshot,
            request,
            &heartbeat(),
            open,
            &mut standing,
            &mut effects,
        );
        // However it ends, it is no challenge that was missed.
        assert_eq!(standing, before);
        let unverified = |effect: &Effect| matches!(effect, Effect::CloseVerification(_));
        assert!(!effects.iter().any(unverified));
        let open = open.into_iter().filter(|d| !d.is_challenge()).collect();
        (open, effects)
    }

    #[test]
    fn every_end_of_a_disconnect_closes_it_and_counts_as_no_missed_challenge() {
        use DirectiveOutcome::{Applied, Failed, Late, Unsupported};
        for reason in [DisconnectReason::Revoked, DisconnectReason::AdminKick] {
            for (outcome, now_ms, word) in [
                (Some(Applied), NOW, "applied"),
                (Some(Failed), NOW, "failed"),
                (Some(Late), NOW, "late"),
                (Some(Unsupported), NOW, "unsupported"),
                (None, NOW + 120_001, "expired"),
            ] {
                let (open, effects) = settled(disconnect(reason), &request(outcome, now_ms));
                assert!(open.is_empty(), "{word}");
                let said = effects.iter().find_map(|effect| match effect {
                    Effect::DirectiveStatus { status, detail, .. } => Some((*status, detail)),
                    _ => None,
                });
                let (status, detail) = said.unwrap();
                assert_eq!((status, detail.is_some()), (word, outcome.is_some()));
                let told = effects.iter().find_map(|effect| match effect {
                    Effect::Event(event) => Some(event),
                    _ => None,
                });
                let not_enforced = matches!(outcome, Some(Failed | Unsupported))
                    && reason == DisconnectReason::Revoked;
                assert_eq!(told.is_some(), not_enforced, "{word}");
                if let Some(event) = told {
                    assert_eq!(event.event_type, EventType::RevocationNotEnforced);
                    assert!(event.description.contains("u{202e}busy"), "{event:?}");
                }
            }
        }
        let (open, _) = settled(disconnect(DisconnectReason::Revoked), &request(None, NOW));
        assert_eq!(open.len(), 1);
        assert_eq!(
            to_wire(&open[0], "s", 3).action,
            Action::Disconnect {
                connection_ids: vec![Uuid::from_u128(7)],
                reason: DisconnectReason::Revoked,
            }
        );
    }

    #[test]
    fn a_rotation_that_is_applied_waits_for_the_use_of_the_key() {
        let (open, _) = settled(Want::Rotate, &request(Some(DirectiveOutcome::Applied), NOW));
        assert!(open[0].applied);
    }

    #[test]
    fn details_of_a_backend_are_short_texts() {
        let with = |public_key: &str| {
            let mut heartbeat = heartbeat();
            heartbeat.backends = vec![BackendReport {
                kind: "wireguard".into(),
                instance: "wg0".into(),
                details: Some(BackendDetails {
                    public_key: Some(public_key.into()),
                    ..BackendDetails::default()
                }),
                ..BackendReport::default()
            }];
            check(&heartbeat)
        };
        assert_eq!(with("key"), Ok(()));
        assert!(with("a\u{1b}[2J").is_err());
        assert!(with(&"x".repeat(256)).is_err());
    }
}
