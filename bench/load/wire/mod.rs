//! What goes over the wire: requests to bytes, bytes to replies. No I/O.
//!
//! Encoders append to a buffer that the caller keeps; decoders point into what
//! arrived. Neither allocates. A reply is decoded as a whole or not at all, and
//! the result does not depend on the pieces in which it arrived.

mod http;
mod memcache;
mod resp;
#[cfg(test)]
mod tests;

use std::{fmt, ops::Range, str::FromStr, time::Duration};

/// The protocol that the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, the default of Redis.
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
    /// The text protocol of memcached.
    MemcacheText,
    /// The meta protocol of memcached.
    MemcacheMeta,
    /// `GET`, `PUT` and `DELETE /v1/cache/{key}` with raw bodies.
    Http,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Protocol; 5] =
        [Protocol::Resp2, Protocol::Resp3, Protocol::MemcacheText, Protocol::MemcacheMeta, Protocol::Http];

    /// The word for it, on the command line and in reports.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Resp2 => "resp2",
            Protocol::Resp3 => "resp3",
            Protocol::MemcacheText => "memcache-text",
            Protocol::MemcacheMeta => "memcache-meta",
            Protocol::Http => "http",
        }
    }

    /// Whether it can read several keys at once.
    pub fn has_mget(self) -> bool {
        self != Protocol::Http
    }

    /// Whether `key` can be asked for. A key that cannot would be read by the server as
    /// something else, and replies would no longer belong to their requests.
    pub fn takes_key(self, key: &[u8]) -> bool {
        match self {
            Protocol::Resp2 | Protocol::Resp3 => true,
            Protocol::MemcacheText | Protocol::MemcacheMeta => memcache::takes_key(key),
            Protocol::Http => http::takes_key(key),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Protocol::ALL.into_iter().find(|protocol| protocol.word() == text).ok_or_else(|| {
            let words = Protocol::ALL.map(Protocol::word).join(", ");
            format!("`{text}` is not a protocol: write one of {words}")
        })
    }
}

/// Who to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user; `None` is the server's default user.
    pub user: Option<String>,
    /// The password.
    pub password: String,
}

impl Credentials {
    /// The user where one must be named: the default user of Redis has this name.
    fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("default")
    }
}

/// A value in two parts that belong behind each other, so that it need not be put together first.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a>(pub &'a [u8], pub &'a [u8]);

impl Value<'_> {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }

    fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
        out.extend_from_slice(self.1);
    }
}

/// What kind of reply is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// To a part of the handshake, or to `ASKING`.
    Greeting,
    /// To a read of one key.
    Get,
    /// To a write.
    Set,
    /// To a removal.
    Delete,
    /// To a read of so many keys.
    Mget(usize),
}

/// One value of a reply to a read of several keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where its key is, if the protocol says. Keys that were missed are then left out.
    pub key: Option<Range<usize>>,
    /// Where the value is; `None` for a miss.
    pub value: Option<Range<usize>>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The value of a key.
    Hit(&'a [u8]),
    /// No such key: to a read or a removal.
    Miss,
    /// Done: a write, a removal, a greeting.
    Done,
    /// The items of a read of several keys are in the scratch that was handed in.
    Items,
    /// The slot lives elsewhere, for good.
    Moved {
        /// The slot.
        slot: u16,
        /// `host:port` of its node. The host may be empty: the one that answered.
        node: &'a str,
    },
    /// Ask that node this once, after `ASKING`.
    Ask {
        /// `host:port` of the node.
        node: &'a str,
    },
    /// An error, in the server's words.
    Error(&'a [u8]),
}

/// How far decoding came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A whole reply of so many bytes.
    Whole(Reply<'a>, usize),
    /// As `Whole`, and the server closes the connection behind it: what was asked since stays unanswered.
    Last(Reply<'a>, usize),
    /// Not whole: no sense in trying again before the input has so many bytes.
    Partial(usize),
    /// Not a reply of this protocol. What is wrong with it, for people.
    Garbage(&'static str),
}

/// Encodes requests and decodes replies; one for each worker.
#[derive(Clone, Debug)]
pub struct Wire {
    protocol: Protocol,
    /// What a new connection says first; empty if nothing.
    greeting: Vec<u8>,
    /// HTTP: what follows the path in every request, up to the headers of its own.
    head: Vec<u8>,
}

impl Wire {
    /// A wire to the server at `authority`, which is `host:port` as HTTP is to name it.
    pub fn new(protocol: Protocol, authority: &str, credentials: Option<&Credentials>) -> Self {
        let mut wire = Self { protocol, greeting: Vec::new(), head: Vec::new() };
        match protocol {
            Protocol::Resp2 => resp::greeting(false, credentials, &mut wire.greeting),
            Protocol::Resp3 => resp::greeting(true, credentials, &mut wire.greeting),
            Protocol::MemcacheText | Protocol::MemcacheMeta => memcache::greeting(credentials, &mut wire.greeting),
            Protocol::Http => http::head(authority, credentials, &mut wire.head),
        }
        wire
    }

    /// The protocol that it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Appends what a new connection says first. Answers how many replies, each
    /// [`Expected::Greeting`], are due for it.
    pub fn greet(&self, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(&self.greeting);
        usize::from(!self.greeting.is_empty())
    }

    /// Appends `ASKING`, which goes ahead of a request after [`Reply::Ask`]; an
    /// [`Expected::Greeting`] is due for it.
    ///
    /// # Panics
    /// The protocol is not RESP: no other one answers [`Reply::Ask`].
    pub fn asking(&self, out: &mut Vec<u8>) {
        assert!(matches!(self.protocol, Protocol::Resp2 | Protocol::Resp3), "only RESP asks other nodes");
        resp::asking(out);
    }

    /// Appends a read of `key`.
    #[inline]
    pub fn get(&self, key: &[u8], out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 => resp::get(key, out),
            Protocol::MemcacheText => memcache::text_get(key, out),
            Protocol::MemcacheMeta => memcache::meta_get(key, out),
            Protocol::Http => http::get(key, &self.head, out),
        }
    }

    /// Appends a write of `key`. A `ttl` between two steps of the protocol is rounded up:
    /// to milliseconds, for memcached to seconds. `unix_now` is in seconds; memcached
    /// wants the moment instead of the time that is left when that is over 30 days.
    #[inline]
    pub fn set(&self, key: &[u8], value: Value<'_>, ttl: Option<Duration>, unix_now: u64, out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 => resp::set(key, value, ttl, out),
            Protocol::MemcacheText => memcache::text_set(key, value, ttl, unix_now, out),
            Protocol::MemcacheMeta => memcache::meta_set(key, value, ttl, unix_now, out),
            Protocol::Http => http::set(key, value, ttl, &self.head, out),
        }
    }

    /// Appends a removal of `key`.
    #[inline]
    pub fn delete(&self, key: &[u8], out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 => resp::delete(key, out),
            Protocol::MemcacheText => memcache::text_delete(key, out),
            Protocol::MemcacheMeta => memcache::meta_delete(key, out),
            Protocol::Http => http::delete(key, &self.head, out),
        }
    }

    /// Begins a read of `keys` keys, at least one. Each follows by [`Wire::mget_key`], then [`Wire::mget_end`].
    ///
    /// # Panics
    /// The protocol has no such read: see [`Protocol::has_mget`].
    #[inline]
    pub fn mget_begin(&self, keys: usize, out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 => resp::mget(keys, out),
            Protocol::MemcacheText => out.extend_from_slice(b"get"),
            Protocol::MemcacheMeta => {}
            Protocol::Http => panic!("HTTP has no read of several keys"),
        }
    }

    /// Appends the next key of a read of several.
    #[inline]
    pub fn mget_key(&self, key: &[u8], out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 => resp::bulk(key, out),
            Protocol::MemcacheText => memcache::text_key(key, out),
            Protocol::MemcacheMeta => memcache::meta_get(key, out),
            Protocol::Http => {}
        }
    }

    /// Ends a read of several keys.
    #[inline]
    pub fn mget_end(&self, out: &mut Vec<u8>) {
        if self.protocol == Protocol::MemcacheText {
            out.extend_from_slice(CRLF);
        }
    }

    /// The value and the length of the reply that `input` begins with, if it is what most replies to a read are: a short value, all
    /// of it there. What else it is [`Wire::decode`] tells.
    #[inline]
    pub fn short_value<'a>(&self, input: &'a [u8]) -> Option<(&'a [u8], usize)> {
        match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 => resp::short_value(input),
            Protocol::MemcacheText | Protocol::MemcacheMeta | Protocol::Http => None,
        }
    }

    /// Decodes the reply that `input` begins with. `items` is emptied first; after
    /// [`Reply::Items`] it holds the items, whose ranges are positions in `input`.
    #[inline]
    pub fn decode<'a>(&self, expected: Expected, input: &'a [u8], items: &mut Vec<Item>) -> Progress<'a> {
        items.clear();
        let decoded = match self.protocol {
            Protocol::Resp2 | Protocol::Resp3 => resp::decode(expected, input, items),
            Protocol::MemcacheText => memcache::text_decode(expected, input, items),
            Protocol::MemcacheMeta => memcache::meta_decode(expected, input, items),
            Protocol::Http => return http::decode(expected, input),
        };
        match decoded {
            Ok((reply, used)) => Progress::Whole(reply, used),
            Err(stop) => stop.into(),
        }
    }
}

/// The end of a line in every protocol.
const CRLF: &[u8] = b"\r\n";
/// A line or an HTTP head that has not ended after so many bytes is garbage.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The longest value, as in redis-server.
const VALUE_BYTES_MAX: usize = 512 << 20;

/// Why there is no whole reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Partial(usize),
    Garbage(&'static str),
}

impl From<Stop> for Progress<'_> {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Partial(needed) => Progress::Partial(needed),
            Stop::Garbage(what) => Progress::Garbage(what),
        }
    }
}

/// A reply and how many bytes of the input are read when it ends.
type Decoded<'a> = Result<(Reply<'a>, usize), Stop>;

/// The line at `at` without its end, and where the next one begins.
fn line(input: &[u8], at: usize) -> Result<(&[u8], usize), Stop> {
    let rest = &input[at..];
    let Some(end) = rest[..rest.len().min(LINE_BYTES_MAX)].iter().position(|&b| b == b'\n') else {
        return Err(match rest.len() {
            LINE_BYTES_MAX.. => Stop::Garbage("a line is longer than 64 KiB"),
            _ => Stop::Partial(input.len() + 1),
        });
    };
    let line = rest[..end].strip_suffix(b"\r").ok_or(Stop::Garbage("a line ends in LF without CR"))?;
    Ok((line, at + end + 1))
}

/// The `len` bytes at `start`, which CR LF must follow, and where that ends. `more` is
/// the least that a whole reply has behind it.
#[inline]
fn data(input: &[u8], start: usize, len: usize, more: usize) -> Result<(&[u8], usize), Stop> {
    let end = start + len;
    if input.len() < end + CRLF.len() + more {
        return Err(Stop::Partial(end + CRLF.len() + more));
    }
    if input[end..end + CRLF.len()] != *CRLF {
        return Err(Stop::Garbage("no CR LF stands where the value ends"));
    }
    Ok((&input[start..end], end + CRLF.len()))
}

/// The length of a value, in decimal.
fn value_length(digits: &[u8]) -> Result<usize, Stop> {
    let refused = Stop::Garbage("the length of a value is not a number up to 512 MiB");
    if digits.is_empty() {
        return Err(refused);
    }
    digits.iter().try_fold(0, |n, digit| match digit {
        b'0'..=b'9' => Some(n * 10 + usize::from(digit - b'0')).filter(|n| *n <= VALUE_BYTES_MAX).ok_or(refused),
        _ => Err(refused),
    })
}

/// `n` in decimal, at the end of `buffer`.
#[inline]
fn digits(mut n: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &buffer[at..];
        }
    }
}

/// Appends `n` in decimal.
#[inline]
fn push_decimal(n: u64, out: &mut Vec<u8>) {
    // One or two digits are what nearly every length has.
    match n {
        0..10 => out.push(b'0' + n as u8),
        10..100 => out.extend_from_slice(&[b'0' + (n / 10) as u8, b'0' + (n % 10) as u8]),
        _ => out.extend_from_slice(digits(n, &mut [0; 20])),
    }
}

/// A time to live in whole milliseconds, rounded up, at least 1.
fn milliseconds(ttl: Duration) -> u64 {
    let part = u64::from(ttl.subsec_nanos().div_ceil(1_000_000));
    ttl.as_secs().saturating_mul(1000).saturating_add(part).max(1)
}
