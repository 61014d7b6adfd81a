//! What the head of a request says, as far as it matters.

use super::response::{JSON, OCTETS};
use super::status::{Refusal, Status};

/// The longest head, and the most fields in it.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 100;

/// A parsed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// `GET` and its like.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Whether the connection closes behind the response.
    pub close: bool,
    /// Whether raw bytes are preferred to JSON.
    pub wants_raw: bool,
    /// What the body is, without parameters.
    pub media: Option<&'a [u8]>,
    /// Versions of which the value is to have one.
    pub if_match: Tags,
    /// Versions of which the value is to have none.
    pub if_none_match: Tags,
    /// What `Authorization` says.
    pub(super) authorization: Option<&'a [u8]>,
    /// Whether the body is compressed or the like.
    pub is_encoded: bool,
    pub(super) expects: bool,
    pub(super) framing: Framing,
}

/// How the end of the body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// What `If-Match` or `If-None-Match` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// How many there are.
    pub count: usize,
    /// Whether there is something else, or nothing.
    pub malformed: bool,
    /// Whether `*` is among them.
    pub any: bool,
    /// The newest version among the strong ones.
    pub strong: Option<u64>,
    /// The newest version of all.
    pub newest: Option<u64>,
}

impl Head<'_> {
    /// Whether the body is a raw value.
    pub fn is_raw(&self) -> bool {
        self.media.is_some_and(|media| media.eq_ignore_ascii_case(OCTETS.as_bytes()))
    }

    /// Whether the body is JSON.
    pub fn is_json(&self) -> bool {
        self.media.is_some_and(|media| media.eq_ignore_ascii_case(JSON.as_bytes()))
    }

    /// Whether the response describes its body without sending it.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

/// The head at the start of the input and its length, once it is there.
pub(super) fn parse_head(input: &[u8]) -> Result<Option<(Head<'_>, usize)>, Refusal> {
    let too_large = || {
        let message = format!("the head has more than {HEAD_BYTES_MAX} bytes or {FIELDS_MAX} fields: send less");
        Refusal::new(Status::HeadTooLarge, message)
    };
    let view = &input[..input.len().min(HEAD_BYTES_MAX)];
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(view) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if view.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(too_large()),
        Err(httparse::Error::Version) => {
            return Err(Refusal::new(Status::VersionNotSupported, "this port speaks HTTP/1.1 and HTTP/1.0"));
        }
        Err(error) => return Err(Refusal::bad(format!("not an HTTP/1.1 request: {error}"))),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::bad("not an HTTP/1.1 request: the request line is not whole"));
    };
    let mut fold = Fold::default();
    for field in parsed.headers.iter() {
        fold.add(field.name, field.value.trim_ascii())?;
    }
    Ok(Some((fold.head(method, target, minor)?, length)))
}

/// What the fields say together.
#[derive(Default)]
struct Fold<'a> {
    length: Option<u64>,
    is_chunked: bool,
    hosts: usize,
    close: bool,
    expects: bool,
    is_encoded: bool,
    media: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    accept: Accept,
    if_match: Tags,
    if_none_match: Tags,
}

impl<'a> Fold<'a> {
    fn add(&mut self, name: &str, value: &'a [u8]) -> Result<(), Refusal> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("content-length") {
            let length = decimal(value).ok_or_else(|| Refusal::bad("Content-Length is not a number"))?;
            if self.length.replace(length).is_some() {
                return Err(Refusal::bad("Content-Length is there twice"));
            }
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                let message = "Transfer-Encoding can only be chunked: send the body as it is";
                return Err(Refusal::new(Status::NotImplemented, message));
            }
            if std::mem::replace(&mut self.is_chunked, true) {
                return Err(Refusal::bad("Transfer-Encoding is there twice"));
            }
        } else if is("host") {
            self.hosts += 1;
        } else if is("connection") {
            self.close |= items(value).any(|item| item.eq_ignore_ascii_case(b"close"));
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal::new(Status::ExpectationFailed, "the only expectation met is 100-continue"));
            }
            self.expects = true;
        } else if is("content-encoding") {
            self.is_encoded |= !value.eq_ignore_ascii_case(b"identity");
        } else if is("content-type") {
            if self.media.replace(parts(value).0).is_some() {
                return Err(Refusal::bad("Content-Type is there twice"));
            }
        } else if is("authorization") {
            if self.authorization.replace(value).is_some() {
                return Err(Refusal::bad("Authorization is there twice"));
            }
        } else if is("accept") {
            items(value).for_each(|range| self.accept.add(range));
        } else if is("if-match") {
            self.if_match.add(value);
        } else if is("if-none-match") {
            self.if_none_match.add(value);
        }
        Ok(())
    }

    /// Two ways to say how long the body is are a way to smuggle a request past whoever believes the other.
    fn head(self, method: &'a str, target: &'a str, minor: u8) -> Result<Head<'a>, Refusal> {
        if self.is_chunked && (self.length.is_some() || minor == 0) {
            return Err(Refusal::bad("Transfer-Encoding goes neither with Content-Length nor with HTTP/1.0"));
        }
        if self.hosts > 1 || self.hosts == 0 && minor > 0 {
            return Err(Refusal::bad("an HTTP/1.1 request has one Host field"));
        }
        Ok(Head {
            method,
            target,
            close: self.close || minor == 0,
            wants_raw: self.accept.prefers_raw(),
            media: self.media,
            authorization: self.authorization,
            if_match: self.if_match,
            if_none_match: self.if_none_match,
            is_encoded: self.is_encoded,
            expects: self.expects && minor > 0,
            framing: if self.is_chunked { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) },
        })
    }
}

/// How welcome the two media types are, in thousandths, and which was named first.
#[derive(Default)]
struct Accept {
    raw: u32,
    json: u32,
    raw_first: bool,
}

impl Accept {
    fn add(&mut self, range: &[u8]) {
        let (media, parameters) = parts(range);
        let quality = parameters.split(|&b| b == b';').find_map(quality).unwrap_or(1000);
        if media.eq_ignore_ascii_case(OCTETS.as_bytes()) {
            self.raw_first |= self.json == 0;
            self.raw = self.raw.max(quality);
        } else if media.eq_ignore_ascii_case(JSON.as_bytes()) {
            self.json = self.json.max(quality);
        }
    }

    /// Only where raw bytes are named themselves: `*/*` is what clients send that have not thought about it.
    fn prefers_raw(&self) -> bool {
        self.raw > self.json || self.raw == self.json && self.raw > 0 && self.raw_first
    }
}

/// The thousandths in `q=0.5`; what makes no sense counts as nothing said.
fn quality(parameter: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(parameter.trim_ascii()).ok()?;
    let number: f64 = text.strip_prefix("q=").or_else(|| text.strip_prefix("Q="))?.parse().ok()?;
    (0.0..=1.0).contains(&number).then_some((number * 1000.0) as u32)
}

impl Tags {
    /// An empty list is no condition that anybody means: to change a value then would be to change it unconditionally.
    fn add(&mut self, value: &[u8]) {
        self.malformed |= items(value).next().is_none();
        for tag in items(value) {
            self.count += 1;
            let (tag, is_weak) = tag.strip_prefix(b"W/").map_or((tag, false), |tag| (tag, true));
            if tag == b"*" {
                self.any = true;
            } else if let Some(text) = tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\"")) {
                // A tag that is no version is none of ours.
                let version = decimal(text);
                self.newest = self.newest.max(version);
                if !is_weak {
                    self.strong = self.strong.max(version);
                }
            } else {
                self.malformed = true;
            }
        }
    }
}

/// The parts of a list.
fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// A media type, and its parameters.
fn parts(value: &[u8]) -> (&[u8], &[u8]) {
    let end = value.iter().position(|&b| b == b';').unwrap_or(value.len());
    (value[..end].trim_ascii(), &value[end..])
}

fn decimal(text: &[u8]) -> Option<u64> {
    let is_number = (1..=20).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}
