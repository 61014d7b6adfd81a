//! On which core a plain connection should sit. The first keyed request decides
//! at once; after that a connection moves only if its keys have clearly settled
//! elsewhere, and each move makes the next one need more evidence.

/// Keyed requests that are watched before a first decision to move again.
const WINDOW_MIN: u32 = 64;
/// The most that hysteresis asks for.
const WINDOW_MAX: u32 = 1 << 16;

/// What one connection's keys say about where it belongs.
#[derive(Clone, Debug)]
pub struct Steering {
    /// Whether any keyed request was seen.
    placed: bool,
    /// How long the current window is.
    window: u32,
    seen: u32,
    /// The majority vote of Boyer and Moore over foreign cores.
    candidate: usize,
    votes: u32,
    /// Requests in this window that belonged to the candidate since it became one.
    for_candidate: u32,
}

impl Default for Steering {
    fn default() -> Self {
        Self { placed: false, window: WINDOW_MIN, seen: 0, candidate: 0, votes: 0, for_candidate: 0 }
    }
}

impl Steering {
    /// Whether the next keyed request is the first.
    #[inline]
    pub fn is_unplaced(&self) -> bool {
        !self.placed
    }

    /// Notes that the connection sits where its first keyed request wanted it.
    #[inline]
    pub fn placed(&mut self) {
        self.placed = true;
    }

    /// Notes that a keyed request belonged to `owner` while the connection sat on
    /// `here`. Answers the core to move to, if the window just closed and three
    /// quarters of its requests belonged to that one core.
    #[inline]
    pub fn note(&mut self, here: usize, owner: usize) -> Option<usize> {
        self.placed = true;
        self.seen += 1;
        if owner != here {
            if self.votes == 0 {
                (self.candidate, self.votes, self.for_candidate) = (owner, 1, 1);
            } else if self.candidate == owner {
                self.votes += 1;
                self.for_candidate += 1;
            } else {
                self.votes -= 1;
            }
        }
        if self.seen < self.window {
            return None;
        }
        let settled = (self.for_candidate > self.window / 4 * 3).then_some(self.candidate);
        (self.seen, self.votes, self.for_candidate) = (0, 0, 0);
        if settled.is_some() {
            self.window = (self.window * 4).min(WINDOW_MAX);
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steering: &mut Steering, owners: impl IntoIterator<Item = usize>) -> Vec<usize> {
        owners.into_iter().filter_map(|owner| steering.note(0, owner)).collect()
    }

    #[test]
    fn keys_that_settle_elsewhere_move_the_connection() {
        assert_eq!(run(&mut Steering::default(), std::iter::repeat_n(1, 64)), [1]);
        assert_eq!(run(&mut Steering::default(), (0..64).map(|i| if i % 8 == 0 { 0 } else { 2 })), [2]);
    }

    #[test]
    fn keys_spread_over_cores_do_not() {
        assert!(run(&mut Steering::default(), (0..100_000).map(|i| i % 2)).is_empty());
        assert!(run(&mut Steering::default(), (0..100_000).map(|i| i % 3)).is_empty());
        assert!(run(&mut Steering::default(), std::iter::repeat_n(0, 100_000)).is_empty());
    }

    #[test]
    fn each_move_asks_for_more_evidence_than_the_last() {
        let mut steering = Steering::default();
        let moves = run(&mut steering, std::iter::repeat_n(1, 64 + 256 + 1024));
        assert_eq!(moves.len(), 3);
    }
}
