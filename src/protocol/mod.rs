//! Floor 2: bytes to requests and replies to bytes. Pure: no sockets, no engine.

pub mod http;
pub mod memcache;
pub mod resp;
