//! Every single bit.

use std::thread;

use super::{Believed, KINDS, Rig, message_of};

/// Bits that rename the `keyid` of a signature, an unauthenticated hint: five letters of seven
/// bits (the eighth is no UTF-8). Without it the signature is verified too.
const DRESSING_BITS: usize = 35;

#[test]
fn every_flipped_bit_of_every_answer_is_refused_and_changes_nothing() {
    let flips: usize = thread::scope(|threads| {
        let running = KINDS.map(|(name, make)| threads.spawn(move || every_bit(name, make)));
        let flips = running.map(|one| one.join().expect("a kind fails with its own message"));
        flips.iter().sum()
    });
    assert!(flips > 40_000, "{flips}");
}

fn every_bit(name: &str, make: fn() -> Rig) -> usize {
    let mut rig = make();
    let before = rig.believes();
    let good = rig.good.clone();
    let mut dressing = vec![];
    let names = rig.key_ids();
    let message = message_of(&good, &names);
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if message_of(&flipped, &names) == message {
            dressing.push(flipped);
            continue;
        }
        rig.hear(flipped);
        assert!(rig.believes() == before, "{name}: bit {bit}");
    }
    rig.hear_good(good.clone());
    assert!(rig.believes() != before, "{name}: the control");
    assert_eq!(dressing.len(), DRESSING_BITS, "{name}");
    // The same message is believed like the original; all that differs is the name that is kept.
    let mut rig = make();
    rig.hear_good(good.clone());
    let after = rig.believes();
    let after = unnamed(&rig, &after);
    for flipped in dressing {
        let mut rig = make();
        rig.hear_good(flipped);
        let believed = rig.believes();
        assert!(unnamed(&rig, &believed) == after, "{name}: dressing");
    }
    good.len() * 8
}

/// What is believed, without the names of the keys beside signatures.
fn unnamed(rig: &Rig, believed: &Believed) -> String {
    let mut text = format!("{believed:?}");
    for id in rig.key_ids() {
        text = text.replace(&format!("keyid: \"{id}\""), "keyid: \"\"");
    }
    text
}
