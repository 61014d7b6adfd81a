//! Start and stop of all cores, and the control thread's view of them.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares};

use super::clock::{Deadline, random_seed, unix_us};
use super::core::{ConnectionLimit, Core, Listener, Order, Parts};
use super::idle::{IdlePolicy, Loop};
use super::listen::{check_free, listen};
use super::mesh::Mesh;
use super::ring::{Ring, eventfd};
use crate::base::{KeyHasher, Passwords, UnixMillis};
use crate::control::admin::CoreDirectory;
use crate::control::config::values::HugePages;
use crate::control::plan::{CoreMemory, CorePlan, Plan};
use crate::engine::{EngineError, Shard, ShardConfig, map_large_allocations};
use crate::node::bounds::Bounds;
use crate::node::session::{Protocol, Scope};
use crate::node::settings::Budget;
use crate::node::stats::CoreSnapshot;
use crate::node::topology::{Topology, TopologyError};
use crate::node::{Limits, Node, NodeConfig, STREAM_BYTES_MIN, ServerInfo};

/// The memory of a core: at least what the engine needs, at most what it can address.
pub const CORE_MEMORY: CoreMemory = CoreMemory { least: Shard::BUDGET_BYTES_MIN, most: Shard::BUDGET_BYTES_MAX };

/// Receive buffers are one part in so many of a core's memory, as far as that makes sense.
const RECEIVE_FRACTION: u64 = 64;
/// Shares of a core's time: what the data path gets, and what everything else gets.
const DATA_SHARES: usize = 1000;
const BACKGROUND_SHARES: usize = 250;
/// Memory that glommio registers for its own storage requests; the data path makes none.
const EXECUTOR_IO_BYTES: usize = 64 << 10;
/// Requests of glommio's own rings: timers and the parking eventfd.
const EXECUTOR_RING_DEPTH: usize = 128;
/// How late glommio's timers may be on a core that is busy: it looks at them when its preemption timer runs out.
const TIMERS_LATE_MAX: Duration = Duration::from_millis(5);
/// How long arrived requests may take to be answered when the server stops.
const DRAIN_TIME: Duration = Duration::from_millis(600);
/// How long closing connections may take after that.
const LEAVE_TIME: Duration = Duration::from_millis(200);

/// Why the server did not start: one line that names the setting and the remedy.
#[derive(Debug)]
pub enum StartError {
    /// The kernel refuses an io_uring.
    Ring(io::Error),
    /// A port cannot be listened on.
    Listen {
        /// The setting that chose the port.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A core cannot have its memory.
    Memory {
        /// The core.
        core: usize,
        /// Why.
        error: EngineError,
    },
    /// The slots do not add up.
    Slots(TopologyError),
    /// A core's thread did not start.
    Thread(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Ring(error) => write!(f, "io_uring: {error}: {}", ring_remedy(error)),
            StartError::Listen { setting, address, error } => {
                let remedy = match error.kind() {
                    io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
                    io::ErrorKind::PermissionDenied => {
                        "choose a port above 1023, or give the process CAP_NET_BIND_SERVICE"
                    }
                    io::ErrorKind::AddrNotAvailable => "listen.bind is not an address of this host",
                    _ => "choose another port or address",
                };
                write!(f, "{setting}: cannot listen on {address}: {error}: {remedy}")
            }
            StartError::Memory { core, error } => write!(f, "memory: core {core}: {error}"),
            StartError::Slots(error) => write!(f, "core.slots: {error}"),
            StartError::Thread(error) => write!(f, "cores: a core's thread did not start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// The same, or what the thread's executor said if that is all there is to say.
    fn or_else(self, failed: Option<glommio::GlommioError<()>>) -> Self {
        match (self, failed) {
            (StartError::Thread(_), Some(error)) => match io::Error::from(error) {
                // A number from the system was the answer to the executor's own rings.
                error if error.raw_os_error().is_some() => StartError::Ring(error),
                error => StartError::Thread(error.to_string()),
            },
            (error, _) => error,
        }
    }
}

fn ring_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "allow it with `sysctl kernel.io_uring_disabled=0`, and in a container with a seccomp profile that permits io_uring_setup"
        }
        Some(libc::ENOSYS) => {
            "this kernel has none, or a seccomp profile hides it: use Linux 6.1 or newer and a profile that permits io_uring_setup"
        }
        Some(libc::EINVAL) => "this kernel is too old for it: use Linux 6.1 or newer",
        Some(libc::ENOMEM) => {
            "the process may lock too little memory (memlock): raise it with `ulimit -l` or LimitMEMLOCK=, or grant CAP_IPC_LOCK"
        }
        Some(libc::EMFILE | libc::ENFILE) => "too few open files are allowed: raise that with `ulimit -n`",
        _ => "see docs/tuning-a-host.md",
    }
}

/// A running server. Orders go to its cores by channel, each followed by a signal.
pub struct Server {
    cores: Vec<CoreHandle>,
    ready: AtomicBool,
    ended: Mutex<Receiver<(usize, Option<String>)>>,
    huge_page_bytes: Arc<AtomicU64>,
}

struct CoreHandle {
    orders: Mutex<Sender<Order>>,
    signal: UnixStream,
}

/// What a core needs from outside its own thread.
struct CoreSetup {
    plan: CorePlan,
    node: NodeConfig,
    shard: ShardConfig,
    /// Prefixes, and what they may take on this core.
    prefixes: Vec<(Vec<u8>, u64)>,
    prefault: bool,
    access_times: bool,
    sockets: Vec<Entrance>,
    mesh: Mesh,
    orders: Receiver<Order>,
    order_signal: UnixStream,
    limit: Arc<ConnectionLimit>,
    idle: IdlePolicy,
    bind: std::net::IpAddr,
    /// Where the core says that it is made, with its ring, or why not.
    made: Sender<(usize, Result<RawFd, StartError>)>,
    /// Where it says that it has ended, and why if it should not have.
    ended: Sender<(usize, Option<String>)>,
    /// Where it learns all rings.
    rings: Receiver<Vec<RawFd>>,
}

impl Server {
    /// Starts all cores and waits until each listens. If there are `passwords`, clients must know one.
    ///
    /// # Errors
    /// Whatever keeps a core from serving; nothing is left running.
    pub fn start(plan: &Plan, passwords: Option<Passwords>) -> Result<Server, StartError> {
        map_large_allocations();
        // A ring made and dropped here says clearly what an executor's thread could not.
        Ring::new().map_err(StartError::Ring)?;
        let seed = random_seed();
        let topology = topology(plan, seed)?;
        let passwords = passwords.map(Arc::new);
        let mut sockets = open_sockets(plan)?;
        let limit = Arc::new(ConnectionLimit { open: AtomicUsize::new(0), max: plan.limits.connections });
        let (made, all_made) = channel();
        let (ended, all_ended) = channel();
        let started_at = UnixMillis(unix_us() / 1000);
        let huge_page_bytes = Arc::new(AtomicU64::new(0));
        let run_id = format!("{:016x}{:016x}{:08x}", random_seed(), random_seed(), std::process::id());
        let (mut handles, mut ring_senders, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for (core, mesh) in plan.cores.iter().zip(Mesh::build(plan.cores.len())) {
            let (orders, order_receiver) = channel();
            let (rings, ring_receiver) = channel();
            let (own_signal, core_signal) = signal_pair().map_err(|e| StartError::Thread(e.to_string()))?;
            let server = ServerInfo {
                run_id: run_id.clone(),
                pid: std::process::id(),
                port: plan.listen.port.unwrap_or(0),
                started_at,
                cpu: core.cpu,
                settings: settings(plan),
                budgets: plan.cores.iter().map(budget).collect(),
                policy: plan.eviction.policy,
                huge_page_bytes: huge_page_bytes.clone(),
                hello: plan.listen.hello.clone(),
            };
            let hasher = KeyHasher::new(seed);
            let setup = CoreSetup {
                plan: core.clone(),
                node: NodeConfig {
                    core: core.index,
                    topology: topology.clone(),
                    limits: limits(plan),
                    bounds: Bounds::new(plan.expiry.jitter_ppm, plan.expiry.rules.clone()),
                    copy_share_ppm: plan.copy_share_ppm,
                    passwords: passwords.clone(),
                    server,
                    hasher: hasher.clone(),
                },
                shard: shard_config(plan, core, hasher),
                prefixes: prefixes(plan, core),
                prefault: plan.prefault,
                access_times: plan.access_times,
                sockets: std::mem::take(&mut sockets[core.index]),
                mesh,
                orders: order_receiver,
                order_signal: core_signal,
                limit: limit.clone(),
                idle: IdlePolicy { mode: plan.idle, spin: plan.spin, gather: plan.gather },
                bind: plan.listen.bind,
                made: made.clone(),
                ended: ended.clone(),
                rings: ring_receiver,
            };
            threads.push(spawn(setup)?);
            ring_senders.push(rings);
            handles.push(CoreHandle { orders: orders.into(), signal: own_signal });
        }
        drop((made, ended));
        let rings = match collect_rings(&all_made, plan.cores.len()) {
            Ok(rings) => rings,
            Err(error) => {
                // The cores that were made end when their senders are gone.
                drop(ring_senders);
                let failed = threads.into_iter().find_map(|thread| thread.join().err());
                return Err(error.or_else(failed));
            }
        };
        ring_senders.iter().for_each(|sender| drop(sender.send(rings.clone())));
        Ok(Server { cores: handles, ready: AtomicBool::new(true), ended: all_ended.into(), huge_page_bytes })
    }

    fn order(&self, core: &CoreHandle, order: Order) {
        if let Ok(orders) = core.orders.lock() {
            let _ = orders.send(order);
        }
        // A full stream has woken the core already.
        let _ = (&core.signal).write(&[1]);
    }

    /// Where to put how much of the process's memory is in huge pages, for `INFO` to tell.
    pub fn huge_page_bytes(&self) -> &AtomicU64 {
        &self.huge_page_bytes
    }

    /// Waits until a core ends although nobody told it to. Answers which, and why; `None`
    /// when the server is stopping.
    pub fn watch(&self) -> Option<(usize, String)> {
        let (core, reason) = self.ended.lock().ok()?.recv().ok()?;
        let reason = reason.unwrap_or_else(|| "it ended".into());
        self.ready().then_some((core, reason))
    }

    /// Accepts no more, answers what has arrived and closes, all within a second.
    /// Answers whether every core was done in time. What is left ends with the process.
    pub fn stop(&self) -> bool {
        self.ready.store(false, Ordering::Relaxed);
        let end = Deadline::after(DRAIN_TIME + LEAVE_TIME);
        let (done, all_done) = channel();
        self.cores.iter().for_each(|core| self.order(core, Order::Stop(DRAIN_TIME, done.clone())));
        drop(done);
        // Cores forward to each other until all are done, so none leaves before.
        let drained = self.cores.iter().filter(|_| all_done.recv_timeout(end.left()).is_ok()).count();
        std::thread::sleep(LEAVE_TIME / 8);
        self.cores.iter().for_each(|core| self.order(core, Order::Leave));
        std::thread::sleep(LEAVE_TIME / 8);
        drained == self.cores.len()
    }
}

impl CoreDirectory for Server {
    fn snapshots(&self, timeout: Duration) -> Vec<Option<CoreSnapshot>> {
        let (answer, answers) = channel();
        self.cores.iter().for_each(|core| self.order(core, Order::Snapshot(answer.clone())));
        drop(answer);
        let mut snapshots: Vec<Option<CoreSnapshot>> = self.cores.iter().map(|_| None).collect();
        let end = Deadline::after(timeout);
        while snapshots.iter().any(Option::is_none) {
            let Ok(snapshot) = answers.recv_timeout(end.left()) else { break };
            let core = snapshot.core;
            snapshots[core] = Some(snapshot);
        }
        snapshots
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// What wakes a core for its orders: ours to write, the core's to watch.
fn signal_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, cores) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    cores.set_nonblocking(true)?;
    Ok((ours, cores))
}

fn topology(plan: &Plan, seed: u64) -> Result<Topology, StartError> {
    let cores = plan.cores.iter().map(|core| {
        // Without a port of its own a core is reached through the shared one.
        (core.port.or(plan.listen.port).unwrap_or(0), core.slots.clone())
    });
    Topology::new(seed, plan.listen.announce.clone(), cores.collect()).map_err(StartError::Slots)
}

/// A listening socket, what its connections cover and what they speak.
type Entrance = (OwnedFd, (Scope, Protocol));

/// Opens every core's listening sockets, so that a port in use is found before any thread starts.
fn open_sockets(plan: &Plan) -> Result<Vec<Vec<Entrance>>, StartError> {
    let bind = plan.listen.bind;
    let backlog = i32::try_from(plan.listen.backlog).unwrap_or(i32::MAX);
    let failed =
        |setting, port| move |error| StartError::Listen { setting, address: SocketAddr::new(bind, port), error };
    let shared = [
        ("listen.port", plan.listen.port, Protocol::Resp),
        ("listen.memcached_port", plan.listen.memcached_port, Protocol::Memcache),
        ("listen.http_port", plan.listen.http_port, Protocol::Http),
    ];
    let shared = shared.into_iter().filter_map(|(setting, port, protocol)| Some((setting, port?, protocol)));
    for (setting, port, _) in shared.clone() {
        check_free(bind, port).map_err(failed(setting, port))?;
    }
    let mut all = Vec::new();
    for core in &plan.cores {
        let mut sockets = Vec::new();
        for (setting, port, protocol) in shared.clone() {
            let socket = listen(bind, port, backlog, true).map_err(failed(setting, port))?;
            sockets.push((socket, (Scope::Host, protocol)));
        }
        if let Some(port) = core.port {
            let socket = listen(bind, port, backlog, false).map_err(failed("listen.core_port_base", port))?;
            sockets.push((socket, (Scope::Core, Protocol::Resp)));
        }
        all.push(sockets);
    }
    Ok(all)
}

fn collect_rings(made: &Receiver<(usize, Result<RawFd, StartError>)>, cores: usize) -> Result<Vec<RawFd>, StartError> {
    let mut rings = vec![-1; cores];
    for _ in 0..cores {
        let (core, ring) = made.recv().map_err(|_| StartError::Thread("it ended early".into()))?;
        rings[core] = ring?;
    }
    Ok(rings)
}

fn limits(plan: &Plan) -> Limits {
    let limits = &plan.limits;
    Limits {
        key_bytes_max: limits.key_bytes,
        value_bytes_max: limits.value_bytes,
        args_max: limits.args,
        request_bytes_max: limits.request_bytes,
        output_soft_bytes_max: limits.output_soft_bytes,
        output_hard_bytes_max: limits.output_hard_bytes,
        stream_bytes_min: STREAM_BYTES_MIN,
    }
}

fn shard_config(plan: &Plan, core: &CorePlan, hasher: KeyHasher) -> ShardConfig {
    ShardConfig {
        budget_bytes: core.memory_bytes,
        reach_bytes: core.memory_reach_bytes,
        policy: plan.eviction.policy,
        huge_pages: plan.huge_pages == HugePages::Auto,
        value_bytes_max: plan.limits.value_bytes,
        seed: random_seed(),
        hasher,
    }
}

/// Each core has the part of a prefix's memory that it has of all memory.
fn prefixes(plan: &Plan, core: &CorePlan) -> Vec<(Vec<u8>, u64)> {
    let total: u128 = plan.cores.iter().map(|core| u128::from(core.memory_bytes)).sum();
    let share = |bytes: u64| match bytes {
        0 => 0,
        bytes => ((u128::from(bytes) * u128::from(core.memory_bytes) / total.max(1)) as u64).max(1),
    };
    plan.prefixes.iter().map(|(name, bytes)| (name.clone(), share(*bytes))).collect()
}

fn budget(core: &CorePlan) -> Budget {
    let (least, most) = Shard::range_of(core.memory_bytes, core.memory_reach_bytes);
    Budget { bytes: core.memory_bytes, least, most }
}

/// What `CONFIG GET` answers beside memory and policy, under the names that redis clients ask for.
fn settings(plan: &Plan) -> Vec<(String, String)> {
    [
        ("appendonly", "no".to_owned()),
        ("bind", plan.listen.bind.to_string()),
        ("cluster-enabled", if plan.cores.iter().any(|c| c.port.is_some()) { "yes" } else { "no" }.to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", plan.limits.connections.to_string()),
        ("port", plan.listen.port.unwrap_or(0).to_string()),
        ("proto-max-bulk-len", plan.limits.value_bytes.to_string()),
        ("save", String::new()),
        ("tcp-backlog", plan.listen.backlog.to_string()),
        ("tcp-keepalive", "300".to_owned()),
        ("timeout", "0".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn spawn(setup: CoreSetup) -> Result<ExecutorJoinHandle<io::Result<()>>, StartError> {
    LocalExecutorBuilder::new(Placement::Fixed(setup.plan.cpu))
        .name(&format!("core-{}", setup.plan.index))
        .io_memory(EXECUTOR_IO_BYTES)
        .ring_depth(EXECUTOR_RING_DEPTH)
        .preempt_timer(TIMERS_LATE_MAX)
        .spawn(move || run_core(setup))
        .map_err(|error| match io::Error::from(error) {
            error if error.raw_os_error() == Some(libc::EAGAIN) => {
                StartError::Thread(format!("{error}: raise `ulimit -u` or systemd's TasksMax="))
            }
            error => StartError::Thread(error.to_string()),
        })
}

/// A core's thread, from its memory to its last turn. Whatever happens, somebody is
/// told: the start if it was not made yet, otherwise whoever watches for its end.
async fn run_core(setup: CoreSetup) -> io::Result<()> {
    let index = setup.plan.index;
    let (made, ended) = (setup.made.clone(), setup.ended.clone());
    let result = match make_core(setup) {
        Ok((core, ring, rings, parking, idle)) => {
            let _ = made.send((index, Ok(ring)));
            // Others wait until every sender is gone.
            drop(made);
            match rings.recv() {
                Ok(rings) => turn_core(core, rings, parking, idle).await,
                // Another core was not made: there is nothing to run for.
                Err(_) => return Ok(()),
            }
        }
        Err(error) => {
            let _ = made.send((index, Err(error)));
            return Ok(());
        }
    };
    let _ = ended.send((index, result.as_ref().err().map(ToString::to_string)));
    result
}

type Made = (Parts, RawFd, Receiver<Vec<RawFd>>, File, IdlePolicy);

/// Makes everything a core needs, on its own thread: its memory is touched first by
/// the core that uses it, and its ring belongs to this thread.
fn make_core(setup: CoreSetup) -> Result<Made, StartError> {
    let ring = Ring::receiving(setup.plan.memory_bytes / RECEIVE_FRACTION).map_err(StartError::Ring)?;
    let mut shard = Shard::new(setup.shard).map_err(|error| StartError::Memory { core: setup.plan.index, error })?;
    shard.begin_versions(setup.node.server.started_at);
    shard.count_prefixes(setup.prefixes);
    if setup.access_times {
        shard.keep_access_times();
    }
    if setup.prefault {
        shard.prefault();
    }
    let parking = eventfd().map_err(StartError::Ring)?;
    ring.register_eventfd(parking.as_raw_fd()).map_err(StartError::Ring)?;
    let descriptor = ring.descriptor();
    let listeners = setup.sockets.into_iter().map(|(socket, entrance)| Listener::new(socket, entrance)).collect();
    let parts = Parts {
        ring,
        node: Node::new(setup.node, shard),
        mesh: setup.mesh,
        listeners,
        bind: setup.bind,
        orders: setup.orders,
        order_signal: setup.order_signal,
        limit: setup.limit,
    };
    Ok((parts, descriptor, setup.rings, parking, setup.idle))
}

/// Turns a core until it is told to leave.
async fn turn_core(mut parts: Parts, rings: Vec<RawFd>, parking: File, idle: IdlePolicy) -> io::Result<()> {
    parts.mesh.set_rings(rings);
    let this = Loop::new(Core::new(parts), idle);
    let executor = glommio::executor();
    let data = executor.create_task_queue(Shares::Static(DATA_SHARES), Latency::NotImportant, "data");
    let background = executor.create_task_queue(Shares::Static(BACKGROUND_SHARES), Latency::NotImportant, "background");
    let spawned = |error: glommio::GlommioError<()>| io::Error::other(error.to_string());
    let work = glommio::spawn_local_into(this.clone().background(), background).map_err(spawned)?.detach();
    glommio::spawn_local_into(this.run(parking), data).map_err(spawned)?.await?;
    drop(work);
    Ok(())
}
