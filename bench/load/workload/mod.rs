//! What is asked for: which key, of which size, for how long, by which operation.
//!
//! Every choice is made from numbers that are handed in, so a seed repeats a run;
//! nothing here reads a clock or opens a socket, and drawing allocates nothing.
//! Each choice has a text form, which is the value of an option on the command
//! line: it is parsed by `FromStr`, and `Display` prints a text that parses to the same.

pub mod distribution;
pub mod mix;
pub mod names;
mod normal;
pub mod presets;
pub mod sizes;
pub mod trace;
pub mod ttls;
mod twitter;
mod weights;
mod zipf;

pub use distribution::{Distribution, Picker};
pub use mix::Mix;
pub use names::KeyNames;
pub use sizes::Sizes;
pub use trace::Trace;
pub use ttls::Ttls;
