//! The line on the terminal while a load is made: what is happening, how it goes,
//! and how long it will take. Nothing is written where nobody looks.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::faults::at;
use crate::fleet::Offer;
use crate::gathering::Gathering;
use crate::report::format;

/// Writes over one line of the standard error, at most ten times a second.
pub struct Live {
    is_terminal: bool,
    /// What the load is part of: a step, a round.
    context: String,
    last: Option<std::time::Instant>,
}

impl Live {
    /// A line, if somebody can see it.
    pub fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), context: String::new(), last: None }
    }

    /// Says what the next loads are part of.
    pub fn set_context(&mut self, context: impl Into<String>) {
        self.context = context.into();
        self.last = None;
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.is_terminal {
            // A terminal that is gone needs no cleaning.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        const EVERY: Duration = Duration::from_millis(100);
        if !self.is_terminal || self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(std::time::Instant::now());
        let gap = if self.context.is_empty() { "" } else { "  " };
        // Without wrapping: a line that is longer than the terminal is wide stays one line.
        let _ = write!(std::io::stderr(), "\r\x1b[K\x1b[?7l{}{gap}{}\x1b[?7h", self.context, text());
    }

    /// Connections are being opened.
    pub fn connecting(&mut self, open: usize, of: usize) {
        self.show(|| format!("connecting: {open} of {of}"));
    }

    /// Keys are being written.
    pub fn filling(&mut self, written: u64, of: u64) {
        self.show(|| format!("writing the keys: {:.0} %", 100.0 * written as f64 / of.max(1) as f64));
    }

    /// A load is under way.
    pub fn loading(&mut self, so_far: &Gathering, offer: &Offer, now: u64) {
        self.show(|| line(so_far, offer, now));
    }
}

fn line(so_far: &Gathering, offer: &Offer, now: u64) -> String {
    let (progress, left) = progress(so_far, offer, now);
    let figures = match so_far.latest() {
        None => "starting".to_owned(),
        Some((rate, latency)) => {
            let [p50, p99, p999] =
                [50.0, 99.0, 99.9].map(|percentile| format::duration(at(&latency, percentile).as_nanos() as f64));
            format!("{}/s  p50 {p50}  p99 {p99}  p99.9 {p999}", format::rate(rate))
        }
    };
    let stage = if now < so_far.measure { "warming up  " } else { "" };
    let left = left.map_or(String::new(), |left| format!("  {:.0} s left", left.as_secs_f64()));
    format!("{stage}{figures}  wrong or failed {}  {:.0} %{left}", so_far.wrong(), progress * 100.0)
}

/// The part that is done, and how long the rest takes.
fn progress(so_far: &Gathering, offer: &Offer, now: u64) -> (f64, Option<Duration>) {
    let elapsed = Duration::from_nanos(now.saturating_sub(so_far.begin));
    if so_far.end != u64::MAX {
        let whole = Duration::from_nanos(so_far.end - so_far.begin);
        let part = (elapsed.as_secs_f64() / whole.as_secs_f64().max(1e-9)).min(1.0);
        return (part, Some(whole.saturating_sub(elapsed)));
    }
    let of =
        offer.requests.or_else(|| offer.trace.as_ref().map(|trace| trace.requests.len() as u64)).unwrap_or(u64::MAX);
    let part = (so_far.finished.iter().sum::<u64>() as f64 / of.max(1) as f64).min(1.0);
    (part, (part > 0.01).then(|| elapsed.mul_f64((1.0 - part) / part)))
}
