//! `batchGet` and `batchSet`, a slice at a time: between two slices the core's other clients are served.
//!
//! The session executes nothing else meanwhile. A place is kept for the reply, each key's part is put there, by this
//! core or by its owner, and with the last one the response is written. Once the parts of a `batchGet` are too long
//! together, no more values are read.

use crate::command::{Ask, Expiry, Op, Store, StoreMode};
use crate::node::Node;
use crate::node::mailbox::{ConnId, Form, Token};
use crate::node::output::Join;
use crate::node::session::Session;
use crate::protocol::http::{self, Entry, List, Shape};

/// Parts that may be at other cores at a time: as many long values as fit into memory beside each other.
const WINDOW: usize = 16;

/// What is to be done with each key.
#[derive(Debug)]
pub(super) enum Items {
    Get(Vec<Vec<u8>>),
    Set(Vec<Entry>),
}

impl Items {
    fn len(&self) -> usize {
        match self {
            Items::Get(keys) => keys.len(),
            Items::Set(entries) => entries.len(),
        }
    }

    fn get(&self, i: usize) -> (&[u8], Op<'_>) {
        match self {
            Items::Get(keys) => (&keys[i], Op::Fetch { expiry: Expiry::Keep, bump: true, ask: Some(Ask::NOTHING) }),
            Items::Set(entries) => {
                let entry = &entries[i];
                let plain = Store::new(StoreMode::Set, entry.expiry);
                (&entry.key, Op::Store(Store { value: &entry.value, soft_ms: entry.soft_ms, ..plain }))
            }
        }
    }
}

/// A request of several keys that is being executed.
#[derive(Debug)]
pub struct Batch {
    items: Items,
    /// The first that is not executed.
    next: usize,
    /// The place of its reply.
    sequence: u32,
    form: http::Form,
}

impl Batch {
    /// Memory held.
    pub fn held_bytes(&self) -> usize {
        let bytes: usize = match &self.items {
            Items::Get(keys) => keys.iter().map(|key| size_of_val(key) + key.capacity()).sum(),
            Items::Set(all) => all.iter().map(|e| size_of_val(e) + e.key.capacity() + e.value.capacity()).sum(),
        };
        size_of::<Self>() + bytes
    }
}

impl Node {
    /// Begins a batch, and executes its first slice.
    pub(super) fn on_http_batch(&mut self, id: ConnId, session: &mut Session, items: Items, close: bool) {
        let (name, shape) = match items {
            Items::Get(_) => ("values", Shape::ValuePart),
            Items::Set(_) => ("results", Shape::OutcomePart),
        };
        let list = List { name, close, bytes_max: self.http_limits.reply_bytes_max };
        if items.len() == 0 {
            return list.write(Some(&[]), session.output.buffer());
        }
        let form = http::Form::of(shape, close, &self.http_limits);
        let sequence = session.output.expect(Join::Http(list), items.len() as u32);
        let first_owner = self.locate(items.get(0).0).1;
        session.http_batch = Some(Box::new(Batch { items, next: 0, sequence, form }));
        self.http_batch_on(id, session);
        self.steer(session, first_owner);
    }

    /// The next slice of the session's batch, if it has one and need not wait for other cores.
    pub(in crate::node) fn http_batch_on(&mut self, id: ConnId, session: &mut Session) {
        let Some(mut batch) = session.http_batch.take() else { return };
        let slice = self.slice(session);
        while batch.next < batch.items.len() {
            let state = session.output.awaits(batch.sequence);
            let Some((missing, too_long)) = state else { return };
            if too_long && matches!(batch.items, Items::Get(_)) {
                session.output.skip(batch.sequence, (batch.items.len() - batch.next) as u32);
                batch.next = batch.items.len();
                break;
            }
            if self.congested {
                // Goes on when the parcel is taken.
                self.stalled.push(id);
                break;
            }
            if self.is_over(slice, session) {
                self.queue(id, session);
                break;
            }
            let (key, op) = batch.items.get(batch.next);
            let (at, owner) = self.locate(key);
            let away = missing as usize - (batch.items.len() - batch.next);
            if owner != self.core && away >= WINDOW {
                // Goes on with their replies.
                break;
            }
            let token = Token { conn: id, sequence: batch.sequence, part: batch.next as u32 };
            batch.next += 1;
            self.executed += 1;
            self.execute_late(session, token, Form::Http(batch.form), (at, owner), key, op);
        }
        if session.output.awaits(batch.sequence).is_some() {
            session.http_batch = Some(batch);
        }
    }
}
