//! From what the operator wrote and what the host allows to what each core gets.
//! The plan is plain numbers: whoever carries it out decides nothing.

mod divide;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::config::ranges::{format_list, format_ranges};
use super::config::values::{CpuList, Eviction, HugePages, Idle};
use super::config::{Config, ConfigError, Log};
use super::host::HostFacts;
use crate::base::SLOT_COUNT;
use crate::base::units::format_size;

/// The most cores that one process runs.
pub const CORES_MAX: usize = 256;

/// Descriptors that a core uses besides connections: rings, eventfds, listeners,
/// and the executor's own.
const DESCRIPTORS_PER_CORE: u64 = 64;

/// Descriptors of the process: standard streams, the admin port, log and map files.
const DESCRIPTORS_BASE: u64 = 64;

/// Addresses that the process maps besides `memory`, mostly without using them: every
/// thread has a stack, and the C library sets some aside for its allocations.
const ADDRESSES_BASE: u64 = 256 << 20;

/// Addresses of one core besides its memory: two threads' stacks, rings, receive buffers, and
/// what the C library sets aside for a thread.
const ADDRESSES_PER_CORE: u64 = 160 << 20;

// Every core must be able to own a slot.
const _: () = assert!(CORES_MAX <= SLOT_COUNT);

/// What one core gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorePlan {
    /// Its index, from 0: the order of `cores.cpus`.
    pub index: usize,
    /// The CPU to pin it to.
    pub cpu: usize,
    /// All memory that it may use.
    pub memory_bytes: u64,
    /// How far its memory can be raised while it runs.
    pub memory_reach_bytes: u64,
    /// The slots that it owns, as sorted inclusive ranges.
    pub slots: Vec<(u16, u16)>,
    /// Its own port, if core ports are on.
    pub port: Option<u16>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenPlan {
    /// The address for every listener.
    pub bind: IpAddr,
    /// The host that cluster clients are told; `None` if it is where the connection arrived.
    pub announce: Option<String>,
    /// What `HELLO` answers: name and version.
    pub hello: String,
    /// The port that all cores share.
    pub port: Option<u16>,
    /// The one for memcached clients.
    pub memcached_port: Option<u16>,
    /// The one for HTTP.
    pub http_port: Option<u16>,
    /// Where the admin port listens.
    pub admin: Option<SocketAddr>,
    /// Connections that the kernel holds until they are accepted.
    pub backlog: u32,
}

/// What clients may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsPlan {
    /// Connections in the whole process.
    pub connections: usize,
    /// Bytes in a key.
    pub key_bytes: usize,
    /// Bytes in a value.
    pub value_bytes: usize,
    /// Arguments in a command.
    pub args: usize,
    /// Bytes received on one connection and not yet executed.
    pub request_bytes: usize,
    /// Unsent replies of one connection at which reading pauses.
    pub output_soft_bytes: usize,
    /// Unsent replies of one connection at which it is closed.
    pub output_hard_bytes: usize,
}

/// What the process does, resolved for one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The cores, by index.
    pub cores: Vec<CorePlan>,
    /// The CPU for the control thread, or `None` to let it share the cores' CPUs.
    pub control_cpu: Option<usize>,
    /// What a full core does.
    pub eviction: Eviction,
    /// Whether its memory asks for huge pages.
    pub huge_pages: HugePages,
    /// Whether its memory is touched at the start.
    pub prefault: bool,
    /// Whether it is kept when each key was last read.
    pub access_times: bool,
    /// What a core does with nothing to do.
    pub idle: Idle,
    /// How long an adaptive core polls before it parks.
    pub spin: Duration,
    /// From which part of its core's load on a key is copied to other cores, in millionths; 0 for never.
    pub copy_share_ppm: u32,
    /// How long a core with several busy connections waits to serve them together.
    pub gather: Duration,
    /// Where to listen.
    pub listen: ListenPlan,
    /// What clients may ask for.
    pub limits: LimitsPlan,
    /// How long keys live.
    pub expiry: ExpiryPlan,
    /// Prefixes that are counted by themselves, and bytes that they may take on all cores, 0 for any.
    pub prefixes: Vec<(Vec<u8>, u64)>,
    /// Log lines.
    pub log: Log,
    /// Open files that the plan needs: raise the soft limit to this.
    pub file_descriptors: u64,
    /// Where the plan differs from what one may expect, as sentences for the log.
    pub notes: Vec<String>,
}

/// How long keys live, beside what their writers say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpiryPlan {
    /// By how many millionths a time to live may be shortened.
    pub jitter_ppm: u32,
    /// Prefix, default and longest time to live in milliseconds, 0 for none. The first is for all keys.
    pub rules: Vec<(Vec<u8>, u64, u64)>,
}

/// How much memory a core can work with.
#[derive(Clone, Copy, Debug)]
pub struct CoreMemory {
    /// Bytes without which it cannot.
    pub least: u64,
    /// Bytes beyond which it cannot use more.
    pub most: u64,
}

impl Config {
    /// Resolves this configuration for a host. `core_memory` is how much memory a
    /// core needs, and how much it can use.
    ///
    /// # Errors
    /// If the host cannot give what the configuration asks for.
    pub fn plan(&self, facts: &HostFacts, core_memory: CoreMemory) -> Result<Plan, ConfigError> {
        let mut notes = Vec::new();
        let cpus = self.plan_cpus(facts, &mut notes)?;
        self.check_overrides(&cpus)?;
        let memory = self.plan_memory(&cpus, facts, core_memory, &mut notes)?;
        self.check_addresses(&memory, facts)?;
        if let Some(difference) = self.eviction.difference {
            let name = self.eviction.policy.name();
            notes.push(format!("eviction is \"{name}\", which comes nearest to what was asked for: {difference}"));
        }
        let slots = self.plan_slots(&cpus)?;
        let ports = self.plan_ports(cpus.len())?;
        let (connections, file_descriptors) = self.plan_connections(cpus.len(), facts, &mut notes)?;
        if !self.listen.bind.is_loopback() {
            let who = if self.auth.password_file.is_empty() {
                "whoever reaches it may read and delete everything, so set auth.password_file and"
            } else {
                "passwords and values go unencrypted, so"
            };
            notes.push(format!("listen.bind is {}: {who} keep it behind a firewall", self.listen.bind));
        }
        let limits = &self.limits;
        Ok(Plan {
            control_cpu: facts.affinity.iter().copied().find(|cpu| !cpus.contains(cpu)),
            cores: (cpus.into_iter().zip(memory).zip(slots).zip(ports).enumerate())
                .map(|(index, (((cpu, memory_bytes), slots), port))| {
                    let memory_reach_bytes = memory_reach(memory_bytes, facts, core_memory);
                    CorePlan { index, cpu, memory_bytes, memory_reach_bytes, slots, port }
                })
                .collect(),
            eviction: self.eviction,
            huge_pages: self.huge_pages,
            prefault: self.prefault,
            access_times: self.access_times,
            idle: self.cores.idle,
            spin: self.cores.spin.0,
            copy_share_ppm: self.cores.copy_share.0,
            gather: self.cores.gather.0,
            listen: self.plan_listen(),
            limits: LimitsPlan {
                connections: connections as usize,
                key_bytes: limits.key_bytes.0 as usize,
                value_bytes: limits.value_bytes.0 as usize,
                args: limits.args as usize,
                request_bytes: limits.request_bytes.0 as usize,
                output_soft_bytes: limits.output_soft_bytes.0 as usize,
                output_hard_bytes: limits.output_hard_bytes.0 as usize,
            },
            expiry: self.plan_expiry(),
            prefixes: (self.prefix.iter())
                .map(|rule| (rule.name.clone().into_bytes(), rule.memory.map_or(0, |size| size.0)))
                .collect(),
            log: self.log.clone(),
            file_descriptors,
            notes,
        })
    }

    fn plan_expiry(&self) -> ExpiryPlan {
        let millis = |span: super::config::values::Span| span.0.as_millis() as u64;
        let all = &self.expiry;
        let mut rules = vec![(Vec::new(), millis(all.default_ttl), millis(all.max_ttl))];
        rules.extend(self.prefix.iter().map(|rule| {
            let (default, max) = (rule.default_ttl.unwrap_or(all.default_ttl), rule.max_ttl.unwrap_or(all.max_ttl));
            (rule.name.clone().into_bytes(), millis(default), millis(max))
        }));
        ExpiryPlan { jitter_ppm: all.jitter.0, rules }
    }

    fn plan_cpus(&self, facts: &HostFacts, notes: &mut Vec<String>) -> Result<Vec<usize>, ConfigError> {
        let mask = &facts.affinity;
        match &self.cores.cpus {
            CpuList::Auto => {
                // The first CPU stays free because Linux handles most interrupts
                // and all its housekeeping there.
                let free = usize::from(mask.len() > 2);
                let mut cpus: Vec<usize> = mask.iter().copied().skip(free).collect();
                if cpus.len() > CORES_MAX {
                    notes.push(format!("only {CORES_MAX} of {} CPUs serve data: a process runs no more", cpus.len()));
                    cpus.truncate(CORES_MAX);
                }
                match cpus.len() {
                    0 => Err(self.refuse("cores.cpus", "the process may run on no CPU at all".to_string())),
                    _ => Ok(cpus),
                }
            }
            CpuList::These(cpus) if cpus.is_empty() => {
                Err(self.refuse("cores.cpus", "no CPU is listed: write \"auto\" or at least one".to_string()))
            }
            CpuList::These(cpus) if cpus.len() > CORES_MAX => {
                Err(self.refuse("cores.cpus", format!("{} CPUs are listed: at most {CORES_MAX} can serve", cpus.len())))
            }
            CpuList::These(cpus) => match cpus.iter().find(|cpu| !mask.contains(cpu)) {
                None => Ok(cpus.clone()),
                Some(outside) => Err(self.refuse(
                    "cores.cpus",
                    format!(
                        "CPU {outside} is outside the affinity mask {}: list CPUs of the mask, or widen it with \
                         `taskset -c`, systemd's CPUAffinity= or the container's cpuset",
                        format_list(mask)
                    ),
                )),
            },
        }
    }

    fn check_overrides(&self, cpus: &[usize]) -> Result<(), ConfigError> {
        for (i, core) in self.core.iter().enumerate() {
            if !cpus.contains(&core.cpu) {
                let reason = format!("CPU {} serves no data: `cores.cpus` is {}", core.cpu, format_list(cpus));
                return Err(self.refuse("core.cpu", reason));
            }
            if self.core[..i].iter().any(|before| before.cpu == core.cpu) {
                return Err(self.refuse("core.cpu", format!("CPU {} has two sections: write one", core.cpu)));
            }
        }
        Ok(())
    }

    /// The port of each core, and that no two listeners meet.
    fn plan_ports(&self, cores: usize) -> Result<Vec<Option<u16>>, ConfigError> {
        let listen = &self.listen;
        let ports = [
            ("listen.port", listen.port),
            ("listen.memcached_port", listen.memcached_port),
            ("listen.http_port", listen.http_port),
            ("listen.admin_port", listen.admin_port),
        ];
        for (at, &(key, port)) in ports.iter().enumerate() {
            let Some((other, _)) = ports[at + 1..].iter().find(|(_, later)| port != 0 && *later == port) else {
                continue;
            };
            let blamed = if self.sources.of(other).is_some() { other } else { key };
            let names = [key, other].map(|name| name.trim_start_matches("listen."));
            let reason = format!("port {port} is both `{}` and `{}`: change one", names[0], names[1]);
            return Err(self.refuse(blamed, reason));
        }
        if listen.core_port_base == 0 {
            return Ok(vec![None; cores]);
        }
        let first = usize::from(listen.core_port_base);
        let last = first + cores - 1;
        if last > usize::from(u16::MAX) {
            let reason =
                format!("{cores} cores need ports up to {last}: at most {} fits", usize::from(u16::MAX) + 1 - cores);
            return Err(self.refuse("listen.core_port_base", reason));
        }
        for (key, port) in ports {
            if (first..=last).contains(&usize::from(port)) {
                let key = if self.sources.of(key).is_some() { key } else { "listen.core_port_base" };
                let reason = format!("port {port} is needed twice: the cores listen on {first} to {last}");
                return Err(self.refuse(key, reason));
            }
        }
        Ok((first..=last).map(|port| Some(port as u16)).collect())
    }

    /// How many connections there may be, and the open files which that needs.
    fn plan_connections(
        &self,
        cores: usize,
        facts: &HostFacts,
        notes: &mut Vec<String>,
    ) -> Result<(u64, u64), ConfigError> {
        let wanted = u64::from(self.limits.connections);
        let besides = DESCRIPTORS_PER_CORE * cores as u64 + DESCRIPTORS_BASE;
        let (needed, allowed) = (wanted + besides, facts.file_descriptors_max);
        if needed <= allowed {
            return Ok((wanted, needed));
        }
        let remedy = format!("`ulimit -n {needed}` or systemd's LimitNOFILE={needed}");
        if self.sources.of("limits.connections").is_some() || allowed <= besides {
            let reason =
                format!("{wanted} connections on {cores} cores need {needed} open files; {allowed} are allowed");
            return Err(self.refuse("limits.connections", format!("{reason}: raise that with {remedy}")));
        }
        let fits = allowed - besides;
        notes.push(format!(
            "limits.connections is {fits} instead of {wanted}: only {allowed} open files are allowed; {remedy} lifts it"
        ));
        Ok((fits, allowed))
    }

    /// A process short of addresses would fail in the middle of its start, or later.
    fn check_addresses(&self, memory: &[u64], facts: &HostFacts) -> Result<(), ConfigError> {
        let needed = memory.iter().sum::<u64>() + ADDRESSES_PER_CORE * memory.len() as u64 + ADDRESSES_BASE;
        if needed <= facts.address_space_max {
            return Ok(());
        }
        let (needed, allowed) = (format_size(needed), format_size(facts.address_space_max));
        let reason = format!("that needs {needed} of address space, and {allowed} are allowed");
        Err(self.refuse("memory", format!("{reason}: lower it, or lift the limit with `ulimit -v unlimited`")))
    }

    fn plan_listen(&self) -> ListenPlan {
        let listen = &self.listen;
        let announce = match listen.announce.as_str() {
            "" if listen.bind.is_unspecified() => None,
            "" => Some(listen.bind.to_string()),
            host => Some(host.to_string()),
        };
        ListenPlan {
            bind: listen.bind,
            announce,
            hello: listen.hello.clone(),
            port: (listen.port != 0).then_some(listen.port),
            memcached_port: (listen.memcached_port != 0).then_some(listen.memcached_port),
            http_port: (listen.http_port != 0).then_some(listen.http_port),
            admin: (listen.admin_port != 0).then(|| SocketAddr::new(listen.bind, listen.admin_port)),
            backlog: listen.backlog,
        }
    }
}

/// Addresses cost nothing, so a core sets enough aside for all memory that the host has,
/// unless the process is short of addresses.
fn memory_reach(memory_bytes: u64, facts: &HostFacts, core_memory: CoreMemory) -> u64 {
    if facts.address_space_max < u64::MAX {
        memory_bytes
    } else {
        facts.memory_bytes.clamp(memory_bytes, core_memory.most.max(memory_bytes))
    }
}

/// The plan for people: what `--check-config` says.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for core in &self.cores {
            let slots = format_ranges(&core.slots);
            write!(f, "core {}: CPU {}, {}, slots {slots}", core.index, core.cpu, format_size(core.memory_bytes))?;
            match core.port {
                Some(port) => writeln!(f, ", port {port}")?,
                None => writeln!(f)?,
            }
        }
        match self.control_cpu {
            Some(cpu) => writeln!(f, "control thread: CPU {cpu}")?,
            None => writeln!(f, "control thread: shares the cores' CPUs")?,
        }
        match self.listen.port {
            Some(port) => writeln!(f, "clients: {}", SocketAddr::new(self.listen.bind, port))?,
            None => writeln!(f, "clients: core ports only")?,
        }
        match self.listen.admin {
            Some(address) => writeln!(f, "admin: http://{address}/")?,
            None => writeln!(f, "admin: off")?,
        }
        writeln!(f, "connections: {}", self.limits.connections)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

#[cfg(test)]
mod tests;
