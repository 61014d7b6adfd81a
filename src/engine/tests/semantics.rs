//! Answers in the cases that the model does not reach: they are redis-server's.

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn int(n: i64) -> Answer {
    Answer::Integer(n)
}

fn ok() -> Answer {
    Answer::Status("OK".into())
}

fn roomy() -> Shard {
    shard(8 << 20, Policy::Clock)
}

fn expire(s: &mut Shard, key: &[u8], expiry: Expiry, flags: &str) -> Answer {
    let condition = ExpireCondition {
        nx: flags.contains("nx"),
        xx: flags.contains("xx"),
        gt: flags.contains("gt"),
        lt: flags.contains("lt"),
    };
    run(s, key, Op::Expire { expiry, condition }, NOW)
}

#[test]
fn a_key_still_exists_in_the_millisecond_of_its_deadline() {
    let mut s = roomy();
    assert_eq!(set(&mut s, b"k", b"v", Expiry::In(100), NOW), ok());
    assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::Millis), NOW + 100), int(0));
    assert_eq!(get(&mut s, b"k", NOW + 100), Some(b"v".to_vec()));
    assert_eq!(get(&mut s, b"k", NOW + 101), None);
    assert_eq!((s.key_count(), s.keys_with_expiry(), s.stats().expired), (0, 0, 1));
    assert_eq!((s.stats().hits, s.stats().misses), (2, 1));
}

#[test]
fn set_refuses_times_that_are_not_positive_or_overflow() {
    let mut s = roomy();
    let past_64_bits = i64::MAX - NOW as i64 + 1;
    for bad in [Expiry::In(0), Expiry::In(-1), Expiry::At(0), Expiry::At(-5), Expiry::In(past_64_bits)] {
        assert_eq!(set(&mut s, b"k", b"v", bad, NOW), Answer::Refused(OpError::InvalidExpire), "{bad:?}");
        set(&mut s, b"g", b"v", Expiry::Never, NOW);
        let answer = run(&mut s, b"g", Op::GetEx { expiry: Ok(bad) }, NOW);
        assert_eq!(answer, Answer::Refused(OpError::InvalidExpire), "{bad:?}");
        assert_eq!(run(&mut s, b"missing", Op::GetEx { expiry: Ok(bad) }, NOW), Answer::Null);
    }
    assert_eq!(set(&mut s, b"k", b"v", Expiry::At(i64::MAX), NOW), ok());
    assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::UnixMillis), NOW), int(i64::MAX));
    assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::UnixSeconds), NOW), int(9_223_372_036_854_776));
    assert_eq!(s.keys_with_expiry(), 1);
    assert_eq!(expire(&mut s, b"k", Expiry::In(past_64_bits), ""), Answer::Refused(OpError::InvalidExpire));
    s.check();
}

#[test]
fn a_set_in_the_past_answers_ok_and_leaves_nothing() {
    let mut s = roomy();
    set(&mut s, b"k", b"old", Expiry::Never, NOW);
    assert_eq!(set(&mut s, b"k", b"v", Expiry::At(5), NOW), ok());
    assert_eq!(get(&mut s, b"k", NOW), None);
    assert_eq!(s.key_count(), 0);
}

#[test]
fn old_values_are_answered_whether_or_not_the_write_happened() {
    let mut s = roomy();
    let op = |value, condition| Op::Set { value, expiry: Expiry::Never, condition, reply: SetReply::Old };
    assert_eq!(run(&mut s, b"k", op(b"1", Condition::Present), NOW), Answer::Null);
    assert_eq!(run(&mut s, b"k", op(b"2", Condition::Absent), NOW), Answer::Null);
    let Answer::Value { bytes, version, .. } = run(&mut s, b"k", op(b"3", Condition::Absent), NOW) else {
        panic!("the value stands")
    };
    assert_eq!((bytes, version), (b"2".to_vec(), 1));
    assert_eq!(get(&mut s, b"k", NOW), Some(b"2".to_vec()));
}

#[test]
fn conditions_of_expire() {
    let mut s = roomy();
    assert_eq!(expire(&mut s, b"k", Expiry::In(1000), ""), int(0));
    set(&mut s, b"k", b"v", Expiry::Never, NOW);
    for (flags, ms, answer) in [
        ("xx", 5000, 0),
        ("gt", 5000, 0),
        ("lt", 5000, 1),
        ("nx", 9000, 0),
        ("lt", 5000, 0),
        ("gt", 5000, 0),
        ("xxgt", 6000, 1),
        ("xxlt", 7000, 0),
        ("xx", 8000, 1),
    ] {
        assert_eq!(expire(&mut s, b"k", Expiry::In(ms), flags), int(answer), "{flags} {ms}");
    }
    assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::Millis), NOW), int(8000));
    assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::Seconds), NOW + 501), int(7));
    assert_eq!(run(&mut s, b"k", Op::Persist, NOW), int(1));
    assert_eq!(run(&mut s, b"k", Op::Persist, NOW), int(0));
    assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::Seconds), NOW), int(-1));
    assert_eq!(expire(&mut s, b"k", Expiry::At(-3), ""), int(1), "a deadline in the past deletes");
    assert_eq!(run(&mut s, b"k", Op::Exists, NOW), int(0));
    assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::Seconds), NOW), int(-2));
    assert_eq!((s.stats().deletes, s.stats().expired), (1, 0));
    set(&mut s, b"k", b"v", Expiry::Never, NOW);
    assert_eq!(expire(&mut s, b"k", Expiry::In(i64::MIN), ""), int(1));
    set(&mut s, b"k", b"v", Expiry::Never, NOW);
    assert_eq!(expire(&mut s, b"k", Expiry::Keep, ""), int(1));
    assert_eq!(expire(&mut s, b"k", Expiry::Never, ""), int(0));
}

#[test]
fn integers_follow_string2ll() {
    let mut s = roomy();
    let add = |s: &mut Shard, delta| run(s, b"n", Op::IncrBy { delta }, NOW);
    assert_eq!(add(&mut s, i64::MAX), int(i64::MAX));
    assert_eq!(add(&mut s, 1), Answer::Refused(OpError::Overflow));
    assert_eq!(add(&mut s, -1), int(i64::MAX - 1));
    set(&mut s, b"n", b"9", Expiry::In(1000), NOW);
    assert_eq!(add(&mut s, 1), int(10));
    assert_eq!(run(&mut s, b"n", Op::Ttl(TtlUnit::Millis), NOW), int(1000), "the deadline stays");
    for bad in [&b""[..], b" 1", b"+1", b"01", b"-0", b"1.5", b"123456789012345678901"] {
        set(&mut s, b"n", bad, Expiry::Never, NOW);
        assert_eq!(add(&mut s, 1), Answer::Refused(OpError::NotAnInteger));
        assert_eq!(get(&mut s, b"n", NOW), Some(bad.to_vec()));
    }
    set(&mut s, b"n", &vec![b'1'; 1 << 20], Expiry::Never, NOW);
    assert_eq!(add(&mut s, 1), Answer::Refused(OpError::NotAnInteger));
}

#[test]
fn appends_grow_a_value_through_every_form() {
    let mut s = roomy();
    let mut expected = Vec::new();
    for n in 0..600u64 {
        let tail = value_of(n, 1 + (n as usize * 37) % 3000);
        expected.extend_from_slice(&tail);
        assert_eq!(run(&mut s, b"k", Op::Append { tail: &tail }, NOW), int(expected.len() as i64));
        if n % 20 == 0 {
            assert_eq!(run(&mut s, b"k", Op::Strlen, NOW), int(expected.len() as i64));
            assert!(get(&mut s, b"k", NOW).as_deref() == Some(&expected), "after {n} appends");
            s.check();
        }
        if n == 300 {
            assert_eq!(expire(&mut s, b"k", Expiry::In(10_000), ""), int(1));
        }
    }
    assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::Millis), NOW), int(10_000));
    let across = value_of(1, 300_000);
    expected.extend_from_slice(&across);
    assert_eq!(run(&mut s, b"k", Op::Append { tail: &across }, NOW), int(expected.len() as i64));
    assert!(get(&mut s, b"k", NOW).as_deref() == Some(&expected), "a tail over several extents");
    assert_eq!(run(&mut s, b"k", Op::GetDel, NOW).clone(), {
        Answer::Value { bytes: expected, version: 602, expires_at: Some(NOW + 10_000), flags: 0 }
    });
    assert_eq!(s.memory().live_bytes, 0);
    s.check();
}

#[test]
fn limits_are_answered_and_nothing_panics() {
    let mut s = shard(32 << 20, Policy::Clock);
    let too_large = Answer::Refused(OpError::TooLarge);
    assert_eq!(set(&mut s, &[b'k'; 70_000], b"v", Expiry::Never, NOW), too_large);
    assert_eq!(run(&mut s, &[b'k'; 70_000], Op::Append { tail: b"v" }, NOW), too_large);
    assert_eq!(run(&mut s, &[b'k'; 70_000], Op::IncrBy { delta: 1 }, NOW), too_large);
    assert_eq!(get(&mut s, &[b'k'; 70_000], NOW), None);
    assert_eq!(set(&mut s, b"k", &vec![0; (64 << 20) + 1], Expiry::Never, NOW), too_large);
    assert_eq!(set(&mut s, b"k", &vec![0; 64 << 20], Expiry::Never, NOW), Answer::Refused(OpError::OutOfMemory));
    assert_eq!(set(&mut s, &[b'k'; 32_768], &[7; 10_000], Expiry::Never, NOW), ok());
    assert_eq!(get(&mut s, &[b'k'; 32_768], NOW), Some(vec![7; 10_000]));
    assert_eq!(set(&mut s, b"", b"", Expiry::Never, NOW), ok());
    assert_eq!(get(&mut s, b"", NOW), Some(vec![]));
    assert_eq!(run(&mut s, b"", Op::Type, NOW), Answer::Status("string".into()));
    assert_eq!(run(&mut s, b"x", Op::Type, NOW), Answer::Status("none".into()));
    let tail = vec![1; 60 << 20];
    assert_eq!(run(&mut s, b"", Op::Append { tail: &tail }, u64::MAX), Answer::Refused(OpError::OutOfMemory));
    assert_eq!(set(&mut s, b"t", b"v", Expiry::In(1), u64::MAX), Answer::Refused(OpError::InvalidExpire));
    s.advance(UnixMillis(u64::MAX), 10);
    s.advance(UnixMillis(0), 0);
    assert_eq!(s.scan(0, u16::MAX, usize::MAX, UnixMillis(NOW), |_| ()), u16::MAX);
    assert_eq!(s.scan(16_384, u16::MAX, 1, UnixMillis(NOW), |_| ()), u16::MAX);
    s.check();
}

#[test]
fn versions_are_the_numbers_of_the_slots_writes() {
    let mut s = roomy();
    let version = |s: &mut Shard, key: &[u8]| match run(s, key, Op::Get, NOW) {
        Answer::Value { version, .. } => version,
        other => panic!("GET answered {other:?}"),
    };
    set(&mut s, b"{a}1", b"v", Expiry::Never, NOW);
    set(&mut s, b"{a}2", b"v", Expiry::Never, NOW);
    assert_eq!((version(&mut s, b"{a}1"), version(&mut s, b"{a}2")), (1, 2));
    run(&mut s, b"{a}1", Op::Del, NOW);
    run(&mut s, b"{a}1", Op::Del, NOW);
    expire(&mut s, b"{a}2", Expiry::In(50), "");
    set(&mut s, b"{a}1", b"v", Expiry::Never, NOW);
    assert_eq!((version(&mut s, b"{a}1"), version(&mut s, b"{a}2")), (5, 2));
    s.flush();
    set(&mut s, b"{a}1", b"v", Expiry::Never, NOW);
    assert_eq!(version(&mut s, b"{a}1"), 6, "a flush does not turn versions back");
}

#[test]
fn budgets_out_of_range_are_refused_with_the_limit() {
    let make = |budget_bytes| {
        let hasher = KeyHasher::new(SEED);
        Shard::new(ShardConfig {
            budget_bytes,
            reach_bytes: 0,
            policy: Policy::Clock,
            huge_pages: false,
            value_bytes_max: 1,
            seed: 1,
            hasher,
        })
        .err()
    };
    let minimum = Shard::BUDGET_BYTES_MIN;
    assert_eq!(make(minimum - 1), Some(EngineError::BudgetTooSmall { minimum }));
    assert_eq!(make(minimum), None);
    assert_eq!(make(u64::MAX), Some(EngineError::BudgetTooLarge { maximum: Shard::BUDGET_BYTES_MAX }));
    assert_eq!(make(Shard::BUDGET_BYTES_MAX), None);
    assert!(make(0).expect("too small").to_string().contains("1 MiB"));
}
