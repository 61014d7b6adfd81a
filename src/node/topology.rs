//! Which core owns which slots, and how clients reach it. One immutable map,
//! cloned to every core; within a host it is fixed at start.

use crate::base::{SLOT_COUNT, Slot};

/// A core of this host, as it is announced: a node of the cluster.
#[derive(Clone, Debug)]
pub struct CoreInfo {
    /// 40 hexadecimal digits: the host's id and the core's index.
    pub id: String,
    /// The port on which the core alone listens; the shared port if it has none.
    pub port: u16,
    /// The slots it owns: inclusive ranges, ascending.
    pub slots: Vec<(u16, u16)>,
}

const NOBODY: u16 = u16::MAX;
/// Slots of a block.
const BLOCK_SLOTS: usize = 64;

/// The map of slots to cores.
#[derive(Clone, Debug)]
pub struct Topology {
    cores: Vec<CoreInfo>,
    owners: Box<[u16]>,
    /// The owner of each block of slots that has only one, and [`NOBODY`] for the others: small enough to stay in the
    /// first-level cache, where what the kernel does between two turns leaves little of the 32 KiB of `owners`.
    blocks: Box<[u16]>,
    /// The host to announce, if it is the same for everyone.
    pub announce: Option<String>,
}

/// The host part of every node id, from a seed drawn at start.
fn host_id(seed: u64) -> String {
    let mut rng = crate::base::rng::Rng::new(seed);
    format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64())
}

impl Topology {
    /// A map of `cores`, each with its port and slots. `seed` decides the host's id.
    ///
    /// # Errors
    /// A slot that two cores own, or none.
    pub fn new(seed: u64, announce: Option<String>, cores: Vec<(u16, Vec<(u16, u16)>)>) -> Result<Self, TopologyError> {
        let mut owners = vec![NOBODY; SLOT_COUNT].into_boxed_slice();
        for (core, (_, ranges)) in cores.iter().enumerate() {
            for slot in ranges.iter().flat_map(|&(first, last)| first..=last) {
                let owner = owners.get_mut(usize::from(slot)).ok_or(TopologyError::NoSuchSlot(slot))?;
                if *owner != NOBODY {
                    return Err(TopologyError::OwnedTwice(slot));
                }
                *owner = core as u16;
            }
        }
        if let Some(slot) = owners.iter().position(|&owner| owner == NOBODY) {
            return Err(TopologyError::OwnedByNobody(slot as u16));
        }
        let host = host_id(seed);
        let cores = cores
            .into_iter()
            .enumerate()
            .map(|(index, (port, slots))| CoreInfo { id: format!("{host}{index:08x}"), port, slots })
            .collect();
        let sole = |block: &[u16]| if block.iter().all(|owner| *owner == block[0]) { block[0] } else { NOBODY };
        let blocks = owners.chunks(BLOCK_SLOTS).map(sole).collect();
        Ok(Self { cores, owners, blocks, announce })
    }

    /// The core that owns `slot`.
    #[inline]
    pub fn owner(&self, slot: Slot) -> usize {
        let block = self.blocks[slot.index() / BLOCK_SLOTS];
        usize::from(if block == NOBODY { self.owners[slot.index()] } else { block })
    }

    /// All cores, in order.
    pub fn cores(&self) -> &[CoreInfo] {
        &self.cores
    }

    /// The first range at or behind `slot` that `core` owns, cut to start no earlier than `slot`.
    pub fn range_from(&self, core: usize, slot: u16) -> Option<(u16, u16)> {
        let ranges = &self.cores[core].slots;
        ranges.iter().find(|&&(_, last)| last >= slot).map(|&(first, last)| (first.max(slot), last))
    }
}

/// Why a map of slots cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyError {
    /// There is no slot of this number.
    NoSuchSlot(u16),
    /// Two cores own this slot.
    OwnedTwice(u16),
    /// No core owns this slot.
    OwnedByNobody(u16),
}

impl std::fmt::Display for TopologyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TopologyError::NoSuchSlot(slot) => write!(f, "there is no slot {slot}: slots are 0 to 16383"),
            TopologyError::OwnedTwice(slot) => write!(f, "slot {slot} is given to two cores"),
            TopologyError::OwnedByNobody(slot) => write!(f, "slot {slot} is given to no core"),
        }
    }
}

impl std::error::Error for TopologyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_one_owner() {
        let two = |a, b| Topology::new(1, None, vec![(16400, a), (16401, b)]);
        let map = two(vec![(0, 99), (200, 16383)], vec![(100, 199)]).unwrap();
        assert_eq!(map.owner(Slot::new(150).unwrap()), 1);
        assert_eq!(map.owner(Slot::new(200).unwrap()), 0);
        let of_second = (0..SLOT_COUNT as u16).filter(|&slot| map.owner(Slot::new(slot).unwrap()) == 1);
        assert!(of_second.eq(100..=199), "whether a block of slots has one owner or two");
        assert_eq!(map.range_from(0, 50), Some((50, 99)));
        assert_eq!(map.range_from(0, 120), Some((200, 16383)));
        assert_eq!(map.range_from(1, 200), None);
        assert!(map.cores().iter().all(|c| c.id.len() == 40));
        assert_eq!(two(vec![(0, 99)], vec![(99, 16383)]).unwrap_err(), TopologyError::OwnedTwice(99));
        assert_eq!(two(vec![(0, 99)], vec![(101, 16383)]).unwrap_err(), TopologyError::OwnedByNobody(100));
        assert_eq!(two(vec![(0, 99)], vec![(100, 16384)]).unwrap_err(), TopologyError::NoSuchSlot(16384));
    }
}
