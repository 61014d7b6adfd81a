//! The protocol without a node.
//!
//! Goal: what a client gets does not depend on how its bytes were cut, nothing that it sends makes the parser panic,
//! and no request can be read in two ways. Method: [`play`] hands over pieces as a session does and writes down what
//! comes out.

mod bodies;

use proptest::prelude::*;

use super::*;
use crate::base::UnixMillis;
use crate::command::{
    Ask, Claim, Expiry, Lease, Leased, Op, OpError, Outcome, Payload, Remove, ReplySink, StoreMode, Value,
};

const LIMITS: Limits = Limits { key_bytes_max: 20, value_bytes_max: 100, json_bytes_max: 300, reply_bytes_max: 400 };

/// What comes out of `pieces`: requests and refusals, and whether the connection went on to the end.
fn play(pieces: &[&[u8]]) -> (Vec<String>, usize) {
    let (mut parser, mut input, mut need) = (Parser::default(), Vec::new(), 0);
    let (mut events, mut invitations) = (Vec::new(), 0);
    for piece in pieces {
        input.extend_from_slice(piece);
        while !input.is_empty() && input.len() >= need {
            need = 0;
            let used = match parser.advance(&input, &LIMITS, None) {
                Progress::Incomplete { need: wanted, invite } => {
                    assert!(wanted > input.len(), "{wanted} bytes are there already");
                    need = wanted;
                    invitations += usize::from(invite);
                    break;
                }
                Progress::Skipped(used) => used,
                Progress::Refused(refusal, used) => {
                    events.push(format!("{} {}", refusal.status.line(), refusal.message));
                    if refusal.close {
                        return (events, invitations);
                    }
                    used
                }
                Progress::Done(request, used) => {
                    events.push(format!("{request:?}"));
                    used
                }
            };
            assert!(used > 0, "no endless loop");
            input.drain(..used);
        }
    }
    events.push(format!("{} bytes are left", input.len()));
    (events, invitations)
}

fn head(line: &str, fields: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").into_bytes()
}

/// The one request in `bytes`, which is to be whole.
fn request(bytes: &[u8]) -> Request<'_> {
    match Parser::default().advance(bytes, &LIMITS, None) {
        Progress::Done(request, length) if length == bytes.len() => request,
        other => panic!("{other:?} of {}", String::from_utf8_lossy(bytes)),
    }
}

fn refused(bytes: &[u8]) -> Refusal {
    match Parser::default().advance(bytes, &LIMITS, None) {
        Progress::Refused(refusal, _) => refusal,
        other => panic!("{other:?} of {}", String::from_utf8_lossy(bytes)),
    }
}

fn call(bytes: &[u8]) -> Result<Call<'_>, Refusal> {
    Call::of(request(bytes), &LIMITS)
}

fn put(body: &str) -> Vec<u8> {
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    [head("PUT /v1/cache/k", &fields), body.as_bytes().to_vec()].concat()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let fields = format!("Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n", body.len());
    [head(&format!("POST {path}"), &fields), body.as_bytes().to_vec()].concat()
}

fn key_call(bytes: &[u8]) -> KeyCall<'_> {
    match call(bytes) {
        Ok(Call::Key(call)) => call,
        other => panic!("{other:?} of {}", String::from_utf8_lossy(bytes)),
    }
}

fn a_request() -> impl Strategy<Value = Vec<u8>> {
    let chunks = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 0..5);
    let chunked = (chunks, prop_oneof![Just(""), Just("Trailer: x\r\n")]).prop_map(|(chunks, trailer)| {
        let mut out =
            head("PUT /v1/cache/k", "Transfer-Encoding: chunked\r\nContent-Type: application/octet-stream\r\n");
        for chunk in chunks {
            out.extend_from_slice(format!("{:x};a=b\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(&chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
        out
    });
    let sized = proptest::collection::vec(any::<u8>(), 0..400).prop_map(|body| {
        let fields = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
        [head("POST /x", &fields), body].concat()
    });
    let too_long = (301..900usize)
        .prop_map(|length| [head("POST /x", &format!("Content-Length: {length}\r\n")), vec![b'x'; length]].concat());
    let bad = prop_oneof![
        Just(head("GET /", "Content-Length: 1\r\nContent-Length: 1\r\n")),
        Just(b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"GET /\r\n".to_vec()),
        Just([head("PUT /", "Transfer-Encoding: chunked\r\n"), b"2\r\nabc\r\n".to_vec()].concat()),
        Just(head("GET /", &format!("Long: {}\r\n", "x".repeat(HEAD_BYTES_MAX)))),
        Just([b"\r\n".to_vec(), b"GET / HTTP/1.0\r\n\r\n".to_vec()].concat()),
    ];
    let plain = prop_oneof![
        Just(head("GET /v1/cache/a%00b?x=y", "If-None-Match: \"1\", W/\"7\"\r\n")),
        Just(head("DELETE /v1/cache/k", "Connection: keep-alive\r\n")),
    ];
    prop_oneof![3 => chunked, 3 => sized, 1 => too_long, 3 => plain, 1 => bad]
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(
        requests in proptest::collection::vec(a_request(), 1..5),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let stream = requests.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
        prop_assert_eq!(play(&pieces).0, play(&[&stream]).0);
    }

    #[test]
    fn garbage_is_refused_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        play(&[&bytes]);
    }

    #[test]
    fn requests_with_flaws_are_answered(
        request in a_request(), at in any::<prop::sample::Index>(), byte: u8, line in "[ -~\r\n]{0,40}",
    ) {
        let mut bytes = request;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.splice(at..at, line.bytes());
        play(&[&bytes]);
        if let Progress::Done(request, _) = Parser::default().advance(&bytes, &LIMITS, None)
            && let Err(refusal) = Call::of(request, &LIMITS)
        {
            let mut out = Vec::new();
            refusal.write(&mut out);
            prop_assert!(out.starts_with(b"HTTP/1.1 4"));
        }
    }

    #[test]
    fn any_body_is_read_or_refused(body in "[\\[\\]{}\",:a-z0-9. \\\\-]{0,80}", path in 0..3usize) {
        let bytes = match path {
            0 => put(&body),
            1 => post("/v1/cache:batchGet", &body),
            _ => post("/v1/cache:batchSet", &body),
        };
        let called = call(&bytes).map(|_| ()).map_err(|refusal| refusal.status);
        prop_assert!(matches!(called, Ok(()) | Err(Status::BadRequest)), "{:?}", called);
    }

    #[test]
    fn any_key_and_value_come_back(key in proptest::collection::vec(any::<u8>(), 0..20),
                                   value in proptest::collection::vec(any::<u8>(), 0..40)) {
        let escaped: String = key.iter().map(|byte| format!("%{byte:02X}")).collect();
        let get = head(&format!("GET /v1/cache/{escaped}"), "");
        let called = key_call(&get);
        prop_assert_eq!(&called.key[..], &key[..]);
        let text = body_of(&reply(&called, |out| out.value(&stored(&value, None))));
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let is = |name: &str, encoding: &str, bytes: &[u8]| {
            let mut fields = serde_json::Map::from_iter([("value".to_owned(), parsed[name].clone())]);
            if let Some(how) = parsed.get(encoding) {
                fields.insert("encoding".to_owned(), how.clone());
            }
            let body = serde_json::Value::Object(fields).to_string();
            let put = put(&body);
            key_call(&put).value[..] == *bytes
        };
        prop_assert!(is("key", "keyEncoding", &key) && is("value", "encoding", &value), "{}", text);
    }
}

fn stored(bytes: &[u8], expires_at: Option<u64>) -> Value<'_> {
    Value { payload: Payload::Whole(bytes), version: 7, expires_at, ..Value::EMPTY }
}

fn reply(call: &KeyCall<'_>, answer: impl FnOnce(&mut Encoder<'_>)) -> String {
    let mut out = Vec::new();
    answer(&mut Encoder::new(&mut out, &call.form, &call.key, UnixMillis(1000)));
    String::from_utf8_lossy(&out).into_owned()
}

fn body_of(response: &str) -> String {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    assert_eq!(length.unwrap().parse::<usize>().unwrap(), body.len(), "{response}");
    body.to_owned()
}

#[test]
fn what_cannot_be_read_in_one_way_only_is_refused_and_closes() {
    let long = format!("Long: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
    let many = "A: b\r\n".repeat(200);
    for (fields, status) in [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Status::BadRequest),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Status::BadRequest),
        ("Content-Length: 5, 5\r\n", Status::BadRequest),
        ("Content-Length: +5\r\n", Status::BadRequest),
        ("Content-Length: -1\r\n", Status::BadRequest),
        ("Content-Length:\r\n", Status::BadRequest),
        ("Content-Length: 99999999999999999999999\r\n", Status::BadRequest),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Status::BadRequest),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Status::BadRequest),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Status::BadRequest),
        ("Transfer-Encoding: gzip, chunked\r\n", Status::NotImplemented),
        ("Transfer-Encoding: identity\r\n", Status::NotImplemented),
        ("Transfer-Encoding : chunked\r\n", Status::BadRequest),
        ("Content-Length: 5\r\n folded\r\n", Status::BadRequest),
        ("Host: y\r\n", Status::BadRequest),
        ("Content-Type: a/b\r\nContent-Type: a/b\r\n", Status::BadRequest),
        ("Expect: a-miracle\r\n", Status::ExpectationFailed),
        (&long, Status::HeadTooLarge),
        (&many, Status::HeadTooLarge),
    ] {
        let refusal = refused(&head("PUT /v1/cache/k", fields));
        assert_eq!((refusal.status, refusal.close), (status, true), "{fields}");
    }
    for (bytes, status) in [
        ("GET / HTTP/1.1\r\n\r\n", Status::BadRequest),
        ("GET / HTTP/2.0\r\n\r\n", Status::VersionNotSupported),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Status::VersionNotSupported),
        ("SET k v\r\n", Status::VersionNotSupported),
        ("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", Status::BadRequest),
        ("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Status::BadRequest),
    ] {
        let refusal = refused(bytes.as_bytes());
        assert_eq!((refusal.status, refusal.close), (status, true), "{bytes}: {}", refusal.message);
    }
}

#[test]
fn chunks_are_held_to_their_form() {
    let chunked = |body: &str| [head("PUT /", "Transfer-Encoding: chunked\r\n"), body.as_bytes().to_vec()].concat();
    let whole = chunked("3\r\nabc\r\n0A ;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n");
    assert_eq!(&request(&whole).body[..], b"abc0123456789");
    assert_eq!(&request(&chunked("0\r\n\r\n")).body[..], b"");
    let long = format!("1;{}", "x".repeat(2000));
    for body in [
        "x\r\n",
        "\r\n",
        "-1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1\na\n",
        "1\r\nab\r\n",
        "fffffffffffffffff\r\n",
        "0\r\nA: b\n",
        &long,
    ] {
        let refusal = refused(&chunked(body));
        assert_eq!((refusal.status, refusal.close), (Status::BadRequest, true), "{body}");
    }
    let refusal = refused(&chunked("fffffffff\r\n"));
    assert_eq!((refusal.status, refusal.close), (Status::TooLarge, true));
}

#[test]
fn a_body_too_long_is_passed_over_unless_it_may_not_come() {
    let long = [head("POST /", "Content-Length: 301\r\n"), vec![b'x'; 301], head("GET /", "")].concat();
    let (events, _) = play(&[&long]);
    assert!(events[0].starts_with("413"), "{events:?}");
    assert!(events[1].starts_with("Request"), "{events:?}");
    let awaited = refused(&head("POST /", "Expect: 100-continue\r\nContent-Length: 301\r\n"));
    assert_eq!((awaited.status, awaited.close), (Status::TooLarge, true));
    let raw = refused(&head("PUT /", "Content-Type: application/octet-stream\r\nContent-Length: 101\r\n"));
    assert_eq!(raw.status, Status::TooLarge);
}

#[test]
fn a_client_that_waits_is_invited_once() {
    let head = head("POST /", "Expect: 100-continue\r\nContent-Length: 2\r\n");
    assert_eq!(play(&[&head, b"a", b"b"]).1, 1);
    assert_eq!(play(&[&[&head[..], b"ab"].concat()]).1, 0, "the body is there already");
    let old = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(play(&[old, b"ab"]).1, 0, "HTTP/1.0 knows no invitation");
}

#[test]
fn the_connection_goes_on_or_closes_as_the_client_says() {
    assert!(!request(&head("GET /", "")).head.close);
    assert!(request(&head("GET /", "Connection: foo, Close\r\n")).head.close);
    assert!(request(b"GET / HTTP/1.0\r\n\r\n").head.close);
}

#[test]
fn raw_bytes_are_for_who_names_them() {
    for (accept, raw) in [
        ("", false),
        ("Accept: */*\r\n", false),
        ("Accept: application/octet-stream\r\n", true),
        ("Accept: application/octet-stream;q=0\r\n", false),
        ("Accept: application/json, application/octet-stream\r\n", false),
        ("Accept: application/octet-stream, */*\r\n", true),
        ("Accept: application/json;q=0.5, application/octet-stream\r\n", true),
        ("Accept: text/html\r\nAccept: Application/Octet-Stream\r\n", true),
    ] {
        assert_eq!(request(&head("GET /", accept)).head.wants_raw, raw, "{accept}");
    }
}

#[test]
fn paths_and_methods_are_told_apart() {
    for (line, status) in [
        ("GET /", Status::NotFound),
        ("GET /v1/cache", Status::NotFound),
        ("OPTIONS *", Status::NotFound),
        ("POST /v1/cache/k", Status::MethodNotAllowed),
        ("GET /v1/cache:batchGet", Status::MethodNotAllowed),
        ("PUT /v1/stats", Status::MethodNotAllowed),
        ("DELETE /openapi.json", Status::MethodNotAllowed),
        ("GET /v1/cache/%zz", Status::BadRequest),
        ("GET /v1/cache/%a", Status::BadRequest),
        ("GET /v1/cache/123456789012345678901", Status::UriTooLong),
        ("PUT /v1/cache/k", Status::UnsupportedMediaType),
        ("POST /v1/cache:batchSet", Status::UnsupportedMediaType),
    ] {
        let bytes = head(line, "");
        let refusal = call(&bytes).unwrap_err();
        assert_eq!((refusal.status, refusal.close), (status, false), "{line}");
        assert_eq!(refusal.allow.is_empty(), status != Status::MethodNotAllowed, "{line}");
    }
    for line in ["GET /v1/stats", "HEAD /v1/cluster", "GET /openapi.json?x=y"] {
        assert!(call(&head(line, "")).is_ok(), "{line}");
    }
    let far = head("GET http://example.com/v1/cache/a/b%2Fc?waitMs=0", "");
    assert_eq!(&key_call(&far).key[..], b"a/b/c");
    let gzip = head("PUT /v1/cache/k", "Content-Type: application/octet-stream\r\nContent-Encoding: gzip\r\n");
    assert_eq!(call(&gzip).unwrap_err().status, Status::UnsupportedMediaType);
}

#[test]
fn conditions_become_operations() {
    let with = |method: &str, fields: &str| {
        let media = "Content-Type: application/octet-stream\r\n";
        let bytes = head(&format!("{method} /v1/cache/k"), &format!("{media}{fields}"));
        call(&bytes)
            .map(|called| match called {
                Call::Key(call) => match call.op {
                    Op::Store(store) => (call.form.check, Some(store.mode), store.compare),
                    Op::Remove(Remove { compare, .. }) => (call.form.check, None, compare),
                    _ => (call.form.check, None, Some(call.form.tag)),
                },
                other => panic!("{other:?}"),
            })
            .map_err(|refusal| refusal.status)
    };
    let set = Some(StoreMode::Set);
    for (method, fields, expected) in [
        ("PUT", "", Ok((Check::None, set, None))),
        ("PUT", "If-Match: \"5\"\r\n", Ok((Check::Match, set, Some(5)))),
        ("PUT", "If-Match: *\r\n", Ok((Check::Present, Some(StoreMode::Replace), None))),
        ("PUT", "If-None-Match: *\r\n", Ok((Check::Absent, Some(StoreMode::Add), None))),
        ("PUT", "If-None-Match: \"5\"\r\n", Err(Status::BadRequest)),
        ("PUT", "If-Match: *\r\nIf-None-Match: *\r\n", Err(Status::BadRequest)),
        ("PUT", "If-Match: \"5\", \"6\"\r\n", Err(Status::BadRequest)),
        ("PUT", "If-Match: 5\r\n", Err(Status::BadRequest)),
        ("DELETE", "If-Match:\r\n", Err(Status::BadRequest)),
        ("DELETE", "If-Match: ,\r\n", Err(Status::BadRequest)),
        ("GET", "If-None-Match: \"5\r\n", Err(Status::BadRequest)),
        ("PUT", "If-Match: \"abc\"\r\n", Err(Status::PreconditionFailed)),
        ("PUT", "If-Match: W/\"5\"\r\n", Err(Status::PreconditionFailed)),
        ("DELETE", "If-Match: \"5\"\r\n", Ok((Check::Match, None, Some(5)))),
        ("DELETE", "If-Match: *\r\n", Ok((Check::Present, None, None))),
        ("DELETE", "If-None-Match: *\r\n", Err(Status::BadRequest)),
        ("GET", "If-None-Match: W/\"5\", \"9\", \"x\"\r\n", Ok((Check::NoneMatch, None, Some(9)))),
        ("GET", "If-None-Match: \"x\"\r\n", Ok((Check::None, None, Some(0)))),
        ("GET", "If-None-Match: *\r\n", Ok((Check::Absent, None, Some(0)))),
        ("GET", "If-Match: \"5\"\r\n", Ok((Check::Match, None, Some(5)))),
    ] {
        assert_eq!(with(method, fields), expected, "{method} {fields}");
    }
}
