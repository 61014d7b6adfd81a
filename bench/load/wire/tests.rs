//! What holds for every protocol: a reply is taken whole or not at all, however it
//! is split, and no bytes make a decoder panic. The decoders' own tests use
//! [`taken`] and [`refused`], which check this for each reply that they are shown.

use proptest::prelude::*;

use super::*;

/// A wire to some server.
pub(super) fn wire(protocol: Protocol) -> Wire {
    Wire::new(protocol, "cache:80", None)
}

/// Checks that no beginning of `bytes` is a reply, and that none asks for more than `bytes`.
/// Answers the reply that all of `bytes` is, what stands behind it left alone, and its items.
pub(super) fn taken(protocol: Protocol, expected: Expected, bytes: &[u8]) -> (Progress<'_>, Vec<Item>) {
    let (wire, mut items) = (wire(protocol), Vec::new());
    for cut in 0..bytes.len() {
        match wire.decode(expected, &bytes[..cut], &mut items) {
            Progress::Partial(needed) => {
                assert!(cut < needed && needed <= bytes.len(), "{needed} bytes are wanted at {cut} of {}", bytes.len());
            }
            other => panic!("{cut} of {} bytes of {:?} are {other:?}", bytes.len(), bytes.escape_ascii()),
        }
    }
    let followed = [bytes, b"-1\r\n"].concat();
    let alone = wire.decode(expected, bytes, &mut items);
    assert!(!matches!(alone, Progress::Partial(_)), "{alone:?} to all of {:?}", bytes.escape_ascii());
    let items_alone = items.clone();
    assert_eq!(wire.decode(expected, &followed, &mut items), alone);
    assert_eq!(items, items_alone);
    (alone, items)
}

/// The reply that all of `bytes` is.
pub(super) fn reply(protocol: Protocol, expected: Expected, bytes: &[u8]) -> Reply<'_> {
    match taken(protocol, expected, bytes) {
        (Progress::Whole(reply, used), _) if used == bytes.len() => reply,
        (other, _) => panic!("{other:?} to {:?}", bytes.escape_ascii()),
    }
}

/// The values of the items that all of `bytes` is the reply with.
pub(super) fn values(protocol: Protocol, keys: usize, bytes: &[u8]) -> Vec<Option<&[u8]>> {
    let (progress, items) = taken(protocol, Expected::Mget(keys), bytes);
    assert_eq!(progress, Progress::Whole(Reply::Items, bytes.len()), "{:?}", bytes.escape_ascii());
    items.into_iter().map(|item| item.value.map(|range| &bytes[range])).collect()
}

/// What is wrong with `bytes`. No beginning of them is a reply, and once refused they stay refused.
pub(super) fn refused(protocol: Protocol, expected: Expected, bytes: &[u8]) -> &'static str {
    let (wire, mut items) = (wire(protocol), Vec::new());
    let mut before = None;
    for cut in 0..=bytes.len() {
        match (wire.decode(expected, &bytes[..cut], &mut items), before) {
            (Progress::Partial(needed), None) => assert!(needed > cut),
            (Progress::Garbage(what), None) => before = Some(what),
            (Progress::Garbage(what), Some(first)) => assert_eq!(what, first),
            (other, _) => panic!("{other:?} to {cut} bytes of {:?}", bytes.escape_ascii()),
        }
    }
    before.unwrap_or_else(|| panic!("{:?} was not refused", bytes.escape_ascii()))
}

/// What `write` appends behind what is there already.
pub(super) fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = b">".to_vec();
    write(&mut out);
    String::from_utf8(out.split_off(1)).expect("text")
}

#[test]
fn protocols_are_named_by_their_words() {
    for protocol in Protocol::ALL {
        assert_eq!(protocol.to_string().parse(), Ok(protocol));
        assert_eq!(protocol.has_mget(), protocol != Protocol::Http);
    }
    assert_eq!(
        "redis".parse::<Protocol>(),
        Err("`redis` is not a protocol: write one of resp2, resp3, memcache-text, memcache-meta, http".to_owned())
    );
}

#[test]
fn keys_that_would_break_the_framing_are_not_taken() {
    let long = [b'k'; 251];
    for (key, memcache, http) in [
        (&b"user:1"[..], true, true),
        (b"", false, false),
        (b"two words", false, true),
        (b"line\n", false, true),
        (b"\x7f", false, true),
        ("ключ".as_bytes(), true, true),
        (&long[1..], true, true),
        (&long, false, true),
        (b"..", true, false),
    ] {
        let takes = |protocol: Protocol| protocol.takes_key(key);
        let expected = [true, true, memcache, memcache, http];
        assert_eq!(Protocol::ALL.map(takes), expected, "{:?}", key.escape_ascii());
    }
}

#[test]
fn a_time_to_live_is_rounded_up_and_never_becomes_none() {
    for (ttl, ms) in [
        (Duration::ZERO, 1),
        (Duration::from_nanos(1), 1),
        (Duration::from_micros(1001), 2),
        (Duration::from_secs(60), 60_000),
        (Duration::MAX, u64::MAX),
    ] {
        assert_eq!(milliseconds(ttl), ms);
    }
}

#[test]
fn a_long_value_is_tried_again_only_when_it_is_there() {
    const LEN: usize = 100 << 20;
    for (protocol, head, tail) in [
        (Protocol::Resp2, "$104857600\r\n", 2),
        (Protocol::MemcacheText, "VALUE k 0 104857600\r\n", 7),
        (Protocol::MemcacheMeta, "VA 104857600\r\n", 2),
        (Protocol::Http, "HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n", 0),
        (Protocol::Http, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6400000\r\n", 7),
    ] {
        let progress = wire(protocol).decode(Expected::Get, head.as_bytes(), &mut Vec::new());
        assert_eq!(progress, Progress::Partial(head.len() + LEN + tail), "{head:?}");
    }
    let heads = [
        (Protocol::Resp3, "*3\r\n_\r\n$104857600\r\n", 2 + 3),
        (Protocol::MemcacheMeta, "EN\r\nVA 104857600\r\n", 2 + 4),
    ];
    for (protocol, head, tail) in heads {
        let progress = wire(protocol).decode(Expected::Mget(3), head.as_bytes(), &mut Vec::new());
        assert_eq!(progress, Progress::Partial(head.len() + LEN + tail), "{head:?}");
    }
}

#[test]
fn the_longest_value_is_512_mib() {
    for (protocol, before, after) in [
        (Protocol::Resp3, "$", "\r\n"),
        (Protocol::MemcacheText, "VALUE k 0 ", "\r\n"),
        (Protocol::MemcacheMeta, "VA ", "\r\n"),
        (Protocol::Http, "HTTP/1.1 200 OK\r\nContent-Length: ", "\r\n\r\n"),
    ] {
        let decode = |len: usize| {
            let head = format!("{before}{len}{after}");
            match wire(protocol).decode(Expected::Get, head.as_bytes(), &mut Vec::new()) {
                Progress::Partial(needed) => Ok(needed > len),
                other => Err(format!("{other:?}")),
            }
        };
        assert_eq!(decode(512 << 20), Ok(true));
        assert!(decode((512 << 20) + 1).is_err_and(|what| what.contains("up to 512 MiB")), "{protocol}");
    }
}

#[test]
fn a_line_without_end_is_refused_after_64_kib() {
    for protocol in Protocol::ALL {
        let start: &[u8] = if protocol == Protocol::Http { b"HTTP/1.1 200 " } else { b"-" };
        let mut bytes = start.to_vec();
        bytes.resize(LINE_BYTES_MAX - 1, b'x');
        let decode = |bytes: &[u8]| match wire(protocol).decode(Expected::Get, bytes, &mut Vec::new()) {
            Progress::Partial(needed) => Ok(needed),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(decode(&bytes), Ok(LINE_BYTES_MAX));
        bytes.push(b'x');
        assert!(decode(&bytes).is_err_and(|what| what.contains("longer than 64 KiB")), "{protocol}");
        bytes.extend_from_slice(b"\r\n\r\n");
        assert!(decode(&bytes).is_err_and(|what| what.contains("longer than 64 KiB")), "{protocol}");
    }
}

/// A reply as a server would write it, in plain formatting, and what it is to be taken for.
#[derive(Clone, Debug)]
enum Said {
    Value(Option<Vec<u8>>),
    Values(Vec<Option<Vec<u8>>>),
    Written,
    Removed(bool),
    Refused,
}

impl Said {
    fn is_of(&self, protocol: Protocol) -> bool {
        protocol.has_mget() || !matches!(self, Said::Values(_))
    }

    fn expected(&self) -> Expected {
        match self {
            Said::Value(_) | Said::Refused => Expected::Get,
            Said::Values(values) => Expected::Mget(values.len()),
            Said::Written => Expected::Set,
            Said::Removed(_) => Expected::Delete,
        }
    }

    fn bytes(&self, protocol: Protocol) -> Vec<u8> {
        match protocol {
            Protocol::Resp2 => self.resp("$-1\r\n"),
            Protocol::Resp3 => self.resp("_\r\n"),
            Protocol::MemcacheText => self.text(),
            Protocol::MemcacheMeta => self.meta(),
            Protocol::Http => self.http(),
        }
    }

    fn resp(&self, null: &str) -> Vec<u8> {
        let value = |value: &Option<Vec<u8>>| match value {
            Some(bytes) => [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
            None => null.into(),
        };
        match self {
            Said::Value(one) => value(one),
            Said::Values(all) => {
                format!("*{}\r\n", all.len()).into_bytes().into_iter().chain(all.iter().flat_map(value)).collect()
            }
            Said::Written => b"+OK\r\n".to_vec(),
            Said::Removed(was_there) => format!(":{}\r\n", u8::from(*was_there)).into_bytes(),
            Said::Refused => b"-OOM no\r\n".to_vec(),
        }
    }

    fn text(&self) -> Vec<u8> {
        let value = |value: &Option<Vec<u8>>| match value {
            Some(bytes) => [format!("VALUE k 0 {}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
            None => Vec::new(),
        };
        match self {
            Said::Value(one) => [&value(one)[..], b"END\r\n"].concat(),
            Said::Values(all) => all.iter().flat_map(value).chain(*b"END\r\n").collect(),
            Said::Written => b"STORED\r\n".to_vec(),
            Said::Removed(true) => b"DELETED\r\n".to_vec(),
            Said::Removed(false) => b"NOT_FOUND\r\n".to_vec(),
            Said::Refused => b"SERVER_ERROR no\r\n".to_vec(),
        }
    }

    fn meta(&self) -> Vec<u8> {
        let value = |value: &Option<Vec<u8>>| match value {
            Some(bytes) => [format!("VA {} f0\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
            None => b"EN\r\n".to_vec(),
        };
        match self {
            Said::Value(one) => value(one),
            Said::Values(all) => all.iter().flat_map(value).collect(),
            Said::Written | Said::Removed(true) => b"HD\r\n".to_vec(),
            Said::Removed(false) => b"NF\r\n".to_vec(),
            Said::Refused => b"SERVER_ERROR no\r\n".to_vec(),
        }
    }

    fn http(&self) -> Vec<u8> {
        let reply = |status: &str, body: &[u8]| {
            [format!("HTTP/1.1 {status}\r\nServer: x\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body]
                .concat()
        };
        match self {
            Said::Value(Some(bytes)) => reply("200 OK", bytes),
            Said::Value(None) | Said::Removed(false) => reply("404 Not Found", b"no"),
            Said::Values(_) => panic!("HTTP has no read of several keys"),
            Said::Written | Said::Removed(true) => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            Said::Refused => reply("500 No", b"no"),
        }
    }

    /// Whether `reply` to `input` says the same in `protocol`.
    fn is(&self, protocol: Protocol, reply: &Reply<'_>, items: &[Item], input: &[u8]) -> bool {
        let value = |item: &Item| item.value.clone().map(|range| input[range].to_vec());
        match (self, reply) {
            (Said::Value(Some(bytes)), Reply::Hit(hit)) => bytes == hit,
            (Said::Values(all), Reply::Items) if protocol == Protocol::MemcacheText => {
                let key_is_right = |item: &Item| item.key.clone().is_some_and(|range| &input[range] == b"k");
                items.iter().all(key_is_right)
                    && items.iter().map(value).eq(all.iter().filter(|one| one.is_some()).cloned())
            }
            (Said::Values(all), Reply::Items) => items.iter().map(value).eq(all.iter().cloned()),
            (Said::Value(None) | Said::Removed(false), Reply::Miss) => true,
            (Said::Written | Said::Removed(true), Reply::Done) => true,
            (Said::Refused, Reply::Error(_)) => true,
            _ => false,
        }
    }
}

fn protocols() -> impl Strategy<Value = Protocol> {
    proptest::sample::select(&Protocol::ALL[..])
}

fn said() -> impl Strategy<Value = Said> {
    let value = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..130));
    prop_oneof![
        4 => value().prop_map(Said::Value),
        2 => proptest::collection::vec(value(), 1..8).prop_map(Said::Values),
        1 => Just(Said::Written),
        1 => any::<bool>().prop_map(Said::Removed),
        1 => Just(Said::Refused),
    ]
}

proptest! {
    #[test]
    fn replies_are_taken_whole_or_not_at_all(protocol in protocols(), said in said()) {
        if !said.is_of(protocol) {
            return Ok(());
        }
        let bytes = said.bytes(protocol);
        let (progress, items) = taken(protocol, said.expected(), &bytes);
        let Progress::Whole(reply, used) = progress else { panic!("{progress:?}") };
        prop_assert_eq!(used, bytes.len());
        prop_assert!(said.is(protocol, &reply, &items, &bytes), "{:?} was taken for {:?}, {:?}", said, reply, items);
    }

    #[test]
    fn replies_read_the_same_however_they_are_split(
        protocol in protocols(),
        all in proptest::collection::vec(said(), 1..12),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..30),
    ) {
        let all: Vec<Said> = all.into_iter().filter(|said| said.is_of(protocol)).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|said| said.bytes(protocol)).collect();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let (wire, mut items) = (wire(protocol), Vec::new());
        let (mut at, mut needed, mut read) = (0, 0, 0);
        for end in ends {
            // As a caller would: not before there is sense in it.
            while read < all.len() && end - at >= needed {
                let input = &bytes[at..end];
                match wire.decode(all[read].expected(), input, &mut items) {
                    Progress::Whole(reply, used) => {
                        prop_assert!(all[read].is(protocol, &reply, &items, input), "{:?}: {:?}", all[read], reply);
                        (at, needed, read) = (at + used, 0, read + 1);
                    }
                    Progress::Partial(n) => needed = n,
                    other => panic!("{other:?}"),
                }
            }
        }
        prop_assert_eq!((at, read), (bytes.len(), all.len()));
    }

    #[test]
    fn no_input_panics_and_what_is_decided_stays_so(
        protocol in protocols(),
        expected in proptest::sample::select(&[
            Expected::Greeting, Expected::Get, Expected::Set, Expected::Delete, Expected::Mget(2)][..]),
        words in proptest::collection::vec(proptest::sample::select(&[
            "$", "*", "%", "|", "-", "+OK", "!", "_", ":", "1", "2", "0", "\r\n", "\r\n", "\r", "\n", " ", "x",
            "VALUE k 0 1", "VA 1", "EN", "END", "HD", "SERVER_ERROR", "STORED", "MOVED 1 h:1",
            "HTTP/1.1 200 OK\r\n", "Content-Length: 1", "Transfer-Encoding: chunked", "\r\n\r\n", "f;", "é"][..]), 0..14),
    ) {
        let bytes = words.concat().into_bytes();
        let (wire, mut items) = (wire(protocol), Vec::new());
        let mut decided: Option<Progress<'_>> = None;
        for cut in 0..=bytes.len() {
            match (wire.decode(expected, &bytes[..cut], &mut items), &decided) {
                (Progress::Partial(needed), None) => prop_assert!(needed > cut),
                (progress, None) => decided = Some(progress),
                (progress, Some(before)) => prop_assert_eq!(&progress, before),
            }
        }
    }

    #[test]
    fn a_short_value_is_what_decoding_says(
        protocol in protocols(),
        length in prop_oneof![0usize..12, 95usize..105, 990usize..1010],
        head in "[$:]0?[0-9]{0,4}(\r\n|\r|\n|)",
        right in any::<bool>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let head = if right { format!("${length}\r\n") } else { head };
        let mut bytes = head.into_bytes();
        bytes.extend((0..length).map(|i| i as u8));
        bytes.extend_from_slice(b"\r\n$1\r\nx");
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            let wire = wire(protocol);
            let decoded = wire.decode(Expected::Get, bytes, &mut Vec::new());
            match wire.short_value(bytes) {
                Some((value, used)) => prop_assert_eq!(decoded, Progress::Whole(Reply::Hit(value), used)),
                None => {
                    let is_short = matches!(decoded, Progress::Whole(Reply::Hit(value), _) if value.len() < 1000);
                    let is_resp = matches!(protocol, Protocol::Resp2 | Protocol::Resp3);
                    // Only zeros in front of the length are left to decoding.
                    prop_assert!(!is_resp || !is_short || bytes[1] == b'0' && bytes[2] != b'\r', "{}", bytes.escape_ascii());
                }
            }
        }
    }
}
