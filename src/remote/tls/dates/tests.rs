//! Chains made for the purpose, judged at instants years before and after their validity.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;

use super::*;

const NAME: &str = "controller.example";
/// 2026-01-01 and ten years before and after it, in seconds since the Unix epoch.
const NOW_S: u64 = 1_767_225_600;
const TEN_YEARS_S: u64 = 315_576_000;

/// Years in which something is valid: from the first of January to the first of January.
type Years = (i32, i32);

fn authority(name: &str, years: Years) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    params
}

/// A root, an intermediate of these years under it, and a leaf of those under the intermediate.
struct Chain {
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
}

fn chain(intermediate: Years, leaf: Years) -> Chain {
    let key = || KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(authority("root", (2000, 2100)), key()).unwrap();
    let middle =
        CertifiedIssuer::signed_by(authority("middle", intermediate), key(), &root).unwrap();
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.not_before = date_time_ymd(leaf.0, 1, 1);
    params.not_after = date_time_ymd(leaf.1, 1, 1);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&key(), &middle).unwrap();
    Chain {
        root: root.der().clone(),
        intermediate: middle.der().clone(),
        leaf: leaf.der().clone(),
    }
}

fn believing(root: &CertificateDer<'static>) -> AnyDate {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    AnyDate::new(inner.build().unwrap())
}

fn judge(verifier: &AnyDate, chain: &Chain, name: &str, at_s: u64) -> Result<(), rustls::Error> {
    verifier
        .verify_server_cert(
            &chain.leaf,
            std::slice::from_ref(&chain.intermediate),
            &ServerName::try_from(name).unwrap(),
            &[],
            UnixTime::since_unix_epoch(Duration::from_secs(at_s)),
        )
        .map(drop)
}

/// Now, and ten years off either way.
const CLOCKS: [u64; 3] = [NOW_S, NOW_S - TEN_YEARS_S, NOW_S + TEN_YEARS_S];

#[test]
fn a_good_chain_is_accepted_whatever_the_clock_says() {
    for (intermediate, leaf) in [
        ((2020, 2030), (2025, 2027)),
        // The intermediate ends before the leaf, or begins after it.
        ((2020, 2026), (2025, 2027)),
        ((2026, 2030), (2025, 2027)),
    ] {
        let chain = chain(intermediate, leaf);
        let verifier = believing(&chain.root);
        for clock in CLOCKS {
            judge(&verifier, &chain, NAME, clock).unwrap();
        }
    }
}

#[test]
fn one_streak_of_wrong_dates_is_told_once() {
    let chain = chain((2020, 2030), (2025, 2027));
    let verifier = believing(&chain.root);
    let told = |clock| {
        judge(&verifier, &chain, NAME, clock).unwrap();
        verifier.told.load(Ordering::Relaxed)
    };
    assert!(!told(CLOCKS[0]));
    assert!(told(CLOCKS[1]));
    assert!(told(CLOCKS[2]));
    assert!(!told(CLOCKS[0]), "the next streak is told again");
}

#[test]
fn certificates_that_were_never_valid_together_are_refused() {
    let chain = chain((2000, 2010), (2025, 2027));
    let verifier = believing(&chain.root);
    for clock in CLOCKS {
        assert!(boundary(&judge(&verifier, &chain, NAME, clock).unwrap_err()).is_some());
    }
}

#[test]
fn another_name_is_refused_in_any_clock_and_named_as_the_fault() {
    let chain = chain((2020, 2030), (2025, 2027));
    let verifier = believing(&chain.root);
    for clock in CLOCKS {
        let fault = judge(&verifier, &chain, "other.example", clock).unwrap_err();
        assert!(
            matches!(
                fault,
                rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
            ),
            "{fault:?}"
        );
    }
}

#[test]
fn another_authority_is_refused_in_any_clock() {
    let honest = chain((2020, 2030), (2025, 2027));
    // Same names, other keys: first without a signature that fits, then without an issuer at all.
    let verifier = believing(&chain((2020, 2030), (2025, 2027)).root);
    let mut alone = chain((2020, 2030), (2025, 2027));
    alone.intermediate = alone.leaf.clone();
    for chain in [&honest, &alone] {
        for clock in CLOCKS {
            let fault = judge(&verifier, chain, NAME, clock).unwrap_err();
            assert!(boundary(&fault).is_none(), "{fault:?}");
        }
    }
}

#[test]
fn a_changed_certificate_is_refused_in_any_clock() {
    for changes_leaf in [true, false] {
        let mut chain = chain((2020, 2030), (2025, 2027));
        let verifier = believing(&chain.root);
        let changed = if changes_leaf {
            &mut chain.leaf
        } else {
            &mut chain.intermediate
        };
        // The last byte stands in the signature.
        let mut der = changed.to_vec();
        *der.last_mut().unwrap() ^= 1;
        *changed = der.into();
        for clock in CLOCKS {
            let fault = judge(&verifier, &chain, NAME, clock).unwrap_err();
            assert!(boundary(&fault).is_none(), "{fault:?}");
        }
    }
}

#[test]
fn a_certificate_for_clients_is_refused_in_any_clock() {
    let key = || KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(authority("root", (2000, 2100)), key()).unwrap();
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key(), &root).unwrap().der().clone();
    let chain = Chain {
        root: root.der().clone(),
        intermediate: root.der().clone(),
        leaf,
    };
    for clock in CLOCKS {
        let fault = judge(&believing(&chain.root), &chain, NAME, clock).unwrap_err();
        assert!(boundary(&fault).is_none(), "{fault:?}");
    }
}
