//! Writes the response of one key's operation, or its part in the response of several.

use std::borrow::Cow;
use std::io::Write;

use super::json::{self, Seconds};
use super::request::Limits;
use super::response::{OCTETS, Response};
use super::status::Status;
use crate::base::UnixMillis;
use crate::command::{Lease, Leased, OpError, Outcome, Payload, ReplySink, Value};

/// What the reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A value as JSON.
    Json,
    /// A value as it is.
    Raw,
    /// What became of a write or a removal.
    Outcome,
    /// A value among others.
    ValuePart,
    /// What became of a write among others.
    OutcomePart,
}

/// What a request says about the value that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing.
    None,
    /// There is to be one.
    Present,
    /// It is to have the version.
    Match,
    /// There is to be none.
    Absent,
    /// It is not to have the version.
    NoneMatch,
}

/// How the reply to one request is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The version that `check` is about.
    pub tag: u64,
    /// Bytes that the body may have.
    pub bytes_max: u32,
    /// What the reply is.
    pub shape: Shape,
    /// Under which condition.
    pub check: Check,
    /// Whether the body is only described.
    pub bodiless: bool,
    /// Whether the connection closes.
    pub close: bool,
}

impl Form {
    /// The form of a reply that depends on nothing but what it is.
    pub fn of(shape: Shape, close: bool, limits: &Limits) -> Self {
        Self { tag: 0, bytes_max: limits.reply_bytes_max, shape, check: Check::None, bodiless: false, close }
    }
}

/// It is handed on by value.
const _: () = assert!(size_of::<Form>() <= 16);

/// Writes the reply to one request.
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    form: &'a Form,
    key: &'a [u8],
    now: UnixMillis,
    /// How fresh the value is, and the lease that goes with it.
    state: (&'static str, Option<u64>),
}

impl<'a> Encoder<'a> {
    /// Appends the reply to a request for `key` to `out`.
    pub fn new(out: &'a mut Vec<u8>, form: &'a Form, key: &'a [u8], now: UnixMillis) -> Self {
        Self { out, form, key, now, state: ("fresh", None) }
    }

    fn response(&self, status: Status) -> Response {
        Response { close: self.form.close, bodiless: self.form.bodiless, ..Response::new(status) }
    }

    /// Whether this is one reply among those of a batch.
    fn is_part(&self) -> bool {
        matches!(self.form.shape, Shape::ValuePart | Shape::OutcomePart)
    }

    /// Something went wrong, with the whole request or with this key's part.
    fn fail(&mut self, status: Status, etag: Option<u64>, message: &str) {
        if !self.is_part() {
            return Response { etag, ..self.response(status) }.error(message, self.out);
        }
        self.begin_part();
        self.out.push(b',');
        json::write_error(status, message, self.out);
        self.out.push(b'}');
    }

    fn differs(&mut self, etag: Option<u64>) {
        let message = match (self.form.check, etag) {
            (Check::Absent, _) => "the key exists".to_owned(),
            (_, Some(version)) => format!("the value has another version, {version}"),
            (_, None) => "the key does not exist".to_owned(),
        };
        self.fail(Status::PreconditionFailed, etag, &message);
    }

    fn begin_part(&mut self) {
        self.out.push(b'{');
        json::write_bytes("key", "keyEncoding", self.key, self.out);
    }

    /// Milliseconds that the value still lives.
    fn ttl(&self, value: &Value<'_>) -> Option<u64> {
        value.expires_at.map(|at| at.saturating_sub(self.now.0))
    }

    /// Whether a value is longer than a response may be, however it is written. If so, that is the answer.
    fn is_too_long(&mut self, value: &Value<'_>) -> bool {
        let too_long = value.payload.len() > self.form.bytes_max as usize;
        if too_long {
            let message = "the value is too long to send: raise memory or limits.output_hard_bytes";
            self.fail(Status::NotAcceptable, None, message);
        }
        too_long
    }

    fn write_value(&mut self, value: &Value<'_>) {
        let bytes = match value.payload {
            Payload::Whole(bytes) => Cow::Borrowed(bytes),
            Payload::Pieces(pieces) => Cow::Owned(pieces.concat()),
        };
        self.begin_part();
        self.out.push(b',');
        json::write_bytes("value", "encoding", &bytes, self.out);
        let _ = match self.ttl(value) {
            Some(millis) => write!(self.out, ",\"ttlSeconds\":{}", Seconds(millis)),
            None => write!(self.out, ",\"ttlSeconds\":null"),
        };
        let _ = write!(self.out, ",\"version\":{}", value.version);
        self.write_state();
        self.out.push(b'}');
    }

    fn write_state(&mut self) {
        let (state, lease) = self.state;
        let _ = write!(self.out, ",\"state\":\"{state}\"");
        if let Some(lease) = lease {
            let _ = write!(self.out, ",\"lease\":{lease}");
        }
    }

    /// A value that somebody is to fill: the asker, if there is a lease.
    fn filling(&mut self) {
        let message = match self.state.1 {
            Some(_) => "the key does not exist: it is yours to fill, with If-Match: \"LEASE\"",
            None => "the key does not exist, and is being filled",
        };
        let response = self.response(Status::NotFound);
        let start = self.out.len();
        self.begin_part();
        self.write_state();
        self.out.push(b',');
        json::write_error(response.status, message, self.out);
        self.out.push(b'}');
        response.before(start, self.out);
    }

    fn raw(&mut self, value: &Value<'_>, response: Response) {
        let (ttl, state) = (Some(self.ttl(value)), Some(self.state));
        let response = Response { media: OCTETS, ttl, state, ..response };
        response.head(value.payload.len(), self.out);
        if response.has_body() {
            value.payload.append_to(self.out);
        }
    }

    fn json(&mut self, value: &Value<'_>, response: Response) {
        let start = self.out.len();
        self.write_value(value);
        if self.out.len() - start > self.form.bytes_max as usize {
            self.out.truncate(start);
            let message = "the value is too long as JSON: ask for Accept: application/octet-stream";
            return self.fail(Status::NotAcceptable, None, message);
        }
        response.before(start, self.out);
    }

    fn done(&mut self, version: u64, created: bool) {
        if version == 0 {
            return self.response(Status::NoContent).whole(b"", self.out);
        }
        let status = if created { Status::Created } else { Status::Ok };
        let start = self.out.len();
        self.begin_part();
        let _ = write!(self.out, ",\"version\":{version}");
        if self.form.shape == Shape::OutcomePart {
            let _ = write!(self.out, ",\"created\":{created}}}");
            return;
        }
        self.out.push(b'}');
        Response { etag: Some(version), ..self.response(status) }.before(start, self.out);
    }
}

impl ReplySink for Encoder<'_> {
    fn value(&mut self, value: &Value<'_>) {
        let etag = Some(value.version);
        match self.form.check {
            Check::Match if value.version != self.form.tag => return self.differs(etag),
            Check::Absent => return Response { etag, ..self.response(Status::NotModified) }.whole(b"", self.out),
            Check::NoneMatch if value.version == self.form.tag => {
                return Response { etag, ..self.response(Status::NotModified) }.whole(b"", self.out);
            }
            _ => {}
        }
        let response = Response { etag, ..self.response(Status::Ok) };
        if self.is_too_long(value) {
            return;
        }
        match self.form.shape {
            Shape::Raw => self.raw(value, response),
            Shape::ValuePart => self.write_value(value),
            _ => self.json(value, response),
        }
    }

    fn leased(&mut self, leased: &Leased<'_>) {
        let lease = if let Lease::Granted { token, .. } = leased.lease { Some(token) } else { None };
        self.state = (if leased.is_stale { "stale" } else { "fresh" }, lease);
        match leased.value {
            Some(value) => self.value(value),
            None if leased.lease != Lease::None && self.form.check == Check::None && !self.is_part() => {
                self.state.0 = "filling";
                self.filling();
            }
            None => self.null(),
        }
    }

    fn null(&mut self) {
        match (self.form.shape, self.form.check) {
            (Shape::ValuePart, _) => {
                self.begin_part();
                self.out.extend_from_slice(b",\"value\":null}");
            }
            (_, Check::Present | Check::Match) => self.differs(None),
            _ => self.fail(Status::NotFound, None, "the key does not exist"),
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done { version, created } => self.done(version, created),
            Outcome::Counted { version, .. } => self.done(version, false),
            Outcome::NotFound if self.form.check == Check::None => self.null(),
            Outcome::NotFound | Outcome::NotStored => self.differs(None),
            Outcome::Differs { version } => self.differs(Some(version)),
        }
    }

    fn refused(&mut self, error: OpError) {
        let (status, message) = match error {
            OpError::TooLarge => (Status::TooLarge, "the value is longer than limits.value_bytes"),
            OpError::OutOfMemory => (
                Status::InsufficientStorage,
                "the memory is full and nothing may be evicted: delete keys, raise memory, or set eviction to a policy",
            ),
            OpError::InvalidExpire => (Status::BadRequest, "ttlSeconds is too large"),
            OpError::NotAnInteger | OpError::Overflow => (Status::BadRequest, error.message()),
        };
        self.fail(status, None, message);
    }

    fn error(&mut self, message: impl AsRef<[u8]>) {
        self.fail(Status::Internal, None, &String::from_utf8_lossy(message.as_ref()));
    }

    // No operation that HTTP asks for answers with any of these.
    fn status(&mut self, text: &str) {
        self.error(text);
    }
    fn integer(&mut self, n: i64) {
        self.error(n.to_string());
    }
    fn bulk(&mut self, bytes: &[u8]) {
        self.error(bytes);
    }
    fn array(&mut self, len: usize) {
        self.error(len.to_string());
    }
    fn map(&mut self, pairs: usize) {
        self.error(pairs.to_string());
    }
}

/// What the parts of a batch make together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// The name of the list in the body.
    pub name: &'static str,
    /// Whether the connection closes.
    pub close: bool,
    /// Bytes that the parts may have together.
    pub bytes_max: u32,
}

impl List {
    /// Writes the response. `parts` are in the order of the request's keys; without them they were too long together.
    pub fn write(self, parts: Option<&[Vec<u8>]>, out: &mut Vec<u8>) {
        let Some(parts) = parts else {
            let message = "the values are too long together: ask for fewer keys, or raise limits.output_hard_bytes";
            return Response { close: self.close, ..Response::new(Status::TooLarge) }.error(message, out);
        };
        // Braces, quotes, a colon and brackets; and a comma between two parts.
        let frame = self.name.len() + 7 + parts.len().saturating_sub(1);
        let length = frame + parts.iter().map(Vec::len).sum::<usize>();
        Response { close: self.close, ..Response::new(Status::Ok) }.head(length, out);
        let _ = write!(out, "{{\"{}\":[", self.name);
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(part);
        }
        out.extend_from_slice(b"]}");
    }
}
