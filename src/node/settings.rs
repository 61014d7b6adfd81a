//! Settings that clients read, and the two that they change: memory and eviction.
//!
//! Every core keeps a copy of them. A change is decided by the core that was
//! asked, whole, and then carried out by all.

use super::Node;
use super::batch::reply;
use super::session::{Scope, Session};
use crate::base::glob;
use crate::base::units::{format_size, parse_size};
use crate::command::{Args, ReplySink};
use crate::engine::Policy;

/// A core's memory, and how far it can be changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes now.
    pub bytes: u64,
    /// The fewest.
    pub least: u64,
    /// The most.
    pub most: u64,
}

/// What `CONFIG SET` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The memory of each core.
    pub budgets: Option<Vec<u64>>,
    /// What gives way when it is full.
    pub policy: Option<Policy>,
}

impl Node {
    /// `CONFIG GET pattern…`
    pub(super) fn config_get(&self, session: &mut Session, args: Args<'_>) {
        let matches = |pattern: &[u8], name: &str| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes());
        let memory = self.memory_of(session).to_string();
        let policy = self.server.policy.name();
        let changing =
            [("eviction", policy), ("maxmemory", &memory), ("maxmemory-policy", policy), ("memory", &memory)];
        let fixed = self.server.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let found: Vec<_> = (changing.into_iter().chain(fixed))
            .filter_map(|(name, value)| args.from(2).find(|p| matches(p, name)).map(|pattern| (pattern, name, value)))
            .collect();
        let mut out = reply(session, "");
        out.map(found.len());
        for (pattern, name, value) in found {
            // A name asked for in full comes back as it was written.
            out.bulk(if pattern.eq_ignore_ascii_case(name.as_bytes()) { pattern } else { name.as_bytes() });
            out.bulk(value.as_bytes());
        }
    }

    /// The memory of the cores that a session covers.
    fn memory_of(&self, session: &Session) -> u64 {
        match session.scope {
            Scope::Host => self.server.budgets.iter().map(|budget| budget.bytes).sum(),
            Scope::Core => self.server.budgets[self.core].bytes,
        }
    }

    /// What `CONFIG SET name value…` asks for, or the error to answer.
    pub(super) fn change_asked(&self, session: &Session, args: Args<'_>) -> Result<Change, Vec<u8>> {
        if !args.len().is_multiple_of(2) {
            return Err(b"ERR wrong number of arguments for 'config|set' command".to_vec());
        }
        let mut change = Change { budgets: None, policy: None };
        for i in (2..args.len()).step_by(2) {
            let name = String::from_utf8_lossy(args.get(i)).to_ascii_lowercase();
            let failed = |why: &str| {
                format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}").into_bytes()
            };
            let value = String::from_utf8_lossy(args.get(i + 1));
            let twice = match name.as_str() {
                "memory" | "maxmemory" => {
                    let whole = parse_size(&value).map_err(|why| failed(&why))?;
                    change.budgets.replace(self.divide(session, whole).map_err(|why| failed(&why))?).is_some()
                }
                "eviction" | "maxmemory-policy" => {
                    change.policy.replace(value.parse().map_err(|why: String| failed(&why))?).is_some()
                }
                known if self.server.settings.iter().any(|(setting, _)| setting == known) => {
                    return Err(failed("can't set immutable config: change it in the file and start again"));
                }
                _ => {
                    let text = format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'");
                    return Err(text.into_bytes());
                }
            };
            if twice {
                return Err(failed("duplicate parameter"));
            }
        }
        Ok(change)
    }

    /// Each core's part of `whole`, in the proportions of now. On a core's own port `whole` is for that core.
    fn divide(&self, session: &Session, whole: u64) -> Result<Vec<u64>, String> {
        let budgets = &self.server.budgets;
        let total: u64 = budgets.iter().map(|budget| budget.bytes).sum();
        let part = |(core, budget): (usize, &Budget)| match session.scope {
            Scope::Host => (u128::from(whole) * u128::from(budget.bytes) / u128::from(total.max(1))) as u64,
            Scope::Core if core == self.core => whole,
            Scope::Core => budget.bytes,
        };
        let parts: Vec<u64> = budgets.iter().enumerate().map(part).collect();
        for (core, (budget, &part)) in budgets.iter().zip(&parts).enumerate() {
            if part < budget.least || part > budget.most {
                return Err(format!(
                    "core {core} would get {}, and can be set to {} at least and {} at most while it runs",
                    format_size(part),
                    format_size(budget.least),
                    format_size(budget.most)
                ));
            }
        }
        Ok(parts)
    }

    /// Carries out this core's part of a change.
    pub(super) fn apply(&mut self, change: &Change, out: &mut impl ReplySink) {
        if let Some(policy) = change.policy {
            self.server.policy = policy;
            self.shard.set_policy(policy);
        }
        if let Some(budgets) = &change.budgets {
            if let Err(error) = self.shard.set_budget(budgets[self.core]) {
                return out.error(format!("ERR CONFIG SET failed on core {}: {error}", self.core));
            }
            self.http_limits = super::http::limits(&self.limits, budgets[self.core]);
            for (budget, &bytes) in self.server.budgets.iter_mut().zip(budgets) {
                budget.bytes = bytes;
            }
        }
        out.status("OK");
    }
}
