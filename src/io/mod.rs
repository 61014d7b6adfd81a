//! Floor 4: sockets, threads, clocks. The only room that knows glommio and io_uring.
//!
//! | file | owns |
//! |---|---|
//! | `ring` | one io_uring a core: accept, receive, send; the second room of `unsafe` |
//! | `core` | one core's loop: completions to the node, the node's wishes to the ring |
//! | `connection` | the table of connections and what each waits for |
//! | `idle` | the loop: when to spin and when to park |
//! | `pace` | what the last turns were like: whether spinning pays, and whether to gather |
//! | `mesh` | mailboxes between cores |
//! | `server` | start, the control thread's side, stop |
//! | `listen`, `clock` | listening sockets; the time |
//! | `stopwatch` | how long turns take, and what of that is their own |

pub mod clock;
mod connection;
mod core;
mod idle;
mod listen;
pub mod mesh;
mod pace;
pub mod ring;
mod server;
mod stopwatch;

pub use server::{CORE_MEMORY, Server, StartError};
