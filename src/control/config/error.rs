//! What can be wrong with a configuration, in one line that names the place, the
//! setting and the remedy.

use std::fmt;

/// Why a configuration cannot be used. Each variant's comment is its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// {path}: cannot be read: {reason}
    Unreadable {
        /// The file as it was named.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// {place}: not TOML: {reason}
    Syntax {
        /// The file and line.
        place: String,
        /// What the parser said.
        reason: String,
    },
    /// {place}: unknown key `{key}`: {remedy}
    UnknownKey {
        /// The file and line, or the option.
        place: String,
        /// The key with its section.
        key: String,
        /// The nearest key, or the list of them.
        remedy: String,
    },
    /// {place}: `{key}`: {reason}
    Value {
        /// The file and line, the option, or "default".
        place: String,
        /// The key with its section.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// --set {text}: write it as key=value, such as listen.port=6380
    Override {
        /// The option's argument.
        text: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason } => write!(f, "{path}: cannot be read: {reason}"),
            Self::Syntax { place, reason } => write!(f, "{place}: not TOML: {reason}"),
            Self::UnknownKey { place, key, remedy } => write!(f, "{place}: unknown key `{key}`: {remedy}"),
            Self::Value { place, key, reason } => write!(f, "{place}: `{key}`: {reason}"),
            Self::Override { text } => write!(f, "--set {text}: write it as key=value, such as listen.port=6380"),
        }
    }
}

impl std::error::Error for ConfigError {}
