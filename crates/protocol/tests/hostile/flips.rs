//! Every single bit of every kind of message.

use crate::corpus::examples;

#[test]
fn every_flipped_bit_is_refused_or_changes_nothing_that_is_believed() {
    let (mut refused, mut harmless) = (0_usize, 0_usize);
    for example in examples() {
        let bytes = example.envelope.to_string().into_bytes();
        let believed = example.believed();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match example.receive(&flipped) {
                Err(_) => refused += 1,
                Ok(found) => {
                    assert_eq!(found, believed, "{}: bit {bit}", example.name);
                    harmless += 1;
                }
            }
        }
    }
    // Harmless are exactly the bits that rename a `keyid`, an unauthenticated hint: five letters
    // of seven bits (the eighth is no UTF-8) in each signature.
    let signatures = examples().iter().map(|e| e.signers.len()).sum::<usize>();
    assert_eq!(harmless, 35 * signatures);
    assert!(refused > 100_000, "{refused}");
}

#[test]
fn every_cut_is_refused() {
    for example in examples() {
        let bytes = example.envelope.to_string().into_bytes();
        for end in 0..bytes.len() {
            assert!(
                example.receive(&bytes[..end]).is_err(),
                "{}: {end}",
                example.name
            );
        }
    }
}
