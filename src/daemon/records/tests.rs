//! Records on a disk that fails: what is taken off a recording is durable, what is not stays, and it
//! goes on when the disk does.

use std::collections::BTreeSet;
use std::path::Path;

use nix::errno::Errno;
use uuid::Uuid;
use vpn_node_protocol::connection::{ConnectionEvent, Stamp};
use vpn_node_protocol::encoding::Base64;
use vpn_node_protocol::sealing::SealingSecret;

use super::*;
use crate::ledger::WhenFull;
use crate::ledger::tests::sim::{Fault, Noise, SimDisk};
use crate::ledger::tests::torture::scale;

const SERVER: &str = "server";

fn secret() -> SealingSecret {
    SealingSecret::from_bytes(&[9; 32])
}

fn recording(first: u64, count: u64) -> Recording {
    let at = Stamp {
        boot_id: Uuid::nil(),
        boottime_ms: 0,
        wall_ms: 0,
        offset_ms: None,
    };
    let record = |id: u64| ConnectionRecord {
        connection_id: Uuid::from_u128(id.into()),
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
    };
    Recording {
        records: (first..first + count).map(record).collect(),
        seal_to: Some(SealingKeyEntry {
            id: secret().id(),
            key: Base64(secret().public().to_vec()),
            validity: vpn_node_protocol::certificate::Validity {
                not_before_ms: 0,
                not_after_ms: 1,
            },
        }),
        ..Recording::default()
    }
}

fn on(disk: &SimDisk, when_full: WhenFull) -> Records<SimDisk> {
    let options = Options {
        max_bytes: 16 * 4096,
        segment_bytes: 4096,
        when_full,
    };
    Records::on(
        disk.clone(),
        SERVER,
        Path::new("/ledger").to_owned(),
        options,
    )
}

fn number_of(record: &ConnectionRecord) -> u64 {
    let id = record.connection_id.as_u128();
    id.try_into().expect("numbers are small")
}

/// What the controller has: which records, and how many sequences it was told are lost.
#[derive(Default)]
struct Controller {
    records: BTreeSet<u64>,
    lost: u64,
    through: u64,
}

impl Controller {
    fn take(&mut self, batch: &ConnectionBatch) {
        let before = self.through;
        for record in &batch.records {
            let context = Context::Connection {
                server_id: SERVER,
                ledger_epoch: &batch.ledger_epoch,
                sequence: record.seq,
            };
            let opened = secret().open(&record.sealed, context).expect("it opens");
            let opened: ConnectionRecord = serde_json::from_slice(&opened).unwrap();
            self.records.insert(number_of(&opened));
            self.through = self.through.max(record.seq);
        }
        for gap in batch.gaps.iter().filter(|gap| gap.last > before) {
            self.lost += gap.last - gap.first.max(before + 1) + 1;
            self.through = self.through.max(gap.last);
        }
    }

    /// Takes what there is until there is no more.
    fn drain(&mut self, records: &mut Records<SimDisk>) {
        loop {
            let batch = records.read_batch();
            if batch.records.is_empty() && batch.gaps.is_empty() {
                return;
            }
            self.take(&batch);
            records.acked(self.through, &[1; 32]);
        }
    }
}

/// Some minutes of the daemon with a fault of `long` operations at one of its operations. What was
/// called durable must reach the controller, or a gap in its place, although the power goes at the end;
/// and once the fault is gone the next attempt takes everything.
fn minutes_with_a_fault(errno: Errno, long: u64, after: u64) -> bool {
    let disk = SimDisk::default();
    let mut records = on(&disk, WhenFull::DropOldest);
    let (mut noise, mut controller) = (Noise(after), Controller::default());
    let (mut waiting, mut number, mut durable) = (recording(0, 0), 0, BTreeSet::new());
    let mut given_up = 0;
    let mut append = |waiting: &mut Recording, records: &mut Records<SimDisk>| {
        let before: BTreeSet<u64> = waiting.records.iter().map(number_of).collect();
        let result = records.append(waiting);
        let left: BTreeSet<u64> = waiting.records.iter().map(number_of).collect();
        assert_eq!(result.is_ok(), left.is_empty());
        durable.extend(before.difference(&left).copied());
        result
    };
    disk.strike_long(after, long, Fault::Error(errno));
    for _ in 0..14 {
        let count = 1 + noise.below(3);
        waiting.records.extend(recording(number, count).records);
        number += count;
        // Whether it works is what the fault decides.
        let _ = append(&mut waiting, &mut records);
        match noise.below(5) {
            0 => {
                records.give_up(1);
                given_up += 1;
            }
            1 | 2 => {
                let batch = records.read_batch();
                controller.take(&batch);
                if controller.through > 0 {
                    records.acked(controller.through, &[1; 32]);
                }
            }
            _ => {}
        }
    }
    let struck = disk.struck();
    disk.mend();
    records.open_if_needed();
    assert_eq!(append(&mut waiting, &mut records), Ok(()), "it is stuck");
    assert_eq!(records.facts().error, None);
    drop(records);
    disk.power_cycle(after);
    controller.drain(&mut on(&disk, WhenFull::DropOldest));
    let missing: Vec<_> = durable.difference(&controller.records).collect();
    // A full disk takes the space of the oldest records, by the policy, and says so.
    assert!(
        missing.is_empty() || errno == Errno::ENOSPC,
        "{errno} at {after}: {missing:?} lost"
    );
    assert!(
        missing.len() as u64 + given_up <= controller.lost,
        "{errno} at {after}: {missing:?} lost in silence"
    );
    assert_eq!(durable.len() as u64, number, "all was taken in the end");
    struck
}

#[test]
fn torture_ledger_daemon() {
    let mut faults = 0;
    let apart = scale(9, 1, 1) as usize;
    for errno in [Errno::EIO, Errno::ENOSPC] {
        for long in [1, 2, 30].into_iter().take(scale(1, 3, 3) as usize) {
            let struck = (1..)
                .step_by(apart)
                .take_while(|after| minutes_with_a_fault(errno, long, *after));
            faults += struck.count();
            println!("  {faults} faults");
        }
    }
    assert!(faults > 20, "{faults}");
    println!(
        "{faults} faults under the daemon's own loop: 0 false confirmations, 0 stuck, all delivered afterwards"
    );
}

#[test]
fn a_full_ledger_that_refuses_keeps_what_it_took_and_takes_the_rest_after_an_acknowledgement() {
    let disk = SimDisk::default();
    let mut records = on(&disk, WhenFull::Refuse);
    let mut waiting = recording(0, 500);
    assert_eq!(records.append(&mut waiting), Err(()));
    let taken = 500 - waiting.records.len();
    assert!((60..300).contains(&taken), "{taken}");
    let facts = records.facts();
    assert_eq!((facts.records, facts.lost), (taken as u64, 0));
    assert!(facts.error.unwrap().contains("is full"));
    // The first that was not taken is the next one, and none was taken twice.
    assert_eq!(number_of(&waiting.records[0]), taken as u64);
    let mut controller = Controller::default();
    while !waiting.records.is_empty() {
        controller.drain(&mut records);
        let _ = records.append(&mut waiting);
    }
    controller.drain(&mut records);
    assert_eq!(controller.records.len(), 500);
    assert_eq!((controller.through, controller.lost), (500, 0));
    assert_eq!(records.facts(), LedgerFacts::default());
}

#[test]
fn what_is_given_up_in_a_full_ledger_is_a_durable_gap_at_once() {
    let disk = SimDisk::default();
    let mut records = on(&disk, WhenFull::Refuse);
    let mut waiting = recording(0, 500);
    assert_eq!(records.append(&mut waiting), Err(()));
    let taken = 500 - waiting.records.len() as u64;
    records.give_up(7);
    assert_eq!((records.facts().lost, records.facts().gaps), (7, 1));
    drop(records);
    disk.power_cycle(1);
    let mut controller = Controller::default();
    controller.drain(&mut on(&disk, WhenFull::Refuse));
    assert_eq!(
        (controller.records.len() as u64, controller.lost),
        (taken, 7)
    );
}

#[test]
fn what_a_full_ledger_drops_is_counted_as_lost_and_reported_as_a_gap() {
    let disk = SimDisk::default();
    let mut records = on(&disk, WhenFull::DropOldest);
    let mut all = recording(0, 500);
    assert_eq!(records.append(&mut all), Ok(()));
    let lost = records.facts().lost;
    assert!(lost > 200, "{lost}");
    let mut controller = Controller::default();
    controller.drain(&mut records);
    assert_eq!(controller.lost, lost);
    assert_eq!(controller.records.len() as u64, 500 - lost);
    assert!(controller.records.contains(&499));
}
