//! The words of a line, and what numbers and times among them mean.

use crate::command::{Expiry, Span};

/// Words of a line that are told apart: those that a meta request may have, and one that is too many.
const WORDS_MAX: usize = 20;
/// Seconds up to which an expiry is a time from now; beyond it is a Unix time.
const RELATIVE_SECONDS_MAX: i64 = 30 * 24 * 60 * 60;

/// Where the words of a line are.
pub(super) struct Words<'a> {
    input: &'a [u8],
    spans: [Span; WORDS_MAX],
    count: usize,
}

impl<'a> Words<'a> {
    /// The words of the line that the first `end` bytes of `input` are.
    #[inline]
    pub fn of(input: &'a [u8], end: usize) -> Self {
        let mut words = Self { input, spans: [Span::default(); WORDS_MAX], count: 0 };
        let mut at = 0;
        while words.count < WORDS_MAX
            && let Some(span) = next_word(&input[..end], at)
        {
            words.spans[words.count] = span;
            words.count += 1;
            at = span.end as usize;
        }
        words
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are too many for any request.
    pub fn overflow(&self) -> bool {
        self.count == WORDS_MAX
    }

    /// Word `i`, empty if there are not so many.
    #[inline]
    pub fn get(&self, i: usize) -> &'a [u8] {
        self.spans[i].of(self.input)
    }

    /// Where word `i` is.
    #[inline]
    pub fn span(&self, i: usize) -> Span {
        self.spans[i]
    }

    /// The words from `i` on.
    pub fn from(&self, i: usize) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.spans[i.min(self.count)..self.count].iter().map(|span| span.of(self.input))
    }

    /// Whether the last word, which is not the first, asks for no reply.
    pub fn ends_silent(&self) -> bool {
        self.count > 1 && self.get(self.count - 1) == b"noreply"
    }
}

/// The first word at or behind `from`.
#[inline]
pub(super) fn next_word(line: &[u8], from: usize) -> Option<Span> {
    let start = from + line[from..].iter().position(|&b| b != b' ')?;
    let length = line[start..].iter().position(|&b| b == b' ').unwrap_or(line.len() - start);
    Some(Span::new(start, start + length))
}

/// Whether a word can be a key.
#[inline]
pub(super) fn is_key(word: &[u8], bytes_max: usize) -> bool {
    word.len() <= bytes_max && !word.iter().any(u8::is_ascii_control)
}

/// A number without a sign.
#[inline]
pub(super) fn unsigned(word: &[u8]) -> Option<u64> {
    let digits = word.strip_prefix(b"+").unwrap_or(word);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, &b| {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 { None } else { n.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// A number with or without a sign.
pub(super) fn signed(word: &[u8]) -> Option<i64> {
    match word.strip_prefix(b"-") {
        Some(digits) if digits.first() != Some(&b'+') => unsigned(digits).and_then(|n| 0i64.checked_sub_unsigned(n)),
        Some(_) => None,
        None => unsigned(word).and_then(|n| i64::try_from(n).ok()),
    }
}

/// When something expires that is to live for so many seconds: 0 is for ever, a negative number not at all, and what is
/// more than 30 days is a Unix time.
pub(super) fn expiry(word: &[u8]) -> Option<Expiry> {
    Some(match signed(word)? {
        0 => Expiry::Never,
        seconds if seconds < 0 => Expiry::In(0),
        seconds if seconds <= RELATIVE_SECONDS_MAX => Expiry::In(seconds * 1000),
        seconds => Expiry::At(seconds.saturating_mul(1000)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_by_any_number_of_spaces() {
        let line = b"  get a   bc \r\n";
        let words = Words::of(line, line.len() - 2);
        assert_eq!((0..words.len()).map(|i| words.get(i)).collect::<Vec<_>>(), [&b"get"[..], b"a", b"bc"]);
        assert_eq!(Words::of(b"   ", 3).len(), 0);
        assert_eq!((Words::of(b"x", 1).get(19), Words::of(b"x", 1).overflow()), (&b""[..], false));
        assert!(Words::of(&b"x ".repeat(20), 40).overflow());
    }

    #[test]
    fn numbers_and_times_are_memcacheds() {
        for (text, n) in [("0", Some(0)), ("+7", Some(7)), ("007", Some(7)), ("18446744073709551615", Some(u64::MAX))] {
            assert_eq!(unsigned(text.as_bytes()), n, "{text}");
        }
        for bad in ["", "+", "-1", "1x", "18446744073709551616", " 1"] {
            assert_eq!(unsigned(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!((signed(b"-+1"), signed(b"--1"), signed(b"9223372036854775808")), (None, None, None));
        for (text, when) in [
            ("0", Some(Expiry::Never)),
            ("-1", Some(Expiry::In(0))),
            ("1", Some(Expiry::In(1000))),
            ("2592000", Some(Expiry::In(2_592_000_000))),
            ("2592001", Some(Expiry::At(2_592_001_000))),
            ("9223372036854775807", Some(Expiry::At(i64::MAX))),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(expiry(text.as_bytes()), when, "{text}");
        }
    }
}
