//! Targets metadata (section 4.5), top-level or delegated: which files exist, and who else may say
//! so for which paths.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::key::Signers;
use super::root::check_role_keys;
use super::{Extra, Flaw, Hashes, Header, Key, KeyId, Role, RoleKeys, hex, name};
use crate::limits::{MAX_KEYS, MAX_PATTERN_BYTES};

/// Targets metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// What every role has.
    #[serde(flatten)]
    pub header: Header,
    /// The files, by path.
    pub targets: BTreeMap<String, TargetFile>,
    /// Other roles, and what they may speak about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What is signed about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFile {
    /// Its length in bytes.
    pub length: u64,
    /// Its hashes.
    pub hashes: Hashes,
    /// What the application says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Map<String, Value>>,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Roles that speak for some of the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegations {
    /// Their public keys, by id.
    pub keys: BTreeMap<KeyId, Key>,
    /// Them, the most trusted first.
    pub roles: Vec<DelegatedRole>,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One role that speaks for some of the paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// Its name; its metadata is `NAME.json`.
    pub name: String,
    /// Who signs for it.
    #[serde(flatten)]
    pub keys: RoleKeys,
    /// After it, nobody else is asked about a path that it speaks for.
    #[serde(default)]
    pub terminating: bool,
    /// Patterns of the paths that it speaks for (`*` and `?` do not match `/`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Or: beginnings of the SHA-256 of those paths, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hash_prefixes: Option<Vec<String>>,
}

impl Targets {
    /// Targets metadata without files.
    #[must_use]
    pub fn new(version: u64, issued: jiff::Timestamp, expires: jiff::Timestamp) -> Self {
        Self {
            header: Header::new::<Self>(version, issued, expires),
            targets: BTreeMap::new(),
            delegations: None,
            extra: Extra::new(),
        }
    }
}

impl Delegations {
    /// Who signs for `role`.
    #[must_use]
    pub fn signers<'a>(&'a self, role: &'a DelegatedRole) -> Signers<'a> {
        Signers::new(&role.keys.keyids, role.keys.threshold, &self.keys)
    }
}

impl DelegatedRole {
    /// Whether it may speak about `path`.
    #[must_use]
    pub fn speaks_for(&self, path: &str) -> bool {
        match (&self.paths, &self.path_hash_prefixes) {
            (Some(patterns), None) => patterns.iter().any(|pattern| matches(pattern, path)),
            (None, Some(prefixes)) => {
                let digest = hex(&Sha256::digest(path));
                prefixes
                    .iter()
                    .any(|prefix| digest.starts_with(&prefix.to_ascii_lowercase()))
            }
            // Neither: nothing. Both: refused by `check`.
            _ => false,
        }
    }
}

impl Role for Targets {
    const TYPE: &'static str = "targets";

    fn header(&self) -> &Header {
        &self.header
    }

    fn check(&self) -> Result<(), Flaw> {
        let Some(delegations) = &self.delegations else {
            return Ok(());
        };
        if delegations.keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys of delegations").into());
        }
        let mut names = BTreeSet::new();
        for role in &delegations.roles {
            let shown = role.name.escape_debug();
            if !name::is_delegable(&role.name) {
                return Err(format!("a delegated role may not be called \"{shown}\"").into());
            }
            // 4.5: "The rolename MUST be unique in the delegations object".
            if !names.insert(&role.name) {
                return Err(format!("two delegated roles are called \"{shown}\"").into());
            }
            check_role_keys(&role.name, &role.keys)?;
            // 4.5: "exactly one of them should be set".
            if role.paths.is_some() && role.path_hash_prefixes.is_some() {
                return Err(format!("\"{shown}\" has both paths and path_hash_prefixes").into());
            }
            let patterns = role.paths.iter().flatten();
            if patterns
                .into_iter()
                .any(|pattern| pattern.len() > MAX_PATTERN_BYTES)
            {
                return Err(format!(
                    "\"{shown}\" has a pattern of more than {MAX_PATTERN_BYTES} bytes"
                )
                .into());
            }
        }
        Ok(())
    }
}

/// PATHPATTERN of section 4.5: `*` and `?` match within one name, never a `/`.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut names) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), names.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) if glob(pattern, name) => {}
            _ => return false,
        }
    }
}

/// One name against one pattern: the last `*` is the only place to try again from, so the time is
/// at most pattern times name.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, tried)) => {
                    star = Some((at, tried + 1));
                    p = at + 1;
                    n = tried + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_specification_shows() {
        for (pattern, path, expected) in [
            ("targets/*.tgz", "targets/foo.tgz", true),
            ("targets/*.tgz", "targets/foo.txt", false),
            ("foo-version-?.tgz", "foo-version-2.tgz", true),
            ("foo-version-?.tgz", "foo-version-alpha.tgz", false),
            ("*.tgz", "foo.tgz", true),
            ("*.tgz", "targets/foo.tgz", false),
            ("foo.tgz", "foo.tgz", true),
            ("foo.tgz", "Foo.tgz", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("**", "a", true),
            ("a*b*c", "axxbyybzzc", true),
            ("a*b*c", "axxbyybzz", false),
            ("?", "ü", true),
            ("[ab]", "a", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_of_stars_does_not_take_for_ever() {
        let stars = "*a".repeat(MAX_PATTERN_BYTES / 2);
        assert!(!matches(&stars, &"a".repeat(250)));
    }

    #[test]
    fn hash_prefixes_speak_for_the_paths_whose_hash_begins_so() {
        let digest = hex(&Sha256::digest("a/b"));
        let mut role = DelegatedRole {
            name: "bin".to_owned(),
            keys: RoleKeys::new(&[], 1),
            terminating: false,
            paths: None,
            path_hash_prefixes: Some(vec![digest[..2].to_owned()]),
        };
        assert!(role.speaks_for("a/b"));
        role.path_hash_prefixes = Some(vec![digest.replace(&digest[..1], "g")]);
        assert!(!role.speaks_for("a/b"));
        role.path_hash_prefixes = None;
        assert!(!role.speaks_for("a/b"), "neither: nothing");
    }
}
