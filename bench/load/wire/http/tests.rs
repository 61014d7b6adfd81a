//! Requests as HTTP/1.1 writes them, and every reply that a cache behind it may give.

use super::super::tests::{refused, reply, taken, wire, written};
use super::super::{Protocol, Wire};
use super::*;

const HTTP: Protocol = Protocol::Http;

/// The progress that all of `bytes` is, which may be the last of its connection.
fn progress(expected: Expected, bytes: &[u8]) -> Progress<'_> {
    taken(HTTP, expected, bytes).0
}

#[test]
fn requests_name_the_key_in_their_path() {
    let wire = wire(HTTP);
    assert_eq!(wire.greet(&mut Vec::new()), 0);
    assert_eq!(
        written(|out| wire.get(b"k", out)),
        "GET /v1/cache/k HTTP/1.1\r\nHost: cache:80\r\nAccept: application/octet-stream\r\n\r\n"
    );
    assert_eq!(
        written(|out| wire.delete(b"a-b_c.d~9", out)),
        "DELETE /v1/cache/a-b_c.d~9 HTTP/1.1\r\nHost: cache:80\r\n\r\n"
    );
    assert_eq!(
        written(|out| wire.get(b"user:1/\xff\x00 %?", out)),
        "GET /v1/cache/user%3A1%2F%FF%00%20%25%3F HTTP/1.1\r\nHost: cache:80\r\nAccept: application/octet-stream\r\n\r\n"
    );
}

#[test]
fn writes_have_a_body_and_perhaps_a_time_to_live() {
    let wire = wire(HTTP);
    let put = |ttl| written(|out| wire.set(b"k", Value(b"ab", b"cde"), ttl, 0, out));
    let rest =
        " HTTP/1.1\r\nHost: cache:80\r\nContent-Type: application/octet-stream\r\nContent-Length: 5\r\n\r\nabcde";
    assert_eq!(put(None), format!("PUT /v1/cache/k{rest}"));
    for (ttl, seconds) in [
        (Duration::from_secs(60), "60"),
        (Duration::from_micros(1_049_001), "1.050"),
        (Duration::from_millis(120), "0.120"),
        (Duration::ZERO, "0.001"),
    ] {
        assert_eq!(put(Some(ttl)), format!("PUT /v1/cache/k?ttlSeconds={seconds}{rest}"));
    }
}

#[test]
fn every_request_says_who_asks() {
    let authorization = |user: Option<&str>| {
        let who = Credentials { user: user.map(str::to_owned), password: "open sesame".to_owned() };
        written(|out| Wire::new(HTTP, "h:1", Some(&who)).get(b"k", out))
    };
    let rest = "Accept: application/octet-stream\r\n\r\n";
    let request = |how| format!("GET /v1/cache/k HTTP/1.1\r\nHost: h:1\r\nAuthorization: {how}\r\n{rest}");
    assert_eq!(authorization(Some("Aladdin")), request("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    assert_eq!(authorization(None), request("Bearer open sesame"));
}

#[test]
fn base64_as_in_its_specification() {
    let rows = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
    for (plain, text) in rows {
        assert_eq!(base64(plain.as_bytes()), text);
    }
    assert_eq!(base64(b"\xfb\xff\xbf"), "+/+/");
}

#[test]
fn the_status_says_what_happened() {
    const STORAGE: &str = "507 Insufficient Storage";
    for (expected, status, said) in [
        (Expected::Get, "200 OK", Some(Reply::Hit(b"hi"))),
        (Expected::Get, "404 Not Found", Some(Reply::Miss)),
        (Expected::Get, "206 Partial Content", None),
        (Expected::Get, STORAGE, None),
        (Expected::Set, "200 OK", Some(Reply::Done)),
        (Expected::Set, "201 Created", Some(Reply::Done)),
        (Expected::Set, "404 Not Found", None),
        (Expected::Set, "429", None),
        (Expected::Set, STORAGE, None),
        (Expected::Delete, "200 OK", Some(Reply::Done)),
        (Expected::Delete, "404 Not Found", Some(Reply::Miss)),
        (Expected::Delete, "301 Moved Permanently", None),
        (Expected::Delete, STORAGE, None),
    ] {
        let line = format!("HTTP/1.1 {status}");
        let bytes = format!("{line}\r\nContent-Length: 2\r\n\r\nhi");
        let said = said.unwrap_or(Reply::Error(line.as_bytes()));
        assert_eq!(reply(HTTP, expected, bytes.as_bytes()), said, "{expected:?}, {status}");
    }
}

#[test]
fn bodies_end_where_the_head_says() {
    let head = "HTTP/1.1 200 OK\r\n";
    for (rest, body) in [
        ("Content-Length: 0\r\n\r\n", ""),
        ("content-LENGTH:  5 \r\n\r\na\r\nbc", "a\r\nbc"),
        ("Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "a"),
        ("Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", ""),
        ("Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("Transfer-Encoding: chunked\r\n\r\n2;x=\"y\"\r\nhi\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n", "hi"),
    ] {
        let bytes = [head, rest].concat();
        assert_eq!(reply(HTTP, Expected::Get, bytes.as_bytes()), Reply::Hit(body.as_bytes()), "{rest:?}");
    }
    assert_eq!(reply(HTTP, Expected::Set, b"HTTP/1.1 204 No Content\r\n\r\n"), Reply::Done);
    let unchanged = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n";
    assert_eq!(reply(HTTP, Expected::Get, unchanged), Reply::Error(b"HTTP/1.1 304 Not Modified"));
    let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 Done\r\n\r\n";
    assert_eq!(reply(HTTP, Expected::Set, interim), Reply::Done);
}

#[test]
fn only_a_value_must_come_in_one_chunk() {
    let chunks = "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n";
    let bytes = |status: &str| [status, chunks].concat().into_bytes();
    let said = refused(HTTP, Expected::Get, &bytes("HTTP/1.1 200 OK\r\n"));
    assert!(said.contains("several chunks"), "{said}");
    assert_eq!(reply(HTTP, Expected::Get, &bytes("HTTP/1.1 404 No\r\n")), Reply::Miss);
    assert_eq!(reply(HTTP, Expected::Set, &bytes("HTTP/1.1 500 No\r\n")), Reply::Error(b"HTTP/1.1 500 No"));
}

#[test]
fn the_last_reply_of_a_connection_is_known() {
    for (head, last) in [
        ("HTTP/1.1 200 OK\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n", false),
        ("HTTP/1.1 200 OK\r\nconnection: Close\r\n", true),
        ("HTTP/1.1 200 OK\r\nConnection: x, close\r\n", true),
        ("HTTP/1.0 200 OK\r\n", true),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", false),
    ] {
        let bytes = format!("{head}Content-Length: 1\r\n\r\na");
        let (hit, used) = (Reply::Hit(b"a"), bytes.len());
        let whole = if last { Progress::Last(hit, used) } else { Progress::Whole(hit, used) };
        assert_eq!(progress(Expected::Get, bytes.as_bytes()), whole, "{head:?}");
    }
}

#[test]
fn what_is_not_a_reply_is_refused() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX + 1));
    for (bytes, what) in [
        ("-ERR unknown command\r\n", "not the head of an HTTP/1.1 reply"),
        ("HTTP/2 200\r\n\r\n", "not the head of an HTTP/1.1 reply"),
        ("HTTP/1.1 200 OK\r\nno header\r\n\r\n", "not the head of an HTTP/1.1 reply"),
        (&many, "over 64 headers"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "no request asked for"),
        ("HTTP/1.1 099 Odd\r\n\r\n", "no request asked for"),
        ("HTTP/1.1 200 OK\r\n\r\n", "neither by Content-Length nor by chunks"),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "up to 512 MiB"),
        ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", "up to 512 MiB"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "up to 512 MiB"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 536870913\r\n\r\n", "up to 512 MiB"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two lengths"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "other than chunked"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "hexadecimal"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\n", "hexadecimal"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "hexadecimal"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20000001\r\n", "hexadecimal"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcdefgh", "no CR LF"),
    ] {
        let said = refused(HTTP, Expected::Get, bytes.as_bytes());
        assert!(said.contains(what), "{bytes:?}: {said}");
    }
    assert!(refused(HTTP, Expected::Mget(1), b"HTTP/1.1 204 Done\r\n\r\n").contains("neither a greeting"));
}
