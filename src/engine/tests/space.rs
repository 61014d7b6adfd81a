//! Space: eviction, refusal, and memory given back.

use super::*;
use crate::base::rng::Rng;

const NOW: u64 = 1_700_000_000_000;

fn key(n: u64) -> Vec<u8> {
    format!("key:{n:012}").into_bytes()
}

fn is_ok(answer: &Answer) -> bool {
    *answer == Answer::Status("OK".into())
}

/// Sets numbered keys until one is refused; answers how many were taken.
fn fill(s: &mut Shard, value_len: usize) -> u64 {
    for n in 0..10_000_000 {
        match set(s, &key(n), &value_of(n, value_len), Expiry::Never, NOW) {
            Answer::Refused(OpError::OutOfMemory) => return n,
            answer => assert!(is_ok(&answer)),
        }
    }
    panic!("the budget never ran out");
}

#[test]
fn memory_of_keys_that_expire_together_is_given_back_in_bounded_slices() {
    let mut s = shard(64 << 20, Policy::Clock);
    for n in 0..100_000 {
        set(&mut s, &key(n), &[7; 64], Expiry::In(5000), NOW);
    }
    let before = s.memory();
    assert_eq!((s.keys_with_expiry(), s.key_count()), (100_000, 100_000));
    assert!(!s.advance(UnixMillis(NOW + 4990), 1_000_000) && s.key_count() == 100_000);
    assert!(s.next_deadline().expect("entries wait").0 <= NOW + 5010);
    let mut slices = 0;
    let mut left = s.key_count();
    while s.advance(UnixMillis(NOW + 5010), 500) {
        slices += 1;
        assert!(left - s.key_count() <= 500, "a slice does no more than it was given");
        left = s.key_count();
    }
    assert!(slices >= 200, "{slices}");
    let after = s.memory();
    assert_eq!((s.key_count(), s.keys_with_expiry(), s.stats().expired), (0, 0, 100_000));
    assert_eq!(after.live_bytes, 0);
    assert!(after.segments_free >= before.segments_total - 1, "{after:?}");
    assert!(after.index_bytes < before.index_bytes - 700_000, "the tables go too: {before:?} {after:?}");
    assert_eq!(s.next_deadline(), None);
    s.check();
}

#[test]
fn without_eviction_writes_are_refused_until_keys_are_deleted() {
    let mut s = shard(4 << 20, Policy::NoEviction);
    let count = fill(&mut s, 64);
    assert!(count > 15_000, "{count} keys of 80 bytes in 4 MiB");
    s.check();
    for n in 0..count {
        assert_eq!(get(&mut s, &key(n), NOW), Some(value_of(n, 64)));
    }
    assert!(is_ok(&set(&mut s, &key(0), &[1; 64], Expiry::Never, NOW)), "an overwrite in place needs no room");
    let longer = Op::Append { tail: &[0; 64] };
    assert_eq!(run(&mut s, &key(1), longer, NOW), Answer::Refused(OpError::OutOfMemory));
    assert_eq!(s.stats().refused_oom, 2);
    let condition = ExpireCondition::default();
    assert_eq!(run(&mut s, &key(1), Op::Expire { expiry: Expiry::In(1000), condition }, NOW), Answer::Integer(1));
    for n in (0..count).step_by(2) {
        assert_eq!(run(&mut s, &key(n), Op::Del, NOW), Answer::Integer(1));
    }
    let mut again = 0;
    while is_ok(&set(&mut s, format!("new:{again:012}").as_bytes(), &[2; 64], Expiry::Never, NOW)) {
        again += 1;
    }
    assert!(again > count * 4 / 10, "{again} of {count} came back");
    for n in (3..count).step_by(2) {
        assert_eq!(get(&mut s, &key(n), NOW), Some(value_of(n, 64)), "compaction loses nothing");
    }
    assert_eq!(s.stats().evicted, 0);
    s.check();
}

#[test]
fn deleting_all_after_a_refusal_frees_all() {
    for value_len in [64, 9000, 30_000, 200_000] {
        let mut s = shard(4 << 20, Policy::NoEviction);
        let count = fill(&mut s, value_len);
        for n in 0..count {
            run(&mut s, &key(n), Op::Del, NOW);
        }
        s.check();
        assert_eq!((s.memory().live_bytes, s.key_count()), (0, 0));
        assert!(fill(&mut s, value_len) * 10 >= count * 9, "values of {value_len} bytes");
    }
}

#[test]
fn overwrites_that_grow_and_shrink_never_lose_their_way() {
    let mut s = shard(4 << 20, Policy::Clock);
    let mut rng = Rng::new(3);
    for round in 0..60_000u64 {
        let n = rng.below(40);
        let len = [0, 4, 60, 61, 64, 500, 3000, 20_000][rng.below(8) as usize];
        let expiry = if rng.below(2) == 0 { Expiry::Never } else { Expiry::In(1 + rng.below(100_000) as i64) };
        let value = value_of(round, len);
        assert!(is_ok(&set(&mut s, &key(n), &value, expiry, NOW)));
        assert!(get(&mut s, &key(n), NOW).as_deref() == Some(&value), "a key just written is there");
        if round % 5000 == 0 {
            s.check();
        }
    }
    assert!(s.stats().evicted < 100, "forty keys fit: {} were evicted", s.stats().evicted);
    s.check();
}

#[test]
fn keys_that_are_read_outlive_keys_that_are_not() {
    let mut s = shard(8 << 20, Policy::Clock);
    for n in 0..200 {
        set(&mut s, format!("hot:{n}").as_bytes(), &[1; 100], Expiry::Never, NOW);
    }
    for n in 0..400_000 {
        set(&mut s, &key(n), &[2; 100], Expiry::Never, NOW);
        if n % 10 == 0 {
            get(&mut s, format!("hot:{}", n / 10 % 200).as_bytes(), NOW);
        }
    }
    let alive = (0..200).filter(|n| get(&mut s, format!("hot:{n}").as_bytes(), NOW).is_some()).count();
    assert!(alive >= 190, "{alive} of 200 hot keys are left");
    assert!(s.stats().evicted > 300_000 && s.stats().reinserted > 0);
    let memory = s.memory();
    assert!(memory.live_bytes * 10 > memory.budget_bytes * 7, "{memory:?}");
    s.check();
}

#[test]
fn the_expired_go_before_the_living() {
    let mut s = shard(8 << 20, Policy::Clock);
    for n in 0..20_000 {
        set(&mut s, format!("old:{n:05}").as_bytes(), &[1; 100], Expiry::In(10), NOW);
    }
    for n in 0..42_000 {
        set(&mut s, &key(n), &[1; 100], Expiry::Never, NOW + 1000);
    }
    assert_eq!(s.stats().evicted, 0);
    assert!(s.stats().expired > 0);
}

#[test]
fn large_values_push_out_and_are_pushed_out() {
    let mut s = shard(8 << 20, Policy::Clock);
    for n in 0..200 {
        let value = value_of(n, 700_000 + n as usize * 1000);
        assert!(is_ok(&set(&mut s, &key(n), &value, Expiry::Never, NOW)), "value {n}");
        assert!(get(&mut s, &key(n), NOW).as_deref() == Some(&value));
        s.check();
    }
    assert!(s.stats().evicted > 150);
    for n in 0..250_000 {
        set(&mut s, &key(1000 + n), &[1; 100], Expiry::Never, NOW);
    }
    assert_eq!(s.arena.extent_count(), 0, "small values push large ones out");
    s.check();
}

/// Padding hid that a deadline's eight bytes move the numbers of the extents: a record of
/// the same size is not always one of the same shape.
#[test]
fn a_large_value_of_the_same_size_with_a_deadline_is_stored_anew() {
    for rest in 0..40 {
        let mut s = shard(Shard::BUDGET_BYTES_MIN, Policy::Clock);
        let (old, new) = (value_of(1, (8 << 10) + rest), value_of(2, 6_000));
        set(&mut s, b"k1", &old, Expiry::Never, NOW);
        set(&mut s, b"k1", &new, Expiry::In(50), NOW);
        s.check();
        assert!(get(&mut s, b"k1", NOW) == Some(new), "{rest}");
        set(&mut s, b"k1", &old, Expiry::Never, NOW);
        s.check();
        assert!(get(&mut s, b"k1", NOW) == Some(old), "{rest}");
    }
}

#[test]
fn the_wheel_stays_in_proportion_under_overwrites_and_changed_deadlines() {
    let mut s = shard(64 << 20, Policy::Clock);
    let condition = ExpireCondition::default();
    let mut most = 0;
    for round in 0..300_000u64 {
        let n = round % 500;
        match round / 500 % 4 {
            // A longer value each time: every overwrite moves the record.
            0 | 1 => drop(set(&mut s, &key(n), &vec![1; 10 + (round / 500) as usize % 90], Expiry::In(100_000), NOW)),
            2 => drop(run(&mut s, &key(n), Op::Expire { expiry: Expiry::In(50), condition }, NOW)),
            _ => {
                run(&mut s, &key(n), Op::Persist, NOW);
                run(&mut s, &key(n), Op::Expire { expiry: Expiry::In(5_000_000), condition }, NOW);
            }
        }
        most = most.max(s.wheel.entries());
    }
    assert!(most <= 2 * 500 + 70_000, "{most} entries for 500 keys");
    s.check();
    for round in 0..300_000u64 {
        let now = NOW + round / 100;
        let span = if round / 500 % 2 == 0 { 20 } else { 500_000 };
        run(&mut s, &key(round % 500), Op::Expire { expiry: Expiry::In(span), condition }, now);
        s.advance(UnixMillis(now), 10);
        most = most.max(s.wheel.entries());
    }
    assert!(most <= 2 * 500 + 70_000, "{most} entries for 500 keys");
    s.check();
}

#[test]
fn a_flush_is_seen_at_once_and_cleared_in_slices() {
    let mut s = shard(64 << 20, Policy::Clock);
    for n in 0..50_000 {
        set(&mut s, &key(n), &[1; 64], Expiry::In(1000 + n as i64), NOW);
    }
    let full = s.memory();
    s.flush();
    assert_eq!((s.key_count(), s.keys_with_expiry(), s.memory().live_bytes), (0, 0, 0));
    assert_eq!(get(&mut s, &key(1), NOW), None);
    assert!(s.memory().index_bytes >= full.index_bytes * 9 / 10, "the old tables are still to be dropped");
    assert!(s.advance(UnixMillis(NOW), 10), "more than ten pieces of work wait");
    settle(&mut s, NOW);
    assert!(s.memory().index_bytes < 1 << 20, "{:?}", s.memory());
    s.check();
    for n in 0..50_000 {
        set(&mut s, &key(n), &[2; 64], Expiry::Never, NOW);
    }
    settle(&mut s, NOW + 1_000_000);
    assert_eq!(s.key_count(), 50_000, "entries of before the flush touch nothing");
    s.check();
}

#[test]
fn reserved_bytes_push_records_out() {
    let mut s = shard(16 << 20, Policy::Clock);
    for n in 0..200_000 {
        set(&mut s, &key(n), &[1; 100], Expiry::Never, NOW);
    }
    let before = s.key_count();
    s.set_reserved_bytes(4 << 20);
    settle(&mut s, NOW);
    s.check();
    assert!(s.key_count() < before * 9 / 10);
    assert!(s.memory().resident_bytes <= s.memory().budget_bytes + Shard::FIXED_BYTES);
    s.set_reserved_bytes(1 << 40);
    settle(&mut s, NOW);
    let long = vec![1; s.memory().segment_bytes as usize];
    assert_eq!(set(&mut s, b"k", &long, Expiry::Never, NOW), Answer::Refused(OpError::OutOfMemory));
    s.set_reserved_bytes(0);
    assert!(is_ok(&set(&mut s, b"k", &long, Expiry::Never, NOW)));
    s.check();
}

/// As when thousands of connections open before anything is written.
#[test]
fn what_is_reserved_piece_by_piece_makes_its_own_room() {
    for policy in [Policy::Clock, Policy::S3Fifo, Policy::Lfu, Policy::Random, Policy::VolatileTtl] {
        let mut s = shard(16 << 20, policy);
        for n in 0..200_000 {
            set(&mut s, &key(n), &[1; 100], Expiry::In(1_000_000 + n as i64 * 7919 % 1_000_000), NOW);
        }
        settle(&mut s, NOW);
        let before = s.memory();
        let mut most = 0;
        for _ in 0..4 << 10 {
            let work = s.work_done();
            s.add_reserved_bytes(1024, UnixMillis(NOW));
            assert!(s.work_done() - work <= 64, "{policy:?}: {} pieces of work", s.work_done() - work);
            most = most.max(s.memory().resident_bytes);
        }
        let after = s.memory();
        // Less what the allocator is no longer taken to keep of tables.
        assert!(after.reserved_bytes >= before.reserved_bytes + (7 << 19), "{before:?} {after:?}");
        let allowed = after.budget_bytes + Shard::FIXED_BYTES + 2 * before.segment_bytes;
        if policy == Policy::VolatileTtl {
            // Those that end soonest lie everywhere: it takes slices of background work until segments are free.
            settle(&mut s, NOW);
            most = s.memory().resident_bytes;
        }
        assert!(most <= allowed, "{policy:?}: {most} beside {after:?}");
        let held = s.memory().reserved_bytes;
        s.sub_reserved_bytes(3 << 20);
        assert_eq!(s.memory().reserved_bytes, held - (3 << 20));
        s.sub_reserved_bytes(2 << 20);
        assert_eq!(s.memory().reserved_bytes, held - (4 << 20), "what was counted meanwhile may be less");
        s.check();
    }
}

/// With a deadline on every key, and on none: compacting once needed a free segment to begin with, and never got one.
#[test]
fn a_budget_that_shrinks_is_kept_by_policies_that_compact() {
    for (policy, left) in [(Policy::VolatileTtl, 1), (Policy::NoEviction, 2)] {
        let mut s = shard(16 << 20, policy);
        for n in 0..80_000 {
            set(&mut s, &key(n), &[1; 100], Expiry::In(1_000_000 + n as i64 * 7919 % 1_000_000), NOW);
        }
        if policy == Policy::NoEviction {
            // Holes everywhere, and room for all in half of the memory.
            (0..80_000).filter(|n| n % 5 != 0).for_each(|n| drop(run(&mut s, &key(n), Op::Del, NOW)));
        }
        s.set_budget(8 << 20).expect("half is workable");
        settle(&mut s, NOW);
        let memory = s.memory();
        assert!(memory.resident_bytes <= memory.budget_bytes + Shard::FIXED_BYTES, "{policy:?}: {memory:?}");
        assert!(is_ok(&set(&mut s, b"k", b"v", Expiry::In(1000), NOW)), "{policy:?} stores again");
        assert!(s.key_count() > 8_000 * left, "{policy:?}: {}", s.key_count());
        s.check();
    }
}

/// Blocks that are given back one by one leave holes in the heap.
#[test]
fn what_the_allocator_may_keep_of_the_wheel_counts_until_that_is_empty() {
    let mut s = shard(16 << 20, Policy::Clock);
    for n in 0..60_000 {
        set(&mut s, &key(n), b"", Expiry::In(1_000_000 + n as i64), NOW);
    }
    let full = s.memory();
    assert_eq!(full.reserved_bytes, 0);
    for n in 1000..60_000 {
        run(&mut s, &key(n), Op::Del, NOW);
    }
    settle(&mut s, NOW);
    let after = s.memory();
    assert!(after.wheel_bytes < full.wheel_bytes / 2);
    // A block or two came while the last ones were emptied.
    assert!(after.reserved_bytes - (full.wheel_bytes - after.wheel_bytes) <= 2048, "{full:?} {after:?}");
    s.set_reserved_bytes(5);
    assert_eq!(s.memory().reserved_bytes, after.reserved_bytes + 5);
    s.set_budget(2 << 20).expect("an eighth is workable");
    assert_eq!(s.memory().reserved_bytes, (2 << 20) / 16 + 5, "a small budget is not taken up by it");
    s.flush();
    settle(&mut s, NOW);
    assert_eq!(s.memory().reserved_bytes, 5);
}

/// Whatever tables were there before, and in whichever order they went.
#[test]
fn slot_tables_of_deleted_keys_are_given_back() {
    let mut s = shard(64 << 20, Policy::Clock);
    let empty = s.memory().index_bytes;
    for n in 0..500_000 {
        set(&mut s, &key(n), b"", Expiry::Never, NOW);
    }
    let full = s.memory().index_bytes - empty;
    for n in 50_000..500_000 {
        run(&mut s, &key(n), Op::Del, NOW);
    }
    settle(&mut s, NOW);
    let tenth = s.memory().index_bytes - empty;
    assert!(tenth < full / 2, "{tenth} of {full}");
    for n in 0..50_000 {
        run(&mut s, &key(n), Op::Del, NOW);
    }
    settle(&mut s, NOW);
    let none = s.memory().index_bytes - empty;
    assert!(none < 128 << 10, "{none} of {full}");
    s.check();
}

#[test]
fn a_slot_of_all_keys_is_accounted_for() {
    for policy in Policy::ALL {
        let mut s = shard(4 << 20, policy);
        for n in 0..100_000 {
            set(&mut s, format!("{{one}}{n}").as_bytes(), b"", Expiry::Never, NOW);
            if n % 1000 == 0 {
                s.check();
            }
        }
        s.check();
        assert!(s.slot_key_count(Slot::of(b"one")) > 20_000);
    }
}

#[test]
fn a_smaller_budget_evicts_in_slices_and_a_larger_one_is_filled() {
    for policy in [Policy::Clock, Policy::S3Fifo, Policy::Lfu, Policy::Random] {
        let mut s = shard(8 << 20, policy);
        for n in 0..80_000 {
            set(&mut s, &key(n), &[1; 100], Expiry::Never, NOW);
            get(&mut s, &key(n / 2), NOW);
        }
        let full = s.key_count();
        s.set_budget(2 << 20).expect("a quarter is workable");
        let mut slices = 0;
        while s.advance(UnixMillis(NOW), 100) {
            slices += 1;
            assert!(slices < 100_000, "{policy:?} never ends");
        }
        s.check();
        let memory = s.memory();
        assert!(memory.resident_bytes <= memory.budget_bytes + Shard::FIXED_BYTES, "{policy:?}: {memory:?}");
        assert!(slices > 100 && s.key_count() < full * 3 / 10, "{policy:?}: {slices} slices, {} keys", s.key_count());
        s.set_budget(32 << 20).expect("addresses for four times the first budget were set aside");
        for n in 0..300_000 {
            set(&mut s, &key(n), &[2; 100], Expiry::Never, NOW);
        }
        assert!(s.key_count() > full * 3, "{policy:?}: {} keys", s.key_count());
        s.check();
        let error = s.set_budget((32 << 20) + 1).expect_err("more than was set aside").to_string();
        assert!(error.contains("at most 32 MiB"), "{error}");
        let error = s.set_budget((1 << 20) - 1).expect_err("too little").to_string();
        assert!(error.contains("at least 1 MiB"), "{error}");
        assert_eq!(s.memory().budget_bytes, 32 << 20, "a refused budget changes nothing");
    }
}

#[test]
fn writes_that_take_no_room_make_some_where_it_lacks() {
    let mut s = shard(8 << 20, Policy::Clock);
    for n in 0..80_000 {
        set(&mut s, &key(n), &[1; 100], Expiry::Never, NOW);
    }
    settle(&mut s, NOW);
    s.set_budget(2 << 20).expect("a quarter is workable");
    let resident = |s: &Shard| s.memory().resident_bytes.saturating_sub(Shard::FIXED_BYTES);
    let mut writes = 0;
    while resident(&s) > 2 << 20 {
        writes += 1;
        assert!(writes < 100_000, "{} bytes after {writes} writes", resident(&s));
        // The same key and length again and again, which stays for being read.
        set(&mut s, &key(79_999), &[2; 100], Expiry::Never, NOW);
        get(&mut s, &key(79_999), NOW);
    }
    s.check();
}

#[test]
fn policies_can_be_changed_under_way() {
    let mut s = shard(4 << 20, Policy::S3Fifo);
    let mut n = 0;
    for round in 0..18 {
        s.set_policy(Policy::ALL[round * 5 % Policy::ALL.len()]);
        for _ in 0..10_000 {
            n += 1;
            set(&mut s, &key(n), &[3; 100], if n % 3 == 0 { Expiry::In(60_000) } else { Expiry::Never }, NOW);
            get(&mut s, &key(n - n % 50), NOW);
        }
        settle(&mut s, NOW);
        s.check();
    }
}

#[test]
fn a_scan_leaves_the_hot_set_alone_under_s3fifo() {
    let hit_ratio = |policy, scan: bool| {
        let mut s = shard(2 << 20, policy);
        let mut rng = Rng::new(5);
        let (mut hits, mut reads, mut scanned) = (0, 0, 0);
        // 5,000 hot keys take a third of the budget; the scan is ten times the budget.
        for n in 0..250_000u64 {
            let hot = key(rng.below(5_000));
            if get(&mut s, &hot, NOW).is_none() {
                set(&mut s, &hot, &[1; 100], Expiry::Never, NOW);
            } else if n >= 50_000 {
                hits += 1;
            }
            reads += u64::from(n >= 50_000);
            if scan && n >= 50_000 && scanned < 150_000 {
                scanned += 1;
                set(&mut s, format!("scan:{scanned:011}").as_bytes(), &[2; 100], Expiry::Never, NOW);
            }
        }
        hits as f64 / reads as f64
    };
    let (before, after) = (hit_ratio(Policy::S3Fifo, false), hit_ratio(Policy::S3Fifo, true));
    assert!(before - after < 0.02, "{before} without and {after} with the scan");
}

#[test]
fn volatile_ttl_evicts_the_soonest_and_nothing_without_a_deadline() {
    let mut s = shard(4 << 20, Policy::VolatileTtl);
    for n in 0..10_000 {
        assert!(is_ok(&set(&mut s, &key(n), &[1; 64], Expiry::Never, NOW)));
    }
    // Deadlines in no order: the key's number times a prime, up to an hour.
    let ttl = |n: u64| 1 + n * 7_919_993 % 3_600_000;
    for n in 10_000..60_000 {
        assert!(is_ok(&set(&mut s, &key(n), &[1; 64], Expiry::In(ttl(n) as i64), NOW)));
    }
    s.check();
    assert!((0..10_000).all(|n| get(&mut s, &key(n), NOW).is_some()), "keys without a deadline stay");
    let left: Vec<u64> = (10_000..60_000).filter(|&n| get(&mut s, &key(n), NOW).is_some()).collect();
    assert!(s.stats().evicted > 20_000 && left.len() > 15_000, "{} evicted, {} left", s.stats().evicted, left.len());
    let mean = |ns: &[u64]| ns.iter().map(|&n| ttl(n)).sum::<u64>() / ns.len() as u64;
    let gone: Vec<u64> = (10_000..60_000).filter(|n| !left.contains(n)).collect();
    assert!(mean(&left) > mean(&gone) * 2, "left {} ms on average, gone {} ms", mean(&left), mean(&gone));
    let mut n = 100_000;
    while is_ok(&set(&mut s, &key(n), &[1; 64], Expiry::Never, NOW)) {
        n += 1;
    }
    assert!(s.keys_with_expiry() == 0 && n > 110_000, "refused only when nothing with a deadline is left");
    s.check();
}

/// A key of nearly half a segment leaves a large record no room for a rest. Goal: whatever the value's length,
/// the record has as many extents as its value fills, and none that nobody wrote. Method: lengths next to whole
/// segments under such keys, in segments whose old bytes are anything; then all of it is deleted.
#[test]
fn a_key_of_half_a_segment_has_no_extent_too_many() {
    let mut s = shard(1 << 20, Policy::Clock);
    let mut rng = Rng::new(9);
    let segment = s.arena.segment_bytes();
    for round in 0..3000u64 {
        set(&mut s, &key(round % 50), &[0x1c; 3000], Expiry::Never, NOW);
        let long = vec![b'k'; s.key_bytes_max() - rng.below(40) as usize];
        let len = rng.below(4) as usize * segment + rng.below(3) as usize * (rng.below(5000) as usize);
        let value = value_of(round, len);
        assert!(is_ok(&set(&mut s, &long, &value, Expiry::Never, NOW)));
        let tail = value_of(round + 1, rng.below(2) as usize * segment + 10);
        run(&mut s, &long, Op::Append { tail: &tail }, NOW);
        assert!(get(&mut s, &long, NOW).is_some_and(|got| got == [value, tail].concat()));
        s.check();
        run(&mut s, &long, Op::Del, NOW);
        s.check();
    }
}

/// A deadline that comes where a few bytes of the value go leaves a large record its length, and moves
/// the numbers of its extents. Goal: the value is the new one and no other segment is touched.
#[test]
fn a_deadline_in_exchange_for_bytes_of_a_large_value_mixes_nothing_up() {
    let mut s = shard(1 << 20, Policy::Clock);
    for n in 0..3 {
        set(&mut s, &key(n), &value_of(n, 20_000), Expiry::Never, NOW);
    }
    let (narrow, wide) = (Expiry::In(1000), Expiry::In(1 << 40));
    let steps = [(narrow, 4), (Expiry::Never, 0), (wide, 8), (narrow, 4), (wide, 8), (Expiry::Never, 0)];
    for (step, (expiry, fewer)) in steps.into_iter().enumerate() {
        let value = value_of(step as u64 + 10, 20_000 - fewer);
        assert!(is_ok(&set(&mut s, &key(1), &value, expiry, NOW)));
        assert!(get(&mut s, &key(1), NOW) == Some(value));
        assert!(get(&mut s, &key(0), NOW) == Some(value_of(0, 20_000)));
        assert!(get(&mut s, &key(2), NOW) == Some(value_of(2, 20_000)));
        s.check();
    }
}
