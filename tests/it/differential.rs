//! Ringfence against redis-server: the same bytes to both, reply for reply.
//!
//! A failure prints the seed; `DIFF_SEED=<seed> cargo test --test it diff` plays it again.

use std::thread;
use std::time::Duration;

use ringfence::base::rng::Rng;

use crate::generator::{Compare, Generator, Step};
use crate::harness::{Client, Missing, Redis, Server};
use crate::resp::{Reply, encode, show};

/// Connections played for one seed, half of them in RESP3.
const SESSIONS: usize = 24;
/// Pipelines of one connection.
const PIPELINES: u64 = 12;
/// Commands in the longest pipeline.
const PIPELINE_COMMANDS_MAX: u64 = 48;
/// How far apart two servers may say that a deadline is.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Both servers, and what is being played, for the message of a failure.
struct Match {
    redis: Redis,
    ringfence: Server,
    seed: u64,
    session: usize,
    index: usize,
}

/// Sends in random pieces: where a segment ends must not matter.
fn send_split(client: &mut Client, bytes: &[u8], rng: &mut Rng) {
    let mut left = bytes;
    while !left.is_empty() {
        let piece = match rng.below(4) {
            0 => 1 + rng.below(8) as usize,
            1 => 1 + rng.below(400) as usize,
            _ => left.len(),
        };
        let (now, later) = left.split_at(piece.min(left.len()));
        client.send(now);
        left = later;
        if rng.below(8) == 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Whether two replies say the same.
fn agree(compare: Compare, expected: &(Reply, Vec<u8>), actual: &(Reply, Vec<u8>)) -> bool {
    let close = |tolerance: u128| match (&expected.0, &actual.0) {
        (Reply::Integer(a), Reply::Integer(b)) if *a > 0 && *b > 0 => u128::from(a.abs_diff(*b)) <= tolerance,
        _ => expected.1 == actual.1,
    };
    match compare {
        Compare::Seconds => close(u128::from(CLOCK_TOLERANCE.as_secs())),
        Compare::Millis => close(CLOCK_TOLERANCE.as_millis()),
        Compare::Marker => expected.1[0] == actual.1[0],
        Compare::Hello if expected.0.is_error() => expected.1 == actual.1,
        Compare::Hello => {
            expected.1[0] == actual.1[0]
                && !actual.0.is_error()
                && expected.0.get("proto") == actual.0.get("proto")
                && expected.0.pairs().iter().all(|(name, _)| actual.0.get(&show(name.text())).is_some())
        }
        Compare::Exact | Compare::Nothing | Compare::End => expected.1 == actual.1,
    }
}

fn describe(reply: &Result<(Reply, Vec<u8>), Missing>) -> String {
    match reply {
        Ok((_, raw)) => show(raw),
        Err(Missing::Closed) => "<connection closed>".to_owned(),
        Err(Missing::Silent) => "<no reply>".to_owned(),
    }
}

impl Match {
    fn new(seed: u64) -> Self {
        Self { redis: Redis::start(), ringfence: Server::start(), seed, session: 0, index: 0 }
    }

    fn mismatch(&self, step: &Step, expected: &str, actual: &str) -> ! {
        panic!(
            "seed {}, connection {}, command {}: {}\n  redis-server: {expected}\n  ringfence:    {actual}\n",
            self.seed,
            self.session,
            self.index,
            step.show(),
        );
    }

    fn compare_next(&self, step: &Step, redis: &mut Client, ringfence: &mut Client) {
        if step.compare == Compare::Nothing {
            return;
        }
        let (expected, actual) = (redis.next_reply(), ringfence.next_reply());
        let same = match (&expected, &actual) {
            (Ok(expected), Ok(actual)) => agree(step.compare, expected, actual),
            // The generator only makes commands that redis answers.
            _ => false,
        };
        if !same {
            self.mismatch(step, &describe(&expected), &describe(&actual));
        }
    }

    fn pipeline(&mut self, steps: &[Step], rng: &mut Rng, redis: &mut Client, ringfence: &mut Client) {
        let bytes: Vec<u8> = steps.iter().flat_map(|s| s.bytes.iter().copied()).collect();
        send_split(redis, &bytes, rng);
        send_split(ringfence, &bytes, rng);
        for step in steps {
            self.compare_next(step, redis, ringfence);
            self.index += 1;
        }
    }

    fn ending(&mut self, step: &Step, rng: &mut Rng, redis: &mut Client, ringfence: &mut Client) {
        send_split(redis, &step.bytes, rng);
        send_split(ringfence, &step.bytes, rng);
        let (expected, actual) = (redis.rest(), ringfence.rest());
        assert_eq!(expected.1, Missing::Closed, "redis-server must close after {}", step.show());
        if expected != actual {
            let say = |(bytes, end): &(Vec<u8>, Missing)| format!("{} then {end:?}", show(bytes));
            self.mismatch(step, &say(&expected), &say(&actual));
        }
    }

    fn play(&mut self) {
        let mut generator = Generator::new(self.seed);
        for session in 0..SESSIONS {
            (self.session, self.index) = (session, 0);
            let (mut redis, mut ringfence) = (self.redis.client(), self.ringfence.client());
            if session % 2 == 1 {
                let hello = Step { bytes: encode(&["HELLO", "3"]), compare: Compare::Hello };
                let mut rng = Rng::new(self.seed);
                self.pipeline(&[hello], &mut rng, &mut redis, &mut ringfence);
            }
            for _ in 0..PIPELINES {
                let commands = 1 + generator.rng().below(PIPELINE_COMMANDS_MAX);
                let steps: Vec<Step> = (0..commands).flat_map(|_| generator.next()).collect();
                let mut splits = Rng::new(generator.rng().next_u64());
                self.pipeline(&steps, &mut splits, &mut redis, &mut ringfence);
            }
            let last = generator.last();
            let mut splits = Rng::new(generator.rng().next_u64());
            self.ending(&last, &mut splits, &mut redis, &mut ringfence);
        }
    }
}

#[test]
fn diff_seed_1() {
    Match::new(1).play();
}

#[test]
fn diff_seed_2() {
    Match::new(2).play();
}

#[test]
fn diff_seed_3() {
    Match::new(3).play();
}

#[test]
fn diff_seed_20_000() {
    Match::new(20_000).play();
}

/// A seed of the caller's choice, or one that changes with the day's clock.
#[test]
fn diff_seed_from_the_environment() {
    let seed = match std::env::var("DIFF_SEED") {
        Ok(text) => text.parse().expect("DIFF_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs(),
    };
    println!("DIFF_SEED={seed}");
    Match::new(seed).play();
}

/// Every way to end a connection, once for certain, each alone on a fresh connection.
#[test]
fn diff_every_ending() {
    let mut game = Match::new(7);
    let mut generator = Generator::new(7);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for _ in 0..400 {
        let last = generator.last();
        if seen.contains(&last.bytes) {
            continue;
        }
        let (mut redis, mut ringfence) = (game.redis.client(), game.ringfence.client());
        game.ending(&last, &mut Rng::new(7), &mut redis, &mut ringfence);
        game.session += 1;
        seen.push(last.bytes);
    }
    assert!(seen.len() >= 29, "only {} endings were played", seen.len());
}

/// What stands before a broken request in one pipeline is answered, what stands behind is not.
#[test]
fn diff_a_broken_request_in_the_middle_of_a_pipeline() {
    let mut game = Match::new(8);
    for broken in ["*1\r\n$-5\r\n", "*x\r\n", "SET a \"b\r\n", "*1\r\n$4\r\nQUIT\r\n", "*1\r\nPING\r\n"] {
        let (mut redis, mut ringfence) = (game.redis.client(), game.ringfence.client());
        let bytes = format!("*1\r\n$4\r\nPING\r\nPING\r\n{broken}PING\r\n").into_bytes();
        let step = Step { bytes, compare: Compare::End };
        // In one piece: bytes behind the break that arrive later may meet a closed port.
        redis.send(&step.bytes);
        ringfence.send(&step.bytes);
        let nothing = Step { bytes: Vec::new(), compare: Compare::End };
        game.ending(&nothing, &mut Rng::new(8), &mut redis, &mut ringfence);
        game.session += 1;
    }
}

/// Largest argument counts: one long command, and a count that is only announced.
#[test]
fn diff_many_arguments() {
    let mut game = Match::new(9);
    let (mut redis, mut ringfence) = (game.redis.client(), game.ringfence.client());
    let keys = vec![b"a".as_slice(); 100_000];
    let many = Step { bytes: encode(&[&[b"EXISTS".as_slice()], keys.as_slice()].concat()), compare: Compare::Exact };
    let ping = Step { bytes: encode(&["PING"]), compare: Compare::Exact };
    let set = Step { bytes: encode(&["SET", "a", "1"]), compare: Compare::Exact };
    game.pipeline(&[set, many, ping], &mut Rng::new(9), &mut redis, &mut ringfence);
    let announced = Step { bytes: b"*1048576\r\n$4\r\nPING\r\n".to_vec(), compare: Compare::End };
    for client in [&mut redis, &mut ringfence] {
        client.set_patience(Duration::from_millis(300));
        client.send(&announced.bytes);
        assert_eq!(client.rest(), (Vec::new(), Missing::Silent), "an unfinished command is waited for");
    }
}
