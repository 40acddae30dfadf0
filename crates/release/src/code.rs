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
        BadThreshold = "bad_threshold", "a role would need no signature at all";
        DuplicateSignature = "duplicate_signature", "one key id stands twice among the signatures";
        TooManySignatures = "too_many_signatures", "more signatures than anybody needs";
        Malformed = "malformed", "not strict JSON, or not what the role must hold";
        WrongType = "wrong_type", "metadata of one role in the place of another";
        UnsupportedSpec = "unsupported_spec", "written for another major version of the TUF specification";
        TooLarge = "metadata_too_large", "more bytes than the signed length or the limit of the role";
        Missing = "metadata_missing", "a file that other metadata names is not in the repository or the bundle";
        Expired = "expired", "the metadata is past its expiry: the repository is not kept fresh, or someone withholds news";
        Rollback = "rollback", "its version is lower than one that was already trusted";
        RootGap = "root_gap", "the file at the address of root N+1 is not version N+1";
        SameVersionChanged = "same_version_changed", "a version that was already trusted came again with other content";
        VersionMismatch = "version_mismatch", "its version is not the one that the role above names: eras are mixed";
        HashMismatch = "metadata_hash_mismatch", "its bytes are not those whose hash the role above signed";
        RoleRemoved = "role_removed", "targets metadata that was listed before is gone from the snapshot";
        BadName = "bad_name", "a target path that leads elsewhere";
        TargetUnknown = "target_unknown", "no role that may speak for this path has signed such a target";
        TargetHash = "target_hash_mismatch", "the downloaded bytes are not those that were signed";
        TargetLength = "target_length_mismatch", "more or fewer bytes than were signed";
        NoTrust = "no_trust", "no root metadata was ever installed on this host";
        TrustStoreUnreadable = "trust_store_unreadable", "what the host remembers about releases is torn or gone: fail closed";
        TrustStoreUnwritable = "trust_store_unwritable", "what was verified could not be kept on disk";
        FetchFailed = "fetch_failed", "the repository could not be reached: nothing was judged";
    }
}

codes! {
    /// Why the updater did not install, or went back ([`Self::as_str`]).
    UpdaterCode {
        // Before anything is installed.
        TrustInvalid = "trust_invalid", "the root metadata is not the one that was expected";
        TrustExists = "trust_exists", "root metadata is trusted already, and replacing it was not asked for";
        IncomingUnsafe = "incoming_unsafe", "what the agent left is a link, a special file, or has a name that is not allowed";
        IncomingTooLarge = "incoming_too_large", "what the agent left is larger or more than any release";
        IncomingMissing = "incoming_missing", "a file that the request or the metadata names is not there";
        OfflineInvalid = "offline_invalid", "the offline file is cut off, changed or was not made by `release export`";
        RequestInvalid = "request_invalid", "the request cannot be read, or does not fit what is signed";
        NoSpace = "no_space", "there is not enough room on a file system";
        ReadOnly = "read_only", "a file system is mounted read-only";
        DiskError = "disk_error", "the system refused to read or write a file";
        PackageManagerBusy = "package_manager_busy", "dpkg or rpm works at this moment";
        NotRoot = "not_root", "only root may do this";
        NotPossible = "not_possible", "a plan found something that stands against the update";
        Busy = "busy", "another updater runs";
        ConfigInvalid = "config_invalid", "updater.toml has a mistake";
        PolicyUnreadable = "policy_unreadable", "policy.json cannot be read, and a pin or an opt-out may be in it";
        InstallationGone = "installation_gone", "the running version's slot or its link vanished";
        SlotDamaged = "slot_damaged", "an unpacked version is not what its digest says";
        NoPrevious = "no_previous", "there is no version to go back to";
        SnapshotFailed = "snapshot_failed", "the agent's state could not be kept for a way back";
        Interrupted = "interrupted", "a power cut or a crash came in between; nothing is left of it";
        InterruptedTooOften = "interrupted_too_often", "it never came to an end: each time the host went down or the updater was killed";
        // On trial.
        StartFailed = "start_failed", "the new version could not be started";
        Crashed = "crashed", "the new version ended";
        StateUnreadable = "state_unreadable", "the new version cannot read this host's state or configuration (exit code 78)";
        Unresponsive = "unresponsive", "the new version runs and does not answer: it hangs";
        MemoryExceeded = "memory_exceeded", "the new version took more memory than it may";
        LedgerBroken = "ledger_broken", "the new version cannot store connection records";
        BackendLost = "backend_lost", "a VPN daemon that the former version was in touch with does not answer the new one";
        SessionsLost = "sessions_lost", "VPN connections went away under the new version";
        WrongVersion = "wrong_version", "what runs is not the version that was installed";
        NeverHeartbeats = "never_heartbeats", "the new version did not try to reach the controller";
        CutOff = "cut_off", "the new version does not reach the controller, and the former one does";
    }
}

codes! {
    /// Why a package was refused, or could not be unpacked ([`Self::as_str`]).
    PackageCode {
        ReleaseInfoMalformed = "release_info_malformed", "what is signed about the release is missing, incomplete or not of this format";
        TargetPathMismatch = "target_path_mismatch", "the release lies at a path that is not that of its own version and platform";
        PackageTooLarge = "package_too_large", "the package is longer than any package may be";
        PackageLengthMismatch = "target_length_mismatch", "the package is shorter or longer than the signed length";
        PackageHashMismatch = "target_hash_mismatch", "the package's bytes are not those that were signed";
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

codes! {
    /// Why an agent did not fetch a release, or gave it up ([`Self::as_str`]).
    DownloadCode {
        NotManaged = "not_managed", "the host has no updater, or its updater trusts no release keys yet";
        WrongTarget = "wrong_target", "the assignment names a package that is not that of its version and this host's platform";
        BadRepository = "bad_repository", "the repository's address is not a plain https address";
        UnknownDeployment = "unknown_deployment", "the host does not work on the deployment that is to be cancelled";
        AlreadyHandedOver = "already_handed_over", "the release is with the updater already: it is judged there";
        Superseded = "superseded", "a newer assignment took its place";
        Cancelled = "cancelled", "an operator took it back before it was handed to the updater";
        DeadlinePassed = "deadline_passed", "it could not be fetched as long as the assignment lasted";
        RepositoryUnreachable = "repository_unreachable", "no connection to the repository, or it broke off";
        RepositoryUntrusted = "repository_untrusted", "the server's TLS certificate is not the right one";
        RepositoryBusy = "repository_busy", "the repository asks for patience (429, 503)";
        RepositoryError = "repository_error", "the repository answers with an error";
        NotInRepository = "not_in_repository", "the repository does not have the file";
        RedirectRefused = "redirect_refused", "the repository sends the host elsewhere, too often or to an address that is not https";
        TooSlow = "too_slow", "the bytes come slower than the minimum rate";
        TooLong = "too_long", "the repository sends more bytes than the file may have";
        WrongRange = "wrong_range", "the repository sends another part of the package than was asked for";
        DownloadTooLarge = "download_too_large", "the package is larger than this host's configuration allows";
        DownloadDisk = "download_disk", "the host's disk does not take the download";
        UpdaterSilent = "updater_silent", "the updater did not take the release up, or forgot it";
    }
}
