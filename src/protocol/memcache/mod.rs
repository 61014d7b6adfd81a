//! The text and meta protocols of memcached.
//!
//! ```text
//! bytes ─> parser ─┬─> text ─┬─> request: key, operation, form ─> (engine) ─> encoder ─> reply
//!                  └─> meta ─┘
//! ```
//!
//! Keys and data are places in the input; only keys in base64 are copied, decoded. A `get` of many keys is one request
//! for each of them and one for its end, so that it can be executed in slices.

mod base64;
mod encoder;
mod handshake;
mod meta;
mod parser;
mod text;
mod words;

#[cfg(test)]
mod tests;

pub use encoder::{Encoder, refuse};
pub use handshake::Handshake;
pub use parser::{KeyRequest, Limits, Parser, Progress, Request, StatsOf};

/// The memcached whose requests and replies these are: what clients that ask for a version get to see.
pub const VERSION: &str = "1.6.18";

/// The longest opaque token of a meta request.
const OPAQUE_BYTES_MAX: usize = 32;
/// Flags of a meta request that its reply contains: `O k c f h l s t`.
const RETURNED_MAX: usize = 8;

/// What a reply looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Style {
    /// `VALUE`, with the version for `gets` and `gats`.
    #[default]
    Value,
    ValueVersion,
    /// `STORED` and its relatives.
    Stored,
    Deleted,
    Touched,
    /// The number that `incr` and `decr` answer.
    Number,
    /// What was to be stored is too large, so that what was there is removed.
    TooLarge,
    MetaGet,
    MetaSet,
    MetaDelete,
    MetaCount,
    MetaDebug,
}

/// How the reply to one request is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    style: Style,
    /// `noreply`: nothing at all is answered.
    silent: bool,
    /// The `q` of a meta request: what it was asked for is not worth a reply.
    quiet: bool,
    /// Whether a meta request asks for the value.
    with_value: bool,
    /// Whether its key is in base64.
    base64: bool,
    /// The version of the value that the client has already.
    known: Option<u64>,
    /// Bytes of the data block.
    size: u32,
    /// The flags to return, in the order in which they came; 0 ends them.
    returned: [u8; RETURNED_MAX],
    opaque: [u8; OPAQUE_BYTES_MAX],
    opaque_len: u8,
}

impl Form {
    fn of(style: Style) -> Self {
        Self { style, ..Self::default() }
    }

    /// Whether the reply is that what was to be stored is too large.
    pub fn is_too_large(&self) -> bool {
        self.style == Style::TooLarge
    }
}
