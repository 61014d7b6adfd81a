//! Prefixes that are counted, and those that may take only so much.
//!
//! That keys and bytes are counted right under any operation is what the model test and the fuzzer check, whose shards
//! have prefixes too.

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn stats(shard: &Shard, name: &[u8]) -> (u64, u64, u64, u64, u64) {
    let prefix = shard.prefixes().iter().find(|prefix| prefix.name == name).expect("it is named");
    (prefix.keys, prefix.bytes, prefix.hits, prefix.misses, prefix.evicted)
}

#[test]
fn a_key_counts_for_its_longest_prefix() {
    let mut s = shard(8 << 20, Policy::Clock);
    s.count_prefixes([(b"a:".to_vec(), 0), (b"a:b:".to_vec(), 0)]);
    for key in ["a:1", "a:2", "a:b:1", "b:1"] {
        set(&mut s, key.as_bytes(), b"value", Expiry::Never, NOW);
    }
    for key in ["a:1", "a:9", "a:b:9", "a:b:1", "a:b:1", "c"] {
        get(&mut s, key.as_bytes(), NOW);
    }
    let (keys, bytes, hits, misses, _) = stats(&s, b"a:");
    assert_eq!((keys, hits, misses), (2, 1, 1));
    assert_eq!(bytes, 2 * (12 + 3 + 5), "two records of a header, a key and a value");
    let (keys, _, hits, misses, _) = stats(&s, b"a:b:");
    assert_eq!((keys, hits, misses), (1, 2, 1));
    run(&mut s, b"a:1", Op::Del, NOW);
    assert_eq!(stats(&s, b"a:").0, 1);
    s.flush();
    assert_eq!((stats(&s, b"a:").0, stats(&s, b"a:b:").1), (0, 0));
    s.check();
}

#[test]
fn a_prefix_with_a_limit_evicts_its_own_keys_and_no_others() {
    for policy in [Policy::Clock, Policy::S3Fifo, Policy::Lfu, Policy::Random] {
        let mut s = shard(32 << 20, policy);
        s.count_prefixes([(b"small:".to_vec(), 100_000), (b"big:".to_vec(), 0)]);
        for n in 0..2000 {
            set(&mut s, format!("big:{n}").as_bytes(), &[b'v'; 500], Expiry::Never, NOW);
        }
        let mut longest = 0;
        for n in 0..3000 {
            set(&mut s, format!("small:{n}").as_bytes(), &[b'v'; 200], Expiry::Never, NOW);
            // One that is read all the time.
            get(&mut s, b"small:0", NOW);
            longest = longest.max(stats(&s, b"small:").1);
        }
        assert!(longest < 130_000, "{longest} bytes under {policy:?}");
        settle(&mut s, NOW);
        let (keys, bytes, _, _, evicted) = stats(&s, b"small:");
        assert!(bytes <= 100_000 && bytes > 80_000, "{bytes} bytes under {policy:?}");
        assert_eq!(keys + evicted, 3000);
        assert_eq!(stats(&s, b"big:").0, 2000, "others are spared");
        assert!(get(&mut s, b"small:0", NOW).is_some(), "what is read is spared, {policy:?}");
        s.check();
    }
}

#[test]
fn where_nothing_may_be_evicted_for_it_a_write_is_refused() {
    for policy in [Policy::NoEviction, Policy::VolatileTtl] {
        let mut s = shard(32 << 20, policy);
        s.count_prefixes([(b"small:".to_vec(), 10_000)]);
        let mut refused = 0;
        for n in 0..200 {
            let answer = set(&mut s, format!("small:{n}").as_bytes(), &[b'v'; 200], Expiry::Never, NOW);
            refused += u32::from(answer == Answer::Refused(OpError::OutOfMemory));
        }
        assert!((140..170).contains(&refused), "{refused} refused");
        let before = stats(&s, b"small:").1;
        assert_eq!(run(&mut s, b"small:0", Op::Append { tail: b"more" }, NOW), Answer::Refused(OpError::OutOfMemory));
        let (draft, long) = (s.draft(), vec![b'v'; 1 << 20]);
        s.write_draft(&draft, at(b"small:long"), &long, UnixMillis(NOW)).expect("there is room");
        let mut kept = Kept::default();
        let plain = (Expiry::Never, Condition::Always, SetReply::Status);
        s.set_draft(at(b"small:long"), b"small:long", Some(draft), plain, UnixMillis(NOW), &mut kept);
        assert_eq!(kept.take(), Answer::Refused(OpError::OutOfMemory));
        assert_eq!(stats(&s, b"small:").1, before);
        assert_eq!(set(&mut s, b"other", b"v", Expiry::Never, NOW), Answer::Status("OK".into()));
        assert_eq!(stats(&s, b"small:").4, 0);
        run(&mut s, b"small:1", Op::Del, NOW);
        run(&mut s, b"small:2", Op::Del, NOW);
        settle(&mut s, NOW);
        assert_eq!(set(&mut s, b"small:1", b"v", Expiry::Never, NOW), Answer::Status("OK".into()));
    }
}
