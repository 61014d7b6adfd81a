//! Requests that wait for a fill.
//!
//! Goal: of all that miss a value one is told to fetch it, and the others are answered when it has, when it is
//! late, or when they have waited long enough; nobody waits for ever and nobody is forgotten.

use super::*;

const START_MS: u64 = 1_700_000_000_000;
const FILLING: &str = "*3\r\n$-1\r\n$7\r\nfilling\r\n$-1\r\n";

impl Host {
    fn at_ms(&mut self, millis: u64) {
        self.nodes.iter_mut().for_each(|node| node.set_time((START_MS + millis) * 1000));
    }

    /// What each client has got since it was last asked.
    fn news(&mut self, clients: &mut [Client]) -> Vec<String> {
        self.carry();
        for client in clients.iter_mut() {
            self.settle(client);
        }
        clients.iter_mut().map(|client| String::from_utf8(std::mem::take(&mut client.got)).unwrap()).collect()
    }

    fn crowd(&mut self, count: usize, request: &str) -> Vec<Client> {
        let cores = self.nodes.len();
        let clients: Vec<_> = (0..count).map(|i| self.connect(i % cores, Scope::Core)).collect();
        for client in &clients {
            self.feed(client, request.as_bytes());
        }
        clients
    }
}

/// The token in the reply to who is to fill.
fn token(reply: &str) -> Option<u64> {
    reply.strip_prefix("*3\r\n$-1\r\n$7\r\nfilling\r\n:")?.strip_suffix("\r\n")?.parse().ok()
}

fn fresh(value: &str) -> String {
    format!("*3\r\n${}\r\n{value}\r\n$5\r\nfresh\r\n$-1\r\n", value.len())
}

/// Who of the crowd is to fill. The others have got nothing yet.
fn holder(news: &[String]) -> (usize, u64) {
    let holders: Vec<_> = news.iter().enumerate().filter_map(|(i, reply)| Some((i, token(reply)?))).collect();
    assert_eq!(holders.len(), 1, "{news:?}");
    assert_eq!(news.iter().filter(|reply| reply.is_empty()).count(), news.len() - 1, "{news:?}");
    holders[0]
}

#[test]
fn one_fills_and_all_are_answered() {
    for cores in 1..4 {
        let mut host = Host::with_memory(cores, LIMITS, 16 << 20);
        let mut crowd = host.crowd(600, "GETLEASE k WAIT 1000\r\n");
        let news = host.news(&mut crowd);
        let (at, token) = holder(&news);
        assert_eq!(host.nodes.iter().map(|node| node.snapshot().waiting).sum::<u64>(), 599);
        host.feed(&crowd[at], format!("SET k v LEASE {token}\r\n").as_bytes());
        let news = host.news(&mut crowd);
        for (i, reply) in news.iter().enumerate() {
            assert_eq!(*reply, if i == at { "+OK\r\n".into() } else { fresh("v") });
        }
        assert!(host.nodes.iter().all(|node| node.snapshot().waiting == 0 && node.waiters.held_bytes() == 0));
    }
}

#[test]
fn a_holder_that_is_late_loses_to_the_next() {
    for cores in 1..4 {
        let mut host = Host::new(cores, LIMITS);
        let mut crowd = host.crowd(6, "GETLEASE k WAIT 5000 TTL 100\r\n");
        let news = host.news(&mut crowd);
        let (first, late) = holder(&news);
        host.at_ms(100);
        assert!(host.news(&mut crowd).concat().is_empty(), "in its last millisecond it may still fill");
        assert!(host.nodes.iter().any(|node| node.next_wait_end() == Some(1)));
        host.at_ms(101);
        let news = host.news(&mut crowd);
        let (second, token) = holder(&news);
        assert_ne!(first, second);
        host.feed(&crowd[first], format!("SET k late LEASE {late}\r\n").as_bytes());
        let news = host.news(&mut crowd);
        assert_eq!((news[first].as_str(), news.concat().len()), ("$-1\r\n", 5), "nothing is stored and nobody woken");
        host.feed(&crowd[second], format!("SET k v LEASE {token}\r\n").as_bytes());
        let news = host.news(&mut crowd);
        assert_eq!(news.iter().filter(|reply| **reply == fresh("v")).count(), 4, "{news:?}");
        let report = host.nodes.iter().map(|node| node.snapshot().leases.ran_out).sum::<u64>();
        assert_eq!(report, 1);
    }
}

#[test]
fn a_deletion_makes_the_fill_lose_and_the_next_is_asked() {
    for delete in ["DEL k\r\n", "GETDEL k\r\n", "UNLINK x k\r\n", "FLUSHALL\r\n"] {
        for cores in 1..4 {
            let mut host = Host::new(cores, LIMITS);
            let mut crowd = host.crowd(4, "GETLEASE k WAIT 5000\r\n");
            let news = host.news(&mut crowd);
            let (first, late) = holder(&news);
            let mut other = host.connect(0, Scope::Host);
            host.ask(&mut other, delete);
            let news = host.news(&mut crowd);
            let (second, token) = holder(&news);
            host.feed(&crowd[first], format!("SET k old LEASE {late}\r\n").as_bytes());
            assert_eq!(host.news(&mut crowd)[first], "$-1\r\n");
            host.feed(&crowd[second], format!("SET k new LEASE {token}\r\n").as_bytes());
            let news = host.news(&mut crowd);
            assert_eq!(news.iter().filter(|reply| **reply == fresh("new")).count(), 2, "{delete}: {news:?}");
        }
    }
}

#[test]
fn who_has_waited_long_enough_is_told_so_in_the_order_of_requests() {
    for cores in 1..4 {
        let mut host = Host::new(cores, LIMITS);
        let mut holder = host.crowd(1, "GETLEASE k TTL 60000\r\n");
        assert!(token(&host.news(&mut holder)[0]).is_some());
        let mut crowd = host.crowd(3, "GETLEASE k WAIT 50\r\nPING\r\nGETLEASE k WAIT 30\r\nGETLEASE k\r\n");
        assert!(host.news(&mut crowd).concat().is_empty());
        host.at_ms(50);
        assert!(host.news(&mut crowd).concat().is_empty());
        host.at_ms(51);
        for reply in host.news(&mut crowd) {
            assert_eq!(reply, format!("{FILLING}+PONG\r\n{FILLING}{FILLING}"));
        }
        assert!(host.nodes.iter().all(|node| node.next_wait_end().is_none()));
    }
}

#[test]
fn a_client_that_is_gone_is_not_asked_to_fill() {
    let mut host = Host::new(1, LIMITS);
    let mut crowd = host.crowd(4, "GETLEASE k WAIT 5000 TTL 100\r\n");
    let news = host.news(&mut crowd);
    assert_eq!(holder(&news).0, 0);
    host.nodes[0].end(crowd[1].id);
    host.nodes[0].end(crowd[2].id);
    host.at_ms(101);
    let news = host.news(&mut crowd);
    assert_eq!(holder(&news).0, 3, "{news:?}");
}

#[test]
fn a_server_that_stops_lets_nobody_wait() {
    let mut host = Host::new(2, LIMITS);
    let mut crowd = host.crowd(6, "GETLEASE k WAIT 60000\r\n");
    let news = host.news(&mut crowd);
    let (first, _) = holder(&news);
    host.nodes.iter_mut().for_each(Node::end_waits);
    for (i, reply) in host.news(&mut crowd).into_iter().enumerate() {
        assert_eq!(reply, if i == first { "" } else { FILLING });
    }
    host.feed(&crowd[0], b"GETLEASE k WAIT 60000\r\n");
    assert_eq!(host.news(&mut crowd)[0], FILLING);
}

#[test]
fn http_clients_wait_for_a_fill_by_redis_clients() {
    for cores in 1..4 {
        let mut host = Host::new(cores, LIMITS);
        let mut redis = host.crowd(1, "GETLEASE k\r\n");
        let token = token(&host.news(&mut redis)[0]).unwrap();
        let mut clients: Vec<_> = (0..cores).map(|core| host.connect_http(core)).collect();
        for client in &clients {
            host.feed(client, b"GET /v1/cache/k?waitMs=500 HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        assert!(host.news(&mut clients).concat().is_empty());
        host.feed(&redis[0], format!("SET k v PX 90 SOFTPX 40 LEASE {token}\r\n").as_bytes());
        assert_eq!(host.news(&mut redis)[0], "+OK\r\n");
        for answer in host.news(&mut clients) {
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"state\":\"fresh\"}"), "{answer}");
        }
        host.at_ms(40);
        for client in &clients {
            host.feed(client, b"GET /v1/cache/k?waitMs=500 HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        let answers = host.news(&mut clients);
        assert!(
            answers.iter().all(|answer| answer.contains("\"value\":\"v\"") && answer.contains("\"state\":\"stale\""))
        );
        assert_eq!(answers.iter().filter(|answer| answer.contains("\"lease\":")).count(), 1, "{answers:?}");
    }
}

/// One that sends no more cannot fill, wherever it is and whether its side is closed or the whole connection.
#[test]
fn who_sends_no_more_gets_no_lease() {
    for cores in 1..4 {
        for whole in [false, true] {
            let mut host = Host::new(cores, LIMITS);
            let mut filler = host.crowd(1, "GETLEASE k\r\n");
            assert!(token(&host.news(&mut filler)[0]).is_some());
            let mut gone = host.crowd(cores, "GETLEASE k WAIT 5000\r\n");
            host.carry();
            let mut last = host.crowd(1, "GETLEASE k WAIT 5000\r\n");
            host.carry();
            for client in &gone {
                if whole {
                    host.nodes[client.core].end(client.id);
                } else {
                    host.nodes[client.core].end_of_input(client.id);
                }
            }
            host.carry();
            host.feed(&filler[0], b"DEL k\r\n");
            assert!(token(&host.news(&mut last)[0]).is_some(), "on {cores} cores");
            let others = if whole { "" } else { FILLING };
            let news = host.news(&mut gone);
            assert!(news.iter().all(|reply| reply == others), "{news:?}");
            assert!(host.nodes.iter().all(|node| node.waiters.held_bytes() == 0));
        }
    }
}

#[test]
fn requests_that_wait_take_a_part_of_the_memory_and_close_nobody() {
    let limits = Limits { key_bytes_max: 4000, ..LIMITS };
    let mut host = Host::with_memory(1, limits, 4 << 20);
    let mut crowd: Vec<_> = (0..10).map(|_| host.connect(0, Scope::Host)).collect();
    for (i, client) in crowd.iter().enumerate() {
        for n in 0..20 {
            let key = format!("{i}:{n}:{}", "k".repeat(3900));
            host.feed(client, &request(&["GETLEASE", &key]));
            host.feed(client, &request(&["GETLEASE", &key, "WAIT", "60000"]));
        }
    }
    host.carry();
    let waiting = host.nodes[0].snapshot().waiting;
    assert!((30..70).contains(&waiting), "{waiting} wait");
    assert!(host.nodes[0].waiters.held_bytes() <= 4 << 16);
    assert_eq!(host.nodes[0].shed(1 << 20), 0);
    host.nodes[0].end_waits();
    let news = host.news(&mut crowd);
    assert_eq!(news.concat().matches("filling").count(), 10 * 20 * 2);
}
