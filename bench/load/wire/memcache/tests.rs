//! Requests as memcached's `doc/protocol.txt` writes them, and every reply that it may give.

use super::super::tests::{refused, reply, taken, values, wire, written};
use super::super::{Progress, Protocol, Wire};
use super::*;

const TEXT: Protocol = Protocol::MemcacheText;
const META: Protocol = Protocol::MemcacheMeta;
const NOW: u64 = 1_800_000_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn the_credentials_are_the_first_value() {
    for protocol in [TEXT, META] {
        for (user, said) in [(Some("ada"), "set auth 0 0 6\r\nada pw\r\n"), (None, "set auth 0 0 10\r\ndefault pw\r\n")]
        {
            let who = Credentials { user: user.map(str::to_owned), password: "pw".to_owned() };
            let wire = Wire::new(protocol, "cache:11211", Some(&who));
            let mut due = 0;
            assert_eq!(written(|out| due = wire.greet(out)), said);
            assert_eq!(due, 1);
        }
        assert_eq!(wire(protocol).greet(&mut Vec::new()), 0);
        assert_eq!(reply(protocol, Expected::Greeting, b"STORED\r\n"), Reply::Done);
        let failure = b"CLIENT_ERROR authentication failure\r\n";
        assert_eq!(reply(protocol, Expected::Greeting, failure), Reply::Error(&failure[..failure.len() - 2]));
        assert!(refused(protocol, Expected::Greeting, b"HD\r\n").contains("the credentials"));
    }
}

#[test]
fn requests_of_the_text_protocol() {
    let wire = wire(TEXT);
    assert_eq!(written(|out| wire.get(b"k", out)), "get k\r\n");
    assert_eq!(written(|out| wire.delete(b"k", out)), "delete k\r\n");
    let set = |ttl| written(|out| wire.set(b"k", Value(b"ab", b"cde"), ttl, NOW, out));
    assert_eq!(set(None), "set k 0 0 5\r\nabcde\r\n");
    assert_eq!(set(Some(Duration::from_millis(60_001))), "set k 0 61 5\r\nabcde\r\n");
    let several = |out: &mut Vec<u8>| {
        wire.mget_begin(2, out);
        wire.mget_key(b"a", out);
        wire.mget_key(b"b", out);
        wire.mget_end(out);
    };
    assert_eq!(written(several), "get a b\r\n");
}

#[test]
fn requests_of_the_meta_protocol() {
    let wire = wire(META);
    assert_eq!(written(|out| wire.get(b"k", out)), "mg k v\r\n");
    assert_eq!(written(|out| wire.delete(b"k", out)), "md k\r\n");
    let set = |ttl| written(|out| wire.set(b"k", Value(b"ab", b"cde"), ttl, NOW, out));
    assert_eq!(set(None), "ms k 5\r\nabcde\r\n");
    assert_eq!(set(Some(Duration::ZERO)), "ms k 5 T1\r\nabcde\r\n");
    let several = |out: &mut Vec<u8>| {
        wire.mget_begin(2, out);
        wire.mget_key(b"a", out);
        wire.mget_key(b"b", out);
        wire.mget_end(out);
    };
    assert_eq!(written(several), "mg a v\r\nmg b v\r\n");
}

#[test]
fn a_time_to_live_over_30_days_becomes_a_moment() {
    assert_eq!(expiry(DAY * 30, NOW), 30 * 24 * 60 * 60);
    assert_eq!(expiry(DAY * 30 + Duration::from_nanos(1), NOW), NOW + 30 * 24 * 60 * 60 + 1);
    assert_eq!(expiry(DAY * 365, NOW), NOW + 365 * 24 * 60 * 60);
    assert_eq!(expiry(Duration::from_nanos(1), NOW), 1);
    assert_eq!(expiry(Duration::MAX, NOW), u64::MAX);
}

#[test]
fn replies_of_the_text_protocol() {
    assert_eq!(reply(TEXT, Expected::Get, b"VALUE k 0 5\r\na\r\nbc\r\nEND\r\n"), Reply::Hit(b"a\r\nbc"));
    assert_eq!(reply(TEXT, Expected::Get, b"VALUE key 123 0 99\r\n\r\nEND\r\n"), Reply::Hit(b""));
    assert_eq!(reply(TEXT, Expected::Get, b"END\r\n"), Reply::Miss);
    assert_eq!(reply(TEXT, Expected::Set, b"STORED\r\n"), Reply::Done);
    assert_eq!(reply(TEXT, Expected::Set, b"NOT_STORED\r\n"), Reply::Error(b"NOT_STORED"));
    assert_eq!(reply(TEXT, Expected::Delete, b"DELETED\r\n"), Reply::Done);
    assert_eq!(reply(TEXT, Expected::Delete, b"NOT_FOUND\r\n"), Reply::Miss);
}

#[test]
fn values_of_the_text_protocol_name_their_keys() {
    let bytes = b"VALUE a 0 1\r\n1\r\nVALUE ccc 0 5\r\nEND\r\n\r\nEND\r\n";
    let (progress, items) = taken(TEXT, Expected::Mget(3), bytes);
    assert_eq!(progress, Progress::Whole(Reply::Items, bytes.len()));
    let found = items.into_iter().map(|item| item.key.zip(item.value).expect("a key and a value"));
    let found: Vec<_> = found.map(|(key, value)| (&bytes[key], &bytes[value])).collect();
    assert_eq!(found, [(&b"a"[..], &b"1"[..]), (b"ccc", b"END\r\n")]);
    assert_eq!(values(TEXT, 3, b"END\r\n"), Vec::<Option<&[u8]>>::new());
}

#[test]
fn replies_of_the_meta_protocol() {
    assert_eq!(reply(META, Expected::Get, b"VA 5\r\na\r\nbc\r\n"), Reply::Hit(b"a\r\nbc"));
    assert_eq!(reply(META, Expected::Get, b"VA 0 f1 t30 W\r\n\r\n"), Reply::Hit(b""));
    assert_eq!(reply(META, Expected::Get, b"EN\r\n"), Reply::Miss);
    assert_eq!(reply(META, Expected::Set, b"HD\r\n"), Reply::Done);
    assert_eq!(reply(META, Expected::Set, b"HD O1\r\n"), Reply::Done);
    for word in ["NS", "EX", "NF"] {
        let bytes = format!("{word}\r\n");
        assert_eq!(reply(META, Expected::Set, bytes.as_bytes()), Reply::Error(word.as_bytes()));
    }
    assert_eq!(reply(META, Expected::Delete, b"HD\r\n"), Reply::Done);
    assert_eq!(reply(META, Expected::Delete, b"NF\r\n"), Reply::Miss);
    assert_eq!(reply(META, Expected::Delete, b"EX\r\n"), Reply::Error(b"EX"));
    assert_eq!(values(META, 3, b"EN\r\nVA 4\r\nEN\r\n\r\nEN\r\n"), [None, Some(&b"EN\r\n"[..]), None]);
}

#[test]
fn an_error_takes_the_place_of_any_reply() {
    for protocol in [TEXT, META] {
        for expected in [Expected::Greeting, Expected::Get, Expected::Set, Expected::Delete, Expected::Mget(1)] {
            for words in ["ERROR", "CLIENT_ERROR bad command line format", "SERVER_ERROR out of memory"] {
                let bytes = format!("{words}\r\n");
                assert_eq!(reply(protocol, expected, bytes.as_bytes()), Reply::Error(words.as_bytes()));
            }
        }
    }
    let late = b"VALUE a 0 1\r\n1\r\nSERVER_ERROR out of memory writing get response\r\n";
    let error = Reply::Error(b"SERVER_ERROR out of memory writing get response");
    assert_eq!(reply(TEXT, Expected::Mget(2), late), error);
    assert_eq!(reply(TEXT, Expected::Get, late), error);
    let among = b"VA 1\r\na\r\nSERVER_ERROR one\r\nCLIENT_ERROR two\r\nEN\r\n";
    assert_eq!(reply(META, Expected::Mget(4), among), Reply::Error(b"SERVER_ERROR one"));
}

#[test]
fn what_answers_nothing_is_refused() {
    for (protocol, expected, bytes, what) in [
        (TEXT, Expected::Get, &b"STORED\r\n"[..], "a read is answered"),
        (TEXT, Expected::Get, b"-ERR unknown command 'get'\r\n", "a read is answered"),
        (TEXT, Expected::Get, b"VALUE k 0\r\n", "a read is answered"),
        (TEXT, Expected::Get, b"VALUE k 0 x\r\n", "up to 512 MiB"),
        (TEXT, Expected::Get, b"VALUE k 0 -1\r\n", "up to 512 MiB"),
        (TEXT, Expected::Get, b"VALUE k 0 536870913\r\n", "up to 512 MiB"),
        (TEXT, Expected::Get, b"VALUE k 0 99999999999999999999\r\n", "up to 512 MiB"),
        (TEXT, Expected::Get, b"VALUE k 0 \r\n", "up to 512 MiB"),
        (TEXT, Expected::Get, b"VALUE k 0 1\r\nabcdefgh", "no CR LF"),
        (TEXT, Expected::Get, b"VALUE k 0 1\r\na\r\nVALUE l 0 1\r\nb\r\nEND\r\n", "more values than keys"),
        (TEXT, Expected::Mget(1), b"VALUE k 0 1\r\na\r\nVALUE l 0 1\r\nb\r\nEND\r\n", "more values than keys"),
        (TEXT, Expected::Get, b"VALUE k 0 1\r\na\r\nSTORED\r\n", "a read is answered"),
        (TEXT, Expected::Get, b"END\n", "LF without CR"),
        (TEXT, Expected::Set, b"HD\r\n", "answers a write"),
        (TEXT, Expected::Set, b"DELETED\r\n", "answers a write"),
        (TEXT, Expected::Delete, b"STORED\r\n", "answers a removal"),
        (META, Expected::Get, b"HD\r\n", "a read is answered"),
        (META, Expected::Get, b"END\r\n", "a read is answered"),
        (META, Expected::Get, b"VA\r\n", "a read is answered"),
        (META, Expected::Get, b"VA x\r\n", "up to 512 MiB"),
        (META, Expected::Mget(2), b"EN\r\nVALUE\r\n", "a read is answered"),
        (META, Expected::Set, b"STORED\r\n", "answers a write"),
        (META, Expected::Delete, b"EN\r\n", "answers a removal"),
    ] {
        let said = refused(protocol, expected, bytes);
        assert!(said.contains(what), "{protocol}, {:?}: {said}", bytes.escape_ascii());
    }
}
