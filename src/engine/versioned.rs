//! The operations that compare versions and keep client flags: what memcached and HTTP ask for beyond redis-server.
//! A version is the number of a write of the key's slot: memcached's CAS unique and HTTP's `ETag`.

use super::At;
use super::item;
use super::shard::{Found, Shard, is_past};
use crate::base::UnixMillis;
use crate::command::{Count, Expiry, OpError, Outcome, ReplySink, Store, StoreMode};

/// The longest text of an unsigned 64-bit integer.
const NUMBER_BYTES_MAX: usize = 20;

/// What becomes of a deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    Keep,
    /// The new one; `None`: there is none any more.
    New(Option<u64>),
}

impl Given {
    fn of(expiry: Expiry, now: UnixMillis) -> Result<Self, OpError> {
        let base = i64::try_from(now.0).unwrap_or(i64::MAX);
        let at = match expiry {
            Expiry::Keep => return Ok(Self::Keep),
            Expiry::Never => return Ok(Self::New(None)),
            // What is to live for no time is gone a millisecond ago.
            Expiry::In(millis) if millis <= 0 => return Ok(Self::New(Some(now.0.saturating_sub(1)))),
            Expiry::In(millis) => millis.checked_add(base).ok_or(OpError::InvalidExpire)?,
            Expiry::At(millis) => millis.max(0),
        };
        Ok(Self::New(Some(at as u64)))
    }

    fn or(self, kept: Option<u64>) -> Option<u64> {
        match self {
            Self::Keep => kept,
            Self::New(deadline) => deadline,
        }
    }
}

impl Shard {
    /// The value or null, and a new deadline. One that has passed already deletes the key.
    pub(super) fn fetch(
        &mut self,
        at: At,
        key: &[u8],
        (expiry, bump): (Expiry, bool),
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) {
        let given = match Given::of(expiry, now) {
            Ok(given) => given,
            Err(error) => return self.refuse(error, out),
        };
        let Some(found) = self.lookup_counted(at, key, now) else { return out.null() };
        // Whether it was read is asked of the time before this read.
        let refs = found.head.refs();
        let before = |found: Found| Found { head: found.head.with_refs(refs), ..found };
        let found = if bump { self.touch(found) } else { found };
        match given {
            Given::Keep => self.answer(at.slot, before(found), out),
            Given::New(None) => {
                self.clear_deadline(at, found);
                self.answer(at.slot, before(found), out);
            }
            Given::New(deadline) if is_past(deadline, now) => {
                self.answer(at.slot, before(found), out);
                self.delete(at, found);
            }
            Given::New(Some(when)) => match self.set_deadline(at, key, found, when, now) {
                Ok(()) => match self.lookup(at, key, now) {
                    Some(found) => self.answer(at.slot, before(found), out),
                    None => out.null(),
                },
                Err(error) => self.refuse(error, out),
            },
        }
    }

    /// A write; answers an outcome.
    pub(super) fn store(&mut self, at: At, key: &[u8], store: Store<'_>, now: UnixMillis, out: &mut impl ReplySink) {
        match self.try_store(at, key, store, now) {
            Ok(outcome) => out.outcome(outcome),
            Err(error) => self.refuse(error, out),
        }
    }

    fn try_store(&mut self, at: At, key: &[u8], store: Store<'_>, now: UnixMillis) -> Result<Outcome, OpError> {
        let given = Given::of(store.expiry, now)?;
        let found = self.lookup(at, key, now);
        if let Some(outcome) = self.differs(at, found, store.compare) {
            return Ok(outcome);
        }
        let mut found = found;
        if let (StoreMode::Append, Some(old)) = (store.mode, found) {
            if self.append_to(at, key, store.value, old, now)?.is_some() {
                return Ok(Outcome::Done { version: self.index.version(at.slot), created: false });
            }
            // It had to go for its own growth, as if it had gone before.
            found = None;
        }
        let created = found.is_none();
        match (store.mode, found) {
            (StoreMode::Add, Some(_)) | (StoreMode::Replace, None) => return Ok(Outcome::NotStored),
            (StoreMode::Append | StoreMode::Prepend, None) if !store.create => return Ok(Outcome::NotStored),
            (StoreMode::Prepend, Some(old)) => {
                if old.head.value_len() + store.value.len() > self.value_bytes_max {
                    return Err(OpError::TooLarge);
                }
                let whole = std::iter::once(store.value).chain(self.pieces(old)).collect::<Vec<_>>().concat();
                let kept = (self.deadline_of(old), self.flags_of(old));
                let plan = self.plan(at, key, whole.len(), kept, found, now)?;
                self.commit(at, key, &whole, kept.0, plan, now);
            }
            _ => {
                let deadline = given.or(found.and_then(|old| self.deadline_of(old)));
                if is_past(deadline, now) {
                    self.set_expired(at, found);
                } else {
                    let plan = self.plan(at, key, store.value.len(), (deadline, store.flags), found, now)?;
                    self.commit(at, key, store.value, deadline, plan, now);
                }
            }
        }
        Ok(Outcome::Done { version: self.index.version(at.slot), created })
    }

    /// A deletion; answers an outcome.
    pub(super) fn remove(
        &mut self,
        at: At,
        key: &[u8],
        compare: Option<u64>,
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) {
        let found = self.lookup(at, key, now);
        if let Some(outcome) = self.differs(at, found, compare) {
            return out.outcome(outcome);
        }
        let Some(found) = found else { return out.outcome(Outcome::NotFound) };
        self.delete(at, found);
        out.outcome(Outcome::Done { version: 0, created: false });
    }

    /// A change of a number; answers an outcome.
    pub(super) fn count(&mut self, at: At, key: &[u8], count: Count, now: UnixMillis, out: &mut impl ReplySink) {
        match self.try_count(at, key, count, now) {
            Ok(outcome) => out.outcome(outcome),
            Err(error) => self.refuse(error, out),
        }
    }

    fn try_count(&mut self, at: At, key: &[u8], count: Count, now: UnixMillis) -> Result<Outcome, OpError> {
        let found = self.lookup(at, key, now);
        if let Some(outcome) = self.differs(at, found, count.compare) {
            return Ok(outcome);
        }
        let (number, deadline, flags) = match (found, count.initial) {
            (None, None) => return Ok(Outcome::NotFound),
            (None, Some((number, expiry))) => (number, Given::of(expiry, now)?.or(None), 0),
            (Some(old), _) => {
                let before = self.number_of(old).ok_or(OpError::NotAnInteger)?;
                let number =
                    if count.down { before.saturating_sub(count.delta) } else { before.wrapping_add(count.delta) };
                (number, Given::of(count.expiry, now)?.or(self.deadline_of(old)), self.flags_of(old))
            }
        };
        if is_past(deadline, now) {
            self.set_expired(at, found);
        } else {
            let text = number.to_string();
            let plan = self.plan(at, key, text.len(), (deadline, flags), found, now)?;
            self.commit(at, key, text.as_bytes(), deadline, plan, now);
        }
        Ok(Outcome::Counted { number, version: self.index.version(at.slot), expires_at: deadline })
    }

    /// What to answer if the value has not the version that it is to have.
    fn differs(&self, at: At, found: Option<Found>, wanted: Option<u64>) -> Option<Outcome> {
        let wanted = wanted?;
        let Some(found) = found else { return Some(Outcome::NotFound) };
        let version = item::read_version(self.arena.bytes(), found.loc, found.head, self.index.version(at.slot));
        (version != wanted).then_some(Outcome::Differs { version })
    }

    fn number_of(&self, found: Found) -> Option<u64> {
        if found.head.is_large() {
            return None;
        }
        let text = item::value_of(self.arena.bytes(), found.loc, found.head).trim_ascii_end();
        let is_number = text.len() <= NUMBER_BYTES_MAX && text.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
    }
}
