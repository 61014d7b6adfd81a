//! The configuration: defaults in code, then a TOML file, then `--set`, then
//! flags. Unknown keys are refused, every error names the place and the remedy,
//! and the result prints as a file that means the same.
//!
//! [`Config`] is what the operator wrote; [`Config::plan`] turns it into what
//! the cores use.

mod check;
mod error;
mod print;
pub(in crate::control) mod ranges;
mod settings;
mod source;
pub mod values;

use std::path::Path;

pub use error::ConfigError;
pub use settings::{Auth, Config, CoreOverride, Cores, Expiry, Limits, Listen, Log, PrefixRule};
pub use source::{Override, Sources};

impl Config {
    /// Reads `file` if there is one, then applies each `key=value` of `sets`.
    ///
    /// # Errors
    /// If the file cannot be read, or anything in it or in `sets` is refused.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Self, ConfigError> {
        let overrides: Vec<Override> = sets.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
        Self::load_with(file, &overrides)
    }

    /// Reads `file` if there is one, then applies `overrides` in order.
    ///
    /// # Errors
    /// If the file cannot be read, or anything in it or in `overrides` is refused.
    pub fn load_with(file: Option<&Path>, overrides: &[Override]) -> Result<Self, ConfigError> {
        let Some(path) = file else { return Self::read(None, overrides) };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Unreadable { path: name.clone(), reason: e.to_string() })?;
        Self::read(Some((&name, &text)), overrides)
    }

    /// Reads `text` as a configuration file; errors call it `name`.
    ///
    /// # Errors
    /// If anything in it is refused.
    pub fn from_text(name: &str, text: &str) -> Result<Self, ConfigError> {
        Self::read(Some((name, text)), &[])
    }

    fn read(file: Option<(&str, &str)>, overrides: &[Override]) -> Result<Self, ConfigError> {
        let config = source::read(file, overrides)?;
        config.check()?;
        Ok(config)
    }

    /// An error about the value of `key`, with the place where it was set.
    pub(in crate::control) fn refuse(&self, key: &str, reason: String) -> ConfigError {
        let place = self.sources.of(key).unwrap_or("default").to_string();
        ConfigError::Value { place, key: key.to_string(), reason }
    }
}

#[cfg(test)]
mod tests;
