//! Holds the limits table of `docs/protocol.md` to `limits.rs`.

use std::collections::BTreeMap;

use vpn_node_protocol::{limits, metrics, token};

#[test]
fn the_limits_table_says_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    let document = std::fs::read_to_string(path).unwrap();
    // Rows look like: | `MAX_REQUEST_BYTES` | 524288 | why |
    let documented: BTreeMap<&str, i64> = document
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.strip_suffix('`')?;
            let value = cells.next()?.parse().ok()?;
            Some((name, value))
        })
        .filter(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        .collect();
    let bytes = |n: usize| i64::try_from(n).unwrap();
    let code = BTreeMap::from([
        ("MAX_REQUEST_BYTES", bytes(limits::MAX_REQUEST_BYTES)),
        ("MAX_REPLY_BYTES", bytes(limits::MAX_REPLY_BYTES)),
        ("MAX_ENROLMENT_BYTES", bytes(limits::MAX_ENROLMENT_BYTES)),
        ("MAX_SIGNATURES", bytes(limits::MAX_SIGNATURES)),
        ("MAX_BATCH_RECORDS", bytes(limits::MAX_BATCH_RECORDS)),
        ("MAX_BATCH_BYTES", bytes(limits::MAX_BATCH_BYTES)),
        ("MAX_RECORD_BYTES", bytes(limits::MAX_RECORD_BYTES)),
        ("MAX_GAPS", bytes(limits::MAX_GAPS)),
        ("MAX_DIRECTIVES", bytes(limits::MAX_DIRECTIVES)),
        ("MAX_DISCONNECTS", bytes(limits::MAX_DISCONNECTS)),
        ("MAX_DIRECTIVE_ACKS", bytes(limits::MAX_DIRECTIVE_ACKS)),
        ("MAX_BACKENDS", bytes(limits::MAX_BACKENDS)),
        ("MAX_TEXT_BYTES", bytes(limits::MAX_TEXT_BYTES)),
        ("MAX_IDENTITY_BYTES", bytes(limits::MAX_IDENTITY_BYTES)),
        ("MAX_VIRTUAL_IPS", bytes(limits::MAX_VIRTUAL_IPS)),
        ("CHALLENGE_DEADLINE_S", limits::CHALLENGE_DEADLINE_S.into()),
        ("MAX_LEASE_S", limits::MAX_LEASE_S.into()),
        ("WITNESS_LIFETIME_MS", limits::WITNESS_LIFETIME_MS),
        ("MAX_ROTATIONS", bytes(limits::MAX_ROTATIONS)),
        ("MAX_ROTATIONS_BYTES", bytes(limits::MAX_ROTATIONS_BYTES)),
        ("HELLO_LIFETIME_MS", limits::HELLO_LIFETIME_MS),
        ("MAX_POLL_WAIT_S", limits::MAX_POLL_WAIT_S.into()),
        ("MAX_DISKS", bytes(metrics::MAX_DISKS)),
        ("MAX_URL_BYTES", bytes(token::MAX_URL_BYTES)),
        ("MAX_TOKEN_CHARS", bytes(token::MAX_TOKEN_CHARS)),
    ]);
    assert_eq!(documented, code, "the limits table of docs/protocol.md");

    // A limit that is new in limits.rs must come into the table too.
    let source = include_str!("../../src/limits.rs");
    let declared = source.lines().filter_map(|line| {
        let rest = line.strip_prefix("pub const ")?;
        rest.split_once(':').map(|(name, _)| name)
    });
    for name in declared {
        assert!(code.contains_key(name), "{name} is not in the table");
    }
}
