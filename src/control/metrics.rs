//! Counters as Prometheus text. Every metric is one row of `METRICS`: its name,
//! its kind, what it means and where in a core's snapshot it is read.

use std::fmt::Write;

use crate::engine::prefixes::PrefixStats;
use crate::node::hotkeys::HotKey;
use crate::node::stats::{CoreSnapshot, Family, TurnHistogram};

/// The `Content-Type` of [`render`]'s output.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Metric {
    name: &'static str,
    help: &'static str,
    value: Value,
}

/// A kind of memory and where its bytes are read.
type Kind = (&'static str, fn(&CoreSnapshot) -> u64);

/// How a metric is read from a snapshot; also decides its type.
enum Value {
    /// A count that only grows.
    Counter(fn(&CoreSnapshot) -> u64),
    /// A number that comes and goes.
    Gauge(fn(&CoreSnapshot) -> u64),
    /// Counts by command family.
    Families(fn(&CoreSnapshot) -> &[u64; Family::COUNT]),
    /// Numbers that come and go, by kind of memory.
    Memory(&'static [Kind]),
    /// Times.
    Histogram(fn(&CoreSnapshot) -> &TurnHistogram),
    /// A time that only grows, in nanoseconds.
    TimeCounter(fn(&CoreSnapshot) -> u64),
    /// A time that comes and goes, in nanoseconds.
    TimeGauge(fn(&CoreSnapshot) -> u64),
    /// The shares of the hottest keys, by what they are hot by.
    HotKeys(&'static [HotBy]),
    /// A count that only grows, of each prefix.
    PrefixCounter(fn(&PrefixStats) -> u64),
    /// A number that comes and goes, of each prefix.
    PrefixGauge(fn(&PrefixStats) -> u64),
}

/// What keys are hot by, and where they are read.
type HotBy = (&'static str, fn(&CoreSnapshot) -> &[HotKey]);

/// Of the hottest keys of a core, how many have a series: each key is one of its own.
const HOT_KEYS_MAX: usize = 5;

impl Value {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) | Self::Families(_) | Self::TimeCounter(_) | Self::PrefixCounter(_) => "counter",
            Self::Gauge(_) | Self::Memory(_) | Self::TimeGauge(_) | Self::HotKeys(_) | Self::PrefixGauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

use Value::{Counter, Families, Gauge, Histogram, HotKeys, Memory, PrefixCounter, PrefixGauge, TimeCounter, TimeGauge};

const fn row(name: &'static str, help: &'static str, value: Value) -> Metric {
    Metric { name, help, value }
}

/// The parts of a core's memory, as values of the label `kind`.
const MEMORY_KINDS: &[Kind] = &[
    ("live", |s| s.memory.live),
    ("dead", |s| s.memory.dead),
    ("free", |s| s.memory.free),
    ("index", |s| s.memory.index),
    ("wheel", |s| s.memory.wheel),
    ("reserved", |s| s.memory.reserved),
    ("fixed", |s| s.memory.fixed),
];

/// Of a sample of the records, how many were read how often, as values of the label `kind`.
const REFS_KINDS: &[Kind] = &[
    ("0", |s| s.memory.refs_sampled[0]),
    ("1", |s| s.memory.refs_sampled[1]),
    ("2", |s| s.memory.refs_sampled[2]),
    ("3", |s| s.memory.refs_sampled[3]),
    ("4", |s| s.memory.refs_sampled[4]),
    ("5", |s| s.memory.refs_sampled[5]),
    ("6", |s| s.memory.refs_sampled[6]),
    ("7", |s| s.memory.refs_sampled[7]),
];

const METRICS: &[Metric] = &[
    row("ringfence_core_cpu", "The CPU that the core is pinned to.", Gauge(|s| s.cpu as u64)),
    row("ringfence_commands_total", "Commands executed, by family.", Families(|s| &s.ops)),
    row("ringfence_hits_total", "Keys looked up by read commands and found.", Counter(|s| s.hits)),
    row("ringfence_misses_total", "Keys looked up by read commands and not found.", Counter(|s| s.misses)),
    row("ringfence_expired_keys_total", "Keys removed because their time had passed.", Counter(|s| s.expired)),
    row("ringfence_expired_bytes_total", "Bytes of the records that expired.", Counter(|s| s.expired_bytes)),
    row("ringfence_evicted_keys_total", "Keys removed to make room.", Counter(|s| s.evicted)),
    row("ringfence_evicted_bytes_total", "Bytes of the records that were evicted.", Counter(|s| s.evicted_bytes)),
    row("ringfence_keys", "Keys stored.", Gauge(|s| s.keys)),
    row("ringfence_keys_with_expiry", "Keys stored that have an expiry.", Gauge(|s| s.keys_with_expiry)),
    row("ringfence_memory_budget_bytes", "Memory that the core may use.", Gauge(|s| s.memory.budget)),
    row("ringfence_memory_bytes", "Where the core's memory is, by kind.", Memory(MEMORY_KINDS)),
    row(
        "ringfence_memory_resident_bytes",
        "What the kernel holds in memory for the core.",
        Gauge(|s| s.memory.resident),
    ),
    row("ringfence_segment_bytes", "The size of a segment.", Gauge(|s| s.memory.segment)),
    row("ringfence_segments", "Segments that the budget allows.", Gauge(|s| s.memory.segments)),
    row("ringfence_segments_free", "Segments that hold nothing.", Gauge(|s| s.memory.segments_free)),
    row(
        "ringfence_small_log_segments",
        "Segments of the log for newcomers, under s3fifo.",
        Gauge(|s| s.memory.small_log_segments),
    ),
    row(
        "ringfence_hand_segment",
        "The segment under the eviction hand, or the number of segments while it rests.",
        Gauge(|s| s.memory.hand_segment.map_or(s.memory.segments, u64::from)),
    ),
    row(
        "ringfence_hand_walked_bytes_total",
        "Bytes of segments that the eviction hand has walked.",
        Counter(|s| s.memory.hand_walked),
    ),
    row(
        "ringfence_hand_reinserted_total",
        "Records that the eviction hand wrote again instead of evicting them.",
        Counter(|s| s.memory.hand_reinserted),
    ),
    row(
        "ringfence_sampled_reads",
        "Of a sample of the records, how many were read so often since the hand passed, by number of reads.",
        Memory(REFS_KINDS),
    ),
    row("ringfence_connections", "Connections open.", Gauge(|s| s.connections_current)),
    row("ringfence_connections_accepted_total", "Connections accepted.", Counter(|s| s.connections_total)),
    row(
        "ringfence_connections_refused_total",
        "Connections closed at once because of limits.connections.",
        Counter(|s| s.connections_refused),
    ),
    row(
        "ringfence_cross_core_forwards_total",
        "Commands sent to another core because it owns the key. Zero for clients on core ports.",
        Counter(|s| s.forwards),
    ),
    row("ringfence_hot_key_copies", "Copies of other cores' hottest keys that are held.", Gauge(|s| s.copies)),
    row(
        "ringfence_hot_key_copy_reads_total",
        "Reads of another core's keys that were answered by a copy instead of being sent there.",
        Counter(|s| s.copy_reads),
    ),
    row("ringfence_leases", "Refresh leases that are out.", Gauge(|s| s.leases.out)),
    row("ringfence_leases_granted_total", "Refresh leases given.", Counter(|s| s.leases.granted)),
    row(
        "ringfence_leases_ran_out_total",
        "Refresh leases that ended because their holders did not fill in time.",
        Counter(|s| s.leases.ran_out),
    ),
    row("ringfence_tracking_clients", "Connections that track what they read.", Gauge(|s| s.tracking_clients)),
    row("ringfence_tracking_keys", "Keys whose readers are remembered.", Gauge(|s| s.tracked_keys)),
    row(
        "ringfence_tracking_notices_total",
        "Notices sent to connections that track: a key that they read has changed.",
        Counter(|s| s.tracking_notices),
    ),
    row("ringfence_fill_waiters", "Requests that wait for another client to fill a value.", Gauge(|s| s.waiting)),
    row(
        "ringfence_fill_waits_total",
        "Requests that have waited for another client to fill a value.",
        Counter(|s| s.waits),
    ),
    row(
        "ringfence_connections_steered_total",
        "Connections moved to the core that owns their keys.",
        Counter(|s| s.steered),
    ),
    row("ringfence_parse_errors_total", "Requests that did not follow the protocol.", Counter(|s| s.parse_errors)),
    row("ringfence_auth_failures_total", "Passwords given that were not right.", Counter(|s| s.auth_failures)),
    row(
        "ringfence_limit_errors_total",
        "Requests or connections refused because of a limit.",
        Counter(|s| s.limit_errors),
    ),
    row("ringfence_received_bytes_total", "Bytes received from clients.", Counter(|s| s.bytes_in)),
    row("ringfence_sent_bytes_total", "Bytes sent to clients.", Counter(|s| s.bytes_out)),
    row("ringfence_turns_total", "Turns of the core's loop.", Counter(|s| s.turns)),
    row(
        "ringfence_turn_duration_seconds",
        "How long turns of the core's loop and slices of its background work took, waiting not included.",
        Histogram(|s| &s.turn_time),
    ),
    row("ringfence_turn_max_seconds", "The longest of these times.", TimeGauge(|s| s.turn_time.max_ns)),
    row(
        "ringfence_turn_own_duration_seconds",
        "The same less the time in which the core's thread was not on a CPU. Exact for those longer than 250 µs.",
        Histogram(|s| &s.turn_own_time),
    ),
    row("ringfence_turn_own_max_seconds", "The longest of these times.", TimeGauge(|s| s.turn_own_time.max_ns)),
    row(
        "ringfence_turn_off_cpu_seconds_total",
        "Time in turns and slices longer than 250 µs in which the core's thread was not on a CPU.",
        TimeCounter(|s| s.turn_off_cpu_ns),
    ),
    row("ringfence_parks_total", "Times the core parked until the kernel woke it.", Counter(|s| s.parks)),
    row(
        "ringfence_output_paused_total",
        "Times a connection's reads paused because its replies were not taken.",
        Counter(|s| s.output_paused),
    ),
    row("ringfence_receive_starved_total", "Receives that found no free buffer.", Counter(|s| s.recv_starved)),
    row(
        "ringfence_hot_key_share",
        "The hottest keys' parts of the core's load, by operations and by bytes.",
        HotKeys(&[("ops", |s| &s.hot.by_ops), ("bytes", |s| &s.hot.by_bytes)]),
    ),
    row("ringfence_prefix_keys", "Keys of a prefix that is named in the configuration.", PrefixGauge(|p| p.keys)),
    row("ringfence_prefix_bytes", "Bytes of their records and values.", PrefixGauge(|p| p.bytes)),
    row("ringfence_prefix_hits_total", "Reads that found one.", PrefixCounter(|p| p.hits)),
    row("ringfence_prefix_misses_total", "Reads that found none.", PrefixCounter(|p| p.misses)),
    row(
        "ringfence_prefix_evicted_total",
        "Those evicted because the prefix took more than its own memory.",
        PrefixCounter(|p| p.evicted),
    ),
    row(
        "ringfence_largest_value_bytes",
        "The largest value that is known of; BIGKEYS names its key.",
        Gauge(|s| s.hot.big.first().map_or(0, |big| big.bytes)),
    ),
];

/// Writes the metrics of all cores. A core that did not answer in time is `None`
/// at its index: it shows as down, and its counters are left out.
pub fn render(cores: &[Option<CoreSnapshot>]) -> String {
    let mut out = String::with_capacity(4096 + cores.len() * 4096);
    head(&mut out, "ringfence_build_info", "The version that is running.", "gauge");
    line(&mut out, "ringfence_build_info", format_args!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    head(&mut out, "ringfence_core_up", "Whether the core answered in time.", "gauge");
    for (core, snapshot) in cores.iter().enumerate() {
        line(&mut out, "ringfence_core_up", format_args!("core=\"{core}\""), u64::from(snapshot.is_some()));
    }
    for metric in METRICS {
        head(&mut out, metric.name, metric.help, metric.value.kind());
        for snapshot in cores.iter().flatten() {
            samples(&mut out, metric, snapshot);
        }
    }
    out
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: std::fmt::Arguments<'_>, value: u64) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

fn samples(out: &mut String, metric: &Metric, snapshot: &CoreSnapshot) {
    let (name, core) = (metric.name, snapshot.core);
    match &metric.value {
        Counter(read) | Gauge(read) => line(out, name, format_args!("core=\"{core}\""), read(snapshot)),
        Families(read) => {
            for (family, count) in Family::names().iter().zip(read(snapshot)) {
                line(out, name, format_args!("core=\"{core}\",family=\"{family}\""), *count);
            }
        }
        Memory(kinds) => {
            for (kind, read) in *kinds {
                line(out, name, format_args!("core=\"{core}\",kind=\"{kind}\""), read(snapshot));
            }
        }
        HotKeys(kinds) => {
            for (by, read) in *kinds {
                for hot in read(snapshot).iter().take(HOT_KEYS_MAX) {
                    let key = label(&hot.key);
                    let share = hot.share_ppm as f64 / 1e6;
                    let _ = writeln!(out, "{name}{{core=\"{core}\",by=\"{by}\",key=\"{key}\"}} {share}");
                }
            }
        }
        PrefixCounter(read) | PrefixGauge(read) => {
            for prefix in &snapshot.prefixes {
                let label = label(&prefix.name);
                line(out, name, format_args!("core=\"{core}\",prefix=\"{label}\""), read(prefix));
            }
        }
        Histogram(read) => histogram(out, name, core, read(snapshot)),
        TimeCounter(read) | TimeGauge(read) => {
            let _ = writeln!(out, "{name}{{core=\"{core}\"}} {}", seconds(read(snapshot)));
        }
    }
}

fn histogram(out: &mut String, name: &str, core: usize, times: &TurnHistogram) {
    let mut below = 0;
    for (i, count) in times.buckets.iter().enumerate() {
        below += count;
        if !TurnHistogram::ends_doubling(i) {
            continue;
        }
        match TurnHistogram::bound_ns(i) {
            Some(ns) => {
                let _ = writeln!(out, "{name}_bucket{{core=\"{core}\",le=\"{}\"}} {below}", seconds(ns));
            }
            None => {
                let _ = writeln!(out, "{name}_bucket{{core=\"{core}\",le=\"+Inf\"}} {below}");
            }
        }
    }
    let _ = writeln!(out, "{name}_sum{{core=\"{core}\"}} {}", seconds(times.sum_ns));
    let _ = writeln!(out, "{name}_count{{core=\"{core}\"}} {}", times.count);
}

/// A key as the value of a label: readable, whatever bytes it has.
fn label(key: &[u8]) -> String {
    key.escape_ascii().to_string().replace('\\', r"\\").replace('"', r#"\""#)
}

/// Nanoseconds as seconds.
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn snapshot(core: usize) -> CoreSnapshot {
        let mut snapshot = CoreSnapshot { core, cpu: core + 2, forwards: 7, keys: 3, ..CoreSnapshot::default() };
        snapshot.ops[Family::Read as usize] = 11;
        snapshot.memory.dead = 4096;
        snapshot.prefixes = vec![PrefixStats { name: b"p:".to_vec(), keys: 2, ..PrefixStats::default() }];
        let hot = HotKey { key: b"a\"b\\\xff".to_vec(), amount: 1, share_ppm: 250_000, error_ppm: 0 };
        (snapshot.hot.by_ops, snapshot.hot.by_bytes) = (vec![hot.clone(); 1], vec![hot; 1]);
        for ns in [500, 1500, 1500, 3_000_000, 9_000_000_000] {
            snapshot.turn_time.record(ns);
        }
        snapshot
    }

    /// Checks the format and returns every sample by its name and labels.
    fn check(text: &str) -> BTreeMap<String, f64> {
        let mut samples = BTreeMap::new();
        let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
        let mut helped = BTreeSet::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help has words");
                assert!(helped.insert(name) && words.ends_with('.'), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helped.contains(name) && kinds.insert(name, kind).is_none(), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap();
                let owner = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end).filter(|base| kinds.get(base) == Some(&"histogram")));
                assert!(kinds.contains_key(owner.unwrap_or(name)), "{line} has no TYPE above it");
                for label in labels.strip_suffix('}').unwrap().split(',') {
                    let (label, value) = label.split_once('=').unwrap();
                    assert!(label.bytes().all(|b| b.is_ascii_lowercase()), "{line}");
                    assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
                }
                assert!(samples.insert(series.to_string(), value.parse().unwrap()).is_none(), "{line} is there twice");
            }
        }
        samples
    }

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in METRICS {
            let (name, kind) = (metric.name, metric.value.kind());
            assert!(names.insert(name), "{name} is declared twice");
            assert!(name.starts_with("ringfence_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        }
    }

    #[test]
    fn every_metric_has_a_sample_for_each_core_that_answered() {
        let samples = check(&render(&[Some(snapshot(0)), None, Some(snapshot(2))]));
        for metric in METRICS {
            for core in [0, 2] {
                let labels = format!("{{core=\"{core}\"");
                let found = samples.keys().any(|series| series.starts_with(metric.name) && series.contains(&labels));
                assert!(found, "{} has no sample of core {core}", metric.name);
            }
        }
        assert_eq!(samples["ringfence_core_up{core=\"0\"}"], 1.0);
        assert_eq!(samples["ringfence_core_up{core=\"1\"}"], 0.0);
        assert!(!samples.contains_key("ringfence_keys{core=\"1\"}"));
        assert_eq!(samples["ringfence_cross_core_forwards_total{core=\"2\"}"], 7.0);
        assert_eq!(samples["ringfence_core_cpu{core=\"2\"}"], 4.0);
        assert_eq!(samples["ringfence_prefix_keys{core=\"2\",prefix=\"p:\"}"], 2.0);
        assert_eq!(samples["ringfence_commands_total{core=\"0\",family=\"read\"}"], 11.0);
        assert_eq!(samples["ringfence_memory_bytes{core=\"0\",kind=\"dead\"}"], 4096.0);
        let hot = r#"ringfence_hot_key_share{core="0",by="ops",key="a\\\"b\\\\\\xff"}"#;
        assert_eq!(samples.get(hot), Some(&0.25), "{hot} in {samples:?}");
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_end_at_infinity() {
        let text = render(&[Some(snapshot(0))]);
        check(&text);
        let buckets: Vec<(f64, u64)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("ringfence_turn_duration_seconds_bucket{core=\"0\",le=\""))
            .map(|rest| rest.split_once("\"} ").unwrap())
            .map(|(bound, count)| (bound.replace("+Inf", "inf").parse().unwrap(), count.parse().unwrap()))
            .collect();
        assert_eq!(buckets.len(), 22);
        assert_eq!(buckets[..3], [(976e-9, 1), (1953e-9, 3), (3906e-9, 3)]);
        assert_eq!(buckets[11..13], [(0.002, 3), (0.004, 4)]);
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 5)));
        assert!(text.contains("ringfence_turn_duration_seconds_count{core=\"0\"} 5\n"));
        assert!(text.contains("ringfence_turn_duration_seconds_sum{core=\"0\"} 9.0030035\n"), "{text}");
    }

    #[test]
    fn a_process_without_answers_still_renders() {
        let samples = check(&render(&[None]));
        assert_eq!(samples.len(), 2, "build info and one core that is down");
    }
}
