//! `hpke.json`: the numbers of RFC 9180 appendix A.2.1 for our suite, against the library we use.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde_json::Value;

use crate::support::{Fixed, cases, read, unhex, unhex32};

type Private = <X25519HkdfSha256 as Kem>::PrivateKey;
type Public = <X25519HkdfSha256 as Kem>::PublicKey;
type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;

#[test]
fn the_library_computes_the_published_keys() {
    let file = read("hpke.json");
    for (ikm, private, public) in [("ikmE", "skEm", "pkEm"), ("ikmR", "skRm", "pkRm")] {
        let (sk, pk) = X25519HkdfSha256::derive_keypair(&unhex(&file[ikm]));
        assert_eq!(
            sk.to_bytes().as_slice(),
            clamped(&file[private]),
            "{private}"
        );
        assert_eq!(pk.to_bytes().as_slice(), unhex(&file[public]), "{public}");
    }
}

/// The library writes private keys clamped, as RFC 9180 section 7.1.2 asks; the appendix prints
/// them before that. Both are the same key (RFC 7748 section 5).
fn clamped(private: &Value) -> [u8; 32] {
    let mut bytes = unhex32(private);
    bytes[0] &= 248;
    bytes[31] = bytes[31] & 127 | 64;
    bytes
}

#[test]
fn the_library_seals_and_opens_the_published_ciphertexts() {
    let file = read("hpke.json");
    let info = unhex(&file["info"]);
    let plaintext = unhex(&file["pt"]);
    let recipient = Public::from_bytes(&unhex(&file["pkRm"])).unwrap();
    let (enc, mut sender) =
        hpke::setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &recipient,
            &info,
            &mut Fixed(unhex32(&file["ikmE"])),
        )
        .unwrap();
    assert_eq!(enc.to_bytes().as_slice(), unhex(&file["enc"]));

    let mut receiver = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &Private::from_bytes(&unhex(&file["skRm"])).unwrap(),
        &Encapped::from_bytes(&unhex(&file["enc"])).unwrap(),
        &info,
    )
    .unwrap();
    // The published ones are numbers 0, 1, 2, 4, 255 and 256; those between are sealed unseen.
    let mut next = 0;
    for case in cases(&file, "encryptions") {
        let number = case["sequence"].as_u64().unwrap();
        while next < number {
            let between = sender.seal(&plaintext, b"").unwrap();
            receiver.open(&between, b"").unwrap();
            next += 1;
        }
        let aad = unhex(&case["aad"]);
        assert_eq!(aad, format!("Count-{number}").as_bytes());
        let ciphertext = unhex(&case["ct"]);
        assert_eq!(sender.seal(&plaintext, &aad).unwrap(), ciphertext);
        assert_eq!(receiver.open(&ciphertext, &aad).unwrap(), plaintext);
        next += 1;
    }
    for case in cases(&file, "exports") {
        let mut value = [0; 32];
        receiver
            .export(&unhex(&case["context"]), &mut value)
            .unwrap();
        assert_eq!(value, unhex32(&case["value"]));
    }
}
