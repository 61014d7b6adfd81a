//! Requests of memcached clients, a batch at a time as in `batch`: parsed, hashed and prefetched before the first is
//! executed. Each key of a `get` is a request of its own, so that neither its line nor its reply makes a turn long.

mod stats;

use super::Node;
use super::batch::{BATCH_MAX, SLICE_INPUT_MAX, Slice};
use super::copies::is_plain_read;
use super::mailbox::{ConnId, Form, Work};
use super::output::{Join, Report};
use super::session::{Session, State};
use super::stats::Family;
use crate::base::{KeyHash, Slot, UnixMillis};
use crate::command::{Expiry, Op};
use crate::engine::At;
use crate::protocol::memcache::{Encoder, KeyRequest, Limits, Parser, Progress, Request, VERSION};

/// Bytes of decoded keys for which room is kept from one batch to the next.
const DECODED_KEPT_MAX: usize = 16 << 10;

/// One parsed request.
struct Item {
    /// Where it begins, and the parser's state there.
    start: usize,
    parser: Parser,
    request: Request,
    at: At,
    owner: usize,
}

/// The requests of one batch.
#[derive(Default)]
pub(super) struct Batch {
    items: Vec<Item>,
    /// The keys that came in base64.
    decoded: Vec<u8>,
    /// Bytes of input that the items and what was passed over take.
    consumed: usize,
}

/// Why a batch ended where it did.
enum Stop {
    /// It is full; there may be more.
    Full,
    /// The rest of the input is not a whole request, before it has so many bytes.
    Incomplete(usize),
    /// Not the protocol.
    Malformed(&'static str),
}

impl Node {
    /// Executes a slice of the requests at the start of `input`; answers how many bytes they were.
    pub(super) fn run_memcache(&mut self, id: ConnId, session: &mut Session, input: &[u8]) -> usize {
        self.spare.lend(session);
        let mut batch = std::mem::take(&mut self.memcache_batch);
        let mut consumed = 0;
        session.need = 0;
        let slice = self.slice(session);
        while self.may_run(session) {
            if consumed >= SLICE_INPUT_MAX || self.is_over(slice, session) {
                self.queue_rest(id, session, &input[consumed..]);
                break;
            }
            let rest = &input[consumed..];
            if !session.authenticated {
                let Some(used) = self.on_handshake(session, rest) else { break };
                consumed += used;
                continue;
            }
            let stop = batch.parse(self, session, rest);
            self.prefetch(batch.items.iter().map(|item| (item.at, item.owner)));
            let executed = self.execute_requests(id, session, slice, &batch, rest);
            if let Some(item) = batch.items.get(executed) {
                // What was parsed from here on is parsed again later.
                session.memcache = item.parser;
                consumed += item.start;
                if self.may_run(session) {
                    self.queue(id, session);
                }
                break;
            }
            consumed += batch.consumed;
            match stop {
                Stop::Full => {}
                Stop::Incomplete(need) => {
                    session.need = need;
                    break;
                }
                // If the last request made the session wait, this is read again.
                Stop::Malformed(text) if self.may_run(session) => {
                    self.counters.parse_errors += 1;
                    self.refuse(session, text);
                }
                Stop::Malformed(_) => {}
            }
        }
        self.end_slice(id, session);
        batch.decoded.shrink_to(DECODED_KEPT_MAX);
        self.memcache_batch = batch;
        consumed
    }

    /// Executes the batch and answers how many requests it came to execute.
    fn execute_requests(
        &mut self,
        id: ConnId,
        session: &mut Session,
        slice: Slice,
        batch: &Batch,
        input: &[u8],
    ) -> usize {
        for (i, item) in batch.items.iter().enumerate() {
            if i > 0 && (!self.may_run(session) || self.is_over(slice, session)) {
                return i;
            }
            if let Request::Key(request) = &item.request {
                if !self.belongs_here(session, || is_plain_read(&request.op).then_some(item.at), item.owner) {
                    return i;
                }
                let key = batch.key(request, input);
                self.on_memcache_key(id, session, request, (item.at, item.owner), (key, request.bytes.of(input)));
            } else {
                self.on_keyless(id, session, &item.request);
            }
        }
        batch.items.len()
    }

    /// An operation on one key.
    fn on_memcache_key(
        &mut self,
        id: ConnId,
        session: &mut Session,
        request: &KeyRequest,
        (at, owner): (At, usize),
        (key, bytes): (&[u8], &[u8]),
    ) {
        self.count_request(family(&request.op));
        self.counters.limit_errors += u64::from(request.form.is_too_large());
        let op = request.op.with_bytes(bytes);
        if owner == self.core {
            let mut out = Encoder::new(session.output.buffer(), &request.form, key, self.now);
            self.execute_op(at, key, &op, &mut out);
        } else {
            self.execute_single(id, session, Form::Memcache(request.form), (at, owner), key, op);
        }
        if request.is_first && !self.is_read_everywhere(at, &op) {
            self.steer(session, owner);
        }
    }

    /// A request that no key decides.
    fn on_keyless(&mut self, id: ConnId, session: &mut Session, request: &Request) {
        match *request {
            // Part of a request that is counted by its keys.
            Request::Key(_) | Request::End => session.output.buffer().extend_from_slice(b"END\r\n"),
            Request::Answer(text) => {
                self.count_request(Family::Connection);
                session.output.buffer().extend_from_slice(text.as_bytes());
            }
            Request::Refused(text) => {
                self.count_request(Family::Other);
                self.counters.parse_errors += 1;
                session.output.buffer().extend_from_slice(text.as_bytes());
            }
            Request::Flush(when, text) => {
                self.count_request(Family::Delete);
                let at = match when {
                    Expiry::In(millis) => self.now.0.saturating_add_signed(millis),
                    Expiry::At(millis) => millis.max(0) as u64,
                    Expiry::Keep | Expiry::Never => self.now.0,
                };
                // What is due here is due everywhere: the clocks of two cores are up to a turn apart.
                let at = if at <= self.now.0 { 0 } else { at };
                self.on_all(id, session, "flush_all", Join::Text(text), Work::FlushAt(UnixMillis(at)));
            }
            Request::Version => {
                self.count_request(Family::Connection);
                session.output.buffer().extend_from_slice(format!("VERSION {VERSION}\r\n").as_bytes());
            }
            Request::Stats(of) => {
                self.count_request(Family::Server);
                let form = super::keys::form(session, "stats");
                self.on_report(id, session, form, Report::Memcache(of));
            }
            Request::Quit => {
                self.count_request(Family::Connection);
                session.state = State::Draining;
            }
        }
    }
}

impl Batch {
    /// Parses requests from the start of `input`.
    fn parse(&mut self, node: &Node, session: &mut Session, input: &[u8]) -> Stop {
        self.items.clear();
        self.decoded.clear();
        self.consumed = 0;
        let limits = Limits {
            key_bytes_max: node.limits.key_bytes_max,
            value_bytes_max: node.limits.value_bytes_max,
            access_times: node.shard.has_access_times(),
        };
        while self.items.len() < BATCH_MAX && self.consumed < SLICE_INPUT_MAX {
            let (start, parser) = (self.consumed, session.memcache);
            match session.memcache.advance(&input[start..], &limits, &mut self.decoded) {
                Progress::Done(request, length) => {
                    self.consumed += length;
                    self.push(node, input, start, parser, request);
                }
                Progress::Passed(length) => self.consumed += length,
                Progress::Incomplete(need) => return Stop::Incomplete(need),
                Progress::Malformed(text) => return Stop::Malformed(text),
            }
        }
        Stop::Full
    }

    /// Adds a request, whose places become relative to the batch's input.
    fn push(&mut self, node: &Node, input: &[u8], start: usize, parser: Parser, mut request: Request) {
        let (mut at, mut owner) = (At { slot: Slot::FIRST, hash: KeyHash(0) }, usize::MAX);
        if let Request::Key(request) = &mut request {
            request.bytes = request.bytes.behind(start);
            if !request.is_decoded {
                request.key = request.key.behind(start);
            }
            (at, owner) = node.locate(self.key(request, input));
        }
        self.items.push(Item { start, parser, request, at, owner });
    }

    fn key<'a>(&'a self, request: &KeyRequest, input: &'a [u8]) -> &'a [u8] {
        request.key.of(if request.is_decoded { &self.decoded } else { input })
    }
}

/// What an operation counts as.
fn family(op: &Op<'_>) -> Family {
    match op {
        Op::Store(_) | Op::Count(_) => Family::Write,
        Op::Remove { .. } => Family::Delete,
        Op::Fetch { expiry: Expiry::Keep, .. } | Op::Get => Family::Read,
        _ => Family::Expiry,
    }
}
