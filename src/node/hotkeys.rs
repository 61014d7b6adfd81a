//! Which keys a core works for most, and which hold the largest values: `HOTKEYS`, `BIGKEYS` and metrics.
//!
//! Of all operations one in about [`EVERY`] is looked at; the steps between them are drawn, so that no rhythm
//! of the load escapes. What is looked at is counted by Space-Saving (Metwally, Agrawal and El Abbadi, ICDT 2005): a
//! fixed number of counters, of which the smallest goes to a key that has none, with its count as the error that the
//! new one may have. Counts are halved every [`FADE_MS`], so that yesterday's keys go.
//!
//! Large values are noticed as they are written, one comparison for each write.

use crate::base::rng::Rng;
use crate::base::{KeyHash, UnixMillis};
use crate::command::ReplySink;
use crate::command::args::parse_integer;
use crate::command::{Args, SyntaxError};

use super::stats::CoreSnapshot;

/// One operation in so many is looked at.
const EVERY: u64 = 128;
/// Counters of each kind: a key with more than one part in so many of a core's load is among them for certain.
const COUNTERS: usize = 64;
/// Large values that are remembered.
const BIG_MAX: usize = 64;
/// What of a longer key is remembered.
const KEY_BYTES_MAX: usize = 1024;
/// Time after which counts are halved.
const FADE_MS: u64 = 60_000;
/// A key is reported from this part of the load on: one in so many.
const REPORTED_PART: u64 = 500;
/// A key must have been looked at so often before its part is told.
const CERTAIN_MIN: u64 = 16;
/// What `HOTKEYS` and `BIGKEYS` answer at most if nothing is said.
const COUNT_DEFAULT: usize = 10;

/// What a key is hot by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// How often it is asked for.
    #[default]
    Ops,
    /// How many bytes its values take in and out.
    Bytes,
}

/// A key that a core works for more than for most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// The key, or its first 1,024 bytes.
    pub key: Vec<u8>,
    /// Operations or bytes of the last minute or two, estimated.
    pub amount: u64,
    /// Its part of all that the core did, in millionths.
    pub share_ppm: u64,
    /// By how much that may be too high, in millionths.
    pub error_ppm: u64,
}

/// A key with a large value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BigKey {
    /// The key.
    pub key: Vec<u8>,
    /// Bytes of its value.
    pub bytes: u64,
}

/// What a core reports of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The hottest by operations, hottest first.
    pub by_ops: Vec<HotKey>,
    /// The hottest by bytes, hottest first.
    pub by_bytes: Vec<HotKey>,
    /// The largest values, largest first.
    pub big: Vec<BigKey>,
}

/// One counter.
#[derive(Clone, Debug, Default)]
struct Counter {
    key: Vec<u8>,
    count: u64,
    error: u64,
}

/// Counters for the heaviest of a stream.
#[derive(Clone, Debug, Default)]
struct SpaceSaving {
    /// Apart from the rest, so that a key is looked for in few cache lines.
    hashes: Vec<u64>,
    counters: Vec<Counter>,
    total: u64,
}

impl SpaceSaving {
    fn add(&mut self, hash: KeyHash, key: &[u8], weight: u64) {
        self.total += weight;
        if let Some(at) = self.hashes.iter().position(|&known| known == hash.0) {
            self.counters[at].count += weight;
            return;
        }
        if self.hashes.len() < COUNTERS {
            self.hashes.push(hash.0);
            self.counters.push(Counter { key: cut(key).to_vec(), count: weight, error: 0 });
            return;
        }
        let Some((at, counter)) = self.counters.iter_mut().enumerate().min_by_key(|(_, counter)| counter.count) else {
            return;
        };
        self.hashes[at] = hash.0;
        counter.error = counter.count;
        counter.count += weight;
        counter.key.clear();
        counter.key.extend_from_slice(cut(key));
    }

    /// Halves everything, so many times.
    fn fade(&mut self, times: u64) {
        let shift = times.min(u64::BITS as u64 - 1);
        self.total >>= shift;
        for counter in &mut self.counters {
            (counter.count, counter.error) = (counter.count >> shift, counter.error >> shift);
        }
    }

    fn faded(&self, times: u64) -> Self {
        let mut faded = self.clone();
        faded.fade(times);
        faded
    }

    /// The least that a key's part is, in millionths; 0 if too little was seen to tell.
    fn share_of(&self, hash: KeyHash) -> u64 {
        let Some(at) = self.hashes.iter().position(|&known| known == hash.0) else { return 0 };
        let own = self.counters[at].count - self.counters[at].error;
        if own < CERTAIN_MIN { 0 } else { own * 1_000_000 / self.total.max(1) }
    }

    fn heaviest(&self) -> Vec<HotKey> {
        let total = self.total.max(1);
        let ppm = |amount: u64| (u128::from(amount) * 1_000_000 / u128::from(total)) as u64;
        // At least this much is the key's own, whatever the counter was used for before.
        let is_heavy = |counter: &&Counter| counter.count - counter.error > (total / REPORTED_PART).max(1);
        let mut heaviest: Vec<_> = self.counters.iter().filter(is_heavy).collect();
        heaviest.sort_by_key(|counter| std::cmp::Reverse(counter.count));
        let report = |counter: &Counter| HotKey {
            key: counter.key.clone(),
            amount: counter.count * EVERY,
            share_ppm: ppm(counter.count),
            error_ppm: ppm(counter.error),
        };
        heaviest.into_iter().map(report).collect()
    }
}

/// Keys with the largest values that were written, as far as they have not been seen gone.
#[derive(Clone, Debug, Default)]
struct Largest {
    entries: Vec<(u64, BigKey)>,
    /// A value of no more bytes is not among them.
    least: u64,
}

impl Largest {
    #[cold]
    fn offer(&mut self, hash: KeyHash, key: &[u8], bytes: u64) {
        let entry = (hash.0, BigKey { key: cut(key).to_vec(), bytes });
        if let Some(known) = self.entries.iter_mut().find(|(known, _)| *known == hash.0) {
            known.1.bytes = bytes;
        } else if self.entries.len() < BIG_MAX {
            self.entries.push(entry);
        } else if let Some(smallest) = self.entries.iter_mut().min_by_key(|(_, big)| big.bytes) {
            *smallest = entry;
        }
        let full = self.entries.len() == BIG_MAX;
        self.least = if full { self.entries.iter().map(|(_, big)| big.bytes).min().unwrap_or(0) } else { 0 };
    }
}

/// What one core knows of its keys. Takes at most some 200 KiB, and most often 10.
pub(super) struct HotKeys {
    /// Operations until the next one that is looked at.
    countdown: u64,
    rng: Rng,
    by_ops: SpaceSaving,
    by_bytes: SpaceSaving,
    largest: Largest,
    faded_at: UnixMillis,
}

impl HotKeys {
    /// Nothing is known yet. `seed` decides which operations are looked at.
    pub fn new(seed: u64, now: UnixMillis) -> Self {
        Self {
            countdown: EVERY,
            rng: Rng::new(seed),
            by_ops: SpaceSaving::default(),
            by_bytes: SpaceSaving::default(),
            largest: Largest::default(),
            faded_at: now,
        }
    }

    /// Counts an operation; answers whether it is one to look at, with [`HotKeys::sample`].
    #[inline]
    pub fn is_sampled(&mut self) -> bool {
        self.countdown -= 1;
        self.countdown == 0
    }

    /// Looks at an operation on a key, which moves so many bytes.
    #[cold]
    pub fn sample(&mut self, hash: KeyHash, key: &[u8], bytes: usize, now: UnixMillis) {
        self.countdown = 1 + self.rng.below(2 * EVERY - 1);
        self.fade(now);
        self.by_ops.add(hash, key, 1);
        self.by_bytes.add(hash, key, (key.len() + bytes) as u64);
    }

    /// Counts operations on a key that were executed elsewhere.
    pub fn add_ops(&mut self, hash: KeyHash, key: &[u8], ops: u64, now: UnixMillis) {
        self.fade(now);
        // What is less than a whole sample counts by chance.
        let whole = ops / EVERY + u64::from(self.rng.below(EVERY) < ops % EVERY);
        if whole > 0 {
            self.by_ops.add(hash, key, whole);
        }
    }

    /// A key's part of the operations of the last minute or two, in millionths; 0 if that is not certain yet.
    pub fn share_of(&self, hash: KeyHash) -> u64 {
        self.by_ops.share_of(hash)
    }

    /// Notices the length of a value that is written.
    #[inline]
    pub fn written(&mut self, hash: KeyHash, key: &[u8], bytes: usize) {
        if bytes as u64 > self.largest.least {
            self.largest.offer(hash, key, bytes as u64);
        }
    }

    fn fade(&mut self, now: UnixMillis) {
        let times = now.since(self.faded_at) / FADE_MS;
        if times > 0 {
            self.by_ops.fade(times);
            self.by_bytes.fade(times);
            self.faded_at = now;
        }
    }

    /// What there is to tell. `length` answers the length of a key's value, if it is there.
    pub fn report(&self, now: UnixMillis, length: impl Fn(&[u8]) -> Option<usize>) -> Keys {
        // An idle core looks at nothing, and what it knows grows old all the same.
        let times = now.since(self.faded_at) / FADE_MS;
        let heaviest = |of: &SpaceSaving| if times > 0 { of.faded(times).heaviest() } else { of.heaviest() };
        let there = |(_, big): &(u64, BigKey)| {
            // A key that was cut is taken for what it was.
            let bytes = if big.key.len() < KEY_BYTES_MAX { length(&big.key)? as u64 } else { big.bytes };
            Some(BigKey { bytes, ..big.clone() })
        };
        let mut big: Vec<_> = self.largest.entries.iter().filter_map(there).collect();
        big.sort_by_key(|big| std::cmp::Reverse(big.bytes));
        Keys { by_ops: heaviest(&self.by_ops), by_bytes: heaviest(&self.by_bytes), big }
    }
}

fn cut(key: &[u8]) -> &[u8] {
    &key[..key.len().min(KEY_BYTES_MAX)]
}

/// `[COUNT n] [BY ops|bytes]` behind the name.
pub(super) fn hot_options(args: Args<'_>) -> Result<(usize, By), SyntaxError> {
    let (mut count, mut by) = (COUNT_DEFAULT, By::default());
    let mut i = 1;
    while i < args.len() {
        if i + 1 == args.len() {
            return Err(SyntaxError::Syntax);
        }
        if args.is(i, "count") {
            count = positive(args.get(i + 1))?;
        } else if args.is(i, "by") && args.is(i + 1, "ops") {
            by = By::Ops;
        } else if args.is(i, "by") && args.is(i + 1, "bytes") {
            by = By::Bytes;
        } else {
            return Err(SyntaxError::Syntax);
        }
        i += 2;
    }
    Ok((count, by))
}

/// `[COUNT n]` behind the name.
pub(super) fn big_options(args: Args<'_>) -> Result<usize, SyntaxError> {
    match args.len() {
        1 => Ok(COUNT_DEFAULT),
        3 if args.is(1, "count") => positive(args.get(2)),
        _ => Err(SyntaxError::Syntax),
    }
}

fn positive(text: &[u8]) -> Result<usize, SyntaxError> {
    let count = parse_integer(text).ok_or(SyntaxError::NotAnInteger)?;
    usize::try_from(count).ok().filter(|&count| count > 0).ok_or(SyntaxError::Other("ERR COUNT must be positive"))
}

/// The hottest keys of all cores, each with its core, hottest first.
pub(super) fn hottest(cores: &[CoreSnapshot], by: By) -> Vec<(usize, &HotKey)> {
    fn of(keys: &Keys, by: By) -> &[HotKey] {
        match by {
            By::Ops => &keys.by_ops,
            By::Bytes => &keys.by_bytes,
        }
    }
    let mut all: Vec<_> = cores.iter().flat_map(|core| of(&core.hot, by).iter().map(|hot| (core.core, hot))).collect();
    all.sort_by_key(|(_, hot)| std::cmp::Reverse(hot.amount));
    all
}

/// The keys with the largest values of all cores, each with its core, largest first.
pub(super) fn largest(cores: &[CoreSnapshot]) -> Vec<(usize, &BigKey)> {
    let mut all: Vec<_> = cores.iter().flat_map(|core| core.hot.big.iter().map(|big| (core.core, big))).collect();
    all.sort_by_key(|(_, big)| std::cmp::Reverse(big.bytes));
    all
}

/// Writes the hottest keys of all cores: a map for each.
pub(super) fn write_hot(cores: &[CoreSnapshot], count: usize, by: By, out: &mut impl ReplySink) {
    let mut all = hottest(cores, by);
    all.truncate(count);
    out.array(all.len());
    for (core, hot) in all {
        out.map(5);
        out.bulk(b"key");
        out.bulk(&hot.key);
        out.bulk(b"core");
        out.integer(core as i64);
        out.bulk(match by {
            By::Ops => b"ops",
            By::Bytes => b"bytes",
        });
        out.integer(hot.amount as i64);
        out.bulk(b"share");
        out.bulk(part(hot.share_ppm).as_bytes());
        out.bulk(b"error");
        out.bulk(part(hot.error_ppm).as_bytes());
    }
}

/// Writes the keys with the largest values of all cores: a map for each.
pub(super) fn write_big(cores: &[CoreSnapshot], count: usize, out: &mut impl ReplySink) {
    let mut all = largest(cores);
    all.truncate(count);
    out.array(all.len());
    for (core, big) in all {
        out.map(3);
        out.bulk(b"key");
        out.bulk(&big.key);
        out.bulk(b"core");
        out.integer(core as i64);
        out.bulk(b"bytes");
        out.integer(big.bytes as i64);
    }
}

/// Millionths as a decimal part of one.
fn part(ppm: u64) -> String {
    format!("{}.{:06}", ppm / 1_000_000, ppm % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn hash(n: u64) -> KeyHash {
        KeyHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn feed(hot: &mut HotKeys, n: u64, bytes: usize, now: UnixMillis) {
        if hot.is_sampled() {
            hot.sample(hash(n), format!("key:{n}").as_bytes(), bytes, now);
        }
    }

    /// A tenth, a twentieth and a fiftieth of the load go to three keys, and the rest to a million others.
    #[test]
    fn what_is_hot_is_found_with_its_share_and_the_rest_is_not() {
        let mut hot = HotKeys::new(7, NOW);
        let mut rng = Rng::new(3);
        for _ in 0..4_000_000 {
            let n = match rng.below(100) {
                0..10 => 1,
                10..15 => 2,
                15..17 => 3,
                _ => 10 + rng.below(1_000_000),
            };
            feed(&mut hot, n, 100, NOW);
        }
        let found = hot.report(NOW, |_| None).by_ops;
        assert_eq!(found.iter().map(|hot| &hot.key[..]).collect::<Vec<_>>(), [b"key:1", b"key:2", b"key:3"]);
        for (hot, share) in found.iter().zip([100_000, 50_000, 20_000]) {
            let least = hot.share_ppm - hot.error_ppm;
            assert!(least < share + share / 8 && hot.share_ppm + share / 8 > share, "{hot:?} is {share}");
        }
        assert!(found[0].amount.abs_diff(400_000) < 40_000, "{}", found[0].amount);
    }

    #[test]
    fn a_load_without_hot_keys_has_none() {
        let mut hot = HotKeys::new(7, NOW);
        (0..2_000_000u64).for_each(|n| feed(&mut hot, n % 50_000, 100, NOW));
        assert_eq!(hot.report(NOW, |_| None).by_ops, []);
        assert!(hot.by_ops.counters.len() == COUNTERS && hot.by_ops.hashes.len() == COUNTERS);
    }

    #[test]
    fn few_large_transfers_are_hot_by_bytes() {
        let mut hot = HotKeys::new(9, NOW);
        (0..500_000u64).for_each(|n| feed(&mut hot, n % 100, if n % 100 == 5 { 100_000 } else { 10 }, NOW));
        let keys = hot.report(NOW, |_| None);
        assert_eq!(keys.by_bytes[0].key, b"key:5");
        assert!(keys.by_bytes[0].share_ppm > 950_000 && keys.by_ops.iter().all(|hot| hot.share_ppm < 20_000));
    }

    #[test]
    fn what_was_hot_fades() {
        let mut hot = HotKeys::new(7, NOW);
        (0..100_000).for_each(|_| feed(&mut hot, 1, 0, NOW));
        let later = UnixMillis(NOW.0 + 10 * FADE_MS);
        assert_eq!(hot.report(NOW, |_| None).by_ops.len(), 1);
        assert_eq!(hot.report(later, |_| None).by_ops, [], "nothing was asked for lately");
        (0..100_000).for_each(|_| feed(&mut hot, 2, 0, later));
        let found = hot.report(later, |_| None).by_ops;
        assert_eq!((found.len(), &found[0].key[..]), (1, &b"key:2"[..]), "{found:?}");
    }

    #[test]
    fn the_largest_values_are_remembered_while_they_are_there() {
        let mut hot = HotKeys::new(7, NOW);
        for n in 0..10_000u64 {
            hot.written(hash(n), format!("key:{n}").as_bytes(), (n as usize * 7919) % 10_007);
        }
        let length = |key: &[u8]| {
            let n: usize = std::str::from_utf8(key).unwrap()[4..].parse().unwrap();
            n.is_multiple_of(2).then_some(n * 7919 % 10_007)
        };
        let big = hot.report(NOW, length).big;
        assert!((20..45).contains(&big.len()), "{}", big.len());
        assert!(big.iter().all(|big| big.bytes > 10_007 - 2 * BIG_MAX as u64));
        assert!(big.is_sorted_by(|a, b| a.bytes >= b.bytes));
        let before = hot.largest.entries.len();
        hot.written(hash(3), b"key:3", 1);
        assert_eq!((hot.largest.entries.len(), before), (BIG_MAX, BIG_MAX));
    }
}
