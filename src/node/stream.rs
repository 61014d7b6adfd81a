//! Large values on their way out: a piece at a time from the arena to the socket.
//!
//! A reply with a large value holds a pin, not a copy. Of its bytes only the piece
//! that is being sent is copied, so a client that reads slowly costs one piece
//! and, once the key is gone, the value's segments. Those are not kept for
//! ever: [`Node::shed_stalled`] closes who holds them and takes nothing.

use super::Node;
use super::mailbox::ConnId;
use super::session::{Session, State};
use crate::base::UnixMillis;
use crate::command::Pin;
use crate::engine::Shard;

/// Bytes copied to be sent at a time: large enough that the send costs more than its
/// system call, small beside the smallest budget.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// After so many milliseconds without a byte taken or given, who holds segments that no key
/// has is closed if somebody was refused memory,
const STALLED_MS: u64 = 1_000;
/// and after so many in any case.
const STALLED_MS_MAX: u64 = 60_000;

impl Node {
    /// Takes the next piece to send of a session whose replies hold large values.
    #[cold]
    pub(super) fn take_piece(&mut self, id: ConnId) -> Option<Vec<u8>> {
        let mut session = self.take(id)?;
        let mut piece = self.spare.piece();
        let mut done = Vec::new();
        let shard = &self.shard;
        let read = |pin: Pin, offset, max, out: &mut Vec<u8>| shard.read_pin(pin, offset, max, out);
        session.output.take_piece(PIECE_BYTES, &mut piece, read, |pin| done.push(pin));
        done.into_iter().for_each(|pin| self.shard.unpin(pin));
        session.in_flight_bytes = piece.len();
        session.progress_at = self.now;
        self.places[id.index as usize].session = Some(session);
        Some(piece)
    }

    /// Gives back all that a session holds of the shard.
    pub(super) fn let_go(&mut self, session: &mut Session) {
        session.output.take_pins().into_iter().for_each(|pin| self.shard.unpin(pin));
        self.let_go_inflow(session);
    }

    /// Gives up the value that is arriving.
    pub(super) fn let_go_inflow(&mut self, session: &mut Session) {
        if let Some(draft) = session.inflow.take().and_then(|inflow| inflow.into_draft()) {
            self.shard.drop_draft(draft);
        }
    }

    /// Closes connections that keep segments of values in use which no key has, and
    /// whose clients neither take nor give a byte: the one that keeps most, if a write
    /// was refused memory since the last time, and all that have kept them for long. Answers
    /// how many were closed.
    pub fn shed_stalled(&mut self) -> usize {
        let refused = self.shard.stats().refused_oom;
        let short = std::mem::replace(&mut self.refused_before, refused) != refused;
        let mut stalled: Vec<(u64, usize)> = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            let Some(session) = place.session.as_deref_mut() else { continue };
            if session.output.marks().is_empty() && session.inflow.is_none() {
                session.progress_at = UnixMillis(0);
                continue;
            }
            if session.progress_at == UnixMillis(0) {
                session.progress_at = self.now;
            }
            let idle = self.now.0.saturating_sub(session.progress_at.0);
            if session.state == State::Broken || idle < STALLED_MS {
                continue;
            }
            let bytes = keyless_bytes(&self.shard, session);
            if bytes > 0 && (short || idle >= STALLED_MS_MAX) {
                stalled.push((if idle >= STALLED_MS_MAX { u64::MAX } else { bytes }, index));
            }
        }
        stalled.sort_unstable_by(|a, b| b.cmp(a));
        let closed = stalled.iter().take_while(|(bytes, _)| *bytes == u64::MAX).count().max(stalled.len().min(1));
        for &(_, index) in &stalled[..closed] {
            self.discard(index);
        }
        closed
    }

    /// Gives up the session at a place, with all it holds.
    pub(super) fn discard(&mut self, index: usize) {
        let Some(mut session) = self.places[index].session.take() else { return };
        self.let_go(&mut session);
        self.retire_input(&mut session);
        session.discard();
        self.counters.limit_errors += 1;
        self.places[index].session = Some(session);
        self.list(ConnId { index: index as u32, generation: self.places[index].generation });
    }
}

/// Bytes of segments that no key has and that a session keeps in use.
fn keyless_bytes(shard: &Shard, session: &Session) -> u64 {
    let draft = session.inflow.as_ref().and_then(|inflow| inflow.draft()).map_or(0, |draft| shard.draft_bytes(draft));
    session.output.marks().values().map(|pin| shard.orphaned_bytes(pin)).sum::<u64>() + draft
}
