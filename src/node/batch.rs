//! From received bytes to executed requests, a batch at a time: all requests of a
//! batch are parsed and their keys hashed and prefetched before the first is
//! executed, so that their memory misses overlap.

use super::Node;
use super::auth::NO_AUTH;
use super::inflow::Inflow;
use super::mailbox::ConnId;
use super::readers::Reader;
use super::session::{Protocol, Session, State};
use crate::base::{KeyHash, Slot};
use crate::command::table::{self, Action, LastFound, Spec};
use crate::command::{Args, ReplySink, Span};
use crate::engine::{At, OWN_MAPPING_BYTES};
use crate::protocol;
use crate::protocol::resp::{Encoder, Frame, Parser, Progress, ProtocolError, Skipper, split_inline};

/// Requests in one batch: enough misses in flight, and their lines still in the first-level cache.
pub(super) const BATCH_MAX: usize = 64;
/// Arguments for which room is kept from one batch to the next.
const SPANS_KEPT_MAX: usize = 4096;
/// Arguments that an unfinished request must have for its state to be worth keeping.
const PARTIAL_SPANS_MIN: usize = 32;
/// What one slice of a session's input executes at most: requests, with what they cause in the shard,
const SLICE_WORK_MAX: u64 = 256;
/// and bytes of input, and bytes of replies that are written beyond what was there. The last request may exceed both.
pub(super) const SLICE_INPUT_MAX: usize = 256 << 10;
pub(super) const SLICE_OUTPUT_MAX: usize = 256 << 10;
/// Bytes of input that are parsed at a time, beyond what was read of an unfinished request already. No line is longer.
const PARSE_BYTES_MAX: usize = 64 << 10;

/// One parsed request. Positions are relative to the batch's input.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) first_span: u32,
    pub(super) last_span: u32,
    spec: Option<&'static Spec>,
    at: At,
    owner: usize,
    pub(super) inline: bool,
}

/// What a slice may still do.
#[derive(Clone, Copy)]
pub(super) struct Slice {
    /// The node's work at which it ends.
    work: u64,
    /// The session's bytes of replies at which it ends.
    output: usize,
}

/// The requests of one batch and their arguments.
#[derive(Default)]
pub(super) struct Batch {
    items: Vec<Item>,
    pub(super) spans: Vec<Span>,
    /// Bytes of input that the items and empty requests take.
    consumed: usize,
    /// The words of an inline request, its quotes resolved.
    pub(super) inline: Vec<u8>,
    command: LastFound,
}

/// Why a batch ended where it did.
enum Stop {
    /// It is full; there may be more.
    Full,
    /// The rest of the input is not a whole request.
    Incomplete,
    /// The rest is the beginning of a request whose long value can be taken in as it arrives.
    Inflow(Box<Inflow>),
    /// An argument too long, whose request began at this position.
    Oversize(Skipper, usize),
    /// Not RESP.
    Malformed(ProtocolError),
}

impl Node {
    /// Executes whole requests of the session's own input for as long as it may run, a slice at most.
    pub(super) fn run_input(&mut self, id: ConnId, session: &mut Session) {
        self.shard.set_actor(Reader::actor(self.core, id));
        if session.gathering.is_some() && !session.queued {
            self.gather_on(id, session);
        }
        if session.http_batch.is_some() && !session.queued {
            self.http_batch_on(id, session);
        }
        if session.queued || session.gathering.is_some() || session.http_batch.is_some() {
            // It goes on by itself. Its input may be more than the limit, for it is not the client that is late.
        } else if !self.may_run(session) {
            self.note_stalled(id, session);
        } else if session.input.bytes().len() >= session.need {
            let mut input = std::mem::take(&mut session.input);
            let consumed = self.run(id, session, input.bytes());
            if let Some(buffer) = input.consume(consumed) {
                self.retired.bytes(buffer);
            }
            session.input = input;
        }
        let is_late =
            session.queued || session.gathering.is_some() || session.http_batch.is_some() || session.finding.is_some();
        if session.state == State::Open && !is_late && session.input.bytes().len() > self.limits.request_bytes_max {
            self.counters.limit_errors += 1;
            let max = self.limits.request_bytes_max;
            self.refuse(session, &format!("more unexecuted bytes than limits.request_bytes ({max})"));
        }
        if session.state != State::Open {
            self.retire_input(session);
        }
        if session.input_ended && !session.queued && self.may_run(session) {
            session.state = State::Draining;
        }
        if session.state != State::Open && session.inflow.is_some() {
            self.let_go_inflow(session);
        }
        self.spare.reclaim(session);
    }

    /// Executes a slice of the whole requests at the start of `input` and answers how many bytes they were. If there
    /// may be more, the session waits for its next slice.
    pub(super) fn run(&mut self, id: ConnId, session: &mut Session, input: &[u8]) -> usize {
        self.shard.set_actor(Reader::actor(self.core, id));
        match session.protocol {
            Protocol::Resp => {}
            Protocol::Memcache => return self.run_memcache(id, session, input),
            Protocol::Http => return self.run_http(id, session, input),
        }
        self.spare.lend(session);
        let mut batch = std::mem::take(&mut self.batch);
        let mut consumed = 0;
        let mut need = std::mem::take(&mut session.need);
        let slice = self.slice(session);
        while self.may_run(session) {
            if consumed >= SLICE_INPUT_MAX || self.is_over(slice, session) {
                self.queue_rest(id, session, &input[consumed..]);
                break;
            }
            if let Some(inflow) = session.inflow.take() {
                consumed += self.take_in(session, inflow, &input[consumed..]);
                if session.inflow.is_some() {
                    break;
                }
                continue;
            }
            if let Some(skipper) = &mut session.skipper {
                let view = &input[consumed..][..PARSE_BYTES_MAX.min(input.len() - consumed)];
                match skipper.skip(view) {
                    Ok((used, ended)) => {
                        consumed += used;
                        let Some(length) = ended else {
                            if used > 0 && consumed < input.len() {
                                continue;
                            }
                            break;
                        };
                        session.skipper = None;
                        self.refuse_oversize(session, length);
                    }
                    Err(error) => self.refuse_protocol(session, error),
                }
                continue;
            }
            let rest = &input[consumed..];
            let view = &rest[..rest.len().min(session.parser.position().max(need) + PARSE_BYTES_MAX)];
            need = 0;
            let stop = batch.parse(self, session, view);
            let executed = if session.authenticated {
                self.prefetch(batch.items.iter().map(|item| (item.at, item.owner)));
                self.execute(id, session, slice, &batch, view)
            } else {
                self.execute_unauthenticated(session, &batch, view)
            };
            if executed < batch.items.len() || session.gathering.is_some() {
                // What was parsed behind this point is parsed again later.
                session.parser = Parser::default();
                session.spans.clear();
                session.need = 0;
                if let Some(gathering) = &mut session.gathering {
                    // The request stays where it is until it is done.
                    let item = batch.items[executed - 1];
                    gathering.take_request(&mut batch, item);
                    consumed += item.start;
                    self.queue(id, session);
                } else {
                    consumed += batch.items[executed].start;
                    if self.may_run(session) {
                        self.queue(id, session);
                    }
                }
                break;
            }
            consumed += batch.consumed;
            match stop {
                Stop::Full => {}
                Stop::Incomplete if view.len() < rest.len() => {
                    if batch.items.is_empty() {
                        self.queue(id, session);
                        break;
                    }
                    // Left in the session it would outlive the request that it is about.
                    need = std::mem::take(&mut session.need);
                }
                Stop::Incomplete => break,
                Stop::Inflow(inflow) => {
                    let until_whole = std::mem::take(&mut session.need);
                    if !self.may_run(session) || !self.belongs_here(session, || None, inflow.owner) {
                        break;
                    }
                    if inflow.owner != self.core {
                        // It is sent on when it is whole, which it may be beyond the view.
                        if view.len() < rest.len() {
                            need = until_whole;
                            continue;
                        }
                        session.need = until_whole;
                        break;
                    }
                    consumed += inflow.begins_at;
                    self.begin_inflow(session, inflow);
                }
                // The last request ended the session or made it wait: what follows is read again, if ever.
                Stop::Oversize(..) | Stop::Malformed(_) if !self.may_run(session) => {
                    session.parser = Parser::default();
                    break;
                }
                Stop::Oversize(skipper, used) => {
                    consumed += used;
                    session.skipper = Some(skipper);
                }
                Stop::Malformed(error) => self.refuse_protocol(session, error),
            }
        }
        self.end_slice(id, session);
        batch.spans.shrink_to(SPANS_KEPT_MAX);
        self.batch = batch;
        consumed
    }

    /// What the session's next slice may do.
    #[inline]
    pub(super) fn slice(&self, session: &Session) -> Slice {
        Slice { work: self.work_done() + SLICE_WORK_MAX, output: session.output.total_bytes() + SLICE_OUTPUT_MAX }
    }

    /// Remembers a session that has to wait, and takes its buffer back if there is nothing in it.
    #[inline]
    pub(super) fn end_slice(&mut self, id: ConnId, session: &mut Session) {
        self.note_stalled(id, session);
        self.spare.reclaim(session);
    }

    /// Whether a slice has done what it may.
    #[inline]
    pub(super) fn is_over(&self, slice: Slice, session: &Session) -> bool {
        self.work_done() >= slice.work || session.output.total_bytes() >= slice.output
    }

    /// Lets the session wait for its next slice, if there is anything for it to execute.
    pub(super) fn queue_rest(&mut self, id: ConnId, session: &mut Session, rest: &[u8]) {
        if !rest.is_empty() {
            self.queue(id, session);
        }
    }

    /// Remembers a session that waits for room in a parcel.
    pub(super) fn note_stalled(&mut self, id: ConnId, session: &Session) {
        if self.congested && session.state == State::Open {
            self.stalled.push(id);
        }
    }

    /// Executes the batch and answers how many requests it came to execute.
    #[inline]
    fn execute(&mut self, id: ConnId, session: &mut Session, slice: Slice, batch: &Batch, input: &[u8]) -> usize {
        // One that unsubscribes on the way is asked again in the next batch.
        let mut placed = session.is_placed();
        for (i, item) in batch.items.iter().enumerate() {
            if i > 0 && (!self.may_run(session) || self.is_over(slice, session)) {
                return i;
            }
            let args = batch.args(item, input);
            let read = || item.spec.filter(|spec| spec.flags.reads()).map(|_| item.at);
            if !placed && item.owner != NO_OWNER {
                if !self.belongs_here(session, read, item.owner) {
                    return i;
                }
                placed = session.is_placed();
            }
            self.dispatch(id, session, &args, item);
        }
        batch.items.len()
    }

    /// Executes the one request of a batch whose client has given no password yet, if it needs none.
    #[cold]
    fn execute_unauthenticated(&mut self, session: &mut Session, batch: &Batch, input: &[u8]) -> usize {
        let Some(item) = batch.items.first() else { return 0 };
        let args = batch.args(item, input);
        let Some(spec) = item.spec else {
            self.unknown_command(session, args);
            return 1;
        };
        self.count_request(family(spec));
        if let Some(spec) = accepted(session, args, spec) {
            match spec.action {
                Action::Session(command) if spec.flags.needs_no_password() => {
                    self.on_session(session, args, spec, command);
                }
                _ => reply(session, "").error(NO_AUTH),
            }
        }
        1
    }

    /// Places a plain connection by its first keyed request, of which `read` tells the key if it only reads: whether it may be
    /// executed here.
    #[inline]
    pub(super) fn belongs_here(
        &mut self,
        session: &mut Session,
        read: impl FnOnce() -> Option<At>,
        owner: usize,
    ) -> bool {
        if session.is_placed() {
            return true;
        }
        if owner != self.core && read().is_some_and(|at| self.is_copied_here(at)) {
            return true;
        }
        session.steering.placed();
        if owner == self.core || !session.output.is_settled() {
            return true;
        }
        session.move_to = Some(owner);
        false
    }

    #[inline]
    fn dispatch(&mut self, id: ConnId, session: &mut Session, args: &Args<'_>, item: &Item) {
        let mut only_listens = false;
        if session.is_settled_here() {
            session.begin_tracked(item.spec);
            only_listens = session.only_listens();
        }
        let Some(spec) = item.spec else {
            return self.unknown_command(session, *args);
        };
        self.count_request(family(spec));
        if !spec.accepts(args.len()) {
            return wrong_arity(session, spec.name);
        }
        if only_listens && !spec.is_for_listeners() {
            return refuse_listener(session, *args, spec);
        }
        match spec.action {
            Action::Key(parse) => self.on_key(id, session, args, spec, parse, (item.at, item.owner)),
            Action::Keys(gather) => self.on_keys(id, session, *args, spec, gather),
            _ => self.on_other(id, session, *args, spec),
        }
    }

    /// Commands that no key decides: rare enough to be looked up in full.
    fn on_other(&mut self, id: ConnId, session: &mut Session, args: Args<'_>, spec: &'static Spec) {
        let Some(spec) = accepted(session, args, spec) else { return };
        match spec.action {
            Action::Sweep(sweep) => self.on_sweep(id, session, args, spec, sweep),
            Action::Session(command) => self.on_session(session, args, spec, command),
            Action::Container | Action::Key(_) | Action::Keys(_) => wrong_arity(session, spec.name),
        }
    }

    fn unknown_command(&mut self, session: &mut Session, args: Args<'_>) {
        const SHOWN_MAX: usize = 128;
        let mut text = b"ERR unknown command '".to_vec();
        text.extend_from_slice(shown(args.get(0), SHOWN_MAX));
        text.extend_from_slice(b"', with args beginning with: ");
        let before = text.len();
        for arg in args.from(1) {
            let used = text.len() - before;
            if used >= SHOWN_MAX {
                break;
            }
            text.push(b'\'');
            text.extend_from_slice(shown(arg, SHOWN_MAX - used));
            text.extend_from_slice(b"' ");
        }
        self.count_request(super::stats::Family::Other);
        reply(session, "").error(text);
    }

    fn refuse_oversize(&mut self, session: &mut Session, length: usize) {
        self.counters.limit_errors += 1;
        let max = self.limits.value_bytes_max;
        reply(session, "").error(format!("ERR an argument of {length} bytes exceeds limits.value_bytes ({max})"));
    }

    pub(super) fn refuse_protocol(&mut self, session: &mut Session, error: ProtocolError) {
        self.counters.parse_errors += 1;
        if error == ProtocolError::Http {
            session.state = State::Draining;
        } else {
            self.refuse(session, &error.to_string());
        }
    }

    /// Answers a protocol error, after which the connection closes.
    pub(super) fn refuse(&mut self, session: &mut Session, text: &str) {
        match session.protocol {
            Protocol::Resp => reply(session, "").error(format!("ERR Protocol error: {text}")),
            Protocol::Memcache => protocol::memcache::refuse(text, session.output.buffer()),
            Protocol::Http => protocol::http::refuse(text, session.output.buffer()),
        }
        session.state = State::Draining;
    }
}

/// Moves arguments that will be too many for the allocator's heaps to a mapping of their own, while they are few.
fn move_in_time(spans: &mut Vec<Span>) {
    const OWN: usize = OWN_MAPPING_BYTES / size_of::<Span>();
    if spans.capacity() <= OWN && spans.len() > OWN / 4 {
        let before = std::mem::replace(spans, Vec::with_capacity(2 * OWN));
        spans.extend_from_slice(&before);
    }
}

/// The owner of a request that has no key.
const NO_OWNER: usize = usize::MAX;

impl Batch {
    /// The arguments of one of its requests.
    #[inline]
    fn args<'a>(&'a self, item: &Item, input: &'a [u8]) -> Args<'a> {
        let buffer = if item.inline { &self.inline } else { &input[item.start..item.end] };
        Args::new(buffer, &self.spans[item.first_span as usize..item.last_span as usize])
    }

    /// Parses requests from the start of `input`.
    #[inline]
    fn parse(&mut self, node: &Node, session: &mut Session, input: &[u8]) -> Stop {
        self.items.clear();
        self.spans.clear();
        if session.spans.len() > SPANS_KEPT_MAX {
            // So many are not copied each time that a piece of the request arrives.
            std::mem::swap(&mut self.spans, &mut session.spans);
            move_in_time(&mut self.spans);
        } else {
            self.spans.append(&mut session.spans);
        }
        self.consumed = 0;
        let mut first = 0;
        // What follows a password may be more than what comes before it: it is read when that is executed.
        let (limits, items_max) =
            if session.authenticated { (&node.resp_limits, BATCH_MAX) } else { (&node.unauthenticated_limits, 1) };
        while self.items.len() < items_max {
            let start = self.consumed;
            if start == input.len() {
                session.need = 1;
                return Stop::Incomplete;
            }
            let rest = &input[start..];
            match session.parser.advance(rest, limits, &mut self.spans) {
                Progress::Done(Frame::Array, length) => {
                    self.consumed += length;
                    self.push(node, &input[start..start + length], start, first, false);
                    first = self.spans.len();
                }
                Progress::Done(Frame::Empty, length) => self.consumed += length,
                Progress::Done(Frame::Inline, length) => {
                    let line = self.spans[first].of(rest);
                    self.spans.truncate(first);
                    let mut words = Vec::new();
                    if let Err(error) = split_inline(line, &mut self.inline, &mut words) {
                        return Stop::Malformed(error);
                    }
                    if words.len() > node.resp_limits.args_max {
                        return Stop::Malformed(ProtocolError::Arguments(node.resp_limits.args_max));
                    }
                    self.consumed += length;
                    self.spans.append(&mut words);
                    if self.spans.len() > first {
                        let line = std::mem::take(&mut self.inline);
                        self.push(node, &line, start, first, true);
                        self.inline = line;
                        return Stop::Full;
                    }
                }
                Progress::Incomplete(need) => {
                    let is_long = need >= node.limits.stream_bytes_min && session.authenticated;
                    if is_long && let Some(inflow) = node.find_inflow(&session.parser, rest, &self.spans[first..]) {
                        self.spans.truncate(first);
                        session.parser = Parser::default();
                        session.need = need;
                        return Stop::Inflow(inflow);
                    }
                    if self.spans.len() - first >= PARTIAL_SPANS_MIN {
                        session.spans =
                            if first == 0 { std::mem::take(&mut self.spans) } else { self.spans.split_off(first) };
                    } else {
                        self.spans.truncate(first);
                        session.parser = Parser::default();
                    }
                    session.need = need;
                    return Stop::Incomplete;
                }
                Progress::Oversize(..) if !session.authenticated => {
                    return Stop::Malformed(ProtocolError::UnauthenticatedBulk);
                }
                Progress::Oversize(skipper, used) => {
                    self.spans.truncate(first);
                    return Stop::Oversize(skipper, used);
                }
                Progress::Malformed(ProtocolError::Arguments(_)) if !session.authenticated => {
                    return Stop::Malformed(ProtocolError::UnauthenticatedMultibulk);
                }
                Progress::Malformed(error) => return Stop::Malformed(error),
            }
        }
        Stop::Full
    }

    /// Looks the command up and, if one key decides where it goes, that key.
    #[inline]
    fn push(&mut self, node: &Node, bytes: &[u8], start: usize, first_span: usize, inline: bool) {
        let args = Args::new(bytes, &self.spans[first_span..]);
        let spec = self.command.find(args.get(0));
        let (mut at, mut owner) = (At { slot: Slot::FIRST, hash: KeyHash(0) }, NO_OWNER);
        if let Some(Spec { action: Action::Key(_) | Action::Keys(_), .. }) = spec
            && args.len() > 1
        {
            (at, owner) = node.locate(args.get(1));
        }
        self.items.push(Item {
            start,
            end: self.consumed,
            first_span: first_span as u32,
            last_span: self.spans.len() as u32,
            spec,
            at,
            owner,
            inline,
        });
    }
}

/// An encoder for the session's next reply.
#[inline]
pub(super) fn reply<'a>(session: &'a mut Session, command: &'a str) -> Encoder<'a> {
    let version = session.version;
    Encoder::new(session.output.buffer(), version, command)
}

/// Over RESP2 a connection that has subscribed hears messages, and is answered little else.
#[cold]
fn refuse_listener(session: &mut Session, args: Args<'_>, spec: &Spec) {
    let sub = if args.len() > 1 { table::find_subcommand(spec.name, args.get(1)) } else { None };
    let name = sub.map_or(spec.name, |sub| sub.name);
    reply(session, "").error(format!(
        "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
         context"
    ));
}

pub(super) fn wrong_arity(session: &mut Session, name: &str) {
    reply(session, "").error(format!("ERR wrong number of arguments for '{name}' command"));
}

/// The command that `args` call, a subcommand where it has some; `None` if that was refused.
fn accepted(session: &mut Session, args: Args<'_>, spec: &'static Spec) -> Option<&'static Spec> {
    let mut spec = spec;
    if args.len() > 1 && (spec.is_container() || spec.name == "command") {
        let Some(sub) = table::find_subcommand(spec.name, args.get(1)) else {
            unknown_subcommand(session, spec.name, args.get(1));
            return None;
        };
        spec = sub;
    }
    let accepts = spec.accepts(args.len());
    if !accepts {
        wrong_arity(session, spec.name);
    }
    accepts.then_some(spec)
}

fn unknown_subcommand(session: &mut Session, name: &str, sub: &[u8]) {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(shown(sub, 128));
    text.extend_from_slice(format!("'. Try {} HELP.", name.to_uppercase()).as_bytes());
    reply(session, "").error(text);
}

/// What redis-server shows of an argument: so many bytes, and none from a NUL on.
fn shown(argument: &[u8], bytes_max: usize) -> &[u8] {
    let cut = &argument[..argument.len().min(bytes_max)];
    &cut[..cut.iter().position(|&b| b == 0).unwrap_or(cut.len())]
}

/// What a command counts as.
#[inline]
pub(super) fn family(spec: &Spec) -> super::stats::Family {
    use super::stats::Family;
    use crate::command::table::{Gather, Group, Sweep};
    match spec.action {
        Action::Keys(Gather::Deleted) | Action::Sweep(Sweep::Flush) => Family::Delete,
        Action::Sweep(Sweep::Scan) => Family::Scan,
        Action::Key(_) | Action::Keys(_) => match spec.group {
            Group::Generic if spec.name.contains("exp") || spec.name.contains("ttl") || spec.name == "persist" => {
                Family::Expiry
            }
            _ if spec.flags.writes() => Family::Write,
            _ => Family::Read,
        },
        _ => match spec.group {
            Group::Connection => Family::Connection,
            Group::Cluster => Family::Cluster,
            _ => Family::Server,
        },
    }
}
