//! Why something was refused: one stable word each, the same in the journal, in `vpn-node update
//! status`, in the heartbeat and on the controller. `docs/releases.md` is the list with its tests.

/// The codes of one area, with the words that leave the program and what each means in one line.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal, $meaning:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $meaning] $variant,)* }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What it means, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

codes! {
    /// Why metadata was refused ([`Self::as_str`]).
    MetadataCode {
        Unsigned = "unsigned", "the metadata has no valid signature of a key that it needs";
        BelowThreshold = "below_threshold", "fewer different keys signed than the role needs";
        Expired = "expired", "the metadata is past its expiry: the repository is not kept fresh, or someone withholds news";
        Rollback = "rollback", "its version is lower than one that was already trusted";
    }
}

codes! {
    /// Why a package was refused, or could not be unpacked ([`Self::as_str`]).
    PackageCode {
        ReleaseInfoMalformed = "release_info_malformed", "what is signed about the release is missing, incomplete or not of this format";
        TargetPathMismatch = "target_path_mismatch", "the release lies at a path that is not that of its own version and platform";
        PackageTooLarge = "package_too_large", "the package is longer than any package may be";
        PackageLengthMismatch = "package_length_mismatch", "the package is shorter or longer than the signed length";
        PackageHashMismatch = "package_hash_mismatch", "the package's bytes are not those that were signed";
        CompressionMalformed = "compression_malformed", "the package is not one whole zstd frame";
        CompressionDictionary = "compression_dictionary", "the zstd frame wants a dictionary";
        CompressionWindow = "compression_window", "the zstd frame wants more memory than a package may";
        CompressionRatio = "compression_ratio", "the package grows like a bomb while it is unpacked";
        TrailingData = "trailing_data", "something lies behind the end of the package";
        ArchiveMalformed = "archive_malformed", "an archive header is not exactly one that a package has";
        ArchiveTruncated = "archive_truncated", "the archive ends before its end mark";
        EntryExtension = "entry_extension", "the archive has a PAX or GNU extension, which readers take in different ways";
        EntryLink = "entry_link", "the archive has a symbolic or hard link";
        EntryDevice = "entry_device", "the archive has a device or a pipe";
        EntrySparse = "entry_sparse", "the archive has a sparse file";
        EntryKind = "entry_kind", "the archive has an entry that is neither a regular file nor a directory";
        EntryMode = "entry_mode", "an entry has permissions other than 0644 and 0755, such as setuid";
        PathForbidden = "path_forbidden", "a name is absolute, leads out of the directory or has characters that no name may have";
        PathTooLong = "path_too_long", "a name is too long or too deep";
        PathDuplicate = "path_duplicate", "a name comes twice";
        PathCaseCollision = "path_case_collision", "two names differ in upper and lower case only";
        PathConflict = "path_conflict", "a name lies below one that is no directory";
        TooManyEntries = "too_many_entries", "the archive has more entries than a package may";
        FileTooLarge = "file_too_large", "a file is larger than one may be";
        UnpackedTooLarge = "unpacked_too_large", "the package is larger unpacked than it may be";
        ManifestMissing = "manifest_missing", "the first entry is not manifest.json";
        ManifestMalformed = "manifest_malformed", "manifest.json is not of its format";
        ManifestMismatch = "manifest_mismatch", "manifest.json does not agree with what is signed about the release";
        NotInManifest = "not_in_manifest", "the archive has something that manifest.json does not name";
        MissingFromPackage = "missing_from_package", "manifest.json names a file that the archive does not have";
        FileMismatch = "file_mismatch", "a file's size, permissions or bytes are not those in manifest.json";
        TreeUnmarked = "tree_unmarked", "an unpacked version has no mark: it was never finished";
        TreeMismatch = "tree_mismatch", "an unpacked version is not what it was when it was finished";
        PackageUnreadable = "package_unreadable", "the system cannot read the package";
        UnpackFailed = "unpack_failed", "the system cannot write what the package has";
        NoSpace = "no_space", "there is not enough space on the disk";
    }
}

codes! {
    /// Why a release that is genuine may not be installed on this host now ([`Self::as_str`]).
    PolicyCode {
        WrongProduct = "wrong_product", "the release is of another product";
        WrongOs = "wrong_os", "the release is for another operating system";
        WrongArch = "wrong_arch", "the release is for another processor architecture";
        WrongChannel = "wrong_channel", "the release is of a channel that this host does not follow";
        CounterLower = "counter_lower", "the release is older than one that was already accepted here";
        CounterReused = "counter_reused", "another release with the same counter was already accepted here";
        BelowSecurityFloor = "below_security_floor", "the version is below the lowest one that is still safe";
        AlreadyInstalled = "already_installed", "exactly this release is what runs";
        VersionReused = "version_reused", "the running version has the same number and other content";
        UpdatesDisabled = "updates_disabled", "root of this host has switched updates off";
        Pinned = "pinned", "root of this host keeps it at another version";
        Blocked = "blocked", "the version ended badly on this host and is not tried again for a while";
        MinVersionUnmet = "min_version_unmet", "the release wants a newer version to run before it";
        StateUnreadable = "state_unreadable", "the release cannot read the state that this host has";
    }
}
