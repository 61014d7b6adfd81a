//! What a run found out: plain data, filled in by the run, the search and the
//! comparison, and read by everything in `report`.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies in nanoseconds, 100 ns to 60 s, three significant digits.
pub type Latencies = Histogram<u64>;

/// The longest latency that is told apart; a longer one is recorded as this.
pub const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Latencies below this are recorded as this.
const LATENCY_MIN_NS: u64 = 100;

/// An empty histogram for latencies. It grows with the longest that is recorded: most stay far below the bound.
pub fn latencies() -> Latencies {
    let mut empty =
        Histogram::new_with_bounds(LATENCY_MIN_NS, 2 * LATENCY_MIN_NS, 3).expect("constant bounds are valid");
    empty.auto(true);
    empty
}

/// Records a latency in constant time, but for the few times that a histogram grows.
#[inline]
pub fn record(latencies: &mut Latencies, ns: u64) {
    latencies.record(ns.min(LATENCY_MAX_NS)).expect("it grows as far as the bound");
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read a key.
    Get,
    /// Write a key.
    Set,
    /// Remove a key.
    Delete,
    /// Read several keys.
    Mget,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Kind; 4] = [Kind::Get, Kind::Set, Kind::Delete, Kind::Mget];

    /// The word for it, on the command line and in reports.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Get => "get",
            Kind::Set => "set",
            Kind::Delete => "delete",
            Kind::Mget => "mget",
        }
    }
}

/// How requests are offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// By a schedule that does not wait for replies.
    Open {
        /// Requests per second.
        rate: f64,
        /// Whether the gaps are drawn from an exponential distribution, or all the same.
        poisson: bool,
    },
    /// Each connection asks again when it has been answered.
    Closed,
}

/// Counts of one stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests sent.
    pub sent: u64,
    /// Requests of this time that were answered, if need be after it; errors among them.
    pub answered: u64,
    /// Replies that came within this time, whenever they had been asked for.
    pub replies: u64,
    /// Replies that were errors.
    pub errors: u64,
    /// Requests that were never answered.
    pub lost: u64,
    /// Requests that were due and had not been sent when the time was over.
    pub waiting: u64,
    /// Requests that were due and could not be sent before the run was given up: all clients were waiting.
    pub unsent: u64,
    /// Keys read that the server had.
    pub hits: u64,
    /// Keys read that it had not.
    pub misses: u64,
    /// Keys read that it should have had, going by what was written.
    pub hits_expected: u64,
    /// Values that an earlier run had left: intact, of the right key.
    pub leftovers: u64,
    /// Requests that a cluster sent on to another node.
    pub redirected: u64,
    /// Bytes handed to the kernel.
    pub bytes_sent: u64,
    /// Bytes that came from it.
    pub bytes_received: u64,
    /// Connections opened.
    pub connects: u64,
    /// Replies that were wrong, torn or stale.
    pub violations: u64,
}

impl Counts {
    /// Adds what another thread or stretch counted.
    pub fn add(&mut self, other: &Counts) {
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
        } = other;
        self.sent += sent;
        self.answered += answered;
        self.replies += replies;
        self.errors += errors;
        self.lost += lost;
        self.waiting += waiting;
        self.unsent += unsent;
        self.hits += hits;
        self.misses += misses;
        self.hits_expected += hits_expected;
        self.leftovers += leftovers;
        self.redirected += redirected;
        self.bytes_sent += bytes_sent;
        self.bytes_received += bytes_received;
        self.connects += connects;
        self.violations += violations;
    }

    /// Hits as a part of the keys read; `None` if none were.
    pub fn hit_ratio(&self) -> Option<f64> {
        let read = self.hits + self.misses;
        (read > 0).then(|| self.hits as f64 / read as f64)
    }

    /// The part of the keys read that should have been there.
    pub fn hit_ratio_expected(&self) -> Option<f64> {
        let read = self.hits + self.misses;
        (read > 0).then(|| self.hits_expected as f64 / read as f64)
    }
}

/// Everything measured in one stretch of time, by one thread or by all.
#[derive(Clone, Debug)]
pub struct Sample {
    /// How long it was.
    pub time: Duration,
    /// The counts.
    pub counts: Counts,
    /// From the intended moment of sending to the reply, for each kind of request.
    pub by_kind: [Latencies; 4],
    /// From the actual moment of sending to the reply.
    pub service: Latencies,
    /// From the intended moment to the one at which the generator got round to it. Empty in a closed loop.
    pub slip: Latencies,
    /// From the start of a connection to its first readiness.
    pub connect: Latencies,
}

impl Sample {
    /// Nothing measured yet.
    pub fn empty() -> Self {
        Self {
            time: Duration::ZERO,
            counts: Counts::default(),
            by_kind: std::array::from_fn(|_| latencies()),
            service: latencies(),
            slip: latencies(),
            connect: latencies(),
        }
    }

    /// Adds what another thread measured in the same stretch: the time stays.
    pub fn merge(&mut self, other: &Sample) {
        self.counts.add(&other.counts);
        let pairs = self.by_kind.iter_mut().zip(&other.by_kind);
        for (mine, theirs) in pairs.chain([
            (&mut self.service, &other.service),
            (&mut self.slip, &other.slip),
            (&mut self.connect, &other.connect),
        ]) {
            mine.add(theirs).expect("they grow as far as the bound");
        }
    }

    /// The latencies of all kinds together.
    pub fn latency(&self) -> Latencies {
        let mut all = latencies();
        self.by_kind.iter().for_each(|kind| all.add(kind).expect("they grow as far as the bound"));
        all
    }

    /// Replies per second.
    pub fn rate(&self) -> f64 {
        if self.time.is_zero() { 0.0 } else { self.counts.replies as f64 / self.time.as_secs_f64() }
    }
}

/// One point of the time series.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it began, from the start of the load.
    pub at: Duration,
    /// Whether it counts: not while ramping up or warming up.
    pub measured: bool,
    /// What was measured.
    pub sample: Sample,
}

/// What a process used while it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessCost {
    /// Its id.
    pub pid: u32,
    /// Time on a CPU, of all its threads.
    pub cpu: Duration,
    /// Resident bytes at the end.
    pub rss: u64,
    /// The most that ever were resident.
    pub rss_peak: u64,
}

/// A bound on a percentile, such as p99.9 = 1 ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// 0 to 100.
    pub percentile: f64,
    /// The bound.
    pub limit: Duration,
}

/// Requests that have to lie beyond a percentile before it is told: with fewer, chance decides.
const BEYOND_MIN: u64 = 10;

impl Objective {
    /// How many requests it takes to tell that it is met. The longest latency is always known.
    pub fn requests_min(&self) -> u64 {
        let beyond = 1.0 - self.percentile / 100.0;
        // Less what the division is off by.
        if beyond > 0.0 { (BEYOND_MIN as f64 / beyond - 1e-3).ceil() as u64 } else { 1 }
    }

    /// Whether it is met; `None` if there are too few latencies to tell.
    pub fn is_met(&self, latencies: &Latencies) -> Option<bool> {
        let limit = self.limit.as_nanos() as u64;
        let is_met = latencies.value_at_percentile(self.percentile) <= limit;
        let beyond = latencies.len() - latencies.count_between(0, limit);
        let is_told = latencies.len() >= self.requests_min() || !is_met && beyond >= BEYOND_MIN;
        is_told.then_some(is_met)
    }
}

/// Why a run proves nothing, or failed. The text of each is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The generator itself was late, so that latencies are not the server's alone.
    Late(String),
    /// There were too few requests to tell anything, or an objective's percentile.
    Few(String),
    /// Replies were wrong, torn or stale.
    Wrong(String),
    /// Replies did not come.
    Lost(String),
    /// The server answered errors.
    Errors(String),
    /// The server did not keep up: requests were still waiting to be sent at the end.
    Overloaded(String),
    /// An objective was missed.
    Objective(String),
    /// It was interrupted before its end.
    Interrupted(String),
}

impl Fault {
    /// The sentence about it.
    pub fn text(&self) -> &str {
        match self {
            Fault::Late(text)
            | Fault::Few(text)
            | Fault::Wrong(text)
            | Fault::Lost(text)
            | Fault::Errors(text)
            | Fault::Overloaded(text)
            | Fault::Objective(text)
            | Fault::Interrupted(text) => text,
        }
    }
}

/// One run at one load.
#[derive(Clone, Debug)]
pub struct Run {
    /// How requests were offered.
    pub pace: Pace,
    /// All of the measured time together.
    pub total: Sample,
    /// The time series, with what was not measured.
    pub intervals: Vec<Interval>,
    /// What the generator itself used in the measured time.
    pub generator: ProcessCost,
    /// What the server used, if it could be seen.
    pub server: Option<ProcessCost>,
    /// The first replies that were wrong, lost or errors, described.
    pub examples: Vec<String>,
    /// What speaks against the run. Empty: valid, and every objective met.
    pub faults: Vec<Fault>,
}

/// A load that a search tried.
#[derive(Clone, Debug)]
pub struct Step {
    /// Requests per second that were offered.
    pub rate: f64,
    /// Whether the objectives were met by a valid run.
    pub met: bool,
    /// The run.
    pub run: Run,
}

/// A search for the highest load that meets the objectives.
#[derive(Clone, Debug)]
pub struct Search {
    /// What was to be met.
    pub objectives: Vec<Objective>,
    /// Every load tried, in the order of trying.
    pub steps: Vec<Step>,
    /// The highest rate that met them and was confirmed. `None`: not even the lowest did.
    pub best: Option<f64>,
    /// A sentence when something other than the server ended the climb.
    pub remark: Option<String>,
}

/// One server's part of a comparison.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Its name.
    pub name: String,
    /// How it was started.
    pub command: String,
    /// Its rounds.
    pub rounds: Vec<Run>,
}

/// Several servers under the same load, in turn. The first is what the others are compared with.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The servers.
    pub contenders: Vec<Contender>,
}

/// What was done.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// One run.
    Run(Box<Run>),
    /// A search, and the run that confirmed its result.
    Search(Search),
    /// A comparison.
    Comparison(Comparison),
}

/// Everything that a report shows.
#[derive(Clone, Debug)]
pub struct Report {
    /// The command line.
    pub command: String,
    /// When the load began: seconds since the Unix epoch.
    pub began: u64,
    /// What was measured, as named lines: target, protocol, connections, workload, …
    pub setup: Vec<(String, String)>,
    /// What the generator ran on: host, kernel, CPUs.
    pub host: Vec<(String, String)>,
    /// The objectives, if any.
    pub objectives: Vec<Objective>,
    /// What came of it.
    pub outcome: Outcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With so many latencies of 1 ms, and so many of 10 ms, against a limit of 5 ms.
    #[test]
    fn a_percentile_is_told_by_what_lies_beyond_it() {
        let limit = Duration::from_millis(5);
        for (percentile, short, long, expected) in [
            (50.0, 20, 0, Some(true)),
            (50.0, 19, 0, None),
            (99.9, 10_000, 0, Some(true)),
            (99.9, 9_999, 0, None),
            (99.9, 9_995, 5, Some(true)),
            (99.9, 9_985, 15, Some(false)),
            // Of fifty, p99.9 is the longest, and one stray request would decide.
            (99.9, 50, 0, None),
            (99.9, 49, 1, None),
            (99.9, 40, 10, Some(false)),
            (99.99, 1000, 9, None),
            (100.0, 1, 0, Some(true)),
            (100.0, 1000, 1, Some(false)),
            (100.0, 0, 0, None),
            (0.0, 0, 0, None),
        ] {
            let mut all = latencies();
            (0..short).for_each(|_| record(&mut all, 1_000_000));
            (0..long).for_each(|_| record(&mut all, 10_000_000));
            let objective = Objective { percentile, limit };
            assert_eq!(objective.is_met(&all), expected, "p{percentile} of {short} and {long}");
        }
    }
}
