//! A certificate's dates do not lock out a host whose clock is wrong.
//!
//! Chain, name, usage and signatures are verified as ever (RFC 5280 section 6, by rustls-webpki).
//! When the dates are the only fault at this host's clock, all of it is verified again at an
//! instant at which every certificate of the chain was valid. Why this is safe: TLS only keeps
//! onlookers out; what the agent believes is signed under the pinned root key, and what it sends
//! is signed, or sealed to a key under that root
//! (`docs/decisions/0006-dates-of-tls-certificates.md`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::core::journal;

/// Each step settles the dates of one certificate, and chains are shorter than this.
const MAX_STEPS: usize = 8;

/// Asks `inner`, and asks again at another instant when only the dates are wrong.
#[derive(Debug)]
pub(super) struct AnyDate {
    inner: Arc<dyn ServerCertVerifier>,
    /// The last handshake's dates were not believed; it is said once until they are right again.
    told: AtomicBool,
}

impl AnyDate {
    pub(super) fn new(inner: Arc<dyn ServerCertVerifier>) -> Self {
        Self {
            inner,
            told: AtomicBool::new(false),
        }
    }
}

impl ServerCertVerifier for AnyDate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |at| {
            self.inner
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at)
        };
        let fault = match verify(now) {
            Err(fault) => fault,
            verified => {
                self.told.store(false, Ordering::Relaxed);
                return verified;
            }
        };
        let verified = at_their_date(&fault, verify)?;
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                message_id = %journal::CONTROLLER_DATES,
                fault = %fault,
                server = %server_name.to_str(),
                "the dates of the controller's TLS certificate do not fit this host's clock, and are not believed: everything else about it is right. The agent goes on, because it trusts no word for having come over TLS: each is signed under the controller's root key. Check 'timedatectl' on this host; if its clock is right, renew the controller's certificate"
            );
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The verdict at an instant at which no certificate of the chain has ended or is yet to come.
/// Each refusal names the end (or the beginning) of one certificate's validity: the next attempt
/// is made there, always further in one direction, so that a chain without a common instant is
/// refused.
fn at_their_date(
    fault: &rustls::Error,
    verify: impl Fn(UnixTime) -> Result<ServerCertVerified, rustls::Error>,
) -> Result<ServerCertVerified, rustls::Error> {
    let (side, mut at) = boundary(fault).ok_or_else(|| fault.clone())?;
    for _ in 0..MAX_STEPS {
        let next = match verify(at) {
            Err(next) => next,
            verified => return verified,
        };
        match boundary(&next) {
            Some((again, further)) if again == side => at = further,
            // No instant suits all certificates of the chain.
            Some(_) => return Err(fault.clone()),
            // With the dates out of the way, this is what is wrong.
            None => return Err(next),
        }
    }
    Err(fault.clone())
}

#[derive(PartialEq, Eq)]
enum Side {
    Expired,
    NotYetValid,
}

/// Which side of a validity the instant was on, and where that validity ends or begins; both
/// boundaries belong to it (RFC 5280 section 4.1.2.5).
fn boundary(fault: &rustls::Error) -> Option<(Side, UnixTime)> {
    match fault {
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after, ..
        }) => Some((Side::Expired, *not_after)),
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before,
            ..
        }) => Some((Side::NotYetValid, *not_before)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
