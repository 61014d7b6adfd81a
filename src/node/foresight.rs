//! Loading ahead what the next clients will ask for.
//!
//! A client that sends one request at a time leaves nothing to overlap: header of the slot, table and record are three misses
//! of memory, one after the other. But a busy core finds the requests of several such clients together. So their keys are looked
//! for first, and all that they lead to is loaded at a time, as for the requests of one pipeline.
//!
//! Nothing is decided here: a guess that is wrong has loaded something for nothing.

use super::Node;
use crate::command::Span;
use crate::command::table::{self, Action};
use crate::engine::At;
use crate::protocol::resp::{Limits, short_request};

/// Room that is used again for each look.
#[derive(Default)]
pub(super) struct Foresight {
    places: Vec<(At, usize)>,
    spans: Vec<Span>,
}

impl Node {
    /// Starts loading what the requests in `messages` are about, which will be received next, each by some session. Those
    /// that are more than one request overlap their own misses.
    pub fn foresee<'a>(&mut self, messages: impl Iterator<Item = &'a [u8]>) {
        let mut foresight = std::mem::take(&mut self.foresight);
        let Foresight { places, spans } = &mut foresight;
        places.clear();
        places.extend(messages.filter_map(|message| Some(self.locate(lone_key(message, &self.resp_limits, spans)?))));
        self.prefetch(places.iter().copied());
        self.foresight = foresight;
    }
}

/// The key of the one request that a message is, in any protocol.
fn lone_key<'a>(message: &'a [u8], limits: &Limits, spans: &mut Vec<Span>) -> Option<&'a [u8]> {
    match message {
        [b'*', ..] => {
            spans.clear();
            short_request(message, limits, spans).filter(|&end| end == message.len())?;
            let (name, key) = (spans.first()?.of(message), spans.get(1)?.of(message));
            matches!(table::find(name)?.action, Action::Key(_)).then_some(key)
        }
        [b'g', b'e', b't', b' ', rest @ ..] | [b'm', b'g', b' ', rest @ ..] => word(rest),
        _ => word(message.strip_prefix(b"GET /v1/cache/")?).filter(|key| !key.contains(&b'%')),
    }
}

/// What comes before the first space, line end or query.
fn word(bytes: &[u8]) -> Option<&[u8]> {
    bytes.iter().position(|&byte| byte <= b' ' || byte == b'?').map(|len| &bytes[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_lone_request_is_found_in_each_protocol() {
        let limits = Limits { args_max: 10, bulk_bytes_max: 100 };
        let key = |message: &'static [u8]| lone_key(message, &limits, &mut vec![Span::new(1, 2)]);
        assert_eq!(key(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"), Some(&b"key"[..]));
        assert_eq!(key(b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$0\r\n\r\n"), Some(&b"k"[..]));
        assert_eq!(key(b"get key\r\n"), Some(&b"key"[..]));
        assert_eq!(key(b"get one two\r\n"), Some(&b"one"[..]));
        assert_eq!(key(b"mg key v t\r\n"), Some(&b"key"[..]));
        assert_eq!(key(b"GET /v1/cache/key HTTP/1.1\r\n"), Some(&b"key"[..]));
        assert_eq!(key(b"GET /v1/cache/key?policy=x HTTP/1.1\r\n"), Some(&b"key"[..]));
        for other in [
            &b""[..],
            b"*",
            b"get key",
            b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r",
            b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n",
            b"*2\r\n$4\r\nMGET\r\n$3\r\nkey\r\n",
            b"*2\r\n$4\r\nECHO\r\n$3\r\nkey\r\n",
            b"*2\r\n$3\r\nGEX\r\n$3\r\nkey\r\n",
            b"*1\r\n$3\r\nGET\r\n",
            b"GET /v1/cache/a%20b HTTP/1.1\r\n",
            b"PUT /v1/cache/key HTTP/1.1\r\n",
            b"\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(key(other), None, "{}", other.escape_ascii());
        }
    }
}
