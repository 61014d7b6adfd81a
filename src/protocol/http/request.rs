//! Requests, from bytes that may come in any pieces.
//!
//! ```text
//! Head ──> Chunks ──┐   the walk over a chunked body, kept so that no chunk is looked at twice
//!  │  ▲─────────────┘
//!  ├> Skip ───> Head    a body that is passed over after its refusal: it is too long, or a password is missing
//!  └> Unwanted > Head    the same for a chunked body
//! ```

use std::borrow::Cow;

use super::access;
use super::head::{Framing, HEAD_BYTES_MAX, Head, parse_head};
use super::status::{Refusal, Status};
use super::unwanted::Unwanted;
use crate::base::Passwords;

/// The longest line in front of a chunk.
pub(super) const CHUNK_LINE_BYTES_MAX: usize = 1 << 10;

/// What clients may demand, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a key.
    pub key_bytes_max: usize,
    /// Bytes of a value, and so of a raw body.
    pub value_bytes_max: usize,
    /// Bytes of any other body.
    pub json_bytes_max: usize,
    /// Bytes of a response's body.
    pub reply_bytes_max: u32,
}

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What its head says.
    pub head: Head<'a>,
    /// Its body, without the frames of chunks.
    pub body: Cow<'a, [u8]>,
}

/// What came of looking at the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The request is not whole before there are `need` bytes of input.
    Incomplete {
        /// Bytes from the start of the input.
        need: usize,
        /// Whether the client waits for an invitation to send the body; said once.
        invite: bool,
    },
    /// So many bytes of a refused request were passed over.
    Skipped(usize),
    /// A request and its length.
    Done(Request<'a>, usize),
    /// A request that cannot be, and how many bytes of it are done with.
    Refused(Refusal, usize),
}

/// What invites a client to send the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is known of the request at the start of the input.
#[derive(Debug, Default)]
pub struct Parser {
    state: State,
    invited: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    /// In a box: every session has a parser, and few have this.
    Chunks(Box<Chunks>),
    Skip(u64),
    Unwanted(Unwanted),
}

impl Parser {
    /// Looks at the input, which begins where the last request ended. If there are `passwords`, requests have one.
    pub fn advance<'a>(&mut self, input: &'a [u8], limits: &Limits, passwords: Option<&Passwords>) -> Progress<'a> {
        if let State::Skip(left) = &mut self.state {
            let used = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
            *left -= used as u64;
            if *left == 0 {
                *self = Self::default();
            }
            return Progress::Skipped(used);
        }
        if let State::Unwanted(body) = &mut self.state {
            return match body.pass(input) {
                Ok((0, false)) => Progress::Incomplete { need: input.len() + 1, invite: false },
                Ok((used, ended)) => {
                    if ended {
                        *self = Self::default();
                    }
                    Progress::Skipped(used)
                }
                Err(refusal) => Progress::Refused(refusal.closing(), input.len()),
            };
        }
        if let State::Chunks(chunks) = &mut self.state
            && let Some(progress) = chunks.walk(input)
        {
            return progress;
        }
        let (head, length) = match parse_head(input) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Progress::Incomplete { need: input.len() + 1, invite: false },
            Err(refusal) => return Progress::Refused(refusal.closing(), input.len()),
        };
        if let Some(passwords) = passwords
            && let Err(refusal) = access::check(&head, passwords)
        {
            return self.refuse_body(&head, refusal, length);
        }
        let max = if head.is_raw() { limits.value_bytes_max } else { limits.json_bytes_max };
        match head.framing {
            Framing::Length(body) if body > max as u64 => self.refuse_body(&head, too_large(max), length),
            Framing::Length(body) => {
                let end = length + body as usize;
                if input.len() < end {
                    return Progress::Incomplete { need: end, invite: self.invite(&head) };
                }
                self.done(head, Cow::Borrowed(&input[length..end]), end)
            }
            Framing::Chunked => {
                if !matches!(self.state, State::Chunks(_)) {
                    self.state = State::Chunks(Box::new(Chunks::new(length, max, head.is_head())));
                }
                let State::Chunks(chunks) = &mut self.state else { unreachable!("just set") };
                match chunks.walk(input) {
                    Some(Progress::Incomplete { need, .. }) => {
                        Progress::Incomplete { need, invite: self.invite(&head) }
                    }
                    Some(progress) => progress,
                    None => {
                        let (end, body) = (chunks.at, chunks.collect(input, length));
                        self.done(head, Cow::Owned(body), end)
                    }
                }
            }
        }
    }

    fn done<'a>(&mut self, head: Head<'a>, body: Cow<'a, [u8]>, length: usize) -> Progress<'a> {
        *self = Self::default();
        Progress::Done(Request { head, body }, length)
    }

    fn invite(&mut self, head: &Head<'_>) -> bool {
        head.expects && !std::mem::replace(&mut self.invited, true)
    }

    /// A client that waits for an invitation may send the body or not, so what follows is not known.
    fn refuse_body<'a>(&mut self, head: &Head<'_>, refusal: Refusal, length: usize) -> Progress<'a> {
        let close = head.close || head.expects;
        let state = match head.framing {
            Framing::Length(0) => State::Head,
            _ if close => State::Head,
            Framing::Length(body) => State::Skip(body),
            Framing::Chunked => State::Unwanted(Unwanted::default()),
        };
        *self = Self { state, invited: false };
        Progress::Refused(Refusal { close, bodiless: head.is_head(), ..refusal }, length)
    }
}

fn too_large(max: usize) -> Refusal {
    let message = format!("the body has more than {max} bytes: send less, or raise limits.value_bytes");
    Refusal::new(Status::TooLarge, message)
}

/// A walk over a chunked body.
#[derive(Debug)]
struct Chunks {
    /// Where the next line or chunk begins.
    at: usize,
    /// Bytes of the body so far, and how many it may have.
    total: usize,
    max: usize,
    /// Where the lines behind the last chunk begin.
    trailer: Option<usize>,
    bodiless: bool,
    is_done: bool,
}

impl Chunks {
    fn new(at: usize, max: usize, bodiless: bool) -> Self {
        Self { at, total: 0, max, trailer: None, bodiless, is_done: false }
    }

    /// Goes on as far as the input reaches. `None`: to the end of the body.
    fn walk<'a>(&mut self, input: &[u8]) -> Option<Progress<'a>> {
        while !self.is_done {
            match self.step(input) {
                Ok(None) => {}
                Ok(Some(need)) => return Some(Progress::Incomplete { need, invite: false }),
                Err(refusal) => {
                    let refusal = Refusal { bodiless: self.bodiless, ..refusal.closing() };
                    return Some(Progress::Refused(refusal, input.len()));
                }
            }
        }
        None
    }

    /// One line, with the chunk behind it; or the bytes of input that are needed for that.
    fn step(&mut self, input: &[u8]) -> Result<Option<usize>, Refusal> {
        let end = match self.trailer {
            Some(start) => start + HEAD_BYTES_MAX,
            None => self.at + CHUNK_LINE_BYTES_MAX,
        };
        let view = &input[self.at..end.min(input.len()).max(self.at)];
        let Some(length) = view.iter().position(|&b| b == b'\n') else {
            if input.len() >= end {
                return Err(Refusal::bad("the body is chunked, with a line that is too long"));
            }
            return Ok(Some(input.len() + 1));
        };
        let line =
            view[..length].strip_suffix(b"\r").ok_or_else(|| Refusal::bad("a line of a chunk ends without CR"))?;
        let behind = self.at + length + 1;
        if self.trailer.is_some() {
            self.is_done = line.is_empty();
            self.at = behind;
            return Ok(None);
        }
        let size = chunk_size(line)?;
        if size > self.max - self.total {
            return Err(too_large(self.max));
        }
        if size == 0 {
            (self.trailer, self.at) = (Some(behind), behind);
            return Ok(None);
        }
        let end = behind + size;
        if input.len() < end + 2 {
            return Ok(Some(end + 2));
        }
        if &input[end..end + 2] != b"\r\n" {
            return Err(Refusal::bad("a chunk is longer than the size in front of it"));
        }
        (self.at, self.total) = (end + 2, self.total + size);
        Ok(None)
    }

    /// The body, from a walk that came to its end.
    fn collect(&self, input: &[u8], start: usize) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.total);
        let mut again = Self::new(start, self.max, false);
        while body.len() < self.total {
            if again.step(input) != Ok(None) {
                break;
            }
            let chunk = again.total - body.len();
            let end = again.at - 2;
            body.extend_from_slice(&input[end - chunk..end]);
        }
        body
    }
}

/// The size in a line such as `1a0;name=value`.
pub(super) fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let digits = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii_end();
    let is_number = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let number = std::str::from_utf8(digits).ok().filter(|_| is_number);
    number
        .and_then(|text| usize::from_str_radix(text, 16).ok())
        .ok_or_else(|| Refusal::bad("the size of a chunk is not a hexadecimal number of at most 15 digits"))
}
