//! Writes replies in RESP2 or RESP3.

use super::Marks;
use crate::command::{Lease, Leased, OpError, Outcome, Payload, Pin, ReplySink, Value};

/// The version a connection speaks, chosen by `HELLO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// The default of a new connection.
    #[default]
    Resp2,
    /// Adds maps, nulls and pushes of their own.
    Resp3,
}

/// Writes one command's reply at the end of a buffer.
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    version: Version,
    command: &'a str,
    /// Where the places of pinned values go, if they are wanted.
    marks: Option<&'a mut Marks>,
    first_mark: usize,
}

impl<'a> Encoder<'a> {
    /// An encoder for the reply of `command`, whose name some errors contain.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, version: Version, command: &'a str) -> Self {
        Self { start: out.len(), out, version, command, marks: None, first_mark: 0 }
    }

    /// The same, for a stream that takes large values as pins.
    #[inline]
    pub fn pinning(out: &'a mut Vec<u8>, marks: &'a mut Marks, version: Version, command: &'a str) -> Self {
        Self { start: out.len(), out, version, command, first_mark: marks.len(), marks: Some(marks) }
    }

    /// The version in which this encoder writes.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Bytes in the buffer, what was there before included, and those of pinned values.
    pub fn len(&self) -> usize {
        self.out.len() + self.marks.as_ref().map_or(0, |marks| marks.bytes())
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes back all that this encoder has written. The pins are the caller's to give back.
    pub fn restart(&mut self) -> Vec<Pin> {
        self.out.truncate(self.start);
        let mut pins = Vec::new();
        if let Some(marks) = &mut self.marks {
            marks.truncate(self.first_mark, &mut pins);
        }
        pins
    }

    /// A set of `len` answers follows.
    pub fn set(&mut self, len: usize) {
        self.head(if self.version == Version::Resp3 { b'~' } else { b'*' }, len as u64);
    }

    /// Text for people: verbatim in RESP3, a bulk string in RESP2.
    pub fn text(&mut self, text: &str) {
        if self.version == Version::Resp3 {
            self.head(b'=', text.len() as u64 + 4);
            self.out.extend_from_slice(b"txt:");
            self.line(text.as_bytes());
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// Bytes that are a reply already, written on another core.
    pub fn encoded(&mut self, reply: &[u8]) {
        self.out.extend_from_slice(reply);
    }

    #[inline]
    fn head(&mut self, kind: u8, n: u64) {
        if n > SHORT_HEAD_MAX {
            return self.long_head(kind, n);
        }
        // Put together in a register: bytes that were just stored one by one could not be loaded as a word before all
        // stores ahead of them are done. From the end on, since it is the last digit that is known first.
        let mut word = u64::from(u16::from_le_bytes(*b"\r\n"));
        let mut rest = n as u32;
        let mut len = 4;
        loop {
            word = word << 8 | u64::from(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
            len += 1;
        }
        word = word << 8 | u64::from(kind);
        // A copy of constant length needs no call; what is too much is cut off again.
        let end = self.out.len() + len;
        self.out.extend_from_slice(&word.to_le_bytes());
        self.out.truncate(end);
    }

    #[inline(never)]
    fn long_head(&mut self, kind: u8, n: u64) {
        let mut digits = [0u8; 20];
        let len = write_decimal(&mut digits, n);
        self.out.push(kind);
        self.line(&digits[..len]);
    }

    #[inline]
    fn line(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// A kind, the digits of a `u64`, and the line end, in whole words.
const HEAD_BYTES_MAX: usize = 24;

/// The largest number that has room in one word beside its kind and the line end.
const SHORT_HEAD_MAX: u64 = 99_999;

/// Writes `n` in decimal at the start of `out` and answers its length.
#[inline]
pub(in crate::protocol) fn write_decimal(out: &mut [u8], mut n: u64) -> usize {
    if n < 10 {
        out[0] = b'0' + n as u8;
        return 1;
    }
    if n < 100 {
        out[0] = b'0' + (n / 10) as u8;
        out[1] = b'0' + (n % 10) as u8;
        return 2;
    }
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    while n > 0 {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
    }
    let len = digits.len() - at;
    out[..len].copy_from_slice(&digits[at..]);
    len
}

impl ReplySink for Encoder<'_> {
    // Of all that a value says about itself RESP takes the bytes: what it does not take need not be read.
    #[inline(always)]
    fn value(&mut self, value: &Value<'_>) {
        match value.payload {
            Payload::Whole(bytes) => self.bulk(bytes),
            Payload::Pieces(pieces) => {
                self.out.reserve(value.payload.len() + 32);
                self.head(b'$', value.payload.len() as u64);
                pieces.iter().for_each(|p| self.out.extend_from_slice(p));
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    #[inline]
    fn pins_from(&self) -> usize {
        self.marks.as_ref().map_or(usize::MAX, |marks| marks.from)
    }

    #[cold]
    /// A list of three: the value, how fresh it is, and the lease that the asker has.
    fn leased(&mut self, leased: &Leased<'_>) {
        self.array(3);
        match leased.value {
            Some(value) => self.value(value),
            None => self.null(),
        }
        self.bulk(match leased.value {
            Some(_) if leased.is_stale => b"stale",
            Some(_) => b"fresh",
            None => b"filling",
        });
        match leased.lease {
            Lease::Granted { token, .. } => self.integer(token as i64),
            Lease::None | Lease::Held { .. } => self.null(),
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done { .. } => self.status("OK"),
            _ => self.null(),
        }
    }

    fn pinned(&mut self, pin: Pin) {
        self.head(b'$', pin.len as u64);
        if let Some(marks) = &mut self.marks {
            marks.push(self.out.len(), pin);
        }
        self.out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn status(&mut self, text: &str) {
        if text == "OK" {
            self.out.extend_from_slice(b"+OK\r\n");
            return;
        }
        self.out.push(b'+');
        self.line(text.as_bytes());
    }

    #[inline]
    fn integer(&mut self, n: i64) {
        if n >= 0 {
            self.head(b':', n as u64);
        } else {
            self.out.push(b':');
            self.head(b'-', n.unsigned_abs());
        }
    }

    #[inline]
    fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(HEAD_BYTES_MAX + bytes.len() + 2);
        self.head(b'$', bytes.len() as u64);
        self.line(bytes);
    }

    #[inline]
    fn null(&mut self) {
        self.out.extend_from_slice(if self.version == Version::Resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    fn array(&mut self, len: usize) {
        self.head(b'*', len as u64);
    }

    fn map(&mut self, pairs: usize) {
        if self.version == Version::Resp3 { self.head(b'%', pairs as u64) } else { self.head(b'*', 2 * pairs as u64) }
    }

    fn error(&mut self, message: impl AsRef<[u8]>) {
        self.out.push(b'-');
        // A line end within the text would end the reply early.
        let printable = |&b: &u8| if b == b'\r' || b == b'\n' { b' ' } else { b };
        self.out.extend(message.as_ref().iter().map(printable));
        self.out.extend_from_slice(b"\r\n");
    }

    fn refused(&mut self, error: OpError) {
        match error {
            OpError::InvalidExpire => self.error(format!("ERR invalid expire time in '{}' command", self.command)),
            _ => self.error(error.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(version: Version, f: impl FnOnce(&mut Encoder<'_>)) -> String {
        let mut out = Vec::new();
        f(&mut Encoder::new(&mut out, version, "set"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_two_versions_differ_where_they_should() {
        let (two, three) = (Version::Resp2, Version::Resp3);
        assert_eq!(written(two, |e| e.null()), "$-1\r\n");
        assert_eq!(written(three, |e| e.null()), "_\r\n");
        assert_eq!(written(two, |e| e.map(3)), "*6\r\n");
        assert_eq!(written(three, |e| e.map(3)), "%3\r\n");
        assert_eq!(written(two, |e| e.text("hi")), "$2\r\nhi\r\n");
        assert_eq!(written(three, |e| e.text("hi")), "=6\r\ntxt:hi\r\n");
        assert_eq!(written(two, |e| e.error("ERR a\r\nb")), "-ERR a  b\r\n");
        assert_eq!(
            written(two, |e| e.refused(OpError::InvalidExpire)),
            "-ERR invalid expire time in 'set' command\r\n"
        );
    }

    #[test]
    fn a_value_in_pieces_is_one_reply() {
        let pieces: [&[u8]; 3] = [b"ab", b"", b"cde"];
        let value = Value { payload: Payload::Pieces(&pieces), ..Value::EMPTY };
        assert_eq!(written(Version::Resp2, |e| e.value(&value)), "$5\r\nabcde\r\n");
    }

    proptest! {
        #[test]
        fn integers_are_written_in_decimal(n in any::<i64>()) {
            prop_assert_eq!(written(Version::Resp2, |e| e.integer(n)), format!(":{n}\r\n"));
        }

        #[test]
        fn numbers_of_every_length_are_written_in_decimal(digits in 0u32..=18, n in any::<i64>()) {
            for n in [n.unsigned_abs() % 10u64.pow(digits), 10u64.pow(digits) - 1, 10u64.pow(digits)] {
                prop_assert_eq!(written(Version::Resp2, |e| e.integer(n as i64)), format!(":{n}\r\n"));
                prop_assert_eq!(written(Version::Resp3, |e| e.set(n as usize)), format!("~{n}\r\n"));
            }
        }
    }
}
