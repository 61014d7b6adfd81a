//! One pipeline, any number of cores, any cuts, any order of arrival: the same replies.

use super::requests::{Same, Sent, ending, sent};
use super::*;
use crate::base::rng::Rng;
use proptest::prelude::*;

/// How a run is disturbed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disturbance {
    /// Decides the cuts and the order of everything.
    pub seed: u64,
    /// Whether the connection is also moved about without reason.
    pub moves: bool,
}

/// Runs `stream` on one core, all at once.
pub(super) fn plainly(stream: &[u8], limits: Limits) -> (Vec<u8>, State) {
    plainly_as(Protocol::Resp, stream, limits)
}

pub(super) fn plainly_as(protocol: Protocol, stream: &[u8], limits: Limits) -> (Vec<u8>, State) {
    let mut host = Host::new(1, limits);
    let mut client = host.connect_as(protocol, 0, Scope::Host);
    host.feed(&client, stream);
    host.settle(&mut client);
    let state = host.wishes(&client).0;
    (client.got, state)
}

/// Runs `stream` on several cores, in pieces, everything in an order of chance.
pub(super) fn disturbed(cores: usize, stream: &[u8], limits: Limits, how: Disturbance) -> (Vec<u8>, State) {
    disturbed_as(Protocol::Resp, cores, stream, limits, how)
}

pub(super) fn disturbed_as(
    protocol: Protocol,
    cores: usize,
    stream: &[u8],
    limits: Limits,
    how: Disturbance,
) -> (Vec<u8>, State) {
    let mut rng = Rng::new(how.seed);
    let mut host = Host::new(cores, limits);
    let mut client = host.connect_as(protocol, 0, Scope::Host);
    let mut rest = stream;
    while !rest.is_empty() {
        let (from, to) = (rng.below(cores as u64) as usize, rng.below(cores as u64) as usize);
        match rng.below(if how.moves { 12 } else { 10 }) {
            0..=3 => {
                let most = [3, 40, 400, rest.len()][rng.below(4) as usize].min(rest.len());
                let (piece, after) = rest.split_at(1 + rng.below(most as u64) as usize);
                // Rightly and wrongly, and of what comes much later.
                let later = &rest[rng.below(rest.len() as u64) as usize..];
                let foreseen = [piece, after, later, piece].into_iter();
                host.nodes[client.core].foresee(foreseen.take(rng.below(5) as usize));
                host.feed(&client, piece);
                rest = after;
            }
            4 | 5 => host.post(from),
            6 => drop(host.drop_off(from, to)),
            7 => drop(host.nodes[from].go_on()),
            8 => drop(host.take(&mut client)),
            9 => drop(host.confirm(&mut client)),
            10 => {
                if let (State::Open, _, None) = host.wishes(&client) {
                    host.nodes[client.core].session(client.id).unwrap().move_to = Some(to);
                }
            }
            _ => drop(host.hand_over(&mut client)),
        }
    }
    host.settle(&mut client);
    let state = host.wishes(&client).0;
    assert!(host.nodes.iter().all(Node::all_quiet), "something was never answered");
    (client.got, state)
}

/// Compares the replies to `requests`, which may be cut short by what follows them.
fn compare(requests: &[Sent], expected: &[u8], got: &[u8]) -> Result<(), TestCaseError> {
    let (expected, got) = (replies(expected), replies(got));
    prop_assert_eq!(expected.len(), got.len(), "replies");
    let mut answered = requests.iter().filter(|(_, same)| *same != Same::None);
    for (expected, got) in expected.iter().zip(got) {
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        match answered.next() {
            Some((_, Same::Kind)) => prop_assert_eq!(expected[0], got[0]),
            other => prop_assert_eq!(shown(expected), shown(got), "{:?}", other.map(|(bytes, _)| shown(bytes))),
        }
    }
    Ok(())
}

pub(super) fn check(
    cores: usize,
    requests: Vec<Sent>,
    end: &[u8],
    how: Disturbance,
    limits: Limits,
) -> Result<(), TestCaseError> {
    let mut stream: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
    stream.extend_from_slice(end);
    let (expected, state) = plainly(&stream, LIMITS);
    let (got, state_got) = disturbed(cores, &stream, limits, how);
    compare(&requests, &expected, &got)?;
    prop_assert_eq!(state, state_got);
    Ok(())
}

/// With RESP3 the pipeline begins with the handshake.
fn pipeline() -> impl Strategy<Value = Vec<Sent>> {
    (any::<bool>(), proptest::collection::vec(sent(), 1..120)).prop_map(|(resp3, mut requests)| {
        if resp3 {
            requests.insert(0, (words("hello 3"), Same::All));
        }
        requests
    })
}

proptest! {
    #[test]
    fn cores_cuts_and_order_change_no_reply(
        cores in 1..4usize, requests in pipeline(), end in ending(), seed in any::<u64>(),
    ) {
        check(cores, requests, &end, Disturbance { seed, moves: false }, LIMITS)?;
    }

    /// Small limits only make a connection wait more often.
    #[test]
    fn waiting_for_the_client_changes_no_reply(
        cores in 1..4usize, requests in pipeline(), end in ending(), seed in any::<u64>(), soft in 1..2000usize,
    ) {
        let limits = Limits { output_soft_bytes_max: soft, ..LIMITS };
        check(cores, requests, &end, Disturbance { seed, moves: false }, limits)?;
    }

    /// Moves in the middle of a pipeline lose nothing and repeat nothing.
    #[test]
    fn moving_about_changes_no_reply(
        cores in 2..4usize, requests in pipeline(), end in ending(), seed in any::<u64>(), soft in 1..20_000usize,
    ) {
        let limits = Limits { output_soft_bytes_max: soft, ..LIMITS };
        check(cores, requests, &end, Disturbance { seed, moves: true }, limits)?;
    }
}

/// What stands behind `QUIT` is nobody's, even if it arrived with it.
#[test]
fn nothing_is_answered_behind_the_end_of_a_connection() {
    for behind in [&b"*x\r\n"[..], b"*1\r\n:1\r\n", b"GET / HTTP/1.1\r\n", b"*1\r\n$4\r\nPING\r\n", b"*1\r\n$5000\r\n"]
    {
        let stream = [&words("get k"), &words("quit"), behind].concat();
        assert_eq!(plainly(&stream, LIMITS), (b"$-1\r\n+OK\r\n".to_vec(), State::Draining));
    }
}

/// A request that makes the session wait and bytes that are not RESP, in one batch.
#[test]
fn a_protocol_error_waits_its_turn() {
    let stream = [&words("set k 1"), &words("get k"), &b"*x\r\n"[..]].concat();
    let mut host = Host::new(1, Limits { output_soft_bytes_max: 10, ..LIMITS });
    let mut client = host.connect(0, Scope::Host);
    host.feed(&client, &stream);
    assert_eq!(host.wishes(&client), (State::Open, false, None));
    host.settle(&mut client);
    let expected = "+OK\r\n$1\r\n1\r\n-ERR Protocol error: invalid multibulk length\r\n";
    assert_eq!(String::from_utf8_lossy(&client.got), expected);
    assert_eq!(host.wishes(&client).0, State::Draining);
}

#[test]
fn replies_wait_for_those_of_other_cores_but_not_for_long() {
    let mut host = Host::new(2, LIMITS);
    let key = |core| (0..).map(|n| format!("k{n}")).find(|key| host.nodes[0].locate(key.as_bytes()).1 == core);
    let (here, there) = (key(0).expect("some key is ours"), key(1).expect("some key is theirs"));
    let pipeline = format!("SET {here} 1\r\nGET {there}\r\n");
    for now in [1_700_000_000_000, 1_700_000_000_010] {
        let mut client = host.connect_as(Protocol::Resp, 0, Scope::Host);
        host.nodes[0].set_time(now * 1000);
        host.feed(&client, pipeline.as_bytes());
        assert!(!host.take(&mut client) && host.nodes[0].has_held());
        host.nodes[0].set_time((now + HELD_MS_MAX - 1) * 1000);
        host.nodes[0].tend_held();
        assert!(!host.take(&mut client), "the other core may still answer in time");
        host.nodes[0].set_time((now + HELD_MS_MAX) * 1000);
        host.nodes[0].tend_held();
        assert!(!host.nodes[0].has_held());
        assert!(host.nodes[0].next_listed().is_some(), "the io room is told");
        assert!(host.take(&mut client));
        assert_eq!(client.sending.as_deref(), Some(&b"+OK\r\n"[..]));
        host.settle(&mut client);
        assert_eq!(client.got, b"+OK\r\n$-1\r\n");
        // Of the next pipeline they wait again, and come together.
        host.feed(&client, pipeline.as_bytes());
        assert!(!host.take(&mut client));
        host.carry();
        assert!(host.take(&mut client));
        assert_eq!(client.sending.as_deref(), Some(&b"+OK\r\n$-1\r\n"[..]));
        host.settle(&mut client);
    }
}
