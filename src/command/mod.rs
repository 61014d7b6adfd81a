//! Floor 1: the vocabulary that all protocols share.
//!
//! A protocol turns bytes into an [`Op`] (or into one of the commands that the
//! session answers itself); the engine executes the `Op` and writes its answer
//! into a [`ReplySink`]. Neither knows the other.

pub mod args;
pub mod lease;
pub mod reference;
pub mod reply;
pub mod syntax;
pub mod table;

pub use args::{Args, Span};
pub use lease::{Ask, Claim, Lease, Leased};
pub use reply::{Payload, Pin, ReplySink, Value};
pub use syntax::SyntaxError;

/// When a key shall expire, as a command says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Leave the deadline as it is (`KEEPTTL`, `GETEX` without options).
    Keep,
    /// No deadline (`PERSIST`, a plain `SET`).
    Never,
    /// So many milliseconds from the moment of execution. May be negative.
    In(i64),
    /// At this Unix time in milliseconds. May be negative or in the past.
    At(i64),
}

/// The condition under which a write happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// Only if the key does not exist (`NX`).
    Absent,
    /// Only if the key exists (`XX`).
    Present,
}

/// What a `SET` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetReply {
    /// `OK`, or null when the condition did not hold (`SET`, `SETEX`).
    Status,
    /// 1 or 0 (`SETNX`).
    Integer,
    /// The value before, or null (`SET … GET`).
    Old,
}

/// The condition of `EXPIRE` and its relatives. `Nx` excludes the others; `Xx`
/// combines with `Gt` or `Lt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireCondition {
    /// Only if the key has no deadline.
    pub nx: bool,
    /// Only if the key has a deadline.
    pub xx: bool,
    /// Only if the new deadline is later; no deadline counts as infinitely late.
    pub gt: bool,
    /// Only if the new deadline is earlier; no deadline counts as infinitely late.
    pub lt: bool,
}

/// How a [`Store`] treats what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// Whatever there is, it is replaced.
    Set,
    /// Only if the key does not exist.
    Add,
    /// Only if the key exists.
    Replace,
    /// Behind the value that is there, whose deadline and client flags stay.
    Append,
    /// In front of it, likewise.
    Prepend,
}

/// A write with all that protocols beside RESP say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store<'a> {
    /// The new value, or what is added to the one that is there.
    pub value: &'a [u8],
    /// What the client keeps beside the value.
    pub flags: u32,
    /// The new deadline.
    pub expiry: Expiry,
    /// When to write, and how.
    pub mode: StoreMode,
    /// Only if the value has this version, or the key's lease this token.
    pub compare: Option<u64>,
    /// Milliseconds after which the value is stale; 0: it never is.
    pub soft_ms: u64,
    /// Whether a value newer than `compare` is replaced too: by one that is stale at once, keeps the deadline, and is
    /// to be filled by whoever was to fill the one before.
    pub invalidate: bool,
    /// Whether [`StoreMode::Append`] and [`StoreMode::Prepend`] make a key that does not exist.
    pub create: bool,
    /// The version that the value shall have; 0: the server numbers it.
    pub version: u64,
}

impl Store<'static> {
    /// A write of no bytes that nothing else is said about.
    pub const fn new(mode: StoreMode, expiry: Expiry) -> Self {
        Self {
            value: b"",
            flags: 0,
            expiry,
            mode,
            compare: None,
            soft_ms: 0,
            invalidate: false,
            create: false,
            version: 0,
        }
    }
}

/// What becomes of a key that is not to be read as it is any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remove {
    /// Only if the value has this version, or the key's lease this token.
    pub compare: Option<u64>,
    /// Whether the value stays, stale from now on, and with this deadline.
    pub stale: Option<Expiry>,
    /// Whether the key stays, with no bytes and no client flags.
    pub empty: bool,
    /// The version that what stays shall have; 0: the server numbers it.
    pub version: u64,
}

/// A change of a decimal number of 64 bits without a sign, as memcached counts: beyond the largest it begins at 0
/// again, and below 0 it stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// By how much.
    pub delta: u64,
    /// Whether it is taken away.
    pub down: bool,
    /// What a key that does not exist is made with, and its deadline.
    pub initial: Option<(u64, Expiry)>,
    /// The new deadline of a key that exists; [`Expiry::Keep`] leaves it.
    pub expiry: Expiry,
    /// Only if the value has this version.
    pub compare: Option<u64>,
    /// The version that the number shall have; 0: the server numbers it.
    pub version: u64,
}

/// What came of a [`Op::Store`], [`Op::Remove`] or [`Op::Count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done. What is stored now has this version; after a removal it is 0.
    Done {
        /// The version.
        version: u64,
        /// Whether the key is new.
        created: bool,
    },
    /// It was done, and the number is this now.
    Counted {
        /// The number.
        number: u64,
        /// The version.
        version: u64,
        /// Unix milliseconds at which it expires, if it does.
        expires_at: Option<u64>,
    },
    /// The key exists and was not to, or does not exist and was to.
    NotStored,
    /// The key does not exist, so there is no version to compare, nothing to remove and nothing to count.
    NotFound,
    /// The value has another version.
    Differs {
        /// Which.
        version: u64,
    },
}

/// How `TTL` and its relatives express a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtlUnit {
    /// Remaining seconds, rounded to the nearest (`TTL`).
    Seconds,
    /// Remaining milliseconds (`PTTL`).
    Millis,
    /// The deadline in Unix seconds, rounded to the nearest (`EXPIRETIME`).
    UnixSeconds,
    /// The deadline in Unix milliseconds (`PEXPIRETIME`).
    UnixMillis,
}

/// An operation on one key: what the engine executes. Which core executes it is
/// decided by the key's slot; commands on several keys are split into these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Answers the value, or null.
    Get,
    /// Writes a value.
    Set {
        /// The new value.
        value: &'a [u8],
        /// The new deadline.
        expiry: Expiry,
        /// When to write.
        condition: Condition,
        /// What to answer.
        reply: SetReply,
    },
    /// Answers the value and deletes the key (`GETDEL`).
    GetDel,
    /// Answers the value and changes the deadline (`GETEX`).
    GetEx {
        /// The new deadline; one that makes no sense is refused only if the key exists.
        expiry: Result<Expiry, OpError>,
    },
    /// Appends to the value, keeps the deadline, answers the new length.
    Append {
        /// What to append.
        tail: &'a [u8],
    },
    /// Answers the value's length, 0 for no key.
    Strlen,
    /// Adds to a decimal 64-bit integer, keeps the deadline, answers the result.
    IncrBy {
        /// What to add.
        delta: i64,
    },
    /// Deletes the key; answers 1 if it existed, else 0.
    Del,
    /// Answers 1 if the key exists, else 0. Counts as a read of the key.
    Exists,
    /// Changes the deadline; answers 1 if it did, else 0. A deadline in the past deletes the key.
    Expire {
        /// The new deadline: `In` or `At`.
        expiry: Expiry,
        /// When to change it.
        condition: ExpireCondition,
    },
    /// Answers the deadline: -2 without the key, -1 without a deadline.
    Ttl(TtlUnit),
    /// Removes the deadline; answers 1 if there was one, else 0.
    Persist,
    /// Answers the status `string`, or `none`.
    Type,
    /// Answers the value, or null.
    Fetch {
        /// The new deadline of a key that exists; [`Expiry::Keep`] leaves it.
        expiry: Expiry,
        /// Whether reading makes the key more worth keeping.
        bump: bool,
        /// Asks for a lease, and is answered by a [`Leased`].
        ask: Option<Ask>,
    },
    /// Writes a value; answers an [`Outcome`].
    Store(Store<'a>),
    /// Deletes the key, or makes its value stale; answers an [`Outcome`].
    Remove(Remove),
    /// Changes a number; answers an [`Outcome`].
    Count(Count),
}

impl Op<'_> {
    /// The bytes that the operation stores; empty for one that stores none.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Op::Set { value, .. } => value,
            Op::Append { tail } => tail,
            Op::Store(store) => store.value,
            _ => &[],
        }
    }

    /// The same operation on other bytes: how it travels apart from its bytes.
    #[inline]
    pub fn with_bytes<'b>(&self, bytes: &'b [u8]) -> Op<'b> {
        match *self {
            Op::Set { expiry, condition, reply, .. } => Op::Set { value: bytes, expiry, condition, reply },
            Op::Append { .. } => Op::Append { tail: bytes },
            Op::Get => Op::Get,
            Op::GetDel => Op::GetDel,
            Op::GetEx { expiry } => Op::GetEx { expiry },
            Op::Strlen => Op::Strlen,
            Op::IncrBy { delta } => Op::IncrBy { delta },
            Op::Del => Op::Del,
            Op::Exists => Op::Exists,
            Op::Expire { expiry, condition } => Op::Expire { expiry, condition },
            Op::Ttl(unit) => Op::Ttl(unit),
            Op::Persist => Op::Persist,
            Op::Type => Op::Type,
            Op::Fetch { expiry, bump, ask } => Op::Fetch { expiry, bump, ask },
            Op::Store(store) => Op::Store(Store { value: bytes, ..store }),
            Op::Remove(remove) => Op::Remove(remove),
            Op::Count(count) => Op::Count(count),
        }
    }

    /// How many milliseconds the operation may wait for a fill.
    #[inline]
    pub const fn waits(&self) -> u32 {
        match self {
            Op::Fetch { ask: Some(ask), .. } => ask.wait_ms,
            _ => 0,
        }
    }

    /// Whether the operation may store bytes, and so may meet the memory limit.
    pub const fn stores(&self) -> bool {
        matches!(self, Op::Set { .. } | Op::Append { .. } | Op::IncrBy { .. } | Op::Store(_) | Op::Count(_))
    }
}

/// Why an [`Op`] was refused. The texts are those of redis-server, which clients match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// ERR value is not an integer or out of range
    NotAnInteger,
    /// ERR increment or decrement would overflow
    Overflow,
    /// ERR invalid expire time: the deadline does not fit 64 bits of milliseconds.
    InvalidExpire,
    /// ERR string exceeds maximum allowed size (the configured largest value)
    TooLarge,
    /// OOM command not allowed when used memory > 'maxmemory'.
    OutOfMemory,
}

impl OpError {
    /// The text after the `-`, with its code.
    pub const fn message(self) -> &'static str {
        match self {
            OpError::NotAnInteger => "ERR value is not an integer or out of range",
            OpError::Overflow => "ERR increment or decrement would overflow",
            OpError::InvalidExpire => "ERR invalid expire time",
            OpError::TooLarge => "ERR string exceeds maximum allowed size (limits.value_bytes)",
            OpError::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.",
        }
    }
}
