//! How much a package may have. Our own has a dozen files and some 20 MB.

/// The limits that the reader keeps; [`Limits::default`] is what hosts use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the package file.
    pub package_bytes: u64,
    /// Entries of the archive, files and directories.
    pub entries: usize,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files together.
    pub total_bytes: u64,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
    /// How many bytes one byte of the package may become.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Hundred times ours: programs with debug information fit.
            package_bytes: 1 << 30,
            // Hundred times ours; a million would take minutes of fsync.
            entries: 2000,
            file_bytes: 1 << 30,
            total_bytes: 2 << 30,
            // 2,000 lines of 200 bytes.
            manifest_bytes: 512 * 1024,
            // Programs have 3 to 5; a bomb of zeros has 10,000 and more.
            ratio: 200,
        }
    }
}

/// So much may come out before the ratio counts: short files of zeros are no bomb.
pub(super) const RATIO_SLACK_BYTES: u64 = 4 << 20;
/// The largest zstd window, as a power of two: 8 MiB, which the best levels of compression use.
/// It bounds the memory of the reader.
pub(super) const WINDOW_LOG: u32 = 23;
/// Longest path in the archive, in bytes: with its own directory it stays far below PATH_MAX.
pub(super) const PATH_BYTES: usize = 200;
/// Longest part of a path, in bytes: what the name field of a ustar header holds.
pub(super) const PART_BYTES: usize = 99;
/// Most parts of a path.
pub(super) const PATH_DEPTH: usize = 8;
