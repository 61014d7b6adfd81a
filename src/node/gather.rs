//! Commands on very many keys, a slice at a time: between two slices the core's other clients are served.
//!
//! The request stays at the start of the session's input until it is done, and the session executes nothing
//! else meanwhile. Its reply is built up here and goes to the output only when it is whole, so that it is what it would
//! be if the request had been executed at once. A list is kept in pieces, which go to the output as the client takes them.
//!
//! ```text
//! on_keys ─> check the keys' lengths ─> slice: own keys at once, others' by parcel ─> answers of all ─┐
//!            (16,384 a slice)             ^                                                           ├─> reply, in pieces
//!                                         └───────────────────── more keys ───────────────────────────┘
//! ```
//!
//! Called by the batch, which sets a gathering up, by `go_on` for each slice and by `accept_reply`.

use std::collections::VecDeque;

use super::batch::{Batch, Item};
use super::keys::Tally;
use super::mailbox::{ConnId, Token};
use super::readers::Reader;
use super::session::{Session, State};
use super::{Node, REQUESTS_BYTES_MAX};
use crate::command::table::{Gather, Spec};
use crate::command::{Args, ReplySink, Span};
use crate::engine::OWN_MAPPING_BYTES;
use crate::protocol::resp::Encoder;

/// Requests of more arguments are executed in slices.
pub(super) const GATHER_ARGS_MIN: usize = 512;
/// Keys of one slice.
const SLICE_KEYS: usize = 256;
/// Keys of which one slice only checks the length.
const SLICE_CHECKS: usize = 16 << 10;

/// Bytes of the first piece of a list, from which on it goes on in another: growing one buffer would copy all that is there.
const FIRST_PIECE_BYTES: usize = 64 << 10;
/// Bytes of each other piece, and what it is made for. It is a mapping of its own, given back with it: the allocator gives
/// back what it has of small ones all at once, when the last is gone.
const PIECE_BYTES: usize = 240 << 10;
const PIECE_CAPACITY: usize = 272 << 10;
const _: () = assert!(PIECE_CAPACITY > OWN_MAPPING_BYTES);
/// Bytes of a list that go to the output in one slice.
const SLICE_REPLY_BYTES: usize = 256 << 10;

/// A request that is executed in slices.
#[derive(Debug)]
pub struct Gathering {
    spec: &'static Spec,
    gather: Gather,
    /// The arguments, relative to the request's first byte.
    spans: Vec<Span>,
    /// The words of an inline request, its quotes resolved.
    inline: Option<Vec<u8>>,
    /// Bytes of the session's input that are the request.
    length: usize,
    /// The first argument whose length is not checked.
    checked: usize,
    /// The first key of the current slice.
    from: usize,
    /// The first key that is not executed.
    next: usize,
    /// The core of the first key of all.
    first_owner: usize,
    /// The sum of integer answers.
    sum: i64,
    /// The refusal that came first in the order of the keys, and its key's argument.
    error: Option<(usize, Vec<u8>)>,
    /// The reply so far, where it is a list, in pieces.
    list: VecDeque<Vec<u8>>,
    list_bytes: usize,
    /// Whether all keys are executed, and what is left of the list is only handed out.
    hands_out: bool,
    /// Answers of the current slice, if other cores have a part in it.
    parts: Vec<Vec<u8>>,
    /// How many of them are still to come.
    missing: usize,
    /// Whether any other core had a part in it.
    scattered: bool,
}

impl Gathering {
    /// The request is to be handed in by [`Gathering::take_request`].
    pub(super) fn new(spec: &'static Spec, gather: Gather) -> Self {
        Self {
            spec,
            gather,
            spans: Vec::new(),
            inline: None,
            length: 0,
            checked: 1,
            from: 1,
            next: 1,
            first_owner: 0,
            sum: 0,
            error: None,
            list: VecDeque::new(),
            list_bytes: 0,
            hands_out: false,
            parts: Vec::new(),
            missing: 0,
            scattered: false,
        }
    }

    /// Takes the arguments of `item` out of the batch, whose later requests are parsed again.
    pub(super) fn take_request(&mut self, batch: &mut Batch, item: Item) {
        let (first, last) = (item.first_span as usize, item.last_span as usize);
        self.length = item.end - item.start;
        self.inline = item.inline.then(|| batch.inline.clone());
        self.spans = if first == 0 {
            batch.spans.truncate(last);
            std::mem::take(&mut batch.spans)
        } else {
            batch.spans[first..last].to_vec()
        };
    }

    /// Its arguments and its reply, when it does not need them any more.
    pub(super) fn into_buffers(self) -> (Vec<Span>, VecDeque<Vec<u8>>) {
        (self.spans, self.list)
    }

    /// Memory that it holds.
    pub(super) fn held_bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(Vec::capacity).sum();
        self.spans.capacity() * size_of::<Span>() + self.list_bytes + parts
    }

    fn step(&self) -> usize {
        if self.gather == Gather::Pairs { 2 } else { 1 }
    }

    /// Takes one key's answer that is not part of a list.
    fn add(&mut self, argument: usize, answer: &[u8]) {
        if answer.first() == Some(&b'-') {
            if self.error.as_ref().is_none_or(|(first, _)| argument < *first) {
                self.error = Some((argument, answer.to_vec()));
            }
        } else if self.gather != Gather::Pairs {
            self.sum += super::output::encoded_integer(answer);
        }
    }

    /// Lets `write` add to the list.
    fn add_to_list(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let full = if self.list.len() > 1 { PIECE_BYTES } else { FIRST_PIECE_BYTES };
        match self.list.back() {
            None => self.list.push_back(Vec::new()),
            Some(piece) if piece.len() >= full => self.list.push_back(Vec::with_capacity(PIECE_CAPACITY)),
            Some(_) => {}
        }
        if let Some(piece) = self.list.back_mut() {
            let before = piece.len();
            write(piece);
            self.list_bytes += piece.len() - before;
        }
    }

    /// Writes the reply where it is one answer.
    fn write(&self, session: &mut Session) {
        let mut out = super::batch::reply(session, self.spec.name);
        match (&self.error, self.gather) {
            (Some((_, error)), _) => session.output.buffer().extend_from_slice(error),
            (None, Gather::Pairs) => out.status("OK"),
            (None, Gather::List) => {}
            (None, Gather::Deleted | Gather::Existing) => out.integer(self.sum),
        }
    }
}

/// How a slice ended.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// More slices follow, or answers of other cores.
    GoesOn,
    /// The request is answered.
    Done,
}

impl Node {
    /// The next slice of the session's gathering, unless it waits for other cores.
    pub(super) fn gather_on(&mut self, id: ConnId, session: &mut Session) {
        let Some(mut gathering) = session.gathering.take_if(|g| g.missing == 0) else { return };
        if self.congested {
            session.gathering = Some(gathering);
            return self.note_stalled(id, session);
        }
        if self.retired.is_behind() {
            // Nobody's list grows before what earlier ones took is given back.
            self.retired.hurry();
            self.executed += SLICE_KEYS as u64;
            session.gathering = Some(gathering);
            return self.queue(id, session);
        }
        let input = std::mem::take(&mut session.input);
        let request = &input.bytes()[..gathering.length];
        let spans = std::mem::take(&mut gathering.spans);
        let inline = gathering.inline.take();
        let args = Args::new(inline.as_deref().unwrap_or(request), &spans);
        let outcome = if gathering.hands_out {
            self.hand_out(session, &mut gathering)
        } else if gathering.checked < args.len() {
            self.check_slice(session, &mut gathering, args)
        } else {
            self.after_slice(session, &mut gathering, args.len())
        };
        if outcome == Outcome::GoesOn && gathering.checked == args.len() && !gathering.hands_out {
            self.gather_slice(id, session, &mut gathering, args);
        }
        session.input = input;
        if outcome == Outcome::GoesOn {
            (gathering.spans, gathering.inline) = (spans, inline);
            let has_room = self.has_room(session);
            let waits = gathering.missing > 0 || gathering.hands_out && !has_room;
            session.gathering = Some(gathering);
            if !waits {
                self.queue(id, session);
            }
            return;
        }
        self.retired.spans(spans);
        self.retired.pieces(gathering.list);
        if let Some(buffer) = session.input.consume(gathering.length) {
            self.retired.bytes(buffer);
        }
        if !session.input.is_empty() || session.input_ended {
            self.queue(id, session);
        }
    }

    /// Checks the lengths of some keys: a request with one too long is refused before any key is touched.
    fn check_slice(&mut self, session: &mut Session, gathering: &mut Gathering, args: Args<'_>) -> Outcome {
        let (step, from) = (gathering.step(), gathering.checked);
        let to = args.len().min(from + SLICE_CHECKS * step);
        if let Some(i) = (from..to).step_by(step).find(|&i| args.get(i).len() > self.limits.key_bytes_max) {
            self.refuse_key(session, args.get(i).len());
            return Outcome::Done;
        }
        gathering.checked = to;
        self.executed += 1;
        Outcome::GoesOn
    }

    /// Executes some keys.
    fn gather_slice(&mut self, id: ConnId, session: &mut Session, gathering: &mut Gathering, args: Args<'_>) {
        let (step, from) = (gathering.step(), gathering.next);
        gathering.from = from;
        if from == 1 && gathering.gather == Gather::List {
            gathering.add_to_list(|list| Encoder::new(list, session.version, "").array(args.len() - 1));
        }
        let mut places = std::mem::take(&mut self.places_scratch);
        let to = args.len().min(from + SLICE_KEYS * step);
        places.extend((from..to).step_by(step).map(|i| self.locate(args.get(i))));
        self.prefetch(places.iter().copied());
        let is_local = places.iter().all(|&(_, owner)| owner == self.core);
        let mut scratch = std::mem::take(&mut self.scratch);
        let end = self.work_done() + 2 * SLICE_KEYS as u64;
        let mut done = 0;
        for (part, &(at, owner)) in places.iter().enumerate() {
            let i = from + part * step;
            if part > 0 && (self.work_done() >= end || self.outbox_is_full(owner)) {
                break;
            }
            done += 1;
            self.executed += 1;
            let op = gathering.gather.op(args, i);
            if owner != self.core {
                gathering.missing += 1;
                gathering.parts.resize(part + 1, Vec::new());
                let token = Token { conn: id, sequence: session.output.next_sequence(), part: part as u32 };
                let form = super::keys::form(session, gathering.spec.name);
                self.forward(token, &form, (at, owner), args.get(i), &op);
                continue;
            }
            if let Some(no_loop) = session.tracks() {
                self.track(at, args.get(i), Reader { core: self.core, conn: id, no_loop });
            }
            if gathering.gather == Gather::List {
                let (version, name) = (session.version, gathering.spec.name);
                let mut answer = |list: &mut Vec<u8>| {
                    self.execute_op(at, args.get(i), &op, &mut Encoder::new(list, version, name));
                };
                if is_local {
                    gathering.add_to_list(answer);
                } else {
                    gathering.parts.resize(part + 1, Vec::new());
                    answer(&mut gathering.parts[part]);
                }
                if gathering.list_bytes > self.limits.output_hard_bytes_max {
                    break;
                }
            } else {
                let mut tally = Tally::default();
                self.execute_op(at, args.get(i), &op, &mut tally);
                gathering.sum += tally.sum;
                if let Some(error) = tally.error {
                    scratch.clear();
                    Encoder::new(&mut scratch, session.version, gathering.spec.name).refused(error);
                    gathering.add(i, &scratch);
                }
            }
        }
        gathering.scattered |= !is_local;
        gathering.next = from + done * step;
        if from == 1 {
            gathering.first_owner = places[0].1;
        }
        places.clear();
        self.places_scratch = places;
        self.keep_scratch(scratch);
    }

    /// Another core has answered one key.
    pub(super) fn gathered(&mut self, id: ConnId, session: &mut Session, part: u32, answer: &[u8]) {
        let Some(gathering) = &mut session.gathering else { return };
        let part = part as usize;
        if gathering.gather == Gather::List {
            gathering.parts[part].extend_from_slice(answer);
        } else {
            gathering.add(gathering.from + part * gathering.step(), answer);
        }
        gathering.missing -= 1;
        if gathering.missing == 0 {
            self.queue(id, session);
        }
    }

    /// All answers of a slice are there, if there was one: puts those of a list together, and the reply in its place if it
    /// was the last.
    fn after_slice(&mut self, session: &mut Session, gathering: &mut Gathering, args_len: usize) -> Outcome {
        for part in std::mem::take(&mut gathering.parts) {
            gathering.add_to_list(|list| list.extend_from_slice(&part));
        }
        let max = self.limits.output_hard_bytes_max;
        if gathering.list_bytes > max {
            self.counters.limit_errors += 1;
            if gathering.scattered {
                session.state = State::Broken;
                return Outcome::Done;
            }
            let text = format!("ERR a reply exceeds limits.output_hard_bytes ({max})");
            super::batch::reply(session, gathering.spec.name).error(text);
        } else if gathering.next < args_len {
            return Outcome::GoesOn;
        } else if gathering.gather == Gather::List {
            gathering.hands_out = true;
            return self.hand_out(session, gathering);
        } else {
            gathering.write(session);
        }
        self.steer(session, gathering.first_owner);
        Outcome::Done
    }

    /// Hands out pieces of a list, as many as the session's output has room for.
    fn hand_out(&mut self, session: &mut Session, gathering: &mut Gathering) -> Outcome {
        let mut bytes = 0;
        while bytes < SLICE_REPLY_BYTES && self.has_room(session) {
            let Some(piece) = gathering.list.pop_front() else {
                self.steer(session, gathering.first_owner);
                return Outcome::Done;
            };
            bytes += piece.len();
            gathering.list_bytes -= piece.len();
            let buffer = session.output.buffer();
            if buffer.is_empty() { *buffer = piece } else { buffer.extend_from_slice(&piece) }
        }
        Outcome::GoesOn
    }

    /// Whether the client takes its replies fast enough for more of them.
    fn has_room(&self, session: &Session) -> bool {
        session.output.total_bytes() + session.in_flight_bytes < self.limits.output_soft_bytes_max
    }

    /// Whether no more requests should be put into the parcel for `core`.
    fn outbox_is_full(&self, core: usize) -> bool {
        self.outbox[core].bytes.len() > REQUESTS_BYTES_MAX
    }
}
