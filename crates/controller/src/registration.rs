//! Making a token: the secret exists here for a moment, and only its public half is stored.

use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::keys::{PublicKey, registration_key};
use vpn_node_protocol::token::Token;
use zeroize::Zeroizing;

use crate::clock;
use crate::config::Config;
use crate::keys::{self, KeyError};
use crate::store::{NewRegistrationKey, Store, StoreError};
use crate::tls::{self, TlsError};

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The certificate.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The server certificate's pin.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A new token.
pub struct NewToken {
    /// The string to paste; wiped from memory when dropped.
    pub text: Zeroizing<String>,
    /// What the database calls it: the public key in hex.
    pub registration_key: String,
    /// When it ends, in milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

/// Makes a token that is good for `lifetime_ms`: for a new server, or for a new identity of the one
/// that exists.
///
/// # Errors
/// [`RegistrationError`].
pub async fn create(
    store: &dyn Store,
    config: &Config,
    lifetime_ms: i64,
    note: Option<String>,
    for_server_id: Option<String>,
    now_ms: i64,
) -> Result<NewToken, RegistrationError> {
    let (certificate, _) = keys::certificate(&config.data_dir)?;
    // Whole seconds, as the token carries them.
    let expires_s = now_ms.saturating_add(lifetime_ms) / 1000;
    let token = Token {
        url: config.url.clone(),
        root_pin: certificate.root.id(),
        server_pin: tls::server_pin(config)?,
        secret: Box::new(clock::random()),
        expires_s: u64::try_from(expires_s).unwrap_or(0),
    };
    let public = PublicKey::from(&registration_key(&token.secret));
    let key = NewRegistrationKey {
        registration_key: Hex(*public.as_bytes()).to_string(),
        created_ms: now_ms,
        expires_ms: expires_s * 1000,
        notes: note,
        for_server_id,
    };
    let (registration_key, expires_ms) = (key.registration_key.clone(), key.expires_ms);
    store.create_registration_key(key).await?;
    Ok(NewToken {
        text: token.to_text(),
        registration_key,
        expires_ms,
    })
}
