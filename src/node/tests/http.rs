//! HTTP on hosts of several cores, as on one.

use super::*;
use proptest::prelude::*;

const OCTETS: &str = "Content-Type: application/octet-stream\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

fn http(line: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn get(key: &str) -> Vec<u8> {
    http(&format!("GET /v1/cache/{key}"), "", "")
}

fn put(key: &str, value: &str) -> Vec<u8> {
    http(&format!("PUT /v1/cache/{key}"), OCTETS, value)
}

fn batch_get(keys: &[String]) -> Vec<u8> {
    http("POST /v1/cache:batchGet", JSON, &serde_json::json!({ "keys": keys }).to_string())
}

/// A whole request; what it is answered with depends on nothing but those before it.
fn a_request() -> impl Strategy<Value = Vec<u8>> {
    let key = || (0..9u8).prop_map(|n| format!("k{n}"));
    let condition = prop_oneof![
        3 => Just(String::new()),
        1 => Just("If-Match: *\r\n".to_owned()),
        1 => Just("If-None-Match: *\r\n".to_owned()),
        2 => (1..4u8).prop_map(|version| format!("If-Match: \"{version}\"\r\n")),
    ];
    let chunked = |(key, value): (String, String)| {
        let head = format!("PUT /v1/cache/{key} HTTP/1.1\r\nHost: x\r\n{OCTETS}Transfer-Encoding: chunked\r\n\r\n");
        let chunks: String = value.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
        format!("{head}{chunks}0\r\n\r\n").into_bytes()
    };
    prop_oneof![
        3 => key().prop_map(|key| get(&key)),
        2 => (key(), condition, "[a-z]{0,40}").prop_map(|(key, condition, value)| {
            http(&format!("PUT /v1/cache/{key}"), &format!("{OCTETS}{condition}"), &value)
        }),
        1 => (key(), "[a-z]{0,20}").prop_map(chunked),
        1 => key().prop_map(|key| http(&format!("DELETE /v1/cache/{key}"), "", "")),
        1 => key().prop_map(|key| http(&format!("HEAD /v1/cache/{key}"), "", "")),
        1 => proptest::collection::vec(key(), 0..9).prop_map(|keys| batch_get(&keys)),
        1 => proptest::collection::vec((key(), "[a-z\"]{0,9}"), 0..9).prop_map(|entries| {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| serde_json::json!({ "key": key, "value": value, "ttlSeconds": 1.5 }))
                .collect();
            http("POST /v1/cache:batchSet", JSON, &serde_json::json!({ "entries": entries }).to_string())
        }),
        1 => Just(http("PUT /v1/cache/k", JSON, "{")),
        1 => Just(http("PUT /v1/cache/k", OCTETS, &"x".repeat(LIMITS.value_bytes_max + 1))),
        1 => Just(get("%zz")),
        1 => Just(get(&"k".repeat(LIMITS.key_bytes_max + 1))),
        1 => Just(http("GET /openapi.json", "", "")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn cores_and_cuts_make_no_difference(
        requests in proptest::collection::vec(a_request(), 1..40),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        cores in 2..4usize,
    ) {
        let stream = [requests.concat(), http("GET /v1/cache/end", "Connection: close\r\n", "")].concat();
        let mut one = Host::new(1, LIMITS);
        let mut alone = one.connect_http(0);
        let expected = one.ask(&mut alone, &stream);
        prop_assert_eq!(one.wishes(&alone).0, State::Draining);

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut host = Host::new(cores, LIMITS);
        let mut client = host.connect_http(0);
        for (i, ends) in cuts.windows(2).enumerate() {
            host.feed(&client, &stream[ends[0]..ends[1]]);
            if i % 2 == 0 {
                host.settle(&mut client);
            }
        }
        host.settle(&mut client);
        prop_assert_eq!(String::from_utf8_lossy(&client.got), expected);
        prop_assert_eq!(host.wishes(&client).0, State::Draining);
    }

    #[test]
    fn no_bytes_go_unanswered(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        let mut host = Host::new(2, LIMITS);
        let mut client = host.connect_http(0);
        let answer = host.ask(&mut client, &bytes);
        let (state, wants, _) = host.wishes(&client);
        prop_assert!(state == State::Open && wants || state == State::Draining && answer.starts_with("HTTP/1.1 "));
    }
}

#[test]
fn a_connection_moves_to_its_first_key_and_forwards_the_others() {
    let mut host = Host::new(2, LIMITS);
    let mut client = host.connect_http(0);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let answer = host.ask(&mut client, [put(&there, "1"), put(&here, "2"), get(&there), get(&here)].concat());
    assert_eq!((client.core, client.moves), (1, 1));
    let (first, second) = (answer.find("\"value\":\"1\"").unwrap(), answer.find("\"value\":\"2\"").unwrap());
    assert!(first < second, "{answer}");
    assert_eq!(host.nodes[1].snapshot().forwards, 2);
}

#[test]
fn nothing_is_executed_behind_a_close() {
    let mut host = Host::new(2, LIMITS);
    let mut client = host.connect_http(0);
    let close = http("GET /v1/cache/k", "Connection: close\r\n", "");
    let answer = host.ask(&mut client, [close, put("k", "v")].concat());
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("Connection: close\r\n"), "{answer}");
    assert_eq!(host.wishes(&client).0, State::Draining);
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1);
}

#[test]
fn a_body_is_looked_at_again_when_it_is_whole() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect_http(0);
    let whole = put("k", &"v".repeat(1000));
    let (begun, rest) = whole.split_at(whole.len() - 900);
    host.feed(&client, begun);
    assert_eq!(host.nodes[0].session(client.id).unwrap().need, whole.len());
    assert!(host.ask(&mut client, rest).starts_with("HTTP/1.1 201"));
}

#[test]
fn a_client_is_invited_in_the_order_of_its_requests() {
    let mut host = Host::new(2, LIMITS);
    let mut client = host.connect_http(0);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    host.ask(&mut client, put(&here, "1"));
    let awaited = http(&format!("PUT /v1/cache/{here}"), &format!("{OCTETS}Expect: 100-continue\r\n"), "ab");
    let (head, body) = awaited.split_at(awaited.len() - 2);
    let answer = host.ask(&mut client, [&get(&there), head].concat());
    assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("HTTP/1.1 100 Continue\r\n\r\n"), "{answer}");
    assert!(host.ask(&mut client, body).starts_with("HTTP/1.1 200"));
}

#[test]
fn what_is_too_long_together_is_refused_and_the_connection_goes_on() {
    let room = (32 << 10) + crate::protocol::http::HEAD_BYTES_MAX;
    let limits = Limits { output_soft_bytes_max: 16 << 10, output_hard_bytes_max: (16 << 10) + room, ..LIMITS };
    for cores in 1..3 {
        let mut host = Host::new(cores, limits);
        let mut client = host.connect_http(0);
        let keys: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
        for key in &keys {
            assert!(host.ask(&mut client, put(key, &"v".repeat(4000))).starts_with("HTTP/1.1 201"));
        }
        let answer = host.ask(&mut client, [batch_get(&keys), batch_get(&keys[..2]), get("k0")].concat());
        let statuses: Vec<_> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
        assert_eq!(statuses, ["413", "200", "200"], "on {cores} cores");
        assert_eq!(host.wishes(&client).0, State::Open);
        assert_eq!(host.nodes[client.core].session(client.id).unwrap().output.total_bytes(), 0);
    }
}

/// A small request may ask for a thousand long values: others are served in between, and no more is read than can be
/// answered. What is written is written to the last entry.
#[test]
fn a_batch_goes_in_slices_and_reads_no_more_than_it_may_answer() {
    for cores in 1..3 {
        let mut host = Host::new(cores, LIMITS);
        let mut client = host.connect_http(0);
        let keys: Vec<String> = (0..8).map(|i| key_on(&host, i % cores, i)).collect();
        for key in &keys {
            host.ask(&mut client, put(key, &"v".repeat(4000)));
        }
        let hits = |host: &Host| host.nodes.iter().map(|node| node.snapshot().hits).sum::<u64>();
        let asked: Vec<String> = keys.iter().cycle().take(1000).cloned().collect();
        let last = [http("POST /v1/cache:batchGet", &format!("{JSON}Connection: close\r\n"), "{\"keys\":[\"x\"]}")];
        host.feed(&client, &[&batch_get(&asked), &get(&keys[0]), &last[0]].map(|request| &request[..]).concat());
        assert!((1..80).contains(&hits(&host)), "{} in the first slice", hits(&host));
        host.settle(&mut client);
        let room = host.nodes[0].http_limits.reply_bytes_max as u64 / 4000;
        assert!(hits(&host) <= room + 40, "{} read, and {room} can be answered", hits(&host));
        let answer = String::from_utf8(std::mem::take(&mut client.got)).unwrap();
        let statuses: Vec<_> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
        assert_eq!(statuses, ["413", "200", "200"], "on {cores} cores");
        assert_eq!(host.wishes(&client).0, State::Draining, "it was asked to close");
        let mut client = host.connect_http(0);
        let entries: Vec<_> = (0..1000).map(|i| serde_json::json!({ "key": format!("e{i}"), "value": "v" })).collect();
        let body = serde_json::json!({ "entries": entries }).to_string();
        let answer = host.ask(&mut client, http("POST /v1/cache:batchSet", JSON, &body));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.matches("\"created\":true").count() == 1000, "{answer}");
        assert_eq!(host.nodes.iter().map(|node| node.snapshot().keys).sum::<u64>(), 1008);
    }
}

#[test]
fn counters_and_cores_are_described() {
    let mut host = Host::new(2, LIMITS);
    let mut client = host.connect_http(0);
    for i in 0..10 {
        host.ask(&mut client, put(&key_on(&host, i % 2, i), "v"));
    }
    let body = |answer: String| -> serde_json::Value {
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let stats = body(host.ask(&mut client, http("GET /v1/stats", "", "")));
    assert_eq!((&stats["total"]["keys"], &stats["cores"][1]["core"]), (&10.into(), &1.into()));
    let cluster = body(host.ask(&mut client, http("GET /v1/cluster", "", "")));
    assert_eq!(cluster["cores"][1]["slots"][0]["first"], RANGE_SLOTS);
    let hot = body(host.ask(&mut client, http("GET /v1/hotkeys", "", "")));
    assert_eq!((&hot["byOps"], &hot["largest"][9]["bytes"]), (&serde_json::json!([]), &1.into()), "{hot}");
    for _ in 0..1000 {
        host.ask(&mut client, get("%ff"));
    }
    let hot = body(host.ask(&mut client, http("GET /v1/hotkeys", "", "")));
    assert_eq!((&hot["byOps"][0]["key"], &hot["byOps"][0]["keyEncoding"]), (&"/w==".into(), &"base64".into()), "{hot}");
    let head = host.ask(&mut client, http("HEAD /v1/stats", "", ""));
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn every_operation_is_counted() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect_http(0);
    host.ask(&mut client, [put("k", "v"), get("k"), http("DELETE /v1/cache/k", "", ""), get("%zz")].concat());
    host.ask(&mut client, b"nonsense\r\n\r\n");
    let counters = host.nodes[0].snapshot();
    use crate::node::stats::Family;
    for family in [Family::Read, Family::Write, Family::Delete, Family::Other] {
        assert_eq!(counters.ops[family as usize], 1, "{family:?}");
    }
    assert_eq!((counters.hits, counters.parse_errors), (1, 2));
}
