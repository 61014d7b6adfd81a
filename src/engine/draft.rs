//! Large values that are still being received: they grow where they will stay.
//!
//! A draft takes a segment as bytes come for it, never for a length that was only
//! announced, and makes room for it like any other write. Its segments are held:
//! they are in use, no record has them and the hand does not see them. When it is
//! whole, a `SET` makes it a value: the record takes over the segments.
//! Until then the key has the value it had.
//!
//! Invariant: a record shows a draft whole or not at all. A draft is given back by
//! [`Shard::set_draft`] or by [`Shard::drop_draft`].
//!
//! Called by the session that receives the value.

use super::At;
use super::arena::Log;
use super::item::{self, EXTENT_ID_BYTES, ExpiryWord, Head};
use super::shard::{Found, Shard, is_past};
use super::store::{Reserve, seconds};
use super::write::resolve;
use crate::base::UnixMillis;
use crate::command::{Condition, Expiry, OpError, ReplySink, SetReply};

/// A draft's number. To be given back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a draft that is not given back keeps its memory for ever"]
pub struct DraftId(u32);

/// One draft.
#[derive(Default)]
struct Draft {
    segments: Vec<u32>,
    written: usize,
}

/// All drafts of a shard.
#[derive(Default)]
pub(super) struct Drafts {
    slots: Vec<Option<Draft>>,
    free: Vec<u32>,
}

impl Drafts {
    fn get(&self, id: &DraftId) -> Option<&Draft> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn take(&mut self, id: DraftId) -> Draft {
        self.free.push(id.0);
        self.slots.get_mut(id.0 as usize).and_then(Option::take).unwrap_or_default()
    }
}

impl Shard {
    /// Begins a value of which nothing is there.
    pub fn draft(&mut self) -> DraftId {
        let id = self.drafts.free.pop().unwrap_or_else(|| {
            self.drafts.slots.push(None);
            (self.drafts.slots.len() - 1) as u32
        });
        self.drafts.slots[id as usize] = Some(Draft::default());
        DraftId(id)
    }

    /// Adds bytes to the draft of a value for the key `at`.
    ///
    /// # Errors
    /// There is no room for them; the draft can only be dropped.
    pub fn write_draft(&mut self, id: &DraftId, at: At, bytes: &[u8], now: UnixMillis) -> Result<(), OpError> {
        let mut bytes = bytes;
        let segment_bytes = self.arena.segment_bytes();
        while !bytes.is_empty() {
            let written = self.drafts.get(id).map_or(0, |draft| draft.written);
            let within = written % segment_bytes;
            if within == 0 {
                self.grow_draft(id, at, now)?;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(segment_bytes - within));
            let Some(Some(draft)) = self.drafts.slots.get_mut(id.0 as usize) else { return Ok(()) };
            let Some(&segment) = draft.segments.last() else { return Ok(()) };
            draft.written += piece.len();
            self.arena.resize_extent(segment, within + piece.len());
            let start = self.arena.range(segment).start + within;
            self.write_at(start, piece);
            bytes = rest;
        }
        Ok(())
    }

    #[cold]
    fn grow_draft(&mut self, id: &DraftId, at: At, now: UnixMillis) -> Result<(), OpError> {
        self.make_room(at.slot, Log::Main, 0, 1, Reserve::Keep, now)?;
        let segment = self.arena.take_held().ok_or(OpError::OutOfMemory)?;
        if let Some(Some(draft)) = self.drafts.slots.get_mut(id.0 as usize) {
            draft.segments.push(segment);
        }
        self.hand.owe(self.arena.segment_bytes());
        self.after_write(now);
        Ok(())
    }

    /// Gives up a draft.
    pub fn drop_draft(&mut self, id: DraftId) {
        let draft = self.drafts.take(id);
        draft.segments.iter().for_each(|&segment| self.arena.free(segment));
    }

    /// Gives up a draft, and answers what was written to it.
    pub fn take_draft(&mut self, id: DraftId) -> Vec<u8> {
        let value = self.copy_draft(&id);
        self.drop_draft(id);
        value
    }

    fn copy_draft(&self, id: &DraftId) -> Vec<u8> {
        let Some(draft) = self.drafts.get(id) else { return Vec::new() };
        let mut value = Vec::with_capacity(draft.written);
        for &segment in &draft.segments {
            let piece = self.arena.bytes().get(self.arena.range(segment)).unwrap_or_default();
            value.extend_from_slice(&piece[..piece.len().min(draft.written - value.len())]);
        }
        value
    }

    /// Bytes of segments that a draft has.
    pub fn draft_bytes(&self, id: &DraftId) -> u64 {
        self.drafts.get(id).map_or(0, |draft| (draft.segments.len() as u64) << self.arena.segment_shift())
    }

    /// `SET` and its relatives with a value that was received as a draft, or `None` if
    /// it had to be dropped for want of room: then whatever would store it is refused.
    #[allow(clippy::too_many_arguments)]
    pub fn set_draft(
        &mut self,
        at: At,
        key: &[u8],
        draft: Option<DraftId>,
        (expiry, condition, reply): (Expiry, Condition, SetReply),
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) {
        let unused = self.try_set_draft(at, key, draft, (expiry, condition, reply), now, out);
        if let Some(draft) = unused {
            self.drop_draft(draft);
        }
        self.after_write(now);
    }

    /// Answers the draft if it did not become the key's value. The order of the
    /// checks is that of a `SET` whose value is at hand.
    fn try_set_draft(
        &mut self,
        at: At,
        key: &[u8],
        draft: Option<DraftId>,
        (expiry, condition, reply): (Expiry, Condition, SetReply),
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) -> Option<DraftId> {
        let given = match resolve(expiry, now) {
            Ok(given) => given,
            Err(error) => {
                self.refuse(error, out);
                return draft;
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
            return draft;
        }
        let deadline = match expiry {
            Expiry::Keep => found.and_then(|found| self.deadline_of(found)),
            _ => given,
        };
        if is_past(deadline, now) {
            self.answer_set(at, found, reply, true, out);
            self.set_expired(at, found);
            return draft;
        }
        let Some(draft) = draft else {
            self.refuse(OpError::OutOfMemory, out);
            return None;
        };
        if self.is_prefix_full(key) {
            self.refuse(OpError::OutOfMemory, out);
            return Some(draft);
        }
        let len = self.drafts.get(&draft).map_or(0, |draft| draft.written);
        let shift = self.arena.segment_shift();
        let log = found.map_or_else(|| self.hand.welcome(self.policy, at.hash), |old| self.arena.log_of(old.loc));
        let head = self.head_for(key.len(), len, self.form_appended(log, deadline, now), false);
        if !head.is_large() || head.extents(shift) == 0 {
            self.set_short_draft(at, key, &draft, (expiry, reply), now, out);
            return Some(draft);
        }
        if len > self.value_bytes_max || key.len() > self.key_bytes_max() {
            self.refuse(OpError::TooLarge, out);
            return Some(draft);
        }
        let head = head.with_refs(found.map_or(0, |old| old.head.refs()));
        let size = head.record_bytes(shift);
        let found = match self.make_room(at.slot, log, size, 0, Reserve::Keep, now) {
            // The old record may have moved or gone.
            Ok(true) => self.lookup(at, key, now),
            Ok(false) => found,
            Err(error) => {
                self.refuse(error, out);
                return Some(draft);
            }
        };
        self.answer_set(at, found, reply, true, out);
        let Some(loc) = self.arena.append(log, size) else {
            debug_assert!(false, "room was made");
            // Rather a miss than the old value.
            if let Some(old) = found {
                self.drop_record(at.slot, at.hash, old.loc);
            }
            return Some(draft);
        };
        self.stats.sets += 1;
        self.end_lease(at);
        self.note_change(at, key);
        let version = self.index.next_version(at.slot);
        head.write(self.arena.bytes_mut(), loc);
        item::write_version(self.arena.bytes_mut(), loc, version);
        item::write_accessed(self.arena.bytes_mut(), loc, head, seconds(now));
        self.set_expiry_word(Found { loc, head }, ExpiryWord::NONE, deadline, now);
        self.write_at(loc.offset() + head.key_at(), key);
        self.hand_over_draft(draft, loc.offset() + head.body_at(), head, log);
        self.hand.owe(size);
        self.count_deadlines(false, deadline.is_some());
        self.count_record(loc, head);
        self.store_location(at, found, loc);
        None
    }

    /// Makes a draft's segments the extents of a record in `log`, whose body begins at
    /// `body`. What belongs into the record itself is copied there.
    fn hand_over_draft(&mut self, draft: DraftId, body: usize, head: Head, log: Log) {
        let count = head.extents(self.arena.segment_shift());
        let inline = head.inline_len(self.arena.segment_shift());
        let draft = self.drafts.take(draft);
        for (index, &segment) in draft.segments.iter().enumerate() {
            if index < count {
                self.arena.adopt(segment, log);
                self.write_at(body + index * EXTENT_ID_BYTES, &segment.to_le_bytes());
            } else {
                let start = self.arena.range(segment).start;
                self.arena.copy_within(start..start + inline, body + count * EXTENT_ID_BYTES);
                self.arena.free(segment);
            }
        }
    }

    /// A value that is short beside a segment, and so gets no extents.
    #[cold]
    fn set_short_draft(
        &mut self,
        at: At,
        key: &[u8],
        draft: &DraftId,
        (expiry, reply): (Expiry, SetReply),
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) {
        let value = self.copy_draft(draft);
        self.set(at, key, &value, (expiry, Condition::Always, reply), now, out);
    }
}

#[cfg(any(test, fuzzing))]
impl Drafts {
    /// The segments of every draft.
    pub fn all(&self) -> impl Iterator<Item = &[u32]> {
        self.slots.iter().flatten().map(|draft| &draft.segments[..])
    }
}
