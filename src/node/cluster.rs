//! `CLUSTER …`: the host's cores announced as the nodes of a cluster, so that a
//! cluster client sends each request to the core that owns its key.

use super::Node;
use super::batch::reply;
use super::session::Session;
use super::topology::CoreInfo;
use crate::base::{SLOT_COUNT, Slot};
use crate::command::table::SessionCommand;
use crate::command::{Args, ReplySink};

/// The map's version; within one host it never changes.
const EPOCH: u32 = 1;

impl Node {
    pub(super) fn on_cluster(&self, session: &mut Session, args: Args<'_>, command: SessionCommand) {
        match command {
            SessionCommand::ClusterSlots => self.cluster_slots(session),
            SessionCommand::ClusterShards => self.cluster_shards(session),
            SessionCommand::ClusterNodes => {
                let text = self.cluster_nodes(session);
                reply(session, "").text(&text);
            }
            SessionCommand::ClusterInfo => {
                let text = self.cluster_info();
                reply(session, "").text(&text);
            }
            SessionCommand::ClusterKeySlot => reply(session, "").integer(i64::from(Slot::of(args.get(2)).number())),
            _ => reply(session, "").bulk(self.topology.cores()[self.core].id.as_bytes()),
        }
    }

    /// The host to announce: the configured one, or where this client found us.
    fn announced(&self, session: &Session) -> String {
        self.topology.announce.clone().unwrap_or_else(|| session.local_host.clone())
    }

    fn cluster_slots(&self, session: &mut Session) {
        let host = self.announced(session);
        let mut ranges: Vec<_> =
            (self.topology.cores().iter()).flat_map(|c| c.slots.iter().map(move |r| (*r, c))).collect();
        ranges.sort_by_key(|(range, _)| *range);
        let mut out = reply(session, "");
        out.array(ranges.len());
        for ((first, last), core) in ranges {
            out.array(3);
            out.integer(i64::from(first));
            out.integer(i64::from(last));
            out.array(4);
            out.bulk(host.as_bytes());
            out.integer(i64::from(core.port));
            out.bulk(core.id.as_bytes());
            out.array(0);
        }
    }

    fn cluster_shards(&self, session: &mut Session) {
        let host = self.announced(session);
        let mut out = reply(session, "");
        out.array(self.topology.cores().len());
        for core in self.topology.cores() {
            out.map(2);
            out.bulk(b"slots");
            out.array(core.slots.len() * 2);
            for (first, last) in &core.slots {
                out.integer(i64::from(*first));
                out.integer(i64::from(*last));
            }
            out.bulk(b"nodes");
            out.array(1);
            out.map(7);
            let text = [
                ("id", core.id.as_str()),
                ("ip", &host),
                ("endpoint", &host),
                ("role", "master"),
                ("health", "online"),
            ];
            for (field, value) in text {
                out.bulk(field.as_bytes());
                out.bulk(value.as_bytes());
            }
            for (field, n) in [("port", i64::from(core.port)), ("replication-offset", 0)] {
                out.bulk(field.as_bytes());
                out.integer(n);
            }
        }
    }

    fn cluster_nodes(&self, session: &Session) -> String {
        use std::fmt::Write;
        let host = self.announced(session);
        let mut text = String::new();
        for (index, core) in self.topology.cores().iter().enumerate() {
            let flags = if index == self.core { "myself,master" } else { "master" };
            let CoreInfo { id, port, slots } = core;
            // There is no cluster bus; the field repeats the data port.
            let _ = write!(text, "{id} {host}:{port}@{port} {flags} - 0 0 {EPOCH} connected");
            for (first, last) in slots {
                let _ = if first == last { write!(text, " {first}") } else { write!(text, " {first}-{last}") };
            }
            text.push('\n');
        }
        text
    }

    fn cluster_info(&self) -> String {
        let cores = self.topology.cores().len();
        [
            "cluster_enabled:1".to_owned(),
            "cluster_state:ok".to_owned(),
            format!("cluster_slots_assigned:{SLOT_COUNT}"),
            format!("cluster_slots_ok:{SLOT_COUNT}"),
            "cluster_slots_pfail:0".to_owned(),
            "cluster_slots_fail:0".to_owned(),
            format!("cluster_known_nodes:{cores}"),
            format!("cluster_size:{cores}"),
            format!("cluster_current_epoch:{EPOCH}"),
            format!("cluster_my_epoch:{EPOCH}"),
        ]
        .map(|line| line + "\r\n")
        .concat()
    }
}
