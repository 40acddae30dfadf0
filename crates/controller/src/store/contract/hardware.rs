//! Fingerprints, permits for other hardware, and the end of grace periods.

use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::hardware::HardwareStatus;
use vpn_node_protocol::message::{Authorisation, Purpose};

use super::{NOW, enrolled, enrolment, make_key, read, write};
use crate::rules::Effect;
use crate::rules::effect::{HardwareWrite, HeartbeatWrite, NewChallenge, NewEvent};
use crate::rules::events::EventType;
use crate::store::{RehostPermit, Store};

fn permit(until_ms: Option<i64>) -> RehostPermit {
    RehostPermit {
        until_ms,
        event: NewEvent {
            event_type: EventType::RehostPermitted,
            source_id: None,
            description: "contract".into(),
            at_ms: NOW,
        },
        challenge: until_ms.map(|_| NewChallenge {
            id: Uuid::from_u128(0xbeef),
            value: Hex([5; 32]),
            purpose: Purpose::OnDemand,
            issued_ms: NOW,
            deadline_s: 60,
            delivered: false,
        }),
    }
}

pub(super) async fn a_permit_is_given_used_up_and_taken_back(store: &dyn Store) {
    make_key(store, "hardware", NOW + 1).await;
    let server = enrolled(store.enrol(enrolment("hardware", 61)).await.unwrap());
    assert!(!store.permit_rehost("nobody", permit(None)).await.unwrap());
    let given = store.permit_rehost(&server, permit(Some(NOW + 9))).await;
    assert!(given.unwrap());
    let snapshot = read(store, &server).await;
    assert_eq!(snapshot.rehost_until_ms, Some(NOW + 9));
    assert_eq!(snapshot.directives.len(), 1, "asked at once");
    assert!(store.permit_rehost(&server, permit(None)).await.unwrap());
    assert_eq!(read(store, &server).await.rehost_until_ms, None);

    store
        .permit_rehost(&server, permit(Some(NOW + 9)))
        .await
        .unwrap();
    let log = HardwareWrite {
        log_id: Uuid::from_u128(0xcafe),
        hardware_id: Hex([8; 32]),
        raw_components: Some("{}".into()),
        result: "success",
        error_details: None,
        client_ip: None,
        os_version: None,
        at_ms: NOW + 1,
        status: Some(HardwareStatus::Verified),
    };
    let rehost = Effect::Rehost {
        hardware_id: Hex([8; 32]),
        raw_components: "{}".into(),
    };
    let effects = vec![Effect::Hardware(Box::new(log)), rehost];
    write(store, &server, effects).await.unwrap();
    let snapshot = read(store, &server).await;
    assert_eq!(snapshot.rehost_until_ms, None, "used up");
    assert_eq!(snapshot.hardware_id, Hex([8; 32]));
    assert_eq!(snapshot.verified_ms, Some(NOW + 1));
    let raw = store.enrolled_hardware(&server).await.unwrap();
    assert_eq!(raw.as_deref(), Some("{}"));
    let log = store.list_hardware_log(&server, 9).await.unwrap();
    assert_eq!(log.len(), 2, "the enrolment's, and this one");
    assert_eq!(log[0].hardware_id, Hex([8; 32]).to_string(), "newest first");

    let heartbeat = HeartbeatWrite {
        backends: vec![],
        received_ms: NOW,
        active_connections: 0,
        location: None,
        body: "{}".into(),
        version: "1".into(),
        peer_ip: "192.0.2.1".into(),
        available: true,
        authorisation: Authorisation::Grace,
        grace_expires_ms: Some(NOW + 5),
        grace_began: true,
    };
    let effects = vec![Effect::Heartbeat(Box::new(heartbeat))];
    write(store, &server, effects).await.unwrap();
    assert_eq!(store.expire_grace(NOW + 4).await.unwrap(), 0);
    assert_eq!(store.expire_grace(NOW + 5).await.unwrap(), 1);
    assert_eq!(store.expire_grace(NOW + 5).await.unwrap(), 0);
}
