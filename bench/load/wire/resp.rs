//! RESP2 and RESP3, the protocol of Redis: arrays of bulk strings out, one value back.
//!
//! The values that answer reads, writes and removals are the same in both versions.
//! What RESP3 may send besides (maps, attributes, pushes) is passed over without
//! recursion, so no nesting is too deep.

use std::time::Duration;

use ringfence::base::SLOT_COUNT;

use super::{
    CRLF, Credentials, Decoded, Expected, Item, Reply, Stop, VALUE_BYTES_MAX, Value, data, digits, line, milliseconds,
    push_decimal,
};

/// The shortest value, `_` and its line end.
const VALUE_BYTES_MIN: usize = 3;
/// Digits of the largest length.
const LENGTH_DIGITS_MAX: usize = 9;

const BAD_LENGTH: Stop = Stop::Garbage("the length of a bulk or an aggregate is neither -1 nor a number up to 512 MiB");
const BAD_MARKER: Stop = Stop::Garbage("no RESP value begins with this byte");
const NO_READ: Stop = Stop::Garbage("only a bulk string or a null answers a read");
const NO_WRITE: Stop = Stop::Garbage("only OK answers a write");
const NO_REMOVAL: Stop = Stop::Garbage("only the number of keys removed answers a removal");
const NO_ARRAY: Stop =
    Stop::Garbage("only an array of as many bulk strings and nulls as keys answers a read of several");

/// Appends what a new connection says first, if anything.
pub(super) fn greeting(resp3: bool, credentials: Option<&Credentials>, out: &mut Vec<u8>) {
    match credentials {
        None if resp3 => command(&["HELLO", "3"], out),
        None => {}
        Some(who) if resp3 => command(&["HELLO", "3", "AUTH", who.user(), &who.password], out),
        Some(Credentials { user: Some(user), password }) => command(&["AUTH", user, password], out),
        Some(Credentials { user: None, password }) => command(&["AUTH", password], out),
    }
}

fn command(words: &[&str], out: &mut Vec<u8>) {
    array(words.len(), out);
    words.iter().for_each(|word| bulk(word.as_bytes(), out));
}

/// Appends `ASKING`.
pub(super) fn asking(out: &mut Vec<u8>) {
    out.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
}

/// Appends `GET key`.
#[inline]
pub(super) fn get(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
    bulk(key, out);
}

/// Appends `SET key value`, with `PX` if there is a time to live.
#[inline]
pub(super) fn set(key: &[u8], value: Value<'_>, ttl: Option<Duration>, out: &mut Vec<u8>) {
    out.extend_from_slice(if ttl.is_some() { b"*5\r\n$3\r\nSET\r\n" } else { b"*3\r\n$3\r\nSET\r\n" });
    bulk(key, out);
    head(b'$', value.len(), out);
    value.append(out);
    out.extend_from_slice(CRLF);
    if let Some(ttl) = ttl {
        out.extend_from_slice(b"$2\r\nPX\r\n");
        bulk(digits(milliseconds(ttl), &mut [0; 20]), out);
    }
}

/// Appends `DEL key`.
#[inline]
pub(super) fn delete(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"*2\r\n$3\r\nDEL\r\n");
    bulk(key, out);
}

/// Appends `MGET` up to its first key.
#[inline]
pub(super) fn mget(keys: usize, out: &mut Vec<u8>) {
    array(keys + 1, out);
    out.extend_from_slice(b"$4\r\nMGET\r\n");
}

#[inline]
fn array(len: usize, out: &mut Vec<u8>) {
    head(b'*', len, out);
}

/// Appends one argument.
#[inline]
pub(super) fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    head(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(CRLF);
}

#[inline]
fn head(marker: u8, len: usize, out: &mut Vec<u8>) {
    out.push(marker);
    push_decimal(len as u64, out);
    out.extend_from_slice(CRLF);
}

/// The value that `input` begins with, of less than 1,000 bytes and whole, and how long its reply is. Inlined, the answer
/// stays in registers, where one of more cases is written to memory and read again.
#[inline]
pub(super) fn short_value(input: &[u8]) -> Option<(&[u8], usize)> {
    let digit = |byte: u8| usize::from(byte - b'0');
    let (length, head) = match *input {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', ..] => (digit(a), 4),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => (digit(a) * 10 + digit(b), 5),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            (digit(a) * 100 + digit(b) * 10 + digit(c), 6)
        }
        _ => return None,
    };
    let (value, end) = input[head..].split_at_checked(length)?;
    end.starts_with(CRLF).then_some((value, head + length + CRLF.len()))
}

/// Decodes the reply that `input` begins with.
pub(super) fn decode<'a>(expected: Expected, input: &'a [u8], items: &mut Vec<Item>) -> Decoded<'a> {
    let mut at = 0;
    loop {
        let Some(&marker) = input.get(at) else { return Err(Stop::Partial(at + VALUE_BYTES_MIN)) };
        return match (marker, expected) {
            // Attributes and pushes may stand ahead of any reply and answer nothing.
            (b'|' | b'>', _) => {
                at = skip(input, at)?;
                continue;
            }
            (b'-' | b'!', _) => failure(input, at).map(|(words, end)| (refusal(words), end)),
            (b'$', Expected::Get) => bulk_reply(input, at),
            (b'_' | b'*', Expected::Get) => Ok((Reply::Miss, null(input, at)?)),
            (b'+', Expected::Set) => match line(input, at)? {
                (b"+OK", end) => Ok((Reply::Done, end)),
                _ => Err(NO_WRITE),
            },
            (b':', Expected::Delete) => removal(input, at),
            (b'*', Expected::Mget(keys)) => array_reply(keys, input, at, items),
            (_, Expected::Greeting) => Ok((Reply::Done, skip(input, at)?)),
            (_, Expected::Get) => Err(unfit(marker, NO_READ)),
            (_, Expected::Set) => Err(unfit(marker, NO_WRITE)),
            (_, Expected::Delete) => Err(unfit(marker, NO_REMOVAL)),
            (_, Expected::Mget(_)) => Err(unfit(marker, NO_ARRAY)),
        };
    }
}

/// Why a value that begins with `marker` does not answer a request.
fn unfit(marker: u8, why: Stop) -> Stop {
    if b"$+:*_#,(=~%".contains(&marker) { why } else { BAD_MARKER }
}

#[inline]
fn bulk_reply(input: &[u8], at: usize) -> Decoded<'_> {
    match length(input, at + 1)? {
        (Some(len), start) => data(input, start, len, 0).map(|(value, end)| (Reply::Hit(value), end)),
        (None, end) => Ok((Reply::Miss, end)),
    }
}

/// Where the null at `at` ends: `_`, or an aggregate of length -1.
fn null(input: &[u8], at: usize) -> Result<usize, Stop> {
    match line(input, at)? {
        (b"_" | b"*-1", end) => Ok(end),
        _ => Err(NO_READ),
    }
}

fn removal(input: &[u8], at: usize) -> Decoded<'_> {
    let (text, end) = line(input, at)?;
    let number = str::from_utf8(&text[1..]).ok().and_then(|digits| digits.parse::<u64>().ok());
    match number.ok_or(NO_REMOVAL)? {
        0 => Ok((Reply::Miss, end)),
        _ => Ok((Reply::Done, end)),
    }
}

/// The array that answers `MGET`. Proxies put errors in the place of values that they
/// could not get; the first of them then answers for the whole.
fn array_reply<'a>(keys: usize, input: &'a [u8], at: usize, items: &mut Vec<Item>) -> Decoded<'a> {
    let (count, mut at) = length(input, at + 1)?;
    if count != Some(keys) {
        return Err(NO_ARRAY);
    }
    let mut error = None;
    for left in (0..keys).rev() {
        let more = left * VALUE_BYTES_MIN;
        let Some(&marker) = input.get(at) else { return Err(Stop::Partial(at + VALUE_BYTES_MIN + more)) };
        let value = match marker {
            b'$' => match length(input, at + 1)? {
                (Some(len), start) => {
                    at = data(input, start, len, more)?.1;
                    Some(start..start + len)
                }
                (None, end) => {
                    at = end;
                    None
                }
            },
            b'_' | b'*' => {
                at = null(input, at)?;
                None
            }
            b'-' | b'!' => {
                let (words, end) = failure(input, at)?;
                at = end;
                error.get_or_insert(words);
                None
            }
            _ => return Err(unfit(marker, NO_ARRAY)),
        };
        items.push(Item { key: None, value });
    }
    Ok((error.map_or(Reply::Items, refusal), at))
}

/// The words of the error at `at`, simple or blob, and where it ends.
fn failure(input: &[u8], at: usize) -> Result<(&[u8], usize), Stop> {
    if input[at] == b'-' {
        return line(input, at).map(|(text, end)| (&text[1..], end));
    }
    let (len, start) = length(input, at + 1)?;
    data(input, start, len.ok_or(BAD_LENGTH)?, 0)
}

/// What an error of these words means.
fn refusal(words: &[u8]) -> Reply<'_> {
    redirection(words).unwrap_or(Reply::Error(words))
}

/// `MOVED slot host:port` or `ASK slot host:port`.
fn redirection(words: &[u8]) -> Option<Reply<'_>> {
    let (kind, place) = str::from_utf8(words).ok()?.split_once(' ')?;
    let (slot, node) = place.split_once(' ').filter(|(_, node)| node.contains(':'))?;
    let slot = slot.parse().ok().filter(|slot| usize::from(*slot) < SLOT_COUNT)?;
    match kind {
        "MOVED" => Some(Reply::Moved { slot, node }),
        "ASK" => Some(Reply::Ask { node }),
        _ => None,
    }
}

/// Where the value at `start`, of any type and with all that it holds, ends.
fn skip(input: &[u8], start: usize) -> Result<usize, Stop> {
    let mut at = start;
    // Values still to pass over, however deep they are. Each head adds 2^30 at most and is
    // some bytes of the input, so this cannot overflow.
    let mut left = 1;
    while left > 0 {
        let Some(&marker) = input.get(at) else { return Err(Stop::Partial(at + left * VALUE_BYTES_MIN)) };
        left -= 1;
        let each = match marker {
            b'*' | b'~' | b'>' => 1,
            b'%' => 2,
            b'|' => {
                // Within an aggregate an attribute is no element; the one that it belongs to follows.
                left += usize::from(at > start);
                2
            }
            b'$' | b'=' | b'!' => {
                at = match length(input, at + 1)? {
                    (Some(len), start) => data(input, start, len, left * VALUE_BYTES_MIN)?.1,
                    (None, end) => end,
                };
                continue;
            }
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {
                at = line(input, at)?.1;
                continue;
            }
            _ => return Err(BAD_MARKER),
        };
        let (count, end) = length(input, at + 1)?;
        at = end;
        left += count.unwrap_or(0) * each;
    }
    Ok(at)
}

/// Reads `length CR LF` at `at`: the length, `None` for -1, and where the line ends.
#[inline]
fn length(input: &[u8], at: usize) -> Result<(Option<usize>, usize), Stop> {
    // One or two digits are what nearly every length has.
    match input[at..] {
        [n @ b'0'..=b'9', b'\r', b'\n', ..] => Ok((Some(usize::from(n - b'0')), at + 3)),
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Ok((Some(usize::from(tens - b'0') * 10 + usize::from(ones - b'0')), at + 4))
        }
        _ => any_length(input, at),
    }
}

/// As [`length`]; not inlined, so that `length` can be.
#[inline(never)]
fn any_length(input: &[u8], at: usize) -> Result<(Option<usize>, usize), Stop> {
    let (mut len, mut end) = (0, at);
    loop {
        match input.get(end) {
            Some(digit @ b'0'..=b'9') if end - at < LENGTH_DIGITS_MAX => len = len * 10 + usize::from(digit - b'0'),
            Some(b'\r') if end > at && len <= VALUE_BYTES_MAX => break,
            Some(b'-') if end == at => return minus_one(input, at),
            Some(_) => return Err(BAD_LENGTH),
            None => return Err(Stop::Partial(input.len() + 1)),
        }
        end += 1;
    }
    match input.get(end + 1) {
        Some(b'\n') => Ok((Some(len), end + CRLF.len())),
        Some(_) => Err(BAD_LENGTH),
        None => Err(Stop::Partial(input.len() + 1)),
    }
}

fn minus_one(input: &[u8], at: usize) -> Result<(Option<usize>, usize), Stop> {
    const TEXT: &[u8] = b"-1\r\n";
    let text = &input[at..input.len().min(at + TEXT.len())];
    match text {
        TEXT => Ok((None, at + TEXT.len())),
        _ if TEXT.starts_with(text) => Err(Stop::Partial(at + TEXT.len())),
        _ => Err(BAD_LENGTH),
    }
}

#[cfg(test)]
mod tests;
