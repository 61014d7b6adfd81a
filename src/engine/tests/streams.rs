//! Values that are being sent or received while everything else goes on.
//!
//! Goal: a pin shows the value of the moment it was made, whatever happens to the
//! key, and a key shows a draft whole or not at all; both are counted, and nothing of them is left when
//! they are given back. Method: copies of what each pin should show beside the shard, under
//! sequences of chance in a budget so small that eviction never rests.

use super::*;
use crate::base::rng::Rng;
use crate::command::Pin;
use crate::command::{ReplySink, Value};

const NOW: u64 = 1_700_000_000_000;
const FROM: usize = 5_000;

/// Keeps the one answer of an operation, large values as pins.
#[derive(Default)]
struct Pinning {
    kept: Kept,
    pin: Option<Pin>,
}

impl ReplySink for Pinning {
    fn value(&mut self, value: &Value<'_>) {
        self.kept.value(value);
    }
    fn status(&mut self, text: &str) {
        self.kept.status(text);
    }
    fn integer(&mut self, n: i64) {
        self.kept.integer(n);
    }
    fn null(&mut self) {
        self.kept.null();
    }
    fn bulk(&mut self, bytes: &[u8]) {
        self.kept.bulk(bytes);
    }
    fn array(&mut self, len: usize) {
        self.kept.array(len);
    }
    fn map(&mut self, pairs: usize) {
        self.kept.map(pairs);
    }
    fn error(&mut self, message: impl AsRef<[u8]>) {
        self.kept.error(message);
    }
    fn refused(&mut self, error: OpError) {
        self.kept.refused(error);
    }
    fn pins_from(&self) -> usize {
        FROM
    }
    fn pinned(&mut self, pin: Pin) {
        assert!(self.kept.0.is_none() && self.pin.replace(pin).is_none(), "one operation, one answer");
    }
}

/// Runs an operation and answers the pin or the answer.
fn run_pinning(s: &mut Shard, key: &[u8], op: Op<'_>, now: u64) -> Result<Pin, Answer> {
    let mut sink = Pinning::default();
    s.execute(at(key), key, &op, UnixMillis(now), &mut sink);
    sink.pin.ok_or_else(|| sink.kept.0.expect("every operation answers"))
}

/// All of a pinned value, read in pieces of `step` bytes.
fn read(s: &Shard, pin: Pin, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < pin.len {
        let before = all.len();
        let count = s.read_pin(pin, before, step, &mut all);
        assert!(count > 0 && count <= step && all.len() == before + count, "a pin ends early");
    }
    assert_eq!(s.read_pin(pin, pin.len, step, &mut all), 0);
    all
}

/// Writes a draft in pieces of chance; `None` if there was no room for it.
fn draft(s: &mut Shard, key: &[u8], value: &[u8], rng: &mut Rng, now: u64) -> Option<DraftId> {
    let id = s.draft();
    let mut rest = value;
    while !rest.is_empty() {
        let most = [1, 100, 9_000, rest.len()][rng.below(4) as usize].min(rest.len());
        let (piece, after) = rest.split_at(1 + rng.below(most as u64) as usize);
        if s.write_draft(&id, at(key), piece, UnixMillis(now)).is_err() {
            s.drop_draft(id);
            return None;
        }
        rest = after;
    }
    Some(id)
}

fn set_draft(
    s: &mut Shard,
    key: &[u8],
    draft: Option<DraftId>,
    how: (Expiry, Condition, SetReply),
    now: u64,
) -> Result<Pin, Answer> {
    let mut sink = Pinning::default();
    s.set_draft(at(key), key, draft, how, UnixMillis(now), &mut sink);
    sink.pin.ok_or_else(|| sink.kept.0.expect("every operation answers"))
}

const PLAIN: (Expiry, Condition, SetReply) = (Expiry::Never, Condition::Always, SetReply::Status);

fn ok() -> Result<Pin, Answer> {
    Err(Answer::Status("OK".into()))
}

/// Lengths around the threshold, half a segment and whole segments of 8 KiB.
fn lengths() -> Vec<usize> {
    let around = |n: usize| [n - 1, n, n + 1];
    let mut all: Vec<usize> = [FROM, 8 << 10, 16 << 10, 24 << 10].into_iter().flat_map(around).collect();
    all.extend([12 << 10, (8 << 10) + 100, (16 << 10) + 4_050, 100_000, 300_000]);
    all
}

#[test]
fn a_pin_shows_its_value_whatever_happens_to_the_key() {
    let endings: [fn(&mut Shard, usize); 8] = [
        |s, len| drop(set(s, b"k", &value_of(99, len), Expiry::Never, NOW)),
        |s, len| drop(set(s, b"k", &value_of(99, len * 2), Expiry::Never, NOW)),
        |s, _| drop(set(s, b"k", b"short", Expiry::Never, NOW)),
        |s, _| drop(run(s, b"k", Op::Append { tail: &value_of(98, 9_000) }, NOW)),
        |s, _| drop(run(s, b"k", Op::Del, NOW)),
        |s, _| s.flush(),
        |s, _| {
            for n in 0..2_000u64 {
                set(s, format!("f{n}").as_bytes(), &value_of(n, 1_000), Expiry::Never, NOW);
            }
        },
        |s, _| {
            run(s, b"k", Op::Expire { expiry: Expiry::In(10), condition: ExpireCondition::default() }, NOW);
            settle(s, NOW + 1_000);
        },
    ];
    for len in lengths() {
        for (n, end) in endings.iter().enumerate() {
            let mut s = shard(Shard::BUDGET_BYTES_MIN, Policy::Clock);
            let value = value_of(len as u64, len);
            set(&mut s, b"k", &value, Expiry::Never, NOW);
            let pin = match run_pinning(&mut s, b"k", Op::Get, NOW) {
                Ok(pin) => pin,
                Err(answer) => {
                    assert!(len < FROM && matches!(answer, Answer::Value { .. }), "{len}");
                    continue;
                }
            };
            end(&mut s, len);
            s.check();
            assert!(read(&s, pin, 1_000) == value, "{len} bytes, ending {n}");
            // Overwriting again and again must not come by the held segments.
            for n in 0..300u64 {
                set(&mut s, format!("g{n}").as_bytes(), &value_of(n, 3_000), Expiry::Never, NOW);
            }
            assert!(read(&s, pin, 1 << 20) == value, "{len} bytes, ending {n}, later");
            s.unpin(pin);
            s.check();
            run(&mut s, b"k", Op::Del, NOW);
            s.flush();
            assert_eq!(s.arena.in_use(), 0, "{len} bytes, ending {n}: something is left");
            s.check();
        }
    }
}

#[test]
fn a_value_is_pinned_once_however_many_answers_refer_to_it() {
    let mut s = shard(32 << 20, Policy::Clock);
    let value = value_of(1, 3 << 20);
    set(&mut s, b"k", &value, Expiry::Never, NOW);
    let first = run_pinning(&mut s, b"k", Op::Get, NOW).expect("a pin");
    let (in_use, bytes) = (s.arena.in_use(), s.pins_bytes());
    for _ in 0..1_000 {
        assert_eq!(run_pinning(&mut s, b"k", Op::Get, NOW), Ok(first));
    }
    assert_eq!((s.arena.in_use(), s.pins_bytes()), (in_use, bytes), "a thousand cost what one does");
    assert_eq!(run_pinning(&mut s, b"k", Op::GetDel, NOW), Ok(first));
    assert!(s.orphaned_bytes(first) >= 3 << 20);
    assert!(s.arena.in_use() >= in_use - 1, "the dead value is still counted");
    for n in 0..1_001 {
        if n % 200 == 0 {
            assert!(read(&s, first, 1 << 18) == value);
            s.check();
        }
        s.unpin(first);
        assert!(s.orphaned_bytes(first) > 0, "given back too early");
    }
    s.unpin(first);
    assert_eq!((s.arena.extent_count(), s.pins_bytes()), (0, 0));
    s.check();
}

#[test]
fn an_answer_of_the_old_value_is_not_overwritten_by_the_new_one() {
    let mut s = shard(32 << 20, Policy::Clock);
    let (old, new) = (value_of(1, 2 << 20), value_of(2, 2 << 20));
    set(&mut s, b"k", &old, Expiry::Never, NOW);
    let get_set = Op::Set { value: &new, expiry: Expiry::Never, condition: Condition::Always, reply: SetReply::Old };
    let pin = run_pinning(&mut s, b"k", get_set, NOW).expect("the old value");
    assert!(read(&s, pin, 1 << 18) == old);
    assert_eq!(get(&mut s, b"k", NOW), Some(new.clone()));
    s.unpin(pin);
    s.check();
    // With nobody reading, the value is overwritten where it is.
    let before = s.arena.in_use();
    set(&mut s, b"k", &old, Expiry::Never, NOW);
    assert_eq!(s.arena.in_use(), before);
    let mut rng = Rng::new(3);
    let id = draft(&mut s, b"k", &new, &mut rng, NOW);
    assert_eq!(get(&mut s, b"k", NOW), Some(old.clone()), "a draft is nobody's yet");
    let pin = set_draft(&mut s, b"k", id, (Expiry::In(50), Condition::Present, SetReply::Old), NOW).expect("old");
    assert!(read(&s, pin, 77_777) == old && get(&mut s, b"k", NOW) == Some(new));
    s.unpin(pin);
    assert_eq!(get(&mut s, b"k", NOW + 51), None);
    s.check();
}

#[test]
fn drafts_become_values_by_the_rules_of_set() {
    for len in lengths() {
        let mut s = shard(4 << 20, Policy::Clock);
        let mut rng = Rng::new(len as u64);
        let (a, b) = (value_of(1, len), value_of(2, len));
        let id = draft(&mut s, b"k", &a, &mut rng, NOW);
        assert_eq!(s.key_count(), 0);
        assert_eq!(
            set_draft(&mut s, b"k", id, (Expiry::In(100), Condition::Absent, SetReply::Integer), NOW),
            Err(Answer::Integer(1))
        );
        assert!(get(&mut s, b"k", NOW) == Some(a.clone()), "{len}");
        assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::Millis), NOW), Answer::Integer(100));
        let in_use = s.arena.in_use();
        for (condition, reply, answer) in [
            (Condition::Absent, SetReply::Status, Answer::Null),
            (Condition::Absent, SetReply::Integer, Answer::Integer(0)),
        ] {
            let id = draft(&mut s, b"k", &b, &mut rng, NOW);
            assert_eq!(set_draft(&mut s, b"k", id, (Expiry::Never, condition, reply), NOW), Err(answer));
            assert_eq!(s.arena.in_use(), in_use, "a refused draft leaves nothing");
            s.check();
        }
        let id = draft(&mut s, b"x", &b, &mut rng, NOW);
        let present = (Expiry::Never, Condition::Present, SetReply::Status);
        assert_eq!(set_draft(&mut s, b"x", id, present, NOW), Err(Answer::Null));
        let id = draft(&mut s, b"k", &b, &mut rng, NOW);
        assert_eq!(set_draft(&mut s, b"k", id, (Expiry::Keep, Condition::Always, SetReply::Status), NOW), ok());
        assert_eq!(run(&mut s, b"k", Op::Ttl(TtlUnit::Millis), NOW), Answer::Integer(100), "the deadline is kept");
        assert!(get(&mut s, b"k", NOW) == Some(b.clone()));
        let id = draft(&mut s, b"k", &a, &mut rng, NOW);
        let bad = (Expiry::In(0), Condition::Always, SetReply::Status);
        assert_eq!(set_draft(&mut s, b"k", id, bad, NOW), Err(Answer::Refused(OpError::InvalidExpire)));
        let id = draft(&mut s, b"k", &a, &mut rng, NOW);
        let past = (Expiry::At(NOW as i64 - 1), Condition::Always, SetReply::Status);
        assert_eq!(set_draft(&mut s, b"k", id, past, NOW), ok());
        assert_eq!(s.key_count(), 0, "gone before anyone reads it");
        s.check();
        // As a plain write would have stored it, to the byte.
        let id = draft(&mut s, b"k", &a, &mut rng, NOW);
        assert_eq!(set_draft(&mut s, b"k", id, PLAIN, NOW), ok());
        let live = s.memory().live_bytes;
        run(&mut s, b"k", Op::Del, NOW);
        set(&mut s, b"k", &a, Expiry::Never, NOW);
        assert_eq!(s.memory().live_bytes, live, "{len}");
        s.check();
    }
}

#[test]
fn a_draft_takes_segments_as_bytes_come_and_gives_them_back() {
    let mut s = shard(4 << 20, Policy::NoEviction);
    let ids: Vec<DraftId> = (0..1_000).map(|_| s.draft()).collect();
    assert_eq!(s.arena.in_use(), 0, "what is only announced costs nothing");
    ids.into_iter().for_each(|id| s.drop_draft(id));
    let mut rng = Rng::new(1);
    set(&mut s, b"k", b"old", Expiry::Never, NOW);
    assert_eq!(draft(&mut s, b"k", &value_of(1, 5 << 20), &mut rng, NOW), None, "more than there is");
    s.check();
    assert_eq!(set_draft(&mut s, b"k", None, PLAIN, NOW), Err(Answer::Refused(OpError::OutOfMemory)));
    assert_eq!(
        set_draft(&mut s, b"k", None, (Expiry::Never, Condition::Absent, SetReply::Status), NOW),
        Err(Answer::Null),
        "what would not be stored needs no room"
    );
    assert_eq!(get(&mut s, b"k", NOW), Some(b"old".to_vec()));
    assert_eq!(s.stats().refused_oom, 1);
    let id = draft(&mut s, b"k", &value_of(1, 3 << 20), &mut rng, NOW);
    s.flush();
    s.check();
    assert_eq!(set_draft(&mut s, b"k", id, PLAIN, NOW), ok(), "the write comes after the flush");
    assert!(get(&mut s, b"k", NOW) == Some(value_of(1, 3 << 20)));
    s.check();
}

/// Old and new do not fit together: the old one gives way, unless it is being sent.
#[test]
fn a_draft_pushes_out_what_a_write_would() {
    let mut s = shard(8 << 20, Policy::Clock);
    let mut rng = Rng::new(1);
    for round in 0..10 {
        let value = value_of(round, 5 << 20);
        let id = draft(&mut s, b"k", &value, &mut rng, NOW).expect("everything else may go");
        assert_eq!(set_draft(&mut s, b"k", Some(id), PLAIN, NOW), ok());
        assert!(get(&mut s, b"k", NOW) == Some(value));
        s.check();
    }
    let pin = run_pinning(&mut s, b"k", Op::Get, NOW).expect("a pin");
    assert_eq!(draft(&mut s, b"k", &value_of(11, 5 << 20), &mut rng, NOW), None, "it is held");
    assert!(read(&s, pin, 1 << 18) == value_of(9, 5 << 20));
    s.unpin(pin);
    s.check();
    assert!(draft(&mut s, b"k", &value_of(11, 5 << 20), &mut rng, NOW).is_some_and(|id| {
        s.drop_draft(id);
        true
    }));
    s.check();
}

/// One step of a sequence on few keys.
fn step(
    s: &mut Shard,
    rng: &mut Rng,
    pins: &mut Vec<(Pin, Vec<u8>)>,
    drafts: &mut Vec<(Vec<u8>, Vec<u8>, DraftId)>,
    model: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    now: &mut u64,
) {
    let key = format!("key:{}", rng.below(6)).into_bytes();
    let len = [rng.below(100), 3_000 + rng.below(8_000), rng.below(150_000)][rng.below(3) as usize] as usize;
    let value = value_of(rng.next_u64(), len);
    match rng.below(16) {
        0..=3 => match run_pinning(s, &key, Op::Get, *now) {
            Ok(pin) => {
                let expected = model.get(&key).expect("it was written");
                assert!(&read(s, pin, 5_000) == expected);
                pins.push((pin, expected.clone()));
            }
            Err(Answer::Value { bytes, .. }) => assert!(Some(&bytes) == model.get(&key)),
            Err(answer) => assert_eq!(answer, Answer::Null),
        },
        4 | 5 => {
            let answer = set(s, &key, &value, Expiry::Never, *now);
            if answer == Answer::Status("OK".into()) {
                model.insert(key, value);
            }
        }
        6 => {
            let before = s.key_count();
            let tail = &value[..value.len().min(20_000)];
            let was = get(s, &key, *now);
            if let Answer::Integer(len) = run(s, &key, Op::Append { tail }, *now) {
                let mut whole = was.unwrap_or_default();
                // Its own growth may have evicted it.
                if whole.len() + tail.len() != len as usize {
                    assert!(before > 0);
                    whole.clear();
                }
                whole.extend_from_slice(tail);
                assert_eq!(whole.len(), len as usize);
                model.insert(key, whole);
            }
        }
        7 => {
            run(s, &key, Op::Del, *now);
            model.remove(&key);
        }
        8 => {
            let expected = model.get(&key).cloned();
            if let Ok(pin) = run_pinning(s, &key, Op::GetDel, *now) {
                pins.push((pin, expected.expect("it was written")));
            }
            model.remove(&key);
        }
        9 if drafts.len() < 4 => {
            if let Some(id) = draft(s, &key, &value, rng, *now) {
                drafts.push((key, value, id));
            }
        }
        10 | 11 if !drafts.is_empty() => {
            let (key, value, id) = drafts.swap_remove(rng.below(drafts.len() as u64) as usize);
            if set_draft(s, &key, Some(id), PLAIN, *now) == ok() {
                model.insert(key, value);
            }
        }
        12 if !drafts.is_empty() => {
            let (.., id) = drafts.swap_remove(rng.below(drafts.len() as u64) as usize);
            s.drop_draft(id);
        }
        13 if rng.below(20) == 0 => {
            s.flush();
            model.clear();
        }
        14 => {
            *now += 1;
            s.advance(UnixMillis(*now), 50);
        }
        _ => {}
    }
    while pins.len() > 6 || (!pins.is_empty() && rng.below(4) == 0) {
        let (pin, expected) = pins.swap_remove(rng.below(pins.len() as u64) as usize);
        assert!(read(s, pin, 1 + rng.below(50_000) as usize) == expected, "a pin changed");
        s.unpin(pin);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn pins_and_drafts_of_chance(seed: u64, steps in 1usize..400, policy in 0usize..Policy::ALL.len()) {
        let mut s = shard(2 << 20, Policy::ALL[policy]);
        let (mut rng, mut now) = (Rng::new(seed), NOW);
        let (mut pins, mut drafts, mut model) = (Vec::new(), Vec::new(), BTreeMap::new());
        for n in 0..steps {
            step(&mut s, &mut rng, &mut pins, &mut drafts, &mut model, &mut now);
            if n % 16 == 0 {
                s.check();
            }
        }
        s.check();
        for (pin, expected) in pins {
            prop_assert!(read(&s, pin, 3_000) == expected);
            s.unpin(pin);
        }
        drafts.into_iter().for_each(|(.., id)| s.drop_draft(id));
        s.check();
        prop_assert_eq!(s.arena.held_and_pins().0, Vec::<u32>::new());
        s.flush();
        prop_assert_eq!(s.arena.in_use(), 0);
    }
}
