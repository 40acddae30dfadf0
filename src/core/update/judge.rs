//! Whether this host takes a release up at all. The updater judges again, from what is signed; this
//! spares the download of what it would refuse.

use vpn_node_protocol::update::DeploymentStatus;
use vpn_node_release::code::{DownloadCode, PolicyCode};
use vpn_node_release::handover::{Status, block_holds};
use vpn_node_release::release::target_path;
use vpn_node_release::version::{Platform, Version};

use super::Order;
use crate::core::shown;

/// Longest address: that of URLs in the configuration.
const MAX_REPOSITORY_BYTES: usize = 2048;

/// Why a release is not taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A stable word (`docs/releases.md`).
    pub code: &'static str,
    /// A sentence.
    pub detail: String,
    /// What the deployment ends as.
    pub status: DeploymentStatus,
}

impl Refusal {
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            status: DeploymentStatus::Refused,
        }
    }
}

/// Judges by what is known before anything is fetched: `enabled` is the agent's configuration,
/// `software` what the updater says, if there is one.
pub(super) fn judge(
    order: &Order,
    enabled: bool,
    platform: &Platform,
    software: Option<&Status>,
    wall_ms: i64,
) -> Result<(), Refusal> {
    let version = shown(&order.version);
    let target = Version::parse(&order.version).map(|version| target_path(&version, platform));
    if target.as_deref() != Ok(order.target.as_str()) {
        let detail = format!(
            "the package of version {version} for {platform} lies elsewhere than at {}",
            shown(&order.target)
        );
        return Err(Refusal::new(DownloadCode::WrongTarget.as_str(), detail));
    }
    if let Some(address) = &order.repository
        && !is_https(address)
    {
        let detail = format!("the repository {} is no https address", shown(address));
        return Err(Refusal::new(DownloadCode::BadRepository.as_str(), detail));
    }
    if !enabled {
        let detail = "[update] enabled is false in this host's agent.toml";
        return Err(Refusal::new(PolicyCode::UpdatesDisabled.as_str(), detail));
    }
    let Some(software) = software else {
        let detail = "this host has no vpn-node-updater, so nothing can be installed";
        return Err(Refusal::new(DownloadCode::NotManaged.as_str(), detail));
    };
    if software.root_version.is_none() {
        let detail =
            "the updater trusts no release keys yet: run 'vpn-node update trust FILE' as root";
        return Err(Refusal::new(DownloadCode::NotManaged.as_str(), detail));
    }
    if software.disabled {
        let detail =
            "root of this host has switched updates off ('vpn-node update enable' undoes it)";
        return Err(Refusal::new(PolicyCode::UpdatesDisabled.as_str(), detail));
    }
    if let Some(pinned) = &software.pinned
        && *pinned != order.version
    {
        let detail = format!("root of this host keeps it at {}", shown(pinned));
        return Err(Refusal::new(PolicyCode::Pinned.as_str(), detail));
    }
    let blocked = |b: &&vpn_node_release::handover::Blocked| {
        b.version == order.version && block_holds(b.until_ms, wall_ms)
    };
    if let Some(block) = software.blocked.iter().find(blocked) {
        let detail = format!(
            "version {version} ended badly here {} time(s), last with {}",
            block.count,
            shown(&block.code)
        );
        return Err(Refusal {
            status: DeploymentStatus::Blocked,
            ..Refusal::new(PolicyCode::Blocked.as_str(), detail)
        });
    }
    if software.stable_version == order.version {
        let detail = format!("version {version} is what this host runs");
        return Err(Refusal::new(PolicyCode::AlreadyInstalled.as_str(), detail));
    }
    Ok(())
}

fn is_https(address: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'@' | b'?' | b'#');
    let host = address.strip_prefix("https://");
    host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'))
        && address.len() <= MAX_REPOSITORY_BYTES
        && address.bytes().all(plain)
}
