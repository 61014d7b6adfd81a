//! What a read says that takes part in refreshing, and what it is told.

use super::reply::Value;

/// A lease that a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// When the asker would fill.
    pub claim: Claim,
    /// A value that lives for fewer milliseconds than this counts as stale.
    pub renew_below_ms: u64,
    /// How long the asker has for the fill, in milliseconds; 0: as long as usual.
    pub term_ms: u32,
    /// How long the asker waits for a fill by another, in milliseconds.
    pub wait_ms: u32,
    /// The token of a lease on a missing value; 0: one that no other lease has.
    pub version: u64,
}

impl Ask {
    /// No lease: only how fresh the value is.
    pub const NOTHING: Self = Self { claim: Claim::Nothing, renew_below_ms: 0, term_ms: 0, wait_ms: 0, version: 0 };
}

/// When an asker would fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Never: it only wants to know how fresh the value is.
    Nothing,
    /// A stale value.
    Stale,
    /// A stale one, and one that is not there.
    Missing,
}

/// Who is to fill a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Nobody.
    None,
    /// The asker.
    Granted {
        /// What the fill is to name.
        token: u64,
        /// The last Unix millisecond in which it may.
        until: u64,
    },
    /// Another.
    Held {
        /// The last Unix millisecond in which that one may.
        until: u64,
    },
}

/// The answer to a read with an [`Ask`].
#[derive(Clone, Copy, Debug)]
pub struct Leased<'a> {
    /// The value, if there is one.
    pub value: Option<&'a Value<'a>>,
    /// Whether it is stale, because its time to be so has come or it was marked.
    pub is_stale: bool,
    /// Who is to fill.
    pub lease: Lease,
}
