//! RESP2 and RESP3, the protocol of Redis clients, and its inline form.

mod encoder;
mod inline;
mod marks;
mod parser;

pub(in crate::protocol) use encoder::write_decimal;
pub use encoder::{Encoder, Version};
pub use inline::split_inline;
pub use marks::{Mark, Marks};
pub use parser::{Frame, Limits, Parser, Progress, ProtocolError, Skipper, short_request};
