//! The replies of one session, in the order of its requests although some are
//! answered by other cores, and later.
//!
//! ```text
//! ready ─────────┐ pending[0]          pending[1]
//! bytes to send  │ reply? then tail    reply? then tail   <- replies written now go to the last tail
//!
//! later          │ (passed) tail 0, tail 1 ..             the tails, one behind the other; what has become ready is passed
//! ```
//!
//! Large values are not among the bytes: marks say where they belong, and they are
//! taken a piece at a time, as they are sent.

use std::collections::VecDeque;

use super::hotkeys::By;
use super::stats::CoreSnapshot;
use crate::command::Pin;
use crate::protocol::http;
use crate::protocol::memcache::StatsOf;
use crate::protocol::resp::{Encoder, Marks, Version};

/// Requests of one connection that may wait for other cores before anything is known about their replies.
const WINDOW_FIRST: usize = 64;
/// The most that may wait.
const WINDOW_MAX: usize = 1024;

/// Bytes of tails that have become ready from which on they are cut off.
const PASSED_MAX: usize = 4 << 10;

/// Bytes that are worth a message of their own.
const HELD_BACK_MAX: usize = 4 << 10;

/// How the parts of a reply become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// The one part is the reply.
    Single,
    /// A list of the parts, in order.
    List,
    /// The sum of integer parts.
    Sum,
    /// `OK` if all parts are.
    Status,
    /// A list of the parts, in order, as the body of a response.
    Http(http::List),
    /// This text if all parts are statuses.
    Text(&'static str),
}

/// A reply that is not whole.
#[derive(Debug)]
struct Pending {
    join: Join,
    /// How many parts there are, and how many of them are still to come.
    count: u32,
    missing: u32,
    /// None before the first has come.
    parts: Vec<Vec<u8>>,
    /// Bytes of the parts so far, also if they were dropped for being too many.
    bytes: usize,
    counters: Option<Box<CountersReady>>,
    /// Where in the tails those replies begin that must wait behind this one, counted from the first that ever was.
    tail: usize,
}

/// What a session has to send.
#[derive(Debug, Default)]
pub struct Output {
    ready: Vec<u8>,
    /// How many of `ready` are taken, while large values are among them.
    taken: usize,
    /// How many bytes of the first large value are taken.
    taken_of_value: usize,
    /// The large values among `ready` and the tails: those of `ready` are of the buffer
    /// with the number `first`, those behind a pending reply of the one after its number.
    marks: Marks,
    pending: VecDeque<Pending>,
    /// Sequence number of the first pending reply.
    first: u32,
    /// The tails, behind those that have become ready.
    later: Vec<u8>,
    /// How many bytes of it have become ready,
    passed: usize,
    /// and how many that had were cut off, since replies were pending without a break.
    cut: usize,
    /// Bytes in parts.
    part_bytes: usize,
    /// About the largest reply that another core sent lately; 0 before the first.
    reply_bytes: usize,
    /// Whether a pending reply may take long, so that nothing waits for it.
    is_patient: bool,
    /// Whether it is known that something waits for a pending reply.
    is_held: bool,
}

/// A pending reply that is made of the counters of every core.
#[derive(Debug)]
pub struct CountersReady {
    /// The counters, by core.
    pub snapshots: Vec<CoreSnapshot>,
    /// The protocol version at the time of the request.
    pub version: Version,
    /// What is made of them.
    pub report: Report,
}

/// A reply about all cores.
#[derive(Debug)]
pub enum Report {
    /// `INFO`, with the sections asked for.
    Info(Vec<String>),
    /// `MEMORY STATS`
    Memory,
    /// `HOTKEYS`: how many, and by what.
    HotKeys(usize, By),
    /// `BIGKEYS`: how many.
    BigKeys(usize),
    /// `GET /v1/stats`
    Http(http::Response),
    /// `GET /v1/hotkeys`
    HttpHotKeys(http::Response),
    /// The `stats` of memcached.
    Memcache(StatsOf),
}

impl Output {
    /// Has values of so many bytes and more pinned from now on.
    pub fn pin_from(&mut self, bytes: usize) {
        self.marks.from = bytes;
    }

    /// Where the next reply is to be written.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.pending.is_empty() { &mut self.ready } else { &mut self.later }
    }

    /// An encoder for the next reply, which takes large values as pins.
    #[inline]
    pub fn encoder<'a>(&'a mut self, version: Version, command: &'a str) -> Encoder<'a> {
        let buffer = if self.pending.is_empty() { &mut self.ready } else { &mut self.later };
        Encoder::pinning(buffer, &mut self.marks, version, command)
    }

    /// Bytes that wait to be sent.
    #[inline]
    pub fn ready_bytes(&self) -> usize {
        self.ready.len() - self.taken
    }

    /// All bytes held for this session, large values included, each once.
    #[inline]
    pub fn total_bytes(&self) -> usize {
        self.copied_bytes() + self.marks.bytes()
    }

    /// All bytes held for this session beside the values in the arena.
    #[inline]
    pub fn copied_bytes(&self) -> usize {
        self.ready.len() + self.part_bytes + self.later.len() - self.passed
    }

    /// The large values that wait to be sent.
    #[inline]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Takes all large values out. What is left cannot be sent.
    pub fn take_pins(&mut self) -> Vec<Pin> {
        let mut pins = Vec::new();
        self.marks.truncate(0, &mut pins);
        pins
    }

    /// Whether every request was answered.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether the request with this number was answered, and all before it.
    #[inline]
    pub fn has_answered(&self, sequence: u32) -> bool {
        self.pending.is_empty() || (sequence.wrapping_sub(self.first) as i32) < 0
    }

    /// Requests that wait for another core.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// How many requests may wait for other cores, if their replies are to stay within
    /// `bytes_max`: few until the first has come, then by the size of the latest.
    pub fn window(&self, bytes_max: usize) -> usize {
        bytes_max.checked_div(self.reply_bytes).map_or(WINDOW_FIRST, |replies| replies.clamp(1, WINDOW_MAX))
    }

    /// Lets what is ready be sent without the next reply, which comes when it may.
    pub fn wait_patiently(&mut self) {
        self.is_patient = true;
    }

    /// Whether the few bytes that are ready had better be sent with the replies that other cores are about to give: two
    /// messages cost twice as much as one. A server of one thread answers the requests that came together together, too.
    #[inline]
    pub fn is_held_back(&self) -> bool {
        !self.pending.is_empty() && !self.is_patient && self.ready.len() < HELD_BACK_MAX && !self.is_in_pieces()
    }

    /// Takes note that it is held back; answers whether that is new.
    pub fn hold(&mut self) -> bool {
        !std::mem::replace(&mut self.is_held, true)
    }

    /// Takes the bytes to send, with their buffer.
    pub fn take_ready(&mut self) -> Vec<u8> {
        debug_assert!(!self.is_in_pieces());
        std::mem::take(&mut self.ready)
    }

    /// Whether there is no buffer for bytes to send.
    #[inline]
    pub fn is_bare(&self) -> bool {
        self.ready.capacity() == 0
    }

    /// Takes `buffer` for bytes to send, of which there are none now.
    #[inline]
    pub fn lend(&mut self, buffer: Vec<u8>) {
        debug_assert!(self.is_bare() && buffer.is_empty());
        self.ready = buffer;
    }

    /// Gives back a buffer that holds nothing.
    #[inline]
    pub fn reclaim(&mut self) -> Option<Vec<u8>> {
        let is_idle = self.ready.is_empty() && !self.is_bare() && !self.is_in_pieces();
        is_idle.then(|| std::mem::take(&mut self.ready))
    }

    /// Whether the next request that waits for another core needs a buffer for the replies behind it.
    #[inline]
    pub fn is_bare_behind(&self) -> bool {
        self.later.capacity() == 0
    }

    /// Takes `buffer` for them.
    #[inline]
    pub fn lend_behind(&mut self, buffer: Vec<u8>) {
        debug_assert!(self.is_bare_behind() && buffer.is_empty());
        self.later = buffer;
    }

    /// Gives it back when it holds nothing.
    #[inline]
    pub fn reclaim_behind(&mut self) -> Option<Vec<u8>> {
        (self.later.is_empty() && !self.is_bare_behind()).then(|| std::mem::take(&mut self.later))
    }

    /// How many bytes of the buffer for the next reply belong to none that is still to be sent from it.
    #[inline]
    pub fn passed_bytes(&self) -> usize {
        self.passed
    }

    /// Bytes of the buffers that are not used.
    pub fn unused_bytes(&self) -> usize {
        self.ready.capacity() - self.ready.len() + self.later.capacity() - (self.later.len() - self.passed)
    }

    /// The sequence number that the next place kept will have.
    pub fn next_sequence(&self) -> u32 {
        self.first.wrapping_add(self.pending.len() as u32)
    }

    /// Whether the bytes to send have to be taken in pieces.
    #[inline]
    pub fn is_in_pieces(&self) -> bool {
        self.taken > 0 || self.has_value()
    }

    /// Adds the next bytes to send to `piece`, until it has `max` of them. `read` adds those of a large
    /// value from an offset on, so many at most, and answers how many; `done` gets each value that is all taken.
    pub fn take_piece(
        &mut self,
        max: usize,
        piece: &mut Vec<u8>,
        mut read: impl FnMut(Pin, usize, usize, &mut Vec<u8>) -> usize,
        mut done: impl FnMut(Pin),
    ) {
        while piece.len() < max {
            let left = max - piece.len();
            let mark = self.marks.first().filter(|mark| mark.buffer == self.first);
            let until = mark.map_or(self.ready.len(), |mark| mark.at);
            if self.taken < until {
                let end = until.min(self.taken + left);
                piece.extend_from_slice(&self.ready[self.taken..end]);
                self.taken = end;
                continue;
            }
            let Some(mark) = mark else { break };
            let count = read(mark.pin, self.taken_of_value, left, piece);
            self.taken_of_value += count;
            if self.taken_of_value == mark.pin.len || count == 0 {
                debug_assert!(self.taken_of_value == mark.pin.len, "a pinned value is there to its end");
                self.taken_of_value = 0;
                self.marks.pop().into_iter().for_each(&mut done);
            }
        }
        if self.taken == self.ready.len() && !self.has_value() {
            self.ready.clear();
            self.taken = 0;
        }
    }

    /// Whether a large value belongs among the bytes to send.
    #[inline]
    fn has_value(&self) -> bool {
        self.marks.first().is_some_and(|mark| mark.buffer == self.first)
    }

    /// Keeps a place for a reply of `parts` parts and answers its sequence number.
    pub fn expect(&mut self, join: Join, parts: u32) -> u32 {
        debug_assert!(parts > 0);
        let pending = Pending {
            join,
            count: parts,
            missing: parts,
            parts: Vec::new(),
            bytes: 0,
            counters: None,
            tail: self.cut + self.later.len(),
        };
        self.pending.push_back(pending);
        self.marks.buffer = self.first.wrapping_add(self.pending.len() as u32);
        self.marks.buffer.wrapping_sub(1)
    }

    /// Keeps a place for a reply made of the counters of `cores` cores.
    pub fn expect_counters(&mut self, cores: u32, version: Version, report: Report) -> u32 {
        let sequence = self.expect(Join::Single, cores);
        let last = self.pending.back_mut().expect("just pushed");
        last.counters = Some(Box::new(CountersReady { snapshots: Vec::new(), version, report }));
        sequence
    }

    /// Puts an encoded part in its place.
    pub fn fill(&mut self, sequence: u32, part: u32, bytes: &[u8]) {
        let place = sequence.wrapping_sub(self.first) as usize;
        let Some(pending) = self.pending.get_mut(place) else { return };
        self.reply_bytes = bytes.len().max(self.reply_bytes - self.reply_bytes / 16);
        if place == 0 && pending.join == Join::Single && pending.count == 1 {
            // The next to be sent, as nearly all are when they come: no need to keep it first.
            self.finish_front(|_, ready| ready.extend_from_slice(bytes));
            return self.settle();
        }
        pending.bytes += bytes.len();
        if pending.is_too_long() {
            self.part_bytes -= pending.parts.iter().map(Vec::len).sum::<usize>();
            pending.parts.iter_mut().for_each(|part| *part = Vec::new());
        } else {
            if pending.parts.is_empty() {
                pending.parts.resize_with(pending.count as usize, Vec::new);
            }
            pending.parts[part as usize].extend_from_slice(bytes);
            self.part_bytes += bytes.len();
        }
        pending.missing -= 1;
        self.settle();
    }

    /// How many parts a reply still lacks, and whether those that are there are too long together. `None`: it is whole.
    pub fn awaits(&self, sequence: u32) -> Option<(u32, bool)> {
        let pending = self.pending.get(sequence.wrapping_sub(self.first) as usize)?;
        (pending.missing > 0).then_some((pending.missing, pending.is_too_long()))
    }

    /// Does without so many parts of a reply that are not asked for.
    pub fn skip(&mut self, sequence: u32, parts: u32) {
        if let Some(pending) = self.pending.get_mut(sequence.wrapping_sub(self.first) as usize) {
            pending.missing = pending.missing.saturating_sub(parts);
            if pending.parts.is_empty() {
                pending.parts.resize_with(pending.count as usize, Vec::new);
            }
            self.settle();
        }
    }

    /// Adds one core's counters.
    pub fn fill_counters(&mut self, sequence: u32, snapshot: CoreSnapshot) -> Option<CountersReady> {
        let pending = self.pending.get_mut(sequence.wrapping_sub(self.first) as usize)?;
        let counters = pending.counters.as_mut()?;
        counters.snapshots.push(snapshot);
        if counters.snapshots.len() < pending.missing as usize {
            return None;
        }
        counters.snapshots.sort_by_key(|s| s.core);
        pending.counters.take().map(|boxed| *boxed)
    }

    /// Puts the reply made of the counters in its place.
    pub fn finish_counters(&mut self, sequence: u32, reply: Vec<u8>) {
        let Some(pending) = self.pending.get_mut(sequence.wrapping_sub(self.first) as usize) else { return };
        pending.missing = 0;
        self.part_bytes += reply.len();
        pending.parts = vec![reply];
        self.settle();
    }

    /// Moves whole replies from the front of the queue to the bytes to send.
    fn settle(&mut self) {
        while self.pending.front().is_some_and(|p| p.missing == 0) {
            self.finish_front(|done, ready| done.write(ready));
        }
    }

    /// Takes the front of the queue out: `write` writes the reply to the bytes to send, and what waited behind it follows.
    fn finish_front(&mut self, write: impl FnOnce(&Pending, &mut Vec<u8>)) {
        let Some(done) = self.pending.pop_front() else { return };
        self.first = self.first.wrapping_add(1);
        self.part_bytes -= done.parts.iter().map(Vec::len).sum::<usize>();
        let end = self.pending.front().map_or(self.later.len(), |next| next.tail - self.cut);
        write(&done, &mut self.ready);
        if !self.marks.is_empty() {
            // What was ready and what was this tail are one buffer now, with the new number.
            self.marks.carry(self.first, self.first, self.ready.len(), self.passed);
            self.marks.carry(self.first.wrapping_sub(1), self.first, 0, 0);
        }
        self.ready.extend_from_slice(&self.later[self.passed..end]);
        self.passed = end;
        if self.pending.is_empty() {
            (self.is_patient, self.is_held) = (false, false);
            self.later.clear();
            (self.passed, self.cut) = (0, 0);
        } else if self.passed > PASSED_MAX && self.passed > self.later.len() / 2 {
            self.cut_off();
        }
    }

    /// Cuts off the tails that have become ready: those of a client that never waits for all of its replies would pile up.
    #[cold]
    fn cut_off(&mut self) {
        self.later.drain(..self.passed);
        self.cut += self.passed;
        self.marks.cut_off(self.passed, self.first);
        self.passed = 0;
    }
}

impl Pending {
    /// Whether the parts are more than their reply may have.
    #[inline]
    fn is_too_long(&self) -> bool {
        matches!(self.join, Join::Http(list) if self.bytes > list.bytes_max as usize)
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self.join {
            Join::Http(list) => list.write((!self.is_too_long()).then_some(&self.parts), out),
            join => join.write(&self.parts, out),
        }
    }
}

impl Join {
    fn write(self, parts: &[Vec<u8>], out: &mut Vec<u8>) {
        if matches!(self, Join::Sum | Join::Status)
            && let Some(error) = parts.iter().find(|p| p.first() == Some(&b'-'))
        {
            out.extend_from_slice(error);
            return;
        }
        match self {
            Join::Single | Join::Http(_) => out.extend_from_slice(&parts[0]),
            Join::Status => out.extend_from_slice(b"+OK\r\n"),
            Join::Text(text) => out.extend_from_slice(text.as_bytes()),
            Join::List => {
                out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
                parts.iter().for_each(|p| out.extend_from_slice(p));
            }
            Join::Sum => {
                let sum: i64 = parts.iter().map(|p| encoded_integer(p)).sum();
                out.extend_from_slice(format!(":{sum}\r\n").as_bytes());
            }
        }
    }
}

/// The number in `:n\r\n`, which is what the parts of a sum are.
pub(super) fn encoded_integer(reply: &[u8]) -> i64 {
    let digits = reply.strip_prefix(b":").and_then(|r| r.strip_suffix(b"\r\n"));
    digits.and_then(crate::command::args::parse_integer).expect("the parts of a sum are integer replies")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ready(output: &mut Output) -> String {
        String::from_utf8(output.take_ready()).unwrap()
    }

    #[test]
    fn replies_keep_the_order_of_their_requests() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(b"+1\r\n");
        let second = output.expect(Join::Single, 1);
        output.buffer().extend_from_slice(b"+3\r\n");
        let fourth = output.expect(Join::Sum, 2);
        output.buffer().extend_from_slice(b"+5\r\n");
        assert_eq!(ready(&mut output), "+1\r\n");
        output.fill(fourth, 1, b":40\r\n");
        output.fill(fourth, 0, b":2\r\n");
        assert_eq!(ready(&mut output), "", "the second reply is still missing");
        output.fill(second, 0, b"$-1\r\n");
        assert_eq!(ready(&mut output), "$-1\r\n+3\r\n:42\r\n+5\r\n");
        assert!(output.is_settled());
        assert_eq!(output.total_bytes(), 0);
    }

    #[test]
    fn what_is_ready_waits_for_replies_that_come_soon_and_not_for_others() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(b"+1\r\n");
        assert!(!output.is_held_back(), "there is nothing to wait for");
        let second = output.expect(Join::Single, 1);
        let third = output.expect(Join::Status, 2);
        assert!(output.is_held_back());
        output.fill(second, 0, b"+2\r\n");
        output.fill(third, 1, b"+OK\r\n");
        assert!(output.is_held_back());
        output.wait_patiently();
        assert!(!output.is_held_back(), "the third may take long");
        output.fill(third, 0, b"+OK\r\n");
        assert_eq!(ready(&mut output), "+1\r\n+2\r\n+OK\r\n");
        output.buffer().extend_from_slice(&[b'x'; HELD_BACK_MAX - 1]);
        output.expect(Join::Single, 1);
        assert!(output.is_held_back(), "of the next nobody has said so");
        output.ready.push(b'x');
        assert!(!output.is_held_back(), "that is enough for a message");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Pin(usize),
        Expect,
        Fill(prop::sample::Index, usize),
        Take(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..3000_usize).prop_map(Step::Write),
            1 => (1..5000_usize).prop_map(Step::Pin),
            3 => Just(Step::Expect),
            3 => (any::<prop::sample::Index>(), 0..2000_usize).prop_map(|(which, len)| Step::Fill(which, len)),
            2 => (1..6000_usize).prop_map(Step::Take),
        ]
    }

    /// Replies as they are to be sent, and those that are not there yet.
    #[derive(Default)]
    struct Model {
        replies: Vec<Option<Vec<u8>>>,
        /// The sequence numbers of those that are missing, and their places.
        missing: Vec<(u32, usize)>,
        letter: u8,
    }

    impl Model {
        fn bytes(&mut self, len: usize) -> Vec<u8> {
            self.letter = self.letter.wrapping_add(1);
            vec![self.letter; len]
        }

        fn fill(&mut self, output: &mut Output, which: usize, len: usize) {
            let (sequence, place) = self.missing.remove(which);
            let bytes = self.bytes(len);
            output.fill(sequence, 0, &bytes);
            self.replies[place] = Some(bytes);
        }
    }

    fn take(output: &mut Output, max: usize, sent: &mut Vec<u8>) {
        if output.is_in_pieces() {
            let read = |pin: Pin, offset: usize, max: usize, out: &mut Vec<u8>| {
                let count = max.min(pin.len - offset);
                out.resize(out.len() + count, pin.id as u8);
                count
            };
            let mut piece = Vec::new();
            output.take_piece(max, &mut piece, read, |_| {});
            assert!(piece.len() <= max);
            sent.extend(piece);
        } else {
            sent.extend(output.take_ready());
        }
    }

    proptest! {
        /// Whatever is written, pinned, awaited and taken in which order, and however long some reply is awaited.
        #[test]
        fn what_is_sent_is_what_was_answered_in_the_order_of_the_requests(
            first in any::<u32>(),
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut output = Output { first, ..Output::default() };
            output.marks.buffer = first;
            let (mut model, mut sent) = (Model::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Write(len) => {
                        let bytes = model.bytes(len);
                        output.buffer().extend_from_slice(&bytes);
                        model.replies.push(Some(bytes));
                    }
                    Step::Pin(len) => {
                        let bytes = model.bytes(len);
                        let at = output.buffer().len();
                        output.marks.push(at, Pin { id: bytes[0].into(), len });
                        model.replies.push(Some(bytes));
                    }
                    Step::Expect => {
                        model.missing.push((output.expect(Join::Single, 1), model.replies.len()));
                        model.replies.push(None);
                    }
                    Step::Fill(which, len) if !model.missing.is_empty() => {
                        let which = which.index(model.missing.len());
                        model.fill(&mut output, which, len);
                    }
                    Step::Take(max) => take(&mut output, max, &mut sent),
                    Step::Fill(..) => {}
                }
                let whole: usize = model.replies.iter().flatten().map(Vec::len).sum();
                let held = output.total_bytes() - output.taken - output.taken_of_value;
                prop_assert_eq!(held, whole - sent.len());
            }
            while !model.missing.is_empty() {
                model.fill(&mut output, 0, 10);
            }
            while output.ready_bytes() > 0 || output.is_in_pieces() {
                take(&mut output, 700, &mut sent);
            }
            prop_assert_eq!(sent, model.replies.into_iter().flatten().flatten().collect::<Vec<_>>());
            prop_assert!(output.is_settled() && output.total_bytes() == 0);
        }
    }

    #[test]
    fn an_error_among_the_parts_of_a_status_or_a_sum_is_the_reply() {
        let mut output = Output::default();
        let mset = output.expect(Join::Status, 2);
        output.fill(mset, 0, b"+OK\r\n");
        output.fill(mset, 1, b"-OOM full\r\n");
        let mget = output.expect(Join::List, 2);
        output.fill(mget, 1, b"$1\r\nb\r\n");
        output.fill(mget, 0, b"_\r\n");
        assert_eq!(ready(&mut output), "-OOM full\r\n*2\r\n_\r\n$1\r\nb\r\n");
        assert_eq!(output.total_bytes(), 0);
    }
}
