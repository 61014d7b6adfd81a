//! RESP as a client sees it: commands to bytes, bytes to replies. A plain twin
//! of the server's own codec that shares no code with it.

use std::fmt;

/// One reply of RESP2 or RESP3.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    Status(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`.
    Null,
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Push(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    /// Booleans, doubles and big numbers, as text.
    Scalar(Vec<u8>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Status(t) => write!(f, "+{}", show(t)),
            Reply::Error(t) => write!(f, "-{}", show(t)),
            Reply::Bulk(t) => write!(f, "\"{}\"", show(t)),
            Reply::Scalar(t) => write!(f, ",{}", show(t)),
            Reply::Integer(n) => write!(f, ":{n}"),
            Reply::Null => write!(f, "null"),
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => f.debug_list().entries(items).finish(),
            Reply::Map(pairs) => f.debug_map().entries(pairs.iter().map(|(k, v)| (k, v))).finish(),
        }
    }
}

impl Reply {
    /// The bytes of a text-like reply.
    pub fn text(&self) -> &[u8] {
        match self {
            Reply::Status(t) | Reply::Error(t) | Reply::Bulk(t) | Reply::Scalar(t) => t,
            other => panic!("{other:?} is not text"),
        }
    }

    /// The number of an integer reply.
    pub fn integer(&self) -> i64 {
        match self {
            Reply::Integer(n) => *n,
            other => panic!("{other:?} is not an integer"),
        }
    }

    /// The items of an array or a set.
    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) | Reply::Set(items) => items,
            other => panic!("{other:?} is not an array"),
        }
    }

    /// The pairs of a map, which RESP2 writes as a flat array.
    pub fn pairs(&self) -> Vec<(&Reply, &Reply)> {
        match self {
            Reply::Map(pairs) => pairs.iter().map(|(k, v)| (k, v)).collect(),
            Reply::Array(items) => {
                assert!(items.len() % 2 == 0, "an odd number of items is no map: {items:?}");
                items.chunks(2).map(|pair| (&pair[0], &pair[1])).collect()
            }
            other => panic!("{other:?} is not a map"),
        }
    }

    /// The value under `key` in a map.
    pub fn get(&self, key: &str) -> Option<&Reply> {
        self.pairs().into_iter().find(|(k, _)| k.text() == key.as_bytes()).map(|(_, v)| v)
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }
}

/// The first whole reply in `bytes` and how many bytes it took, or `None` if
/// it has not arrived in full.
///
/// # Panics
/// On bytes that no server may send.
pub fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
    let line_end = bytes.windows(2).position(|w| w == b"\r\n")?;
    let (line, mut at) = (&bytes[1..line_end], line_end + 2);
    let number = || -> i64 {
        let text = std::str::from_utf8(line).unwrap_or("");
        text.parse().unwrap_or_else(|_| panic!("not a number after the marker: {}", show(&bytes[..line_end])))
    };
    let reply = match bytes[0] {
        b'+' => Reply::Status(line.to_vec()),
        b'-' => Reply::Error(line.to_vec()),
        b':' => Reply::Integer(number()),
        b'_' => Reply::Null,
        b'#' | b',' | b'(' => Reply::Scalar(line.to_vec()),
        b'$' | b'=' | b'!' => {
            let Ok(len) = usize::try_from(number()) else { return Some((Reply::Null, at)) };
            let body = bytes.get(at..at + len)?;
            if bytes.len() < at + len + 2 {
                return None;
            }
            assert_eq!(&bytes[at + len..at + len + 2], b"\r\n", "a bulk must end in CR LF");
            at += len + 2;
            if bytes[0] == b'!' { Reply::Error(body.to_vec()) } else { Reply::Bulk(body.to_vec()) }
        }
        marker @ (b'*' | b'~' | b'>' | b'%') => {
            let Ok(count) = usize::try_from(number()) else { return Some((Reply::Null, at)) };
            let count = if marker == b'%' { count * 2 } else { count };
            let mut items = Vec::with_capacity(count.min(1 << 16));
            for _ in 0..count {
                let (item, used) = parse(&bytes[at..])?;
                at += used;
                items.push(item);
            }
            match marker {
                b'*' => Reply::Array(items),
                b'~' => Reply::Set(items),
                b'>' => Reply::Push(items),
                _ => {
                    let mut items = items.into_iter();
                    Reply::Map(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
                }
            }
        }
        _ => panic!("not a RESP reply: {}", show(&bytes[..line_end])),
    };
    Some((reply, at))
}

/// A command as an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Bytes for people, the middle left out when they are many.
pub fn show(bytes: &[u8]) -> String {
    if bytes.len() > 1200 {
        let (head, tail) = (&bytes[..800], &bytes[bytes.len() - 200..]);
        return format!("{}…({} bytes)…{}", head.escape_ascii(), bytes.len(), tail.escape_ascii());
    }
    bytes.escape_ascii().to_string()
}

#[test]
fn replies_are_taken_whole_or_not_at_all() {
    let wire = b"%2\r\n$1\r\na\r\n:1\r\n+b\r\n*2\r\n_\r\n$-1\r\n+next\r\n";
    let whole = wire.len() - "+next\r\n".len();
    for cut in 0..whole {
        assert_eq!(parse(&wire[..cut]), None, "{cut} bytes were taken for a reply");
    }
    let (reply, used) = parse(wire).expect("the whole reply is there");
    assert_eq!(used, whole);
    assert_eq!(reply.get("a"), Some(&Reply::Integer(1)));
    assert_eq!(reply.get("b"), Some(&Reply::Array(vec![Reply::Null, Reply::Null])));
    assert_eq!(encode(&["GET", ""]), b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
}
