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
