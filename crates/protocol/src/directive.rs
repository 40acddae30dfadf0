//! Directives: what the controller wants a host to do.
//!
//! Each is signed by itself, has an id, is applied at most once, and is acknowledged in the next
//! chained message, whether it came with a reply or over the directive request.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding::Nonce;
use crate::envelope::Payload;
use crate::message::Purpose;

/// One signed wish of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Applied at most once.
    pub id: Uuid,
    /// For whom: a directive for another server is refused.
    pub server_id: String,
    /// For which key epoch of it.
    pub epoch: u32,
    /// The controller's clock when it was made, in milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// For how long after `issued_ms` it may be applied, in seconds.
    pub deadline_s: u32,
    /// What to do.
    pub action: Action,
}

/// What a directive asks for. A kind that an agent does not know reads as [`Action::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// Prove who you are and what you run on.
    Challenge {
        /// 32 random bytes.
        value: Nonce,
        /// Why.
        purpose: Purpose,
    },
    /// Make a new identity key ([`crate::identity::Rotate`]).
    Rotate,
    /// End these connections, through the VPN daemons that hold them. Done when none of them is up
    /// any more; one that the host does not know is over. Names nobody: ids alone.
    Disconnect {
        /// At least one, at most [`crate::limits::MAX_DISCONNECTS`].
        connection_ids: Vec<Uuid>,
        /// What the ends will say.
        reason: DisconnectReason,
    },
    /// Install this release, which the release keys must have signed: the directive chooses when,
    /// never what is in it. Acknowledged as soon as the host has taken it up; how it goes is told
    /// by [`crate::message::Heartbeat::update`]. A later one takes the place of an earlier one.
    Update {
        /// The row of `server_update_deployments`.
        deployment_id: u64,
        /// Version (semver.org).
        version: String,
        /// TUF target path, for example `vpn-node/1.5.0/linux-amd64.tar.zst`.
        target: String,
        /// Address of a repository to take it from; absent: the controller's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        repository: Option<String>,
    },
    /// Do not install it after all. What is already on trial is judged as it would have been.
    CancelUpdate {
        /// The row of `server_update_deployments`.
        deployment_id: u64,
    },
    /// A kind from a newer controller.
    #[serde(other)]
    Unknown,
}

/// Why the controller has a connection ended. The words are those of
/// [`crate::connection::ConnectionEvent::End`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectReason {
    /// An operator ended this one.
    AdminKick,
    /// Its personal key or device is revoked.
    Revoked,
}

impl Payload for Directive {
    const TYPE: &'static str = "application/vnd.vpn-node.directive.v1+json";
}
