//! Dividing memory and slots over the cores: first what single cores name for
//! themselves, then the rest in even shares.

use crate::base::SLOT_COUNT;
use crate::base::units::format_size;
use crate::control::config::ranges::format_ranges;
use crate::control::config::values::Memory;
use crate::control::config::{Config, ConfigError, CoreOverride};
use crate::control::host::HostFacts;

use super::CoreMemory;

impl Config {
    fn exception(&self, cpu: usize) -> Option<&CoreOverride> {
        self.core.iter().find(|core| core.cpu == cpu)
    }

    /// The bytes of each core: its own, or an even share of what is left.
    pub(super) fn plan_memory(
        &self,
        cpus: &[usize],
        facts: &HostFacts,
        core: CoreMemory,
        notes: &mut Vec<String>,
    ) -> Result<Vec<u64>, ConfigError> {
        let whole = self.memory.of(facts.memory_bytes);
        if whole > facts.memory_bytes {
            let has = format_size(facts.memory_bytes);
            let reason = format!("{} is more than there is: {} is {has}", format_size(whole), facts.memory_from);
            return Err(self.refuse("memory", format!("{reason}; a part such as \"80%\" always fits")));
        }
        let own: Vec<Option<u64>> =
            cpus.iter().map(|&cpu| Some(self.exception(cpu)?.memory?.of(facts.memory_bytes))).collect();
        let named = own.iter().flatten().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let Some(left) = whole.checked_sub(named) else {
            let reason =
                format!("the cores name {} together, but `memory` is {}", format_size(named), format_size(whole));
            return Err(self.refuse("core.memory", format!("{reason}: lower theirs or raise that")));
        };
        let others = own.iter().filter(|bytes| bytes.is_none()).count() as u64;
        let share = left.checked_div(others).unwrap_or(0);
        for (&cpu, bytes) in cpus.iter().zip(&own) {
            let (key, bytes) = bytes.map_or(("memory", share), |bytes| ("core.memory", bytes));
            if bytes < core.least {
                let reason = format!(
                    "CPU {cpu} would get {}, and a core needs at least {}: raise `memory` or list fewer `cores.cpus`",
                    format_size(bytes),
                    format_size(core.least)
                );
                return Err(self.refuse(key, reason));
            }
        }
        let planned: Vec<u64> = own.into_iter().map(|bytes| bytes.unwrap_or(share)).collect();
        if planned.iter().all(|&bytes| bytes <= core.most) {
            return Ok(planned);
        }
        let most = format_size(core.most);
        if matches!(self.memory, Memory::Bytes(_)) {
            let reason = format!("a core can use at most {most}: lower `memory` or list more `cores.cpus`");
            return Err(self.refuse("memory", reason));
        }
        notes.push(format!(
            "each core gets {most}, the most that one can use: more `cores.cpus` use more of the memory"
        ));
        Ok(planned.into_iter().map(|bytes| bytes.min(core.most)).collect())
    }

    /// The slots of each core: its own, or an even share of what is left.
    pub(super) fn plan_slots(&self, cpus: &[usize]) -> Result<Vec<Vec<(u16, u16)>>, ConfigError> {
        let own: Vec<Option<&Vec<(u16, u16)>>> =
            cpus.iter().map(|&cpu| Some(&self.exception(cpu)?.slots.as_ref()?.0)).collect();
        let mut owner: Vec<Option<usize>> = vec![None; SLOT_COUNT];
        for (&cpu, ranges) in cpus.iter().zip(&own) {
            for slot in ranges.iter().flat_map(|r| r.iter()).flat_map(|&(first, last)| first..=last) {
                if let Some(other) = owner[usize::from(slot)].replace(cpu) {
                    let reason = format!("slot {slot} is named for CPU {other} and for CPU {cpu}: name it once");
                    return Err(self.refuse("core.slots", reason));
                }
            }
        }
        let left: Vec<u16> = (0..SLOT_COUNT as u16).filter(|&slot| owner[usize::from(slot)].is_none()).collect();
        let others = own.iter().filter(|ranges| ranges.is_none()).count();
        if others == 0 && !left.is_empty() {
            let reason = format!("no core owns the slots {}: name them too", format_ranges(&runs(&left)));
            return Err(self.refuse("core.slots", reason));
        }
        if left.len() < others {
            let reason =
                format!("{} slots are left for {others} cores: name fewer, for every core must own one", left.len());
            return Err(self.refuse("core.slots", reason));
        }
        let mut turn = 0;
        Ok(own
            .into_iter()
            .map(|ranges| match ranges {
                Some(ranges) => ranges.clone(),
                None => {
                    let (from, to) = (left.len() * turn / others, left.len() * (turn + 1) / others);
                    turn += 1;
                    runs(&left[from..to])
                }
            })
            .collect())
    }
}

/// Ascending slots as inclusive ranges.
fn runs(slots: &[u16]) -> Vec<(u16, u16)> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &slot in slots {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == slot => run.1 = slot,
            _ => runs.push((slot, slot)),
        }
    }
    runs
}
