//! One HTTP/1.1 request and one response on a blocking socket, each with a deadline
//! for the whole of it: a byte now and then extends nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Bytes in a request's head.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;
/// Headers in a request.
pub(super) const HEADERS_MAX: usize = 64;
/// Time for a client to send its whole request.
pub(super) const READ_TIME_MAX: Duration = Duration::from_secs(2);
/// Time for a client to take the whole response.
const WRITE_TIME_MAX: Duration = Duration::from_secs(2);
/// Time to wait for the client's end of the connection after the response.
const LINGER_TIME_MAX: Duration = Duration::from_millis(200);

/// What was asked for.
pub(super) struct Request {
    pub method: String,
    pub target: String,
}

/// What is answered, before the connection closes.
pub(super) struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
    pub head_only: bool,
    /// Whether to say which methods are allowed.
    pub allow: bool,
}

impl Response {
    pub fn text(status: u16, body: String) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body, head_only: false, allow: false }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        }
    }

    pub fn send(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut text = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n",
            self.status,
            self.reason(),
            self.content_type,
            self.body.len()
        );
        if self.allow {
            text.push_str("Allow: GET, HEAD\r\n");
        }
        text.push_str("\r\n");
        if !self.head_only {
            text.push_str(&self.body);
        }
        let deadline = Instant::now() + WRITE_TIME_MAX;
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            stream.set_write_timeout(Some(left(deadline)?))?;
            match stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// The time until `deadline`, or that it has passed.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Reads one request's head. `Ok(None)` if the client left; `Err` is what to
/// answer a request that cannot be understood.
pub(super) fn read_request(stream: &mut TcpStream) -> Result<Option<Request>, Response> {
    let deadline = Instant::now() + READ_TIME_MAX;
    let mut head = [0u8; HEAD_BYTES_MAX];
    let mut len = 0;
    loop {
        let too_slow = || Response::text(408, "the request took longer than 2 s\n".to_string());
        let read = left(deadline).and_then(|left| {
            stream.set_read_timeout(Some(left))?;
            stream.read(&mut head[len..])
        });
        match read {
            Ok(0) => return Ok(None),
            Ok(n) => len += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(too_slow()),
            Err(_) => return Ok(None),
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head[..len]) {
            Ok(httparse::Status::Complete(_)) => {
                let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
                return Ok(Some(Request { method: method.to_string(), target: target.to_string() }));
            }
            Ok(httparse::Status::Partial) if len < HEAD_BYTES_MAX => {}
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Response::text(431, "a request's head may have 8 KiB and 64 headers\n".to_string()));
            }
            Err(e) => return Err(Response::text(400, format!("not an HTTP/1.1 request: {e}\n"))),
        }
    }
}

/// Waits for the client to close first. Closing while bytes are unread would
/// reset the connection, and the client might never see the response.
pub(super) fn linger(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER_TIME_MAX;
    let mut rest = [0u8; 1024];
    while let Ok(left) = left(deadline) {
        if stream.set_read_timeout(Some(left)).is_err() || !matches!(stream.read(&mut rest), Ok(1..)) {
            return;
        }
    }
}
