//! The server: command line, configuration, start, signals, exit code.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;

use ringfence::base::units::format_size;
use ringfence::control::admin::Admin;
use ringfence::control::cli::Cli;
use ringfence::control::host::{self, HostFacts};
use ringfence::control::logging;
use ringfence::control::panic;
use ringfence::control::plan::Plan;
use ringfence::io::{CORE_MEMORY, Server};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringfence: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // First of all, so that a signal during the start is kept until it is over and then ends it in order.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let config = cli.load()?;
    if cli.print_config {
        print!("{}", config.print());
        return Ok(ExitCode::SUCCESS);
    }
    let mut plan = config.plan(&HostFacts::read()?, CORE_MEMORY)?;
    let passwords = config.passwords(&mut plan.notes)?;
    if cli.check_config {
        print!("{plan}");
        return Ok(ExitCode::SUCCESS);
    }
    logging::init(&plan.log)?;
    panic::stop_the_process();
    rlimit::increase_nofile_limit(plan.file_descriptors)?;
    raise_locked_memory(plan.cores.len() as u64)?;
    if let Some(cpu) = plan.control_cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    }
    let server = Arc::new(Server::start(&plan, passwords)?);
    let admin = plan.listen.admin.map(|address| {
        Admin::start(address, server.clone()).map_err(|error| {
            format!("listen.admin_port: cannot listen on {address}: {error}: choose another port, or 0 for none")
        })
    });
    let admin = admin.transpose()?;
    announce(&plan);
    let watched = server.clone();
    std::thread::spawn(move || end_with_a_core(&watched));
    let counted = server.clone();
    std::thread::spawn(move || count_huge_pages(&counted));
    let signal = signals.forever().next();
    info!(signal, "stopping");
    let in_order = server.stop();
    drop(admin);
    info!(in_order, "stopped");
    Ok(if in_order { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Memory that a core's rings and their buffers lock, as far as the kernel counts it:
/// Linux does since 6.14, and only without CAP_IPC_LOCK.
const LOCKED_BYTES_PER_CORE: u64 = 512 << 10;
/// The executors refuse to start below this, whoever runs them.
const LOCKED_BYTES_MIN: u64 = 512 << 10;

/// Raises the limit of locked memory to what the cores may need, as far as this process may.
fn raise_locked_memory(cores: u64) -> Result<(), String> {
    let limit = rlimit::Resource::MEMLOCK;
    let needed = LOCKED_BYTES_PER_CORE * (cores + 1);
    let (soft, hard) = limit.get().map_err(|error| format!("memlock: {error}"))?;
    if soft >= needed || limit.set(needed, hard.max(needed)).is_ok() || limit.set(hard.min(needed), hard).is_ok() {
        let soft = limit.get().map_or(soft, |(soft, _)| soft);
        if soft >= LOCKED_BYTES_MIN {
            return Ok(());
        }
    }
    Err(format!(
        "memlock: {} of locked memory are allowed, and the rings may need {}: raise that with `ulimit -l {}`, \
         systemd's LimitMEMLOCK= or Docker's --ulimit memlock=-1",
        format_size(hard),
        format_size(needed),
        needed >> 10
    ))
}

/// A core that ends would leave its keys unreachable as well.
fn end_with_a_core(server: &Server) {
    if let Some((core, reason)) = server.watch() {
        eprintln!("ringfence: core {core} ended: {reason}");
        std::process::exit(1);
    }
}

/// How often the huge pages are counted, which takes the kernel some milliseconds.
const HUGE_PAGES_EVERY: Duration = Duration::from_secs(10);

/// Keeps the count of huge pages up to date. Where the kernel does not tell, it stays 0.
fn count_huge_pages(server: &Server) {
    while let Ok(bytes) = host::huge_page_bytes() {
        server.huge_page_bytes().store(bytes, Ordering::Relaxed);
        std::thread::sleep(HUGE_PAGES_EVERY);
    }
}

fn announce(plan: &Plan) {
    plan.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let (version, cores, idle) = (env!("CARGO_PKG_VERSION"), plan.cores.len(), plan.idle.to_string());
    let (memcached_port, http_port) = (plan.listen.memcached_port, plan.listen.http_port);
    info!(version, cores, idle, port = plan.listen.port, memcached_port, http_port, "serving");
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        eprintln!("ringfence {version}\n{plan}idle: {idle}\nCtrl-C stops it.");
    }
}
