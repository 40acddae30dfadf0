//! Names from outside. A role name or a target path is never a path until it went through here:
//! everything but unreserved characters (RFC 3986, section 2.3) is percent-encoded, so `../x` is
//! one file called `..%2Fx`.

use std::fmt::Write as _;

use crate::limits::{MAX_ROLE_NAME_BYTES, MAX_TARGET_PATH_BYTES};

/// The file name of a role's metadata, as it is asked for and stored: `NAME.json` or
/// `VERSION.NAME.json`.
#[must_use]
pub fn file_name(role: &str, version: Option<u64>) -> String {
    let role = percent_encode(role);
    match version {
        Some(version) => format!("{version}.{role}.json"),
        None => format!("{role}.json"),
    }
}

/// Everything but `A-Z a-z 0-9 - . _ ~` as `%XX`.
#[must_use]
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Whether a delegated role may have this name: not empty, not too long, not one of the four.
#[must_use]
pub fn is_delegable(role: &str) -> bool {
    !role.is_empty()
        && role.len() <= MAX_ROLE_NAME_BYTES
        && !matches!(role, "root" | "timestamp" | "snapshot" | "targets")
}

/// Whether a target may have this path: relative, `/` between names, no name empty, `.` or `..`, no
/// control character, no backslash.
#[must_use]
pub fn is_target_path(path: &str) -> bool {
    path.len() <= MAX_TARGET_PATH_BYTES
        && !path.chars().any(|c| c.is_control() || c == '\\')
        && path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// Where a target lies below the base URL: percent-encoded, with `HASH.` before the last name under
/// consistent snapshots (section 5.7.3): `vpn-node/1.5.0/HASH.linux-amd64.tar.zst`.
#[must_use]
pub fn target_url_path(path: &str, hash: Option<&str>) -> String {
    let (folder, name) = match path.rsplit_once('/') {
        Some((folder, name)) => (Some(folder), name),
        None => (None, path),
    };
    let mut out = String::new();
    for part in folder.into_iter().flat_map(|folder| folder.split('/')) {
        out.push_str(&percent_encode(part));
        out.push('/');
    }
    if let Some(hash) = hash {
        out.push_str(hash);
        out.push('.');
    }
    out.push_str(&percent_encode(name));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_target_in_a_sub_directory_has_its_hash_before_the_last_name() {
        assert_eq!(target_url_path("a/b c/d.e", Some("ff")), "a/b%20c/ff.d.e");
        assert_eq!(target_url_path("a/b", None), "a/b");
        assert_eq!(target_url_path("a", Some("ff")), "ff.a");
    }

    #[test]
    fn paths_that_lead_elsewhere_are_no_target_paths() {
        for good in ["a", "vpn-node/1.5.0/linux-amd64.tar.zst", "a/...", "ü"] {
            assert!(is_target_path(good), "{good}");
        }
        for bad in [
            "", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\n", "a\0",
        ] {
            assert!(!is_target_path(bad), "{bad:?}");
        }
        assert!(!is_target_path(&"a".repeat(MAX_TARGET_PATH_BYTES + 1)));
    }

    #[test]
    fn a_delegated_role_does_not_take_the_name_of_a_top_level_role() {
        for bad in ["", "root", "timestamp", "snapshot", "targets"] {
            assert!(!is_delegable(bad), "{bad}");
        }
        assert!(is_delegable("../root"));
        assert_eq!(file_name("../root", Some(1)), "1...%2Froot.json");
    }

    proptest! {
        #[test]
        fn no_role_name_leaves_its_directory(role in any::<String>()) {
            let name = file_name(&role, None);
            prop_assert!(!name.contains(['/', '\0']) && name != "." && name != "..");
            prop_assert!(name.is_ascii());
            if is_delegable(&role) {
                prop_assert!(name.len() <= 255);
            }
        }
    }
}
