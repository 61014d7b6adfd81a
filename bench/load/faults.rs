//! What speaks against a run: the rules by which its figures are trusted or not.

use std::time::Duration;

use crate::fleet::Offer;
use crate::outcome::{Fault, Latencies, Objective, Pace, Run};
use crate::report::format;

/// The generator may be so late at p99, whatever the latencies are.
const SLIP_FREE: Duration = Duration::from_micros(500);
/// Beyond that it may be late by this part of the service time at p99.
const SLIP_PART: f64 = 0.1;

/// Beyond this part of the requests waiting at the end, the server is behind, and not just busy.
const WAITING_PART: f64 = 0.01;

/// Below this part of the offered rate it is behind as well,
const RATE_PART: f64 = 0.9;
/// in a run of so long and so many replies, in which chance does not go so far.
const RATE_TIME_MIN: Duration = Duration::from_millis(200);
const RATE_REPLIES_MIN: u64 = 1000;

/// The value of a percentile, 0 to 100.
pub fn at(latencies: &Latencies, percentile: f64) -> Duration {
    Duration::from_nanos(latencies.value_at_percentile(percentile))
}

/// What is wrong with a run, apart from objectives.
pub fn of(run: &Run) -> Vec<Fault> {
    let counts = &run.total.counts;
    // What went wrong before the measured time counts too.
    let (mut wrong, mut lost, mut errors) = (0, 0, 0);
    for interval in &run.intervals {
        wrong += interval.sample.counts.violations;
        lost += interval.sample.counts.lost;
        errors += interval.sample.counts.errors;
    }
    let mut faults = Vec::new();
    if wrong > 0 {
        faults.push(Fault::Wrong(format!("{wrong} replies were wrong, torn or stale")));
    }
    if lost > 0 {
        faults.push(Fault::Lost(format!("{lost} requests were never answered")));
    }
    if errors > 0 {
        faults.push(Fault::Errors(format!("{errors} replies were errors")));
    }
    match late(run) {
        Some(late) => faults.push(late),
        // Only a generator that was on time can say that the server was not.
        None => faults.extend(overloaded(run)),
    }
    if counts.answered == 0 && lost == 0 && run.intervals.iter().all(|interval| interval.sample.counts.unsent == 0) {
        faults.push(Fault::Few("nothing was measured: give a longer --duration".into()));
    }
    faults
}

/// Whether the server did not keep up with the rate.
fn overloaded(run: &Run) -> Option<Fault> {
    let counts = &run.total.counts;
    // A load that is given up in its warm-up has nothing else to tell.
    if run.intervals.iter().any(|interval| interval.sample.counts.unsent > 0)
        || counts.waiting as f64 > counts.sent as f64 * WAITING_PART
    {
        return Some(Fault::Overloaded(format!(
            "{} requests were due and not sent when the time was over, since all connections waited for replies: \
             the server does not keep up with this rate, or has too few connections",
            counts.waiting.max(run.intervals.iter().map(|interval| interval.sample.counts.unsent).sum())
        )));
    }
    // A run that ends by its count waits for all, so that nothing is left over: there the rate tells.
    let Pace::Open { rate, .. } = run.pace else { return None };
    // The last replies come later than their requests, or fall behind the end: that is no slower a rate.
    let time = run.total.time.saturating_sub(at(&run.total.service, 99.0));
    let is_long = time >= RATE_TIME_MIN && counts.replies >= RATE_REPLIES_MIN;
    (is_long && (counts.replies as f64) < rate * RATE_PART * time.as_secs_f64()).then(|| {
        Fault::Overloaded(format!(
            "{} requests per second were offered, and {} were answered: the server does not keep up with this rate, \
             or has too few connections",
            format::rate(rate),
            format::rate(run.total.rate())
        ))
    })
}

/// Whether the generator itself was late.
fn late(run: &Run) -> Option<Fault> {
    let slip = at(&run.total.slip, 99.0);
    // Not of the latency, which in an overload grows without end and would excuse any lateness.
    let allowed = SLIP_FREE.max(at(&run.total.service, 99.0).mul_f64(SLIP_PART));
    (matches!(run.pace, Pace::Open { .. }) && slip > allowed).then(|| {
        Fault::Late(format!(
            "the generator itself was late: 1 % of the requests were looked at more than {} after their time, and {} are allowed: \
             give it more --cpus, CPUs of its own, or a lower rate",
            format::duration(slip.as_nanos() as f64),
            format::limit(allowed)
        ))
    })
}

/// An end before its time.
pub fn interrupted(run: &Run, offer: &Offer) -> Fault {
    let of = |whole: Option<Duration>| whole.map_or(String::new(), |whole| format!(" of {}", format::limit(whole)));
    if run.intervals.iter().any(|interval| interval.measured) {
        let (ran, of) = (format::seconds(run.total.time), of(offer.duration));
        return Fault::Interrupted(format!("interrupted after {ran}{of}"));
    }
    let ran = run.intervals.iter().map(|interval| interval.sample.time).sum();
    let answered = run.intervals.iter().map(|interval| interval.sample.counts.answered).sum();
    let (ran, of) = (format::seconds(ran), of(Some(offer.ramp + offer.warmup)));
    let answered = format::counted(answered, "request");
    Fault::Interrupted(format!(
        "interrupted in the warm-up, after {ran}{of} and {answered} answered: nothing was measured"
    ))
}

/// The objectives that a run misses, and those of which it cannot tell.
pub fn missed(run: &Run, objectives: &[Objective]) -> Vec<Fault> {
    let latency = run.total.latency();
    // For these another reason has been given.
    let is_short = latency.is_empty() || run.faults.iter().any(|fault| matches!(fault, Fault::Interrupted(_)));
    let miss = |objective: &Objective| match objective.is_met(&latency) {
        Some(true) => None,
        Some(false) => Some(Fault::Objective(format!(
            "{} is {}, and {} is the objective",
            format::percentile(objective.percentile),
            format::duration(at(&latency, objective.percentile).as_nanos() as f64),
            format::limit(objective.limit)
        ))),
        None => (!is_short).then(|| too_few(run, objective, latency.len())),
    };
    objectives.iter().filter_map(miss).collect()
}

fn too_few(run: &Run, objective: &Objective, found: u64) -> Fault {
    let needed = objective.requests_min();
    let remedy = match run.pace {
        // With a tenth to spare, since arrivals are by chance.
        Pace::Open { rate, .. } => format!("of {:.0} s or more", (needed as f64 * 1.1 / rate).ceil()),
        Pace::Closed => "that is longer".into(),
    };
    Fault::Few(format!(
        "{} takes {} to tell, and there were {}: give a --duration {remedy}",
        format::percentile(objective.percentile),
        format::counted(needed, "request"),
        format::count(found)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{ProcessCost, Sample, record};

    /// A second of an open loop at 10,000/s, of which so many were answered, and so many waited at the end.
    fn run(slip: Duration, service: Duration, latency: Duration, replies: u64, waiting: u64) -> Run {
        let mut total = Sample::empty();
        total.time = Duration::from_secs(1);
        (total.counts.sent, total.counts.answered, total.counts.replies) = (10_000 - waiting, replies, replies);
        total.counts.waiting = waiting;
        for _ in 0..100 {
            record(&mut total.slip, slip.as_nanos() as u64);
            record(&mut total.service, service.as_nanos() as u64);
            record(&mut total.by_kind[0], latency.as_nanos() as u64);
        }
        Run {
            pace: Pace::Open { rate: 10_000.0, poisson: true },
            total,
            intervals: Vec::new(),
            generator: ProcessCost { pid: 0, cpu: Duration::ZERO, rss: 0, rss_peak: 0 },
            server: None,
            examples: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn words(run: &Run) -> Vec<&'static str> {
        let word = |fault: &Fault| match fault {
            Fault::Late(_) => "late",
            Fault::Overloaded(_) => "overloaded",
            _ => "other",
        };
        of(run).iter().map(word).collect()
    }

    #[test]
    fn lateness_is_the_generators_and_backlog_the_servers() {
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        for (run, expected) in [
            (run(us(5), us(100), us(110), 10_000, 0), &[][..]),
            (run(us(499), us(100), us(600), 10_000, 0), &[]),
            (run(us(501), us(100), us(600), 10_000, 0), &["late"]),
            // A server that stalls for 100 ms is not the generator's fault, nor is a tenth of that lateness.
            (run(ms(9), ms(100), ms(100), 10_000, 0), &[]),
            // Starved beside an overload: latencies of seconds excuse nothing, and the server is not blamed.
            (run(ms(291), ms(300), ms(4000), 4000, 6000), &["late"]),
            (run(us(5), us(100), ms(2000), 5000, 5000), &["overloaded"]),
            (run(us(5), us(100), us(300), 9950, 50), &[]),
            // Ended by its count: nothing waits at the end, and the rate was not reached.
            (run(us(5), us(100), ms(2000), 2000, 0), &["overloaded"]),
            (run(us(5), us(100), us(300), 900, 0), &[]),
            // Far away: what was asked in the last 400 ms is answered behind the end.
            (run(us(5), ms(400), ms(400), 6000, 0), &[]),
            (run(us(5), ms(400), ms(400), 5000, 0), &["overloaded"]),
        ] {
            assert_eq!(words(&run), expected, "{:?} {:?}", run.total.counts, run.total.slip.max());
        }
    }
}
