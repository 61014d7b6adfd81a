//! Large values, a piece at a time in both directions.
//!
//! Goal: streaming changes no reply, however the bytes are cut and whatever others do to the keys
//! meanwhile; it holds pieces, not values; and nothing is left of a connection that
//! goes in the middle. Method: the same requests with streaming and without, and
//! after each test an empty shard that holds nothing.

use super::pipelines::{Disturbance, disturbed, plainly};
use super::*;
use crate::base::rng::Rng;
use proptest::prelude::*;

/// Segments of 8 KiB; values from 6,000 bytes on are streamed.
const SMALL: Limits = Limits {
    value_bytes_max: 100_000,
    stream_bytes_min: 6_000,
    output_soft_bytes_max: 1 << 20,
    output_hard_bytes_max: 2 << 20,
    ..LIMITS
};
const PLAIN: Limits = Limits { stream_bytes_min: usize::MAX, ..SMALL };
/// Segments of 128 KiB, and values of several pieces.
const WIDE: Limits = Limits { value_bytes_max: 1 << 20, stream_bytes_min: 200_000, ..SMALL };

fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn set(key: &str, value: &[u8], options: &[&str]) -> Vec<u8> {
    let mut args: Vec<&[u8]> = vec![b"SET", key.as_bytes(), value];
    args.extend(options.iter().map(|option| option.as_bytes()));
    request(&args)
}

impl Host {
    /// Feeds in pieces of `step` bytes, as far as they are wanted or not.
    fn feed_in(&mut self, client: &Client, bytes: &[u8], step: usize) {
        bytes.chunks(step).for_each(|piece| self.feed(client, piece));
    }

    /// Bytes that the session holds beside values in the arena.
    fn held(&mut self, client: &Client) -> usize {
        let session = self.nodes[client.core].session(client.id).expect("the session is there");
        session.held_bytes() + session.in_flight_bytes
    }

    /// Nothing is left once every key is gone.
    fn check_empty(&mut self) {
        for node in &mut self.nodes {
            node.shard().flush();
            assert_eq!(node.shard().memory().live_bytes, 0, "segments that nobody needs");
            assert_eq!(node.shard().pins_bytes(), 0);
        }
    }
}

#[test]
fn a_value_taken_in_is_the_same_however_it_is_cut() {
    let (a, b) = (value(1, 20_000), value(2, 16_384));
    let stream = [
        set("k", &a, &[]),
        words("get k"),
        set("k", &b, &["NX"]),
        set("k", &b, &["XX", "GET", "EX", "100"]),
        words("ttl k"),
        request(&[b"SETEX", b"x".as_slice(), b"50", &a]),
        words("ttl x"),
        request(&[b"PSETEX", b"x".as_slice(), b"0", &a]),
        request(&[b"SETNX", b"x".as_slice(), &b]),
        request(&[b"GETSET", b"x".as_slice(), &b]),
        set("x", &a, &["EX", "nonsense"]),
        set("x", &a, &["what"]),
        set("y", &a, &["XX"]),
        words("exists y"),
        words("mget k y x k"),
        words("getdel k"),
        words("append x tail"),
        words("strlen x"),
        words("ping"),
    ]
    .concat();
    let (expected, state) = plainly(&stream, PLAIN);
    assert_eq!((replies(&expected).len(), state), (19, State::Open));
    let run = |pieces: &[&[u8]], what: &str| {
        let mut host = Host::new(1, SMALL);
        let mut client = host.connect(0, Scope::Host);
        for piece in pieces {
            host.feed(&client, piece);
        }
        host.settle(&mut client);
        assert!(client.got == expected, "{what}");
        host.check_empty();
    };
    for step in [1, 7, 1_000, 8_192, 20_011, stream.len()] {
        run(&stream.chunks(step).collect::<Vec<_>>(), &format!("pieces of {step}"));
    }
    // Around everything that has a border: heads, the threshold, ends of values and options.
    let mut cuts: Vec<usize> = (0..60).chain((0..stream.len()).step_by(2_003)).collect();
    let mut at = 0;
    for (n, byte) in stream.iter().enumerate() {
        if *byte == b'*' && stream[n..].starts_with(b"*") && stream[..n].ends_with(b"\r\n") && n > at + 5_000 {
            cuts.extend(n - 30..n + 40);
            at = n;
        }
    }
    cuts.extend((0..12).map(|n| 27 + 6_000 + n));
    for cut in cuts {
        run(&[&stream[..cut], &stream[cut..]], &format!("cut at {cut}"));
    }
}

#[test]
fn lengths_around_the_threshold_and_the_segments_come_back_whole() {
    let around = |n: usize| n - 2..=n + 2;
    let lengths = [6_000, 8_192, 12_288, 16_384, 24_576].into_iter().flat_map(around).chain([99_999, 100_000, 100_001]);
    for len in lengths {
        let mut host = Host::new(1, SMALL);
        let mut client = host.connect(0, Scope::Host);
        let value = value(len as u64, len);
        let stream = [set("k", &value, &["PX", "100000"]), words("get k"), words("ping")].concat();
        host.feed_in(&client, &stream, 1_001);
        host.settle(&mut client);
        let expected = if len > 100_000 {
            let refusal = format!("-ERR an argument of {len} bytes exceeds limits.value_bytes (100000)\r\n$-1\r\n");
            [refusal.as_bytes(), b"+PONG\r\n"].concat()
        } else {
            [b"+OK\r\n", &bulk(&value)[..], b"+PONG\r\n"].concat()
        };
        assert!(client.got == expected, "{len}");
        host.check_empty();
    }
}

/// A request whose values are long, shown in short.
#[derive(Clone)]
struct Long(Vec<u8>);

impl std::fmt::Debug for Long {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (start, end) = (&self.0[..self.0.len().min(40)], &self.0[self.0.len().saturating_sub(20)..]);
        write!(f, "{} … {} ({} bytes)", start.escape_ascii(), end.escape_ascii(), self.0.len())
    }
}

/// A request of a pipeline.
fn long_request() -> impl Strategy<Value = Long> {
    let key = (0..4u8).prop_map(|n| format!("k{n}"));
    let long = (any::<u64>(), prop_oneof![1usize..200, 5_990usize..6_010, 8_100usize..8_300, 6_000usize..50_000])
        .prop_map(|(seed, len)| value(seed, len));
    let options = prop_oneof![
        6 => Just(vec![]),
        1 => Just(vec!["NX"]),
        1 => Just(vec!["XX", "GET"]),
        1 => Just(vec!["GET"]),
        1 => Just(vec!["EX", "100"]),
        1 => Just(vec!["EX", "0"]),
        1 => Just(vec!["NX", "XX"]),
        1 => Just(vec!["KEEPTTL"]),
    ];
    prop_oneof![
        6 => (key.clone(), long.clone(), options).prop_map(|(key, value, options)| set(&key, &value, &options)),
        1 => (key.clone(), long.clone()).prop_map(|(k, v)| request(&[b"SETEX", k.as_bytes(), b"90", &v])),
        1 => (key.clone(), long.clone()).prop_map(|(k, v)| request(&[b"GETSET", k.as_bytes(), &v])),
        1 => (key.clone(), long.clone()).prop_map(|(k, v)| request(&[b"APPEND", k.as_bytes(), &v[..v.len() / 4]])),
        1 => (key.clone(), key.clone(), long).prop_map(|(a, b, v)| request(&[b"MSET", a.as_bytes(), &v, b.as_bytes(), b"s"])),
        6 => key.clone().prop_map(|k| words(&format!("get {k}"))),
        2 => (key.clone(), key.clone()).prop_map(|(a, b)| words(&format!("mget {a} {b} {a}"))),
        1 => key.clone().prop_map(|k| words(&format!("getdel {k}"))),
        1 => key.clone().prop_map(|k| words(&format!("getex {k} ex 1000"))),
        1 => key.clone().prop_map(|k| words(&format!("del {k}"))),
        1 => key.prop_map(|k| words(&format!("strlen {k}"))),
        1 => Just(words("ping")),
        1 => Just(words("flushall")),
        1 => Just(words("hello 3")),
        1 => Just(request(&[b"SET", b"k1".as_slice(), &[b'x'; 100_001], b"EX", b"5"])),
        1 => Just(request(&[b"SET", b"k1".as_slice(), &[b'x'; 20_000], &[b'y'; 100_001]])),
    ]
    .prop_map(Long)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// On one core with keys of its own everything is streamed; the order of the keys' commands is that of the requests.
    #[test]
    fn streaming_changes_no_reply(
        requests in proptest::collection::vec(long_request(), 1..40), seed in any::<u64>(), soft in 1..100_000usize,
    ) {
        let stream = requests.into_iter().flat_map(|request| request.0).collect::<Vec<_>>();
        let expected = plainly(&stream, PLAIN);
        let limits = Limits { output_soft_bytes_max: soft, ..SMALL };
        let got = disturbed(1, &stream, limits, Disturbance { seed, moves: false });
        prop_assert!(expected == got, "{} and {} bytes", expected.0.len(), got.0.len());
    }

    /// Several cores, one key after the other: replies of other cores stand between the pinned ones.
    #[test]
    fn streaming_among_cores_changes_no_reply(
        cores in 2..4usize, requests in proptest::collection::vec(long_request(), 1..30), seed in any::<u64>(), moves: bool,
    ) {
        // Replies name no connection, but HELLO does.
        let requests = requests.into_iter().filter(|r| !r.0.windows(5).any(|w| w == b"hello"));
        let stream = requests.flat_map(|request| request.0).collect::<Vec<_>>();
        let expected = plainly(&stream, PLAIN);
        let got = disturbed(cores, &stream, SMALL, Disturbance { seed, moves });
        prop_assert!(expected == got, "{} and {} bytes", expected.0.len(), got.0.len());
    }
}

#[test]
fn a_value_on_its_way_in_is_held_once_and_given_back_when_the_client_goes() {
    let mut host = Host::new(1, WIDE);
    let client = host.connect(0, Scope::Host);
    let long = value(1, 1_000_000);
    let stream = set("k", &long, &["EX", "10"]);
    for (n, piece) in stream[..900_000].chunks(8_192).enumerate() {
        host.feed(&client, piece);
        assert!(host.held(&client) < 20_000, "{} bytes held after piece {n}", host.held(&client));
    }
    let live = host.nodes[0].shard().memory().live_bytes;
    assert!((880_000..900_000).contains(&live), "{live}");
    let mut other = host.connect(0, Scope::Host);
    assert_eq!(host.ask(&mut other, words("exists k")), ":0\r\n", "it is not there before it is whole");
    host.nodes[0].close(client.id);
    assert_eq!(host.nodes[0].shard().memory().live_bytes, 0);
    // The same with an end in order.
    let client = host.connect(0, Scope::Host);
    host.feed_in(&client, &stream[..900_000], 8_192);
    host.nodes[0].end_of_input(client.id);
    assert_eq!(host.wishes(&client).0, State::Draining);
    assert!(host.nodes[0].is_quiet(client.id), "nothing is waited for");
    assert_eq!(host.nodes[0].shard().memory().live_bytes, 0);
    host.nodes[0].close(client.id);
    host.check_empty();
}

/// What follows the value is no argument, or one too long: the value is given up, and the reply is
/// what it would have been.
#[test]
fn what_is_wrong_behind_a_value_is_wrong() {
    let value = value(1, 20_000);
    for (behind, state) in [
        (&b":1\r\n"[..], State::Draining),
        (b"$-1\r\n", State::Draining),
        (b"$600000000\r\n", State::Draining),
        (&bulk(&[b'x'; 100_001]), State::Open),
        (b"$2\r\nEX", State::Open),
    ] {
        let head = [b"*4\r\n", &bulk(b"SET")[..], &bulk(b"k"), &bulk(&value), behind].concat();
        let expected = plainly(&head, PLAIN);
        assert_eq!(expected.1, state);
        let mut host = Host::new(1, SMALL);
        let mut client = host.connect(0, Scope::Host);
        host.feed_in(&client, &head, 1_000);
        host.settle(&mut client);
        assert_eq!((&client.got, host.wishes(&client).0), (&expected.0, state));
        let left = host.nodes[0].shard().memory().live_bytes;
        assert_eq!(left > 0, behind.ends_with(b"EX"), "only a request that may still be whole keeps its value");
        host.nodes[0].close(client.id);
        host.check_empty();
    }
}

#[test]
fn announcing_costs_nothing() {
    let mut host = Host::new(1, WIDE);
    let clients: Vec<_> = (0..500).map(|_| host.connect(0, Scope::Host)).collect();
    for client in &clients {
        host.feed(client, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n");
        assert!(host.held(client) < 1_000);
    }
    let memory = host.nodes[0].shard().memory();
    assert_eq!((memory.live_bytes, memory.segments_free), (0, memory.segments_total));
    clients.iter().for_each(|client| drop(host.nodes[0].close(client.id)));
    host.check_empty();
}

/// The reader takes one piece and waits while the key gets every fate.
#[test]
fn a_slow_reader_gets_the_value_it_asked_for() {
    let (old, new) = (value(1, 1_000_000), value(2, 999_999));
    let fates = [
        set("k", &new, &[]),
        set("k", b"short", &[]),
        words("del k"),
        words("flushall"),
        request(&[b"APPEND", b"k".as_slice(), &new[..300_000]]),
        words("getdel k"),
        words("pexpire k -1"),
    ];
    for fate in fates {
        let mut host = Host::new(1, WIDE);
        let (mut reader, mut other) = (host.connect(0, Scope::Host), host.connect(0, Scope::Host));
        assert_eq!(host.ask(&mut other, set("k", &old, &[])), "+OK\r\n");
        host.feed(&reader, &[words("ping"), words("get k"), words("ping")].concat());
        assert!(host.take(&mut reader));
        assert_eq!(reader.sending.as_ref().map(Vec::len), Some(256 << 10), "one piece");
        host.feed_in(&other, &fate, 8_192);
        host.settle(&mut other);
        assert!(host.held(&reader) < (256 << 10) + 10_000, "{}", host.held(&reader));
        assert!(!host.nodes[0].is_quiet(reader.id));
        host.settle(&mut reader);
        let expected = [b"+PONG\r\n", &bulk(&old)[..], b"+PONG\r\n"].concat();
        assert!(reader.got == expected);
        host.check_empty();
    }
}

/// A reader that goes in the middle, one that is closed for what it holds, and one that is given up.
#[test]
fn a_reader_that_goes_leaves_nothing() {
    let mut host = Host::new(1, WIDE);
    let mut other = host.connect(0, Scope::Host);
    for _ in 0..3 {
        host.ask(&mut other, set("k", &value(1, 1_000_000), &[]));
        let mut reader = host.connect(0, Scope::Host);
        host.feed(&reader, &words("get k"));
        host.take(&mut reader);
        host.ask(&mut other, words("del k"));
        assert!(host.nodes[0].shard().memory().live_bytes >= 1_000_000, "it is in use");
        host.nodes[0].close(reader.id);
        assert_eq!(host.nodes[0].shard().memory().live_bytes, 0);
    }
    host.check_empty();
}

#[test]
fn many_answers_of_one_value_hold_it_once() {
    let mut host = Host::new(1, Limits { output_soft_bytes_max: 1_900_000, ..WIDE });
    let mut client = host.connect(0, Scope::Host);
    let long = value(1, 1_000_000);
    host.ask(&mut client, set("k", &long, &[]));
    host.feed(&client, &words("get k").repeat(1_000));
    host.carry();
    assert!(host.held(&client) < 200_000, "{}", host.held(&client));
    let session = host.nodes[0].session(client.id).unwrap();
    assert_eq!((session.output.marks().len(), session.output.marks().bytes()), (1_000, 1_000_000));
    host.nodes[0].close(client.id);
    // In one reply too; two values of that length are more than the hard limit.
    let mut client = host.connect(0, Scope::Host);
    let answer = host.ask_bytes(&mut client, &words("mget k k k k"));
    assert!(answer == [b"*4\r\n", &bulk(&long).repeat(4)[..]].concat());
    host.ask(&mut client, set("l", &long, &[]));
    host.ask(&mut client, set("m", &long, &[]));
    let refusal = "-ERR a reply exceeds limits.output_hard_bytes (2097152)\r\n";
    assert_eq!(host.ask(&mut client, words("mget k l m")), refusal);
    assert_eq!(host.ask(&mut client, words("ping")), "+PONG\r\n");
    host.check_empty();
}

impl Host {
    fn ask_bytes(&mut self, client: &mut Client, bytes: &[u8]) -> Vec<u8> {
        self.feed(client, bytes);
        self.settle(client);
        std::mem::take(&mut client.got)
    }
}

/// Whoever keeps a dead value in use and takes nothing is closed when memory is short, or after a minute.
#[test]
fn a_reader_that_never_reads_does_not_hold_dead_values_for_ever() {
    let mut host = Host::new(1, WIDE);
    let mut other = host.connect(0, Scope::Host);
    let seconds = |host: &mut Host, n: u64| host.nodes[0].set_time(1_700_000_000_000_000 + n * 1_000_000);
    seconds(&mut host, 0);
    let mut readers = Vec::new();
    for n in 0..70 {
        let key = format!("k{n}");
        host.ask(&mut other, set(&key, &value(n, 1_000_000), &[]));
        let mut reader = host.connect(0, Scope::Host);
        host.feed(&reader, &words(&format!("get {key}")));
        host.take(&mut reader);
        readers.push(reader);
        assert_eq!(host.nodes[0].shed_stalled(), 0, "nobody was refused anything");
    }
    // Every value is being sent: there is nothing left to evict.
    let mut refused = 0;
    for n in 0..60 {
        refused += usize::from(host.ask(&mut other, set("new", &value(n, 1_000_000), &[])).starts_with("-OOM"));
        host.ask(&mut other, words("del new"));
        for n in 0..70 {
            host.ask(&mut other, words(&format!("del k{n}")));
        }
    }
    assert!(refused > 0);
    assert_eq!(host.nodes[0].shed_stalled(), 0, "they had no time yet");
    seconds(&mut host, 2);
    host.ask(&mut other, set("new", &value(1, 1_000_000), &[]));
    assert_eq!(host.nodes[0].shed_stalled(), 1);
    let broken = readers.iter().filter(|reader| host.wishes(reader).0 == State::Broken).count();
    assert_eq!(broken, 1);
    assert_eq!(host.nodes[0].shed_stalled(), 0);
    assert_eq!(host.ask(&mut other, set("new", &value(1, 1_000_000), &[])), "+OK\r\n", "there is room again");
    seconds(&mut host, 59);
    host.confirm(&mut readers[0]);
    host.take(&mut readers[0]);
    seconds(&mut host, 70);
    let closed = host.nodes[0].shed_stalled();
    assert!((40..70).contains(&closed), "{closed}");
    host.settle(&mut readers[0]);
    assert!(replies(&readers[0].got).len() == 1 || host.wishes(&readers[0]).0 == State::Broken);
    readers.iter().for_each(|reader| drop(host.nodes[0].close(reader.id)));
    host.check_empty();
}

/// The first request of a plain connection stores a long value that belongs to another core.
#[test]
fn a_long_value_goes_to_the_core_of_its_key_before_it_is_taken_in() {
    let mut host = Host::new(2, WIDE);
    let key = key_on(&host, 1, 0);
    let mut client = host.connect(0, Scope::Host);
    let long = value(1, 1_000_000);
    let stream = [set(&key, &long, &[]), words(&format!("get {key}"))].concat();
    host.feed(&client, &stream[..8_000]);
    assert_eq!(host.wishes(&client), (State::Open, false, Some(1)));
    host.settle(&mut client);
    assert_eq!((client.core, client.moves), (1, 1));
    for piece in stream[8_000..].chunks(8_192) {
        host.feed(&client, piece);
        assert!(host.held(&client) < 50_000, "{}", host.held(&client));
    }
    host.settle(&mut client);
    assert!(client.got == [b"+OK\r\n", &bulk(&long)[..]].concat());
    host.check_empty();
}

/// Another core's client sends the long value on when it is whole, and gets it copied.
#[test]
fn long_values_of_other_cores_are_forwarded() {
    let mut host = Host::new(2, WIDE);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = host.connect(0, Scope::Core);
    let (a, b) = (value(1, 700_000), value(2, 800_000));
    let stream = [
        set(&here, &a, &[]),
        set(&there, &b, &["EX", "100"]),
        words(&format!("get {there}")),
        words(&format!("get {here}")),
        words(&format!("ttl {there}")),
        words(&format!("get {here}")),
    ]
    .concat();
    host.feed_in(&client, &stream, 8_192);
    host.settle(&mut client);
    let expected = [b"+OK\r\n+OK\r\n", &bulk(&b)[..], &bulk(&a), b":100\r\n", &bulk(&a)].concat();
    assert!(client.got == expected);
    host.check_empty();
}

/// Without eviction there is no room for the second value: it is passed over, and the connection goes on.
#[test]
fn a_value_without_room_is_passed_over_and_refused() {
    let mut host = Host::with_policy(1, WIDE, Policy::NoEviction);
    let mut client = host.connect(0, Scope::Host);
    let mut stored = 0;
    for n in 0..80 {
        let stream = [set(&format!("k{n}"), &value(n, 1_000_000), &[]), words("ping")].concat();
        host.feed_in(&client, &stream, 50_000);
        host.settle(&mut client);
        match &std::mem::take(&mut client.got)[..] {
            b"+OK\r\n+PONG\r\n" => stored += 1,
            b"-OOM command not allowed when used memory > 'maxmemory'.\r\n+PONG\r\n" => {}
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert!((50..66).contains(&stored), "{stored}");
    for n in 0..stored {
        let answer = host.ask_bytes(&mut client, &words(&format!("get k{n}")));
        assert!(answer == bulk(&value(n, 1_000_000)), "{n}");
    }
    // The condition is looked at first, as if the value were there.
    let stream = set("k0", &value(1, 1_000_000), &["NX"]);
    host.feed_in(&client, &stream, 50_000);
    host.settle(&mut client);
    assert_eq!(client.got, b"$-1\r\n");
    host.check_empty();
}
