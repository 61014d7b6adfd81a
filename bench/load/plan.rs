//! From the command line to a plan: everything that can be refused is refused here,
//! with the option's name, before the first byte is sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence::base::units::format_size;
use ringfence::control::config::values::CpuList;
use ringfence::control::host::HostFacts;
use ringfence::io::clock;

use crate::cli::{Arrivals, Cli, Routing};
use crate::fleet::Offer;
use crate::outcome::{Objective, Pace};
use crate::peers::Spec;
use crate::process;
use crate::report::format;
use crate::search;
use crate::target::{SlotMap, Target};
use crate::tls;
use crate::verify::{Ledger, Stamper, TOLERANCE_MS, TOLERANCE_SECONDS_MS};
use crate::wire::{Credentials, Protocol};
use crate::worker::Setup;
use crate::workload::presets::{self, Preset};
use crate::workload::{Distribution, KeyNames, Mix, Picker, Sizes, Trace, Ttls};

const RATE_DEFAULT: f64 = 10_000.0;
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const WARMUP_DEFAULT: Duration = Duration::from_secs(1);
const CONNECTIONS_MAX: usize = 1_000_000;
const PIPELINE_MAX: u32 = 10_000;
const MGET_KEYS_MAX: u32 = 10_000;
/// Keys that share a slot where a cluster has to read several at once.
const GROUP: u64 = 64;
/// A word of the ledger is 8 bytes: 32 GiB of them.
const KEYS_MAX: u64 = 1 << 32;
/// Descriptors beside those of connections.
const DESCRIPTORS_EXTRA: u64 = 100;

/// What is asked for.
#[derive(Debug)]
pub struct Workload {
    /// How many keys there are.
    pub keys: u64,
    /// How they are called.
    pub names: KeyNames,
    /// Which is asked for.
    pub distribution: Distribution,
    /// Sizes of names.
    pub key_sizes: Sizes,
    /// Sizes of values.
    pub value_sizes: Sizes,
    /// Times to live.
    pub ttls: Ttls,
    /// Kinds of request.
    pub mix: Mix,
    /// Keys of one read of several.
    pub mget_keys: u32,
    /// Keys that share a slot, if that matters.
    pub group: Option<u64>,
    /// What is replayed instead.
    pub trace: Option<Arc<Trace>>,
    /// Its file.
    pub trace_file: Option<PathBuf>,
    /// The preset, by name.
    pub preset: Option<&'static Preset>,
    /// Whether a miss is followed by a write.
    pub fill_on_miss: bool,
    /// Whether every key is written before the load.
    pub prefill: bool,
}

/// What a measurement looks for.
#[derive(Debug)]
pub enum Goal {
    /// One load.
    Measure,
    /// The highest load that meets the objectives, each tried for so long.
    Search(Duration),
    /// Servers side by side, in so many rounds, on these CPUs.
    Compare(Vec<Spec>, usize, Vec<usize>),
}

/// Everything that was asked for, checked.
#[derive(Debug)]
pub struct Plan {
    /// Where the server is; in a comparison nowhere yet.
    pub target: Option<Target>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether requests are routed by slot.
    pub routing: Routing,
    /// Who to be.
    pub credentials: Option<Credentials>,
    /// Whom to trust, with TLS.
    pub tls: Option<tls::Options>,
    /// How long things may take.
    pub timeout: Duration,
    /// CPUs to make load on.
    pub cpus: Vec<usize>,
    /// How requests are offered.
    pub offer: Offer,
    /// What is asked for.
    pub workload: Workload,
    /// What is to be met.
    pub objectives: Vec<Objective>,
    /// What is looked for.
    pub goal: Goal,
    /// The rest of the options, where they need no change.
    pub cli: Cli,
    /// Decides every draw.
    pub seed: u64,
}

impl Plan {
    /// Checks the options against each other and against this host.
    ///
    /// # Errors
    /// One line that names the option and the remedy.
    pub fn new(cli: Cli) -> Result<Self, String> {
        let host = HostFacts::read().map_err(|error| error.to_string())?;
        let protocol = cli.protocol.unwrap_or(Protocol::Resp2);
        check_numbers(&cli)?;
        check_combinations(&cli, protocol)?;
        let tls = cli.tls.then(|| tls::Options {
            ca: cli.tls_ca.clone(),
            insecure: cli.tls_insecure,
            identity: cli.tls_cert.clone().zip(cli.tls_key.clone()),
        });
        let target = if cli.against.is_empty() { Some(Target::resolve(&cli.target, tls.as_ref())?) } else { None };
        let is_local = target.as_ref().is_none_or(|target| process::is_local(target.address));
        let cpus = cpus("--cpus", &cli.cpus, &host.affinity)?;
        let cpus = cpus.unwrap_or_else(|| default_cpus(&host.affinity, is_local, cli.connections));
        if cli.connections < cpus.len() {
            let (connections, threads) = (cli.connections, cpus.len());
            return Err(format!(
                "--connections: {connections} cannot be shared by the threads of {threads} --cpus: give at least {threads}"
            ));
        }
        let workload = workload(&cli, protocol)?;
        let goal = goal(&cli, &host.affinity, &cpus)?;
        let needed = cli.connections as u64 + DESCRIPTORS_EXTRA;
        if needed > host.file_descriptors_max {
            let max = host.file_descriptors_max;
            return Err(format!(
                "--connections: {needed} open files are needed, and {max} are allowed: raise `ulimit -Hn`"
            ));
        }
        Ok(Self {
            target,
            protocol,
            routing: cli.routing,
            credentials: cli.password.clone().map(|password| Credentials { user: cli.user.clone(), password }),
            tls,
            timeout: cli.timeout.0,
            cpus,
            offer: offer(&cli, &workload),
            workload,
            objectives: cli.slo.clone().map(|slo| slo.0).unwrap_or_default(),
            goal,
            seed: cli.seed.unwrap_or_else(clock::random_seed),
            cli,
        })
    }

    /// What the workers of a server at `address` are told.
    ///
    /// # Errors
    /// One line: a name that the protocol does not take.
    pub fn setup(&self, target: &Target, protocol: Protocol, map: Option<SlotMap>) -> Result<Setup, String> {
        let workload = &self.workload;
        let mut name = Vec::new();
        workload.names.write(workload.keys - 1, &mut name);
        if !protocol.takes_key(&name) {
            return Err(format!("--key-prefix: {protocol} takes no key such as `{}`", name.escape_ascii()));
        }
        let (nodes, slots) = map.map_or((vec![target.address], None), |map| (map.nodes, Some(map.owners)));
        let seconds = matches!(protocol, Protocol::MemcacheText | Protocol::MemcacheMeta);
        let biggest =
            workload.trace.as_ref().and_then(|t| t.requests.iter().map(|r| r.bytes as usize).max()).unwrap_or(0);
        Ok(Setup {
            protocol,
            credentials: self.credentials.clone(),
            authority: target.authority.clone(),
            tls: target.tls.clone(),
            nodes,
            slots,
            workers: self.cpus.len(),
            clients: self.cli.connections,
            pipeline: self.cli.pipeline,
            keys: workload.keys,
            names: workload.names.clone(),
            picker: Picker::new(&workload.distribution, workload.keys),
            value_sizes: workload.value_sizes.clone(),
            ttls: workload.ttls.clone(),
            ttl_unit_ms: if seconds { 1000 } else { 1 },
            mix: workload.mix.clone(),
            mget_keys: workload.mget_keys,
            group: workload.group,
            fill_on_miss: workload.fill_on_miss,
            stamper: Arc::new(Stamper::new(clock::random_seed() as u32, biggest.max(workload.value_sizes.max()))),
            ledger: Arc::new(Ledger::new(workload.keys)),
            verify: !self.cli.no_verify,
            late_ms: if seconds { TOLERANCE_SECONDS_MS } else { TOLERANCE_MS },
            connect_rate: self.cli.connect_rate,
            reconnect: self.cli.reconnect,
            storm: self.cli.storm.map(|span| span.0),
            timeout: self.timeout,
            seed: self.seed,
            epoch: Instant::now(),
            epoch_unix: clock::unix_us() / 1_000_000,
        })
    }

    /// What is measured, as named lines for the reports.
    pub fn describe(&self) -> Vec<(String, String)> {
        let workload = &self.workload;
        let mut lines = Vec::new();
        let mut line = |name: &str, text: String| lines.push((name.to_owned(), text));
        if let Some(target) = &self.target {
            line("target", target.authority.clone());
            line("protocol", format!("{}{}", self.protocol, if self.tls.is_some() { " over TLS" } else { "" }));
        }
        if self.routing == Routing::Cluster {
            line("routing", "cluster".into());
        }
        line("connections", format!("{}, pipeline {}", self.cli.connections, self.cli.pipeline));
        if let Some(preset) = workload.preset {
            line("preset", format!("{}: {}", preset.name, preset.about));
        }
        match &workload.trace_file {
            Some(file) => line("trace", file.display().to_string()),
            None => {
                line("mix", workload.mix.to_string());
                line("keys", format!("{}, {}", workload.keys, workload.distribution));
            }
        }
        line("key size", workload.key_sizes.to_string());
        line("value size", workload.value_sizes.to_string());
        if workload.trace.is_none() {
            let bytes = workload.keys as f64 * (workload.key_sizes.mean() + workload.value_sizes.mean());
            line("data", format!("{} of keys and values", format_size(bytes as u64)));
        }
        line("ttl", workload.ttls.to_string());
        if workload.mix.share(crate::outcome::Kind::Mget) > 0.0 {
            line("keys of an mget", workload.mget_keys.to_string());
        }
        let written = if workload.prefill { "every key once" } else { "nothing" };
        line("written before", written.into());
        if workload.fill_on_miss {
            line("on a miss", "set".into());
        }
        line("verification", if self.cli.no_verify { "off" } else { "on" }.into());
        line("seed", self.seed.to_string());
        lines
    }
}

fn check_numbers(cli: &Cli) -> Result<(), String> {
    let rate = |name: &str, rate: Option<f64>| match rate {
        Some(rate) if !(rate.is_finite() && (0.001..=search::RATE_MAX).contains(&rate)) => {
            let most = format::rate(search::RATE_MAX);
            Err(format!("{name}: {rate} is no rate: give a number of events per second, from 0.001 to {most}"))
        }
        _ => Ok(()),
    };
    rate("--rate", cli.rate)?;
    rate("--connect-rate", cli.connect_rate)?;
    let positive =
        |name: &str, is_zero: bool| if is_zero { Err(format!("{name}: 0 is too little: give more")) } else { Ok(()) };
    positive("--connections", cli.connections == 0)?;
    positive("--pipeline", cli.pipeline == 0)?;
    positive("--requests", cli.requests == Some(0))?;
    positive("--reconnect", cli.reconnect == Some(0))?;
    positive("--rounds", cli.rounds == 0)?;
    positive("--keys", cli.keys == Some(0))?;
    positive("--mget-keys", cli.mget_keys == Some(0))?;
    let zero = |span: Option<ringfence::control::config::values::Span>| span.is_some_and(|span| span.0.is_zero());
    positive("--duration", zero(cli.duration))?;
    positive("--storm", zero(cli.storm))?;
    positive("--timeout", cli.timeout.0.is_zero())?;
    positive("--step", cli.step.0.is_zero())?;
    let at_most = |name: &str, number: u64, max: u64| {
        if number > max { Err(format!("{name}: {number} is too much: give at most {max}")) } else { Ok(()) }
    };
    at_most("--connections", cli.connections as u64, CONNECTIONS_MAX as u64)?;
    at_most("--pipeline", cli.pipeline.into(), PIPELINE_MAX.into())?;
    at_most("--mget-keys", cli.mget_keys.unwrap_or(1).into(), MGET_KEYS_MAX.into())?;
    at_most("--keys", cli.keys.unwrap_or(1), KEYS_MAX)?;
    at_most("--rounds", cli.rounds as u64, 1000)
}

fn check_combinations(cli: &Cli, protocol: Protocol) -> Result<(), String> {
    for (option, word) in [("--user", &cli.user), ("--password", &cli.password)] {
        if word.as_ref().is_some_and(|word| word.chars().any(char::is_control)) {
            return Err(format!("{option}: it has a control character in it, which no protocol carries: leave it out"));
        }
    }
    let is_resp = matches!(protocol, Protocol::Resp2 | Protocol::Resp3);
    if cli.routing == Routing::Cluster && !is_resp {
        return Err(format!("--routing cluster: {protocol} has no slots: give --protocol resp2 or resp3"));
    }
    if cli.closed && !cli.ramp.0.is_zero() {
        return Err("--ramp: a closed loop has no rate that could grow: leave out --ramp or --closed".into());
    }
    if cli.slo.is_some() && cli.closed {
        return Err("--slo: a closed loop says nothing about latency at a load: leave out --closed".into());
    }
    if cli.slo.is_some() && cli.rate.is_none() && cli.requests.is_some() {
        return Err("--requests: a search goes by time: give --step and --duration, or a --rate".into());
    }
    if cli.against.is_empty() {
        return Ok(());
    }
    if cli.slo.is_some() && cli.rate.is_none() {
        return Err("--against: give a --rate (or --closed) at which the servers are compared, not a search".into());
    }
    if cli.routing == Routing::Cluster {
        return Err("--against: the servers are started one by one, not as a cluster: give --routing plain".into());
    }
    Ok(())
}

/// The CPUs of an option; `None` for `auto`.
fn cpus(option: &str, list: &CpuList, affinity: &[usize]) -> Result<Option<Vec<usize>>, String> {
    let CpuList::These(cpus) = list else { return Ok(None) };
    match cpus.iter().find(|cpu| !affinity.contains(cpu)) {
        Some(cpu) => Err(format!("{option}: CPU {cpu} is not among those that this process may use: {affinity:?}")),
        None => Ok(Some(cpus.clone())),
    }
}

fn default_cpus(affinity: &[usize], is_local: bool, connections: usize) -> Vec<usize> {
    // Beside a server the load keeps to one CPU: the last, since servers take the first ones.
    let count = if is_local { 1 } else { affinity.len().min(connections) };
    affinity[affinity.len() - count.min(affinity.len())..].to_vec()
}

fn goal(cli: &Cli, affinity: &[usize], load_cpus: &[usize]) -> Result<Goal, String> {
    if !cli.against.is_empty() {
        let mut names: Vec<&str> = cli.against.iter().map(|spec| spec.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("--against: two servers are called {}: give each a name of its own", twice[0]));
        }
        let others = || affinity.iter().copied().filter(|cpu| !load_cpus.contains(cpu)).collect::<Vec<_>>();
        let cpus = cpus("--server-cpus", &cli.server_cpus, affinity)?.unwrap_or_else(others);
        return Ok(Goal::Compare(cli.against.clone(), cli.rounds, cpus));
    }
    let Some(slo) = cli.slo.as_ref().filter(|_| cli.rate.is_none()) else { return Ok(Goal::Measure) };
    if search::rate_min(&slo.0, cli.step.0) > search::RATE_MAX {
        let step = cli.step.0;
        return Err(format!("--step: within {step:?} there are too few requests to tell the --slo: give a longer one"));
    }
    Ok(Goal::Search(cli.step.0))
}

fn offer(cli: &Cli, workload: &Workload) -> Offer {
    let by_count = cli.requests.is_some() || workload.trace.is_some() && cli.duration.is_none();
    let warmup = cli.warmup.map(|span| span.0);
    Offer {
        pace: match cli.closed {
            true => Pace::Closed,
            false => Pace::Open { rate: cli.rate.unwrap_or(RATE_DEFAULT), poisson: cli.arrivals == Arrivals::Poisson },
        },
        trace: workload.trace.clone(),
        ramp: cli.ramp.0,
        warmup: warmup.unwrap_or(if by_count { Duration::ZERO } else { WARMUP_DEFAULT }),
        duration: if by_count { None } else { Some(cli.duration.map_or(DURATION_DEFAULT, |span| span.0)) },
        requests: cli.requests,
        server: Vec::new(),
    }
}

fn workload(cli: &Cli, protocol: Protocol) -> Result<Workload, String> {
    let preset = match &cli.preset {
        None => None,
        Some(name) => {
            let found = presets::preset(name);
            Some(found.ok_or_else(|| format!("--preset: there is no `{name}`: `--preset list` shows what there is"))?)
        }
    };
    let trace = match &cli.trace {
        None => None,
        Some(file) => Some(Arc::new(Trace::read(file, None).map_err(|error| format!("--{error}"))?)),
    };
    let or_preset = |text: fn(&Preset) -> &'static str, default: &'static str| preset.map_or(default, text);
    let keys = match &trace {
        Some(trace) => trace.keys as u64,
        None => cli.keys.unwrap_or_else(|| or_preset(|p| p.keys, "100000").parse().expect("a preset's number")),
    };
    let mix = cli.mix.clone().unwrap_or_else(|| or_preset(|p| p.mix, "get=10,set=1").parse().expect("a preset's mix"));
    let mget_keys =
        cli.mget_keys.unwrap_or_else(|| or_preset(|p| p.mget_keys, "10").parse().expect("a preset's number"));
    let reads_many = trace.is_none() && mix.share(crate::outcome::Kind::Mget) > 0.0;
    if reads_many && !protocol.has_mget() {
        return Err(format!("--mix: {protocol} has no request for several keys: leave mget out"));
    }
    let group = (reads_many && cli.routing == Routing::Cluster).then_some(GROUP);
    let key_sizes = match (&cli.key_size, preset) {
        (Some(sizes), _) => sizes.clone(),
        (None, Some(preset)) => preset.key_size.parse().expect("a preset's sizes"),
        // As short as names can be, and at least as long as redis-benchmark's.
        (None, None) => KeyNames::size_min(&cli.key_prefix, group.is_some())
            .max(16)
            .to_string()
            .parse()
            .expect("a number is a size"),
    };
    let names = KeyNames::new(&cli.key_prefix, &key_sizes, keys, group).map_err(|error| {
        let option = if error.starts_with("the prefix") { "--key-prefix" } else { "--key-size" };
        format!("{option}: {error}")
    })?;
    let text = |text: fn(&Preset) -> &'static str, default| or_preset(text, default);
    Ok(Workload {
        keys,
        names,
        distribution: (cli.distribution)
            .unwrap_or_else(|| text(|p| p.distribution, "uniform").parse().expect("a preset's distribution")),
        key_sizes,
        value_sizes: (cli.value_size.clone())
            .unwrap_or_else(|| text(|p| p.value_size, "64").parse().expect("a preset's sizes")),
        ttls: cli.ttl.clone().unwrap_or_else(|| text(|p| p.ttl, "none").parse().expect("a preset's times")),
        prefill: !cli.no_prefill && trace.is_none() && mix.reads(),
        fill_on_miss: cli.fill_on_miss || trace.is_some(),
        mix,
        mget_keys,
        group,
        trace,
        trace_file: cli.trace.clone(),
        preset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::net::UdpSocket;

    /// Whatever address of this machine the server is asked at, it needs the other CPUs.
    #[test]
    fn beside_a_server_the_load_keeps_to_one_cpu() {
        // Connecting such a socket sends nothing: it asks the kernel which address it would use.
        let route = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").map(|()| socket));
        let own = route.and_then(|socket| socket.local_addr()).map(|address| address.ip().to_string());
        for ip in ["127.0.0.1".to_owned(), "127.9.9.9".to_owned()].into_iter().chain(own) {
            let cli = Cli::parse_from(["ringfence-bench", "--target", &format!("{ip}:6379")]);
            let plan = Plan::new(cli).expect("the options are right");
            assert_eq!(plan.cpus.len(), 1, "{ip}");
        }
    }
}
