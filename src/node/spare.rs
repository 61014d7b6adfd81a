//! Buffers that are empty now and wanted soon: the data path takes and gives them without the allocator, whose heaps two
//! cores would use at once for what goes from one to the other.

use super::mailbox::Parcel;
use super::session::Session;
use super::stream::PIECE_BYTES;

/// Buffers for replies that are kept, and the largest that is worth it.
const REPLIES_MAX: usize = 512;
pub(super) const REPLY_BYTES_MAX: usize = 64 << 10;
/// Pieces of large values.
const PIECES_MAX: usize = 4;
/// Parcels, and the largest: it holds what two clients may have under way, on its way there and back.
const PARCELS_MAX: usize = 8;
const PARCEL_BYTES_MAX: usize = 256 << 10;

/// What is kept.
#[derive(Default)]
pub(super) struct Spare {
    replies: Vec<Vec<u8>>,
    pieces: Vec<Vec<u8>>,
    parcels: Vec<Parcel>,
}

impl Spare {
    /// Gives a session that has none a buffer for its replies. It keeps it while there is something in
    /// it: idle connections hold no buffers.
    #[inline]
    pub fn lend(&mut self, session: &mut Session) {
        if session.output.is_bare()
            && let Some(buffer) = self.replies.pop()
        {
            session.output.lend(buffer);
        }
    }

    /// The same for replies behind one of another core.
    #[inline]
    pub fn lend_behind(&mut self, session: &mut Session) {
        if session.output.is_bare_behind()
            && let Some(buffer) = self.replies.pop()
        {
            session.output.lend_behind(buffer);
        }
    }

    /// Takes both back if they hold nothing.
    #[inline]
    pub fn reclaim(&mut self, session: &mut Session) {
        if let Some(buffer) = session.output.reclaim() {
            self.keep(buffer);
        }
        if let Some(buffer) = session.output.reclaim_behind() {
            self.keep(buffer);
        }
    }

    /// Keeps a buffer that was sent, or not needed.
    #[inline]
    pub fn keep(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= REPLY_BYTES_MAX && self.replies.len() < REPLIES_MAX {
            buffer.clear();
            self.replies.push(buffer);
        } else if (PIECE_BYTES..2 * PIECE_BYTES).contains(&buffer.capacity()) && self.pieces.len() < PIECES_MAX {
            buffer.clear();
            self.pieces.push(buffer);
        }
    }

    /// An empty buffer for a piece of a large value.
    pub fn piece(&mut self) -> Vec<u8> {
        self.pieces.pop().unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES))
    }

    /// An empty parcel.
    #[inline]
    pub fn parcel(&mut self) -> Parcel {
        self.parcels.pop().unwrap_or_default()
    }

    /// Keeps the memory of a parcel of which all was done.
    #[inline]
    pub fn keep_parcel(&mut self, mut parcel: Parcel) {
        if self.parcels.len() < PARCELS_MAX && parcel.held_bytes() <= PARCEL_BYTES_MAX {
            parcel.clear();
            self.parcels.push(parcel);
        }
    }

    /// The memory of all.
    pub fn held_bytes(&self) -> usize {
        let buffers: usize = self.replies.iter().chain(&self.pieces).map(Vec::capacity).sum();
        buffers + self.parcels.iter().map(Parcel::held_bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_in_number_and_size() {
        let mut spare = Spare::default();
        for _ in 0..2 * REPLIES_MAX {
            spare.keep(vec![1; 100]);
            spare.keep(vec![1; PIECE_BYTES]);
            spare.keep(vec![1; REPLY_BYTES_MAX + 1]);
            spare.keep_parcel(Parcel { bytes: vec![1; 100], ..Parcel::default() });
            spare.keep_parcel(Parcel { bytes: vec![1; PARCEL_BYTES_MAX + 1], ..Parcel::default() });
        }
        assert_eq!(spare.held_bytes(), REPLIES_MAX * 100 + PIECES_MAX * PIECE_BYTES + PARCELS_MAX * 100);
        let parcel = spare.parcel();
        assert!(parcel.bytes.is_empty() && parcel.held_bytes() == 100);
        assert!(spare.piece().is_empty());
    }
}
