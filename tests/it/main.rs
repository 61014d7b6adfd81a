//! Integration tests, one binary with a module each.
//!
//! Everything here sees the server from outside: a process with ports. The
//! modules need the real binary, so they are there when it is.

#[cfg(feature = "server")]
mod differential;
#[cfg(feature = "server")]
mod faults;
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
