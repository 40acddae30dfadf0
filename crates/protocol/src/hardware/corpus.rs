//! Fingerprints as real kinds of hosts give them, and what must and must not move their verdict.

use super::*;

struct Host {
    kind: &'static str,
    components: Components,
    has_primary: bool,
}

fn raw(text: &str) -> Component {
    Component::from_raw(text.as_bytes())
}

fn smbios(vendor: &str, name: &str, serial: &str) -> Component {
    Component::join(&[raw(vendor), raw(name), raw(serial)])
}

fn uuid(text: &str) -> Component {
    Component::from_raw_uuid(text.as_bytes())
}

fn corpus() -> Vec<Host> {
    let mid = raw("0f7d9e2c4b6a48d1a3c5e7f901234567");
    let host = |kind, components: Components, has_primary| Host {
        kind,
        components,
        has_primary,
    };
    vec![
        host(
            "bare metal, two sockets, SATA",
            Components {
                disk1: raw("      WD-WCC4N7KXA3ZP"),
                disk2: raw("S4EVNX0M123457      "),
                cpu1: raw("GenuineIntel;6;85;7;Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz"),
                cpu2: raw("GenuineIntel;6;85;7;Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz"),
                bios: smbios("Dell Inc.", "PowerEdge R640", "7XK2Y13"),
                board: smbios("Dell Inc.", "0H28RR", ".7XK2Y13.CNWS3000000000."),
                product_uuid: uuid("4c4c4544-0058-4b10-8032-b7c04f593133"),
                machine_id: mid.clone(),
            },
            true,
        ),
        host(
            "white box with an unfilled SMBIOS and a bogus uuid",
            Components {
                disk1: raw("eui.0025385a91b0c5d1"),
                cpu1: raw("AuthenticAMD;23;113;0;AMD Ryzen 5 3600 6-Core Processor"),
                bios: smbios(
                    "To Be Filled By O.E.M.",
                    "Default string",
                    "System Serial Number",
                ),
                board: smbios("ASRock", "B450M Pro4", "M80-B8013600195"),
                product_uuid: uuid("03000200-0400-0500-0006-000700080009"),
                machine_id: mid.clone(),
                ..Components::default()
            },
            true,
        ),
        host(
            "KVM without disk serials",
            Components {
                disk1: raw("QM00001"),
                cpu1: raw("GenuineIntel;6;94;3;Intel Core Processor (Skylake, IBRS)"),
                bios: smbios("QEMU", "Standard PC (Q35 + ICH9, 2009)", "Not Specified"),
                product_uuid: uuid("7bd5a66e-0c5e-4c0c-8a0e-3f6bd2a3c111"),
                machine_id: mid.clone(),
                ..Components::default()
            },
            true,
        ),
        host(
            "EC2 on Nitro",
            Components {
                disk1: raw("vol0a1b2c3d4e5f67890"),
                cpu1: raw("GenuineIntel;6;85;7;Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"),
                bios: smbios(
                    "Amazon EC2",
                    "t3.small",
                    "ec2e1916-9099-7caf-fd21-012345abcdef",
                ),
                board: smbios("Amazon EC2", "", ""),
                product_uuid: uuid("EC2E1916-9099-7CAF-FD21-012345ABCDEF"),
                machine_id: mid.clone(),
                ..Components::default()
            },
            true,
        ),
        host(
            "arm64 cloud server",
            Components {
                disk1: raw("vol0fedcba9876543210"),
                cpu1: raw("arm;0x41;0x3;0xd0c;1"),
                bios: smbios(
                    "Amazon EC2",
                    "t4g.small",
                    "ec2aaaaa-9099-7caf-fd21-012345abcdef",
                ),
                product_uuid: uuid("ec2aaaaa-9099-7caf-fd21-012345abcdef"),
                machine_id: mid.clone(),
                ..Components::default()
            },
            true,
        ),
        host(
            "container: only what the kernel shows of its host",
            Components {
                cpu1: raw("AuthenticAMD;25;1;1;AMD EPYC 7763 64-Core Processor"),
                machine_id: mid,
                ..Components::default()
            },
            false,
        ),
        host("a sandbox that shows nothing", Components::default(), false),
    ]
}

#[test]
fn each_kind_of_host_is_itself_and_survives_the_wire() {
    for host in corpus() {
        let json = serde_json::to_string(&host.components).unwrap();
        let again: Components = serde_json::from_str(&json).unwrap();
        assert_eq!(again, host.components, "{}", host.kind);
        assert_eq!(
            again.verification_hash(),
            host.components.verification_hash()
        );
        assert_eq!(
            compare(&host.components, &again).verdict,
            Verdict::Verified,
            "{}",
            host.kind
        );
        assert_eq!(
            host.components.has_primary(),
            host.has_primary,
            "{}",
            host.kind
        );
    }
}

#[test]
fn a_disk_image_moved_between_hosts_with_a_primary_is_a_mismatch() {
    let hosts = corpus();
    for from in hosts.iter().filter(|host| host.has_primary) {
        for to in hosts.iter().filter(|host| host.kind != from.kind) {
            // The image brings its machine id along.
            let moved = Components {
                machine_id: from.components.machine_id.clone(),
                ..to.components.clone()
            };
            let outcome = compare(&from.components, &moved);
            assert_eq!(
                outcome.verdict,
                Verdict::Mismatch,
                "{} on {}",
                from.kind,
                to.kind
            );
        }
    }
}

#[test]
fn a_cloned_machine_id_alone_identifies_nobody() {
    let hosts = corpus();
    let (metal, container) = (&hosts[0].components, &hosts[5].components);
    assert_eq!(metal.machine_id, container.machine_id);
    assert_eq!(compare(metal, container).verdict, Verdict::Mismatch);
}

#[test]
fn placeholders_of_vendors_do_not_become_an_identity() {
    let hosts = corpus();
    let white_box = &hosts[1].components;
    assert!(!white_box.bios.is_available());
    assert!(!white_box.product_uuid.is_available());
    assert!(!hosts[2].components.disk1.is_available());
    assert_eq!(
        hosts[2].components.bios.value(),
        Some("QEMU;Standard PC (Q35 + ICH9, 2009);-")
    );
}

#[test]
fn an_operator_reads_what_changed() {
    let metal = corpus().remove(0).components;
    let now = Components {
        disk1: raw("NEW"),
        board: Component::UNAVAILABLE,
        ..metal.clone()
    };
    assert_eq!(
        compare(&metal, &now).to_string(),
        "mismatch: disk1 replaced, board missing"
    );
}
