//! Floor 2: what one core stores. Pure and synchronous: no I/O, no clock, one thread.
