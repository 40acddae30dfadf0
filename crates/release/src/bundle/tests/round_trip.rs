//! What is packed comes out again, and the same goes in the same way.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;

use super::super::*;
use crate::digest::Digest;
use crate::release::ReleaseInfo;
use crate::release::tests::info;

pub(super) fn path(text: &str) -> EntryPath {
    EntryPath::parse(text.as_bytes()).unwrap()
}

pub(super) fn entry(at: &str, mode: Mode, bytes: &[u8]) -> Entry {
    Entry {
        path: path(at),
        mode,
        content: Content::Bytes(bytes.to_vec()),
    }
}

/// What packs of the release of [`info`] are about.
pub(super) fn about() -> About {
    let info = info();
    About {
        platform: info.platform(),
        version: info.version,
        state_format: info.state_format,
        mtime: 0,
        effort: Effort::Quick,
    }
}

pub(super) fn entries() -> Vec<Entry> {
    vec![
        entry("share/doc/README.md", Mode::Plain, b"read me"),
        entry("bin/vpn-node-agent", Mode::Executable, &[7; 100_000]),
        entry("bin/vpn-node", Mode::Executable, b"#!/bin/sh\n"),
        entry("share/empty", Mode::Plain, b""),
    ]
}

pub(super) fn packed(entries: Vec<Entry>) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(&mut bytes, &about(), entries).unwrap();
    bytes
}

pub(super) fn signed(package: &[u8], info: &ReleaseInfo) -> Signed {
    let custom = info.to_custom().unwrap();
    let length = package.len() as u64;
    Signed::new(
        &info.target_path(),
        length,
        Digest::of(package),
        Some(&custom),
    )
    .unwrap()
}

pub(super) fn verified(package: &[u8]) -> Verified<Cursor<Vec<u8>>> {
    let signed = signed(package, &info());
    signed.verify(Cursor::new(package.to_vec())).unwrap()
}

#[test]
fn a_package_comes_out_as_it_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = DirSink::create(folder.path(), &path("1.5.0")).unwrap();
    let package = verified(&packed(entries()));
    let unpacked = unpack(package, &mut sink, &Limits::default()).unwrap();
    let slot = folder.path().join("1.5.0");
    let unmarked = check_tree(&slot).unwrap_err();
    assert_eq!(unmarked.code.as_str(), "tree_unmarked");
    sink.mark(&unpacked.tree).unwrap();

    let (manifest, digest) = check_tree(&slot).unwrap();
    assert_eq!((&manifest, digest), (&unpacked.manifest, unpacked.tree));
    assert_eq!(manifest.version, info().version);
    for Entry {
        path,
        mode,
        content,
    } in entries()
    {
        let file = slot.join(path.as_str());
        let Content::Bytes(bytes) = content else {
            unreachable!()
        };
        assert_eq!(fs::read(&file).unwrap(), bytes);
        let found = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode.bits());
    }
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let mut other_order = entries();
    other_order.reverse();
    let package = packed(entries());
    assert!(package == packed(other_order));
    // The digest of the unpacked version is a format on disk: it stays.
    let unpacked = inspect(&package[..], &Limits::default()).unwrap();
    let digest = "0caab92151a1feaa6dfa3f74a38667b7025b8b32c9226b53454780d2402b05a5";
    assert_eq!(unpacked.tree.to_string(), digest);
}

#[test]
fn the_digest_of_a_tree_is_that_of_the_text_in_the_documentation() {
    let manifest = super::forge::parts(entries()).0;
    let of = |bytes: &[u8]| Digest::of(bytes).to_string();
    let text = format!(
        "vpn-node tree 1\nd 0755 bin\nf 0755 {} bin/vpn-node\nf 0755 {} bin/vpn-node-agent\n\
         f 0644 {} manifest.json\nd 0755 share\nd 0755 share/doc\nf 0644 {} share/doc/README.md\n\
         f 0644 {} share/empty\n",
        of(b"#!/bin/sh\n"),
        of(&[7; 100_000]),
        of(&manifest),
        of(b"read me"),
        of(b"")
    );
    let unpacked = inspect(&packed(entries())[..], &Limits::default()).unwrap();
    assert_eq!(unpacked.tree.to_string(), of(text.as_bytes()));
}

#[test]
fn long_names_are_cut_in_one_way() {
    let deep = format!("share/{}/{}", "d".repeat(90), "f".repeat(99));
    let longest = format!("{}/{}", "x".repeat(99), "y".repeat(99));
    let names = [deep.as_str(), &longest, &"z".repeat(99)];
    let entries = names.map(|name| entry(name, Mode::Plain, b"1"));
    let unpacked = inspect(&packed(entries.to_vec())[..], &Limits::default()).unwrap();
    assert_eq!(unpacked.manifest.files.len(), 3);
    for name in names {
        assert!(unpacked.manifest.file(&path(name)).is_some(), "{name}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_packed_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Entry {
        content: Content::File(folder.path().join("missing")),
        ..entry("bin/a", Mode::Plain, b"")
    };
    let error = pack(&mut Vec::new(), &about(), vec![missing]).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let mut twice = entries();
    twice.extend(entries());
    let error = pack(&mut Vec::new(), &about(), twice).unwrap_err();
    assert!(error.to_string().contains("once and in order"), "{error}");
}

#[test]
fn every_change_of_an_unpacked_version_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let slot = folder.path().join("1.5.0");
    let unpack_again = || {
        let _ = fs::remove_dir_all(&slot);
        let mut sink = DirSink::create(folder.path(), &path("1.5.0")).unwrap();
        let unpacked = unpack(verified(&packed(entries())), &mut sink, &Limits::default()).unwrap();
        sink.mark(&unpacked.tree).unwrap();
        check_tree(&slot).unwrap();
    };
    let code = || check_tree(&slot).unwrap_err().code.as_str();
    let changes: [fn(&std::path::Path); 8] = [
        |slot| fs::write(slot.join("bin/vpn-node"), "#!/bin/sx\n").unwrap(),
        |slot| fs::write(slot.join("share/new"), "").unwrap(),
        |slot| fs::create_dir(slot.join("new")).unwrap(),
        |slot| fs::remove_file(slot.join("share/empty")).unwrap(),
        |slot| {
            fs::set_permissions(slot.join("share/empty"), fs::Permissions::from_mode(0o4755))
                .unwrap()
        },
        |slot| fs::set_permissions(slot.join("share"), fs::Permissions::from_mode(0o777)).unwrap(),
        |slot| {
            fs::remove_file(slot.join("share/empty")).unwrap();
            std::os::unix::fs::symlink("/dev/null", slot.join("share/empty")).unwrap();
        },
        |slot| fs::write(slot.join(TREE_MARK), "0".repeat(64) + "\n").unwrap(),
    ];
    for change in changes {
        unpack_again();
        change(&slot);
        assert_eq!(code(), "tree_mismatch");
    }
    unpack_again();
    fs::write(slot.join(TREE_MARK), "").unwrap();
    assert_eq!(code(), "tree_mismatch");
    fs::remove_file(slot.join(TREE_MARK)).unwrap();
    assert_eq!(code(), "tree_unmarked");
}
