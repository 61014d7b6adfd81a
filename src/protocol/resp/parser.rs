//! Finds where a request's arguments are. Copies nothing and reserves nothing:
//! a declared length is only a promise until the bytes are there.
//!
//! The parser is all or nothing for each request, and resumable: of a request
//! that is not whole it remembers how far it came, so a request that arrives in
//! many pieces is still read once.

use crate::command::{Span, args::parse_integer};

/// What a request may demand. Values above are refused by name, not by memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arguments of one request.
    pub args_max: usize,
    /// Bytes of one argument that are kept; a longer one is skipped and refused.
    pub bulk_bytes_max: usize,
}

impl Limits {
    /// The same for a client that has given no password yet, as in redis-server: it can take little memory.
    #[must_use]
    pub fn unauthenticated(self) -> Self {
        Self { args_max: self.args_max.min(10), bulk_bytes_max: self.bulk_bytes_max.min(16 << 10) }
    }
}

/// The longest argument that is a request at all, as in redis-server.
const BULK_BYTES_HARD_MAX: i64 = 512 << 20;
/// The longest inline request or length line, as in redis-server.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Why the bytes are not RESP. The connection is closed after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// invalid multibulk length
    MultibulkLength,
    /// too big mbulk count string
    MultibulkLine,
    /// expected '$', got 'X'
    ExpectedBulk(u8),
    /// invalid bulk length
    BulkLength,
    /// too big bulk count string
    BulkLine,
    /// too big inline request
    InlineLine,
    /// unbalanced quotes in request
    Quotes,
    /// more arguments than limits.args
    Arguments(usize),
    /// unauthenticated multibulk length
    UnauthenticatedMultibulk,
    /// unauthenticated bulk length
    UnauthenticatedBulk,
    /// An HTTP request: answered by closing, so that no browser can be made to send commands.
    Http,
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ProtocolError::MultibulkLength => f.write_str("invalid multibulk length"),
            ProtocolError::MultibulkLine => f.write_str("too big mbulk count string"),
            ProtocolError::ExpectedBulk(b) => write!(f, "expected '$', got '{}'", char::from(*b)),
            ProtocolError::BulkLength => f.write_str("invalid bulk length"),
            ProtocolError::BulkLine => f.write_str("too big bulk count string"),
            ProtocolError::InlineLine => f.write_str("too big inline request"),
            ProtocolError::Quotes => f.write_str("unbalanced quotes in request"),
            ProtocolError::Arguments(max) => write!(f, "more arguments than limits.args ({max})"),
            ProtocolError::UnauthenticatedMultibulk => f.write_str("unauthenticated multibulk length"),
            ProtocolError::UnauthenticatedBulk => f.write_str("unauthenticated bulk length"),
            ProtocolError::Http => f.write_str("HTTP on the RESP port"),
        }
    }
}

/// A whole request found in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Arguments of a RESP array, at the spans that were handed out.
    Array,
    /// An inline line: the one span covers it without its line end.
    Inline,
    /// Nothing to do: an empty array or line.
    Empty,
}

/// How far parsing came.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// A request of so many bytes.
    Done(Frame, usize),
    /// Not whole: more sense can be made of it once it has so many bytes.
    Incomplete(usize),
    /// An argument is longer than `bulk_bytes_max`. The first bytes of the
    /// request, so many, are read; the skipper passes over the rest of it.
    Oversize(Skipper, usize),
    /// Not RESP.
    Malformed(ProtocolError),
}

/// The state of one unfinished request. Positions are relative to its first byte.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    /// Where reading goes on.
    position: usize,
    /// Arguments still to come; `None` until the array's head was read.
    args_left: Option<usize>,
}

impl Parser {
    /// Bytes of the unfinished request that are read and need not be looked at again.
    #[inline]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Reads on in `input`, which begins at the request's first byte. `spans`
    /// collects the arguments, relative to that byte; on `Done` it holds them all,
    /// on `Incomplete` those found so far, to be handed in again with more input.
    #[inline]
    pub fn advance(&mut self, input: &[u8], limits: &Limits, spans: &mut Vec<Span>) -> Progress {
        if self.args_left.is_none()
            && let Some(end) = short_request(input, limits, spans)
        {
            return Progress::Done(Frame::Array, end);
        }
        self.advance_any(input, limits, spans)
    }

    /// The same for every request.
    fn advance_any(&mut self, input: &[u8], limits: &Limits, spans: &mut Vec<Span>) -> Progress {
        let mut left = match self.args_left {
            Some(left) => left,
            None => match self.head(input, limits, spans) {
                Ok(count) => count,
                Err(progress) => return progress,
            },
        };
        while left > 0 {
            let (length, start) = match bulk_head(input, self.position) {
                Ok(head) => head,
                Err(progress) => {
                    self.args_left = Some(left);
                    return progress;
                }
            };
            let end = start + length;
            if length > limits.bulk_bytes_max {
                let skipper = Skipper { bytes_left: length + 2, args_left: left - 1, largest: length };
                *self = Parser::default();
                return Progress::Oversize(skipper, start);
            }
            if input.len() < end + 2 {
                self.args_left = Some(left);
                return Progress::Incomplete(end + 2);
            }
            spans.push(Span::new(start, end));
            self.position = end + 2;
            left -= 1;
        }
        let end = self.position;
        *self = Parser::default();
        Progress::Done(Frame::Array, end)
    }

    /// A parser for the last `args_left` arguments of a request, which begin its input.
    pub fn behind(args_left: usize) -> Self {
        Self { position: 0, args_left: Some(args_left) }
    }

    /// The argument that an incomplete request at the start of `input` waits for: its length, where it
    /// begins, and how many arguments there are from it on. `None` if that is not known yet.
    pub fn awaited(&self, input: &[u8]) -> Option<(usize, usize, usize)> {
        let (length, start) = bulk_head(input, self.position).ok()?;
        Some((length, start, self.args_left?))
    }

    /// The number of arguments, or what else the first bytes turned out to be.
    #[inline]
    fn head(&mut self, input: &[u8], limits: &Limits, spans: &mut Vec<Span>) -> Result<usize, Progress> {
        match input.first() {
            None => return Err(Progress::Incomplete(1)),
            Some(b'*') => {}
            Some(_) => return Err(inline(input, spans)),
        }
        match line_integer(&input[1..]) {
            Line::Integer(..=0, used) => Err(Progress::Done(Frame::Empty, 1 + used)),
            Line::Integer(n, _) if n > i64::from(i32::MAX) => Err(Progress::Malformed(ProtocolError::MultibulkLength)),
            Line::Integer(n, _) if n as usize > limits.args_max => {
                Err(Progress::Malformed(ProtocolError::Arguments(limits.args_max)))
            }
            Line::Integer(n, used) => {
                self.position = 1 + used;
                Ok(n as usize)
            }
            Line::Partial => Err(Progress::Incomplete(input.len() + 1)),
            Line::TooLong => Err(Progress::Malformed(ProtocolError::MultibulkLine)),
            Line::NotANumber => Err(Progress::Malformed(ProtocolError::MultibulkLength)),
        }
    }
}

/// The length of the request at the start of `input`, if it is whole and has at most nine arguments of at most 999 bytes, as
/// nearly all have. Of all others nothing is said, and `spans` stays as it was.
#[inline]
pub fn short_request(input: &[u8], limits: &Limits, spans: &mut Vec<Span>) -> Option<usize> {
    let [b'*', count @ b'1'..=b'9', b'\r', _, ..] = *input else { return None };
    let (count, before) = (usize::from(count - b'0'), spans.len());
    if count > limits.args_max {
        return None;
    }
    spans.reserve(count);
    let digit = |byte: u8| usize::from(byte - b'0');
    let mut at = 4;
    for _ in 0..count {
        let (length, head) = match input[at..] {
            [b'$', a @ b'0'..=b'9', b'\r', _, ..] => (digit(a), 4),
            [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', _, ..] => (digit(a) * 10 + digit(b), 5),
            [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', _, ..] => {
                (digit(a) * 100 + digit(b) * 10 + digit(c), 6)
            }
            _ => {
                spans.truncate(before);
                return None;
            }
        };
        if length > limits.bulk_bytes_max || input.len() - at < head + length + 2 {
            spans.truncate(before);
            return None;
        }
        spans.push(Span::new(at + head, at + head + length));
        at += head + length + 2;
    }
    Some(at)
}

/// Reads `$length CR LF` at `position`: the length, and where the bytes start.
#[inline]
fn bulk_head(input: &[u8], position: usize) -> Result<(usize, usize), Progress> {
    let Some(&marker) = input.get(position) else { return Err(Progress::Incomplete(position + 1)) };
    if marker != b'$' {
        // As redis-server: the line must be whole before it is judged.
        return Err(match line_integer(&input[position..]) {
            Line::Partial => Progress::Incomplete(input.len() + 1),
            Line::TooLong => Progress::Malformed(ProtocolError::BulkLine),
            _ => Progress::Malformed(ProtocolError::ExpectedBulk(marker)),
        });
    }
    match line_integer(&input[position + 1..]) {
        Line::Integer(n @ 0..=BULK_BYTES_HARD_MAX, used) => Ok((n as usize, position + 1 + used)),
        Line::Integer(..) | Line::NotANumber => Err(Progress::Malformed(ProtocolError::BulkLength)),
        Line::TooLong => Err(Progress::Malformed(ProtocolError::BulkLine)),
        Line::Partial => Err(Progress::Incomplete(input.len() + 1)),
    }
}

/// A line that is not an array: up to LF, a CR before it dropped.
fn inline(input: &[u8], spans: &mut Vec<Span>) -> Progress {
    let Some(end) = input.iter().take(LINE_BYTES_MAX).position(|&b| b == b'\n') else {
        return if input.len() >= LINE_BYTES_MAX {
            Progress::Malformed(ProtocolError::InlineLine)
        } else {
            Progress::Incomplete(input.len() + 1)
        };
    };
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    if speaks_http(line) {
        return Progress::Malformed(ProtocolError::Http);
    }
    if line.iter().all(u8::is_ascii_whitespace) {
        return Progress::Done(Frame::Empty, end + 1);
    }
    spans.push(Span::new(0, line.len()));
    Progress::Done(Frame::Inline, end + 1)
}

/// Whether a line is the start of an HTTP request or one of its `Host:` headers.
fn speaks_http(line: &[u8]) -> bool {
    const VERBS: [&[u8]; 7] = [b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT "];
    let starts = |word: &[u8]| line.len() >= word.len() && line[..word.len()].eq_ignore_ascii_case(word);
    starts(b"Host:") || VERBS.iter().any(|verb| starts(verb)) || line.windows(6).any(|w| w == b" HTTP/")
}

/// Passes over the rest of a request that has an argument too long to keep, so
/// that the connection can go on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipper {
    bytes_left: usize,
    args_left: usize,
    largest: usize,
}

impl Skipper {
    /// Passes over as much of `input` as belongs to the request. Answers how many
    /// bytes, and whether the request has ended: then with its longest argument's length.
    ///
    /// # Errors
    /// What follows is not RESP.
    pub fn skip(&mut self, input: &[u8]) -> Result<(usize, Option<usize>), ProtocolError> {
        let mut at = 0;
        loop {
            let step = self.bytes_left.min(input.len() - at);
            at += step;
            self.bytes_left -= step;
            if self.bytes_left > 0 {
                return Ok((at, None));
            }
            if self.args_left == 0 {
                return Ok((at, Some(self.largest)));
            }
            match bulk_head(input, at) {
                Ok((length, start)) => {
                    at = start;
                    self.bytes_left = length + 2;
                    self.args_left -= 1;
                    self.largest = self.largest.max(length);
                }
                Err(Progress::Malformed(error)) => return Err(error),
                Err(_) => return Ok((at, None)),
            }
        }
    }
}

enum Line {
    Integer(i64, usize),
    Partial,
    TooLong,
    NotANumber,
}

/// Reads `digits CR LF`; the length includes the line end.
#[inline]
fn line_integer(input: &[u8]) -> Line {
    // One or two digits are what nearly every request has.
    match *input {
        [d, b'\r', _, ..] if d.is_ascii_digit() => return Line::Integer(i64::from(d - b'0'), 3),
        [a @ b'1'..=b'9', b, b'\r', _, ..] if b.is_ascii_digit() => {
            return Line::Integer(i64::from(a - b'0') * 10 + i64::from(b - b'0'), 4);
        }
        _ => {}
    }
    match input.iter().take(LINE_BYTES_MAX).position(|&b| b == b'\r') {
        Some(at) if at + 1 < input.len() => match parse_integer(&input[..at]) {
            Some(n) => Line::Integer(n, at + 2),
            None => Line::NotANumber,
        },
        Some(_) => Line::Partial,
        None if input.len() >= LINE_BYTES_MAX => Line::TooLong,
        None => Line::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { args_max: 1024, bulk_bytes_max: 1 << 20 };

    /// What a connection would see: the requests' arguments and how it ended.
    fn read_all(pieces: &[&[u8]], limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let (mut requests, mut buffer) = (Vec::new(), Vec::new());
        let (mut parser, mut spans, mut skipper) = (Parser::default(), Vec::new(), None::<Skipper>);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                if let Some(s) = &mut skipper {
                    match s.skip(&buffer) {
                        Err(error) => return (requests, Some(error)),
                        Ok((used, ended)) => {
                            buffer.drain(..used);
                            let Some(length) = ended else { break };
                            requests.push(vec![b"oversize".to_vec(), length.to_string().into_bytes()]);
                            skipper = None;
                        }
                    }
                }
                match parser.advance(&buffer, limits, &mut spans) {
                    Progress::Done(frame, end) => {
                        if frame != Frame::Empty {
                            requests.push(spans.iter().map(|s| s.of(&buffer).to_vec()).collect());
                        }
                        spans.clear();
                        buffer.drain(..end);
                    }
                    Progress::Incomplete(need) => {
                        assert!(need > buffer.len(), "waiting for bytes that are there");
                        break;
                    }
                    Progress::Oversize(s, used) => {
                        spans.clear();
                        buffer.drain(..used);
                        skipper = Some(s);
                    }
                    Progress::Malformed(error) => return (requests, Some(error)),
                }
            }
        }
        (requests, None)
    }

    fn encode(request: &[Vec<u8>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", request.len()).into_bytes();
        for arg in request {
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    #[test]
    fn malformed_input_is_named_as_redis_names_it() {
        for (bytes, error) in [
            (&b"*abc\r\n"[..], ProtocolError::MultibulkLength),
            (b"*2147483648\r\n", ProtocolError::MultibulkLength),
            (b"*1025\r\n", ProtocolError::Arguments(1024)),
            (b"*1\r\n$-1\r\n", ProtocolError::BulkLength),
            (b"*1\r\n$536870913\r\n", ProtocolError::BulkLength),
            (b"*1\r\n:5\r\n", ProtocolError::ExpectedBulk(b':')),
            (b"GET / HTTP/1.1\r\n", ProtocolError::Http),
            (b"post /x\r\n", ProtocolError::Http),
            (b"Host: x\r\n", ProtocolError::Http),
        ] {
            assert_eq!(read_all(&[bytes], &LIMITS).1, Some(error), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(read_all(&[&[b'x'; LINE_BYTES_MAX]], &LIMITS).1, Some(ProtocolError::InlineLine));
        assert_eq!(read_all(&[&[b'*'; 1], &[b'1'; LINE_BYTES_MAX]], &LIMITS).1, Some(ProtocolError::MultibulkLine));
        assert_eq!(read_all(&[b"*1\r\n$", &[b'1'; LINE_BYTES_MAX]], &LIMITS).1, Some(ProtocolError::BulkLine));
    }

    #[test]
    fn empty_requests_are_passed_over() {
        let (requests, error) = read_all(&[b"*0\r\n*-1\r\n\r\n \r\nPING\r\n"], &LIMITS);
        assert_eq!((requests, error), (vec![vec![b"PING".to_vec()]], None));
    }

    #[test]
    fn a_declared_length_reserves_nothing_and_is_waited_for() {
        let (mut parser, mut spans) = (Parser::default(), Vec::new());
        let input = b"*2\r\n$3\r\nGET\r\n$1000000\r\nabc";
        assert_eq!(parser.advance(input, &LIMITS, &mut spans), Progress::Incomplete(23 + 1_000_002));
        assert_eq!(spans.capacity(), 4);
    }

    proptest! {
        #[test]
        fn requests_read_the_same_however_they_are_split(
            requests in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6), 0..12),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
            bulk_bytes_max in 20usize..60,
        ) {
            let limits = Limits { args_max: 1024, bulk_bytes_max };
            let bytes: Vec<u8> = requests.iter().flat_map(|r| encode(r)).collect();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let expected: Vec<Vec<Vec<u8>>> = requests.iter().map(|r| match r.iter().map(Vec::len).max() {
                Some(longest) if longest > bulk_bytes_max =>
                    vec![b"oversize".to_vec(), longest.to_string().into_bytes()],
                _ => r.clone(),
            }).collect();
            prop_assert_eq!(read_all(&pieces, &limits), (expected, None));
        }

        /// Mostly requests, with bytes changed here and there, and cut off anywhere.
        #[test]
        fn short_requests_read_as_all_others(
            arguments in proptest::collection::vec(
                prop_oneof![Just(0usize), 1..12usize, Just(99), Just(100), Just(999), Just(1000)], 1..12),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), prop_oneof![
                Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'-'), Just(b' '), b'0'..=b'9', any::<u8>()]), 0..3),
            cut in any::<proptest::sample::Index>(),
            whole in any::<bool>(),
            (args_max, bulk_bytes_max) in (1..14usize, prop_oneof![Just(10usize), Just(1 << 20)]),
        ) {
            let arguments: Vec<Vec<u8>> = arguments.into_iter().map(|len| vec![b'x'; len]).collect();
            let mut bytes = encode(&arguments);
            for (at, byte) in changes {
                // What is changed lies in the first lines more often than not.
                let at = at.index(bytes.len().min(40));
                bytes[at] = byte;
            }
            let len = if whole { bytes.len() } else { cut.index(bytes.len() + 1) };
            let limits = Limits { args_max, bulk_bytes_max };
            let read = |advance: fn(&mut Parser, &[u8], &Limits, &mut Vec<Span>) -> Progress| {
                let (mut parser, mut spans) = (Parser::default(), vec![Span::new(1, 2)]);
                let progress = advance(&mut parser, &bytes[..len], &limits, &mut spans);
                (progress, spans, parser.position, parser.args_left)
            };
            prop_assert_eq!(read(Parser::advance), read(Parser::advance_any));
        }

        #[test]
        fn no_input_panics(pieces in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..30), 0..6)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            read_all(&pieces, &LIMITS);
        }
    }
}
