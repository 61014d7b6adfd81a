//! The arena beside a plain twin.
//!
//! Goal: two records never share a byte, what is accounted is what is there, and no segment is lost. Method: a map
//! from place to length beside the arena, and a counter of bytes. Records go to both logs, die in any order,
//! segments are opened, sealed and drained, extents come, change hands and go, pages are given back, and
//! the arena grows and is cleared. After each step counters are compared, and now and then all bytes.

use super::*;
use crate::engine::arena::{Arena, Log};
use crate::engine::item::{Form, HEADER_BYTES, Head, Loc};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const BUDGET_BYTES: u64 = 256 << 10;

#[derive(Clone, Debug)]
enum Step {
    Append(bool, usize),
    Open(bool),
    Kill(usize),
    KillOldest(usize),
    Seal(usize),
    Drain(bool),
    Extent(bool, usize),
    ResizeExtent(usize, usize),
    MoveExtent(usize, bool),
    FreeExtent(usize),
    Release,
    Grow(u64),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 0usize..200, 2 => 0usize..4000, 1 => 4000usize..8180];
    let log = any::<bool>();
    let n = 0usize..100_000;
    prop_oneof![
        30 => (log, len).prop_map(|(log, len)| Step::Append(log, len)),
        2 => any::<bool>().prop_map(Step::Open),
        8 => n.clone().prop_map(Step::Kill),
        2 => (0usize..40).prop_map(Step::KillOldest),
        2 => n.clone().prop_map(Step::Seal),
        3 => any::<bool>().prop_map(Step::Drain),
        4 => (any::<bool>(), 0usize..8193).prop_map(|(log, used)| Step::Extent(log, used)),
        1 => (n.clone(), 0usize..8193).prop_map(|(n, used)| Step::ResizeExtent(n, used)),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, log)| Step::MoveExtent(n, log)),
        3 => n.prop_map(Step::FreeExtent),
        2 => Just(Step::Release),
        1 => (0u64..BUDGET_BYTES * 2).prop_map(Step::Grow),
        1 => Just(Step::Clear),
    ]
}

fn log_of(small: bool) -> Log {
    if small { Log::Small } else { Log::Main }
}

struct Twin {
    arena: Arena,
    /// Live records by place: their length, log and what they are filled with.
    records: BTreeMap<usize, (usize, Log, u8)>,
    extents: BTreeMap<u32, (usize, Log)>,
    bytes: usize,
    written: u8,
}

impl Twin {
    fn nth_record(&self, n: usize) -> Option<usize> {
        self.records.keys().nth(n % self.records.len().max(1)).copied()
    }

    fn nth_extent(&self, n: usize) -> Option<u32> {
        self.extents.keys().nth(n % self.extents.len().max(1)).copied()
    }

    fn append(&mut self, log: Log, len: usize) {
        let head = Head::new(0, len, Form::Absent, false);
        let size = head.record_bytes(self.arena.segment_shift());
        if !self.arena.fits(log, size) && self.arena.open_next(log, NOW).is_none() {
            assert_eq!(self.arena.in_use(), self.arena.segment_count(), "none is free");
            assert!(self.arena.append(log, size).is_none());
            return;
        }
        let loc = self.arena.append(log, size).expect("it fits");
        let at = loc.offset();
        assert_eq!(at / self.arena.segment_bytes(), (at + size - 1) / self.arena.segment_bytes(), "in one segment");
        let before = self.records.range(..at).next_back().map_or(0, |(&at, &(size, ..))| at + size);
        let after = self.records.range(at..).next().map_or(usize::MAX, |(&at, _)| at);
        assert!(before <= at && at + size <= after, "over a live record");
        assert!(!self.extents.contains_key(&((at >> self.arena.segment_shift()) as u32)), "in an extent");
        assert_eq!(self.arena.log_of(loc), log);
        self.written = self.written.wrapping_add(1);
        self.arena.bytes_mut()[at..at + size].fill(self.written);
        head.write(self.arena.bytes_mut(), loc);
        self.records.insert(at, (size, log, self.written));
        self.bytes += size;
    }

    fn kill(&mut self, at: usize) {
        self.arena.kill(Loc::at(at));
        self.bytes -= self.records.remove(&at).expect("live").0;
    }

    fn step(&mut self, step: &Step) {
        let shift = self.arena.segment_shift();
        match *step {
            Step::Append(small, len) => self.append(log_of(small), len),
            Step::Open(small) => {
                let free = self.arena.segment_count() - self.arena.in_use();
                assert_eq!(self.arena.open_next(log_of(small), NOW).is_some(), free > 0);
            }
            Step::Kill(n) => self.nth_record(n).into_iter().for_each(|at| self.kill(at)),
            Step::KillOldest(count) => {
                let oldest: Vec<usize> = self.records.keys().take(count).copied().collect();
                oldest.into_iter().for_each(|at| self.kill(at));
            }
            Step::Seal(n) => {
                let open: Vec<u32> = self.arena.open_segments().collect();
                if let Some(&id) = open.get(n % open.len().max(1)) {
                    self.arena.seal(id);
                    assert!(self.arena.is_sealed(id) || self.arena.used_in(id) == 0);
                }
            }
            Step::Drain(small) => {
                // As the hand does it: all records go, then the segment is freed.
                let Some(id) = self.arena.oldest(log_of(small)) else { return };
                self.arena.drain(id);
                assert!(!self.arena.is_sealed(id) && self.arena.oldest(log_of(small)) != Some(id));
                let within: Vec<usize> = self.records.range(self.arena.range(id)).map(|(&at, _)| at).collect();
                within.into_iter().for_each(|at| self.kill(at));
                self.arena.free(id);
            }
            Step::Extent(small, used) => {
                let free = self.arena.segment_count() - self.arena.in_use();
                let id = self.arena.take_extent(log_of(small), used);
                assert_eq!(id.is_some(), free > 0);
                if let Some(id) = id {
                    assert_eq!(self.records.range(self.arena.range(id)).count(), 0, "an extent over live records");
                    assert!(self.extents.insert(id, (used, log_of(small))).is_none(), "an extent twice");
                    self.bytes += used;
                }
            }
            Step::ResizeExtent(n, used) => {
                let Some(id) = self.nth_extent(n) else { return };
                self.arena.resize_extent(id, used);
                let before = std::mem::replace(&mut self.extents.get_mut(&id).expect("there").0, used);
                self.bytes = self.bytes - before + used;
            }
            Step::MoveExtent(n, small) => {
                let Some(id) = self.nth_extent(n) else { return };
                self.arena.move_extent(id, log_of(small));
                self.extents.get_mut(&id).expect("there").1 = log_of(small);
            }
            Step::FreeExtent(n) => {
                let Some(id) = self.nth_extent(n) else { return };
                self.arena.free(id);
                self.bytes -= self.extents.remove(&id).expect("there").0;
            }
            Step::Release => {
                let before = self.arena.resident();
                let released = self.arena.release_one();
                assert_eq!(self.arena.resident(), before - usize::from(released));
            }
            Step::Grow(bytes) => {
                let before = self.arena.segment_count();
                self.arena.grow(bytes).expect("addresses were set aside");
                let wanted = (bytes >> shift) as usize;
                assert_eq!(self.arena.segment_count(), before.max(wanted));
            }
            Step::Clear => {
                self.arena.clear();
                (self.records, self.extents, self.bytes) = Default::default();
                assert_eq!(self.arena.in_use(), 0);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.arena.live_bytes(), self.bytes as u64);
        assert_eq!(self.arena.extent_count(), self.extents.len());
        assert!(self.arena.in_use() <= self.arena.resident() && self.arena.resident() <= self.arena.segment_count());
        let of_logs: usize = Log::ALL.into_iter().map(|log| self.arena.segments_of(log)).sum();
        assert_eq!(of_logs, self.arena.in_use(), "each segment in use is of one log");
        let shift = self.arena.segment_shift();
        let mut holding: Vec<usize> = self.records.keys().map(|at| at >> shift).collect();
        holding.dedup();
        // Beside those that hold something alive only those that are open.
        let open = self.arena.open_segments().count();
        let least = holding.len() + self.extents.len();
        assert!((least..=least + open).contains(&self.arena.in_use()), "a segment is lost");
        for &at in self.records.keys() {
            assert!(self.arena.may_hold(Loc::at(at)));
        }
    }

    fn walk(&self) {
        let mut left = self.records.clone();
        self.arena.walk(|loc, head| {
            let at = loc.offset();
            let (size, log, fill) = left.remove(&at).expect("only what was appended is found");
            assert_eq!((head.record_bytes(self.arena.segment_shift()), self.arena.log_of(loc)), (size, log));
            assert!(self.arena.bytes()[at + 8..at + size].iter().all(|&byte| byte == fill) && size >= HEADER_BYTES);
        });
        assert!(left.is_empty(), "live records that the walk did not find");
    }
}

proptest! {
    #![proptest_config(cases(200, 2000))]

    #[test]
    fn the_arena_holds_what_a_map_of_places_holds(steps in proptest::collection::vec(step(), 1..400)) {
        let arena = Arena::new(BUDGET_BYTES, BUDGET_BYTES * 2, false).expect("mapped");
        let mut twin = Twin { arena, records: BTreeMap::new(), extents: BTreeMap::new(), bytes: 0, written: 0 };
        for (n, step) in steps.iter().enumerate() {
            twin.step(step);
            twin.check();
            if n % 16 == 0 {
                twin.walk();
            }
        }
        twin.walk();
    }
}
