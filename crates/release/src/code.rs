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
