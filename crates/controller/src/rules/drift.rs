//! How the hardware of a host differs from the enrolled one, component by component, and since
//! when. For an operator: serial numbers are shown as the beginning of a hash.

use serde::Serialize;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::hardware::{ComponentName, Components, Weight, same};

/// Hexadecimal digits of a value's hash: enough to tell two disks apart, too few to search for.
const SHOWN_DIGITS: usize = 16;

/// A fingerprint that a host showed.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it came (RFC 3339).
    pub at: String,
    /// What it was.
    pub components: Components,
}

/// One component of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Which.
    pub component: ComponentName,
    /// What a change of it means.
    pub weight: Weight,
    /// The beginning of SHA-256 of the enrolled value, in hex; none when it was unavailable.
    pub enrolled: Option<String>,
    /// The same of the value that came last.
    pub present: Option<String>,
    /// How they compare.
    pub state: State,
    /// Since when the host shows the present value without a break.
    pub since: Option<String>,
    /// The enrolled value itself, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolled_value: Option<String>,
    /// The present value itself, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present_value: Option<String>,
}

/// How a component compares with the enrolled one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The same value.
    Equal,
    /// Another value.
    Replaced,
    /// The host does not show it any more.
    Missing,
    /// The host did not show it when it was enrolled: weighs nothing.
    WasUnavailable,
}

impl State {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Replaced => "replaced",
            Self::Missing => "missing",
            Self::WasUnavailable => "was unavailable",
        }
    }
}

/// Compares every component. `seen` is newest first; without any, the enrolled values are the
/// present ones.
#[must_use]
pub fn of(enrolled: &Components, seen: &[Seen], show_values: bool) -> Vec<Drift> {
    let present = seen.first().map_or(enrolled, |newest| &newest.components);
    ComponentName::ALL
        .into_iter()
        .map(|name| {
            let (was, is) = (enrolled.get(name), present.get(name));
            let state = match (was.value(), is.value()) {
                (None, _) => State::WasUnavailable,
                (Some(_), None) => State::Missing,
                (Some(_), Some(_)) if same(name, was, is) => State::Equal,
                (Some(_), Some(_)) => State::Replaced,
            };
            let value = |component: &Option<&str>| component.map(str::to_owned);
            Drift {
                component: name,
                weight: name.weight(),
                enrolled: was.value().map(short_hash),
                present: is.value().map(short_hash),
                state,
                since: seen
                    .iter()
                    .take_while(|row| row.components.get(name) == is)
                    .last()
                    .map(|row| row.at.clone()),
                enrolled_value: value(&was.value().filter(|_| show_values)),
                present_value: value(&is.value().filter(|_| show_values)),
            }
        })
        .collect()
}

fn short_hash(value: &str) -> String {
    let mut hash = Digest::of(&[value.as_bytes()]).to_string();
    hash.truncate(SHOWN_DIGITS);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpn_node_protocol::hardware::Component;

    fn seen(at: &str, disk1: &str, cpu1: &str) -> Seen {
        Seen {
            at: at.to_owned(),
            components: Components {
                disk1: Component::from_raw(disk1.as_bytes()),
                cpu1: Component::from_raw(cpu1.as_bytes()),
                disk2: Component::from_raw(b"NEW"),
                ..Components::default()
            },
        }
    }

    #[test]
    fn each_component_has_its_state_and_the_time_since_when_it_is_so() {
        let enrolled = Components {
            disk1: Component::from_raw(b"A"),
            cpu1: Component::from_raw(b"C"),
            board: Component::from_raw(b"B"),
            ..Components::default()
        };
        let rows = [
            seen("t5", "A", "K"),
            seen("t4", "A", "K"),
            seen("t3", "Z", "K"),
            seen("t2", "A", "K"),
            seen("t1", "A", "C"),
        ];
        let drift = of(&enrolled, &rows, false);
        let row = |name| drift.iter().find(|d| d.component == name).unwrap();
        let disk1 = row(ComponentName::Disk1);
        assert_eq!(disk1.state, State::Equal);
        assert_eq!(disk1.since.as_deref(), Some("t4"), "it was gone between");
        assert_eq!(disk1.enrolled.as_deref(), Some("559aead08264d579"));
        assert_eq!(disk1.enrolled, disk1.present);
        let cpu1 = row(ComponentName::Cpu1);
        assert_eq!(cpu1.state, State::Replaced);
        assert_eq!(cpu1.since.as_deref(), Some("t2"));
        assert_eq!(row(ComponentName::Board).state, State::Missing);
        assert_eq!(row(ComponentName::Board).since.as_deref(), Some("t1"));
        assert_eq!(row(ComponentName::Disk2).state, State::WasUnavailable);
        let json = serde_json::to_string(&drift).unwrap();
        assert!(!json.contains("value"), "{json}");

        let shown = of(&enrolled, &rows, true);
        assert_eq!(shown[0].present_value.as_deref(), Some("A"));
        let none = of(&enrolled, &[], false);
        assert!(none.iter().all(|d| d.since.is_none()));
        assert_eq!(none[0].state, State::Equal);
    }
}
