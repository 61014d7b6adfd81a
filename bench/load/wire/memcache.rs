//! The text and the meta protocol of memcached: command lines and blocks of data
//! behind them, both ways.
//!
//! Blocks are taken by their length and may hold anything; all else is lines.

use std::{ops::Range, time::Duration};

use super::{CRLF, Credentials, Decoded, Expected, Item, Reply, Stop, Value, data, line, push_decimal, value_length};

/// The longest key.
const KEY_BYTES_MAX: usize = 250;
/// A time to live above this many seconds is taken for a moment in Unix time.
const RELATIVE_SECONDS_MAX: u64 = 30 * 24 * 60 * 60;
/// The end of every reply of the text protocol to a read.
const END_BYTES: usize = b"END\r\n".len();
/// The shortest reply of the meta protocol to a read.
const MISS_BYTES: usize = b"EN\r\n".len();

const NO_READ: Stop = Stop::Garbage("neither a value, its end nor an error stands where a read is answered");
const NO_WRITE: Stop = Stop::Garbage("neither a status nor an error answers a write");
const NO_REMOVAL: Stop = Stop::Garbage("neither a status nor an error answers a removal");
const NO_GREETING: Stop = Stop::Garbage("neither a status nor an error answers the credentials");
const TOO_MANY: Stop = Stop::Garbage("there are more values than keys");

/// Whether `key` can stand in a command line.
pub(super) fn takes_key(key: &[u8]) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(|b| *b > b' ' && *b != 0x7f)
}

/// Appends the credentials, which memcached takes as the value of the first write.
pub(super) fn greeting(credentials: Option<&Credentials>, out: &mut Vec<u8>) {
    if let Some(who) = credentials {
        let (user, password) = (who.user(), &who.password);
        let len = user.len() + " ".len() + password.len();
        out.extend_from_slice(format!("set auth 0 0 {len}\r\n{user} {password}\r\n").as_bytes());
    }
}

/// Appends `get key`.
#[inline]
pub(super) fn text_get(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"get");
    text_key(key, out);
    out.extend_from_slice(CRLF);
}

/// Appends one key of a `get`.
#[inline]
pub(super) fn text_key(key: &[u8], out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(key);
}

/// Appends `set key flags exptime bytes` and the value.
#[inline]
pub(super) fn text_set(key: &[u8], value: Value<'_>, ttl: Option<Duration>, unix_now: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"set ");
    out.extend_from_slice(key);
    out.extend_from_slice(b" 0 ");
    push_decimal(ttl.map_or(0, |ttl| expiry(ttl, unix_now)), out);
    out.push(b' ');
    push_decimal(value.len() as u64, out);
    block(value, out);
}

/// Appends `delete key`.
#[inline]
pub(super) fn text_delete(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"delete ");
    out.extend_from_slice(key);
    out.extend_from_slice(CRLF);
}

/// Appends `mg key v`.
#[inline]
pub(super) fn meta_get(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"mg ");
    out.extend_from_slice(key);
    out.extend_from_slice(b" v\r\n");
}

/// Appends `ms key bytes`, with `T` if there is a time to live, and the value.
#[inline]
pub(super) fn meta_set(key: &[u8], value: Value<'_>, ttl: Option<Duration>, unix_now: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ms ");
    out.extend_from_slice(key);
    out.push(b' ');
    push_decimal(value.len() as u64, out);
    if let Some(ttl) = ttl {
        out.extend_from_slice(b" T");
        push_decimal(expiry(ttl, unix_now), out);
    }
    block(value, out);
}

/// Appends `md key`.
#[inline]
pub(super) fn meta_delete(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"md ");
    out.extend_from_slice(key);
    out.extend_from_slice(CRLF);
}

#[inline]
fn block(value: Value<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(CRLF);
    value.append(out);
    out.extend_from_slice(CRLF);
}

/// A time to live as memcached reads it: in whole seconds, rounded up, since 0 would be
/// forever; beyond 30 days the moment in Unix time.
fn expiry(ttl: Duration, unix_now: u64) -> u64 {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).max(1);
    if seconds > RELATIVE_SECONDS_MAX { unix_now.saturating_add(seconds) } else { seconds }
}

/// Decodes the reply of the text protocol that `input` begins with.
#[inline(never)]
pub(super) fn text_decode<'a>(expected: Expected, input: &'a [u8], items: &mut Vec<Item>) -> Decoded<'a> {
    match expected {
        Expected::Get => match text_values(1, input, items)? {
            (Reply::Items, end) => Ok((single(items.pop().and_then(|item| item.value), input), end)),
            error => Ok(error),
        },
        Expected::Mget(keys) => text_values(keys, input, items),
        Expected::Set => status(input, text_written, NO_WRITE),
        Expected::Delete => status(input, text_removed, NO_REMOVAL),
        // The credentials are stored as a value of the text protocol would be, in both protocols.
        Expected::Greeting => status(input, text_written, NO_GREETING),
    }
}

/// Decodes the reply of the meta protocol that `input` begins with.
#[inline(never)]
pub(super) fn meta_decode<'a>(expected: Expected, input: &'a [u8], items: &mut Vec<Item>) -> Decoded<'a> {
    match expected {
        Expected::Get => match meta_value(input, 0, 0)? {
            (Ok(value), end) => Ok((single(value, input), end)),
            (Err(words), end) => Ok((Reply::Error(words), end)),
        },
        Expected::Mget(keys) => meta_values(keys, input, items),
        Expected::Set => status(input, meta_written, NO_WRITE),
        Expected::Delete => status(input, meta_removed, NO_REMOVAL),
        // The credentials are stored as a value of the text protocol would be, in both protocols.
        Expected::Greeting => status(input, text_written, NO_GREETING),
    }
}

// What the first word of a line says. A refusal under a condition is no error of the
// protocol, but nothing was done either.

fn text_written(word: &[u8]) -> Option<Reply<'_>> {
    match word {
        b"STORED" => Some(Reply::Done),
        b"NOT_STORED" | b"EXISTS" => Some(Reply::Error(word)),
        _ => None,
    }
}

fn text_removed(word: &[u8]) -> Option<Reply<'_>> {
    match word {
        b"DELETED" => Some(Reply::Done),
        b"NOT_FOUND" => Some(Reply::Miss),
        _ => None,
    }
}

fn meta_written(word: &[u8]) -> Option<Reply<'_>> {
    match word {
        b"HD" => Some(Reply::Done),
        b"NS" | b"EX" | b"NF" => Some(Reply::Error(word)),
        _ => None,
    }
}

fn meta_removed(word: &[u8]) -> Option<Reply<'_>> {
    match word {
        b"HD" => Some(Reply::Done),
        b"NF" => Some(Reply::Miss),
        b"EX" => Some(Reply::Error(word)),
        _ => None,
    }
}

fn single(value: Option<Range<usize>>, input: &[u8]) -> Reply<'_> {
    value.map_or(Reply::Miss, |range| Reply::Hit(&input[range]))
}

/// A reply of one line, whose first word has a meaning unless it is an error.
fn status(input: &[u8], meaning: fn(&[u8]) -> Option<Reply<'_>>, otherwise: Stop) -> Decoded<'_> {
    let (text, end) = line(input, 0)?;
    let word = text.split(|b| *b == b' ').next().unwrap_or(text);
    match meaning(word) {
        Some(reply) => Ok((reply, end)),
        None if is_error(text) => Ok((Reply::Error(text), end)),
        None => Err(otherwise),
    }
}

fn is_error(text: &[u8]) -> bool {
    text == b"ERROR" || text.starts_with(b"CLIENT_ERROR") || text.starts_with(b"SERVER_ERROR")
}

/// `VALUE` lines with their data up to `END`. An error takes the place of what is left.
fn text_values<'a>(keys: usize, input: &'a [u8], items: &mut Vec<Item>) -> Decoded<'a> {
    let mut at = 0;
    loop {
        let (text, next) = line(input, at)?;
        let Some(head) = text.strip_prefix(b"VALUE ") else {
            return match text {
                b"END" => Ok((Reply::Items, next)),
                _ if is_error(text) => Ok((Reply::Error(text), next)),
                _ => Err(NO_READ),
            };
        };
        if items.len() == keys {
            return Err(TOO_MANY);
        }
        // The key, the flags, the length and, if asked for, the version.
        let mut words = head.split(|b| *b == b' ');
        let (Some(key), Some(_flags), Some(len)) = (words.next(), words.next(), words.next()) else {
            return Err(NO_READ);
        };
        let len = value_length(len)?;
        let key_start = at + b"VALUE ".len();
        at = data(input, next, len, END_BYTES)?.1;
        items.push(Item { key: Some(key_start..key_start + key.len()), value: Some(next..next + len) });
    }
}

/// One reply to each of so many reads. The first error among them answers for all.
fn meta_values<'a>(keys: usize, input: &'a [u8], items: &mut Vec<Item>) -> Decoded<'a> {
    let (mut at, mut error) = (0, None);
    for left in (0..keys).rev() {
        let (read, end) = meta_value(input, at, left * MISS_BYTES)?;
        let value = read.unwrap_or_else(|words| {
            error.get_or_insert(words);
            None
        });
        items.push(Item { key: None, value });
        at = end;
    }
    Ok((error.map_or(Reply::Items, Reply::Error), at))
}

/// What a read found, or the error in its place.
type Read<'a> = Result<Option<Range<usize>>, &'a [u8]>;

/// The reply to one read at `at`, and where it ends. `more` is the least that a whole reply has behind it.
fn meta_value(input: &[u8], at: usize, more: usize) -> Result<(Read<'_>, usize), Stop> {
    let (text, next) = line(input, at)?;
    let mut words = text.split(|b| *b == b' ');
    match words.next() {
        Some(b"VA") => {
            let len = value_length(words.next().ok_or(NO_READ)?)?;
            let end = data(input, next, len, more)?.1;
            Ok((Ok(Some(next..next + len)), end))
        }
        Some(b"EN") => Ok((Ok(None), next)),
        _ if is_error(text) => Ok((Err(text), next)),
        _ => Err(NO_READ),
    }
}

#[cfg(test)]
mod tests;
