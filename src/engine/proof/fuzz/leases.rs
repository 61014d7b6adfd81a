//! Client flags, soft deadlines and leases, as arbitrary bytes ask for them.

use super::*;
use crate::command::{Ask, Claim, Lease, Outcome, Remove, Store, StoreMode};

/// Versions that clients give: none, and some.
const OWN_VERSIONS: [u64; 4] = [0, 0, 3, 1 << 62];

impl Twin {
    /// One of the operations that other protocols than RESP have, or that are about leases.
    pub(super) fn step_of_lease(&mut self, n: u16, kind: u8, source: &mut Source<'_>) {
        match kind {
            32..35 => self.store_flagged(n, None, source),
            35 | 36 => {
                // The token of the key's lease, if it has one, or a number that none has.
                let token = self.leases.get(&n).map_or(u64::MAX, |&(token, _)| token);
                self.store_flagged(n, Some(token), source);
            }
            37 | 38 => self.ask(n, source),
            _ => self.make_stale(n, source.byte() < 128),
        }
    }

    /// Whether a lease of the key is out, as far as that is certain: one that ran out before the clock was set back may be
    /// gone or not.
    fn held(&self, n: u16) -> Option<(u64, u64)> {
        self.leases.get(&n).copied().filter(|&(_, until)| until >= self.now)
    }

    fn store_flagged(&mut self, n: u16, compare: Option<u64>, source: &mut Source<'_>) {
        let old = self.entry(n);
        let mode = [StoreMode::Set, StoreMode::Set, StoreMode::Add, StoreMode::Replace][source.below(4) as usize];
        let (flags, soft_ms) = (u32::from(source.byte()) << 20, source.magnitude(40));
        let version = OWN_VERSIONS[source.below(4) as usize];
        let value = self.cut(source.length());
        let key = key_of(n);
        let store = Store { value: value.bytes(), flags, compare, soft_ms, version, ..Store::new(mode, Expiry::Never) };
        let answer = self.run(&key, Op::Store(store));
        let outcome = match answer {
            Answer::Outcome(outcome) => outcome,
            Answer::Refused(error) => return self.may_refuse(&key, value.bytes().len(), error),
            other => panic!("a write answered {other:?}"),
        };
        if compare.is_some() && !matches!(outcome, Outcome::Done { .. } | Outcome::NotStored) {
            let held = self.held(n).is_some_and(|(_, until)| until >= self.latest);
            assert!(!held, "a fill was refused although its lease is out");
            return assert_eq!(outcome == Outcome::NotFound, old.is_none());
        }
        // A version that a client chose may be the number of a lease: then it is the value that is compared.
        let is_version = compare.is_some() && old.as_ref().map(|entry| entry.own) == compare;
        assert!(compare.is_none() || is_version || self.held(n).is_some(), "a late fill was accepted");
        let wanted = match mode {
            StoreMode::Add => old.is_none(),
            StoreMode::Replace => old.is_some(),
            _ => true,
        };
        if !wanted {
            return assert_eq!(outcome, Outcome::NotStored);
        }
        let Outcome::Done { version: told, created } = outcome else { panic!("a write is {outcome:?}") };
        assert_eq!(created, old.is_none());
        assert!(version == 0 || told == version, "{told} is not the client's {version}");
        let soft = (soft_ms > 0).then(|| self.now.saturating_add(soft_ms));
        self.store(n, vec![value], None, (flags, soft));
        if let Some(entry) = self.model.get_mut(&n) {
            entry.own = version;
        }
    }

    fn ask(&mut self, n: u16, source: &mut Source<'_>) {
        let entry = self.entry(n);
        let claim = [Claim::Nothing, Claim::Stale, Claim::Missing, Claim::Missing][source.below(4) as usize];
        let (renew_below_ms, term_ms) = (source.magnitude(30), 1 + source.below(60_000) as u32);
        let ask = Some(Ask { claim, renew_below_ms, term_ms, ..Ask::NOTHING });
        let answer = self.run(&key_of(n), Op::Fetch { expiry: Expiry::Keep, bump: true, ask });
        let Answer::Leased(inner, is_stale, lease) = answer else { panic!("an ask answered {answer:?}") };
        self.expect_value(&inner, entry.as_ref());
        assert_eq!(is_stale, entry.as_ref().is_some_and(|entry| entry.soft.is_some_and(|soft| soft <= self.now)));
        let is_due = match &entry {
            None => claim == Claim::Missing,
            Some(entry) => {
                let ends_soon = entry.deadline.is_some_and(|deadline| deadline - self.now < renew_below_ms);
                claim != Claim::Nothing && (is_stale || ends_soon)
            }
        };
        match (lease, self.held(n)) {
            (Lease::Held { until }, held) => assert_eq!(Some(until), held.map(|(_, until)| until)),
            (_, Some((_, until))) if until >= self.latest => panic!("{lease:?} while another's lasts"),
            (Lease::None, _) => assert!(!is_due, "nobody is to fill"),
            (Lease::Granted { token, until }, _) => {
                assert!(is_due && until == self.now + u64::from(term_ms));
                assert_eq!(token, self.shard.index.version(Slot::of(&key_of(n))));
                self.leases.insert(n, (token, until));
            }
        }
    }

    fn make_stale(&mut self, n: u16, empty: bool) {
        let old = self.entry(n);
        let key = key_of(n);
        let answer = self.run(&key, Op::Remove(Remove { stale: Some(Expiry::Keep), empty, ..Remove::default() }));
        match (old, answer) {
            (None, answer) => {
                assert_eq!(answer, Answer::Outcome(Outcome::NotFound));
                self.leases.remove(&n);
            }
            (Some(old), Answer::Refused(error)) => self.may_refuse(&key, old.len(), error),
            (Some(old), answer) => {
                assert!(matches!(answer, Answer::Outcome(Outcome::Done { .. })), "{answer:?}");
                let (value, flags) = if empty { (Vec::new(), 0) } else { (old.value, old.flags) };
                self.store(n, value, old.deadline, (flags, Some(self.now.max(1))));
            }
        }
    }
}
