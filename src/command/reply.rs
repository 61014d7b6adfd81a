//! Where answers go. The engine writes into a sink and does not know whether it
//! encodes for RESP2, RESP3 or another protocol, for a socket or another core.

use super::lease::Leased;
use super::{OpError, Outcome};

/// A value's bytes, borrowed from the arena: whole, or in the order of the
/// pieces it is stored in.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// In one piece.
    Whole(&'a [u8]),
    /// In several; the length is their sum.
    Pieces(&'a [&'a [u8]]),
}

impl Payload<'_> {
    /// How many bytes the value has.
    pub fn len(&self) -> usize {
        match self {
            Payload::Whole(bytes) => bytes.len(),
            Payload::Pieces(pieces) => pieces.iter().map(|p| p.len()).sum(),
        }
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the bytes to `out`.
    #[inline]
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Payload::Whole(bytes) => out.extend_from_slice(bytes),
            Payload::Pieces(pieces) => pieces.iter().for_each(|p| out.extend_from_slice(p)),
        }
    }
}

/// A stored value with what protocols tell about it.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// The bytes.
    pub payload: Payload<'a>,
    /// The number of the slot's write that stored it.
    pub version: u64,
    /// Unix milliseconds at which it expires, if it does.
    pub expires_at: Option<u64>,
    /// What the client that stored it keeps beside it; 0 if it said nothing.
    pub flags: u32,
    /// Whether it was read since it was stored, as far as the engine remembers: not for long if it is read rarely.
    pub was_read: bool,
    /// When it was last read or written, in Unix seconds, if the engine keeps that.
    pub accessed_at: Option<u32>,
}

impl Value<'static> {
    /// No bytes, and nothing to tell about them.
    pub const EMPTY: Self = Self {
        payload: Payload::Whole(b""),
        version: 0,
        expires_at: None,
        flags: 0,
        was_read: false,
        accessed_at: None,
    };
}

/// A value that the engine keeps as it is for an answer that is not sent yet. To be given back once it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pin that is not given back keeps its value's memory for ever"]
pub struct Pin {
    /// The engine's number for it. The same value, pinned again meanwhile, has the same number.
    pub id: u32,
    /// Bytes of the value.
    pub len: usize,
}

/// Takes an answer piece by piece, in the order of the protocol's reply.
pub trait ReplySink {
    /// A stored value.
    fn value(&mut self, value: &Value<'_>);
    /// A value and who is to fill it.
    fn leased(&mut self, leased: &Leased<'_>) {
        match leased.value {
            Some(value) => self.value(value),
            None => self.null(),
        }
    }
    /// A short status, such as `OK`.
    fn status(&mut self, text: &str);
    /// An integer.
    fn integer(&mut self, n: i64);
    /// Some bytes that are not a stored value.
    fn bulk(&mut self, bytes: &[u8]);
    /// Nothing there.
    fn null(&mut self);
    /// A list of `len` answers follows.
    fn array(&mut self, len: usize);
    /// A map of `pairs` key and value answers follows.
    fn map(&mut self, pairs: usize);
    /// Bytes of a stored value from which on it comes as a pin and not as bytes; by default none does.
    fn pins_from(&self) -> usize {
        usize::MAX
    }
    /// A stored value of that many bytes or more, which is the sink's to give back.
    fn pinned(&mut self, pin: Pin) {
        debug_assert!(false, "{pin:?} for a sink that takes none");
    }
    /// What came of an operation that answers an [`Outcome`].
    fn outcome(&mut self, outcome: Outcome) {
        debug_assert!(false, "{outcome:?} for a sink whose protocol asks for none");
    }
    /// A refusal: code and text, without a line end.
    fn error(&mut self, message: impl AsRef<[u8]>);
    /// A refused operation. `command` is its lower-case name where the text contains it.
    fn refused(&mut self, error: OpError) {
        self.error(error.message());
    }
}
