//! Inline requests: a line of words, as a person types it into a socket.

use super::ProtocolError;
use crate::command::Span;

/// Splits a line into words under redis-server's quoting rules: `"…"` with `\n \r
/// \t \b \a \xHH` and any other escaped byte as itself, `'…'` with `\'` only, and a
/// closing quote must end its word. The words' bytes go into `bytes`, their places into `spans`.
///
/// # Errors
/// [`ProtocolError::Quotes`] for a quote that is not closed, or closed within a word.
pub fn split_inline(line: &[u8], bytes: &mut Vec<u8>, spans: &mut Vec<Span>) -> Result<(), ProtocolError> {
    bytes.clear();
    spans.clear();
    let mut rest = line;
    loop {
        while let [b, tail @ ..] = rest
            && is_space(*b)
        {
            rest = tail;
        }
        if rest.is_empty() || rest[0] == 0 {
            return Ok(());
        }
        let start = bytes.len();
        rest = word(rest, bytes)?;
        spans.push(Span::new(start, bytes.len()));
    }
}

/// C's `isspace`, which redis-server uses: vertical tab counts too.
fn is_space(b: u8) -> bool {
    b.is_ascii_whitespace() || b == 0x0b
}

/// Reads one word and answers what follows it.
fn word<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] | [0, ..] => return Ok(&[]),
            [b, tail @ ..] if is_space(*b) => return Ok(tail),
            [b'"', tail @ ..] => return double_quoted(tail, bytes),
            [b'\'', tail @ ..] => return single_quoted(tail, bytes),
            [b, tail @ ..] => {
                bytes.push(*b);
                rest = tail;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [] => return Err(ProtocolError::Quotes),
            [b'"', tail @ ..] => return after_quote(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                tail
            }
            [b'\\', b, tail @ ..] => {
                bytes.push(match b {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                tail
            }
            [b, tail @ ..] => {
                bytes.push(*b);
                tail
            }
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [] => return Err(ProtocolError::Quotes),
            [b'\'', tail @ ..] => return after_quote(tail),
            [b'\\', b'\'', tail @ ..] => {
                bytes.push(b'\'');
                tail
            }
            [b, tail @ ..] => {
                bytes.push(*b);
                tail
            }
        };
    }
}

fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest {
        [] => Ok(rest),
        [b, ..] if is_space(*b) => Ok(rest),
        _ => Err(ProtocolError::Quotes),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, ProtocolError> {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        split_inline(line.as_bytes(), &mut bytes, &mut spans)?;
        Ok(spans.iter().map(|s| s.of(&bytes).escape_ascii().to_string()).collect())
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(words("  set  k   v "), Ok(vec!["set".into(), "k".into(), "v".into()]));
        assert_eq!(words(r#"set k "a b\n\x41\"" "#), Ok(vec!["set".into(), "k".into(), r#"a b\nA\""#.into()]));
        assert_eq!(words(r"set k 'a\'b' ''"), Ok(vec!["set".into(), "k".into(), r"a\'b".into(), String::new()]));
        for bad in [r#"set k "a"#, "set k 'a", r#"set k "a"b"#, "set k 'a'b", r#"set k "a\""#] {
            assert_eq!(words(bad), Err(ProtocolError::Quotes), "{bad}");
        }
    }
}
