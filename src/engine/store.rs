//! How a record gets its place and loses it.
//!
//! A write goes in two steps. [`Shard::plan`] decides where the record shall
//! lie and makes room, which may evict or move records, the key's old one
//! included; it can refuse. [`Shard::commit`] then writes and cannot fail. Between
//! the two the caller may answer the old value.
//!
//! A new value of the same aligned size overwrites the old one in place.
//! Otherwise a new record is appended and the old one marked dead.

use super::At;
use super::arena::{LARGE_FRACTION, Log};
use super::item::{self, EXTENT_ID_BYTES, ExpiryWord, Form, HEADER_BYTES, Head, Loc};
use super::shard::{Found, Shard};
use crate::base::{KeyHash, Slot, UnixMillis};
use crate::command::OpError;

/// What a record keeps beside its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// In Unix milliseconds.
    pub deadline: Option<u64>,
    /// When it becomes stale, in Unix milliseconds.
    pub soft: Option<u64>,
    /// What the client keeps beside it.
    pub flags: u32,
    /// The version that the client gives it; 0: that of the write.
    pub version: u64,
}

impl Kept {
    /// Nothing but a deadline.
    #[inline]
    pub fn until(deadline: Option<u64>) -> Self {
        Self { deadline, ..Self::default() }
    }

    /// Whether only a [`Form::Full`] record holds it.
    #[inline]
    fn is_full(&self) -> bool {
        self.soft.is_some() || self.version != 0
    }
}

/// Where a write goes.
pub(super) struct Plan {
    /// The record that the key has now.
    pub found: Option<Found>,
    /// The head of the record to be.
    head: Head,
    /// The log that it goes to, unless it is written in place.
    log: Log,
    in_place: bool,
    kept: Kept,
}

/// The time as records keep it, until the year 2106.
#[inline]
pub(super) fn seconds(now: UnixMillis) -> u32 {
    u32::try_from(now.0 / 1000).unwrap_or(u32::MAX)
}

/// What a write must leave for the hand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserve {
    /// The policy's reserve stays untouched.
    Keep,
    /// A change of a deadline may use the reserve: it has to succeed on a full shard.
    Use,
}

impl Shard {
    /// Decides where a value of `value_len` bytes goes and makes room for it.
    #[inline]
    pub(super) fn plan(
        &mut self,
        at: At,
        key: &[u8],
        value_len: usize,
        kept: Kept,
        found: Option<Found>,
        now: UnixMillis,
    ) -> Result<Plan, OpError> {
        if value_len > self.value_bytes_max || key.len() > self.key_bytes_max() {
            return Err(OpError::TooLarge);
        }
        if self.is_prefix_full(key) {
            return Err(OpError::OutOfMemory);
        }
        let shift = self.arena.segment_shift();
        let log = found.map_or_else(|| self.hand.welcome(self.policy, at.hash), |old| self.arena.log_of(old.loc));
        let form = if kept.is_full() { Form::Full } else { self.form_appended(log, kept.deadline, now) };
        let plan = self.shape(key, value_len, kept, found, (log, form));
        if plan.in_place {
            return Ok(plan);
        }
        let size = plan.head.record_bytes(shift);
        if self.make_room(at.slot, plan.log, size, plan.head.extents(shift), Reserve::Keep, now)? {
            // The old record may have moved or gone; the room was made in this log and for this form.
            let found = self.lookup(at, key, now);
            return Ok(self.shape(key, value_len, kept, found, (log, form)));
        }
        Ok(plan)
    }

    #[inline]
    fn shape(&self, key: &[u8], value_len: usize, kept: Kept, found: Option<Found>, (log, form): (Log, Form)) -> Plan {
        let flagged = kept.flags != 0;
        let shift = self.arena.segment_shift();
        if let Some(old) = found {
            let same = |head: Head| {
                !(old.head.is_large() && self.is_pinned(old))
                    && head.is_large() == old.head.is_large()
                    && head.extents(shift) == old.head.extents(shift)
                    && head.record_bytes(shift) == old.head.record_bytes(shift)
                    // The numbers of the extents stay where they are, which padding alone does not promise.
                    && (!head.is_large() || head.body_at() == old.head.body_at())
            };
            let least = if kept.is_full() { Form::Full } else { self.form_at(old.loc, kept.deadline) };
            let mut head = self.head_for(key.len(), value_len, least, flagged);
            let mut in_place = same(head);
            if !in_place && old.head.form() > least {
                // A wider expiry word than is needed is better than a move.
                head = self.head_for(key.len(), value_len, old.head.form(), flagged);
                in_place = same(head);
            }
            if in_place {
                return Plan { found, head: head.with_refs(old.head.refs()), log, in_place, kept };
            }
        }
        let head = self.head_for(key.len(), value_len, form, flagged);
        let refs = found.map_or(0, |old| old.head.refs());
        Plan { found, head: head.with_refs(refs), log, in_place: false, kept }
    }

    /// The least form of a record at `loc` that holds `deadline`.
    #[inline]
    pub(super) fn form_at(&self, loc: Loc, deadline: Option<u64>) -> Form {
        deadline.map_or(Form::Absent, |deadline| Form::of(deadline, self.arena.base(loc)))
    }

    /// The form of the record with the head `head` when it is appended to `log` again.
    #[inline]
    pub(super) fn form_again(&self, head: Head, log: Log, deadline: Option<u64>, now: UnixMillis) -> Form {
        if head.form() == Form::Full { Form::Full } else { self.form_appended(log, deadline, now) }
    }

    /// A form that holds `deadline` in a record that is appended to `log` now, whether a segment
    /// takes it that is open or one that is opened on the way: it stays right while room is made.
    #[inline]
    pub(super) fn form_appended(&self, log: Log, deadline: Option<u64>, now: UnixMillis) -> Form {
        let Some(deadline) = deadline else { return Form::Absent };
        let open = self.arena.open_bases(log).map(|base| Form::of(deadline, base));
        open.fold(Form::of(deadline, now.0), Form::max)
    }

    /// The head of a record: large if it is longer than half a segment and the
    /// value, not the key, makes it so.
    #[inline]
    pub(super) fn head_for(&self, key_len: usize, value_len: usize, form: Form, flagged: bool) -> Head {
        let half = self.arena.segment_bytes() / LARGE_FRACTION;
        let new = |large| {
            let head = Head::new(key_len, value_len, form, large).with_flags(flagged);
            head.with_access_time(self.has_access_times())
        };
        let head = new(false);
        if head.record_bytes(self.arena.segment_shift()) > half && value_len > half / 2 {
            return new(true);
        }
        head
    }

    /// Writes the value as planned. Nothing may have run in between but answers.
    #[inline]
    pub(super) fn commit(&mut self, at: At, key: &[u8], value: &[u8], plan: Plan, now: UnixMillis) {
        self.stats.sets += 1;
        self.end_lease(at);
        self.note_change(at, key);
        let version = self.index.next_version(at.slot);
        match plan.found {
            Some(old) if plan.in_place => self.overwrite(old, plan.head, value, plan.kept, version, now),
            _ => self.append_record(at, key, value, &plan, version, now),
        }
    }

    /// Writes another value of the same length over that of a bare record, as [`Shard::commit`] would.
    #[inline]
    pub(super) fn rewrite(&mut self, at: At, key: &[u8], value: &[u8], old: Found) {
        debug_assert!(old.head.is_bare() && old.head.value_len() == value.len());
        self.stats.sets += 1;
        self.end_lease(at);
        self.note_change(at, key);
        let version = self.index.next_version(at.slot);
        item::write_version_of(self.arena.bytes_mut(), old.loc, old.head, version);
        self.write_at(old.loc.offset() + HEADER_BYTES + key.len(), value);
    }

    fn overwrite(&mut self, old: Found, head: Head, value: &[u8], kept: Kept, version: u64, now: UnixMillis) {
        self.discount_record(old.loc, old.head);
        let before = self.arena.expiry_word(old.loc, old.head);
        if head.key_at() != old.head.key_at() {
            let key = old.loc.offset() + old.head.key_at();
            self.arena.copy_within(key..key + head.key_len(), old.loc.offset() + head.key_at());
        }
        debug_assert!(
            !head.is_large() || head.body_at() == old.head.body_at(),
            "equal sizes leave the extents' numbers in place"
        );
        head.write(self.arena.bytes_mut(), old.loc);
        item::write_version(self.arena.bytes_mut(), old.loc, version);
        self.count_deadlines(before.deadline.is_some(), kept.deadline.is_some());
        self.set_expiry_word(Found { loc: old.loc, head }, before, kept.deadline, now);
        self.write_kept(old.loc, head, kept, now);
        if head.is_large() {
            self.fill_extents(old.loc, old.head, head, value);
        } else {
            self.write_at(old.loc.offset() + head.body_at(), value);
        }
        self.count_record(old.loc, head);
    }

    /// Writes what the expiry word does not say.
    #[inline]
    fn write_kept(&mut self, loc: Loc, head: Head, kept: Kept, now: UnixMillis) {
        item::write_soft(self.arena.bytes_mut(), loc, head, kept.soft);
        item::write_own_version(self.arena.bytes_mut(), loc, head, kept.version);
        item::write_accessed(self.arena.bytes_mut(), loc, head, seconds(now));
        item::write_flags(self.arena.bytes_mut(), loc, head, kept.flags);
    }

    fn append_record(&mut self, at: At, key: &[u8], value: &[u8], plan: &Plan, version: u64, now: UnixMillis) {
        let head = plan.head;
        let size = head.record_bytes(self.arena.segment_shift());
        let Some(loc) = self.arena.append(plan.log, size) else {
            debug_assert!(false, "the plan made room");
            // Rather a miss than the old value.
            if let Some(old) = plan.found {
                self.drop_record(at.slot, at.hash, old.loc);
            }
            return;
        };
        head.write(self.arena.bytes_mut(), loc);
        item::write_version(self.arena.bytes_mut(), loc, version);
        self.set_expiry_word(Found { loc, head }, ExpiryWord::NONE, plan.kept.deadline, now);
        self.write_kept(loc, head, plan.kept, now);
        self.write_at(loc.offset() + head.key_at(), key);
        if head.is_large() {
            self.fill_extents(loc, head.with_value_len(0), head, value);
        } else {
            self.write_at(loc.offset() + head.body_at(), value);
        }
        self.hand.owe(size + (head.extents(self.arena.segment_shift()) << self.arena.segment_shift()));
        self.count_deadlines(false, plan.kept.deadline.is_some());
        self.count_record(loc, head);
        self.store_location(at, plan.found, loc);
    }

    /// Makes the record at `loc` the key's, in place of the old one.
    #[inline]
    pub(super) fn store_location(&mut self, at: At, old: Option<Found>, loc: Loc) {
        match old {
            Some(old) => {
                self.index.replace(at.slot, at.hash, old.loc, loc);
                self.retire(old.loc);
            }
            None => self.index.insert(at.slot, at.hash, loc, self.arena.bytes()),
        }
    }

    #[inline]
    pub(super) fn write_at(&mut self, at: usize, from: &[u8]) {
        if let Some(to) = self.arena.bytes_mut().get_mut(at..at + from.len()) {
            to.copy_from_slice(from);
        }
    }

    /// Writes `value` to the extents of the record at `loc`, of which those of
    /// `before` exist; the others are taken from the free segments.
    fn fill_extents(&mut self, loc: Loc, before: Head, head: Head, value: &[u8]) {
        let shift = self.arena.segment_shift();
        let existing = before.extents(shift);
        let (in_extents, rest) = value.split_at(value.len() - head.inline_len(shift));
        for (index, piece) in in_extents.chunks(self.arena.segment_bytes()).enumerate() {
            let id = if index < existing {
                let id = item::extent_of(self.arena.bytes(), loc, head, index).unwrap_or(u32::MAX);
                self.arena.resize_extent(id, piece.len());
                id
            } else {
                self.new_extent(loc, head, index, piece.len())
            };
            let start = self.arena.range(id).start;
            self.write_at(start, piece);
        }
        let at = loc.offset() + head.body_at() + head.extents(shift) * EXTENT_ID_BYTES;
        self.write_at(at, rest);
    }

    /// Takes a free segment as number `index` of the extents of the record at `loc`.
    pub(super) fn new_extent(&mut self, loc: Loc, head: Head, index: usize, used: usize) -> u32 {
        let id = self.arena.take_extent(self.arena.log_of(loc), used);
        debug_assert!(id.is_some(), "the plan made room");
        let id = id.unwrap_or(u32::MAX);
        self.write_at(loc.offset() + head.body_at() + index * EXTENT_ID_BYTES, &id.to_le_bytes());
        id
    }

    /// Writes the expiry word for `deadline`, if the record has room for one, and
    /// sees to it that the wheel watches the record. `before` is what the word said
    /// while the record lay where it lies.
    #[inline]
    pub(super) fn set_expiry_word(
        &mut self,
        Found { loc, head }: Found,
        before: ExpiryWord,
        deadline: Option<u64>,
        now: UnixMillis,
    ) {
        if !head.has_expiry() {
            return;
        }
        let mut word = ExpiryWord { deadline, ..ExpiryWord::NONE };
        if let Some(watched) = word.watched() {
            word.watch = match before.watched() {
                Some(until) => self.wheel.change(loc, (until, before.watch), watched, now.0),
                None => self.wheel.file(loc, watched, now.0),
            };
        }
        self.arena.write_expiry_word(loc, head, word);
    }

    pub(super) fn count_deadlines(&mut self, before: bool, after: bool) {
        self.keys_with_expiry = self.keys_with_expiry + u64::from(after) - u64::from(before);
    }

    /// Writes the live record at `old` again at the end of `log` under `head`, whose form
    /// is from [`Shard::form_again`] and whose body may be longer; the new bytes of the
    /// body are the caller's to write. Extents change hands. Answers `None` if no open
    /// segment has room.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn relocate(
        &mut self,
        slot: Slot,
        hash: KeyHash,
        old: Found,
        log: Log,
        head: Head,
        deadline: Option<u64>,
        now: UnixMillis,
    ) -> Option<Loc> {
        let shift = self.arena.segment_shift();
        let loc = self.arena.append(log, head.record_bytes(shift))?;
        let from = old.loc.offset();
        if self.arena.log_of(old.loc) != log {
            for index in 0..old.head.extents(shift) {
                let id = item::extent_of(self.arena.bytes(), old.loc, old.head, index).unwrap_or(u32::MAX);
                self.arena.move_extent(id, log);
            }
        }
        self.count_deadlines(self.deadline_of(old).is_some(), deadline.is_some());
        self.discount_record(old.loc, old.head);
        self.arena.copy_within(from..from + HEADER_BYTES, loc.offset());
        head.write(self.arena.bytes_mut(), loc);
        self.set_expiry_word(Found { loc, head }, ExpiryWord::NONE, deadline, now);
        let soft = item::soft_of(self.arena.bytes(), old.loc, old.head);
        let own_version = item::own_version_of(self.arena.bytes(), old.loc, old.head);
        debug_assert!(old.head.form() != Form::Full || head.form() == Form::Full, "what is full stays so");
        item::write_soft(self.arena.bytes_mut(), loc, head, soft);
        item::write_own_version(self.arena.bytes_mut(), loc, head, own_version);
        debug_assert!(head.has_flags() == old.head.has_flags(), "client flags stay with their record");
        debug_assert!(head.has_access_time() == old.head.has_access_time(), "the time of the last access likewise");
        let words = head.key_at() - head.accessed_at();
        let rest = words + head.key_len() + old.head.body_len(shift).min(head.body_len(shift));
        let start = from + old.head.accessed_at();
        self.arena.copy_within(start..start + rest, loc.offset() + head.accessed_at());
        self.index.replace(slot, hash, old.loc, loc);
        self.count_record(loc, head);
        self.arena.kill(old.loc);
        Some(loc)
    }

    /// Takes a key out of the shard that nobody asked to delete; answers the bytes that frees.
    pub(super) fn drop_record(&mut self, slot: Slot, hash: KeyHash, loc: Loc) -> usize {
        self.note_loss(slot, hash, loc);
        self.unlink(slot, hash, loc)
    }

    /// Takes the key of the record at `loc` out of the shard; answers the bytes that frees.
    pub(super) fn unlink(&mut self, slot: Slot, hash: KeyHash, loc: Loc) -> usize {
        self.index.remove(slot, hash, loc, self.arena.bytes());
        self.retire(loc)
    }

    /// Marks a record dead that the slot tables no longer hold, and frees its extents.
    fn retire(&mut self, loc: Loc) -> usize {
        let head = Head::read(self.arena.bytes(), loc);
        self.count_deadlines(self.arena.expiry_word(loc, head).deadline.is_some(), false);
        self.discount_record(loc, head);
        if head.is_large() {
            self.arena.free_extents(loc, head);
        }
        self.arena.kill(loc);
        self.bytes_of(head)
    }

    /// Bytes of a record and of its value, wherever that lies.
    pub(super) fn bytes_of(&self, head: Head) -> usize {
        let shift = self.arena.segment_shift();
        head.record_bytes(shift) + head.value_len() - head.inline_len(shift)
    }
}
