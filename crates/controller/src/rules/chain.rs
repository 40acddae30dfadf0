//! Replay, retry, a controller that lost memory, or two holders of one identity?
//! (`docs/protocol.md`, "Replay and clones".)

use vpn_node_protocol::encoding::{Digest, Nonce};
use vpn_node_protocol::message::ReplyHeader;

use crate::rules::state::ChainState;

/// What a request says of its place in the chain.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its number.
    pub seq: u64,
    /// The chain value it builds on.
    pub chain: Digest,
    /// The nonce it repeats.
    pub nonce: Nonce,
    /// Its own digest.
    pub digest: Digest,
    /// The header of a reply that it shows, when one of our own keys signed that reply for this
    /// server and epoch ([`crate::rules::rotation::proof`]).
    pub proof: Option<&'a ReplyHeader>,
    /// Digest of what was accepted under its number before, as far as that is remembered.
    pub earlier: Option<Digest>,
    /// Whether this very request was refused as ahead, before another one of its number was made.
    pub refused_ahead: bool,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The next request: it is accepted.
    Next,
    /// The last request once more: the same reply, byte for byte.
    Repeat,
    /// Further than we remember, and our own signature proves that we were there: accepted, and
    /// recorded as our loss.
    AheadProven,
    /// Further than we remember, without proof: nothing changes, and the proof is asked for.
    Ahead,
    /// An old request once more, to the byte: anybody may have recorded it. Nothing changes.
    Replayed,
    /// Older than we remember, so a replay or a copy: nothing changes, and a witness is asked for.
    Forgotten,
    /// Two histories: both holders are stopped.
    Diverged(&'static str),
    /// Two holders are known, and the operator keeps the other one
    /// ([`crate::rules::clones::while_resolving`]): nothing changes.
    OtherHolder,
}

/// Judges a request against the stored chain.
#[must_use]
pub fn judge(stored: &ChainState, place: &Place<'_>) -> Judgement {
    let next = stored.seq.saturating_add(1);
    if place.seq == next {
        return match (place.chain == stored.chain, place.nonce == stored.nonce) {
            (true, true) => Judgement::Next,
            // The same history, but a reply that we do not remember giving.
            (true, false) if proves(place) => Judgement::AheadProven,
            (true, false) => Judgement::Ahead,
            (false, _) => Judgement::Diverged("it continues another history"),
        };
    }
    if place.seq > next {
        return if proves(place) {
            Judgement::AheadProven
        } else {
            Judgement::Ahead
        };
    }
    if place.seq == stored.seq && stored.last_digest == Some(place.digest) {
        return Judgement::Repeat;
    }
    if place.refused_ahead {
        return Judgement::Replayed;
    }
    if place.seq == stored.seq {
        return Judgement::Diverged("another request of that number was accepted before");
    }
    match place.earlier {
        Some(digest) if digest == place.digest => Judgement::Replayed,
        Some(_) => Judgement::Diverged("it is behind"),
        None => Judgement::Forgotten,
    }
}

/// The reply before, signed by us, leads exactly to this request.
fn proves(place: &Place<'_>) -> bool {
    place.proof.is_some_and(|reply| {
        reply.seq.checked_add(1) == Some(place.seq)
            && reply.chain == place.chain
            && reply.nonce == place.nonce
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vpn_node_protocol::chain;
    use vpn_node_protocol::encoding::Hex;

    use super::*;

    fn digest(n: u64) -> Digest {
        Digest::of(&[&n.to_be_bytes()])
    }

    /// The chain after the requests 1 to `seq` of one history.
    fn at(seq: u64, history: u64) -> ChainState {
        let mut value = digest(0);
        for n in 1..=seq {
            value = chain::next(&value, &digest(n * 1000 + history));
        }
        ChainState {
            epoch: 1,
            seq,
            chain: value,
            nonce: digest(seq * 77 + history),
            last_digest: (seq > 0).then(|| digest(seq * 1000 + history)),
        }
    }

    /// The request that an agent at `state` sends next.
    fn next_of(state: &ChainState, history: u64) -> Place<'static> {
        Place {
            seq: state.seq + 1,
            chain: state.chain,
            nonce: state.nonce,
            digest: digest((state.seq + 1) * 1000 + history),
            proof: None,
            earlier: Some(digest((state.seq + 1) * 1000)),
            refused_ahead: false,
        }
    }

    fn reply_of(state: &ChainState) -> ReplyHeader {
        ReplyHeader {
            server_id: "s".into(),
            epoch: 1,
            request_digest: digest(state.seq),
            seq: state.seq,
            chain: state.chain,
            nonce: state.nonce,
            controller_time_ms: 0,
        }
    }

    #[test]
    fn a_controller_that_lost_its_last_reply_is_shown_it() {
        let stored = at(4, 0);
        let mut request = next_of(&stored, 0);
        request.nonce = Hex([9; 32]);
        assert_eq!(judge(&stored, &request), Judgement::Ahead);
        let mut reply = reply_of(&stored);
        reply.nonce = Hex([9; 32]);
        request.proof = Some(&reply);
        assert_eq!(judge(&stored, &request), Judgement::AheadProven);
    }

    #[test]
    fn a_late_copy_of_a_request_that_was_refused_as_ahead_stops_nobody() {
        // Refused as ahead; then the same number with proof was accepted, and others after it.
        for stored in [at(9, 0), at(12, 0)] {
            let mut late = next_of(&at(8, 0), 5);
            assert!(matches!(judge(&stored, &late), Judgement::Diverged(_)));
            late.refused_ahead = true;
            assert_eq!(judge(&stored, &late), Judgement::Replayed);
        }
        // Before that it is still ahead.
        let mut again = next_of(&at(8, 0), 5);
        again.refused_ahead = true;
        assert_eq!(judge(&at(4, 0), &again), Judgement::Ahead);
    }

    #[test]
    fn a_proof_of_another_place_proves_nothing() {
        let (stored, agent) = (at(4, 0), at(9, 0));
        let other = reply_of(&at(8, 0));
        let mut request = next_of(&agent, 0);
        request.proof = Some(&other);
        assert_eq!(judge(&stored, &request), Judgement::Ahead);
    }

    proptest! {
        #[test]
        fn one_holder_is_never_taken_for_two(stored in 0u64..20, agent in 0u64..20) {
            // An honest agent against a controller that is level, or lost memory, or whose last
            // reply was lost on the way.
            let (state, mine) = (at(stored, 0), at(agent, 0));
            let mut request = next_of(&mine, 0);
            let reply = reply_of(&mine);
            request.proof = Some(&reply);
            let judged = judge(&state, &request);
            match agent.cmp(&stored) {
                std::cmp::Ordering::Equal => prop_assert_eq!(judged, Judgement::Next),
                std::cmp::Ordering::Greater => prop_assert_eq!(judged, Judgement::AheadProven),
                std::cmp::Ordering::Less if agent + 1 == stored =>
                    prop_assert_eq!(judged, Judgement::Repeat),
                std::cmp::Ordering::Less => {
                    prop_assert_eq!(judged, Judgement::Replayed);
                    request.earlier = None;
                    prop_assert_eq!(judge(&state, &request), Judgement::Forgotten);
                }
            }
        }

        #[test]
        fn two_holders_are_found_with_the_second_ones_first_request(fork in 0u64..10, steps in 1u64..5) {
            // A copy made at `fork`; the original has gone `steps` further.
            let mut stored = at(fork, 0);
            for n in 1..=steps {
                let digest = digest((fork + n) * 1000);
                stored.chain = chain::next(&stored.chain, &digest);
                stored.seq += 1;
                stored.last_digest = Some(digest);
                stored.nonce = Hex([n as u8; 32]);
            }
            let copy = next_of(&at(fork, 0), 5);
            prop_assert!(matches!(judge(&stored, &copy), Judgement::Diverged(_)));
        }

        #[test]
        fn a_copy_that_shows_its_old_proof_is_still_found(fork in 1u64..10, steps in 1u64..5) {
            let (copy_state, stored) = (at(fork, 0), at(fork + steps, 0));
            let reply = reply_of(&copy_state);
            let mut request = next_of(&copy_state, 5);
            request.proof = Some(&reply);
            prop_assert!(matches!(judge(&stored, &request), Judgement::Diverged(_)));
        }
    }
}
