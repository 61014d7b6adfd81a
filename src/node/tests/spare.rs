//! What is lent to sessions and sent between cores, and comes back.
//!
//! Goal: a session that has nothing to send holds no buffer for it, whatever it waits for; a parcel whose memory is used
//! again carries nothing of what was in it before.

use super::*;

/// Nothing is lent to the session of a client.
fn assert_bare(host: &mut Host, client: &Client, after: &str) {
    let session = host.nodes[client.core].session(client.id).expect("it is open");
    assert!(session.output.is_bare() && session.output.is_bare_behind(), "{after}");
}

/// A host of two cores with buffers to lend, a client that stays on core 0, and a key of each core.
fn warm(protocol: Protocol) -> (Host, Client, [String; 2]) {
    let mut host = Host::new(2, LIMITS);
    let keys = [key_on(&host, 0, 0), key_on(&host, 1, 0)];
    let mut other = host.connect(0, Scope::Core);
    let stream: Vec<u8> = keys.iter().cycle().take(20).flat_map(|key| words(&format!("set {key} value"))).collect();
    host.ask(&mut other, stream);
    assert!(host.nodes[0].spare.held_bytes() > 0, "there is something to lend");
    let mut client = host.connect_as(protocol, 0, Scope::Host);
    match protocol {
        Protocol::Memcache => {
            assert_eq!(host.ask(&mut client, format!("set {} 0 0 1\r\nx\r\n", keys[0])), "STORED\r\n")
        }
        _ => assert_eq!(host.ask(&mut client, words(&format!("set {} x", keys[0]))), "+OK\r\n"),
    }
    (host, client, keys)
}

#[test]
fn who_has_nothing_to_send_holds_no_buffer() {
    let (mut host, client, [here, there]) = warm(Protocol::Resp);
    assert_bare(&mut host, &client, "a reply");
    host.feed(&client, &words(&format!("mget {here} {there} {there} {here}")));
    assert_bare(&mut host, &client, "a request that waits for another core");
    host.post(0);
    host.drop_off(0, 1);
    host.post(1);
    host.drop_off(1, 0);
    let mut client = client;
    host.settle(&mut client);
    assert_bare(&mut host, &client, "its reply");
    host.feed(&client, &words(&format!("get {there}")));
    host.feed(&client, &words("ping"));
    host.carry();
    host.settle(&mut client);
    assert_bare(&mut host, &client, "a reply behind one of another core");

    let mut crowd: Vec<Client> = (0..3).map(|_| host.connect(0, Scope::Core)).collect();
    for client in &crowd {
        host.feed(client, b"GETLEASE lease WAIT 100000\r\n");
    }
    host.carry();
    crowd.iter_mut().for_each(|client| host.settle(client));
    for client in &crowd {
        assert_bare(&mut host, client, "a request that waits for a fill");
    }

    let (mut host, client, [_, there]) = warm(Protocol::Memcache);
    host.feed(&client, format!("set {there} 0 0 1 noreply\r\ny\r\n").as_bytes());
    host.carry();
    assert_bare(&mut host, &client, "a request without a reply");
}

/// What has become ready of the buffer for later replies is no part of the next one.
#[test]
fn a_reply_is_not_refused_for_what_was_sent_before_it() {
    let limits = Limits { output_soft_bytes_max: 40_000, output_hard_bytes_max: 40_000, ..LIMITS };
    let mut host = Host::new(2, limits);
    let (here, there) = (key_on(&host, 0, 0), key_on(&host, 1, 0));
    let mut client = host.connect(0, Scope::Core);
    let value = "v".repeat(4000);
    assert_eq!(host.ask(&mut client, words(&format!("set {here} {value}"))), "+OK\r\n");
    let get = words(&format!("get {here}"));
    // Of another core, then some behind it; twice.
    for count in [3, 4] {
        host.feed(&client, &words(&format!("get {there}")));
        (0..count).for_each(|_| host.feed(&client, &get));
        host.post(0);
    }
    host.drop_off(0, 1);
    host.post(1);
    host.drop_off(1, 0);
    while host.take(&mut client) {
        host.confirm(&mut client);
    }
    let sent = client.got.len();
    assert!(sent > 3 * 4000, "the first three are ready: {sent}");
    host.feed(&client, &words(&format!("mget {here} {here} {here} {here}")));
    host.settle(&mut client);
    assert_eq!(replies(&client.got).len(), 10);
    assert_eq!(client.got.len(), 2 * "$-1\r\n".len() + 11 * "$4000\r\n\r\n".len() + 11 * 4000 + "*4\r\n".len());
}

/// Several turns' parcels from one core, each longer than a slice and with replies beside its requests.
#[test]
fn requests_that_wait_in_a_parcel_keep_their_keys_and_values() {
    let mut host = Host::new(2, LIMITS);
    let own: [Vec<String>; 2] = [0, 1].map(|core| (0..40).map(|salt| key_on(&host, core, salt)).collect());
    let mut clients: Vec<Client> = (0..60).map(|n| host.connect(n % 2, Scope::Core)).collect();
    let mut expected = vec![String::new(); clients.len()];
    for round in 0..4 {
        for (n, client) in clients.iter().enumerate() {
            let mut stream = Vec::new();
            for step in 0..12 {
                // Keys of the other core, and values of many lengths.
                let key = format!("{{{}}}:{n}", own[1 - client.core][(n + step / 3) % 40]);
                let value = format!("{n}:{round}:{}", step / 3).repeat(1 + (n * 7 + step / 3) % 5);
                let (asked, reply) = match step % 3 {
                    0 => (format!("set {key} {value}"), "+OK\r\n".to_owned()),
                    1 => (format!("echo {value}"), format!("${}\r\n{value}\r\n", value.len())),
                    _ => (format!("strlen {key}"), format!(":{}\r\n", value.len())),
                };
                stream.extend(words(&asked));
                expected[n].push_str(&reply);
            }
            host.feed(client, &stream);
        }
        host.post(0);
        host.post(1);
    }
    clients.iter_mut().for_each(|client| host.settle(client));
    for (client, expected) in clients.iter().zip(&expected) {
        assert_eq!(String::from_utf8_lossy(&client.got), *expected);
    }
    assert!(host.nodes.iter_mut().all(|node| node.counters().forwards > 400));
}
