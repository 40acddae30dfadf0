//! What a difference between two fingerprints means.
//!
//! | at enrolment | now | primary (disk1, product_uuid) | secondary (the others) |
//! |---|---|---|---|
//! | unavailable | anything | weighs nothing | weighs nothing |
//! | a value | the same value | equal | equal |
//! | a value | another value | mismatch | warning |
//! | a value | unavailable | mismatch | warning |
//!
//! A primary component that vanished counts like another one: otherwise a copy could pass by hiding
//! what gives it away. The agent therefore reads its host the same way at enrolment and later.

use std::fmt;

use serde::{Deserialize, Serialize};

use uuid::Uuid;

use super::{Component, ComponentName, Components, Weight};

/// Compares what a host has `now` with what it had when it was `enrolled`.
#[must_use]
pub fn compare(enrolled: &Components, now: &Components) -> Comparison {
    let changed: Vec<Change> = ComponentName::ALL
        .into_iter()
        .filter_map(|name| change_of(name, enrolled, now))
        .collect();
    let verdict = if changed.iter().any(|c| c.weight == Weight::Primary) {
        Verdict::Mismatch
    } else if changed.is_empty() {
        Verdict::Verified
    } else {
        Verdict::VerifiedWithWarning
    };
    Comparison { verdict, changed }
}

fn change_of(name: ComponentName, enrolled: &Components, now: &Components) -> Option<Change> {
    enrolled.get(name).value()?;
    let kind = match now.get(name).value() {
        Some(_) if same(name, enrolled.get(name), now.get(name)) => return None,
        Some(_) => ChangeKind::Replaced,
        None => ChangeKind::Missing,
    };
    Some(Change {
        component: name,
        weight: name.weight(),
        kind,
    })
}

/// Whether two values of a component are the same thing. A system UUID has two spellings: SMBIOS 2.6
/// (section 7.2.1) turned the byte order of its first three fields, so an update of the firmware, or
/// of a virtual machine's hardware version, may show the same UUID in the other one.
#[must_use]
pub fn same(name: ComponentName, one: &Component, other: &Component) -> bool {
    let uuid = |component: &Component| component.value().and_then(|v| Uuid::try_parse(v).ok());
    one == other
        || name == ComponentName::ProductUuid
            && uuid(one).is_some_and(|one| {
                uuid(other).is_some_and(|other| one.to_bytes_le() == *other.as_bytes())
            })
}

/// The outcome of [`compare`]. Holds no serial numbers, so it may be stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// What it means for the host.
    pub verdict: Verdict,
    /// What differs, in the order of [`ComponentName::ALL`].
    pub changed: Vec<Change>,
}

/// What a comparison means for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing that was known at enrolment changed.
    Verified,
    /// Only secondary components changed: authorised, and the warning names them.
    VerifiedWithWarning,
    /// A primary component changed: not authorised until an operator permits the rehost.
    Mismatch,
}

/// One component that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which one.
    pub component: ComponentName,
    /// What that says.
    pub weight: Weight,
    /// How it differs.
    pub kind: ChangeKind,
}

/// How a component differs from the enrolled one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// There is another value.
    Replaced,
    /// The host no longer reports it: removed, or no longer readable.
    Missing,
}

/// For an operator: `mismatch: disk1 replaced, board missing`.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            Verdict::Verified => "verified",
            Verdict::VerifiedWithWarning => "verified with a warning",
            Verdict::Mismatch => "mismatch",
        })?;
        for (i, change) in self.changed.iter().enumerate() {
            let kind = match change.kind {
                ChangeKind::Replaced => "replaced",
                ChangeKind::Missing => "missing",
            };
            let lead = if i == 0 { ": " } else { ", " };
            write!(f, "{lead}{} {kind}", change.component.as_str())?;
        }
        Ok(())
    }
}
