//! The directive that ends connections.
//!
//! Each connection that it names and that is up gets one order to its VPN daemon, however many
//! directives name it and however often they come. A directive is acknowledged when all its
//! connections are over, or when one could not be ended; while it is under way, or while it is not
//! known yet which sessions it means, it is not, and the controller sends it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;
use vpn_node_protocol::directive::DisconnectReason;
use vpn_node_protocol::limits::{MAX_DISCONNECTS, MAX_TEXT_BYTES};
use vpn_node_protocol::message::{DirectiveAck, DirectiveOutcome};

use super::{Agent, Command};
use crate::core::sessions::{BackendId, Confirmed, Reason, SessionKey};
use crate::core::{Now, shown};

/// Directives under way at a time: their orders fit the queue of one reader. A further one is not
/// looked at until it comes again.
const MAX_UNDER_WAY: usize = 4;

/// A reader that answers none of its orders for this long is given up. OpenVPN may take 8 seconds to
/// list its clients and 8 more to let one go; a poll of WireGuard that is under way when the order
/// comes takes 6, and the order itself 10.
const NO_ANSWER: Duration = Duration::from_secs(20);

/// A directive is given up after this long, however busy its readers are.
const TAKES_AT_MOST: Duration = Duration::from_secs(60);

/// Somebody waits for the acknowledgement. A record of the end that is being written to the ledger
/// takes it along; if none comes within this time, a heartbeat does.
const RECORD_TAKES: Duration = Duration::from_millis(250);

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Disconnects {
    directives: Vec<Wanted>,
    orders: BTreeMap<u64, Order>,
    last_order: u64,
    /// When an acknowledgement that somebody waits for goes out, with a heartbeat if need be.
    acknowledge_at: Option<Duration>,
}

/// A directive that waits for its orders.
#[derive(Debug)]
struct Wanted {
    directive: Uuid,
    began: Duration,
    named: usize,
    waits_for: BTreeSet<u64>,
    failed: usize,
    /// The first failure, for people.
    why: String,
    unconfirmed: bool,
}

/// One session that a daemon was told to end.
#[derive(Debug)]
struct Order {
    connection: Uuid,
    backend: BackendId,
    key: SessionKey,
    /// When it was given, or its backend last answered one.
    silent_since: Duration,
}

impl Disconnects {
    fn is_under_way(&self, directive: Uuid) -> bool {
        self.directives.iter().any(|d| d.directive == directive)
    }

    /// When [`Agent::give_up_disconnects`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let silent = self.orders.values().map(|o| o.silent_since + NO_ANSWER);
        let slow = self.directives.iter().map(|d| d.began + TAKES_AT_MOST);
        silent.chain(slow).min()
    }

    /// The order for this connection: the one under way, or a new one.
    fn order(
        &mut self,
        (connection, backend, key): (Uuid, BackendId, SessionKey),
        now: Now,
        commands: &mut impl Extend<Command>,
    ) -> u64 {
        let known = self.orders.iter().find(|(_, o)| o.connection == connection);
        if let Some((id, _)) = known {
            return *id;
        }
        self.last_order += 1;
        let order = self.last_order;
        commands.extend([Command::Disconnect {
            order,
            backend: backend.clone(),
            key: key.clone(),
        }]);
        let silent_since = now.boot;
        let given = Order {
            connection,
            backend,
            key,
            silent_since,
        };
        self.orders.insert(order, given);
        order
    }

    /// Takes an answered order out. Its reader is alive: the others get time.
    fn take(&mut self, order: u64, now: Now) -> Option<Order> {
        let order = self.orders.remove(&order)?;
        for other in self.orders.values_mut() {
            if other.backend == order.backend {
                other.silent_since = now.boot;
            }
        }
        Some(order)
    }

    fn renamed(&mut self, before: u64, after: u64) {
        for directive in &mut self.directives {
            if directive.waits_for.remove(&before) {
                directive.waits_for.insert(after);
            }
        }
    }

    /// An order is dealt with; gives the directives that wait for nothing more.
    fn settle(&mut self, order: u64, failure: Option<&str>) -> Vec<Wanted> {
        for directive in &mut self.directives {
            if !directive.waits_for.remove(&order) {
                continue;
            }
            if let Some(why) = failure {
                if directive.failed == 0 {
                    why.clone_into(&mut directive.why);
                }
                directive.failed += 1;
            }
        }
        let done = |directive: &mut Wanted| directive.waits_for.is_empty();
        self.directives.extract_if(.., done).collect()
    }

    /// The orders that nobody waits for any longer: of silent readers, or of old directives.
    fn overdue(&self, now: Now) -> Vec<(u64, &'static str)> {
        let late = |d: &&Wanted| d.began + TAKES_AT_MOST <= now.boot;
        let late: BTreeSet<u64> = self
            .directives
            .iter()
            .filter(late)
            .flat_map(|d| d.waits_for.iter().copied())
            .collect();
        let orders = self.orders.iter();
        let of = |(id, order): (&u64, &Order)| {
            if order.silent_since + NO_ANSWER <= now.boot {
                Some((*id, "it did not answer within 20 seconds"))
            } else if late.contains(id) {
                Some((*id, "it took longer than a minute"))
            } else {
                None
            }
        };
        orders.filter_map(of).collect()
    }
}

impl Agent {
    /// A directive came, maybe not for the first time. None: it is under way, or its connections
    /// are not known yet.
    pub(super) fn disconnect(
        &mut self,
        directive: Uuid,
        connection_ids: &[Uuid],
        reason: DisconnectReason,
        now: Now,
    ) -> Option<(DirectiveOutcome, Option<String>)> {
        if connection_ids.len() > MAX_DISCONNECTS {
            let detail = format!("it names more than {MAX_DISCONNECTS} connections");
            self.acknowledge_soon(now);
            return Some((DirectiveOutcome::Failed, Some(detail)));
        }
        if self.disconnects.directives.len() >= MAX_UNDER_WAY {
            return None;
        }
        let ids: BTreeSet<Uuid> = connection_ids.iter().copied().collect();
        let reason = match reason {
            DisconnectReason::AdminKick => Reason::AdminKick,
            DisconnectReason::Revoked => Reason::Revoked,
        };
        let found = self.reducer.intend(&ids, &reason, now);
        self.record(found.events, now);
        if found.up.is_empty() {
            if found.unconfirmed {
                return None;
            }
            self.acknowledge_soon(now);
            return Some((DirectiveOutcome::Applied, None));
        }
        let orders = found
            .up
            .into_iter()
            .map(|session| self.disconnects.order(session, now, &mut self.commands));
        let waits_for = orders.collect();
        self.disconnects.directives.push(Wanted {
            directive,
            began: now.boot,
            named: ids.len(),
            waits_for,
            failed: 0,
            why: String::new(),
            unconfirmed: found.unconfirmed,
        });
        None
    }

    /// Whether a directive that comes again changes nothing, since it is being done.
    pub(super) fn is_disconnecting(&self, directive: Uuid) -> bool {
        self.disconnects.is_under_way(directive)
    }

    /// A VPN daemon has answered an order. An answer to one that was given up says nothing new.
    pub(super) fn disconnected(&mut self, order: u64, result: Result<(), String>, now: Now) {
        let Some(given) = self.disconnects.take(order, now) else {
            return;
        };
        if let Err(why) = result {
            return self.not_ended(order, &given, &why, now);
        }
        match self.reducer.confirmed(given.connection, &given.key, now) {
            Confirmed::Over(event) => {
                self.record(event.into_iter().map(|event| *event).collect(), now);
                self.settle(order, None, now);
            }
            Confirmed::Renamed(key) => {
                let session = (given.connection, given.backend, key);
                let next = self.disconnects.order(session, now, &mut self.commands);
                self.disconnects.renamed(order, next);
            }
        }
    }

    /// Gives up what its readers do not answer.
    pub(super) fn give_up_disconnects(&mut self, now: Now) {
        for (order, why) in self.disconnects.overdue(now) {
            if let Some(given) = self.disconnects.orders.remove(&order) {
                self.not_ended(order, &given, why, now);
            }
        }
    }

    /// The daemon did not do it. If the session is over all the same, that is what counts.
    fn not_ended(&mut self, order: u64, given: &Order, why: &str, now: Now) {
        let still_up = self.reducer.forget_intent(given.connection);
        let why = still_up.then(|| format!("{}: {why}", given.backend));
        self.settle(order, why.as_deref(), now);
    }

    fn settle(&mut self, order: u64, failure: Option<&str>, now: Now) {
        for done in self.disconnects.settle(order, failure) {
            self.acknowledge_soon(now);
            if done.failed > 0 {
                let detail = done.detail();
                self.memory.note(&detail, now);
                self.acknowledge(done.directive, DirectiveOutcome::Failed, Some(detail));
            } else if !done.unconfirmed {
                self.acknowledge(done.directive, DirectiveOutcome::Applied, None);
            }
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        id: Uuid,
        outcome: DirectiveOutcome,
        detail: Option<String>,
    ) {
        self.remember_directive(id);
        self.commands.push_back(Command::Settled {
            directive: id,
            outcome,
            detail: detail.clone(),
        });
        self.acks.push(DirectiveAck {
            id,
            outcome,
            detail,
        });
    }

    /// An acknowledgement that somebody waits for goes out soon, with a heartbeat if need be.
    pub(super) fn acknowledge_soon(&mut self, now: Now) {
        let at = &mut self.disconnects.acknowledge_at;
        at.get_or_insert(now.boot + RECORD_TAKES);
    }

    /// When the next heartbeat is due: as the controller wants them, with an acknowledgement, or
    /// with a deployment's new status.
    pub(super) fn heartbeat_due(&self) -> Duration {
        let early = [self.disconnects.acknowledge_at, self.updates.tell_at()];
        let early = early.into_iter().flatten();
        early.fold(self.heartbeat_at, Duration::min)
    }

    /// A request takes the acknowledgements along; should it be refused, a later one does.
    pub(super) fn acknowledgements_go(&mut self) {
        self.disconnects.acknowledge_at = None;
    }
}

impl Wanted {
    /// What could not be done, in a short text that names no client.
    fn detail(&self) -> String {
        let (failed, named) = (self.failed, self.named);
        let text = format!("{failed} of {named} not ended; {}", shown(&self.why));
        let mut text = text.replace(char::is_control, "?");
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text
    }
}
