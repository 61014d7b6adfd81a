//! What is derived from a measurement and shown by more than one report: summaries
//! of latencies, checks of objectives, the run whose details are shown. Times are nanoseconds.

use crate::outcome::{Counts, Kind, Latencies, Objective, Outcome, Pace, ProcessCost, Run, Sample, Search, Step};

use super::{PERCENTILES, format};

/// The figures of one histogram that is not empty, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Summary {
    /// How many were recorded.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The shortest.
    pub min: f64,
    /// One for each of `PERCENTILES`.
    pub percentiles: [f64; PERCENTILES.len()],
    /// The longest.
    pub max: f64,
}

impl Summary {
    /// The figures of `latencies`; `None` if nothing was recorded.
    pub fn of(latencies: &Latencies) -> Option<Self> {
        (!latencies.is_empty()).then(|| Self {
            count: latencies.len(),
            mean: latencies.mean(),
            min: latencies.min() as f64,
            percentiles: PERCENTILES.map(|p| latencies.value_at_percentile(p) as f64),
            max: latencies.max() as f64,
        })
    }

    /// Mean, percentiles and longest: the columns of a table. A percentile that too few were
    /// recorded for to tell it from the longest is `None`.
    pub fn columns(&self) -> impl Iterator<Item = Option<f64>> {
        let told = |(value, percentile): (f64, f64)| {
            (self.count as f64 * (100.0 - percentile) >= 100.0 - 1e-6).then_some(value)
        };
        let percentiles = self.percentiles.into_iter().zip(PERCENTILES).map(told);
        std::iter::once(Some(self.mean)).chain(percentiles).chain([Some(self.max)])
    }
}

/// The value at a percentile from 0 to 100, in nanoseconds; `None` if nothing was recorded.
pub fn at(latencies: &Latencies, percentile: f64) -> Option<f64> {
    (!latencies.is_empty()).then(|| latencies.value_at_percentile(percentile) as f64)
}

/// The rows of the table of latencies: each kind of request that occurred, all of them,
/// and what tells apart the server's part and the generator's.
pub fn rows(run: &Run) -> Vec<(&'static str, Option<Summary>)> {
    let total = &run.total;
    let kinds = Kind::ALL.iter().zip(&total.by_kind).filter(|(_, latencies)| !latencies.is_empty());
    let mut rows: Vec<_> = kinds.map(|(kind, latencies)| (kind.word(), Summary::of(latencies))).collect();
    rows.push(("all", Summary::of(&total.latency())));
    rows.push(("service", Summary::of(&total.service)));
    if open_rate(run.pace).is_some() {
        rows.push(("slip", Summary::of(&total.slip)));
    }
    if !total.connect.is_empty() {
        rows.push(("connect", Summary::of(&total.connect)));
    }
    rows
}

/// Every count with its name in files.
pub fn counts(counts: &Counts) -> [(&'static str, u64); 16] {
    let Counts {
        sent,
        answered,
        replies,
        errors,
        lost,
        waiting,
        unsent,
        hits,
        misses,
        hits_expected,
        leftovers,
        redirected,
        bytes_sent,
        bytes_received,
        connects,
        violations,
    } = *counts;
    [
        ("sent", sent),
        ("answered", answered),
        ("replies", replies),
        ("errors", errors),
        ("lost", lost),
        ("waiting", waiting),
        ("unsent", unsent),
        ("violations", violations),
        ("hits", hits),
        ("misses", misses),
        ("hits_expected", hits_expected),
        ("leftovers", leftovers),
        ("redirected", redirected),
        ("connects", connects),
        ("sent_bytes", bytes_sent),
        ("received_bytes", bytes_received),
    ]
}

/// The rate that an open loop offers; `None` for a closed one.
pub fn open_rate(pace: Pace) -> Option<f64> {
    match pace {
        Pace::Open { rate, .. } => Some(rate),
        Pace::Closed => None,
    }
}

/// A number for each second of a sample; 0 if it took no time.
pub fn per_second(number: u64, sample: &Sample) -> f64 {
    if sample.time.is_zero() { 0.0 } else { number as f64 / sample.time.as_secs_f64() }
}

/// CPU time per reply of the measured time, in nanoseconds.
pub fn cpu_per_request(cost: &ProcessCost, run: &Run) -> Option<f64> {
    let replies = run.total.counts.replies;
    (replies > 0).then(|| cost.cpu.as_secs_f64() * 1e9 / replies as f64)
}

/// Cores that a process kept busy in the measured time; `None` if it took no time.
pub fn cores(cost: &ProcessCost, run: &Run) -> Option<f64> {
    (!run.total.time.is_zero()).then(|| cost.cpu.as_secs_f64() / run.total.time.as_secs_f64())
}

/// An objective beside what was found.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What was to be met.
    pub objective: Objective,
    /// The latency found; `None` if no request was answered.
    pub found: Option<f64>,
    /// Whether it was met; `None` if there were too few requests to tell.
    pub met: Option<bool>,
}

impl Check {
    /// The word for what came of it.
    pub fn word(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "too few requests to tell",
        }
    }
}

/// Every objective beside what the run found.
pub fn checks(objectives: &[Objective], run: &Run) -> Vec<Check> {
    let latency = run.total.latency();
    let check = |&objective: &Objective| Check {
        objective,
        found: at(&latency, objective.percentile),
        met: objective.is_met(&latency),
    };
    objectives.iter().map(check).collect()
}

/// The bound in nanoseconds.
pub fn limit_ns(objective: &Objective) -> f64 {
    objective.limit.as_secs_f64() * 1e9
}

/// Objectives as they are written on the command line: `p50 <= 200 µs and p99.9 <= 1 ms`.
pub fn objectives_text(objectives: &[Objective]) -> String {
    let one = |o: &Objective| format!("{} <= {}", format::percentile(o.percentile), format::limit(o.limit));
    objectives.iter().map(one).collect::<Vec<_>>().join(" and ")
}

/// Every run of an outcome with where it belongs; a single run belongs to nowhere (`""`).
pub fn runs(outcome: &Outcome) -> Vec<(String, &Run)> {
    match outcome {
        Outcome::Run(run) => vec![(String::new(), run)],
        Outcome::Search(search) => search.steps.iter().map(|step| (step_place(step), &step.run)).collect(),
        Outcome::Comparison(comparison) => comparison
            .contenders
            .iter()
            .flat_map(|c| c.rounds.iter().enumerate().map(|(i, run)| (format!("{}, round {}", c.name, i + 1), run)))
            .collect(),
    }
}

fn step_place(step: &Step) -> String {
    format!("at {} requests/s", format::rate(step.rate))
}

/// The step that confirmed the result of a search.
pub fn best_step(search: &Search) -> Option<usize> {
    let best = search.best?;
    search.steps.iter().rposition(|step| step.met && (step.rate - best).abs() <= best.abs() * 1e-9)
}

/// What the result of a search stands against: the last try of the lowest rate above it that was not met.
pub fn bound(search: &Search) -> Option<&Step> {
    let best = search.best.map_or(0.0, |best| best * (1.0 + 1e-9));
    let above = || search.steps.iter().filter(|step| !step.met && step.rate > best);
    let lowest = above().map(|step| step.rate).min_by(f64::total_cmp)?;
    above().rfind(|step| step.rate == lowest)
}

/// The steps of a search by rate; those of one rate in the order of trying.
pub fn steps_by_rate(search: &Search) -> Vec<(usize, &Step)> {
    let mut steps: Vec<_> = search.steps.iter().enumerate().collect();
    steps.sort_by(|(_, a), (_, b)| a.rate.total_cmp(&b.rate));
    steps
}

/// The run that stands for the outcome where there is room for one, and where it belongs: the
/// one that confirmed a search, else the last one tried; the last round of the first contender.
pub fn shown(outcome: &Outcome) -> Option<(String, &Run)> {
    match outcome {
        Outcome::Run(run) => Some((String::new(), run)),
        Outcome::Search(search) => {
            let step = best_step(search).map_or_else(|| search.steps.last(), |best| search.steps.get(best))?;
            Some((step_place(step), &step.run))
        }
        Outcome::Comparison(comparison) => {
            let first = comparison.contenders.first()?;
            first.rounds.last().map(|run| (format!("{}, round {}", first.name, first.rounds.len()), run))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::latencies;
    use crate::report::fixture;

    #[test]
    fn an_empty_histogram_has_no_summary() {
        assert!(Summary::of(&latencies()).is_none());
        assert_eq!(at(&latencies(), 50.0), None);
    }

    #[test]
    fn a_percentile_needs_one_request_beyond_it() {
        let mut hundred = latencies();
        (1..=100).for_each(|n| crate::outcome::record(&mut hundred, n * 1_000_000));
        let columns: Vec<_> = Summary::of(&hundred).expect("it is not empty").columns().collect();
        assert!(columns[3].is_some_and(|p99| (98.9e6..99.2e6).contains(&p99)), "{columns:?}");
        assert_eq!(columns[4..6], [None, None]);
        assert!(columns[6].is_some());
    }

    #[test]
    fn only_kinds_that_occurred_have_a_row() {
        let run = fixture::run(1, 50_000.0);
        let names: Vec<_> = rows(&run).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["get", "set", "all", "service", "slip", "connect"]);
        let names: Vec<_> = rows(&fixture::closed(1)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["get", "set", "all", "service", "connect"]);
    }

    #[test]
    fn the_run_shown_of_a_search_is_the_one_that_confirmed_it() {
        let report = fixture::search_report();
        let Outcome::Search(search) = &report.outcome else { panic!("the fixture is a search") };
        let best = best_step(search).expect("the fixture has a best step");
        assert!(search.steps[..best].iter().any(|step| step.rate == 240_000.0), "it was tried before");
        let (place, run) = shown(&report.outcome).expect("there is one");
        assert_eq!(place, "at 240,000 requests/s");
        assert!(std::ptr::eq(run, &search.steps[best].run));
    }
}
