//! Writes replies of the text and meta protocols.

use super::{Form, Style, base64};
use crate::base::UnixMillis;
use crate::command::{Lease, Leased, OpError, Outcome, ReplySink, Value};
use crate::protocol::resp::write_decimal;

/// Writes the reply to one request.
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    form: &'a Form,
    key: &'a [u8],
    now: UnixMillis,
}

/// What a meta reply may tell about a key.
#[derive(Clone, Copy, Default)]
struct Told {
    version: Option<u64>,
    flags: Option<u32>,
    was_read: Option<bool>,
    accessed_at: Option<u32>,
    size: Option<u64>,
    /// The deadline, if it is known whether there is one.
    expires_at: Option<Option<u64>>,
    /// Who is to fill, and whether the value is stale: `Z`, `X`, `W`.
    marks: (bool, bool, bool),
}

impl<'a> Encoder<'a> {
    /// Appends the reply to a request for `key` to `out`.
    pub fn new(out: &'a mut Vec<u8>, form: &'a Form, key: &'a [u8], now: UnixMillis) -> Self {
        Self { out, form, key, now }
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    #[inline]
    fn number(&mut self, before: &[u8], n: u64) {
        let mut digits = [0; 20];
        let length = write_decimal(&mut digits, n);
        self.put(before);
        self.put(&digits[..length]);
    }

    /// Seconds until a deadline, begun ones included; -1 without one.
    fn seconds_left(&mut self, before: &[u8], expires_at: Option<u64>) {
        match expires_at {
            Some(when) => self.number(before, when.saturating_sub(self.now.0).div_ceil(1000)),
            None => {
                self.put(before);
                self.put(b"-1");
            }
        }
    }

    /// Whole seconds since a time; 0 if the clock has been set back since.
    fn seconds_since(&mut self, before: &[u8], unix_seconds: u32) {
        self.number(before, (self.now.0 / 1000).saturating_sub(unix_seconds.into()));
    }

    /// The key as the request named it.
    fn named_key(&mut self) {
        if self.form.base64 { base64::encode(self.key, self.out) } else { self.out.extend_from_slice(self.key) }
    }

    /// The returned flags that are told something about, and the end of the line.
    #[inline]
    fn returned(&mut self, told: Told) {
        let form = self.form;
        for &flag in form.returned.iter().take_while(|&&flag| flag != 0) {
            match flag {
                b'O' => {
                    self.put(b" O");
                    self.put(&form.opaque[..usize::from(form.opaque_len)]);
                }
                b'k' => {
                    self.put(b" k");
                    self.named_key();
                    if form.base64 {
                        self.put(b" b");
                    }
                }
                b'c' => told.version.into_iter().for_each(|n| self.number(b" c", n)),
                b'f' => told.flags.into_iter().for_each(|n| self.number(b" f", n.into())),
                b'h' => told.was_read.into_iter().for_each(|was| self.put(if was { b" h1" } else { b" h0" })),
                b'l' => told.accessed_at.into_iter().for_each(|when| self.seconds_since(b" l", when)),
                b's' => told.size.into_iter().for_each(|n| self.number(b" s", n)),
                _ => told.expires_at.into_iter().for_each(|when| self.seconds_left(b" t", when)),
            }
        }
        let (held, stale, won) = told.marks;
        for (is, mark) in [(held, b" Z"), (stale, b" X"), (won, b" W")] {
            if is {
                self.put(mark);
            }
        }
        self.put(b"\r\n");
    }

    /// A meta reply that is a line.
    fn meta(&mut self, code: &[u8; 2], told: Told) {
        self.put(code);
        self.returned(told);
    }

    fn text_value(&mut self, value: &Value<'_>, version: Option<u64>) {
        let length = value.payload.len();
        self.out.reserve(length + self.key.len() + 64);
        self.put(b"VALUE ");
        self.put(self.key);
        self.number(b" ", value.flags.into());
        self.number(b" ", length as u64);
        if let Some(version) = version {
            self.number(b" ", version);
        }
        self.put(b"\r\n");
        value.payload.append_to(self.out);
        self.put(b"\r\n");
    }

    fn meta_value(&mut self, value: &Value<'_>, marks: (bool, bool, bool)) {
        let length = value.payload.len();
        let told = Told {
            version: Some(value.version),
            flags: Some(value.flags),
            was_read: Some(value.was_read),
            accessed_at: value.accessed_at,
            size: Some(length as u64),
            expires_at: Some(value.expires_at),
            marks,
        };
        if !self.form.with_value || self.form.known == Some(value.version) {
            return self.meta(b"HD", told);
        }
        self.out.reserve(length + 2 * self.key.len() + 160);
        self.number(b"VA ", length as u64);
        self.returned(told);
        value.payload.append_to(self.out);
        self.put(b"\r\n");
    }

    fn debug(&mut self, value: &Value<'_>) {
        self.put(b"ME ");
        self.named_key();
        self.seconds_left(b" exp=", value.expires_at);
        if let Some(when) = value.accessed_at {
            self.seconds_since(b" la=", when);
        }
        self.number(b" cas=", value.version);
        self.put(if value.was_read { b" fetch=yes" } else { b" fetch=no" });
        // The one class there is, as in `stats items`.
        self.put(b" cls=1");
        self.number(b" size=", value.payload.len() as u64);
        self.put(b"\r\n");
    }

    fn text_outcome(&mut self, outcome: Outcome) {
        match (self.form.style, outcome) {
            (_, Outcome::Counted { number, .. }) => {
                self.number(b"", number);
                self.put(b"\r\n");
            }
            (Style::Deleted, Outcome::Done { .. }) => self.put(b"DELETED\r\n"),
            (_, Outcome::Done { .. }) => self.put(b"STORED\r\n"),
            (_, Outcome::NotStored) => self.put(b"NOT_STORED\r\n"),
            (_, Outcome::NotFound) => self.put(b"NOT_FOUND\r\n"),
            (_, Outcome::Differs { .. }) => self.put(b"EXISTS\r\n"),
        }
    }

    fn meta_outcome(&mut self, outcome: Outcome) {
        let nothing = Told::default();
        match outcome {
            Outcome::Done { .. } | Outcome::Counted { .. } if self.form.quiet => {}
            Outcome::Done { version, .. } => {
                let told = Told { version: Some(version), size: Some(self.form.size.into()), ..nothing };
                self.meta(b"HD", told);
            }
            Outcome::Counted { number, version, expires_at } => {
                let told = Told { version: Some(version), expires_at: Some(expires_at), ..nothing };
                if !self.form.with_value {
                    return self.meta(b"HD", told);
                }
                let mut digits = [0; 20];
                let length = write_decimal(&mut digits, number);
                self.number(b"VA ", length as u64);
                self.returned(told);
                self.put(&digits[..length]);
                self.put(b"\r\n");
            }
            Outcome::NotStored => self.meta(b"NS", nothing),
            Outcome::NotFound => self.meta(b"NF", nothing),
            Outcome::Differs { .. } => self.meta(b"EX", nothing),
        }
    }
}

impl ReplySink for Encoder<'_> {
    #[inline]
    fn value(&mut self, value: &Value<'_>) {
        match self.form.style {
            _ if self.form.silent => {}
            Style::Value => self.text_value(value, None),
            Style::ValueVersion => self.text_value(value, Some(value.version)),
            Style::Touched => self.put(b"TOUCHED\r\n"),
            Style::MetaDebug => self.debug(value),
            _ => self.meta_value(value, (false, false, false)),
        }
    }

    /// What memcached answers of a value that is missing is a value too: an empty one that waits to be filled.
    fn leased(&mut self, leased: &Leased<'_>) {
        let accessed_at = u32::try_from(self.now.0 / 1000).ok();
        let missing = Value { accessed_at, ..Value::EMPTY };
        let value = *leased.value.unwrap_or(&missing);
        let (held, won) = (matches!(leased.lease, Lease::Held { .. }), matches!(leased.lease, Lease::Granted { .. }));
        let marks = (held, leased.is_stale, won);
        match leased.lease {
            Lease::None if leased.value.is_none() => self.null(),
            // The token is what the fill is to be compared with.
            Lease::Granted { token, until } => {
                let expires_at = if leased.value.is_some() { value.expires_at } else { Some(until) };
                self.meta_value(&Value { version: token, expires_at, ..value }, marks);
            }
            Lease::Held { until } if leased.value.is_none() => {
                self.meta_value(&Value { expires_at: Some(until), ..value }, marks);
            }
            _ => self.meta_value(&value, marks),
        }
    }

    #[inline]
    fn null(&mut self) {
        match self.form.style {
            Style::Value | Style::ValueVersion => {}
            Style::Touched if self.form.silent => {}
            Style::Touched => self.put(b"NOT_FOUND\r\n"),
            _ if self.form.quiet => {}
            _ => self.meta(b"EN", Told::default()),
        }
    }

    #[inline]
    fn outcome(&mut self, outcome: Outcome) {
        match self.form.style {
            _ if self.form.silent => {}
            Style::TooLarge => self.refused(OpError::TooLarge),
            Style::MetaSet | Style::MetaDelete | Style::MetaCount => self.meta_outcome(outcome),
            _ => self.text_outcome(outcome),
        }
    }

    fn error(&mut self, message: impl AsRef<[u8]>) {
        if !self.form.silent {
            self.put(b"SERVER_ERROR ");
            self.put(message.as_ref());
            self.put(b"\r\n");
        }
    }

    fn refused(&mut self, error: OpError) {
        match error {
            OpError::NotAnInteger | OpError::Overflow if self.form.silent => {}
            OpError::NotAnInteger | OpError::Overflow => {
                self.put(b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
            }
            OpError::InvalidExpire => self.error("the expiry does not fit 64 bits of milliseconds"),
            OpError::TooLarge => self.error("object too large for cache"),
            OpError::OutOfMemory => self.error("out of memory storing object"),
        }
    }

    // No operation that these protocols ask for answers with any of these.
    fn status(&mut self, _: &str) {}
    fn integer(&mut self, _: i64) {}
    fn bulk(&mut self, _: &[u8]) {}
    fn array(&mut self, _: usize) {}
    fn map(&mut self, _: usize) {}
}

/// Refuses what a client sends, before its connection is closed.
pub fn refuse(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"CLIENT_ERROR ");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}
