//! JSON bodies: what is read from requests, and the parts of responses. Bytes that are not UTF-8 travel as base64.

use std::fmt;
use std::io::Write;

use base64::Engine;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::status::{Refusal, Status};
use crate::command::Expiry;

/// Keys of one request at most: its body is parsed in one go.
pub const BATCH_KEYS_MAX: usize = 1000;
/// Values, lists and objects of one body at most, those of the largest batch included: each takes more memory than the
/// byte or two that it may be written with.
const PARTS_MAX: usize = 16 * BATCH_KEYS_MAX;
/// The longest time to live: some 3,000 years.
pub const TTL_SECONDS_MAX: f64 = 1e11;
/// The policies that there are.
const POLICIES: &str = "\"cache-aside\", \"stale-while-revalidate\"";

/// A value to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Under which key; empty where the path says it.
    pub key: Vec<u8>,
    /// The bytes.
    pub value: Vec<u8>,
    /// For how long.
    pub expiry: Expiry,
    /// After how many milliseconds it is stale; 0: never.
    pub soft_ms: u64,
}

/// The body of a `PUT`.
pub(super) fn read_entry(body: &[u8]) -> Result<Entry, Refusal> {
    let Value::Object(fields) = parse(body)? else {
        return Err(Refusal::bad("the body is not an object: send {\"value\": \"…\"}"));
    };
    entry(fields, "", false)
}

/// The keys of a `batchGet`.
pub(super) fn read_keys(body: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
    list(body, "keys")?.into_iter().enumerate().map(|(i, item)| key(item, &format!("keys[{i}]"))).collect()
}

/// The entries of a `batchSet`.
pub(super) fn read_entries(body: &[u8]) -> Result<Vec<Entry>, Refusal> {
    let read = |(i, item)| match item {
        Value::Object(fields) => entry(fields, &format!("entries[{i}]."), true),
        _ => Err(Refusal::bad(format!("entries[{i}] is not an object"))),
    };
    list(body, "entries")?.into_iter().enumerate().map(read).collect()
}

fn parse(body: &[u8]) -> Result<Value, Refusal> {
    if parts(body) > PARTS_MAX {
        return Err(Refusal::bad(format!("the body has more than {PARTS_MAX} values: send fewer at a time")));
    }
    // The text of the error ends with line and column.
    serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("the body is not JSON: {error}")))
}

/// About how many values there are in a body that may be JSON.
fn parts(body: &[u8]) -> usize {
    let (mut in_text, mut escaped, mut count) = (false, false, 0);
    for &byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

/// The one list that a batch consists of.
fn list(body: &[u8], name: &str) -> Result<Vec<Value>, Refusal> {
    let wanted = || Refusal::bad(format!("the body is not an object with one list, \"{name}\""));
    let Value::Object(mut fields) = parse(body)? else { return Err(wanted()) };
    let Some(Value::Array(items)) = fields.remove(name) else { return Err(wanted()) };
    none_left(&fields, "")?;
    if items.len() > BATCH_KEYS_MAX {
        let message = format!("\"{name}\" has {} items: send at most {BATCH_KEYS_MAX} at a time", items.len());
        return Err(Refusal::bad(message));
    }
    Ok(items)
}

/// A key by itself, or an object where it is in base64.
fn key(item: Value, at: &str) -> Result<Vec<u8>, Refusal> {
    match item {
        Value::String(text) => Ok(text.into_bytes()),
        Value::Object(mut fields) => {
            let key = bytes(&mut fields, "key", "keyEncoding", &format!("{at}."))?;
            none_left(&fields, &format!("{at}."))?;
            Ok(key)
        }
        _ => Err(Refusal::bad(format!("{at} is not a string"))),
    }
}

fn entry(mut fields: Map<String, Value>, at: &str, has_key: bool) -> Result<Entry, Refusal> {
    let key = if has_key { bytes(&mut fields, "key", "keyEncoding", at)? } else { Vec::new() };
    let value = bytes(&mut fields, "value", "encoding", at)?;
    let ttl = seconds(&mut fields, "ttlSeconds", at)?;
    let stale = seconds(&mut fields, "staleSeconds", at)?;
    match fields.remove("policy") {
        None if stale.is_none() => {}
        Some(Value::String(policy)) if policy == "cache-aside" && stale.is_none() => {}
        Some(Value::String(policy)) if policy == "stale-while-revalidate" && (stale.is_none() || ttl.is_none()) => {
            let message = "policy stale-while-revalidate needs ttlSeconds, and staleSeconds for the time after them";
            return Err(Refusal::bad(format!("{at}{message}")));
        }
        Some(Value::String(policy)) if policy == "stale-while-revalidate" => {}
        None | Some(Value::String(_)) if stale.is_some() => {
            return Err(Refusal::bad(format!("{at}staleSeconds goes with \"policy\":\"stale-while-revalidate\"")));
        }
        Some(_) => return Err(Refusal::bad(format!("{at}policy is none of those supported: {POLICIES}"))),
        None => {}
    }
    let (expiry, soft_ms) = times(ttl, stale, at)?;
    none_left(&fields, at)?;
    Ok(Entry { key, value, expiry, soft_ms })
}

/// A number of seconds, or none.
fn seconds(fields: &mut Map<String, Value>, name: &str, at: &str) -> Result<Option<f64>, Refusal> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number.as_f64().unwrap_or(f64::NAN))),
        Some(_) => Err(Refusal::bad(format!("{at}{name} is not a number"))),
    }
}

/// The bytes of a string that may be in base64.
fn bytes(fields: &mut Map<String, Value>, name: &str, encoding: &str, at: &str) -> Result<Vec<u8>, Refusal> {
    let Some(Value::String(text)) = fields.remove(name) else {
        return Err(Refusal::bad(format!("{at}{name} is not a string")));
    };
    match fields.remove(encoding) {
        None => Ok(text.into_bytes()),
        Some(Value::String(how)) if how == "base64" => {
            let decoded = STANDARD.decode(&text);
            decoded.map_err(|error| Refusal::bad(format!("{at}{name} is not base64 with padding: {error}")))
        }
        Some(_) => Err(Refusal::bad(format!("{at}{encoding} can only be \"base64\""))),
    }
}

/// A misspelt field is not passed over: a value would live for ever for want of an `l`.
fn none_left(fields: &Map<String, Value>, at: &str) -> Result<(), Refusal> {
    match fields.keys().next() {
        None => Ok(()),
        Some(name) => Err(Refusal::bad(format!("{at}{name} is not a field of this request"))),
    }
}

/// How long a value lives that is fresh for `ttl` seconds and stale for `stale` more, and after how many
/// milliseconds it is stale: 0 if it never is.
pub(super) fn times(ttl: Option<f64>, stale: Option<f64>, at: &str) -> Result<(Expiry, u64), Refusal> {
    let millis = |seconds: f64, name: &str, otherwise: &str| {
        if seconds > 0.0 && seconds <= TTL_SECONDS_MAX {
            return Ok((seconds * 1000.0).ceil() as u64);
        }
        Err(Refusal::bad(format!("{at}{name} is not above 0 and at most {TTL_SECONDS_MAX}{otherwise}")))
    };
    let ttl = ttl.map(|seconds| millis(seconds, "ttlSeconds", ": leave it out for no deadline")).transpose()?;
    let stale = stale.map(|seconds| millis(seconds, "staleSeconds", "")).transpose()?;
    match (ttl, stale) {
        (None, None) => Ok((Expiry::Never, 0)),
        (Some(ttl), None) => Ok((Expiry::In(ttl as i64), 0)),
        (Some(ttl), Some(stale)) => Ok((Expiry::In((ttl + stale) as i64), ttl)),
        (None, Some(_)) => Err(Refusal::bad(format!("{at}staleSeconds needs ttlSeconds: how long the value is fresh"))),
    }
}

/// Milliseconds, written as seconds.
pub(super) struct Seconds(pub(super) u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0 / 1000, self.0 % 1000);
        write!(f, "{seconds}")?;
        if millis == 0 { Ok(()) } else { f.write_str(format!(".{millis:03}").trim_end_matches('0')) }
    }
}

/// A string, quoted.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    // Strings can always be written, and writing to a vector does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// A field with some bytes, and one that says how they are written if they are not text.
pub(super) fn write_bytes(name: &str, encoding: &str, bytes: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, "\"{name}\":");
    match std::str::from_utf8(bytes) {
        Ok(text) => write_text(text, out),
        Err(_) => {
            let _ = write!(out, "\"{}\",\"{encoding}\":\"base64\"", Base64Display::new(bytes, &STANDARD));
        }
    }
}

/// A key as fields of an object: `key`, and `keyEncoding` if it is not text.
pub fn key_fields(key: &[u8]) -> Value {
    match std::str::from_utf8(key) {
        Ok(text) => json!({ "key": text }),
        Err(_) => json!({ "key": STANDARD.encode(key), "keyEncoding": "base64" }),
    }
}

/// The field `error`.
pub(super) fn write_error(status: Status, message: &str, out: &mut Vec<u8>) {
    let _ = write!(out, "\"error\":{{\"code\":\"{}\",\"message\":", status.code());
    write_text(message, out);
    out.push(b'}');
}
