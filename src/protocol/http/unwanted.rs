//! Passes over a chunked body, of which nothing is kept.

use super::head::HEAD_BYTES_MAX;
use super::request::{CHUNK_LINE_BYTES_MAX, chunk_size};
use super::status::Refusal;

/// What comes next of a body that nobody wants.
#[derive(Debug, Default)]
pub(super) enum Unwanted {
    /// The line in front of a chunk.
    #[default]
    Line,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end behind it.
    LineEnd,
    /// A line behind the last chunk, and bytes of those before it.
    Trailer(usize),
}

impl Unwanted {
    /// Passes over as much of `input` as belongs to the body. Answers how many bytes, and whether that was its end.
    ///
    /// # Errors
    /// What follows is no chunk.
    pub fn pass(&mut self, input: &[u8]) -> Result<(usize, bool), Refusal> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self {
                Self::Chunk(0) => *self = Self::LineEnd,
                Self::Chunk(left) => {
                    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= passed as u64;
                    at += passed;
                    if passed == rest.len() {
                        return Ok((at, false));
                    }
                }
                Self::LineEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        *self = Self::Line;
                    }
                    [] | [b'\r'] => return Ok((at, false)),
                    _ => return Err(Refusal::bad("a chunk is longer than the size in front of it")),
                },
                Self::Line => {
                    let Some((line, behind)) = line(rest, CHUNK_LINE_BYTES_MAX)? else { return Ok((at, false)) };
                    at += behind;
                    *self = match chunk_size(line)? {
                        0 => Self::Trailer(0),
                        size => Self::Chunk(size as u64),
                    };
                }
                Self::Trailer(before) => {
                    let Some((line, behind)) = line(rest, HEAD_BYTES_MAX - *before)? else { return Ok((at, false)) };
                    at += behind;
                    *before += behind;
                    if line.is_empty() {
                        return Ok((at, true));
                    }
                }
            }
        }
    }
}

/// The line at the start of `input` and its length with its end, once it is there.
fn line(input: &[u8], bytes_max: usize) -> Result<Option<(&[u8], usize)>, Refusal> {
    let view = &input[..input.len().min(bytes_max)];
    let Some(length) = view.iter().position(|&b| b == b'\n') else {
        if input.len() >= bytes_max {
            return Err(Refusal::bad("the body is chunked, with a line that is too long"));
        }
        return Ok(None);
    };
    let line = view[..length].strip_suffix(b"\r").ok_or_else(|| Refusal::bad("a line of a chunk ends without CR"))?;
    Ok(Some((line, length + 1)))
}
