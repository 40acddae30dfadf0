//! The hardware fingerprint of a host: what it is made of, its hash, and how two of them compare.
//!
//! Pure: the agent fills [`Components`] from its host, the controller compares them with those of
//! the enrolment. A fingerprint detects drift (a disk image moved to another machine, a rehost). It
//! is **not** attestation: root on a live host can answer whatever it likes.
//!
//! Every value is normalised by one rule ([`Component::from_raw`]), so that both sides and any
//! second implementation get the same hash; `vectors/hardware.json` holds the test vectors.

mod compare;
mod component;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod vectors;

pub use compare::{Change, ChangeKind, Comparison, Verdict, compare, same};
pub use component::{Component, ComponentError, MAX_COMPONENT_LEN, MAX_JOIN_PARTS};

use serde::{Deserialize, Serialize};

use crate::encoding::Digest;

/// What stands in the hashed text for a component that the host does not have.
///
/// No component can have this value: a host that reports the word is treated as reporting nothing.
pub const UNAVAILABLE: &str = "unavailable";

/// The fingerprint of one host. Serial numbers are inside: seal it before it leaves the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Components {
    /// Serial (or WWID) of the disk which holds `/`. Primary.
    pub disk1: Component,
    /// Serial (or WWID) of the next fixed disk.
    pub disk2: Component,
    /// Vendor, family, model, stepping and name of the first CPU package.
    pub cpu1: Component,
    /// The same of the second CPU package.
    pub cpu2: Component,
    /// System vendor, product name and product serial (SMBIOS type 1). No firmware version.
    pub bios: Component,
    /// Board vendor, name and serial (SMBIOS type 2).
    pub board: Component,
    /// The system UUID (SMBIOS type 1). Primary.
    pub product_uuid: Component,
    /// An application-specific HMAC of `/etc/machine-id`, never the machine id itself.
    pub machine_id: Component,
}

impl Components {
    /// SHA-256 of `disk1|disk2|cpu1|cpu2|bios`, with [`UNAVAILABLE`] for absent ones.
    ///
    /// No value contains `|`, so two different fingerprints never give the same text.
    #[must_use]
    pub fn verification_hash(&self) -> Digest {
        Digest::of(&[self.hashed_text().as_bytes()])
    }

    /// False for a host with neither a disk serial nor a product UUID. Such a host can only ever
    /// be verified with a warning, so its enrolment says so.
    #[must_use]
    pub fn has_primary(&self) -> bool {
        ComponentName::ALL
            .iter()
            .any(|name| name.weight() == Weight::Primary && self.get(*name).is_available())
    }

    /// The component called `name`.
    #[must_use]
    pub fn get(&self, name: ComponentName) -> &Component {
        match name {
            ComponentName::Disk1 => &self.disk1,
            ComponentName::Disk2 => &self.disk2,
            ComponentName::Cpu1 => &self.cpu1,
            ComponentName::Cpu2 => &self.cpu2,
            ComponentName::Bios => &self.bios,
            ComponentName::Board => &self.board,
            ComponentName::ProductUuid => &self.product_uuid,
            ComponentName::MachineId => &self.machine_id,
        }
    }

    fn hashed_text(&self) -> String {
        [&self.disk1, &self.disk2, &self.cpu1, &self.cpu2, &self.bios]
            .map(|component| component.value().unwrap_or(UNAVAILABLE))
            .join("|")
    }
}

/// Which component: the wire name is the field name of [`Components`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described at the fields of Components")]
pub enum ComponentName {
    Disk1,
    Disk2,
    Cpu1,
    Cpu2,
    Bios,
    Board,
    ProductUuid,
    MachineId,
}

impl ComponentName {
    /// All of them, in the order in which changes are listed.
    pub const ALL: [Self; 8] = [
        Self::Disk1,
        Self::Disk2,
        Self::Cpu1,
        Self::Cpu2,
        Self::Bios,
        Self::Board,
        Self::ProductUuid,
        Self::MachineId,
    ];

    /// The wire name, e.g. `product_uuid`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk1 => "disk1",
            Self::Disk2 => "disk2",
            Self::Cpu1 => "cpu1",
            Self::Cpu2 => "cpu2",
            Self::Bios => "bios",
            Self::Board => "board",
            Self::ProductUuid => "product_uuid",
            Self::MachineId => "machine_id",
        }
    }

    /// How much a change of this component says.
    #[must_use]
    pub fn weight(self) -> Weight {
        match self {
            Self::Disk1 | Self::ProductUuid => Weight::Primary,
            _ => Weight::Secondary,
        }
    }
}

/// How much a change of a component says about the identity of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// A change means another machine until an operator permits the rehost.
    Primary,
    /// A change is repair or upgrade: verified, with a warning that names it.
    Secondary,
}

impl Weight {
    /// The text on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

/// The column `hardware_verification_status` of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HardwareStatus {
    /// Not verified yet.
    Pending,
    /// The fingerprint is that of the enrolment (perhaps with a warning).
    Verified,
    /// The last attempt gave no usable fingerprint.
    Failed,
    /// A primary component changed.
    Mismatch,
}

impl HardwareStatus {
    /// The text in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Failed => "failed",
            Self::Mismatch => "mismatch",
        }
    }
}

impl From<Verdict> for HardwareStatus {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Verified | Verdict::VerifiedWithWarning => Self::Verified,
            Verdict::Mismatch => Self::Mismatch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_agree_with_serde() {
        for name in ComponentName::ALL {
            let json = serde_json::to_value(name).unwrap();
            assert_eq!(json, name.as_str());
            let components = serde_json::to_value(Components::default()).unwrap();
            assert_eq!(components[name.as_str()], UNAVAILABLE);
        }
        for weight in [Weight::Primary, Weight::Secondary] {
            assert_eq!(serde_json::to_value(weight).unwrap(), weight.as_str());
        }
        for status in [
            HardwareStatus::Pending,
            HardwareStatus::Verified,
            HardwareStatus::Failed,
            HardwareStatus::Mismatch,
        ] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }

    #[test]
    fn a_fingerprint_with_a_missing_component_is_refused() {
        let mut json = serde_json::to_value(Components::default()).unwrap();
        json.as_object_mut().unwrap().remove("disk1");
        assert!(serde_json::from_value::<Components>(json).is_err());
    }

    #[test]
    fn either_primary_component_is_enough() {
        let mut components = Components {
            bios: Component::from_raw(b"Dell"),
            ..Components::default()
        };
        assert!(!components.has_primary());
        components.disk1 = Component::from_raw(b"S1");
        assert!(components.has_primary());
    }
}
