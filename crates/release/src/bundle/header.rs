//! One header block of the archive: POSIX ustar (IEEE Std 1003.1, pax, "ustar Interchange Format").
//!
//! Each field is read strictly. Then the header is written again from what was read, and must be
//! the same 512 bytes, so that no field can say something that another reader would listen to.

use super::error::BundleError;
use super::path::{EntryPath, Mode};
use crate::code::PackageCode;

/// Everything in an archive comes in blocks of this size.
pub(crate) const BLOCK: usize = 512;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) path: EntryPath,
    pub(crate) kind: Kind,
    /// Seconds since the Unix epoch; the same in the whole archive.
    pub(crate) mtime: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File { mode: Mode, size: u64 },
}

/// Position and length of the fields.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE: usize = 156;
const MAGIC: (usize, usize) = (257, 8);
const DEVMAJOR: (usize, usize) = (329, 8);
const DEVMINOR: (usize, usize) = (337, 8);
const PREFIX: (usize, usize) = (345, 155);

/// "ustar", NUL, version "00".
const MAGIC_BYTES: &[u8; 8] = b"ustar\x0000";

impl Header {
    /// Reads a header that is not the end mark.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, BundleError> {
        if field(block, MAGIC) != MAGIC_BYTES {
            return malformed("a header is not of the format ustar");
        }
        let stated = octal(&field(block, CHECKSUM)[..7]);
        if stated != Some(checksum(block)) {
            return malformed("a header's checksum is wrong");
        }
        let directory = match block[TYPE] {
            b'0' => false,
            b'5' => true,
            other => return Err(refuse_type(other)),
        };
        let path = read_path(block, directory)?;
        let bits = octal(field(block, MODE)).and_then(|bits| u32::try_from(bits).ok());
        let kind = match (directory, bits, bits.and_then(Mode::of)) {
            (true, Some(0o755), _) => Kind::Directory,
            (false, _, Some(mode)) => Kind::File {
                mode,
                size: octal(field(block, SIZE)).ok_or_else(|| not_octal(&path, "size"))?,
            },
            (_, None, _) => return Err(not_octal(&path, "mode")),
            (_, Some(bits), _) => {
                return Err(BundleError::bad(
                    PackageCode::EntryMode,
                    format_args!(
                        "{path} has mode {bits:04o}; files have 0644 or 0755, directories 0755"
                    ),
                ));
            }
        };
        let mtime = octal(field(block, MTIME)).ok_or_else(|| not_octal(&path, "time"))?;
        let header = Self { path, kind, mtime };
        if header.encode().as_ref() != Some(block) {
            return malformed(format_args!(
                "the header of {} has fields that a package leaves empty, or a size on a directory",
                header.path
            ));
        }
        Ok(header)
    }

    /// The only block that says this; none if the size or time does not fit.
    pub(crate) fn encode(&self) -> Option<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        let (mode, size, kind) = match self.kind {
            Kind::Directory => (0o755, 0, b'5'),
            Kind::File { mode, size } => (mode.bits(), size, b'0'),
        };
        let (prefix, name) = split(&self.path, kind == b'5')?;
        put(&mut block, NAME, name.as_bytes());
        put(&mut block, PREFIX, prefix.as_bytes());
        put_octal(&mut block, MODE, u64::from(mode))?;
        put_octal(&mut block, UID, 0)?;
        put_octal(&mut block, GID, 0)?;
        put_octal(&mut block, SIZE, size)?;
        put_octal(&mut block, MTIME, self.mtime)?;
        block[TYPE] = kind;
        put(&mut block, MAGIC, MAGIC_BYTES);
        put_octal(&mut block, DEVMAJOR, 0)?;
        put_octal(&mut block, DEVMINOR, 0)?;
        let sum = format!("{:06o}\0 ", checksum(&block));
        put(&mut block, CHECKSUM, sum.as_bytes());
        Some(block)
    }
}

/// The end of an archive is two blocks of zeros.
pub(crate) fn is_end(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// How many bytes follow a file of this size up to the next block.
pub(crate) const fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

fn field(block: &[u8; BLOCK], (at, length): (usize, usize)) -> &[u8] {
    &block[at..at + length]
}

fn put(block: &mut [u8; BLOCK], (at, _): (usize, usize), bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_octal(block: &mut [u8; BLOCK], at: (usize, usize), value: u64) -> Option<()> {
    let digits = format!("{value:0width$o}", width = at.1 - 1);
    (digits.len() == at.1 - 1).then(|| put(block, at, digits.as_bytes()))
}

/// All digits, octal, and one NUL: no spaces, no sign, no base 256.
fn octal(field: &[u8]) -> Option<u64> {
    let (last, digits) = field.split_last()?;
    let value = digits.iter().try_fold(0_u64, |value, digit| {
        matches!(digit, b'0'..=b'7').then(|| value * 8 + u64::from(digit - b'0'))
    });
    value.filter(|_| *last == 0)
}

/// The sum of all bytes, with spaces in place of the sum itself.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let (at, length) = CHECKSUM;
    sum(&block[..at]) + sum(&block[at + length..]) + 8 * u64::from(b' ')
}

fn read_path(block: &[u8; BLOCK], directory: bool) -> Result<EntryPath, BundleError> {
    let text = |at| {
        let bytes: &[u8] = field(block, at);
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        &bytes[..end]
    };
    let mut joined = text(PREFIX).to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(text(NAME));
    // A directory's name ends with a slash, and a file's never does.
    if directory && joined.pop_if(|last| *last == b'/').is_none() {
        return Err(BundleError::bad(
            PackageCode::PathForbidden,
            format_args!(
                "the directory \"{}\" is named like a file",
                joined.escape_ascii()
            ),
        ));
    }
    EntryPath::parse(&joined)
}

/// Where a path is cut: the prefix is as short as it may be.
fn split(path: &EntryPath, directory: bool) -> Option<(String, String)> {
    let mut whole = path.as_str().to_owned();
    if directory {
        whole.push('/');
    }
    if whole.len() <= NAME.1 {
        return Some((String::new(), whole));
    }
    let earliest = whole.len() - NAME.1 - 1;
    let cut = earliest + whole[earliest..].find('/')?;
    let (prefix, name) = (&whole[..cut], &whole[cut + 1..]);
    (prefix.len() <= PREFIX.1 && !name.is_empty()).then(|| (prefix.to_owned(), name.to_owned()))
}

fn refuse_type(kind: u8) -> BundleError {
    let (code, what) = match kind {
        b'x' | b'g' | b'X' => (PackageCode::EntryExtension, "a PAX extension"),
        b'L' | b'K' | b'N' | b'V' | b'M' | b'D' => (PackageCode::EntryExtension, "a GNU extension"),
        b'1' => (PackageCode::EntryLink, "a hard link"),
        b'2' => (PackageCode::EntryLink, "a symbolic link"),
        b'3' | b'4' => (PackageCode::EntryDevice, "a device"),
        b'6' => (PackageCode::EntryDevice, "a named pipe"),
        b'S' => (PackageCode::EntrySparse, "a sparse file"),
        _ => (
            PackageCode::EntryKind,
            "neither a regular file nor a directory",
        ),
    };
    BundleError::bad(
        code,
        format_args!("an entry of the type '{}' is {what}", kind.escape_ascii()),
    )
}

fn not_octal(path: &EntryPath, what: &str) -> BundleError {
    BundleError::bad(
        PackageCode::ArchiveMalformed,
        format_args!("the {what} of {path} is not written in octal digits"),
    )
}

fn malformed<T>(what: impl std::fmt::Display) -> Result<T, BundleError> {
    Err(BundleError::bad(PackageCode::ArchiveMalformed, what))
}
