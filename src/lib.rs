//! Ringfence: a distributed in-memory cache for dedicated Linux hosts.
//!
//! Bytes fall down one stair and climb back:
//!
//! ```text
//! io::ring -> node::session -> protocol -> node::router -> engine::Shard -> ReplySink -> session -> ring
//! ```
//!
//! | floor | room | owns | may use |
//! |---|---|---|---|
//! | 0 | [`base`] | slots, hashes, time as values, units | nothing |
//! | 1 | [`command`] | the vocabulary all protocols share, the command table, the reply sink | base |
//! | 2 | [`protocol`] | bytes to commands and replies to bytes | base, command |
//! | 2 | [`engine`] | slot tables, arena, expiry, eviction of one core | base, command |
//! | 3 | [`node`] | sessions, routing, mailboxes, one turn of a core | floors 0 to 2 |
//! | side | `control` | configuration, metrics, admin port, logs | types of floors 0 to 3 |
//! | 4 | `io` | rings, executors, sockets, clocks | all below |
//!
//! Protocol and engine never see each other. Floors 0 to 3 do no I/O and read no
//! clock: time, chance and bytes are handed in. `tests/it/floors.rs` checks this table.

pub mod base;
pub mod command;
#[cfg(feature = "server")]
pub mod control;
pub mod engine;
#[cfg(feature = "server")]
pub mod io;
pub mod node;
pub mod protocol;
