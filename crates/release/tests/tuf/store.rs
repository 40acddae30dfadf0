//! What the host remembers: damaged, gone, exchanged, out of reach.

use std::io::Read as _;
use std::os::unix::fs::symlink;

use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::{Rejection, TopRole};
use vpn_node_release::trust::{
    DirFetch, Fetch, FetchError, FileStore, ReleaseMark, Repository, install_root,
};

use crate::world::{Host, PACKAGE, RELEASE, World, days, key, now};

const COPIES: [&str; 2] = ["highwater.a", "highwater.b"];

fn refreshed() -> (World, Host) {
    let mut world = World::new();
    world.publish();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    (world, host)
}

fn refused_to_open(host: &Host) -> Rejection {
    let before = host.files();
    let rejection = host.open(now()).expect_err("it must fail closed");
    assert_eq!(
        rejection.code,
        MetadataCode::TrustStoreUnreadable,
        "{rejection}"
    );
    assert!(rejection.sentence.contains("--replace"), "{rejection}");
    assert_eq!(host.files(), before);
    rejection
}

#[test]
fn one_damaged_copy_of_the_high_water_mark_heals_and_is_reported() {
    for copy in COPIES {
        for damage in [None, Some(0), Some(40), Some(200)] {
            let (mut world, host) = refreshed();
            let before = host.high_water();
            match damage {
                None => std::fs::remove_file(host.path(copy)).unwrap(),
                Some(length) => {
                    let whole = &host.files()[copy];
                    std::fs::write(host.path(copy), &whole[..length]).unwrap();
                }
            }
            let summary = host.refresh(&mut world).unwrap();
            assert!(summary.warnings[0].contains(copy), "{:?}", summary.warnings);
            let files = host.files();
            assert_eq!(files[COPIES[0]], files[COPIES[1]]);
            assert_eq!(host.high_water().timestamp, before.timestamp);
            let summary = host.refresh(&mut world).unwrap();
            assert!(summary.warnings.is_empty());
        }
    }
}

#[test]
fn of_two_whole_copies_the_later_counts() {
    for stale in COPIES {
        let (mut world, host) = refreshed();
        let old = host.files()[stale].clone();
        world.publish();
        host.refresh(&mut world).unwrap();
        // The power went between the two writings.
        std::fs::write(host.path(stale), old).unwrap();
        world.timestamp.header.version -= 1;
        world.put_timestamp();
        let rejection = host.refresh(&mut world).unwrap_err();
        assert_eq!(rejection.code, MetadataCode::Rollback);
        let files = host.files();
        assert_eq!(
            files[COPIES[0]], files[COPIES[1]],
            "both are the same again"
        );
    }
}

#[test]
fn a_lost_high_water_mark_fails_closed_and_is_never_no_history() {
    for damage in [
        None,
        Some(&b""[..]),
        Some(b"vpn-node high water 1 00\n{}\n"),
    ] {
        let (_, host) = refreshed();
        for copy in COPIES {
            match damage {
                None => std::fs::remove_file(host.path(copy)).unwrap(),
                Some(bytes) => std::fs::write(host.path(copy), bytes).unwrap(),
            }
        }
        refused_to_open(&host);
    }
}

#[test]
fn a_damaged_older_or_foreign_trusted_root_fails_closed() {
    let (mut world, host) = refreshed();
    let old = world.root_keys.clone();
    let first = host.files()["root.json"].clone();
    world.publish_root(&old);
    host.refresh(&mut world).unwrap();
    let second = host.files()["root.json"].clone();
    world.resign("1.root.json", &[&key(1), &key(2)], |root| {
        root["version"] = 2.into();
        root["x"] = 1.into();
    });
    let other_second = world.files["1.root.json"].clone();
    for bytes in [&first[..], &second[..100], b"", &other_second] {
        std::fs::write(host.path("root.json"), bytes).unwrap();
        refused_to_open(&host);
    }
    std::fs::remove_file(host.path("root.json")).unwrap();
    refused_to_open(&host);
    std::fs::write(host.path("target"), &second).unwrap();
    symlink(host.path("target"), host.path("root.json")).unwrap();
    let rejection = host.open(now()).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TrustStoreUnreadable);
    std::fs::remove_file(host.path("root.json")).unwrap();
    std::fs::write(host.path("root.json"), &second).unwrap();
    host.refresh(&mut world).unwrap();
}

#[test]
fn a_host_that_was_told_no_root_trusts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host { dir };
    let rejection = host.refresh(&mut World::new()).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::NoTrust);
    assert!(host.files().is_empty());
}

#[test]
fn another_root_takes_replace_and_leaves_the_highest_release() {
    let (world, host) = refreshed();
    let release = ReleaseMark {
        counter: 7,
        sha256: "ab".repeat(32),
        security_floor: Some("1.4.0".parse().unwrap()),
    };
    let mut repository = host.open(now()).unwrap();
    repository
        .raise_release("vpn-node stable linux-amd64", &release)
        .unwrap();
    let before = host.files();

    let mut other = World::new();
    other.root_keys = vec![key(5), key(6), key(7)];
    other.set_role_keys();
    other.put_root();
    let root = &other.files["1.root.json"].clone();
    let mut store = FileStore::open(host.dir.path()).unwrap();
    install_root(&mut store, root, false).unwrap_err();
    install_root(&mut store, &world.files["1.snapshot.json"], true).unwrap_err();
    assert_eq!(host.files(), before);

    install_root(&mut store, root, true).unwrap();
    let high = host.high_water();
    assert_eq!(high.releases["vpn-node stable linux-amd64"], release);
    assert_eq!((high.timestamp, high.snapshot), (None, None));
    let summary = host.refresh(&mut other).unwrap();
    assert_eq!(summary.versions[&TopRole::Timestamp], 1);
    // Even a lost mark is no reason to need another way out.
    for copy in COPIES {
        std::fs::remove_file(host.path(copy)).unwrap();
    }
    install_root(&mut store, root, false).unwrap_err();
    install_root(&mut store, root, true).unwrap();
    host.refresh(&mut other).unwrap();
}

#[test]
fn a_changed_cached_file_is_fetched_again_and_not_believed() {
    for role in ["timestamp", "snapshot", "targets"] {
        let (mut world, host) = refreshed();
        let file = format!("{role}.json");
        let good = host.files()[&file].clone();
        let evil = String::from_utf8(good.clone())
            .unwrap()
            .replace("2026", "2027");
        std::fs::write(host.path(&file), evil).unwrap();
        host.refresh(&mut world).unwrap();
        assert_eq!(host.files()[&file], good);
    }
}

struct Unreachable;

impl Fetch for Unreachable {
    fn metadata(&mut self, _: &str, _: u64) -> Result<Option<Vec<u8>>, FetchError> {
        Err(FetchError::Failed("no route to host".to_owned()))
    }

    fn target(&mut self, _: &str) -> Result<Box<dyn std::io::Read + '_>, FetchError> {
        Err(FetchError::Failed("no route to host".to_owned()))
    }
}

#[test]
fn an_outage_is_told_from_a_refusal_and_changes_nothing_that_is_kept() {
    let (mut world, host) = refreshed();
    let before = host.files();
    let rejection = host
        .open(now())
        .unwrap()
        .refresh(&mut Unreachable)
        .unwrap_err();
    assert_eq!(rejection.code, MetadataCode::FetchFailed);
    assert!(rejection.is_outage() && rejection.sentence.contains("no route"));
    assert_eq!(host.files(), before);
    let mut repository = host.open(days(6)).unwrap();
    repository.refresh(&mut world).unwrap();
    let info = repository.target(&mut Unreachable, RELEASE).unwrap();
    info.check(PACKAGE).unwrap();
    let rejection = info
        .download(&mut Unreachable, &mut Vec::new())
        .unwrap_err();
    assert!(rejection.is_outage());
}

#[test]
fn nothing_is_looked_up_before_a_refresh() {
    let (mut world, host) = refreshed();
    let rejection = host
        .open(now())
        .unwrap()
        .target(&mut world, RELEASE)
        .unwrap_err();
    assert_eq!(rejection.code, MetadataCode::Missing);
}

#[test]
fn a_directory_is_a_repository_without_links_and_pipes() {
    let (mut world, host) = refreshed();
    let bundle = tempfile::tempdir().unwrap();
    let metadata = bundle.path().join("metadata");
    std::fs::create_dir(&metadata).unwrap();
    for (name, bytes) in &world.files {
        std::fs::write(metadata.join(name), bytes).unwrap();
    }
    for (path, bytes) in &world.packages {
        let path = bundle.path().join("targets").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let mut fetch = DirFetch::below(bundle.path());
    let fresh = world.host();
    let store = FileStore::open(fresh.dir.path()).unwrap();
    let mut repository = Repository::open(store, now()).unwrap();
    repository.refresh(&mut fetch).unwrap();
    let info = repository.target(&mut fetch, RELEASE).unwrap();
    let mut taken = Vec::new();
    info.download(&mut fetch, &mut taken).unwrap();
    assert_eq!(taken, PACKAGE);
    assert_eq!(fresh.files(), host.files());

    world.publish();
    for name in ["link", "pipe"] {
        let timestamp = metadata.join("timestamp.json");
        std::fs::remove_file(&timestamp).unwrap();
        if name == "link" {
            let elsewhere = bundle.path().join("elsewhere");
            std::fs::write(&elsewhere, &world.files["timestamp.json"]).unwrap();
            symlink(elsewhere, &timestamp).unwrap();
        } else {
            nix::unistd::mkfifo(&timestamp, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let before = host.files();
        let rejection = host.open(now()).unwrap().refresh(&mut fetch).unwrap_err();
        assert_eq!(rejection.code, MetadataCode::FetchFailed, "{rejection}");
        assert_eq!(host.files(), before);
    }
    for path in ["../metadata/root.json", "/etc/passwd", "a/./b", ""] {
        assert!(fetch.target(path).is_err(), "{path}");
    }
    let mut nothing = Vec::new();
    let mut file = fetch.target(&info.url_path()).unwrap();
    file.read_to_end(&mut nothing).unwrap();
}
