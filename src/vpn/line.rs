//! How a reader of VPN daemons and the agent speak with each other.
//!
//! The reader has a thread of its own. It tells what it saw and what became of its orders, and waits
//! on its daemons' sockets and on the next order at once. Neither side can make the other one hang:
//! what is told may have to wait for the loop, an order that finds no room is refused to its sender.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Report;
use crate::core::sessions::{BackendId, SessionKey};

/// Orders that may wait for one reader: a directive names 64 connections at most, and one of them
/// is dealt with at a time.
const ORDERS_QUEUED: usize = 256;

/// End one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Names this order in its answer.
    pub id: u64,
    /// Where.
    pub backend: BackendId,
    /// Which.
    pub key: SessionKey,
}

/// What a reader tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It looked at its daemons, or they spoke.
    Seen(Vec<Report>),
    /// An order was done: the daemon itself says that the session is over. Or why not: a sentence
    /// that names no client.
    Done {
        /// [`Order::id`].
        order: u64,
        /// What became of it.
        result: Result<(), String>,
    },
}

/// The agent does not listen any more: the reader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Closed;

/// Where words go. May block until there is room.
pub type Tell = Box<dyn Fn(Word) -> Result<(), Closed> + Send>;

/// The reader's end.
pub struct Line {
    tell: Tell,
    orders: Receiver<Order>,
    waiting: Arc<AtomicUsize>,
    bell: Arc<EventFd>,
}

/// The agent's end. When it is dropped, the reader's [`Line::wait`] says so at once.
pub struct Orders {
    orders: Option<Sender<Order>>,
    waiting: Arc<AtomicUsize>,
    bell: Arc<EventFd>,
}

/// A line whose words go to `tell`.
///
/// # Errors
/// The kernel gives no eventfd(2).
pub fn line(tell: Tell) -> std::io::Result<(Line, Orders)> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let bell = Arc::new(EventFd::from_value_and_flags(0, flags)?);
    // Bounded by `waiting`: a bounded channel takes the memory of all its orders at once, and most
    // readers never get one.
    let (sender, orders) = mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let line = Line {
        tell,
        orders,
        waiting: waiting.clone(),
        bell: bell.clone(),
    };
    let orders = Orders {
        orders: Some(sender),
        waiting,
        bell,
    };
    Ok((line, orders))
}

impl Orders {
    /// Hands an order over; false when the reader has ended or has no room for more.
    #[must_use]
    pub fn give(&self, order: Order) -> bool {
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < ORDERS_QUEUED;
        let orders = self.orders.as_ref().filter(|_| has_room);
        let given = orders.is_some_and(|orders| orders.send(order).is_ok());
        if !given {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.ring();
        given
    }

    fn ring(&self) {
        // It can only fail when it has rung 2^64 times without being heard.
        let _ = self.bell.write(1);
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.orders = None;
        self.ring();
    }
}

impl Line {
    /// Tells what was seen; nothing seen is not told.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn tell(&self, reports: Vec<Report>) -> Result<(), Closed> {
        if reports.is_empty() {
            return Ok(());
        }
        (self.tell)(Word::Seen(reports))
    }

    /// Tells what became of an order.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn answer(&self, order: u64, result: Result<(), String>) -> Result<(), Closed> {
        (self.tell)(Word::Done { order, result })
    }

    /// Waits until one of `interests` is ready, an order is there, or `timeout` is over. Sockets are
    /// non-blocking, so it need not tell which one was ready.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn wait(
        &self,
        interests: &[PollFd<'_>],
        timeout: Duration,
    ) -> Result<Option<Order>, Closed> {
        if let Some(order) = self.order()? {
            return Ok(Some(order));
        }
        let mut all = interests.to_vec();
        all.push(PollFd::new(self.bell.as_fd(), PollFlags::POLLIN));
        // Rounded up, so that a deadline is over when the wait for it is.
        let millis = timeout.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        // A signal ends the wait early, which harms nobody.
        let _ = poll(&mut all, timeout);
        let _ = self.bell.read();
        self.order()
    }

    fn order(&self) -> Result<Option<Order>, Closed> {
        match self.orders.try_recv() {
            Ok(order) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                Ok(Some(order))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::core::sessions::BackendKind;

    const LONG: Duration = Duration::from_secs(600);

    fn order(id: u64) -> Order {
        Order {
            id,
            backend: BackendId {
                kind: BackendKind::OpenVpn,
                instance: "server".to_owned(),
            },
            key: SessionKey::Ike { unique_id: id },
        }
    }

    #[test]
    fn an_order_wakes_the_reader_and_its_answer_reaches_the_agent() {
        let (words, told) = channel();
        let (line, orders) =
            line(Box::new(move |word| words.send(word).map_err(|_| Closed))).unwrap();
        let reader = thread::spawn(move || {
            let order = line.wait(&[], LONG).unwrap();
            let order = order.or_else(|| line.wait(&[], LONG).unwrap()).unwrap();
            line.answer(order.id, Err("no".to_owned())).unwrap();
            // Dropped by the agent: the wait ends.
            while line.wait(&[], LONG).is_ok() {}
        });
        assert!(orders.give(order(7)));
        let answer = Word::Done {
            order: 7,
            result: Err("no".to_owned()),
        };
        assert_eq!(told.recv().unwrap(), answer);
        drop(orders);
        reader.join().unwrap();
    }

    #[test]
    fn orders_that_nobody_takes_are_refused_in_the_end() {
        let (line, orders) = line(Box::new(|_| Ok(()))).unwrap();
        let taken = (0..2 * ORDERS_QUEUED as u64).take_while(|id| orders.give(order(*id)));
        assert_eq!(taken.count(), ORDERS_QUEUED);
        assert_eq!(line.wait(&[], LONG).unwrap().unwrap().id, 0);
        drop(line);
        assert!(!orders.give(order(1)));
    }
}
