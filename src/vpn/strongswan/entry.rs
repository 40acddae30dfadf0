//! An IKE SA that is up: the session, its bytes over all CHILD SAs, and how long it may live.

use std::time::Duration;

use super::sa::Child;
use crate::core::{
    Now,
    sessions::{Patch, Session},
};

/// CHILD SAs of one client whose bytes are counted: a client may make as many as it likes.
pub(super) const MAX_CHILDREN: usize = 1024;

/// Charon tells in whole seconds when an SA is to be renewed.
const RENEW_SLACK: Duration = Duration::from_secs(2);

/// An IKE SA that is up, as a session.
#[derive(Debug)]
pub(super) struct Entry {
    /// As the reducer knows it.
    pub(super) session: Session,
    pub(super) children: Vec<Child>,
    /// When it is to be rekeyed or authenticated anew, on the boot clock; not known after a rekey.
    pub(super) renew_at: Option<Duration>,
    /// Bytes of CHILD SAs that are no more: a rekeyed one starts from zero.
    pub(super) before: (u64, u64),
    /// The last list that had it.
    pub(super) round: u32,
}

impl Entry {
    /// Counts only grow: a list may be older than the event before it.
    pub(super) fn count(&mut self, children: &[Child]) {
        for child in children {
            let is_it = |known: &Child| known.unique_id == child.unique_id;
            match self.children.iter().position(is_it) {
                Some(at) => {
                    let known = &mut self.children[at];
                    known.rx = known.rx.max(child.rx);
                    known.tx = known.tx.max(child.tx);
                }
                None if self.children.len() < MAX_CHILDREN => self.children.push(*child),
                None => {}
            }
        }
        let sum = |of: fn(&Child) -> u64| self.children.iter().map(of).fold(0, u64::saturating_add);
        self.session.rx = self.before.0.saturating_add(sum(|child| child.rx));
        self.session.tx = self.before.1.saturating_add(sum(|child| child.tx));
    }

    /// Closes the account of the CHILD SAs that a full list does not have any more.
    pub(super) fn retire(&mut self, listed: &[Child]) {
        let before = &mut self.before;
        self.children.retain(|known| {
            let kept = listed
                .iter()
                .any(|child| child.unique_id == known.unique_id);
            if !kept {
                before.0 = before.0.saturating_add(known.rx);
                before.1 = before.1.saturating_add(known.tx);
            }
            kept
        });
    }

    pub(super) fn patch(&self) -> Patch {
        Patch {
            key: self.session.key.clone(),
            endpoint: self.session.endpoint,
            virtual_ips: None,
            rx: self.session.rx,
            tx: self.session.tx,
            last_seen: self.session.last_seen,
        }
    }

    /// Its client has authenticated anew, and goes on with this SA instead of `former`.
    pub(super) fn takes_over(&mut self, former: &Self) {
        self.before = former.before;
        self.count(&former.children);
        self.session.started = former.session.started;
    }

    /// Whether charon deletes it because its time is up, when it does so at `now` by itself.
    pub(super) fn has_expired(&self, now: Now) -> bool {
        self.renew_at
            .is_some_and(|renew_at| renew_at <= now.boot + RENEW_SLACK)
    }
}
