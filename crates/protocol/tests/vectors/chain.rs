//! `chain.json`: the first value of an epoch, and the steps after it.

use serde_json::{Value, json};
use vpn_node_protocol::chain;
use vpn_node_protocol::encoding::{Digest, Hex, length_prefixed};
use vpn_node_protocol::keys::PublicKey;

use crate::support::{cases, held, hex, identity, online, text, unhex};

fn start(server_id: &str, epoch: u32, key: &PublicKey) -> Value {
    let parts = [server_id.as_bytes(), &epoch.to_be_bytes(), key.as_bytes()];
    let hashed = [b"vpn-node chain v1".as_slice(), &length_prefixed(&parts)].concat();
    json!({
        "server_id": server_id,
        "epoch": epoch,
        "identity": key,
        "hashed": hex(&hashed),
        "chain": chain::start(server_id, epoch, key),
    })
}

fn steps(first: Digest) -> Vec<Value> {
    let mut value = first;
    (1..=5_u8)
        .map(|number| {
            let request = Hex([number; 32]);
            let previous = value;
            value = chain::next(&value, &request);
            json!({"seq": number, "previous": previous, "request_digest": request, "chain": value})
        })
        .collect()
}

#[test]
fn chain_json() {
    let key = PublicKey::from(&identity());
    let file = held(
        "chain.json",
        json!({
            "start": [
                start("srv-1", 1, &key),
                start("srv-1", 2, &key),
                start("srv-2", 1, &key),
                start("srv-1", 1, &PublicKey::from(&online())),
            ],
            "steps": steps(chain::start("srv-1", 1, &key)),
        }),
    );
    for case in cases(&file, "start") {
        let found = Digest::of(&[&unhex(&case["hashed"])]);
        assert_eq!(found.to_string(), text(case, "chain"));
    }
    let mut before = file["start"][0]["chain"].clone();
    for case in cases(&file, "steps") {
        assert_eq!(case["previous"], before);
        let hashed = [unhex(&case["previous"]), unhex(&case["request_digest"])].concat();
        assert_eq!(Digest::of(&[&hashed]).to_string(), text(case, "chain"));
        before = case["chain"].clone();
    }
}
