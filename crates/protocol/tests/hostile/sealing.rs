//! Properties of sealing: what was sealed comes back, in its place and nowhere else.

use std::convert::Infallible;

use proptest::prelude::*;
use rand_core::{TryCryptoRng, TryRng};
use vpn_node_protocol::certificate::{SealingKeyEntry, Validity};
use vpn_node_protocol::encoding::{Base64, Hex};
use vpn_node_protocol::sealing::{Context, OVERHEAD_BYTES, Sealed, SealingSecret};

struct Fixed([u8; 32]);

impl TryRng for Fixed {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("HPKE draws whole keys")
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("HPKE draws whole keys")
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

fn entry(secret: &SealingSecret) -> SealingKeyEntry {
    SealingKeyEntry {
        id: secret.id(),
        key: Base64(secret.public().to_vec()),
        validity: Validity {
            not_before_ms: 0,
            not_after_ms: 1,
        },
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Hardware([u8; 32]),
    Connection(String, [u8; 16], u64),
}

impl Place {
    fn with<R>(&self, then: impl FnOnce(Context<'_>) -> R) -> R {
        match self {
            Self::Hardware(identity) => then(Context::Hardware {
                identity: &Hex(*identity),
            }),
            Self::Connection(server_id, epoch, sequence) => then(Context::Connection {
                server_id,
                ledger_epoch: &Hex(*epoch),
                sequence: *sequence,
            }),
        }
    }
}

fn place() -> impl Strategy<Value = Place> {
    // Small ranges: neighbours must collide often enough to be told apart.
    prop_oneof![
        (0..3_u8).prop_map(|byte| Place::Hardware([byte; 32])),
        ("[ab]{0,3}", 0..3_u8, 0..3_u64)
            .prop_map(|(server, epoch, seq)| { Place::Connection(server, [epoch; 16], seq) }),
    ]
}

proptest! {
    #[test]
    fn opens_in_its_place_and_nowhere_else(
        secret: [u8; 32], other: [u8; 32], ikm: [u8; 32],
        plaintext in prop::collection::vec(any::<u8>(), 0..600),
        here in place(), there in place(),
    ) {
        let secret = SealingSecret::from_bytes(&secret);
        let sealed = here.with(|c| Sealed::seal(&entry(&secret), c, &plaintext, &mut Fixed(ikm))).unwrap();
        prop_assert_eq!(sealed.as_bytes().len(), plaintext.len() + OVERHEAD_BYTES);
        let opened = here.with(|context| secret.open(&sealed, context)).unwrap();
        prop_assert_eq!(&*opened, &plaintext);
        let elsewhere = there.with(|context| secret.open(&sealed, context));
        prop_assert_eq!(elsewhere.is_ok(), here == there);
        let stranger = SealingSecret::from_bytes(&other);
        prop_assert!(stranger.id() == secret.id() || here.with(|c| stranger.open(&sealed, c)).is_err());
    }

    #[test]
    fn a_changed_byte_never_opens(
        ikm: [u8; 32],
        plaintext in prop::collection::vec(any::<u8>(), 0..200),
        at: prop::sample::Index, change in 1..=255_u8, here in place(),
    ) {
        let secret = SealingSecret::from_bytes(&[5; 32]);
        let sealed = here.with(|c| Sealed::seal(&entry(&secret), c, &plaintext, &mut Fixed(ikm))).unwrap();
        let mut bytes = sealed.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let opened = Sealed::from_bytes(bytes)
            .and_then(|changed| here.with(|context| secret.open(&changed, context)));
        prop_assert!(opened.is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300), ours: bool, here in place(),
    ) {
        let secret = SealingSecret::from_bytes(&[5; 32]);
        if ours && bytes.len() >= OVERHEAD_BYTES {
            bytes[0] = 1;
            bytes[1..9].copy_from_slice(&secret.id().0);
        }
        let opened = Sealed::from_bytes(bytes)
            .and_then(|sealed| here.with(|context| secret.open(&sealed, context)));
        prop_assert!(opened.is_err());
    }
}
