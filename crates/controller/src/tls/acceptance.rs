//! Whether hosts accept a certificate that the operator brought: asked of the verifier and the
//! cryptography that agents use (rustls-webpki with ring), not of rules of our own.
//!
//! Agents look at no dates alone, and some know an authority that is not in the chain; so neither
//! is a fault here.

use std::time::Duration;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::ring;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Each step settles the beginning of one certificate, and chains are shorter than this.
const MAX_STEPS: usize = 8;

/// Which certificate and key works everywhere.
pub(super) const KINDS: &str = "use an ECDSA key of P-256 or P-384, an Ed25519 key, or an RSA key of 2048 to 8192 bits, and have the certificate signed with one of these";

/// What keeps every host from accepting this certificate and key, and what to do.
pub(super) fn fault(pair: &CertifiedKey, host: &str) -> Option<String> {
    let schemes = ring::default_provider()
        .signature_verification_algorithms
        .supported_schemes();
    if pair.key.choose_scheme(&schemes).is_none() {
        return Some(format!("hosts do not know its kind of key; {KINDS}"));
    }
    verify(&pair.cert).err().map(|error| words(&error, host))
}

/// Why hosts that call `host` would refuse this certificate for its names.
pub(super) fn name_fault(end_entity: &CertificateDer<'_>, host: &str) -> Option<String> {
    let name = ServerName::try_from(host).ok()?;
    let parsed = ParsedCertificate::try_from(end_entity).ok()?;
    let error = verify_server_name(&parsed, &name).err()?;
    Some(words(&error, host))
}

/// The sentence for what the verifier said.
pub(super) fn words(error: &Error, host: &str) -> String {
    let Error::InvalidCertificate(error) = error else {
        return error.to_string();
    };
    let error = error.to_string();
    // The verifier has no names of its own for these two in its public errors.
    if error.contains("UnsupportedCertVersion") {
        return format!(
            "it is of the old version 1 of X.509, as 'openssl x509 -req' without '-extfile' makes it; take one of an authority, or make it anew: {}",
            command(host)
        );
    }
    if error.contains("CaUsedAsEndEntity") {
        return format!(
            "it is marked as an authority's (CA:TRUE), as plain 'openssl req -x509' makes it; take one of an authority, or make it anew: {}",
            command(host)
        );
    }
    if error.contains("UnsupportedSignatureAlgorithm") {
        return format!("hosts do not know its kind of key or signature; {KINDS}");
    }
    error
}

/// Makes a certificate that hosts accept whose `controller.ca_file` is this certificate.
fn command(host: &str) -> String {
    let kind = match host.parse::<std::net::IpAddr>() {
        Ok(_) => "IP",
        Err(_) => "DNS",
    };
    format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -keyout tls.key -out tls.pem -subj /CN={host} -addext subjectAltName={kind}:{host} -addext basicConstraints=critical,CA:FALSE (each host then needs tls.pem as its controller.ca_file)"
    )
}

/// Verifies the first certificate as a server's, with all of the chain as authorities.
fn verify(chain: &[CertificateDer<'static>]) -> Result<(), Error> {
    let Some(end_entity) = chain.first() else {
        return Err(Error::NoCertificatesPresented);
    };
    let parsed = ParsedCertificate::try_from(end_entity)?;
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(chain.iter().cloned());
    let known = ring::default_provider()
        .signature_verification_algorithms
        .all;
    let verify = |at| {
        verify_server_cert_signed_by_trust_anchor(&parsed, &authorities, &chain[1..], at, known)
    };
    let mut at = UnixTime::since_unix_epoch(Duration::ZERO);
    for _ in 0..MAX_STEPS {
        match verify(at) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                not_before,
                ..
            })) => at = not_before,
            // The authority that signed it may be one that only hosts know, also one with the
            // name of a certificate of the chain.
            Err(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => return Ok(()),
            verdict => return verdict,
        }
    }
    Err(CertificateError::NotValidYet.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    use rustls_pki_types::PrivateKeyDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    const HOST: &str = "c.example";

    fn params() -> CertificateParams {
        CertificateParams::new([HOST.to_owned()]).unwrap()
    }

    fn authority() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn pair(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> CertifiedKey {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        CertifiedKey::from_der(chain, key, &provider).unwrap()
    }

    fn self_signed(params: CertificateParams, key: &KeyPair) -> CertifiedKey {
        pair(vec![params.self_signed(key).unwrap().der().clone()], key)
    }

    #[test]
    fn what_hosts_can_accept_is_no_fault() {
        let of = |kind| KeyPair::generate_for(kind).unwrap();
        for kind in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ] {
            assert_eq!(fault(&self_signed(params(), &of(kind)), HOST), None);
        }
        let mut past = params();
        past.not_before = rcgen::date_time_ymd(1990, 1, 1);
        past.not_after = rcgen::date_time_ymd(1991, 1, 1);
        let mut future = params();
        future.not_before = rcgen::date_time_ymd(3000, 1, 1);
        let mut said = params();
        said.is_ca = IsCa::ExplicitNoCa;
        for params in [past, future, said] {
            let key = of(&rcgen::PKCS_ECDSA_P256_SHA256);
            assert_eq!(fault(&self_signed(params, &key), HOST), None);
        }
    }

    #[test]
    fn a_chain_is_no_fault_with_or_without_its_authority() {
        let (ca_key, other_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let ca = authority().self_signed(&ca_key).unwrap();
        let namesake = authority().self_signed(&other_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(authority(), ca_key);
        let leaf = params().signed_by(&key, &issuer).unwrap();
        let leaf = leaf.der().clone();
        for rest in [vec![], vec![ca.der().clone()], vec![namesake.der().clone()]] {
            let chain = [vec![leaf.clone()], rest].concat();
            assert_eq!(fault(&pair(chain, &key), HOST), None);
        }
    }

    #[test]
    fn what_no_host_accepts_is_a_fault_with_a_cure() {
        let key = KeyPair::generate().unwrap();
        let found = fault(&self_signed(authority(), &key), HOST).unwrap();
        assert!(found.contains("CA:TRUE"), "{found}");
        assert!(
            found.contains("subjectAltName=DNS:c.example")
                && found.contains("basicConstraints=critical,CA:FALSE"),
            "{found}"
        );
        let mut client = params();
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let found = fault(&self_signed(client, &key), HOST).unwrap();
        assert!(found.contains("extended key usage"), "{found}");
    }

    #[test]
    fn the_form_that_openssl_makes_without_extensions_is_named() {
        let pem = include_bytes!("../../tests/fixtures/tls-version-1.pem");
        let old = CertificateDer::from_pem_slice(pem).unwrap();
        let error = ParsedCertificate::try_from(&old).map(drop).unwrap_err();
        let found = words(&error, "192.0.2.1");
        assert!(
            found.contains("version 1") && found.contains("subjectAltName=IP:192.0.2.1"),
            "{found}"
        );
    }

    #[test]
    fn a_key_that_agents_do_not_know_is_a_fault() {
        let odd = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let found = fault(&self_signed(params(), &odd), HOST).unwrap();
        assert!(found.contains("P-256"), "{found}");
        // Its authority's.
        let ca = authority().self_signed(&odd).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(authority(), odd);
        let leaf = params().signed_by(&key, &issuer).unwrap();
        let chain = vec![leaf.der().clone(), ca.der().clone()];
        let found = fault(&pair(chain, &key), HOST).unwrap();
        assert!(found.contains("P-256"), "{found}");
    }

    #[test]
    fn names_are_looked_at() {
        let key = KeyPair::generate().unwrap();
        let certificate = params().self_signed(&key).unwrap();
        assert_eq!(name_fault(certificate.der(), HOST), None);
        let found = name_fault(certificate.der(), "192.0.2.1").unwrap();
        assert!(found.contains("192.0.2.1"), "{found}");
    }
}
