//! Entries of the wheel whose memory has been written over.

use super::arena::Log;
use super::item::{Form, Head, Loc, write_version};
use super::*;

const NOW: u64 = 1_700_000_000_000;

fn locate(s: &Shard, key: &[u8]) -> Loc {
    s.index.find(at(key).slot, at(key).hash, key, s.arena.bytes()).expect("the key is there")
}

/// A value may contain the very bytes of a record that an old entry expects
/// where it points. Goal: such an entry does nothing. Method: let a record with a
/// deadline die, get its segment used again by one long value, and forge in that
/// value, at the old location, a record that names the entry's own bucket.
#[test]
fn an_entry_that_points_into_a_value_is_not_believed() {
    let mut s = shard(32 << 20, Policy::Clock);
    set(&mut s, b"first", &[1; 300], Expiry::Never, NOW);
    set(&mut s, b"second", b"v", Expiry::In(5000), NOW);
    let stale = locate(&s, b"second");
    let segment = stale.offset() >> s.arena.segment_shift();
    let word = s.arena.expiry_word(stale, Head::read(s.arena.bytes(), stale));
    for key in [&b"first"[..], b"second"] {
        run(&mut s, key, Op::Del, NOW);
    }
    let mut others = Vec::new();
    while s.arena.open_segments().last() == Some(segment as u32) {
        others.push(format!("other:{}", others.len()).into_bytes());
        set(&mut s, others.last().expect("just pushed"), &[2; 9000], Expiry::Never, NOW);
    }
    let victim = others.pop().expect("the last one lies in the next segment");
    others.iter().for_each(|key| drop(run(&mut s, key, Op::Del, NOW)));
    s.arena.open_next(Log::Main, UnixMillis(NOW)).expect("a segment is free");
    let parked = s.arena.open_segments().next().expect("the victim's");
    s.arena.seal(parked);
    assert_eq!(s.arena.open_segments().last(), Some(segment as u32), "the segment freed last is used first");

    let mut forged = vec![0; 64];
    let head = Head::new(victim.len(), 0, Form::Narrow, false);
    head.write(&mut forged, Loc::at(0));
    write_version(&mut forged, Loc::at(0), 1);
    word.write(&mut forged, Loc::at(0), head, NOW);
    forged[head.key_at()..head.key_at() + victim.len()].copy_from_slice(&victim);
    let mut value = vec![0; 5000];
    let start = stale.offset() - (segment << s.arena.segment_shift()) - 12 - b"cover".len();
    value[start..start + forged.len()].copy_from_slice(&forged);
    set(&mut s, b"cover", &value, Expiry::Never, NOW);
    assert_eq!(Head::read(s.arena.bytes(), stale).key_len(), victim.len(), "the forgery is in place");
    assert_eq!(s.arena.expiry_word(stale, Head::read(s.arena.bytes(), stale)), word);
    assert!(s.arena.may_hold(stale));

    assert_eq!(s.wheel.entries(), 1);
    settle(&mut s, NOW + 10_000);
    assert_eq!((s.wheel.entries(), s.stats().expired), (0, 0));
    assert_eq!(get(&mut s, &victim, NOW + 10_000), Some(vec![2; 9000]));
    assert_eq!(get(&mut s, b"cover", NOW + 10_000), Some(value));
    s.check();
}
