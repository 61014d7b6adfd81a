//! What a client sends before it has given a password.
//!
//! ```text
//! set <any key> <flags> <exptime> <bytes>      only the number of bytes matters
//! <user> <password>                            any user
//! ```

use super::parser::{BINARY, BINARY_REFUSED, LINE_BYTES_MAX, Parser, State};
use super::words::{Words, unsigned};

/// Bytes of a user and a password that are looked at; more are passed over.
const DATA_BYTES_MAX: usize = 4 << 10;

/// What came of looking at the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake<'a> {
    /// A password, in a request of so many bytes.
    Given(&'a [u8], usize),
    /// A request of so many bytes that is refused by this text.
    Refused(&'static str, usize),
    /// So many bytes are of no use.
    Passed(usize),
    /// Not whole: more sense can be made of it once it has so many bytes.
    Incomplete(usize),
    /// Not the protocol, for this reason. The connection cannot go on.
    Malformed(&'static str),
}

impl Parser {
    /// Reads the next request at the start of `input` of a client that has given no password yet.
    pub fn handshake<'a>(&mut self, input: &'a [u8]) -> Handshake<'a> {
        if input.is_empty() {
            return Handshake::Incomplete(1);
        }
        if let State::Skip(left) = self.state {
            return Handshake::Passed(self.pass(left, input));
        }
        if input[0] == BINARY {
            return Handshake::Malformed(BINARY_REFUSED);
        }
        let view = &input[..input.len().min(LINE_BYTES_MAX)];
        let Some(found) = view[self.scanned..].iter().position(|&b| b == b'\n') else {
            if view.len() == LINE_BYTES_MAX {
                return Handshake::Malformed("unauthenticated");
            }
            self.scanned = input.len();
            return Handshake::Incomplete(input.len() + 1);
        };
        let newline = self.scanned + found;
        self.scanned = 0;
        let (line, after) = (&input[..newline], newline + 1);
        let words = Words::of(line, line.strip_suffix(b"\r").unwrap_or(line).len());
        let is_set = words.get(0) == b"set" && words.len() > 4;
        let Some(length) = unsigned(words.get(4)).filter(|&n| is_set && n <= u64::from(u32::MAX)) else {
            return Handshake::Refused("CLIENT_ERROR unauthenticated\r\n", after);
        };
        if length > DATA_BYTES_MAX as u64 {
            self.state = State::Skip(length as usize + 2);
            return Handshake::Refused("CLIENT_ERROR authentication failure\r\n", after);
        }
        let end = after + length as usize;
        let Some(line_end) = input.get(end..end + 2) else { return Handshake::Incomplete(end + 2) };
        if line_end != b"\r\n" {
            return Handshake::Refused("CLIENT_ERROR bad command line termination\r\n", end + 2);
        }
        match password(&input[after..end]) {
            Some(password) => Handshake::Given(password, end + 2),
            None => Handshake::Refused("CLIENT_ERROR bad authentication token format\r\n", end + 2),
        }
    }
}

/// What follows the user. Spaces within it belong to it.
fn password(data: &[u8]) -> Option<&[u8]> {
    let is_space = |&b: &u8| b == b' ';
    let user = data.iter().position(|b| !is_space(b))?;
    let behind = user + data[user..].iter().position(is_space)?;
    let start = behind + data[behind..].iter().position(|b| !is_space(b))?;
    let end = data.iter().rposition(|b| !is_space(b))?;
    Some(&data[start..=end])
}
