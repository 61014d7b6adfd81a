//! Replies that depend on who asks, when and where: compared by shape and by
//! what clients read out of them, not byte for byte.

use std::collections::HashSet;

use ringfence::base::Slot;

use crate::harness::{Client, Server};
use crate::resp::Reply;

/// All keys that a full iteration gives, in order of appearance.
fn scan_all(client: &mut Client, options: &str) -> Vec<Vec<u8>> {
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    for _ in 0..100_000 {
        let reply = client.ask(format!("SCAN {cursor} {options}").trim_end());
        let [next, found] = reply.items() else { panic!("a scan answers a cursor and keys: {reply:?}") };
        keys.extend(found.items().iter().map(|k| k.text().to_vec()));
        cursor = String::from_utf8(next.text().to_vec()).expect("a decimal cursor");
        if cursor == "0" {
            return keys;
        }
        assert!(cursor.parse::<u64>().is_ok(), "a cursor is a 64-bit number: {cursor}");
    }
    panic!("the iteration does not end");
}

#[test]
fn scan_on_the_shared_port_finds_every_key_and_filters() {
    let server = Server::start();
    let mut client = server.client();
    let mut expected = HashSet::new();
    for i in 0..3000 {
        let key = format!("{}:{i}", if i % 3 == 0 { "a" } else { "b" });
        assert_eq!(client.call(&["SET", &key, "v"]), Reply::Status(b"OK".to_vec()));
        expected.insert(key.into_bytes());
    }
    let found: HashSet<_> = scan_all(&mut client, "").into_iter().collect();
    assert_eq!(found, expected);
    let found: HashSet<_> = scan_all(&mut client, "MATCH a:* COUNT 500").into_iter().collect();
    assert_eq!(found, expected.iter().filter(|k| k.starts_with(b"a:")).cloned().collect::<HashSet<_>>());
    assert_eq!(scan_all(&mut client, "TYPE string COUNT 1000").into_iter().collect::<HashSet<_>>(), expected);
    assert_eq!(scan_all(&mut client, "TYPE hash COUNT 1000"), Vec::<Vec<u8>>::new());
    assert_eq!(client.ask("DBSIZE"), Reply::Integer(3000));
}

#[test]
fn core_ports_show_their_own_slots_only() {
    let server = Server::start();
    let mut client = server.client();
    for i in 0..1000 {
        client.call(&["SET", &format!("key:{i}"), "v"]);
    }
    let mut total = 0;
    let mut all = HashSet::new();
    for core in 0..2 {
        let mut client = server.core_client(core);
        let keys = scan_all(&mut client, "COUNT 100");
        let size = client.ask("DBSIZE").integer();
        assert_eq!(keys.iter().collect::<HashSet<_>>().len() as i64, size, "core {core}");
        assert!(size > 0, "core {core} holds nothing of 1000 keys");
        total += size;
        all.extend(keys);
    }
    assert_eq!((total, all.len()), (1000, 1000));
    assert_eq!(server.core_client(0).ask("FLUSHALL"), Reply::Status(b"OK".to_vec()));
    assert_eq!(server.core_client(0).ask("DBSIZE"), Reply::Integer(0));
    let left = server.core_client(1).ask("DBSIZE").integer();
    assert!(left > 0, "FLUSHALL on one core port must leave the other core alone");
    assert_eq!(client.ask("DBSIZE"), Reply::Integer(left));
    assert_eq!(client.ask("FLUSHALL"), Reply::Status(b"OK".to_vec()));
    assert_eq!(client.ask("DBSIZE"), Reply::Integer(0));
    assert_eq!(server.core_client(1).ask("DBSIZE"), Reply::Integer(0));
}

#[test]
fn hello_names_the_protocol_and_the_connection() {
    let server = Server::start();
    let mut client = server.client();
    let two = client.ask("HELLO 2");
    assert!(matches!(two, Reply::Array(_)), "RESP2 has no maps: {two:?}");
    let three = client.ask("HELLO 3 SETNAME tester");
    assert!(matches!(three, Reply::Map(_)), "RESP3 has maps: {three:?}");
    for field in ["server", "version", "proto", "id", "mode", "role", "modules"] {
        assert!(three.get(field).is_some(), "HELLO lacks {field}: {three:?}");
    }
    assert_eq!(three.get("proto"), Some(&Reply::Integer(3)));
    assert_eq!(three.get("role").map(Reply::text), Some(&b"master"[..]));
    assert_eq!(three.get("id"), Some(&client.ask("CLIENT ID")));
    assert_eq!(client.ask("CLIENT GETNAME").text(), b"tester");
    assert_eq!(client.ask("GET no-such-key"), Reply::Null);
    let mut other = server.client();
    assert_ne!(other.ask("CLIENT ID"), client.ask("CLIENT ID"), "every connection has its own id");
    assert_eq!(other.ask("CLIENT GETNAME"), Reply::Null);
    assert_eq!(other.ask("CLIENT SETINFO LIB-NAME raw"), Reply::Status(b"OK".to_vec()));
    assert_eq!(other.ask("CLIENT SETINFO LIB-VER 1.0"), Reply::Status(b"OK".to_vec()));
    assert!(other.ask("CLIENT SETINFO COLOUR red").is_error());
}

#[test]
fn time_is_now_in_seconds_and_microseconds() {
    let server = Server::start();
    let reply = server.client().ask("TIME");
    let [seconds, micros] = reply.items() else { panic!("TIME answers two numbers: {reply:?}") };
    let number = |r: &Reply| std::str::from_utf8(r.text()).expect("digits").parse::<u64>().expect("digits");
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs();
    assert!(number(seconds).abs_diff(now) <= 2, "TIME says {reply:?}, it is {now}");
    assert!(number(micros) < 1_000_000);
}

#[test]
fn info_has_sections_of_lines_that_clients_read() {
    let server = Server::start();
    let mut client = server.client();
    let info = String::from_utf8(client.ask("INFO").text().to_vec()).expect("text");
    for field in ["redis_version:", "tcp_port:", "connected_clients:", "used_memory:", "role:master", "process_id:"] {
        assert!(info.lines().any(|l| l.starts_with(field)), "INFO lacks {field}\n{info}");
    }
    for line in info.split("\r\n").filter(|l| !l.is_empty()) {
        assert!(line.starts_with("# ") || line.contains(':'), "not a line of INFO: {line}");
    }
    let server_only = String::from_utf8(client.ask("INFO server").text().to_vec()).expect("text");
    assert!(server_only.starts_with("# Server\r\n") && !server_only.contains("# Clients"), "{server_only}");
}

#[test]
fn config_get_answers_what_clients_and_tools_ask_for() {
    let server = Server::start();
    let mut client = server.client();
    for name in ["maxmemory", "save", "appendonly"] {
        let reply = client.ask(&format!("CONFIG GET {name}"));
        assert!(reply.get(name).is_some(), "CONFIG GET {name} answers {reply:?}");
    }
    let several = client.ask("CONFIG GET save appendonly");
    assert_eq!(several.pairs().len(), 2, "{several:?}");
    assert!(client.ask("CONFIG GET max*").get("maxmemory").is_some());
    client.ask("HELLO 3");
    assert!(matches!(client.ask("CONFIG GET maxmemory"), Reply::Map(_)));
    assert_eq!(client.ask("CONFIG GET no-such-setting"), Reply::Map(Vec::new()));
}

#[test]
fn command_describes_every_command() {
    let server = Server::start();
    let mut client = server.client();
    let all = client.ask("COMMAND");
    assert_eq!(client.ask("COMMAND COUNT"), Reply::Integer(all.items().len() as i64));
    let mut names = HashSet::new();
    for row in all.items() {
        let row = row.items();
        assert!(row.len() >= 6, "name, arity, flags, first, last and step: {row:?}");
        assert!(names.insert(row[0].text().to_vec()), "{row:?} is there twice");
        row[1].integer();
        row[2].items();
    }
    for name in "get set setex psetex setnx mget mset getdel getex append strlen incr incrby decr decrby del unlink \
                 exists expire pexpire ttl pttl persist type scan dbsize flushall ping echo hello select quit client \
                 info config command time cluster readonly readwrite"
        .split_whitespace()
    {
        assert!(names.contains(name.as_bytes()), "COMMAND lacks {name}");
    }
    // Arity and key positions are what clients route by: those of redis.
    for (name, arity, first, last, step) in [
        ("get", 2, 1, 1, 1),
        ("set", -3, 1, 1, 1),
        ("mset", -3, 1, -1, 2),
        ("del", -2, 1, -1, 1),
        ("scan", -2, 0, 0, 0),
    ] {
        let reply = client.ask(&format!("COMMAND INFO {name}"));
        let row = reply.items()[0].items();
        assert_eq!(row[0].text(), name.as_bytes());
        let numbers = [row[1].integer(), row[3].integer(), row[4].integer(), row[5].integer()];
        assert_eq!(numbers, [arity, first, last, step], "{name}");
    }
    assert_eq!(client.ask("COMMAND INFO get nosuch").items()[1], Reply::Null);
    let docs = client.ask("COMMAND DOCS get");
    assert!(docs.get("get").and_then(|d| d.get("summary")).is_some(), "{docs:?}");
}

#[test]
fn cluster_commands_announce_the_core_ports() {
    let server = Server::start();
    let mut client = server.client();
    let slots = client.ask("CLUSTER SLOTS");
    let mut next = 0;
    let mut nodes = Vec::new();
    let mut ranges: Vec<_> = slots.items().iter().map(Reply::items).collect();
    ranges.sort_by_key(|r| r[0].integer());
    for range in ranges {
        assert_eq!(range[0].integer(), next, "a gap or an overlap in {slots:?}");
        next = range[1].integer() + 1;
        let node = range[2].items();
        let port = u16::try_from(node[1].integer()).expect("a port");
        assert!((server.core_port_base..server.core_port_base + 2).contains(&port), "{slots:?}");
        assert_eq!(node[2].text().len(), 40, "a node id has 40 digits: {slots:?}");
        nodes.push((port, node[2].text().to_vec()));
    }
    assert_eq!(next, 16_384, "every slot has an owner: {slots:?}");
    for (port, id) in &nodes {
        assert_eq!(Client::connect(*port).ask("CLUSTER MYID").text(), id, "the core port says who it is");
    }
    let listing = String::from_utf8(client.ask("CLUSTER NODES").text().to_vec()).expect("text");
    assert_eq!(listing.lines().count(), 2, "{listing}");
    for (port, id) in &nodes {
        let id = String::from_utf8_lossy(id);
        let line = listing.lines().find(|l| l.starts_with(&*id)).unwrap_or_else(|| panic!("no {id} in {listing}"));
        assert!(line.contains(&format!(":{port}@")) && line.contains("master") && line.contains("connected"), "{line}");
    }
    assert_eq!(client.ask("CLUSTER SHARDS").items().len(), 2);
    let info = String::from_utf8(client.ask("CLUSTER INFO").text().to_vec()).expect("text");
    assert!(info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:16384"), "{info}");
    for key in ["foo", "{user1000}.following", "", "a{}b"] {
        let expected = i64::from(Slot::of(key.as_bytes()).number());
        assert_eq!(client.call(&["CLUSTER", "KEYSLOT", key]), Reply::Integer(expected));
    }
    client.ask("SET foo 1");
    let owner = usize::from(Slot::of(b"foo").number() >= 8192);
    let mut owner = server.core_client(owner as u16);
    assert_eq!(owner.ask("CLUSTER COUNTKEYSINSLOT 12182"), Reply::Integer(1));
    for word in ["READONLY", "READWRITE"] {
        assert_eq!(client.ask(word), Reply::Status(b"OK".to_vec()));
    }
    assert!(client.ask("SELECT 1").is_error(), "there is one database");
}
