//! Between what is signed and what is unpacked: lengths, hashes, names, files that are swapped.

use std::fs::{self, File, OpenOptions};
use std::io::{Cursor, Read};

use super::super::*;
use super::round_trip::{entries, packed, signed};
use crate::code::PackageCode;
use crate::digest::Digest;
use crate::release::tests::info;

fn own_file(folder: &tempfile::TempDir) -> File {
    let path = folder.path().join("own");
    let _ = fs::remove_file(&path);
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap()
}

#[test]
fn a_package_of_another_length_is_refused() {
    let package = packed(entries());
    let signed = signed(&package, &info());
    let longer = [&package[..], b"x"].concat();
    for other in [&package[..package.len() - 1], &longer, b""] {
        let error = signed.verify(Cursor::new(other)).unwrap_err();
        assert_eq!(error.code, PackageCode::PackageLengthMismatch, "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = signed.copy(&mut &other[..], own_file(&folder)).unwrap_err();
        assert_eq!(error.code, PackageCode::PackageLengthMismatch, "{error}");
    }
}

#[test]
fn an_endless_package_is_refused_and_not_kept() {
    let package = packed(entries());
    let signed = signed(&package, &info());
    let folder = tempfile::tempdir().unwrap();
    let error = signed
        .copy(&mut std::io::repeat(7), own_file(&folder))
        .unwrap_err();
    assert_eq!(error.code, PackageCode::PackageLengthMismatch);
    assert!(fs::metadata(folder.path().join("own")).unwrap().len() <= package.len() as u64);
}

#[test]
fn a_package_with_any_other_byte_is_refused() {
    let package = packed(entries());
    let signed = signed(&package, &info());
    for at in 0..package.len() {
        let mut changed = package.clone();
        changed[at] ^= 1;
        let error = signed.verify(Cursor::new(changed)).unwrap_err();
        assert_eq!(error.code, PackageCode::PackageHashMismatch);
    }
}

#[test]
fn a_verified_package_is_read_from_its_beginning() {
    let package = packed(entries());
    let folder = tempfile::tempdir().unwrap();
    let copy = signed(&package, &info())
        .copy(&mut &package[..], own_file(&folder))
        .unwrap();
    assert_eq!(copy.sha256(), Digest::of(&package));
    let (mut file, _) = copy.into_parts();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == package);
}

#[test]
fn a_path_that_only_resembles_that_of_the_release_is_refused() {
    let info = info();
    let custom = info.to_custom().unwrap();
    let sha256 = Digest::of(b"");
    let paths = [
        "vpn-node/1.5.0/linux-amd64.tar",
        "vpn-node/1.5.0/linux-amd64.tar.zst.zst",
        "vpn-node/1.5.0/linux-amd64.tar.zst.sig",
        "vpn-node/1.5.0/linux-amd64.tar.zst/",
        "vpn-node/1.5.0//linux-amd64.tar.zst",
        "vpn-node/1.5.0/../1.5.0/linux-amd64.tar.zst",
        "/vpn-node/1.5.0/linux-amd64.tar.zst",
        "vpn-node/1.5.0/linux-arm64.tar.zst",
        "vpn-node/1.5/linux-amd64.tar.zst",
        "vpn-node/1.4.0/linux-amd64.tar.zst",
        "Vpn-node/1.5.0/linux-amd64.tar.zst",
        "vpn-node/1.5.0/linux-amd64.tar.zst\0",
        "",
    ];
    for path in paths {
        let error = Signed::new(path, 1, sha256, Some(&custom)).unwrap_err();
        assert_eq!(error.code, PackageCode::TargetPathMismatch, "{path}");
    }
    assert!(Signed::new(&info.target_path(), 1, sha256, Some(&custom)).is_ok());
    let error = Signed::new(&info.target_path(), 1, sha256, None).unwrap_err();
    assert_eq!(error.code, PackageCode::ReleaseInfoMalformed);
    let error = Signed::new(&info.target_path(), (1 << 30) + 1, sha256, Some(&custom)).unwrap_err();
    assert_eq!(error.code, PackageCode::PackageTooLarge);
}

#[test]
fn a_package_that_is_swapped_while_it_is_copied_is_what_was_judged() {
    // CVE-2020-25860. Somebody puts another content in its place, after each number of bytes.
    let good = packed(entries());
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    bad[10] ^= 1;
    let folder = tempfile::tempdir().unwrap();
    let signed = signed(&good, &info());
    for swapped_at in (0..=good.len()).step_by(16).chain([good.len()]) {
        for (first, second) in [(&good, &bad), (&bad, &good)] {
            let mut from = first[..swapped_at].chain(&second[swapped_at..]);
            let copied = signed.copy(&mut from, own_file(&folder));
            let what_came = [&first[..swapped_at], &second[swapped_at..]].concat();
            assert_eq!(copied.is_ok(), what_came == good, "{swapped_at}");
        }
    }
    // And when it is copied it is ours.
    let shared = folder.path().join("package");
    fs::write(&shared, &good).unwrap();
    let mut from = File::open(&shared).unwrap();
    let copy = signed.copy(&mut from, own_file(&folder)).unwrap();
    fs::write(&shared, &bad).unwrap();
    let (mut own, _) = copy.into_parts();
    let mut bytes = Vec::new();
    own.read_to_end(&mut bytes).unwrap();
    assert!(bytes == good);
}
