//! The disk thread's rules, on a real directory.

use vpn_node_protocol::connection::{ConnectionEvent, ConnectionRecord, Stamp};
use vpn_node_protocol::encoding::Base64;

use super::*;

pub(super) fn thread(dir: &std::path::Path) -> DiskThread {
    let settings = Settings {
        state_dir: dir.to_owned(),
        ..Settings::default()
    };
    let kept = KeptSessions::default();
    let progress = Progress::default();
    DiskThread::new(&settings, &StateDir::new(dir), &enrolment(), kept, progress)
}

/// A thread that hangs: it has more to say than anybody hears.
pub(in crate::daemon) fn stuck(dir: &std::path::Path, progress: Progress) -> Disk {
    let (state, enrolment) = (StateDir::new(dir), enrolment());
    let key = enrolment.identity_key;
    let zero = vpn_node_protocol::encoding::Hex([0; 32]);
    let lane = LaneState::enrolled(&enrolment.server_id, 1, key, zero, 0);
    state.create_lane(&lane).unwrap();
    let (_, lane_file) = state.lane(&enrolment).unwrap();
    let mut thread = thread(dir);
    thread.progress = progress;
    let disk = thread.spawn(lane_file);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        for _ in 0..EVENTS_QUEUED + 1 {
            disk.tell(DiskCommand::ReadBatch).await;
        }
    });
    disk
}

pub(super) fn enrolment() -> Enrolment {
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    Enrolment {
        version: 1,
        server_id: "server".into(),
        epoch: 1,
        enrolled_ms: 0,
        urls: vec![],
        root_pin: vpn_node_protocol::encoding::Digest::of(&[b"root"]),
        server_pin: None,
        identity_key: (&key).into(),
        registration_key: None,
        certificate: Envelope::sign(
            &vpn_node_protocol::message::Poll {
                server_id: "any envelope does".into(),
                epoch: 1,
                nonce: vpn_node_protocol::encoding::Hex([0; 32]),
                boot_id: Uuid::nil(),
                request_id: Uuid::nil(),
                wait_s: 0,
            },
            &[&key],
        ),
    }
}

pub(super) fn start(id: u128) -> Recording {
    let at = Stamp {
        boot_id: Uuid::nil(),
        boottime_ms: 0,
        wall_ms: 0,
        offset_ms: None,
    };
    let secret = vpn_node_protocol::sealing::SealingSecret::from_bytes(&[9; 32]);
    Recording {
        starts: vec![Uuid::from_u128(id)],
        records: vec![ConnectionRecord {
            connection_id: Uuid::from_u128(id),
            event: ConnectionEvent::Start,
            at,
            started: at,
            backend: "wireguard".into(),
            instance: "wg0".into(),
            identity: None,
            client_ip: None,
            client_port: None,
            virtual_ips: vec![],
            rx_bytes: 0,
            tx_bytes: 0,
        }],
        seal_to: Some(vpn_node_protocol::certificate::SealingKeyEntry {
            id: secret.id(),
            key: Base64(secret.public().to_vec()),
            validity: vpn_node_protocol::certificate::Validity {
                not_before_ms: 0,
                not_after_ms: 1,
            },
        }),
        ..Recording::default()
    }
}

#[test]
fn sessions_that_cannot_be_kept_are_reported_and_cost_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path());
    // A directory in its place: the file cannot be written.
    let blocked = dir.path().join("sessions.json");
    std::fs::create_dir(&blocked).unwrap();
    thread.record(start(1));
    let facts = thread.facts();
    assert_eq!((facts.records, facts.error.is_some()), (1, true));
    std::fs::remove_dir(&blocked).unwrap();
    thread.record(Recording::default());
    let facts = thread.facts();
    assert_eq!((facts.records, facts.error, facts.lost), (1, None, 0));
}

#[test]
fn little_space_is_told_in_steps_and_much_is_not() {
    assert_eq!(few(0), Some(0));
    assert_eq!(few((5 << 20) - 1), Some(4 << 20));
    assert_eq!(few(LOW_SPACE - 1), Some(63 << 20));
    assert_eq!(few(LOW_SPACE), None);
    assert_eq!(low_space(Path::new("/proc/self/missing")), None);
}

#[test]
fn what_waits_for_a_disk_is_bounded_with_everything_about_it() {
    let mut waiting = Recording::default();
    for id in 0..10 {
        let mut more = start(id);
        more.ends = more.starts.clone();
        join(&mut waiting, more);
    }
    assert_eq!(give_up_beyond(&mut waiting, 10), 0);
    assert_eq!(give_up_beyond(&mut waiting, 4), 6);
    let left: Vec<Uuid> = (6..10).map(Uuid::from_u128).collect();
    assert_eq!((&waiting.starts, &waiting.ends), (&left, &left));
    assert_eq!(waiting.records.len(), 4);
}

#[test]
fn counters_are_kept_though_an_event_shares_their_group() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = thread(dir.path());
    let with_bytes = |recording: Recording, rx| Recording {
        sessions: vec![KnownSession {
            rx,
            ..bench::session(1)
        }],
        ..recording
    };
    let kept = || {
        let kept = StateDir::new(dir.path()).sessions().unwrap();
        kept.sessions.iter().map(|s| s.rx).collect::<Vec<_>>()
    };
    thread.record(with_bytes(start(1), 5));
    // What an event tells of a session that is known costs no snapshot.
    thread.record(with_bytes(start(2), 6));
    assert_eq!(kept(), [5]);
    let mut group = with_bytes(start(3), 7);
    let whole = Recording {
        whole: true,
        ..Recording::default()
    };
    join(&mut group, with_bytes(whole, 8));
    join(&mut group, with_bytes(start(4), 9));
    thread.record(group);
    assert_eq!(kept(), [9]);
}

/// A ledger of the smallest quota that refuses what it has no room for.
fn refusing(dir: &std::path::Path) -> DiskThread {
    let mut thread = thread(dir);
    let options = Options {
        max_bytes: 2 * 4096,
        segment_bytes: 4096,
        when_full: WhenFull::Refuse,
    };
    let disk = Watched::new(HostDisk, Progress::default());
    thread.records = Records::on(disk, "server", StateDir::new(dir).ledger(), options);
    thread
}

#[test]
fn refused_records_wait_are_said_to_wait_and_are_stored_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = refusing(dir.path());
    for id in 0..40 {
        thread.record(start(id));
    }
    let facts = thread.facts();
    assert_eq!(facts.records + facts.unstored, 40);
    assert!(facts.unstored > 10 && facts.lost == 0, "{facts:?}");
    assert!(facts.error.unwrap().contains("is full"));
    let mut delivered = 0;
    while thread.facts().unstored > 0 {
        let batch = thread.records.read_batch();
        delivered += batch.records.len();
        thread
            .records
            .acked(batch.records.last().unwrap().seq, &[1; 32]);
        thread.retry();
    }
    delivered += thread.records.read_batch().records.len();
    assert_eq!((delivered, thread.facts().error), (40, None));
}

#[test]
fn what_still_waits_when_the_agent_ends_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut thread = refusing(dir.path());
    for id in 0..40 {
        thread.record(start(id));
    }
    let unstored = thread.facts().unstored;
    thread.give_up_waiting();
    drop(thread);
    let mut next = refusing(dir.path());
    next.records.open_if_needed();
    let batch = next.records.read_batch();
    let gaps: u64 = batch.gaps.iter().map(|gap| gap.last - gap.first + 1).sum();
    assert_eq!(
        (batch.records.len() as u64, gaps),
        (40 - unstored, unstored)
    );
}
