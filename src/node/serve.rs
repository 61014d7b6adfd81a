//! The requests of other cores, executed on this core's keys a slice at a time, and the replies that come back for
//! this core's own sessions.

use super::batch::SLICE_OUTPUT_MAX;
use super::mailbox::{Body, ConnId, Form, NoticeKind, Parcel, Request, Token, Work};
use super::readers::Reader;
use super::session::Session;
use super::stats::Family;
use super::{Deferred, Node};
use crate::base::UnixMillis;
use crate::command::{Op, ReplySink, Span};
use crate::engine::At;
use crate::protocol;
use crate::protocol::resp::{Encoder, Version};

/// Bytes of replies in one parcel above which the rest of the requests waits for the next.
pub(super) const REPLIES_BYTES_MAX: usize = 16 << 20;
/// Requests of another core that are executed in one slice.
const SERVE_MAX: usize = 256;
/// When all keys are deleted if nobody asks for that.
pub(super) const NEVER: UnixMillis = UnixMillis(u64::MAX);

impl Node {
    /// Executes what another core asks, and puts its answers in their places.
    pub fn deliver(&mut self, from: usize, mut parcel: Parcel) {
        let mut next = 0;
        if self.deferred[from].is_empty() {
            self.serve_some(from, &parcel, &mut next);
        }
        self.accept_replies(parcel.replies.drain(..), &parcel.bytes);
        for notice in parcel.notices.drain(..) {
            let key = notice.key.map(|key| key.of(&parcel.bytes));
            match notice.kind {
                NoticeKind::Changed => self.accept_notice(notice.conn, key),
                NoticeKind::Relayed { from: reader } => self.accept_relay(from, notice.conn, reader, key),
                NoticeKind::Unheard { is_gone } => self.accept_unheard(notice.conn, is_gone),
            }
        }
        self.accept_copies(parcel.copies.drain(..), &parcel.bytes);
        if next < parcel.requests.len() {
            self.deferred[from].push_back(Deferred { parcel, next });
            self.queue_requests(from);
        } else {
            self.spare.keep_parcel(parcel);
        }
    }

    /// A slice of the requests of another core that wait.
    pub(super) fn serve_deferred(&mut self, core: usize) {
        let Some(mut waiting) = self.deferred[core].pop_front() else { return };
        let is_full = self.serve_some(core, &waiting.parcel, &mut waiting.next);
        if waiting.next < waiting.parcel.requests.len() {
            self.deferred[core].push_front(waiting);
        } else {
            self.spare.keep_parcel(waiting.parcel);
        }
        // Full, they wait until the parcel is taken.
        if !is_full {
            self.queue_requests(core);
        }
    }

    /// Executes requests of another core from `next` on, a slice at most, until the parcel of replies is full: whether it is.
    fn serve_some(&mut self, from: usize, parcel: &Parcel, next: &mut usize) -> bool {
        let waiting = &parcel.requests[*next..];
        let ahead = &waiting[..waiting.len().min(SERVE_MAX)];
        let place = |request: &Request| if let Work::Key(work) = &request.work { Some(work.at) } else { None };
        self.shard.prefetch(ahead.iter().filter_map(place));
        let end = self.work_done() + SERVE_MAX as u64;
        let end_bytes = self.outbox[from].bytes.len() + SLICE_OUTPUT_MAX;
        while self.outbox[from].bytes.len() < REPLIES_BYTES_MAX {
            if self.work_done() >= end || self.outbox[from].bytes.len() >= end_bytes {
                return false;
            }
            let Some(request) = parcel.requests.get(*next) else { return false };
            *next += 1;
            self.executed += 1;
            self.serve(from, request, parcel);
        }
        true
    }

    /// Executes one request of another core into that core's parcel.
    fn serve(&mut self, from: usize, request: &Request, parcel: &Parcel) {
        let form = parcel.form_of(request);
        self.shard.set_actor(Reader::actor(from, request.token.conn));
        let body = match &request.work {
            Work::Departed => return self.depart(from, request.token.conn),
            Work::Key(work) => {
                let (key, op) = parcel.call_of(work);
                if op.waits() > 0 && self.await_fill(from, request.token, *form, work.at, key, op) {
                    return;
                }
                let span = self.write_reply(from, |node, out| {
                    node.execute_tracked((from, request.token.conn), form, work.at, key, op, out);
                });
                self.offer_copy(from, form, work.at, key, &op);
                Body::Encoded(span)
            }
            Work::Snapshot => Body::Snapshot(Box::new(self.snapshot())),
            Work::FindSubscriber(id) => Body::Subscriber(self.find_subscriber(*id)),
            work => Body::Encoded(self.write_reply(from, |node, out| {
                let mut out = match form {
                    Form::Resp { version, command, .. } => Encoder::new(out, *version, command),
                    // What sweeps over cores answers status and numbers, which are joined into what the client gets.
                    Form::Memcache(_) | Form::Http(_) => Encoder::new(out, Version::default(), ""),
                };
                node.execute_work(work, &parcel.bytes, &mut out);
            })),
        };
        self.outbox[from].replies.push((request.token, body));
    }

    /// Has a reply written to the parcel for `core`: where it is. Nothing else is put there meanwhile.
    #[inline]
    fn write_reply(&mut self, core: usize, write: impl FnOnce(&mut Self, &mut Vec<u8>)) -> Span {
        let mut out = std::mem::take(&mut self.outbox[core].bytes);
        let start = out.len();
        write(self, &mut out);
        let span = Span::new(start, out.len());
        self.outbox[core].bytes = out;
        span
    }

    /// Counts a request that is executed for a client of this core.
    #[inline]
    pub(super) fn count_request(&mut self, family: Family) {
        self.executed += 1;
        self.counters.ops[family as usize] += 1;
    }

    /// Notes what an operation on a key of this core moves. Called before it is executed.
    #[inline]
    pub(super) fn note_key(&mut self, at: At, key: &[u8], op: &Op<'_>) {
        let written = op.bytes().len();
        if self.hot.is_sampled() {
            let read = if written > 0 { 0 } else { self.shard.value_len(at, key).unwrap_or(0) };
            self.hot.sample(at.hash, key, written + read, self.now);
            self.copies.consider(at.hash, self.hot.share_of(at.hash));
        }
        self.hot.written(at.hash, key, written);
    }

    /// Executes an operation on a key of this core for a connection, and remembers it as a reader if it keeps a copy.
    pub(super) fn execute_tracked(
        &mut self,
        (core, conn): (usize, ConnId),
        form: &Form,
        at: At,
        key: &[u8],
        op: Op<'_>,
        out: &mut Vec<u8>,
    ) {
        self.execute_on_key(form, at, key, op, out);
        if let Form::Resp { tracked: Some(no_loop), .. } = *form {
            self.track(at, key, Reader { core, conn, no_loop });
        }
    }

    /// Executes an operation on a key of this core, and writes the reply in the form that its protocol wants.
    #[inline]
    fn execute_on_key(&mut self, form: &Form, at: At, key: &[u8], op: Op<'_>, out: &mut Vec<u8>) {
        let now = self.now;
        match form {
            Form::Resp { version, command, .. } => {
                self.execute_op(at, key, &op, &mut Encoder::new(out, *version, command));
            }
            Form::Memcache(form) => {
                self.execute_op(at, key, &op, &mut protocol::memcache::Encoder::new(out, form, key, now));
            }
            Form::Http(form) => {
                self.execute_op(at, key, &op, &mut protocol::http::Encoder::new(out, form, key, now));
            }
        }
    }

    /// Executes work on this core's own keys that is no operation on one.
    pub(super) fn execute_work(&mut self, work: &Work, bytes: &[u8], out: &mut Encoder<'_>) {
        match work {
            Work::Key { .. } => unreachable!("operations on keys are written as their protocol wants"),
            Work::DbSize => out.integer(self.shard.key_count() as i64),
            Work::Flush => {
                self.flush();
                out.status("OK");
            }
            Work::FlushAt(at) => {
                self.flush_at = *at;
                self.flush_if_due();
                out.status("OK");
            }
            Work::Scan(scan) => self.scan_slots(scan, scan.pattern.of(bytes), out),
            Work::CountKeysInSlot(slot) => out.integer(self.shard.slot_key_count(*slot) as i64),
            Work::Change(change) => self.apply(change, out),
            Work::Broadcast(broadcast) => match self.broadcast(broadcast) {
                Ok(()) => out.status("OK"),
                Err(error) => out.refused(error),
            },
            Work::Departed => unreachable!("it has no reply"),
            Work::Snapshot | Work::FindSubscriber(_) => unreachable!("they are answered unencoded"),
        }
    }

    fn flush(&mut self) {
        self.shard.flush();
        self.tell_of_flush();
    }

    /// Deletes all keys if that was asked for this time or one before.
    pub(super) fn flush_if_due(&mut self) {
        if self.now >= self.flush_at {
            self.flush_at = NEVER;
            self.flush();
            // Their owners may have been asleep since then.
            self.copies.drop_held();
        }
    }

    /// Puts the replies to requests of this core's clients in their places. What waited for them goes on when all are.
    pub(super) fn accept_replies(&mut self, replies: impl Iterator<Item = (Token, Body)>, bytes: &[u8]) {
        let mut replies = replies.peekable();
        while let Some(&(Token { conn, .. }, _)) = replies.peek() {
            let mut session = self.take(conn);
            let mut goes_on = false;
            if let Some(session) = &mut session {
                self.spare.lend(session);
            }
            // Those of a connection mostly follow each other.
            while let Some((token, body)) = replies.next_if(|(token, _)| token.conn == conn) {
                if let Some(session) = &mut session {
                    goes_on |= self.accept_reply(session, token, body, bytes);
                }
            }
            let Some(mut session) = session else { continue };
            self.spare.reclaim(&mut session);
            if goes_on && (!session.input.is_empty() || session.input_ended || session.http_batch.is_some()) {
                self.queue(conn, &mut session);
            }
            self.put_back(conn, session);
        }
    }

    /// Puts one reply in its place; answers whether that is more than a part of what is gathered.
    #[inline]
    fn accept_reply(&mut self, session: &mut Session, token: Token, body: Body, bytes: &[u8]) -> bool {
        match body {
            Body::Encoded(span) if session.gathering.is_some() && token.sequence == session.output.next_sequence() => {
                self.gathered(token.conn, session, token.part, span.of(bytes));
                return false;
            }
            Body::Encoded(span) => session.output.fill(token.sequence, token.part, span.of(bytes)),
            Body::Snapshot(snapshot) => self.accept_counters(session, token.sequence, *snapshot),
            Body::Subscriber(found) => self.accept_subscriber(session, token, found),
        }
        true
    }
}
