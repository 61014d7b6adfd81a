//! How long keys live, whatever their writers say.
//!
//! Goal: no request of any protocol leaves a key without the deadline that its rule asks for, or with a later one, and
//! none is changed that no rule is about.

use super::*;
use proptest::prelude::*;

const MAX_MS: u64 = 60_000;
const DEFAULT_MS: u64 = 20_000;

fn bounded(cores: usize, jitter_ppm: u32) -> Host {
    let mut host = Host::new(cores, LIMITS);
    let rules = vec![
        (b"".to_vec(), 0, 0),
        (b"a:".to_vec(), DEFAULT_MS, MAX_MS),
        (b"a:b:".to_vec(), 0, 5_000),
        (b"d:".to_vec(), DEFAULT_MS, 0),
    ];
    host.nodes.iter_mut().for_each(|node| node.bounds = Bounds::new(jitter_ppm, rules.clone()));
    host
}

fn pttl(host: &mut Host, client: &mut Client, key: &str) -> i64 {
    host.ask(client, request(&["PTTL", key])).trim_matches([':', '\r', '\n']).parse().unwrap()
}

#[test]
fn deadlines_are_those_of_the_longest_prefix() {
    for cores in 1..3 {
        let mut host = bounded(cores, 0);
        let mut client = host.connect(0, Scope::Host);
        for (key, args, wanted) in [
            ("a:1", vec!["SET", "a:1", "v"], DEFAULT_MS as i64),
            ("a:2", vec!["SET", "a:2", "v", "EX", "3"], 3000),
            ("a:3", vec!["SET", "a:3", "v", "EX", "3000"], MAX_MS as i64),
            ("a:4", vec!["SET", "a:4", "v", "PXAT", "1800000000000"], MAX_MS as i64),
            ("a:5", vec!["INCR", "a:5"], DEFAULT_MS as i64),
            ("a:6", vec!["APPEND", "a:6", "x"], DEFAULT_MS as i64),
            ("a:7", vec!["SET", "a:7", "v", "KEEPTTL"], DEFAULT_MS as i64),
            ("a:2", vec!["SET", "a:2", "w", "KEEPTTL"], 3000),
            ("a:2", vec!["PERSIST", "a:2"], DEFAULT_MS as i64),
            ("a:2", vec!["EXPIRE", "a:2", "9000"], MAX_MS as i64),
            ("a:2", vec!["GETEX", "a:2", "PERSIST"], DEFAULT_MS as i64),
            ("a:8", vec!["SET", "a:8", "v", "SOFTPX", "5"], DEFAULT_MS as i64),
            ("a:b:1", vec!["SETNX", "a:b:1", "v"], 5000),
            ("a:b:1", vec!["PEXPIRE", "a:b:1", "70"], 70),
            ("d:1", vec!["MSET", "d:1", "v", "free", "v"], DEFAULT_MS as i64),
            ("free", vec!["APPEND", "free", "x"], -1),
            ("d:2", vec!["SET", "d:2", "v", "EX", "3000"], 3_000_000),
        ] {
            host.ask(&mut client, request(&args));
            assert_eq!(pttl(&mut host, &mut client, key), wanted, "{args:?} on {cores} cores");
        }
        let mut memcached = host.connect_as(Protocol::Memcache, 0, Scope::Host);
        for (key, line, wanted) in [
            ("a:m1", "set a:m1 0 0 1\r\nx\r\n", DEFAULT_MS as i64),
            ("a:m1", "touch a:m1 600\r\n", MAX_MS as i64),
            ("a:m1", "append a:m1 0 0 1\r\nx\r\n", MAX_MS as i64),
            ("a:m2", "ma a:m2 N0 J5\r\n", DEFAULT_MS as i64),
        ] {
            host.ask(&mut memcached, line);
            assert_eq!(pttl(&mut host, &mut client, key), wanted, "{line}");
        }
        let mut http = host.connect_http(0);
        let body = "{\"entries\":[{\"key\":\"a:h\",\"value\":\"v\",\"ttlSeconds\":100}]}";
        let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        host.ask(&mut http, format!("POST /v1/cache:batchSet HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}"));
        assert_eq!(pttl(&mut host, &mut client, "a:h"), MAX_MS as i64);
    }
}

#[test]
fn jitter_shortens_by_chance_and_never_lengthens() {
    let mut host = bounded(1, 50_000);
    let mut client = host.connect(0, Scope::Host);
    let mut ttls: Vec<i64> = Vec::new();
    for i in 0..200 {
        let key = format!("k{i}");
        host.ask(&mut client, request(&["SET", &key, "v", "EX", "100"]));
        ttls.push(pttl(&mut host, &mut client, &key));
    }
    ttls.sort_unstable();
    assert!(ttls[0] >= 95_000 && ttls[199] <= 100_000, "{ttls:?}");
    assert!(ttls[0] < 96_000 && ttls[199] > 99_000 && ttls.windows(2).all(|pair| pair[1] - pair[0] < 1000), "{ttls:?}");
    host.ask(&mut client, "SET k v PXAT 1700000050000\r\n");
    assert_eq!(pttl(&mut host, &mut client, "k"), 50_000, "a point in time is not moved");
    host.ask(&mut client, "SET k v\r\n");
    assert_eq!(pttl(&mut host, &mut client, "k"), -1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_request_leaves_a_key_out_of_bounds(
        jitter in 0..500_000u32,
        steps in proptest::collection::vec((0..12usize, 0..6u8, -5i64..200_000), 1..80),
    ) {
        let mut host = bounded(2, jitter);
        let mut client = host.connect(0, Scope::Host);
        for (kind, key, n) in steps {
            let (key, n) = (format!("a:{key}"), n.to_string());
            let args: Vec<&str> = match kind {
                0 => vec!["SET", &key, &n],
                1 => vec!["SET", &key, &n, "PX", &n],
                2 => vec!["SET", &key, &n, "KEEPTTL"],
                3 => vec!["APPEND", &key, "x"],
                4 => vec!["INCR", &key],
                5 => vec!["PERSIST", &key],
                6 => vec!["PEXPIRE", &key, &n],
                7 => vec!["GETEX", &key, "PX", &n],
                8 => vec!["MSET", &key, &n, "a:0", &n],
                9 => vec!["GETSET", &key, &n],
                10 => vec!["SET", &key, &n, "NX", "PX", &n],
                _ => vec!["DEL", &key],
            };
            host.ask(&mut client, request(&args));
            let left = pttl(&mut host, &mut client, &key);
            prop_assert!(left == -2 || (0..=MAX_MS as i64).contains(&left), "{args:?}: {left}");
        }
    }
}
