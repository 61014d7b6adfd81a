//! What cores send each other. All requests and replies of a turn from one core to
//! another travel as one parcel: a batch of forwards costs one queue entry and at
//! most one wake-up.
//!
//! What the other core reads it has to fetch from this core's cache, a line at a time. So a request is no longer than
//! a line, and what many of them have in common stands once beside them: their forms and operations.

use std::sync::Arc;

use super::copies::Grant;
use super::settings::Change;
use super::stats::CoreSnapshot;
use super::tracking::Broadcast;
use crate::base::{Slot, UnixMillis};
use crate::command::{Op, Span};
use crate::engine::At;
use crate::protocol::resp::Version;
use crate::protocol::{http, memcache};

/// A session's place on its core. The generation tells a connection from an
/// earlier one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Index in the core's table of sessions.
    pub index: u32,
    /// How often the place was used before.
    pub generation: u32,
}

impl ConnId {
    /// All connections of a core that keep copies; no single one has these numbers.
    pub const ALL: Self = Self { index: u32::MAX, generation: u32::MAX };
}

/// Where a reply belongs: which part of which request of which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The session.
    pub conn: ConnId,
    /// The request, counted by the session.
    pub sequence: u32,
    /// The part, for a request that several keys or cores answer.
    pub part: u32,
}

/// Work for another core. Spans lie in the parcel's bytes.
#[derive(Clone, Debug)]
pub enum Work {
    /// One operation on one key.
    Key(KeyWork),
    /// Count all keys.
    DbSize,
    /// Delete all keys.
    Flush,
    /// Delete all keys once this time has come, and not when another was named before.
    FlushAt(UnixMillis),
    /// Walk slots `from..=last`.
    Scan(Scan),
    /// Count the keys of one slot.
    CountKeysInSlot(Slot),
    /// Copy the counters.
    Snapshot,
    /// Change settings.
    Change(Arc<Change>),
    /// Tell a connection of changes.
    Broadcast(Arc<Broadcast>),
    /// Say whether the connection with this number has subscribed to notices here.
    FindSubscriber(u64),
    /// The connection is gone, or takes no more part in leases and notices. Has no reply.
    Departed,
}

/// An operation on a key of another core.
#[derive(Clone, Copy, Debug)]
pub struct KeyWork {
    /// Where the key lives.
    pub at: At,
    /// The key. Behind it stands what the operation stores.
    pub key: Span,
    /// Where that ends.
    pub end: u32,
    /// The operation's number in the parcel.
    pub op: u32,
}

/// One step of a `SCAN`.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// First slot to walk.
    pub from: u16,
    /// Last slot that this step may walk.
    pub last: u16,
    /// The cursor to answer once `last` was walked.
    pub then: u16,
    /// How many keys to collect before stopping at the end of a slot.
    pub count: usize,
    /// A glob pattern, empty for all.
    pub pattern: Span,
    /// Whether keys of the type asked for exist at all.
    pub any_type: bool,
}

/// How a reply is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For a Redis client.
    Resp {
        /// The protocol's version.
        version: Version,
        /// The command's name, for errors that contain it.
        command: &'static str,
        /// Whether the client keeps a copy of what it reads, and if so, whether it is told of its own changes.
        tracked: Option<bool>,
    },
    /// For a memcached client.
    Memcache(memcache::Form),
    /// For an HTTP client.
    Http(http::Form),
}

/// A request to another core.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the reply belongs.
    pub token: Token,
    /// How to write the reply: the form's number in the parcel.
    pub form: u32,
    /// What to do.
    pub work: Work,
}

const _: () = assert!(size_of::<Request>() <= 64);

/// What a request is answered with.
#[derive(Debug)]
pub enum Body {
    /// An encoded reply, at this span of the parcel's bytes.
    Encoded(Span),
    /// The counters.
    Snapshot(Box<CoreSnapshot>),
    /// Where a connection is, if it is there.
    Subscriber(Option<ConnId>),
}

/// What a [`Notice`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// What the connection has read has changed.
    Changed,
    /// What another connection has read has changed, which wants its notices sent to this one.
    Relayed {
        /// The reader, at the core that the parcel is from.
        from: ConnId,
    },
    /// A notice did not reach the connection to which it was to go.
    Unheard {
        /// Whether that one is gone, and has not only unsubscribed.
        is_gone: bool,
    },
}

/// News for a connection that keeps copies.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    /// The connection.
    pub conn: ConnId,
    /// The key that has changed; `None` is all.
    pub key: Option<Span>,
    /// What it is about.
    pub kind: NoticeKind,
}

/// All that one core has for another at the end of a turn.
#[derive(Debug, Default)]
pub struct Parcel {
    /// Requests, in the order of their sessions' streams.
    pub requests: Vec<Request>,
    /// How the replies to them are written. One that is like that of the request before it stands here once.
    pub forms: Vec<Form>,
    /// What they do with keys, likewise; without the bytes that they store.
    pub ops: Vec<Op<'static>>,
    /// Replies to the other core's requests.
    pub replies: Vec<(Token, Body)>,
    /// What connections that keep copies are told.
    pub notices: Vec<Notice>,
    /// Copies of keys that the other core's clients ask for most.
    pub copies: Vec<Grant>,
    /// The bytes that all point into.
    pub bytes: Vec<u8>,
}

impl Parcel {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.replies.is_empty() && self.notices.is_empty() && self.copies.is_empty()
    }

    /// Appends bytes and answers where they are.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span::new(start, self.bytes.len())
    }

    /// Asks for an operation on a key.
    #[inline]
    pub fn ask_key(&mut self, token: Token, form: &Form, at: At, key: &[u8], op: &Op<'_>) {
        let key = self.put(key);
        let end = self.put(op.bytes()).end;
        let op = number_of(&mut self.ops, op.with_bytes(b""));
        self.ask(token, form, Work::Key(KeyWork { at, key, end, op }));
    }

    /// Asks for something else. Its spans lie in the parcel's bytes.
    #[inline]
    pub fn ask(&mut self, token: Token, form: &Form, work: Work) {
        let form = number_of(&mut self.forms, *form);
        self.requests.push(Request { token, form, work });
    }

    /// How the reply to a request is written.
    #[inline]
    pub fn form_of(&self, request: &Request) -> &Form {
        &self.forms[request.form as usize]
    }

    /// The key of a request, and what it does.
    #[inline]
    pub fn call_of(&self, work: &KeyWork) -> (&[u8], Op<'_>) {
        let stored = Span { start: work.key.end, end: work.end };
        (work.key.of(&self.bytes), self.ops[work.op as usize].with_bytes(stored.of(&self.bytes)))
    }

    /// Takes everything out. Its memory stays.
    pub fn clear(&mut self) {
        let Self { requests, forms, ops, replies, notices, copies, bytes } = self;
        requests.clear();
        forms.clear();
        ops.clear();
        replies.clear();
        notices.clear();
        copies.clear();
        bytes.clear();
    }

    /// The memory that it has.
    pub fn held_bytes(&self) -> usize {
        let Self { requests, forms, ops, replies, notices, copies, bytes } = self;
        memory_of(requests)
            + memory_of(forms)
            + memory_of(ops)
            + memory_of(replies)
            + memory_of(notices)
            + memory_of(copies)
            + memory_of(bytes)
    }
}

/// The number of `new` in `list`, where it is put unless it is the same as the last.
#[inline]
fn number_of<T: PartialEq>(list: &mut Vec<T>, new: T) -> u32 {
    if list.last() != Some(&new) {
        list.push(new);
    }
    (list.len() - 1) as u32
}

fn memory_of<T>(list: &Vec<T>) -> usize {
    list.capacity() * size_of::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{KeyHash, SLOT_COUNT};
    use crate::command::{Condition, Expiry, SetReply};

    #[test]
    fn every_request_has_its_own_key_and_bytes_and_shares_what_it_has_in_common() {
        let form = |command| Form::Resp { version: Version::default(), command, tracked: None };
        let set = |value, expiry| Op::Set { value, expiry, condition: Condition::Always, reply: SetReply::Status };
        let asked = [
            ("get", "one", Op::Get),
            ("get", "two", Op::Get),
            ("set", "three", set(b"3".as_slice(), Expiry::Never)),
            ("set", "", set(b"", Expiry::Never)),
            ("set", "five", set(b"55555", Expiry::In(5))),
            ("get", "six", Op::Get),
            ("strlen", "seven", Op::Strlen),
        ];
        let mut parcel = Parcel::default();
        for round in 0..2 {
            for (n, (command, key, op)) in asked.iter().enumerate() {
                let token = Token { conn: ConnId { index: 1, generation: 0 }, sequence: n as u32, part: 0 };
                let at = At { slot: Slot::new(n as u16 % SLOT_COUNT as u16).unwrap(), hash: KeyHash(n as u64) };
                parcel.ask_key(token, &form(command), at, key.as_bytes(), op);
            }
            assert_eq!((parcel.forms.len(), parcel.ops.len()), (4, 5));
            for (n, (request, (command, key, op))) in parcel.requests.iter().zip(&asked).enumerate() {
                assert_eq!((request.token.sequence, parcel.form_of(request)), (n as u32, &form(command)));
                let Work::Key(work) = &request.work else { panic!("{request:?}") };
                assert_eq!((work.at.hash, parcel.call_of(work)), (KeyHash(n as u64), (key.as_bytes(), *op)));
            }
            parcel.clear();
            assert!(parcel.is_empty() && parcel.bytes.is_empty() && parcel.held_bytes() > 0, "round {round}");
        }
    }
}
