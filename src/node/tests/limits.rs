//! What a client that takes nothing, never ends or asks too much can make the node hold.

use super::*;

fn value_of(bytes: usize) -> String {
    "v".repeat(bytes)
}

#[test]
fn above_the_soft_limit_requests_wait_until_replies_are_sent() {
    let soft = 1000;
    let mut host = Host::new(1, Limits { output_soft_bytes_max: soft, ..LIMITS });
    let mut client = host.connect(0, Scope::Host);
    host.ask(&mut client, request(&["set", "k", &value_of(100)]));
    let reply = format!("$100\r\n{}\r\n", value_of(100));
    host.feed(&client, &words("get k").repeat(100));
    let held = host.nodes[0].session(client.id).unwrap().output.total_bytes();
    assert!((soft..soft + reply.len()).contains(&held), "{held}");
    assert!(!host.wishes(&client).1, "no more input is wanted");
    assert!(host.take(&mut client));
    assert_eq!(host.nodes[0].session(client.id).unwrap().output.total_bytes(), 0, "taken is not sent");
    assert!(!host.wishes(&client).1);
    assert!(host.confirm(&mut client));
    assert!(host.nodes[0].session(client.id).unwrap().output.total_bytes() >= soft, "it goes on");
    host.settle(&mut client);
    assert_eq!(String::from_utf8_lossy(&client.got), reply.repeat(100));
    assert_eq!(host.wishes(&client), (State::Open, true, None));
}

/// Behind the request that has to wait there is one of many arguments, not whole yet: what
/// was understood of it is understood again later.
#[test]
fn a_half_request_behind_a_waiting_one_is_read_again() {
    let many: Vec<String> = std::iter::once("exists".into()).chain((0..60).map(|n| format!("k{n}"))).collect();
    let stream = [words("set k1 1"), words("get k1").repeat(5), request(&many), words("get k1")].concat();
    let expected = format!("+OK\r\n{}:1\r\n$1\r\n1\r\n", "$1\r\n1\r\n".repeat(5));
    for cut in 0..=stream.len() {
        let mut host = Host::new(1, Limits { output_soft_bytes_max: 20, ..LIMITS });
        let mut client = host.connect(0, Scope::Host);
        host.feed(&client, &stream[..cut]);
        host.feed(&client, &stream[cut..]);
        host.settle(&mut client);
        assert_eq!(String::from_utf8_lossy(&client.got), expected, "cut at {cut}");
    }
}

/// Replies that wait behind one of another core count as well.
#[test]
fn replies_held_back_count_towards_the_soft_limit() {
    let mut host = Host::new(2, Limits { output_soft_bytes_max: 1000, ..LIMITS });
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = host.connect(0, Scope::Core);
    host.ask(&mut client, request(&["set", &here, &value_of(100)]));
    host.feed(&client, &words(&format!("get {there}")));
    host.feed(&client, &words(&format!("get {here}")).repeat(100));
    let session = host.nodes[0].session(client.id).unwrap();
    assert!(session.output.total_bytes() < 1200 && session.output.ready_bytes() == 0);
    assert!(!host.wishes(&client).1);
    host.settle(&mut client);
    assert_eq!(replies(&client.got).len(), 101);
}

#[test]
fn above_the_hard_limit_the_connection_is_broken() {
    let limits = Limits { output_soft_bytes_max: 1000, output_hard_bytes_max: 2000, ..LIMITS };
    let mut host = Host::new(2, limits);
    let there = key_on(&host, 1, 0);
    let mut client = host.connect(0, Scope::Core);
    host.ask(&mut client, request(&["set", &there, &value_of(1500)]));
    assert_eq!(host.wishes(&client).0, State::Open);
    host.feed(&client, &words(&format!("mget {there} {there}")));
    host.carry();
    assert_eq!(host.wishes(&client).0, State::Broken);
    assert!(!host.wishes(&client).1);
}

/// At first few may wait for other cores; once short replies have come, more.
#[test]
fn forwards_that_are_not_answered_stop_a_pipeline_and_answers_resume_it() {
    let mut host = Host::new(2, LIMITS);
    let there = key_on(&host, 1, 0);
    let mut client = host.connect(0, Scope::Core);
    let asked = 5000;
    for _ in 0..asked {
        host.feed(&client, &words(&format!("incr {there}")));
    }
    for window in [64, 1024, 1024] {
        assert_eq!(host.nodes[0].outbox[1].requests.len(), window);
        assert!(!host.wishes(&client).1);
        host.post(0);
        assert!(host.arrive(0, 1));
        host.post(1);
        assert!(host.arrive(1, 0));
    }
    host.settle(&mut client);
    let expected: String = (1..=asked).map(|n| format!(":{n}\r\n")).collect();
    assert_eq!(String::from_utf8_lossy(&client.got), expected);
    assert!(host.wishes(&client).1);
}

/// Long replies make the window narrow, so that those under way stay within the soft limit.
#[test]
fn long_replies_of_other_cores_stay_near_the_soft_limit() {
    let mut host = Host::new(2, Limits { output_soft_bytes_max: 40_000, ..LIMITS });
    let there = key_on(&host, 1, 0);
    let mut client = host.connect(0, Scope::Core);
    host.ask(&mut client, request(&["set", &there, &value_of(4000)]));
    let get = words(&format!("get {there}"));
    host.ask(&mut client, &get);
    host.feed(&client, &get.repeat(500));
    host.carry();
    let held = host.nodes[0].session(client.id).unwrap().output.total_bytes();
    assert!((40_000..85_000).contains(&held), "{held}");
    host.settle(&mut client);
    assert_eq!(replies(&client.got).len(), 500);
}

/// Together connections hold what they may: the one that holds most goes first, and
/// what other cores still answer it is nobody's.
#[test]
fn the_connections_that_hold_most_are_given_up_first() {
    let mut host = Host::new(2, LIMITS);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut clients: Vec<_> = (0..3).map(|_| host.connect(0, Scope::Core)).collect();
    host.ask(&mut clients[0], request(&["set", &here, &value_of(4000)]));
    for (client, count) in clients.iter().zip([10, 100, 1]) {
        host.feed(client, &words(&format!("append {there} x")));
        host.feed(client, &words(&format!("get {here}")).repeat(count));
    }
    host.nodes[0].end_of_input(clients[0].id);
    assert_eq!(host.nodes[0].shed(100_000), 1);
    let states = |host: &mut Host| [0, 1, 2].map(|i| host.wishes(&clients[i]).0);
    assert_eq!(states(&mut host), [State::Draining, State::Broken, State::Open]);
    assert_eq!(host.nodes[0].shed(100_000), 0);
    host.carry();
    assert_eq!(host.nodes[0].session(clients[1].id).unwrap().output.total_bytes(), 0);
    for i in [0, 2] {
        host.settle(&mut clients[i]);
        assert_eq!(replies(&clients[i].got).len(), [11, 0, 2][i]);
    }
}

/// Requests that wait because the replies before them fill a parcel keep their order,
/// those of later parcels too.
#[test]
fn full_parcels_of_replies_turn_nothing_around() {
    let huge = 1 << 30;
    let limits =
        Limits { value_bytes_max: 1 << 20, output_soft_bytes_max: huge, output_hard_bytes_max: huge, ..LIMITS };
    let mut host = Host::with_memory(2, limits, 64 << 20);
    let (big, count) = (key_on(&host, 1, 0), key_on(&host, 1, 1));
    let mut client = host.connect(0, Scope::Core);
    let (get, incr) = (words(&format!("get {big}")), words(&format!("incr {count}")));
    let set = request(&["set", &big, &value_of(1 << 20)]);
    for asked in [[set, get.repeat(40), incr.clone()].concat(), incr.repeat(2), incr] {
        host.feed(&client, &asked);
        while host.nodes[0].go_on() {}
        host.post(0);
        assert!(host.arrive(0, 1));
        assert!(host.nodes[1].outbox[0].bytes.len() < crate::node::serve::REPLIES_BYTES_MAX + (2 << 20));
    }
    host.settle(&mut client);
    let answers = replies(&client.got);
    assert_eq!(answers.len(), 45);
    assert_eq!(answers[41..], [b":1\r\n", b":2\r\n", b":3\r\n", b":4\r\n"]);
}

/// A parcel that is full of requests makes sessions wait until it is taken; one full of
/// replies makes the other core's requests wait. Nothing is lost or turned around.
#[test]
fn full_parcels_make_sessions_wait() {
    let limits = Limits {
        value_bytes_max: 4 << 20,
        request_bytes_max: 256 << 20,
        output_soft_bytes_max: 1 << 30,
        output_hard_bytes_max: 1 << 30,
        ..LIMITS
    };
    let mut host = Host::with_memory(2, limits, 64 << 20);
    let there = key_on(&host, 1, 0);
    let mut clients: Vec<_> = (0..3).map(|_| host.connect(0, Scope::Core)).collect();
    let set = request(&["set", &there, &value_of(1 << 20)]);
    let stream = [set.repeat(30), words(&format!("get {there}")).repeat(30)].concat();
    for client in &clients {
        host.feed(client, &stream);
    }
    while host.nodes[0].go_on() {}
    assert!(host.nodes[0].outbox[1].bytes.len() <= REQUESTS_BYTES_MAX + (1 << 20) + 64);
    assert!(host.nodes[0].outbox[1].requests.len() < 180);
    host.carry();
    let reply = format!("${}\r\n{}\r\n", 1 << 20, value_of(1 << 20));
    let expected = ["+OK\r\n".repeat(30), reply.repeat(30)].concat();
    for client in &mut clients {
        host.settle(client);
        assert!(client.got == expected.as_bytes(), "{} bytes", client.got.len());
    }
    assert!(host.nodes.iter().all(Node::all_quiet));
}

#[test]
fn an_argument_too_long_is_refused_and_the_connection_goes_on_however_it_is_cut() {
    let limits = Limits { value_bytes_max: 50, ..LIMITS };
    let stream = [
        words("set a 1"),
        request(&["set", "a", &value_of(51)]),
        words("get a"),
        request(&["mset", "a", &value_of(60), "b", &value_of(70), "c", "3"]),
        request(&[&value_of(99)]),
        words("dbsize"),
        request(&["set", &value_of(65), "1"]),
    ]
    .concat();
    let refusal = |n| format!("-ERR an argument of {n} bytes exceeds limits.value_bytes (50)\r\n");
    let expected =
        ["+OK\r\n".into(), refusal(51), "$1\r\n1\r\n".into(), refusal(70), refusal(99), ":1\r\n".into(), refusal(65)]
            .concat();
    let run = |pieces: &[&[u8]]| {
        let mut host = Host::new(2, limits);
        let mut client = host.connect(0, Scope::Host);
        for piece in pieces {
            host.feed(&client, piece);
        }
        host.settle(&mut client);
        assert_eq!(host.wishes(&client).0, State::Open);
        String::from_utf8(client.got).unwrap()
    };
    for cut in 0..=stream.len() {
        assert_eq!(run(&[&stream[..cut], &stream[cut..]]), expected, "cut at {cut}");
    }
    assert_eq!(run(&stream.chunks(1).collect::<Vec<_>>()), expected);
}

#[test]
fn a_key_too_long_is_refused_and_the_connection_goes_on() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    let long = "k".repeat(65);
    let refusal = "-ERR a key of 65 bytes exceeds limits.key_bytes (64)\r\n";
    assert_eq!(host.ask(&mut client, words(&format!("set {long} 1"))), refusal);
    assert_eq!(host.ask(&mut client, words(&format!("mset a 1 {long} 2"))), refusal);
    assert_eq!(host.ask(&mut client, words("dbsize")), ":0\r\n", "all or nothing");
}

#[test]
fn the_end_of_input_still_answers_whole_requests() {
    let mut host = Host::new(2, Limits { output_soft_bytes_max: 100, ..LIMITS });
    let there = key_on(&host, 1, 0);
    let mut client = host.connect(0, Scope::Core);
    host.feed(&client, &words(&format!("incr {there}")).repeat(500));
    host.feed(&client, b"*2\r\n$3\r\nget\r\n$5\r\nhal");
    host.nodes[0].end_of_input(client.id);
    assert!(!host.wishes(&client).1);
    host.settle(&mut client);
    let expected: String = (1..=500).map(|n| format!(":{n}\r\n")).collect();
    assert_eq!(String::from_utf8_lossy(&client.got), expected);
    assert_eq!(host.wishes(&client).0, State::Draining);
    assert!(host.nodes[0].is_quiet(client.id) && host.nodes[0].has_ended(client.id));
}

/// The end comes while the last replies are being sent: nothing else would wake the session.
#[test]
fn the_end_of_input_is_seen_once_replies_are_sent() {
    let mut host = Host::new(1, Limits { output_soft_bytes_max: 5, ..LIMITS });
    let mut client = host.connect(0, Scope::Host);
    host.feed(&client, &words("ping"));
    assert!(host.take(&mut client));
    host.nodes[0].end_of_input(client.id);
    assert_eq!(host.wishes(&client).0, State::Open);
    host.confirm(&mut client);
    assert_eq!(host.wishes(&client).0, State::Draining);
}

#[test]
fn the_end_of_input_moves_with_the_session() {
    let mut host = Host::new(2, LIMITS);
    let there = key_on(&host, 1, 0);
    let mut client = host.connect(0, Scope::Host);
    host.feed(&client, &words(&format!("incr {there}")).repeat(3));
    host.nodes[0].end_of_input(client.id);
    host.settle(&mut client);
    assert_eq!(String::from_utf8_lossy(&client.got), ":1\r\n:2\r\n:3\r\n");
    assert_eq!((client.core, host.wishes(&client).0), (1, State::Draining));
}

#[test]
fn a_line_without_an_end_is_cut_off() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    let mut given = 0;
    while host.wishes(&client).1 {
        host.feed(&client, &[b'x'; 1000]);
        given += 1000;
        assert!(given <= 66_000, "no end in sight");
    }
    host.settle(&mut client);
    assert_eq!(client.got, b"-ERR Protocol error: too big inline request\r\n");
    assert_eq!(host.wishes(&client).0, State::Draining);
}

#[test]
fn a_request_that_never_ends_is_cut_off() {
    let limits = Limits { request_bytes_max: 20_000, ..LIMITS };
    let mut host = Host::new(1, limits);
    let mut client = host.connect(0, Scope::Host);
    host.feed(&client, b"*64\r\n");
    let mut given = 0;
    while host.wishes(&client).1 {
        host.feed(&client, &[&b"$4000\r\n"[..], &[b'x'; 4000], b"\r\n"].concat());
        given += 4000;
        assert!(given <= 24_000, "no end in sight");
    }
    host.settle(&mut client);
    let text = String::from_utf8_lossy(&client.got).into_owned();
    assert_eq!(text, "-ERR Protocol error: more unexecuted bytes than limits.request_bytes (20000)\r\n");
    assert_eq!(host.nodes[0].session(client.id).unwrap().output.total_bytes(), 0);
}

/// The io room stops reading a connection that waits; what was already read must fit.
#[test]
fn a_pipeline_that_waits_holds_no_more_than_the_limit() {
    let limits = Limits { request_bytes_max: 20_000, output_soft_bytes_max: 100, ..LIMITS };
    let mut host = Host::new(1, limits);
    let client = host.connect(0, Scope::Host);
    for _ in 0..100 {
        host.feed(&client, &words("ping").repeat(1000));
    }
    let held = host.nodes[0].session(client.id).unwrap().input.bytes().len();
    assert!(held <= 20_000 + 14_000, "{held} bytes held");
}

#[test]
fn more_arguments_than_the_limit_are_refused_before_they_arrive() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    let expected = "-ERR Protocol error: more arguments than limits.args (64)\r\n";
    assert_eq!(host.ask(&mut client, "*65\r\n"), expected);
    assert_eq!(host.wishes(&client).0, State::Draining);
    let mut client = host.connect(0, Scope::Host);
    assert_eq!(host.ask(&mut client, format!("del{}\r\n", " k".repeat(64))), expected, "in a line too");
}
