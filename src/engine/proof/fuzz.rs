//! Arbitrary bytes as a sequence of operations, beside a model.
//!
//! Goal: whatever is asked of a shard, in whatever order, of whatever size, however
//! the clock jumps and the budget, the policy and the reserved bytes change: nothing wrong is
//! ever read, no key is lost that was not counted as evicted, and what is counted is what is there. Method:
//! [`drive`] reads operations from the bytes and keeps a map of what each key should hold. Where a key
//! of the map is gone from the shard, it had expired, or one eviction more
//! must have been counted. Every so many operations, and at the end, the whole shard is walked.
//!
//! Called by the target in `fuzz/` and by a property test.

mod leases;

use super::{Answer, Kept};
use crate::base::rng::Rng;
use crate::base::{KeyHasher, Slot, UnixMillis};
use crate::command::{Condition, ExpireCondition, Expiry, Op, OpError, SetReply, TtlUnit};
use crate::engine::item::{self, Head, KEY_BYTES_MAX};
use crate::engine::{At, EngineError, Policy, Shard, ShardConfig};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

const SEED: u64 = 11;
const MIB: usize = 1 << 20;
/// The longest value that the shard accepts.
const VALUE_BYTES_MAX: usize = 6 * MIB;
/// What values are cut from, each from another place.
const STOCK_BYTES: usize = 16 * MIB;
/// Operations of one sequence, and between two walks.
const OPERATIONS_MAX: usize = 3000;
const OPERATIONS_PER_WALK: usize = 32;
/// Bytes that one sequence may store, so that none takes long.
const STORED_BYTES_MAX: usize = 128 * MIB;
/// Keys that operations name, and those that only a crowd sets.
const KEYS: u16 = 48;
const CROWD: u16 = 2000;
const START: u64 = 1_700_000_000_000;
const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
/// The clock goes no further.
const LATEST: u64 = 1 << 51;

/// Drives a shard by what `bytes` say.
///
/// # Panics
/// If anything is not as it must be.
pub fn drive(bytes: &[u8]) {
    let mut source = Source(bytes);
    let mut twin = Twin::new(&mut source);
    for n in 1..OPERATIONS_MAX {
        if source.0.is_empty() || twin.stored_bytes > STORED_BYTES_MAX {
            break;
        }
        twin.step(&mut source);
        if n % OPERATIONS_PER_WALK == 0 {
            twin.walk();
        }
    }
    twin.finish();
}

/// The bytes that are left; zeros when there are none.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn below(&mut self, bound: u64) -> u64 {
        let wide = bound > 256;
        let n = if wide { u64::from(self.byte()) << 8 | u64::from(self.byte()) } else { u64::from(self.byte()) };
        n % bound
    }

    /// A number of any magnitude up to `1 << bits`.
    fn magnitude(&mut self, bits: u64) -> u64 {
        let shift = self.below(bits + 1);
        let top = u64::from(self.byte()) << 8 | u64::from(self.byte());
        if shift < 16 { top & ((1 << shift) - 1) } else { top << (shift - 16) }
    }

    fn length(&mut self) -> usize {
        let bound = match self.byte() {
            0..160 => 64,
            160..215 => 5_000,
            215..245 => 70_000,
            245..253 => MIB,
            253.. => VALUE_BYTES_MAX + 1000,
        };
        (self.below(1 << 16) as usize * bound) >> 16
    }

    fn expiry(&mut self, now: u64) -> Expiry {
        let now = now as i64;
        match self.byte() % 16 {
            0..5 => Expiry::Never,
            5 => Expiry::Keep,
            6..11 => Expiry::In(self.magnitude(34) as i64),
            // Where the narrow expiry word ends.
            11 => Expiry::In((1 << 30) + self.below(10_000) as i64 - 5000),
            12 => Expiry::In(self.magnitude(63) as i64),
            13 => Expiry::In(-(self.magnitude(20) as i64)),
            14 => Expiry::At(now.saturating_add(self.below(20) as i64 - 10)),
            _ => Expiry::At(now.saturating_sub(self.magnitude(43) as i64)),
        }
    }

    fn policy(&mut self) -> Policy {
        Policy::ALL[self.below(Policy::ALL.len() as u64) as usize]
    }
}

/// A value in pieces, each a range of the stock; or the text of a number.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Cut(Range<usize>),
    Text(String),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Cut(range) => &stock()[range.clone()],
            Piece::Text(text) => text.as_bytes(),
        }
    }
}

fn stock() -> &'static [u8] {
    static STOCK: OnceLock<Vec<u8>> = OnceLock::new();
    STOCK.get_or_init(|| {
        let mut rng = Rng::new(SEED);
        (0..STOCK_BYTES / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect()
    })
}

/// What the model knows of a key.
#[derive(Clone, Debug)]
struct Entry {
    value: Vec<Piece>,
    deadline: Option<u64>,
    /// The number of its write.
    version: u64,
    /// The version that the client gave it, or 0.
    own: u64,
    flags: u32,
    /// From when on it is stale.
    soft: Option<u64>,
}

impl Entry {
    fn len(&self) -> usize {
        self.value.iter().map(|piece| piece.bytes().len()).sum()
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.value.iter().all(|piece| match rest.split_at_checked(piece.bytes().len()) {
            Some((begin, end)) => {
                rest = end;
                begin == piece.bytes()
            }
            None => false,
        }) && rest.is_empty()
    }

    fn number(&self) -> Option<i64> {
        let whole: Vec<u8> = self.value.iter().flat_map(|piece| piece.bytes().iter().copied()).take(21).collect();
        let n: i64 = std::str::from_utf8(&whole).ok()?.parse().ok()?;
        (n.to_string().as_bytes() == whole).then_some(n)
    }
}

struct Twin {
    shard: Shard,
    model: BTreeMap<u16, Entry>,
    /// Token and last moment of the leases that are out.
    leases: BTreeMap<u16, (u64, u64)>,
    /// The budget that the shard was made with, and how far it may be raised.
    made_with: (u64, u64),
    now: u64,
    /// The latest time that the clock has shown.
    latest: u64,
    writes: usize,
    /// Operations so far, and where the keys of the last two are.
    ops: u64,
    last: [At; 2],
    stored_bytes: usize,
    /// Keys that went without having expired.
    lost: u64,
    /// Whether the account was within the budget and nothing has been asked since that lets it not be.
    within: bool,
}

fn key_of(n: u16) -> Vec<u8> {
    match n {
        0..24 => format!("key:{n}").into_bytes(),
        // Of one slot.
        24..36 => format!("{{tag}}{n}").into_bytes(),
        36..42 => format!("{n}").repeat(100 + usize::from(n)).into_bytes(),
        // Next to half of the smallest segment, which no key may be longer than.
        42..46 => vec![n as u8; 4096 - 42 - 20 + usize::from(n)],
        46 => Vec::new(),
        47 => vec![7; KEY_BYTES_MAX],
        _ if n.is_multiple_of(4) => format!("{{tag}}crowd:{n}").into_bytes(),
        _ => format!("crowd:{n}").into_bytes(),
    }
}

impl Twin {
    fn new(source: &mut Source<'_>) -> Self {
        let budget_bytes = Shard::BUDGET_BYTES_MIN + [0, 4097, 1 << 20, 7 << 20][source.below(4) as usize];
        let (reach_bytes, policy) = (budget_bytes * (1 + source.below(4)), source.policy());
        let hasher = KeyHasher::new(SEED);
        let value_bytes_max = VALUE_BYTES_MAX;
        let mut shard = Shard::new(ShardConfig {
            budget_bytes,
            reach_bytes,
            policy,
            huge_pages: false,
            value_bytes_max,
            seed: SEED,
            hasher,
        })
        .expect("the budget is workable");
        if reach_bytes == 4 * budget_bytes {
            shard.keep_access_times();
        }
        // All but the empty key, so that the longest and one that may take little are met.
        let quota = [0, 40_000, 1 << 20][source.below(3) as usize];
        shard.count_prefixes([(b"k".to_vec(), 0), (b"key:1".to_vec(), quota), (b"{tag}".to_vec(), 0)]);
        Self {
            shard,
            model: BTreeMap::new(),
            leases: BTreeMap::new(),
            made_with: (budget_bytes, reach_bytes),
            now: START,
            latest: START,
            writes: 0,
            ops: 0,
            last: [Self::at(b""); 2],
            stored_bytes: 0,
            lost: 0,
            within: true,
        }
    }

    fn at(key: &[u8]) -> At {
        At { slot: Slot::of(key), hash: KeyHasher::new(SEED).hash(key) }
    }

    fn run(&mut self, key: &[u8], op: Op<'_>) -> Answer {
        let at = Self::at(key);
        let mut kept = Kept::default();
        // Some keys are told their places long before, when much may have changed since, and some never.
        self.ops += 1;
        if self.ops.is_multiple_of(4) {
            self.shard.prefetch([at, self.last[0], self.last[1], self.last[0]].into_iter());
        }
        self.last = [at, self.last[0]];
        self.shard.execute(at, key, &op, UnixMillis(self.now), &mut kept);
        kept.take()
    }

    /// The deadline of a record that the slot tables hold; looking changes nothing.
    fn peek(&self, key: &[u8]) -> Option<Option<u64>> {
        let at = Self::at(key);
        let bytes = self.shard.arena.bytes();
        let loc = self.shard.index.find(at.slot, at.hash, key, bytes)?;
        Some(self.shard.arena.expiry_word(loc, Head::read(bytes, loc)).deadline)
    }

    /// The client flags and the soft deadline of a record that the slot tables hold.
    fn peek_kept(&self, key: &[u8]) -> Option<(u32, Option<u64>)> {
        let at = Self::at(key);
        let bytes = self.shard.arena.bytes();
        let loc = self.shard.index.find(at.slot, at.hash, key, bytes)?;
        let head = Head::read(bytes, loc);
        Some((item::flags_of(bytes, loc, head), item::soft_of(bytes, loc, head)))
    }

    /// What the key must hold now. What has expired is remembered as long as it is there,
    /// for the clock may be set back before anyone meets it.
    fn entry(&mut self, n: u16) -> Option<Entry> {
        let entry = self.model.get(&n)?.clone();
        match self.peek(&key_of(n)) {
            Some(deadline) => assert_eq!(deadline, entry.deadline, "the deadline of key {n}"),
            None => {
                self.lose(n, &entry);
                return None;
            }
        }
        Some(entry).filter(|entry| entry.deadline.is_none_or(|deadline| deadline >= self.now))
    }

    /// A key is gone: if it cannot have expired while the clock showed more, it was evicted.
    fn lose(&mut self, n: u16, entry: &Entry) {
        self.model.remove(&n);
        if entry.deadline.is_none_or(|deadline| deadline >= self.latest) {
            self.lost += 1;
            let evicted = self.shard.stats().evicted;
            assert!(self.lost <= evicted, "{} keys were lost, {evicted} evicted", self.lost);
        }
    }

    fn step(&mut self, source: &mut Source<'_>) {
        match source.byte() {
            240.. => self.step_of_shard(source),
            kind => self.step_of_key(kind, source),
        }
        let within = self.shard.accounted_bytes() <= self.shard.memory().budget_bytes;
        assert!(within || !self.within, "a shard that kept within its budget overdraws it");
        self.within = within;
    }

    /// What concerns the whole shard, or the clock.
    fn step_of_shard(&mut self, source: &mut Source<'_>) {
        match source.byte() % 16 {
            0..3 => self.pass(source.magnitude(22)),
            3 => self.pass(source.magnitude(35)),
            4 => self.pass(source.below(100) * YEAR_MS),
            5 => self.now = self.now.saturating_sub(source.magnitude(37)),
            6 => self.now = self.now.saturating_sub(source.below(70) * YEAR_MS),
            7..10 => {
                let work = source.below(600) as usize;
                self.shard.advance(UnixMillis(self.now), work);
            }
            10 => {
                if source.byte() < 64 {
                    self.shard.flush();
                    self.model.clear();
                    self.leases.clear();
                    assert_eq!(self.shard.key_count(), 0);
                    self.within = false;
                }
            }
            11 => self.shard.set_policy(source.policy()),
            12 => self.set_budget(source),
            13 => {
                let reserved = source.magnitude(24);
                match source.byte() {
                    0..100 => self.shard.set_reserved_bytes(0),
                    100..150 => self.shard.add_reserved_bytes(reserved, UnixMillis(self.now)),
                    150..200 => self.shard.sub_reserved_bytes(reserved),
                    200.. => self.shard.set_reserved_bytes(reserved),
                }
                self.within = false;
            }
            14 => self.crowd(source),
            _ => self.scan(),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = (self.now + ms).min(LATEST);
        self.latest = self.latest.max(self.now);
    }

    fn set_budget(&mut self, source: &mut Source<'_>) {
        let budget = source.magnitude(25);
        let (least, most) = Shard::range_of(self.made_with.0, self.made_with.1);
        let expected = match budget {
            _ if budget < least => Err(EngineError::BudgetTooSmall { minimum: least }),
            _ if budget > most => Err(EngineError::BudgetTooLarge { maximum: most }),
            _ => Ok(()),
        };
        assert_eq!(self.shard.set_budget(budget), expected);
        self.within = false;
    }

    /// Many keys of about one size.
    fn crowd(&mut self, source: &mut Source<'_>) {
        let (first, count, len) = (source.below(CROWD.into()) as u16, source.below(256), source.length().min(9000));
        let expiry = source.expiry(self.now);
        for n in 0..count as u16 {
            let len = len + usize::from(n % 5);
            self.set(KEYS + (first + n) % CROWD, len, expiry, Condition::Always, SetReply::Status);
        }
    }

    fn scan(&mut self) {
        let names: BTreeMap<Vec<u8>, u16> = self.model.keys().map(|&n| (key_of(n), n)).collect();
        let mut seen = Vec::new();
        let mut next = 0;
        while next < 16384 {
            let from = next;
            next = self.shard.scan(from, 16384, 7, UnixMillis(self.now), |key| seen.push(key.to_vec()));
            assert!(next > from);
        }
        seen.sort();
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "a key was handed out twice");
        for key in &seen {
            let n = names.get(key).copied().expect("only what was stored is scanned");
            assert!(self.entry(n).is_some(), "{n} was scanned and does not exist");
        }
        let there = names.values().filter(|&&n| self.entry(n).is_some()).count();
        assert_eq!(seen.len(), there, "every key is scanned");
    }

    fn step_of_key(&mut self, kind: u8, source: &mut Source<'_>) {
        let n = source.below(KEYS.into()) as u16;
        let key = key_of(n);
        match kind % 40 {
            32..40 => self.step_of_lease(n, kind % 40, source),
            0..7 => {
                let entry = self.entry(n);
                let answer = self.run(&key, Op::Get);
                self.expect_value(&answer, entry.as_ref());
            }
            7..15 => {
                let condition = [Condition::Always, Condition::Always, Condition::Absent, Condition::Present];
                let reply = [SetReply::Status, SetReply::Status, SetReply::Integer, SetReply::Old];
                let (condition, reply) = (condition[source.below(4) as usize], reply[source.below(4) as usize]);
                let (len, expiry) = (source.length(), source.expiry(self.now));
                self.set(n, len, expiry, condition, reply);
            }
            15..18 => {
                let tail = self.cut(source.length());
                self.append(n, tail);
            }
            18..20 => {
                let delta = if source.byte() < 200 { source.below(100) as i64 - 50 } else { i64::MAX / 3 * 2 };
                self.incr(n, delta);
            }
            20 => {
                let existed = self.entry(n).is_some();
                assert_eq!(self.run(&key, Op::Del), Answer::Integer(existed.into()));
                self.gone(n);
            }
            21 => {
                let entry = self.entry(n);
                let answer = self.run(&key, Op::GetDel);
                self.expect_value(&answer, entry.as_ref());
                self.gone(n);
            }
            22 | 23 => {
                let expiry = source.expiry(self.now);
                self.get_ex(n, if source.byte() < 8 { Err(OpError::InvalidExpire) } else { Ok(expiry) });
            }
            24..28 => {
                let bits = source.byte();
                let flag = |at: u8| bits >> 6 == 0 && bits >> at & 1 == 1;
                let condition = ExpireCondition { nx: flag(0), xx: flag(1), gt: flag(2), lt: flag(3) };
                self.expire(n, source.expiry(self.now), condition);
            }
            28 => {
                let had = self.entry(n).is_some_and(|entry| entry.deadline.is_some());
                assert_eq!(self.run(&key, Op::Persist), Answer::Integer(had.into()));
                if had {
                    self.re_date(n, None);
                }
            }
            29 => self.ttl(n, [TtlUnit::Seconds, TtlUnit::Millis, TtlUnit::UnixSeconds, TtlUnit::UnixMillis]),
            30 => {
                let entry = self.entry(n);
                assert_eq!(self.run(&key, Op::Exists), Answer::Integer(entry.is_some().into()));
                let word = if entry.is_some() { "string" } else { "none" };
                assert_eq!(self.run(&key, Op::Type), Answer::Status(word.into()));
            }
            _ => {
                let len = self.entry(n).map_or(0, |entry| entry.len());
                assert_eq!(self.run(&key, Op::Strlen), Answer::Integer(len as i64));
            }
        }
    }

    fn ttl(&mut self, n: u16, units: [TtlUnit; 4]) {
        let entry = self.entry(n);
        for unit in units {
            let expected = match &entry {
                None => -2,
                Some(Entry { deadline: None, .. }) => -1,
                Some(Entry { deadline: Some(deadline), .. }) => match unit {
                    TtlUnit::Seconds => ((deadline - self.now + 500) / 1000) as i64,
                    TtlUnit::Millis => (deadline - self.now) as i64,
                    TtlUnit::UnixSeconds => ((deadline + 500) / 1000) as i64,
                    TtlUnit::UnixMillis => *deadline as i64,
                },
            };
            assert_eq!(self.run(&key_of(n), Op::Ttl(unit)), Answer::Integer(expected));
        }
    }

    fn expect_value(&mut self, answer: &Answer, entry: Option<&Entry>) {
        match (answer, entry) {
            (Answer::Null, None) => {}
            (Answer::Value { bytes, version, expires_at, flags }, Some(entry)) => {
                assert!(entry.holds(bytes), "a value that was never the latest");
                let told = if entry.own == 0 { entry.version } else { entry.own };
                assert_eq!((version, expires_at, flags), (&told, &entry.deadline, &entry.flags));
            }
            (Answer::Value { bytes, .. }, None) => panic!("{} bytes came back from the dead", bytes.len()),
            (answer, _) => panic!("answered {answer:?} for a key that is there"),
        }
    }

    /// The key was deleted.
    fn gone(&mut self, n: u16) {
        self.model.remove(&n);
        self.leases.remove(&n);
        assert_eq!(self.peek(&key_of(n)), None, "what was deleted is there");
    }

    fn cut(&mut self, len: usize) -> Piece {
        self.writes += 1;
        self.stored_bytes += len;
        // Starts that no two of some thousand values share.
        let start = self.writes * 3571 % (STOCK_BYTES - len);
        Piece::Cut(start..start + len)
    }

    /// Notes what was written, unless it has been evicted since.
    fn store(&mut self, n: u16, value: Vec<Piece>, deadline: Option<u64>, (flags, soft): (u32, Option<u64>)) {
        self.leases.remove(&n);
        let version = self.shard.index.version(Slot::of(&key_of(n)));
        let before = self.model.get(&n).map_or(0, |entry| entry.version);
        assert!(version > before, "a write takes a new number");
        self.model.insert(n, Entry { value, deadline, version, own: 0, flags, soft });
        self.entry(n);
    }

    fn resolve(&self, expiry: Expiry) -> Result<Option<u64>, OpError> {
        let when = match expiry {
            Expiry::Keep | Expiry::Never => return Ok(None),
            Expiry::In(ms) if ms > 0 => (self.now as i64).checked_add(ms),
            Expiry::At(ms) if ms > 0 => Some(ms),
            Expiry::In(_) | Expiry::At(_) => None,
        };
        when.map(|when| Some(when as u64)).ok_or(OpError::InvalidExpire)
    }

    fn set(&mut self, n: u16, len: usize, expiry: Expiry, condition: Condition, reply: SetReply) {
        let old = self.entry(n);
        let value = match len {
            1..6 => Piece::Text((self.writes as i64 * 7 - 50).to_string()),
            _ => self.cut(len),
        };
        let key = key_of(n);
        let answer = self.run(&key, Op::Set { value: value.bytes(), expiry, condition, reply });
        let given = match self.resolve(expiry) {
            Ok(given) => given,
            Err(error) => return assert_eq!(answer, Answer::Refused(error)),
        };
        let wanted = match condition {
            Condition::Always => true,
            Condition::Absent => old.is_none(),
            Condition::Present => old.is_some(),
        };
        let deadline = match (&old, expiry) {
            (Some(old), Expiry::Keep) => old.deadline,
            _ => given,
        };
        let past = deadline.is_some_and(|deadline| deadline < self.now);
        if let Answer::Refused(error) = answer {
            assert!(wanted && !past);
            return self.may_refuse(&key, value.bytes().len(), error);
        }
        match (reply, &old) {
            (SetReply::Status, _) => {
                assert_eq!(answer, if wanted { Answer::Status("OK".into()) } else { Answer::Null });
            }
            (SetReply::Integer, _) => assert_eq!(answer, Answer::Integer(wanted.into())),
            // The old value may be evicted to make room for the new one, before it is answered.
            (SetReply::Old, Some(old)) if answer == Answer::Null && wanted && !past => self.lose(n, old),
            (SetReply::Old, old) => self.expect_value(&answer, old.as_ref()),
        }
        if past && wanted {
            self.gone(n);
        } else if wanted {
            self.store(n, vec![value], deadline, (0, None));
        }
    }

    /// What a refusal may say.
    fn may_refuse(&self, key: &[u8], len: usize, error: OpError) {
        let too_large = len > VALUE_BYTES_MAX || key.len() > self.shard.key_bytes_max();
        match error {
            OpError::TooLarge => assert!(too_large),
            OpError::OutOfMemory => {
                let memory = self.shard.memory();
                let room = memory.segments_total * memory.segment_bytes;
                let evicts = !matches!(self.shard.policy(), Policy::VolatileTtl | Policy::NoEviction);
                assert!(!too_large);
                // A shard that may evict everything has room for what is a small part of it.
                assert!(!evicts || (len as u64) * 2 > room || room < 64 << 10, "{len} bytes refused, room for {room}");
            }
            other => panic!("refused for {other:?}"),
        }
    }

    fn append(&mut self, n: u16, tail: Piece) {
        let old = self.entry(n);
        let key = key_of(n);
        let before = old.as_ref().map_or(0, Entry::len);
        let answered = match self.run(&key, Op::Append { tail: tail.bytes() }) {
            Answer::Integer(answered) => answered as usize,
            Answer::Refused(error) => return self.may_refuse(&key, before + tail.bytes().len(), error),
            other => panic!("APPEND answered {other:?}"),
        };
        // Evicted for its own growth, the value starts anew, without a deadline.
        match old {
            Some(old)
                if answered == before + tail.bytes().len()
                    && self.peek(&key).is_none_or(|d| d == old.deadline)
                    && self.peek_kept(&key).is_none_or(|kept| kept == (old.flags, old.soft)) =>
            {
                let mut value = old.value;
                value.push(tail);
                self.store(n, value, old.deadline, (old.flags, old.soft));
            }
            old => {
                assert_eq!(answered, tail.bytes().len());
                if let Some(old) = old {
                    self.lose(n, &old);
                }
                self.store(n, vec![tail], None, (0, None));
            }
        }
    }

    fn incr(&mut self, n: u16, delta: i64) {
        let old = self.entry(n);
        let key = key_of(n);
        let before = old.as_ref().map_or(Some(0), Entry::number);
        match (before, self.run(&key, Op::IncrBy { delta })) {
            (None, answer) => assert_eq!(answer, Answer::Refused(OpError::NotAnInteger)),
            (Some(before), Answer::Integer(sum)) => {
                assert_eq!(before.checked_add(delta), Some(sum));
                let (deadline, kept) = old.map_or((None, (0, None)), |old| (old.deadline, (old.flags, old.soft)));
                self.store(n, vec![Piece::Text(sum.to_string())], deadline, kept);
            }
            (Some(before), Answer::Refused(OpError::Overflow)) => assert_eq!(before.checked_add(delta), None),
            (Some(_), Answer::Refused(error)) => self.may_refuse(&key, 20, error),
            (_, answer) => panic!("INCRBY answered {answer:?}"),
        }
    }

    fn get_ex(&mut self, n: u16, expiry: Result<Expiry, OpError>) {
        let old = self.entry(n);
        let key = key_of(n);
        let answer = self.run(&key, Op::GetEx { expiry });
        let Some(old) = old else { return assert_eq!(answer, Answer::Null) };
        let given = match expiry.and_then(|expiry| self.resolve(expiry)) {
            Ok(given) => given,
            Err(error) => return assert_eq!(answer, Answer::Refused(error)),
        };
        match (given, &answer) {
            (_, Answer::Refused(OpError::OutOfMemory)) => assert!(given.is_some()),
            (Some(when), _) if when <= self.now => {
                self.expect_value(&answer, Some(&old));
                self.gone(n);
            }
            (Some(_), Answer::Null) => self.lose(n, &old),
            (given, _) => {
                let deadline = if expiry == Ok(Expiry::Keep) { old.deadline } else { given };
                self.re_date(n, deadline);
                self.expect_value(&answer, Some(&Entry { deadline, ..old }));
            }
        }
    }

    fn expire(&mut self, n: u16, expiry: Expiry, condition: ExpireCondition) {
        let old = self.entry(n);
        let key = key_of(n);
        let answer = self.run(&key, Op::Expire { expiry, condition });
        let now = self.now as i64;
        let when = match expiry {
            Expiry::Keep => return assert_eq!(answer, Answer::Integer(old.is_some().into())),
            Expiry::Never => {
                let had = old.is_some_and(|old| old.deadline.is_some());
                if had {
                    self.re_date(n, None);
                }
                return assert_eq!(answer, Answer::Integer(had.into()));
            }
            Expiry::In(ms) if ms > 0 => now.checked_add(ms),
            Expiry::In(ms) => Some(now.saturating_add(ms)),
            Expiry::At(ms) => Some(ms),
        };
        let Some(when) = when else { return assert_eq!(answer, Answer::Refused(OpError::InvalidExpire)) };
        let Some(old) = old else { return assert_eq!(answer, Answer::Integer(0)) };
        let current = old.deadline.map_or(i128::MAX, i128::from);
        let allowed = (!condition.nx || old.deadline.is_none())
            && (!condition.xx || old.deadline.is_some())
            && (!condition.gt || i128::from(when) > current)
            && (!condition.lt || i128::from(when) < current);
        match answer {
            Answer::Refused(OpError::OutOfMemory) => assert!(allowed && when > now),
            answer => {
                assert_eq!(answer, Answer::Integer(allowed.into()), "{expiry:?} {condition:?} on {:?}", old.deadline);
                if allowed && when <= now {
                    self.gone(n);
                } else if allowed {
                    self.re_date(n, Some(when as u64));
                }
            }
        }
    }

    /// The deadline was changed; the key may have been evicted for it.
    fn re_date(&mut self, n: u16, deadline: Option<u64>) {
        if let Some(entry) = self.model.get_mut(&n) {
            entry.deadline = deadline;
        }
        self.entry(n);
    }

    /// Walks the shard, and counts its keys: those of the model that it has, and no others.
    fn walk(&self) {
        self.shard.check_records();
        let there = self.model.keys().filter(|&&n| self.peek(&key_of(n)).is_some()).count();
        assert_eq!(self.shard.key_count(), there as u64, "the shard holds what the model knows");
    }

    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.shard.advance(UnixMillis(self.now), 100) {
                return;
            }
        }
        panic!("background work never ends");
    }

    fn read_all(&mut self) {
        let keys: Vec<u16> = self.model.keys().copied().collect();
        for n in keys {
            let entry = self.entry(n);
            let answer = self.run(&key_of(n), Op::Get);
            self.expect_value(&answer, entry.as_ref());
            self.entry(n);
        }
    }

    fn finish(&mut self) {
        self.walk();
        self.scan();
        self.shard.set_reserved_bytes(0);
        self.settle();
        if !matches!(self.shard.policy(), Policy::VolatileTtl | Policy::NoEviction) || self.within {
            self.shard.check();
        }
        self.read_all();
        // Everything that has a deadline within reach of the wheel is removed though nobody asks for it.
        self.now = self.latest + 400 * YEAR_MS;
        self.latest = self.now;
        self.settle();
        self.walk();
        self.read_all();
        assert_eq!(self.shard.key_count(), self.model.len() as u64, "the keys that are left");
        self.shard.flush();
        self.model.clear();
        self.settle();
        self.shard.check();
        assert_eq!((self.shard.key_count(), self.shard.memory().live_bytes), (0, 0));
    }
}
