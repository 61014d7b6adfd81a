//! Floor 0: plain values that every other room uses. Imports nothing of ours,
//! reads no clock, does no I/O.

pub mod bytes;
pub mod glob;
pub mod hash;
pub mod passwords;
pub mod rng;
pub mod slot;
pub mod time;
pub mod units;

pub use bytes::is_same;
pub use hash::{KeyHash, KeyHasher};
pub use passwords::Passwords;
pub use slot::{SLOT_COUNT, Slot};
pub use time::UnixMillis;
