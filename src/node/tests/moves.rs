//! Sessions that change cores or end while answers are under way.

use super::*;

#[test]
fn the_first_key_places_a_plain_connection() {
    let mut host = Host::new(2, LIMITS);
    let key = key_on(&host, 1, 0);
    let mut plain = host.connect(0, Scope::Host);
    let asked = [words("ping"), words(&format!("set {key} 1")), words(&format!("incr {key}"))].concat();
    assert_eq!(host.ask(&mut plain, &asked), "+PONG\r\n+OK\r\n:2\r\n");
    assert_eq!((plain.core, plain.moves), (1, 1));
    let mut pinned = host.connect(0, Scope::Core);
    assert_eq!(host.ask(&mut pinned, words(&format!("get {key}"))), "$1\r\n2\r\n");
    assert_eq!((pinned.core, pinned.moves), (0, 0), "a cluster's client is where it wants to be");
}

#[test]
fn a_connection_follows_keys_that_settled_elsewhere_and_loses_nothing() {
    let mut host = Host::new(2, LIMITS);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = host.connect(0, Scope::Host);
    assert_eq!(host.ask(&mut client, words(&format!("set {here} 0"))), "+OK\r\n");
    let pipeline = words(&format!("incr {there}")).repeat(1000);
    let expected: String = (1..=1000).map(|n| format!(":{n}\r\n")).collect();
    assert_eq!(host.ask(&mut client, pipeline), expected);
    assert_eq!((client.core, client.moves), (1, 1));
}

#[test]
fn a_move_that_cannot_be_made_is_given_up_and_the_requests_are_forwarded() {
    let mut host = Host::new(2, LIMITS);
    let key = key_on(&host, 1, 0);
    let mut client = host.connect(0, Scope::Host);
    host.feed(&client, &words(&format!("set {key} 1")));
    assert_eq!(host.wishes(&client), (State::Open, false, Some(1)));
    host.nodes[0].stay(client.id);
    host.settle(&mut client);
    assert_eq!((client.got.as_slice(), client.core), (&b"+OK\r\n"[..], 0));
}

/// An unfinished request, and one with an argument too long, travel as far as they came.
#[test]
fn a_session_moves_in_the_middle_of_a_request() {
    let many: Vec<String> = std::iter::once("del".into()).chain((0..60).map(|n| format!("k{n}"))).collect();
    let mut stream = request(&many);
    stream.extend(request(&["set", "k1", &"x".repeat(5000)]));
    stream.extend(words("dbsize"));
    let expected = ":0\r\n-ERR an argument of 5000 bytes exceeds limits.value_bytes (4096)\r\n:0\r\n";
    for cut in 0..=stream.len() {
        let mut host = Host::new(2, LIMITS);
        let mut client = host.connect(0, Scope::Core);
        host.feed(&client, &stream[..cut]);
        host.nodes[0].session(client.id).unwrap().move_to = Some(1);
        host.settle(&mut client);
        host.feed(&client, &stream[cut..]);
        host.settle(&mut client);
        assert_eq!(String::from_utf8_lossy(&client.got), expected, "cut at {cut}");
        assert_eq!(client.moves, 1);
    }
}

/// The answers to a closed connection's requests are under way when another takes its place.
#[test]
fn a_new_connection_does_not_get_the_answers_of_the_one_before_it() {
    let mut host = Host::new(2, LIMITS);
    let key = key_on(&host, 1, 0);
    let first = host.connect(0, Scope::Core);
    host.feed(&first, &words(&format!("set {key} old")).repeat(3));
    host.feed(&first, &words("info"));
    host.feed(&first, &words("dbsize"));
    host.post(0);
    assert!(host.arrive(0, 1));
    assert!(host.nodes[0].close(first.id).is_some());
    assert!(host.nodes[0].close(first.id).is_none(), "closed once");
    let mut second = host.connect(0, Scope::Core);
    assert_eq!(second.id.index, first.id.index);
    assert_ne!(second.id.generation, first.id.generation);
    // It waits for answers of its own, with the same sequence numbers.
    host.feed(&second, &words(&format!("append {key} er")));
    assert_eq!(host.ask(&mut second, words(&format!("get {key}"))), ":5\r\n$5\r\nolder\r\n");
    // Whatever else the io room still knows of the first does nothing.
    host.nodes[0].receive(first.id, &words("flushall"));
    host.nodes[0].end_of_input(first.id);
    host.nodes[0].sent(first.id, Vec::new());
    host.nodes[0].stay(first.id);
    assert!(host.nodes[0].take_output(first.id).is_none() && host.nodes[0].wishes(first.id).is_none());
    assert_eq!(host.ask(&mut second, words("exists k")), ":0\r\n");
    assert_eq!(host.wishes(&second).0, State::Open);
}

/// Subcommands stand in the command table under both names.
#[test]
fn a_subcommand_is_reached_through_its_container_only() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    assert_eq!(host.ask(&mut client, words("client id")), ":1\r\n");
    let refusal = "-ERR unknown command 'client|id', with args beginning with: 'x' \r\n";
    assert_eq!(host.ask(&mut client, words("client|id x")), refusal);
}

#[test]
fn a_session_is_listed_once_and_not_after_its_end() {
    let mut host = Host::new(1, LIMITS);
    let (a, b) = (host.connect(0, Scope::Host), host.connect(0, Scope::Host));
    for client in [&a, &b, &a] {
        host.feed(client, &words("ping"));
    }
    host.nodes[0].close(b.id);
    assert_eq!(host.nodes[0].next_listed(), Some(a.id));
    assert_eq!(host.nodes[0].next_listed(), None);
}
