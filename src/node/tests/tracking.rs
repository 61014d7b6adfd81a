//! Client-side caching.
//!
//! Goal: once nothing is under way, no client that tracks holds a copy that is not the key's value, whatever made
//! it change, on whichever core, in whatever order parcels arrive. Method: clients that keep what they read and drop what
//! they are told to, by the order of the bytes they get.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One RESP3 reply at the start of `text`, and what is behind it.
fn cut(text: &str) -> (&str, &str) {
    let line = text.find("\r\n").expect("a whole reply") + 2;
    let count = || text[1..line - 2].parse::<usize>().expect("a count");
    if text[1..].starts_with("-1\r\n") {
        return text.split_at(line);
    }
    let end = match text.as_bytes()[0] {
        b'$' => line + count() + 2,
        b'*' | b'>' | b'~' => (0..count()).fold(line, |at, _| at + cut(&text[at..]).0.len()),
        b'%' => (0..2 * count()).fold(line, |at, _| at + cut(&text[at..]).0.len()),
        _ => line,
    };
    text.split_at(end)
}

/// The text of a bulk string, or nothing for null.
fn bulk(reply: &str) -> Option<String> {
    (!reply.starts_with('_') && !reply.starts_with("$-1"))
        .then(|| reply.split_once("\r\n").expect("a bulk string").1.trim_end().to_owned())
}

/// The elements of a list.
fn elements(reply: &str) -> Vec<&str> {
    let mut rest = reply.split_once("\r\n").expect("a list").1;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (first, behind) = cut(rest);
        all.push(first);
        rest = behind;
    }
    all
}

/// A client that keeps copies.
struct Cache {
    client: Client,
    /// The connection that hears its notices, over RESP2.
    listener: Option<Client>,
    /// Keys of the reads that are not answered.
    asked: VecDeque<Vec<String>>,
    copies: BTreeMap<String, Option<String>>,
    told: usize,
}

impl Cache {
    fn new(host: &mut Host, core: usize, options: &str) -> Self {
        let mut client = host.connect(core, Scope::Host);
        let answer = host.ask(&mut client, format!("HELLO 3\r\nCLIENT TRACKING ON {options}\r\n"));
        assert!(answer.ends_with("+OK\r\n"), "{answer}");
        Self { client, listener: None, asked: VecDeque::new(), copies: BTreeMap::new(), told: 0 }
    }

    /// One that speaks RESP2, and has its notices sent to a second connection.
    fn in_two(host: &mut Host, (core, other): (usize, usize), options: &str) -> Self {
        let mut listener = host.connect(other, Scope::Host);
        let id = host.ask(&mut listener, "CLIENT ID\r\nSUBSCRIBE __redis__:invalidate\r\n");
        let id = id[1..].split_once("\r\n").unwrap().0.to_owned();
        let mut client = host.connect(core, Scope::Host);
        let answer = host.ask(&mut client, format!("CLIENT TRACKING ON REDIRECT {id} {options}\r\n"));
        assert_eq!(answer, "+OK\r\n");
        Self { client, listener: Some(listener), asked: VecDeque::new(), copies: BTreeMap::new(), told: 0 }
    }

    fn drop_copies(&mut self, keys: &str) {
        self.told += 1;
        match keys {
            "_\r\n" | "*-1\r\n" => self.copies.clear(),
            keys => elements(keys).into_iter().for_each(|key| drop(self.copies.remove(&bulk(key).unwrap()))),
        }
    }

    fn read(&mut self, host: &mut Host, keys: &[String]) {
        self.asked.push_back(keys.to_vec());
        host.feed(&self.client, request(&[&["MGET".to_owned()], keys].concat()).as_slice());
    }

    fn write(&mut self, host: &mut Host, args: &[&str]) {
        self.asked.push_back(Vec::new());
        host.feed(&self.client, &request(args));
    }

    /// Takes in what has arrived.
    fn take_in(&mut self, host: &mut Host) {
        host.settle(&mut self.client);
        let got = String::from_utf8(std::mem::take(&mut self.client.got)).unwrap();
        let mut rest = &got[..];
        while !rest.is_empty() {
            let (reply, behind) = cut(rest);
            rest = behind;
            if reply.starts_with('>') {
                self.drop_copies(elements(reply)[1]);
                continue;
            }
            let keys = self.asked.pop_front().expect("nothing is answered that was not asked");
            for (key, value) in keys.iter().zip(elements(reply)) {
                self.copies.insert(key.clone(), bulk(value));
            }
        }
        // The messages come after the replies: that of a change is not sent before the reply to a read in front of it.
        let Some(mut listener) = self.listener.take() else { return };
        host.settle(&mut listener);
        let got = String::from_utf8(std::mem::take(&mut listener.got)).unwrap();
        let mut rest = &got[..];
        while !rest.is_empty() {
            let (message, behind) = cut(rest);
            rest = behind;
            assert_eq!(elements(message)[..2], ["$7\r\nmessage\r\n", "$20\r\n__redis__:invalidate\r\n"]);
            self.drop_copies(elements(message)[2]);
        }
        self.listener = Some(listener);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, Vec<u8>),
    Write(usize, u8, u16),
    OwnWrite(usize, u8),
    Carry,
    TakeIn(usize),
    Wait(u16),
    Fill(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6usize, proptest::collection::vec(0..12u8, 1..5)).prop_map(|(i, keys)| Step::Read(i, keys)),
        6 => (0..9usize, 0..12u8, any::<u16>()).prop_map(|(kind, key, n)| Step::Write(kind, key, n)),
        1 => (0..6usize, 0..12u8).prop_map(|(i, key)| Step::OwnWrite(i, key)),
        2 => Just(Step::Carry),
        2 => (0..6usize).prop_map(Step::TakeIn),
        1 => (0..2000u16).prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Fill),
    ]
}

/// Brings everything to rest.
fn rest(host: &mut Host, caches: &mut [Cache], writer: &mut Client) {
    for _ in 0..3 {
        host.nodes.iter_mut().for_each(|node| while node.advance(256) {});
        host.carry();
        host.settle(writer);
        caches.iter_mut().for_each(|cache| cache.take_in(host));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_copy_outlives_its_value(cores in 1..4usize, steps in proptest::collection::vec(step(), 1..120)) {
        let mut host = Host::with_memory(cores, LIMITS, 1 << 20);
        let options = ["", "NOLOOP", "BCAST", "BCAST PREFIX k1 PREFIX k2 NOLOOP", "", "BCAST NOLOOP"];
        let mut caches: Vec<_> = options[..4].iter().enumerate().map(|(i, o)| Cache::new(&mut host, i % cores, o)).collect();
        // At one core, and at two if there are.
        caches.push(Cache::in_two(&mut host, (0, 0), options[4]));
        caches.push(Cache::in_two(&mut host, (0, cores - 1), options[5]));
        let mut writer = host.connect(0, Scope::Host);
        let mut now = 0;
        for step in steps {
            match step {
                Step::Read(i, keys) => {
                    let keys: Vec<_> = keys.iter().map(|key| format!("k{key}")).collect();
                    // One is told of two prefixes and keeps nothing else.
                    let keys = if i == 3 { keys.into_iter().filter(|k| k.starts_with("k1") || k.starts_with("k2")).collect() } else { keys };
                    if !keys.is_empty() {
                        caches[i].read(&mut host, &keys);
                    }
                }
                Step::Write(kind, key, n) => {
                    let (key, n) = (format!("k{key}"), n.to_string());
                    let args: Vec<&str> = match kind {
                        0 | 1 => vec!["SET", &key, &n],
                        2 => vec!["DEL", &key],
                        3 => vec!["APPEND", &key, "x"],
                        4 => vec!["SET", &key, &n, "PX", "700"],
                        5 => vec!["PEXPIRE", &key, "300"],
                        6 => vec!["GETDEL", &key],
                        7 if n.ends_with('7') => vec!["FLUSHALL"],
                        7 => vec!["SET", &key, &n, "EX", "100", "SOFTPX", "5"],
                        _ => vec!["MSET", &key, &n, "k3", &n],
                    };
                    host.feed(&writer, &request(&args));
                }
                Step::OwnWrite(i, key) => {
                    // It knows by itself, and forgets its copy with the request.
                    let key = format!("k{key}");
                    caches[i].take_in(&mut host);
                    caches[i].copies.remove(&key);
                    caches[i].write(&mut host, &["SET", &key, "own"]);
                    caches[i].take_in(&mut host);
                }
                Step::Carry => host.carry(),
                Step::TakeIn(i) => caches[i].take_in(&mut host),
                Step::Wait(ms) => {
                    now += u64::from(ms);
                    host.nodes.iter_mut().for_each(|node| node.set_time(1_700_000_000_000_000 + now * 1000));
                }
                Step::Fill(n) => for i in 0..n {
                    host.feed(&writer, &request(&["SET", &format!("fill{i}"), &"v".repeat(4000)]));
                },
            }
        }
        rest(&mut host, &mut caches, &mut writer);
        // What has expired in the last milliseconds is still there, and told when somebody meets it or the wheel comes by.
        for key in 0..12 {
            host.ask(&mut writer, format!("GET k{key}\r\n"));
        }
        rest(&mut host, &mut caches, &mut writer);
        writer.got.clear();
        for (i, cache) in caches.iter().enumerate() {
            prop_assert!(cache.asked.is_empty());
            for (key, copy) in &cache.copies {
                let reply = host.ask(&mut writer, request(&["GET", key]));
                let value = (!reply.starts_with("$-1")).then(|| reply.split_once("\r\n").unwrap().1.trim_end().to_owned());
                // A key that was not there when it was read, and was then made, is told too.
                prop_assert_eq!(copy, &value, "{} of {}", key, options[i]);
            }
        }
    }
}

fn invalidated(key: &str) -> String {
    format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len())
}

#[test]
fn modes_decide_what_is_tracked() {
    for cores in 1..4 {
        let mut host = Host::new(cores, LIMITS);
        let mut writer = host.connect(0, Scope::Host);
        let mut hears = |options: &str, script: &str| {
            let mut client = host.connect(cores - 1, Scope::Host);
            host.ask(&mut client, format!("HELLO 3\r\nCLIENT TRACKING ON {options}\r\n{script}"));
            host.ask(&mut writer, "SET a 1\r\nDEL b\r\n");
            host.settle(&mut client);
            let got = String::from_utf8(std::mem::take(&mut client.got)).unwrap();
            host.nodes[client.core].end(client.id);
            got
        };
        assert_eq!(hears("", "GET a\r\nGET b\r\n"), invalidated("a"), "what is not there is not deleted");
        assert_eq!(hears("", "GETEX a\r\nINCR c\r\nPING\r\n"), "");
        assert_eq!(hears("OPTIN", "GET a\r\n"), "");
        assert_eq!(hears("OPTIN", "CLIENT CACHING YES\r\nGET a\r\nGET b\r\n"), invalidated("a"));
        assert_eq!(hears("OPTIN", "CLIENT CACHING YES\r\nGET b\r\nGET a\r\n"), "");
        assert_eq!(hears("OPTOUT", "CLIENT CACHING NO\r\nGET a\r\nGET b\r\n"), "");
        assert_eq!(hears("OPTOUT", "GET a\r\n"), invalidated("a"));
        assert_eq!(hears("BCAST", ""), invalidated("a"));
        assert_eq!(hears("BCAST PREFIX x PREFIX a", ""), invalidated("a"));
        assert_eq!(hears("BCAST PREFIX x", "GET a\r\n"), "");
        assert_eq!(hears("", "GET a\r\nCLIENT TRACKING OFF\r\n"), "");
        assert_eq!(hears("BCAST", "CLIENT TRACKING OFF\r\n"), "");
        assert_eq!(hears("NOLOOP", "GET a\r\nSET a 2\r\n"), "", "its own write ended it");
        assert_eq!(hears("", "GETLEASE a\r\n"), invalidated("a"));
        host.carry();
        let snapshots: Vec<_> = host.nodes.iter().map(Node::snapshot).collect();
        assert_eq!(snapshots.iter().map(|s| s.tracking_clients).sum::<u64>(), 0);
        assert!(host.nodes.iter().all(|node| node.readers.held_bytes() < 2000));
    }
}

#[test]
fn notices_come_behind_the_replies_that_they_are_about() {
    let mut host = Host::new(2, LIMITS);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = host.connect(0, Scope::Host);
    host.ask(&mut client, "HELLO 3\r\nCLIENT TRACKING ON\r\n");
    let mut writer = host.connect(0, Scope::Core);
    // The first reply is late; the second is there and is changed before it can be sent.
    host.feed(&client, format!("GET {there}\r\nGET {here}\r\n").as_bytes());
    host.feed(&writer, format!("SET {here} new\r\n").as_bytes());
    host.settle(&mut client);
    host.settle(&mut writer);
    assert_eq!(String::from_utf8_lossy(&client.got), format!("_\r\n_\r\n{}", invalidated(&here)));
}

#[test]
fn too_many_keys_are_forgotten_by_telling() {
    let mut host = Host::with_memory(1, LIMITS, 1 << 20);
    let mut cache = Cache::new(&mut host, 0, "");
    let keys: Vec<_> = (0..2000).map(|i| format!("k{i}")).collect();
    for some in keys.chunks(50) {
        cache.read(&mut host, some);
    }
    cache.take_in(&mut host);
    let kept = host.nodes[0].readers.keys();
    assert!(kept > 100 && kept < 1000, "{kept} keys");
    assert!(host.nodes[0].readers.held_bytes() <= 2 << 16);
    assert_eq!(cache.copies.len(), kept, "the copies that are remembered are those that are still good");
    assert_eq!(cache.told, 2000 - kept);
}

#[test]
fn a_list_that_is_handed_out_in_pieces_is_not_parted_by_a_notice() {
    let limits = Limits { args_max: 5000, output_soft_bytes_max: 64 << 10, ..LIMITS };
    for cores in 1..3 {
        let mut host = Host::with_memory(cores, limits, 32 << 20);
        let mut writer = host.connect(0, Scope::Host);
        let keys: Vec<_> = (0..2000).map(|i| format!("k{i}")).collect();
        for key in &keys {
            host.ask(&mut writer, request(&["SET", key, &"v".repeat(1000)]));
        }
        let mut cache = Cache::new(&mut host, 0, "");
        cache.read(&mut host, &keys);
        host.carry();
        assert!(host.take(&mut cache.client), "some of it is there");
        host.ask(&mut writer, "MSET k0 new k1999 new\r\n");
        cache.take_in(&mut host);
        assert_eq!((cache.copies.len(), cache.told), (1998, 2));
    }
}

/// Whatever becomes of a registration on the way to the other cores, the last one counts.
#[test]
fn registrations_keep_their_order_on_every_core() {
    for crowded in [false, true] {
        let mut host = Host::new(3, LIMITS);
        let mut writer = host.connect(0, Scope::Host);
        let mut client = host.connect(0, Scope::Host);
        host.ask(&mut client, "HELLO 3\r\n");
        if crowded {
            // So many requests that the registrations have to wait behind them.
            let crowd: Vec<_> =
                (0..3).map(|i| host.connect(0, Scope::Core).then_get(&mut host, key_on_other(i))).collect();
            assert_eq!(crowd.len(), 3);
        }
        let script =
            "CLIENT TRACKING ON BCAST PREFIX a:\r\nCLIENT TRACKING OFF\r\nCLIENT TRACKING ON BCAST PREFIX b:\r\n";
        host.feed(&client, script.as_bytes());
        host.settle(&mut client);
        client.got.clear();
        for i in 0..30 {
            host.ask(&mut writer, format!("MSET a:{i} v b:{i} v\r\n"));
        }
        host.settle(&mut client);
        let got = String::from_utf8(std::mem::take(&mut client.got)).unwrap();
        assert_eq!((got.matches("invalidate").count(), got.matches("a:").count()), (30, 0), "{got}");
        host.feed(&client, b"CLIENT TRACKING OFF\r\nCLIENT TRACKING ON BCAST\r\n");
        host.nodes[0].end(client.id);
        host.carry();
        let sum = |host: &Host| host.nodes.iter().map(|node| node.snapshot().tracking_notices).sum::<u64>();
        let before = sum(&host);
        host.ask(&mut writer, "MSET a:1 v b:2 v c:3 v d:4 v\r\n");
        assert_eq!(sum(&host), before, "nobody is there to be told");
    }
}

/// Keys on the other cores, in turn.
fn key_on_other(i: usize) -> String {
    format!("busy{i}:")
}

impl Client {
    /// Sends very many reads, of which no reply is taken.
    fn then_get(self, host: &mut Host, prefix: String) -> Self {
        let many: Vec<u8> = (0..250).flat_map(|n| request(&["GET".to_owned(), format!("{prefix}{n}")])).collect();
        host.feed(&self, &many);
        self
    }
}

#[test]
fn a_value_that_was_waited_for_is_tracked() {
    for cores in 1..4 {
        let mut host = Host::new(cores, LIMITS);
        let mut holder = host.connect(0, Scope::Host);
        host.ask(&mut holder, "GETLEASE k\r\n");
        let mut clients: Vec<_> = (0..cores).map(|core| host.connect(core, Scope::Host)).collect();
        for client in &mut clients {
            host.ask(client, "HELLO 3\r\nCLIENT TRACKING ON\r\n");
            host.feed(client, b"GETLEASE k WAIT 5000\r\n");
        }
        host.ask(&mut holder, "SET k v1\r\n");
        for client in &mut clients {
            host.settle(client);
            assert!(String::from_utf8_lossy(&client.got).ends_with("$2\r\nv1\r\n$5\r\nfresh\r\n_\r\n"));
            client.got.clear();
        }
        host.ask(&mut holder, "SET k v2\r\n");
        for client in &mut clients {
            host.settle(client);
            assert_eq!(String::from_utf8_lossy(&client.got), invalidated("k"));
        }
    }
}

#[test]
fn what_caching_says_is_about_the_next_command_whatever_that_is() {
    for next in ["PING", "CONFIG GET save", "NOSUCH", "COMMAND COUNT", "GET"] {
        let mut host = Host::new(1, LIMITS);
        let (mut client, mut writer) = (host.connect(0, Scope::Host), host.connect(0, Scope::Host));
        host.ask(
            &mut client,
            format!("HELLO 3\r\nCLIENT TRACKING ON OPTOUT\r\nCLIENT CACHING NO\r\n{next}\r\nGET a\r\n"),
        );
        host.ask(&mut writer, "SET a 1\r\n");
        host.settle(&mut client);
        assert_eq!(String::from_utf8_lossy(&client.got), invalidated("a"), "{next}");
    }
}

#[test]
fn a_connection_that_is_told_of_all_keys_does_not_come_to_hear_of_fewer() {
    let mut host = Host::new(1, LIMITS);
    let mut client = host.connect(0, Scope::Host);
    host.ask(&mut client, "HELLO 3\r\nCLIENT TRACKING ON BCAST\r\n");
    let answer = host.ask(&mut client, "CLIENT TRACKING ON BCAST PREFIX a:\r\n");
    assert!(answer.contains("must not overlap"), "{answer}");
    let mut writer = host.connect(0, Scope::Host);
    host.ask(&mut writer, "SET zz 1\r\n");
    host.settle(&mut client);
    assert_eq!(String::from_utf8_lossy(&client.got), invalidated("zz"));
}

#[test]
fn many_readers_are_told_in_slices_and_a_long_key_is_not_named_to_them() {
    let limits = Limits { key_bytes_max: 4000, ..LIMITS };
    let mut host = Host::with_memory(2, limits, 32 << 20);
    let mut writer = host.connect(0, Scope::Host);
    for key in ["short".to_owned(), "k".repeat(3000)] {
        let mut clients: Vec<_> = (0..1200).map(|i| host.connect(i % 2, Scope::Core)).collect();
        for client in &mut clients {
            host.ask(client, format!("HELLO 3\r\nCLIENT TRACKING ON\r\nGET {key}\r\n"));
            client.got.clear();
        }
        let told = |host: &Host| host.nodes.iter().map(|node| node.snapshot().tracking_notices).sum::<u64>();
        let before = told(&host);
        let owner = host.nodes[0].locate(key.as_bytes()).1;
        let client = host.connect(owner, Scope::Core);
        host.feed(&client, &request(&["SET", &key, "v"]));
        host.nodes[owner].tell_readers();
        assert!((1..600).contains(&(told(&host) - before)), "a slice");
        host.ask(&mut writer, "PING\r\n");
        for client in &mut clients {
            host.settle(client);
            let all = ">2\r\n$10\r\ninvalidate\r\n_\r\n".to_owned();
            let wanted = if key.len() < 100 { invalidated(&key) } else { all };
            assert_eq!(String::from_utf8_lossy(&client.got), wanted);
            host.nodes[client.core].end(client.id);
        }
        assert_eq!(told(&host) - before, 1200);
    }
}

#[test]
fn a_flush_tells_all_and_gives_the_table_back_in_steps() {
    let mut host = Host::with_memory(2, LIMITS, 8 << 20);
    let mut cache = Cache::new(&mut host, 0, "");
    let keys: Vec<_> = (0..3000).map(|i| format!("k{i}")).collect();
    for some in keys.chunks(50) {
        cache.read(&mut host, some);
    }
    cache.take_in(&mut host);
    let mut writer = host.connect(1, Scope::Host);
    host.ask(&mut writer, "FLUSHALL\r\n");
    cache.take_in(&mut host);
    assert!(cache.copies.is_empty() && cache.told >= 1);
    assert_eq!(host.nodes.iter().map(|node| node.readers.keys()).sum::<usize>(), 0);
    let steps = (0..).take_while(|_| host.nodes[0].readers.step()).count();
    assert!(steps > 20, "{steps} steps");
}

#[test]
fn a_connection_that_could_not_be_told_drops_all_copies() {
    let mut host = Host::new(1, LIMITS);
    let (mut client, mut writer) = (host.connect(0, Scope::Host), host.connect(0, Scope::Host));
    host.ask(&mut client, "HELLO 3\r\nCLIENT TRACKING ON\r\nGET a\r\nHELLO 2\r\n");
    host.ask(&mut writer, "SET a 1\r\n");
    assert_eq!(host.ask(&mut client, "PING\r\n"), "+PONG\r\n");
    let answer = host.ask(&mut client, "HELLO 3\r\n");
    assert!(answer.starts_with('%') && answer.ends_with(">2\r\n$10\r\ninvalidate\r\n_\r\n"), "{answer}");
    assert!(!host.ask(&mut client, "HELLO 3\r\n").contains("invalidate"), "only then");
}

const MESSAGE: &str = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
const SUBSCRIBED: &str = "*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n";

/// A connection that has subscribed, with its number.
fn listener(host: &mut Host, core: usize) -> (Client, String) {
    let mut listener = host.connect(core, Scope::Host);
    let id = host.ask(&mut listener, "CLIENT ID\r\n")[1..].trim_end().to_owned();
    assert_eq!(host.ask(&mut listener, "SUBSCRIBE __redis__:invalidate\r\n"), SUBSCRIBED);
    (listener, id)
}

#[test]
fn over_resp2_another_connection_hears_the_notices() {
    for (cores, reader, other) in [(1, 0, 0), (2, 0, 1), (3, 2, 2), (3, 1, 0)] {
        let mut host = Host::new(cores, LIMITS);
        let (mut listener, id) = listener(&mut host, other);
        let (mut client, mut writer) = (host.connect(reader, Scope::Host), host.connect(0, Scope::Host));
        let script = format!("CLIENT TRACKING ON REDIRECT {id}\r\nCLIENT GETREDIR\r\nGET a\r\nGET b\r\n");
        assert_eq!(host.ask(&mut client, script), format!("+OK\r\n:{id}\r\n$-1\r\n$-1\r\n"));
        host.ask(&mut writer, "SET a 1\r\nSET c 1\r\n");
        assert_eq!(host.ask(&mut listener, ""), format!("{MESSAGE}*1\r\n$1\r\na\r\n"));
        host.ask(&mut writer, "FLUSHALL\r\n");
        let flushed = host.ask(&mut listener, "");
        assert!(!flushed.is_empty() && flushed.replace(&format!("{MESSAGE}*-1\r\n"), "").is_empty(), "{flushed}");
        assert_eq!(host.ask(&mut client, "PING\r\n"), "+PONG\r\n", "it hears nothing itself");
        // Few commands are for who listens over RESP2, and all over RESP3.
        let answer = host.ask(&mut listener, "GET a\r\nPING\r\nPING x\r\nSUBSCRIBE other\r\nNONSENSE\r\nGET\r\n");
        assert_eq!(
            answer,
            "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n\
             *2\r\n$4\r\npong\r\n$0\r\n\r\n*2\r\n$4\r\npong\r\n$1\r\nx\r\n\
             -ERR there is no channel but __redis__:invalidate, for the notices of CLIENT TRACKING\r\n\
             -ERR unknown command 'NONSENSE', with args beginning with: \r\n\
             -ERR wrong number of arguments for 'get' command\r\n"
        );
        let answer = host.ask(&mut listener, "UNSUBSCRIBE other __redis__:invalidate\r\nGET a\r\nUNSUBSCRIBE\r\n");
        assert_eq!(
            answer,
            "*3\r\n$11\r\nunsubscribe\r\n$5\r\nother\r\n:1\r\n\
             *3\r\n$11\r\nunsubscribe\r\n$20\r\n__redis__:invalidate\r\n:0\r\n$-1\r\n*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"
        );
    }
}

#[test]
fn a_connection_that_is_not_there_hears_no_notices() {
    const NOBODY: &str = "-ERR The client ID you want redirect to does not exist, or has not subscribed to \
                          __redis__:invalidate\r\n";
    for cores in 1..4 {
        let mut host = Host::new(cores, LIMITS);
        let (mut client, idle) = (host.connect(0, Scope::Host), host.connect(cores - 1, Scope::Host));
        let idle_id = host.nodes[cores - 1].session(idle.id).unwrap().id;
        for id in [idle_id.to_string(), "77".into(), "-1".into(), i64::MAX.to_string()] {
            for mode in ["", "BCAST"] {
                let script = format!("CLIENT TRACKING ON REDIRECT {id} {mode}\r\n");
                assert_eq!(host.ask(&mut client, script), NOBODY, "{id} {mode}");
                assert_eq!(host.ask(&mut client, "CLIENT GETREDIR\r\n"), ":-1\r\n");
            }
        }
        assert!(
            host.nodes.iter().all(|node| node.snapshot().tracking_clients == 0 && node.readers.held_bytes() < 2000)
        );
        for bad in ["REDIRECT", "REDIRECT x", "REDIRECT 1 REDIRECT 2"] {
            assert!(host.ask(&mut client, format!("CLIENT TRACKING ON {bad}\r\n")).starts_with("-ERR"), "{bad}");
        }
    }
}

#[test]
fn who_has_lost_its_listener_is_told_if_it_can_be() {
    for cores in 1..3 {
        let mut host = Host::new(cores, LIMITS);
        let mut writer = host.connect(0, Scope::Host);
        let (heard, id) = listener(&mut host, cores - 1);
        let mut clients = ["HELLO 3\r\n", "PING\r\n"].map(|first| {
            let mut client = host.connect(0, Scope::Host);
            let answer =
                host.ask(&mut client, format!("{first}CLIENT TRACKING ON REDIRECT {id}\r\nGET a\r\nGET b\r\n"));
            assert!(answer.contains("+OK\r\n"));
            client
        });
        host.nodes[heard.core].end(heard.id);
        host.ask(&mut writer, "SET a 1\r\nSET b 1\r\n");
        let pushed = host.ask(&mut clients[0], "CLIENT TRACKINGINFO\r\n");
        assert!(pushed.starts_with(&format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n%3\r\n")), "{pushed}");
        let info = host.ask(&mut clients[1], "CLIENT TRACKINGINFO\r\n");
        assert!(info.starts_with("*6\r\n") && info.contains("broken_redirect"), "{info}");
        // Another one can be named.
        let (mut heard, id) = listener(&mut host, 0);
        for client in &mut clients {
            host.ask(client, format!("CLIENT TRACKING ON REDIRECT {id}\r\nGET a\r\n"));
        }
        host.ask(&mut writer, "DEL a\r\n");
        assert_eq!(host.ask(&mut heard, ""), format!("{MESSAGE}*1\r\n$1\r\na\r\n").repeat(2));
    }
}

#[test]
fn a_redirection_that_fails_changes_nothing() {
    for cores in 1..4 {
        let mut host = Host::new(cores, LIMITS);
        let (mut heard, id) = listener(&mut host, cores - 1);
        let (mut client, mut writer) = (host.connect(0, Scope::Host), host.connect(0, Scope::Host));
        for mode in ["", "BCAST PREFIX k"] {
            host.ask(&mut client, format!("HELLO 3\r\nCLIENT TRACKING ON {mode}\r\nGET k\r\n"));
            let failed = host.ask(&mut client, "CLIENT TRACKING ON REDIRECT 999999\r\nCLIENT GETREDIR\r\n");
            assert!(failed.starts_with("-ERR") && failed.ends_with("\r\n:0\r\n"), "{failed}");
            host.ask(&mut writer, "SET k 1\r\n");
            assert_eq!(host.ask(&mut client, ""), invalidated("k"));
            // Each of two in one pipeline is answered by its own outcome, and what is behind them waits.
            let script = format!(
                "CLIENT TRACKING ON {mode} REDIRECT 999999\r\nCLIENT TRACKING ON {mode} REDIRECT {id}\r\n\
                 CLIENT TRACKING ON {mode} REDIRECT 999998\r\nGET k\r\nCLIENT GETREDIR\r\nCLIENT TRACKING OFF\r\n"
            );
            let answer = host.ask(&mut client, &script[..script.len() - "CLIENT TRACKING OFF\r\n".len()]);
            let lines: Vec<_> = answer.split("\r\n").map(|line| &line[..line.len().min(4)]).collect();
            assert_eq!(
                lines,
                ["-ERR", "+OK", "-ERR", "$1", "1", &format!(":{id}")[..2.min(id.len() + 1)], ""],
                "{answer}"
            );
            host.ask(&mut writer, "SET k 1\r\n");
            assert_eq!(host.ask(&mut heard, ""), format!("{MESSAGE}*1\r\n$1\r\nk\r\n"));
            assert_eq!(host.ask(&mut client, "CLIENT TRACKING OFF\r\n"), "+OK\r\n");
        }
        assert!(host.nodes.iter().all(|node| node.snapshot().tracking_clients == 0));
    }
}

#[test]
fn who_subscribes_again_is_told_that_something_was_missed() {
    for cores in 1..3 {
        let mut host = Host::new(cores, LIMITS);
        let (mut heard, id) = listener(&mut host, cores - 1);
        let (mut client, mut writer) = (host.connect(0, Scope::Host), host.connect(0, Scope::Host));
        host.ask(&mut client, format!("CLIENT TRACKING ON REDIRECT {id}\r\nGET a\r\nGET b\r\n"));
        host.ask(&mut heard, "UNSUBSCRIBE\r\n");
        host.ask(&mut writer, "SET a 1\r\n");
        assert_eq!(host.ask(&mut heard, "SUBSCRIBE __redis__:invalidate\r\n"), SUBSCRIBED);
        host.ask(&mut writer, "SET b 1\r\n");
        assert_eq!(host.ask(&mut heard, ""), format!("{MESSAGE}*-1\r\n"));
        host.ask(&mut client, "GET b\r\n");
        host.ask(&mut writer, "SET b 2\r\n");
        assert_eq!(host.ask(&mut heard, ""), format!("{MESSAGE}*1\r\n$1\r\nb\r\n"));
    }
}

#[test]
fn what_is_read_behind_the_request_waits_until_the_listener_is_found() {
    let mut host = Host::new(2, LIMITS);
    let (mut heard, id) = listener(&mut host, 1);
    let key = key_on(&host, 0, 0);
    let mut client = host.connect(0, Scope::Core);
    host.feed(&client, format!("CLIENT TRACKING ON REDIRECT {id}\r\nGET {key}\r\n").as_bytes());
    let mut writer = host.connect(0, Scope::Core);
    host.feed(&writer, &words(&format!("SET {key} v")));
    host.nodes[0].tell_readers();
    // The read waits until the listener is found, and so sees the change.
    assert_eq!(host.ask(&mut client, ""), "+OK\r\n$1\r\nv\r\n");
    assert_eq!(host.ask(&mut heard, ""), "");
    host.feed(&writer, &words(&format!("SET {key} w")));
    host.nodes[0].tell_readers();
    assert!(host.ask(&mut heard, "").ends_with(&format!("{key}\r\n")));
    host.settle(&mut writer);
}
