//! From lists of clients and log lines to observations: who is up, who went, and why.
//!
//! Owns what is known of one server's clients. The list decides who is there; the log only says
//! why somebody is not in it any more. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::client::Client;
use super::log::{Said, is_label_of};
use super::status::Table;
use crate::core::Now;
use crate::core::sessions::{
    Confidence, End, Obs, Patch, Reason, Session, SessionKey, Stamp, stamp_of,
};

/// Ends of clients that cannot be told apart, and names that were taken over, kept until the next
/// list. More than come within a list's time from one address or name.
const MAX_LOOSE: usize = 256;

/// The clients of one server.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: BTreeMap<SessionKey, Known>,
    /// Known keys by client id: counters and orders name that alone.
    by_cid: HashMap<u64, SessionKey>,
    by_label: HashMap<Vec<u8>, Vec<SessionKey>>,
    /// Evidence about a label that several clients share.
    shared: Vec<(Vec<u8>, Reason, Now)>,
    replaced: Vec<(Vec<u8>, Now)>,
    /// Last list.
    listed: Now,
}

#[derive(Debug)]
struct Known {
    client: Client,
    started: Stamp,
    last_seen: Stamp,
    goodbye: Option<Now>,
    ended: Option<(Reason, Now)>,
}

impl Sessions {
    /// Whether a client connected before Unix second `since`.
    pub(super) fn any_before(&self, since: i64) -> bool {
        let before = |known: &Known| known.client.since.is_some_and(|at| at < since);
        self.known.values().any(before)
    }

    /// Takes a whole list of the epoch `epoch`.
    pub(super) fn list(&mut self, epoch: u64, table: Table, now: Now) -> Vec<Obs> {
        let complete = !table.incomplete;
        let mut obs = Vec::new();
        let mut listed: BTreeMap<SessionKey, Known> = BTreeMap::new();
        let time = table.time;
        let mut newcomers: HashSet<Vec<u8>> = HashSet::new();
        let mut old = std::mem::take(&mut self.known);
        for client in table
            .clients
            .into_iter()
            .filter(|client| client.is_up(time))
        {
            let key = key_of(&client, &mut old, &listed, &mut obs);
            let before = old.remove(&key);
            if before.is_none() {
                newcomers.insert(client.common_name.clone());
            }
            let age = client.age(time, &table.local_time, now);
            listed.insert(key, known(client, before, age, now));
        }
        let gone = self.gone(old, &newcomers, complete, now);
        let (gone, kept): (Vec<_>, Vec<_>) = gone.into_iter().partition(|(.., end)| end.is_some());
        obs.extend(
            gone.into_iter()
                .filter_map(|(key, _, end)| Some(Obs::Down { key, end: end? })),
        );
        listed.extend(kept.into_iter().map(|(key, known, _)| (key, known)));
        obs.push(Obs::Snapshot {
            epoch,
            at: now,
            complete,
            sessions: listed
                .iter()
                .map(|(key, known)| known.session(key))
                .collect(),
        });
        self.known = listed;
        self.index();
        self.listed = now;
        obs
    }

    /// Takes a log line about clients.
    pub(super) fn said(&mut self, said: &Said<'_>, now: Now) {
        match said {
            Said::Connected => {}
            Said::Replaced(name) => {
                if self.replaced.len() < MAX_LOOSE {
                    self.replaced.push((name.to_vec(), now));
                }
            }
            Said::Goodbye(label) => {
                if let [key] = &self.labelled(label)[..]
                    && let Some(known) = self.known.get_mut(key)
                {
                    known.goodbye.get_or_insert(now);
                }
            }
            Said::Ended { label, reason } => match &self.labelled(label)[..] {
                [] => {}
                [key] => {
                    if let Some(known) = self.known.get_mut(key) {
                        known.ended.get_or_insert((reason.clone(), now));
                    }
                }
                _ if self.shared.len() < MAX_LOOSE => {
                    self.shared.push((label.to_vec(), reason.clone(), now));
                }
                _ => {}
            },
        }
    }

    /// Takes the counters of a client.
    pub(super) fn bytes(&mut self, cid: u64, rx: u64, tx: u64, now: Now) -> Option<Obs> {
        let key = self.by_cid.get(&cid)?;
        let known = self.known.get_mut(key)?;
        if rx < known.client.rx || tx < known.client.tx {
            return None; // They only grow; the list decides what else this client id is.
        }
        if rx > known.client.rx {
            known.last_seen = now;
        }
        (known.client.rx, known.client.tx) = (rx, tx);
        Some(Obs::Update(Patch {
            key: key.clone(),
            endpoint: None,
            virtual_ips: None,
            rx,
            tx,
            last_seen: known.last_seen,
        }))
    }

    /// The daemon is gone, and everybody with it.
    pub(super) fn all_gone(
        &mut self,
        confidence: Confidence,
        earliest: Duration,
        now: Now,
    ) -> Vec<Obs> {
        let listed = self.listed.boot.max(earliest);
        let known = std::mem::take(self).known;
        known
            .into_iter()
            .map(|(key, known)| Obs::Down {
                key,
                end: known
                    .said_end()
                    .unwrap_or_else(|| End::noticed(Reason::DaemonDown, confidence, listed, now)),
            })
            .collect()
    }

    /// The clients that a label in the log can mean. Roaming changes the label before a list
    /// tells: then the name decides, if one client alone has it.
    fn labelled(&self, label: &[u8]) -> Vec<SessionKey> {
        if let Some(keys) = self.by_label.get(label) {
            return keys.clone();
        }
        let named = |known: &Known| is_label_of(label, &known.client.common_name);
        let mut keys = self.known.iter().filter(|(_, known)| named(known));
        match (keys.next(), keys.next()) {
            (Some((key, _)), None) => vec![key.clone()],
            _ => Vec::new(),
        }
    }

    /// What became of those that are not listed any more; without an end they are kept, since an
    /// incomplete list says nothing about them.
    fn gone(
        &mut self,
        old: BTreeMap<SessionKey, Known>,
        newcomers: &HashSet<Vec<u8>>,
        complete: bool,
        now: Now,
    ) -> Vec<(SessionKey, Known, Option<End>)> {
        let mut shared = std::mem::take(&mut self.shared);
        let replaced = std::mem::take(&mut self.replaced);
        let mut together: HashMap<Vec<u8>, usize> = HashMap::new();
        for known in old.values().filter(|known| known.ended.is_none()) {
            *together.entry(known.client.label()).or_default() += 1;
        }
        let mut gone = Vec::new();
        for (key, mut known) in old {
            let label = known.client.label();
            let told = shared.iter().filter(|(of, ..)| *of == label).count();
            if known.ended.is_none()
                && told > 0
                && together.get(&label) == Some(&told)
                && let Some(at) = shared.iter().position(|(of, ..)| *of == label)
            {
                // As many ends as clients that went: one of them is this one's.
                let (_, reason, when) = shared.remove(at);
                known.ended = Some((reason, when));
                together.entry(label).and_modify(|count| *count -= 1);
            }
            let name = &known.client.common_name;
            let taken = replaced.iter().find(|(by, _)| by == name);
            let again = newcomers.contains(name);
            let end = match (known.said_end(), taken) {
                (Some(end), _) => Some(end),
                (None, Some((_, when))) => Some(End::noticed(
                    Reason::Replaced,
                    Confidence::Observed,
                    when.boot,
                    *when,
                )),
                (None, None) if !complete => None,
                (None, None) => {
                    let reason = match again {
                        true => Reason::Replaced,
                        false => Reason::Unknown(String::new()),
                    };
                    let earliest = self.listed.boot;
                    Some(End::noticed(reason, Confidence::Inferred, earliest, now))
                }
            };
            gone.push((key, known, end));
        }
        gone
    }

    fn index(&mut self) {
        self.by_cid.clear();
        self.by_label.clear();
        for (key, known) in &self.known {
            if let Some(cid) = known.client.cid {
                self.by_cid.insert(cid, key.clone());
            }
            let label = known.client.label();
            self.by_label.entry(label).or_default().push(key.clone());
        }
    }
}

impl Known {
    fn session(&self, key: &SessionKey) -> Session {
        let client = &self.client;
        Session {
            key: key.clone(),
            identity: client.identity(),
            started: self.started,
            last_seen: self.last_seen,
            endpoint: client.endpoint,
            virtual_ips: client.virtual_ips.clone().into(),
            rx: client.rx,
            tx: client.tx,
            rx_at_start: 0,
            tx_at_start: 0,
        }
    }

    /// The end that the log told. A client that said goodbye went then, though the daemon lists it
    /// for 5 seconds more; one that fell silent may have gone any time since its last packet.
    fn said_end(&self) -> Option<End> {
        let (reason, when) = match (&self.goodbye, &self.ended) {
            (Some(goodbye), None | Some((Reason::ClientDisconnect, _))) => {
                (Reason::ClientDisconnect, *goodbye)
            }
            (_, ended) => ended.clone()?,
        };
        let earliest = match reason {
            Reason::Timeout => self.last_seen.boot,
            _ => when.boot,
        };
        Some(End::noticed(reason, Confidence::Observed, earliest, when))
    }
}

/// A client of this list, going on from what was known of it. `age` is how long it is connected.
fn known(client: Client, before: Option<Known>, age: Option<Duration>, now: Now) -> Known {
    let Some(before) = before else {
        let started = now.boot.saturating_sub(age.unwrap_or_default());
        return Known {
            client,
            started: stamp_of(started, now),
            last_seen: now,
            goodbye: None,
            ended: None,
        };
    };
    let last_seen = if client.rx > before.client.rx {
        now
    } else {
        before.last_seen
    };
    Known {
        client,
        last_seen,
        ..before
    }
}

/// The key of a listed client. Format 1 has neither number nor time zone: there a client is
/// known by its name and when it connected, and is told so when it gets a real key.
fn key_of(
    client: &Client,
    old: &mut BTreeMap<SessionKey, Known>,
    listed: &BTreeMap<SessionKey, Known>,
    obs: &mut Vec<Obs>,
) -> SessionKey {
    let real = client
        .cid
        .zip(client.since)
        .map(|(cid, connected_since)| SessionKey::OpenVpn {
            cid,
            connected_since,
        });
    if let Some(key) = &real
        && (old.contains_key(key) || !old.keys().any(is_made_up))
    {
        return key.clone();
    }
    let mut same = old.iter().filter(|(key, known)| {
        (real.is_none() || is_made_up(key))
            && known.client.common_name == client.common_name
            && known.client.since_text == client.since_text
    });
    let former = same.next().map(|(key, _)| key.clone());
    match (real, former) {
        (None, Some(key)) => key,
        (None, None) => (0..)
            .map(|nth| made_up(client, nth))
            .find(|key| !listed.contains_key(key))
            .expect("the list is shorter than the numbers"),
        (Some(new), None) => new,
        (Some(new), Some(old_key)) => {
            if let Some(known) = old.remove(&old_key) {
                old.insert(new.clone(), known);
                obs.push(Obs::Rekey {
                    old: old_key,
                    new: new.clone(),
                });
            }
            new
        }
    }
}

/// Whether a key was made by [`made_up`]: no daemon counts so far.
fn is_made_up(key: &SessionKey) -> bool {
    matches!(key, SessionKey::OpenVpn { cid, .. } if *cid >= MADE_UP)
}

const MADE_UP: u64 = 1 << 63;

/// The same after a restart of the agent; `nth` tells clients of one name and second apart.
fn made_up(client: &Client, nth: u32) -> SessionKey {
    let mut hash = Sha256::new();
    hash.update((client.common_name.len() as u64).to_be_bytes());
    hash.update(&client.common_name);
    hash.update(&client.since_text);
    hash.update(nth.to_be_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let first = hash.first_chunk().copied().unwrap_or_default();
    SessionKey::OpenVpn {
        cid: u64::from_be_bytes(first) | MADE_UP,
        connected_since: 0,
    }
}
