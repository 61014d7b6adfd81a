//! The operations on deadlines. A record whose expiry word holds the new deadline
//! gets it in place; any other is written again, with a word that does.
//!
//! A change of deadline takes a number of the slot's writes, but the record
//! keeps the version of the write that stored its value.

use super::At;
use super::item::ExpiryWord;
use super::shard::{Found, Shard};
use super::store::Reserve;
use super::write::resolve;
use crate::base::UnixMillis;
use crate::command::{ExpireCondition, Expiry, OpError, ReplySink};

impl Shard {
    /// `EXPIRE` and its relatives: 1 if the deadline changed, else 0.
    pub(super) fn expire(
        &mut self,
        at: At,
        key: &[u8],
        expiry: Expiry,
        condition: ExpireCondition,
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) {
        let base = i64::try_from(now.0).unwrap_or(i64::MAX);
        let when = match expiry {
            Expiry::In(millis) if millis > 0 => millis.checked_add(base),
            Expiry::In(millis) => Some(base.saturating_add(millis)),
            Expiry::At(millis) => Some(millis),
            Expiry::Keep => return self.exists_uncounted(at, key, now, out),
            Expiry::Never => return self.persist(at, key, now, out),
        };
        let Some(when) = when else { return self.refuse(OpError::InvalidExpire, out) };
        let Some(found) = self.lookup(at, key, now) else { return out.integer(0) };
        if !allows(condition, self.deadline_of(found), when) {
            return out.integer(0);
        }
        if when <= base {
            self.delete(at, found);
            return out.integer(1);
        }
        match self.set_deadline(at, key, found, when as u64, now) {
            Ok(()) => out.integer(1),
            Err(error) => self.refuse(error, out),
        }
    }

    fn exists_uncounted(&mut self, at: At, key: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        out.integer(i64::from(self.lookup(at, key, now).is_some()));
    }

    /// `PERSIST`: 1 if there was a deadline to remove, else 0.
    pub(super) fn persist(&mut self, at: At, key: &[u8], now: UnixMillis, out: &mut impl ReplySink) {
        let found = self.lookup(at, key, now);
        out.integer(i64::from(found.is_some_and(|found| self.clear_deadline(at, found))));
    }

    /// `GETEX`: the value or null, and a new deadline.
    pub(super) fn get_ex(
        &mut self,
        at: At,
        key: &[u8],
        expiry: Result<Expiry, OpError>,
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) {
        let Some(found) = self.lookup_read(at, key, now) else { return out.null() };
        let (expiry, given) = match expiry.and_then(|expiry| Ok((expiry, resolve(expiry, now)?))) {
            Ok(both) => both,
            Err(error) => return self.refuse(error, out),
        };
        match (expiry, given) {
            (_, Some(when)) if when <= now.0 => {
                self.answer(at.slot, found, out);
                self.delete(at, found);
            }
            (_, Some(when)) => match self.set_deadline(at, key, found, when, now) {
                Ok(()) => match self.lookup(at, key, now) {
                    Some(found) => self.answer(at.slot, found, out),
                    None => out.null(),
                },
                Err(error) => self.refuse(error, out),
            },
            (Expiry::Never, None) => {
                self.clear_deadline(at, found);
                self.answer(at.slot, found, out);
            }
            (_, None) => self.answer(at.slot, found, out),
        }
    }

    /// Sets a deadline that lies in the future.
    pub(super) fn set_deadline(
        &mut self,
        at: At,
        key: &[u8],
        found: Found,
        when: u64,
        now: UnixMillis,
    ) -> Result<(), OpError> {
        if found.head.form() >= self.form_at(found.loc, Some(when)) {
            let before = self.arena.expiry_word(found.loc, found.head);
            self.count_deadlines(before.deadline.is_some(), true);
            self.set_expiry_word(found, before, Some(when), now);
            self.index.next_version(at.slot);
            self.note_change(at, key);
            return Ok(());
        }
        let log = self.arena.log_of(found.loc);
        let form = self.form_again(found.head, log, Some(when), now);
        let size = found.head.with_form(form).record_bytes(self.arena.segment_shift());
        let found = match self.make_room(at.slot, log, size, 0, Reserve::Use, now)? {
            true => self.lookup(at, key, now),
            false => Some(found),
        };
        // Evicted for its own growth: it existed, and is gone before its deadline.
        let Some(found) = found else { return Ok(()) };
        let head = found.head.with_form(form);
        self.relocate(at.slot, at.hash, found, log, head, Some(when), now).ok_or(OpError::OutOfMemory)?;
        self.hand.owe(size);
        self.index.next_version(at.slot);
        self.note_change(at, key);
        Ok(())
    }

    /// Gives a key that has no deadline one after `default` milliseconds, and one whose deadline is more than `most` away a
    /// nearer one. A key that is not there stays so.
    pub fn bound_deadline(&mut self, at: At, key: &[u8], default: u64, most: u64, now: UnixMillis) {
        let Some(found) = self.lookup(at, key, now) else { return };
        let when = match self.deadline_of(found) {
            None => now.0.saturating_add(default),
            Some(deadline) if deadline > now.0.saturating_add(most) => now.0.saturating_add(most),
            Some(_) => return,
        };
        if self.set_deadline(at, key, found, when, now).is_err() {
            // Without room for a deadline the value cannot stay.
            if let Some(found) = self.lookup(at, key, now) {
                self.drop_record(at.slot, at.hash, found.loc);
            }
        }
        self.after_write(now);
    }

    /// Removes the deadline; answers whether there was one.
    pub(super) fn clear_deadline(&mut self, at: At, found: Found) -> bool {
        let had_deadline = self.deadline_of(found).is_some();
        if had_deadline {
            self.arena.write_expiry_word(found.loc, found.head, ExpiryWord::NONE);
            self.count_deadlines(true, false);
            self.index.next_version(at.slot);
            self.note_change_of(at, found.loc);
        }
        had_deadline
    }
}

/// Whether the condition lets `when` replace `current`, where no deadline counts as infinitely late.
fn allows(condition: ExpireCondition, current: Option<u64>, when: i64) -> bool {
    let current = current.map(|at| i64::try_from(at).unwrap_or(i64::MAX));
    let nx = !condition.nx || current.is_none();
    let xx = !condition.xx || current.is_some();
    let gt = !condition.gt || current.is_some_and(|current| when > current);
    let lt = !condition.lt || current.is_none_or(|current| when < current);
    nx && xx && gt && lt
}
