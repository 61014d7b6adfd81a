//! Measurements made up for tests: the latencies of a queue that fills as the load
//! nears what a server can do, drawn from a seeded generator.

use std::time::Duration;

use ringfence::base::rng::Rng;

use crate::outcome::{
    Comparison, Contender, Fault, Interval, Kind, Objective, Outcome, Pace, ProcessCost, Report, Run, Sample, Search,
    Step, record,
};

/// The rate at which the made-up server has no time left.
const CAPACITY: f64 = 330_000.0;
/// Requests recorded in each interval: a part of those that are counted.
const DRAWN: u64 = 4_000;

/// A made-up server.
#[derive(Clone, Copy)]
struct Server {
    /// Nanoseconds that most requests take.
    base: f64,
    /// Requests per second that it can do.
    capacity: f64,
    /// Nanoseconds of CPU per request.
    cpu: f64,
    /// Resident bytes.
    rss: u64,
}

const RINGFENCE: Server = Server { base: 90_000.0, capacity: CAPACITY, cpu: 4_860.0, rss: 1_288_490_188 };

/// A number from 0 to 1.
fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A draw from a normal distribution, near enough.
fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| unit(rng)).sum::<f64>() - 6.0
}

/// A draw from an exponential distribution of mean 1.
fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - unit(rng)).ln()
}

fn serve(sample: &mut Sample, kind: Kind, server: Server, busy: f64, open: bool, rng: &mut Rng) {
    let wait = if unit(rng) < busy { exponential(rng) * 36_000.0 / (1.02 - busy.min(1.0)) } else { 0.0 };
    let pause = if unit(rng) < 0.002 { exponential(rng) * 90_000.0 } else { 0.0 };
    let service = server.base * (0.22 * normal(rng)).exp() + pause;
    let slip = 1_500.0 + exponential(rng) * 2_500.0;
    record(&mut sample.by_kind[kind as usize], (service + wait + slip) as u64);
    record(&mut sample.service, (service + wait * 0.8) as u64);
    if open {
        record(&mut sample.slip, slip as u64);
    }
}

fn second(server: Server, rate: f64, open: bool, rng: &mut Rng) -> Sample {
    let mut sample = Sample { time: Duration::from_secs(1), ..Sample::empty() };
    let reached = rate.min(server.capacity) * (1.0 + 0.004 * normal(rng));
    for _ in 0..DRAWN {
        let kind = if rng.below(10) == 0 { Kind::Set } else { Kind::Get };
        serve(&mut sample, kind, server, rate / server.capacity, open, rng);
    }
    let answered = reached as u64;
    let read = answered * 9 / 10;
    let hits = (read as f64 * (0.951 + 0.001 * normal(rng))) as u64;
    let counts = &mut sample.counts;
    (counts.sent, counts.answered, counts.replies) = (answered + 3, answered, answered);
    (counts.hits, counts.misses, counts.hits_expected) = (hits, read - hits, read * 953 / 1000);
    (counts.bytes_sent, counts.bytes_received) = (answered * 118, answered * 1_060);
    sample
}

fn at_pace(pace: Pace, server: Server, rate: f64, seconds: u64, rng: &mut Rng) -> Run {
    let open = matches!(pace, Pace::Open { .. });
    let mut total = Sample::empty();
    let mut intervals = Vec::new();
    for second_of in 0..seconds {
        let measured = second_of >= 3;
        let ramp = if measured { 1.0 } else { (second_of + 1) as f64 / 4.0 };
        let mut sample = second(server, rate * ramp, open, rng);
        if second_of == 0 {
            sample.counts.connects = 64;
            (0..64).for_each(|_| record(&mut sample.connect, (180_000.0 * (1.0 + exponential(rng))) as u64));
        }
        if measured {
            total.merge(&sample);
            total.time += sample.time;
        }
        intervals.push(Interval { at: Duration::from_secs(second_of), measured, sample });
    }
    total.connect.add(&intervals[0].sample.connect).expect("all have the same bounds");
    let answered = total.counts.answered as f64;
    let cpu = |per_request: f64| Duration::from_secs_f64(answered * per_request * 1e-9);
    let rss = server.rss + rng.below(20 << 20);
    Run {
        pace,
        total,
        intervals,
        generator: ProcessCost { pid: 4711, cpu: cpu(3_210.0), rss: 96 << 20, rss_peak: 104 << 20 },
        server: Some(ProcessCost {
            pid: 4712,
            cpu: cpu(server.cpu * (1.0 + 0.01 * normal(rng))),
            rss,
            rss_peak: rss + (48 << 20),
        }),
        examples: Vec::new(),
        faults: Vec::new(),
    }
}

/// A valid open run at `rate`.
pub fn run(seed: u64, rate: f64) -> Run {
    at_pace(Pace::Open { rate, poisson: true }, RINGFENCE, rate, 12, &mut Rng::new(seed))
}

/// A valid closed run.
pub fn closed(seed: u64) -> Run {
    at_pace(Pace::Closed, RINGFENCE, CAPACITY * 0.9, 12, &mut Rng::new(seed))
}

/// A run in which nothing happened.
pub fn nothing(pace: Pace) -> Run {
    let generator = ProcessCost { pid: 1, cpu: Duration::ZERO, rss: 0, rss_peak: 0 };
    let interval = Interval { at: Duration::ZERO, measured: true, sample: Sample::empty() };
    Run {
        pace,
        total: Sample::empty(),
        intervals: vec![interval],
        generator,
        server: None,
        examples: Vec::new(),
        faults: Vec::new(),
    }
}

/// The one objective of the reports below.
pub fn objective() -> Objective {
    Objective { percentile: 99.9, limit: Duration::from_millis(1) }
}

/// A report of `outcome`.
pub fn report(outcome: Outcome) -> Report {
    let lines = |lines: &[(&str, &str)]| lines.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    Report {
        command: "ringfence-bench run --target 127.0.0.1:6379 --connections 64 --rate 200k --slo p99.9=1ms".into(),
        began: 1_776_168_005,
        setup: lines(&[
            ("target", "127.0.0.1:6379"),
            ("protocol", "RESP2"),
            ("connections", "64 on 2 threads, pipeline 1"),
            ("workload", "1,000,000 keys, Zipf 0.99; 90 % get, 10 % set"),
            ("values", "64 B to 4 KiB, 1 KiB on average, checked"),
            ("time", "3 s warm-up, 9 s measured"),
            ("seed", "42"),
        ]),
        host: lines(&[
            ("host", "bench-01"),
            ("kernel", "Linux 6.12.9"),
            ("CPU", "8 x Example 3.2 GHz"),
            ("generator on", "CPUs 4-7"),
        ]),
        objectives: vec![objective()],
        outcome,
    }
}

/// A run that is valid and meets its objective.
pub fn run_report() -> Report {
    report(Outcome::Run(Box::new(run(42, 200_000.0))))
}

/// A run of the closed loop, without an objective.
pub fn closed_report() -> Report {
    Report { objectives: Vec::new(), ..report(Outcome::Run(Box::new(closed(7)))) }
}

/// A run with every kind of fault.
pub fn faulty_report() -> Report {
    let mut run = run(13, 322_000.0);
    (run.total.counts.errors, run.total.counts.lost, run.total.counts.violations) = (17, 3, 2);
    run.intervals[8].sample.counts.errors = 17;
    run.examples = vec![
        "get k:000017: the value is of k:000071 <script>alert(1)</script>".into(),
        "set k:000302: -OOM command not allowed & \"refused\"\x1b[31m".into(),
    ];
    run.faults = vec![
        Fault::Late("The generator was late by 1.8 ms at p99: give it more threads or a lower rate.".into()),
        Fault::Wrong("2 replies were wrong and 3 requests were never answered.".into()),
        Fault::Errors("The server answered 17 errors.".into()),
        Fault::Objective("p99.9 was 1.73 ms, above its limit of 1 ms.".into()),
    ];
    report(Outcome::Run(Box::new(run)))
}

/// A search that found 240,000 requests/s.
pub fn search_report() -> Report {
    let limit = objective().limit.as_nanos() as u64;
    let rates = [20e3, 40e3, 80e3, 160e3, 320e3, 240e3, 280e3, 260e3, 250e3, 240e3];
    let step = |(index, rate): (usize, f64)| {
        let mut run = run(100 + index as u64, rate);
        let found = run.total.latency().value_at_percentile(99.9);
        let met = found <= limit;
        if !met {
            run.faults.push(Fault::Objective("p99.9 was above its limit of 1 ms.".into()));
        }
        if rate == 320e3 {
            run.faults.push(Fault::Late("The generator was late by 0.6 ms at p99.".into()));
        }
        Step { rate, met, run }
    };
    report(Outcome::Search(Search {
        objectives: vec![objective()],
        steps: rates.into_iter().enumerate().map(step).collect(),
        best: Some(240e3),
        remark: None,
    }))
}

/// Three servers over five rounds in a closed loop.
pub fn comparison_report() -> Report {
    let servers = [
        ("ringfence", "ringfence --port 6401 --cores 2", RINGFENCE),
        (
            "redis",
            "redis-server --port 6402",
            Server { base: 120e3, capacity: 171e3, cpu: 7_350.0, rss: 1_610_612_736 },
        ),
        (
            "memcached",
            "memcached -p 6403 -t 2",
            Server { base: 104e3, capacity: 288e3, cpu: 5_920.0, rss: 1_420_000_000 },
        ),
    ];
    let contenders = servers.iter().enumerate().map(|(index, (name, command, server))| {
        let round = |round: u64| {
            let mut rng = Rng::new(1_000 * index as u64 + round);
            let rate = server.capacity * (0.93 + 0.02 * normal(&mut rng));
            at_pace(Pace::Closed, *server, rate, 5, &mut rng)
        };
        Contender { name: (*name).into(), command: (*command).into(), rounds: (0..5).map(round).collect() }
    });
    let outcome = Outcome::Comparison(Comparison { contenders: contenders.collect() });
    Report { objectives: Vec::new(), ..report(outcome) }
}

/// One of each, and of each one in which nothing happened.
pub fn all() -> Vec<Report> {
    let open = Pace::Open { rate: 1_000.0, poisson: false };
    let search = |steps| Search { objectives: vec![objective()], steps, best: None, remark: Some("Ended.".into()) };
    let contender = |rounds| Contender { name: "none".into(), command: String::new(), rounds };
    let empty = [
        Outcome::Run(Box::new(nothing(open))),
        Outcome::Run(Box::new(Run { intervals: Vec::new(), ..nothing(Pace::Closed) })),
        Outcome::Search(search(Vec::new())),
        Outcome::Search(search(vec![Step { rate: 0.0, met: false, run: nothing(open) }])),
        Outcome::Comparison(Comparison { contenders: Vec::new() }),
        Outcome::Comparison(Comparison {
            contenders: vec![contender(Vec::new()), contender(vec![nothing(Pace::Closed)])],
        }),
    ];
    let full = [run_report(), closed_report(), faulty_report(), search_report(), comparison_report()];
    full.into_iter().chain(empty.map(report)).collect()
}
