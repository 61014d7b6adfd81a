//! The side door: what the operator sees and sets. Configuration becomes a plan
//! of cores, counters become metrics, and a small admin port answers for both.
//! Runs on the control thread; only `io` and `main` import it, and no key or
//! value ever passes through here.

pub mod admin;
pub mod cli;
pub mod config;
pub mod host;
pub mod logging;
pub mod metrics;
pub mod panic;
pub mod passwords;
pub mod plan;

pub use config::{Config, ConfigError};
pub use host::HostFacts;
pub use plan::{CorePlan, Plan};
