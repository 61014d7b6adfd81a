//! The operations that store and delete values. Their answers, the order of
//! their checks and the numbers they accept are those of redis-server 7.

use super::At;
use super::item;
use super::shard::{Found, Shard, is_past};
use super::store::{Kept, Reserve, seconds};
use crate::base::UnixMillis;
use crate::command::{Condition, Expiry, OpError, ReplySink, SetReply};

/// The longest text of a 64-bit integer: a sign and 19 digits.
const INTEGER_BYTES_MAX: usize = 20;

impl Shard {
    /// `SET` and its relatives. Answers whether that may have changed what anything takes of the memory, or too little of
    /// that is free.
    #[inline]
    pub(super) fn set(
        &mut self,
        at: At,
        key: &[u8],
        value: &[u8],
        (expiry, condition, reply): (Expiry, Condition, SetReply),
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) -> bool {
        let given = match resolve(expiry, now) {
            Ok(given) => given,
            Err(error) => {
                self.refuse(error, out);
                return true;
            }
        };
        let found = if reply == SetReply::Old { self.lookup_read(at, key, now) } else { self.lookup(at, key, now) };
        let wanted = match condition {
            Condition::Always => true,
            Condition::Absent => found.is_none(),
            Condition::Present => found.is_some(),
        };
        if !wanted {
            self.answer_set(at, found, reply, false, out);
            return true;
        }
        // The most frequent write by far.
        if let (Some(old), Expiry::Never, SetReply::Status) = (found, expiry, reply)
            && old.head.is_bare()
            && old.head.value_len() == value.len()
            && self.prefixes.is_empty()
        {
            out.status("OK");
            self.rewrite(at, key, value, old);
            return self.lacks_room;
        }
        let deadline = match expiry {
            Expiry::Keep => found.and_then(|found| self.deadline_of(found)),
            _ => given,
        };
        if is_past(deadline, now) {
            self.answer_set(at, found, reply, true, out);
            self.set_expired(at, found);
            return true;
        }
        // The answer may pin the old value, which must then not be overwritten in place.
        let kept = match found {
            Some(old) if reply == SetReply::Old && self.is_to_pin(old, out) => Some(self.pin(old)),
            _ => None,
        };
        match self.plan(at, key, value.len(), Kept::until(deadline), found, now) {
            Ok(plan) => {
                self.answer_set(at, plan.found, reply, true, out);
                self.commit(at, key, value, plan, now);
            }
            Err(error) => self.refuse(error, out),
        }
        if let Some(pin) = kept {
            self.unpin(pin);
        }
        true
    }

    #[inline]
    pub(super) fn answer_set(
        &mut self,
        at: At,
        old: Option<Found>,
        reply: SetReply,
        done: bool,
        out: &mut impl ReplySink,
    ) {
        match (reply, old) {
            (SetReply::Status, _) if done => out.status("OK"),
            (SetReply::Integer, _) => out.integer(i64::from(done)),
            (SetReply::Old, Some(old)) => self.answer(at.slot, old, out),
            (SetReply::Status | SetReply::Old, _) => out.null(),
        }
    }

    /// A value whose deadline is past as it is written: it is gone before anyone reads it.
    #[cold]
    pub(super) fn set_expired(&mut self, at: At, old: Option<Found>) {
        self.stats.sets += 1;
        self.end_lease(at);
        self.index.next_version(at.slot);
        if let Some(old) = old {
            self.drop_expired(at.slot, at.hash, old.loc);
        }
    }

    /// `APPEND`: answers the new length.
    pub(super) fn append(&mut self, at: At, key: &[u8], tail: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        match self.try_append(at, key, tail, now) {
            Ok(len) => out.integer(len as i64),
            Err(error) => self.refuse(error, out),
        }
    }

    fn try_append(&mut self, at: At, key: &[u8], tail: &[u8], now: UnixMillis) -> Result<usize, OpError> {
        let joined = match self.lookup(at, key, now) {
            Some(old) => self.append_to(at, key, tail, old, now)?,
            None => None,
        };
        joined.map_or_else(|| self.append_fresh(at, key, tail, now), Ok)
    }

    fn append_fresh(&mut self, at: At, key: &[u8], tail: &[u8], now: UnixMillis) -> Result<usize, OpError> {
        let plan = self.plan(at, key, tail.len(), Kept::default(), None, now)?;
        self.commit(at, key, tail, plan, now);
        Ok(tail.len())
    }

    /// Appends to a record that is there; answers the new length, or nothing if it had to go for its own growth.
    pub(super) fn append_to(
        &mut self,
        at: At,
        key: &[u8],
        tail: &[u8],
        old: Found,
        now: UnixMillis,
    ) -> Result<Option<usize>, OpError> {
        let len = old.head.value_len() + tail.len();
        if len > self.value_bytes_max {
            return Err(OpError::TooLarge);
        }
        if self.is_prefix_full(key) {
            return Err(OpError::OutOfMemory);
        }
        if self.head_for(key.len(), len, old.head.form(), old.head.has_flags()).is_large() && !old.head.is_large() {
            return self.append_into_large(at, key, tail, old, now).map(Some);
        }
        // A value that is large already stays so: the heads differ in length alone.
        let head = old.head.with_value_len(len);
        let shift = self.arena.segment_shift();
        let more_extents = head.extents(shift) - old.head.extents(shift);
        let (mut place, mut from, mut rest) = (old, old.head.value_len(), Vec::new());
        if head.record_bytes(shift) != old.head.record_bytes(shift) || more_extents > 0 {
            let deadline = self.deadline_of(old);
            let log = self.arena.log_of(old.loc);
            let form = self.form_again(head, log, deadline, now);
            let size = head.with_form(form).record_bytes(shift);
            if self.make_room(at.slot, log, size, more_extents, Reserve::Keep, now)? {
                match self.lookup(at, key, now) {
                    Some(moved) => place = moved,
                    // Evicted for its own growth.
                    None => return Ok(None),
                }
            }
            if more_extents > 0 {
                // What stood in the record moves to an extent.
                rest = item::rest_of(self.arena.bytes(), place.loc, place.head, shift).to_vec();
                from -= rest.len();
            }
            let head = place.head.with_value_len(len).with_form(form);
            match self.relocate(at.slot, at.hash, place, log, head, deadline, now) {
                Some(loc) => place = Found { loc, head },
                None => return Err(OpError::OutOfMemory),
            }
            self.hand.owe(size + (more_extents << shift));
        } else {
            self.discount_record(place.loc, place.head);
            place.head = head;
            head.write(self.arena.bytes_mut(), place.loc);
            self.count_record(place.loc, head);
        }
        self.end_lease(at);
        self.note_change(at, key);
        let version = self.index.next_version(at.slot);
        item::write_version(self.arena.bytes_mut(), place.loc, version);
        item::write_accessed(self.arena.bytes_mut(), place.loc, place.head, seconds(now));
        self.write_tail(place, from, &rest);
        self.write_tail(place, from + rest.len(), tail);
        self.stats.sets += 1;
        Ok(Some(len))
    }

    /// Writes `tail` behind the first `len` bytes of a value that has room for it.
    fn write_tail(&mut self, place: Found, len: usize, tail: &[u8]) {
        if !place.head.is_large() {
            return self.write_at(place.loc.offset() + place.head.body_at() + len, tail);
        }
        let (shift, segment_bytes) = (self.arena.segment_shift(), self.arena.segment_bytes());
        let extents = place.head.extents(shift);
        let (mut len, mut tail) = (len, tail);
        while !tail.is_empty() {
            let (index, within) = (len >> shift, len & (segment_bytes - 1));
            if index == extents {
                let rest = place.loc.offset() + place.head.body_at() + extents * item::EXTENT_ID_BYTES;
                return self.write_at(rest + within, tail);
            }
            let (piece, rest) = tail.split_at(tail.len().min(segment_bytes - within));
            let id = if within == 0 {
                self.new_extent(place.loc, place.head, index, piece.len())
            } else {
                let id = item::extent_of(self.arena.bytes(), place.loc, place.head, index).unwrap_or(u32::MAX);
                self.arena.resize_extent(id, within + piece.len());
                id
            };
            let start = self.arena.range(id).start + within;
            self.write_at(start, piece);
            (len, tail) = (len + piece.len(), rest);
        }
    }

    /// The append that makes a value large: it is put together once and stored anew.
    #[cold]
    fn append_into_large(
        &mut self,
        at: At,
        key: &[u8],
        tail: &[u8],
        old: Found,
        now: UnixMillis,
    ) -> Result<usize, OpError> {
        let before = item::value_of(self.arena.bytes(), old.loc, old.head);
        let whole = [before, tail].concat();
        let plan = self.plan(at, key, whole.len(), self.kept_of(old), Some(old), now)?;
        self.commit(at, key, &whole, plan, now);
        Ok(whole.len())
    }

    /// `INCRBY` and its relatives: answers the result.
    pub(super) fn incr_by(&mut self, at: At, key: &[u8], delta: i64, now: UnixMillis, out: &mut impl ReplySink) {
        match self.add(at, key, delta, now) {
            Ok(sum) => out.integer(sum),
            Err(error) => self.refuse(error, out),
        }
    }

    fn add(&mut self, at: At, key: &[u8], delta: i64, now: UnixMillis) -> Result<i64, OpError> {
        let found = self.lookup(at, key, now);
        let (before, kept) = match found {
            Some(found) => (self.integer_of(found).ok_or(OpError::NotAnInteger)?, self.kept_of(found)),
            None => (0, Kept::default()),
        };
        let sum = before.checked_add(delta).ok_or(OpError::Overflow)?;
        let mut text = [0; INTEGER_BYTES_MAX];
        let text = format_integer(sum, &mut text);
        let plan = self.plan(at, key, text.len(), kept, found, now)?;
        self.commit(at, key, text, plan, now);
        Ok(sum)
    }

    fn integer_of(&self, found: Found) -> Option<i64> {
        let Found { loc, head } = found;
        if head.is_large() { None } else { parse_integer(item::value_of(self.arena.bytes(), loc, head)) }
    }

    /// `DEL`: 1 or 0.
    pub(super) fn del(&mut self, at: At, key: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        let found = self.lookup(at, key, now);
        match found {
            Some(found) => self.delete(at, found),
            None => self.end_lease(at),
        }
        out.integer(i64::from(found.is_some()));
    }

    /// `GETDEL`: the value or null.
    pub(super) fn get_del(&mut self, at: At, key: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        match self.lookup_read(at, key, now) {
            Some(found) => {
                self.answer(at.slot, found, out);
                self.delete(at, found);
            }
            None => {
                self.end_lease(at);
                out.null();
            }
        }
    }

    /// Deletes a record by command, which is a write of its slot.
    pub(super) fn delete(&mut self, at: At, found: Found) {
        self.end_lease(at);
        self.index.next_version(at.slot);
        self.stats.deletes += 1;
        self.note_change_of(at, found.loc);
        self.unlink(at.slot, at.hash, found.loc);
    }
}

/// The moment that an expiry of `SET` or `GETEX` names; neither takes one that is not positive.
pub(super) fn resolve(expiry: Expiry, now: UnixMillis) -> Result<Option<u64>, OpError> {
    let base = i64::try_from(now.0).unwrap_or(i64::MAX);
    let at = match expiry {
        Expiry::Keep | Expiry::Never => return Ok(None),
        Expiry::In(millis) if millis > 0 => millis.checked_add(base),
        Expiry::At(millis) if millis > 0 => Some(millis),
        Expiry::In(_) | Expiry::At(_) => None,
    };
    at.map(|at| Some(at as u64)).ok_or(OpError::InvalidExpire)
}

/// A decimal 64-bit integer in the one way it is written: no plus sign, no
/// leading zeros, no spaces, no minus zero.
fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical || text.len() > INTEGER_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Writes `n` to the end of `room`.
fn format_integer(n: i64, room: &mut [u8; INTEGER_BYTES_MAX]) -> &[u8] {
    let mut rest = n.unsigned_abs();
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        room[at] = b'-';
    }
    &room[at..]
}

#[cfg(test)]
mod unit {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_read_back(n: i64) {
            let mut room = [0; INTEGER_BYTES_MAX];
            let text = format_integer(n, &mut room).to_vec();
            prop_assert_eq!(&text, &n.to_string().into_bytes());
            prop_assert_eq!(parse_integer(&text), Some(n));
        }
    }

    #[test]
    fn only_the_canonical_text_is_an_integer() {
        for n in [i64::MIN, i64::MAX, 0, -1, 10] {
            assert_eq!(parse_integer(n.to_string().as_bytes()), Some(n));
        }
        for bad in ["", "-", "+1", "-0", "00", "01", " 1", "1 ", "1.0", "9223372036854775808", "-9223372036854775809"] {
            assert_eq!(parse_integer(bad.as_bytes()), None, "{bad:?} was taken for an integer");
        }
        assert_eq!(parse_integer(b"111111111111111111111"), None);
    }
}
