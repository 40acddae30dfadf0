//! The zstd frame around the archive (RFC 8878): exactly one, without a dictionary, with a bounded
//! window, with nothing behind it, and no bomb.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use zstd::stream::read::Decoder;

use super::error::BundleError;
use super::limits::{Limits, RATIO_SLACK_BYTES, WINDOW_LOG};
use crate::code::PackageCode;

/// The magic number of a frame (RFC 8878, 3.1.1), little-endian.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The longest frame header: magic, descriptor, window, no dictionary, content size.
const HEADER_BYTES: usize = 4 + 1 + 1 + 8;

/// The whole package, with the bytes of its header that were looked at before.
type Source<R> = BufReader<Counting<Chain<Cursor<Vec<u8>>, R>>>;

/// What is inside the frame, in order.
pub(super) struct Frame<R: Read> {
    decoder: Decoder<'static, Source<R>>,
    written: u64,
    ratio: u64,
}

impl<R: Read> Frame<R> {
    pub(super) fn open(mut reader: R, limits: &Limits) -> Result<Self, BundleError> {
        let mut header = Vec::new();
        (&mut reader)
            .take(HEADER_BYTES as u64)
            .read_to_end(&mut header)
            .map_err(BundleError::read)?;
        check_header(&header)?;
        let whole = Counting {
            inner: Cursor::new(header).chain(reader),
            read: 0,
            failure: None,
        };
        let mut decoder = Decoder::with_buffer(BufReader::with_capacity(128 * 1024, whole))
            .map_err(|error| malformed(&error))?
            .single_frame();
        decoder
            .window_log_max(WINDOW_LOG)
            .map_err(|error| malformed(&error))?;
        Ok(Self {
            decoder,
            written: 0,
            ratio: limits.ratio,
        })
    }

    /// The next bytes; 0 at the end of the frame.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, BundleError> {
        let count = loop {
            match self.decoder.read(into) {
                Ok(count) => break count,
                Err(again) if again.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let source = &mut self.decoder.get_mut().get_mut().failure;
                    return Err(source
                        .take()
                        .map_or_else(|| malformed(&error), BundleError::read));
                }
            }
        };
        self.written = self.written.saturating_add(count as u64);
        let allowed = self
            .decoder
            .get_ref()
            .get_ref()
            .read
            .saturating_mul(self.ratio);
        if self.written > allowed.saturating_add(RATIO_SLACK_BYTES) {
            return Err(BundleError::bad(
                PackageCode::CompressionRatio,
                format_args!(
                    "it grows more than {} times while it is unpacked",
                    self.ratio
                ),
            ));
        }
        Ok(count)
    }

    /// Nothing may come any more, neither in the frame nor behind it.
    pub(super) fn end(mut self) -> Result<(), BundleError> {
        let in_frame = self.read(&mut [0])?;
        let mut rest = self.decoder.finish();
        if in_frame == 0 && rest.fill_buf().map_err(BundleError::read)?.is_empty() {
            return Ok(());
        }
        Err(BundleError::bad(
            PackageCode::TrailingData,
            "something lies behind the end of the archive",
        ))
    }
}

/// RFC 8878, 3.1.1.1.
fn check_header(header: &[u8]) -> Result<(), BundleError> {
    let (Some(magic), Some(&descriptor)) = (header.get(..4), header.get(4)) else {
        return Err(malformed(&"it is too short to be one"));
    };
    if magic != MAGIC {
        return Err(malformed(&"it does not begin as one"));
    }
    if descriptor & 0b0001_1000 != 0 {
        return Err(malformed(&"it uses reserved bits"));
    }
    if descriptor & 0b0000_0011 != 0 {
        return Err(BundleError::bad(
            PackageCode::CompressionDictionary,
            "it was compressed with a dictionary",
        ));
    }
    let single_segment = descriptor & 0b0010_0000 != 0;
    let window = if single_segment {
        content_size(descriptor, &header[5..])
    } else {
        header.get(5).map(|&window| {
            let base = 1_u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7)
        })
    };
    match window {
        Some(bytes) if bytes <= 1 << WINDOW_LOG => Ok(()),
        Some(bytes) => Err(BundleError::bad(
            PackageCode::CompressionWindow,
            format_args!("it wants {bytes} bytes of memory to be unpacked"),
        )),
        None => Err(malformed(&"it ends in its header")),
    }
}

/// RFC 8878, 3.1.1.1.4, of a frame with one segment.
fn content_size(descriptor: u8, field: &[u8]) -> Option<u64> {
    let (length, offset) = match descriptor >> 6 {
        0 => (1, 0),
        1 => (2, 256),
        2 => (4, 0),
        _ => (8, 0),
    };
    let mut bytes = [0; 8];
    bytes[..length].copy_from_slice(field.get(..length)?);
    u64::from_le_bytes(bytes).checked_add(offset)
}

fn malformed(why: &dyn std::fmt::Display) -> BundleError {
    BundleError::bad(
        PackageCode::CompressionMalformed,
        format_args!("it is not one whole zstd frame ({why})"),
    )
}

/// Counts what was read, and keeps the system's own error apart from those of the format.
struct Counting<R> {
    inner: R,
    read: u64,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(into) {
            Ok(count) => {
                self.read = self.read.saturating_add(count as u64);
                Ok(count)
            }
            Err(again) if again.kind() == io::ErrorKind::Interrupted => Err(again),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}
