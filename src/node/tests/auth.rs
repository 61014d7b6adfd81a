//! Passwords.
//!
//! Goal: without one a client reads, changes, begins and occupies nothing, by whichever protocol and however its bytes
//! are cut; with one it is served as if none had been asked for. Method: the same streams are given to a host that asks for
//! a password and to one that does not, and what the first holds meanwhile is measured.

use super::*;
use proptest::prelude::*;

const OPEN: &str = "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n";
const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
/// What a client without a password may make a session hold: an unfinished request of ten arguments, in a buffer that
/// has doubled on the way, and replies.
const HELD_BYTES_MAX: usize = 560 << 10;

fn guarded_with(cores: usize, limits: Limits) -> Host {
    let mut host = Host::new(cores, limits);
    let passwords = Arc::new(Passwords::parse(b"secret\nnext one\n").unwrap());
    host.nodes.iter_mut().for_each(|node| node.passwords = Some(passwords.clone()));
    host
}

fn guarded(cores: usize) -> Host {
    guarded_with(cores, LIMITS)
}

fn failures(host: &Host) -> u64 {
    host.nodes.iter().map(|node| node.snapshot().auth_failures).sum()
}

/// Whether the host has noticed nothing of its clients' requests for keys.
fn assert_untouched(host: &Host) {
    for node in &host.nodes {
        let seen = node.snapshot();
        let counts =
            [seen.keys, seen.hits, seen.misses, seen.forwards, seen.steered, seen.leases.granted, seen.tracked_keys];
        assert_eq!(counts, [0; 7]);
    }
}

#[test]
fn nothing_is_executed_before_a_password_is_right() {
    let mut host = guarded(2);
    let mut client = host.connect(0, Scope::Host);
    let key = key_on(&host, 1, 0);
    for line in [
        "ping",
        "get k",
        "mget a b c",
        "scan 0",
        "info",
        "flushall",
        "dbsize",
        "client id",
        "client tracking on",
        "config get *",
        "config set eviction lru",
        "command",
        "cluster slots",
        "hotkeys",
        "getlease k",
        "select 0",
        "readonly",
    ] {
        assert_eq!(host.ask(&mut client, words(line)), NOAUTH, "{line}");
    }
    assert_eq!(host.ask(&mut client, words(&format!("set {key} v"))), NOAUTH);
    assert_eq!((client.core, client.moves), (0, 0));
    assert_untouched(&host);
    for (line, answer) in [
        ("nonsense x", "-ERR unknown command 'nonsense', with args beginning with: 'x' \r\n"),
        ("get", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("client", "-ERR wrong number of arguments for 'client' command\r\n"),
        ("client nonsense", "-ERR unknown subcommand 'nonsense'. Try CLIENT HELP.\r\n"),
        ("auth", "-ERR wrong number of arguments for 'auth' command\r\n"),
        ("auth a b c", "-ERR syntax error\r\n"),
        ("auth wrong", WRONGPASS),
        ("auth default wrong", WRONGPASS),
        ("auth nobody secret", WRONGPASS),
        ("hello 3 auth default wrong setname me", WRONGPASS),
        ("hello 3 auth default", "-ERR Syntax error in HELLO option 'auth'\r\n"),
        ("hello 9", "-NOPROTO unsupported protocol version\r\n"),
    ] {
        assert_eq!(host.ask(&mut client, words(line)), answer, "{line}");
    }
    for line in ["hello", "hello 3", "hello 3 setname me"] {
        assert!(host.ask(&mut client, words(line)).starts_with("-NOAUTH HELLO must be called with the client already"));
    }
    assert_eq!(failures(&host), 4);
    assert_eq!(host.ask(&mut client, words("auth secret")), "+OK\r\n");
    assert_eq!(host.ask(&mut client, words(&format!("set {key} v"))), "+OK\r\n");
    assert_eq!((client.core, client.moves), (1, 1), "its first key places it now");
    assert_eq!(host.ask(&mut client, words("client getname")), "$-1\r\n");
    assert_eq!(host.ask(&mut client, words("auth wrong")), WRONGPASS);
    assert_eq!(host.ask(&mut client, words("ping")), "+PONG\r\n", "what it has it keeps");
    let mut leaving = host.connect(0, Scope::Core);
    assert_eq!(
        host.ask(&mut leaving, [words("get k"), words("quit"), words("ping")].concat()),
        format!("{NOAUTH}+OK\r\n")
    );
    assert_eq!(host.wishes(&leaving).0, State::Draining);
}

#[test]
fn every_way_to_give_a_password() {
    for (line, answer) in [
        ("auth secret", "+OK"),
        ("AUTH default secret", "+OK"),
        ("hello 3 auth default secret setname me", "%7"),
        ("hello 2 SETNAME me AUTH default secret", "*14"),
        ("hello 3 auth default secret nonsense", "-ERR Syntax error in HELLO option 'nonsense'"),
    ] {
        let mut host = guarded(1);
        let mut client = host.connect(0, Scope::Host);
        assert!(host.ask(&mut client, words(line)).starts_with(answer), "{line}");
        assert_eq!(host.ask(&mut client, words("ping")), "+PONG\r\n", "{line}");
    }
    let mut host = guarded(1);
    let mut client = host.connect(0, Scope::Host);
    assert_eq!(host.ask(&mut client, "AUTH \"next one\"\r\nPING\r\n"), "+OK\r\n+PONG\r\n");
}

#[test]
fn without_a_configured_password_all_is_as_in_redis() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    assert!(host.ask(&mut client, words("auth x")).starts_with("-ERR AUTH <password> called without any password"));
    assert_eq!(host.ask(&mut client, words("auth default x")), "+OK\r\n");
    assert_eq!(host.ask(&mut client, words("auth nobody x")), WRONGPASS);
    assert_eq!(host.ask(&mut client, words("ping")), "+PONG\r\n");
}

/// In one read, or byte by byte: what stands before the password is refused, what stands behind it is executed.
#[test]
fn a_pipeline_is_executed_from_its_password_on() {
    let many: Vec<String> = std::iter::once("del".into()).chain((0..40).map(|n| format!("k{n}"))).collect();
    let long = request(&["set", "k1", &"x".repeat(4000)]);
    let stream = [words("set k1 0"), words("auth no"), OPEN.into(), long, request(&many), words("get k1")].concat();
    let expected = format!("{NOAUTH}{WRONGPASS}+OK\r\n+OK\r\n:1\r\n$-1\r\n");
    for cores in 1..4 {
        for piece in [1, 2, 7, 50, stream.len()] {
            let mut host = guarded(cores);
            let mut client = host.connect(0, Scope::Host);
            stream.chunks(piece).for_each(|piece| host.feed(&client, piece));
            host.settle(&mut client);
            assert_eq!(String::from_utf8_lossy(&client.got), expected, "{cores} cores, {piece} bytes at a time");
        }
    }
}

#[test]
fn more_and_longer_arguments_are_refused_before_a_password() {
    let limits = Limits { value_bytes_max: 1 << 20, ..LIMITS };
    for (stream, answer) in [
        ("*11\r\n", "-ERR Protocol error: unauthenticated multibulk length\r\n"),
        ("*64000000\r\n", "-ERR Protocol error: unauthenticated multibulk length\r\n"),
        ("*2147483648\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*3\r\n$3\r\nset\r\n$1\r\nk\r\n$16385\r\n", "-ERR Protocol error: unauthenticated bulk length\r\n"),
        ("*1\r\n$536870912\r\n", "-ERR Protocol error: unauthenticated bulk length\r\n"),
        ("*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("GET / HTTP/1.1\r\n", ""),
    ] {
        let mut host = guarded_with(1, limits);
        let mut client = host.connect(0, Scope::Host);
        assert_eq!(host.ask(&mut client, stream), answer, "{stream}");
        assert_eq!(host.wishes(&client).0, State::Draining, "{stream}");
    }
    let mut host = guarded_with(1, limits);
    let mut client = host.connect(0, Scope::Host);
    let most: Vec<String> = std::iter::once("get".into()).chain((0..9).map(|_| "x".repeat(16 << 10))).collect();
    assert!(host.ask(&mut client, request(&most)).starts_with("-ERR wrong number"));
    assert_eq!(host.ask(&mut client, "*10\r\n$16384\r\n"), "");
    assert_eq!(host.wishes(&client).0, State::Open);
}

/// With a limit of pieces that even short values exceed, and options behind the value.
#[test]
fn no_value_begins_to_come_in_before_a_password() {
    let limits = Limits { stream_bytes_min: 100, ..LIMITS };
    let mut host = guarded_with(1, limits);
    let mut client = host.connect(0, Scope::Host);
    let set = request(&["set", "k", &"x".repeat(4000), "EX", "10"]);
    for piece in set.chunks(64) {
        host.feed(&client, piece);
        assert!(host.nodes[0].session(client.id).unwrap().inflow.is_none());
    }
    host.settle(&mut client);
    assert_eq!(String::from_utf8_lossy(&std::mem::take(&mut client.got)), NOAUTH);
    assert_untouched(&host);
    assert_eq!(host.ask(&mut client, OPEN), "+OK\r\n");
    host.feed(&client, &set[..200]);
    assert!(host.nodes[0].session(client.id).unwrap().inflow.is_some(), "afterwards it does");
    assert_eq!(host.ask(&mut client, &set[200..]), "+OK\r\n");
}

#[test]
fn the_password_travels_with_the_session() {
    for cut in 0..OPEN.len() {
        let mut host = guarded(3);
        let mut client = host.connect(0, Scope::Core);
        host.feed(&client, &OPEN.as_bytes()[..cut]);
        for core in [1, 2] {
            host.nodes[client.core].session(client.id).unwrap().move_to = Some(core);
            host.settle(&mut client);
        }
        assert_eq!(host.ask(&mut client, &OPEN[cut..]), "+OK\r\n");
        for core in [1, 0] {
            host.nodes[client.core].session(client.id).unwrap().move_to = Some(core);
            assert_eq!(host.ask(&mut client, words("ping")), "+PONG\r\n", "on core {core}");
        }
        assert_eq!(client.moves, 4);
        let mut other = host.connect(client.core, Scope::Core);
        assert_eq!(host.ask(&mut other, words("ping")), NOAUTH, "another client gains nothing by it");
    }
}

/// What a client cannot take memory with, whatever it sends and however long it reads no reply.
#[test]
fn a_client_without_a_password_holds_little() {
    let limits = Limits { value_bytes_max: 8 << 20, ..LIMITS };
    let most: Vec<String> = (0..10).map(|_| "x".repeat(16 << 10)).collect();
    let head = "Host: x\r\nContent-Type: application/octet-stream\r\n";
    for (protocol, stream) in [
        (Protocol::Resp, words("get k").repeat(40_000)),
        (Protocol::Resp, words("auth wrong").repeat(40_000)),
        (Protocol::Resp, request(&most).repeat(20)),
        (Protocol::Resp, vec![b'x'; 1 << 20]),
        (Protocol::Memcache, b"version\r\n".repeat(40_000)),
        (Protocol::Memcache, b"set a 0 0 8\r\nyou know\r\n".repeat(40_000)),
        (Protocol::Memcache, [b"set a 0 0 4000000000\r\n".to_vec(), vec![b'x'; 4 << 20]].concat()),
        (Protocol::Memcache, [b"get ".to_vec(), vec![b'x'; 4 << 20]].concat()),
        (Protocol::Http, b"GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000)),
        (Protocol::Http, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000)),
        (
            Protocol::Http,
            [
                format!("PUT /v1/cache/k HTTP/1.1\r\n{head}Content-Length: 8000000\r\n\r\n").into_bytes(),
                vec![b'x'; 8_000_000],
            ]
            .concat(),
        ),
        (
            Protocol::Http,
            [
                format!("PUT /v1/cache/k HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n600000\r\n").into_bytes(),
                vec![b'x'; 6 << 20],
            ]
            .concat(),
        ),
        (
            Protocol::Http,
            [
                b"GET /openapi.json HTTP/1.1\r\nContent-Length: 8000000\r\nHost: x\r\n\r\n".to_vec(),
                vec![b'x'; 8_000_000],
            ]
            .concat(),
        ),
    ] {
        let mut host = guarded_with(2, limits);
        let client = host.connect_as(protocol, 0, Scope::Host);
        for piece in stream.chunks(16 << 10) {
            // As the io room: it reads on only if the session wants more.
            if !host.wishes(&client).1 {
                break;
            }
            host.feed(&client, piece);
            host.carry();
            let held = host.nodes[0].session(client.id).unwrap().held_bytes();
            assert!(held < HELD_BYTES_MAX, "{protocol:?} {}: {held} bytes", stream[..40].escape_ascii());
        }
        assert_untouched(&host);
    }
}

/// It goes on once its replies are taken, and loses none.
#[test]
fn many_wrong_passwords_are_all_answered_and_cost_others_no_turn() {
    let mut host = guarded(1);
    let mut client = host.connect(0, Scope::Host);
    host.feed(&client, &words("auth wrong").repeat(3000));
    assert!(failures(&host) < 300, "{} in one slice", failures(&host));
    host.settle(&mut client);
    assert_eq!(String::from_utf8_lossy(&std::mem::take(&mut client.got)), WRONGPASS.repeat(3000));
    assert_eq!(failures(&host), 3000);
    assert_eq!(host.ask(&mut client, OPEN), "+OK\r\n");
    host.feed(&client, &words("auth wrong").repeat(3000));
    host.nodes[0].end_of_input(client.id);
    host.settle(&mut client);
    assert_eq!(client.got.len(), WRONGPASS.len() * 3000, "also when the client has ended its side");
    assert_eq!(host.wishes(&client).0, State::Draining);
}

#[test]
fn memcached_clients_set_their_password_first() {
    let set = |data: &str| format!("set any 0 0 {}\r\n{data}\r\n", data.len());
    let refusal = |text: &str| format!("CLIENT_ERROR {text}\r\n");
    let (unknown, failed) = (refusal("unauthenticated"), refusal("authentication failure"));
    for (stream, answer) in [
        ("version\r\nmn\r\nquit\r\n".to_owned(), unknown.repeat(3)),
        ("get a b c\r\nnonsense\r\n\r\n".to_owned(), unknown.repeat(3)),
        ("add a 0 0 11\r\nany secret\r\n".to_owned(), unknown.repeat(2)),
        (set("you wrong"), failed.clone()),
        (set("you secret x"), failed.clone()),
        (set("secret"), refusal("bad authentication token format")),
        (set(" secret"), refusal("bad authentication token format")),
        (set(""), refusal("bad authentication token format")),
        (set("you secret\r\n"), failed.clone()),
        ("set a 0 0 10\r\nyou secretxx".to_owned(), refusal("bad command line termination")),
        ("set a 0 0 99999999999\r\n".to_owned(), unknown.clone()),
        (set(&"x".repeat(5000)) + "version\r\n", failed.clone() + &unknown),
    ] {
        for piece in [1, 3, stream.len()] {
            let mut host = guarded(2);
            let mut client = host.connect_as(Protocol::Memcache, 0, Scope::Host);
            stream.as_bytes().chunks(piece).for_each(|piece| host.feed(&client, piece));
            host.settle(&mut client);
            assert_eq!(String::from_utf8_lossy(&std::mem::take(&mut client.got)), answer, "{stream:?}");
            assert_untouched(&host);
            let again = "set x y z 10 noreply\r\nyou secret\r\nset a 3 0 1\r\nv\r\nget a\r\n";
            assert_eq!(host.ask(&mut client, again), "STORED\r\nSTORED\r\nVALUE a 3 1\r\nv\r\nEND\r\n", "{stream:?}");
        }
    }
    let mut host = guarded(1);
    let mut client = host.connect_as(Protocol::Memcache, 0, Scope::Host);
    assert_eq!(
        host.ask(&mut client, set("you next one") + &set("you wrong") + "get any\r\n").matches("STORED").count(),
        2
    );
    assert_eq!(failures(&host), 0, "behind the password a set is a set");
    for (stream, text) in
        [(b"get k k k ".repeat(500), "unauthenticated\r\n"), (vec![0x80; 24], "the binary protocol is")]
    {
        let mut client = host.connect_as(Protocol::Memcache, 0, Scope::Host);
        assert!(host.ask(&mut client, stream).starts_with(&format!("CLIENT_ERROR {text}")));
        assert_eq!(host.wishes(&client).0, State::Draining);
    }
}

fn http(line: &str, fields: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn http_requests_bring_their_passwords() {
    const OCTETS: &str = "Content-Type: application/octet-stream\r\n";
    let right = "Authorization: Bearer secret\r\n";
    let mut host = guarded(2);
    let mut client = host.connect_http(0);
    let key = key_on(&host, 1, 0);
    let path = format!("/v1/cache/{key}");
    let stream = [
        http(&format!("PUT {path}"), OCTETS, "no"),
        http(&format!("GET {path}"), "Authorization: Basic eW91Ondyb25n\r\n", ""),
        http("POST /v1/cache:batchSet", "Content-Type: application/json\r\n", "{\"entries\":[]}"),
        http("HEAD /v1/stats", "", ""),
        http("GET /openapi.json", "", ""),
    ];
    let answer = host.ask(&mut client, stream.concat());
    let statuses = |answer: &str| {
        let starts = answer.match_indices("HTTP/1.1 ").map(|(at, _)| answer[at + 9..at + 12].to_owned());
        starts.collect::<Vec<_>>()
    };
    assert_eq!(statuses(&answer), ["401", "401", "401", "401", "200"]);
    assert_eq!(answer.matches("WWW-Authenticate: Bearer realm=").count(), 4);
    assert_eq!(answer.matches("WWW-Authenticate: Basic realm=").count(), 4);
    assert_eq!(answer.matches("{\"error\":{\"code\":\"unauthorized\",").count(), 3, "{answer}");
    assert_eq!((client.core, failures(&host)), (0, 1), "a request without a password is no failure");
    assert_untouched(&host);
    let stream = [
        http(&format!("PUT {path}"), &format!("{OCTETS}{right}"), "yes"),
        http(&format!("GET {path}"), "", ""),
        http(&format!("GET {path}"), "Authorization: Basic eW91OnNlY3JldA==\r\n", ""),
    ];
    let answer = host.ask(&mut client, stream.concat());
    assert_eq!(statuses(&answer), ["201", "401", "200"], "each is looked at by itself");
    assert_eq!((client.core, client.moves), (1, 1));
}

/// What they hold is not much each, and may be much together: what is counted of each beside that is less than half of what
/// four of the largest values take.
#[test]
fn who_has_given_no_password_is_closed_before_those_who_have() {
    let mut host = guarded(1);
    let mut known = host.connect(0, Scope::Host);
    assert_eq!(host.ask(&mut known, OPEN), "+OK\r\n");
    host.feed(&known, format!("*3\r\n$6\r\nAPPEND\r\n$1\r\nk\r\n$4096\r\n{}", "v".repeat(4000)).as_bytes());
    let unknown: Vec<Client> = (0..12).map(|_| host.connect(0, Scope::Host)).collect();
    for client in &unknown {
        host.feed(client, [b"*2\r\n$4\r\nAUTH\r\n$2000\r\n", [b'x'; 1000].as_slice()].concat().as_slice());
    }
    let closed = host.nodes[0].shed(0);
    let is_open = |host: &mut Host, client: &Client| host.wishes(client).0 == State::Open;
    let left = unknown.iter().filter(|client| is_open(&mut host, client)).count();
    assert!(closed > 0 && left == unknown.len() - closed, "{closed} closed, {left} left");
    assert!(is_open(&mut host, &known), "it holds most");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Behind its password a pipeline is answered as by a host that asks for none.
    #[test]
    fn a_password_changes_no_reply_behind_it(
        requests in proptest::collection::vec(super::requests::sent(), 1..60),
        cores in 1..4usize,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let mut open = Host::new(cores, LIMITS);
        let mut client = open.connect(0, Scope::Core);
        let expected = open.ask(&mut client, &stream);
        let stream = [OPEN.as_bytes(), &stream].concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut host = guarded(cores);
        let mut client = host.connect(0, Scope::Core);
        cuts.windows(2).for_each(|ends| host.feed(&client, &stream[ends[0]..ends[1]]));
        host.settle(&mut client);
        let got = String::from_utf8_lossy(&client.got).into_owned();
        // INFO counts bytes and connections.
        if !requests.iter().any(|(_, same)| *same == super::requests::Same::Kind) {
            prop_assert_eq!(got, format!("+OK\r\n{expected}"));
        }
    }

    /// Whatever is sent without a password, no key is touched and nothing moves.
    #[test]
    fn nothing_that_is_sent_without_a_password_does_anything(
        requests in proptest::collection::vec(super::requests::sent(), 1..60), cores in 1..4usize,
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        for protocol in [Protocol::Resp, Protocol::Memcache, Protocol::Http] {
            let mut host = guarded(cores);
            let mut client = host.connect_as(protocol, 0, Scope::Host);
            host.ask(&mut client, &stream);
            assert_untouched(&host);
            prop_assert_eq!(client.core, 0);
        }
    }
}
