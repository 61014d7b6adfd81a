//! The operations that change nothing. One record is touched per hit: the
//! location comes from the slot table, everything else from the record.

use super::At;
use super::item;
use super::shard::{Found, Shard};
use super::store::{Kept, seconds};
use crate::base::{Slot, UnixMillis};
use crate::command::{Payload, ReplySink, TtlUnit, Value};

/// Pieces of a value that are listed without asking the allocator for room.
const PIECES_INLINE: usize = 8;

impl Shard {
    /// `GET`: the value or null.
    #[inline]
    pub(super) fn get(&mut self, at: At, key: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        let Some((found, deadline)) = self.lookup_dated(at, key, now) else {
            self.stats.misses += 1;
            self.count_read(key, false);
            return out.null();
        };
        self.stats.hits += 1;
        self.count_read(key, true);
        let found = self.touch(found, now);
        self.answer_dated(at.slot, found, deadline, out);
    }

    /// `STRLEN`: the value's length, 0 without the key.
    pub(super) fn strlen(&mut self, at: At, key: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        out.integer(self.lookup_read(at, key, now).map_or(0, |found| found.head.value_len() as i64));
    }

    /// `EXISTS`: 1 or 0. Asking does not make a key more worth keeping.
    pub(super) fn exists(&mut self, at: At, key: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        out.integer(i64::from(self.lookup_counted(at, key, now).is_some()));
    }

    /// `TYPE`: every value is a string.
    pub(super) fn type_of(&mut self, at: At, key: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        out.status(if self.lookup_counted(at, key, now).is_some() { "string" } else { "none" });
    }

    /// `TTL` and its relatives: -2 without the key, -1 without a deadline.
    pub(super) fn ttl(&mut self, at: At, key: &[u8], unit: TtlUnit, now: UnixMillis, out: &mut impl ReplySink) {
        let Some(found) = self.lookup_counted(at, key, now) else { return out.integer(-2) };
        let Some(deadline) = self.deadline_of(found) else { return out.integer(-1) };
        let remaining = deadline.saturating_sub(now.0);
        out.integer(match unit {
            TtlUnit::Seconds => (remaining + 500) / 1000,
            TtlUnit::Millis => remaining,
            TtlUnit::UnixSeconds => (deadline + 500) / 1000,
            TtlUnit::UnixMillis => deadline,
        } as i64);
    }

    /// A lookup that counts as a hit or a miss.
    #[inline]
    pub(super) fn lookup_counted(&mut self, at: At, key: &[u8], now: UnixMillis) -> Option<Found> {
        let found = self.lookup(at, key, now);
        match found {
            Some(_) => self.stats.hits += 1,
            None => self.stats.misses += 1,
        }
        self.count_read(key, found.is_some());
        found
    }

    /// A counted lookup that also makes the record more worth keeping.
    #[inline]
    pub(super) fn lookup_read(&mut self, at: At, key: &[u8], now: UnixMillis) -> Option<Found> {
        self.lookup_counted(at, key, now).map(|found| self.touch(found, now))
    }

    /// Makes a record more worth keeping.
    #[inline]
    pub(super) fn touch(&mut self, mut found: Found, now: UnixMillis) -> Found {
        let refs = self.counted(found);
        if refs != found.head.refs() {
            found.head = found.head.with_refs(refs);
            found.head.write(self.arena.bytes_mut(), found.loc);
        }
        if found.head.has_access_time() {
            item::write_accessed(self.arena.bytes_mut(), found.loc, found.head, seconds(now));
        }
        found
    }

    /// The deadline of a record.
    #[inline]
    pub(super) fn deadline_of(&self, found: Found) -> Option<u64> {
        self.arena.expiry_word(found.loc, found.head).deadline
    }

    /// Writes a record's value to `out`.
    pub(super) fn answer(&mut self, slot: Slot, found: Found, out: &mut impl ReplySink) {
        self.answer_dated(slot, found, self.deadline_of(found), out);
    }

    /// Writes the value of a record whose deadline is known to `out`.
    #[inline(always)]
    fn answer_dated(&mut self, slot: Slot, found: Found, expires_at: Option<u64>, out: &mut impl ReplySink) {
        if found.head.is_large() && self.is_to_pin(found, out) {
            let pin = self.pin(found);
            return out.pinned(pin);
        }
        let about = self.about(slot, found, expires_at);
        if found.head.is_large() {
            return self.described_large(found, about, |value| out.value(value));
        }
        out.value(&Value { payload: self.payload(found), ..about });
    }

    /// Shows a value, with what its record says about it, to `show`.
    #[inline]
    pub(super) fn described(&self, slot: Slot, found: Found, expires_at: Option<u64>, show: impl FnOnce(&Value<'_>)) {
        let about = self.about(slot, found, expires_at);
        if found.head.is_large() {
            return self.described_large(found, about, show);
        }
        show(&Value { payload: self.payload(found), ..about });
    }

    /// What a record says about its value. Always inlined, so that what a protocol has no use for is not read.
    #[inline(always)]
    fn about(&self, slot: Slot, found: Found, expires_at: Option<u64>) -> Value<'static> {
        let bytes = self.arena.bytes();
        let version = item::read_version(bytes, found.loc, found.head, self.index.version(slot));
        let (flags, was_read) = (self.flags_of(found), found.head.refs() > 0);
        let accessed_at = item::accessed_of(bytes, found.loc, found.head);
        Value { payload: Payload::Whole(&[]), version, expires_at, flags, was_read, accessed_at }
    }

    /// The value of a record that is not large.
    #[inline]
    fn payload(&self, found: Found) -> Payload<'_> {
        Payload::Whole(item::value_of(self.arena.bytes(), found.loc, found.head))
    }

    #[cold]
    fn described_large(&self, found: Found, value: Value<'_>, show: impl FnOnce(&Value<'_>)) {
        let count = found.head.extents(self.arena.segment_shift()) + 1;
        if count > PIECES_INLINE {
            let pieces: Vec<&[u8]> = self.pieces(found).collect();
            return show(&Value { payload: Payload::Pieces(&pieces), ..value });
        }
        let mut pieces: [&[u8]; PIECES_INLINE] = [&[]; PIECES_INLINE];
        for (place, piece) in pieces.iter_mut().zip(self.pieces(found)) {
            *place = piece;
        }
        show(&Value { payload: Payload::Pieces(&pieces[..count]), ..value });
    }

    /// What a record keeps beside its value when that is written anew: all but its version.
    pub(super) fn kept_of(&self, found: Found) -> Kept {
        Kept { deadline: self.deadline_of(found), soft: self.soft_of(found), flags: self.flags_of(found), version: 0 }
    }

    /// The soft deadline of a record.
    #[inline]
    pub(super) fn soft_of(&self, found: Found) -> Option<u64> {
        item::soft_of(self.arena.bytes(), found.loc, found.head)
    }

    /// The client flags of a record.
    #[inline]
    pub(super) fn flags_of(&self, found: Found) -> u32 {
        item::flags_of(self.arena.bytes(), found.loc, found.head)
    }

    /// The pieces of a large value, in order; the last may be empty.
    pub(super) fn pieces(&self, found: Found) -> impl Iterator<Item = &[u8]> {
        let bytes = self.arena.bytes();
        let (shift, segment_bytes) = (self.arena.segment_shift(), self.arena.segment_bytes());
        let extents = (0..found.head.extents(shift)).filter_map(move |index| {
            let id = item::extent_of(bytes, found.loc, found.head, index)?;
            let len = (found.head.value_len() - index * segment_bytes).min(segment_bytes);
            bytes.get(self.arena.range(id))?.get(..len)
        });
        extents.chain(std::iter::once(item::rest_of(bytes, found.loc, found.head, shift)))
    }
}
