//! Integration tests, one binary with a module each.
//!
//! `floors` reads the source. Everything else sees the server from outside: a
//! process with ports. Those modules need the real binary, so they are there when it is.

#[cfg(feature = "server")]
mod differential;
#[cfg(feature = "server")]
mod faults;
mod floors;
#[cfg(feature = "server")]
mod generator;
#[cfg(feature = "server")]
mod harness;
#[cfg(feature = "server")]
mod resp;
#[cfg(feature = "server")]
mod robustness;
#[cfg(feature = "server")]
mod shapes;
