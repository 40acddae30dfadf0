//! A signed repository in memory, with one release in it.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp as Instant};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use vpn_node_protocol::encoding::Hex;
use vpn_node_release::author::{public_key, sign};
use vpn_node_release::metadata::{
    MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp, TopRole,
};
use vpn_node_release::release::{ReleaseInfo, StateFormat};
use vpn_node_release::version::{Platform, Version, Word};

use super::server::{Reply, Request};
use crate::core::update::Order;
use crate::host::clock;

/// What a server has.
#[derive(Clone)]
pub(super) struct Tree {
    pub(super) root: Vec<u8>,
    pub(super) package: Vec<u8>,
    /// Where the package lies.
    pub(super) place: String,
    /// By path.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

pub(super) fn now() -> Instant {
    Instant::from_millisecond(clock::now().wall_ms).unwrap()
}

pub(super) fn order() -> Order {
    let platform = Platform::here();
    Order {
        deployment: Some(5),
        version: "1.5.0".to_owned(),
        target: format!("vpn-node/1.5.0/{platform}.tar.zst"),
        repository: None,
    }
}

pub(super) fn info() -> ReleaseInfo {
    let Platform { os, arch } = Platform::here();
    ReleaseInfo {
        product: "vpn-node".to_owned(),
        version: Version::new(1, 5, 0),
        channel: Word::parse("stable").unwrap(),
        os,
        arch,
        counter: 8,
        security_floor: Version::new(1, 0, 0),
        min_version_required: None,
        mandatory: false,
        description: "a test".to_owned(),
        released: Instant::from_second(1_700_000_000).unwrap(),
        state_format: StateFormat::only(1),
    }
}

/// A tree that is good for an hour, signed with keys of `seed`, its roles of this version.
pub(super) fn tree(seed: u8, version: u64) -> Tree {
    make(seed, version, &info(), 60)
}

/// The same with another release, or an end in so many minutes.
pub(super) fn make(seed: u8, version: u64, info: &ReleaseInfo, minutes: i64) -> Tree {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let issued = now() - SignedDuration::from_hours(1);
    let expires = now() + SignedDuration::from_mins(minutes);
    let never = now() + SignedDuration::from_hours(1000);
    let mut root = Root::new(1, issued, never);
    for role in TopRole::ALL {
        root.set_role(role, &[public_key(&key)], 1);
    }
    let root = sign(&root, &[&key]).unwrap().to_bytes();

    // Nothing that a compressor, or a server of zeros, would guess.
    let package: Vec<u8> = (0..300_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let sha256 = Hex::<32>(Sha256::digest(&package).into()).to_string();
    let mut targets = Targets::new(version, issued, never);
    let file = json!({
        "length": package.len(),
        "hashes": { "sha256": sha256 },
        "custom": info.to_custom().unwrap(),
    });
    let file: TargetFile = serde_json::from_value(file).unwrap();
    targets.targets.insert(order().target, file);
    let targets = sign(&targets, &[&key]).unwrap().to_bytes();
    let snapshot = Snapshot::new(version, issued, expires, MetaFile::of(version, &targets));
    let snapshot = sign(&snapshot, &[&key]).unwrap().to_bytes();
    let timestamp = Timestamp::new(version, issued, expires, MetaFile::of(version, &snapshot));
    let timestamp = sign(&timestamp, &[&key]).unwrap().to_bytes();

    let platform = Platform::here();
    let place = format!("/targets/vpn-node/1.5.0/{sha256}.{platform}.tar.zst");
    let files = BTreeMap::from([
        ("/metadata/1.root.json".to_owned(), root.clone()),
        ("/metadata/timestamp.json".to_owned(), timestamp),
        (format!("/metadata/{version}.snapshot.json"), snapshot),
        (format!("/metadata/{version}.targets.json"), targets),
        (place.clone(), package.clone()),
    ]);
    Tree {
        root,
        package,
        place,
        files,
    }
}

impl Tree {
    /// What a good server answers, ranges included.
    pub(super) fn answer(&self, request: &Request) -> Reply {
        let Some(body) = self.files.get(&request.path) else {
            return Reply::status(404);
        };
        let etag = ("etag", format!("\"{}\"", body.len()));
        let fits = request
            .headers
            .get("if-range")
            .is_none_or(|tag| *tag == etag.1);
        let range = request.headers.get("range").filter(|_| fits);
        let from = range.and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        match from {
            Some(from) if from < body.len() => {
                let part = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                Reply::Whole(
                    206,
                    vec![etag, ("content-range", part)],
                    body[from..].to_vec(),
                )
            }
            Some(_) => Reply::status(416),
            None => Reply::Whole(200, vec![etag], body.clone()),
        }
    }
}
