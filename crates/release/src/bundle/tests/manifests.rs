//! Manifests that do not say what is there, or not what is signed.

use std::io;

use serde_json::{Value, json};

use super::super::unpack::read_package;
use super::super::*;
use super::forge::{Tar, compressed, honest_tar, parts, refused};
use super::round_trip::{entries, entry, packed, verified};
use crate::code::PackageCode;
use crate::digest::Digest;
use crate::release::tests::info;
use crate::release::{ReleaseInfo, StateFormat};
use crate::version::{Version, Word};

/// The honest package with another manifest.
fn with_manifest(manifest: &[u8]) -> Vec<u8> {
    let (_, rest) = parts(entries());
    let mut tar = Tar::default().file(MANIFEST, manifest);
    tar.0.extend(rest);
    compressed(&tar.0)
}

/// The honest package with a manifest that is changed so.
fn with_change(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (manifest, _) = parts(entries());
    let mut value: Value = serde_json::from_slice(&manifest).unwrap();
    change(&mut value);
    with_manifest(&serde_json::to_vec(&value).unwrap())
}

fn begun() -> Tar {
    Tar::with_manifest_of(vec![entry("a", Mode::Plain, b"x")])
}

#[test]
fn a_file_that_the_manifest_does_not_name_is_refused() {
    // CVE-2025-67903: only what the manifest named was compared.
    assert_eq!(
        begun().file("a", b"x").program("b", b"x").refused(),
        PackageCode::NotInManifest
    );
    assert_eq!(
        begun().file("a", b"x").directory("d/").refused(),
        PackageCode::NotInManifest
    );
    assert_eq!(
        begun().file("tree.sha256", b"x").refused(),
        PackageCode::NotInManifest
    );
}

#[test]
fn a_file_that_only_the_manifest_names_is_refused() {
    assert_eq!(begun().refused(), PackageCode::MissingFromPackage);
    let missing = with_change(|value| {
        let file =
            json!({"path": "z", "mode": "0644", "size": 0, "sha256": Digest::of(b"").to_string()});
        value["files"].as_array_mut().unwrap().push(file);
    });
    assert_eq!(refused(&missing), PackageCode::MissingFromPackage);
}

#[test]
fn a_file_with_other_content_size_or_permissions_is_refused() {
    assert_eq!(begun().file("a", b"y").refused(), PackageCode::FileMismatch);
    assert_eq!(
        begun().file("a", b"xx").refused(),
        PackageCode::FileMismatch
    );
    assert_eq!(begun().file("a", b"").refused(), PackageCode::FileMismatch);
    assert_eq!(
        begun().program("a", b"x").refused(),
        PackageCode::FileMismatch
    );
}

#[test]
fn a_package_without_its_manifest_in_front_is_refused() {
    assert_eq!(Tar::default().refused(), PackageCode::ManifestMissing);
    assert_eq!(
        Tar::default().file("a", b"x").refused(),
        PackageCode::ManifestMissing
    );
    assert_eq!(
        Tar::default().program(MANIFEST, b"{}").refused(),
        PackageCode::ManifestMissing
    );
    assert_eq!(
        Tar::default().directory("manifest.json/").refused(),
        PackageCode::ManifestMissing
    );
    let (manifest, _) = parts(vec![entry("a", Mode::Plain, b"x")]);
    let last = Tar::default().file("a", b"x").file(MANIFEST, &manifest);
    assert_eq!(last.refused(), PackageCode::ManifestMissing);
}

#[test]
fn a_manifest_of_another_form_is_refused() {
    let (manifest, _) = parts(entries());
    let text = String::from_utf8(manifest).unwrap();
    let twice = text.replacen("\"format\": 1", "\"format\": 1, \"format\": 1", 1);
    let two = format!("{text}{text}");
    let cut = &text[..text.len() - 3];
    for bytes in [
        "",
        "{}",
        "[]",
        "null",
        &twice,
        &two,
        cut,
        &text.replace("1.5.0", "1.5"),
    ] {
        assert_eq!(
            refused(&with_manifest(bytes.as_bytes())),
            PackageCode::ManifestMalformed,
            "{bytes}"
        );
    }
    let deep = "[".repeat(100_000);
    assert_eq!(
        refused(&with_manifest(deep.as_bytes())),
        PackageCode::ManifestMalformed
    );
    let changes: [fn(&mut Value); 14] = [
        |value| value["format"] = json!(2),
        |value| value["extra"] = json!(1),
        |value| value["os"] = json!("Linux"),
        |value| value["state_format"]["writes"] = json!(2),
        |value| value["files"][0]["extra"] = json!(1),
        |value| value["files"][0]["mode"] = json!("4755"),
        |value| value["files"][0]["mode"] = json!(493),
        |value| value["files"][0]["size"] = json!(-1),
        |value| value["files"][0]["sha256"] = json!("00"),
        |value| value["files"][0]["path"] = json!("../agent"),
        |value| value["files"][0]["path"] = json!("tree.sha256"),
        |value| value["files"][0]["path"] = json!("manifest.json"),
        |value| value["files"].as_array_mut().unwrap().reverse(),
        |value| value["files"][1] = value["files"][0].clone(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert_eq!(
            refused(&with_change(change)),
            PackageCode::ManifestMalformed,
            "{number}"
        );
    }
    let large = with_change(|value| value["files"][0]["size"] = json!(u64::MAX));
    assert_eq!(refused(&large), PackageCode::FileTooLarge);
}

#[test]
fn a_signed_release_with_the_content_of_another_is_refused() {
    // The signature's own words are right, and the payload is that of another release.
    let package = packed(entries());
    let changes: [fn(&mut ReleaseInfo); 5] = [
        |info| info.version = Version::new(1, 6, 0),
        |info| info.os = Word::parse("freebsd").unwrap(),
        |info| info.arch = Word::parse("arm64").unwrap(),
        |info| info.product = "other".into(),
        |info| {
            info.state_format = StateFormat {
                reads_min: 1,
                reads_max: 2,
                writes: 1,
            }
        },
    ];
    for change in changes {
        let mut info = info();
        change(&mut info);
        let folder = tempfile::tempdir().unwrap();
        let mut sink = DirSink::create(folder.path(), &EntryPath::parse(b"new").unwrap()).unwrap();
        let error =
            read_package(&package[..], Some(&info), &mut sink, &Limits::default()).unwrap_err();
        assert_eq!(error.code, PackageCode::ManifestMismatch, "{error}");
        assert_eq!(
            std::fs::read_dir(folder.path().join("new"))
                .unwrap()
                .count(),
            0
        );
    }
}

#[test]
fn a_full_disk_and_a_broken_one_are_no_fault_of_the_package() {
    /// Fails at the so-maniest call.
    struct Failing(usize, io::ErrorKind);
    impl Failing {
        fn step(&mut self) -> io::Result<()> {
            self.0 = self.0.checked_sub(1).ok_or(self.1)?;
            Ok(())
        }
    }
    impl Sink for Failing {
        fn begin(&mut self, _: &Manifest) -> io::Result<()> {
            self.step()
        }
        fn directory(&mut self, _: &EntryPath) -> io::Result<()> {
            self.step()
        }
        fn file(&mut self, _: &EntryPath, _: Mode) -> io::Result<()> {
            self.step()
        }
        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            self.step()
        }
        fn file_end(&mut self) -> io::Result<()> {
            self.step()
        }
        fn finish(&mut self) -> io::Result<()> {
            self.step()
        }
    }
    let kinds = [
        (io::ErrorKind::StorageFull, PackageCode::NoSpace),
        (io::ErrorKind::QuotaExceeded, PackageCode::NoSpace),
        (io::ErrorKind::PermissionDenied, PackageCode::UnpackFailed),
    ];
    for (kind, code) in kinds {
        let mut steps = 0;
        while let Err(error) = unpack(
            verified(&packed(entries())),
            &mut Failing(steps, kind),
            &Limits::default(),
        ) {
            assert_eq!(error.code, code, "{error}");
            steps += 1;
        }
        assert!(steps > 15, "{steps}");
    }
}

#[test]
fn what_is_there_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let name = EntryPath::parse(b"new").unwrap();
    std::os::unix::fs::symlink("/", folder.path().join("new")).unwrap();
    let error = DirSink::create(folder.path(), &name).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    std::fs::remove_file(folder.path().join("new")).unwrap();
    let mut sink = DirSink::create(folder.path(), &name).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, folder.path().join("new/manifest.json")).unwrap();
    let error = unpack(verified(&packed(entries())), &mut sink, &Limits::default()).unwrap_err();
    assert_eq!(error.code, PackageCode::UnpackFailed);
    assert!(!elsewhere.exists());
    assert!(DirSink::create(folder.path(), &name).is_err());
    assert!(inspect(&compressed(&honest_tar())[..], &Limits::default()).is_ok());
}
