//! The server under clients that misbehave, limits that are reached, signals
//! and bad start-ups: raw sockets against the real process.

use std::collections::HashMap;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use ringfence::base::Slot;
use ringfence::base::rng::Rng;

use crate::harness::{
    Client, Missing, PATIENCE, Server, arguments, eventually, free_ports, resident_bytes, run_to_end, terminate,
};
use crate::resp::{Reply, encode};

const MIB: usize = 1 << 20;
/// How soon a healthy client must be answered whatever the others do.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
const FORWARDS: &str = "ringfence_cross_core_forwards_total";
const STEERED: &str = "ringfence_connections_steered_total";

fn ok() -> Reply {
    Reply::Status(b"OK".to_vec())
}

fn bulk(text: impl AsRef<[u8]>) -> Reply {
    Reply::Bulk(text.as_ref().to_vec())
}

/// Others are served: a fresh connection writes and reads at once.
fn assert_others_are_served(server: &Server) {
    let begin = Instant::now();
    let mut client = server.client();
    client.set_patience(ANSWERED_WITHIN);
    for core in 0..2 {
        let key = key_of_core(server, core, 0);
        assert_eq!(client.call(&["SET", &key, "alive"]), ok());
        assert_eq!(client.call(&["GET", &key]), bulk("alive"));
    }
    assert!(begin.elapsed() < ANSWERED_WITHIN, "others waited {:?}", begin.elapsed());
}

/// Which core port owns which slots, as the server announces it.
pub fn owners(server: &Server) -> Vec<u16> {
    let mut owners = vec![0; 16_384];
    for range in server.core_client(0).ask("CLUSTER SLOTS").items() {
        let range = range.items();
        let port = u16::try_from(range[2].items()[1].integer()).expect("a port");
        let (from, to) = (range[0].integer() as usize, range[1].integer() as usize);
        owners[from..=to].fill(port);
    }
    assert!(owners.iter().all(|&port| port != 0), "a slot without an owner");
    owners
}

pub fn core_of(owners: &[u16], server: &Server, key: &str) -> u16 {
    owners[Slot::of(key.as_bytes()).index()] - server.core_port_base
}

/// The `n`th key of a fixed sequence that belongs to `core`.
fn key_of_core(server: &Server, core: u16, n: usize) -> String {
    let owners = owners(server);
    (0..).map(|i| format!("key:{i}")).filter(|key| core_of(&owners, server, key) == core).nth(n).expect("endless")
}

#[test]
fn ten_thousand_commands_in_one_write_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.client();
    let mut bytes = Vec::new();
    for i in 0..5_000 {
        bytes.extend(encode(&["SET", &format!("key:{i}"), &i.to_string()]));
        bytes.extend(encode(&["GET", &format!("key:{i}")]));
    }
    client.send(&bytes);
    for i in 0..5_000 {
        assert_eq!(client.reply(), ok(), "SET {i}");
        assert_eq!(client.reply(), bulk(i.to_string()), "GET {i}");
    }
}

#[test]
fn bytes_may_arrive_one_at_a_time() {
    let server = Server::start();
    let mut client = server.client();
    let bytes = [
        encode(&["SET", "a key", "a\r\nvalue"]),
        b"GET \"a key\"\r\n".to_vec(),
        encode(&["MGET", "a key", "nothing"]),
        b"PING\n".to_vec(),
    ];
    for byte in bytes.concat() {
        client.send(&[byte]);
        thread::sleep(Duration::from_micros(300));
    }
    assert_eq!(client.reply(), ok());
    assert_eq!(client.reply(), bulk("a\r\nvalue"));
    assert_eq!(client.reply(), Reply::Array(vec![bulk("a\r\nvalue"), Reply::Null]));
    assert_eq!(client.reply(), Reply::Status(b"PONG".to_vec()));
}

#[test]
fn a_half_closed_connection_gets_all_its_answers_and_then_the_end() {
    let server = Server::start();
    let mut client = server.client();
    let mut bytes = Vec::new();
    for i in 0..2_000 {
        bytes.extend(encode(&["SET", &format!("key:{i}"), "v"]));
        bytes.extend(encode(&["ECHO", &i.to_string()]));
    }
    client.send(&bytes);
    client.finish_sending();
    for i in 0..2_000 {
        assert_eq!(client.reply(), ok());
        assert_eq!(client.reply(), bulk(i.to_string()));
    }
    client.expect_closed();
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_value_leaves_no_trace() {
    let server = Server::start();
    for len in [10, 4_000, 100_000, 3 * MIB] {
        for _ in 0..20 {
            let mut client = server.client();
            client.send(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$4194304\r\n");
            client.send(&vec![b'x'; len]);
            drop(client);
        }
        assert_others_are_served(&server);
    }
    assert_eq!(server.client().ask("GET half"), Reply::Null);
}

/// 600 MB of answers are asked for and not read. The server must neither hold
/// them in memory nor stop serving others; read at last, they are all there.
#[test]
fn a_reader_that_never_reads_is_waited_for_without_memory() {
    const ROUNDS: usize = 600;
    let server = Server::start();
    let mut slow = server.client();
    let value = vec![b'v'; MIB];
    assert_eq!(slow.call(&[b"SET".as_slice(), b"big", &value]), ok());
    let before = resident_bytes(server.pid());
    let mut bytes = Vec::new();
    for i in 0..ROUNDS {
        bytes.extend(encode(&["GET", "big"]));
        bytes.extend(encode(&["ECHO", &i.to_string()]));
    }
    slow.send(&bytes);
    thread::sleep(Duration::from_secs(1));
    for _ in 0..10 {
        assert_others_are_served(&server);
        let grown = resident_bytes(server.pid()).saturating_sub(before);
        assert!(grown < 256 << 20, "{} MiB are held for a client that does not read", grown >> 20);
    }
    for i in 0..ROUNDS {
        assert!(slow.reply() == Reply::Bulk(value.clone()), "answer {i} is another one");
        assert_eq!(slow.reply(), bulk(i.to_string()));
    }
    assert_eq!(slow.ask("PING"), Reply::Status(b"PONG".to_vec()));
}

#[test]
fn a_length_that_is_only_declared_costs_no_memory() {
    let server = Server::start();
    assert_others_are_served(&server);
    let before = resident_bytes(server.pid());
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$104857600\r\n0123456789");
    }
    thread::sleep(Duration::from_millis(300));
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "{} MiB grew out of 40 bytes", grown >> 20);
    assert_others_are_served(&server);
    for client in &mut clients {
        client.set_patience(Duration::from_millis(50));
        assert_eq!(client.next_reply().err(), Some(Missing::Silent), "the rest of the value is waited for");
    }
}

#[test]
fn a_value_above_the_limit_is_swallowed_and_named() {
    let server = Server::start();
    let mut client = server.client();
    assert_others_are_served(&server);
    let before = resident_bytes(server.pid());
    let chunk = vec![b'x'; MIB];
    client.send(b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$104857600\r\n");
    for _ in 0..100 {
        client.send(&chunk);
    }
    client.send(b"\r\n");
    client.send(&encode(&["PING"]));
    let refusal = client.reply();
    let text = String::from_utf8_lossy(refusal.text()).into_owned();
    assert!(refusal.is_error() && text.starts_with("ERR ") && text.contains("limits.value_bytes"), "{refusal:?}");
    assert_eq!(client.reply(), Reply::Status(b"PONG".to_vec()), "the connection goes on");
    assert_eq!(client.ask("GET large"), Reply::Null);
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 48 << 20, "{} MiB grew out of a value that is not stored", grown >> 20);
    // The largest value that is allowed is stored whole.
    let value = vec![b'y'; 8 * MIB];
    assert_eq!(client.call(&[b"SET".as_slice(), b"large", &value]), ok());
    assert!(client.ask("GET large") == Reply::Bulk(value), "another value came back");
}

#[test]
fn a_key_above_the_limit_is_refused_and_the_connection_goes_on() {
    let server = Server::start();
    let mut client = server.client();
    let largest = "k".repeat(65_535);
    assert_eq!(client.call(&["SET", &largest, "v"]), ok());
    assert_eq!(client.call(&["GET", &largest]), bulk("v"));
    let larger = "k".repeat(65_536);
    let refusal = client.call(&["SET", &larger, "v"]);
    assert!(refusal.is_error(), "{refusal:?}");
    assert_eq!(client.ask("DBSIZE"), Reply::Integer(1));
}

#[test]
fn a_length_above_what_the_protocol_allows_ends_the_connection() {
    let server = Server::start();
    let mut client = server.client();
    client.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n");
    let (rest, end) = client.rest();
    assert_eq!(rest, b"-ERR Protocol error: invalid bulk length\r\n");
    assert_eq!(end, Missing::Closed);
    assert_others_are_served(&server);
}

/// A browser tricked into talking to the cache must not get a command through.
#[test]
fn http_on_the_data_ports_is_shown_the_door() {
    let server = Server::start();
    let mut client = server.client();
    client.call(&["SET", "victim", "safe"]);
    for request in [
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nDEL victim\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\nDEL victim\r\n",
        "Host: localhost\r\nDEL victim\r\n",
    ] {
        for port in [server.port, server.core_port_base] {
            let mut browser = Client::connect(port);
            browser.send(request.as_bytes());
            let (_, end) = browser.rest();
            assert_eq!(end, Missing::Closed, "{request:?} is no RESP");
        }
    }
    assert_eq!(client.ask("GET victim"), bulk("safe"));
}

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Server::start_with(&["--set", "limits.connections=50"]);
    let mut clients: Vec<Client> = (0..50).map(|_| server.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING"), Reply::Status(b"PONG".to_vec()));
    }
    let (rest, end) = server.client().rest();
    let text = String::from_utf8_lossy(&rest);
    assert!(text.starts_with("-ERR max number of clients reached"), "the 51st is told {text:?}");
    assert_eq!(end, Missing::Closed);
    clients.pop();
    let admitted = eventually(PATIENCE, || {
        let Ok(mut client) = Client::try_connect(server.port) else { return false };
        client.try_send(&encode(&["PING"])).is_ok() && matches!(client.next_reply(), Ok((Reply::Status(_), _)))
    });
    assert!(admitted, "the place of a client that left is never free again");
    assert_eq!(clients[0].ask("PING"), Reply::Status(b"PONG".to_vec()));
}

#[test]
fn sigterm_answers_what_has_arrived_and_ends_with_0() {
    let mut server = Server::start();
    let mut client = server.client();
    let mut idle = server.client();
    assert_eq!(idle.ask("PING"), Reply::Status(b"PONG".to_vec()));
    let mut bytes = Vec::new();
    for _ in 0..1_000 {
        bytes.extend(encode(&["INCR", "counter"]));
    }
    client.send(&bytes);
    terminate(server.pid());
    let status = server.process.wait(Duration::from_secs(1)).expect("the server ends within a second");
    assert_eq!(status.code(), Some(0), "{}", server.process.stderr());
    for i in 1..=1_000 {
        assert_eq!(client.reply(), Reply::Integer(i));
    }
    client.expect_closed();
    idle.expect_closed();
}

/// Arguments that let a server start, with `extra` instead or in addition.
fn start_with(extra: &[&str]) -> Vec<String> {
    let (port, core, admin) = (free_ports(1), free_ports(2), free_ports(1));
    let defaults = [
        ["--port", &port.to_string()],
        ["--set", &format!("listen.core_port_base={core}")],
        ["--set", &format!("listen.admin_port={admin}")],
        ["--set", "listen.memcached_port=0"],
        ["--set", "listen.http_port=0"],
        ["--memory", "64MB"],
    ];
    arguments(&defaults, extra)
}

#[test]
fn a_bad_start_ends_with_1_and_one_line_that_names_the_setting() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
    let taken = listener.local_addr().expect("a bound address").port().to_string();
    let (core_ports, admin_port) = (format!("listen.core_port_base={taken}"), format!("listen.admin_port={taken}"));
    let cases: [([&str; 2], &str); 9] = [
        (["--set", "limits.no_such_setting=1"], "no_such_setting"),
        (["--set", "limits.value_bytes=lots"], "value_bytes"),
        (["--set", "limits.connections=-5"], "connections"),
        (["--memory", "12 parsecs"], "memory"),
        (["--set", "eviction=at-random"], "eviction"),
        (["--cpus", "999"], "cpus"),
        (["--port", &taken], "port"),
        (["--set", &core_ports], "core_port_base"),
        (["--set", &admin_port], "admin_port"),
    ];
    let mut wrong = Vec::new();
    for (extra, setting) in cases {
        let output = run_to_end(&start_with(&extra));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() != Some(1) || stderr.lines().count() != 1 || !stderr.contains(setting) {
            wrong.push(format!("{extra:?}: {}, standard error: {stderr:?}", output.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_configuration_can_be_checked_and_printed() {
    let check = run_to_end(&start_with(&["--check-config"]));
    assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stderr));
    let bad = run_to_end(&start_with(&["--set", "limits.no_such_setting=1", "--check-config"]));
    assert_eq!(bad.status.code(), Some(1), "a bad configuration passes the check");
    let args = start_with(&["--print-config"]);
    let print = run_to_end(&args);
    assert_eq!(print.status.code(), Some(0), "{}", String::from_utf8_lossy(&print.stderr));
    let text = String::from_utf8_lossy(&print.stdout);
    assert!(text.contains(&args[1]), "the port {} is not in effect:\n{text}", args[1]);
}

#[test]
fn noeviction_refuses_writes_and_goes_on_reading() {
    let server = Server::start_with(&["--set", "eviction=noeviction", "--memory", "64MB"]);
    let mut client = server.client();
    let value = vec![b'v'; 64 << 10];
    let mut stored = 0;
    let refusal = loop {
        assert!(stored < 2_000, "125 MiB fit into a budget of 64 MiB");
        let key = format!("key:{stored}");
        let reply = client.call(&[b"SET".as_slice(), key.as_bytes(), &value]);
        if reply != ok() {
            break reply;
        }
        stored += 1;
    };
    assert!(refusal.is_error() && refusal.text().starts_with(b"OOM "), "{refusal:?}");
    assert!(stored > 100, "only {stored} values of 64 KiB fit into 64 MiB");
    for i in 0..stored {
        let key = format!("key:{i}");
        assert!(client.call(&["GET", &key]) == Reply::Bulk(value.clone()), "{key} was lost");
    }
    assert_eq!(client.ask("DBSIZE"), Reply::Integer(stored));
    for i in 0..stored {
        assert_eq!(client.call(&["DEL", &format!("key:{i}")]), Reply::Integer(1));
    }
    let fits_again = eventually(PATIENCE, || client.call(&[b"SET".as_slice(), b"again", &value]) == ok());
    assert!(fits_again, "deleting everything made no room");
}

#[test]
fn a_routed_client_never_crosses_cores_and_a_plain_one_does() {
    let server = Server::start();
    let owners = owners(&server);
    let mut rng = Rng::new(1);
    let mut routed: Vec<Client> = (0..2).map(|core| server.core_client(core)).collect();
    for _ in 0..2_000 {
        let key = format!("key:{}", rng.below(1_000_000));
        let client = &mut routed[usize::from(core_of(&owners, &server, &key))];
        assert_eq!(client.call(&["SET", &key, &key]), ok());
        assert_eq!(client.call(&["GET", &key]), bulk(&key));
    }
    assert_eq!(server.metric_settled(FORWARDS), 0, "a key on its own core port was forwarded");
    let mut plain = server.client();
    for _ in 0..2_000 {
        let key = format!("key:{}", rng.below(1_000_000));
        assert_eq!(plain.call(&["SET", &key, &key]), ok());
        assert_eq!(plain.call(&["GET", &key]), bulk(&key));
    }
    assert!(eventually(PATIENCE, || server.metric_sum(FORWARDS) > 0), "random keys over two cores need forwards");
}

/// Random commands on one and on several keys in long pipelines on the shared
/// port, against a map.
#[test]
fn commands_on_keys_of_both_cores_answer_right_and_in_order() {
    let server = Server::start();
    let mut client = server.client();
    let mut rng = Rng::new(2);
    let mut model: HashMap<String, String> = HashMap::new();
    for round in 0..200 {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..1 + rng.below(60) {
            let count = 1 + rng.below(8) as usize;
            let keys: Vec<String> = (0..count).map(|_| format!("key:{}", rng.below(200))).collect();
            let command = ["MSET", "MGET", "DEL", "EXISTS", "UNLINK", "SET", "GET", "APPEND"][rng.below(8) as usize];
            let keys = if matches!(command, "SET" | "GET" | "APPEND") { &keys[..1] } else { &keys[..] };
            let mut args = vec![command.to_owned()];
            let reply = match command {
                "MSET" | "SET" => {
                    for key in keys {
                        let value = format!("{round}:{}", rng.below(1_000));
                        args.extend([key.clone(), value.clone()]);
                        model.insert(key.clone(), value);
                    }
                    ok()
                }
                "APPEND" => {
                    let value = model.entry(keys[0].clone()).or_default();
                    value.push('+');
                    args.extend([keys[0].clone(), "+".to_owned()]);
                    Reply::Integer(value.len() as i64)
                }
                _ => {
                    args.extend(keys.iter().cloned());
                    let values = |model: &HashMap<String, String>| -> Vec<Reply> {
                        keys.iter().map(|k| model.get(k).map_or(Reply::Null, bulk)).collect()
                    };
                    match command {
                        "MGET" => Reply::Array(values(&model)),
                        "GET" => values(&model).remove(0),
                        "EXISTS" => Reply::Integer(keys.iter().filter(|k| model.contains_key(*k)).count() as i64),
                        _ => Reply::Integer(keys.iter().filter(|k| model.remove(*k).is_some()).count() as i64),
                    }
                }
            };
            bytes.extend(encode(&args));
            expected.push((args, reply));
        }
        client.send(&bytes);
        for (args, reply) in expected {
            assert_eq!(client.reply(), reply, "round {round}, {args:?}");
        }
    }
    assert_eq!(client.ask("DBSIZE"), Reply::Integer(model.len() as i64));
}

#[test]
fn a_connection_moves_to_the_core_that_its_keys_settle_on() {
    let server = Server::start();
    let first = key_of_core(&server, 0, 0);
    let owners = owners(&server);
    let rest: Vec<String> =
        (0..400).map(|i| format!("key:{i}")).filter(|key| core_of(&owners, &server, key) == 1).collect();
    let mut client = server.client();
    assert_eq!(client.call(&["SET", &first, "v"]), ok());
    let mut use_keys = |times: usize| {
        for i in 0..times {
            let key = &rest[i % rest.len()];
            assert_eq!(client.call(&["SET", key, key]), ok());
            assert_eq!(client.call(&["GET", key]), bulk(key));
        }
    };
    use_keys(5_000);
    let settled = server.metric_settled(FORWARDS);
    use_keys(2_000);
    assert_eq!(server.metric_settled(FORWARDS), settled, "requests are still forwarded");
    assert!(server.metric_sum(STEERED) > 0, "{STEERED} does not count the move");
}
