//! How long keys live, beside what their writers say: times to live that are shortened by chance, so that what was
//! stored together does not expire together, and for keys with some prefixes a time to live by default and at most.
//!
//! What an operation says is changed before it is executed, where it says it. Where it says nothing, the deadline is
//! looked at afterwards: no operation leaves a key without the deadline that its rule asks for.

use super::Node;
use crate::base::rng::Rng;
use crate::command::{Count, Expiry, Op, ReplySink, Store, StoreMode};
use crate::engine::At;

/// What keys that begin with something may do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    prefix: Vec<u8>,
    /// Milliseconds; 0 is none.
    default_ttl: u64,
    /// Milliseconds; 0 is none.
    max_ttl: u64,
}

/// The times to live of all keys.
#[derive(Clone, Debug)]
pub struct Bounds {
    jitter_ppm: u64,
    /// The longest prefixes first, so that the first that fits is the one.
    rules: Vec<Rule>,
    chance: Rng,
}

/// What holds for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    default_ttl: u64,
    max_ttl: u64,
}

impl Limit {
    const NONE: Self = Self { default_ttl: 0, max_ttl: 0 };
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new(0, Vec::new())
    }
}

impl Bounds {
    /// Times to live are shortened by up to `jitter_ppm` millionths. `rules` are prefix, default and longest time to live,
    /// in milliseconds, 0 for none.
    pub fn new(jitter_ppm: u32, rules: Vec<(Vec<u8>, u64, u64)>) -> Self {
        let mut rules: Vec<Rule> =
            (rules.into_iter()).map(|(prefix, default_ttl, max_ttl)| Rule { prefix, default_ttl, max_ttl }).collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        if rules.iter().all(|rule| rule.default_ttl == 0 && rule.max_ttl == 0) {
            rules.clear();
        }
        Self { jitter_ppm: jitter_ppm.into(), rules, chance: Rng::new(u64::from(jitter_ppm) + 1) }
    }

    /// Whether everything lives as long as its writer says.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.jitter_ppm == 0 && self.rules.is_empty()
    }

    fn limit(&self, key: &[u8]) -> Limit {
        let rule = self.rules.iter().find(|rule| key.starts_with(&rule.prefix));
        rule.map_or(Limit::NONE, |rule| Limit { default_ttl: rule.default_ttl, max_ttl: rule.max_ttl })
    }

    /// A time to live, shortened by chance.
    fn shortened(&mut self, millis: i64) -> i64 {
        if self.jitter_ppm == 0 || millis <= 1 {
            return millis;
        }
        let most = (millis as u128 * u128::from(self.jitter_ppm) / 1_000_000) as u64;
        (millis - self.chance.below(most + 1) as i64).max(1)
    }

    /// What becomes of an expiry that an operation names at the time `now`.
    fn expiry(&mut self, expiry: Expiry, limit: Limit, now: u64) -> Expiry {
        let max = if limit.max_ttl == 0 { i64::MAX } else { limit.max_ttl.min(i64::MAX as u64) as i64 };
        match expiry {
            Expiry::Keep => Expiry::Keep,
            Expiry::Never if limit.default_ttl > 0 => Expiry::In(self.shortened((limit.default_ttl as i64).min(max))),
            Expiry::Never if limit.max_ttl > 0 => Expiry::In(self.shortened(max)),
            Expiry::Never => Expiry::Never,
            Expiry::In(millis) => Expiry::In(self.shortened(millis.min(max))),
            Expiry::At(when) => Expiry::At(when.min(max.saturating_add_unsigned(now))),
        }
    }

    /// The operation as it is to be executed.
    fn bounded<'a>(&mut self, op: Op<'a>, limit: Limit, now: u64) -> Op<'a> {
        match op {
            Op::Set { value, expiry, condition, reply } => {
                Op::Set { value, expiry: self.expiry(expiry, limit, now), condition, reply }
            }
            Op::Store(store) => Op::Store(Store { expiry: self.expiry(store.expiry, limit, now), ..store }),
            Op::Count(count) => {
                let initial = count.initial.map(|(number, expiry)| (number, self.expiry(expiry, limit, now)));
                Op::Count(Count { initial, expiry: self.expiry(count.expiry, limit, now), ..count })
            }
            Op::GetEx { expiry: Ok(expiry) } => Op::GetEx { expiry: Ok(self.expiry(expiry, limit, now)) },
            Op::Expire { expiry, condition } => Op::Expire { expiry: self.expiry(expiry, limit, now), condition },
            Op::Fetch { expiry, bump, ask } => Op::Fetch { expiry: self.expiry(expiry, limit, now), bump, ask },
            other => other,
        }
    }
}

/// Whether an operation may leave a key without a deadline although it names none, or with the one it had.
fn is_silent(op: &Op<'_>) -> bool {
    match op {
        Op::Append { .. } | Op::IncrBy { .. } | Op::Persist => true,
        Op::Set { expiry, .. } => *expiry == Expiry::Keep,
        Op::Store(store) => store.expiry == Expiry::Keep || store.create || store.mode != StoreMode::Set,
        Op::Count(_) => true,
        _ => false,
    }
}

impl Node {
    /// Executes an operation on a key of this core, within the bounds of how long the key may live.
    #[inline]
    pub(super) fn execute_op(&mut self, at: At, key: &[u8], op: &Op<'_>, out: &mut impl ReplySink) {
        self.note_key(at, key, op);
        if self.bounds.is_empty() {
            self.shard.execute(at, key, op, self.now, out);
        } else {
            self.execute_bounded(at, key, op, out);
        }
    }

    #[cold]
    fn execute_bounded(&mut self, at: At, key: &[u8], op: &Op<'_>, out: &mut impl ReplySink) {
        let limit = self.bounds.limit(key);
        let op = self.bounds.bounded(*op, limit, self.now.0);
        let looks_after = limit != Limit::NONE && is_silent(&op);
        self.shard.execute(at, key, &op, self.now, out);
        if looks_after {
            self.keep_within(at, key, limit);
        }
    }

    /// The deadline that a `SET` of a long value gives a key.
    pub(super) fn bounded_expiry(&mut self, key: &[u8], expiry: Expiry) -> Expiry {
        let limit = self.bounds.limit(key);
        self.bounds.expiry(expiry, limit, self.now.0)
    }

    /// The same for a `SET` of a long value that says nothing of its deadline.
    pub(super) fn keep_bounded(&mut self, at: At, key: &[u8]) {
        let limit = self.bounds.limit(key);
        if limit != Limit::NONE {
            self.keep_within(at, key, limit);
        }
    }

    /// Gives a key the deadline that its rule asks for, if it has none or a later one.
    fn keep_within(&mut self, at: At, key: &[u8], limit: Limit) {
        let shorter = if limit.default_ttl > 0 { limit.default_ttl } else { limit.max_ttl };
        let default = self.bounds.shortened(shorter as i64) as u64;
        let most = if limit.max_ttl > 0 { limit.max_ttl } else { u64::MAX };
        self.shard.bound_deadline(at, key, default, most, self.now);
    }
}
