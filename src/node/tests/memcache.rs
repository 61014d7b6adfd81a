//! memcached clients: the same replies whatever the cores, the cuts and the order of arrival.

use super::pipelines::{Disturbance, disturbed_as, plainly_as};
use super::*;
use proptest::prelude::*;

fn connect(host: &mut Host, core: usize) -> Client {
    host.connect_as(Protocol::Memcache, core, Scope::Host)
}

/// A client on core 0 that has stored a key of its own there, and so stays.
fn settled(host: &mut Host) -> Client {
    let mut client = connect(host, 0);
    let key = key_on(host, 0, 9);
    assert_eq!(host.ask(&mut client, format!("set {key} 0 0 1\r\nx\r\n")), "STORED\r\n");
    client
}

#[test]
fn replies_of_other_cores_come_in_their_places() {
    let mut host = Host::new(2, LIMITS);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = settled(&mut host);
    let asked = format!(
        "set {here} 1 0 1\r\na\r\nset {there} 2 0 1\r\nb\r\nset {there} 0 0 1 noreply\r\nc\r\nversion\r\n\
         get {there} {here} missing {there}\r\nmg {there} v f k\r\nms {there} 1 q\r\nd\r\nmd missing q\r\nmn\r\n\
         delete {there}\r\nget {there}\r\nnonsense\r\nincr {here} 1\r\n"
    );
    let expected = format!(
        "STORED\r\nSTORED\r\nVERSION 1.6.18\r\n\
         VALUE {there} 0 1\r\nc\r\nVALUE {here} 1 1\r\na\r\nVALUE {there} 0 1\r\nc\r\nEND\r\nVA 1 f0 k{there}\r\nc\r\n\
         NF\r\nMN\r\nDELETED\r\nEND\r\nERROR\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
    );
    assert_eq!(host.ask(&mut client, &asked), expected);
    assert!(host.nodes[0].counters().forwards >= 8);
    let mut client = settled(&mut host);
    for byte in asked.bytes() {
        host.feed(&client, &[byte]);
    }
    host.settle(&mut client);
    assert_eq!(String::from_utf8_lossy(&client.got), expected, "a byte at a time");
}

#[test]
fn the_first_key_places_a_connection_and_settled_keys_move_it() {
    let mut host = Host::new(2, LIMITS);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = connect(&mut host, 0);
    assert_eq!(host.ask(&mut client, format!("mn\r\nset {there} 0 0 1\r\n0\r\n")), "MN\r\nSTORED\r\n");
    assert_eq!((client.core, client.moves), (1, 1));
    let mut client = connect(&mut host, 0);
    assert_eq!(host.ask(&mut client, format!("get {here}\r\n")), "END\r\n");
    let expected: String = (1..=1000).map(|n| format!("{n}\r\n")).collect();
    assert_eq!(host.ask(&mut client, format!("incr {there} 1\r\n").repeat(1000)), expected);
    assert_eq!((client.core, client.moves), (1, 1));
}

#[test]
fn a_get_of_very_many_keys_goes_in_slices_and_waits_for_the_client() {
    let limits = Limits { output_soft_bytes_max: 4000, ..LIMITS };
    let mut host = Host::new(2, limits);
    let mut client = settled(&mut host);
    let keys: Vec<String> = (0..2000).map(|i| format!("many{i}")).collect();
    let sets: String = keys.iter().map(|key| format!("set {key} 3 0 {}\r\n{key}\r\n", key.len())).collect();
    assert_eq!(host.ask(&mut client, sets), "STORED\r\n".repeat(2000));
    let get = format!("get {}\r\nmn\r\n", keys.join(" "));
    host.feed(&client, get.as_bytes());
    assert!(host.nodes[client.core].session(client.id).unwrap().output.total_bytes() < 6000, "it waits for the client");
    host.settle(&mut client);
    let values: String = keys.iter().map(|key| format!("VALUE {key} 3 {}\r\n{key}\r\n", key.len())).collect();
    assert!(String::from_utf8_lossy(&client.got) == format!("{values}END\r\nMN\r\n"));
}

#[test]
fn flushing_and_counters_are_those_of_all_cores() {
    let mut host = Host::new(2, LIMITS);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = settled(&mut host);
    let sets = format!("set {here} 0 0 1 noreply\r\n1\r\nset {there} 0 0 1 noreply\r\n1\r\nget {here} {there} no\r\n");
    host.ask(&mut client, sets);
    let stats = host.ask(&mut client, "stats\r\nmn\r\n");
    for line in
        ["curr_items 3", "threads 2", "get_hits 2", "get_misses 1", "cmd_get 3", "cmd_set 3", "evictions 0", "pid 1"]
    {
        assert!(stats.contains(&format!("STAT {line}\r\n")), "{line}: {stats}");
    }
    assert!(stats.ends_with("\r\nEND\r\nMN\r\n"), "{stats}");
    let flush = format!("flush_all\r\nflush_all noreply\r\nget {here} {there}\r\n");
    assert_eq!(host.ask(&mut client, flush), "OK\r\nEND\r\n");
    assert!(host.nodes.iter_mut().all(|node| node.shard().key_count() == 0));
}

#[test]
fn a_flush_with_a_delay_takes_what_was_stored_before_its_time() {
    const START_MS: u64 = 1_700_000_000_000;
    let mut host = Host::new(2, LIMITS);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = settled(&mut host);
    let at = |host: &mut Host, ms: u64| host.nodes.iter_mut().for_each(|node| node.set_time((START_MS + ms) * 1000));
    let set = format!("set {here} 0 0 1\r\n1\r\nset {there} 0 0 1\r\n1\r\n");
    let get = format!("get {here} {there}\r\n");
    let there_is = |answer: String| answer.matches("VALUE").count();
    at(&mut host, 0);
    assert_eq!(host.ask(&mut client, format!("{set}flush_all 10\r\n")), "STORED\r\nSTORED\r\nOK\r\n");
    at(&mut host, 9_999);
    assert_eq!(there_is(host.ask(&mut client, &get)), 2);
    host.ask(&mut client, &set);
    at(&mut host, 10_000);
    assert_eq!(there_is(host.ask(&mut client, &get)), 0, "what was stored meanwhile goes too");
    host.ask(&mut client, &set);
    at(&mut host, 60_000);
    assert_eq!(there_is(host.ask(&mut client, &get)), 2, "once");
    // The last one counts; a time may be named, and one that has passed is now.
    let unix = START_MS / 1000 + 100;
    host.ask(&mut client, format!("flush_all 5\r\nflush_all {unix}\r\n"));
    at(&mut host, 99_999);
    assert_eq!(there_is(host.ask(&mut client, &get)), 2);
    at(&mut host, 100_000);
    assert_eq!(there_is(host.ask(&mut client, &get)), 0);
    host.ask(&mut client, format!("{set}flush_all 5\r\nflush_all -1\r\n"));
    assert_eq!(there_is(host.ask(&mut client, format!("{get}{set}"))), 0);
    at(&mut host, 200_000);
    assert_eq!(there_is(host.ask(&mut client, &get)), 2, "a flush at once takes back one that is to come");
}

/// The clock of a core stands still during a turn, in which it may take mail of one that is further.
#[test]
fn a_flush_at_once_is_at_once_at_a_core_whose_clock_is_behind() {
    const START_US: u64 = 1_700_000_000_000_000;
    let mut host = Host::new(2, LIMITS);
    let (key, near) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = host.connect_as(Protocol::Memcache, 1, Scope::Host);
    host.ask(&mut client, format!("get {near}\r\n"));
    let set = || format!("set {key} 0 0 1\r\n1\r\n");
    host.nodes[1].set_time(START_US + 1000);
    let script = format!("{}flush_all\r\nget {key}\r\n{}get {key}\r\n", set(), set());
    let answer = format!("STORED\r\nOK\r\nEND\r\nSTORED\r\nVALUE {key} 0 1\r\n1\r\nEND\r\n");
    assert_eq!(host.ask(&mut client, script), answer);
    host.nodes[0].set_time(START_US + 2000);
    assert_eq!(host.ask(&mut client, format!("get {key}\r\n")), format!("VALUE {key} 0 1\r\n1\r\nEND\r\n"));
}

#[test]
fn too_large_a_value_is_passed_over_however_it_is_cut() {
    let mut host = Host::new(2, LIMITS);
    for core in 0..2 {
        let key = key_on(&host, core, 5);
        let value = "get x\r\n".repeat(1000);
        let large = format!("set {key} 0 0 {}\r\n{value}\r\nget {key}\r\nmn\r\n", value.len());
        for piece in [1, 100, large.len()] {
            let mut client = settled(&mut host);
            assert_eq!(host.ask(&mut client, format!("set {key} 0 0 3\r\nold\r\n")), "STORED\r\n");
            large.as_bytes().chunks(piece).for_each(|bytes| host.feed(&client, bytes));
            host.settle(&mut client);
            let got = String::from_utf8_lossy(&client.got).into_owned();
            assert_eq!(got, "SERVER_ERROR object too large for cache\r\nEND\r\nMN\r\n");
            let input = &host.nodes[client.core].session(client.id).unwrap().input;
            assert!(input.is_empty(), "nothing of it is kept");
        }
    }
}

#[test]
fn data_that_is_awaited_is_not_parsed_again_for_each_piece() {
    let mut host = Host::new(1, LIMITS);
    let mut client = connect(&mut host, 0);
    host.feed(&client, b"set key 0 0 1000\r\n");
    host.feed(&client, &[b'x'; 500]);
    let session = host.nodes[0].session(client.id).unwrap();
    assert_eq!(session.need, "set key 0 0 1000\r\n".len() + 1002);
    host.feed(&client, &[b'x'; 500]);
    assert_eq!(host.ask(&mut client, "\r\n"), "STORED\r\n");
}

#[test]
fn a_connection_that_does_not_speak_the_protocol_is_told_and_closed() {
    for (sent, got) in [
        (vec![b'x'; 5000], "CLIENT_ERROR a line is too long\r\n"),
        (
            b"mn\r\n\x80\0\0\0".to_vec(),
            "MN\r\nCLIENT_ERROR the binary protocol is not served; use the text or the meta protocol\r\n",
        ),
        (b"mn\r\nquit\r\nmn\r\n".to_vec(), "MN\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), ""),
    ] {
        let mut host = Host::new(1, LIMITS);
        let mut client = connect(&mut host, 0);
        assert_eq!(host.ask(&mut client, &sent), got);
        assert_eq!(host.wishes(&client).0, State::Draining, "{got}");
    }
}

#[test]
fn keys_in_base64_reach_the_core_of_what_they_encode() {
    let mut host = Host::new(2, LIMITS);
    let mut client = settled(&mut host);
    // key1 to key3, and bytes that no line can hold.
    for encoded in ["a2V5MQ==", "a2V5Mg==", "a2V5Mw==", "AAoN/w=="] {
        let asked =
            format!("ms {encoded} 2 b k\r\nab\r\nmg {encoded} b k v\r\nmd {encoded} b q\r\nmg {encoded} b k\r\n");
        let expected = format!("HD k{encoded} b\r\nVA 2 k{encoded} b\r\nab\r\nEN k{encoded} b\r\n");
        assert_eq!(host.ask(&mut client, asked), expected);
    }
    let both = "set key1 0 0 1\r\nx\r\nmg a2V5MQ== b v\r\n";
    assert_eq!(host.ask(&mut client, both), "STORED\r\nVA 1\r\nx\r\n");
}

/// Requests whose replies depend on nothing but those before them.
fn pipeline() -> impl Strategy<Value = Vec<u8>> {
    let key = || (0..12u32).prop_map(|n| format!("k{n}"));
    let one = prop_oneof![
        (key(), 0..3u32, 0..40usize).prop_map(|(key, mode, len)| {
            let name = ["set", "append", "add"][mode as usize];
            format!("{name} {key} 5 0 {len}\r\n{}\r\n", "7".repeat(len))
        }),
        proptest::collection::vec(key(), 1..20).prop_map(|keys| format!("get {}\r\n", keys.join(" "))),
        (key(), any::<bool>())
            .prop_map(|(key, quiet)| format!("mg {key} v f k O1{}\r\n", if quiet { " q" } else { "" })),
        (key(), 0..3u32).prop_map(|(key, mode)| format!("ms {key} 2 M{}\r\n10\r\n", ["E", "R", "S"][mode as usize])),
        key().prop_map(|key| format!("incr {key} 3\r\n")),
        key().prop_map(|key| format!("ma {key} N0 v\r\n")),
        key().prop_map(|key| format!("delete {key} noreply\r\n")),
        key().prop_map(|key| format!("md {key} q\r\n")),
        key().prop_map(|key| format!("set {key} 0 0 5000\r\n{}\r\n", "x".repeat(5000))),
        key().prop_map(|key| format!("touch {key} 0\r\n")),
        Just("flush_all\r\n".to_owned()),
        Just("version\r\n".to_owned()),
        Just("nonsense\r\n".to_owned()),
        Just("mg k1 v v\r\n".to_owned()),
        Just("set k1 0 0 1\r\nxyz\r\n".to_owned()),
        Just("mn\r\n".to_owned()),
    ];
    proptest::collection::vec(one, 1..80).prop_map(|all| all.concat().into_bytes())
}

proptest! {
    #[test]
    fn cores_cuts_order_and_moves_change_no_reply(
        cores in 1..4usize, stream in pipeline(), seed in any::<u64>(), moves in any::<bool>(), soft in 1..3000usize,
    ) {
        let (expected, state) = plainly_as(Protocol::Memcache, &stream, LIMITS);
        let limits = Limits { output_soft_bytes_max: soft, ..LIMITS };
        let how = Disturbance { seed, moves };
        let (got, state_got) = disturbed_as(Protocol::Memcache, cores, &stream, limits, how);
        prop_assert_eq!(String::from_utf8_lossy(&expected), String::from_utf8_lossy(&got));
        prop_assert_eq!(state, state_got);
    }

    #[test]
    fn garbage_breaks_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..500), seed in any::<u64>()) {
        let (expected, state) = plainly_as(Protocol::Memcache, &bytes, LIMITS);
        let how = Disturbance { seed, moves: true };
        prop_assert_eq!((expected, state), disturbed_as(Protocol::Memcache, 2, &bytes, LIMITS, how));
    }
}
