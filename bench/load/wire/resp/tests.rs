//! Requests as Ringfence's own parser reads them, and every reply that Redis may give.

use std::time::Duration;

use proptest::prelude::*;
use ringfence::protocol::resp::{Frame, Limits, Parser, Progress as Parsed};

use super::super::tests::{refused, reply, taken, values, wire, written};
use super::super::{Credentials, Expected, Progress, Protocol, Reply, Value, Wire};

const RESP2: Protocol = Protocol::Resp2;
const RESP3: Protocol = Protocol::Resp3;

fn who(user: Option<&str>) -> Credentials {
    Credentials { user: user.map(str::to_owned), password: "pw".to_owned() }
}

/// The arguments of the requests in `bytes`, as the server reads them.
fn requests(mut bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let limits = Limits { args_max: 100, bulk_bytes_max: 1 << 20 };
    let (mut parser, mut spans, mut requests) = (Parser::default(), Vec::new(), Vec::new());
    while !bytes.is_empty() {
        match parser.advance(bytes, &limits, &mut spans) {
            Parsed::Done(Frame::Array, used) => {
                requests.push(spans.drain(..).map(|span| span.of(bytes).to_vec()).collect());
                bytes = &bytes[used..];
            }
            other => panic!("{other:?} to {:?}", bytes.escape_ascii()),
        }
    }
    requests
}

#[test]
fn a_connection_says_who_it_is() {
    let greeting = |protocol, credentials: Option<Credentials>| {
        let mut out = Vec::new();
        let due = Wire::new(protocol, "cache:6379", credentials.as_ref()).greet(&mut out);
        let said =
            requests(&out).concat().iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect::<Vec<_>>();
        (said.join(" "), due)
    };
    assert_eq!(greeting(RESP2, None), (String::new(), 0));
    assert_eq!(greeting(RESP2, Some(who(None))), ("AUTH pw".to_owned(), 1));
    assert_eq!(greeting(RESP2, Some(who(Some("ada")))), ("AUTH ada pw".to_owned(), 1));
    assert_eq!(greeting(RESP3, None), ("HELLO 3".to_owned(), 1));
    assert_eq!(greeting(RESP3, Some(who(None))), ("HELLO 3 AUTH default pw".to_owned(), 1));
    assert_eq!(greeting(RESP3, Some(who(Some("ada")))), ("HELLO 3 AUTH ada pw".to_owned(), 1));
}

#[test]
fn requests_are_arrays_of_bulk_strings() {
    let wire = wire(RESP2);
    let value = Value(b"ab", b"cde");
    assert_eq!(written(|out| wire.asking(out)), "*1\r\n$6\r\nASKING\r\n");
    assert_eq!(written(|out| wire.get(b"k", out)), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    assert_eq!(written(|out| wire.delete(b"k", out)), "*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n");
    assert_eq!(written(|out| wire.set(b"k", value, None, 0, out)), "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nabcde\r\n");
    assert_eq!(
        written(|out| wire.set(b"k", value, Some(Duration::from_micros(1_500_500)), 0, out)),
        "*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nabcde\r\n$2\r\nPX\r\n$4\r\n1501\r\n"
    );
}

#[test]
fn reads_are_answered_by_a_value_or_a_null() {
    fn get(bytes: &[u8]) -> Reply<'_> {
        reply(RESP3, Expected::Get, bytes)
    }
    assert_eq!(get(b"$5\r\na\r\nbc\r\n"), Reply::Hit(b"a\r\nbc"));
    assert_eq!(get(b"$0\r\n\r\n"), Reply::Hit(b""));
    for len in [9, 10, 99, 100, 1000] {
        let value = vec![b'v'; len];
        let bytes = [format!("${len}\r\n").as_bytes(), &value, b"\r\n"].concat();
        assert_eq!(get(&bytes), Reply::Hit(&value));
    }
    for null in [&b"$-1\r\n"[..], b"_\r\n", b"*-1\r\n"] {
        assert_eq!(get(null), Reply::Miss);
    }
}

#[test]
fn writes_and_removals_are_answered_by_what_was_done() {
    assert_eq!(reply(RESP2, Expected::Set, b"+OK\r\n"), Reply::Done);
    assert_eq!(reply(RESP2, Expected::Delete, b":1\r\n"), Reply::Done);
    assert_eq!(reply(RESP2, Expected::Delete, b":12\r\n"), Reply::Done);
    assert_eq!(reply(RESP2, Expected::Delete, b":0\r\n"), Reply::Miss);
}

#[test]
fn reads_of_several_keys_are_answered_in_order() {
    let bytes = b"*5\r\n$1\r\na\r\n$-1\r\n_\r\n*-1\r\n$12\r\nabc\r\n$1\r\ndef\r\n";
    assert_eq!(values(RESP3, 5, bytes), [Some(&b"a"[..]), None, None, None, Some(b"abc\r\n$1\r\ndef")]);
    assert_eq!(values(RESP2, 0, b"*0\r\n"), Vec::<Option<&[u8]>>::new());
}

#[test]
fn an_error_among_values_answers_for_all() {
    let bytes = b"*3\r\n$1\r\na\r\n-ERR one\r\n!7\r\nERR two\r\n";
    assert_eq!(reply(RESP3, Expected::Mget(3), bytes), Reply::Error(b"ERR one"));
    let moved = Reply::Moved { slot: 7, node: "h:1" };
    assert_eq!(reply(RESP2, Expected::Mget(2), b"*2\r\n-MOVED 7 h:1\r\n$-1\r\n"), moved);
}

#[test]
fn errors_and_redirections_answer_any_request() {
    for expected in [Expected::Greeting, Expected::Get, Expected::Set, Expected::Delete, Expected::Mget(2)] {
        let said = |bytes| reply(RESP3, expected, bytes);
        assert_eq!(said(b"-ERR no\r\n"), Reply::Error(b"ERR no"));
        assert_eq!(said(b"!9\r\nERR\r\nlong\r\n"), Reply::Error(b"ERR\r\nlong"));
        assert_eq!(said(b"-MOVED 3999 127.0.0.1:6381\r\n"), Reply::Moved { slot: 3999, node: "127.0.0.1:6381" });
        assert_eq!(said(b"-MOVED 16383 :6381\r\n"), Reply::Moved { slot: 16383, node: ":6381" });
        assert_eq!(said(b"!14\r\nASK 5 ::1:6381\r\n"), Reply::Ask { node: "::1:6381" });
        for words in ["MOVED", "MOVED 16384 h:1", "MOVED x h:1", "ASK 1 nowhere", "MOVEDX 1 h:1", "MOVED\u{e9} 1 h:1"] {
            let bytes = format!("-{words}\r\n");
            assert_eq!(reply(RESP3, expected, bytes.as_bytes()), Reply::Error(words.as_bytes()));
        }
        assert_eq!(said(b"-\xff\xfe\r\n"), Reply::Error(b"\xff\xfe"));
    }
}

#[test]
fn a_greeting_is_answered_by_anything() {
    for bytes in [
        &b"+OK\r\n"[..],
        b":1\r\n",
        b"$-1\r\n",
        b"*0\r\n",
        b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n+modules\r\n*1\r\n%1\r\n$4\r\nname\r\n=7\r\ntxt:abc\r\n",
        b"*4\r\n#t\r\n,1.5\r\n(123456789012345678901234567890\r\n~2\r\n_\r\n*-1\r\n",
        b"%1\r\n|1\r\n+ttl\r\n:5\r\n+key\r\n|2\r\n+a\r\n:1\r\n+b\r\n%1\r\n:1\r\n:2\r\n$1\r\nv\r\n",
        b"*1\r\n-ERR of an item\r\n",
    ] {
        assert_eq!(reply(RESP3, Expected::Greeting, bytes), Reply::Done, "{:?}", bytes.escape_ascii());
    }
    let deep = [&b"*1\r\n".repeat(500)[..], b"+end\r\n"].concat();
    assert_eq!(reply(RESP3, Expected::Greeting, &deep), Reply::Done);
}

#[test]
fn attributes_and_pushes_ahead_of_a_reply_are_passed_over() {
    let ahead = b"|1\r\n+popularity\r\n,0.5\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n";
    let bytes = |reply: &[u8]| [&ahead[..], reply].concat();
    assert_eq!(reply(RESP3, Expected::Get, &bytes(b"$1\r\nv\r\n")), Reply::Hit(b"v"));
    assert_eq!(reply(RESP3, Expected::Set, &bytes(b"+OK\r\n")), Reply::Done);
    assert_eq!(reply(RESP3, Expected::Set, &bytes(b"-ERR no\r\n")), Reply::Error(b"ERR no"));
    assert_eq!(values(RESP3, 2, &bytes(b"*2\r\n_\r\n$1\r\nv\r\n")), [None, Some(&b"v"[..])]);
}

#[test]
fn a_value_of_a_type_that_answers_nothing_is_refused() {
    for (expected, what, unfit) in [
        (
            Expected::Get,
            "a bulk string or a null",
            &[":1\r\n", "+OK\r\n", "*0\r\n", "*1\r\n+x\r\n", "#t\r\n", "%0\r\n"][..],
        ),
        (Expected::Set, "only OK", &["$2\r\nOK\r\n", ":1\r\n", "$-1\r\n", "_\r\n", "+QUEUED\r\n", "+\r\n"]),
        (
            Expected::Delete,
            "number of keys removed",
            &["+OK\r\n", "$1\r\n1\r\n", ":-1\r\n", ":x\r\n", ":\r\n", "_\r\n"],
        ),
        (
            Expected::Mget(2),
            "as many bulk strings and nulls as keys",
            &["+OK\r\n", "*-1\r\n", "*1\r\n", "*3\r\n", "*2\r\n:1\r\n", "*2\r\n$1\r\na\r\n%0\r\n", "$1\r\na\r\n"],
        ),
    ] {
        for bytes in unfit {
            let said = refused(RESP3, expected, bytes.as_bytes());
            assert!(said.contains(what), "{expected:?}, {bytes:?}: {said}");
        }
    }
}

#[test]
fn what_is_not_resp_is_refused() {
    for (bytes, what) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "begins with this byte"),
        (b"\r\n", "begins with this byte"),
        (b"$536870913\r\n", "up to 512 MiB"),
        (b"$9999999999\r\n", "up to 512 MiB"),
        (b"$0000000001\r\n", "up to 512 MiB"),
        (b"$-2\r\n", "neither -1 nor"),
        (b"$-1x\r\n", "neither -1 nor"),
        (b"$\r\n", "neither -1 nor"),
        (b"$1x\r\n", "neither -1 nor"),
        (b"$1\rx", "neither -1 nor"),
        (b"$?\r\n", "neither -1 nor"),
        (b"!-1\r\n", "neither -1 nor"),
        (b"$1\r\nabc", "no CR LF"),
        (b"-ERR\n", "LF without CR"),
    ] {
        let said = refused(RESP2, Expected::Get, bytes);
        assert!(said.contains(what), "{:?}: {said}", bytes.escape_ascii());
    }
    assert!(refused(RESP3, Expected::Greeting, b"*2\r\n+a\r\nx").contains("begins with this byte"));
    assert!(refused(RESP3, Expected::Mget(1), b"*1\r\nx").contains("begins with this byte"));
}

#[test]
fn a_null_is_not_taken_for_more_than_it_is() {
    assert_eq!(taken(RESP2, Expected::Get, b"$-1\r\n").0, Progress::Whole(Reply::Miss, 5));
    let progress = wire(RESP2).decode(Expected::Get, b"$-1\r\n$-1\r\n", &mut Vec::new());
    assert_eq!(progress, Progress::Whole(Reply::Miss, 5));
}

proptest! {
    #[test]
    fn requests_are_read_back_by_the_server(
        keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..12),
        value in proptest::collection::vec(any::<u8>(), 0..1200),
        cut in any::<proptest::sample::Index>(),
        ttl in proptest::option::of(0..u64::MAX),
    ) {
        let (wire, mut out) = (wire(RESP3), Vec::new());
        let (first, second) = value.split_at(cut.index(value.len() + 1));
        let key = &keys[0];
        wire.get(key, &mut out);
        wire.set(key, Value(first, second), ttl.map(Duration::from_millis), 0, &mut out);
        wire.mget_begin(keys.len(), &mut out);
        keys.iter().for_each(|key| wire.mget_key(key, &mut out));
        wire.mget_end(&mut out);
        wire.delete(key, &mut out);
        let mut set = vec![b"SET".to_vec(), key.clone(), value.clone()];
        if let Some(ms) = ttl {
            set.extend([b"PX".to_vec(), ms.max(1).to_string().into_bytes()]);
        }
        let mget = [vec![b"MGET".to_vec()], keys.clone()].concat();
        let expected = vec![vec![b"GET".to_vec(), key.clone()], set, mget, vec![b"DEL".to_vec(), key.clone()]];
        prop_assert_eq!(requests(&out), expected);
    }
}
