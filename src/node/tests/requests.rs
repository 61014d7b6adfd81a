//! Random requests, and what their replies may be compared by.

use super::*;
use proptest::prelude::*;

/// What the number of cores does not change of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Same {
    /// Every byte.
    All,
    /// Its beginning: counters and cursors depend on where keys are.
    Kind,
    /// There is no reply.
    None,
}

pub(super) type Sent = (Vec<u8>, Same);

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0..12u8).prop_map(|n| format!("k{n}")),
        1 => (0..3u8).prop_map(|n| format!("{{tag}}{n}")),
        1 => Just("k".repeat(LIMITS.key_bytes_max + 1)),
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (-20..20i64).prop_map(|n| n.to_string()),
        3 => (0..200usize).prop_map(|n| "v".repeat(n)),
        1 => Just("a\r\nb".to_owned()),
        1 => Just("x".repeat(LIMITS.value_bytes_max + 1)),
    ]
}

fn with_keys(name: &'static str) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(key(), 1..9).prop_map(move |keys| std::iter::once(name.to_owned()).chain(keys).collect())
}

fn owned(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn on_key() -> impl Strategy<Value = Vec<String>> {
    let lines = [
        "get K",
        "get K",
        "set K V",
        "set K V",
        "set K V nx get",
        "set K V ex 100",
        "incr K",
        "decrby K 3",
        "append K V",
        "strlen K",
        "getdel K",
        "getset K V",
        "expire K 100",
        "ttl K",
        "persist K",
        "type K",
        "getex K px bad",
        "setnx K V",
        "expire K 99999999999999999",
        "set K V ex 0",
        "incrby K x",
        "get",
        "get K K",
        "set K V oops",
    ];
    (proptest::sample::select(lines.to_vec()), key(), value()).prop_map(|(line, key, value)| {
        let fill = |word: &str| match word {
            "K" => key.clone(),
            "V" => value.clone(),
            other => other.to_owned(),
        };
        line.split(' ').map(fill).collect()
    })
}

fn on_keys() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        with_keys("mget"),
        with_keys("del"),
        with_keys("unlink"),
        with_keys("exists"),
        with_keys("mset"),
        proptest::collection::vec((key(), value()), 1..6).prop_map(|pairs| {
            std::iter::once("MSET".to_owned()).chain(pairs.into_iter().flat_map(|(k, v)| [k, v])).collect()
        }),
    ]
}

fn elsewhere() -> impl Strategy<Value = Vec<String>> {
    let lines = [
        "ping",
        "PING hello",
        "ping a b",
        "echo x",
        "dbsize",
        "DBSIZE",
        "flushall",
        "flushdb async",
        "flushall maybe",
        "hello",
        "hello 2",
        "hello 3",
        "hello 4",
        "client id",
        "client setname me",
        "client getname",
        "client nothing",
        "select 0",
        "select 1",
        "time",
        "command count",
        "command getkeys mset a 1 b 2",
        "command info get nothing",
        "cluster keyslot k1",
        "cluster countkeysinslot 12706",
        "cluster countkeysinslot 99999",
        "config get *",
        "config get nothing",
        "unknown a b",
        "scan x",
        "scan 0 count 0",
        "scan 99999",
    ];
    proptest::sample::select(lines.to_vec()).prop_map(owned)
}

/// One request, as an array or a line, or something that is not answered.
pub(super) fn sent() -> impl Strategy<Value = Sent> {
    let exact = |args: Vec<String>| (request(&args), Same::All);
    let kind = |line: &'static str| (words(line), Same::Kind);
    prop_oneof![
        12 => on_key().prop_map(exact),
        6 => on_keys().prop_map(exact),
        5 => elsewhere().prop_map(exact),
        1 => proptest::sample::select(vec!["info", "info stats keyspace", "scan 0", "scan 0 count 100 match k*"]).prop_map(kind),
        2 => proptest::sample::select(vec!["get k1\n", "SET k2 'a b'\r\n", "mget k1 k2 k3\r\n", "  ping  \r\n"])
            .prop_map(|line| (line.as_bytes().to_vec(), Same::All)),
        1 => proptest::sample::select(vec!["\r\n", "*0\r\n", "*-1\r\n", " \n"])
            .prop_map(|line| (line.as_bytes().to_vec(), Same::None)),
    ]
}

/// What ends a connection, or nothing.
pub(super) fn ending() -> impl Strategy<Value = Vec<u8>> {
    let endings: [&[u8]; 8] = [
        b"",
        b"",
        b"*1\r\n$4\r\nQUIT\r\n",
        b"*1\r\n$4\r\nQUIT\r\n*x\r\n",
        b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n",
        b"*x\r\n",
        b"*2\r\n$4\r\nPING\r\n:1\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    proptest::sample::select(endings.to_vec()).prop_map(<[u8]>::to_vec)
}
