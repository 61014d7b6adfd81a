//! Which writes a read may still see.
//!
//! Writes are numbered in the order in which they are issued. For each key the
//! ledger keeps a floor: no read that is sent from now on may return a write with
//! a lower number. It rises when a write is acknowledged: all writes that had been
//! acknowledged before that one was *issued* are gone for good. Writes that were
//! under way at that time may have been applied in any order, so they stay allowed.
//!
//! ```text
//! known, one word a key    63                 24   23      22           0
//!                          [ floor (40)         ][ mixed ][ until (23) ]
//! ```
//!
//! `until` is when the newest acknowledged write expires, in steps of 8 ms since
//! the ledger was made: 18 hours, and all that lies behind counts as never. It is
//! `mixed` when that write overlapped with others: then one of them may be the one
//! that stayed, and the deadline accuses nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

const UNTIL_BITS: u32 = 23;
const UNTIL_MASK: u64 = (1 << UNTIL_BITS) - 1;
const MIXED: u64 = 1 << UNTIL_BITS;
const FLOOR_SHIFT: u32 = UNTIL_BITS + 1;
/// Milliseconds of one step of `until`.
const STEP_MS: u64 = 8;
/// `until` of a key that is not there.
pub const ABSENT: u32 = 0;
/// `until` of a key that does not expire.
pub const FOREVER: u32 = UNTIL_MASK as u32;
/// Locks for keys with writes under way. A power of two, and more than threads.
const LOCKS: usize = 16;
/// Writes under way for which a lock's table has room from the start.
const WRITING: usize = 112;

/// What is known of a key at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The lowest write that a read sent now may return; 0 if no write was acknowledged.
    pub floor: u64,
    /// When the key expires, in steps; [`ABSENT`] or [`FOREVER`].
    pub until: u32,
    /// Whether that may be another write's time.
    pub mixed: bool,
}

impl Known {
    /// Whether a read at `now_ms` should find the key.
    pub fn is_present(self, now_ms: u64) -> bool {
        self.until == FOREVER || u64::from(self.until) * STEP_MS > now_ms
    }

    /// The last moment at which write `floor` may be there, in milliseconds; `None` if it is not known or never.
    pub fn deadline_ms(self) -> Option<u64> {
        let expires = self.until != ABSENT && self.until != FOREVER && !self.mixed;
        expires.then_some(u64::from(self.until) * STEP_MS)
    }

    fn pack(self) -> u64 {
        self.floor << FLOOR_SHIFT | if self.mixed { MIXED } else { 0 } | u64::from(self.until)
    }

    fn unpack(word: u64) -> Self {
        Self { floor: word >> FLOOR_SHIFT, until: (word & UNTIL_MASK) as u32, mixed: word & MIXED != 0 }
    }
}

/// A write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its number.
    pub sequence: u64,
    /// The floor once it is acknowledged.
    floor: u64,
}

/// What a finished write leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A value that expires at this moment at the latest, in milliseconds; `None`: never.
    Value(Option<u64>),
    /// Nothing: a removal.
    Nothing,
}

/// Writes to one key that are under way, in two generations: all of the older one
/// were issued before all of the newer one.
#[derive(Clone, Copy, Debug, Default)]
struct Writing {
    older: Generation,
    newer: Generation,
}

#[derive(Clone, Copy, Debug, Default)]
struct Generation {
    count: u32,
    first: u64,
}

/// Keys with writes under way.
type Keys = HashMap<u64, Writing, FixedState>;

/// The state of every key, shared by all threads.
#[derive(Debug)]
pub struct Ledger {
    known: Box<[AtomicU64]>,
    next: AtomicU64,
    writing: Box<[Mutex<Keys>]>,
}

impl Ledger {
    /// A ledger of `keys` keys, none of them written.
    pub fn new(keys: u64) -> Self {
        Self {
            known: (0..keys).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU64::new(1),
            writing: (0..LOCKS)
                .map(|_| Mutex::new(Keys::with_capacity_and_hasher(WRITING, FixedState::default())))
                .collect(),
        }
    }

    /// A number that no write has yet.
    pub fn issued(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// What is known of a key.
    #[inline]
    pub fn known(&self, id: u64) -> Known {
        Known::unpack(self.known[id as usize].load(Ordering::Acquire))
    }

    fn lock(&self, id: u64) -> MutexGuard<'_, Keys> {
        let lock = &self.writing[id as usize & (LOCKS - 1)];
        lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A write to a key is about to be sent.
    pub fn begin(&self, id: u64) -> Ticket {
        let mut keys = self.lock(id);
        let writing = keys.entry(id).or_default();
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let generation = if writing.older.count == 0 { &mut writing.older } else { &mut writing.newer };
        if generation.count == 0 {
            generation.first = sequence;
        }
        generation.count += 1;
        Ticket { sequence, floor: writing.older.first }
    }

    /// The write has been answered.
    pub fn end(&self, id: u64, ticket: Ticket, left: Left) {
        let mut keys = self.lock(id);
        let Some(writing) = keys.get_mut(&id) else { return };
        let is_newer = writing.newer.count > 0 && ticket.sequence >= writing.newer.first;
        let generation = if is_newer { &mut writing.newer } else { &mut writing.older };
        generation.count -= 1;
        if writing.older.count == 0 {
            writing.older = std::mem::take(&mut writing.newer);
        }
        let alone = ticket.floor == ticket.sequence && writing.older.count == 0;
        if writing.older.count == 0 {
            keys.remove(&id);
        }
        // The lock of the key's writers is held: nobody else changes the word.
        let before = self.known(id);
        let until = match left {
            Left::Value(None) => FOREVER,
            Left::Value(Some(at)) => at.div_ceil(STEP_MS).min(UNTIL_MASK) as u32,
            Left::Nothing => ABSENT,
        };
        let after = Known { floor: before.floor.max(ticket.floor), until, mixed: !alone };
        self.known[id as usize].store(after.pack(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: u64 = 3;

    fn ledger() -> Ledger {
        Ledger::new(10)
    }

    #[test]
    fn one_write_after_the_other_raises_the_floor_each_time() {
        let ledger = ledger();
        for deadline in [None, Some(8000), Some(1 << 40)] {
            let ticket = ledger.begin(KEY);
            assert!(ledger.known(KEY).floor < ticket.sequence, "not before it is acknowledged");
            ledger.end(KEY, ticket, Left::Value(deadline));
            assert_eq!(ledger.known(KEY).floor, ticket.sequence);
        }
        assert_eq!(ledger.known(KEY).until, FOREVER, "farther than can be written down");
        let removal = ledger.begin(KEY);
        ledger.end(KEY, removal, Left::Nothing);
        assert_eq!(ledger.known(KEY), Known { floor: removal.sequence, until: ABSENT, mixed: false });
        assert_eq!(ledger.known(KEY + 1), Known { floor: 0, until: ABSENT, mixed: false });
    }

    #[test]
    fn presence_follows_the_deadline() {
        let ledger = ledger();
        let ticket = ledger.begin(KEY);
        ledger.end(KEY, ticket, Left::Value(Some(801)));
        let known = ledger.known(KEY);
        assert!(known.is_present(801) && !known.is_present(808));
        assert_eq!(known.deadline_ms(), Some(808), "rounded up: nothing is called expired too early");
    }

    #[test]
    fn overlapping_writes_stay_allowed_until_one_begins_after_them() {
        let ledger = ledger();
        let (a, b) = (ledger.begin(KEY), ledger.begin(KEY));
        ledger.end(KEY, b, Left::Value(Some(800)));
        assert_eq!(ledger.known(KEY).floor, a.sequence, "a may have been applied behind b");
        assert_eq!(ledger.known(KEY).deadline_ms(), None, "and then its deadline is what counts");
        ledger.end(KEY, a, Left::Value(None));
        assert_eq!(ledger.known(KEY).floor, a.sequence);
        let c = ledger.begin(KEY);
        ledger.end(KEY, c, Left::Value(None));
        assert_eq!(ledger.known(KEY).floor, c.sequence);
    }

    #[test]
    fn a_key_that_always_has_writes_under_way_is_checked_all_the_same() {
        let ledger = ledger();
        let mut under_way = ledger.begin(KEY);
        for _ in 0..100 {
            let next = ledger.begin(KEY);
            ledger.end(KEY, under_way, Left::Value(None));
            under_way = next;
        }
        assert!(ledger.known(KEY).floor + 4 > under_way.sequence, "{:?} {under_way:?}", ledger.known(KEY));
    }

    #[test]
    fn a_write_that_is_never_answered_may_come_to_pass_at_any_time() {
        let ledger = ledger();
        let lost = ledger.begin(KEY);
        for _ in 0..10 {
            let ticket = ledger.begin(KEY);
            ledger.end(KEY, ticket, Left::Value(None));
        }
        assert!(ledger.known(KEY).floor <= lost.sequence);
    }

    /// What the server did, an order that respects real time, and what a read of it returns.
    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        Apply(prop::sample::Index),
        End(prop::sample::Index),
        Read,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Begin),
            any::<prop::sample::Index>().prop_map(Step::Apply),
            any::<prop::sample::Index>().prop_map(Step::End),
            Just(Step::Read),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// A correct server is never accused: writes are applied at any moment between issue and
        /// acknowledgement, and a read that is sent now may be served by what is there now or later.
        #[test]
        fn a_correct_server_is_never_accused(steps in steps()) {
            let ledger = ledger();
            let (mut issued, mut applied) = (Vec::new(), Vec::new());
            let mut value = 0;
            for step in steps {
                match step {
                    Step::Begin => issued.push(ledger.begin(KEY)),
                    Step::Apply(at) if !issued.is_empty() => {
                        let ticket = issued.swap_remove(at.index(issued.len()));
                        value = ticket.sequence;
                        applied.push(ticket);
                    }
                    Step::End(at) if !applied.is_empty() => {
                        let ticket = applied.swap_remove(at.index(applied.len()));
                        ledger.end(KEY, ticket, Left::Value(None));
                    }
                    Step::Apply(_) | Step::End(_) => {}
                    Step::Read => prop_assert!(value >= ledger.known(KEY).floor, "{} {:?}", value, ledger.known(KEY)),
                }
            }
        }
    }
}
