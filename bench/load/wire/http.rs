//! HTTP/1.1 as a cache speaks it: raw values as bodies, one resource for each key.
//!
//! The length of every body is known before it is taken: by its status, its
//! `Content-Length` or its chunks. A reply without any of them is refused, since
//! only the end of the connection could end it.

use std::{mem::MaybeUninit, time::Duration};

use httparse::{Header, ParserConfig, Response, Status};

use super::{
    Credentials, Expected, LINE_BYTES_MAX, Progress, Reply, Stop, VALUE_BYTES_MAX, Value, data, line, milliseconds,
    push_decimal, value_length,
};

/// Headers of one reply; more are garbage.
const HEADERS_MAX: usize = 64;
/// The shortest end of a body in chunks: the chunk of length 0 and no trailers.
const LAST_CHUNK_BYTES: usize = b"0\r\n\r\n".len();

/// Whether `key` can stand in a path, which servers and proxies clean of empty and dot segments.
pub(super) fn takes_key(key: &[u8]) -> bool {
    !matches!(key, b"" | b"." | b"..")
}

/// Appends what follows the path in every request.
pub(super) fn head(authority: &str, credentials: Option<&Credentials>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!(" HTTP/1.1\r\nHost: {authority}\r\n").as_bytes());
    let authorization = match credentials {
        None => return,
        Some(Credentials { user: Some(user), password }) => {
            format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
        }
        Some(Credentials { user: None, password }) => format!("Bearer {password}"),
    };
    out.extend_from_slice(format!("Authorization: {authorization}\r\n").as_bytes());
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0, |bits, (i, byte)| bits | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Appends `GET /v1/cache/{key}`, for the value as it is.
pub(super) fn get(key: &[u8], head: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"GET ");
    path(key, out);
    out.extend_from_slice(head);
    out.extend_from_slice(b"Accept: application/octet-stream\r\n\r\n");
}

/// Appends `PUT /v1/cache/{key}` and the value. The time to live is in seconds with up to three decimal places.
pub(super) fn set(key: &[u8], value: Value<'_>, ttl: Option<Duration>, head: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"PUT ");
    path(key, out);
    if let Some(ttl) = ttl {
        let ms = milliseconds(ttl);
        out.extend_from_slice(b"?ttlSeconds=");
        push_decimal(ms / 1000, out);
        if !ms.is_multiple_of(1000) {
            let digit = |place: u64| b'0' + (ms / place % 10) as u8;
            out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
        }
    }
    out.extend_from_slice(head);
    out.extend_from_slice(b"Content-Type: application/octet-stream\r\nContent-Length: ");
    push_decimal(value.len() as u64, out);
    out.extend_from_slice(b"\r\n\r\n");
    value.append(out);
}

/// Appends `DELETE /v1/cache/{key}`.
pub(super) fn delete(key: &[u8], head: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"DELETE ");
    path(key, out);
    out.extend_from_slice(head);
    out.extend_from_slice(b"\r\n");
}

/// Appends the path of `key`, in which all but the unreserved characters of RFC 3986 are written as `%XX`.
fn path(key: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(b"/v1/cache/");
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Decodes the reply that `input` begins with.
// Its room for headers must not become part of the other protocols' frames.
#[inline(never)]
pub(super) fn decode(expected: Expected, input: &[u8]) -> Progress<'_> {
    match reply(expected, input) {
        Ok((reply, used, false)) => Progress::Whole(reply, used),
        Ok((reply, used, true)) => Progress::Last(reply, used),
        Err(stop) => stop.into(),
    }
}

/// The reply, how long it is, and whether the server closes the connection behind it.
fn reply(expected: Expected, input: &[u8]) -> Result<(Reply<'_>, usize, bool), Stop> {
    let head = final_head(input)?;
    let is_hit = expected == Expected::Get && head.status == 200;
    let (body, end) = match head.framing {
        Framing::Length(len) if input.len() < head.end + len => return Err(Stop::Partial(head.end + len)),
        Framing::Length(len) => (&input[head.end..head.end + len], head.end + len),
        Framing::Chunked => chunks(input, head.end, is_hit)?,
    };
    let reply = match (expected, head.status) {
        (Expected::Get, 200) => Reply::Hit(body),
        (Expected::Get | Expected::Delete, 404) => Reply::Miss,
        (Expected::Set | Expected::Delete, 200..=299) => Reply::Done,
        (Expected::Get | Expected::Set | Expected::Delete, _) => Reply::Error(head.line),
        (Expected::Greeting | Expected::Mget(_), _) => {
            return Err(Stop::Garbage("HTTP has neither a greeting nor a read of several keys"));
        }
    };
    Ok((reply, end, head.closes))
}

/// What the head of a reply says.
struct Head<'a> {
    status: u16,
    /// The status line without its end.
    line: &'a [u8],
    framing: Framing,
    closes: bool,
    /// Where the body begins.
    end: usize,
}

/// How the length of a body is told.
enum Framing {
    Length(usize),
    Chunked,
}

/// The head of the reply itself: interim ones, such as `100 Continue`, may stand ahead of it.
fn final_head(input: &[u8]) -> Result<Head<'_>, Stop> {
    let mut at = 0;
    loop {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut response = Response::new(&mut []);
        let parsed =
            ParserConfig::default().parse_response_with_uninit_headers(&mut response, &input[at..], &mut headers);
        let end = match parsed {
            Ok(Status::Complete(len)) if len <= LINE_BYTES_MAX => at + len,
            Ok(Status::Partial) if input.len() - at < LINE_BYTES_MAX => return Err(Stop::Partial(input.len() + 1)),
            Ok(_) => return Err(Stop::Garbage("the head of an HTTP reply is longer than 64 KiB")),
            Err(httparse::Error::TooManyHeaders) => return Err(Stop::Garbage("an HTTP reply has over 64 headers")),
            Err(_) => return Err(Stop::Garbage("this is not the head of an HTTP/1.1 reply")),
        };
        match response.code {
            Some(100 | 102..=199) => at = end,
            Some(status @ 200..) => return describe(status, response, &input[at..], end),
            _ => return Err(Stop::Garbage("an HTTP reply has a status that no request asked for")),
        }
    }
}

fn describe<'a>(status: u16, response: Response<'_, 'a>, input: &'a [u8], end: usize) -> Result<Head<'a>, Stop> {
    let (mut length, mut chunked) = (None, false);
    let mut closes = response.version == Some(0);
    for Header { name, value } in response.headers.iter() {
        if name.eq_ignore_ascii_case("content-length") {
            let stated = value_length(value)?;
            if length.replace(stated).is_some_and(|before| before != stated) {
                return Err(Stop::Garbage("an HTTP reply has two lengths"));
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Stop::Garbage("an HTTP reply has a transfer coding other than chunked"));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            let says = |option: &[u8]| value.split(|b| *b == b',').any(|o| o.trim_ascii().eq_ignore_ascii_case(option));
            closes = says(b"close") || closes && !says(b"keep-alive");
        }
    }
    let framing = match length {
        _ if matches!(status, 204 | 304) => Framing::Length(0),
        _ if chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => return Err(Stop::Garbage("an HTTP reply tells its length neither by Content-Length nor by chunks")),
    };
    Ok(Head { status, line: status_line(input), framing, closes, end })
}

/// The first line. Line ends may stand ahead of it, and it may end in LF alone.
fn status_line(input: &[u8]) -> &[u8] {
    let is_end = |b: &u8| matches!(b, b'\r' | b'\n');
    let start = input.iter().position(|b| !is_end(b)).unwrap_or(0);
    input[start..].split(is_end).next().unwrap_or(b"")
}

/// The body in chunks that starts at `at`, and where it ends. Of several chunks only the
/// first is answered, which `contiguous` refuses.
fn chunks(input: &[u8], mut at: usize, contiguous: bool) -> Result<(&[u8], usize), Stop> {
    let mut body: Option<&[u8]> = None;
    loop {
        let (text, start) = line(input, at)?;
        let len = chunk_length(text)?;
        if len == 0 {
            at = start;
            break;
        }
        if contiguous && body.is_some() {
            return Err(Stop::Garbage("a value comes in several chunks: have the server send it with Content-Length"));
        }
        let (chunk, end) = data(input, start, len, LAST_CHUNK_BYTES)?;
        body.get_or_insert(chunk);
        at = end;
    }
    // Trailers, up to an empty line.
    loop {
        let (text, next) = line(input, at)?;
        at = next;
        if text.is_empty() {
            return Ok((body.unwrap_or(b""), at));
        }
    }
}

/// The length at the start of a chunk's head, in hexadecimal.
fn chunk_length(text: &[u8]) -> Result<usize, Stop> {
    let digits = text.split(|b| *b == b';').next().unwrap_or(text).trim_ascii();
    let number = str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
    number
        .filter(|len| *len <= VALUE_BYTES_MAX && digits[0] != b'+')
        .ok_or(Stop::Garbage("the length of a chunk is not a hexadecimal number up to 512 MiB"))
}

#[cfg(test)]
mod tests;
