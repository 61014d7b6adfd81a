//! Deadlines in records: the width of the word, clocks that are set, and entries
//! of the wheel that follow them.

use super::arena::Log;
use super::item::{Form, Head, Loc};
use super::*;
use crate::base::rng::Rng;

const NOW: u64 = 1_700_000_000_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const YEAR_MS: u64 = 365 * DAY_MS;
/// The first deadline after a segment's base that is too far for the narrow word.
const TOO_FAR_MS: u64 = (1 << 30) - 1;

fn locate(s: &Shard, key: &[u8]) -> (Loc, Form) {
    let loc = s.index.find(at(key).slot, at(key).hash, key, s.arena.bytes()).expect("the key is there");
    (loc, Head::read(s.arena.bytes(), loc).form())
}

fn expire_at(s: &mut Shard, key: &[u8], deadline: u64, now: u64) {
    let (expiry, condition) = (Expiry::At(deadline as i64), ExpireCondition::default());
    assert_eq!(run(s, key, Op::Expire { expiry, condition }, now), Answer::Integer(1));
}

fn deadline(s: &mut Shard, key: &[u8], now: u64) -> i64 {
    match run(s, key, Op::Ttl(TtlUnit::UnixMillis), now) {
        Answer::Integer(n) => n,
        other => panic!("PEXPIRETIME answered {other:?}"),
    }
}

fn is_watched(s: &Shard) -> u64 {
    s.check();
    s.wheel.entries()
}

#[test]
fn a_deadline_takes_four_bytes_and_one_that_is_far_eight() {
    for (expiry, bytes) in [
        (Expiry::Never, 12),
        (Expiry::In(1), 16),
        (Expiry::In(TOO_FAR_MS as i64 - 1), 16),
        (Expiry::In(TOO_FAR_MS as i64), 20),
        (Expiry::At(i64::MAX), 20),
    ] {
        let mut s = shard(8 << 20, Policy::Clock);
        set(&mut s, b"four", b"four", expiry, NOW);
        assert_eq!(s.memory().live_bytes, 8 + bytes, "{expiry:?}");
        s.check();
    }
}

#[test]
fn words_are_widened_by_a_move_and_narrowed_by_the_hand() {
    let mut s = shard(8 << 20, Policy::Clock);
    set(&mut s, b"k", b"value", Expiry::In(1000), NOW);
    let first = locate(&s, b"k");
    assert_eq!(first.1, Form::Narrow);
    for when in [NOW + 1, NOW + TOO_FAR_MS - 1, NOW + 5] {
        expire_at(&mut s, b"k", when, NOW);
        assert_eq!((locate(&s, b"k"), deadline(&mut s, b"k", NOW)), (first, when as i64));
        s.check();
    }
    expire_at(&mut s, b"k", NOW + TOO_FAR_MS, NOW);
    let wide = locate(&s, b"k");
    assert!(wide.0 != first.0 && wide.1 == Form::Wide);
    for when in [NOW + TOO_FAR_MS, NOW + 500 * YEAR_MS, 1 << 60, i64::MAX as u64, NOW + 7] {
        expire_at(&mut s, b"k", when, NOW);
        assert_eq!((locate(&s, b"k"), deadline(&mut s, b"k", NOW)), (wide, when as i64));
        s.check();
    }
    assert_eq!(run(&mut s, b"k", Op::Persist, NOW), Answer::Integer(1));
    assert_eq!((locate(&s, b"k"), deadline(&mut s, b"k", NOW)), (wide, -1));
    expire_at(&mut s, b"k", NOW + HOUR_MS, NOW);
    assert_eq!((locate(&s, b"k"), get(&mut s, b"k", NOW)), (wide, Some(b"value".to_vec())));
    // A new value may use the room of the wider word, or leave it.
    assert_eq!(set(&mut s, b"k", b"values", Expiry::In(9), NOW), Answer::Status("OK".into()));
    assert_eq!((locate(&s, b"k"), deadline(&mut s, b"k", NOW)), (wide, NOW as i64 + 9));
    assert_eq!(set(&mut s, b"k", b"value + 4", Expiry::In(9), NOW), Answer::Status("OK".into()));
    assert_eq!((locate(&s, b"k"), deadline(&mut s, b"k", NOW)), ((wide.0, Form::Narrow), NOW as i64 + 9));
    assert_eq!(set(&mut s, b"k", b"value + 4 + 4", Expiry::Never, NOW), Answer::Status("OK".into()));
    assert_eq!((locate(&s, b"k"), deadline(&mut s, b"k", NOW)), ((wide.0, Form::Absent), -1));
    assert_eq!(get(&mut s, b"k", NOW), Some(b"value + 4 + 4".to_vec()));
    s.check();

    set(&mut s, b"w", b"v", Expiry::In(YEAR_MS as i64), NOW);
    expire_at(&mut s, b"w", NOW + DAY_MS, NOW);
    assert_eq!(locate(&s, b"w").1, Form::Wide);
    for n in 0..50_000u64 {
        set(&mut s, &n.to_le_bytes(), &[7; 200], Expiry::Never, NOW);
        get(&mut s, b"w", NOW);
    }
    assert!(s.stats().evicted > 0);
    assert_eq!((locate(&s, b"w").1, deadline(&mut s, b"w", NOW)), (Form::Narrow, (NOW + DAY_MS) as i64));
    s.check();
}

/// What an append writes again takes the width that its new place asks for.
#[test]
fn appends_keep_deadlines_across_bases() {
    let mut s = shard(8 << 20, Policy::Clock);
    set(&mut s, b"k", b"", Expiry::At((NOW + 5 * DAY_MS) as i64), NOW);
    let mut len = 0;
    for step in 0..400u64 {
        let now = [NOW, NOW + DAY_MS, NOW - 20 * DAY_MS, NOW - YEAR_MS][step as usize / 7 % 4];
        len += 13 + step % 400;
        let tail = vec![b'x'; 13 + step as usize % 400];
        assert_eq!(run(&mut s, b"k", Op::Append { tail: &tail }, now), Answer::Integer(len as i64));
        s.arena.open_next(Log::Main, UnixMillis(now)).expect("a segment is free");
        assert_eq!(deadline(&mut s, b"k", now), (NOW + 5 * DAY_MS) as i64);
        s.check();
    }
}

/// Whatever the clock shows while segments are opened, deadlines stay exact and
/// what is past is not answered. Keys are written, overwritten in place and given new
/// deadlines, in segments with bases of all the times before.
#[test]
fn clocks_that_are_set_change_no_deadline() {
    let spans = [10, HOUR_MS, 12 * DAY_MS, TOO_FAR_MS - 1, TOO_FAR_MS, 13 * DAY_MS, 400 * DAY_MS, 1 << 53];
    let jumps: [i64; 14] = [
        0,
        -1,
        -5000,
        -(30 * DAY_MS as i64),
        YEAR_MS as i64,
        -(2 * YEAR_MS as i64),
        11 * DAY_MS as i64,
        5,
        -(DAY_MS as i64),
        3 * YEAR_MS as i64,
        -(DAY_MS as i64 / 2),
        -(3 * YEAR_MS as i64),
        2 * DAY_MS as i64,
        40 * YEAR_MS as i64,
    ];
    let mut s = shard(64 << 20, Policy::Clock);
    let mut rng = Rng::new(5);
    let (mut now, mut latest) = (NOW, NOW);
    let mut expected = BTreeMap::<Vec<u8>, u64>::new();
    for (round, jump) in jumps.into_iter().enumerate() {
        now = now.checked_add_signed(jump).expect("after 1970");
        latest = latest.max(now);
        for n in 0..900 {
            let key = if n % 3 == 0 { format!("{round}:{n}") } else { format!("all:{n}") }.into_bytes();
            let when = now + spans[rng.below(spans.len() as u64) as usize];
            if n % 3 == 1 && expected.get(&key).is_some_and(|&d| d >= latest) {
                expire_at(&mut s, &key, when, now);
            } else {
                set(&mut s, &key, &[1; 700], Expiry::At(when as i64), now);
            }
            expected.insert(key, when);
        }
        s.check();
        if round % 3 == 2 {
            settle(&mut s, now);
            s.check();
        }
        for (key, &when) in &expected {
            match deadline(&mut s, key, now) {
                -2 => assert!(when < latest, "{when} is not past at {now}"),
                other => assert!(other == when as i64 && when >= now),
            }
        }
        expected.retain(|_, &mut when| when >= latest);
        s.check();
    }
    assert_eq!(s.stats().evicted, 0);
    now = latest + (1 << 50);
    settle(&mut s, now);
    s.check();
    assert_eq!(s.wheel.entries(), 0);
}

/// A sweep and a due bucket are left off in their middle, and deadlines move meanwhile.
#[test]
fn deadlines_that_move_while_entries_come_out_stay_watched() {
    let mut s = shard(64 << 20, Policy::Clock);
    let mut rng = Rng::new(11);
    let key = |n: u64| format!("key:{n}").into_bytes();
    let mut now = NOW;
    let mut latest = NOW;
    for round in 0..20_000u64 {
        let n = rng.below(12);
        let span = [1, 9, 30, 2500, 3000, 700_000, DAY_MS, 20 * DAY_MS, 600 * DAY_MS][rng.below(9) as usize];
        let (expiry, condition) = (Expiry::In((span + rng.below(20)) as i64), ExpireCondition::default());
        match rng.below(8) {
            0 => drop(set(&mut s, &key(n), &[1; 20], expiry, now)),
            1 => drop(run(&mut s, &key(n), Op::Persist, now)),
            2 => s.wheel.start_sweep(),
            3 => now += [1, 10, 35, 2560, 655_360, DAY_MS][rng.below(6) as usize],
            4 if round % 9 == 0 => now -= [1, 100, 5000, DAY_MS][rng.below(4) as usize],
            _ => drop(run(&mut s, &key(n), Op::Expire { expiry, condition }, now)),
        }
        s.advance(UnixMillis(now), rng.below(4) as usize);
        s.check();
        // What was past already when it was written waits for the next tick that is new.
        if now / 10 > latest / 10 && round % 5 == 0 {
            settle(&mut s, now);
            s.arena.walk(|loc, head| {
                let deadline = s.arena.expiry_word(loc, head).deadline;
                assert!(deadline.is_none_or(|deadline| deadline + 10 >= now), "{deadline:?} waits at {now}");
            });
        }
        latest = latest.max(now);
    }
}

/// The bound is that of `wheel_is_littered`, and what may come on top while a sweep
/// takes four entries a write: one entry a write, until all that are believed were met.
#[test]
fn entries_stay_in_proportion_however_deadlines_move() {
    const KEYS: u64 = 4000;
    let key = |n: u64| format!("key:{n:06}").into_bytes();
    let condition = ExpireCondition::default();
    let spans = |round: u64| match round % 6 {
        // To later and to earlier in turn, across every level.
        0 => [500_000, 100_000],
        1 => [20 * DAY_MS, 3000],
        2 => [600 * DAY_MS, 2 * DAY_MS],
        3 => [3_000_000, 2_999_000],
        4 => [100_000, 100_000 - 10],
        _ => [2 * HOUR_MS, 50_000],
    };
    for budget in [Shard::BUDGET_BYTES_MIN, 64 << 20] {
        let mut s = shard(budget, Policy::Clock);
        let floor = (64 << 10).min(s.arena.segment_bytes() as u64 / 8);
        let (mut most, mut now) = (0, NOW);
        (0..KEYS).for_each(|n| drop(set(&mut s, &key(n), b"value", Expiry::In(1000), now)));
        for step in 0..60 * KEYS {
            let n = step % KEYS;
            let pass = step / KEYS;
            if pass % 5 == 4 {
                run(&mut s, &key(n), Op::Persist, now);
            }
            let span = spans(pass / 10)[(pass % 2) as usize];
            let expiry = Expiry::In(span as i64);
            assert_eq!(run(&mut s, &key(n), Op::Expire { expiry, condition }, now), Answer::Integer(1));
            if pass >= 30 && step % 16 == 0 {
                now += 1;
                s.advance(UnixMillis(now), 10);
            }
            most = most.max(s.wheel.entries());
        }
        assert!(most > 2 * KEYS + floor, "{most} entries never asked for a sweep");
        assert!(most <= 2 * KEYS + floor + KEYS / 4 + 2, "{most} entries for {KEYS} keys, floor {floor}");
        assert_eq!((s.stats().evicted, s.keys_with_expiry()), (0, KEYS));
        s.check();
        // One whole sweep leaves one entry a key, and what is written meanwhile.
        s.wheel.start_sweep();
        while s.wheel.is_sweeping() {
            s.advance(UnixMillis(now), 100);
        }
        s.wheel.start_sweep();
        while s.wheel.is_sweeping() {
            s.advance(UnixMillis(now), 100);
        }
        assert_eq!(is_watched(&s), KEYS);
    }
}

/// A live record where a dead one was: the dead one's entry may be taken for its own, and
/// does no harm. Goal: the new record outlives the old one's deadline, and is removed at its own.
#[test]
fn an_entry_that_finds_another_record_does_not_remove_it() {
    for (first, second) in [(5000, 5000), (5000, 9000), (9000, 5000), (1000, 5_000_000), (HOUR_MS, HOUR_MS + 5)] {
        let mut s = shard(Shard::BUDGET_BYTES_MIN, Policy::Clock);
        set(&mut s, b"a", b"v", Expiry::In(first as i64), NOW);
        let (loc, _) = locate(&s, b"a");
        run(&mut s, b"a", Op::Del, NOW);
        let open = s.arena.open_segments().next().expect("the one just used");
        s.arena.seal(open);
        set(&mut s, b"b", b"w", Expiry::In(second as i64), NOW);
        assert_eq!(locate(&s, b"b").0, loc, "the segment freed last is used first");
        assert_eq!(is_watched(&s), 2);
        for ms in (0..=second).step_by(second as usize / 50) {
            settle(&mut s, NOW + ms);
            assert_eq!(get(&mut s, b"b", NOW + ms), Some(b"w".to_vec()));
            s.check();
        }
        settle(&mut s, NOW + second + 20);
        assert_eq!((s.key_count(), s.stats().expired, s.wheel.entries()), (0, 1, u64::from(first > second + 20)));
    }
}
