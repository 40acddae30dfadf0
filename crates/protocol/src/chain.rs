//! The request chain: why a copied host cannot go on unnoticed.
//!
//! Each request of an agent names its number and the chain value that the last reply gave it.
//! The controller moves on by one step in the same transaction as the effect. Two holders of one
//! identity cannot both be at the same step with the same value, so the second one is found with
//! its first request.

use crate::encoding::{Digest, length_prefixed};
use crate::keys::PublicKey;

/// The value before the first request of a key epoch: bound to server, epoch and identity key,
/// so that a repeated enrolment starts at the same value.
#[must_use]
pub fn start(server_id: &str, epoch: u32, identity: &PublicKey) -> Digest {
    Digest::of(&[
        b"vpn-node chain v1",
        &length_prefixed(&[
            server_id.as_bytes(),
            &epoch.to_be_bytes(),
            identity.as_bytes(),
        ]),
    ])
}

/// `chain_n = SHA-256(chain_{n-1} ‖ digest of request n)`.
#[must_use]
pub fn next(previous: &Digest, request: &Digest) -> Digest {
    Digest::of(&[&previous.0, &request.0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Hex;

    #[test]
    fn order_and_content_of_the_requests_decide_the_value() {
        let (a, b) = (Hex([1; 32]), Hex([2; 32]));
        let zero = Hex([0; 32]);
        let ab = next(&next(&zero, &a), &b);
        let ba = next(&next(&zero, &b), &a);
        assert_ne!(ab, ba);
        assert_eq!(ab, next(&next(&zero, &a), &b));
    }
}
