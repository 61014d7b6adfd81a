//! The record: one key with its value, as it lies in the arena.
//!
//! ```text
//! offset 0   word A, 8 bytes
//!        8   word B, 4 bytes
//!       12   expiry word, 8 bytes, only if A.has_expiry
//!            key
//!            body: the value, or with A.large the u32 numbers of its extents
//!                  and what of the value does not fill one
//!            padding to 4 bytes
//!
//! word A   63      55 54  53  52  51 50  49  48  46 45          16 15       0
//!          ├────────┼───┼───┼───┼───┼───┼───┼──────┼──────────────┼─────────┤
//!          │version │ l │ s │ L │ c │ e │ d │ refs │  value_len   │ key_len │
//!          │ high 9 │   │   │   │   │   │   │  3   │     30       │   16    │
//!          └────────┴───┴───┴───┴───┴───┴───┴──────┴──────────────┴─────────┘
//!            d dead   e has_expiry   L large
//!            c client flags, s stale, l lease: reserved, always 0
//! word B   31                                                               0
//!          │                        version low 32                          │
//!
//! expiry   63  62     52 51                                                 0
//!          │ 0 │ armed  │        deadline, Unix milliseconds                │
//!          │ 1 │            far deadline, 63 bits; 0 means none             │
//! ```
//!
//! A record says its own length, so a segment can be walked by reading it alone.
//! The expiry word stays in place when a deadline is removed, so that `PERSIST`
//! and the next `EXPIRE` move nothing.
//!
//! Invariant: nothing here trusts what it reads. Bytes at a stale location may be
//! anything; every length is checked against the memory before use.
//!
//! Called by the arena, the slot tables and the operations of the shard.

use super::arena::LARGE_FRACTION;
use super::expiry::Bucket;

/// Bytes of the words A and B.
pub const HEADER_BYTES: usize = 12;
/// Bytes of the expiry word.
pub const EXPIRY_BYTES: usize = 8;
/// Records start at multiples of this, which is the unit of [`Loc`].
pub const ALIGN_BYTES: usize = 4;
/// Bytes of one extent number in the body of a large record.
pub const EXTENT_ID_BYTES: usize = 4;

const KEY_LEN_MASK: u64 = (1 << 16) - 1;
const VALUE_LEN_SHIFT: u32 = 16;
const VALUE_LEN_MASK: u64 = (1 << 30) - 1;
const REFS_SHIFT: u32 = 46;
/// Reference counts saturate here.
pub const REFS_MAX: u64 = (1 << 3) - 1;
const DEAD: u64 = 1 << 49;
const HAS_EXPIRY: u64 = 1 << 50;
const LARGE: u64 = 1 << 52;
const VERSION_HIGH_SHIFT: u32 = 55;
const VERSION_LOW_BITS: u32 = 32;
const VERSION_BITS: u32 = 41;
const VERSION_MASK: u64 = (1 << VERSION_BITS) - 1;

const FAR: u64 = 1 << 63;
const ARMED_SHIFT: u32 = 52;
const DEADLINE_MASK: u64 = (1 << ARMED_SHIFT) - 1;

/// The longest key that a header can describe.
pub const KEY_BYTES_MAX: usize = KEY_LEN_MASK as usize;

// The version's high part is exactly what word A has left above its shift.
const _: () = assert!(VERSION_BITS - VERSION_LOW_BITS == 64 - VERSION_HIGH_SHIFT);
// The armed bucket fills the bits between the deadline and the far mark.
const _: () = assert!(ARMED_SHIFT + Bucket::BITS == 63);
// A value of the largest size that may be configured fits its length field.
const _: () = assert!(super::VALUE_BYTES_MAX as u64 <= VALUE_LEN_MASK);

/// Where a record lies: its offset in the arena in units of [`ALIGN_BYTES`].
/// 32 bits reach 16 GiB, the most that one core can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc(pub u32);

impl Loc {
    /// The location `offset` bytes into the arena, a multiple of [`ALIGN_BYTES`].
    #[inline]
    pub fn at(offset: usize) -> Self {
        debug_assert!(offset.is_multiple_of(ALIGN_BYTES));
        Self((offset / ALIGN_BYTES) as u32)
    }

    /// Bytes from the start of the arena.
    #[inline]
    pub fn offset(self) -> usize {
        self.0 as usize * ALIGN_BYTES
    }
}

/// Word A of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head(u64);

impl Head {
    /// The head of a live record that nobody has read yet.
    #[inline]
    pub fn new(key_len: usize, value_len: usize, has_expiry: bool, large: bool) -> Self {
        debug_assert!(key_len <= KEY_BYTES_MAX && value_len as u64 <= VALUE_LEN_MASK);
        let mut a = (key_len as u64 & KEY_LEN_MASK) | (value_len as u64 & VALUE_LEN_MASK) << VALUE_LEN_SHIFT;
        if has_expiry {
            a |= HAS_EXPIRY;
        }
        if large {
            a |= LARGE;
        }
        Self(a)
    }

    /// Reads the head at `loc`; outside the memory, that of an empty dead record.
    #[inline]
    pub fn read(bytes: &[u8], loc: Loc) -> Self {
        Self(read_u64(bytes, loc.offset()).unwrap_or(DEAD))
    }

    /// Writes the head at `loc`.
    #[inline]
    pub fn write(self, bytes: &mut [u8], loc: Loc) {
        write_bytes(bytes, loc.offset(), &self.0.to_le_bytes());
    }

    /// Bytes of the key.
    #[inline]
    pub fn key_len(self) -> usize {
        (self.0 & KEY_LEN_MASK) as usize
    }

    /// Bytes of the value, wherever it lies.
    #[inline]
    pub fn value_len(self) -> usize {
        (self.0 >> VALUE_LEN_SHIFT & VALUE_LEN_MASK) as usize
    }

    /// The same head with another value length.
    pub fn with_value_len(self, len: usize) -> Self {
        Self(self.0 & !(VALUE_LEN_MASK << VALUE_LEN_SHIFT) | (len as u64 & VALUE_LEN_MASK) << VALUE_LEN_SHIFT)
    }

    /// How often the record was read since the hand last passed, up to [`REFS_MAX`].
    #[inline]
    pub fn refs(self) -> u64 {
        self.0 >> REFS_SHIFT & REFS_MAX
    }

    /// The same head with another reference count.
    #[inline]
    pub fn with_refs(self, refs: u64) -> Self {
        Self(self.0 & !(REFS_MAX << REFS_SHIFT) | refs.min(REFS_MAX) << REFS_SHIFT)
    }

    /// Whether the record is only waiting for its segment to be freed.
    #[inline]
    pub fn is_dead(self) -> bool {
        self.0 & DEAD != 0
    }

    /// The same head, dead.
    pub fn into_dead(self) -> Self {
        Self(self.0 | DEAD)
    }

    /// Whether an expiry word follows the header.
    #[inline]
    pub fn has_expiry(self) -> bool {
        self.0 & HAS_EXPIRY != 0
    }

    /// The same head, with an expiry word.
    pub fn with_expiry(self) -> Self {
        Self(self.0 | HAS_EXPIRY)
    }

    /// The same head, without an expiry word.
    pub fn without_expiry(self) -> Self {
        Self(self.0 & !HAS_EXPIRY)
    }

    /// Whether the body lists extents instead of holding the value.
    #[inline]
    pub fn is_large(self) -> bool {
        self.0 & LARGE != 0
    }

    /// Bytes from the start of the record to its key.
    #[inline]
    pub fn key_at(self) -> usize {
        HEADER_BYTES + if self.has_expiry() { EXPIRY_BYTES } else { 0 }
    }

    /// Bytes from the start of the record to its body.
    #[inline]
    pub fn body_at(self) -> usize {
        self.key_at() + self.key_len()
    }

    /// How many extents of `1 << segment_shift` bytes hold the value, or its first part.
    #[inline]
    pub fn extents(self, segment_shift: u32) -> usize {
        if self.is_large() { self.divide(segment_shift).0 } else { 0 }
    }

    /// How many bytes of the value stand in the record itself.
    #[inline]
    pub fn inline_len(self, segment_shift: u32) -> usize {
        if self.is_large() { self.divide(segment_shift).1 } else { self.value_len() }
    }

    /// A large value's extents, and what is left over for the record. What is
    /// left over gets an extent too if half a segment is too small for it. The expiry word
    /// makes no difference here, so that it can come and go.
    fn divide(self, segment_shift: u32) -> (usize, usize) {
        let whole = self.value_len() >> segment_shift;
        let rest = self.value_len() & ((1 << segment_shift) - 1);
        let beside = HEADER_BYTES + EXPIRY_BYTES + self.key_len() + whole * EXTENT_ID_BYTES;
        if beside + rest > (1 << segment_shift) / LARGE_FRACTION { (whole + 1, 0) } else { (whole, rest) }
    }

    /// Bytes of the body: the value, or the numbers of its extents and what is left over.
    #[inline]
    pub fn body_len(self, segment_shift: u32) -> usize {
        self.extents(segment_shift) * EXTENT_ID_BYTES + self.inline_len(segment_shift)
    }

    /// Bytes of the whole record with its padding.
    #[inline]
    pub fn record_bytes(self, segment_shift: u32) -> usize {
        (self.body_at() + self.body_len(segment_shift)).next_multiple_of(ALIGN_BYTES)
    }
}

/// A deadline as the expiry word stores it, with the wheel's bucket that watches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryWord(u64);

impl ExpiryWord {
    /// No deadline.
    pub const NONE: Self = Self(FAR);

    /// The word for `deadline`, watched by `bucket` unless it is far.
    #[inline]
    pub fn new(deadline: u64, bucket: Bucket) -> Self {
        if Self::is_far(deadline) {
            Self(FAR | deadline)
        } else {
            Self(u64::from(bucket.id()) << ARMED_SHIFT | deadline)
        }
    }

    /// Whether `deadline` is so far (the year 144,680) that the wheel need not watch it.
    #[inline]
    pub fn is_far(deadline: u64) -> bool {
        deadline > DEADLINE_MASK
    }

    /// Reads the word of the record at `loc`, whose head is `head`.
    #[inline]
    pub fn read(bytes: &[u8], loc: Loc, head: Head) -> Self {
        if head.has_expiry() {
            read_u64(bytes, loc.offset() + HEADER_BYTES).map_or(Self::NONE, Self)
        } else {
            Self::NONE
        }
    }

    /// Writes the word of the record at `loc`, whose head must have room for it.
    #[inline]
    pub fn write(self, bytes: &mut [u8], loc: Loc) {
        write_bytes(bytes, loc.offset() + HEADER_BYTES, &self.0.to_le_bytes());
    }

    /// The deadline in Unix milliseconds, if there is one.
    #[inline]
    pub fn deadline(self) -> Option<u64> {
        match self.0 & FAR {
            0 => Some(self.0 & DEADLINE_MASK),
            _ if self == Self::NONE => None,
            _ => Some(self.0 & !FAR),
        }
    }

    /// The wheel's bucket that watches the deadline.
    #[inline]
    pub fn armed(self) -> Option<Bucket> {
        if self.0 & FAR == 0 { Some(Bucket::from_id((self.0 >> ARMED_SHIFT) as u16)) } else { None }
    }
}

/// Stores the low 41 bits of a version in the words A and B of the record at `loc`.
#[inline]
pub fn write_version(bytes: &mut [u8], loc: Loc, version: u64) {
    let a = Head::read(bytes, loc).0 & ((1 << VERSION_HIGH_SHIFT) - 1);
    let high = (version & VERSION_MASK) >> VERSION_LOW_BITS;
    Head(a | high << VERSION_HIGH_SHIFT).write(bytes, loc);
    write_bytes(bytes, loc.offset() + 8, &(version as u32).to_le_bytes());
}

/// The version of the record at `loc`. Its bits above the 41 stored are those of
/// `slot_version`, the latest of the slot, which no record can be ahead of.
#[inline]
pub fn read_version(bytes: &[u8], loc: Loc, head: Head, slot_version: u64) -> u64 {
    let at = loc.offset() + 8;
    let low = bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let stored = head.0 >> VERSION_HIGH_SHIFT << VERSION_LOW_BITS | u64::from(low);
    let guess = slot_version & !VERSION_MASK | stored;
    if guess > slot_version { guess.saturating_sub(VERSION_MASK + 1) } else { guess }
}

/// The key of the record at `loc`; empty where the memory ends before it does.
#[inline]
pub fn key_of(bytes: &[u8], loc: Loc, head: Head) -> &[u8] {
    let at = loc.offset() + head.key_at();
    bytes.get(at..at + head.key_len()).unwrap_or_default()
}

/// Whether the record at `loc` has this key.
#[inline]
pub fn has_key(bytes: &[u8], loc: Loc, key: &[u8]) -> bool {
    let head = Head::read(bytes, loc);
    head.key_len() == key.len() && key_of(bytes, loc, head) == key
}

/// The value of the record at `loc`, which is not large.
#[inline]
pub fn value_of(bytes: &[u8], loc: Loc, head: Head) -> &[u8] {
    let at = loc.offset() + head.body_at();
    bytes.get(at..at + head.value_len()).unwrap_or_default()
}

/// What of the value of the large record at `loc` stands behind the numbers of its extents.
pub fn rest_of(bytes: &[u8], loc: Loc, head: Head, segment_shift: u32) -> &[u8] {
    let at = loc.offset() + head.body_at() + head.extents(segment_shift) * EXTENT_ID_BYTES;
    bytes.get(at..at + head.inline_len(segment_shift)).unwrap_or_default()
}

/// Number `index` of the extents of the large record at `loc`.
pub fn extent_of(bytes: &[u8], loc: Loc, head: Head, index: usize) -> Option<u32> {
    let at = loc.offset() + head.body_at() + index * EXTENT_ID_BYTES;
    bytes.get(at..at + EXTENT_ID_BYTES).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
}

#[inline]
fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)
}

/// Writes only where the memory reaches; the callers stay inside.
#[inline]
fn write_bytes(bytes: &mut [u8], at: usize, from: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + from.len()) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_field_reads_back(
            key_len in 0usize..=KEY_BYTES_MAX, value_len in 0usize..=512 << 20, expiry: bool, large: bool,
            refs in 0u64..=9, slot_version in 1u64.., age in 0u64..1 << 40,
        ) {
            let mut bytes = [0u8; 32];
            let loc = Loc::at(4);
            let head = Head::new(key_len, value_len, expiry, large).with_refs(refs);
            head.write(&mut bytes, loc);
            let version = slot_version.saturating_sub(age);
            write_version(&mut bytes, loc, version);
            let read = Head::read(&bytes, loc);
            prop_assert_eq!((read.key_len(), read.value_len()), (key_len, value_len));
            prop_assert_eq!((read.has_expiry(), read.is_large(), read.is_dead()), (expiry, large, false));
            prop_assert_eq!(read.refs(), refs.min(REFS_MAX));
            prop_assert!(read.into_dead().is_dead());
            prop_assert_eq!(read_version(&bytes, loc, read, slot_version), version);
            prop_assert_eq!(read.record_bytes(16) % ALIGN_BYTES, 0);
        }

        #[test]
        fn deadlines_read_back_near_and_far(deadline in 1u64..1 << 63, id in 0u16..1 << Bucket::BITS) {
            let word = ExpiryWord::new(deadline, Bucket::from_id(id));
            prop_assert_eq!(word.deadline(), Some(deadline));
            let armed = if deadline < 1 << 52 { Some(Bucket::from_id(id)) } else { None };
            prop_assert_eq!(word.armed(), armed);
        }

        #[test]
        fn garbage_is_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0u32..20) {
            let loc = Loc(at);
            let head = Head::read(&bytes, loc);
            key_of(&bytes, loc, head);
            value_of(&bytes, loc, head);
            extent_of(&bytes, loc, head, 3);
            ExpiryWord::read(&bytes, loc, head);
            read_version(&bytes, loc, head, 0);
        }
    }

    #[test]
    fn no_deadline_is_none() {
        assert_eq!(ExpiryWord::NONE.deadline(), None);
        assert_eq!(ExpiryWord::NONE.armed(), None);
    }
}
