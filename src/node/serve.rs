//! The requests of other cores, executed on this core's keys a slice at a time, and the replies that come back for
//! this core's own sessions.

use super::batch::SLICE_OUTPUT_MAX;
use super::mailbox::{Body, ConnId, Form, NoticeKind, Parcel, Request, Token, Work};
use super::readers::Reader;
use super::stats::Family;
use super::{Deferred, Node};
use crate::base::UnixMillis;
use crate::command::{Op, ReplySink};
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
    pub fn deliver(&mut self, from: usize, parcel: Parcel) {
        let mut waiting = Deferred { requests: parcel.requests.into_iter(), bytes: parcel.bytes };
        if self.deferred[from].is_empty() {
            self.serve_some(from, &mut waiting);
        }
        for (token, body) in parcel.replies {
            self.accept_reply(token, body, &waiting.bytes);
        }
        for notice in parcel.notices {
            let key = notice.key.map(|key| key.of(&waiting.bytes));
            match notice.kind {
                NoticeKind::Changed => self.accept_notice(notice.conn, key),
                NoticeKind::Relayed { from: reader } => self.accept_relay(from, notice.conn, reader, key),
                NoticeKind::Unheard { is_gone } => self.accept_unheard(notice.conn, is_gone),
            }
        }
        self.accept_copies(parcel.copies, &waiting.bytes);
        if waiting.requests.len() > 0 {
            self.deferred[from].push_back(waiting);
            self.queue_requests(from);
        }
    }

    /// A slice of the requests of another core that wait.
    pub(super) fn serve_deferred(&mut self, core: usize) {
        let Some(mut waiting) = self.deferred[core].pop_front() else { return };
        let is_full = self.serve_some(core, &mut waiting);
        if waiting.requests.len() > 0 {
            self.deferred[core].push_front(waiting);
        }
        // Full, they wait until the parcel is taken.
        if !is_full {
            self.queue_requests(core);
        }
    }

    /// Executes requests of another core, a slice at most, until the parcel of replies is full: whether it is.
    pub(super) fn serve_some(&mut self, from: usize, waiting: &mut Deferred) -> bool {
        let ahead = waiting.requests.as_slice();
        let ahead = &ahead[..ahead.len().min(SERVE_MAX)];
        let place = |request: &Request| if let Work::Key { at, .. } = request.work { Some(at) } else { None };
        self.shard.prefetch(ahead.iter().filter_map(place));
        let end = self.work_done() + SERVE_MAX as u64;
        let end_bytes = self.outbox[from].bytes.len() + SLICE_OUTPUT_MAX;
        while self.outbox[from].bytes.len() < REPLIES_BYTES_MAX {
            if self.work_done() >= end || self.outbox[from].bytes.len() >= end_bytes {
                return false;
            }
            let Some(request) = waiting.requests.next() else { return false };
            self.executed += 1;
            self.serve(from, &request, &waiting.bytes);
        }
        true
    }

    /// Executes one request of another core into that core's parcel.
    pub(super) fn serve(&mut self, from: usize, request: &Request, bytes: &[u8]) {
        if let Work::Departed = request.work {
            return self.depart(from, request.token.conn);
        }
        if let Work::Key { at, key, op, .. } = &request.work
            && op.waits() > 0
            && self.await_fill(from, request.token, request.form, *at, key.of(bytes), *op)
        {
            return;
        }
        self.shard.set_actor(Reader::actor(from, request.token.conn));
        let body = if let Work::Snapshot = request.work {
            Body::Snapshot(Box::new(self.snapshot()))
        } else if let Work::FindSubscriber(id) = request.work {
            Body::Subscriber(self.find_subscriber(id))
        } else {
            let mut reply = std::mem::take(&mut self.outbox[from].bytes);
            let start = reply.len();
            self.execute_for((from, request.token.conn), &request.form, &request.work, bytes, &mut reply);
            let span = crate::command::Span::new(start, reply.len());
            self.outbox[from].bytes = reply;
            if let Work::Key { at, key, op, .. } = &request.work {
                self.offer_copy(from, &request.form, *at, key.of(bytes), op);
            }
            Body::Encoded(span)
        };
        self.outbox[from].replies.push((request.token, body));
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

    /// Executes work on this core's own keys, and writes the reply in the form that its protocol wants.
    fn execute_for(&mut self, from: (usize, ConnId), form: &Form, work: &Work, bytes: &[u8], out: &mut Vec<u8>) {
        match (form, work) {
            (form, Work::Key { at, key, op, bytes: stored }) => {
                let op = op.with_bytes(stored.of(bytes));
                self.execute_tracked(from, form, *at, key.of(bytes), op, out);
            }
            (Form::Resp { version, command, .. }, _) => {
                self.execute_work(work, bytes, &mut Encoder::new(out, *version, command));
            }
            // What sweeps over cores answers status and numbers, which are joined into what the client gets.
            (Form::Memcache(_) | Form::Http(_), _) => {
                self.execute_work(work, bytes, &mut Encoder::new(out, Version::default(), ""));
            }
        }
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

    pub(super) fn accept_reply(&mut self, token: Token, body: Body, bytes: &[u8]) {
        let Some(mut session) = self.take(token.conn) else { return };
        self.lend_buffer(&mut session);
        if session.gathering.is_some() && token.sequence == session.output.next_sequence() {
            if let Body::Encoded(span) = body {
                self.gathered(token.conn, &mut session, token.part, span.of(bytes));
            }
            return self.put_back(token.conn, session);
        }
        match body {
            Body::Encoded(span) => session.output.fill(token.sequence, token.part, span.of(bytes)),
            Body::Snapshot(snapshot) => self.accept_counters(&mut session, token.sequence, *snapshot),
            Body::Subscriber(found) => self.accept_subscriber(&mut session, token, found),
        }
        // All replies of a parcel are put in their places before what waited for them goes on.
        if !session.input.is_empty() || session.input_ended || session.http_batch.is_some() {
            self.queue(token.conn, &mut session);
        }
        self.put_back(token.conn, session);
    }
}
