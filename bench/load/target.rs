//! The first contact with a server, before any load: does it answer as a server of
//! its protocol does, and in a cluster, which node has which slots?

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use ringfence::base::SLOT_COUNT;

use crate::tls::{self, Tls};
use crate::wire::{Credentials, Expected, Progress, Protocol, Reply, Wire};

/// Lists in one another in a slot map; it takes four.
const DEPTH_MAX: usize = 8;
/// The most that a slot map may take.
const MAP_BYTES_MAX: usize = 16 << 20;
/// How long one of several addresses of a host may take to accept.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// A key that is read to see how the server answers.
const PROBE: &[u8] = b"ringfence-bench:probe";

/// Where a server is.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it was given.
    pub authority: String,
    /// What it resolves to.
    pub address: SocketAddr,
    /// TLS to it.
    pub tls: Option<Tls>,
}

impl Target {
    /// Resolves `host:port`.
    ///
    /// # Errors
    /// One line that says what a target looks like, or that there is no such host.
    pub fn resolve(text: &str, tls: Option<&tls::Options>) -> Result<Self, String> {
        let has_port =
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !has_port {
            return Err(format!(
                "--target: `{text}` is not a host and a port: write one such as 127.0.0.1:6379 or [::1]:6379"
            ));
        }
        let found =
            text.to_socket_addrs().map_err(|error| format!("--target: `{text}` cannot be resolved: {error}"))?;
        let found: Vec<SocketAddr> = found.collect();
        // Of several addresses the first at which somebody listens: localhost is often `::1` too.
        let listens = |address: &&SocketAddr| TcpStream::connect_timeout(address, ADDRESS_TIMEOUT).is_ok();
        let first = if found.len() > 1 { found.iter().find(listens) } else { None };
        let address = *first.or(found.first()).ok_or_else(|| format!("--target: `{text}` has no address"))?;
        let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
        let tls = tls.map(|options| Tls::new(options, host)).transpose()?;
        Ok(Self { authority: text.to_owned(), address, tls })
    }
}

/// The nodes of a cluster, and which of them owns each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMap {
    /// The nodes that own slots.
    pub nodes: Vec<SocketAddr>,
    /// For each slot the index of its owner.
    pub owners: Box<[u16]>,
}

/// What can be read and written: a connection, or TLS on one.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A connection that waits for each reply.
struct Dialogue<'a> {
    stream: Box<dyn Stream>,
    target: &'a Target,
    arrived: Vec<u8>,
}

impl<'a> Dialogue<'a> {
    fn open(target: &'a Target, timeout: Duration) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&target.address, timeout)
            .map_err(|error| format!("{} cannot be reached: {error}: is the server running?", target.authority))?;
        let set = stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)));
        set.map_err(|error| format!("--timeout: {error}"))?;
        let stream: Box<dyn Stream> = match &target.tls {
            None => Box::new(stream),
            Some(tls) => {
                let session = tls.connect().map_err(|error| format!("--tls: {error}"))?;
                Box::new(rustls::StreamOwned::new(session, stream))
            }
        };
        Ok(Self { stream, target, arrived: Vec::new() })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| self.broken(&error))
    }

    fn receive(&mut self) -> Result<(), String> {
        let mut chunk = [0; 16 << 10];
        let n = self.stream.read(&mut chunk).map_err(|error| self.broken(&error))?;
        if n == 0 {
            return Err(format!(
                "{} closed the connection instead of answering: is --protocol right{}?",
                self.target.authority,
                self.about_tls()
            ));
        }
        self.arrived.extend_from_slice(&chunk[..n]);
        Ok(())
    }

    fn about_tls(&self) -> &'static str {
        if self.target.tls.is_some() { ", and does it ask for --tls-cert" } else { ", and does it want --tls" }
    }

    fn broken(&self, error: &std::io::Error) -> String {
        let target = &self.target.authority;
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("{target} does not answer: is --protocol right, and --timeout long enough?")
            }
            ErrorKind::InvalidData => format!("{target} cannot be trusted: {error}: are --tls and its files right?"),
            _ => format!("{target} broke the connection: {error}: is --protocol right{}?", self.about_tls()),
        }
    }

    /// Waits for a reply; an error is answered as its text.
    fn reply(&mut self, wire: &Wire, expected: Expected) -> Result<Option<String>, String> {
        let mut items = Vec::new();
        loop {
            match wire.decode(expected, &self.arrived, &mut items) {
                Progress::Whole(reply, used) | Progress::Last(reply, used) => {
                    let error = match reply {
                        Reply::Error(text) => Some(text.escape_ascii().to_string()),
                        _ => None,
                    };
                    self.arrived.drain(..used);
                    return Ok(error);
                }
                Progress::Garbage(why) => {
                    let shown = self.arrived[..self.arrived.len().min(60)].escape_ascii();
                    return Err(format!(
                        "{} does not answer as a {} server does: {why}: \"{shown}\": is --protocol right?",
                        self.target.authority,
                        wire.protocol()
                    ));
                }
                Progress::Partial(_) => self.receive()?,
            }
        }
    }
}

/// Looks whether the server answers, and takes its credentials.
///
/// # Errors
/// One line that says what is wrong and what to do.
pub fn probe(
    target: &Target,
    protocol: Protocol,
    credentials: Option<&Credentials>,
    timeout: Duration,
    cluster: bool,
) -> Result<Option<SlotMap>, String> {
    let wire = Wire::new(protocol, &target.authority, credentials);
    let mut dialogue = Dialogue::open(target, timeout)?;
    let mut bytes = Vec::new();
    let greetings = wire.greet(&mut bytes);
    if !cluster {
        wire.get(PROBE, &mut bytes);
    }
    dialogue.send(&bytes)?;
    for _ in 0..greetings {
        if let Some(error) = dialogue.reply(&wire, Expected::Greeting)? {
            return Err(format!("{} refuses the connection: {error}{}", target.authority, remedy(&error)));
        }
    }
    if cluster {
        return fetch_map(&mut dialogue).map(Some);
    }
    match dialogue.reply(&wire, Expected::Get)? {
        Some(error) => Err(format!("{} refuses to serve: {error}{}", target.authority, remedy(&error))),
        None => Ok(None),
    }
}

/// What to do about a refusal.
pub fn remedy(error: &str) -> &'static str {
    let has = |word: &str| error.to_ascii_lowercase().contains(word);
    if has("auth") || has("wrongpass") || has("401") || has("403") {
        ": give the right --user and --password"
    } else if has("hello") || has("noproto") {
        ": give --protocol resp2"
    } else if has("loading") {
        ": wait until it has loaded its data"
    } else {
        ""
    }
}

fn fetch_map(dialogue: &mut Dialogue<'_>) -> Result<SlotMap, String> {
    dialogue.send(b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n")?;
    let target = dialogue.target.authority.clone();
    let refused = |why: &str| format!("{target} has no slot map: {why}: give --routing plain, or a node of a cluster");
    let reply = loop {
        let mut at = 0;
        match Tree::read(&dialogue.arrived, &mut at) {
            Ok(Some(tree)) => break tree,
            Ok(None) if dialogue.arrived.len() > MAP_BYTES_MAX => return Err(refused("its reply does not end")),
            Ok(None) => dialogue.receive()?,
            Err(()) => return Err(refused("its reply to CLUSTER SLOTS is not one")),
        }
    };
    let Tree::List(ranges) = reply else {
        return Err(refused(&match reply {
            Tree::Error(text) => text,
            _ => "its reply to CLUSTER SLOTS is not a list".to_owned(),
        }));
    };
    slot_map(&ranges, dialogue.target.address).map_err(|why| refused(&why))
}

/// Reads `[first, last, [host, port, …], …]` of each range.
fn slot_map(ranges: &[Tree], asked: SocketAddr) -> Result<SlotMap, String> {
    let mut map = SlotMap { nodes: Vec::new(), owners: vec![u16::MAX; SLOT_COUNT].into() };
    for range in ranges {
        let Tree::List(parts) = range else { return Err("a range is not a list".into()) };
        let [Tree::Integer(first), Tree::Integer(last), Tree::List(owner), ..] = &parts[..] else {
            return Err("a range has no slots or no owner".into());
        };
        let address = match &owner[..] {
            // No host: the one that was asked.
            [Tree::Text(host), Tree::Integer(port), ..] => {
                let ip = if host.is_empty() || host == "?" { asked.ip() } else { resolve(host)? };
                SocketAddr::new(ip, u16::try_from(*port).map_err(|_| format!("{port} is no port"))?)
            }
            [Tree::Null, Tree::Integer(port), ..] => {
                SocketAddr::new(asked.ip(), u16::try_from(*port).map_err(|_| format!("{port} is no port"))?)
            }
            _ => return Err("an owner has no address".into()),
        };
        let node = map.nodes.iter().position(|known| *known == address).unwrap_or_else(|| {
            map.nodes.push(address);
            map.nodes.len() - 1
        });
        let (first, last) =
            (usize::try_from(*first).unwrap_or(SLOT_COUNT), usize::try_from(*last).unwrap_or(SLOT_COUNT));
        let slots = map.owners.get_mut(first..=last).ok_or_else(|| format!("there are no slots {first} to {last}"))?;
        slots.fill(node as u16);
    }
    match map.owners.iter().position(|&owner| owner == u16::MAX) {
        Some(slot) => Err(format!("nobody owns slot {slot}")),
        None => Ok(map),
    }
}

fn resolve(host: &str) -> Result<std::net::IpAddr, String> {
    let mut found =
        (host, 0).to_socket_addrs().map_err(|error| format!("its node `{host}` cannot be resolved: {error}"))?;
    found.next().map(|address| address.ip()).ok_or_else(|| format!("its node `{host}` has no address"))
}

/// As much of RESP as a slot map is made of.
#[derive(Debug, PartialEq, Eq)]
enum Tree {
    Text(String),
    Integer(i64),
    List(Vec<Tree>),
    Null,
    Error(String),
}

impl Tree {
    /// Reads one value from `at` on. `None`: not all of it is there.
    fn read(bytes: &[u8], at: &mut usize) -> Result<Option<Tree>, ()> {
        Self::read_within(bytes, at, DEPTH_MAX)
    }

    /// Reads one that has at most `depth` lists in one another.
    fn read_within(bytes: &[u8], at: &mut usize, depth: usize) -> Result<Option<Tree>, ()> {
        let rest = &bytes[*at..];
        let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
        let (head, line) = (rest[0], String::from_utf8_lossy(&rest[1.min(end)..end]).into_owned());
        *at += end + 2;
        let number = || line.parse::<i64>().map_err(|_| ());
        Ok(Some(match head {
            b'+' => Tree::Text(line),
            b'-' => Tree::Error(line),
            b':' => Tree::Integer(number()?),
            b'_' => Tree::Null,
            b'$' | b'*' | b'~' | b'%' if number()? < 0 => Tree::Null,
            b'$' => {
                let len = number()? as usize;
                let Some(text) = bytes.get(*at..at.saturating_add(len).saturating_add(2)) else { return Ok(None) };
                *at += len + 2;
                Tree::Text(String::from_utf8_lossy(&text[..len]).into_owned())
            }
            b'*' | b'~' | b'%' => {
                let depth = depth.checked_sub(1).ok_or(())?;
                let count = number()?.saturating_mul(if head == b'%' { 2 } else { 1 });
                let mut list = Vec::new();
                for _ in 0..count {
                    match Tree::read_within(bytes, at, depth)? {
                        Some(tree) => list.push(tree),
                        None => return Ok(None),
                    }
                }
                Tree::List(list)
            }
            _ => return Err(()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_NODES: &[u8] = b"*3\r\n*3\r\n:0\r\n:99\r\n*4\r\n$9\r\n127.0.0.1\r\n:7001\r\n$2\r\nid\r\n*0\r\n\
        *3\r\n:100\r\n:16000\r\n*2\r\n$0\r\n\r\n:7002\r\n*3\r\n:16001\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:7001\r\n";

    fn map_of(bytes: &[u8]) -> Result<SlotMap, String> {
        let mut at = 0;
        match Tree::read(bytes, &mut at).expect("it is RESP").expect("it is whole") {
            Tree::List(ranges) => slot_map(&ranges, "127.0.0.9:7000".parse().expect("an address")),
            other => panic!("not a list: {other:?}"),
        }
    }

    #[test]
    fn a_slot_map_is_read_with_its_owners() {
        let map = map_of(TWO_NODES).expect("it is complete");
        assert_eq!(map.nodes, ["127.0.0.1:7001".parse().unwrap(), "127.0.0.9:7002".parse().unwrap()]);
        assert_eq!((map.owners[0], map.owners[99], map.owners[100], map.owners[16383]), (0, 0, 1, 0));
    }

    #[test]
    fn a_part_of_a_map_is_not_a_map() {
        for len in 0..TWO_NODES.len() {
            assert_eq!(Tree::read(&TWO_NODES[..len], &mut 0), Ok(None), "{len} bytes");
        }
    }

    #[test]
    fn maps_that_do_not_add_up_are_refused() {
        for (bytes, why) in [
            (&b"*1\r\n*3\r\n:0\r\n:99\r\n*2\r\n$9\r\n127.0.0.1\r\n:7001\r\n"[..], "nobody owns slot 100"),
            (b"*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$9\r\n127.0.0.1\r\n:7001\r\n", "there are no slots 0 to 16384"),
            (b"*1\r\n*3\r\n:9\r\n:5\r\n*2\r\n$9\r\n127.0.0.1\r\n:7001\r\n", "there are no slots 9 to 5"),
            (b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:70001\r\n", "70001 is no port"),
            (b"*1\r\n*2\r\n:0\r\n:16383\r\n", "no slots or no owner"),
            (b"*1\r\n:5\r\n", "a range is not a list"),
        ] {
            assert!(map_of(bytes).is_err_and(|e| e.contains(why)), "{why}");
        }
        assert_eq!(Tree::read(b"?x\r\n", &mut 0), Err(()));
        assert_eq!(Tree::read(b"%9223372036854775807\r\n", &mut 0), Ok(None));
    }

    #[test]
    fn lists_in_lists_without_end_are_no_map() {
        let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
        assert!(Tree::read(&nested(DEPTH_MAX), &mut 0).is_ok_and(|tree| tree.is_some()));
        for depth in [DEPTH_MAX + 1, 1 << 20] {
            assert_eq!(Tree::read(&nested(depth), &mut 0), Err(()));
        }
    }

    #[test]
    fn targets_need_a_host_and_a_port() {
        for wrong in ["", "localhost", ":6379", "localhost:", "localhost:99999"] {
            assert!(Target::resolve(wrong, None).is_err_and(|e| e.contains("127.0.0.1:6379")), "{wrong}");
        }
        assert_eq!(Target::resolve("[::1]:6379", None).map(|t| t.address), Ok("[::1]:6379".parse().unwrap()));
    }
}
