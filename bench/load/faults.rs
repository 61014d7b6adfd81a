//! What speaks against a run: the rules by which its figures are trusted or not.

use std::time::Duration;

use crate::fleet::Offer;
use crate::outcome::{Fault, Latencies, Objective, Pace, Run};
use crate::report::format;

/// The generator may be so late at p99, whatever the latencies are.
const SLIP_FREE: Duration = Duration::from_micros(500);
/// Beyond that it may be late by this part of the latency at p99.
const SLIP_PART: f64 = 0.1;

/// Beyond this part of the requests waiting at the end, the server is behind, and not just busy.
const WAITING_PART: f64 = 0.01;

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
        faults.push(Fault::Wrong(format!("{lost} requests were never answered")));
    }
    if errors > 0 {
        faults.push(Fault::Errors(format!("{errors} replies were errors")));
    }
    if counts.unsent > 0 || counts.waiting as f64 > counts.sent as f64 * WAITING_PART {
        faults.push(Fault::Overloaded(format!(
            "{} requests were due and not sent when the time was over, since all connections waited for replies: \
             the server does not keep up with this rate, or has too few connections",
            counts.waiting
        )));
    }
    if counts.answered == 0 && lost == 0 {
        faults.push(Fault::Late("nothing was measured: give a longer --duration".into()));
    }
    faults.extend(late(run));
    faults
}

/// Whether the generator itself was late.
fn late(run: &Run) -> Option<Fault> {
    let slip = at(&run.total.slip, 99.0);
    let allowed = SLIP_FREE.max(at(&run.total.latency(), 99.0).mul_f64(SLIP_PART));
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
    let of = offer.duration.map_or(String::new(), |duration| format!(" of {}", format::limit(duration)));
    Fault::Interrupted(format!("interrupted after {}{of}", format::seconds(run.total.time)))
}

/// The objectives that a run misses.
pub fn missed(run: &Run, objectives: &[Objective]) -> Vec<Fault> {
    let latency = run.total.latency();
    let miss = |objective: &Objective| {
        let found = at(&latency, objective.percentile);
        (found > objective.limit).then(|| {
            let (found, limit) = (format::duration(found.as_nanos() as f64), format::limit(objective.limit));
            Fault::Objective(format!(
                "{} is {found}, and {limit} is the objective",
                format::percentile(objective.percentile)
            ))
        })
    };
    objectives.iter().filter_map(miss).collect()
}
