//! The operations that compare versions and keep client flags, beside the model.

use super::*;
use crate::command::{Count, Outcome, Remove, Store, StoreMode};

/// Which version an operation asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// None.
    Any,
    /// That of the key, if there is one.
    Right,
    /// One that the key never had.
    Wrong,
    /// One before that of the key.
    Older,
    /// The token of its lease, whether that is still out or not.
    Token,
}

/// The first of the versions that clients give.
const OWN_FIRST: u64 = 1 << 60;

/// A `Store`, without its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    len: usize,
    flags: u32,
    expiry: Span,
    mode: StoreMode,
    asked: Asked,
    create: bool,
    soft_ms: u64,
    invalidate: bool,
    own: u64,
}

pub(super) fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        4 => Just(Asked::Any), 2 => Just(Asked::Right), 1 => Just(Asked::Wrong), 1 => Just(Asked::Older),
        3 => Just(Asked::Token),
    ]
}

pub(super) fn write() -> impl Strategy<Value = Write> {
    let mode = prop_oneof![
        3 => Just(StoreMode::Set), 1 => Just(StoreMode::Add), 1 => Just(StoreMode::Replace),
        2 => Just(StoreMode::Append), 1 => Just(StoreMode::Prepend),
    ];
    let flags = prop_oneof![2 => Just(0u32), 3 => any::<u32>()];
    let soft = prop_oneof![2 => Just(0u64), 2 => 1u64..3000, 1 => any::<u64>()];
    // None that a write of these shards has by itself.
    let own = prop_oneof![3 => Just(0), 1 => OWN_FIRST..OWN_FIRST + 3];
    (len(), flags, span(), mode, asked(), any::<(bool, bool)>(), soft, own).prop_map(
        |(len, flags, expiry, mode, asked, (create, invalidate), soft_ms, own)| Write {
            len,
            flags,
            expiry,
            mode,
            asked,
            create,
            soft_ms,
            invalidate,
            own,
        },
    )
}

impl Twin {
    /// The version to ask for, and what to expect instead of the operation's own answer.
    pub(super) fn compare(&self, key: &[u8], asked: Asked, old: Option<&Entry>) -> (Option<u64>, Option<Outcome>) {
        let wanted = match (asked, old, self.leases.get(key)) {
            (Asked::Any, ..) => return (None, None),
            (Asked::Right, Some(entry), _) => entry.version,
            (Asked::Older, Some(entry), _) => entry.version - 1,
            (Asked::Token, _, Some(&(token, until))) => {
                // One that ran out before the clock was set back may be gone or not.
                if until >= self.latest {
                    return (Some(token), None);
                }
                if until < self.now { token } else { u64::MAX }
            }
            _ => u64::MAX,
        };
        let refusal = match old {
            None => Some(Outcome::NotFound),
            Some(entry) if entry.version != wanted => Some(Outcome::Differs { version: entry.version }),
            Some(_) => None,
        };
        (Some(wanted), refusal)
    }

    /// The version of a value to which the client gave `own`, if that is not 0.
    fn own_version(&mut self, key: &[u8], own: u64) -> u64 {
        let numbered = self.next_version(key);
        if own == 0 { numbered } else { own }
    }

    /// The new deadline of a key, whose old one is `kept`.
    fn deadline(&self, expiry: Expiry, kept: Option<u64>) -> Option<u64> {
        match expiry {
            Expiry::Keep => kept,
            Expiry::Never => None,
            Expiry::In(ms) => Some(self.now + ms as u64),
            Expiry::At(ms) => Some(ms as u64),
        }
    }

    pub(super) fn write(&mut self, key: &[u8], write: Write) {
        let old = self.reconcile(key);
        self.writes += 1;
        let (value, expiry) = (value_of(self.writes, write.len), write.expiry.expiry(self.now));
        let (compare, refusal) = self.compare(key, write.asked, old.as_ref());
        let Write { flags, mode, create, soft_ms, invalidate, own, .. } = write;
        let more = Store { soft_ms, invalidate, version: own, ..Store::new(mode, expiry) };
        let op = Op::Store(Store { value: &value, flags, compare, create, ..more });
        let answer = run(&mut self.shard, key, op, self.now);
        if answer == Answer::Refused(OpError::OutOfMemory) {
            return;
        }
        let Answer::Outcome(outcome) = answer else { panic!("a write answered {answer:?}") };
        match (refusal, &old) {
            (Some(Outcome::Differs { version }), Some(old)) if invalidate && compare < Some(version) => {
                let deadline = old.deadline;
                let version = self.own_version(key, own);
                assert_eq!(outcome, Outcome::Done { version, created: false });
                let soft = Some(self.now);
                self.model.insert(key.to_vec(), Entry { value, deadline, version, flags, soft });
                return;
            }
            (Some(refusal), _) => return assert_eq!(outcome, refusal),
            (None, _) => {}
        }
        let joins = matches!(mode, StoreMode::Append | StoreMode::Prepend);
        let gone = |outcome| matches!(outcome, Outcome::NotStored | Outcome::Done { created: true, .. });
        // An append may have to evict what it is appended to.
        let old = old.filter(|_| !(mode == StoreMode::Append && self.evicts && gone(outcome)));
        if old.is_none() {
            self.model.remove(key);
        }
        let not_stored = match mode {
            StoreMode::Set => false,
            StoreMode::Add => old.is_some(),
            StoreMode::Replace => old.is_none(),
            StoreMode::Append | StoreMode::Prepend => old.is_none() && !create,
        };
        if not_stored {
            return assert_eq!(outcome, Outcome::NotStored);
        }
        let kept = old.as_ref().and_then(|entry| entry.deadline);
        let created = old.is_none();
        let soft = (soft_ms > 0).then(|| self.now.saturating_add(soft_ms));
        let fresh = Entry { value: value.clone(), deadline: self.deadline(expiry, kept), version: 0, flags, soft };
        let entry = match old {
            Some(old) if joins => {
                let mut parts = [&old.value[..], &value[..]];
                if mode == StoreMode::Prepend {
                    parts.reverse();
                }
                Entry { value: parts.concat(), ..old }
            }
            _ => fresh,
        };
        let version = self.own_version(key, own);
        assert_eq!(outcome, Outcome::Done { version, created });
        self.leases.remove(key);
        self.model.insert(key.to_vec(), Entry { version, ..entry });
    }

    pub(super) fn fetch(&mut self, key: &[u8], expiry: Expiry, bump: bool) {
        let entry = self.reconcile(key);
        let answer = run(&mut self.shard, key, Op::Fetch { expiry, bump, ask: None }, self.now);
        if answer == Answer::Refused(OpError::OutOfMemory) {
            return;
        }
        let Some(mut entry) = entry else { return assert_eq!(answer, Answer::Null) };
        let deadline = self.deadline(expiry, entry.deadline);
        if deadline.is_some_and(|deadline| deadline < self.now) {
            self.expect_value(&answer, Some(&entry));
            return self.forget(key, true);
        }
        let changes = match expiry {
            Expiry::Keep => false,
            Expiry::Never => entry.deadline.is_some(),
            _ => true,
        };
        if !matches!(expiry, Expiry::Never) {
            entry.deadline = deadline;
        }
        if changes && answer == Answer::Null {
            assert!(self.evicts);
            self.model.remove(key);
            return;
        }
        let Answer::Value { bytes, flags, .. } = &answer else { panic!("a fetch answered {answer:?}") };
        assert!(bytes == &entry.value && *flags == entry.flags);
        if changes {
            self.change_deadline(key, deadline);
        }
    }

    pub(super) fn remove(&mut self, key: &[u8], asked: Asked) {
        let old = self.reconcile(key);
        let (compare, refusal) = self.compare(key, asked, old.as_ref());
        let answer = run(&mut self.shard, key, Op::Remove(Remove { compare, ..Remove::default() }), self.now);
        let done = Outcome::Done { version: 0, created: false };
        let expected = refusal.unwrap_or(if old.is_some() { done } else { Outcome::NotFound });
        assert_eq!(answer, Answer::Outcome(expected));
        if refusal.is_none() {
            self.forget(key, expected == done);
        }
    }

    pub(super) fn count(&mut self, key: &[u8], delta: u64, down: bool, initial: Option<u64>, asked: Asked) {
        let old = self.reconcile(key);
        let (compare, refusal) = self.compare(key, asked, old.as_ref());
        let initial_expiry = initial.map(|number| (number, Expiry::In(2000)));
        let count = Count { delta, down, initial: initial_expiry, expiry: Expiry::Keep, compare, version: 0 };
        let answer = run(&mut self.shard, key, Op::Count(count), self.now);
        let (number, entry) = match (refusal, &old, answer) {
            (_, _, Answer::Refused(OpError::OutOfMemory)) => return,
            (Some(refusal), _, answer) => return assert_eq!(answer, Answer::Outcome(refusal)),
            (None, None, Answer::Outcome(Outcome::NotFound)) => return assert_eq!(initial, None),
            (None, Some(old), Answer::Refused(OpError::NotAnInteger)) => {
                let text = std::str::from_utf8(&old.value).unwrap_or("-");
                assert!(text.trim_ascii_end().parse::<u64>().is_err() || text.starts_with('+'), "{text} is a number");
                return;
            }
            (None, None, Answer::Outcome(Outcome::Counted { number, version, expires_at })) => {
                assert_eq!((Some(number), expires_at), (initial, Some(self.now + 2000)));
                (number, Entry { value: Vec::new(), deadline: expires_at, version, flags: 0, soft: None })
            }
            (None, Some(old), Answer::Outcome(Outcome::Counted { number, version, expires_at })) => {
                let text = std::str::from_utf8(&old.value).expect("a number is text");
                let before: u64 = text.trim_ascii_end().parse().expect("it was counted");
                let after = if down { before.saturating_sub(delta) } else { before.wrapping_add(delta) };
                assert_eq!((number, expires_at), (after, old.deadline));
                (number, Entry { version, ..old.clone() })
            }
            (_, _, answer) => panic!("a count of {old:?} answered {answer:?}"),
        };
        let version = self.next_version(key);
        assert_eq!(entry.version, version);
        self.leases.remove(key);
        self.model.insert(key.to_vec(), Entry { value: number.to_string().into_bytes(), ..entry });
    }
}
