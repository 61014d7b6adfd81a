//! Large values kept as they are while replies with them are being sent.
//!
//! A pin counts on every extent of its value. A record that dies leaves its pinned
//! extents held: they are in use, and counted so, until the last pin is given
//! back. A record whose extents are pinned is not overwritten in place; appending
//! to it is harmless, because it writes only behind what a pin shows. What of the
//! value stands in the record itself is copied: at most half a segment.
//!
//! Invariant: while a pin is there, its bytes do not change. Pins of the same
//! value are one, however many answers refer to it: as long as a pin counts on the first
//! extent, no other value can begin there, and an append changes the length.
//!
//! Called by the answers of the operations and, through the session, as they are sent.

use super::item;
use super::shard::{Found, Shard};
use crate::command::{Pin, ReplySink};
use std::collections::BTreeMap;

/// One value that is kept.
struct Pinned {
    extents: Vec<u32>,
    rest: Box<[u8]>,
    len: usize,
    /// How many answers refer to it.
    references: u32,
}

/// All values that are kept.
#[derive(Default)]
pub(super) struct Pins {
    slots: Vec<Option<Pinned>>,
    free: Vec<u32>,
    /// By the first extent and the length.
    known: BTreeMap<(u32, usize), u32>,
    /// Bytes of rests and lists beside the extents.
    bytes: usize,
}

impl Pinned {
    fn bytes(&self) -> usize {
        self.rest.len() + self.extents.capacity() * size_of::<u32>()
    }
}

impl Shard {
    /// Whether an answer takes `found` as a pin.
    pub(super) fn is_to_pin(&self, found: Found, out: &impl ReplySink) -> bool {
        // Pins of one record count on a first part of its extents each, so none has more than the first.
        let first = || item::extent_of(self.arena.bytes(), found.loc, found.head, 0);
        found.head.value_len() >= out.pins_from()
            && found.head.extents(self.arena.segment_shift()) > 0
            && first().is_some_and(|first| self.arena.can_pin(first))
    }

    /// Keeps the value of a record with extents as it is now.
    pub(super) fn pin(&mut self, found: Found) -> Pin {
        let len = found.head.value_len();
        let bytes = self.arena.bytes();
        let first = item::extent_of(bytes, found.loc, found.head, 0).unwrap_or(u32::MAX);
        if let Some(&id) = self.pins.known.get(&(first, len)) {
            if let Some(Some(pinned)) = self.pins.slots.get_mut(id as usize) {
                pinned.references += 1;
            }
            return Pin { id, len };
        }
        let shift = self.arena.segment_shift();
        let count = found.head.extents(shift);
        let extents: Vec<u32> =
            (0..count).filter_map(|index| item::extent_of(bytes, found.loc, found.head, index)).collect();
        let rest = item::rest_of(bytes, found.loc, found.head, shift).into();
        extents.iter().for_each(|&extent| self.arena.pin(extent));
        let pinned = Pinned { extents, rest, len, references: 1 };
        let pins = &mut self.pins;
        pins.bytes += pinned.bytes();
        let id = pins.free.pop().unwrap_or_else(|| {
            pins.slots.push(None);
            (pins.slots.len() - 1) as u32
        });
        pins.slots[id as usize] = Some(pinned);
        pins.known.insert((first, len), id);
        Pin { id, len }
    }

    /// Whether answers refer to the value of a large record.
    pub(super) fn is_pinned(&self, found: Found) -> bool {
        item::extent_of(self.arena.bytes(), found.loc, found.head, 0).is_some_and(|first| self.arena.is_pinned(first))
            && found.head.extents(self.arena.segment_shift()) > 0
    }

    /// Appends up to `max` bytes of a pinned value, from `offset` on, to `out`; answers how many.
    pub fn read_pin(&self, pin: Pin, offset: usize, max: usize, out: &mut Vec<u8>) -> usize {
        let Some(Some(pinned)) = self.pins.slots.get(pin.id as usize) else { return 0 };
        debug_assert!(pinned.len == pin.len);
        let segment_bytes = self.arena.segment_bytes();
        let in_extents = pinned.len - pinned.rest.len();
        let end = pinned.len.min(offset + max);
        let mut at = offset;
        while at < end {
            let piece = if at < in_extents {
                let start = self.arena.range(pinned.extents[at / segment_bytes]).start;
                let (from, to) =
                    (at % segment_bytes, segment_bytes.min(in_extents - at / segment_bytes * segment_bytes));
                self.arena.bytes().get(start + from..start + to)
            } else {
                pinned.rest.get(at - in_extents..)
            };
            let Some(piece) = piece.filter(|piece| !piece.is_empty()) else { break };
            let piece = &piece[..piece.len().min(end - at)];
            out.extend_from_slice(piece);
            at += piece.len();
        }
        at - offset
    }

    /// Gives a pin back.
    pub fn unpin(&mut self, pin: Pin) {
        let Some(place) = self.pins.slots.get_mut(pin.id as usize) else { return };
        let Some(pinned) = place else { return debug_assert!(false, "{pin:?} was given back before") };
        pinned.references -= 1;
        if pinned.references > 0 {
            return;
        }
        let Some(pinned) = place.take() else { return };
        self.pins.bytes -= pinned.bytes();
        self.pins.free.push(pin.id);
        if let Some(&first) = pinned.extents.first() {
            self.pins.known.remove(&(first, pinned.len));
        }
        pinned.extents.iter().for_each(|&extent| self.arena.unpin(extent));
        if self.pins.known.is_empty() {
            self.pins = Pins::default();
        }
    }

    /// Bytes of segments that are in use for this pin alone, or for it and other pins: its record is gone.
    pub fn orphaned_bytes(&self, pin: Pin) -> u64 {
        match self.pins.slots.get(pin.id as usize) {
            Some(Some(pinned)) if pinned.extents.first().is_some_and(|&first| self.arena.is_held(first)) => {
                (pinned.extents.len() as u64) << self.arena.segment_shift()
            }
            _ => 0,
        }
    }

    /// What pins take beside segments.
    pub fn pins_bytes(&self) -> u64 {
        self.pins.bytes as u64
    }
}

#[cfg(any(test, fuzzing))]
impl Pins {
    /// The extents of every pin.
    pub fn all(&self) -> impl Iterator<Item = &[u32]> {
        self.slots.iter().flatten().map(|pinned| &pinned.extents[..])
    }
}
