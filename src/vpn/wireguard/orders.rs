//! Ending sessions: their peers are taken out of the interface.
//!
//! WireGuard cannot end a session otherwise: a peer that stays configured shakes hands again. The
//! peer is out until the configuration is loaded again. An order is done when the interface itself
//! does not list the session any more.

use std::{collections::BTreeMap, time::Duration};

use super::{WireGuard, discover::Found, interface::Interface, kernel::Kernel};
use crate::{
    core::sessions::SessionKey,
    host::clock,
    vpn::{Closed, Line, Order, Report},
};

/// Orders that are dealt with together: one directive names no more connections.
const TOGETHER: usize = vpn_node_protocol::limits::MAX_DISCONNECTS;

/// What became of an order.
type Outcome = Result<(), String>;

impl WireGuard {
    /// Does `first` and what waits behind it. All sessions of one interface go at once, since each
    /// look at it costs a whole answer. An interface takes two answers and one removal at most.
    pub(super) fn obey(&mut self, first: Order, line: &Line) -> Result<(), Closed> {
        let mut waiting = vec![first];
        while waiting.len() < TOGETHER
            && let Some(order) = line.wait(&[], Duration::ZERO)?
        {
            waiting.push(order);
        }
        let mut orders: BTreeMap<String, Vec<Order>> = BTreeMap::new();
        for order in waiting {
            let of_one = orders.entry(order.backend.instance.clone()).or_default();
            of_one.push(order);
        }
        let now = clock::now();
        let (found, missing) = self.discover(now);
        line.tell(missing)?;
        let kernel = Kernel::by(self.settings.reader.as_deref());
        for (name, orders) in orders {
            let found = found.iter().find(|found| found.name == name);
            let mut reports = Vec::new();
            let outcomes = match (self.interfaces.get_mut(&name), found) {
                (Some(interface), Some(found)) => end(
                    interface,
                    (found, kernel),
                    &orders,
                    &mut self.buffer,
                    &mut reports,
                ),
                (Some(_), None) => all(&orders, &format!("{name} cannot be found at present")),
                // It vanished, and all its sessions with it.
                (None, _) => vec![Ok(()); orders.len()],
            };
            // First what was seen, so that the session is over when the order is done.
            line.tell(reports)?;
            for (order, outcome) in orders.iter().zip(outcomes) {
                line.answer(order.id, outcome)?;
            }
        }
        Ok(())
    }
}

/// Looks (which also counts the last bytes), removes, and looks again.
fn end(
    interface: &mut Interface,
    (found, kernel): (&Found, Kernel<'_>),
    orders: &[Order],
    buffer: &mut [u8],
    reports: &mut Vec<Report>,
) -> Vec<Outcome> {
    let name = &found.name;
    let now = clock::now();
    if interface.is_paused(now) {
        let why = format!("the daemon of {name} hangs; it is asked again within 30 s");
        return all(orders, &why);
    }
    reports.push(interface.poll(found, kernel, now, buffer));
    let keys: Vec<[u8; 32]> = orders
        .iter()
        .filter_map(|order| peer_of(interface, order))
        .collect();
    if keys.is_empty() {
        return judge(interface, orders, "");
    }
    if !interface.table.is_complete() {
        let why =
            format!("{name} cannot be read, so nothing was removed; the agent's log says why");
        return judge(interface, orders, &why);
    }
    if let Err(error) = Interface::remove(found, kernel, &keys, buffer) {
        let why = format!("cannot take the peer out of {name}: {error}");
        return judge(interface, orders, &why);
    }
    reports.push(interface.poll(found, kernel, clock::now(), buffer));
    let why = if interface.table.is_complete() {
        format!(
            "{name} still has the peer after its removal; `wg set {name} peer … remove` may help"
        )
    } else {
        format!("the peer was taken out of {name}, which cannot be read to confirm it")
    };
    judge(interface, orders, &why)
}

/// An order whose session goes on has failed because of `why`.
fn judge(interface: &mut Interface, orders: &[Order], why: &str) -> Vec<Outcome> {
    let outcome = |order| match peer_of(interface, order) {
        Some(_) => Err(why.to_owned()),
        None => Ok(()),
    };
    orders.iter().map(outcome).collect()
}

fn all(orders: &[Order], why: &str) -> Vec<Outcome> {
    vec![Err(why.to_owned()); orders.len()]
}

/// The peer of the session that is to end, if it goes on. A later session of the same peer is
/// another one, which nobody ordered to end.
fn peer_of(interface: &mut Interface, order: &Order) -> Option<[u8; 32]> {
    let SessionKey::WireGuard {
        public_key,
        incarnation,
    } = order.key
    else {
        return None; // no session of WireGuard: nothing here can be it
    };
    let is_live = interface.table.is_live(&public_key, incarnation);
    is_live.then_some(public_key)
}
