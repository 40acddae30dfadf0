//! What a rule is told of the stored state of one server.

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vpn_node_protocol::directive::DisconnectReason;
use vpn_node_protocol::encoding::{Digest, Nonce};
use vpn_node_protocol::hardware::HardwareStatus;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Authorisation, Purpose, Standing, Verdict};

use crate::rules::boot::Boot;
use crate::rules::rollout::report::KnownDeployment;

/// The longest permit for a rehost, in milliseconds: seven days. Whoever has a copy of the disk
/// may use it as well as the right host.
pub const MAX_REHOST_PERMIT_MS: i64 = 7 * 24 * 3600 * 1000;

/// One server as the transaction found it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its id.
    pub server_id: String,
    /// Whether it may speak at all.
    pub status: ServerStatus,
    /// The key that signed the request, as the transaction found it.
    pub signer: Option<ServerKey>,
    /// Whose the new key of a rotation is.
    pub new_key: KeyUse,
    /// Where its request chain stands.
    pub chain: ChainState,
    /// Digest of what was accepted under the number of the request, when that is an old one.
    pub earlier: Option<Digest>,
    /// Requests that were refused as ahead: only of use, and only loaded, for an old number.
    pub refused_ahead: Vec<Digest>,
    /// The signed reply to the last request.
    pub last_reply: Option<Vec<u8>>,
    /// The boot of the last accepted request.
    pub boot: Option<Boot>,
    /// Address of the last accepted request.
    pub peer_ip: String,
    /// The controller's word.
    pub verdict: Verdict,
    /// A sentence about it.
    pub verdict_reason: Option<String>,
    /// Challenges in a row that were not answered.
    pub challenges_missed: u32,
    /// What the agent said of its standing last.
    pub authorisation: Authorisation,
    /// What the last fingerprint gave.
    pub hardware_status: HardwareStatus,
    /// The enrolled components, as JSON.
    pub raw_hardware: Option<String>,
    /// Their hash, as the host stated it.
    pub hardware_id: Digest,
    /// When a fingerprint was last found good.
    pub verified_ms: Option<i64>,
    /// Until when other hardware becomes the enrolled one.
    pub rehost_until_ms: Option<i64>,
    /// The components of the last fingerprint that was compared, as JSON: for an answer only.
    pub last_hardware: Option<String>,
    /// When the last challenge was made or ended: while a mismatch stands only.
    pub last_challenge_ms: Option<i64>,
    /// When the last heartbeat came, in milliseconds since the Unix epoch.
    pub last_heartbeat_ms: Option<i64>,
    /// When the host made its last accepted request, by our clock: its lease runs from there.
    pub made_ms: Option<i64>,
    /// Directives that are pending, or applied but not answered.
    pub directives: Vec<OpenDirective>,
    /// How far the ledger of the request is stored; 0 for a ledger not seen before.
    pub ledger_acked: u64,
    /// The ledger was set back with its host: its numbers come again, with other records.
    pub ledger_set_back: bool,
    /// The operator has chosen one of two holders, whose new key is not in use yet.
    pub resolving: Option<Resolving>,
    /// The deployment that the request names, whosever it is.
    pub deployment: Option<KnownDeployment>,
}

/// Two holders were seen, one is kept, and the other one still has the key in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolving {
    /// Who is kept.
    pub kept: Kept,
    /// Epoch of the key that both have.
    pub epoch: u32,
    /// Number of the request that showed the second holder.
    pub second_seq: u64,
    /// Its digest.
    pub second_digest: Digest,
    /// When the newest directive `rotate` was made, in milliseconds since the Unix epoch.
    pub rotation_ms: Option<i64>,
}

/// Which holder of an identity goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// Whose request was accepted last.
    First,
    /// Whose request did not follow from it.
    Second,
    /// Neither: the server was enrolled again.
    Reenrolled,
}

impl Snapshot {
    /// Whether the host was last seen on other hardware. Nothing that the host does ends that: an
    /// operator permits the rehost, or the host is enrolled again.
    #[must_use]
    pub fn mismatch_stands(&self) -> bool {
        self.verdict == Verdict::Mismatch || self.hardware_status == HardwareStatus::Mismatch
    }

    /// Whether an operator expects other hardware now.
    #[must_use]
    pub fn rehost_is_permitted(&self, now_ms: i64) -> bool {
        // The second half is for a clock that was set back: it makes no permit longer.
        self.rehost_until_ms.is_some_and(|until_ms| {
            now_ms < until_ms && until_ms.saturating_sub(now_ms) <= MAX_REHOST_PERMIT_MS
        })
    }
}

#[cfg(test)]
impl Snapshot {
    /// A verified server at this place of its chain, of which nothing else is known.
    pub(crate) fn at(chain: ChainState) -> Self {
        Self {
            server_id: "s".into(),
            status: ServerStatus::Active,
            signer: None,
            new_key: KeyUse::Free,
            chain,
            earlier: None,
            refused_ahead: vec![],
            last_reply: None,
            boot: None,
            peer_ip: String::new(),
            verdict: Verdict::Verified,
            verdict_reason: None,
            challenges_missed: 0,
            authorisation: Authorisation::Verified,
            hardware_status: HardwareStatus::Verified,
            raw_hardware: None,
            hardware_id: vpn_node_protocol::encoding::Hex([0; 32]),
            verified_ms: None,
            rehost_until_ms: None,
            last_hardware: None,
            last_challenge_ms: None,
            last_heartbeat_ms: None,
            made_ms: None,
            directives: vec![],
            ledger_acked: 0,
            ledger_set_back: false,
            resolving: None,
            deployment: None,
        }
    }
}

/// Where a request chain stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainState {
    /// Epoch of the identity key.
    pub epoch: u32,
    /// Number of the last accepted request; 0 before the first.
    pub seq: u64,
    /// The value for the next request.
    pub chain: Digest,
    /// The nonce for the next request.
    pub nonce: Nonce,
    /// Digest of the last accepted request.
    pub last_digest: Option<Digest>,
}

/// One identity key of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKey {
    /// The public key.
    pub key: PublicKey,
    /// Its epoch.
    pub epoch: u32,
    /// What it is good for.
    pub role: KeyRole,
}

/// `server_keys.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// A rotation to it was accepted; it was not used yet.
    Next,
    /// In force.
    Current,
    /// Replaced: refused for ever.
    Retired,
}

/// Whose a key is that a host wants to have from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyUse {
    /// Nobody's, as far as the controller remembers.
    #[default]
    Free,
    /// The server's own next one: the rotation is repeated.
    OwnNext,
    /// It is or was an identity key of a server, or is a registration key.
    Taken,
}

/// `servers.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// Enrolled, waits for an operator.
    Pending,
    /// Part of the fleet.
    Active,
    /// Two holders of one identity were seen.
    Quarantined,
    /// Refused for ever.
    Revoked,
}

/// What a directive wants of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// An answer to a challenge.
    Challenge {
        /// 32 random bytes.
        value: Nonce,
        /// Why.
        purpose: Purpose,
    },
    /// A new identity key.
    Rotate,
    /// The end of these connections.
    Disconnect {
        /// At most [`vpn_node_protocol::limits::MAX_DISCONNECTS`].
        connection_ids: Vec<Uuid>,
        /// What their ends will say.
        reason: DisconnectReason,
    },
    /// A release to be installed.
    Update {
        /// The row of `server_update_deployments`.
        deployment_id: i64,
        /// The version.
        version: String,
        /// The TUF target path.
        target: String,
        /// Another repository than the controller's own.
        repository: Option<String>,
    },
    /// A release not to be installed after all.
    CancelUpdate {
        /// The row of `server_update_deployments`.
        deployment_id: i64,
    },
}

/// A directive that the host has not dealt with, or a challenge that may still be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenDirective {
    /// Its id.
    pub id: Uuid,
    /// What it wants.
    pub want: Want,
    /// When it was made.
    pub issued_ms: i64,
    /// For how long after that it may be dealt with, in seconds.
    pub deadline_s: u32,
    /// Whether it was handed out.
    pub delivered: bool,
    /// Whether the host has acknowledged it, and its answer is on the way.
    pub applied: bool,
}

impl OpenDirective {
    /// Whether an acknowledgement as applied is the last that is heard of it. After a challenge an
    /// answer comes, after a rotation the use of the new key; how an update goes is told by
    /// heartbeats.
    #[must_use]
    pub fn ends_when_applied(&self) -> bool {
        match self.want {
            Want::Challenge { .. } | Want::Rotate => false,
            Want::Disconnect { .. } | Want::Update { .. } | Want::CancelUpdate { .. } => true,
        }
    }

    /// Whether it is a challenge.
    #[must_use]
    pub fn is_challenge(&self) -> bool {
        matches!(self.want, Want::Challenge { .. })
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now_ms: i64) -> bool {
        now_ms
            > self
                .issued_ms
                .saturating_add(i64::from(self.deadline_s) * 1000)
    }
}

/// What the controller's operator has set.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Seconds between heartbeats.
    pub heartbeat_interval_s: u32,
    /// How long `verified` stands, in seconds.
    pub lease_s: u32,
    /// Seconds from one good verification to the next challenge.
    pub verification_interval_s: u32,
}

/// How a host stands, in the words of a reply.
#[must_use]
pub fn standing(
    status: ServerStatus,
    verdict: Verdict,
    reason: Option<String>,
    hardware_status: HardwareStatus,
    policy: Policy,
) -> Standing {
    let (verdict, reason) = match status {
        ServerStatus::Active => (verdict, reason),
        _ => (
            Verdict::Pending,
            Some("an operator has not approved this host yet".to_owned()),
        ),
    };
    let lease_s = match verdict {
        Verdict::Verified => policy.lease_s,
        _ => 0,
    };
    Standing {
        verdict,
        lease_s,
        hardware_status,
        reason,
    }
}

/// The stable word of a wire enum, as it stands in JSON and in the database.
///
/// # Panics
/// When the value is no unit variant of an enum.
#[must_use]
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => panic!("only enums without fields have a word"),
    }
}

/// The wire enum of a stable word; `None` for a word that this version does not know.
#[must_use]
pub fn from_word<T: DeserializeOwned>(word: &str) -> Option<T> {
    let word: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        word.into_deserializer();
    T::deserialize(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_verified_active_hosts_have_a_lease() {
        let policy = Policy {
            heartbeat_interval_s: 30,
            lease_s: 1800,
            verification_interval_s: 21_600,
        };
        for status in [ServerStatus::Pending, ServerStatus::Active] {
            for verdict in [
                Verdict::Unverified,
                Verdict::Verified,
                Verdict::Failed,
                Verdict::Mismatch,
            ] {
                let said = standing(status, verdict, None, HardwareStatus::Verified, policy);
                let authorised = status == ServerStatus::Active && verdict == Verdict::Verified;
                assert_eq!(said.lease_s > 0, authorised, "{said:?}");
            }
        }
    }

    #[test]
    fn words_read_back() {
        assert_eq!(word(&Purpose::OnDemand), "on_demand");
        assert_eq!(from_word("on_demand"), Some(Purpose::OnDemand));
        assert_eq!(from_word::<Purpose>("whatever"), None);
    }
}
