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
    /// Why the updater did not install, or went back ([`Self::as_str`]).
    UpdaterCode {
        // Before anything is installed.
        TrustMissing = "trust_missing", "no root metadata is trusted on this host yet";
        TrustExists = "trust_exists", "root metadata is trusted already, and replacing it was not asked for";
        IncomingUnsafe = "incoming_unsafe", "what the agent left is a link, a special file, or has a name that is not allowed";
        IncomingTooLarge = "incoming_too_large", "what the agent left is larger or more than any release";
        IncomingChanged = "incoming_changed", "what the agent left changed while it was copied";
        IncomingMissing = "incoming_missing", "a file that the request or the metadata names is not there";
        RequestInvalid = "request_invalid", "the request cannot be read, or does not fit what is signed";
        NoSpace = "no_space", "there is not enough room on a file system";
        ReadOnly = "read_only", "a file system is mounted read-only";
        DiskError = "disk_error", "the system refused to read or write a file";
        PackageManagerBusy = "package_manager_busy", "dpkg or rpm works at this moment";
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
