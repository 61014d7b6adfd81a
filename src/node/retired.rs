//! Large buffers on their way back to the allocator, a piece at a time: the kernel takes 3 ms to get 32 MiB back at
//! once, which a turn must not last.
//!
//! Called by whatever lets go of a buffer that a client can make large, and by each slice of background work.

use super::Node;
use super::session::Session;
use crate::command::Span;

/// Bytes that one step gives back; buffers that are no longer, and not pieces of what is longer, are dropped as they are.
const STEP_BYTES: usize = 512 << 10;
/// Bytes that may wait. What comes when more do pays with steps of its own: a client whose every pipeline takes a
/// large buffer is faster than the background.
const HELD_BYTES_MAX: usize = 1 << 20;
/// So many at most.
const STEPS_MAX: usize = 3;

/// Buffers that nobody needs.
#[derive(Default)]
pub(super) struct Retired {
    bytes: Vec<Vec<u8>>,
    spans: Vec<Vec<Span>>,
    /// Buffers of a step or less that belonged together.
    pieces: Vec<Vec<u8>>,
    pieces_bytes: usize,
}

impl Retired {
    /// Takes a buffer of bytes.
    pub(super) fn bytes(&mut self, buffer: Vec<u8>) {
        retire(&mut self.bytes, buffer);
        self.hurry();
    }

    /// Takes the arguments of a request.
    pub(super) fn spans(&mut self, buffer: Vec<Span>) {
        retire(&mut self.spans, buffer);
        self.hurry();
    }

    /// Takes a long reply, in pieces.
    pub(super) fn pieces(&mut self, pieces: impl IntoIterator<Item = Vec<u8>>) {
        for piece in pieces {
            if piece.capacity() > STEP_BYTES {
                retire(&mut self.bytes, piece);
            } else {
                self.pieces_bytes += piece.capacity();
                self.pieces.push(piece);
            }
        }
        self.hurry();
    }

    /// Whether more waits than should.
    pub(super) fn is_behind(&self) -> bool {
        self.held_bytes() > HELD_BYTES_MAX
    }

    /// A few steps, if more waits than should.
    pub(super) fn hurry(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.is_behind() {
                return;
            }
            self.step();
        }
    }

    /// Gives a piece back; answers whether more is left.
    pub(super) fn step(&mut self) -> bool {
        if let Some(piece) = self.pieces.pop() {
            self.pieces_bytes -= piece.capacity();
        } else {
            let _ = shrink_last(&mut self.bytes) || shrink_last(&mut self.spans);
        }
        !(self.pieces.is_empty() && self.bytes.is_empty() && self.spans.is_empty())
    }

    /// Memory that is still held.
    pub(super) fn held_bytes(&self) -> usize {
        let spans: usize = self.spans.iter().map(Vec::capacity).sum();
        self.pieces_bytes + self.bytes.iter().map(Vec::capacity).sum::<usize>() + spans * size_of::<Span>()
    }
}

fn retire<T>(pile: &mut Vec<Vec<T>>, mut buffer: Vec<T>) {
    if buffer.capacity() * size_of::<T>() > STEP_BYTES {
        buffer.clear();
        pile.push(buffer);
    }
}

/// Shortens the last buffer by a step; answers whether there was one.
fn shrink_last<T>(pile: &mut Vec<Vec<T>>) -> bool {
    let Some(last) = pile.last_mut() else { return false };
    last.shrink_to(last.capacity().saturating_sub(STEP_BYTES / size_of::<T>()));
    if last.capacity() * size_of::<T>() <= STEP_BYTES {
        pile.pop();
    }
    true
}

impl Node {
    /// Lets go of a session's input and of the request that it has begun.
    pub(super) fn retire_input(&mut self, session: &mut Session) {
        self.retired.bytes(std::mem::take(&mut session.input).into_buffer());
        if let Some(gathering) = session.gathering.take() {
            let (spans, pieces) = gathering.into_buffers();
            self.retired.spans(spans);
            self.retired.pieces(pieces);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as a client may send, with no background work in between.
    #[test]
    fn buffers_of_some_steps_do_not_pile_up() {
        let mut retired = Retired::default();
        for _ in 0..100 {
            retired.bytes(vec![1; 2 * STEP_BYTES]);
            assert!(retired.held_bytes() <= HELD_BYTES_MAX + 2 * STEP_BYTES, "{}", retired.held_bytes());
        }
        retired.bytes(vec![1; 64 * STEP_BYTES]);
        let left = retired.held_bytes();
        assert!(left >= (64 - STEPS_MAX) * STEP_BYTES, "one long buffer takes no long time: {left}");
    }

    #[test]
    fn large_buffers_go_in_steps_and_short_ones_at_once() {
        let mut retired = Retired::default();
        retired.bytes(Vec::with_capacity(STEP_BYTES));
        assert!(!retired.step());
        retired.bytes(vec![1; 10 * STEP_BYTES]);
        retired.spans(Vec::with_capacity(3 * STEP_BYTES / size_of::<Span>()));
        let mut held = retired.held_bytes();
        assert!(held >= (13 - 2 * STEPS_MAX) * STEP_BYTES);
        let mut steps = 0;
        while retired.step() {
            let now = retired.held_bytes();
            assert!(now < held && held - now <= 2 * STEP_BYTES, "{held} to {now}");
            held = now;
            steps += 1;
        }
        assert!((4..=14).contains(&steps), "{steps}");
        assert_eq!(retired.held_bytes(), 0);
        retired.pieces((0..20).map(|n| vec![1; STEP_BYTES - n]).chain([vec![1; 3 * STEP_BYTES]]));
        let mut held = retired.held_bytes();
        assert!(held >= 19 * STEP_BYTES, "a long reply takes no long time either: {held}");
        while retired.step() {
            let now = retired.held_bytes();
            assert!(now < held && held - now <= STEP_BYTES, "{held} to {now}");
            held = now;
        }
        assert_eq!(retired.held_bytes(), 0);
    }
}
