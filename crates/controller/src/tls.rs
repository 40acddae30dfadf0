//! The server's TLS: a self-signed certificate by default, or the operator's.
//!
//! The token carries the SHA-256 of a self-signed certificate's public key, so that the first
//! contact of a host is already pinned. The provider is given explicitly, because programs that
//! link this library beside an agent have two of them.

mod acceptance;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use vpn_node_protocol::encoding::Digest;
use zeroize::Zeroizing;

use crate::config::{self, Config};
use crate::keys::{KeyError, create_private, read_own, read_private};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate file cannot be read.
    #[error("the TLS certificate {path:?} cannot be read as PEM: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The key file is no key.
    #[error("the TLS key {path:?} cannot be used: {reason}")]
    PrivateKey {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No host would accept the operator's certificate.
    #[error("no host would accept the TLS certificate {path:?}: {reason}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Certificate and key do not fit.
    #[error(
        "the TLS key {key:?} is not the key of the first certificate in {certificate:?}: name the two that belong together (tls_key and tls_cert), the server's own certificate first"
    )]
    NotItsKey {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The names are no names, or rustls refuses.
    #[error("the TLS certificate cannot be used: {0}")]
    Unusable(String),
}

/// Makes a self-signed certificate for these names and addresses. Agents pin its key, so its
/// dates protect nothing; it is valid from 1975 to 4096, whatever a host's clock says.
///
/// # Errors
/// [`TlsError`].
pub fn create_self_signed(config: &Config, names: Vec<String>) -> Result<(), TlsError> {
    let (cert_path, key_path, _) = config.tls_files();
    let unusable = |error: rcgen::Error| TlsError::Unusable(error.to_string());
    let key = KeyPair::generate().map_err(unusable)?;
    let mut params = CertificateParams::new(names).map_err(unusable)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "vpn-node-controller");
    let certificate = params.self_signed(&key).map_err(unusable)?;
    create_private(&key_path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    create_private(&cert_path, certificate.pem().as_bytes())?;
    Ok(())
}

/// SHA-256 of the DER SubjectPublicKeyInfo of our self-signed certificate; `None` when the
/// operator brought one of a public or private CA.
///
/// # Errors
/// [`TlsError`].
pub fn server_pin(config: &Config) -> Result<Option<Digest>, TlsError> {
    let (_, key_path, self_signed) = config.tls_files();
    if !self_signed {
        return Ok(None);
    }
    let pem = read_own(&key_path)?;
    let key = std::str::from_utf8(&pem)
        .map_err(|error| error.to_string())
        .and_then(|pem| KeyPair::from_pem(pem).map_err(|error| error.to_string()))
        .map_err(|reason| TlsError::PrivateKey {
            path: key_path,
            reason,
        })?;
    Ok(Some(Digest::of(&[&key.subject_public_key_info()])))
}

/// What the accept loop needs: TLS 1.2 and 1.3, no client certificates, HTTP/1.1.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(config: &Config) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert_path, key_path, self_signed) = config.tls_files();
    if self_signed && !cert_path.exists() {
        return Err(KeyError::Missing(cert_path).into());
    }
    let chain = read_chain(&cert_path)?;
    let pem = match self_signed {
        true => read_own(&key_path)?,
        false => read_private(&key_path)?,
    };
    let unreadable = |reason: String| TlsError::PrivateKey {
        path: key_path.clone(),
        reason,
    };
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| unreadable(format!("it is not PEM: {error}")))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let refused = |reason| TlsError::Refused {
        path: cert_path.clone(),
        reason,
    };
    let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::NotItsKey {
            certificate: cert_path.clone(),
            key: key_path.clone(),
        },
        rustls::Error::InvalidCertificate(_) => {
            refused(acceptance::words(&error, url_host(config)))
        }
        other => unreadable(format!("{other}; {}", acceptance::KINDS)),
    })?;
    // Hosts pin the key of our own, and look at nothing else.
    if !self_signed && let Some(fault) = acceptance::fault(&pair, url_host(config)) {
        return Err(refused(fault));
    }
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Unusable(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// Why hosts that call the URL would refuse the operator's certificate for its names, as a
/// sentence; no error, because a proxy that ends TLS may show them another one.
///
/// # Errors
/// [`TlsError::Certificate`].
pub fn name_fault(config: &Config) -> Result<Option<String>, TlsError> {
    let (cert_path, _, self_signed) = config.tls_files();
    if self_signed {
        return Ok(None);
    }
    let chain = read_chain(&cert_path)?;
    let fault = acceptance::name_fault(&chain[0], url_host(config));
    Ok(fault.map(|fault| {
        format!(
            "hosts that call {:?} will refuse the TLS certificate {cert_path:?}, unless a proxy shows them another one: {fault}",
            config.url
        )
    }))
}

/// The host that agents call.
fn url_host(config: &Config) -> &str {
    config::host_of(config.url.trim_start_matches("https://"))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |reason: String| TlsError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if chain.is_empty() {
        return Err(failed("it holds no certificate".into()));
    }
    Ok(chain)
}
