//! Copies of hot keys.
//!
//! Goal: with copies as without, no read that begins after a write was acknowledged sees an older value, no
//! connection sees its own requests out of order or time run backwards, and no expired value is read. Method: one
//! client writes numbers that grow, others read on every core while parcels arrive in any order that the mesh allows;
//! each answer is matched with the writes that it may be of.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What one key has been: the writes in order, the first of which is that it was never there.
#[derive(Clone, Debug)]
struct Written {
    /// The number stored, or none; and the last millisecond in which it is there.
    writes: Vec<(Option<u64>, u64)>,
    /// The last write that was acknowledged, or seen by a read that was answered.
    known: usize,
}

/// A request under way.
#[derive(Debug)]
enum Asked {
    /// Keys, the least write that each may show, and when it was asked.
    Read(Vec<(u8, usize)>, u64),
    /// Keys and their writes.
    Write(Vec<(u8, usize)>),
}

struct Reader {
    client: Client,
    asked: VecDeque<Asked>,
    /// What this connection has written or seen last.
    seen: BTreeMap<u8, usize>,
}

struct Story {
    host: Host,
    keys: BTreeMap<u8, Written>,
    readers: Vec<Reader>,
    now: u64,
    next: u64,
}

const KEYS: u8 = 4;
const START_MS: u64 = 1_700_000_000_000;

impl Story {
    fn new(cores: usize) -> Self {
        let mut host = Host::with_copies(cores, LIMITS, 64 << 20, Policy::Clock, 1);
        let mut reader = |i| {
            // The first, which writes, flushes all cores, and may be moved; so may the last.
            let scope = if i == 0 || i == cores { Scope::Host } else { Scope::Core };
            Reader { client: host.connect(i % cores, scope), asked: VecDeque::new(), seen: BTreeMap::new() }
        };
        let readers = (0..cores + 1).map(&mut reader).collect();
        let written = Written { writes: vec![(None, u64::MAX)], known: 0 };
        let keys = (0..KEYS).map(|key| (key, written.clone())).collect();
        Self { host, keys, readers, now: START_MS, next: 1 }
    }

    /// Makes every key hot on its core, read by all.
    fn warm_up(&mut self) {
        for key in 0..KEYS {
            self.write(0, key, false);
        }
        self.rest();
        for _ in 0..12 {
            for i in 0..self.readers.len() {
                for key in 0..KEYS {
                    for _ in 0..100 {
                        self.read(i, &[key]);
                    }
                }
            }
            self.rest();
        }
    }

    fn read(&mut self, reader: usize, keys: &[u8]) {
        let reader = &mut self.readers[reader];
        let least = |key: &u8| (*key, self.keys[key].known.max(reader.seen.get(key).copied().unwrap_or(0)));
        let asked = Asked::Read(keys.iter().map(least).collect(), self.now);
        reader.asked.push_back(asked);
        let name = |key: &u8| format!("k{key}");
        let args: Vec<String> = match keys {
            [key] => vec!["GET".into(), name(key)],
            _ => std::iter::once("MGET".into()).chain(keys.iter().map(name)).collect(),
        };
        self.host.feed(&reader.client, &request(&args));
    }

    /// Only the first connection writes, so that the order of the writes of a key is known.
    fn write(&mut self, kind: u8, key: u8, all: bool) {
        let keys: Vec<u8> = if all { (0..KEYS).collect() } else { vec![key] };
        let n = self.next;
        self.next += 1;
        let (command, stored) = match (all, kind) {
            (true, 0..5) => ("FLUSHALL".to_owned(), (None, u64::MAX)),
            (true, _) => {
                let pairs: Vec<String> = keys.iter().map(|key| format!("k{key} {n}")).collect();
                (format!("MSET {}", pairs.join(" ")), (Some(n), u64::MAX))
            }
            (_, 0..5) => (format!("SET k{key} {n}"), (Some(n), u64::MAX)),
            (_, 5) => (format!("DEL k{key}"), (None, u64::MAX)),
            (_, 6) => (format!("SET k{key} {n} PXAT {}", self.now + 40), (Some(n), self.now + 40)),
            _ => (format!("SET k{key} {n} EX 100 SOFTPX 1"), (Some(n), u64::MAX)),
        };
        let writer = &mut self.readers[0];
        let mut numbers = Vec::new();
        for key in keys {
            let written = self.keys.get_mut(&key).unwrap();
            written.writes.push(stored);
            numbers.push((key, written.writes.len() - 1));
            writer.seen.insert(key, written.writes.len() - 1);
        }
        writer.asked.push_back(Asked::Write(numbers));
        self.host.feed(&writer.client, &words(&command));
    }

    /// Takes in what has been answered, and judges it.
    fn take_in(&mut self, index: usize) -> Result<(), TestCaseError> {
        let reader = &mut self.readers[index];
        let client = &mut reader.client;
        while self.host.take(client) | self.host.confirm(client) | self.host.hand_over(client) {}
        let got = std::mem::take(&mut reader.client.got);
        for reply in replies(&got) {
            match reader.asked.pop_front().expect("nothing is answered that was not asked") {
                Asked::Write(numbers) => {
                    for (key, number) in numbers {
                        let written = self.keys.get_mut(&key).unwrap();
                        written.known = written.known.max(number);
                    }
                }
                Asked::Read(keys, asked_at) => {
                    let values: Vec<&[u8]> = if keys.len() == 1 { vec![reply] } else { replies(&reply[4..]) };
                    for ((key, least), value) in keys.into_iter().zip(values) {
                        let text = std::str::from_utf8(value).unwrap();
                        let value =
                            text.split("\r\n").nth(1).filter(|_| text != "$-1\r\n").map(|n| n.parse::<u64>().unwrap());
                        let written = self.keys.get_mut(&key).unwrap();
                        let least = least.max(if index == 0 { 0 } else { reader.seen.get(&key).copied().unwrap_or(0) });
                        let may_be = |&(stored, until): &(Option<u64>, u64)| match value {
                            Some(_) => stored == value && until >= asked_at,
                            None => stored.is_none() || until < self.now,
                        };
                        let found = written.writes.iter().enumerate().skip(least).find(|(_, write)| may_be(write));
                        let Some((number, _)) = found else {
                            return Err(TestCaseError::fail(format!(
                                "k{key} is {value:?} for connection {index}, which may see writes from {least} of {:?}",
                                written.writes
                            )));
                        };
                        // An answer of nothing may be of several writes, and shows only the first of them.
                        written.known = written.known.max(number);
                        let seen = reader.seen.entry(key).or_insert(0);
                        *seen = (*seen).max(number);
                    }
                }
            }
        }
        Ok(())
    }

    fn rest(&mut self) {
        self.host.carry();
        for index in 0..self.readers.len() {
            self.host.settle(&mut self.readers[index].client);
            self.take_in(index).unwrap();
        }
    }

    fn copies(&self) -> u64 {
        self.host.nodes.iter().map(|node| node.snapshot().copies).sum()
    }

    fn copy_reads(&self) -> u64 {
        self.host.nodes.iter().map(|node| node.snapshot().copy_reads).sum()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, Vec<u8>),
    Write(u8, u8, bool),
    Post(usize),
    Arrive(usize, usize),
    TakeIn(usize),
    Carry,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4usize, proptest::collection::vec(0..KEYS, 1..3)).prop_map(|(i, keys)| Step::Read(i, keys)),
        3 => (0..8u8, 0..KEYS).prop_map(|(kind, key)| Step::Write(kind, key, false)),
        1 => (0..8u8).prop_map(|kind| Step::Write(kind, 0, true)),
        4 => (0..3usize).prop_map(Step::Post),
        4 => (0..3usize, 0..3usize).prop_map(|(from, to)| Step::Arrive(from, to)),
        4 => (0..4usize).prop_map(Step::TakeIn),
        2 => Just(Step::Carry),
        1 => (0..200u16).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn copies_show_nothing_that_their_owners_would_not(cores in 2..4usize, steps in proptest::collection::vec(step(), 1..400)) {
        let mut story = Story::new(cores);
        story.warm_up();
        prop_assert!(story.copies() > 0);
        for step in steps {
            match step {
                Step::Read(i, keys) => story.read(i % (cores + 1), &keys),
                Step::Write(kind, key, all) => story.write(kind, key, all),
                Step::Post(core) => story.host.post(core % cores),
                Step::Arrive(from, to) => drop(story.host.arrive(from % cores, to % cores)),
                Step::TakeIn(i) => story.take_in(i % (cores + 1))?,
                Step::Carry => story.host.carry(),
                Step::Wait(ms) => {
                    story.now += u64::from(ms);
                    story.host.nodes.iter_mut().for_each(|node| node.set_time(story.now * 1000));
                }
            }
        }
        story.host.carry();
        for i in 0..cores + 1 {
            story.host.settle(&mut story.readers[i].client);
            story.take_in(i)?;
            prop_assert!(story.readers[i].asked.is_empty());
        }
        prop_assert!(story.copy_reads() > 0);
    }
}

/// A host of three cores of which the first owns the hot `key`, the second holds a copy, and the third could.
fn hot_host(set: &str) -> (Host, String) {
    let mut host = Host::with_copies(3, LIMITS, 64 << 20, Policy::Clock, 10_000);
    let key = key_on(&host, 0, 1);
    let mut client = host.connect(1, Scope::Core);
    host.ask(&mut client, words(&set.replace("KEY", &key)));
    for _ in 0..40 {
        host.ask(&mut client, words(&format!("GET {key}")).repeat(100));
    }
    (host, key)
}

fn copies(host: &Host, core: usize) -> (u64, u64) {
    let snapshot = host.nodes[core].snapshot();
    (snapshot.copies, snapshot.copy_reads)
}

#[test]
fn a_copy_that_arrives_between_two_requests_of_a_connection_does_not_come_between_them() {
    let (mut host, key) = hot_host("SET KEY old");
    assert_eq!((copies(&host, 1).0, copies(&host, 2).0), (1, 0));
    let (mut other, mut client) = (host.connect(2, Scope::Core), host.connect(2, Scope::Core));
    host.feed(&other, &words(&format!("GET {key}")));
    host.post(2);
    host.arrive(2, 0);
    host.post(0);
    host.feed(&client, &words(&format!("SET {key} new")));
    host.arrive(0, 2);
    assert_eq!(copies(&host, 2), (1, 0));
    assert_eq!(host.ask(&mut client, words(&format!("GET {key}"))), "+OK\r\n$3\r\nnew\r\n");
    assert_eq!(host.ask(&mut other, words(&format!("GET {key}"))), "$3\r\nold\r\n$3\r\nnew\r\n");
}

#[test]
fn a_copy_answers_as_its_owner_in_every_protocol() {
    let (mut host, key) = hot_host("SET KEY value EX 100");
    let requests = [
        (Protocol::Resp, format!("GET {key}\r\nMGET {key} {key}\r\nHELLO 3\r\nGETLEASE {key}\r\n")),
        (Protocol::Memcache, format!("get {key}\r\ngets {key}\r\nmg {key} v f s k t h c Oabc\r\nme {key}\r\n")),
        (Protocol::Http, format!("GET /v1/cache/{key} HTTP/1.1\r\nHost: a\r\n\r\n")),
        (Protocol::Http, format!("HEAD /v1/cache/{key} HTTP/1.1\r\nHost: a\r\n\r\n")),
        (
            Protocol::Http,
            format!("GET /v1/cache/{key}?waitMs=10 HTTP/1.1\r\nHost: a\r\nAccept: application/octet-stream\r\n\r\n"),
        ),
    ];
    for (protocol, text) in requests {
        let before = copies(&host, 1).1;
        let mut answers = [0, 1].map(|core| {
            let mut client = host.connect_as(protocol, core, Scope::Core);
            let answer = host.ask(&mut client, &text);
            assert!(answer.contains("value") || text.starts_with("HEAD"), "{answer}");
            // Each connection has its own number.
            answer.replace(&format!(":{}\r\n$4\r\nmode", host.nodes[core].session(client.id).unwrap().id), "")
        });
        assert!(copies(&host, 1).1 > before, "{text}");
        answers.sort_unstable();
        assert_eq!(answers[0], answers[1], "{text}");
    }
}

#[test]
fn what_is_not_plain_is_not_copied() {
    let plain = hot_host("SET KEY v").0;
    assert_eq!(copies(&plain, 1).0, 1);
    // In 64 MiB a copy may have 16 KiB.
    for set in ["SET KEY v EX 100 SOFTEX 50", "SETEX absent:KEY 10 v"] {
        let (host, _) = hot_host(set);
        assert_eq!(copies(&host, 1), (0, 0), "{set}");
    }
    let (mut host, key) = hot_host("SET KEY v");
    let mut client = host.connect(1, Scope::Core);
    let pushed = host.ask(&mut client, format!("HELLO 3\r\nCLIENT TRACKING ON\r\nGET {key}\r\n"));
    assert!(pushed.ends_with("$1\r\nv\r\n"), "{pushed}");
    let mut writer = host.connect(0, Scope::Core);
    host.ask(&mut writer, words(&format!("SET {key} w")));
    host.settle(&mut client);
    assert!(client.got.starts_with(b">2\r\n"), "a connection that tracks is told, so a copy did not answer it");
}

/// A key that is written as often as it is read gains nothing from copies.
#[test]
fn copies_that_are_of_no_use_are_not_made() {
    let (mut host, key) = hot_host("SET KEY v");
    let (mut writer, mut reader) = (host.connect(0, Scope::Core), host.connect(1, Scope::Core));
    let before = copies(&host, 1).1;
    for _ in 0..1000 {
        host.ask(&mut writer, words(&format!("SET {key} w")));
        host.ask(&mut reader, words(&format!("GET {key}")));
        host.ask(&mut reader, words(&format!("GET {key}")));
    }
    let reads = copies(&host, 1).1 - before;
    assert!(reads < 200, "{reads}");
}

#[test]
fn a_key_that_is_hot_no_more_is_copied_no_more() {
    let (mut host, key) = hot_host("SET KEY v");
    let mut reader = host.connect(1, Scope::Core);
    let at = |host: &mut Host, ms: u64| {
        host.nodes.iter_mut().for_each(|node| {
            node.set_time((START_MS + ms) * 1000);
            while node.advance(64) {}
        });
    };
    // Its holder asks again every second, and is given a new copy as long as it is read.
    for second in 1..5 {
        at(&mut host, second * 1100);
        let before = copies(&host, 1).1;
        host.ask(&mut reader, words(&format!("GET {key}")).repeat(2));
        host.ask(&mut reader, words(&format!("GET {key}")));
        assert_eq!(copies(&host, 1).1 - before, 1, "in second {second}");
    }
    at(&mut host, 60_000);
    assert_eq!(copies(&host, 1).0, 0);
    assert_eq!(host.ask(&mut reader, words(&format!("GET {key}"))), "$1\r\nv\r\n");
}

#[test]
fn the_copies_of_one_core_are_few_and_small() {
    let mut host = Host::with_copies(2, Limits { value_bytes_max: 1 << 20, ..LIMITS }, 64 << 20, Policy::Clock, 1);
    let mut client = host.connect(1, Scope::Core);
    let keys: Vec<String> = (0..40).map(|salt| key_on(&host, 0, salt)).collect();
    for (i, key) in keys.iter().enumerate() {
        let value = "v".repeat(if i == 0 { 20 << 10 } else { 10 << 10 });
        host.ask(&mut client, words(&format!("SET {key} {value}")));
    }
    for _ in 0..60 {
        for key in &keys {
            host.ask(&mut client, words(&format!("GET {key}")).repeat(60));
        }
    }
    let (held, reads) = copies(&host, 1);
    assert!((1..=16).contains(&held) && reads > 0, "{held} copies, {reads} reads");
    assert!(host.nodes[1].copies.held_bytes() < 16 * (10 << 10) + 8192, "{}", host.nodes[1].copies.held_bytes());
    let mut alone = Host::with_copies(1, LIMITS, 4 << 20, Policy::Clock, 1);
    let mut client = alone.connect(0, Scope::Host);
    alone.ask(&mut client, words("GET a").repeat(10_000));
    assert_eq!(copies(&alone, 0), (0, 0));
}

/// A key that shares a bit of the set with a hot one is not taken for it, and a write is never answered by a copy.
#[test]
fn only_reads_of_the_hot_key_itself_leave_a_connection_where_it_is() {
    let (mut host, hot) = hot_host("SET KEY v");
    let bit = |host: &Host, key: &str| host.nodes[0].locate(key.as_bytes()).0.hash.bit();
    let like = |host: &Host, key: &String| *key != hot && bit(host, key) == bit(host, &hot);
    let other = (0..).map(|salt| key_on(&host, 0, salt)).find(|key| like(&host, key)).unwrap();
    let moves = |host: &mut Host, request: String| {
        let mut client = host.connect(1, Scope::Host);
        host.ask(&mut client, words(&request));
        client.moves
    };
    assert_eq!(moves(&mut host, format!("GET {hot}")), 0);
    assert_eq!(moves(&mut host, format!("GET {other}")), 1);
    assert_eq!(moves(&mut host, format!("SET {hot} w")), 1);
    let mut client = host.connect(1, Scope::Host);
    host.ask(&mut client, words(&format!("GET {hot}")).repeat(10));
    host.ask(&mut client, words(&format!("GET {other}")).repeat(200));
    assert_eq!(client.moves, 1, "it is steered by what it asks for later");
}
