//! ECDSA P-256 and RSA-PSS, verified by ring: only for repositories of other programs, only with
//! the feature `interop`. Both kinds of keys are PEM around a SubjectPublicKeyInfo (RFC 5280).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};

/// A key of another kind than Ed25519.
pub(super) struct Foreign {
    algorithm: &'static dyn VerificationAlgorithm,
    key: Vec<u8>,
}

impl Foreign {
    pub(super) fn parse(keytype: &str, scheme: &str, pem: &str) -> Option<Self> {
        let algorithm: &'static dyn VerificationAlgorithm = match (keytype, scheme) {
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => &ECDSA_P256_SHA256_ASN1,
            ("rsa", "rsassa-pss-sha256") => &RSA_PSS_2048_8192_SHA256,
            _ => return None,
        };
        let key = public_key_of(&der_of(pem)?)?;
        Some(Self { algorithm, key })
    }

    pub(super) fn material(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.key)
            .verify(message, signature)
            .is_ok()
    }
}

fn der_of(pem: &str) -> Option<Vec<u8>> {
    let body = pem
        .trim()
        .strip_prefix("-----BEGIN PUBLIC KEY-----")?
        .strip_suffix("-----END PUBLIC KEY-----")?;
    let base64: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(base64).ok()
}

/// The BIT STRING of `SEQUENCE { SEQUENCE algorithm, BIT STRING key }`.
fn public_key_of(der: &[u8]) -> Option<Vec<u8>> {
    let (info, rest) = element(der, 0x30)?;
    let (_algorithm, after) = element(info, 0x30)?;
    let (bits, end) = element(after, 0x03)?;
    let whole = rest.is_empty() && end.is_empty();
    let (unused, key) = bits.split_first()?;
    (whole && *unused == 0).then(|| key.to_vec())
}

/// One DER element of this tag: its content, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (
            usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?)),
            &rest[2..],
        ),
        _ => return None,
    };
    (*first == tag && rest.len() >= length).then(|| rest.split_at(length))
}
