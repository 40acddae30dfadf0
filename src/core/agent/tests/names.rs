//! Clients that choose their own names: in a record they are printable, bounded and distinct, and
//! nowhere else are they at all.

use std::collections::BTreeSet;

use vpn_node_protocol::connection::ConnectionEvent;
use vpn_node_protocol::limits::{MAX_IDENTITY_BYTES, MAX_RECORD_BYTES};

use super::world::{World, s};
use crate::core::sessions::Identity;

/// What a client may call itself.
fn names() -> Vec<Vec<u8>> {
    let long = |last: u8| [vec![0xff; 64 * 1024], vec![last]].concat();
    vec![
        long(1),
        long(2),
        b"ann\0root".to_vec(),
        b"\x1b[2J\x1b]0;owned\x07".to_vec(),
        "user\u{202e}nimda".into(),
        b"ann\nEND\n>CLIENT:ESTABLISHED,0\r\n".to_vec(),
        b"END".to_vec(),
        b"'; DROP TABLE connections; --".to_vec(),
        b"../../etc/passwd".to_vec(),
        b"%s%n{}".to_vec(),
        b"\\x00".to_vec(),
        b"\0".to_vec(),
        Vec::new(),
    ]
}

fn identities(name: &[u8]) -> [Identity; 4] {
    [
        Identity::User(name.into()),
        Identity::Eap(name.into()),
        Identity::IkeId(name.into()),
        Identity::Certificate {
            common_name: name.into(),
            serial: name.into(),
            sha256: None,
            username: Some(name.into()),
        },
    ]
}

#[test]
fn whatever_a_client_calls_itself_is_one_printable_name_in_its_record_alone() {
    let mut world = World::verified(960);
    for name in names() {
        for identity in identities(&name) {
            let client = world.connect_as(identity);
            world.run_for(s(1));
            world.disconnect(client);
        }
    }
    let debugged = identities(b"ann").map(|identity| format!("{identity:?}"));
    assert!(!debugged.join(" ").contains("ann"), "{debugged:?}");
    world.run_for(s(90));
    let mut seen = BTreeSet::new();
    for record in world.controller.db.records.values() {
        let identity = record.identity.as_ref().expect("this process saw it");
        let value = &identity.value;
        assert!(value.len() <= MAX_IDENTITY_BYTES);
        let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        assert!(value.bytes().all(printable), "{value}");
        assert!(serde_json::to_vec(record).unwrap().len() <= MAX_RECORD_BYTES);
        if record.event == ConnectionEvent::Start {
            assert!(
                seen.insert((identity.kind.clone(), value.clone())),
                "two are one: {value}"
            );
        }
    }
    assert_eq!(seen.len(), 4 * names().len());
    for as_it_is in ["END", "../../etc/passwd", "%s%n{}", ""] {
        assert!(
            seen.contains(&("user".to_owned(), as_it_is.to_owned())),
            "{as_it_is}"
        );
    }
    // Nothing else that leaves the core has a name.
    let status = serde_json::to_string(&world.report()).unwrap();
    let heartbeat = serde_json::to_string(&world.controller.db.last_heartbeat).unwrap();
    let kept = serde_json::to_string(&world.disk.sessions).unwrap();
    for name in ["DROP", "passwd", "owned", "nimda", "root"] {
        assert!(
            ![&status, &heartbeat, &kept]
                .iter()
                .any(|text| text.contains(name)),
            "{name}"
        );
    }
}
