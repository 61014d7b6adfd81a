//! The arguments of one request, as places in the bytes that carried it: nothing
//! is copied until the engine stores it.

use super::SyntaxError;

/// A range of bytes, relative to the buffer it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The range from `start` to `end`.
    #[inline]
    pub fn new(start: usize, end: usize) -> Self {
        // A place beyond 4 GiB would wrap around and name somebody else's bytes.
        assert!(start <= end && end <= u32::MAX as usize, "a span must lie within 4 GiB");
        Self { start: start as u32, end: end as u32 }
    }

    /// The same range of bytes that have `before` others in front of them now.
    #[inline]
    pub fn behind(self, before: usize) -> Self {
        Self::new(self.start as usize + before, self.end as usize + before)
    }

    /// The bytes in `buffer` that this range names.
    #[inline]
    pub fn of(self, buffer: &[u8]) -> &[u8] {
        &buffer[self.start as usize..self.end as usize]
    }
}

/// A request's arguments; the first is the command's name.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    buffer: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// The arguments at `spans` of `buffer`.
    #[inline]
    pub fn new(buffer: &'a [u8], spans: &'a [Span]) -> Self {
        Self { buffer, spans }
    }

    /// How many there are, the name included.
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `i`; the caller has checked the arity.
    #[inline]
    pub fn get(&self, i: usize) -> &'a [u8] {
        self.spans[i].of(self.buffer)
    }

    /// The arguments from `i` on.
    pub fn from(&self, i: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let buffer = self.buffer;
        self.spans[i.min(self.spans.len())..].iter().map(move |s| s.of(buffer))
    }

    /// Whether argument `i` is `word`, whatever its case. `word` is lower-case.
    #[inline]
    pub fn is(&self, i: usize, word: &str) -> bool {
        self.get(i).eq_ignore_ascii_case(word.as_bytes())
    }

    /// Argument `i` as an integer.
    ///
    /// # Errors
    /// [`SyntaxError::NotAnInteger`] unless it is a canonical 64-bit decimal.
    pub fn integer(&self, i: usize) -> Result<i64, SyntaxError> {
        parse_integer(self.get(i)).ok_or(SyntaxError::NotAnInteger)
    }
}

/// Parses a canonical decimal: no sign but a leading `-`, no leading zeros, no
/// spaces, within 64 bits. Redis accepts nothing else as an integer.
#[inline]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [] => return None,
        [b'0'] => return if negative { None } else { Some(0) },
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value = 0u64;
    for &digit in digits {
        let d = digit.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        // 19 digits stay below 10^19, which 64 unsigned bits hold.
        value = value * 10 + u64::from(d);
    }
    if negative {
        if value <= 1 << 63 { Some((value as i64).wrapping_neg()) } else { None }
    } else {
        i64::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_canonical_decimals_are_integers() {
        assert_eq!(parse_integer(b"0"), Some(0));
        assert_eq!(parse_integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_integer(b"9223372036854775807"), Some(i64::MAX));
        for bad in
            [&b""[..], b"-", b"+1", b"01", b"-0", b" 1", b"1 ", b"9223372036854775808", b"1e3", b"99999999999999999999"]
        {
            assert_eq!(parse_integer(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn every_integer_reads_back(n in any::<i64>()) {
            prop_assert_eq!(parse_integer(n.to_string().as_bytes()), Some(n));
        }

        #[test]
        fn agrees_with_the_standard_library(text in "-?[0-9]{1,21}") {
            let canonical = text.parse::<i64>().ok().filter(|n| n.to_string() == text);
            prop_assert_eq!(parse_integer(text.as_bytes()), canonical);
        }
    }
}
