//! HTTP/1.1 for values. Requests come out of bytes in two steps, so that what is unreadable is told apart from what
//! only cannot be done:
//!
//! ```text
//! bytes ─ Parser ─> Request ─ Call::of ─> Call ─> operations ─ Encoder ─> response
//!           └─ Refused: mostly closes  └─ Refusal: the connection goes on
//! ```

mod access;
mod call;
mod encoder;
mod head;
mod json;
mod request;
mod response;
mod status;
mod unwanted;

#[cfg(test)]
mod tests;

pub use call::{Call, KeyCall};
pub use encoder::{Check, Encoder, Form, List, Shape};
pub use head::{HEAD_BYTES_MAX, Head, Tags};
pub use json::{BATCH_KEYS_MAX, Entry, TTL_SECONDS_MAX, key_fields};
pub use request::{CONTINUE, Limits, Parser, Progress, Request};
pub use response::Response;
pub use status::{Refusal, Status};

/// What this port serves, in OpenAPI 3.1.
pub const DESCRIPTION: &str = include_str!("openapi.json");

/// Refuses more than may be held of what a client sends, before its connection is closed.
pub fn refuse(text: &str, out: &mut Vec<u8>) {
    Refusal::new(Status::TooLarge, text.to_owned()).closing().write(out);
}
