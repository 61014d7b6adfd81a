//! Writes responses.

use std::io::Write;

use super::access;
use super::json;
use super::status::Status;

/// The media type of raw values.
pub(super) const OCTETS: &str = "application/octet-stream";
/// The media type of everything else.
pub(super) const JSON: &str = "application/json";

/// What the head of a response says.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// The status.
    pub status: Status,
    /// Whether the connection closes behind it.
    pub close: bool,
    /// Whether the body is only described: the request was `HEAD`.
    pub bodiless: bool,
    pub(super) media: &'static str,
    pub(super) etag: Option<u64>,
    /// Milliseconds that the value still lives; `Some(None)`: for as long as there is room.
    pub(super) ttl: Option<Option<u64>>,
    pub(super) allow: &'static str,
    /// How fresh a raw value is, and the lease on it.
    pub(super) state: Option<(&'static str, Option<u64>)>,
}

impl Response {
    /// A response with a JSON body.
    pub fn new(status: Status) -> Self {
        Self { status, close: false, bodiless: false, media: JSON, etag: None, ttl: None, allow: "", state: None }
    }

    /// The response to a request that was carried out.
    pub fn ok(close: bool, bodiless: bool) -> Self {
        Self { close, bodiless, ..Self::new(Status::Ok) }
    }

    /// Writes a response of which the body is there already.
    pub fn whole(&self, body: &[u8], out: &mut Vec<u8>) {
        self.head(body.len(), out);
        if self.has_body() {
            out.extend_from_slice(body);
        }
    }

    /// Puts the head in front of a body that was written to `out` from `start` on.
    pub(super) fn before(&self, start: usize, out: &mut Vec<u8>) {
        let mut head = Vec::with_capacity(192);
        self.head(out.len() - start, &mut head);
        if !self.has_body() {
            out.truncate(start);
        }
        out.splice(start..start, head);
    }

    /// Writes a response that says what went wrong.
    pub(super) fn error(&self, message: &str, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(b'{');
        json::write_error(self.status, message, out);
        out.push(b'}');
        self.before(start, out);
    }

    pub(super) fn has_body(&self) -> bool {
        !self.bodiless && !self.status.is_bodiless()
    }

    /// Writes everything in front of a body of `length` bytes.
    pub(super) fn head(&self, length: usize, out: &mut Vec<u8>) {
        // Writing to a vector does not fail.
        let _ = write!(out, "HTTP/1.1 {}\r\n", self.status.line());
        if !self.status.is_bodiless() {
            let _ = write!(out, "Content-Type: {}\r\nContent-Length: {length}\r\n", self.media);
        }
        if let Some(version) = self.etag {
            let _ = write!(out, "ETag: \"{version}\"\r\n");
        }
        if let Some(Some(millis)) = self.ttl {
            let _ = write!(out, "Ttl-Seconds: {}\r\n", json::Seconds(millis));
        }
        if let Some((state, lease)) = self.state {
            let _ = write!(out, "Cache-State: {state}\r\n");
            let _ = lease.map(|lease| write!(out, "Cache-Lease: {lease}\r\n"));
        }
        if !self.allow.is_empty() {
            let _ = write!(out, "Allow: {}\r\n", self.allow);
        }
        if self.status == Status::Unauthorized {
            out.extend_from_slice(access::CHALLENGES.as_bytes());
        }
        if self.close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}
