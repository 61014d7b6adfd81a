//! The ring against real loopback sockets: what arrives is whole and in order, every
//! request ends exactly once, and memory that the kernel had comes back, also when
//! peers stall, reset or leave.
#![deny(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread::{self, sleep};

use socket2::{Domain, SockRef, Socket, Type};

use super::*;
use crate::base::rng::Rng;
use crate::io::clock::Deadline;

const MIB: usize = 1 << 20;
/// How long anything that should happen may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing must happen to be believed.
const QUIET: Duration = Duration::from_millis(50);
const ONE: Key = Key { index: 1, generation: 1 };
const TWO: Key = Key { index: 2, generation: 1 };

/// A ring of which completions are taken one at a time, as a core takes them: what the ring does because of one is seen
/// before the next.
struct Desk {
    ring: Ring,
}

impl Desk {
    fn new() -> Self {
        Self { ring: Ring::new().expect("this host allows io_uring") }
    }

    fn look(&mut self) {
        self.ring.submit_and_wait(Duration::from_millis(5), None).expect("a wait");
    }

    /// What completes next.
    fn next(&mut self) -> Completion {
        let deadline = Deadline::after(PATIENCE);
        loop {
            if let Some(completion) = self.ring.next_news() {
                return completion;
            }
            assert!(!deadline.left().is_zero(), "nothing completes");
            self.look();
        }
    }

    fn assert_quiet(&mut self) {
        let deadline = Deadline::after(QUIET);
        while !deadline.left().is_zero() {
            self.look();
            if let Some(completion) = self.ring.next_news() {
                panic!("unexpected: {completion:?}");
            }
        }
    }

    fn received(&mut self) -> (Key, Received, bool) {
        match self.next() {
            Completion::Received { key, outcome, armed } => (key, outcome, armed),
            other => panic!("not a receive: {other:?}"),
        }
    }

    fn sent(&mut self) -> (Key, Vec<u8>, io::Result<()>) {
        match self.next() {
            Completion::Sent { key, buffer, result } => (key, buffer, result),
            other => panic!("not a send: {other:?}"),
        }
    }

    fn take(&mut self, lent: Lent) -> Vec<u8> {
        let bytes = self.ring.bytes(&lent).to_vec();
        self.ring.recycle(lent);
        bytes
    }

    /// Receives on an armed connection until there are `len` bytes, arming again where that is needed.
    fn receive_until(&mut self, key: Key, socket: &TcpStream, bytes: &mut Vec<u8>, len: usize) {
        while bytes.len() < len {
            let (of, outcome, armed) = self.received();
            assert_eq!(of, key);
            match outcome {
                Received::Data(lent) => bytes.extend(self.take(lent)),
                Received::Starved => assert!(!armed),
                other => panic!("{other:?} after {} bytes", bytes.len()),
            }
            if !armed && bytes.len() < len {
                self.ring.receive(key, socket.as_raw_fd());
            }
        }
    }
}

/// Two ends of a connection: ours and the peer's.
fn pair() -> (TcpStream, TcpStream) {
    pair_with(|_| ())
}

fn pair_with(prepare_peer: impl FnOnce(&Socket)) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    prepare_peer(&peer);
    peer.connect(&listener.local_addr().unwrap().into()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    let peer = TcpStream::from(peer);
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    (ours, peer)
}

/// Bytes of which no piece looks like another.
fn pattern(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..len.div_ceil(8) as u64).flat_map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Compared without printing megabytes.
fn assert_same(got: &[u8], want: &[u8]) {
    let differs = got.iter().zip(want).position(|(a, b)| a != b);
    assert_eq!((got.len(), differs), (want.len(), None), "length and first difference");
}

/// Closes a connection so that the other side sees a reset.
fn reset(peer: TcpStream) {
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn keys_come_back_and_tell_generations_apart() {
    for generation in [0, 1, 0xff_ffff, 0x100_0000, 0x100_0007, u32::MAX] {
        let key = unpack(pack(Kind::Receive, Key { index: u32::MAX, generation }));
        assert_eq!(key.index, u32::MAX);
        assert!(key.is_generation(generation));
        assert!(!key.is_generation(generation.wrapping_add(1)) && !key.is_generation(generation.wrapping_sub(1)));
        assert_eq!(Kind::of(pack(Kind::Receive, key)), Some(Kind::Receive));
    }
    assert_eq!(Kind::of(0), None);
}

#[test]
fn a_completion_for_an_earlier_owner_of_a_place_is_recognised() {
    let mut desk = Desk::new();
    let (ours, mut peer) = pair();
    let (old, new) = (Key { index: 5, generation: 0x200_0001 }, Key { index: 5, generation: 0x200_0002 });
    desk.ring.receive(old, ours.as_raw_fd());
    desk.assert_quiet();
    // The old owner goes without waiting for its last completion; the place is used again.
    desk.ring.cancel_receive(old);
    desk.ring.receive(new, ours.as_raw_fd());
    let (key, outcome, armed) = desk.received();
    assert!(matches!(outcome, Received::Cancelled) && !armed, "{outcome:?}");
    assert!(key.is_generation(old.generation) && !key.is_generation(new.generation));
    peer.write_all(b"for the new one").unwrap();
    let (key, outcome, _) = desk.received();
    assert!(key.is_generation(new.generation) && !key.is_generation(old.generation));
    let Received::Data(lent) = outcome else { panic!("{outcome:?}") };
    assert_eq!(desk.take(lent), b"for the new one");
}

#[test]
fn one_accept_gives_many_connections_until_it_is_cancelled() {
    let mut desk = Desk::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    desk.ring.accept(ONE, listener.as_raw_fd());
    for n in 0..5u8 {
        let mut peer = TcpStream::connect(address).unwrap();
        let Completion::Accepted { key: ONE, result: Ok(socket), armed: true } = desk.next() else {
            panic!("connection {n} was not accepted")
        };
        let mut ours = TcpStream::from(socket);
        ours.write_all(&[n]).unwrap();
        let mut byte = [0];
        peer.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [n]);
    }
    desk.ring.cancel_accept(ONE);
    let Completion::Accepted { key: ONE, result: Err(error), armed: false } = desk.next() else {
        panic!("the accept did not end")
    };
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    let _late = TcpStream::connect(address).unwrap();
    desk.assert_quiet();
}

#[test]
fn bytes_arrive_whole_and_in_order_and_then_the_end() {
    let mut desk = Desk::new();
    let (ours, mut peer) = pair();
    let want = pattern(3 * MIB + 17);
    let writer = thread::spawn(move || peer.write_all(&pattern(3 * MIB + 17)).unwrap());
    desk.ring.receive(ONE, ours.as_raw_fd());
    let mut got = Vec::new();
    desk.receive_until(ONE, &ours, &mut got, want.len());
    writer.join().unwrap();
    assert_same(&got, &want);
    let (key, outcome, armed) = desk.received();
    assert!(key == ONE && matches!(outcome, Received::End) && !armed, "{outcome:?}");
    desk.assert_quiet();
}

/// Two peers send more than all receive buffers hold, and no buffer is given back:
/// both receives end starved. What the kernel kept comes after the buffers are back.
#[test]
fn without_free_buffers_a_receive_starves_and_later_loses_nothing() {
    const LEN: usize = 2 * BUFFERS_MAX as usize * BUFFER_BYTES;
    let mut desk = Desk::new();
    let ends = [pair(), pair()];
    let mut writers = Vec::new();
    for (_, peer) in &ends {
        let mut peer = peer.try_clone().unwrap();
        writers.push(thread::spawn(move || peer.write_all(&pattern(LEN)).unwrap()));
    }
    let keys = [ONE, TWO];
    keys.iter().zip(&ends).for_each(|(&key, (ours, _))| desk.ring.receive(key, ours.as_raw_fd()));
    let (mut held, mut starved, mut growths) = (Vec::new(), Vec::new(), Vec::new());
    assert_eq!(desk.ring.receive_bytes(), RECEIVE_BYTES_MIN);
    // Both have sent more than there is room for: one look finds both starved.
    sleep(QUIET);
    while starved.len() < 2 {
        match desk.received() {
            (key, Received::Data(lent), armed) => {
                assert!(armed, "a receive with buffers left goes on");
                held.push((key, lent));
            }
            (key, Received::Starved, armed) if held.len() < usize::from(BUFFERS_MAX) => {
                assert!(!armed && desk.ring.receive_bytes() > held.len() as u64 * BUFFER_BYTES as u64);
                growths.push(desk.ring.receive_bytes());
                desk.ring.receive(key, ends[key.index as usize - 1].0.as_raw_fd());
            }
            (key, Received::Starved, armed) => {
                assert!(!armed && !starved.contains(&key));
                starved.push(key);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(held.len(), usize::from(BUFFERS_MAX), "starved means that every buffer was lent out");
    assert!(growths.is_sorted() && growths.first() == Some(&(2 * RECEIVE_BYTES_MIN)), "{growths:?}");
    desk.assert_quiet();
    let mut got = [Vec::new(), Vec::new()];
    for (key, lent) in held {
        let bytes = desk.take(lent);
        got[key.index as usize - 1].extend(bytes);
    }
    // One after the other, so that each finds the buffers that the other leaves.
    for ((key, (ours, _)), got) in keys.into_iter().zip(&ends).zip(&mut got) {
        desk.ring.receive(key, ours.as_raw_fd());
        desk.receive_until(key, ours, got, LEN);
        desk.ring.cancel_receive(key);
        assert!(matches!(desk.received(), (_, Received::Cancelled, false)));
        assert_same(got, &pattern(LEN));
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

/// The kernel takes a large buffer in many pieces. The owner hears of one send.
#[test]
fn a_slow_reader_gets_a_large_buffer_whole_and_its_sender_hears_once() {
    const LEN: usize = 32 * MIB;
    let mut desk = Desk::new();
    let (ours, mut peer) = pair_with(|peer| peer.set_recv_buffer_size(16 << 10).unwrap());
    SockRef::from(&ours).set_send_buffer_size(64 << 10).unwrap();
    let reader = thread::spawn(move || {
        let (mut got, mut chunk) = (Vec::with_capacity(LEN), vec![0; 256 << 10]);
        while got.len() < LEN {
            let n = peer.read(&mut chunk).unwrap();
            assert_ne!(n, 0);
            got.extend_from_slice(&chunk[..n]);
            if got.len() % 7 == 0 {
                sleep(Duration::from_micros(50));
            }
        }
        (got, peer)
    });
    let buffer = pattern(LEN);
    let address = buffer.as_ptr();
    desk.ring.send(ONE, ours.as_raw_fd(), buffer);
    assert_eq!(desk.ring.sending_bytes(), LEN);
    let (key, buffer, result) = desk.sent();
    assert_eq!((key, buffer.len(), buffer.as_ptr()), (ONE, LEN, address), "the same buffer comes back");
    result.unwrap();
    let (got, _peer) = reader.join().unwrap();
    assert_same(&got, &buffer);
    assert_eq!(desk.ring.sending_bytes(), 0);
    desk.assert_quiet();
}

#[test]
fn a_reset_ends_the_receive() {
    let mut desk = Desk::new();
    let (ours, mut peer) = pair();
    desk.ring.receive(ONE, ours.as_raw_fd());
    peer.write_all(b"last words").unwrap();
    let (_, outcome, _) = desk.received();
    let Received::Data(lent) = outcome else { panic!("{outcome:?}") };
    assert_eq!(desk.take(lent), b"last words");
    reset(peer);
    let (key, outcome, armed) = desk.received();
    let Received::Failed(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!((key, error.kind(), armed), (ONE, ErrorKind::ConnectionReset, false));
    desk.assert_quiet();
}

#[test]
fn a_reset_ends_a_send_and_its_buffer_comes_back() {
    let mut desk = Desk::new();
    let (ours, peer) = pair();
    desk.ring.send(ONE, ours.as_raw_fd(), pattern(32 * MIB));
    desk.assert_quiet();
    reset(peer);
    let (key, buffer, result) = desk.sent();
    assert_eq!((key, buffer.len(), desk.ring.sending_bytes()), (ONE, 32 * MIB, 0));
    let error = result.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    // A further send fails at once: an error, not a signal.
    desk.ring.send(ONE, ours.as_raw_fd(), vec![1]);
    let (_, _, result) = desk.sent();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
    desk.assert_quiet();
}

#[test]
fn a_peer_that_has_ended_its_side_still_gets_what_we_send() {
    let mut desk = Desk::new();
    let (ours, mut peer) = pair();
    desk.ring.receive(ONE, ours.as_raw_fd());
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(desk.received(), (ONE, Received::End, false)));
    desk.ring.send(ONE, ours.as_raw_fd(), b"still here".to_vec());
    desk.sent().2.unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    desk.assert_quiet();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"still here");
}

#[test]
fn a_send_to_a_peer_that_never_reads_waits_until_it_is_shut_down() {
    let mut desk = Desk::new();
    let (ours, _peer) = pair();
    desk.ring.receive(ONE, ours.as_raw_fd());
    desk.ring.send(ONE, ours.as_raw_fd(), pattern(32 * MIB));
    desk.assert_quiet();
    assert_eq!(desk.ring.sending_bytes(), 32 * MIB);
    ours.shutdown(Shutdown::Both).unwrap();
    let (mut sent, mut ended) = (0, 0);
    for _ in 0..2 {
        match desk.next() {
            Completion::Sent { key: ONE, buffer, result: Err(_) } if buffer.len() == 32 * MIB => sent += 1,
            Completion::Received { key: ONE, outcome: Received::End, armed: false } => ended += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((sent, ended), (1, 1));
    desk.assert_quiet();
}

/// A peer sends without a pause while its receive is cancelled and armed again at odd moments.
#[test]
fn a_cancelled_receive_ends_once_and_loses_nothing() {
    const LEN: usize = 16 * MIB;
    let mut desk = Desk::new();
    let (ours, mut peer) = pair();
    let writer = thread::spawn(move || {
        let bytes = pattern(LEN);
        bytes.chunks(5_003).for_each(|chunk| peer.write_all(chunk).unwrap());
        peer
    });
    let (mut got, mut rng, mut cancelled) = (Vec::new(), Rng::new(7), 0);
    while got.len() < LEN {
        desk.ring.receive(ONE, ours.as_raw_fd());
        for _ in 0..rng.below(4) {
            desk.look();
        }
        desk.ring.cancel_receive(ONE);
        loop {
            let (key, outcome, armed) = desk.received();
            assert_eq!(key, ONE);
            match outcome {
                Received::Data(lent) => got.extend(desk.take(lent)),
                Received::Cancelled => cancelled += 1,
                Received::Starved => {}
                other => panic!("{other:?}"),
            }
            if !armed {
                break;
            }
        }
        desk.ring.submit().unwrap();
        desk.look();
        let more = desk.ring.next_news();
        assert!(more.is_none(), "after the last completion comes nothing: {more:?}");
    }
    let _peer = writer.join().unwrap();
    assert_same(&got, &pattern(LEN));
    assert!(cancelled > 0);
}

#[test]
fn what_comes_next_can_be_looked_at_before_it_is_handed_out() {
    let mut ring = Ring::new().unwrap();
    let (ours, mut peer) = pair();
    let (other_ours, mut other_peer) = pair();
    let other = Key { index: 2, ..ONE };
    ring.receive(ONE, ours.as_raw_fd());
    ring.receive(other, other_ours.as_raw_fd());
    ring.submit().unwrap();
    assert_eq!(ring.upcoming().count(), 0);
    peer.write_all(b"one").unwrap();
    other_peer.write_all(b"another").unwrap();
    ring.submit_and_wait(PATIENCE, Some(Gather { events: 2, time: PATIENCE })).unwrap();
    assert!(ring.take(), "both are there");
    let mut foreseen: Vec<Vec<u8>> = ring.upcoming().map(<[u8]>::to_vec).collect();
    assert_eq!(foreseen.len(), 2);
    while let Some(first) = (!foreseen.is_empty()).then(|| foreseen.remove(0)) {
        assert!(ring.has_news() && !ring.take(), "nothing more is taken before all is handed out");
        let Some(Completion::Received { key, outcome: Received::Data(lent), .. }) = ring.next_news() else {
            panic!("bytes were foreseen");
        };
        assert_eq!(ring.bytes(&lent), first);
        assert_eq!(first, if key == ONE { &b"one"[..] } else { b"another" });
        ring.recycle(lent);
        assert_eq!(ring.upcoming().map(<[u8]>::to_vec).collect::<Vec<_>>(), foreseen);
    }
    assert!(!ring.take() && ring.next_news().is_none());
}

#[test]
fn another_ring_ends_a_wait() {
    let (tell, told) = channel();
    let waiter = thread::spawn(move || {
        let mut ring = Ring::new().unwrap();
        tell.send(ring.descriptor()).unwrap();
        let deadline = Deadline::after(PATIENCE);
        ring.submit_and_wait(PATIENCE, None).unwrap();
        let mut news = Vec::new();
        ring.reap(&mut news);
        assert!(matches!(news[..], [Completion::Woken]), "{news:?}");
        deadline.left()
    });
    let mut ring = Ring::new().unwrap();
    let descriptor = told.recv().unwrap();
    sleep(QUIET);
    ring.wake(descriptor);
    ring.submit().unwrap();
    assert!(waiter.join().unwrap() > PATIENCE / 2, "it was woken, not timed out");
}

#[test]
fn a_wait_without_news_ends_by_its_time() {
    let mut ring = Ring::new().unwrap();
    let (_ours, _peer) = pair();
    ring.receive(ONE, _ours.as_raw_fd());
    for gather in [None, Some(Gather { events: 4, time: Duration::from_millis(1) })] {
        let deadline = Deadline::after(PATIENCE);
        ring.submit_and_wait(Duration::from_millis(20), gather).unwrap();
        let took = PATIENCE - deadline.left();
        assert!(took >= Duration::from_millis(20) && took < PATIENCE / 2, "{took:?}");
        assert!(!ring.has_news());
    }
}

#[test]
fn a_gathering_wait_with_too_few_events_ends_by_the_gathering_time() {
    let mut ring = Ring::new().unwrap();
    let (ours, mut peer) = pair();
    ring.receive(ONE, ours.as_raw_fd());
    ring.submit().unwrap();
    peer.write_all(b"one event").unwrap();
    let deadline = Deadline::after(PATIENCE);
    ring.submit_and_wait(PATIENCE, Some(Gather { events: 4, time: Duration::from_millis(30) })).unwrap();
    assert!(deadline.left() > PATIENCE / 2, "the wait went on after the time to gather");
    let mut news = Vec::new();
    ring.reap(&mut news);
    assert!(matches!(news[..], [Completion::Received { outcome: Received::Data(_), .. }]), "{news:?}");
}

#[test]
fn the_eventfd_is_signalled_only_while_asked_for() {
    let mut desk = Desk::new();
    let (ours, mut peer) = pair();
    let signal = eventfd().unwrap();
    let signalled = || {
        let mut counter = [0; 8];
        match (&signal).read(&mut counter) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    };
    desk.ring.register_eventfd(signal.as_raw_fd()).unwrap();
    desk.ring.notify(false);
    desk.ring.receive(ONE, ours.as_raw_fd());
    desk.ring.submit().unwrap();
    for on in [false, true, false, true] {
        desk.ring.notify(on);
        peer.write_all(b"x").unwrap();
        sleep(QUIET);
        assert!(desk.ring.has_news(), "the news is seen without a system call");
        assert_eq!(signalled(), on, "while notify is {on}");
        desk.ring.notify(false);
        let (_, outcome, _) = desk.received();
        let Received::Data(lent) = outcome else { panic!("{outcome:?}") };
        desk.take(lent);
        drain(&signal);
    }
}

#[test]
fn a_watched_descriptor_says_when_it_can_be_read() {
    let mut desk = Desk::new();
    let (ours, mut peer) = pair();
    desk.ring.watch(ours.as_raw_fd());
    desk.assert_quiet();
    for _ in 0..3 {
        peer.write_all(b"x").unwrap();
        assert!(matches!(desk.next(), Completion::Readable { armed: true }));
        (&ours).read_exact(&mut [0]).unwrap();
        desk.assert_quiet();
    }
}

/// More requests than the submission queue holds, more completions than the completion queue does.
#[test]
fn queues_that_overflow_lose_nothing() {
    const COUNT: u32 = 3 * COMPLETIONS_MAX;
    let mut desk = Desk::new();
    let (ours, mut peer) = pair();
    for index in 0..COUNT {
        desk.ring.send(Key { index, generation: 3 }, ours.as_raw_fd(), vec![index as u8]);
    }
    for _ in 0..COUNT {
        let (key, buffer, result) = desk.sent();
        assert_eq!((key.generation, &buffer[..]), (3, &[key.index as u8][..]));
        result.unwrap();
    }
    let mut got = vec![0; COUNT as usize];
    peer.read_exact(&mut got).unwrap();
    assert!(got.iter().enumerate().all(|(i, &byte)| byte == i as u8), "in the order in which they were queued");
    desk.assert_quiet();
}

/// Requests of every kind are under way when the ring goes. Their memory is freed
/// and used again at once, and no peer may see what is written there later.
#[test]
fn a_ring_may_be_dropped_in_the_middle_of_everything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for round in 0..200 {
        let mut ring = Ring::new().unwrap_or_else(|error| panic!("ring {round}: {error}"));
        let (ours, mut peer) = pair();
        let (silent, _silent_peer) = pair();
        ring.accept(ONE, listener.as_raw_fd());
        ring.receive(ONE, ours.as_raw_fd());
        ring.receive(TWO, silent.as_raw_fd());
        ring.watch(silent.as_raw_fd());
        ring.send(ONE, ours.as_raw_fd(), vec![7; 8 * MIB]);
        peer.write_all(&[1; 100_000]).unwrap();
        match round % 4 {
            // Not even handed over.
            0 => {}
            1 => ring.submit().unwrap(),
            2 => ring.submit_and_wait(Duration::from_micros(200), None).unwrap(),
            _ => {
                ring.submit_and_wait(Duration::from_micros(200), None).unwrap();
                let mut news = Vec::new();
                ring.reap(&mut news);
                ring.cancel_receive(ONE);
                ring.submit().unwrap();
            }
        }
        drop(ring);
        let reused = vec![9u8; 8 * MIB];
        peer.write_all(&[2; 1000]).unwrap();
        SockRef::from(&ours).shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert!(got.iter().all(|&byte| byte == 7), "round {round}: memory was sent after it was freed");
        assert!(reused.iter().all(|&byte| byte == 9), "round {round}: memory was written after it was freed");
    }
}

#[test]
fn connects_complete_with_a_connection_or_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut desk = Desk::new();
    let connected = |desk: &mut Desk, key: Key, to: std::net::SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        desk.ring.connect(key, socket.as_raw_fd(), to.into());
        match desk.next() {
            Completion::Connected { key: of, result } => {
                assert_eq!(of, key);
                result.map(|()| socket)
            }
            other => panic!("not a connect: {other:?}"),
        }
    };
    for key in [ONE, TWO] {
        let ours = TcpStream::from(connected(&mut desk, key, address).expect("somebody listens"));
        let (mut theirs, _) = listener.accept().unwrap();
        desk.ring.send(key, ours.as_raw_fd(), pattern(100));
        desk.sent().2.unwrap();
        let mut bytes = vec![0; 100];
        theirs.read_exact(&mut bytes).unwrap();
        assert_same(&bytes, &pattern(100));
    }
    drop(listener);
    let refused = connected(&mut desk, ONE, address).expect_err("nobody listens any more");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    desk.assert_quiet();
}
