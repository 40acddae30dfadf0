//! The compression around the archive: bombs, other formats, more than one of them.

use std::io::{self, Read};

use super::super::{Limits, Mode, inspect};
use super::forge::{Tar, compressed, honest_tar, refused};
use super::round_trip::{entries, entry, packed};
use crate::code::PackageCode;

/// A frame of blocks that are not compressed (RFC 8878, 3.1.1.2), with this header behind the magic.
fn raw_frame(header: &[u8], content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    frame.extend(header);
    let blocks: Vec<&[u8]> = content.chunks(100_000).collect();
    for (number, block) in blocks.iter().enumerate() {
        let last = u32::from(number + 1 == blocks.len());
        let size = u32::try_from(block.len()).unwrap();
        frame.extend(&((size << 3) | last).to_le_bytes()[..3]);
        frame.extend(*block);
    }
    frame
}

/// A window of 1 MiB.
const PLAIN: &[u8] = &[0, 10 << 3];

#[test]
fn a_frame_made_by_hand_is_accepted_without_a_fault() {
    inspect(&raw_frame(PLAIN, &honest_tar())[..], &Limits::default()).unwrap();
}

#[test]
fn a_bomb_is_refused_while_it_is_unpacked() {
    let zeros = vec![0; 64 << 20];
    let bomb = Tar::with_manifest_of(vec![entry("a", Mode::Plain, &zeros)]).file("a", &zeros);
    let package = compressed(&bomb.end().0);
    assert!(package.len() < 20_000, "{}", package.len());
    assert_eq!(refused(&package), PackageCode::CompressionRatio);
    // Blocks of one repeated byte: 4 bytes become 128 KiB, for ever.
    let mut repeated = [0x28, 0xb5, 0x2f, 0xfd].to_vec();
    repeated.extend(PLAIN);
    for _ in 0..1000 {
        repeated.extend(&((128 * 1024_u32) << 3 | 1 << 1).to_le_bytes()[..3]);
        repeated.push(0);
    }
    // Zeros are an end mark, and then comes more: refused even before it is a bomb.
    assert_eq!(refused(&repeated), PackageCode::ManifestMissing);
}

#[test]
fn a_million_entries_are_refused_after_two_thousand() {
    struct Endless {
        frame: io::Cursor<Vec<u8>>,
        block: Vec<u8>,
        left: usize,
        given: usize,
    }
    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let mut count = self.frame.read(into)?;
            if count == 0 && self.left > 0 {
                self.left -= 1;
                self.frame = io::Cursor::new(self.block.clone());
                count = self.frame.read(into)?;
            }
            self.given += count;
            Ok(count)
        }
    }
    let directories = |from: usize| {
        let names = (from..from + 100).map(|number| format!("{number}/"));
        names
            .fold(Tar::default(), |tar, name| tar.directory(&name))
            .0
    };
    // The manifest names a file in each of the first 3,000 directories.
    let files = (0..3000).map(|number| entry(&format!("{number}/a"), Mode::Plain, b""));
    let mut head = Tar::with_manifest_of(files.collect()).0;
    for from in (0..3000).step_by(100) {
        head.extend(directories(from));
    }
    let mut frame = raw_frame(PLAIN, &head);
    let last = frame.len() - head.len() % 100_000 - 3;
    frame[last] &= !1; // it is not the last block after all
    let block = raw_frame(&[], &directories(3000))[4..].to_vec();
    let mut million = Endless {
        frame: io::Cursor::new(frame),
        block,
        left: 10_000,
        given: 0,
    };
    let error = inspect(&mut million, &Limits::default()).unwrap_err();
    assert_eq!(error.code, PackageCode::TooManyEntries, "{error}");
    assert!(million.given < 4 << 20, "{}", million.given);
}

#[test]
fn something_behind_the_frame_is_refused() {
    let honest = packed(entries());
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2];
    for more in [&b"x"[..], &[0], &skippable, &honest] {
        assert_eq!(
            refused(&[&honest[..], more].concat()),
            PackageCode::TrailingData
        );
    }
    // Before it, too.
    assert_eq!(
        refused(&[&skippable[..], &honest].concat()),
        PackageCode::CompressionMalformed
    );
}

#[test]
fn a_frame_that_ends_early_is_refused() {
    let honest = packed(entries());
    for cut in 0..honest.len() {
        let error = inspect(&honest[..cut], &Limits::default()).unwrap_err();
        assert_eq!(
            error.code,
            PackageCode::CompressionMalformed,
            "{cut}: {error}"
        );
    }
}

#[test]
fn other_compressions_and_none_are_refused() {
    for bytes in [
        &honest_tar()[..],
        b"\x1f\x8b\x08",
        b"PK\x03\x04",
        b"\xfd7zXZ\0",
        b"BZh9",
        b"",
        b"(\xb5/\xfc\0\0\0\0\0",
    ] {
        assert_eq!(refused(bytes), PackageCode::CompressionMalformed);
    }
    let reserved = raw_frame(&[0b1000, 10 << 3], &honest_tar());
    assert_eq!(refused(&reserved), PackageCode::CompressionMalformed);
}

#[test]
fn a_frame_with_a_dictionary_is_refused() {
    let named = raw_frame(&[1, 10 << 3, 7], &honest_tar());
    assert_eq!(refused(&named), PackageCode::CompressionDictionary);
}

#[test]
fn a_frame_that_wants_much_memory_is_refused() {
    for window in [14 << 3, (13 << 3) | 1, 31 << 3] {
        let wide = raw_frame(&[0, window], &honest_tar());
        assert_eq!(refused(&wide), PackageCode::CompressionWindow, "{window}");
    }
    inspect(
        &raw_frame(&[0, 13 << 3], &honest_tar())[..],
        &Limits::default(),
    )
    .unwrap();
    // One segment: its size is the window.
    let mut single = vec![0b1110_0000];
    single.extend((1_u64 << 40).to_le_bytes());
    assert_eq!(
        refused(&raw_frame(&single, &honest_tar())),
        PackageCode::CompressionWindow
    );
}

#[test]
fn a_disk_that_fails_is_not_a_bad_package() {
    struct Fails(Vec<u8>, usize);
    impl Read for Fails {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let rest = &self.0[self.1..];
            let count = rest.len().min(into.len()).min(100);
            if count == 0 {
                return Err(io::Error::other("I/O error of the disk"));
            }
            into[..count].copy_from_slice(&rest[..count]);
            self.1 += count;
            Ok(count)
        }
    }
    let honest = packed(entries());
    for cut in [0, 3, honest.len() / 2] {
        let error = inspect(Fails(honest[..cut].to_vec(), 0), &Limits::default()).unwrap_err();
        assert_eq!(error.code, PackageCode::PackageUnreadable);
        assert!(
            error.to_string().contains("I/O error of the disk"),
            "{error}"
        );
    }
}
