//! Goal: memcached's requests and replies to the letter, and the same requests however the bytes are cut. Method: lines
//! beside what they are read as and what is answered; a driver that cuts a stream, beside one that does not.

use super::*;
use crate::base::UnixMillis;
use crate::command::{
    Ask, Claim, Count, Expiry, Lease, Leased, Op, OpError, Outcome, Payload, Remove, ReplySink, Store, StoreMode, Value,
};

/// What every `mg` asks for.
const STALE: Option<Ask> = Some(Ask { claim: Claim::Stale, ..Ask::NOTHING });
use proptest::prelude::*;

const LIMITS: Limits = Limits { key_bytes_max: 1000, value_bytes_max: 100, access_times: false };
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// A request with its key and its data, or why the stream cannot go on.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Key(Vec<u8>, Vec<u8>, KeyRequest),
    Other(Request),
    Malformed(&'static str),
}

/// Reads a stream that arrives in pieces which end at `cuts`; answers what was read, and how many bytes were left over.
fn read(stream: &[u8], cuts: &[usize]) -> (Vec<Seen>, usize) {
    let (mut parser, mut seen, mut at, mut need) = (Parser::default(), Vec::new(), 0, 0);
    for &end in cuts.iter().chain([&stream.len()]) {
        while end - at >= need {
            let mut decoded = b"before".to_vec();
            let input = &stream[at..end];
            match parser.advance(input, &LIMITS, &mut decoded) {
                Progress::Done(Request::Key(request), length) => {
                    let key = request.key.of(if request.is_decoded { &decoded } else { input }).to_vec();
                    let bytes = request.bytes.of(input).to_vec();
                    // Places depend on the cuts, and what they hold is compared instead.
                    let request = KeyRequest { key: Default::default(), bytes: Default::default(), ..request };
                    seen.push(Seen::Key(key, bytes, request));
                    (at, need) = (at + length, 0);
                }
                Progress::Done(request, length) => {
                    seen.push(Seen::Other(request));
                    (at, need) = (at + length, 0);
                }
                Progress::Passed(length) => at += length,
                Progress::Incomplete(more) => {
                    assert!(more > input.len(), "more is asked for than there is");
                    need = more;
                }
                Progress::Malformed(text) => {
                    seen.push(Seen::Malformed(text));
                    return (seen, stream.len() - at);
                }
            }
            if at == end {
                break;
            }
        }
    }
    (seen, stream.len() - at)
}

/// The requests of a stream that they are all of.
fn all(stream: impl AsRef<[u8]>) -> Vec<Seen> {
    let (seen, left) = read(stream.as_ref(), &[]);
    assert_eq!(left, 0, "{}", stream.as_ref().escape_ascii());
    seen
}

/// The one request on a key.
fn one(stream: impl AsRef<[u8]>) -> (Vec<u8>, Vec<u8>, KeyRequest) {
    match all(&stream).as_slice() {
        [Seen::Key(key, bytes, request)] => (key.clone(), bytes.clone(), *request),
        other => panic!("{} is {other:?}", stream.as_ref().escape_ascii()),
    }
}

fn op(stream: impl AsRef<[u8]>) -> Op<'static> {
    one(stream).2.op
}

/// What is answered to a request that no key decides.
fn answer(stream: impl AsRef<[u8]>) -> &'static str {
    match all(&stream).as_slice() {
        [Seen::Other(Request::Refused(text) | Request::Answer(text) | Request::Flush(_, text))] => text,
        other => panic!("{} is {other:?}", stream.as_ref().escape_ascii()),
    }
}

/// The reply to a request that the engine answers by `with`.
fn reply(stream: impl AsRef<[u8]>, with: impl Fn(&mut Encoder<'_>)) -> String {
    let (key, _, request) = one(stream);
    let mut out = b"before ".to_vec();
    with(&mut Encoder::new(&mut out, &request.form, &key, NOW));
    String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
}

fn value(bytes: &[u8]) -> Value<'_> {
    let expires_at = Some(NOW.0 + 9_001);
    Value { payload: Payload::Whole(bytes), version: 77, expires_at, flags: 5, was_read: true, ..Value::EMPTY }
}

fn hit(stream: &str) -> String {
    reply(stream, |out| out.value(&value(b"abc")))
}

fn miss(stream: &str) -> String {
    reply(stream, |out| out.null())
}

fn outcome(stream: &str, outcome: Outcome) -> String {
    reply(stream, |out| out.outcome(outcome))
}

const DONE: Outcome = Outcome::Done { version: 9, created: true };
const DIFFERS: Outcome = Outcome::Differs { version: 9 };
const COUNTED: Outcome = Outcome::Counted { number: 120, version: 9, expires_at: None };

#[test]
fn a_store_says_all_that_its_line_does() {
    let store = Store { flags: 7, ..Store::new(StoreMode::Set, Expiry::In(60_000)) };
    let (key, data, request) = one("set some:key 7 60 4\r\n\r\n\r\n\r\n");
    assert_eq!((key.as_slice(), data.as_slice()), (&b"some:key"[..], &b"\r\n\r\n"[..]));
    assert_eq!(request.op, Op::Store(store));
    let of = |mode| Op::Store(Store { mode, ..store });
    assert_eq!(op("add k 7 60 1\r\nx\r\n"), of(StoreMode::Add));
    assert_eq!(op("replace k 7 60 1\r\nx\r\n"), of(StoreMode::Replace));
    assert_eq!(op("append k 7 60 1\r\nx\r\n"), of(StoreMode::Append));
    assert_eq!(op("prepend k 7 60 1 noreply\r\nx\r\n"), of(StoreMode::Prepend));
    assert_eq!(op("cas k 7 60 1 99\r\nx\r\n"), Op::Store(Store { compare: Some(99), ..store }));
    assert_eq!(op("set k 7 60 0\n\r\n"), Op::Store(store), "a line may end without a carriage return");
    let never = Store { expiry: Expiry::Never, flags: u32::MAX, ..store };
    assert_eq!(op("set k 4294967295 0 1\r\nx\r\n"), Op::Store(never));
    let gone = Store { expiry: Expiry::In(0), ..store };
    assert_eq!(op("set k 7 -1 1\r\nx\r\n"), Op::Store(gone));
}

#[test]
fn a_get_is_a_request_for_each_key_and_one_for_the_end() {
    let keys = |stream: &str| -> Vec<(String, bool)> {
        let name = |seen: &Seen| match seen {
            Seen::Key(key, _, request) => (String::from_utf8_lossy(key).into_owned(), request.is_first),
            Seen::Other(Request::End) => ("END".into(), false),
            other => panic!("{other:?}"),
        };
        all(stream).iter().map(name).collect()
    };
    let expected = |names: &[&str]| -> Vec<(String, bool)> {
        names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), i == 0)).collect()
    };
    assert_eq!(keys("get a\r\n"), expected(&["a", "END"]));
    assert_eq!(keys("gets  a   bc d \r\n"), expected(&["a", "bc", "d", "END"]));
    assert_eq!(keys("get a b\n"), expected(&["a", "b", "END"]));
    assert_eq!(keys("gat 10 a b\r\n"), expected(&["a", "b", "END"]));
    assert_eq!(keys("gats 10\r\n")[0].0, "END");
    let Seen::Key(_, _, request) = &all("gat 10 a\r\n")[0] else { panic!("a key") };
    assert_eq!(request.op, Op::Fetch { expiry: Expiry::In(10_000), bump: true, ask: None });
}

#[test]
fn short_requests_are_read() {
    let count = Count { delta: 5, down: false, initial: None, expiry: Expiry::Keep, compare: None, version: 0 };
    assert_eq!(op("incr k 5\r\n"), Op::Count(count));
    assert_eq!(op("decr k 5 noreply\r\n"), Op::Count(Count { down: true, ..count }));
    for delete in ["delete k\r\n", "delete k 0\r\n", "delete k noreply\r\n", "delete k 0 noreply\r\n"] {
        assert_eq!(op(delete), Op::Remove(Remove::default()), "{delete}");
    }
    assert_eq!(op("touch k 0\r\n"), Op::Fetch { expiry: Expiry::Never, bump: true, ask: None });
    assert_eq!(all("version\r\n"), [Seen::Other(Request::Version)]);
    assert_eq!(all("quit\r\n"), [Seen::Other(Request::Quit)]);
    for (line, of) in [
        ("stats", StatsOf::General),
        ("stats settings", StatsOf::Settings),
        ("stats items", StatsOf::Items),
        ("stats slabs 1", StatsOf::Slabs),
        ("stats sizes", StatsOf::Sizes),
    ] {
        assert_eq!(all(format!("{line}\r\n")), [Seen::Other(Request::Stats(of))]);
    }
    for line in ["stats reset", "stats conns", "stats cachedump 1 1"] {
        assert!(matches!(all(format!("{line}\r\n"))[..], [Seen::Other(Request::Refused(_))]), "{line}");
    }
    assert_eq!(all("flush_all 0\r\n"), [Seen::Other(Request::Flush(Expiry::In(0), "OK\r\n"))]);
    assert_eq!(all("flush_all 10\r\n"), [Seen::Other(Request::Flush(Expiry::In(10_000), "OK\r\n"))]);
    assert_eq!(
        all("flush_all 1900000000 noreply\r\n"),
        [Seen::Other(Request::Flush(Expiry::At(1_900_000_000_000), ""))]
    );
    assert_eq!(all("flush_all noreply\r\n"), [Seen::Other(Request::Flush(Expiry::In(0), ""))]);
    assert_eq!(
        (answer("mn\r\n"), answer("verbosity 1\r\n"), answer("verbosity 1 noreply\r\n")),
        ("MN\r\n", "OK\r\n", "")
    );
    assert_eq!(all("GET / HTTP/1.1\r\n"), [Seen::Other(Request::Quit)], "no browser is answered");
}

#[test]
fn wrong_requests_are_refused_as_memcached_refuses_them() {
    let long = "k".repeat(251);
    for (line, text) in [
        ("", "ERROR"),
        ("get", "ERROR"),
        ("gat", "ERROR"),
        ("SET k 0 0 1", "ERROR"),
        ("set k 0 0", "ERROR"),
        ("set k 0 0 1 noreply extra", "ERROR"),
        ("incr k", "ERROR"),
        ("touch k", "ERROR"),
        ("delete a b c d", "ERROR"),
        ("mx k", "ERROR"),
        ("mg", "ERROR"),
        ("ms", "ERROR"),
        ("set k 0 0 -1", "CLIENT_ERROR bad command line format"),
        ("set k 0 0 99999999999", "CLIENT_ERROR bad command line format"),
        ("ms k x", "CLIENT_ERROR bad command line format"),
        ("me", "CLIENT_ERROR bad command line format"),
        (&format!("get {long}"), "CLIENT_ERROR bad command line format"),
        (&format!("get a {long}"), "CLIENT_ERROR bad command line format"),
        (&format!("mg {long} v"), "CLIENT_ERROR bad command line format"),
        (&format!("incr {long} 1"), "CLIENT_ERROR bad command line format"),
        ("get a\tb", "CLIENT_ERROR bad command line format"),
        ("incr k -1", "CLIENT_ERROR invalid numeric delta argument"),
        ("touch k soon", "CLIENT_ERROR invalid exptime argument"),
        ("gat soon k", "CLIENT_ERROR invalid exptime argument"),
        ("flush_all soon", "CLIENT_ERROR invalid exptime argument"),
        ("delete k 5", "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"),
        ("mg k v v", "CLIENT_ERROR duplicate flag"),
        ("mg k z", "CLIENT_ERROR invalid flag"),
        ("mg k \u{fc}", "CLIENT_ERROR invalid flag"),
        ("mg k Tsoon", "CLIENT_ERROR bad token in command line format"),
        ("mg Zg b", "CLIENT_ERROR error decoding key"),
        ("md Zg b", "CLIENT_ERROR invalid or duplicate flag"),
        ("ma k Dx", "CLIENT_ERROR invalid or duplicate flag"),
        ("ma k MX", "CLIENT_ERROR invalid mode for ma M token"),
        (&format!("mg k O{}", "o".repeat(33)), "CLIENT_ERROR opaque token too long"),
        (&format!("mg k{}", " v".repeat(18)), "CLIENT_ERROR options flags are too long"),
        ("mg k l", "CLIENT_ERROR flag l takes access_times = true in the server's settings"),
        ("mg k Rsoon", "CLIENT_ERROR bad token in command line format"),
    ] {
        assert_eq!(answer(format!("{line}\r\n")), format!("{text}\r\n"), "{line}");
    }
    for line in ["set k x 0 1 noreply", "cas k 0 0 1 x noreply", &format!("set {long} 0 0 1 noreply")] {
        assert_eq!(answer(format!("{line}\r\nx\r\n")), "", "{line}");
    }
}

#[test]
fn data_of_a_refused_request_is_not_taken_for_requests() {
    let flush = "\r\nflush_all\r\n";
    let long = "k".repeat(251);
    for line in [
        &format!("set {long} 0 0 {}", flush.len()),
        "set k x 0 13",
        "set k -1 0 13",
        "ms k 13 v v",
        "ms k 13 Ex",
        "ms k 13 MX",
    ] {
        let stream = format!("{line}\r\n{flush}\r\nmn\r\n");
        let seen = all(&stream);
        assert!(matches!(seen[0], Seen::Other(Request::Refused(_))), "{line}: {seen:?}");
        assert_eq!(seen[1..], [Seen::Other(Request::Answer("MN\r\n"))], "{line}");
    }
}

#[test]
fn too_large_a_value_is_passed_over_and_what_was_there_removed() {
    let lines =
        ["set k 0 0 101", "ms k 101 q", "ms k 101 ME C9", "add k 0 0 101", "append k 0 0 101", "cas k 0 0 101 9"];
    let stream: String = lines.iter().map(|line| format!("{line}\r\n{}\r\n", "x".repeat(101))).collect();
    let seen = all(format!("{stream}mn\r\n"));
    assert_eq!((seen.len(), &seen[6]), (7, &Seen::Other(Request::Answer("MN\r\n"))));
    for (i, seen) in seen[..6].iter().enumerate() {
        let Seen::Key(key, _, request) = seen else { panic!("{seen:?}") };
        // What only adds, joins or compares leaves it, unless it is a meta request.
        let compare = (i >= 3).then_some(u64::MAX);
        let removed = (key.as_slice(), request.op, request.form.is_too_large());
        assert_eq!(removed, (&b"k"[..], Op::Remove(Remove { compare, ..Remove::default() }), true), "{}", lines[i]);
        let mut out = Vec::new();
        Encoder::new(&mut out, &request.form, key, NOW).outcome(Outcome::NotFound);
        assert_eq!(out, b"SERVER_ERROR object too large for cache\r\n");
    }
}

#[test]
fn data_that_does_not_end_where_it_should_is_refused() {
    let bad = Seen::Other(Request::Refused("CLIENT_ERROR bad data chunk\r\n"));
    assert_eq!(all("set k 0 0 1\r\nxyzms k 1 q\r\nxyz"), [bad.clone(), bad]);
    assert_eq!(all("set k 0 0 1 noreply\r\nxyz"), [Seen::Other(Request::Refused(""))]);
}

#[test]
fn lines_without_an_end_and_the_binary_protocol_end_the_connection() {
    let too_long = [Seen::Malformed("a line is too long")];
    assert_eq!(read(&[b'x'; 4095], &[7]), (Vec::new(), 4095), "it may still end");
    assert_eq!(read(&[b'x'; 4096], &[7]).0, too_long);
    assert_eq!(read(&[b"x".repeat(4096).as_slice(), b"\r\n"].concat(), &[]).0, too_long);
    let keys = "get key ".repeat(100_000);
    assert_eq!(read(&keys.as_bytes()[..(1 << 19)], &[7]), (Vec::new(), 1 << 19), "there may be many keys");
    assert_eq!(read(&[keys.as_bytes(), keys.as_bytes()].concat(), &[7]).0, too_long);
    assert!(matches!(read(&[0x80, 0, 0], &[]).0[..], [Seen::Malformed(_)]));
}

#[test]
fn meta_requests_say_what_their_flags_do() {
    assert_eq!(op("mg k\r\n"), Op::Fetch { expiry: Expiry::Keep, bump: true, ask: STALE });
    assert_eq!(op("mg k u T30 P1 Lx\r\n"), Op::Fetch { expiry: Expiry::In(30_000), bump: false, ask: STALE });
    assert_eq!(op("me k\r\n"), Op::Fetch { expiry: Expiry::Keep, bump: false, ask: None });
    assert_eq!(op("md k C5 q\r\n"), Op::Remove(Remove { compare: Some(5), ..Remove::default() }));
    let count = Count { delta: 1, down: false, initial: None, expiry: Expiry::Keep, compare: None, version: 0 };
    assert_eq!(op("ma k\r\n"), Op::Count(count));
    let full = Count {
        delta: 3,
        down: true,
        initial: Some((13, Expiry::In(9000))),
        expiry: Expiry::In(5000),
        compare: Some(8),
        version: 0,
    };
    assert_eq!(op("ma k MD D3 N9 J13 T5 C8\r\n"), Op::Count(full));
    assert_eq!(op("ma k E6 MD D3 N9 J13 T5 C8\r\n"), Op::Count(Count { version: 6, ..full }));
    assert_eq!(op("ma k M- D3 N9 J13 T5 C8\r\n"), Op::Count(full));
    let store = Store::new(StoreMode::Set, Expiry::Never);
    assert_eq!(op("ms k 2\r\nab\r\n"), Op::Store(store));
    let full = Store { flags: 5, expiry: Expiry::In(7000), mode: StoreMode::Add, compare: Some(8), ..store };
    assert_eq!(op("ms k 2 F5 T7 ME C8\r\nab\r\n"), Op::Store(full));
    assert_eq!(op("ms k 2 E18446744073709551615\r\nab\r\n"), Op::Store(Store { version: u64::MAX, ..store }));
    let stale = Remove { stale: Some(Expiry::Keep), version: 6, ..Remove::default() };
    assert_eq!(op("md k I E6\r\n"), Op::Remove(stale));
    let ask = Some(Ask { claim: Claim::Missing, term_ms: 30_000, version: 6, ..Ask::NOTHING });
    assert_eq!(op("mg k E6 N30\r\n"), Op::Fetch { expiry: Expiry::Keep, bump: true, ask });
    let append = Store { mode: StoreMode::Append, ..store };
    assert_eq!(op("ms k 2 MA\r\nab\r\n"), Op::Store(append));
    let create = Store { create: true, expiry: Expiry::In(9000), ..append };
    assert_eq!(op("ms k 2 MA N9 T7\r\nab\r\n"), Op::Store(create));
    assert_eq!(
        op("ms k 2 N9 T7\r\nab\r\n"),
        Op::Store(Store { expiry: Expiry::In(7000), ..store }),
        "N is for MA and MP"
    );
    assert_eq!(one("mg AAoN/w== b\r\n").0, b"\x00\n\r\xff");
}

#[test]
fn replies_of_the_text_protocol() {
    assert_eq!(hit_of_get("get k\r\n"), "VALUE k 5 3\r\nabc\r\n");
    assert_eq!(hit_of_get("gets k\r\n"), "VALUE k 5 3 77\r\nabc\r\n");
    assert_eq!((hit("touch k 1\r\n"), miss("touch k 1\r\n")), ("TOUCHED\r\n".into(), "NOT_FOUND\r\n".into()));
    assert_eq!((hit("touch k 1 noreply\r\n"), miss("touch k 1 noreply\r\n")), (String::new(), String::new()));
    let set = "set k 0 0 1\r\nx\r\n";
    assert_eq!(outcome(set, DONE), "STORED\r\n");
    assert_eq!(outcome(set, Outcome::NotStored), "NOT_STORED\r\n");
    assert_eq!(outcome(set, Outcome::NotFound), "NOT_FOUND\r\n");
    assert_eq!(outcome(set, DIFFERS), "EXISTS\r\n");
    assert_eq!(outcome("set k 0 0 1 noreply\r\nx\r\n", DIFFERS), "");
    assert_eq!(outcome("delete k\r\n", DONE), "DELETED\r\n");
    assert_eq!(outcome("delete k\r\n", Outcome::NotFound), "NOT_FOUND\r\n");
    assert_eq!(outcome("incr k 1\r\n", COUNTED), "120\r\n");
    let refused = |stream: &str, error| reply(stream, |out| out.refused(error));
    assert_eq!(
        refused("incr k 1\r\n", OpError::NotAnInteger),
        "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
    );
    assert_eq!(refused("incr k 1 noreply\r\n", OpError::NotAnInteger), "");
    assert_eq!(refused(set, OpError::OutOfMemory), "SERVER_ERROR out of memory storing object\r\n");
    assert_eq!(refused(set, OpError::TooLarge), "SERVER_ERROR object too large for cache\r\n");
}

fn hit_of_get(stream: &str) -> String {
    let Some(Seen::Key(key, _, request)) = all(stream).into_iter().next() else { panic!("{stream}") };
    let (mut hit, mut miss) = (Vec::new(), Vec::new());
    Encoder::new(&mut miss, &request.form, &key, NOW).null();
    assert_eq!(miss, b"");
    let pieces: [&[u8]; 2] = [b"a", b"bc"];
    Encoder::new(&mut hit, &request.form, &key, NOW).value(&Value { payload: Payload::Pieces(&pieces), ..value(b"") });
    String::from_utf8(hit).unwrap()
}

#[test]
fn replies_of_the_meta_protocol() {
    assert_eq!(hit("mg k\r\n"), "HD\r\n");
    assert_eq!(hit("mg k v\r\n"), "VA 3\r\nabc\r\n");
    assert_eq!(hit("mg k s k t f O1 c v h q\r\n"), "VA 3 s3 kk t10 f5 O1 c77 h1\r\nabc\r\n");
    assert_eq!(hit("mg YQ== b k O v\r\n"), "VA 3 kYQ== b O\r\nabc\r\n");
    assert_eq!(hit("mg k v C77 c\r\n"), "HD c77\r\n", "the client has it already");
    assert_eq!(hit("mg k v C76 c\r\n"), "VA 3 c77\r\nabc\r\n");
    assert_eq!(miss("mg k v s k t O1\r\n"), "EN kk O1\r\n");
    assert_eq!(miss("mg k v q k O1\r\n"), "");
    assert_eq!(hit("me k\r\n"), "ME k exp=10 cas=77 fetch=yes cls=1 size=3\r\n");
    assert_eq!(hit("me YQ== b\r\n"), "ME YQ== exp=10 cas=77 fetch=yes cls=1 size=3\r\n");
    assert_eq!(miss("me k\r\n"), "EN\r\n");
    let set = "ms k 2 c k O1 s\r\nab\r\n";
    assert_eq!(outcome(set, DONE), "HD c9 kk O1 s2\r\n");
    assert_eq!(outcome(set, Outcome::NotStored), "NS kk O1\r\n");
    assert_eq!(outcome(set, Outcome::NotFound), "NF kk O1\r\n");
    assert_eq!(outcome(set, DIFFERS), "EX kk O1\r\n");
    assert_eq!((outcome("ms k 0 q\r\n\r\n", DONE), outcome("ms k 0 q\r\n\r\n", DIFFERS)), ("".into(), "EX\r\n".into()));
    assert_eq!((outcome("md k q\r\n", DONE), outcome("md k q\r\n", Outcome::NotFound)), ("".into(), "NF\r\n".into()));
    assert_eq!(outcome("ma k t v c\r\n", COUNTED), "VA 3 t-1 c9\r\n120\r\n");
    assert_eq!((outcome("ma k t\r\n", COUNTED), outcome("ma k q v\r\n", COUNTED)), ("HD t-1\r\n".into(), "".into()));
    assert_eq!(
        reply("ms k 1 q\r\nx\r\n", |out| out.refused(OpError::OutOfMemory)),
        "SERVER_ERROR out of memory storing object\r\n"
    );
}

/// Lines that are requests or nearly so, with their data.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("get"),
        Just("gets"),
        Just("gat"),
        Just("set"),
        Just("cas"),
        Just("incr"),
        Just("delete"),
        Just("touch"),
        Just("mg"),
        Just("ms"),
        Just("md"),
        Just("ma"),
        Just("me"),
        Just("mn"),
        Just("k"),
        Just("YWJj"),
        Just("0"),
        Just("1"),
        Just("3"),
        Just("150"),
        Just("-1"),
        Just("noreply"),
        Just("v"),
        Just("q"),
        Just("b"),
        Just("k1"),
        Just("O123"),
        Just("T5"),
        Just("C7"),
        Just("MA"),
        Just("N3"),
        Just("E1"),
        Just("c"),
        Just("t"),
    ];
    let words = proptest::collection::vec(word, 0..8).prop_map(|words| words.join(" ").into_bytes());
    let data = prop_oneof![Just(0usize), Just(1), Just(3), Just(150)].prop_map(|n| vec![b'd'; n]);
    let set = data.clone().prop_map(|data| {
        let mut all = format!("set key 1 2 {}\r\n", data.len()).into_bytes();
        all.extend_from_slice(&data);
        all
    });
    let meta = data.prop_map(|data| {
        let mut all = format!("ms a2V5 {} b k\r\n", data.len()).into_bytes();
        all.extend_from_slice(&data);
        all
    });
    (prop_oneof![words, set, meta], prop_oneof![Just("\r\n"), Just("\n")]).prop_map(|(mut line, end)| {
        line.extend_from_slice(end.as_bytes());
        line
    })
}

proptest! {
    #[test]
    fn cuts_change_nothing(lines in proptest::collection::vec(lines(), 1..12), cuts in proptest::collection::vec(any::<u16>(), 0..12)) {
        let stream = lines.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (stream.len() + 1)).collect();
        cuts.sort_unstable();
        let single: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(read(&stream, &cuts), read(&stream, &[]));
        prop_assert_eq!(read(&stream, &single), read(&stream, &[]));
    }

    #[test]
    fn garbage_is_answered_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..300usize) {
        let cut = cut.min(bytes.len());
        prop_assert_eq!(read(&bytes, &[cut]), read(&bytes, &[]));
    }
}

#[test]
fn meta_flags_of_leases() {
    let ask = |line: &str| match op(line) {
        Op::Fetch { ask: Some(ask), .. } => (ask.claim, ask.renew_below_ms, ask.term_ms),
        other => panic!("{line} is {other:?}"),
    };
    assert_eq!(ask("mg k N30 R20\r\n"), (Claim::Missing, 20_000, 30_000));
    assert_eq!(ask("mg k R0 N0\r\n"), (Claim::Missing, 0, u32::MAX), "for ever");
    assert_eq!(ask("mg k N-1\r\n"), (Claim::Missing, 0, 1), "it is over at once");
    assert_eq!(ask("mg k R99999999\r\n").1, u64::MAX);
    let remove = |line: &str| match op(line) {
        Op::Remove(remove) => (remove.compare, remove.stale, remove.empty),
        other => panic!("{line} is {other:?}"),
    };
    assert_eq!(remove("md k I T30 C5\r\n"), (Some(5), Some(Expiry::In(30_000)), false));
    assert_eq!(remove("md k I\r\n"), (None, Some(Expiry::Keep), false));
    assert_eq!(remove("md k x T30\r\n"), (None, None, true), "T goes with I");
    assert!(matches!(op("ms k 1 I C9\r\nx\r\n"), Op::Store(Store { invalidate: true, compare: Some(9), .. })));
}

#[test]
fn replies_say_who_is_to_fill() {
    let told = |line: &str, value: Option<&Value<'_>>, is_stale: bool, lease: Lease| {
        reply(line, |out| out.leased(&Leased { value, is_stale, lease }))
    };
    let there = value(b"abc");
    let (granted, held) = (Lease::Granted { token: 90, until: NOW.0 + 4_000 }, Lease::Held { until: NOW.0 + 4_000 });
    assert_eq!(told("mg k v c t\r\n", Some(&there), false, Lease::None), "VA 3 c77 t10\r\nabc\r\n");
    assert_eq!(told("mg k v c t\r\n", Some(&there), true, granted), "VA 3 c90 t10 X W\r\nabc\r\n");
    assert_eq!(told("mg k v c t\r\n", Some(&there), true, held), "VA 3 c77 t10 Z X\r\nabc\r\n");
    assert_eq!(told("mg k v c t N4\r\n", None, false, granted), "VA 0 c90 t4 W\r\n\r\n");
    assert_eq!(told("mg k s f h c t\r\n", None, false, held), "HD s0 f0 h0 c0 t4 Z\r\n", "no token for others");
    assert_eq!(told("mg k v\r\n", None, false, Lease::None), "EN\r\n");
    assert_eq!(told("mg k v q\r\n", None, false, Lease::None), "");
}
