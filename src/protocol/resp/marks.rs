//! Where in a stream of replies the bytes of pinned values belong.
//!
//! ```text
//! bytes   $3000000 CR LF │ CR LF + OK CR LF $2000000 CR LF │ CR LF
//! marks                  └─ a pin of 3000000               └─ a pin of 2000000
//! ```
//!
//! One list serves all buffers of a session: the buffers are in the order of the
//! replies, and so are the marks.

use crate::command::Pin;
use std::collections::{BTreeMap, VecDeque};

/// One value among the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Which of the session's buffers.
    pub buffer: u32,
    /// Bytes of the buffer before it.
    pub at: usize,
    /// The value.
    pub pin: Pin,
}

/// The pinned values among a session's replies.
#[derive(Debug)]
pub struct Marks {
    /// Bytes of a value from which on it is pinned and not copied.
    pub from: usize,
    /// The buffer that is written to.
    pub buffer: u32,
    queue: VecDeque<Mark>,
    /// How often each value is among them, and its length.
    values: BTreeMap<u32, (u32, usize)>,
    bytes: usize,
}

impl Default for Marks {
    fn default() -> Self {
        Self { from: usize::MAX, buffer: 0, queue: VecDeque::new(), values: BTreeMap::new(), bytes: 0 }
    }
}

impl Marks {
    /// Adds a value at the end.
    #[cold]
    pub fn push(&mut self, at: usize, pin: Pin) {
        let value = self.values.entry(pin.id).or_insert((0, pin.len));
        value.0 += 1;
        if value.0 == 1 {
            self.bytes += pin.len;
        }
        self.queue.push_back(Mark { buffer: self.buffer, at, pin });
    }

    fn forget(&mut self, pin: Pin) {
        if let Some(value) = self.values.get_mut(&pin.id) {
            value.0 -= 1;
            if value.0 == 0 {
                self.values.remove(&pin.id);
                self.bytes -= pin.len;
            }
        }
    }

    /// Takes the first value away.
    pub fn pop(&mut self) -> Option<Pin> {
        let Mark { pin, .. } = self.queue.pop_front()?;
        self.forget(pin);
        Some(pin)
    }

    /// Takes the last values away, so that `len` are left, into `to`.
    pub fn truncate(&mut self, len: usize, to: &mut Vec<Pin>) {
        while self.queue.len() > len
            && let Some(Mark { pin, .. }) = self.queue.pop_back()
        {
            self.forget(pin);
            to.push(pin);
        }
    }

    /// The first value.
    #[inline]
    pub fn first(&self) -> Option<Mark> {
        self.queue.front().copied()
    }

    /// Moves the values of buffer `from` behind the first `offset` bytes of buffer `to`, and leaves `without` bytes of those
    /// before them behind.
    pub fn carry(&mut self, from: u32, to: u32, offset: usize, without: usize) {
        for mark in self.queue.iter_mut().filter(|mark| mark.buffer == from) {
            (mark.buffer, mark.at) = (to, mark.at - without + offset);
        }
    }

    /// Those of all buffers but one stand `bytes` bytes further ahead.
    pub fn cut_off(&mut self, bytes: usize, but: u32) {
        self.queue.iter_mut().filter(|mark| mark.buffer != but).for_each(|mark| mark.at -= bytes);
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of all values, each counted once.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory of the list.
    pub fn held_bytes(&self) -> usize {
        self.queue.capacity() * size_of::<Mark>() + self.values.len() * size_of::<(u32, u32, usize)>()
    }

    /// Each value once.
    pub fn values(&self) -> impl Iterator<Item = Pin> {
        self.values.iter().map(|(&id, &(_, len))| Pin { id, len })
    }
}
