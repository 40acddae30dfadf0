//! The hosts of `vectors/hosts/`: what each kind of host is made of, and how their fingerprints
//! compare. The agent's tests make the same components from the raw files beside them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

const FILES: [&str; 4] = [
    include_str!("../../vectors/hosts/metal.json"),
    include_str!("../../vectors/hosts/virtual.json"),
    include_str!("../../vectors/hosts/cloud.json"),
    include_str!("../../vectors/hosts/small.json"),
];

#[derive(Deserialize)]
struct Host {
    name: String,
    dmi: BTreeMap<String, String>,
    components: BTreeMap<String, Option<String>>,
}

impl Host {
    /// As it would come over the wire.
    fn components(&self) -> Components {
        let wire = |value: &Option<String>| match value {
            Some(value) => serde_json::json!({ "value": value }),
            None => serde_json::json!(UNAVAILABLE),
        };
        let json: serde_json::Map<_, _> = self
            .components
            .iter()
            .map(|(name, value)| (name.clone(), wire(value)))
            .collect();
        serde_json::from_value(json.into()).unwrap()
    }
}

fn corpus() -> Vec<Host> {
    let parse = |file: &&str| serde_json::from_str::<Vec<Host>>(file).unwrap();
    FILES.iter().flat_map(parse).collect()
}

fn host(name: &str) -> Components {
    let hosts = corpus();
    let found = hosts.iter().find(|host| host.name == name);
    found.unwrap_or_else(|| panic!("{name}")).components()
}

#[test]
fn each_kind_of_host_is_itself_and_survives_the_wire() {
    let hosts = corpus();
    assert!(hosts.len() >= 40, "{}", hosts.len());
    for host in hosts {
        let components = host.components();
        let json = serde_json::to_string(&components).unwrap();
        let again: Components = serde_json::from_str(&json).unwrap();
        assert_eq!(again, components, "{}", host.name);
        assert_eq!(again.verification_hash(), components.verification_hash());
        let verdict = compare(&components, &again).verdict;
        assert_eq!(verdict, Verdict::Verified, "{}", host.name);
    }
}

#[test]
fn no_two_hosts_have_one_fingerprint_unless_they_show_nothing_of_their_own() {
    let mut seen = BTreeMap::new();
    for host in corpus() {
        let components = host.components();
        if !components.has_primary() {
            continue;
        }
        let primary = (components.disk1.clone(), components.product_uuid.clone());
        let values = [primary.0.value(), primary.1.value()].map(|v| v.map(str::to_owned));
        if let Some(other) = seen.insert(values, host.name.clone()) {
            panic!("{} and {other} are one", host.name);
        }
    }
    assert!(seen.len() >= 40, "{}", seen.len());
}

#[test]
fn what_smbios_says_becomes_the_components_by_the_one_rule() {
    for host in corpus() {
        let raw = |name: &str| host.dmi.get(name).map_or("", String::as_str);
        let part = |name: &str| Component::from_raw(raw(name).as_bytes());
        if host.dmi.is_empty() {
            continue;
        }
        let components = host.components();
        let bios = ["sys_vendor", "product_name", "product_serial"].map(part);
        assert_eq!(components.bios, Component::join(&bios), "{}", host.name);
        let board = ["board_vendor", "board_name", "board_serial"].map(part);
        assert_eq!(components.board, Component::join(&board), "{}", host.name);
        let uuid = Component::from_raw_uuid(raw("product_uuid").as_bytes());
        assert_eq!(components.product_uuid, uuid, "{}", host.name);
    }
}

#[test]
fn hosts_without_anything_primary_are_few_and_known() {
    let without: Vec<String> = corpus()
        .into_iter()
        .filter(|host| !host.components().has_primary())
        .map(|host| host.name)
        .collect();
    assert_eq!(
        without,
        [
            "mini-pc-nothing-unique",
            "kvm-without-smbios-uuid",
            "xen-pv",
            "docker-on-a-cloud-server",
            "podman-without-machine-id",
            "lxd-on-zfs",
            "router-read-only-root",
        ]
    );
}

#[test]
fn an_operator_reads_what_changed() {
    let metal = host("dell-r640-sata-and-nvme");
    let now = Components {
        disk1: Component::from_raw(b"NEW"),
        board: Component::UNAVAILABLE,
        ..metal.clone()
    };
    assert_eq!(
        compare(&metal, &now).to_string(),
        "mismatch: disk1 replaced, board missing"
    );
}
