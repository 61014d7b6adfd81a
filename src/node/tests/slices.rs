//! No request and no pipeline holds a core for long: work is cut into slices, between which others are served.
//!
//! Goal: what one call executes is bounded by counts, whatever a client sends, and replies are the same as if
//! nothing had been cut. Method: the calls of the io room are made one by one, and what each has done is
//! read from the output and from the keys.

use super::*;

/// Requests that one call may execute: a slice, and what its last batch began.
const SLICE: usize = 320;

fn many() -> Limits {
    Limits { args_max: 1 << 20, value_bytes_max: 1 << 20, ..LIMITS }
}

/// A shard that holds some 100,000 keys.
fn host(cores: usize, limits: Limits) -> Host {
    Host::with_memory(cores, limits, 64 << 20)
}

fn fill(host: &mut Host, client: &mut Client, names: &[String]) {
    for names in names.chunks(200) {
        let mut args = vec!["mset".to_owned()];
        args.extend(names.iter().flat_map(|name| [name.clone(), "1".to_owned()]));
        assert_eq!(host.ask(client, request(&args)), "+OK\r\n");
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key:{n}")).collect()
}

fn with(command: &str, names: &[String]) -> Vec<u8> {
    let args: Vec<&str> = std::iter::once(command).chain(names.iter().map(String::as_str)).collect();
    request(&args)
}

/// The replies written so far and not yet taken.
fn ready(host: &mut Host, client: &Client) -> usize {
    host.nodes[client.core].session(client.id).unwrap().output.ready_bytes()
}

#[test]
fn a_long_pipeline_is_executed_in_slices_and_others_are_served_between_them() {
    let mut host = host(1, many());
    let (mut deep, mut other) = (host.connect(0, Scope::Host), host.connect(0, Scope::Host));
    let count = 5000;
    host.feed(&deep, &words("ping").repeat(count));
    let pong = "+PONG\r\n".len();
    let mut answered = ready(&mut host, &deep) / pong;
    assert!((1..=SLICE).contains(&answered), "{answered} at once");
    while host.nodes[0].has_waiting() {
        host.feed(&other, &words("ping"));
        assert!(host.take(&mut other) && host.confirm(&mut other), "served between two slices");
        assert!(host.nodes[0].go_on());
        let now = ready(&mut host, &deep) / pong;
        assert!((answered + 1..=answered + SLICE).contains(&now), "{} at once", now - answered);
        answered = now;
    }
    host.settle(&mut deep);
    assert_eq!(deep.got, b"+PONG\r\n".repeat(count));
    assert!(other.got.len() >= (count / SLICE - 1) * pong);
}

/// What arrives while a session waits for its slice is executed behind it.
#[test]
fn input_that_comes_between_slices_keeps_its_place() {
    let mut host = host(1, many());
    let mut client = host.connect(0, Scope::Host);
    let mut expected = String::new();
    for round in 0..20 {
        host.feed(&client, &words("incr n").repeat(700));
        if round % 3 == 0 {
            host.nodes[0].go_on();
        }
    }
    (1..=14_000).for_each(|n| expected += &format!(":{n}\r\n"));
    assert!(host.nodes[0].is_catching_up(client.id));
    host.nodes[0].end_of_input(client.id);
    assert_eq!(host.wishes(&client).0, State::Open, "there is more to answer");
    host.settle(&mut client);
    assert_eq!(String::from_utf8_lossy(&client.got), expected);
    assert_eq!(host.wishes(&client).0, State::Draining);
}

#[test]
fn a_session_far_behind_wants_no_input_and_is_not_refused_for_it() {
    let limits = Limits { request_bytes_max: 20_000, ..many() };
    let mut host = host(1, limits);
    let mut client = host.connect(0, Scope::Host);
    let count = 20_000;
    host.feed(&client, &words("ping").repeat(count));
    assert_eq!(host.wishes(&client), (State::Open, false, None));
    host.settle(&mut client);
    assert_eq!(client.got.len(), count * "+PONG\r\n".len());
    assert_eq!(host.wishes(&client), (State::Open, true, None));
}

#[test]
fn a_delete_of_very_many_keys_is_executed_in_slices_and_others_are_served_between_them() {
    for cores in [1, 2] {
        let mut host = host(cores, many());
        let (mut client, mut other) = (host.connect(0, Scope::Core), host.connect(0, Scope::Core));
        let names = names(100_000);
        fill(&mut host, &mut client, &names);
        host.feed(&client, &[with("del", &names), words("dbsize")].concat());
        assert_eq!(host.wishes(&client), (State::Open, false, None));
        let (mut left, mut slices) = (host.nodes[0].shard().key_count(), 0);
        while host.nodes[0].is_catching_up(client.id) {
            host.feed(&other, &words("ping"));
            assert!(host.take(&mut other) && host.confirm(&mut other), "served between two slices");
            host.nodes[0].go_on();
            let now = host.nodes[0].shard().key_count();
            assert!(left - now <= 256, "{} keys at once", left - now);
            left = now;
            slices += 1;
            (0..cores).for_each(|core| host.post(core));
            if cores == 2 {
                host.arrive(0, 1);
                host.post(1);
                host.drop_off(1, 0);
            }
        }
        assert!(slices > 100_000 / 256);
        host.settle(&mut client);
        assert_eq!(String::from_utf8_lossy(&client.got), ":100000\r\n:0\r\n");
        assert!(host.nodes.iter().all(Node::all_quiet));
    }
}

/// The same replies as from one request at a time, in one core and across cores, whatever is in the way.
#[test]
fn requests_of_many_keys_answer_what_small_ones_would() {
    let names = names(1500);
    let pairs: Vec<String> = names.iter().flat_map(|n| [n.clone(), format!("value of {n}")]).collect();
    let mut twice = names.clone();
    twice.extend(names.iter().take(300).cloned());
    let mut long = names.clone();
    long[1400] = "k".repeat(65);
    let stream = [
        with("mset", &pairs),
        words("get key:0"),
        with("mget", &twice),
        with("exists", &twice),
        with("del", &long),
        with("mset", &pairs[1..]),
        with("unlink", &names[..700]),
        with("exists", &names),
        with("del", &twice),
        with("mget", &names),
        format!("exists {}\r\n", names[..600].join(" ")).into_bytes(),
        words("dbsize"),
    ]
    .concat();
    let values: String = twice.iter().map(|n| format!("${}\r\nvalue of {n}\r\n", n.len() + 9)).collect();
    let expected = [
        "+OK\r\n$14\r\nvalue of key:0\r\n",
        &format!("*1800\r\n{values}"),
        ":1800\r\n",
        "-ERR a key of 65 bytes exceeds limits.key_bytes (64)\r\n",
        "-ERR wrong number of arguments for 'mset' command\r\n",
        ":700\r\n:800\r\n:800\r\n",
        &format!("*1500\r\n{}", "$-1\r\n".repeat(1500)),
        ":0\r\n:0\r\n",
    ]
    .concat();
    for cores in 1..=3 {
        for cut in [stream.len(), 1, 1000, 8192] {
            let mut host = host(cores, many());
            let mut client = host.connect(0, Scope::Core);
            for piece in stream.chunks(cut) {
                host.feed(&client, piece);
                if cut > 1000 {
                    host.carry();
                }
            }
            host.settle(&mut client);
            assert!(client.got == expected.as_bytes(), "{cores} cores, cut at {cut}");
            assert_eq!(host.wishes(&client), (State::Open, true, None));
        }
        let how = pipelines::Disturbance { seed: 11, moves: cores > 1 };
        let (got, _) = pipelines::disturbed(cores, &stream, many(), how);
        assert_eq!(replies(&got).len(), replies(expected.as_bytes()).len());
    }
}

/// A reply that grows beyond the limit is an error, as from a small request.
#[test]
fn a_list_too_long_is_refused_whole() {
    let limits = Limits { output_soft_bytes_max: 10_000, output_hard_bytes_max: 20_000, ..many() };
    let mut host = host(1, limits);
    let mut client = host.connect(0, Scope::Host);
    host.ask(&mut client, request(&["set", "k", &"v".repeat(50)]));
    let many = vec!["k".to_owned(); 1000];
    let expected = "-ERR a reply exceeds limits.output_hard_bytes (20000)\r\n:1\r\n";
    assert_eq!(host.ask(&mut client, [with("mget", &many), words("dbsize")].concat()), expected);
}

/// What a list took goes back a piece at a time, and whoever builds another waits for it: refused lists do not pile up.
#[test]
fn refused_lists_are_given_back_before_others_grow() {
    let hard = 4 << 20;
    let mut host = host(1, Limits { output_hard_bytes_max: hard, ..many() });
    let mut client = host.connect(0, Scope::Host);
    host.ask(&mut client, request(&["set", "k", &"v".repeat(8000)]));
    let refused = with("mget", &vec!["k".to_owned(); 600]);
    host.feed(&client, &refused.repeat(20));
    let mut most = 0;
    while host.nodes[0].go_on() {
        most = most.max(host.nodes[0].session_bytes());
    }
    host.settle(&mut client);
    assert_eq!(replies(&client.got).len(), 20);
    assert!(client.got.starts_with(b"-ERR a reply exceeds"));
    assert!(most > hard as u64 && most < hard as u64 + (5 << 20), "{most}");
}

/// A client that goes while its long list waits costs no other its connection, though the list is not given back at once.
#[test]
fn what_a_client_leaves_behind_closes_no_others() {
    let mut host = host(1, Limits { output_soft_bytes_max: 100_000, value_bytes_max: 8000, ..many() });
    let mut other = host.connect(0, Scope::Host);
    let client = host.connect(0, Scope::Host);
    host.ask(&mut other, request(&["set", "k", &"v".repeat(8000)]));
    host.feed(&client, &with("mget", &vec!["k".to_owned(); 1000]));
    while host.nodes[0].go_on() {}
    host.nodes[0].end(client.id);
    assert!(host.nodes[0].session_bytes() > 4 << 20, "it waits to be given back, and counts");
    assert_eq!(host.nodes[0].shed(1 << 20), 0);
    while host.nodes[0].advance(100) {}
    assert!(host.nodes[0].session_bytes() < 1 << 20, "{}", host.nodes[0].session_bytes());
    assert_eq!(host.ask(&mut other, words("ping")), "+PONG\r\n");
}

/// A long list goes out as the client takes it: the output never holds more than its soft limit and a piece.
#[test]
fn a_long_list_goes_out_in_pieces() {
    let soft = 100_000;
    let limits = Limits { output_soft_bytes_max: soft, ..many() };
    let mut host = host(1, limits);
    let mut client = host.connect(0, Scope::Host);
    host.ask(&mut client, request(&["set", "k", &"v".repeat(500)]));
    host.feed(&client, &[with("mget", &vec!["k".to_owned(); 4000]), words("dbsize")].concat());
    loop {
        while host.nodes[0].go_on() {}
        let session = host.nodes[0].session(client.id).unwrap();
        let held = session.output.total_bytes() + session.in_flight_bytes;
        assert!(held <= soft + (250 << 10), "{held}");
        if !(host.take(&mut client) | host.confirm(&mut client)) {
            break;
        }
    }
    let expected =
        [b"*4000\r\n".as_slice(), &format!("$500\r\n{}\r\n", "v".repeat(500)).repeat(4000).into_bytes(), b":1\r\n"];
    assert!(client.got == expected.concat(), "{} bytes", client.got.len());
}

/// What was done stays, the rest is dropped, and nothing is left behind.
#[test]
fn a_connection_that_closes_in_the_middle_leaves_the_rest_undone() {
    for cores in [1, 2] {
        let mut host = host(cores, many());
        let mut client = host.connect(0, Scope::Core);
        let names = names(10_000);
        fill(&mut host, &mut client, &names);
        host.feed(&client, &with("del", &names));
        for _ in 0..5 {
            host.nodes[0].go_on();
        }
        host.post(0);
        assert!(host.nodes[0].close(client.id).is_some());
        let mut next = host.connect(0, Scope::Core);
        assert_eq!(next.id.index, client.id.index);
        host.carry();
        assert!(!host.nodes[0].has_waiting());
        let left: usize = host.nodes.iter_mut().map(|node| node.shard().key_count() as usize).sum();
        assert!((10_000 - 5 * 256..10_000).contains(&left), "{left}");
        assert_eq!(host.ask(&mut next, words("ping")), "+PONG\r\n");
        assert!(host.nodes.iter().all(Node::all_quiet));
    }
}

/// One that holds too much is given up in the middle as well.
#[test]
fn a_connection_that_is_given_up_in_the_middle_goes_no_further() {
    let mut host = host(1, many());
    let mut client = host.connect(0, Scope::Core);
    let names = names(10_000);
    fill(&mut host, &mut client, &names);
    host.feed(&client, &with("del", &names));
    host.nodes[0].go_on();
    let limits_values = 4 << 20;
    assert_eq!(host.nodes[0].shed(limits_values), 0, "the request fits");
    host.nodes[0].session(client.id).unwrap().discard();
    host.carry();
    assert!(host.nodes[0].shard().key_count() > 9000);
    assert_eq!(host.wishes(&client).0, State::Broken);
}

#[test]
fn requests_of_another_core_are_executed_in_slices_in_their_order() {
    let mut host = host(2, many());
    let there = key_on(&host, 1, 0);
    let clients: Vec<_> = (0..20).map(|_| host.connect(0, Scope::Core)).collect();
    for client in &clients {
        host.feed(client, &words(&format!("incr {there}")).repeat(64));
    }
    host.post(0);
    assert!(host.drop_off(0, 1));
    let mut served = host.nodes[1].outbox[0].replies.len();
    assert!((1..=SLICE).contains(&served), "{served} at once");
    while host.nodes[1].go_on() {
        let now = host.nodes[1].outbox[0].replies.len();
        assert!(now - served <= SLICE);
        served = now;
    }
    assert_eq!(served, 20 * 64);
    host.carry();
    for (n, mut client) in clients.into_iter().enumerate() {
        host.settle(&mut client);
        let expected: String = (1..=64).map(|i| format!(":{}\r\n", n * 64 + i)).collect();
        assert_eq!(String::from_utf8_lossy(&client.got), expected);
    }
}

/// Input that had to wait is not parsed all at once either.
#[test]
fn a_request_of_very_many_arguments_that_had_to_wait_is_parsed_in_slices() {
    let limits = Limits { output_soft_bytes_max: 10, ..many() };
    let mut host = host(1, limits);
    let mut client = host.connect(0, Scope::Host);
    let stream = [words("get k"), words("echo 1234567890"), with("exists", &names(200_000))].concat();
    host.feed(&client, &stream);
    assert!(!host.nodes[0].has_waiting(), "it waits for the client");
    assert!(host.take(&mut client) && host.confirm(&mut client));
    let mut slices = 0;
    while host.nodes[0].session(client.id).unwrap().gathering.is_none() {
        let before = host.nodes[0].session(client.id).unwrap().spans.len();
        host.take(&mut client);
        host.confirm(&mut client);
        host.nodes[0].go_on();
        let now = host.nodes[0].session(client.id).unwrap().spans.len();
        assert!(now <= before + (64 << 10) / 8, "{} arguments at once", now - before);
        slices += 1;
    }
    assert!(slices > 30, "{slices}");
    host.settle(&mut client);
    assert_eq!(String::from_utf8_lossy(&client.got), "$-1\r\n$10\r\n1234567890\r\n:0\r\n");
}

/// What a slice leaves over may be shorter than the request on which it stopped to look further.
#[test]
fn short_requests_behind_long_ones_do_not_wait_for_bytes_that_never_come() {
    let limits = Limits { value_bytes_max: 100_000, output_soft_bytes_max: 1 << 20, ..LIMITS };
    let long = request(&["set", "k", &"v".repeat(41_977)]);
    for count in 1..20 {
        for short in [1, 40, 400] {
            let mut host = Host::with_memory(1, limits, 64 << 20);
            let mut client = host.connect(0, Scope::Host);
            let stream = [long.repeat(count), words("ping").repeat(short)].concat();
            let answer = host.ask(&mut client, stream);
            assert_eq!(answer, ["+OK\r\n".repeat(count), "+PONG\r\n".repeat(short)].concat(), "{count} and {short}");
        }
    }
}

#[test]
fn commands_that_do_not_exist_are_work_too() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    host.feed(&client, &b"NONSENSE\r\n".repeat(3000));
    assert!(host.nodes[0].has_waiting(), "all of them in one slice");
    host.settle(&mut client);
    assert_eq!(replies(&client.got).len(), 3000);
}
