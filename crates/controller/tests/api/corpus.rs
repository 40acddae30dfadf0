//! Every host of the corpus, enrolled with and judged by the controller.

use serde_json::{Value, json};
use vpn_node_protocol::hardware::{Component, Components};
use vpn_node_protocol::message::{Authorisation, Verdict};

use crate::support::{Host, World};
use crate::verification::verify;

const FILES: [&str; 4] = [
    include_str!("../../../protocol/vectors/hosts/metal.json"),
    include_str!("../../../protocol/vectors/hosts/virtual.json"),
    include_str!("../../../protocol/vectors/hosts/cloud.json"),
    include_str!("../../../protocol/vectors/hosts/small.json"),
];

fn corpus() -> Vec<(String, Components)> {
    let of = |host: Value| {
        let wire = host["components"].as_object().unwrap().iter();
        let wire: serde_json::Map<String, Value> = wire
            .map(|(name, value)| {
                let value = match value {
                    Value::Null => json!("unavailable"),
                    value => json!({ "value": value }),
                };
                (name.clone(), value)
            })
            .collect();
        let name = host["name"].as_str().unwrap().to_owned();
        (name, serde_json::from_value(wire.into()).unwrap())
    };
    let parse = |file: &&str| serde_json::from_str::<Vec<Value>>(file).unwrap();
    FILES.iter().flat_map(parse).map(of).collect()
}

#[tokio::test]
async fn every_kind_of_host_is_verified_warned_about_and_stopped_as_its_components_say() {
    let world = World::new().await;
    for (seed, (name, components)) in (1u8..).zip(corpus()) {
        // Enrolments from one address are limited.
        world.pass(61_000);
        let mut host = Host::new(&world.token().await, seed);
        host.hardware = components.clone();
        let (_, outcome) = host.enrol(&world).await;
        host.take_enrolment(outcome);
        let reply = verify(&world, &mut host).await;
        host.authorisation = Authorisation::Verified;
        assert_eq!(reply.standing.verdict, Verdict::Verified, "{name}");
        assert_eq!(reply.standing.reason, None, "{name}");

        host.hardware.machine_id = Component::from_raw(b"ANOTHER");
        let reply = verify(&world, &mut host).await;
        assert_eq!(reply.standing.verdict, Verdict::Verified, "{name}");
        let warns = components.machine_id.is_available();
        assert_eq!(reply.standing.reason.is_some(), warns, "{name}");

        host.hardware.disk1 = Component::from_raw(b"ANOTHER-DISK");
        host.hardware.product_uuid = Component::UNAVAILABLE;
        let reply = verify(&world, &mut host).await;
        let expected = match components.has_primary() {
            true => Verdict::Mismatch,
            false => Verdict::Verified,
        };
        assert_eq!(reply.standing.verdict, expected, "{name}");
    }
}
