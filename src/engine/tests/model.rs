//! The model test itself.

mod leases;
mod versioned;

use self::versioned::{Asked, Write};
use super::*;
use crate::command::Claim;

/// What the model knows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    deadline: Option<u64>,
    version: u64,
    flags: u32,
    soft: Option<u64>,
}

/// One step of a sequence.
#[derive(Clone, Debug)]
enum Step {
    Get(u8),
    Set { key: u8, len: usize, expiry: Span, condition: Condition, reply: SetReply },
    Append { key: u8, len: usize },
    Incr(u8),
    Del(u8),
    GetDel(u8),
    GetEx(u8, Span),
    Expire(u8, Span),
    Persist(u8),
    Ttl(u8),
    Exists(u8),
    Store(u8, Write),
    Fetch(u8, Span, bool),
    Remove(u8, Asked),
    Ask { key: u8, claim: Claim, renew_below_ms: u64, term_ms: u32 },
    Stale { key: u8, asked: Asked, empty: bool },
    Count { key: u8, delta: u64, down: bool, initial: Option<u64>, asked: Asked },
    Wait(u64),
    SetBack(u64),
    Advance(usize),
    Flush,
    Scan,
    Fill(u16),
}

/// An expiry, relative to the moment of the step.
#[derive(Clone, Copy, Debug)]
enum Span {
    Keep,
    Never,
    In(i64),
    At(i64),
}

impl Span {
    fn expiry(self, now: u64) -> Expiry {
        match self {
            Span::Keep => Expiry::Keep,
            Span::Never => Expiry::Never,
            Span::In(ms) => Expiry::In(ms),
            Span::At(ms) => Expiry::At(now as i64 + ms),
        }
    }
}

const DAY_MS: u64 = 24 * 3600 * 1000;
const YEAR_MS: u64 = 365 * DAY_MS;
/// The clock is never set back to before this.
const EARLIEST: u64 = YEAR_MS;

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![
        2 => Just(Span::Never),
        1 => Just(Span::Keep),
        3 => (1i64..3000).prop_map(Span::In),
        2 => (1i64..3_000_000).prop_map(Span::In),
        1 => (1i64..3 * YEAR_MS as i64).prop_map(Span::In),
        2 => (-5000i64..5000).prop_map(|ms| Span::In((1 << 30) + ms)),
        1 => (-5i64..5).prop_map(Span::At),
        1 => Just(Span::In(1 << 60)),
    ]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..40, 4 => 100usize..600, 2 => 5_000usize..17_000, 2 => 17_000usize..300_000]
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u8..24;
    let condition =
        prop_oneof![4 => Just(Condition::Always), 1 => Just(Condition::Absent), 1 => Just(Condition::Present)];
    let reply = prop_oneof![3 => Just(SetReply::Status), 1 => Just(SetReply::Integer), 1 => Just(SetReply::Old)];
    prop_oneof![
        8 => key.clone().prop_map(Step::Get),
        10 => (key.clone(), len(), span(), condition, reply).prop_map(
            |(key, len, expiry, condition, reply)| Step::Set { key, len, expiry, condition, reply }),
        4 => (key.clone(), len()).prop_map(|(key, len)| Step::Append { key, len }),
        3 => key.clone().prop_map(Step::Incr),
        2 => key.clone().prop_map(Step::Del),
        1 => key.clone().prop_map(Step::GetDel),
        3 => (key.clone(), span()).prop_map(|(key, span)| Step::GetEx(key, span)),
        4 => (key.clone(), span()).prop_map(|(key, span)| Step::Expire(key, span)),
        2 => key.clone().prop_map(Step::Persist),
        1 => key.clone().prop_map(Step::Ttl),
        1 => key.clone().prop_map(Step::Exists),
        8 => (key.clone(), versioned::write()).prop_map(|(key, write)| Step::Store(key, write)),
        4 => (key.clone(), span(), any::<bool>()).prop_map(|(key, span, bump)| Step::Fetch(key, span, bump)),
        2 => (key.clone(), versioned::asked()).prop_map(|(key, asked)| Step::Remove(key, asked)),
        5 => (key.clone(), leases::claim(), 0u64..5000, 1u32..3000).prop_map(
            |(key, claim, renew_below_ms, term_ms)| Step::Ask { key, claim, renew_below_ms, term_ms }),
        2 => (key.clone(), versioned::asked(), any::<bool>()).prop_map(
            |(key, asked, empty)| Step::Stale { key, asked, empty }),
        4 => (key, delta(), any::<bool>(), proptest::option::of(any::<u64>()), versioned::asked()).prop_map(
            |(key, delta, down, initial, asked)| Step::Count { key, delta, down, initial, asked }),
        4 => prop_oneof![0u64..50, 0u64..5000, 0u64..20 * DAY_MS, 0u64..YEAR_MS].prop_map(Step::Wait),
        1 => prop_oneof![0u64..50, 0u64..5000, 0u64..20 * DAY_MS, 0u64..2 * YEAR_MS].prop_map(Step::SetBack),
        3 => (0usize..300).prop_map(Step::Advance),
        1 => (0u8..8).prop_map(|n| if n == 0 { Step::Flush } else { Step::Scan }),
        2 => (0u16..400).prop_map(Step::Fill),
    ]
}

fn delta() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0u64..100, 1 => any::<u64>()]
}

struct Twin {
    shard: Shard,
    model: BTreeMap<Vec<u8>, Entry>,
    versions: BTreeMap<u16, u64>,
    /// Token and deadline of the leases that are out.
    leases: BTreeMap<Vec<u8>, (u64, u64)>,
    now: u64,
    /// The latest time that the clock has shown.
    latest: u64,
    writes: u64,
    /// Whether the shard may have fewer keys than the model.
    evicts: bool,
}

impl Twin {
    fn new(budget_bytes: u64, policy: Policy) -> Self {
        let evicts = policy != Policy::NoEviction && budget_bytes < 64 << 20;
        let mut shard = shard(budget_bytes, policy);
        let keys = [(b"k".to_vec(), 0), (b"key:1".to_vec(), 0), (b"{tag}".to_vec(), 0), (b"fill:".to_vec(), 0)];
        shard.count_prefixes(keys);
        if policy == Policy::NoEviction {
            // Longer records, which nothing else may depend on.
            shard.keep_access_times();
        }
        let now = 1_700_000_000_000;
        let (model, versions, leases) = Default::default();
        Self { shard, model, versions, leases, now, latest: now, writes: 0, evicts }
    }

    fn key(n: u8) -> Vec<u8> {
        match n % 8 {
            7 => format!("{{tag}}{n}").repeat(usize::from(n)).into_bytes(),
            _ => format!("key:{n}").into_bytes(),
        }
    }

    /// What the model holds now; what has expired is forgotten, as it is by the shard when it is asked next.
    fn model_entry(&mut self, key: &[u8]) -> Option<Entry> {
        if self.model.get(key).is_some_and(|e| e.deadline.is_some_and(|d| d < self.now)) {
            self.model.remove(key);
        }
        self.model.get(key).cloned()
    }

    /// Whether the shard may lack a key of the model: evicted, or expired before the clock was set back.
    fn may_lack(&self, entry: &Entry) -> bool {
        self.evicts || entry.deadline.is_some_and(|deadline| deadline < self.latest)
    }

    /// Brings the model in line if the shard has lost the key.
    fn reconcile(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.model_entry(key);
        let exists = run(&mut self.shard, key, Op::Exists, self.now) == Answer::Integer(1);
        match (&entry, exists) {
            (None, true) => panic!("{key:?} came back from the dead"),
            (Some(entry), false) => {
                assert!(self.may_lack(entry), "{key:?} was lost without eviction");
                self.model.remove(key);
                return None;
            }
            _ => {}
        }
        entry
    }

    fn next_version(&mut self, key: &[u8]) -> u64 {
        let version = self.versions.entry(Slot::of(key).number()).or_default();
        *version += 1;
        *version
    }

    fn expect_value(&mut self, answer: &Answer, entry: Option<&Entry>) {
        match (answer, entry) {
            (Answer::Null, None) => {}
            (Answer::Null, Some(entry)) if self.may_lack(entry) => {}
            (Answer::Value { bytes, version, expires_at, flags }, Some(entry)) => {
                assert!(bytes == &entry.value, "a value that was never the latest");
                assert_eq!((version, expires_at, flags), (&entry.version, &entry.deadline, &entry.flags));
            }
            _ => panic!("answered {answer:?}, the model holds {entry:?}"),
        }
    }

    /// A write by a command that says nothing of client flags.
    fn store(&mut self, key: &[u8], value: Vec<u8>, deadline: Option<u64>, flags: u32) {
        let version = self.next_version(key);
        self.leases.remove(key);
        self.model.insert(key.to_vec(), Entry { value, deadline, version, flags, soft: None });
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Get(key) => {
                let key = Self::key(key);
                let entry = self.model_entry(&key);
                let answer = run(&mut self.shard, &key, Op::Get, self.now);
                self.expect_value(&answer, entry.as_ref());
            }
            Step::Set { key, len, expiry, condition, reply } => {
                self.set(&Self::key(key), len, expiry.expiry(self.now), condition, reply);
            }
            Step::Append { key, len } => self.append(&Self::key(key), len),
            Step::Incr(key) => self.incr(&Self::key(key)),
            Step::Del(key) => {
                let key = Self::key(key);
                let existed = self.reconcile(&key).is_some();
                let answer = run(&mut self.shard, &key, Op::Del, self.now);
                assert_eq!(answer, Answer::Integer(i64::from(existed)));
                self.forget(&key, existed);
            }
            Step::GetDel(key) => {
                let key = Self::key(key);
                let entry = self.reconcile(&key);
                let answer = run(&mut self.shard, &key, Op::GetDel, self.now);
                self.expect_value(&answer, entry.as_ref());
                self.forget(&key, entry.is_some());
            }
            Step::GetEx(key, span) => self.get_ex(&Self::key(key), span.expiry(self.now)),
            Step::Expire(key, span) => self.expire(&Self::key(key), span),
            Step::Persist(key) => {
                let key = Self::key(key);
                let had = self.reconcile(&key).is_some_and(|e| e.deadline.is_some());
                let answer = run(&mut self.shard, &key, Op::Persist, self.now);
                assert_eq!(answer, Answer::Integer(i64::from(had)));
                if had {
                    self.change_deadline(&key, None);
                }
            }
            Step::Ttl(key) => {
                let key = Self::key(key);
                let expected = match self.reconcile(&key) {
                    None => -2,
                    Some(Entry { deadline: None, .. }) => -1,
                    Some(Entry { deadline: Some(d), .. }) => (d - self.now) as i64,
                };
                assert_eq!(run(&mut self.shard, &key, Op::Ttl(TtlUnit::Millis), self.now), Answer::Integer(expected));
            }
            Step::Exists(key) => {
                self.reconcile(&Self::key(key));
            }
            Step::Store(key, write) => self.write(&Self::key(key), write),
            Step::Fetch(key, span, bump) => self.fetch(&Self::key(key), span.expiry(self.now), bump),
            Step::Remove(key, asked) => self.remove(&Self::key(key), asked),
            Step::Ask { key, claim, renew_below_ms, term_ms } => {
                self.ask(&Self::key(key), claim, renew_below_ms, term_ms);
            }
            Step::Stale { key, asked, empty } => self.make_stale(&Self::key(key), asked, empty),
            Step::Count { key, delta, down, initial, asked } => {
                self.count(&Self::key(key), delta, down, initial, asked);
            }
            Step::Wait(ms) => {
                self.now += ms;
                self.latest = self.latest.max(self.now);
            }
            Step::SetBack(ms) => self.now = self.now.saturating_sub(ms).max(EARLIEST),
            Step::Advance(work) => {
                self.shard.advance(UnixMillis(self.now), work);
            }
            Step::Flush => {
                self.shard.flush();
                self.model.clear();
                self.leases.clear();
                assert_eq!(self.shard.key_count(), 0);
            }
            Step::Scan => self.scan(),
            Step::Fill(count) => self.fill(count),
        }
    }

    /// The key is deleted, if there was one: whoever was to fill it is late in any case.
    fn forget(&mut self, key: &[u8], existed: bool) {
        self.leases.remove(key);
        if existed {
            self.next_version(key);
            self.model.remove(key);
        }
    }

    /// A write that joins or counts leaves the time from which on the value is stale.
    fn keep_soft(&mut self, key: &[u8], soft: Option<u64>) {
        self.model.get_mut(key).expect("just stored").soft = soft;
    }

    fn change_deadline(&mut self, key: &[u8], deadline: Option<u64>) {
        self.next_version(key);
        if let Some(entry) = self.model.get_mut(key) {
            entry.deadline = deadline;
        }
    }

    fn set(&mut self, key: &[u8], len: usize, expiry: Expiry, condition: Condition, reply: SetReply) {
        let old = self.reconcile(key);
        self.writes += 1;
        let value = value_of(self.writes, len);
        let answer = run(&mut self.shard, key, Op::Set { value: &value, expiry, condition, reply }, self.now);
        let wanted = match condition {
            Condition::Always => true,
            Condition::Absent => old.is_none(),
            Condition::Present => old.is_some(),
        };
        if answer == Answer::Refused(OpError::OutOfMemory) {
            return self.may_refuse();
        }
        match reply {
            SetReply::Status => assert_eq!(answer, if wanted { Answer::Status("OK".into()) } else { Answer::Null }),
            SetReply::Integer => assert_eq!(answer, Answer::Integer(i64::from(wanted))),
            SetReply::Old => self.expect_value(&answer, old.as_ref()),
        }
        if !wanted {
            return;
        }
        let deadline = match expiry {
            Expiry::Keep => old.and_then(|e| e.deadline),
            Expiry::Never => None,
            Expiry::In(ms) => Some(self.now + ms as u64),
            Expiry::At(ms) => Some(ms as u64),
        };
        self.store(key, value, deadline, 0);
    }

    /// Only a shard without eviction, or a value out of all proportion, may meet a refusal.
    fn may_refuse(&self) {
        assert!(self.shard.policy.compacts(), "refused although everything may be evicted");
    }

    fn append(&mut self, key: &[u8], len: usize) {
        let old = self.reconcile(key);
        self.writes += 1;
        let tail = value_of(self.writes, len);
        let answer = run(&mut self.shard, key, Op::Append { tail: &tail }, self.now);
        if answer == Answer::Refused(OpError::OutOfMemory) {
            return;
        }
        let Answer::Integer(answered) = answer else { panic!("APPEND answered {answer:?}") };
        let (mut value, deadline, flags, soft) =
            old.map_or((Vec::new(), None, 0, None), |e| (e.value, e.deadline, e.flags, e.soft));
        if answered as usize == len && !value.is_empty() {
            assert!(self.evicts, "what was there before is lost");
            return self.store(key, tail, None, 0);
        }
        value.extend_from_slice(&tail);
        assert_eq!(answered as usize, value.len());
        self.store(key, value, deadline, flags);
        self.keep_soft(key, soft);
    }

    fn incr(&mut self, key: &[u8]) {
        let old = self.reconcile(key);
        let answer = run(&mut self.shard, key, Op::IncrBy { delta: 7 }, self.now);
        let before = old.as_ref().map_or(Some(0i64), |e| std::str::from_utf8(&e.value).ok()?.parse().ok());
        match (before, answer) {
            (None, Answer::Refused(OpError::NotAnInteger)) | (_, Answer::Refused(OpError::OutOfMemory)) => {}
            (Some(n), Answer::Integer(sum)) => {
                assert_eq!(sum, n + 7);
                let (deadline, flags, soft) = old.map_or((None, 0, None), |e| (e.deadline, e.flags, e.soft));
                self.store(key, sum.to_string().into_bytes(), deadline, flags);
                self.keep_soft(key, soft);
            }
            (before, answer) => panic!("INCRBY on {before:?} answered {answer:?}"),
        }
    }

    fn get_ex(&mut self, key: &[u8], expiry: Expiry) {
        let entry = self.reconcile(key);
        let answer = run(&mut self.shard, key, Op::GetEx { expiry: Ok(expiry) }, self.now);
        if answer == Answer::Refused(OpError::OutOfMemory) {
            return;
        }
        let Some(mut entry) = entry else { return assert_eq!(answer, Answer::Null) };
        let deadline = match expiry {
            Expiry::Keep => entry.deadline,
            Expiry::Never => None,
            Expiry::In(ms) => Some(self.now + ms as u64),
            Expiry::At(ms) => Some(ms as u64),
        };
        if deadline.is_some_and(|d| d <= self.now) && !matches!(expiry, Expiry::Keep) {
            self.expect_value(&answer, Some(&entry));
            return self.forget(key, true);
        }
        let changes = match expiry {
            Expiry::Keep => false,
            Expiry::Never => entry.deadline.is_some(),
            _ => true,
        };
        entry.deadline = deadline;
        self.expect_value(&answer, Some(&entry));
        if changes && answer == Answer::Null {
            // Evicted while making room for its own deadline.
            self.model.remove(key);
        } else if changes {
            self.change_deadline(key, deadline);
        }
    }

    fn expire(&mut self, key: &[u8], span: Span) {
        let expiry = match span {
            Span::Keep | Span::Never => Expiry::In(-3),
            other => other.expiry(self.now),
        };
        let entry = self.reconcile(key);
        let before = self.shard.index.version(Slot::of(key));
        let answer = run(&mut self.shard, key, Op::Expire { expiry, condition: ExpireCondition::default() }, self.now);
        if answer == Answer::Refused(OpError::OutOfMemory) {
            return;
        }
        assert_eq!(answer, Answer::Integer(i64::from(entry.is_some())));
        let deadline = match expiry {
            Expiry::In(ms) => self.now as i64 + ms,
            Expiry::At(ms) => ms,
            _ => unreachable!("both are excluded above"),
        };
        if entry.is_none() {
        } else if deadline <= self.now as i64 {
            self.forget(key, true);
        } else if self.shard.index.version(Slot::of(key)) == before {
            assert!(self.evicts, "only eviction stops a deadline from changing");
            self.model.remove(key);
        } else {
            self.change_deadline(key, Some(deadline as u64));
        }
    }

    fn scan(&mut self) {
        let mut seen = Vec::new();
        let mut next = 0;
        while next < 16384 {
            next = self.shard.scan(next, 16384, 5, UnixMillis(self.now), |key| seen.push(key.to_vec()));
        }
        for key in &seen {
            let filler = key.starts_with(b"fill:");
            assert!(filler || self.model_entry(key).is_some(), "{key:?} was scanned and does not exist");
        }
        if !self.evicts {
            let own = seen.iter().filter(|key| !key.starts_with(b"fill:")).count();
            let alive = |now: u64| self.model.values().filter(|e| e.deadline.is_none_or(|d| d >= now)).count();
            assert!((alive(self.latest)..=alive(self.now)).contains(&own));
        }
    }

    /// Pushes others out with values of a few kilobytes under keys that the model does not follow.
    fn fill(&mut self, count: u16) {
        for n in 0..count {
            let key = format!("fill:{n}").into_bytes();
            let value = value_of(u64::from(n), 2000 + usize::from(n) * 7);
            let expiry = if n % 3 == 0 { Expiry::In(i64::from(n) + 1) } else { Expiry::Never };
            let before = self.shard.index.version(Slot::of(&key));
            set(&mut self.shard, &key, &value, expiry, self.now);
            let after = self.shard.index.version(Slot::of(&key));
            *self.versions.entry(Slot::of(&key).number()).or_default() += after - before;
        }
    }

    fn finish(&mut self) {
        self.shard.check();
        settle(&mut self.shard, self.now);
        self.shard.check();
        for n in 0..24 {
            self.step(&Step::Get(n));
        }
        self.now = self.latest + 4 * YEAR_MS;
        settle(&mut self.shard, self.now);
        self.shard.check();
        let mut overdue = 0;
        self.shard.arena.walk(|loc, head| {
            let deadline = self.shard.arena.expiry_word(loc, head).watched();
            overdue += u64::from(deadline.is_some_and(|deadline| deadline + 10 < self.now));
        });
        assert_eq!(overdue, 0, "what is past is removed though nobody asks for it");
        self.model.retain(|_, entry| entry.deadline.is_none_or(|d| d >= self.now));
        for n in 0..24 {
            self.step(&Step::Get(n));
        }
    }
}

proptest! {
    #![proptest_config(cases(150, 2000))]

    #[test]
    fn a_shard_that_evicts_may_miss_and_is_never_wrong(
        steps in proptest::collection::vec(step(), 1..250),
        policy in prop_oneof![Just(Policy::Clock), Just(Policy::S3Fifo), Just(Policy::Lfu), Just(Policy::Random)],
    ) {
        let mut twin = Twin::new(Shard::BUDGET_BYTES_MIN, policy);
        for step in &steps {
            twin.step(step);
        }
        twin.finish();
    }

    #[test]
    fn a_shard_with_room_is_exact(steps in proptest::collection::vec(step(), 1..250)) {
        let mut twin = Twin::new(192 << 20, Policy::default());
        for step in &steps {
            twin.step(step);
        }
        twin.finish();
        assert_eq!(twin.shard.stats().evicted, 0);
    }

    #[test]
    fn a_shard_without_eviction_refuses_and_loses_nothing(steps in proptest::collection::vec(step(), 1..250)) {
        let mut twin = Twin::new(Shard::BUDGET_BYTES_MIN, Policy::NoEviction);
        for step in &steps {
            twin.step(step);
        }
        twin.finish();
        assert_eq!(twin.shard.stats().evicted, 0);
    }

    #[test]
    fn a_shard_that_evicts_by_deadline_refuses_or_misses_and_is_never_wrong(
        steps in proptest::collection::vec(step(), 1..250),
    ) {
        let mut twin = Twin::new(Shard::BUDGET_BYTES_MIN, Policy::VolatileTtl);
        for step in &steps {
            twin.step(step);
        }
        twin.finish();
    }
}
