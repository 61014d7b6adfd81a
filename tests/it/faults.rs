//! Crowds, resets and stalls against the real process: every reply that is due comes,
//! right and in order, and afterwards nothing is left behind: no connection, no
//! descriptor, no memory, no busy loop.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, PATIENCE, Server, allowed_cpus, cpu_time, descriptors, eventually, resident_bytes, signal,
};
use crate::resp::{Reply, encode};
use crate::robustness::{core_of, owners};

const MIB: u64 = 1 << 20;
const MODES: [&str; 3] = ["park", "adaptive", "busy"];
const CONNECTIONS: &str = "ringfence_connections";

fn ok() -> Reply {
    Reply::Status(b"OK".to_vec())
}

fn bulk(text: impl AsRef<[u8]>) -> Reply {
    Reply::Bulk(text.as_ref().to_vec())
}

fn set_and_get(key: &str, value: &str) -> Vec<u8> {
    [encode(&["SET", key, value]), encode(&["GET", key])].concat()
}

fn start_in(mode: &str) -> Server {
    Server::start_with(&["--set", &format!("cores.idle={mode}")])
}

/// Keys of each core, by core.
fn keys_by_core(server: &Server, count: usize) -> [Vec<String>; 2] {
    let owners = owners(server);
    let mut keys = [Vec::new(), Vec::new()];
    for key in (0..).map(|i| format!("key:{i}")) {
        let of_core = &mut keys[usize::from(core_of(&owners, server, &key))];
        if of_core.len() < count {
            of_core.push(key);
        } else if keys.iter().all(|keys| keys.len() == count) {
            break;
        }
    }
    keys
}

/// New clients are answered, whichever core gets them.
fn assert_is_served(server: &Server) {
    for n in 0..8 {
        let (mut client, key) = (server.client(), format!("served:{n}"));
        assert_eq!((client.call(&["SET", &key, "v"]), client.call(&["DEL", &key])), (ok(), Reply::Integer(1)));
    }
}

/// What a server had open before a test, to compare with afterwards.
struct Before {
    descriptors: usize,
}

impl Before {
    fn look(server: &Server) -> Self {
        // The first of everything opens what stays open.
        assert_is_served(server);
        let (mut last, mut steady) = (0, 0);
        let settled = eventually(PATIENCE, || {
            let now = descriptors(server.pid());
            steady = if now == last && server.metric_sum(CONNECTIONS) == 0 { steady + 1 } else { 0 };
            last = now;
            steady >= 5
        });
        assert!(settled, "{last} descriptors and {} connections before", server.metric_sum(CONNECTIONS));
        Self { descriptors: last }
    }

    fn assert_nothing_is_left(&self, server: &Server) {
        let gone = eventually(PATIENCE, || {
            server.metric_sum(CONNECTIONS) == 0 && descriptors(server.pid()) <= self.descriptors
        });
        let (open, now) = (server.metric_sum(CONNECTIONS), descriptors(server.pid()));
        assert!(gone, "{open} connections are left, {} descriptors became {now}", self.descriptors);
        assert_is_served(server);
    }
}

/// The process stands still while everybody sends, so that all their pipelines
/// are there at once: several times more than there are receive buffers.
#[test]
fn three_thousand_pipelines_in_one_moment_are_all_answered() {
    const CLIENTS: usize = 3000;
    const PAIRS: usize = 32;
    rlimit::increase_nofile_limit(CLIENTS as u64 + 1000).expect("descriptors for the clients");
    let server = Server::start_with(&["--cpus", &allowed_cpus()[0].to_string()]);
    let before = Before::look(&server);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    for round in 0..3 {
        let value = |client: usize, pair: usize| format!("{round}:{client}:{pair}");
        signal(server.pid(), "STOP");
        for (c, client) in clients.iter_mut().enumerate() {
            let pipeline: Vec<u8> = (0..PAIRS).flat_map(|p| set_and_get(&format!("c{c}:{p}"), &value(c, p))).collect();
            client.send(&pipeline);
        }
        signal(server.pid(), "CONT");
        for (c, client) in clients.iter_mut().enumerate() {
            for p in 0..PAIRS {
                assert_eq!(client.reply(), ok(), "round {round}, client {c}, SET {p}");
                assert_eq!(client.reply(), bulk(value(c, p)), "round {round}, client {c}, GET {p}");
            }
        }
    }
    drop(clients);
    before.assert_nothing_is_left(&server);
}

/// Each sender has more waiting than one visit takes, and together they fill every
/// receive buffer: receives starve, and nothing is lost or out of order.
#[test]
fn senders_that_outrun_the_receive_buffers_lose_nothing() {
    const CLIENTS: usize = 48;
    const WRITES: usize = 20;
    const VALUE: usize = 60_000;
    let server = Server::start_with(&["--cpus", &allowed_cpus()[0].to_string()]);
    let before = Before::look(&server);
    let value = |c: usize, n: usize| format!("{c}:{n}:").repeat(VALUE / 4)[..VALUE - n].to_owned();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    let starved = eventually(PATIENCE, || {
        signal(server.pid(), "STOP");
        thread::scope(|scope| {
            for (c, client) in clients.iter_mut().enumerate() {
                scope.spawn(move || {
                    let key = format!("c{c}");
                    let write = |n| [encode(&["SET", &key, &value(c, n)]), encode(&["STRLEN", &key])].concat();
                    let mut pipeline: Vec<u8> = (0..WRITES).flat_map(write).collect();
                    pipeline.extend(encode(&["GET", &key]));
                    client.send(&pipeline);
                    for n in 0..WRITES {
                        assert_eq!(client.reply(), ok(), "client {c}, SET {n}");
                        assert_eq!(client.reply(), Reply::Integer((VALUE - n) as i64), "client {c}, STRLEN {n}");
                    }
                    assert!(client.reply() == bulk(value(c, WRITES - 1)), "client {c} reads something else");
                });
            }
            thread::sleep(Duration::from_millis(200));
            signal(server.pid(), "CONT");
        });
        server.metric_sum("ringfence_receive_starved_total") > 0
    });
    assert!(starved, "the receive buffers never ran out");
    drop(clients);
    before.assert_nothing_is_left(&server);
}

/// Resets come while requests arrive, while large replies are sent, and in the middle of a request.
#[test]
fn a_thousand_resets_in_the_middle_of_pipelines_leave_nothing() {
    let server = Server::start();
    let large = "x".repeat(100_000);
    assert_eq!(server.client().call(&["SET", "large", &large]), ok());
    let before = Before::look(&server);
    let mut pipeline: Vec<u8> = (0..100).flat_map(|i| set_and_get(&format!("key:{i}"), "value")).collect();
    (0..50).for_each(|_| pipeline.extend(encode(&["GET", "large"])));
    pipeline.extend(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1000\r\nonly so much");
    let mut peak = 0;
    for round in 0..1000u64 {
        let mut client = server.client();
        client.send(&pipeline);
        if round % 4 > 0 {
            thread::sleep(Duration::from_micros(round * 5));
        }
        if round % 4 > 2 {
            assert_eq!(client.reply(), ok());
        }
        client.reset();
        if round % 20 == 0 {
            peak = resident_bytes(server.pid()).max(peak);
        }
    }
    before.assert_nothing_is_left(&server);
    // A thousand clients have asked for 5 MB each. What the server had ready for them, a megabyte
    // at least, is used again when they are gone.
    assert!(peak < 512 * MIB, "{} MiB were resident", peak / MIB);
    assert_eq!(server.client().ask("GET half"), Reply::Null);
}

#[test]
fn peers_that_never_read_keep_nobody_waiting_in_any_idle_mode() {
    for mode in MODES {
        let server = start_in(mode);
        let before = Before::look(&server);
        let large = "x".repeat(1 << 20);
        let keys = keys_by_core(&server, 1);
        let mut stalled = Vec::new();
        for key in keys.concat() {
            assert_eq!(server.client().call(&["SET", &key, &large]), ok());
            for _ in 0..3 {
                let mut client = server.client();
                client.send(&encode(&["GET", &key]).repeat(100));
                stalled.push(client);
            }
        }
        let begin = Instant::now();
        let mut client = server.client();
        for i in 0..500 {
            assert_eq!(client.call(&["SET", &format!("n:{i}"), "v"]), ok(), "{mode}");
        }
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(3), "{mode}: 500 requests beside stalled peers took {took:?}");
        drop(client);
        // They are closed with replies under way, some by a reset.
        let mut stalled = stalled.into_iter();
        stalled.by_ref().take(3).for_each(Client::reset);
        drop(stalled);
        before.assert_nothing_is_left(&server);
    }
}

#[test]
fn twenty_thousand_short_connections_leave_nothing() {
    const THREADS: usize = 4;
    const EACH: usize = 5000;
    let server = Server::start();
    let before = Before::look(&server);
    let resident = resident_bytes(server.pid());
    thread::scope(|scope| {
        for t in 0..THREADS {
            let server = &server;
            scope.spawn(move || {
                for n in 0..EACH {
                    let mut client = if n % 2 == 0 { server.client() } else { server.core_client(t as u16 % 2) };
                    assert_eq!(client.ask("PING"), Reply::Status(b"PONG".to_vec()));
                    // Half of them leave no state behind in the client's kernel either.
                    if n % 4 < 2 {
                        client.reset();
                    }
                }
            });
        }
    });
    before.assert_nothing_is_left(&server);
    let grown = resident_bytes(server.pid()).saturating_sub(resident);
    assert!(grown < 32 * MIB, "20,000 connections left {} MiB", grown / MIB);
}

/// Clients of core ports are not moved: every key of the other core is forwarded, and
/// its answer finds nobody.
#[test]
fn clients_that_leave_while_other_cores_work_for_them_leave_nothing() {
    let server = Server::start();
    let before = Before::look(&server);
    let keys = keys_by_core(&server, 50);
    let forwards = server.metric_sum("ringfence_cross_core_forwards_total");
    let mut pipeline = Vec::new();
    for (here, there) in keys[0].iter().zip(&keys[1]) {
        pipeline.extend(encode(&["MSET", here, "v", there, "w"]));
        pipeline.extend(encode(&["MGET", there, here]));
        pipeline.extend(set_and_get(there, "v"));
        pipeline.extend(set_and_get(here, "w"));
    }
    for round in 0..600u64 {
        let mut client = server.client();
        client.send(&pipeline);
        if round % 3 == 1 {
            thread::sleep(Duration::from_micros(round));
        }
        if round % 2 == 0 {
            client.reset();
        }
    }
    before.assert_nothing_is_left(&server);
    assert!(server.metric_sum("ringfence_cross_core_forwards_total") > forwards, "nothing was forwarded");
    let mut client = server.client();
    for (here, there) in keys[0].iter().zip(&keys[1]) {
        assert_eq!(client.call(&["MSET", here, "1", there, "2"]), ok());
        assert_eq!(client.call(&["MGET", there, here]), Reply::Array(vec![bulk("2"), bulk("1")]));
    }
}

/// Fifty plain clients work on keys of one core until they may have been moved there,
/// and then on keys of the other, with pipelines that straddle the change.
#[test]
fn clients_that_keep_changing_their_core_get_every_reply() {
    const CLIENTS: usize = 50;
    const HOPS: usize = 30;
    let server = Server::start();
    let before = Before::look(&server);
    let keys = keys_by_core(&server, CLIENTS);
    let steered = server.metric_sum("ringfence_connections_steered_total");
    thread::scope(|scope| {
        for c in 0..CLIENTS {
            let (server, keys) = (&server, &keys);
            scope.spawn(move || {
                let mut client = server.client();
                for hop in 0..HOPS {
                    let key = &keys[(c + hop) % 2][c];
                    let pipelines = 4 + (c * 7 + hop) % 9;
                    let value = |n: usize| format!("{c}:{hop}:{n}");
                    for p in 0..pipelines {
                        let bytes: Vec<u8> = (0..16).flat_map(|n| set_and_get(key, &value(p * 16 + n))).collect();
                        // In two pieces: the session moves with half a request.
                        let (head, tail) = bytes.split_at((c * 31 + hop * 17 + p) % bytes.len());
                        client.send(head);
                        if hop % 3 == 0 {
                            thread::sleep(Duration::from_micros(100));
                        }
                        client.send(tail);
                        for n in 0..16 {
                            assert_eq!(client.reply(), ok(), "client {c}, hop {hop}");
                            assert_eq!(client.reply(), bulk(value(p * 16 + n)), "client {c}, hop {hop}");
                        }
                    }
                }
            });
        }
    });
    let moved = server.metric_sum("ringfence_connections_steered_total") - steered;
    assert!(moved > CLIENTS as u64, "only {moved} moves");
    before.assert_nothing_is_left(&server);
}

#[test]
fn after_five_idle_seconds_every_mode_answers_at_once_and_sleepers_used_no_cpu() {
    const SOON: Duration = Duration::from_millis(100);
    for mode in MODES {
        let server = start_in(mode);
        let mut clients = [server.client(), server.core_client(0), server.core_client(1)];
        clients.iter_mut().for_each(|client| assert_eq!(client.ask("PING"), Reply::Status(b"PONG".to_vec())));
        // On a loaded machine one late answer proves nothing; three do.
        let mut late = Vec::new();
        let in_time = (0..3).any(|_| {
            thread::sleep(Duration::from_secs(3));
            let (begin, used) = (Instant::now(), cpu_time(server.pid()));
            thread::sleep(Duration::from_secs(2));
            let share = (cpu_time(server.pid()) - used).as_secs_f64() / begin.elapsed().as_secs_f64();
            assert!(mode == "busy" || share < 0.05, "{mode} uses {:.1} % of a CPU while idle", share * 100.0);
            let begin = Instant::now();
            for client in &mut clients {
                assert_eq!(client.ask("PING"), Reply::Status(b"PONG".to_vec()), "{mode}");
            }
            assert_eq!(server.client().ask("PING"), Reply::Status(b"PONG".to_vec()), "{mode}: a new connection");
            late.push(begin.elapsed());
            begin.elapsed() < SOON
        });
        assert!(in_time, "{mode} answered after {late:?}");
    }
}
