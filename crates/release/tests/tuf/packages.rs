//! From a signed repository to an unpacked version, and nothing on any other way.

use std::fs::{self, OpenOptions};

use vpn_node_release::bundle::{
    About, Content, DirSink, Effort, Entry, EntryPath, Limits, Mode, Signed, check_tree, pack,
    unpack,
};
use vpn_node_release::code::PackageCode;
use vpn_node_release::metadata::Hashes;
use vpn_node_release::release::{OUR_STATE, PRODUCT, ReleaseInfo};
use vpn_node_release::version::{Platform, Version, Word};

use crate::world::{RELEASE, World};

fn info() -> ReleaseInfo {
    let Platform { os, arch } = Platform::parse("linux-amd64").unwrap();
    ReleaseInfo {
        product: PRODUCT.into(),
        version: Version::new(1, 5, 0),
        channel: Word::parse("stable").unwrap(),
        os,
        arch,
        counter: 7,
        security_floor: Version::new(1, 0, 0),
        min_version_required: None,
        mandatory: false,
        description: "Faster".into(),
        released: "2026-01-31T00:00:00Z".parse().unwrap(),
        state_format: OUR_STATE,
    }
}

fn package() -> Vec<u8> {
    let about = About {
        version: info().version,
        platform: info().platform(),
        state_format: OUR_STATE,
        mtime: 0,
        effort: Effort::Quick,
    };
    let entry = Entry {
        path: EntryPath::parse(b"bin/vpn-node-agent").unwrap(),
        mode: Mode::Executable,
        content: Content::Bytes(b"#!/bin/sh\n".to_vec()),
    };
    let mut bytes = Vec::new();
    pack(&mut bytes, &about, vec![entry]).unwrap();
    bytes
}

/// A repository with this release.
fn world(package: &[u8]) -> World {
    let mut world = World::new();
    world.add_target(RELEASE, package);
    let file = world.targets.targets.get_mut(RELEASE).unwrap();
    file.custom = Some(info().to_custom().unwrap());
    world.publish();
    world
}

#[test]
fn a_signed_release_is_downloaded_verified_unpacked_and_marked() {
    let bytes = package();
    let mut world = world(&bytes);
    let target = world.host().target(&mut world, RELEASE).unwrap();
    let mut downloaded = Vec::new();
    target.download(&mut world, &mut downloaded).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("package");
    let mut options = OpenOptions::new();
    let own = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(own)
        .unwrap();
    let signed = Signed::from_target(&target).unwrap();
    let verified = signed.copy(&mut &downloaded[..], own).unwrap();
    assert_eq!(*verified.info(), info());

    let name = EntryPath::parse(b"1.5.0").unwrap();
    let mut sink = DirSink::create(folder.path(), &name).unwrap();
    let unpacked = unpack(verified, &mut sink, &Limits::default()).unwrap();
    sink.mark(&unpacked.tree).unwrap();
    let slot = folder.path().join("1.5.0");
    check_tree(&slot).unwrap();
    let agent = fs::read(slot.join("bin/vpn-node-agent")).unwrap();
    assert_eq!(agent, b"#!/bin/sh\n");
}

#[test]
fn a_target_that_says_nothing_of_a_release_is_none() {
    let mut world = world(&package());
    let file = world.targets.targets.get_mut(RELEASE).unwrap();
    file.custom = None;
    world.publish();
    let target = world.host().target(&mut world, RELEASE).unwrap();
    let error = Signed::from_target(&target).unwrap_err();
    assert_eq!(error.code, PackageCode::ReleaseInfoMalformed);
}

#[test]
fn a_release_at_the_path_of_another_is_refused() {
    let mut world = world(&package());
    let elsewhere = "vpn-node/1.6.0/linux-amd64.tar.zst";
    let file = world.targets.targets[RELEASE].clone();
    world.targets.targets.insert(elsewhere.to_owned(), file);
    world.publish();
    let target = world.host().target(&mut world, elsewhere).unwrap();
    let error = Signed::from_target(&target).unwrap_err();
    assert_eq!(error.code, PackageCode::TargetPathMismatch);
}

#[test]
fn a_release_without_a_sha_256_is_refused() {
    let mut world = world(&package());
    let file = world.targets.targets.get_mut(RELEASE).unwrap();
    file.hashes =
        serde_json::from_value::<Hashes>(serde_json::json!({"sha512": "0".repeat(128)})).unwrap();
    world.publish();
    let target = world.host().target(&mut world, RELEASE).unwrap();
    let error = Signed::from_target(&target).unwrap_err();
    assert_eq!(error.code, PackageCode::ReleaseInfoMalformed);
    assert!(error.to_string().contains("no SHA-256"), "{error}");
}
