//! Requests that wait until another client has filled a value: no polling, no thread. The owner of the key keeps
//! them, in the order in which they came, whichever core their client is at.
//!
//! A waiter is answered when its key's lease has ended or its own time is over, by executing the request again.
//! After a fill all get the value. After a deletion, or when the holder of the lease did not fill in time, the first
//! gets the next lease and the others wait on.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashTable;

use super::batch::SLICE_OUTPUT_MAX;
use super::mailbox::{Body, Form, Token};
use super::serve::REPLIES_BYTES_MAX;
use super::{Node, Waiting};
use crate::command::{Op, Span};
use crate::engine::At;

/// Requests that may wait at one core; the next are answered at once.
const WAITERS_MAX: usize = 1 << 16;
/// Waiters that are answered in one slice.
const SLICE_WAITERS: usize = 256;

/// A request that waits.
#[derive(Debug)]
struct Waiter {
    /// Rises from one to the next.
    number: u64,
    /// The last millisecond in which it waits.
    until: u64,
    /// The core of its client.
    from: usize,
    token: Token,
    form: Form,
    op: Op<'static>,
}

/// The requests that wait for one key.
#[derive(Debug)]
struct Queue {
    at: At,
    key: Box<[u8]>,
    waiters: VecDeque<Waiter>,
}

/// All requests that wait at a core.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    queues: HashTable<Queue>,
    /// The key of each, by deadline and number, soonest first.
    due: BTreeMap<(u64, u64), At>,
    /// Keys whose lease has ended.
    ended: VecDeque<At>,
    numbers: u64,
    key_bytes: usize,
    /// Whether a slice is to come.
    queued: bool,
    /// Whether nobody is to wait any more.
    closed: bool,
}

impl Waiters {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Memory held.
    pub fn held_bytes(&self) -> usize {
        // A map of the standard library is three quarters full.
        let entry = size_of::<Waiter>() + size_of::<((u64, u64), At)>() * 4 / 3;
        self.due.len() * entry + self.queues.len() * size_of::<Queue>() * 2 + self.key_bytes
    }

    /// Takes the queue of a key out, if anybody waits in it.
    fn take(&mut self, at: At) -> Option<Queue> {
        let (queue, _) = self.queues.find_entry(at.hash.0, |queue| queue.at == at).ok()?.remove();
        self.key_bytes -= queue.key.len();
        Some(queue)
    }

    fn put(&mut self, queue: Queue) {
        if !queue.waiters.is_empty() {
            self.key_bytes += queue.key.len();
            self.queues.insert_unique(queue.at.hash.0, queue, |queue| queue.at.hash.0);
        }
    }

    /// The first whose time is over.
    fn overdue(&self, now: u64) -> Option<(u64, At)> {
        let (&(until, number), &at) = self.due.first_key_value()?;
        (until < now || self.closed).then_some((number, at))
    }
}

impl Node {
    /// Lets a request that may wait do so, if the key's value is being filled: whether it does. Its reply comes later.
    #[cold]
    pub(super) fn await_fill(&mut self, from: usize, token: Token, form: Form, at: At, key: &[u8], op: Op<'_>) -> bool {
        let full = self.waiters.len() >= WAITERS_MAX || self.waiters.closed;
        if full || !self.shard.await_fill(at, key, self.now) {
            return false;
        }
        // Of two keys with one hash the second does not wait.
        if self.waiters.queues.find(at.hash.0, |queue| queue.at == at).is_some_and(|queue| *queue.key != *key) {
            return false;
        }
        self.waiters.numbers += 1;
        let (number, until) = (self.waiters.numbers, self.now.0 + u64::from(op.waits()));
        let mut queue =
            self.waiters.take(at).unwrap_or_else(|| Queue { at, key: key.into(), waiters: VecDeque::new() });
        queue.waiters.push_back(Waiter { number, until, from, token, form, op: op.with_bytes(b"") });
        self.waiters.put(queue);
        self.waiters.due.insert((until, number), at);
        self.counters.waits += 1;
        true
    }

    /// Finds those that need not wait any longer; slices answer them. Called in every turn.
    #[inline]
    pub fn tend_waiters(&mut self) {
        if self.waiters.due.is_empty() || self.waiters.queued {
            return;
        }
        self.waiters.ended.extend(self.shard.take_ended_leases(self.now));
        if !self.waiters.ended.is_empty() || self.waiters.overdue(self.now.0).is_some() {
            self.waiters.queued = true;
            self.waiting.push_back(Waiting::Waiters);
        }
    }

    /// In how many milliseconds somebody has waited long enough.
    pub fn next_wait_end(&self) -> Option<u64> {
        let (&(until, _), _) = self.waiters.due.first_key_value()?;
        let lease = self.shard.next_awaited_end().map_or(u64::MAX, |end| end.0);
        Some((until + 1).min(lease).saturating_sub(self.now.0))
    }

    /// Nobody waits any more.
    pub fn end_waits(&mut self) {
        self.waiters.closed = true;
    }

    /// Answers a slice of those that need not wait any longer.
    pub(super) fn answer_waiters(&mut self) {
        self.waiters.queued = false;
        self.shard.set_actor(0);
        let (mut answered, mut bytes) = (0, 0);
        while answered < SLICE_WAITERS && bytes < SLICE_OUTPUT_MAX {
            let overdue = self.waiters.overdue(self.now.0);
            let at = match (overdue, self.waiters.ended.front()) {
                (Some((_, at)), _) | (None, Some(&at)) => at,
                (None, None) => break,
            };
            let Some(mut queue) = self.waiters.take(at) else {
                match overdue {
                    Some(_) => self.waiters.due.pop_first().map(|_| ()),
                    None => self.waiters.ended.pop_front().map(|_| ()),
                };
                continue;
            };
            let index = match overdue {
                Some((number, _)) => queue.waiters.binary_search_by_key(&number, |waiter| waiter.number).ok(),
                // Who waited longest. If another lease is out by now, all wait on for that.
                None if self.shard.await_fill(queue.at, &queue.key, self.now) => {
                    self.waiters.ended.pop_front();
                    self.waiters.put(queue);
                    continue;
                }
                None => Some(0),
            };
            let from = index.and_then(|index| queue.waiters.get(index)).map(|waiter| waiter.from);
            if from.is_some_and(|core| self.outbox[core].bytes.len() >= REPLIES_BYTES_MAX) {
                // Goes on when the parcel is taken.
                self.waiters.put(queue);
                break;
            }
            let Some(waiter) = index.and_then(|index| queue.waiters.remove(index)) else {
                self.waiters.due.pop_first();
                self.waiters.put(queue);
                continue;
            };
            self.waiters.due.remove(&(waiter.until, waiter.number));
            bytes += self.answer_waiter(waiter, at, &queue.key);
            answered += 1;
            self.waiters.put(queue);
        }
        self.tend_waiters();
    }

    /// Executes the request of a waiter; answers how long its reply is.
    fn answer_waiter(&mut self, waiter: Waiter, at: At, key: &[u8]) -> usize {
        let Waiter { from, token, form, op, .. } = waiter;
        // A lease for a client that is gone would be lost until its time is over.
        if from == self.core && self.session(token.conn).is_none() {
            return 0;
        }
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        self.executed += 1;
        self.execute_on_key(&form, at, key, op, &mut reply);
        let length = reply.len();
        if from == self.core {
            self.accept_reply(token, Body::Encoded(Span::new(0, length)), &reply);
        } else {
            let span = self.outbox[from].put(&reply);
            self.outbox[from].replies.push((token, Body::Encoded(span)));
        }
        self.keep_scratch(reply);
        length
    }
}
