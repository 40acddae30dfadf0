//! Repositories that python-tuf and tough made: the same metadata means the same to us.

use std::path::{Path, PathBuf};

use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::TopRole;
use vpn_node_release::trust::{DirFetch, MemoryStore, Repository, install_root};

use crate::world::now;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn client(name: &str) -> (Repository<MemoryStore>, DirFetch) {
    let base = fixture(name);
    let root = std::fs::read(base.join("metadata/1.root.json")).unwrap();
    let mut store = MemoryStore::default();
    install_root(&mut store, &root, false).unwrap();
    let repository = Repository::open(store, now()).unwrap();
    (repository, DirFetch::below(&base))
}

#[test]
fn a_repository_of_python_tuf_is_read_and_its_targets_are_found() {
    let (mut repository, mut fetch) = client("python-tuf/ed25519");
    let summary = repository.refresh(&mut fetch).unwrap();
    let versions: Vec<u64> = summary.versions.into_values().collect();
    assert_eq!(versions, [2, 9, 5, 3], "root, timestamp, snapshot, targets");
    for (path, role, content) in [
        ("top.txt", "targets", &b"from targets\n"[..]),
        ("project/1.0/linux.zst", "project", b"from project\n"),
        ("bins/one.bin", "bins", b"from bins\n"),
    ] {
        let info = repository.target(&mut fetch, path).unwrap();
        assert_eq!(info.role, role);
        assert_eq!(info.custom.as_ref().unwrap()["number"], -7);
        let mut taken = Vec::new();
        info.download(&mut fetch, &mut taken).unwrap();
        assert_eq!(taken, content);
    }
    let rejection = repository.target(&mut fetch, "project/1.0/x").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TargetUnknown);
}

#[test]
fn a_repository_of_tough_is_read_and_its_targets_are_found() {
    let (mut repository, mut fetch) = client("tough");
    let summary = repository.refresh(&mut fetch).unwrap();
    assert_eq!(summary.versions[&TopRole::Timestamp], 6);
    let info = repository
        .target(&mut fetch, "vpn-node/1.0.0/package.tar.zst")
        .unwrap();
    info.check(&b"from tough\n"[..]).unwrap();
    // Its delegated role has a slash in its name and signs nothing.
    let rejection = repository.target(&mut fetch, "team/x").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TargetUnknown);
}

#[test]
fn ecdsa_and_rsa_are_verified_for_interoperability_only() {
    for kind in ["ecdsa", "rsa"] {
        let root = std::fs::read(fixture(&format!("python-tuf/{kind}/1.root.json"))).unwrap();
        let installed = install_root(&mut MemoryStore::default(), &root, false);
        if cfg!(feature = "interop") {
            assert_eq!(installed.unwrap(), 1);
            // And not if one digit of the signature is another.
            let at = root.windows(5).position(|w| w == b"sig\":").unwrap() + 20;
            let mut other = root.clone();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let rejection = install_root(&mut MemoryStore::default(), &other, false).unwrap_err();
            assert_eq!(rejection.code, MetadataCode::Unsigned);
        } else {
            assert_eq!(installed.unwrap_err().code, MetadataCode::Unsigned);
        }
    }
}
