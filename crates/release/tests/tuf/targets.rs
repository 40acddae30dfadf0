//! From a downloaded file to one that may be used (5.7): the whole of it, and only it.

use std::io::Read;

use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::{Hashes, TargetFile};

use crate::world::{PACKAGE, RELEASE, World};

#[test]
fn a_target_in_a_sub_directory_is_asked_for_with_its_hash_before_its_name() {
    let mut world = World::new();
    let info = world.host().target(&mut world, RELEASE).unwrap();
    let hash = Hashes::sha256_of(PACKAGE).sha256().unwrap();
    let address = format!("vpn-node/1.5.0/{hash}.linux-amd64.tar.zst");
    assert_eq!(info.url_path(), address);
    let mut taken = Vec::new();
    info.download(&mut world, &mut taken).unwrap();
    assert_eq!(taken, PACKAGE);
    assert_eq!(world.requests.last(), Some(&address));
    assert_eq!(info.custom.unwrap()["vpn_node"]["counter"], 1);
}

#[test]
fn without_consistent_snapshots_plain_names_are_asked_for() {
    let mut world = World::new();
    world.root.consistent_snapshot = false;
    world.put_root();
    for role in ["snapshot", "targets"] {
        let bytes = world.files.remove(&format!("1.{role}.json")).unwrap();
        world.files.insert(format!("{role}.json"), bytes);
    }
    let info = world.host().target(&mut world, RELEASE).unwrap();
    assert_eq!(info.url_path(), RELEASE);
}

#[test]
fn other_bytes_a_byte_more_and_a_byte_less_are_refused() {
    let mut world = World::new();
    let info = world.host().target(&mut world, RELEASE).unwrap();
    let mut other = PACKAGE.to_owned();
    other[0] ^= 1;
    let longer = [PACKAGE, b"x"].concat();
    for (bytes, code) in [
        (&other[..], MetadataCode::TargetHash),
        (&longer, MetadataCode::TargetLength),
        (&PACKAGE[1..], MetadataCode::TargetLength),
        (b"", MetadataCode::TargetLength),
    ] {
        assert_eq!(info.check(bytes).unwrap_err().code, code);
    }
    info.check(PACKAGE).unwrap();
}

#[test]
fn a_failing_reader_is_an_outage_and_never_taken_for_a_good_file() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("the cable is out"));
            }
            self.0 -= 1;
            buffer[0] = b'a';
            Ok(1)
        }
    }
    let mut world = World::new();
    let info = world.host().target(&mut world, RELEASE).unwrap();
    for after in [0, 1, PACKAGE.len()] {
        let rejection = info.check(Broken(after)).unwrap_err();
        assert_eq!(rejection.code, MetadataCode::FetchFailed);
        assert!(rejection.is_outage());
    }
}

/// `length` zeros, then `last`.
struct Zeros {
    length: u64,
    last: u8,
}

impl Read for Zeros {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.length == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let count = self.length.min(buffer.len() as u64);
        self.length -= count;
        let count = usize::try_from(count).unwrap();
        buffer[..count].fill(0);
        if self.length == 0 {
            buffer[count - 1] = self.last;
        }
        Ok(count)
    }
}

#[test]
fn the_hash_covers_every_byte_of_more_than_two_gibibytes() {
    const LENGTH: u64 = (2 << 30) + 3;
    let mut world = World::new();
    let file = TargetFile {
        length: LENGTH,
        // SHA-256 of LENGTH zeros.
        hashes: Hashes::from_sha256(
            "f10c7766b8ce1111d7772aedad698ab58c843b356a9a6b4ac7ce52dbdc6973e6",
        ),
        custom: None,
        extra: Default::default(),
    };
    world.targets.targets.insert("big".to_owned(), file);
    world.publish();
    let info = world.host().target(&mut world, "big").unwrap();
    let check = |last| {
        info.check(Zeros {
            length: LENGTH,
            last,
        })
    };
    check(0).unwrap();
    // Only the last byte differs: far behind every 31-bit count.
    assert_eq!(check(1).unwrap_err().code, MetadataCode::TargetHash);
}

#[test]
fn target_paths_that_lead_elsewhere_are_refused_before_anything_is_asked() {
    let mut world = World::new();
    let bad = ["../x", "/etc/passwd", "a/../b", "", "a//b", "a\\b", "a\n"];
    let mut signed = world.targets.targets[RELEASE].clone();
    signed.length = 1;
    for path in bad {
        world
            .targets
            .targets
            .insert(path.to_owned(), signed.clone());
    }
    world.publish();
    let host = world.host();
    let mut repository = host.open(crate::world::now()).unwrap();
    repository.refresh(&mut world).unwrap();
    world.requests.clear();
    for path in bad {
        let rejection = repository.target(&mut world, path).unwrap_err();
        assert_eq!(rejection.code, MetadataCode::BadName, "{path:?}");
        assert!(!rejection.sentence.contains('\n'));
    }
    assert!(world.requests.is_empty());
}

#[test]
fn a_target_that_nobody_signed_is_unknown_however_like_it_is_called() {
    let mut world = World::new();
    let hash = Hashes::sha256_of(PACKAGE).sha256().unwrap();
    let hashed = format!("vpn-node/1.5.0/{hash}.linux-amd64.tar.zst");
    let host = world.host();
    for path in [
        "vpn-node/1.5.0/linux-amd64.tar",
        "vpn-node/1.5.0/linux-amd64.tar.zst.sig",
        "VPN-NODE/1.5.0/linux-amd64.tar.zst",
        "linux-amd64.tar.zst",
        &hashed,
    ] {
        let rejection = host.target(&mut world, path).unwrap_err();
        assert_eq!(rejection.code, MetadataCode::TargetUnknown, "{path}");
    }
}

#[test]
fn a_target_without_a_hash_that_we_know_is_refused() {
    for hashes in [
        "{}",
        r#"{"md5":"00"}"#,
        r#"{"sha256":"../../x"}"#,
        r#"{"sha256":"00"}"#,
    ] {
        let mut world = World::new();
        let file = world.targets.targets.get_mut(RELEASE).unwrap();
        file.hashes = serde_json::from_str(hashes).unwrap();
        world.publish();
        let rejection = world.host().target(&mut world, RELEASE).unwrap_err();
        assert_eq!(rejection.code, MetadataCode::TargetHash);
    }
}
