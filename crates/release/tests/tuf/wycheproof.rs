//! Project Wycheproof's Ed25519 vectors against the one verifier that releases go through.

use ed25519_dalek::VerifyingKey;
use vpn_node_release::metadata::key::verify_ed25519;
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

#[test]
fn the_verifier_agrees_with_wycheproof_on_every_ed25519_vector() {
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let mut judged = 0;
    for group in set.test_groups {
        let key: [u8; 32] = group.key.pk[..].try_into().unwrap();
        let key = VerifyingKey::from_bytes(&key).unwrap();
        for test in group.tests {
            assert_eq!(
                verify_ed25519(&key, &test.msg, &test.sig),
                test.result == TestResult::Valid,
                "vector {}: {}",
                test.tc_id,
                test.comment
            );
            judged += 1;
        }
    }
    assert!(judged >= 140, "{judged} vectors");
}

#[test]
fn a_key_of_small_order_verifies_nothing() {
    // With A = 0 (neutral) or another point of small order, one signature would hold for every
    // message: R = A, s = 0.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    for public in [[0; 32], neutral] {
        let Ok(key) = VerifyingKey::from_bytes(&public) else {
            continue;
        };
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&public);
        assert!(!verify_ed25519(&key, b"anything", &signature));
        assert!(!verify_ed25519(&key, b"anything", &[0; 64]));
    }
}
