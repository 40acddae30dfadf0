//! The envelope around every role: signatures, and the part that they are over (section 4.2.1).

use std::collections::BTreeSet;

use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::key::Signers;
use super::{Extra, Header, Key, KeyId, Rejection, Role, hex};
use crate::code::MetadataCode;
use crate::json;
use crate::limits::MAX_SIGNATURES;

/// A metadata file: signatures and an untyped signed part. Nothing in it is to be believed before
/// [`Self::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who signed.
    pub signatures: Vec<Signature>,
    /// What they signed.
    pub signed: Value,
    /// Unknown members: nobody signs them.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Whose.
    pub keyid: KeyId,
    /// The signature in hexadecimal. An empty one stands in foreign files for "not yet".
    pub sig: String,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A role whose signatures held, with a digest of the bytes that they are over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRole<T> {
    /// What was signed.
    pub role: T,
    /// SHA-256 of the canonical signed part, in hexadecimal: the same content has the same digest
    /// whoever signed it in whatever order.
    pub digest: String,
}

/// How many of the needed signatures an envelope has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Ids of keys whose signatures hold.
    pub signed_by: Vec<KeyId>,
    /// Different keys among them.
    pub counted: usize,
    /// How many it takes.
    pub needed: usize,
}

impl Standing {
    /// Whether nothing is missing.
    #[must_use]
    pub const fn is_enough(&self) -> bool {
        self.needed > 0 && self.counted >= self.needed
    }
}

impl Envelope {
    /// An unsigned envelope around a role.
    ///
    /// # Errors
    /// [`MetadataCode::Malformed`] when the role holds what canonical JSON cannot say (fractions
    /// in `custom`) or contradicts itself.
    pub fn new<T: Role>(role: &T) -> Result<Self, Rejection> {
        let malformed =
            |error: &dyn std::fmt::Display| Rejection::new(MetadataCode::Malformed, T::TYPE, error);
        role.check()
            .map_err(|flaw| Rejection::new(flaw.code, T::TYPE, flaw.text))?;
        let signed = serde_json::to_value(role).map_err(|error| malformed(&error))?;
        json::canonical(&signed).map_err(|error| malformed(&error))?;
        Ok(Self {
            signatures: Vec::new(),
            signed,
            extra: Extra::new(),
        })
    }

    /// Reads a file. `what` names it in the refusal.
    ///
    /// # Errors
    /// [`MetadataCode::Malformed`]; [`MetadataCode::DuplicateSignature`] when a key id stands twice
    /// among the signatures; [`MetadataCode::TooManySignatures`].
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self, Rejection> {
        let value = json::parse(bytes).map_err(|error| {
            Rejection::new(
                MetadataCode::Malformed,
                what,
                format_args!("this is not strict JSON: {error}"),
            )
        })?;
        let envelope: Self = serde_json::from_value(value).map_err(|error| {
            Rejection::new(
                MetadataCode::Malformed,
                what,
                format_args!("this is not signed metadata: {error}"),
            )
        })?;
        if envelope.signatures.len() > MAX_SIGNATURES {
            return Err(Rejection::new(
                MetadataCode::TooManySignatures,
                what,
                format_args!(
                    "it has {} signatures, more than the {MAX_SIGNATURES} that are read",
                    envelope.signatures.len()
                ),
            ));
        }
        // 4.2.1: "The keyid MUST be unique in the signatures array".
        let mut seen = BTreeSet::new();
        for signature in &envelope.signatures {
            if !seen.insert(&signature.keyid) {
                return Err(Rejection::new(
                    MetadataCode::DuplicateSignature,
                    what,
                    format_args!("key {} signed it twice", signature.keyid),
                ));
            }
        }
        Ok(envelope)
    }

    /// The file's bytes: indented JSON with a newline at its end.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Maps with string keys and whole numbers: this does not fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Adds the signature of `key`, or replaces the one that it has made before.
    ///
    /// # Errors
    /// [`MetadataCode::Malformed`] when the signed part has no canonical form.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), Rejection> {
        let canonical = self.canonical("metadata")?;
        let keyid = Key::ed25519(&key.verifying_key()).id();
        self.signatures.retain(|signature| signature.keyid != keyid);
        self.signatures.push(Signature {
            keyid,
            sig: hex(&key.sign(&canonical).to_bytes()),
            extra: Extra::new(),
        });
        Ok(())
    }

    /// The role, if enough of `signers` signed it. Believes nothing before that, and reads the role
    /// from exactly the bytes that were signed.
    ///
    /// # Errors
    /// [`MetadataCode::Unsigned`], [`MetadataCode::BelowThreshold`], [`MetadataCode::BadThreshold`],
    /// and those of [`Self::unverified`].
    pub fn verify<T: Role>(
        &self,
        signers: &Signers<'_>,
        what: &str,
    ) -> Result<VerifiedRole<T>, Rejection> {
        let canonical = self.canonical(what)?;
        self.judge(signers, &canonical, what)?;
        read(&canonical, what)
    }

    /// The role without a look at the signatures: for a program that is about to sign it, and for
    /// the first look at a root that must be signed by its own keys.
    ///
    /// # Errors
    /// [`MetadataCode::Malformed`], [`MetadataCode::WrongType`], [`MetadataCode::UnsupportedSpec`].
    pub fn unverified<T: Role>(&self, what: &str) -> Result<VerifiedRole<T>, Rejection> {
        read(&self.canonical(what)?, what)
    }

    /// How far the collection of signatures is.
    ///
    /// # Errors
    /// [`MetadataCode::Malformed`] when the signed part has no canonical form.
    pub fn standing(&self, signers: &Signers<'_>) -> Result<Standing, Rejection> {
        Ok(self.count(signers, &self.canonical("metadata")?))
    }

    fn count(&self, signers: &Signers<'_>, canonical: &[u8]) -> Standing {
        // A signature that does not hold counts for nothing, and spoils nothing: enough others may
        // hold. Counted are keys by material: two ids may be one key.
        let mut materials = BTreeSet::new();
        let mut signed_by = Vec::new();
        for signature in &self.signatures {
            if let Some(key) = signers.keys.get(&signature.keyid)
                && key.verifies(canonical, &signature.sig)
            {
                signed_by.push(signature.keyid.clone());
                materials.insert(key.material());
            }
        }
        Standing {
            signed_by,
            counted: materials.len(),
            needed: signers.threshold as usize,
        }
    }

    fn judge(&self, signers: &Signers<'_>, canonical: &[u8], what: &str) -> Result<(), Rejection> {
        if signers.threshold == 0 {
            return Err(Rejection::new(
                MetadataCode::BadThreshold,
                what,
                "its role has a threshold of 0: nobody would have to sign",
            ));
        }
        // 5.3.4, 5.4.2, 5.5.3, 5.6.3: "each KEY MUST only contribute one SIGNATURE".
        let standing = self.count(signers, canonical);
        if standing.counted == 0 {
            return Err(Rejection::new(
                MetadataCode::Unsigned,
                what,
                format_args!(
                    "no valid signature of the {} keys that may sign it ({} signatures present)",
                    signers.keys.len(),
                    self.signatures.len()
                ),
            ));
        }
        if !standing.is_enough() {
            return Err(Rejection::new(
                MetadataCode::BelowThreshold,
                what,
                format_args!(
                    "signed by {} different keys of the {} that it needs",
                    standing.counted, standing.needed
                ),
            ));
        }
        Ok(())
    }

    fn canonical(&self, what: &str) -> Result<Vec<u8>, Rejection> {
        json::canonical(&self.signed)
            .map_err(|error| Rejection::new(MetadataCode::Malformed, what, error))
    }
}

fn read<T: Role>(canonical: &[u8], what: &str) -> Result<VerifiedRole<T>, Rejection> {
    let malformed = |error: &dyn std::fmt::Display| {
        Rejection::new(
            MetadataCode::Malformed,
            what,
            format_args!("its content is not {} metadata: {error}", T::TYPE),
        )
    };
    let value = json::parse_canonical(canonical).map_err(|error| malformed(&error))?;
    // The type comes first: signed by the right key, but for another purpose.
    let header: Header =
        serde_json::from_value(value.clone()).map_err(|error| malformed(&error))?;
    if header.kind != T::TYPE {
        return Err(Rejection::new(
            MetadataCode::WrongType,
            what,
            format_args!(
                "it is {} metadata where {} belongs",
                header.kind.escape_debug(),
                T::TYPE
            ),
        ));
    }
    // 4.3: "clients MUST verify that spec_version matches": the same major version does.
    if header.spec_version.split('.').next() != Some("1") {
        return Err(Rejection::new(
            MetadataCode::UnsupportedSpec,
            what,
            format_args!(
                "it follows version {} of the TUF specification; this program knows 1",
                header.spec_version.escape_debug()
            ),
        ));
    }
    // Otherwise a stolen key could set a host's idea of the present to a time without end.
    if header.issued.is_some_and(|issued| issued > header.expires) {
        return Err(malformed(&"it expires before it was issued"));
    }
    let role: T = serde_json::from_value(value).map_err(|error| malformed(&error))?;
    role.check()
        .map_err(|flaw| Rejection::new(flaw.code, what, flaw.text))?;
    Ok(VerifiedRole {
        role,
        digest: hex(&Sha256::digest(canonical)),
    })
}
