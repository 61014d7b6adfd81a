//! The command line: what to load, with what, how hard, and what to report.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use ringfence::control::config::values::{CpuList, Span};

use crate::outcome::Objective;
use crate::peers::Spec;
use crate::wire::Protocol;
use crate::workload::{Distribution, Mix, Sizes, Ttls};

/// How requests find the server of their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Routing {
    /// All go to the target.
    Plain,
    /// Each goes to the node that owns its slot; MOVED and ASK are followed.
    Cluster,
}

/// How moments of sending are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// As independent users ask: gaps drawn from an exponential distribution.
    Poisson,
    /// Evenly.
    Fixed,
}

/// Load-tests a cache server, and says how far the figures can be trusted.
///
/// Requests follow a schedule that does not wait for replies (an open loop), and latency counts from the moment at
/// which a request was to be sent: a server that stalls is charged for every request that should have been sent
/// meanwhile. Every value says which key and which write it is, so wrong, torn, stale and lost replies fail the run.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringfence-bench", version, after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP)]
pub struct Cli {
    /// The server: a host and a port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379", help_heading = "Target")]
    pub target: String,

    /// What it speaks: resp2, resp3, memcache-text, memcache-meta or http [default: resp2].
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub protocol: Option<Protocol>,

    /// How requests find the server of their key: `cluster` fetches the slot map, talks to the owners and follows MOVED.
    #[arg(long, value_enum, default_value = "plain", help_heading = "Target")]
    pub routing: Routing,

    /// The user to be [default: the server's default user].
    #[arg(long, value_name = "NAME", requires = "password", help_heading = "Target")]
    pub user: Option<String>,

    /// The password. On a shared host give it by the environment: a command line can be seen.
    #[arg(long, value_name = "WORD", env = "RINGFENCE_PASSWORD", hide_env_values = true, help_heading = "Target")]
    pub password: Option<String>,

    /// Speak TLS.
    #[arg(long, help_heading = "Target")]
    pub tls: bool,

    /// Certificates to trust, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls", help_heading = "Target")]
    pub tls_ca: Option<PathBuf>,

    /// Trust any certificate: for tests.
    #[arg(long, requires = "tls", conflicts_with = "tls_ca", help_heading = "Target")]
    pub tls_insecure: bool,

    /// A certificate to show to the server, in PEM, and with --tls-key its key.
    #[arg(long, value_name = "FILE", requires = "tls", requires = "tls_key", help_heading = "Target")]
    pub tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Target")]
    pub tls_key: Option<PathBuf>,

    /// How long a connection or a reply may take before it counts as lost.
    #[arg(long, value_name = "TIME", default_value = "5s", help_heading = "Target")]
    pub timeout: Span,

    /// Requests per second, all connections together [default: 10000].
    #[arg(long, value_name = "N", conflicts_with = "closed", help_heading = "Load")]
    pub rate: Option<f64>,

    /// How the moments of sending are spaced.
    #[arg(long, value_enum, default_value = "poisson", help_heading = "Load")]
    pub arrivals: Arrivals,

    /// A closed loop instead: each connection asks again once it is answered, as redis-benchmark does.
    ///
    /// It measures throughput. Its latencies leave out what was not sent while it waited.
    #[arg(long, help_heading = "Load")]
    pub closed: bool,

    /// How long to measure [default: 10s].
    #[arg(long, value_name = "TIME", help_heading = "Load")]
    pub duration: Option<Span>,

    /// End after so many requests instead.
    #[arg(long, value_name = "N", conflicts_with = "duration", help_heading = "Load")]
    pub requests: Option<u64>,

    /// Load that is not measured, before what is [default: 1s; none with --requests or --trace].
    #[arg(long, value_name = "TIME", help_heading = "Load")]
    pub warmup: Option<Span>,

    /// Let the rate grow from zero during this time, before the warm-up.
    #[arg(long, value_name = "TIME", default_value = "0s", help_heading = "Load")]
    pub ramp: Span,

    /// Connections, all threads together; in a cluster, to each node.
    #[arg(long, value_name = "N", default_value_t = 50, help_heading = "Load")]
    pub connections: usize,

    /// Requests that a connection may have under way. In a closed loop they are sent together.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    pub pipeline: u32,

    /// Connections opened per second [default: all at once].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub connect_rate: Option<f64>,

    /// Replace each connection by a new one after so many requests.
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub reconnect: Option<u64>,

    /// A connect storm every so often: all connections are replaced at once.
    #[arg(long, value_name = "TIME", help_heading = "Load")]
    pub storm: Option<Span>,

    /// CPUs to make load on, one pinned thread each: `1`, `2-5` or `auto`.
    ///
    /// `auto` is every CPU that may be used, and the last one alone when the server is on this host.
    #[arg(long, value_name = "LIST", default_value = "auto", help_heading = "Load")]
    pub cpus: CpuList,

    /// A ready workload; `list` shows them. Options given beside it win.
    #[arg(long, value_name = "NAME", help_heading = "Workload")]
    pub preset: Option<String>,

    /// Weights of the requests: get, set, delete, mget [default: get=10,set=1].
    #[arg(long, value_name = "LIST", help_heading = "Workload")]
    pub mix: Option<Mix>,

    /// Keys there are [default: 100000].
    #[arg(long, value_name = "N", help_heading = "Workload")]
    pub keys: Option<u64>,

    /// Which keys are asked for: `uniform`, `zipf:0.99` or `hotspot:1%:90%` [default: uniform].
    #[arg(long, value_name = "HOW", help_heading = "Workload")]
    pub distribution: Option<Distribution>,

    /// Sizes of values: `64`, `64-1024`, `64:70,1KiB:25,100KiB:5` or `lognormal:224B:1.5` [default: 64].
    #[arg(long, value_name = "SIZES", help_heading = "Workload")]
    pub value_size: Option<Sizes>,

    /// Sizes of keys, as for values [default: 16].
    #[arg(long, value_name = "SIZES", help_heading = "Workload")]
    pub key_size: Option<Sizes>,

    /// What keys begin with.
    #[arg(long, value_name = "WORD", default_value = "key:", help_heading = "Workload")]
    pub key_prefix: String,

    /// Times to live: `none`, `60s`, `1s-60s` or `60s:80,1h:15,none:5` [default: none].
    #[arg(long, value_name = "TIMES", help_heading = "Workload")]
    pub ttl: Option<Ttls>,

    /// Keys of one mget [default: 10].
    #[arg(long, value_name = "N", help_heading = "Workload")]
    pub mget_keys: Option<u32>,

    /// Write a key when a read misses it, as an application does that caches what it reads.
    #[arg(long, help_heading = "Workload")]
    pub fill_on_miss: bool,

    /// Replay the requests of a file: each is a get, and a set where it misses.
    ///
    /// Formats: lines of `time id size`, `.be32` (big-endian ids), `.oracleGeneral.bin`; each also as `.xz`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "mix", "keys", "distribution"], help_heading = "Workload")]
    pub trace: Option<PathBuf>,

    /// Do not write every key once before the load begins.
    #[arg(long, help_heading = "Workload")]
    pub no_prefill: bool,

    /// Do not check replies against what was written.
    #[arg(long, help_heading = "Workload")]
    pub no_verify: bool,

    /// The same number draws the same keys, sizes and moments [default: another one each time].
    #[arg(long, value_name = "N", help_heading = "Workload")]
    pub seed: Option<u64>,

    /// An objective: `p99.9=1ms`, or several with commas.
    ///
    /// With --rate, the run must meet it. Without, the highest rate that meets it is searched for.
    #[arg(long, value_name = "LIST", help_heading = "Objective")]
    pub slo: Option<Objectives>,

    /// How long each rate is tried in a search. The one that is found is confirmed for the whole --duration.
    #[arg(long, value_name = "TIME", default_value = "3s", help_heading = "Objective")]
    pub step: Span,

    /// A server to compare: `NAME=COMMAND` or `NAME@PROTOCOL=COMMAND`, with {port} in it. May be repeated.
    ///
    /// Each is started here, and all but the one that is being measured stand still. The first is what the
    /// others are compared with.
    #[arg(long, value_name = "NAME=COMMAND", help_heading = "Comparison")]
    pub against: Vec<Spec>,

    /// Rounds, in each of which every server is measured once.
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Comparison")]
    pub rounds: usize,

    /// CPUs for the servers that are compared [default: those that make no load].
    #[arg(long, value_name = "LIST", default_value = "auto", help_heading = "Comparison")]
    pub server_cpus: CpuList,

    /// Print the result as JSON instead of a table.
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Write a row for each interval to this file.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub csv: Option<PathBuf>,

    /// Write the latency distribution in HdrHistogram's own format to this file.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hgrm: Option<PathBuf>,

    /// Write a page with plots to this file; it needs no network.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
}

const AFTER_HELP: &str = "--help says more.";

const AFTER_LONG_HELP: &str = "\
Examples:
  ringfence-bench --rate 50000 --duration 30s
      What do latencies look like at 50,000 requests per second?
  ringfence-bench --slo p99.9=1ms --html report.html
      How much load holds within 1 ms at p99.9?
  ringfence-bench --closed --connections 50 --pipeline 16
      How much does it take at most? (the loop of redis-benchmark)
  ringfence-bench --target cache1:11211 --protocol memcache-meta --preset twitter-cluster-18
      A workload that was measured in production, on memcached.
  ringfence-bench --trace requests.be32.xz --closed --value-size 224
      The hit ratio on a real trace.
  ringfence-bench --closed --pipeline 16 \\
      --against 'redis=redis-server --port {port} --save \"\"' \\
      --against 'memcached@memcache-text=memcached -p {port} -t 1'
      What does each cost per request, side by side?

Exit code:
  0    valid, and every objective met
  1    the run proves nothing or failed: the generator was late, replies were wrong or lost, an objective was missed
  2    it did not come to a run: wrong options, no server, a server that closes or answers something else
  130  interrupted; once the load has begun, the report of what ran is printed";

/// The command line as a report shows it: without the password.
pub fn shown(words: impl Iterator<Item = String>) -> String {
    const HIDDEN: &str = "***";
    let mut hides = false;
    let shown = words.map(|word| match word.strip_prefix("--password=") {
        _ if std::mem::replace(&mut hides, word == "--password") => HIDDEN.to_owned(),
        Some(_) => format!("--password={HIDDEN}"),
        None => word,
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// Objectives, separated by commas.
#[derive(Clone, Debug, PartialEq)]
pub struct Objectives(pub Vec<Objective>);

impl FromStr for Objectives {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(objective).collect::<Result<_, _>>().map(Self)
    }
}

fn objective(text: &str) -> Result<Objective, String> {
    let wrong =
        || format!("`{text}` is not an objective: write a percentile and a time, such as p99.9=1ms or max=20ms");
    let (name, limit) = text.trim().split_once('=').ok_or_else(wrong)?;
    let percentile = match name.trim() {
        "max" => 100.0,
        name => name.strip_prefix('p').and_then(|number| number.parse().ok()).ok_or_else(wrong)?,
    };
    let limit: Duration = limit.parse::<Span>().map_err(|_| wrong())?.0;
    if !(0.0..=100.0).contains(&percentile) || limit.is_zero() {
        return Err(wrong());
    }
    Ok(Objective { percentile, limit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_report_does_not_show_the_password() {
        let shown = |line: &str| shown(line.split(' ').map(str::to_owned));
        assert_eq!(shown("bench --user me --password secret --keys 5"), "bench --user me --password *** --keys 5");
        assert_eq!(shown("bench --password=a=b --password"), "bench --password=*** --password");
        assert_eq!(shown("bench --password --password x"), "bench --password *** ***");
        assert_eq!(shown("bench --target a:1"), "bench --target a:1");
    }

    #[test]
    fn objectives_are_read_as_people_write_them() {
        let of = |percentile, limit| Objective { percentile, limit };
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        assert_eq!("p99.9=1ms".parse(), Ok(Objectives(vec![of(99.9, ms(1))])));
        assert_eq!("p50=200us, max=20ms".parse(), Ok(Objectives(vec![of(50.0, us(200)), of(100.0, ms(20))])));
        for wrong in
            ["", "p99.9", "99.9=1ms", "p101=1ms", "p99=1", "p99=0ms", "pfast=1ms", "p99=1ms,", "p-1=1ms", "pNaN=1ms"]
        {
            assert!(wrong.parse::<Objectives>().is_err_and(|e| e.contains("p99.9=1ms")), "{wrong}");
        }
    }
}
