//! What to do about a file of the state directory that cannot be used. Which advice is right depends
//! on the file: an older place in the chain is what a copy of this host has, and is treated as one.

use std::path::Path;

use super::change::NEXT_ENROLMENT;
use super::format::FILE as FORMAT;
use super::identity::{IDENTITY, NEXT_IDENTITY};
use super::sessions::SNAPSHOT;
use super::{ENROLMENT, LANE, PENDING};

/// The way back that always works, as the end of a sentence.
pub(super) const ENROL_ANEW: &str = "make a token for the same server on the controller ('vpn-node-controller registration-key create --server NAME'), and run 'vpn-node enroll' here";

/// What to do when the file at `path` is missing or damaged.
pub(super) fn about(path: &Path) -> String {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(LANE) => format!(
            "do not restore it from a backup, since an older place in the chain looks like a copy of this host, and is quarantined. Enrol this host anew: {ENROL_ANEW}"
        ),
        Some(IDENTITY | NEXT_IDENTITY | ENROLMENT | NEXT_ENROLMENT) => format!(
            "restore this one file from a backup that was made since this host's key last changed, and never {LANE} with it (an older one looks like a copy of this host); or enrol this host anew: {ENROL_ANEW}"
        ),
        Some(PENDING) => {
            "remove it, and run 'vpn-node enroll' again, with a new token if the first one is spent"
                .to_owned()
        }
        Some(SNAPSHOT) => {
            "move it away; the connections that are open now are then recorded as new ones"
                .to_owned()
        }
        Some(FORMAT) => {
            "if no newer version of vpn-node has run here, remove it: the agent writes it anew"
                .to_owned()
        }
        _ => format!("enrol this host anew: {ENROL_ANEW}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::StateError;
    use super::*;

    fn said_of(name: &str) -> String {
        let path = Path::new("/state").join(name);
        let why = "the file is missing".to_owned();
        StateError::Damaged { path, why }.to_string()
    }

    #[test]
    fn a_lost_place_in_the_chain_is_never_to_be_restored() {
        let text = said_of(LANE);
        assert!(text.contains("do not restore it from a backup"), "{text}");
        assert!(text.contains("create --server NAME"), "{text}");
        let mixed = StateError::Mixed {
            path: Path::new("/state").join(LANE),
        };
        assert!(!mixed.to_string().contains("restore"), "{mixed}");
    }

    #[test]
    fn what_may_be_restored_comes_back_without_the_chain() {
        for name in [IDENTITY, NEXT_IDENTITY, ENROLMENT, NEXT_ENROLMENT] {
            let text = said_of(name);
            assert!(text.contains("restore this one file"), "{text}");
            assert!(text.contains("never chain.slots"), "{text}");
            assert!(text.contains("create --server NAME"), "{text}");
        }
    }

    #[test]
    fn no_new_identity_is_asked_for_where_a_file_can_go() {
        for name in [PENDING, SNAPSHOT, FORMAT] {
            let text = said_of(name);
            assert!(!text.contains("--server"), "{text}");
            assert!(text.contains("remove it") || text.contains("move it away"));
        }
    }
}
