//! Connections that are ended from here: by an operator, and because somebody is revoked.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use vpn_node_controller::api;
use vpn_node_protocol::connection::{Confidence, ConnectionEvent};
use vpn_node_protocol::directive::{Action, Directive, DisconnectReason};
use vpn_node_protocol::message::{
    BackendDetails, BackendReport, DirectiveAck, DirectiveOutcome, Gap, GapReason, PollReply,
};

use crate::connections::{batch, record, seal};
use crate::devices::{WIREGUARD, ada_with_a_laptop, identity, report, words};
use crate::operator::{fails, json, run, shown};
use crate::poll::{ask, poll};
use crate::support::{Host, World};

/// A laptop of ada's on a host, connected so many times.
async fn connected(world: &World, count: u128) -> Host {
    let mut host = Host::enrolled(world, 1).await;
    ada_with_a_laptop(world).await;
    let line = format!("device identity add laptop --wireguard {WIREGUARD}");
    shown(world, &words(&line)).await;
    let starts = (1..=count).map(|n| (n, ConnectionEvent::Start, identity("wireguard", WIREGUARD)));
    report(world, &mut host, 1, starts.collect()).await;
    host
}

fn named(directive: &Directive) -> (Vec<u128>, DisconnectReason) {
    let Action::Disconnect {
        connection_ids,
        reason,
    } = &directive.action
    else {
        panic!("{directive:?}");
    };
    (
        connection_ids.iter().map(|id| id.as_u128()).collect(),
        *reason,
    )
}

/// A heartbeat that says how directives went, and what its reply carries.
async fn beat(
    world: &World,
    host: &mut Host,
    done: &[Directive],
    outcome: DirectiveOutcome,
    detail: Option<&str>,
) -> Vec<Directive> {
    let mut header = host.header(world);
    header.directive_acks = done
        .iter()
        .map(|directive| DirectiveAck {
            id: directive.id,
            outcome,
            detail: detail.map(str::to_owned),
        })
        .collect();
    let envelope = host.sign(header, host.heartbeat());
    let answer = host.send(world, &envelope).await;
    let reply = host.take(world, &envelope, &answer);
    let mut directives = host.directives(world, &reply.directives);
    directives.retain(|d| matches!(d.action, Action::Disconnect { .. }));
    directives
}

#[tokio::test]
async fn a_revoked_device_that_starts_is_asked_for_exactly_once() {
    let world = World::new().await;
    let mut host = connected(&world, 0).await;
    let revoke = words("device revoke laptop --reason lost --json");
    let done = json(&world, &revoke).await;
    assert_eq!(done["disconnections"].as_array().unwrap().len(), 0);
    assert!(fails(&world, &revoke).await.contains("revoked already"));

    let mut start = record(&host, 7, ConnectionEvent::Start);
    start.identity = Some(identity("wireguard", WIREGUARD));
    let sealed = seal(&world, &host, 1, &start);
    let envelope = host.sign(host.header(&world), batch(vec![sealed.clone()]));
    let first = world.post("/v1/messages", envelope.to_json()).await;
    let asked = "directives WHERE kind = 'disconnect'";
    assert_eq!(world.count(asked).await, 1);
    // The same request once more, the same record in another request, and an update of it.
    assert_eq!(world.post("/v1/messages", envelope.to_json()).await, first);
    host.take(&world, &envelope, &first);
    host.say(&world, batch(vec![sealed])).await;
    start.event = ConnectionEvent::Update;
    let update = seal(&world, &host, 2, &start);
    host.say(&world, batch(vec![update])).await;
    assert_eq!(world.count(asked).await, 1);
    let events = world.events("revoked_device_connected").await;
    assert_eq!(events.len(), 1);
    assert!(
        events[0].description.contains(&host.server_id),
        "{events:?}"
    );

    let directives = beat(&world, &mut host, &[], DirectiveOutcome::Applied, None).await;
    assert_eq!(directives.len(), 1);
    assert_eq!(directives[0].deadline_s, 120);
    assert_eq!(named(&directives[0]), (vec![7], DisconnectReason::Revoked));
    // Until it is acknowledged, and not after that.
    let again = beat(&world, &mut host, &[], DirectiveOutcome::Applied, None).await;
    assert_eq!(again, directives);
    let after = beat(
        &world,
        &mut host,
        &directives,
        DirectiveOutcome::Applied,
        None,
    )
    .await;
    assert!(after.is_empty());
    // It dials again.
    let again = (8, ConnectionEvent::Start, identity("wireguard", WIREGUARD));
    report(&world, &mut host, 3, vec![again]).await;
    let directives = beat(&world, &mut host, &[], DirectiveOutcome::Applied, None).await;
    assert_eq!(named(&directives[0]), (vec![8], DisconnectReason::Revoked));
    assert_eq!(world.events("revoked_device_connected").await.len(), 1);
}

#[tokio::test]
async fn a_revocation_reaches_a_held_poll_and_tells_what_became_of_each() {
    let world = Arc::new(World::new().await);
    tokio::spawn(api::watch_directives(Arc::clone(&world.app)));
    // The commands have the system's clock.
    world.pass(vpn_node_controller::clock::now_ms() - world.now());
    let mut host = connected(&world, 2).await;
    let held = {
        let (world, envelope) = (world.clone(), poll(&host, 50));
        tokio::spawn(async move { ask(&world, &envelope).await })
    };
    let words = words("personal-key revoke ada --reason left --json");
    let host_side = async {
        let answer = tokio::time::timeout(Duration::from_secs(20), held).await;
        let reply: PollReply = world.open_own(&answer.unwrap().unwrap());
        let directives = host.directives(&world, &reply.directives);
        assert_eq!(directives.len(), 1);
        assert_eq!(
            named(&directives[0]),
            (vec![1, 2], DisconnectReason::Revoked)
        );
        let over = |n| {
            let event = ConnectionEvent::End {
                reason: "revoked".into(),
                confidence: Confidence::Observed,
                uncertainty_ms: 0,
            };
            (n, event, identity("wireguard", WIREGUARD))
        };
        report(&world, &mut host, 3, vec![over(1), over(2)]).await;
        beat(
            &world,
            &mut host,
            &directives,
            DirectiveOutcome::Applied,
            None,
        )
        .await;
    };
    let (done, ()) = tokio::join!(json(&world, &words), host_side);
    assert_eq!(done["personal_keys"][0]["active_connections"], 0);
    let rows = done["disconnections"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["status"], "ended");
        assert_eq!(row["disconnection_reason"], "revoked");
        assert_eq!(row["user_name"], "ada");
    }
    assert_eq!(world.events("personal_key_revoked").await.len(), 1);
}

#[tokio::test]
async fn a_host_that_cannot_end_a_connection_says_why_and_the_command_fails() {
    let world = World::new().await;
    world.pass(vpn_node_controller::clock::now_ms() - world.now());
    let mut host = connected(&world, 1).await;
    let id = Uuid::from_u128(1).to_string();
    let disconnect = ["connections", "disconnect", &id];
    let detail = "openvpn server: the management interface is taken";
    let host_side = async {
        let directives = loop {
            let directives = beat(&world, &mut host, &[], DirectiveOutcome::Applied, None).await;
            if !directives.is_empty() {
                break directives;
            }
        };
        assert_eq!(
            named(&directives[0]),
            (vec![1], DisconnectReason::AdminKick)
        );
        beat(
            &world,
            &mut host,
            &directives,
            DirectiveOutcome::Failed,
            Some(detail),
        )
        .await;
    };
    let (error, ()) = tokio::join!(fails(&world, &disconnect), host_side);
    assert!(
        error.contains(detail) && error.contains("host-1"),
        "{error}"
    );
    let text = shown(&world, &["connections", "show", &id]).await;
    assert!(
        text.contains(detail) && text.contains("admin_kick"),
        "{text}"
    );
    // It was an operator's wish, and no revocation.
    assert!(world.events("revocation_not_enforced").await.is_empty());
    let row = json(&world, &["connections", "show", &id, "--json"]).await;
    let asked = &row["connections"][0]["disconnections"][0];
    assert_eq!(
        (&asked["directive_status"], &asked["outcome_detail"]),
        (&"failed".into(), &detail.into())
    );
    // The agent is an older one.
    let host_side = async {
        let directives = loop {
            let directives = beat(&world, &mut host, &[], DirectiveOutcome::Applied, None).await;
            if !directives.is_empty() {
                break directives;
            }
        };
        beat(
            &world,
            &mut host,
            &directives,
            DirectiveOutcome::Unsupported,
            None,
        )
        .await;
    };
    let (error, ()) = tokio::join!(fails(&world, &disconnect), host_side);
    assert!(error.contains("too old"), "{error}");
}

#[tokio::test]
async fn an_operator_ends_a_connection_and_hears_how_it_went() {
    let world = World::new().await;
    world.pass(vpn_node_controller::clock::now_ms() - world.now());
    let mut host = connected(&world, 2).await;
    let hers = || identity("wireguard", WIREGUARD);
    for (n, reported) in [(1, true), (2, false)] {
        let id = Uuid::from_u128(n).to_string();
        let disconnect = ["connections", "disconnect", &id, "--wait", "3s", "--json"];
        let host_side = async {
            let directives = loop {
                let directives =
                    beat(&world, &mut host, &[], DirectiveOutcome::Applied, None).await;
                if !directives.is_empty() {
                    break directives;
                }
            };
            beat(
                &world,
                &mut host,
                &directives,
                DirectiveOutcome::Applied,
                None,
            )
            .await;
            if reported {
                let event = ConnectionEvent::End {
                    reason: "admin_kick".into(),
                    confidence: Confidence::Observed,
                    uncertainty_ms: 0,
                };
                report(&world, &mut host, 3, vec![(n, event, hers())]).await;
            }
        };
        let (done, ()) = tokio::join!(json(&world, &disconnect), host_side);
        let row = &done["disconnections"][0];
        assert_eq!(row["directive_status"], "applied");
        assert_eq!(row["status"], if reported { "ended" } else { "active" });
        // Without the record it waits for that.
        assert_eq!(row["took_ms"].as_u64().unwrap() < 3000, reported, "{row}");
        let text = shown(&world, &["connections", "show", &id]).await;
        if reported {
            assert!(text.contains("admin_kick (observed)"), "{text}");
            let error = fails(&world, &disconnect).await;
            assert!(
                error.contains("is over since") && error.contains("admin_kick"),
                "{error}"
            );
        } else {
            assert!(text.contains("over, says the host"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_silent_host_is_named_as_such() {
    let world = World::new().await;
    world.pass(vpn_node_controller::clock::now_ms() - world.now());
    let host = connected(&world, 1).await;
    let id = Uuid::from_u128(1).to_string();
    let disconnect = ["connections", "disconnect", &id, "--wait", "1s"];
    let error = fails(&world, &disconnect).await;
    assert!(
        error.contains("the host is silent") && error.contains("after 1.0 s"),
        "{error}"
    );
    // Not waiting is no failure; a host that is revoked cannot be asked, and that is one.
    let revoke = words("device revoke laptop --reason lost --wait 0s");
    let output = run(&world, &revoke).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("0 of 1 live connections"),
        "{text}"
    );
    let revoked = world
        .store
        .revoke_server(&host.server_id, "sold", world.now());
    assert!(revoked.await.unwrap());
    let error = fails(&world, &["connections", "disconnect", &id]).await;
    assert!(
        error.contains("cannot be ended from here") && error.contains("revoked"),
        "{error}"
    );
}

#[tokio::test]
async fn a_host_is_shown_with_its_backends_and_with_what_it_lost() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let mut lost = batch(vec![]);
    lost.gaps = vec![Gap {
        first: 1,
        last: 40,
        reason: GapReason::Dropped,
    }];
    host.say(&world, lost).await;
    let mut heartbeat = host.heartbeat();
    heartbeat.backends = vec![BackendReport {
        kind: "wireguard".into(),
        instance: "wg0".into(),
        up: true,
        active: 3,
        started: 12,
        ended: 9,
        rx_bytes: 1_500_000,
        tx_bytes: 2_000_000_000,
        rx_bytes_per_s: 10,
        tx_bytes_per_s: 2_100,
        details: Some(BackendDetails {
            interface: Some("wg0\u{202e}".into()),
            port: Some(51_820),
            ..BackendDetails::default()
        }),
    }];
    host.say(&world, heartbeat).await;
    let text = shown(&world, &words("server show host-1")).await;
    for part in [
        "wireguard wg0: up; 3 active, 12 started, 9 ended; in 1.5 MB (10 B/s), out 2.0 GB (2.1 kB/s)",
        "interface wg0\\u{202e}; port 51820",
        "40 from number 1 on (dropped)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let server = json(&world, &words("server show host-1 --json")).await;
    let capability = &server["servers"][0]["capabilities"][0];
    assert_eq!(capability["capability_details"]["port"], 51_820);
    assert_eq!(capability["counts"]["tx_bytes_per_s"], 2_100);
    assert_eq!(server["servers"][0]["gaps"][0]["last_seq"], 40);
    let gaps = json(&world, &words("connections gaps --server host-1 --json")).await;
    assert_eq!(gaps["gaps"][0]["reason"], "dropped");
    let text = shown(&world, &words("connections gaps")).await;
    assert!(text.contains("host-1") && text.contains("40"), "{text}");
    // The next heartbeat does not tell of it.
    host.beat(&world).await;
    let text = shown(&world, &words("server show host-1")).await;
    assert!(text.contains("wireguard wg0: down; last told of"), "{text}");
}
