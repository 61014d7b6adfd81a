//! What tests and the fuzzer share: an answer that is kept, and the walk over
//! everything that a shard holds.
//!
//! Built for them alone (`cfg(any(test, fuzzing))`), and in no binary that serves.

pub mod fuzz;

use super::Shard;
use super::expiry::Bucket;
use super::item;
use crate::command::{Lease, Leased, OpError, Outcome, ReplySink, Value};
use std::collections::BTreeMap;

/// An answer, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A stored value.
    Value {
        /// All of it.
        bytes: Vec<u8>,
        /// The number of the write that stored it.
        version: u64,
        /// Its deadline.
        expires_at: Option<u64>,
        /// What the client keeps beside it.
        flags: u32,
    },
    /// A value or null, whether it is stale, and who is to fill it.
    Leased(Box<Answer>, bool, Lease),
    /// What came of a write with conditions.
    Outcome(Outcome),
    /// A status.
    Status(String),
    /// A number.
    Integer(i64),
    /// No value.
    Null,
    /// Why nothing was done.
    Refused(OpError),
}

/// Keeps the one answer of an operation.
#[derive(Default)]
pub struct Kept(pub Option<Answer>);

impl Kept {
    /// The answer, of which there is exactly one.
    pub fn take(self) -> Answer {
        self.0.expect("every operation answers")
    }

    fn put(&mut self, answer: Answer) {
        assert!(self.0.replace(answer).is_none(), "one operation, one answer");
    }
}

impl ReplySink for Kept {
    fn value(&mut self, value: &Value<'_>) {
        let mut bytes = Vec::new();
        value.payload.append_to(&mut bytes);
        let &Value { version, expires_at, flags, .. } = value;
        self.put(Answer::Value { bytes, version, expires_at, flags });
    }
    fn leased(&mut self, leased: &Leased<'_>) {
        let mut inner = Self::default();
        match leased.value {
            Some(value) => inner.value(value),
            None => inner.null(),
        }
        self.put(Answer::Leased(Box::new(inner.take()), leased.is_stale, leased.lease));
    }
    fn status(&mut self, text: &str) {
        self.put(Answer::Status(text.into()));
    }
    fn integer(&mut self, n: i64) {
        self.put(Answer::Integer(n));
    }
    fn bulk(&mut self, _: &[u8]) {
        unreachable!("the engine answers stored values");
    }
    fn null(&mut self) {
        self.put(Answer::Null);
    }
    fn array(&mut self, _: usize) {
        unreachable!("one key, one answer");
    }
    fn map(&mut self, _: usize) {
        unreachable!("one key, one answer");
    }
    fn error(&mut self, message: impl AsRef<[u8]>) {
        unreachable!("an error without a kind: {}", String::from_utf8_lossy(message.as_ref()));
    }
    fn outcome(&mut self, outcome: Outcome) {
        self.put(Answer::Outcome(outcome));
    }
    fn refused(&mut self, error: OpError) {
        self.put(Answer::Refused(error));
    }
}

impl Shard {
    /// Walks everything, compares the counts, and holds the account against the budget.
    pub fn check(&self) {
        self.check_records();
        let memory = self.memory();
        let accounted = self.accounted_bytes();
        assert!(accounted <= memory.budget_bytes, "{accounted} bytes accounted of {}", memory.budget_bytes);
    }

    /// What of the budget is taken: segments in use, index, wheel and reserved bytes.
    pub fn accounted_bytes(&self) -> u64 {
        let memory = self.memory();
        let in_use = (self.arena.in_use() as u64) << self.arena.segment_shift();
        in_use + memory.index_bytes + memory.wheel_bytes + memory.reserved_bytes
    }

    /// Walks every segment: the records found live are those that the slot tables hold, as
    /// many as are counted; their bytes are the bytes accounted; each deadline is watched.
    pub fn check_records(&self) {
        let (mut live, mut extents, mut with_expiry) = (0, 0, 0);
        let mut filed = BTreeMap::<u32, Vec<Bucket>>::new();
        self.wheel.all().iter().for_each(|&(bucket, loc)| filed.entry(loc.0).or_default().push(bucket));
        self.arena.walk(|loc, head| {
            live += 1;
            extents += head.extents(self.arena.segment_shift());
            let (slot, hash) = self.index.address(loc, self.arena.bytes());
            assert!(self.index.holds(slot, hash, loc), "a live record at {loc:?} is not in its table");
            let word = self.arena.expiry_word(loc, head);
            with_expiry += u64::from(word.deadline.is_some());
            if let Some(deadline) = word.watched() {
                self.wheel.check(deadline, word.watch, filed.get(&loc.0).into_iter().flatten().copied());
            }
            let version = item::read_write_number(self.arena.bytes(), loc, head, self.index.version(slot));
            assert!(version <= self.index.version(slot) && version > 0);
            assert_eq!(head.has_access_time(), self.has_access_times());
        });
        self.check_prefixes();
        assert_eq!(live, self.key_count());
        assert_eq!(extents, self.arena.extent_count());
        self.check_streams();
        assert_eq!(with_expiry, self.keys_with_expiry());
        assert_eq!(self.index.bytes(), self.index.bytes_counted());
        let memory = self.memory();
        let in_use = (self.arena.in_use() as u64) << self.arena.segment_shift();
        assert!(memory.live_bytes + memory.dead_bytes <= in_use);
    }

    /// Counts the keys and bytes of every prefix afresh.
    fn check_prefixes(&self) {
        let mut counted = vec![(0, 0); self.prefixes().len()];
        self.arena.walk(|loc, head| {
            let key = item::key_of(self.arena.bytes(), loc, head);
            if let Some(at) = self.prefixes().iter().position(|prefix| key.starts_with(&prefix.name)) {
                counted[at] = (counted[at].0 + 1, counted[at].1 + self.bytes_of(head) as u64);
            }
        });
        let known: Vec<_> = self.prefixes().iter().map(|prefix| (prefix.keys, prefix.bytes)).collect();
        assert_eq!(counted, known, "keys and bytes of prefixes");
    }

    /// Counts the pins of every segment afresh, and who needs those that no record has.
    fn check_streams(&self) {
        let (held, pins) = self.arena.held_and_pins();
        let mut counted = vec![0; pins.len()];
        self.pins.all().flatten().for_each(|&id| counted[id as usize] += 1);
        assert_eq!(counted, pins);
        let drafted: std::collections::BTreeSet<u32> = self.drafts.all().flatten().copied().collect();
        for &id in &held {
            assert!(counted[id as usize] > 0 || drafted.contains(&id), "nobody needs segment {id}");
        }
        assert!(drafted.iter().all(|id| held.contains(id)), "a draft's segment is somebody else's");
    }
}
