//! Floor 3: what one core does, without sockets or clocks.

pub mod stats;
