//! Finds requests in the input, and how long they are.
//!
//! ```text
//!            line (get of several keys)          end of the line
//! [ line ] ────────────────────────────> [ keys ] ─────────────> [ line ]
//!    │  line of data that is not wanted          all passed over
//!    └───────────────────────────────────> [ skip ] ───────────> [ line ]
//! ```
//!
//! A request is whole or none of it is taken, so that the same bytes are the same requests however they arrive.

use super::words::{Words, is_key, next_word};
use super::{Form, Style, meta, text};
use crate::command::{Expiry, Op, Remove, Span, Store, StoreMode};

/// The longest key, whatever the limits say.
pub(super) const KEY_BYTES_MAX: usize = 250;
/// The longest line, its end included.
pub(super) const LINE_BYTES_MAX: usize = 4 << 10;
/// The longest line of a request that may have many keys.
const KEYS_LINE_BYTES_MAX: usize = 1 << 20;
/// A version that no value has.
const NO_VERSION: u64 = u64::MAX;
/// The first byte of a request of the binary protocol.
pub(super) const BINARY: u8 = 0x80;
pub(super) const BINARY_REFUSED: &str = "the binary protocol is not served; use the text or the meta protocol";

/// What a request may demand.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a key, if less than memcached allows.
    pub key_bytes_max: usize,
    /// Bytes of data that are kept; more are passed over.
    pub value_bytes_max: usize,
    /// Whether it is known when a key was last read.
    pub access_times: bool,
}

impl Limits {
    pub(super) fn key_bytes(&self) -> usize {
        self.key_bytes_max.min(KEY_BYTES_MAX)
    }
}

/// What `stats` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsOf {
    /// Nothing in particular.
    General,
    /// `settings`
    Settings,
    /// `items`
    Items,
    /// `slabs`
    Slabs,
    /// `sizes`
    Sizes,
}

/// One operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// Where the key is: in the input, or among the decoded keys.
    pub key: Span,
    /// Whether it is among the decoded keys.
    pub is_decoded: bool,
    /// The operation, without its bytes.
    pub op: Op<'static>,
    /// Where in the input its bytes are.
    pub bytes: Span,
    /// How to write the reply.
    pub form: Form,
    /// Whether it is the first operation of what the client sees as one request.
    pub is_first: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// An operation on a key.
    Key(KeyRequest),
    /// What ends the values of a `get`.
    End,
    /// A text to answer.
    Answer(&'static str),
    /// A request that is refused by this text; an empty one if the client reads no reply.
    Refused(&'static str),
    /// Deletes all keys once this time has come, and answers the text now.
    Flush(Expiry, &'static str),
    /// Answers the version.
    Version,
    /// Answers the counters.
    Stats(StatsOf),
    /// Closes the connection.
    Quit,
}

/// How far parsing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A request of so many bytes.
    Done(Request, usize),
    /// So many bytes are of no use.
    Passed(usize),
    /// Not whole: more sense can be made of it once it has so many bytes.
    Incomplete(usize),
    /// Not the protocol, for this reason. The connection cannot go on.
    Malformed(&'static str),
}

/// The `get` whose keys come one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub style: Style,
    /// The new deadline, for `gat` and `gats`.
    pub expiry: Option<Expiry>,
    pub is_first: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// At the beginning of a request.
    #[default]
    Line,
    /// In the line of a `get`, behind one of its words. All of the line is there, and each key is one.
    Keys(Keys),
    /// In front of so many bytes that nobody wants.
    Skip(usize),
}

/// Where in its requests a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parser {
    pub(super) state: State,
    /// Bytes of an unfinished line that hold no line end.
    pub(super) scanned: usize,
}

/// A line, with all that a request is made from.
pub(super) struct Line<'a, 'b> {
    /// All that is there.
    pub input: &'a [u8],
    /// The bytes of the line without its end.
    pub end: usize,
    /// The bytes of the line with its end.
    pub after: usize,
    pub limits: &'b Limits,
}

impl Parser {
    /// Reads the next request at the start of `input`. Keys that have to be decoded are appended to `decoded`.
    #[inline]
    pub fn advance(&mut self, input: &[u8], limits: &Limits, decoded: &mut Vec<u8>) -> Progress {
        match self.state {
            _ if input.is_empty() => Progress::Incomplete(1),
            State::Line => self.line(input, limits, decoded),
            State::Keys(keys) => self.next_key(input, 0, keys),
            State::Skip(left) => Progress::Passed(self.pass(left, input)),
        }
    }

    /// Passes over as much of `input` as is not wanted.
    pub(super) fn pass(&mut self, left: usize, input: &[u8]) -> usize {
        let passed = left.min(input.len());
        self.state = if passed == left { State::Line } else { State::Skip(left - passed) };
        passed
    }

    #[inline]
    fn line(&mut self, input: &[u8], limits: &Limits, decoded: &mut Vec<u8>) -> Progress {
        if input[0] == BINARY {
            return Progress::Malformed(BINARY_REFUSED);
        }
        let has_keys = input.starts_with(b"get") || input.starts_with(b"gat");
        let max = if has_keys { KEYS_LINE_BYTES_MAX } else { LINE_BYTES_MAX };
        let view = &input[..input.len().min(max)];
        let Some(found) = view[self.scanned..].iter().position(|&b| b == b'\n') else {
            if view.len() == max {
                return Progress::Malformed("a line is too long");
            }
            self.scanned = input.len();
            return Progress::Incomplete(input.len() + 1);
        };
        let newline = self.scanned + found;
        self.scanned = 0;
        let end = if newline > 0 && input[newline - 1] == b'\r' { newline - 1 } else { newline };
        let line = Line { input, end, after: newline + 1, limits };
        let words = Words::of(input, end);
        let name = words.get(0);
        if name.len() == 2 && name[0] == b'm' {
            meta::request(self, &line, &words, decoded)
        } else {
            text::request(self, &line, &words)
        }
    }

    /// The next key of a `get`, or its end, at or behind `from`.
    fn next_key(&mut self, input: &[u8], from: usize, keys: Keys) -> Progress {
        let end = from + input[from..].iter().position(|&b| b != b' ').unwrap_or(0);
        let length = input[end..].iter().position(|&b| b == b' ' || b == b'\n').unwrap_or(0);
        let word = &input[end..end + length];
        let is_last = input.get(end + length) == Some(&b'\n');
        let word = if is_last { word.strip_suffix(b"\r").unwrap_or(word) } else { word };
        if word.is_empty() {
            self.state = State::Line;
            return Progress::Done(Request::End, end + length + 1);
        }
        self.state = State::Keys(Keys { is_first: false, ..keys });
        let op = match keys.expiry {
            None => Op::Get,
            Some(expiry) => Op::Fetch { expiry, bump: true, ask: None },
        };
        let key = Span::new(end, end + word.len());
        let form = Form::of(keys.style);
        let request = KeyRequest { key, is_decoded: false, op, bytes: Span::default(), form, is_first: keys.is_first };
        Progress::Done(Request::Key(request), end + word.len())
    }

    /// A `get` whose keys begin behind `from`.
    pub(super) fn keys(&mut self, line: &Line<'_, '_>, from: usize, keys: Keys) -> Progress {
        let (text, max) = (&line.input[..line.end], line.limits.key_bytes());
        let mut at = from;
        while let Some(span) = next_word(text, at) {
            if !is_key(span.of(text), max) {
                return Progress::Done(Request::Refused(text::BAD_FORMAT), line.after);
            }
            at = span.end as usize;
        }
        self.next_key(line.input, from, keys)
    }

    /// Refuses a request whose data, of `length` bytes, is passed over.
    pub(super) fn refuse_data(&mut self, line: &Line<'_, '_>, text: &'static str, length: usize) -> Progress {
        self.pass_data(length);
        Progress::Done(Request::Refused(text), line.after)
    }

    /// A request with `length` bytes of data behind its line.
    pub(super) fn with_data(&mut self, line: &Line<'_, '_>, length: usize, mut request: KeyRequest) -> Progress {
        if length > line.limits.value_bytes_max {
            self.pass_data(length);
            let is_text = request.form.style == Style::Stored;
            let is_set = matches!(request.op, Op::Store(Store { mode: StoreMode::Set, compare: None, .. }));
            // As in memcached: of text requests only a `set` makes what is there stale.
            let compare = (is_text && !is_set).then_some(NO_VERSION);
            request.op = Op::Remove(Remove { compare, ..Remove::default() });
            request.form.style = Style::TooLarge;
            return Progress::Done(Request::Key(request), line.after);
        }
        let all = line.after + length + 2;
        if line.input.len() < all {
            return Progress::Incomplete(all);
        }
        let data = Span::new(line.after, line.after + length);
        if &line.input[line.after + length..all] != b"\r\n" {
            let text = if request.form.silent { "" } else { "CLIENT_ERROR bad data chunk\r\n" };
            return Progress::Done(Request::Refused(text), all);
        }
        request.bytes = data;
        request.form.size = length as u32;
        Progress::Done(Request::Key(request), all)
    }

    fn pass_data(&mut self, length: usize) {
        self.state = State::Skip(length + 2);
    }
}
