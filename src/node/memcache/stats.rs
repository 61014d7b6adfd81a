//! What `stats` answers, from the counters of every core.

use std::fmt::{Display, Write as _};

use super::VERSION;
use crate::engine::Policy;
use crate::node::Node;
use crate::node::stats::{CoreSnapshot, Family};
use crate::protocol::memcache::StatsOf;

/// The one slab class that `items` and `slabs` speak of: memory is a log, and has none.
const CLASS: u32 = 1;

/// A reply of lines `STAT <name> <value>`.
struct Lines(String);

impl Lines {
    fn put(&mut self, name: impl Display, value: impl Display) {
        // A string takes whatever is written to it.
        let _ = write!(self.0, "STAT {name} {value}\r\n");
    }
}

impl Node {
    /// The whole reply.
    pub(in crate::node) fn memcache_stats(&self, of: StatsOf, cores: &[CoreSnapshot]) -> Vec<u8> {
        let mut lines = Lines(String::new());
        match of {
            StatsOf::General => self.general(cores, &mut lines),
            StatsOf::Settings => self.settings(cores, &mut lines),
            StatsOf::Items => items(cores, &mut lines),
            StatsOf::Slabs => slabs(cores, &mut lines),
            StatsOf::Sizes => lines.put("sizes_status", "disabled"),
        }
        lines.0.push_str("END\r\n");
        lines.0.into_bytes()
    }

    fn general(&self, cores: &[CoreSnapshot], lines: &mut Lines) {
        let sum = |of: fn(&CoreSnapshot) -> u64| cores.iter().map(of).sum::<u64>();
        let (hits, misses) = (sum(|c| c.hits), sum(|c| c.misses));
        lines.put("version", VERSION);
        lines.put("ringfence_version", env!("CARGO_PKG_VERSION"));
        for (name, number) in [
            ("pid", self.server.pid.into()),
            ("uptime", self.now.since(self.server.started_at) / 1000),
            ("time", self.now.0 / 1000),
            ("pointer_size", usize::BITS.into()),
            ("curr_connections", sum(|c| c.connections_current)),
            ("total_connections", sum(|c| c.connections_total)),
            ("rejected_connections", sum(|c| c.connections_refused)),
            ("cmd_get", hits + misses),
            ("cmd_set", sum(|c| c.ops[Family::Write as usize])),
            ("get_hits", hits),
            ("get_misses", misses),
            ("bytes_read", sum(|c| c.bytes_in)),
            ("bytes_written", sum(|c| c.bytes_out)),
            ("limit_maxbytes", sum(|c| c.memory.budget)),
            ("threads", cores.len() as u64),
            ("bytes", sum(|c| c.memory.live)),
            ("curr_items", sum(|c| c.keys)),
            // Writes, those that stored nothing included.
            ("total_items", sum(|c| c.ops[Family::Write as usize])),
            ("evictions", sum(|c| c.evicted)),
            ("auth_errors", sum(|c| c.auth_failures)),
        ] {
            lines.put(name, number);
        }
    }

    /// Those of memcached's settings that there are here.
    fn settings(&self, cores: &[CoreSnapshot], lines: &mut Lines) {
        let is = |yes| if yes { "yes" } else { "no" };
        let set = |name| self.server.settings.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
        lines.put("maxbytes", cores.iter().map(|c| c.memory.budget).sum::<u64>());
        lines.put("maxconns", set("maxclients"));
        lines.put("udpport", 0);
        lines.put("inter", set("bind"));
        lines.put("verbosity", 0);
        lines.put("evictions", if self.server.policy == Policy::NoEviction { "off" } else { "on" });
        lines.put("domain_socket", "NULL");
        lines.put("num_threads", cores.len());
        lines.put("detail_enabled", "no");
        lines.put("cas_enabled", "yes");
        lines.put("tcp_backlog", set("tcp-backlog"));
        lines.put("auth_enabled_sasl", "no");
        lines.put("auth_enabled_ascii", is(self.passwords.is_some()));
        lines.put("item_size_max", self.limits.value_bytes_max);
        lines.put("flush_enabled", "yes");
        lines.put("dump_enabled", "no");
        lines.put("idle_timeout", 0);
        lines.put("track_sizes", "no");
        lines.put("ssl_enabled", "no");
    }
}

fn items(cores: &[CoreSnapshot], lines: &mut Lines) {
    let sum = |of: fn(&CoreSnapshot) -> u64| cores.iter().map(of).sum::<u64>();
    if sum(|c| c.keys) == 0 {
        return;
    }
    for (name, number) in [
        ("number", sum(|c| c.keys)),
        ("mem_requested", sum(|c| c.memory.live)),
        ("evicted", sum(|c| c.evicted)),
        ("reclaimed", sum(|c| c.expired)),
    ] {
        lines.put(format_args!("items:{CLASS}:{name}"), number);
    }
}

/// Segments are what memcached calls pages.
fn slabs(cores: &[CoreSnapshot], lines: &mut Lines) {
    let sum = |of: fn(&CoreSnapshot) -> u64| cores.iter().map(of).sum::<u64>();
    let used = sum(|c| c.keys);
    if used > 0 {
        for (name, number) in [
            ("total_pages", sum(|c| c.memory.segments - c.memory.segments_free)),
            ("used_chunks", used),
            ("get_hits", sum(|c| c.hits)),
            ("cmd_set", sum(|c| c.ops[Family::Write as usize])),
        ] {
            lines.put(format_args!("{CLASS}:{name}"), number);
        }
    }
    lines.put("active_slabs", u64::from(used > 0));
    lines.put("total_malloced", sum(|c| c.memory.resident));
}
