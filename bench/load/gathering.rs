//! What the workers of one load have measured, put together while it comes in.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fleet::Offer;
use crate::outcome::{Interval, Latencies, Pace, ProcessCost, Run, Sample};
use crate::process::Watch;

/// Intervals of one run that are kept.
const INTERVALS_MAX: usize = 600;

/// What was measured in one interval.
struct Part {
    /// When the first worker began with it.
    begin: u64,
    /// When the last one was done with it.
    end: u64,
    /// What was measured.
    sample: Sample,
    /// Stretches of workers that it is made of.
    stretches: usize,
}

impl Part {
    /// Adds what another worker, or the time before or behind, has measured.
    fn join(&mut self, other: &Part) {
        self.begin = self.begin.min(other.begin);
        self.end = self.end.max(other.end);
        self.sample.merge(&other.sample);
        self.stretches += other.stretches;
    }

    /// What was measured, with the time from the first begin to the last end: workers that were done sooner
    /// do not make it shorter.
    fn timed(&self) -> Sample {
        Sample { time: Duration::from_nanos(self.end - self.begin), ..self.sample.clone() }
    }
}

/// What has been measured so far.
pub struct Gathering {
    /// When the load began, in nanoseconds of the workers' clock.
    pub begin: u64,
    /// When its measured part did.
    pub measure: u64,
    /// When it ends; `u64::MAX`: when the requests are used up.
    pub end: u64,
    /// Requests that are over, by worker.
    pub finished: Vec<u64>,
    workers: usize,
    /// By number: 0 begins at `measure`, and those below are not measured.
    intervals: BTreeMap<i64, Part>,
    /// The length of an interval.
    width: u64,
    /// Workers that are done.
    pub done: usize,
    /// Descriptions of what was wrong.
    pub examples: Vec<String>,
    generator: Costs,
    server: Costs,
}

impl Gathering {
    pub fn new((begin, measure, end): (u64, u64, u64), width: u64, workers: usize, server: Vec<u32>) -> Self {
        Self {
            begin,
            measure,
            end,
            width,
            finished: vec![0; workers],
            workers,
            intervals: BTreeMap::new(),
            done: 0,
            examples: Vec::new(),
            generator: Costs::new(vec![std::process::id()]),
            server: Costs::new(server),
        }
    }

    /// How long until costs have to be read.
    pub fn next_look(&self, now: u64) -> Duration {
        let next = if self.generator.watch.is_none() { self.measure } else { self.end };
        Duration::from_nanos(next.saturating_sub(now).max(100_000))
    }

    /// Reads costs where the measured time begins and ends.
    pub fn look(&mut self, now: u64) {
        for costs in [&mut self.generator, &mut self.server] {
            costs.look(now >= self.measure, now >= self.end);
        }
    }

    /// Takes what a worker measured in a stretch that began at `begin`.
    pub fn add(&mut self, begin: u64, sample: &Sample) {
        let number = (begin as i64 - self.measure as i64).div_euclid(self.width as i64);
        let end = begin + sample.time.as_nanos() as u64;
        self.put(number, Part { begin, end, sample: sample.clone(), stretches: 1 });
        if self.intervals.len() > INTERVALS_MAX {
            self.widen();
        }
    }

    fn put(&mut self, number: i64, part: Part) {
        use std::collections::btree_map::Entry;
        match self.intervals.entry(number) {
            Entry::Vacant(place) => drop(place.insert(part)),
            Entry::Occupied(mut place) => place.get_mut().join(&part),
        }
    }

    /// Doubles the length of all intervals: a long run has no more of them than a page can show.
    fn widen(&mut self) {
        self.width *= 2;
        for (number, part) in std::mem::take(&mut self.intervals) {
            self.put(number.div_euclid(2), part);
        }
    }

    /// Replies per second and latencies of the last interval that all workers have reported.
    pub fn latest(&self) -> Option<(f64, Latencies)> {
        let part = self.intervals.values().rev().find(|part| part.stretches >= self.workers)?;
        Some((part.timed().rate(), part.sample.latency()))
    }

    /// Wrong and failed requests so far.
    pub fn wrong(&self) -> u64 {
        self.intervals.values().map(|part| &part.sample.counts).map(|c| c.errors + c.violations + c.lost).sum()
    }

    pub fn into_run(mut self, offer: &Offer, now: u64) -> Run {
        self.end = self.end.min(now);
        self.look(now);
        let mut total = Sample::empty();
        let mut intervals = Vec::new();
        for (number, part) in self.intervals {
            let (begin, mut sample) = (part.begin, part.timed());
            if offer.pace == Pace::Closed {
                // What was intended is what was done.
                sample.service = sample.latency();
            }
            let measured = number >= 0;
            if measured {
                total.merge(&sample);
                total.time += sample.time;
            }
            intervals.push(Interval { at: Duration::from_nanos(begin - self.begin), measured, sample });
        }
        Run {
            pace: offer.pace,
            total,
            intervals,
            generator: self.generator.cost.unwrap_or(NO_COST),
            server: self.server.cost,
            examples: self.examples,
            faults: Vec::new(),
        }
    }
}

const NO_COST: ProcessCost = ProcessCost { pid: 0, cpu: Duration::ZERO, rss: 0, rss_peak: 0 };

/// What processes use between two moments.
struct Costs {
    pids: Vec<u32>,
    watch: Option<Watch>,
    cost: Option<ProcessCost>,
}

impl Costs {
    fn new(pids: Vec<u32>) -> Self {
        Self { pids, watch: None, cost: None }
    }

    /// Reads what is to be read at this moment. Of a process that is gone nothing is said.
    fn look(&mut self, has_begun: bool, has_ended: bool) {
        if has_begun && self.watch.is_none() && !self.pids.is_empty() {
            self.watch = Watch::start(&self.pids).ok();
        }
        if has_ended && self.cost.is_none() {
            self.cost = self.watch.as_ref().and_then(|watch| watch.cost().ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn sample(answered: u64, ms: u64) -> Sample {
        let mut sample = Sample::empty();
        sample.counts.answered = answered;
        sample.counts.replies = answered;
        sample.time = Duration::from_millis(ms);
        sample
    }

    fn offer() -> Offer {
        Offer {
            pace: Pace::Closed,
            trace: None,
            ramp: Duration::ZERO,
            warmup: Duration::ZERO,
            duration: None,
            requests: None,
            server: Vec::new(),
        }
    }

    /// A load that begins soon after the clock does, with a warm-up that is shorter than an interval.
    #[test]
    fn what_comes_before_the_measured_time_is_not_measured() {
        let mut gathering = Gathering::new((5 * MS, 105 * MS, u64::MAX), 250 * MS, 2, Vec::new());
        for _worker in 0..2 {
            gathering.add(5 * MS, &sample(7, 100));
            gathering.add(105 * MS, &sample(20, 250));
            gathering.add(355 * MS, &sample(10, 125));
        }
        assert_eq!(gathering.latest().map(|(rate, _)| rate), Some(160.0));
        let run = gathering.into_run(&offer(), 480 * MS);
        assert_eq!((run.total.counts.answered, run.total.time), (60, Duration::from_millis(375)));
        let shown: Vec<_> =
            run.intervals.iter().map(|i| (i.at.as_millis(), i.measured, i.sample.counts.answered)).collect();
        assert_eq!(shown, [(0, false, 14), (100, true, 40), (350, true, 20)]);
    }

    /// One of two workers is done after a second, the other after three.
    #[test]
    fn a_worker_that_is_done_sooner_does_not_shorten_the_time() {
        let mut gathering = Gathering::new((0, 0, u64::MAX), 1000 * MS, 2, Vec::new());
        for second in 0..3 {
            gathering.add(second * 1000 * MS, &sample(100, 1000));
        }
        gathering.add(0, &sample(50, 1000));
        let run = gathering.into_run(&offer(), 3000 * MS);
        assert_eq!((run.total.counts.answered, run.total.time), (350, Duration::from_secs(3)));
    }

    #[test]
    fn a_long_run_keeps_few_intervals_and_loses_nothing() {
        let mut gathering = Gathering::new((0, 1500 * MS, u64::MAX), 1000 * MS, 1, Vec::new());
        gathering.add(0, &sample(5, 500));
        gathering.add(500 * MS, &sample(5, 1000));
        for second in 0..5000 {
            gathering.add((1500 + second * 1000) * MS, &sample(3, 1000));
        }
        let run = gathering.into_run(&offer(), 5_001_500 * MS);
        assert!(run.intervals.len() <= INTERVALS_MAX, "{}", run.intervals.len());
        assert_eq!((run.total.counts.answered, run.total.time), (15_000, Duration::from_secs(5000)));
        assert!(run.intervals.windows(2).all(|pair| pair[0].at < pair[1].at && pair[0].measured <= pair[1].measured));
    }
}
