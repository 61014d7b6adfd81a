//! HTTP.

use crate::base::UnixMillis;
use crate::command::{Outcome, ReplySink, Value};

/// How the reply to one request is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Form {}

/// Writes the reply to one request.
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    form: &'a Form,
    key: &'a [u8],
    now: UnixMillis,
}

impl<'a> Encoder<'a> {
    /// Appends the reply to a request for `key` to `out`.
    pub fn new(out: &'a mut Vec<u8>, form: &'a Form, key: &'a [u8], now: UnixMillis) -> Self {
        Self { out, form, key, now }
    }
}

impl ReplySink for Encoder<'_> {
    fn value(&mut self, _: &Value<'_>) {}
    fn null(&mut self) {}
    fn outcome(&mut self, _: Outcome) {}
    fn error(&mut self, _: impl AsRef<[u8]>) {}
    fn status(&mut self, _: &str) {}
    fn integer(&mut self, _: i64) {}
    fn bulk(&mut self, _: &[u8]) {}
    fn array(&mut self, _: usize) {}
    fn map(&mut self, _: usize) {}
}

/// Refuses what a client sends, before its connection is closed.
pub fn refuse(text: &str, out: &mut Vec<u8>) {
    let _ = (text, out);
}
