//! What hosts offer: one row for each backend that a heartbeat tells of.

use vpn_node_protocol::limits::MAX_BACKENDS;
use vpn_node_protocol::message::{Authorisation, BackendDetails, BackendReport};

use super::devices::host;
use super::{NOW, write};
use crate::rules::Effect;
use crate::rules::effect::HeartbeatWrite;
use crate::store::{CapabilityRow, Store};

pub(super) async fn heard(
    store: &dyn Store,
    server_id: &str,
    at_ms: i64,
    backends: Vec<BackendReport>,
) {
    let heartbeat = HeartbeatWrite {
        received_ms: at_ms,
        active_connections: 0,
        location: None,
        backends,
        body: "{}".into(),
        version: "0.1.0".into(),
        peer_ip: "192.0.2.1".into(),
        available: true,
        authorisation: Authorisation::Verified,
        grace_expires_ms: None,
        grace_began: false,
    };
    let effects = vec![Effect::Heartbeat(Box::new(heartbeat))];
    write(store, server_id, effects).await.unwrap();
}

pub(super) async fn backends_come_go_and_do_not_pile_up(store: &dyn Store) {
    let id = host(store, 127).await;
    let backend = |instance: &str, port: Option<u16>| BackendReport {
        kind: "wireguard".into(),
        instance: instance.into(),
        up: true,
        details: port.map(|port| BackendDetails {
            port: Some(port),
            ..BackendDetails::default()
        }),
        ..BackendReport::default()
    };
    let rows = async || {
        let rows = store.capabilities(&id).await.unwrap();
        let row = |row: CapabilityRow| {
            (
                row.instance,
                row.capability_details.to_string(),
                row.enabled,
            )
        };
        rows.into_iter().map(row).collect::<Vec<_>>()
    };
    let row =
        |instance: &str, details: &str, enabled| (instance.to_owned(), details.to_owned(), enabled);
    heard(
        store,
        &id,
        NOW,
        vec![backend("wg0", Some(51820)), backend("wg1", None)],
    )
    .await;
    // The enrolment's own row has no instance, and no heartbeat told of it.
    let enrolment = row("", r#"{"interface":"wg0"}"#, false);
    let wg0 = |enabled| row("wg0", r#"{"port":51820}"#, enabled);
    assert_eq!(
        rows().await,
        [enrolment.clone(), wg0(true), row("wg1", "{}", true)]
    );
    heard(store, &id, NOW + 1, vec![backend("wg1", Some(1))]).await;
    assert_eq!(
        rows().await,
        [
            enrolment.clone(),
            wg0(false),
            row("wg1", r#"{"port":1}"#, true)
        ]
    );
    // Without details it keeps those that it had.
    heard(store, &id, NOW + 2, vec![backend("wg0", None)]).await;
    assert_eq!(rows().await[1], wg0(true));
    for n in 0..30_i64 {
        let names = (0..20).map(|m| backend(&format!("x{n}-{m}"), None));
        heard(store, &id, NOW + 3 + n, names.collect()).await;
    }
    let left = rows().await;
    assert!(left.len() <= 4 * MAX_BACKENDS, "{}", left.len());
    assert_eq!(left.iter().filter(|(.., enabled)| *enabled).count(), 20);
    // Those that were never up are bounded, too.
    for n in 0..30_i64 {
        let names = (0..20).map(|m| BackendReport {
            up: false,
            ..backend(&format!("y{n}-{m}"), None)
        });
        heard(store, &id, NOW + 100 + n, names.collect()).await;
    }
    let left = rows().await;
    assert!(left.len() <= 4 * MAX_BACKENDS, "{}", left.len());
}
