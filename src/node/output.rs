//! The replies of one session, in the order of its requests although some are
//! answered by other cores, and later.
//!
//! ```text
//! ready ─────────┐ pending[0]          pending[1]
//! bytes to send  │ reply? then tail    reply? then tail   <- replies written now go to the last tail
//! ```

use std::collections::VecDeque;

use super::stats::CoreSnapshot;
use crate::protocol::resp::Version;

/// Requests of one connection that may wait for other cores before anything is known about their replies.
const WINDOW_FIRST: usize = 64;
/// The most that may wait.
const WINDOW_MAX: usize = 1024;

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
}

/// A reply that is not whole.
#[derive(Debug)]
struct Pending {
    join: Join,
    /// Parts still to come.
    missing: u32,
    parts: Vec<Vec<u8>>,
    counters: Option<Box<CountersReady>>,
    /// Replies to later requests, which must wait behind this one.
    tail: Vec<u8>,
}

/// What a session has to send.
#[derive(Debug, Default)]
pub struct Output {
    ready: Vec<u8>,
    pending: VecDeque<Pending>,
    /// Sequence number of the first pending reply.
    first: u32,
    /// Bytes in parts and tails.
    held_bytes: usize,
    /// About the largest reply that another core sent lately; 0 before the first.
    reply_bytes: usize,
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
}

impl Output {
    /// Where the next reply is to be written.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        match self.pending.back_mut() {
            None => &mut self.ready,
            Some(last) => &mut last.tail,
        }
    }

    /// Bytes that wait to be sent.
    #[inline]
    pub fn ready_bytes(&self) -> usize {
        self.ready.len()
    }

    /// All bytes held for this session.
    pub fn total_bytes(&self) -> usize {
        self.ready.len() + self.held_bytes + self.pending.back().map_or(0, |p| p.tail.len())
    }

    /// Whether every request was answered.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
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

    /// Takes the bytes to send, with their buffer.
    pub fn take_ready(&mut self) -> Vec<u8> {
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
        (self.ready.is_empty() && !self.is_bare()).then(|| std::mem::take(&mut self.ready))
    }

    /// Bytes of the buffer for bytes to send that are not used.
    pub fn unused_bytes(&self) -> usize {
        self.ready.capacity() - self.ready.len()
    }

    /// The sequence number that the next place kept will have.
    pub fn next_sequence(&self) -> u32 {
        self.first.wrapping_add(self.pending.len() as u32)
    }

    /// Keeps a place for a reply of `parts` parts and answers its sequence number.
    pub fn expect(&mut self, join: Join, parts: u32) -> u32 {
        debug_assert!(parts > 0);
        if let Some(last) = self.pending.back() {
            self.held_bytes += last.tail.len();
        }
        let list = vec![Vec::new(); parts as usize];
        self.pending.push_back(Pending { join, missing: parts, parts: list, counters: None, tail: Vec::new() });
        self.first.wrapping_add(self.pending.len() as u32 - 1)
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
        let Some(pending) = self.pending.get_mut(sequence.wrapping_sub(self.first) as usize) else { return };
        pending.parts[part as usize].extend_from_slice(bytes);
        self.held_bytes += bytes.len();
        self.reply_bytes = bytes.len().max(self.reply_bytes - self.reply_bytes / 16);
        pending.missing -= 1;
        self.settle();
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
        self.held_bytes += reply.len();
        pending.parts = vec![reply];
        self.settle();
    }

    /// Moves whole replies from the front of the queue to the bytes to send.
    fn settle(&mut self) {
        while self.pending.front().is_some_and(|p| p.missing == 0) {
            let done = self.pending.pop_front().expect("the front was just looked at");
            self.first = self.first.wrapping_add(1);
            self.held_bytes -= done.parts.iter().map(Vec::len).sum::<usize>();
            if !self.pending.is_empty() {
                self.held_bytes -= done.tail.len();
            }
            done.join.write(&done.parts, &mut self.ready);
            self.ready.extend_from_slice(&done.tail);
        }
    }
}

impl Join {
    fn write(self, parts: &[Vec<u8>], out: &mut Vec<u8>) {
        if self != Join::List
            && self != Join::Single
            && let Some(error) = parts.iter().find(|p| p.first() == Some(&b'-'))
        {
            out.extend_from_slice(error);
            return;
        }
        match self {
            Join::Single => out.extend_from_slice(&parts[0]),
            Join::Status => out.extend_from_slice(b"+OK\r\n"),
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
