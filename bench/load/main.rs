//! `ringfence-bench`: a load harness for cache servers.
//!
//! | module | owns |
//! |---|---|
//! | `cli`, `plan` | what was asked for; everything that can be refused before the first byte |
//! | `workload` | which key, which size, which operation: presets, distributions, traces |
//! | `schedule` | when requests are due |
//! | `wire` | requests to bytes, bytes to replies, for each protocol |
//! | `verify` | values that say what they are, and which of them a read may see |
//! | `worker` | a thread with its ring, and the clients on it |
//! | `fleet`, `gathering` | all workers as one; what they measured, put together |
//! | `target`, `tls`, `peers`, `process` | the server: first contact, its trust, started by us, what it costs |
//! | `search`, `faults` | the climb to the highest rate; what speaks against a run |
//! | `outcome`, `report`, `live` | what was found out, and how it is shown |
//!
//! The pure modules are `workload`, `schedule`, `wire`, `verify`, `search`,
//! `faults`, `outcome` and `report`: no I/O, no clock, chance by seed.

mod cli;
mod faults;
mod files;
mod fleet;
mod gathering;
mod live;
mod measure;
mod outcome;
mod peers;
mod plan;
mod process;
mod report;
mod schedule;
mod search;
mod target;
mod tls;
mod verify;
mod wire;
mod worker;
mod workload;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use clap::error::ErrorKind;
use ringfence::io::clock;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::Cli;
use crate::files::Files;
use crate::outcome::Report;
use crate::plan::Plan;
use crate::report::verdict::{self, Verdict};
use crate::worker::Failure;
use crate::workload::presets;

/// The exit code of a run that was not to be: wrong options, no server, or one that breaks off.
const NO_RUN: u8 = 2;
/// The exit code of a run that proves nothing, or failed.
const FAULTY: u8 = 1;
/// The exit code after Ctrl-C, as shells count it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    if cli.preset.as_deref() == Some("list") {
        return list_presets();
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    match run(cli, &interrupted) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("ringfence-bench: {}", failure.0);
            ExitCode::from(if interrupted.load(Ordering::Relaxed) { INTERRUPTED } else { NO_RUN })
        }
    }
}

/// Help goes where help goes; a wrong option is one line, and where to read on.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let printed = error.print();
        return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(NO_RUN) };
    }
    let text = error.to_string();
    // What is wrong and what would be right; not the usage and the pointer to it, which fill a screen.
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let line = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    eprintln!("ringfence-bench: {}: --help shows the options", line.trim_start_matches("error: "));
    ExitCode::from(NO_RUN)
}

fn list_presets() -> ExitCode {
    for preset in presets::all() {
        println!("{}: {}", preset.name, preset.about);
        println!(
            "    --keys {} --key-size {} --value-size {} --ttl {} --mix {} --distribution {}",
            preset.keys, preset.key_size, preset.value_size, preset.ttl, preset.mix, preset.distribution
        );
    }
    ExitCode::SUCCESS
}

fn run(cli: Cli, interrupted: &Arc<AtomicBool>) -> Result<ExitCode, Failure> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let flag = signal_hook::flag::register(signal, interrupted.clone());
        flag.map_err(|error| Failure(format!("no handler for Ctrl-C: {error}")))?;
    }
    let plan = Plan::new(cli).map_err(Failure)?;
    raise_limits();
    let files = Files::open(&plan.cli).map_err(Failure)?;
    let began = clock::unix_us() / 1_000_000;
    let mut live = live::Live::new();
    let outcome = measure::measure(&plan, interrupted, &mut live);
    live.clear();
    let report = Report {
        command: cli::shown(std::env::args()),
        began,
        setup: plan.describe(),
        host: host(&plan),
        objectives: plan.objectives.clone(),
        outcome: outcome?,
    };
    // The files first: they do not depend on whether somebody still reads what is printed.
    files.write(&report).map_err(Failure)?;
    show(&report, &plan)?;
    Ok(code(&report))
}

fn show(report: &Report, plan: &Plan) -> Result<(), Failure> {
    let text = if plan.cli.json {
        report::json::render(report)
    } else {
        report::text::render(report, std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure(format!("the report cannot be printed: {error}")))
}

/// As many descriptors and as much locked memory as this process may have.
fn raise_limits() {
    // What is then still missing is said where it is missed.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    if let Ok((_, hard)) = rlimit::Resource::MEMLOCK.get() {
        let _ = rlimit::Resource::MEMLOCK.set(hard, hard);
    }
}

fn host(plan: &Plan) -> Vec<(String, String)> {
    let read = |file: &str| std::fs::read_to_string(file).map(|text| text.trim().to_owned());
    let mut lines = vec![("ringfence-bench".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    if let Ok(kernel) = read("/proc/sys/kernel/osrelease") {
        lines.push(("kernel".into(), kernel));
    }
    if let Ok(info) = read("/proc/cpuinfo")
        && let Some(model) = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'))
    {
        lines.push(("processor".into(), model.1.trim().to_owned()));
    }
    let cpus = plan.cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    lines.push(("CPUs of the load".into(), cpus));
    lines
}

/// What the report says, as a number.
fn code(report: &Report) -> ExitCode {
    match verdict::judge(report).verdict {
        _ if verdict::is_interrupted(report) => ExitCode::from(INTERRUPTED),
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Missed | Verdict::Invalid => ExitCode::from(FAULTY),
    }
}
