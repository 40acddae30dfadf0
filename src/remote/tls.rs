//! Whose TLS certificate is accepted: the pinned key's, or one that a known authority signed.
//! In neither case does a wrong clock of this host lock it out.

mod dates;
mod distrust;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use vpn_node_protocol::encoding::Digest;

use dates::AnyDate;
pub(super) use distrust::distrust;

use crate::host::bounded;

/// Most bytes of the operator's CA file: the bundle of a whole distribution has a tenth of that.
const MAX_CA_FILE: usize = 4 << 20;

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The operator's CA file.
    #[error("cannot use the CA file {path}: {why}; controller.ca_file must name PEM certificates")]
    CaFile {
        /// As configured.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The operator's CA file is closed to this user.
    #[error(
        "this user may not read the CA file {path} of controller.ca_file: {why}. The agent's user (vpn-node) must be able to read it; root can check it"
    )]
    CaFileDenied {
        /// As configured.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// The host has no CA certificates and the token pins none.
    #[error(
        "this host has no CA certificates, so no controller can be recognised: install the package 'ca-certificates', set controller.ca_file, or use a token with a pinned certificate"
    )]
    NoRoots,
    /// rustls refused.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Reads the operator's CA file as a start of the agent does.
///
/// # Errors
/// [`TlsError::CaFile`], [`TlsError::CaFileDenied`].
pub fn check_ca_file(path: &Path) -> Result<(), TlsError> {
    roots(Some(path)).map(drop)
}

/// TLS for a controller: with `pin`, only a certificate with exactly that public key (its name
/// and dates do not matter: the pin came with the token); else one that `ca_file`, or the
/// host's own authorities, vouch for, whatever this host's clock says of its dates.
///
/// # Errors
/// [`TlsError`].
pub(super) fn config(
    pin: Option<Digest>,
    ca_file: Option<&Path>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let setup = |error: &dyn std::fmt::Display| TlsError::Setup(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = match pin {
        Some(pin) => Arc::new(PinnedKey { pin, provider }),
        None => Arc::new(AnyDate::new(
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca_file)?), provider)
                .build()
                .map_err(|error| setup(&error))?,
        )),
    };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = ca_file {
        let bad = |why: String| TlsError::CaFile {
            path: path.to_owned(),
            why,
        };
        // A reload reads it between two turns of the event loop: a FIFO must not stop that, nor a
        // device without an end fill the memory.
        let text = bounded::open_regular(path)
            .and_then(|file| bounded::prefix_of(&file, MAX_CA_FILE + 1))
            .map_err(|e| match e.kind() {
                io::ErrorKind::PermissionDenied => TlsError::CaFileDenied {
                    path: path.to_owned(),
                    why: e.to_string(),
                },
                _ => bad(e.to_string()),
            })?;
        if text.len() > MAX_CA_FILE {
            return Err(bad(format!("it has more than {MAX_CA_FILE} bytes")));
        }
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|e| bad(e.to_string()))?;
            store.add(certificate).map_err(|e| bad(e.to_string()))?;
        }
        if store.is_empty() {
            return Err(bad("it holds no certificate".into()));
        }
        return Ok(store);
    }
    // A host may carry a broken certificate among hundreds: the others still count.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        Err(TlsError::NoRoots)
    } else {
        Ok(store)
    }
}

/// Accepts one public key and nothing else; the handshake's signature is still verified.
#[derive(Debug)]
struct PinnedKey {
    pin: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let found = Digest::of(&[&key]);
        if found == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "the server's TLS key is {found}, and the token pins {}",
            self.pin
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_ca_file_that_is_a_fifo_a_device_or_a_giant_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        fs::write(at("giant"), vec![b'\n'; MAX_CA_FILE + 1]).unwrap();
        fs::write(at("empty"), "").unwrap();
        for (path, why) in [
            (at("fifo"), "it is not a regular file"),
            ("/dev/zero".into(), "it is not a regular file"),
            (dir.path().to_owned(), "it is not a regular file"),
            (at("giant"), "it has more than 4194304 bytes"),
            (at("empty"), "it holds no certificate"),
        ] {
            let error = config(None, Some(&path)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
