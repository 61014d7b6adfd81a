//! Who may have a request carried out, where the operator asks for a password: whoever sends it with the request.
//! That is decided by the head, before there is memory for a body.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::call::{DESCRIPTION_PATH, percent_decoded, split_target};
use super::head::{Framing, Head};
use super::status::{Refusal, Status};
use crate::base::Passwords;

/// What a refusal tells about how to give a password, as fields of its head.
pub(super) const CHALLENGES: &str = "WWW-Authenticate: Bearer realm=\"ringfence\"\r\nWWW-Authenticate: Basic realm=\"ringfence\", charset=\"UTF-8\"\r\n";

/// Refuses a request that has not one of the `passwords` and needs it.
pub(super) fn check(head: &Head<'_>, passwords: &Passwords) -> Result<(), Refusal> {
    let given = head.authorization.map(password);
    match given {
        Some(Some(password)) if passwords.accept(&password) => Ok(()),
        _ if is_open(head) => Ok(()),
        None => Err(Refusal::new(
            Status::Unauthorized,
            "a password is needed: send Authorization with Bearer and the password, or with Basic and any user",
        )),
        Some(_) => {
            let refusal = Refusal::new(Status::Unauthorized, "the password in Authorization is not right");
            Err(Refusal { wrong_password: true, ..refusal })
        }
    }
}

/// The description says how to give a password, so it is there without one; but not for who sends bodies.
fn is_open(head: &Head<'_>) -> bool {
    let (path, _) = split_target(head.target);
    head.framing == Framing::Length(0) && percent_decoded(path.as_bytes()).is_ok_and(|path| *path == *DESCRIPTION_PATH)
}

/// The password in `Bearer password` or `Basic dXNlcjpwYXNzd29yZA==`.
fn password(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let end = value.iter().position(|&b| b == b' ')?;
    let (scheme, rest) = (&value[..end], value[end..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        Some(Cow::Borrowed(rest))
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        let decoded = STANDARD.decode(rest).ok()?;
        let user = decoded.iter().position(|&b| b == b':')?;
        Some(Cow::Owned(decoded[user + 1..].to_vec()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::{Limits, Parser, Progress};

    const LIMITS: Limits =
        Limits { key_bytes_max: 20, value_bytes_max: 100, json_bytes_max: 300, reply_bytes_max: 400 };

    fn passwords() -> Passwords {
        Passwords::parse(b"open sesame\nb:c\n").unwrap()
    }

    /// The status of each request in `bytes`, 0 for one to be carried out, when they come in such pieces.
    fn statuses(bytes: &[u8], piece: usize) -> Vec<&'static str> {
        let (passwords, mut parser, mut input) = (passwords(), Parser::default(), Vec::new());
        let mut all = Vec::new();
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            while !input.is_empty() {
                let used = match parser.advance(&input, &LIMITS, Some(&passwords)) {
                    Progress::Incomplete { .. } => break,
                    Progress::Skipped(used) => used,
                    Progress::Done(_, used) => {
                        all.push("");
                        used
                    }
                    Progress::Refused(refusal, used) => {
                        all.push(refusal.status.line());
                        if refusal.close {
                            return all;
                        }
                        used
                    }
                };
                input.drain(..used);
                assert!(input.len() < 1000, "no body is kept");
            }
        }
        assert!(input.is_empty(), "{} bytes are left", input.len());
        all
    }

    fn head(line: &str, fields: &str) -> Vec<u8> {
        format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").into_bytes()
    }

    #[test]
    fn a_request_needs_one_of_the_passwords() {
        for (fields, wrong) in [
            ("Authorization: Bearer open sesame\r\n", None),
            ("authorization: bearer   b:c \r\n", None),
            ("Authorization: Basic bWU6b3BlbiBzZXNhbWU=\r\n", None),
            ("Authorization: basic OmI6Yw==\r\n", None),
            ("", Some(false)),
            ("Authorization: Bearer open\r\n", Some(true)),
            ("Authorization: Bearer\r\n", Some(true)),
            ("Authorization: open sesame\r\n", Some(true)),
            ("Authorization: Basic b3BlbiBzZXNhbWU=\r\n", Some(true)),
            ("Authorization: Basic bWU6b3BlbiBzZXNhbWU\r\n", Some(true)),
            ("Authorization: Digest username=\"x\"\r\n", Some(true)),
            ("X-Authorization: Bearer open sesame\r\n", Some(false)),
        ] {
            let bytes = head("GET /v1/stats", fields);
            match Parser::default().advance(&bytes, &LIMITS, Some(&passwords())) {
                Progress::Done(..) => assert_eq!(wrong, None, "{fields}"),
                Progress::Refused(refusal, used) => {
                    assert_eq!((refusal.status, used), (Status::Unauthorized, bytes.len()), "{fields}");
                    assert_eq!((Some(refusal.wrong_password), refusal.close), (wrong, false), "{fields}");
                }
                other => panic!("{fields}: {other:?}"),
            }
        }
        let twice = head("GET /v1/stats", &"Authorization: Bearer b:c\r\n".repeat(2));
        assert_eq!(statuses(&twice, 1 << 20), ["400 Bad Request"]);
    }

    #[test]
    fn only_the_description_is_open_and_not_for_bodies() {
        let status = |bytes: &[u8]| statuses(bytes, 1 << 20).remove(0);
        for open in ["GET /openapi.json", "HEAD /openapi.json?x", "DELETE /openapi%2ejson", "GET http://h/openapi.json"]
        {
            assert_eq!(status(&head(open, "")), "", "{open}");
        }
        for closed in ["GET /", "GET /v1/cache/openapi.json", "GET /v1/cache/a", "GET /x/../openapi.json", "GET /%zz"] {
            assert_eq!(status(&head(closed, "")), "401 Unauthorized", "{closed}");
        }
        let body = [head("GET /openapi.json", "Content-Length: 2\r\n"), b"{}".to_vec()].concat();
        assert_eq!(statuses(&body, 1 << 20), ["401 Unauthorized"]);
    }

    #[test]
    fn bodies_of_refused_requests_are_passed_over() {
        let right = head("GET /v1/stats", "Authorization: Bearer b:c\r\n");
        let long = "x".repeat(5000);
        let chunks = format!("5;a=b\r\nhello\r\n1388\r\n{long}\r\n0\r\nTrailer: x\r\n\r\n");
        let stream = [
            head("PUT /v1/cache/k", "Content-Length: 5000\r\n"),
            long.into_bytes(),
            right.clone(),
            head("PUT /v1/cache/k", "Transfer-Encoding: chunked\r\n"),
            chunks.into_bytes(),
            right.clone(),
            head("DELETE /v1/cache/k", "Content-Length: 0\r\n"),
            head("HEAD /v1/cache/k", ""),
            right,
        ]
        .concat();
        let denied = "401 Unauthorized";
        for piece in [1, 2, 3, 7, 100, 997] {
            assert_eq!(
                statuses(&stream, piece),
                [denied, "", denied, "", denied, denied, ""],
                "{piece} bytes at a time"
            );
        }
    }

    #[test]
    fn a_body_that_cannot_be_passed_over_ends_the_connection() {
        let expects = head("PUT /v1/cache/k", "Content-Length: 5\r\nExpect: 100-continue\r\n");
        assert_eq!(statuses(&expects, 1 << 20), ["401 Unauthorized"]);
        let chunked =
            |body: &str| [head("PUT /k", "Transfer-Encoding: chunked\r\n"), body.as_bytes().to_vec()].concat();
        let digits = "1".repeat(1100);
        for bad in ["x\r\n", "2\r\nabc\r\n", "1\nx", &digits, &format!("0\r\n{}", "x: y\r\n".repeat(3000))] {
            assert_eq!(statuses(&chunked(bad), 100), ["401 Unauthorized", "400 Bad Request"], "{bad}");
        }
    }
}
