//! The record: one key with its value, as it lies in the arena.
//!
//! ```text
//! offset 0   word A, 8 bytes
//!        8   word B, 4 bytes
//!       12   expiry word: 4 bytes with A.e, 8 with A.e and A.w; with A.w alone
//!            8 bytes, the soft deadline in 8 more, and the client's version in 8 more
//!            when it was last read or written, only if A.a: 4 bytes, Unix seconds
//!            client flags, only if A.c: 4 bytes
//!            key
//!            body: the value, or with A.large the u32 numbers of its extents
//!                  and what of the value does not fill one
//!            padding to 4 bytes
//!
//! word A   63    56 55  54  53  52  51 50  49  48  46 45          16 15       0
//!          ├───────┼───┼───┼───┼───┼───┼───┼───┼──────┼──────────────┼─────────┤
//!          │version│ w │ r │ a │ L │ c │ e │ d │ refs │  value_len   │ key_len │
//!          │high 8 │   │   │   │   │   │   │   │  3   │     30       │   16    │
//!          └───────┴───┴───┴───┴───┴───┴───┴───┴──────┴──────────────┴─────────┘
//!            d dead   e has_expiry   L large   w wide
//!            c client flags   a access time   r reserved, always 0
//! word B   31                                                               0
//!          │                        version low 32                          │
//!
//! expiry   31     30     29                                                 0
//! narrow   │ side │ late │ deadline: milliseconds after the segment's base  │
//!          │             │ all ones: no deadline                            │
//!
//! expiry   63  62     61     60                                             0
//! wide     │ 0 │ side │ late │ deadline, Unix milliseconds                  │
//!          │ 1 │           deadline that is not watched; 0 means none       │
//!
//! soft     63                                                             0
//!          │       Unix milliseconds from which on it is stale; 0: never    │
//!
//! client's 63                                                             0
//!          │  version that the client gave the value; 0: that of the words  │
//! ```
//!
//! A segment's base is the time at which it was opened, so the narrow word reaches
//! 12.4 days from there, exactly. Deadlines beyond that, and those before the base
//! because the clock was set back, take the wide word. `side` and `late` say where
//! the wheel watches the record.
//!
//! A record says its own length, so a segment can be walked by reading it alone.
//! The expiry word stays in place when a deadline is removed, so that `PERSIST`
//! and the next `EXPIRE` move nothing unless the new deadline needs a wider word.
//!
//! Invariant: nothing here trusts what it reads. Bytes at a stale location may be
//! anything; every length is checked against the memory before use.
//!
//! Called by the arena, the slot tables and the operations of the shard.

use super::arena::LARGE_FRACTION;
use super::expiry::{DEADLINE_MS_MAX, Watch};
use crate::base::is_same;

/// Bytes of the words A and B.
pub const HEADER_BYTES: usize = 12;
/// Bytes of the narrow expiry word, and by how many the wide one is longer.
const EXPIRY_BYTES: usize = 4;
/// Bytes of the soft deadline, and of the version that the client gave.
const SOFT_BYTES: usize = 8;
const OWN_VERSION_BYTES: usize = 8;
/// Bytes of the time of the last access, and of the client flags.
const ACCESSED_BYTES: usize = 4;
const FLAGS_BYTES: usize = 4;
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
const HAS_EXPIRY_SHIFT: u32 = 50;
const HAS_EXPIRY: u64 = 1 << HAS_EXPIRY_SHIFT;
const HAS_FLAGS_SHIFT: u32 = 51;
const HAS_FLAGS: u64 = 1 << HAS_FLAGS_SHIFT;
const LARGE: u64 = 1 << 52;
const WIDE_SHIFT: u32 = 55;
const WIDE: u64 = 1 << WIDE_SHIFT;
const ACCESSED_SHIFT: u32 = 53;
const ACCESSED: u64 = 1 << ACCESSED_SHIFT;
/// The bit without a meaning yet.
const RESERVED: u64 = 1 << 54;
const VERSION_HIGH_SHIFT: u32 = 56;
const VERSION_LOW_BITS: u32 = 32;
const VERSION_BITS: u32 = 40;
const VERSION_MASK: u64 = (1 << VERSION_BITS) - 1;

const NARROW_SIDE_SHIFT: u32 = 31;
const NARROW_LATE_SHIFT: u32 = 30;
/// The offset that means no deadline; those below it are deadlines.
const NARROW_NONE: u32 = (1 << NARROW_LATE_SHIFT) - 1;
const UNWATCHED: u64 = 1 << 63;
const WIDE_SIDE_SHIFT: u32 = 62;
const WIDE_LATE_SHIFT: u32 = 61;
const WIDE_DEADLINE_MASK: u64 = (1 << WIDE_LATE_SHIFT) - 1;

/// The longest key that a header can describe.
pub const KEY_BYTES_MAX: usize = KEY_LEN_MASK as usize;

// The version's high part is exactly what word A has left above its shift.
const _: () = assert!(VERSION_BITS - VERSION_LOW_BITS == 64 - VERSION_HIGH_SHIFT);
// Every deadline that the wheel watches fits the wide word beside side and late.
const _: () = assert!(DEADLINE_MS_MAX <= WIDE_DEADLINE_MASK);
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

/// What room a record has for a deadline. Each form also holds what a lesser one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// No expiry word.
    Absent,
    /// 4 bytes: a deadline less than 2^30 - 1 ms after the segment's base, or none.
    Narrow,
    /// 8 bytes: any deadline, or none.
    Wide,
    /// 24 bytes: any deadline or none, a soft one or none, and a version of the client's own or none.
    Full,
}

impl Form {
    /// The least form that holds `deadline` in a segment with this base.
    #[inline]
    pub fn of(deadline: u64, base: u64) -> Self {
        match deadline.checked_sub(base) {
            Some(offset) if offset < u64::from(NARROW_NONE) => Self::Narrow,
            _ => Self::Wide,
        }
    }
}

/// Word A of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head(u64);

impl Head {
    /// The head of a live record that nobody has read yet.
    #[inline]
    pub fn new(key_len: usize, value_len: usize, form: Form, large: bool) -> Self {
        debug_assert!(key_len <= KEY_BYTES_MAX && value_len as u64 <= VALUE_LEN_MASK);
        let mut a = (key_len as u64 & KEY_LEN_MASK) | (value_len as u64 & VALUE_LEN_MASK) << VALUE_LEN_SHIFT;
        if large {
            a |= LARGE;
        }
        Self(a).with_form(form)
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

    /// Whether a live record may have this head, where records have access times or where they have none. There one that
    /// text is taken for never has: two bits must be 0, of which every printable character has one.
    #[inline]
    pub fn may_be_live(self, access_times: bool) -> bool {
        let unused = if access_times { RESERVED } else { RESERVED | ACCESSED };
        self.0 & (DEAD | unused) == 0
    }

    /// The same head, dead.
    pub fn into_dead(self) -> Self {
        Self(self.0 | DEAD)
    }

    /// Whether an expiry word follows the header.
    #[inline]
    pub fn has_expiry(self) -> bool {
        self.0 & (HAS_EXPIRY | WIDE) != 0
    }

    /// The form of that word.
    #[inline]
    pub fn form(self) -> Form {
        match (self.0 & HAS_EXPIRY, self.0 & WIDE) {
            (0, 0) => Form::Absent,
            (_, 0) => Form::Narrow,
            (0, _) => Form::Full,
            _ => Form::Wide,
        }
    }

    /// The same head with an expiry word of another form.
    #[inline]
    pub fn with_form(self, form: Form) -> Self {
        let bits = match form {
            Form::Absent => 0,
            Form::Narrow => HAS_EXPIRY,
            Form::Wide => HAS_EXPIRY | WIDE,
            Form::Full => WIDE,
        };
        Self(self.0 & !(HAS_EXPIRY | WIDE) | bits)
    }

    /// Whether the body lists extents instead of holding the value.
    #[inline]
    pub fn is_large(self) -> bool {
        self.0 & LARGE != 0
    }

    /// Whether client flags stand before the key.
    #[inline]
    pub fn has_flags(self) -> bool {
        self.0 & HAS_FLAGS != 0
    }

    /// The same head with room for client flags, or without.
    #[inline]
    pub fn with_flags(self, flags: bool) -> Self {
        Self(self.0 & !HAS_FLAGS | u64::from(flags) << HAS_FLAGS_SHIFT)
    }

    /// Whether the time of the last access stands before the client flags.
    #[inline]
    pub fn has_access_time(self) -> bool {
        self.0 & ACCESSED != 0
    }

    /// The same head with room for that, or without.
    #[inline]
    pub fn with_access_time(self, has: bool) -> Self {
        Self(self.0 & !ACCESSED | u64::from(has) << ACCESSED_SHIFT)
    }

    /// Bytes from the start of the record to what follows its expiry word and what goes with that.
    #[inline]
    pub const fn accessed_at(self) -> usize {
        // Each bit stands for four bytes, and the wide one alone for twenty-four.
        let (expiry, wide) = (self.0 >> HAS_EXPIRY_SHIFT & 1, self.0 >> WIDE_SHIFT & 1);
        let words = expiry + wide + 5 * (wide & !expiry);
        HEADER_BYTES + EXPIRY_BYTES * words as usize
    }

    /// Bytes from the start of the record to its client flags, or where they would be.
    #[inline]
    pub const fn flags_at(self) -> usize {
        self.accessed_at() + ACCESSED_BYTES * (self.0 >> ACCESSED_SHIFT & 1) as usize
    }

    /// Bytes from the start of the record to its key: asked of every record that is met, so they are in a table.
    #[inline]
    pub fn key_at(self) -> usize {
        usize::from(KEY_AT[(self.0 >> HAS_EXPIRY_SHIFT) as usize % KEY_AT.len()])
    }

    /// Whether the record is nothing but its header, a key and a value in one piece.
    #[inline]
    pub fn is_bare(self) -> bool {
        self.0 & (HAS_EXPIRY | HAS_FLAGS | LARGE | ACCESSED | WIDE) == 0
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
        let words = 2 * EXPIRY_BYTES + SOFT_BYTES + OWN_VERSION_BYTES + ACCESSED_BYTES + FLAGS_BYTES;
        let beside = HEADER_BYTES + words + self.key_len() + whole * EXTENT_ID_BYTES;
        let too_long = rest > 0 && beside + rest > (1 << segment_shift) / LARGE_FRACTION;
        if too_long { (whole + 1, 0) } else { (whole, rest) }
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

/// Where the key of a record begins, by the bits from [`HAS_EXPIRY`] to [`WIDE`] of its word A.
static KEY_AT: [u8; 1 << (WIDE_SHIFT - HAS_EXPIRY_SHIFT + 1)] = {
    let mut all = [0; 1 << (WIDE_SHIFT - HAS_EXPIRY_SHIFT + 1)];
    let mut bits = 0;
    while bits < all.len() {
        let head = Head((bits as u64) << HAS_EXPIRY_SHIFT);
        all[bits] = (head.flags_at() + FLAGS_BYTES * (head.0 >> HAS_FLAGS_SHIFT & 1) as usize) as u8;
        bits += 1;
    }
    all
};

/// What an expiry word says: the deadline, and where the wheel watches the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryWord {
    /// In Unix milliseconds.
    pub deadline: Option<u64>,
    /// Without meaning unless [`ExpiryWord::watched`].
    pub watch: Watch,
}

impl ExpiryWord {
    /// No deadline.
    pub const NONE: Self = Self { deadline: None, watch: Watch::NEVER };

    /// The deadline, if the wheel watches it.
    #[inline]
    pub fn watched(self) -> Option<u64> {
        self.deadline.filter(|&deadline| deadline <= DEADLINE_MS_MAX)
    }

    /// Reads the word of the record at `loc`, whose head is `head` and whose segment has this base.
    #[inline]
    pub fn read(bytes: &[u8], loc: Loc, head: Head, base: u64) -> Self {
        let at = loc.offset() + HEADER_BYTES;
        match head.form() {
            Form::Absent => Self::NONE,
            Form::Narrow => read_u32(bytes, at).map_or(Self::NONE, |word| Self::from_narrow(word, base)),
            Form::Wide | Form::Full => read_u64(bytes, at).map_or(Self::NONE, Self::from_wide),
        }
    }

    #[inline]
    fn from_narrow(word: u32, base: u64) -> Self {
        let offset = word & NARROW_NONE;
        Self {
            // The sum wraps only where no record is.
            deadline: if offset == NARROW_NONE { None } else { Some(base.wrapping_add(u64::from(offset))) },
            watch: Watch { side: word >> NARROW_SIDE_SHIFT & 1 == 1, late: word >> NARROW_LATE_SHIFT & 1 == 1 },
        }
    }

    #[inline]
    fn from_wide(word: u64) -> Self {
        match word {
            UNWATCHED => Self::NONE,
            _ if word & UNWATCHED != 0 => Self { deadline: Some(word & !UNWATCHED), watch: Watch::NEVER },
            _ => Self {
                deadline: Some(word & WIDE_DEADLINE_MASK),
                watch: Watch { side: word >> WIDE_SIDE_SHIFT & 1 == 1, late: word >> WIDE_LATE_SHIFT & 1 == 1 },
            },
        }
    }

    /// Writes the word of the record at `loc`, whose head must have a form that holds it.
    #[inline]
    pub fn write(self, bytes: &mut [u8], loc: Loc, head: Head, base: u64) {
        let at = loc.offset() + HEADER_BYTES;
        debug_assert!(
            head.has_expiry() && self.deadline.is_none_or(|deadline| head.form() >= Form::of(deadline, base))
        );
        match head.form() {
            Form::Absent => {}
            Form::Narrow => write_bytes(bytes, at, &self.to_narrow(base).to_le_bytes()),
            Form::Wide | Form::Full => write_bytes(bytes, at, &self.to_wide().to_le_bytes()),
        }
    }

    #[inline]
    fn to_narrow(self, base: u64) -> u32 {
        let offset = self.deadline.map_or(NARROW_NONE, |deadline| deadline.wrapping_sub(base) as u32 & NARROW_NONE);
        u32::from(self.watch.side) << NARROW_SIDE_SHIFT | u32::from(self.watch.late) << NARROW_LATE_SHIFT | offset
    }

    #[inline]
    fn to_wide(self) -> u64 {
        let Watch { side, late } = self.watch;
        match self.watched() {
            Some(deadline) => u64::from(side) << WIDE_SIDE_SHIFT | u64::from(late) << WIDE_LATE_SHIFT | deadline,
            None => UNWATCHED | self.deadline.unwrap_or(0),
        }
    }
}

/// Stores the low 40 bits of a version in the words A and B of the record at `loc`, and forgets one that the client gave.
#[inline]
pub fn write_version(bytes: &mut [u8], loc: Loc, version: u64) {
    write_version_of(bytes, loc, Head::read(bytes, loc), version);
}

/// The same where the record is known to have this head.
#[inline]
pub fn write_version_of(bytes: &mut [u8], loc: Loc, head: Head, version: u64) {
    let a = head.0 & ((1 << VERSION_HIGH_SHIFT) - 1);
    let high = (version & VERSION_MASK) >> VERSION_LOW_BITS;
    Head(a | high << VERSION_HIGH_SHIFT).write(bytes, loc);
    write_bytes(bytes, loc.offset() + 8, &(version as u32).to_le_bytes());
    write_own_version(bytes, loc, head, 0);
}

/// The version that the client gave the record at `loc`, or 0.
#[inline]
pub fn own_version_of(bytes: &[u8], loc: Loc, head: Head) -> u64 {
    if head.form() != Form::Full {
        return 0;
    }
    read_u64(bytes, loc.offset() + head.accessed_at() - OWN_VERSION_BYTES).unwrap_or(0)
}

/// Writes the version that the client gives, or 0, if the record at `loc` has room for one.
#[inline]
pub fn write_own_version(bytes: &mut [u8], loc: Loc, head: Head, version: u64) {
    if head.form() == Form::Full {
        write_bytes(bytes, loc.offset() + head.accessed_at() - OWN_VERSION_BYTES, &version.to_le_bytes());
    }
}

/// The version of the record at `loc`: that of the client, or of its write. Of the latter the bits above the 40 stored are
/// those of `slot_version`, the latest of the slot, which no write can be ahead of.
#[inline]
pub fn read_version(bytes: &[u8], loc: Loc, head: Head, slot_version: u64) -> u64 {
    match own_version_of(bytes, loc, head) {
        0 => read_write_number(bytes, loc, head, slot_version),
        own => own,
    }
}

/// The number of the write of the slot that made the record at `loc`.
#[inline]
pub fn read_write_number(bytes: &[u8], loc: Loc, head: Head, slot_version: u64) -> u64 {
    let at = loc.offset() + 8;
    let low = read_u32(bytes, at).unwrap_or(0);
    let stored = head.0 >> VERSION_HIGH_SHIFT << VERSION_LOW_BITS | u64::from(low);
    let guess = slot_version & !VERSION_MASK | stored;
    if guess > slot_version { guess.saturating_sub(VERSION_MASK + 1) } else { guess }
}

/// The soft deadline of the record at `loc`, in Unix milliseconds, if it has one.
#[inline]
pub fn soft_of(bytes: &[u8], loc: Loc, head: Head) -> Option<u64> {
    if head.form() != Form::Full {
        return None;
    }
    read_u64(bytes, loc.offset() + head.accessed_at() - OWN_VERSION_BYTES - SOFT_BYTES).filter(|&soft| soft != 0)
}

/// Writes the soft deadline of the record at `loc`, if it has room for one.
#[inline]
pub fn write_soft(bytes: &mut [u8], loc: Loc, head: Head, soft: Option<u64>) {
    if head.form() == Form::Full {
        write_bytes(
            bytes,
            loc.offset() + head.accessed_at() - OWN_VERSION_BYTES - SOFT_BYTES,
            &soft.unwrap_or(0).to_le_bytes(),
        );
    }
}

/// When the record at `loc` was last read or written, in Unix seconds, if it says so.
#[inline]
pub fn accessed_of(bytes: &[u8], loc: Loc, head: Head) -> Option<u32> {
    if head.has_access_time() { read_u32(bytes, loc.offset() + head.accessed_at()) } else { None }
}

/// Writes when the record at `loc` was last read or written, if it has room for that.
#[inline]
pub fn write_accessed(bytes: &mut [u8], loc: Loc, head: Head, seconds: u32) {
    if head.has_access_time() {
        write_bytes(bytes, loc.offset() + head.accessed_at(), &seconds.to_le_bytes());
    }
}

/// The client flags of the record at `loc`; 0 if it has none.
#[inline]
pub fn flags_of(bytes: &[u8], loc: Loc, head: Head) -> u32 {
    if head.has_flags() { read_u32(bytes, loc.offset() + head.flags_at()).unwrap_or(0) } else { 0 }
}

/// Writes the client flags of the record at `loc`, if it has room for them.
#[inline]
pub fn write_flags(bytes: &mut [u8], loc: Loc, head: Head, flags: u32) {
    if head.has_flags() {
        write_bytes(bytes, loc.offset() + head.flags_at(), &flags.to_le_bytes());
    }
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
    head.key_len() == key.len() && is_same(key_of(bytes, loc, head), key)
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
    read_u32(bytes, at)
}

#[inline]
fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
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

    const FORMS: [Form; 4] = [Form::Absent, Form::Narrow, Form::Wide, Form::Full];

    fn watch() -> impl Strategy<Value = Watch> {
        any::<(bool, bool)>().prop_map(|(side, late)| Watch { side, late })
    }

    proptest! {
        #[test]
        fn every_field_reads_back(
            key_len in 0usize..=KEY_BYTES_MAX, value_len in 0usize..=512 << 20, form in 0usize..4, large: bool,
            refs in 0u64..=9, slot_version in 1u64.., age in 0u64..1 << 40, flags: u32, soft: u64, own: u64,
            accessed in proptest::option::of(any::<u32>()),
        ) {
            let mut bytes = [0xa5u8; 60];
            let loc = Loc::at(4);
            let form = FORMS[form];
            let head = Head::new(key_len, value_len, form, large).with_refs(refs).with_flags(flags != 0);
            let head = head.with_access_time(accessed.is_some());
            head.write(&mut bytes, loc);
            write_flags(&mut bytes, loc, head, flags);
            write_soft(&mut bytes, loc, head, Some(soft));
            write_accessed(&mut bytes, loc, head, accessed.unwrap_or(0));
            let version = slot_version.saturating_sub(age);
            write_version(&mut bytes, loc, version);
            write_own_version(&mut bytes, loc, head, own);
            let read = Head::read(&bytes, loc);
            prop_assert_eq!((read.key_len(), read.value_len()), (key_len, value_len));
            prop_assert_eq!((read.form(), read.is_large(), read.is_dead()), (form, large, false));
            prop_assert_eq!(read.has_expiry(), form != Form::Absent);
            let words = usize::from(flags != 0) + usize::from(accessed.is_some());
            prop_assert_eq!(read.key_at(), [12, 16, 20, 36][form as usize] + 4 * words);
            prop_assert_eq!(accessed_of(&bytes, loc, read), accessed);
            prop_assert_eq!(flags_of(&bytes, loc, read), flags);
            prop_assert_eq!(soft_of(&bytes, loc, read), (form == Form::Full && soft > 0).then_some(soft));
            prop_assert_eq!(read.refs(), refs.min(REFS_MAX));
            prop_assert!(read.into_dead().is_dead());
            for other in FORMS {
                prop_assert_eq!(read.with_form(other).form(), other);
                prop_assert_eq!(read.with_form(other).with_form(form), read);
            }
            let told = if form == Form::Full && own != 0 { own } else { version };
            prop_assert_eq!(read_version(&bytes, loc, read, slot_version), told);
            prop_assert_eq!(read_write_number(&bytes, loc, read, slot_version), version);
            write_version(&mut bytes, loc, version);
            prop_assert_eq!(read_version(&bytes, loc, read, slot_version), version);
            prop_assert_eq!(read.record_bytes(16) % ALIGN_BYTES, 0);
        }

        /// In its least form and in the wide one, wherever the base lies.
        #[test]
        fn deadlines_read_back_near_and_far(
            base in prop_oneof![any::<u64>(), 0u64..1 << 42], bits in 0u32..64, n: u64, before: bool, watch in watch(),
        ) {
            let span = n >> bits;
            let deadline = if before { base.wrapping_sub(span) } else { base.wrapping_add(span) };
            let deadline = deadline.clamp(1, i64::MAX as u64);
            let word = ExpiryWord { deadline: Some(deadline), watch };
            let reached = deadline >= base && deadline - base < (1 << 30) - 1;
            prop_assert_eq!(Form::of(deadline, base), if reached { Form::Narrow } else { Form::Wide });
            for form in [Form::of(deadline, base), Form::Wide] {
                let mut bytes = [0u8; 32];
                let head = Head::new(0, 0, form, false);
                word.write(&mut bytes, Loc(1), head, base);
                let read = ExpiryWord::read(&bytes, Loc(1), head, base);
                prop_assert_eq!((read.deadline, read.watched()), (word.deadline, word.watched()));
                prop_assert_eq!(read.watched().is_some(), deadline < 1 << 52);
                if read.watched().is_some() {
                    prop_assert_eq!(read.watch, watch);
                }
                prop_assert!(bytes[..16].iter().chain(&bytes[4 + head.key_at()..]).all(|&b| b == 0));
            }
        }

        #[test]
        fn garbage_is_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0u32..20, base: u64) {
            let loc = Loc(at);
            let head = Head::read(&bytes, loc);
            key_of(&bytes, loc, head);
            value_of(&bytes, loc, head);
            extent_of(&bytes, loc, head, 3);
            ExpiryWord::read(&bytes, loc, head, base);
            read_version(&bytes, loc, head, 0);
        }
    }

    #[test]
    fn text_is_not_taken_for_a_live_record() {
        for byte in (b' '..=b'~').chain(0xc2..=0xdf) {
            assert!(!Head::read(&[byte; 8], Loc(0)).may_be_live(false), "{byte:#x}");
        }
    }

    #[test]
    fn the_narrow_word_ends_where_none_begins() {
        let base = 1_700_000_000_000;
        let last = base + (1 << 30) - 2;
        assert_eq!([base, last].map(|d| Form::of(d, base)), [Form::Narrow; 2]);
        assert_eq!([base - 1, last + 1, 0, u64::MAX].map(|d| Form::of(d, base)), [Form::Wide; 4]);
    }

    #[test]
    fn no_deadline_is_none_in_every_form() {
        for form in FORMS {
            let mut bytes = [0xffu8; 32];
            let head = Head::new(0, 0, form, false);
            if head.has_expiry() {
                ExpiryWord::NONE.write(&mut bytes, Loc(0), head, 77);
            }
            assert_eq!(ExpiryWord::read(&bytes, Loc(0), head, 77), ExpiryWord::NONE);
        }
    }
}
