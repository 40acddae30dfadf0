//! Why the daemon cannot start, or had to stop.

use vpn_node_protocol::certificate::CertificateError;
use vpn_node_protocol::token::TokenError;

use super::TOKEN_CREDENTIAL;
use crate::host::ids::IdError;
use crate::host::sealing::SealingError;
use crate::host::state::StateError;
use crate::host::systemd::CredentialError;
use crate::remote::ClientError;
use crate::remote::enrol::EnrolError;
use crate::status::SocketError;

/// Why the daemon cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files of the state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key of a sealed identity.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// The certificate on disk is not the pinned root's.
    #[error("the enrolment on disk cannot be trusted: {0}")]
    Certificate(#[from] CertificateError),
    /// Boot id.
    #[error(transparent)]
    Ids(#[from] IdError),
    /// TLS or HTTP set-up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The status socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The token credential is not readable.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The token credential is none.
    #[error("the credential {TOKEN_CREDENTIAL} is no token: {0}")]
    Token(#[from] TokenError),
    /// The credential's token cannot enrol this host.
    #[error("the token of the credential {TOKEN_CREDENTIAL} cannot enrol this host: {0}")]
    Enrol(EnrolError),
    /// The kernel refused something basic.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}
