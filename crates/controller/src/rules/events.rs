//! The catalogue of security events: every type there is, with how bad it is, which part of the
//! controller sees it, what it means and what an operator does about it.
//!
//! An event is recorded with a type of this list and nothing else, `events list --type` takes its
//! words, `events show` its sentences, and `docs/events.md` is compared with it.

use std::fmt::Write as _;

/// Makes the enum and its table out of one list, so that no type is in only one of them.
macro_rules! catalogue {
    ($($name:ident, $word:literal, $severity:ident, $component:literal, $meaning:literal, $to_do:literal;)*) => {
        /// A type of security event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EventType {
            $(#[doc = $meaning] $name,)*
        }

        impl EventType {
            /// All of them, in the order of the documentation: the gravest first.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn entry(self) -> &'static Entry {
                match self {
                    $(Self::$name => &Entry {
                        word: $word,
                        severity: Severity::$severity,
                        component: $component,
                        meaning: $meaning,
                        to_do: $to_do,
                    },)*
                }
            }
        }
    };
}

catalogue! {
    CloneSuspected, "clone_suspected", High, "chain",
        "Two holders of one identity spoke, or a snapshot of the host was restored: both are stopped.",
        "Find out which of the two is right: `server resolve-clone` shows both and keeps one; or give the host a new identity with `registration-key create --server`.";
    CopyWitnessed, "copy_witnessed", High, "chain",
        "An old copy of a host, or a host that was set back far, proved with a fresh signature that it is live: both holders are stopped.",
        "Find the machine at the address that the event names and stop it; then keep the right holder with `server resolve-clone`, which gives it a new key.";
    RetiredKeyUsed, "retired_key_used", High, "api",
        "A message was signed with an identity key that its host has since replaced.",
        "Look for a copy of the host from before the rotation, or for recorded traffic; if this is the right host, give it a new identity with `registration-key create --server`.";
    HardwareMismatch, "hardware_mismatch", High, "verification",
        "The identity runs on other hardware than that of its enrolment, and is not authorised there.",
        "If you moved it, `server permit-rehost`, or give it a new identity with `registration-key create --server`; if not, look for a copy of its disk.";
    RevocationNotEnforced, "revocation_not_enforced", High, "connections",
        "A host did not end a connection whose device or personal key is revoked.",
        "Read the host's reason in the event, and end the session at its VPN daemon; an older agent must be updated. The host is asked again.";
    RolloutHalted, "rollout_halted", High, "rollout",
        "A rollout stopped by itself: too many hosts ended badly, a canary did, or the release was taken back.",
        "See `rollout status`; then `rollout resume`, or `rollout abort` and publish a better release.";
    HostMetadataStale, "host_metadata_stale", High, "rollout",
        "A host has had no fresh release metadata for more than seven days: somebody withholds it, or it cannot reach the repository.",
        "Compare the metadata that the controller serves (`release show`) with what the host gets, and look at what lies between them.";
    RegistrationKeyReuse, "registration_key_reuse", High, "api",
        "A second host asked to be enrolled with a used token: somebody has a copy of it.",
        "Look at the server that the token enrolled: it may be the wrong one of the two.";
    RegistrationKeyRevokedUsed, "registration_key_revoked_used", High, "api",
        "A host asked to be enrolled with a revoked token, and was refused.",
        "Find out who holds the token; a host of yours needs a new one.";
    ReleaseRowMismatch, "release_row_mismatch", High, "releases",
        "A row of the table of releases says other things than what is signed: it is refused, and no host was told of it.",
        "Find out who changed the database; `release republish` gives the release a row of its own again.";
    ReleaseRefreshFailed, "release_refresh_failed", High, "releases",
        "Snapshot and timestamp of the releases could not be renewed, or what is published is not what a host would take.",
        "Do what the event says, then `release refresh`: hosts take no news a week after the last one.";
    ReleaseMetadataExpires, "release_metadata_expires", High, "releases",
        "The root or the list of releases ends within 30 days, or has ended: hosts take no news after that.",
        "`release renew root` or `release renew targets`, then have it signed.";
    KeyIntroduced, "key_introduced", Medium, "identity",
        "A host speaks with a key that this database did not know, and proved that the controller had accepted it before.",
        "Nothing after a restored backup or a failover; else examine the disk of the database.";
    ServerReenrolled, "server_reenrolled", Medium, "enrolment",
        "A host was enrolled again as the server that it was, with a new identity key.",
        "Nothing, if an operator made the token for it (`registration-key create --server`); else revoke the server.";
    ServerRevoked, "server_revoked", Medium, "operator",
        "An operator revoked a server: it is refused for ever.",
        "Nothing, if you know why; else ask who did it.";
    RevokedServerSpoke, "revoked_server_spoke", Medium, "api",
        "A revoked server sent a message, and was refused.",
        "Stop the agent on the host, or find out who runs it.";
    DeviceRevoked, "device_revoked", Medium, "operator",
        "An operator revoked a device: its connections are ended, now and whenever it comes back.",
        "Nothing, if you know why; else ask who did it.";
    PersonalKeyRevoked, "personal_key_revoked", Medium, "operator",
        "An operator revoked a personal key: the connections of all its devices are ended, now and whenever one comes back.",
        "Nothing, if you know why; else ask who did it.";
    RevokedDeviceConnected, "revoked_device_connected", Medium, "connections",
        "A device was connected that is revoked, or whose personal key is revoked or over; the host was asked to end that.",
        "Take its certificate, key or account out of the VPN daemon's own configuration, or it will dial again.";
    CloneResolved, "clone_resolved", Medium, "chain",
        "The holder that an operator kept uses its new key: the other one is refused for ever.",
        "Make sure that the other one is off: it has the same disk.";
    RehostPermitted, "rehost_permitted", Medium, "operator",
        "An operator permitted a host to go on with other hardware for a while (`server permit-rehost`).",
        "Nothing, if you know why; else ask who did it.";
    RehostCompleted, "rehost_completed", Medium, "verification",
        "A host whose move was permitted was verified on its new hardware, which counts from now on.",
        "Make sure that the old machine is off or wiped.";
    RegistrationKeyExpiredUsed, "registration_key_expired_used", Medium, "api",
        "A host asked to be enrolled with an expired token, and was refused.",
        "Find out who kept the token beyond its time; a host of yours needs a new one.";
    RegistrationKeyPresentedRevoked, "registration_key_presented_revoked", Medium, "api",
        "A revoked token was shown in a greeting.",
        "Find out who still holds it; a host of yours needs a new one.";
    RegistrationKeyPresentedExpired, "registration_key_presented_expired", Medium, "api",
        "An expired token was shown in a greeting.",
        "Find out who kept it beyond its time; a host of yours needs a new one.";
    RegistrationKeyUnknown, "registration_key_unknown", Medium, "api",
        "A host asked to be enrolled with a token that this controller does not know.",
        "It is another controller's, guessed, or made after the backup that was restored: make a new one if the host is yours.";
    BadSignature, "bad_signature", Medium, "api",
        "A message in the name of a host does not verify: it was forged, or changed on the way.",
        "Look at the address it came from, and at what stands between the host and the controller.";
    WrongType, "wrong_type", Medium, "api",
        "A message of a known host has a type that does not belong there.",
        "Compare the versions of agent and controller; if they fit, somebody tries things out.";
    BadPayload, "bad_payload", Medium, "api",
        "A signed directive request of a known host does not parse.",
        "Compare the versions of agent and controller; if they fit, examine the host.";
    MessageForAnotherServer, "message_for_another_server", Medium, "api",
        "A host signed a message in the name of another server or key epoch.",
        "Examine the host.";
    ConnectionOfAnotherServer, "connection_of_another_server", Medium, "connections",
        "A host reported connections that belong to another server; they were not touched.",
        "Examine the host.";
    ReplayedRequest, "replayed_request", Medium, "api",
        "A request that was accepted before, or is older than the controller remembers, came again, and changed nothing.",
        "Look at what ends TLS between host and controller, and whether the host was restored from an old snapshot.";
    ReplayedPoll, "replayed_poll", Medium, "api",
        "A directive request that was answered before came again.",
        "Look at what ends TLS between host and controller.";
    ConnectionGap, "connection_gap", Medium, "connections",
        "A host lost connection records.",
        "Look at its disk and its `max_bytes`; expected after a restored backup.";
    UpdateRolledBack, "update_rolled_back", Medium, "rollout",
        "A release ran badly on a host, and the host went back to the version before by itself.",
        "Read the reason in the event; the host does not try that version again for a while.";
    UpdateFailed, "update_failed", Medium, "rollout",
        "A host did not install a release: it refused it, has it blocked, or could not.",
        "Read the reason in the event (`/usr/share/doc/vpn-node-controller/releases.md` has the codes) and `rollout status`.";
    UpdateReportIgnored, "update_report_ignored", Medium, "rollout",
        "A host said of updates what cannot be: a deployment that is not its own or not yet handed out, another version, impossible sizes.",
        "Nothing after a restored backup; else compare the versions of agent and controller, and examine the host.";
    ControllerStateRollback, "controller_state_rollback", Medium, "chain",
        "A host is ahead of this database and proved it with the controller's own signature.",
        "Nothing after a restored backup or a failover; else examine the disk of the database.";
    IntroductionRefused, "introduction_refused", Medium, "api",
        "Somebody claimed a new identity key for a server without proof.",
        "After a restored backup: a host that was given a new identity since needs a token of `registration-key create --server`. Else look at the address.";
    OtherHolderRefused, "other_holder_refused", Medium, "api",
        "The holder of an identity that an operator did not keep spoke, and was refused.",
        "Stop and erase that machine; if it is the right one, enrol it with a token of `registration-key create --server`.";
    HardwareChanged, "hardware_changed", Low, "verification",
        "A secondary component of a host is another one than before, or the enrolled hardware is back; the verdict stays.",
        "Nothing, if the machine was repaired or updated; else look at it.";
    ReleasePublished, "release_published", Low, "releases",
        "The list of releases changed: a release came, was published again or was revoked.",
        "Nothing, if you know why; else ask who signed it.";
    KeyRotated, "key_rotated", Low, "identity",
        "A host replaced its identity key, signed by the old one, which is dead now.",
        "Nothing.";
    PersonalKeyExpired, "personal_key_expired", Low, "devices",
        "The time of a personal key is over: the connections of its devices are ended.",
        "Nothing, or renew it: `personal-key rotate --expires`.";
    RehostPermitWithdrawn, "rehost_permit_withdrawn", Low, "operator",
        "An operator took a permit for other hardware back (`server permit-rehost --for 0`).",
        "Nothing, if you know why; else ask who did it.";
    ServerApproved, "server_approved", Low, "operator",
        "An operator let a waiting host in.",
        "Nothing, if you know why; else ask who did it.";
    RegistrationKeyPresentedAgain, "registration_key_presented_again", Low, "api",
        "A used token was shown in a greeting.",
        "Nothing, if the same host repeated its enrolment just then; else somebody holds a copy.";
    EnrolmentRefused, "enrolment_refused", Low, "api",
        "An enrolment was malformed or late.",
        "Run `vpn-node enroll` again.";
    UnknownKey, "unknown_key", Low, "api",
        "A message came from a host that this controller does not know.",
        "If the host is yours, enrol it.";
    StalePoll, "stale_poll", Low, "api",
        "A directive request repeats neither of the last two nonces.",
        "Nothing, unless it goes on.";
    UnreadableRequest, "unreadable_request", Low, "api",
        "Something came that is no message of the protocol.",
        "Nothing: scanners do it.";
}

/// What is said of a type.
struct Entry {
    word: &'static str,
    severity: Severity,
    component: &'static str,
    meaning: &'static str,
    to_do: &'static str,
}

impl EventType {
    /// `security_events.event_type`: never changes.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.entry().word
    }

    /// How bad.
    #[must_use]
    pub fn severity(self) -> Severity {
        self.entry().severity
    }

    /// `security_events.component`: which part of the controller sees it.
    #[must_use]
    pub fn component(self) -> &'static str {
        self.entry().component
    }

    /// One sentence: what it means.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.entry().meaning
    }

    /// One sentence: what an operator does about it.
    #[must_use]
    pub fn what_to_do(self) -> &'static str {
        self.entry().to_do
    }

    /// The type of a word; `None` for one that this version does not know.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.word() == word)
    }
}

/// The catalogue as the table of `docs/events.md`.
#[must_use]
pub fn table() -> String {
    let mut table = String::from(
        "| type | severity | component | meaning | what to do |\n|---|---|---|---|---|\n",
    );
    for one in EventType::ALL {
        let Entry {
            word,
            severity,
            component,
            meaning,
            to_do,
        } = one.entry();
        let severity = severity.as_str();
        writeln!(
            table,
            "| `{word}` | {severity} | {component} | {meaning} | {to_do} |"
        )
        .expect("a string takes everything");
    }
    table
}

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Worth a line.
    Low,
    /// Worth a look.
    Medium,
    /// Somebody must act.
    High,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Low, Self::Medium, Self::High];

    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_documentation_has_exactly_this_catalogue() {
        let page = include_str!("../../../../docs/events.md");
        let documented: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
        let ours = table();
        let ours: Vec<&str> = ours.lines().collect();
        for line in &ours {
            assert!(documented.contains(line), "docs/events.md lacks: {line}");
        }
        for line in &documented {
            assert!(ours.contains(line), "only docs/events.md has: {line}");
        }
        assert_eq!(ours, documented, "the order differs");
    }

    #[test]
    fn words_are_stable_in_form_and_read_back_and_sentences_are_sentences() {
        let mut words = HashSet::new();
        for &one in EventType::ALL {
            let word = one.word();
            assert!(words.insert(word), "{word} twice");
            assert!(
                word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{word}"
            );
            assert_eq!(EventType::from_word(word), Some(one));
            for sentence in [one.meaning(), one.what_to_do()] {
                assert!(sentence.ends_with('.'), "{word}: {sentence}");
                assert!(!sentence.contains(['|', '\n']), "{word}: {sentence}");
            }
        }
        assert_eq!(EventType::from_word("no_such_event"), None);
    }
}
