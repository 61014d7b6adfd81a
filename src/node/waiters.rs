//! Requests that wait until another client has filled a value: no polling, no thread. The owner of the key keeps
//! them, in the order in which they came, whichever core their client is at.
//!
//! A waiter is answered when its key's lease has ended or its own time is over, by executing the request again.
//! After a fill all get the value. After a deletion, or when the holder of the lease did not fill in time, the first
//! gets the next lease and the others wait on. A client that is gone gets none.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashTable;

use super::batch::SLICE_OUTPUT_MAX;
use super::mailbox::{Body, ConnId, Form, Token, Work};
use super::serve::REPLIES_BYTES_MAX;
use super::session::Session;
use super::{Node, Waiting};
use crate::command::{Ask, Claim, Op, Span};
use crate::engine::At;

/// Requests that may wait at one core; the next are answered at once.
const WAITERS_MAX: usize = 1 << 16;
/// What they may take: one part in so many of the core's memory.
const BUDGET_PART: u64 = 16;
/// Waiters that are looked at in one slice.
const SLICE_WAITERS: usize = 256;
/// About what a waiter takes beside its request: its places in three maps.
const PLACES_BYTES: usize = 160;

/// A request that waits.
#[derive(Debug)]
struct Waiter {
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
    /// By their numbers, which rise.
    waiters: BTreeMap<u64, Waiter>,
}

/// How many requests of a connection wait, and whether it is gone.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    waiting: u32,
    is_gone: bool,
}

/// All requests that wait at a core.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    queues: HashTable<Queue>,
    /// The key of each, by deadline and number, soonest first.
    due: BTreeMap<(u64, u64), At>,
    /// By core and place.
    clients: BTreeMap<(usize, ConnId), Client>,
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
        let queues = self.queues.len() * size_of::<Queue>() * 2;
        self.due.len() * (size_of::<Waiter>() + PLACES_BYTES) + queues + self.key_bytes
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

    /// A waiter is answered. Answers whether its client was gone.
    fn leave(&mut self, client: (usize, ConnId)) -> bool {
        let Some(entry) = self.clients.get_mut(&client) else { return false };
        entry.waiting -= 1;
        let is_gone = entry.is_gone;
        if entry.waiting == 0 {
            self.clients.remove(&client);
        }
        is_gone
    }

    /// A connection is gone, or takes no more part: whatever it waits for is none of its own to fill.
    pub fn depart(&mut self, core: usize, conn: ConnId) {
        if let Some(client) = self.clients.get_mut(&(core, conn)) {
            client.is_gone = true;
        }
    }
}

impl Node {
    /// Lets a request that may wait do so, if the key's value is being filled: whether it does. Its reply comes later.
    #[cold]
    pub(super) fn await_fill(&mut self, from: usize, token: Token, form: Form, at: At, key: &[u8], op: Op<'_>) -> bool {
        let bytes_max = (self.shard.budget_bytes() / BUDGET_PART) as usize;
        let full = self.waiters.len() >= WAITERS_MAX || self.waiters.held_bytes() + key.len() > bytes_max;
        if full || self.waiters.closed || !self.shard.await_fill(at, key, self.now) {
            return false;
        }
        // Of two keys with one hash the second does not wait.
        if self.waiters.queues.find(at.hash.0, |queue| queue.at == at).is_some_and(|queue| *queue.key != *key) {
            return false;
        }
        self.waiters.numbers += 1;
        let (number, until) = (self.waiters.numbers, self.now.0 + u64::from(op.waits()));
        let mut queue =
            self.waiters.take(at).unwrap_or_else(|| Queue { at, key: key.into(), waiters: BTreeMap::new() });
        queue.waiters.insert(number, Waiter { until, from, token, form, op: op.with_bytes(b"") });
        self.waiters.put(queue);
        self.waiters.due.insert((until, number), at);
        self.waiters.clients.entry((from, token.conn)).or_default().waiting += 1;
        self.counters.waits += 1;
        true
    }

    /// A session is gone or will send no more: none of its requests that wait anywhere gets a lease.
    pub(super) fn end_waiting(&mut self, id: ConnId, session: &mut Session) {
        if !std::mem::take(&mut session.has_waited) {
            return;
        }
        self.waiters.depart(self.core, id);
        self.tell_others(id, Work::Departed);
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
        let mut bytes = 0;
        for _ in 0..SLICE_WAITERS {
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
            // If another lease is out by now, all whose time is not over wait on for that.
            if overdue.is_none() && self.shard.await_fill(queue.at, &queue.key, self.now) {
                self.waiters.ended.pop_front();
                self.waiters.put(queue);
                continue;
            }
            // Who waited longest.
            let first = || queue.waiters.first_key_value().map(|(&number, _)| number);
            let number = overdue.map(|(number, _)| number).or_else(first).unwrap_or(0);
            let from = queue.waiters.get(&number).map(|waiter| waiter.from);
            if bytes >= SLICE_OUTPUT_MAX || from.is_some_and(|core| self.outbox[core].bytes.len() >= REPLIES_BYTES_MAX)
            {
                // Goes on when the parcel is taken.
                self.waiters.put(queue);
                break;
            }
            let Some(waiter) = queue.waiters.remove(&number) else {
                self.waiters.due.pop_first();
                self.waiters.put(queue);
                continue;
            };
            self.waiters.due.remove(&(waiter.until, number));
            bytes += self.answer_waiter(waiter, at, &queue.key);
            self.waiters.put(queue);
        }
        self.tend_waiters();
    }

    /// Executes the request of a waiter; answers how long its reply is.
    fn answer_waiter(&mut self, waiter: Waiter, at: At, key: &[u8]) -> usize {
        let Waiter { from, token, form, mut op, .. } = waiter;
        // A lease for a client that is gone would be lost until its time is over.
        if self.waiters.leave((from, token.conn))
            && let Op::Fetch { expiry, bump, ask: Some(ask) } = op
        {
            op = Op::Fetch { expiry, bump, ask: Some(Ask { claim: Claim::Nothing, ..ask }) };
        }
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        self.executed += 1;
        self.execute_tracked((from, token.conn), &form, at, key, op, &mut reply);
        let length = reply.len();
        if from == self.core {
            self.accept_replies(std::iter::once((token, Body::Encoded(Span::new(0, length)))), &reply);
        } else {
            let span = self.outbox[from].put(&reply);
            self.outbox[from].replies.push((token, Body::Encoded(span)));
        }
        self.keep_scratch(reply);
        length
    }
}
