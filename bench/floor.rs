//! What the kernel alone costs: a server that reads nothing of what it is asked.
//!
//! Goal: the least that any server on this ring can cost for a load of redis-benchmark, to set what Ringfence costs beside.
//! Method: bytes are counted, not parsed. Each request of `redis-benchmark -t get -d 64 -r N` has 36 bytes and each of
//! `-t set` 107, so their number follows from that of the bytes, and every one has the same answer. It gathers always, as
//! a busy core of Ringfence does most of the time; with `--idle busy` it never sleeps instead.
//!
//! ```text
//! cargo build --release --example floor
//! bench/compare.py --loads p1,p16 --ringfence floor=target/release/examples/floor --ringfence target/release/ringfence
//! ```

use ringfence::io::ring::{Completion, Gather, Key, Received, Ring};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

const GET_BYTES: usize = 36;
const SET_BYTES: usize = 107;
const VALUE_BYTES: usize = 64;
const LISTENER: Key = Key { index: u32::MAX, generation: 0 };
const GATHER_TIME: Duration = Duration::from_micros(75);
const GATHER_EVENTS_MAX: usize = 16;
const WAIT: Duration = Duration::from_secs(1);

/// A connection, and how far it is in a request.
struct Client {
    socket: OwnedFd,
    /// Bytes of the request that has begun, and how many of them have come.
    request_bytes: usize,
    come: usize,
    /// The buffer for replies, while it is not sent.
    replies: Vec<u8>,
}

impl Client {
    /// Answers all requests that end in `bytes`.
    fn take(&mut self, mut bytes: &[u8], value: &[u8]) {
        if bytes.starts_with(b"*3\r\n$6\r\nCONFIG\r\n") {
            // What redis-benchmark asks first, and does without.
            let asked = bytes.windows(6).filter(|&word| word == b"CONFIG").count();
            return self.replies.extend(b"-ERR none\r\n".repeat(asked));
        }
        while let Some(&byte) = bytes.first() {
            if self.come == 1 {
                self.request_bytes = if byte == b'2' { GET_BYTES } else { SET_BYTES };
            }
            let left = if self.come == 0 { 1 } else { self.request_bytes - self.come };
            let (now, rest) = bytes.split_at(left.min(bytes.len()));
            self.come += now.len();
            if self.come > 1 && self.come == self.request_bytes {
                self.come = 0;
                self.replies.extend_from_slice(if self.request_bytes == GET_BYTES { value } else { b"+OK\r\n" });
            }
            bytes = rest;
        }
    }
}

fn main() -> std::io::Result<()> {
    // It takes no notice of what else other servers are told.
    let words: Vec<String> = std::env::args().collect();
    let told = |name| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    let (port, is_busy) = (told("--port"), told("--idle") == Some("busy"));
    let listener = TcpListener::bind(format!("127.0.0.1:{}", port.expect("--port says where to listen")))?;
    let value = format!("${VALUE_BYTES}\r\n{:x<VALUE_BYTES$}\r\n", "").into_bytes();
    let mut ring = Ring::new()?;
    ring.accept(LISTENER, listener.as_raw_fd());
    let (mut clients, mut received) = (Vec::new(), 0);
    loop {
        if is_busy {
            ring.submit()?;
        } else {
            let gather = Gather { events: (received * 2).min(GATHER_EVENTS_MAX), time: GATHER_TIME };
            ring.submit_and_wait(WAIT, (received > 1).then_some(gather))?;
        }
        received = 0;
        while let Some(completion) = ring.next_news() {
            received += usize::from(matches!(completion, Completion::Received { .. }));
            handle(&mut ring, &mut clients, completion, &value)?;
        }
    }
}

fn handle(
    ring: &mut Ring,
    clients: &mut Vec<Option<Client>>,
    completion: Completion,
    value: &[u8],
) -> std::io::Result<()> {
    match completion {
        Completion::Accepted { result, .. } => {
            let socket = result?;
            let key = Key { index: clients.len() as u32, generation: 0 };
            ring.receive(key, socket.as_raw_fd());
            clients.push(Some(Client { socket, request_bytes: 0, come: 0, replies: Vec::new() }));
        }
        Completion::Received { key, outcome, armed } => {
            let place = &mut clients[key.index as usize];
            let Some(client) = place else { return Ok(()) };
            match outcome {
                Received::Data(lent) => {
                    client.take(ring.bytes(&lent), value);
                    ring.recycle(lent);
                    if !client.replies.is_empty() {
                        ring.send(key, client.socket.as_raw_fd(), std::mem::take(&mut client.replies));
                    }
                }
                Received::Starved => {}
                _ => *place = None,
            }
            if let Some(client) = place.as_ref().filter(|_| !armed) {
                ring.receive(key, client.socket.as_raw_fd());
            }
        }
        Completion::Sent { key, mut buffer, .. } => {
            if let Some(client) = clients[key.index as usize].as_mut().filter(|client| client.replies.is_empty()) {
                buffer.clear();
                client.replies = buffer;
            }
        }
        _ => {}
    }
    Ok(())
}
