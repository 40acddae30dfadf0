//! Every limit on what comes from outside, with its reason. (TUF leaves these numbers to the
//! application: W, X, Y and Z of the specification's section 5.)

/// Deepest nesting in a document. Real metadata nests 6 deep; `custom` may add a few.
pub const MAX_JSON_DEPTH: usize = 32;
/// What the values of one document may take in memory beside their text, in bytes: 7,000 releases
/// take 36 MB. Five megabytes of `{"":0}` would take 500, more than agent and updater may have,
/// and are read before anybody knows who signed them.
pub const MAX_JSON_MEMORY: usize = 64 * 1024 * 1024;
/// Longest root metadata, in bytes (W). Ten 4096-bit RSA keys and signatures make 20 KB.
pub const MAX_ROOT_BYTES: u64 = 512 * 1024;
/// Longest timestamp metadata, in bytes (X). Ours has 500 bytes.
pub const MAX_TIMESTAMP_BYTES: u64 = 16 * 1024;
/// Longest snapshot metadata, in bytes, if the timestamp does not say less (Y).
pub const MAX_SNAPSHOT_BYTES: u64 = 2 * 1024 * 1024;
/// Longest targets metadata, in bytes, if the snapshot does not say less (Z). A release has about
/// 700 bytes: room for 7,000 of them.
pub const MAX_TARGETS_BYTES: u64 = 5 * 1024 * 1024;
/// New roots that one refresh follows; the next refresh goes on from there. One rotation a week
/// for 20 years.
pub const MAX_ROOTS_PER_REFRESH: u32 = 1024;
/// Delegated roles that one search visits.
pub const MAX_DELEGATIONS_VISITED: usize = 32;
/// Metadata files that a snapshot may list: all of them are remembered in the high-water file.
pub const MAX_SNAPSHOT_ENTRIES: usize = 1024;
/// Signatures in one envelope: each may cost a verification.
pub const MAX_SIGNATURES: usize = 64;
/// Keys of one root or of the delegations of one role.
pub const MAX_KEYS: usize = 256;
/// Longest role name, in bytes. Escaped it may be three times that, and `.json` comes after it: a
/// file name ends at 255.
pub const MAX_ROLE_NAME_BYTES: usize = 80;
/// Longest target path, in bytes.
pub const MAX_TARGET_PATH_BYTES: usize = 512;
/// Longest pattern in `paths` of a delegation, in bytes: matching costs pattern times path.
pub const MAX_PATTERN_BYTES: usize = 512;
/// Longest high-water file, in bytes: [`MAX_SNAPSHOT_ENTRIES`] roles with names of
/// [`MAX_ROLE_NAME_BYTES`], escaped, twice, make 1.3 MB.
pub const MAX_HIGH_WATER_BYTES: u64 = 4 * 1024 * 1024;
/// Highest version of a metadata file. Nobody publishes 2^53 times, and beyond it JSON readers in
/// other languages disagree about the number.
pub const MAX_VERSION: u64 = (1 << 53) - 1;
