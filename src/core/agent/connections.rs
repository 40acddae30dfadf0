//! From observations of VPN daemons to connection records.

use std::collections::BTreeMap;

use rand_core::CryptoRng;
use uuid::Uuid;
use vpn_node_protocol::certificate::SealingKeyEntry;
use vpn_node_protocol::connection::{
    ClientIdentity, Confidence as RecordedConfidence, ConnectionEvent, ConnectionRecord,
    Stamp as RecordedStamp,
};
use vpn_node_protocol::limits::MAX_VIRTUAL_IPS;

use super::{Agent, Command, KEEP_SESSIONS_EVERY, Recording};
use crate::core::Now;
use crate::core::sessions::{BackendId, Confidence, Obs, SessionEvent, Stamp, What};

impl Agent {
    pub(super) fn observed(
        &mut self,
        backend: &BackendId,
        obs: Obs,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        let mut random = || {
            let mut bytes = [0; 10];
            rng.fill_bytes(&mut bytes);
            bytes
        };
        // Only these find connections of a former process.
        let finds = matches!(obs, Obs::Snapshot { .. } | Obs::Up(_));
        let mut events = self.reducer.observe(backend, obs, now, &mut random);
        if finds && !self.unrecorded.is_empty() {
            events.extend(self.starts_again());
        }
        self.record(events, now);
    }

    pub(super) fn tick_sessions(&mut self, now: Now) {
        let events = self.reducer.tick(now);
        self.record(events, now);
        if now.boot >= self.keep_sessions_at {
            self.keep_sessions(now);
        }
    }

    /// The backends of connections that a former process left, with the epochs in which it knew
    /// them: their readers must know, so that an interface that is gone is not taken for one that
    /// is not looked at, and what tells no epochs goes on in the last one.
    #[must_use]
    pub fn expected_backends(&self) -> BTreeMap<BackendId, u64> {
        let epochs = self.reducer.unconfirmed_epochs();
        epochs.map(|(id, epoch)| (id.clone(), epoch)).collect()
    }

    /// The last word of this process: what it knows of ends and sessions goes to disk.
    pub fn finish(&mut self, now: Now) {
        let events = self.reducer.finish();
        self.record(events, now);
        self.keep_sessions(now);
    }

    /// Keeps the sessions for the next start.
    fn keep_sessions(&mut self, now: Now) {
        self.keep_sessions_at = now.boot + KEEP_SESSIONS_EVERY;
        self.commands.push_back(Command::Record(Box::new(Recording {
            whole: true,
            ..Recording::default()
        })));
    }

    /// A command as it is given out: the sessions are those of now. All events until now are in the
    /// first recording that waits, so no session is kept, or gone, before its record is there.
    pub(super) fn with_sessions(&self, command: Command) -> Command {
        match command {
            Command::Record(mut recording) => {
                recording.sessions = self.reducer.persistable();
                Command::Record(recording)
            }
            other => other,
        }
    }

    /// The starts that a crash may have kept from the ledger, for connections that are up again
    /// or still. The controller takes a start twice as once.
    fn starts_again(&mut self) -> Vec<SessionEvent> {
        let again = self.reducer.starts_of(&self.unrecorded);
        for event in &again {
            self.unrecorded.remove(&event.connection_id);
        }
        again
    }

    pub(super) fn record(&mut self, events: Vec<SessionEvent>, now: Now) {
        if events.is_empty() {
            return;
        }
        let of = |wanted: fn(&What) -> bool| -> Vec<Uuid> {
            events
                .iter()
                .filter(|e| wanted(&e.what))
                .map(|e| e.connection_id)
                .collect()
        };
        let starts = of(|what| matches!(what, What::Start));
        let ends = of(|what| matches!(what, What::End(_)));
        for id in &ends {
            self.unrecorded.remove(id);
        }
        let seal_to = self.sealing_key(now);
        let records = events.into_iter().map(|event| self.record_of(event));
        let records: Vec<ConnectionRecord> = records.collect();
        // What one answer of a daemon tells of many clients is one recording: its sessions are
        // copied once, and it shares its syncs.
        let waiting = self.commands.iter_mut().find_map(|command| match command {
            Command::Record(recording) => Some(recording),
            _ => None,
        });
        match waiting {
            Some(recording) => {
                recording.starts.extend(starts);
                recording.ends.extend(ends);
                recording.records.extend(records);
                recording.seal_to = seal_to.or_else(|| recording.seal_to.take());
            }
            None => self.commands.push_back(Command::Record(Box::new(Recording {
                starts,
                ends,
                records,
                seal_to,
                ..Recording::default()
            }))),
        }
    }

    /// The sealing key in force; the newest one of the certificate when none is valid any more
    /// (the controller keeps old ones, and a record must not be lost to a silent controller).
    pub(super) fn sealing_key(&self, now: Now) -> Option<SealingKeyEntry> {
        let certificate = self.trust.certificate();
        certificate
            .sealing_key(self.trust.controller_now_ms(now))
            .ok()
            .or_else(|| certificate.sealing_keys.last())
            .cloned()
    }

    fn record_of(&self, event: SessionEvent) -> ConnectionRecord {
        let session = event.session;
        let started = self.stamp(session.started);
        let (kind, at) = match event.what {
            What::Start => (ConnectionEvent::Start, started),
            What::Update { at, .. } => (ConnectionEvent::Update, self.stamp(at)),
            What::End(end) => {
                let width = end.latest.boot.saturating_sub(end.earliest.boot);
                let ended = ConnectionEvent::End {
                    reason: end.reason.code().to_owned(),
                    confidence: match end.confidence {
                        Confidence::Observed => RecordedConfidence::Observed,
                        Confidence::Inferred => RecordedConfidence::Inferred,
                    },
                    uncertainty_ms: u64::try_from(width.as_millis()).unwrap_or(u64::MAX),
                };
                (ended, self.stamp(end.at))
            }
        };
        ConnectionRecord {
            connection_id: event.connection_id,
            event: kind,
            at,
            started,
            backend: event.backend.kind.as_str().to_owned(),
            instance: event.backend.instance,
            identity: session.identity.map(|identity| ClientIdentity {
                kind: identity.kind().to_owned(),
                value: identity.to_string(),
            }),
            client_ip: session.endpoint.map(|endpoint| endpoint.ip),
            client_port: session.endpoint.and_then(|endpoint| endpoint.port),
            virtual_ips: session
                .virtual_ips
                .iter()
                .take(MAX_VIRTUAL_IPS)
                .map(ToString::to_string)
                .collect(),
            rx_bytes: session.rx,
            tx_bytes: session.tx,
        }
    }

    fn stamp(&self, stamp: Stamp) -> RecordedStamp {
        // The reducer's zero says "before this boot": then no boot clock dates it.
        let this_boot = !stamp.boot.is_zero();
        RecordedStamp {
            boot_id: if this_boot {
                self.about.boot_id
            } else {
                Uuid::nil()
            },
            boottime_ms: u64::try_from(stamp.boot.as_millis()).unwrap_or(u64::MAX),
            wall_ms: stamp.wall_ms,
            offset_ms: self.clock_offset_ms,
        }
    }
}
