//! From a plan to an outcome: one run, a search, or servers in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::cli::Routing;
use crate::fleet::{Fleet, Offer};
use crate::live::Live;
use crate::outcome::{Comparison, Contender, Fault, Outcome, Pace, Run, Search, Step};
use crate::peers::{Peer, Spec};
use crate::plan::{Goal, Plan};
use crate::report::{figures, verdict};
use crate::search::{self, Climb, RATE_MIN};
use crate::target::{self, Target};
use crate::wire::Protocol;
use crate::worker::{Failure, Setup};
use crate::{faults, process};

/// How often the first contact is looked after.
const LOOK: Duration = Duration::from_millis(20);
/// How long servers rest between two loads.
const REST: Duration = Duration::from_millis(200);
/// How often a rate is tried when it is the measurement that fails.
const TRIES_MAX: usize = 3;
/// How often a rate that was found is lowered when it does not hold for the whole time.
const CONFIRMATIONS_MAX: usize = 10;

/// Does what the plan says.
///
/// # Errors
/// One line: there is no server, or it breaks off, or answers something else.
pub fn measure(plan: &Plan, interrupted: &Arc<AtomicBool>, live: &mut Live) -> Result<Outcome, Failure> {
    let Some(target) = &plan.target else {
        return compare(plan, interrupted, live).map(Outcome::Comparison);
    };
    let setup = prepare(plan, target, plan.protocol, interrupted)?;
    let mut fleet = Fleet::start(Arc::new(setup), &plan.cpus, interrupted.clone(), live)?;
    if plan.workload.prefill {
        fleet.fill(live)?;
    }
    let offer = Offer { server: process::listeners(target.address), ..plan.offer.clone() };
    match plan.goal {
        Goal::Search(step) => search(plan, &mut fleet, &offer, step, interrupted, live).map(Outcome::Search),
        _ => run(plan, &mut fleet, &offer, live).map(|run| Outcome::Run(Box::new(run))),
    }
}

/// Looks whether the server answers, and says what its workers have to know.
fn prepare(plan: &Plan, target: &Target, protocol: Protocol, interrupted: &AtomicBool) -> Result<Setup, Failure> {
    let cluster = plan.routing == Routing::Cluster;
    let (of, credentials, timeout) = (target.clone(), plan.credentials.clone(), plan.timeout);
    let (answer, answered) = channel();
    // On a thread of its own, since no signal ends the calls that wait for a server.
    std::thread::spawn(move || {
        // Nobody listens any more after an interruption.
        let _ = answer.send(target::probe(&of, protocol, credentials.as_ref(), timeout, cluster));
    });
    loop {
        match answered.recv_timeout(LOOK) {
            Ok(map) => return plan.setup(target, protocol, map.map_err(Failure)?).map_err(Failure),
            Err(RecvTimeoutError::Timeout) if !interrupted.load(Ordering::Relaxed) => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(Failure(format!("interrupted during the first contact with {}", target.authority)));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Failure("the first contact ended".into())),
        }
    }
}

fn run(plan: &Plan, fleet: &mut Fleet, offer: &Offer, live: &mut Live) -> Result<Run, Failure> {
    let mut run = fleet.load(offer, live)?;
    run.faults.extend(faults::missed(&run, &plan.objectives));
    Ok(run)
}

fn search(
    plan: &Plan,
    fleet: &mut Fleet,
    offer: &Offer,
    step: Duration,
    interrupted: &AtomicBool,
    live: &mut Live,
) -> Result<Search, Failure> {
    let mut climb = Climb::new(search::rate_min(&plan.objectives, step));
    let mut search = Search { objectives: plan.objectives.clone(), steps: Vec::new(), best: None, remark: None };
    let short = Offer { duration: Some(step), ramp: Duration::ZERO, requests: None, trace: None, ..offer.clone() };
    while let Some(rate) = climb.next() {
        let met = try_rate(plan, fleet, &short, rate, &mut search, live)?;
        climb.note(rate, met);
        if is_over(&search, interrupted) {
            return Ok(search);
        }
    }
    let Some(mut rate) = climb.best() else {
        search.remark = remark(&search);
        return Ok(search);
    };
    let whole = Offer { duration: plan.offer.duration.max(Some(step)), ..short };
    for _ in 0..CONFIRMATIONS_MAX {
        let met = try_rate(plan, fleet, &whole, rate, &mut search, live)?;
        if met {
            search.best = Some(rate);
            break;
        }
        if is_over(&search, interrupted) {
            break;
        }
        rate = Climb::below(rate);
    }
    search.remark = remark(&search);
    Ok(search)
}

/// What other than the server decided the result.
fn remark(search: &Search) -> Option<String> {
    let bound = figures::bound(search)?;
    let has = |fault: fn(&Fault) -> bool| bound.run.faults.iter().any(fault);
    if has(|fault| matches!(fault, Fault::Late(_))) {
        return Some("the generator, not the server, was the limit: give it more --cpus, or CPUs of its own".into());
    }
    (search.best.is_none() && bound.rate > RATE_MIN).then(|| {
        "lower rates were not tried: within --step there are too few requests for the objective: give a longer one"
            .into()
    })
}

/// Tries a rate, and again when it was not the server that failed.
fn try_rate(
    plan: &Plan,
    fleet: &mut Fleet,
    offer: &Offer,
    rate: f64,
    search: &mut Search,
    live: &mut Live,
) -> Result<bool, Failure> {
    live.set_context(format!("{rate:.0}/s"));
    let Pace::Open { poisson, .. } = offer.pace else { unreachable!("a search is an open loop: the plan says so") };
    let offer = Offer { pace: Pace::Open { rate, poisson }, ..offer.clone() };
    for _ in 0..TRIES_MAX {
        let run = run(plan, fleet, &offer, live)?;
        let (met, is_flawed) = (run.faults.is_empty(), verdict::is_flawed(&run));
        search.steps.push(Step { rate, met, run });
        std::thread::sleep(REST);
        if !is_flawed {
            return Ok(met);
        }
    }
    Ok(false)
}

/// Whether a search has to end: Ctrl-C, or replies that are wrong at any rate.
fn is_over(search: &Search, interrupted: &AtomicBool) -> bool {
    let last = search.steps.last().map_or(&[][..], |step| &step.run.faults);
    interrupted.load(Ordering::Relaxed) || last.iter().any(|fault| matches!(fault, Fault::Wrong(_)))
}

/// A server that takes part in a comparison.
struct Part {
    peer: Peer,
    setup: Arc<Setup>,
    contender: Contender,
}

fn compare(plan: &Plan, interrupted: &Arc<AtomicBool>, live: &mut Live) -> Result<Comparison, Failure> {
    let Goal::Compare(specs, rounds, cpus) = &plan.goal else { unreachable!("without a target servers are compared") };
    let mut parts = Vec::new();
    for spec in specs {
        parts.push(start(plan, spec, cpus, interrupted, live)?);
    }
    'rounds: for round in 1..=*rounds {
        for part in &mut parts {
            live.set_context(format!("round {round} of {rounds}, {}", part.contender.name));
            part.peer.resume().map_err(Failure)?;
            std::thread::sleep(REST);
            let run = one_round(plan, part, interrupted, live).map_err(|failure| died(part, failure))?;
            part.contender.rounds.push(run);
            part.peer.pause().map_err(Failure)?;
            if interrupted.load(Ordering::Relaxed) {
                break 'rounds;
            }
        }
    }
    Ok(Comparison { contenders: parts.into_iter().map(|part| part.contender).collect() })
}

/// Starts a server, writes its keys, and lets it stand still.
fn start(
    plan: &Plan,
    spec: &Spec,
    cpus: &[usize],
    interrupted: &Arc<AtomicBool>,
    live: &mut Live,
) -> Result<Part, Failure> {
    live.set_context(spec.name.clone());
    let peer = Peer::start(spec, cpus, interrupted).map_err(Failure)?;
    let target = Target::resolve(&peer.address().to_string(), plan.tls.as_ref()).map_err(Failure)?;
    let setup = Arc::new(prepare(plan, &target, spec.protocol.unwrap_or(plan.protocol), interrupted)?);
    if plan.workload.prefill {
        Fleet::start(setup.clone(), &plan.cpus, interrupted.clone(), live)?.fill(live)?;
    }
    peer.pause().map_err(Failure)?;
    let contender = Contender { name: spec.name.clone(), command: spec.command.clone(), rounds: Vec::new() };
    Ok(Part { peer, setup, contender })
}

fn one_round(plan: &Plan, part: &Part, interrupted: &Arc<AtomicBool>, live: &mut Live) -> Result<Run, Failure> {
    let mut fleet = Fleet::start(part.setup.clone(), &plan.cpus, interrupted.clone(), live)?;
    let offer = Offer { server: vec![part.peer.pid()], ..plan.offer.clone() };
    run(plan, &mut fleet, &offer, live)
}

/// A connection that broke because the server died is told as that.
fn died(part: &mut Part, failure: Failure) -> Failure {
    part.peer.ended().map_or(failure, Failure)
}
