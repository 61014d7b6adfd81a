//! Client flags, versions that are compared, and counting without a sign.
//!
//! Goal: every write of a key that RESP does not know of says what came of it, and no operation of RESP but a whole
//! new value loses what a client keeps beside its own. Method: one sink that keeps all that a value tells.

use super::*;
use crate::command::{Ask, Claim, Count, Lease, Leased, Outcome, Remove, ReplySink, Store, StoreMode, Value};

const NOW: u64 = 1_700_000_000_000;

/// All that an operation tells.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    value: Option<Vec<u8>>,
    version: u64,
    flags: u32,
    was_read: bool,
    expires_at: Option<u64>,
    accessed_at: Option<u32>,
    outcome: Option<Outcome>,
    error: Option<OpError>,
}

impl ReplySink for Told {
    fn value(&mut self, value: &Value<'_>) {
        let mut bytes = Vec::new();
        value.payload.append_to(&mut bytes);
        self.value = Some(bytes);
        (self.version, self.flags) = (value.version, value.flags);
        (self.was_read, self.expires_at) = (value.was_read, value.expires_at);
        self.accessed_at = value.accessed_at;
    }
    fn leased(&mut self, leased: &Leased<'_>) {
        leased.value.into_iter().for_each(|value| self.value(value));
    }
    fn outcome(&mut self, outcome: Outcome) {
        assert!(self.outcome.replace(outcome).is_none(), "one operation, one answer");
    }
    fn refused(&mut self, error: OpError) {
        self.error = Some(error);
    }
    fn status(&mut self, _: &str) {}
    fn integer(&mut self, _: i64) {}
    fn bulk(&mut self, _: &[u8]) {}
    fn null(&mut self) {}
    fn array(&mut self, _: usize) {}
    fn map(&mut self, _: usize) {}
    fn error(&mut self, _: impl AsRef<[u8]>) {}
}

const STORE: Store<'_> = Store { flags: 7, ..Store::new(StoreMode::Set, Expiry::Never) };
const UP: Count = Count { delta: 1, down: false, initial: None, expiry: Expiry::Keep, compare: None, version: 0 };

fn tell(shard: &mut Shard, key: &[u8], op: Op<'_>, now: u64) -> Told {
    let mut told = Told::default();
    shard.execute(at(key), key, &op, UnixMillis(now), &mut told);
    told
}

fn peek(shard: &mut Shard, key: &[u8]) -> Told {
    tell(shard, key, Op::Fetch { expiry: Expiry::Keep, bump: false, ask: None }, NOW)
}

fn store(shard: &mut Shard, key: &[u8], value: &[u8], mode: StoreMode) -> Outcome {
    tell(shard, key, Op::Store(Store { value, mode, ..STORE }), NOW).outcome.expect("an outcome")
}

fn count(shard: &mut Shard, key: &[u8], count: Count) -> Told {
    tell(shard, key, Op::Count(count), NOW)
}

fn roomy() -> Shard {
    shard(8 << 20, Policy::Clock)
}

fn is_new(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Done { created: true, .. })
}

#[test]
fn modes_decide_whether_and_how_a_value_is_stored() {
    let mut s = roomy();
    for mode in [StoreMode::Replace, StoreMode::Append, StoreMode::Prepend] {
        assert_eq!(store(&mut s, b"k", b"x", mode), Outcome::NotStored, "{mode:?}");
    }
    assert!(is_new(store(&mut s, b"k", b"b", StoreMode::Add)));
    assert_eq!(store(&mut s, b"k", b"x", StoreMode::Add), Outcome::NotStored);
    assert!(!is_new(store(&mut s, b"k", b"c", StoreMode::Append)));
    assert!(!is_new(store(&mut s, b"k", b"a", StoreMode::Prepend)));
    assert_eq!(peek(&mut s, b"k").value.as_deref(), Some(&b"abc"[..]));
    assert!(!is_new(store(&mut s, b"k", b"new", StoreMode::Replace)));
    assert!(!is_new(store(&mut s, b"k", b"newer", StoreMode::Set)));
    assert_eq!(peek(&mut s, b"k").value.as_deref(), Some(&b"newer"[..]));
    let create = Store { value: b"made", mode: StoreMode::Append, create: true, expiry: Expiry::In(5000), ..STORE };
    assert!(is_new(tell(&mut s, b"made", Op::Store(create), NOW).outcome.unwrap()));
    assert_eq!((peek(&mut s, b"made").flags, peek(&mut s, b"made").expires_at), (7, Some(NOW + 5000)));
    s.check();
}

#[test]
fn large_values_are_extended_up_to_the_limit() {
    let mut s = shard(256 << 20, Policy::Clock);
    let most = 64 << 20;
    let large = value_of(1, most - 4);
    store(&mut s, b"k", &large, StoreMode::Set);
    store(&mut s, b"k", b"head", StoreMode::Prepend);
    let whole = peek(&mut s, b"k").value.unwrap();
    assert!(whole.len() == most && whole.starts_with(b"head") && whole[4..] == large);
    for mode in [StoreMode::Prepend, StoreMode::Append] {
        let told = tell(&mut s, b"k", Op::Store(Store { value: b"x", mode, ..STORE }), NOW);
        assert_eq!((told.outcome, told.error), (None, Some(OpError::TooLarge)), "{mode:?}");
    }
    assert_eq!(peek(&mut s, b"k").flags, 7);
    s.check();
}

#[test]
fn a_version_that_differs_changes_nothing() {
    let mut s = roomy();
    let Outcome::Done { version, .. } = store(&mut s, b"k", b"1", StoreMode::Set) else { panic!("it was stored") };
    assert_eq!(peek(&mut s, b"k").version, version);
    let (right, wrong) = (Some(version), Some(version + 1));
    let differs = Some(Outcome::Differs { version });
    let with = |compare| Op::Store(Store { value: b"2", compare, ..STORE });
    assert_eq!(tell(&mut s, b"k", with(wrong), NOW).outcome, differs);
    assert_eq!(tell(&mut s, b"k", Op::Remove(Remove { compare: wrong, ..Remove::default() }), NOW).outcome, differs);
    assert_eq!(count(&mut s, b"k", Count { compare: wrong, ..UP }).outcome, differs);
    assert_eq!((peek(&mut s, b"k").value, peek(&mut s, b"k").version), (Some(b"1".to_vec()), version));
    let Some(Outcome::Counted { number: 2, version: second, .. }) =
        count(&mut s, b"k", Count { compare: right, ..UP }).outcome
    else {
        panic!("it was counted")
    };
    assert!(second > version, "a write gives a new version");
    assert_eq!(tell(&mut s, b"k", with(right), NOW).outcome, Some(Outcome::Differs { version: second }));
    let Some(Outcome::Done { version: third, created: false }) = tell(&mut s, b"k", with(Some(second)), NOW).outcome
    else {
        panic!("it was stored")
    };
    let removed = tell(&mut s, b"k", Op::Remove(Remove { compare: Some(third), ..Remove::default() }), NOW).outcome;
    assert_eq!(removed, Some(Outcome::Done { version: 0, created: false }));
    for op in [
        with(right),
        Op::Remove(Remove { compare: right, ..Remove::default() }),
        Op::Remove(Remove::default()),
        Op::Count(UP),
    ] {
        assert_eq!(tell(&mut s, b"k", op, NOW).outcome, Some(Outcome::NotFound), "{op:?}");
    }
    s.check();
}

#[test]
fn reading_and_touching_give_no_new_version() {
    let mut s = roomy();
    store(&mut s, b"k", b"1", StoreMode::Set);
    let version = peek(&mut s, b"k").version;
    run(&mut s, b"k", Op::Get, NOW);
    for expiry in [Expiry::In(9000), Expiry::Keep, Expiry::Never] {
        assert_eq!(tell(&mut s, b"k", Op::Fetch { expiry, bump: true, ask: None }, NOW).version, version, "{expiry:?}");
    }
    assert_eq!(peek(&mut s, b"k").version, version);
    s.check();
}

#[test]
fn numbers_have_64_bits_and_no_sign() {
    let mut s = roomy();
    let number = |told: Told| match told.outcome {
        Some(Outcome::Counted { number, .. }) => number,
        other => panic!("{other:?}, {:?}", told.error),
    };
    store(&mut s, b"n", b"18446744073709551615", StoreMode::Set);
    assert_eq!(number(count(&mut s, b"n", UP)), 0, "beyond the largest it begins again");
    assert_eq!(number(count(&mut s, b"n", Count { delta: 5, ..UP })), 5);
    assert_eq!(number(count(&mut s, b"n", Count { delta: 9, down: true, ..UP })), 0, "below 0 it stays there");
    assert_eq!((peek(&mut s, b"n").value, peek(&mut s, b"n").flags), (Some(b"0".to_vec()), 7), "the flags stay");
    for text in ["", "abc", "-1", "1.5", "18446744073709551616", " 1", "0x1"] {
        store(&mut s, b"n", text.as_bytes(), StoreMode::Set);
        assert_eq!(count(&mut s, b"n", UP).error, Some(OpError::NotAnInteger), "{text:?}");
    }
    store(&mut s, b"n", b"12 ", StoreMode::Set);
    assert_eq!(number(count(&mut s, b"n", UP)), 13, "memcached pads a number that became shorter");
    let made = Count { initial: Some((40, Expiry::In(7000))), expiry: Expiry::In(1), ..UP };
    let told = count(&mut s, b"made", made);
    assert_eq!(
        told.outcome
            .map(|o| matches!(o, Outcome::Counted { number: 40, expires_at: Some(at), .. } if at == NOW + 7000)),
        Some(true)
    );
    assert_eq!(number(count(&mut s, b"made", UP)), 41);
    assert_eq!(peek(&mut s, b"made").expires_at, Some(NOW + 7000), "the deadline stays if nothing is said");
    count(&mut s, b"made", Count { expiry: Expiry::In(9000), ..UP });
    assert_eq!(peek(&mut s, b"made").expires_at, Some(NOW + 9000));
    s.check();
}

#[test]
fn a_key_whose_time_has_passed_is_stored_and_gone() {
    let mut s = roomy();
    store(&mut s, b"k", b"1", StoreMode::Set);
    for expiry in [Expiry::In(0), Expiry::In(-1), Expiry::At(5), Expiry::At(-5)] {
        store(&mut s, b"k", b"1", StoreMode::Set);
        let told = tell(&mut s, b"k", Op::Store(Store { value: b"2", expiry, ..STORE }), NOW);
        assert!(matches!(told.outcome, Some(Outcome::Done { .. })), "{expiry:?}");
        assert_eq!(peek(&mut s, b"k").value, None, "{expiry:?}");
        store(&mut s, b"k", b"1", StoreMode::Set);
        let told = tell(&mut s, b"k", Op::Fetch { expiry, bump: true, ask: None }, NOW);
        assert_eq!(told.value.as_deref(), Some(&b"1"[..]), "it is answered once more");
        assert_eq!(peek(&mut s, b"k").value, None, "{expiry:?}");
        store(&mut s, b"k", b"1", StoreMode::Set);
        assert!(matches!(
            count(&mut s, b"k", Count { expiry, ..UP }).outcome,
            Some(Outcome::Counted { number: 2, .. })
        ));
        assert_eq!(peek(&mut s, b"k").value, None, "{expiry:?}");
    }
    s.check();
}

#[test]
fn only_a_whole_new_value_of_resp_clears_client_flags() {
    let mut s = roomy();
    store(&mut s, b"k", b"1", StoreMode::Set);
    for op in [
        Op::Append { tail: b"2" },
        Op::IncrBy { delta: 1 },
        Op::Expire { expiry: Expiry::In(5000), condition: ExpireCondition::default() },
        Op::GetEx { expiry: Ok(Expiry::In(9000)) },
        Op::GetEx { expiry: Ok(Expiry::Never) },
        Op::Expire { expiry: Expiry::In(5000), condition: ExpireCondition::default() },
        Op::Persist,
        Op::Get,
        Op::Fetch { expiry: Expiry::In(5000), bump: true, ask: None },
        Op::Fetch { expiry: Expiry::Never, bump: false, ask: None },
    ] {
        run_any(&mut s, b"k", op);
        assert_eq!(peek(&mut s, b"k").flags, 7, "{op:?}");
    }
    assert_eq!(peek(&mut s, b"k").value.as_deref(), Some(&b"13"[..]));
    store(&mut s, b"k", b"x", StoreMode::Append);
    store(&mut s, b"k", b"x", StoreMode::Prepend);
    assert_eq!(peek(&mut s, b"k").flags, 7);
    run_any(&mut s, b"k", set_op(b"2", Expiry::Keep));
    assert_eq!(peek(&mut s, b"k").flags, 0, "SET knows of no flags");
    tell(&mut s, b"k", Op::Store(Store { value: b"3", flags: u32::MAX, ..STORE }), NOW);
    assert_eq!(peek(&mut s, b"k").flags, u32::MAX);
    tell(&mut s, b"k", Op::Store(Store { value: b"3", flags: 0, ..STORE }), NOW);
    assert_eq!(peek(&mut s, b"k").flags, 0);
    s.check();
}

fn run_any(shard: &mut Shard, key: &[u8], op: Op<'_>) {
    shard.execute(at(key), key, &op, UnixMillis(NOW), &mut Told::default());
}

#[test]
fn a_read_is_told_to_the_next_reader_only() {
    let mut s = roomy();
    store(&mut s, b"k", b"1", StoreMode::Set);
    assert!(!peek(&mut s, b"k").was_read);
    let fetch = Op::Fetch { expiry: Expiry::Keep, bump: true, ask: None };
    assert!(!tell(&mut s, b"k", fetch, NOW).was_read, "the state before this read");
    assert!(tell(&mut s, b"k", fetch, NOW).was_read);
    assert!(peek(&mut s, b"k").was_read);
}

#[test]
fn flags_and_versions_survive_being_written_again_by_the_hand() {
    for policy in [Policy::Clock, Policy::S3Fifo] {
        let mut s = shard(2 << 20, policy);
        let key = |i: u32| format!("kept{i}").into_bytes();
        for i in 0..100u32 {
            let value = value_of(i.into(), 50 + i as usize);
            tell(&mut s, &key(i), Op::Store(Store { value: &value, flags: i, ..STORE }), NOW);
        }
        let versions: Vec<u64> = (0..100).map(|i| peek(&mut s, &key(i)).version).collect();
        for i in 0..40_000u32 {
            run(&mut s, &key(i % 100), Op::Get, NOW);
            store(&mut s, format!("new{i}").as_bytes(), &value_of(7, 200), StoreMode::Set);
        }
        settle(&mut s, NOW);
        assert!(s.memory().hand.reinserted > 0, "{policy:?}: the hand wrote nothing again");
        let mut kept = 0;
        for i in 0..100u32 {
            let told = peek(&mut s, &key(i));
            let Some(value) = told.value else { continue };
            kept += 1;
            assert_eq!((value, told.flags), (value_of(i.into(), 50 + i as usize), i), "{policy:?}: key {i}");
            assert_eq!(told.version, versions[i as usize], "{policy:?}: key {i}");
        }
        assert!(kept > 50, "{policy:?}: {kept} keys that are always read were kept");
        s.check();
    }
}

/// Of an earlier process a client may remember any version: none is given again.
#[test]
fn versions_begin_where_those_of_an_earlier_process_cannot_be() {
    let mut shard = shard(1 << 20, Policy::Clock);
    shard.begin_versions(UnixMillis(NOW));
    let version = |shard: &mut Shard| {
        set(shard, b"k", b"v", Expiry::Never, NOW);
        peek(shard, b"k").version
    };
    let first = version(&mut shard);
    assert!(first > (NOW - 1) << 11 && first < 1 << 53, "{first}");
    assert_eq!(version(&mut shard), first + 1);
    shard.flush();
    assert_eq!(version(&mut shard), first + 2);
}

/// A value that is marked stale while the clock shows 1970 is stale too: found by arbitrary bytes.
#[test]
fn a_value_is_marked_stale_at_any_time() {
    let mut s = roomy();
    tell(&mut s, b"k", Op::Store(Store { value: b"v", ..STORE }), 0);
    tell(&mut s, b"k", Op::Remove(Remove { stale: Some(Expiry::Keep), ..Remove::default() }), 0);
    let ask = Some(Ask { claim: Claim::Stale, ..Ask::NOTHING });
    let answer = run(&mut s, b"k", Op::Fetch { expiry: Expiry::Keep, bump: false, ask }, 1);
    assert!(matches!(answer, super::Answer::Leased(_, true, Lease::Granted { .. })), "{answer:?}");
}

/// One below those that the server gives, as a row of a database has it, one above them, and the largest.
#[test]
fn a_version_of_the_clients_own_stays_until_the_next_write() {
    for own in [1, 1 << 62, u64::MAX] {
        let mut s = roomy();
        s.begin_versions(UnixMillis(NOW));
        let given = |s: &mut Shard, mode, compare| {
            let write = Store { value: b"12", mode, compare, version: own, ..STORE };
            tell(s, b"k", Op::Store(write), NOW).outcome
        };
        let done = |created| Some(Outcome::Done { version: own, created });
        assert_eq!(given(&mut s, StoreMode::Set, None), done(true));
        assert_eq!((peek(&mut s, b"k").version, peek(&mut s, b"k").flags), (own, 7));
        // What changes no value changes no version, wherever the record goes for it.
        for deadline in [NOW + 1000, NOW + (1 << 40)] {
            run(
                &mut s,
                b"k",
                Op::Expire { expiry: Expiry::At(deadline as i64), condition: ExpireCondition::default() },
                NOW,
            );
            assert_eq!((peek(&mut s, b"k").version, peek(&mut s, b"k").expires_at), (own, Some(deadline)));
        }
        run(&mut s, b"k", Op::Persist, NOW);
        for n in 0..200_000 {
            set(&mut s, format!("n{n}").as_bytes(), &[1; 64], Expiry::Never, NOW);
            run(&mut s, b"k", Op::Get, NOW);
        }
        assert!(s.stats().reinserted > 0, "the hand came by");
        assert_eq!(peek(&mut s, b"k").version, own);
        assert_eq!(given(&mut s, StoreMode::Set, Some(own ^ 1)), Some(Outcome::Differs { version: own }));
        assert_eq!(given(&mut s, StoreMode::Append, Some(own)), done(false));
        assert_eq!(given(&mut s, StoreMode::Prepend, Some(own)), done(false));
        let counted = count(&mut s, b"k", Count { version: own, compare: Some(own), ..UP }).outcome;
        assert_eq!(counted, Some(Outcome::Counted { number: 121_213, version: own, expires_at: None }));
        let stale = Remove { stale: Some(Expiry::Keep), version: own, compare: Some(own), ..Remove::default() };
        assert_eq!(tell(&mut s, b"k", Op::Remove(stale), NOW).outcome, done(false));
        assert_eq!((peek(&mut s, b"k").version, peek(&mut s, b"k").value), (own, Some(b"121213".to_vec())));
        s.check();
        // Every other write is numbered by the server.
        let mut last = s.index.version(at(b"k").slot);
        for write in [
            Op::Append { tail: b"4" },
            Op::IncrBy { delta: 1 },
            Op::Store(Store { value: b"9", mode: StoreMode::Append, ..STORE }),
            Op::Store(Store { value: b"121213", ..STORE }),
        ] {
            assert_eq!(given(&mut s, StoreMode::Set, None), done(false));
            tell(&mut s, b"k", write, NOW);
            let version = peek(&mut s, b"k").version;
            assert!(version > last && version != own, "{write:?} leaves {version}");
            last = version;
        }
        s.check();
    }
}

/// With `mg key N60 E5`: the one that fills says `C5`.
#[test]
fn a_lease_on_a_missing_value_takes_the_clients_token() {
    let mut s = roomy();
    let ask = Some(Ask { claim: Claim::Missing, version: 5, ..Ask::NOTHING });
    let fetch = Op::Fetch { expiry: Expiry::Keep, bump: true, ask };
    let answer = run(&mut s, b"k", fetch, NOW);
    assert!(matches!(answer, super::Answer::Leased(_, false, Lease::Granted { token: 5, .. })), "{answer:?}");
    assert!(matches!(run(&mut s, b"k", fetch, NOW), super::Answer::Leased(_, false, Lease::Held { .. })));
    let fill = |compare| Op::Store(Store { value: b"v", compare: Some(compare), ..STORE });
    assert_eq!(tell(&mut s, b"k", fill(6), NOW).outcome, Some(Outcome::NotFound));
    assert!(matches!(tell(&mut s, b"k", fill(5), NOW).outcome, Some(Outcome::Done { created: true, .. })));
}

/// Found by arbitrary operations: a lease whose number a client had chosen for the value ran out, and the late fill was stored. It
/// named the value that is there.
#[test]
fn a_fill_that_names_the_version_of_the_value_is_stored_though_its_lease_is_over() {
    let mut s = roomy();
    tell(&mut s, b"k", Op::Store(Store { value: b"old", version: 2, soft_ms: 1, ..STORE }), NOW);
    let ask = Some(Ask { claim: Claim::Stale, term_ms: 10, ..Ask::NOTHING });
    let answer = run(&mut s, b"k", Op::Fetch { expiry: Expiry::Keep, bump: true, ask }, NOW + 1);
    assert!(matches!(answer, super::Answer::Leased(_, true, Lease::Granted { token: 2, .. })), "{answer:?}");
    let fill = Op::Store(Store { value: b"new", compare: Some(2), ..STORE });
    assert!(matches!(tell(&mut s, b"k", fill, NOW + 100).outcome, Some(Outcome::Done { created: false, .. })));
    assert!(matches!(tell(&mut s, b"k", fill, NOW + 100).outcome, Some(Outcome::Differs { .. })), "it has another now");
}

/// In seconds, of the time before the read that tells it, and through whatever moves the record.
#[test]
fn the_time_of_the_last_access_is_kept_where_that_is_wanted() {
    let ask = Some(Ask::NOTHING);
    let read = |s: &mut Shard, bump, now| {
        tell(s, b"k", Op::Fetch { expiry: Expiry::Keep, bump, ask }, now).accessed_at.map(|at| u64::from(at) * 1000)
    };
    let mut s = roomy();
    set(&mut s, b"k", b"v", Expiry::Never, NOW);
    assert_eq!(read(&mut s, true, NOW), None, "nobody wants it");

    let mut s = roomy();
    s.keep_access_times();
    let second = |n: u64| NOW + 1000 * n;
    set(&mut s, b"k", b"v", Expiry::Never, NOW);
    assert_eq!(read(&mut s, true, second(3)), Some(NOW));
    assert_eq!(read(&mut s, false, second(5)), Some(second(3)));
    assert_eq!(read(&mut s, true, second(7)), Some(second(3)), "a look without a bump is none");
    run(&mut s, b"k", Op::Get, second(8) + 999);
    assert_eq!(read(&mut s, false, second(9)), Some(second(8)));
    run(&mut s, b"k", Op::Exists, second(9));
    run(&mut s, b"k", Op::Expire { expiry: Expiry::In(1 << 40), condition: ExpireCondition::default() }, second(9));
    assert_eq!(read(&mut s, false, second(9)), Some(second(8)), "neither a read nor a write");
    for (n, write) in [
        (10, Op::Append { tail: b"4" }),
        (11, Op::Append { tail: &[b'5'; 100] }),
        (12, Op::Store(Store { value: b"7", version: 9, ..STORE })),
        (13, Op::IncrBy { delta: 1 }),
        (14, Op::Count(UP)),
        (15, Op::Remove(Remove { stale: Some(Expiry::Keep), ..Remove::default() })),
        (16, Op::GetEx { expiry: Ok(Expiry::Never) }),
    ] {
        tell(&mut s, b"k", write, second(n));
        assert_eq!(read(&mut s, false, second(20)), Some(second(n)), "{write:?}");
    }
    s.check();
    for n in 0..200_000 {
        set(&mut s, format!("n{n}").as_bytes(), &[1; 64], Expiry::Never, NOW);
        run(&mut s, b"k", Op::Get, second(100));
    }
    assert!(s.stats().reinserted > 0, "the hand came by");
    assert_eq!(read(&mut s, true, second(90)), Some(second(100)), "the clock may be set back");
    assert_eq!(read(&mut s, true, second(110)), Some(second(90)));
    s.check();
}

/// Of values in extents, which grow into more of them, where records say when they were last read.
#[test]
fn large_values_keep_a_version_of_the_clients_own() {
    let mut s = shard(64 << 20, Policy::Clock);
    s.keep_access_times();
    let segment = s.memory().segment_bytes as usize;
    let mut expected = Vec::new();
    for (n, mode) in [StoreMode::Set, StoreMode::Append, StoreMode::Prepend, StoreMode::Append].into_iter().enumerate()
    {
        let (own, part) = (100 + n as u64, vec![n as u8 + 1; segment * 3 / 4 + n]);
        let write = Store { value: &part, mode, version: own, ..STORE };
        let outcome = tell(&mut s, b"k", Op::Store(write), NOW).outcome;
        assert_eq!(outcome, Some(Outcome::Done { version: own, created: n == 0 }));
        let at = if mode == StoreMode::Prepend { 0 } else { expected.len() };
        expected.splice(at..at, part);
        let told = peek(&mut s, b"k");
        assert_eq!((told.version, told.flags, told.accessed_at), (own, 7, Some((NOW / 1000) as u32)));
        assert!(told.value.as_ref() == Some(&expected), "{} bytes", expected.len());
        s.check();
    }
    run(&mut s, b"k", Op::Append { tail: &vec![9; segment] }, NOW + 5000);
    expected.extend(vec![9; segment]);
    let told = peek(&mut s, b"k");
    assert!(told.version != 103 && told.value == Some(expected), "numbered by the server again");
    assert_eq!(told.accessed_at, Some((NOW / 1000) as u32 + 5));
    s.check();
}
