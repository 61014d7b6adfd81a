//! The text of `INFO`, from the counters of every core.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::Node;
use super::commands::REDIS_VERSION;
use super::session::{Scope, Session};
use super::stats::{CoreSnapshot, Family, TurnHistogram};
use crate::base::units::format_size;
use crate::engine::prefixes::PrefixStats;

type Section = (&'static str, fn(&Node, &Session, &[CoreSnapshot]) -> Vec<(String, String)>);

/// The sections in the order in which they are written.
const SECTIONS: [Section; 8] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cores),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
];

impl Node {
    /// The sections asked for, or all of them.
    pub(super) fn info(&self, session: &Session, asked: &[String], cores: &[CoreSnapshot]) -> String {
        let all = asked.is_empty() || asked.iter().any(|s| matches!(s.as_str(), "all" | "default" | "everything"));
        let mut text = String::new();
        for (name, fields) in SECTIONS {
            if !all && !asked.iter().any(|s| s.eq_ignore_ascii_case(name)) {
                continue;
            }
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let _ = write!(text, "# {name}\r\n");
            for (field, value) in fields(self, session, cores) {
                let _ = write!(text, "{field}:{value}\r\n");
            }
        }
        text
    }
}

fn field(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn sum(cores: &[CoreSnapshot], of: impl Fn(&CoreSnapshot) -> u64) -> u64 {
    cores.iter().map(of).sum()
}

fn server(node: &Node, session: &Session, _: &[CoreSnapshot]) -> Vec<(String, String)> {
    let uptime = node.now.since(node.server.started_at) / 1000;
    vec![
        field("redis_version", REDIS_VERSION),
        field("server_name", "ringfence"),
        field("ringfence_version", env!("CARGO_PKG_VERSION")),
        field("redis_mode", if session.scope == Scope::Core { "cluster" } else { "standalone" }),
        field("os", std::env::consts::OS),
        field("arch_bits", usize::BITS),
        field("multiplexing_api", "io_uring"),
        field("process_id", node.server.pid),
        field("run_id", &node.server.run_id),
        field("tcp_port", node.server.port),
        field("server_time_usec", node.now_us),
        field("uptime_in_seconds", uptime),
        field("uptime_in_days", uptime / 86_400),
        field("cores", node.topology.cores().len()),
        field("this_core", node.core),
    ]
}

fn clients(_: &Node, _: &Session, cores: &[CoreSnapshot]) -> Vec<(String, String)> {
    vec![
        field("connected_clients", sum(cores, |c| c.connections_current)),
        field("blocked_clients", 0),
        field("clients_output_paused", sum(cores, |c| c.output_paused)),
    ]
}

fn memory(node: &Node, _: &Session, cores: &[CoreSnapshot]) -> Vec<(String, String)> {
    let used = sum(cores, |c| c.memory.live + c.memory.dead + c.memory.index + c.memory.wheel + c.memory.reserved);
    let budget = sum(cores, |c| c.memory.budget);
    let mut fields = vec![
        field("used_memory", used),
        field("used_memory_human", format_size(used).replace(' ', "")),
        field("used_memory_rss", sum(cores, |c| c.memory.resident)),
        field("maxmemory", budget),
        field("maxmemory_human", format_size(budget).replace(' ', "")),
        field("maxmemory_policy", node.server.policy.name()),
        field("huge_page_bytes", node.server.huge_page_bytes.load(Ordering::Relaxed)),
    ];
    for core in cores {
        let m = &core.memory;
        let value = format!(
            "budget={},live={},dead={},free={},index={},wheel={},reserved={},fixed={},resident={},hand_segment={},hand_bytes_per_sec={}",
            m.budget,
            m.live,
            m.dead,
            m.free,
            m.index,
            m.wheel,
            m.reserved,
            m.fixed,
            m.resident,
            m.hand_segment.map_or(-1, i64::from),
            m.hand_speed,
        );
        fields.push(field(&format!("core{}", core.core), value));
    }
    fields
}

fn stats(_: &Node, _: &Session, cores: &[CoreSnapshot]) -> Vec<(String, String)> {
    let mut fields = vec![
        field("total_connections_received", sum(cores, |c| c.connections_total)),
        field("rejected_connections", sum(cores, |c| c.connections_refused)),
        field("total_commands_processed", sum(cores, |c| c.ops.iter().sum())),
        field("total_net_input_bytes", sum(cores, |c| c.bytes_in)),
        field("total_net_output_bytes", sum(cores, |c| c.bytes_out)),
        field("keyspace_hits", sum(cores, |c| c.hits)),
        field("keyspace_misses", sum(cores, |c| c.misses)),
        field("expired_keys", sum(cores, |c| c.expired)),
        field("expired_bytes", sum(cores, |c| c.expired_bytes)),
        field("evicted_keys", sum(cores, |c| c.evicted)),
        field("evicted_bytes", sum(cores, |c| c.evicted_bytes)),
        field("cross_core_forwards_total", sum(cores, |c| c.forwards)),
        field("hot_key_copies", sum(cores, |c| c.copies)),
        field("hot_key_copy_reads_total", sum(cores, |c| c.copy_reads)),
        field("connections_steered_total", sum(cores, |c| c.steered)),
        field("tracking_total_keys", sum(cores, |c| c.tracked_keys)),
        field("tracking_notices_total", sum(cores, |c| c.tracking_notices)),
        field("leases_granted_total", sum(cores, |c| c.leases.granted)),
        field("leases_ran_out_total", sum(cores, |c| c.leases.ran_out)),
        field("fill_waits_total", sum(cores, |c| c.waits)),
        field("fill_waiters", sum(cores, |c| c.waiting)),
        field("protocol_errors_total", sum(cores, |c| c.parse_errors)),
        field("auth_failures_total", sum(cores, |c| c.auth_failures)),
        field("limit_errors_total", sum(cores, |c| c.limit_errors)),
    ];
    for (i, family) in Family::names().iter().enumerate() {
        fields.push(field(&format!("commands_{family}"), sum(cores, |c| c.ops[i])));
    }
    fields
}

fn replication(_: &Node, _: &Session, _: &[CoreSnapshot]) -> Vec<(String, String)> {
    vec![field("role", "master"), field("connected_slaves", 0)]
}

fn cores(_: &Node, _: &Session, cores: &[CoreSnapshot]) -> Vec<(String, String)> {
    let line = |c: &CoreSnapshot| {
        let ops: u64 = c.ops.iter().sum();
        let times = |name: &str, times: &TurnHistogram| {
            let (mean, slow, max) = (times.mean_ns() / 1000, times.quantile_ns(0.9999) / 1000, times.max_ns / 1000);
            format!("mean_{name}_us={mean},p9999_{name}_us={slow},max_{name}_us={max}")
        };
        let (cpu, turns, parks) = (c.cpu, c.turns, c.parks);
        let (turn, own) = (times("turn", &c.turn_time), times("own", &c.turn_own_time));
        let off_cpu = c.turn_off_cpu_ns / 1000;
        format!("cpu={cpu},commands={ops},turns={turns},{turn},{own},off_cpu_us={off_cpu},parks={parks}")
    };
    cores.iter().map(|c| field(&format!("core{}", c.core), line(c))).collect()
}

fn cluster(_: &Node, session: &Session, _: &[CoreSnapshot]) -> Vec<(String, String)> {
    vec![field("cluster_enabled", u8::from(session.scope == Scope::Core))]
}

fn keyspace(_: &Node, _: &Session, cores: &[CoreSnapshot]) -> Vec<(String, String)> {
    let (keys, expires) = (sum(cores, |c| c.keys), sum(cores, |c| c.keys_with_expiry));
    let db0 = (keys > 0).then(|| field("db0", format!("keys={keys},expires={expires},avg_ttl=0")));
    let prefixes = cores.first().map_or(&[][..], |core| &core.prefixes).iter().enumerate().map(|(i, first)| {
        let of = |read: fn(&PrefixStats) -> u64| sum(cores, |core| core.prefixes.get(i).map_or(0, read));
        let (keys, bytes, evicted) = (of(|p| p.keys), of(|p| p.bytes), of(|p| p.evicted));
        let (hits, misses) = (of(|p| p.hits), of(|p| p.misses));
        let name = first.name.escape_ascii();
        let counts = format!("keys={keys},bytes={bytes},hits={hits},misses={misses},evicted={evicted}");
        field(&format!("prefix{i}"), format!("name={name},{counts}"))
    });
    db0.into_iter().chain(prefixes).collect()
}
