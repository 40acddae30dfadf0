//! One example of each kind of message, with every optional field used somewhere.

use serde_json::json;
use uuid::Uuid;
use vpn_node_protocol::certificate::{
    ControllerCertificate, SealingKeyEntry, SigningKeyEntry, Validity,
};
use vpn_node_protocol::chain;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::encoding::{Base64, Digest, Hex};
use vpn_node_protocol::enrolment::{
    Capability, EnrolOutcome, EnrolRefusal, EnrolReply, EnrolRequest, Hello, HelloRequest,
    KeyStatus, transcript,
};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::hardware::{Component, Components, HardwareStatus};
use vpn_node_protocol::identity::{Introduction, IntroductionReply, Rotate, Rotation, Witness};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{
    Authorisation, BackendDetails, BackendReport, BacklogReport, ChallengeAnswer, ConnectionBatch,
    ConnectionsAck, DirectiveAck, DirectiveOutcome, Gap, GapReason, Header, Heartbeat, Message,
    Poll, PollReply, Purpose, Refusal, RefusalCode, Reply, ReplyHeader, SealedRecord, Standing,
    Verdict,
};
use vpn_node_protocol::metrics::{Disk, Load, Memory, Network, OpenFiles, SystemMetrics};
use vpn_node_protocol::sealing::{Context, Sealed};

use crate::support::{
    EPHEMERAL_IKM, Fixed, identity, next_identity, online, registration, root, sealing,
};

/// The controller's clock in the examples.
pub(crate) const NOW: i64 = 1_790_000_000_000;
pub(crate) const SERVER: &str = "srv-1";
const YEAR_MS: i64 = 31_536_000_000;

pub(crate) fn sealing_entry() -> SealingKeyEntry {
    SealingKeyEntry {
        id: sealing().id(),
        key: Base64(sealing().public().to_vec()),
        validity: validity(),
    }
}

pub(crate) fn validity() -> Validity {
    Validity {
        not_before_ms: NOW - YEAR_MS,
        not_after_ms: NOW + YEAR_MS,
    }
}

pub(crate) fn certificate() -> ControllerCertificate {
    ControllerCertificate {
        serial: 3,
        root: (&root()).into(),
        issued_ms: NOW - YEAR_MS,
        signing_keys: vec![SigningKeyEntry {
            key: (&online()).into(),
            validity: validity(),
        }],
        sealing_keys: vec![sealing_entry()],
    }
}

pub(crate) fn components() -> Components {
    Components {
        disk1: Component::from_raw(b"S4EVNX0M123456"),
        cpu1: Component::from_raw(b"GenuineIntel 6 85 7 Xeon"),
        bios: Component::from_raw(b"Example Server 1 SN0001"),
        ..Components::default()
    }
}

fn sealed_hardware() -> Sealed {
    let identity = PublicKey::from(&identity()).id();
    let plaintext = serde_json::to_vec(&components()).unwrap();
    let context = Context::Hardware {
        identity: &identity,
    };
    Sealed::seal(
        &sealing_entry(),
        context,
        &plaintext,
        &mut Fixed(EPHEMERAL_IKM),
    )
    .unwrap()
}

fn verification_hash() -> Digest {
    components()
        .verification_hash()
        .to_string()
        .parse()
        .unwrap()
}

pub(crate) fn hello_request() -> HelloRequest {
    HelloRequest {
        registration_key: (&registration()).into(),
        client_nonce: Hex([0x21; 32]),
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        registration_key: (&registration()).into(),
        client_nonce: Hex([0x21; 32]),
        server_nonce: Hex([0x22; 32]),
        controller_time_ms: NOW,
        key_status: KeyStatus::Active,
        server_id: None,
    }
}

/// The greeting to a token that gives an enrolled server a new identity.
pub(crate) fn hello_again() -> Hello {
    Hello {
        server_id: Some(SERVER.into()),
        ..hello()
    }
}

pub(crate) fn signed_hello() -> Envelope {
    Envelope::sign(&hello(), &[&online()])
}

pub(crate) fn enrol_request() -> EnrolRequest {
    EnrolRequest {
        transcript: transcript(
            &signed_hello(),
            &(&root()).into(),
            &(&registration()).into(),
            &(&identity()).into(),
        ),
        hello: signed_hello(),
        idempotency_id: Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0002),
        identity_key: (&identity()).into(),
        capabilities: vec![Capability {
            kind: "wireguard".into(),
            details: json!({"interface": "wg0", "port": 51820}),
        }],
        version: "0.1.0".into(),
        hostname: "vpn1.example.org".into(),
        os_version: "Debian GNU/Linux 13 (trixie)".into(),
        location: Some("Frankfurt, rack 7".into()),
        hardware: sealed_hardware(),
        verification_hash: verification_hash(),
    }
}

pub(crate) fn signed_enrol_request() -> Envelope {
    Envelope::sign(&enrol_request(), &[&registration(), &identity()])
}

pub(crate) fn enrol_reply() -> EnrolReply {
    EnrolReply {
        request_digest: signed_enrol_request().digest(),
        controller_time_ms: NOW + 100,
        outcome: EnrolOutcome::Enrolled {
            server_id: SERVER.into(),
            epoch: 1,
            nonce: Hex([0x31; 32]),
            status: "active".into(),
            warnings: vec!["no product UUID".into()],
        },
    }
}

pub(crate) fn enrol_refusal() -> EnrolReply {
    EnrolReply {
        outcome: EnrolOutcome::Refused {
            code: EnrolRefusal::TokenUsed,
            message: "this token has enrolled another host".into(),
        },
        ..enrol_reply()
    }
}

fn header(seq: u64) -> Header {
    Header {
        server_id: SERVER.into(),
        epoch: 1,
        seq,
        chain: chain::start(SERVER, 1, &(&identity()).into()),
        nonce: Hex([0x31; 32]),
        boot_id: boot_id(),
        agent_time_ms: NOW - 250,
        boottime_ms: 60_000,
        directive_acks: Vec::new(),
        proof: None,
    }
}

fn boot_id() -> Uuid {
    Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0001)
}

pub(crate) fn heartbeat() -> Message<Heartbeat> {
    Message {
        header: header(1),
        body: Heartbeat {
            version: "0.1.0".into(),
            uptime_s: 42,
            backends: vec![BackendReport {
                kind: "wireguard".into(),
                instance: "wg0".into(),
                up: true,
                active: 3,
                started: 5,
                ended: 2,
                rx_bytes: 1_000_000,
                tx_bytes: 5_000_000,
                rx_bytes_per_s: 1000,
                tx_bytes_per_s: 5000,
                details: Some(BackendDetails {
                    version: Some("0.0.20220316".into()),
                    interface: Some("wg0".into()),
                    port: Some(51820),
                    public_key: Some("6ZcBCX6yvmUD+KQmvLlQ7RBSuHRgnRmLMSZbrRgN3Eo=".into()),
                }),
            }],
            metrics: metrics(),
            clock_offset_ms: Some(250),
            backlog: BacklogReport {
                records: 2,
                bytes: 1200,
                lost: 0,
                unstored: 0,
            },
            location: None,
            authorisation: Authorisation::Unverified,
            verification_wanted: Some(Purpose::Start),
            update: None,
        },
    }
}

fn metrics() -> SystemMetrics {
    SystemMetrics {
        cpu_permille: Some(125),
        load: Some(Load {
            one: 10,
            five: 20,
            fifteen: 30,
        }),
        memory: Some(Memory {
            total_bytes: 4 << 30,
            available_bytes: 3 << 30,
            swap_total_bytes: 0,
            swap_free_bytes: 0,
        }),
        disks: vec![Disk {
            mount: "/".into(),
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
        }],
        network: Some(Network {
            rx_bytes: 1_000_000,
            tx_bytes: 2_000_000,
            rx_bytes_per_s: Some(1000),
            tx_bytes_per_s: Some(2000),
        }),
        open_files: Some(OpenFiles {
            allocated: 1024,
            max: 9_223_372_036_854_775_807,
        }),
        temperature_millidegrees: Some(-1500),
        uptime_s: Some(60),
        agent_rss_bytes: Some(9 << 20),
    }
}

pub(crate) fn directive() -> Directive {
    Directive {
        id: Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0003),
        server_id: SERVER.into(),
        epoch: 1,
        issued_ms: NOW + 200,
        deadline_s: 60,
        action: Action::Challenge {
            value: Hex([0x41; 32]),
            purpose: Purpose::Start,
        },
    }
}

pub(crate) fn challenge_answer() -> Message<ChallengeAnswer> {
    Message {
        header: Header {
            directive_acks: vec![DirectiveAck {
                id: directive().id,
                outcome: DirectiveOutcome::Applied,
                detail: None,
            }],
            ..header(2)
        },
        body: ChallengeAnswer {
            challenge_id: directive().id,
            value: Hex([0x41; 32]),
            purpose: Purpose::Start,
            hardware: sealed_hardware(),
            verification_hash: verification_hash(),
            os_version: "Debian GNU/Linux 13 (trixie)".into(),
        },
    }
}

pub(crate) fn connections() -> Message<ConnectionBatch> {
    let ledger_epoch = Hex([7; 16]);
    let sealed = |sequence| {
        let context = Context::Connection {
            server_id: SERVER,
            ledger_epoch: &ledger_epoch,
            sequence,
        };
        Sealed::seal(&sealing_entry(), context, b"{}", &mut Fixed(EPHEMERAL_IKM)).unwrap()
    };
    Message {
        header: Header {
            proof: Some(Box::new(Envelope::sign(&reply(), &[&online()]))),
            ..header(3)
        },
        body: ConnectionBatch {
            ledger_epoch,
            records: [1, 4]
                .map(|seq| SealedRecord {
                    seq,
                    sealed: sealed(seq),
                })
                .into(),
            gaps: vec![Gap {
                first: 2,
                last: 3,
                reason: GapReason::Dropped,
            }],
        },
    }
}

pub(crate) fn reply() -> Reply {
    let request = Envelope::sign(&heartbeat(), &[&identity()]);
    Reply {
        header: ReplyHeader {
            server_id: SERVER.into(),
            epoch: 1,
            request_digest: request.digest(),
            seq: 1,
            chain: chain::next(&heartbeat().header.chain, &request.digest()),
            nonce: Hex([0x32; 32]),
            controller_time_ms: NOW + 200,
        },
        standing: Standing {
            verdict: Verdict::Verified,
            lease_s: 1800,
            hardware_status: HardwareStatus::Verified,
            reason: Some("disk2 was replaced".into()),
        },
        heartbeat_interval_s: 30,
        directives: vec![Envelope::sign(&directive(), &[&online()])],
        connections_ack: None,
    }
}

pub(crate) fn connections_reply() -> Reply {
    Reply {
        directives: Vec::new(),
        connections_ack: Some(ConnectionsAck {
            ledger_epoch: Hex([7; 16]),
            acked_through: 4,
        }),
        ..reply()
    }
}

pub(crate) fn refusal() -> Refusal {
    Refusal {
        request_digest: Envelope::sign(&heartbeat(), &[&identity()]).digest(),
        controller_time_ms: NOW + 200,
        code: RefusalCode::Ahead,
        message: "request 1 is further than this controller remembers".into(),
    }
}

pub(crate) fn poll() -> Poll {
    Poll {
        server_id: SERVER.into(),
        epoch: 1,
        nonce: Hex([0x32; 32]),
        boot_id: boot_id(),
        request_id: Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0004),
        wait_s: 50,
    }
}

pub(crate) fn poll_reply() -> PollReply {
    PollReply {
        request_digest: Envelope::sign(&poll(), &[&identity()]).digest(),
        controller_time_ms: NOW + 300,
        directives: vec![Envelope::sign(&directive(), &[&online()])],
    }
}

pub(crate) fn rotate_directive() -> Directive {
    Directive {
        id: Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0005),
        action: Action::Rotate,
        ..directive()
    }
}

pub(crate) fn rotate() -> Message<Rotate> {
    Message {
        header: header(2),
        body: Rotate {
            new_key: (&next_identity()).into(),
        },
    }
}

pub(crate) fn introduction() -> Introduction {
    let request = Envelope::sign(&rotate(), &[&identity(), &next_identity()]);
    let answered = Reply {
        header: ReplyHeader {
            request_digest: request.digest(),
            seq: 2,
            chain: chain::next(&rotate().header.chain, &request.digest()),
            ..reply().header
        },
        directives: Vec::new(),
        ..reply()
    };
    Introduction {
        server_id: SERVER.into(),
        epoch: 2,
        rotations: vec![Rotation {
            request,
            reply: Envelope::sign(&answered, &[&online()]),
        }],
    }
}

pub(crate) fn introduction_reply() -> IntroductionReply {
    IntroductionReply {
        request_digest: Envelope::sign(&introduction(), &[&next_identity()]).digest(),
        controller_time_ms: NOW + 400,
        known: true,
    }
}

pub(crate) fn witness() -> Witness {
    let refusal = Refusal {
        code: RefusalCode::Behind,
        message: "request 1 is older than this controller remembers".into(),
        ..refusal()
    };
    Witness {
        server_id: SERVER.into(),
        epoch: 1,
        refusal: Envelope::sign(&refusal, &[&online()]),
        seq: 1,
        boot_id: boot_id(),
        boottime_ms: 90_000,
    }
}
