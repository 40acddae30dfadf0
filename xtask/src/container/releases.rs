//! A signed repository with some releases, and what a host's agent would have downloaded of it.

use std::path::Path;

use anyhow::{Context, Result};
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp as Instant};
use vpn_node_release::author::{public_key, sign};
use vpn_node_release::bundle::{About, Content, Effort, Entry, EntryPath, Manifest, Mode, pack};
use vpn_node_release::digest::Digest;
use vpn_node_release::handover::Request;
use vpn_node_release::metadata::{
    Extra, Hashes, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp, TopRole,
};
use vpn_node_release::release::{OUR_STATE, PRODUCT, ReleaseInfo};
use vpn_node_release::version::{Platform, Version, Word};

use super::agent::Behaviour;
use super::machine::put;

/// Where the machine has the programs that all slots share.
pub(super) const SHARED: &str = "/opt/vpn-node-test";

/// The publisher. One key has all roles: what signatures are worth is shown elsewhere.
pub(super) struct Publisher {
    key: SigningKey,
    now: Instant,
    expires: Instant,
    counter: u64,
    targets: Targets,
}

impl Publisher {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let expires = now + SignedDuration::from_hours(24 * 300);
        Self {
            key: SigningKey::from_bytes(&[7; 32]),
            now,
            expires,
            counter: 0,
            targets: Targets::new(1, now, expires),
        }
    }

    /// The root metadata that the machine trusts.
    pub(super) fn root(&self) -> Result<Vec<u8>> {
        let mut root = Root::new(1, self.now, self.expires);
        for role in [
            TopRole::Root,
            TopRole::Targets,
            TopRole::Snapshot,
            TopRole::Timestamp,
        ] {
            root.set_role(role, &[public_key(&self.key)], 1);
        }
        Ok(sign(&root, &[&self.key])?.to_bytes())
    }

    /// Signs the next release and puts it, and the request for it, where an agent would.
    pub(super) fn deliver(
        &mut self,
        version: &Version,
        does: Behaviour,
        incoming: &Path,
    ) -> Result<()> {
        self.counter += 1;
        let number = self.counter;
        let (package, _) = packed(version, does)?;
        let info = self.info(version)?;
        let path = info.target_path();
        let file = TargetFile {
            length: package.len() as u64,
            hashes: Hashes::sha256_of(&package),
            custom: Some(info.to_custom()?),
            extra: Extra::new(),
        };
        self.targets.targets.insert(path.clone(), file);
        self.targets.header.version = number;
        let expires = self.expires;
        let targets = sign(&self.targets, &[&self.key])?.to_bytes();
        let snapshot = Snapshot::new(number, self.now, expires, MetaFile::of(number, &targets));
        let snapshot = sign(&snapshot, &[&self.key])?.to_bytes();
        let timestamp = Timestamp::new(number, self.now, expires, MetaFile::of(number, &snapshot));
        let timestamp = sign(&timestamp, &[&self.key])?.to_bytes();
        let (folder, name) = path.rsplit_once('/').context("a target lies in a folder")?;
        let digest = Digest::of(&package);
        let request = Request {
            format: 1,
            id: format!("00000000-0000-4000-8000-{number:012}"),
            deployment: Some(number),
            version: version.to_string(),
            target: path.clone(),
        };
        for (path, bytes) in [
            ("metadata/1.root.json".to_owned(), self.root()?),
            (format!("metadata/{number}.targets.json"), targets),
            (format!("metadata/{number}.snapshot.json"), snapshot),
            ("metadata/timestamp.json".to_owned(), timestamp),
            (format!("targets/{folder}/{digest}.{name}"), package),
            ("request.json".to_owned(), serde_json::to_vec(&request)?),
        ] {
            put(&incoming.join(path), &bytes, 0o644)?;
        }
        Ok(())
    }

    fn info(&self, version: &Version) -> Result<ReleaseInfo> {
        let platform = Platform::here();
        Ok(ReleaseInfo {
            product: PRODUCT.to_owned(),
            version: version.clone(),
            channel: Word::parse("stable")?,
            os: platform.os,
            arch: platform.arch,
            counter: self.counter,
            security_floor: Version::new(1, 0, 0),
            min_version_required: None,
            mandatory: false,
            description: "a release for a machine in namespaces".into(),
            released: Instant::from_second(self.now.as_second())?,
            state_format: OUR_STATE,
        })
    }
}

/// A package, and its manifest. Its programs are scripts that become the shared ones.
fn packed(version: &Version, does: Behaviour) -> Result<(Vec<u8>, Manifest)> {
    let about = About {
        version: version.clone(),
        platform: Platform::here(),
        state_format: OUR_STATE,
        mtime: 0,
        effort: Effort::Quick,
    };
    let mut entries = Vec::new();
    for (path, text) in programs(version, does) {
        entries.push(Entry {
            path: EntryPath::parse(path.as_bytes())?,
            mode: Mode::Executable,
            content: Content::Bytes(text.into_bytes()),
        });
    }
    let mut package = Vec::new();
    let manifest = pack(&mut package, &about, entries)?;
    Ok((package, manifest))
}

/// The version of the package manager: programs and manifest, in place.
pub(super) fn install_system(disk: &Path, version: &Version) -> Result<()> {
    let system = disk.join("opt/vpn-node/system");
    let (_, manifest) = packed(version, Behaviour::Good)?;
    for (path, text) in programs(version, Behaviour::Good) {
        put(&system.join(path), text.as_bytes(), 0o755)?;
    }
    put(
        &system.join("manifest.json"),
        &serde_json::to_vec(&manifest)?,
        0o644,
    )
}

fn programs(version: &Version, does: Behaviour) -> [(&'static str, String); 4] {
    let word = does.word();
    [
        (
            "bin/vpn-node-agent",
            format!("#!/bin/sh\nexec {SHARED}/xtask container agent {word} {version} -- \"$@\"\n"),
        ),
        ("bin/vpn-node", "#!/bin/sh\nexit 1\n".into()),
        (
            "bin/vpn-node-updater",
            format!("#!/bin/sh\nexec {SHARED}/vpn-node-updater \"$@\"\n"),
        ),
        (
            "bin/vpn-node-wireguard",
            format!("#!/bin/sh\nexec {SHARED}/vpn-node-wireguard \"$@\"\n"),
        ),
    ]
}
