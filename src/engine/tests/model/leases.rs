//! Leases and stale values, beside the model.

use super::*;
use crate::command::{Ask, Lease, Outcome, Remove};

pub(super) fn claim() -> impl Strategy<Value = Claim> {
    prop_oneof![1 => Just(Claim::Nothing), 2 => Just(Claim::Stale), 4 => Just(Claim::Missing)]
}

impl Twin {
    pub(super) fn ask(&mut self, key: &[u8], claim: Claim, renew_below_ms: u64, term_ms: u32) {
        let entry = self.reconcile(key);
        let ask = Some(Ask { claim, renew_below_ms, term_ms, ..Ask::NOTHING });
        let answer = run(&mut self.shard, key, Op::Fetch { expiry: Expiry::Keep, bump: true, ask }, self.now);
        let Answer::Leased(inner, is_stale, lease) = answer else { panic!("an ask answered {answer:?}") };
        assert_eq!(*inner == Answer::Null, entry.is_none());
        self.expect_value(&inner, entry.as_ref());
        assert_eq!(is_stale, entry.as_ref().is_some_and(|e| e.soft.is_some_and(|soft| soft <= self.now)));
        let ends_soon = |deadline: u64| deadline - self.now < renew_below_ms;
        let is_due = match &entry {
            None => claim == Claim::Missing,
            Some(entry) => claim != Claim::Nothing && (is_stale || entry.deadline.is_some_and(ends_soon)),
        };
        let held = self.leases.get(key).copied().filter(|&(_, until)| until >= self.now);
        match (lease, held) {
            (Lease::Held { until }, Some((_, held))) => assert_eq!(until, held),
            // What ran out before the clock was set back may be gone or not.
            (lease, Some((_, held))) if held >= self.latest => panic!("{lease:?} while another's lasts until {held}"),
            (Lease::Held { .. }, None) => panic!("nobody has it"),
            (Lease::Granted { token, until }, _) => {
                assert!(is_due);
                assert_eq!((token, until), (self.next_version(key), self.now + u64::from(term_ms)));
                self.leases.insert(key.to_vec(), (token, until));
            }
            (Lease::None, _) => assert!(!is_due, "nobody fills"),
        }
    }

    /// The value stays, stale from now on, with its bytes or without.
    pub(super) fn make_stale(&mut self, key: &[u8], asked: Asked, empty: bool) {
        let old = self.reconcile(key);
        let (compare, refusal) = self.compare(key, asked, old.as_ref());
        let remove = Remove { compare, stale: Some(Expiry::Keep), empty, version: 0 };
        let answer = run(&mut self.shard, key, Op::Remove(remove), self.now);
        match (refusal, old, answer) {
            (_, _, Answer::Refused(OpError::OutOfMemory)) => {}
            (Some(refusal), _, answer) => assert_eq!(answer, Answer::Outcome(refusal)),
            (None, None, answer) => {
                assert_eq!(answer, Answer::Outcome(Outcome::NotFound));
                self.leases.remove(key);
            }
            (None, Some(old), answer) => {
                let version = self.next_version(key);
                assert_eq!(answer, Answer::Outcome(Outcome::Done { version, created: false }));
                self.leases.remove(key);
                let (value, flags) = if empty { (Vec::new(), 0) } else { (old.value, old.flags) };
                let soft = Some(self.now);
                self.model.insert(key.to_vec(), Entry { value, version, flags, soft, ..old });
            }
        }
    }
}
