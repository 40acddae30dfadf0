//! Archives that other tools would unpack, each with one thing that ours must not.

use super::super::{Limits, Mode, inspect};
use super::forge::{Tar, attempt, compressed, honest_tar, refused, seal};
use super::round_trip::entry;
use crate::code::PackageCode;

/// An honest beginning: the manifest of one file `a`.
fn begun() -> Tar {
    Tar::with_manifest_of(vec![entry("a", Mode::Plain, b"x")])
}

#[test]
fn what_the_forge_makes_is_accepted_without_a_fault() {
    let package = compressed(&begun().file("a", b"x").end().0);
    attempt(&package, &Limits::default()).unwrap();
    attempt(&compressed(&honest_tar()), &Limits::default()).unwrap();
}

#[test]
fn a_pax_header_that_moves_the_next_one_is_refused() {
    // CVE-2025-62518: the extension says one size, the header another; readers go on at different
    // places, and what one takes for content is an entry for the other.
    let record = b"12 size=512\n";
    for kind in [b'x', b'g', b'X'] {
        let tar = begun()
            .header("pax", kind, 0o644, record.len() as u64)
            .content(record);
        assert_eq!(tar.file("a", b"x").refused(), PackageCode::EntryExtension);
    }
}

#[test]
fn gnu_long_names_and_other_extensions_are_refused() {
    for kind in [b'L', b'K', b'N', b'V', b'M', b'D'] {
        let tar = begun()
            .header("././@LongLink", kind, 0o644, 2)
            .content(b"a\0");
        assert_eq!(tar.file("a", b"x").refused(), PackageCode::EntryExtension);
    }
}

#[test]
fn links_are_refused_also_when_a_later_entry_changes_what_they_lead_to() {
    for kind in [b'1', b'2'] {
        let link = |target: &'static str| {
            begun().changed("a", kind, 0, |block| {
                block[157..157 + target.len()].copy_from_slice(target.as_bytes())
            })
        };
        assert_eq!(link("/etc/shadow").refused(), PackageCode::EntryLink);
        // RUSTSEC-2026-0067: a directory entry of the same name, and its mode is set on the target.
        assert_eq!(
            link("/etc").directory("a/").refused(),
            PackageCode::EntryLink
        );
        assert_eq!(
            link("..").file("a/b", b"x").refused(),
            PackageCode::EntryLink
        );
    }
}

#[test]
fn devices_and_pipes_are_refused() {
    for kind in [b'3', b'4', b'6'] {
        assert_eq!(
            begun().header("a", kind, 0o644, 0).refused(),
            PackageCode::EntryDevice
        );
    }
}

#[test]
fn sparse_files_are_refused() {
    let sparse = begun().changed("a", b'S', 512, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[483..495].copy_from_slice(b"77777777777\0");
    });
    // In GNU's own format, which has another magic, and in ours.
    assert_eq!(
        sparse.content(b"x").refused(),
        PackageCode::ArchiveMalformed
    );
    assert_eq!(
        begun().header("a", b'S', 0o644, 0).refused(),
        PackageCode::EntrySparse
    );
}

#[test]
fn other_kinds_of_entries_are_refused() {
    for kind in [0, b'7', b'8', b'A', b'I', 0xff] {
        assert_eq!(
            begun().header("a", kind, 0o644, 1).content(b"x").refused(),
            PackageCode::EntryKind
        );
    }
}

#[test]
fn setuid_setgid_sticky_and_open_permissions_are_refused() {
    for mode in [
        0o4755, 0o2755, 0o1755, 0o6755, 0o777, 0o666, 0o600, 0o000, 0o100_644,
    ] {
        let tar = begun().header("a", b'0', mode, 1).content(b"x");
        assert_eq!(tar.refused(), PackageCode::EntryMode, "{mode:o}");
        let tar = begun().header("d/", b'5', mode, 0);
        assert_eq!(tar.refused(), PackageCode::EntryMode, "{mode:o}");
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let names = [
        "/etc/passwd",
        "//a",
        "../a",
        "a/../../b",
        "..",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "",
        "C:\\a",
        "a\\b",
        "a b",
        "a\nb",
        "a\u{1b}[2J",
        "a\u{202e}b",
        "\u{e4}",
        "a\u{308}",
        "a:b",
        "a*",
        "~root/\u{0}",
    ];
    for name in names {
        assert_eq!(
            begun().file(name, b"x").refused(),
            PackageCode::PathForbidden,
            "{name:?}"
        );
    }
    let not_utf8 = begun().changed("a?", b'0', 1, |block| block[1] = 0xff);
    assert_eq!(not_utf8.content(b"x").refused(), PackageCode::PathForbidden);
    assert_eq!(begun().directory("d").refused(), PackageCode::PathForbidden);
    assert_eq!(begun().directory("/").refused(), PackageCode::PathForbidden);
    // Two fields make one name; neither alone leads elsewhere.
    let joined = begun().changed("/b", b'0', 1, |block| block[345] = b'a');
    assert_eq!(joined.content(b"x").refused(), PackageCode::PathForbidden);
    let joined = begun().changed("b", b'0', 1, |block| block[345..347].copy_from_slice(b".."));
    assert_eq!(joined.content(b"x").refused(), PackageCode::PathForbidden);
}

#[test]
fn long_and_deep_names_are_refused() {
    assert_eq!(
        begun().file(&"a".repeat(100), b"x").refused(),
        PackageCode::PathTooLong
    );
    assert_eq!(
        begun().file("1/2/3/4/5/6/7/8/9", b"x").refused(),
        PackageCode::PathTooLong
    );
    let long = begun().changed(&"a".repeat(99), b'0', 1, |block| block[345..445].fill(b'b'));
    assert_eq!(long.content(b"x").refused(), PackageCode::PathTooLong);
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    let twice = begun().file("a", b"x").file("a", b"y");
    assert_eq!(twice.refused(), PackageCode::PathDuplicate);
    let twice = begun().file("manifest.json", b"{}");
    assert_eq!(twice.refused(), PackageCode::PathDuplicate);
    let files = vec![entry("d/a", Mode::Plain, b"x")];
    let twice = Tar::with_manifest_of(files).directory("d/").directory("d/");
    assert_eq!(twice.refused(), PackageCode::PathDuplicate);
}

#[test]
fn names_that_differ_in_case_alone_are_refused() {
    let files = vec![
        entry("bin/Agent", Mode::Plain, b"x"),
        entry("bin/agent", Mode::Plain, b"y"),
    ];
    let tar = Tar::with_manifest_of(files)
        .directory("bin/")
        .file("bin/Agent", b"x")
        .file("bin/agent", b"y");
    assert_eq!(tar.refused(), PackageCode::PathCaseCollision);
    assert_eq!(
        begun().file("MANIFEST.json", b"{}").refused(),
        PackageCode::PathCaseCollision
    );
}

#[test]
fn a_file_in_the_place_of_a_directory_is_refused() {
    let files = vec![entry("a/b", Mode::Plain, b"x")];
    let begun = || Tar::with_manifest_of(files.clone());
    assert_eq!(
        begun().file("a/b", b"x").refused(),
        PackageCode::PathConflict
    );
    assert_eq!(
        begun().file("manifest.json/b", b"x").refused(),
        PackageCode::PathConflict
    );
    assert_eq!(
        begun().file("a", b"x").file("a/b", b"x").refused(),
        PackageCode::NotInManifest
    );
}

#[test]
fn a_wrong_checksum_is_refused() {
    let mut tar = honest_tar();
    for (at, change) in [(148, 1_u8), (0, 1), (511, 1), (154, b' ')] {
        let before = tar[at];
        tar[at] = before.wrapping_add(change);
        assert_eq!(refused(&compressed(&tar)), PackageCode::ArchiveMalformed);
        tar[at] = before;
    }
}

#[test]
fn numbers_in_another_notation_are_refused() {
    let numbers: [(usize, &[u8]); 7] = [
        (124, b"\x80\0\0\0\0\0\0\0\0\0\0\x01"),
        (124, b"          1\0"),
        (124, b"00000000001 "),
        (124, b"1\0\0\0\0\0\0\0\0\0\0\0"),
        (124, b"-0000000001\0"),
        (136, b"0000000000z\0"),
        (100, b"0o00644\0"),
    ];
    for (at, number) in numbers {
        let tar = begun().changed("a", b'0', 1, |block| {
            block[at..at + number.len()].copy_from_slice(number)
        });
        assert_eq!(
            tar.content(b"x").refused(),
            PackageCode::ArchiveMalformed,
            "{at}"
        );
    }
}

#[test]
fn fields_that_mean_nothing_must_be_empty() {
    // Owner, group, their names, device numbers, link name, behind the name, behind the prefix, end.
    for at in [108, 116, 265, 297, 329, 337, 157, 50, 400, 511] {
        let tar = begun().changed("a", b'0', 1, |block| block[at] = b'7');
        assert_eq!(
            tar.content(b"x").refused(),
            PackageCode::ArchiveMalformed,
            "{at}"
        );
    }
    let files = vec![entry("d/a", Mode::Plain, b"x")];
    let sized = Tar::with_manifest_of(files)
        .header("d/", b'5', 0o755, 512)
        .content(b"x");
    assert_eq!(sized.refused(), PackageCode::ArchiveMalformed);
    let other_time = begun().changed("a", b'0', 1, |block| block[146] = b'1');
    assert_eq!(
        other_time.content(b"x").refused(),
        PackageCode::ArchiveMalformed
    );
}

#[test]
fn other_formats_of_tar_are_refused() {
    for magic in [*b"ustar  \0", [0; 8], *b"ustar\x0001", *b"tar\0\0\0\0\0"] {
        let tar = begun().changed("a", b'0', 1, |block| {
            block[257..265].copy_from_slice(&magic)
        });
        assert_eq!(tar.content(b"x").refused(), PackageCode::ArchiveMalformed);
    }
}

#[test]
fn something_hidden_between_two_entries_is_refused() {
    let mut tar = begun().file("a", b"x");
    let last = tar.0.len() - 1;
    tar.0[last] = 1;
    assert_eq!(tar.refused(), PackageCode::ArchiveMalformed);
}

#[test]
fn an_archive_that_ends_early_is_refused() {
    let tar = honest_tar();
    let whole = tar.len();
    let mut cuts: Vec<usize> = (0..whole).step_by(509).collect();
    cuts.extend([whole - 1, whole - 512, whole - 1024, whole - 1025]);
    for cut in cuts {
        let package = compressed(&tar[..cut]);
        let error = inspect(&package[..], &Limits::default()).unwrap_err();
        assert_eq!(
            error.code,
            PackageCode::ArchiveTruncated,
            "{cut} of {whole}"
        );
    }
}

#[test]
fn something_behind_the_end_mark_is_refused() {
    let mut tar = honest_tar();
    tar.extend([0; 512]);
    assert_eq!(refused(&compressed(&tar)), PackageCode::TrailingData);
    let second = [honest_tar(), honest_tar()].concat();
    assert_eq!(refused(&compressed(&second)), PackageCode::TrailingData);
    // One block of zeros, which some readers skip, and then more.
    let mut skipped = begun().file("a", b"x");
    skipped.0.extend([0; 512]);
    assert_eq!(
        skipped.file("b", b"y").refused(),
        PackageCode::ArchiveMalformed
    );
}

#[test]
fn a_large_file_and_a_large_sum_are_refused() {
    let limits = Limits {
        file_bytes: 1000,
        total_bytes: 100_000,
        ..Limits::default()
    };
    let judge = |tar: Tar, limits: &Limits| {
        inspect(&compressed(&tar.end().0)[..], limits)
            .unwrap_err()
            .code
    };
    let stated = begun().header("a", b'0', 0o644, 1001);
    assert_eq!(judge(stated, &limits), PackageCode::FileTooLarge);
    let most = begun().header("a", b'0', 0o644, (1 << 33) - 1);
    assert_eq!(judge(most, &Limits::default()), PackageCode::FileTooLarge);
    let manifest = Limits {
        manifest_bytes: 10,
        ..Limits::default()
    };
    assert_eq!(judge(begun(), &manifest), PackageCode::FileTooLarge);
    let together = Limits {
        total_bytes: 1200,
        ..Limits::default()
    };
    let files = ["a", "b", "c"].map(|name| entry(name, Mode::Plain, &[1; 500]));
    let tar = Tar::with_manifest_of(files.to_vec());
    assert_eq!(judge(tar, &together), PackageCode::UnpackedTooLarge);
}

#[test]
fn a_seal_of_the_forge_is_the_checksum() {
    let mut block: [u8; 512] = honest_tar()[..512].try_into().unwrap();
    let before = block;
    seal(&mut block);
    assert!(block == before);
}
