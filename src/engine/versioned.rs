//! The operations that compare versions and keep client flags: what memcached and HTTP ask for beyond redis-server.
//! A version is the number of a write of the key's slot, or what the client gave instead: memcached's CAS unique and HTTP's
//! `ETag`.

use super::At;
use super::item;
use super::shard::{Found, Shard, is_past};
use super::store::Kept;
use crate::base::UnixMillis;
use crate::command::{Ask, Claim, Count, Expiry, Leased, OpError, Outcome, Remove, ReplySink, Store, StoreMode, Value};

/// The first soft deadline: 0 is none.
const SOFT_MIN: u64 = 1;
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
        (expiry, bump, ask): (Expiry, bool, Option<Ask>),
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) {
        let given = match Given::of(expiry, now) {
            Ok(given) => given,
            Err(error) => return self.refuse(error, out),
        };
        let Some(found) = self.lookup_counted(at, key, now) else { return self.answer_missing(at, ask, now, out) };
        // Whether it was read, and how long it still lives, is asked of the time before this read.
        let (refs, until) = (found.head.refs(), self.deadline_of(found));
        let accessed_at = item::accessed_of(self.arena.bytes(), found.loc, found.head);
        let asked = (ask, until, accessed_at);
        let before = |found: Found| Found { head: found.head.with_refs(refs), ..found };
        let found = if bump { self.touch(found, now) } else { found };
        match given {
            Given::Keep => self.answer_asked(at, before(found), asked, now, out),
            Given::New(None) => {
                self.clear_deadline(at, found);
                self.answer_asked(at, before(found), asked, now, out);
            }
            Given::New(deadline) if is_past(deadline, now) => {
                self.answer_asked(at, before(found), asked, now, out);
                self.delete(at, found);
            }
            Given::New(Some(when)) => match self.set_deadline(at, key, found, when, now) {
                Ok(()) => match self.lookup(at, key, now) {
                    Some(found) => self.answer_asked(at, before(found), asked, now, out),
                    None => self.answer_missing(at, ask, now, out),
                },
                Err(error) => self.refuse(error, out),
            },
        }
    }

    fn answer_missing(&mut self, at: At, ask: Option<Ask>, now: UnixMillis, out: &mut impl ReplySink) {
        let Some(ask) = ask else { return out.null() };
        let lease = match ask.claim {
            Claim::Missing => self.grant(at, (ask.term_ms.into(), ask.version), now),
            _ => self.lease_of(at, now),
        };
        out.leased(&Leased { value: None, is_stale: false, lease });
    }

    /// The value of a record that was to live `until` then and was last read `accessed_at`, and who is to fill it, if that
    /// is asked.
    #[inline]
    fn answer_asked(
        &mut self,
        at: At,
        found: Found,
        (ask, until, accessed_at): (Option<Ask>, Option<u64>, Option<u32>),
        now: UnixMillis,
        out: &mut impl ReplySink,
    ) {
        let Some(ask) = ask else { return self.answer(at.slot, found, out) };
        let is_stale = self.soft_of(found).is_some_and(|soft| soft <= now.0);
        let ends_soon = until.is_some_and(|until| until.saturating_sub(now.0) < ask.renew_below_ms);
        let lease = if (is_stale || ends_soon) && ask.claim != Claim::Nothing {
            self.grant(at, (ask.term_ms.into(), 0), now)
        } else {
            self.lease_of(at, now)
        };
        let expires_at = self.deadline_of(found);
        self.described(at.slot, found, expires_at, |value| {
            out.leased(&Leased { value: Some(&Value { accessed_at, ..*value }), is_stale, lease });
        });
    }

    /// A write; answers an outcome.
    pub(super) fn store(&mut self, at: At, key: &[u8], store: Store<'_>, now: UnixMillis, out: &mut impl ReplySink) {
        match self.try_store(at, key, store, now) {
            Ok(outcome) => out.outcome(outcome),
            Err(error) => self.refuse(error, out),
        }
    }

    fn try_store(&mut self, at: At, key: &[u8], store: Store<'_>, now: UnixMillis) -> Result<Outcome, OpError> {
        Given::of(store.expiry, now)?;
        let found = self.lookup(at, key, now);
        let mut store = store;
        match self.differs(at, found, store.compare, now) {
            Some(Outcome::Differs { version })
                if store.invalidate && store.compare.is_some_and(|old| old < version) =>
            {
                store = Store { expiry: Expiry::Keep, mode: StoreMode::Set, compare: None, ..store };
                return self.keeping_lease(at, |shard| shard.store_checked(at, key, store, found, true, now));
            }
            Some(outcome) => return Ok(outcome),
            None => {}
        }
        self.store_checked(at, key, store, found, false, now)
    }

    /// A write that nothing speaks against but its mode. One that `is_stale` is so at once.
    fn store_checked(
        &mut self,
        at: At,
        key: &[u8],
        store: Store<'_>,
        found: Option<Found>,
        is_stale: bool,
        now: UnixMillis,
    ) -> Result<Outcome, OpError> {
        let given = Given::of(store.expiry, now)?;
        let mut found = found;
        if let (StoreMode::Append, 0, Some(old)) = (store.mode, store.version, found) {
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
            (StoreMode::Append | StoreMode::Prepend, Some(old)) => {
                if old.head.value_len() + store.value.len() > self.value_bytes_max {
                    return Err(OpError::TooLarge);
                }
                let mut parts = self.pieces(old).collect::<Vec<_>>();
                parts.insert(if store.mode == StoreMode::Append { parts.len() } else { 0 }, store.value);
                let whole = parts.concat();
                let kept = Kept { version: store.version, ..self.kept_of(old) };
                let plan = self.plan(at, key, whole.len(), kept, found, now)?;
                self.commit(at, key, &whole, plan, now);
            }
            _ => {
                let deadline = given.or(found.and_then(|old| self.deadline_of(old)));
                if is_past(deadline, now) {
                    self.set_expired(at, found);
                } else {
                    let soft = match store.soft_ms {
                        _ if is_stale => Some(now.0.max(SOFT_MIN)),
                        0 => None,
                        millis => Some(now.0.saturating_add(millis)),
                    };
                    let kept = Kept { deadline, soft, flags: store.flags, version: store.version };
                    let plan = self.plan(at, key, store.value.len(), kept, found, now)?;
                    self.commit(at, key, store.value, plan, now);
                }
            }
        }
        Ok(Outcome::Done { version: self.version_given(at, store.version), created })
    }

    /// The version of what was written just now, to which the client gave `version`.
    fn version_given(&self, at: At, version: u64) -> u64 {
        if version == 0 { self.index.version(at.slot) } else { version }
    }

    /// A deletion, or the mark that a value is stale; answers an outcome.
    pub(super) fn remove(&mut self, at: At, key: &[u8], remove: Remove, now: UnixMillis, out: &mut impl ReplySink) {
        match self.try_remove(at, key, remove, now) {
            Ok(outcome) => out.outcome(outcome),
            Err(error) => self.refuse(error, out),
        }
    }

    fn try_remove(&mut self, at: At, key: &[u8], remove: Remove, now: UnixMillis) -> Result<Outcome, OpError> {
        let given = Given::of(remove.stale.unwrap_or(Expiry::Keep), now)?;
        let found = self.lookup(at, key, now);
        if let Some(outcome) = self.differs(at, found, remove.compare, now) {
            return Ok(outcome);
        }
        let Some(found) = found else {
            self.end_lease(at);
            return Ok(Outcome::NotFound);
        };
        let kept = self.kept_of(found);
        let deadline = given.or(kept.deadline);
        if remove.stale.is_none() && !remove.empty || is_past(deadline, now) {
            self.delete(at, found);
            return Ok(Outcome::Done { version: 0, created: false });
        }
        let whole = if remove.empty { Vec::new() } else { self.pieces(found).collect::<Vec<_>>().concat() };
        let soft = if remove.stale.is_some() { Some(now.0.max(SOFT_MIN)) } else { kept.soft };
        let flags = if remove.empty { 0 } else { kept.flags };
        let kept = Kept { deadline, soft, flags, version: remove.version };
        let plan = self.plan(at, key, whole.len(), kept, Some(found), now)?;
        self.commit(at, key, &whole, plan, now);
        Ok(Outcome::Done { version: self.version_given(at, remove.version), created: false })
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
        if let Some(outcome) = self.differs(at, found, count.compare, now) {
            return Ok(outcome);
        }
        let (number, kept) = match (found, count.initial) {
            (None, None) => return Ok(Outcome::NotFound),
            (None, Some((number, expiry))) => (number, Kept::until(Given::of(expiry, now)?.or(None))),
            (Some(old), _) => {
                let before = self.number_of(old).ok_or(OpError::NotAnInteger)?;
                let number =
                    if count.down { before.saturating_sub(count.delta) } else { before.wrapping_add(count.delta) };
                let kept = self.kept_of(old);
                (number, Kept { deadline: Given::of(count.expiry, now)?.or(kept.deadline), ..kept })
            }
        };
        let kept = Kept { version: count.version, ..kept };
        if is_past(kept.deadline, now) {
            self.set_expired(at, found);
        } else {
            let text = number.to_string();
            let plan = self.plan(at, key, text.len(), kept, found, now)?;
            self.commit(at, key, text.as_bytes(), plan, now);
        }
        let version = self.version_given(at, count.version);
        Ok(Outcome::Counted { number, version, expires_at: kept.deadline })
    }

    /// What to answer if the value has not the version that it is to have, and no lease has that number either.
    fn differs(&self, at: At, found: Option<Found>, wanted: Option<u64>, now: UnixMillis) -> Option<Outcome> {
        let wanted = wanted?;
        if self.is_leased_by(at, wanted, now) {
            return None;
        }
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
