//! Commands over whole shards, while keys come and go.

use super::*;
use std::collections::BTreeSet;

/// The cursor and the keys of a `SCAN` reply.
fn scanned(reply: &str) -> (u64, Vec<String>) {
    let mut bulks = reply.split("\r\n").filter(|line| !line.starts_with(['*', '$']) && !line.is_empty());
    let cursor = bulks.next().expect("a cursor").parse().expect("a number");
    (cursor, bulks.map(str::to_owned).collect())
}

/// A whole walk; `between` is called between two steps.
fn walk(host: &mut Host, client: &mut Client, options: &str, mut between: impl FnMut(&mut Host, u64)) -> Vec<String> {
    let (mut cursor, mut all) = (0, Vec::new());
    loop {
        let (next, keys) = scanned(&host.ask(client, words(&format!("scan {cursor}{options}"))));
        all.extend(keys);
        if next == 0 {
            return all;
        }
        assert!(next > cursor, "the cursor went from {cursor} to {next}");
        cursor = next;
        between(host, cursor);
    }
}

#[test]
fn a_walk_meets_every_key_that_stays_exactly_once() {
    let mut host = Host::new(2, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    let mut writer = host.connect(1, Scope::Core);
    let staying: BTreeSet<String> = (0..700).map(|n| format!("stay{n}")).collect();
    for key in staying.iter().cloned().chain((0..300).map(|n| format!("leave{n}"))) {
        assert_eq!(host.ask(&mut writer, words(&format!("set {key} v"))), "+OK\r\n");
    }
    let mut rng = Rng::new(5);
    let met = walk(&mut host, &mut client, " count 20", |host, _| {
        for _ in 0..10 {
            let (gone, new) = (rng.below(300), rng.below(1_000_000));
            host.ask(&mut writer, words(&format!("del leave{gone}")));
            host.ask(&mut writer, words(&format!("set new{new} v")));
        }
    });
    let stayed: Vec<_> = met.iter().filter(|key| key.starts_with("stay")).collect();
    assert_eq!(stayed.len(), staying.len(), "no key twice");
    assert_eq!(stayed.into_iter().cloned().collect::<BTreeSet<_>>(), staying, "no key left out");
}

#[test]
fn on_its_own_port_a_core_walks_and_counts_its_own_keys_only() {
    let mut host = Host::new(3, LIMITS);
    let mut writer = host.connect(0, Scope::Host);
    let keys: Vec<String> = (0..500).map(|n| format!("key{n}")).collect();
    for key in &keys {
        host.ask(&mut writer, words(&format!("set {key} v")));
    }
    let mut together = BTreeSet::new();
    for core in 0..3 {
        let mut client = host.connect(core, Scope::Core);
        let met = walk(&mut host, &mut client, "", |_, _| {});
        assert!(met.iter().all(|key| host.nodes[0].locate(key.as_bytes()).1 == core));
        assert_eq!(host.ask(&mut client, words("dbsize")), format!(":{}\r\n", met.len()));
        together.extend(met);
    }
    assert_eq!(together, keys.into_iter().collect());
    assert_eq!(host.ask(&mut writer, words("dbsize")), ":500\r\n");
}

#[test]
fn a_pattern_and_a_type_choose_among_the_keys_of_every_core() {
    let mut host = Host::new(2, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    for n in 0..100 {
        host.ask(&mut client, words(&format!("set a{n} v")));
        host.ask(&mut client, words(&format!("set b{n} v")));
    }
    let met = walk(&mut host, &mut client, " match a?5 count 50", |_, _| {});
    assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), (1..10).map(|n| format!("a{n}5")).collect());
    assert_eq!(walk(&mut host, &mut client, " type string", |_, _| {}).len(), 200);
    assert_eq!(walk(&mut host, &mut client, " type list", |_, _| {}).len(), 0);
}

#[test]
fn a_flush_on_the_shared_port_empties_every_core_and_on_a_cores_port_that_core() {
    let mut host = Host::new(2, LIMITS);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut own = host.connect(0, Scope::Core);
    let fill = words(&format!("mset {here} 1 {there} 2"));
    assert_eq!(host.ask(&mut own, &fill), "+OK\r\n");
    assert_eq!(host.ask(&mut own, words("flushall")), "+OK\r\n");
    assert_eq!(host.ask(&mut own, words(&format!("mget {here} {there}"))), "*2\r\n$-1\r\n$1\r\n2\r\n");
    let mut shared = host.connect(0, Scope::Host);
    assert_eq!(host.ask(&mut shared, &fill), "+OK\r\n");
    assert_eq!(host.ask(&mut shared, [words("flushdb"), words("dbsize")].concat()), "+OK\r\n:0\r\n");
}

#[test]
fn info_adds_up_the_counters_of_every_core() {
    let mut host = Host::new(3, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    for core in 0..3 {
        let key = key_on(&host, core, 0);
        host.ask(&mut client, words(&format!("set {key} v")));
        host.ask(&mut client, words(&format!("get {key}")));
    }
    let text = host.ask(&mut client, words("info"));
    for line in ["db0:keys=3,expires=0,avg_ttl=0", "keyspace_hits:3", "connected_clients:1"] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} in {text}");
    }
    let text = host.ask(&mut client, words("info keyspace"));
    assert_eq!(text, "$44\r\n# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\n\r\n");
}

/// Both on one core's port: its clients ask for keys of all cores.
#[test]
fn hot_keys_and_big_ones_of_all_cores_are_named() {
    let mut host = Host::new(2, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    let (hot, warm, big) = (key_on(&host, 1, 1), key_on(&host, 0, 2), key_on(&host, 1, 3));
    assert_eq!(host.ask(&mut client, words("hotkeys")), "*0\r\n");
    for key in [&hot, &warm] {
        host.ask(&mut client, words(&format!("set {key} v")));
    }
    host.ask(&mut client, request(&["set", &big, &"x".repeat(4000)]));
    for round in 0..6000 {
        host.feed(&client, &words(&format!("get {}", if round % 3 == 0 { &warm } else { &hot })));
        host.settle(&mut client);
        client.got.clear();
    }
    let reply = host.ask(&mut client, words("hotkeys count 2"));
    let keys: Vec<&str> = reply.split("\r\n").collect();
    assert_eq!((keys[0], keys[5], keys[7]), ("*2", &hot[..], "core"), "{reply}");
    assert!(keys[8] == ":1" && reply.contains(&format!("\r\n{warm}\r\n")), "{reply}");
    assert!(reply.contains("$8\r\n1.000000\r\n"), "all of what its core does: {reply}");
    assert!(host.ask(&mut client, words("hotkeys by bytes count 1")).contains("\r\nbytes\r\n"));
    let reply = host.ask(&mut client, words("bigkeys count 1"));
    assert!(reply.contains(&format!("\r\n{big}\r\n")) && reply.contains(":4000\r\n"), "{reply}");
    host.ask(&mut client, words(&format!("del {big}")));
    assert!(!host.ask(&mut client, words("bigkeys")).contains(&big), "what is gone is not named");
    for wrong in ["hotkeys count", "hotkeys by size", "hotkeys what 1", "bigkeys 1"] {
        assert_eq!(host.ask(&mut client, words(wrong)), "-ERR syntax error\r\n", "{wrong}");
    }
    assert_eq!(host.ask(&mut client, words("hotkeys count 0")), "-ERR COUNT must be positive\r\n");
}
