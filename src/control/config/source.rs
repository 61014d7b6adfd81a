//! From text to [`Config`], and where each value came from. Defaults come first,
//! then the file, then `--set`, then flags; the last one to speak wins.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::settings::{SECTIONS, is_list};
use super::{Config, ConfigError};

/// Where the values that are not defaults were set, by key. Says nothing about
/// the values themselves, so all sources compare equal.
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<String, String>);

impl PartialEq for Sources {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Sources {
    /// The file and line, or the option, that set `key`; `None` if it is a default.
    pub fn of(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// One value from the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// The key with its section: `listen.port`.
    pub key: String,
    /// The value.
    pub value: toml::Value,
    /// What to call it in errors: `--set`, `--port`.
    pub source: String,
}

impl Override {
    /// Reads the argument of `--set`. What is no TOML value is taken as a bare
    /// string, because shells eat quotes.
    ///
    /// # Errors
    /// If there is no `=`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.trim().is_empty())
            .ok_or_else(|| ConfigError::Override { text: text.to_string() })?;
        let value = value.trim();
        let value = value.parse().unwrap_or_else(|_| toml::Value::String(value.to_string()));
        Ok(Self { key: key.trim().to_string(), value, source: format!("--set {}", key.trim()) })
    }

    /// A flag that stands for a key.
    pub fn flag(flag: &str, key: &str, value: impl Into<toml::Value>) -> Self {
        Self { key: key.to_string(), value: value.into(), source: flag.to_string() }
    }
}

/// Reads `file` (a name for errors, and its text), then applies `overrides`.
pub(super) fn read(file: Option<(&str, &str)>, overrides: &[Override]) -> Result<Config, ConfigError> {
    let mut sources = Sources::default();
    let mut table = toml::Table::new();
    let mut config = Config::default();
    if let Some((name, text)) = file {
        config = read_file(name, text, &mut sources)?;
        table = text.parse().map_err(|e| syntax(name, text, &e))?;
    }
    for one in overrides {
        place(&mut table, one)?;
        // Read after each, so that a refusal is known to be about this one.
        config = Config::deserialize(toml::Value::Table(table.clone()))
            .map_err(|e| value_error(one.source.clone(), one.key.clone(), &e))?;
        sources.0.insert(one.key.clone(), one.source.clone());
    }
    config.sources = sources;
    Ok(config)
}

/// Reads the file alone. Unknown keys are looked for first, because a misspelt
/// key explains most other errors.
fn read_file(name: &str, text: &str, sources: &mut Sources) -> Result<Config, ConfigError> {
    let tree = DeTable::parse(text).map_err(|e| syntax(name, text, &e))?;
    let mut values = Vec::new();
    collect(tree.get_ref(), "", &mut values);
    for (key, value) in &values {
        let place = format!("{name}:{}", line_of(text, value.start));
        if !known(key) {
            return Err(unknown(place, key));
        }
        sources.0.entry(key.clone()).or_insert(place);
    }
    toml::from_str(text).map_err(|e| {
        let span = e.span().unwrap_or_default();
        let key = values.iter().find(|(_, value)| value.start <= span.start && span.end <= value.end);
        let place = format!("{name}:{}", line_of(text, span.start));
        value_error(place, key.map_or_else(|| list_of(text, span.start), |(key, _)| key.clone()), &e)
    })
}

/// Lists every key below `tree` with the place of its value. Elements of the list
/// section share one name.
fn collect(tree: &DeTable<'_>, prefix: &str, values: &mut Vec<(String, std::ops::Range<usize>)>) {
    for (key, value) in tree {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        match value.get_ref() {
            DeValue::Table(inner) => {
                if section_exists(&path) {
                    collect(inner, &path, values);
                } else {
                    values.push((path, key.span()));
                }
            }
            DeValue::Array(list) if is_list(&path) => {
                for element in list {
                    match element.get_ref() {
                        DeValue::Table(inner) => collect(inner, &path, values),
                        _ => values.push((path.clone(), element.span())),
                    }
                }
            }
            _ => values.push((path, value.span())),
        }
    }
}

/// The list whose element begins last before the end of the line of `at`.
fn list_of(text: &str, at: usize) -> String {
    let line = text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |length| at + length);
    let before = &text[..line];
    let lists = SECTIONS.iter().filter(|section| section.is_list());
    let nearest = lists.max_by_key(|section| before.rfind(&format!("[[{}", section.name)).map_or(0, |place| place + 1));
    nearest.map_or_else(String::new, |section| section.name.to_string())
}

/// Puts an override into the tree of values.
fn place(table: &mut toml::Table, one: &Override) -> Result<(), ConfigError> {
    if !known(&one.key) || one.key.split_once('.').is_some_and(|(section, _)| is_list(section)) {
        return Err(unknown(one.source.clone(), &one.key));
    }
    let (section, key) = one.key.rsplit_once('.').unwrap_or(("", &one.key));
    let table = if section.is_empty() {
        table
    } else {
        let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        inner.as_table_mut().expect("the file was read, so its sections are tables")
    };
    table.insert(key.to_string(), one.value.clone());
    Ok(())
}

fn section_exists(path: &str) -> bool {
    SECTIONS.iter().any(|section| section.name == path)
}

fn known(path: &str) -> bool {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    is_list(path) || all_keys().any(|(s, k)| s == section && k == key)
}

/// Every section and key.
fn all_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().map(|key| (section.name, key.name)))
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_string() } else { format!("{section}.{key}") }
}

fn unknown(place: String, key: &str) -> ConfigError {
    let list = key.split_once('.').map(|(section, _)| section).filter(|section| is_list(section) && known(key));
    let remedy = match nearest(key) {
        _ if list == Some("core") => {
            r#"it is in a list: write the list whole, such as core=[{cpu=3,memory="12GB"}]"#.to_string()
        }
        _ if list.is_some() => {
            r#"it is in a list: write the list whole, such as prefix=[{name="session:",max_ttl="24h"}]"#.to_string()
        }
        _ if section_exists(key) => format!("`{key}` is a section: set the keys in it"),
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => "ringfence --print-config lists the keys".to_string(),
    };
    ConfigError::UnknownKey { place, key: key.to_string(), remedy }
}

/// The key that was probably meant: the same name in another section, or one that
/// is at most a third different.
fn nearest(path: &str) -> Option<String> {
    let last = path.rsplit('.').next().unwrap_or(path);
    let sections = SECTIONS.iter().filter(|s| !s.name.is_empty()).map(|s| s.name.to_string());
    let keys = all_keys().map(|(section, key)| join(section, key));
    let scored = keys.chain(sections).map(|candidate| {
        let whole = distance(path, &candidate);
        let moved = if candidate.rsplit('.').next() == Some(last) { 1 } else { usize::MAX };
        (whole.min(moved), candidate)
    });
    scored.min().filter(|(score, _)| *score <= (path.len() / 3).max(1)).map(|(_, candidate)| candidate)
}

/// Edits between two words, a swap of neighbours counted as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        least = least.min(rows[i - 2][j - 2] + 1);
                    }
                    least
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

fn syntax(name: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = line_of(text, error.span().unwrap_or_default().start);
    ConfigError::Syntax { place: format!("{name}:{line}"), reason: one_line(error.message()) }
}

fn value_error(place: String, key: String, error: &toml::de::Error) -> ConfigError {
    ConfigError::Value { place, key, reason: plain_words(&one_line(error.message())) }
}

/// Says what numbers a key takes instead of the name of a Rust type.
fn plain_words(message: &str) -> String {
    let types = [("u16", "65535"), ("u32", "4294967295"), ("usize", "65535"), ("u64", "9223372036854775807")];
    types.into_iter().fold(message.to_string(), |text, (name, most)| {
        text.replace(&format!("expected {name}"), &format!("expected a whole number from 0 to {most}"))
    })
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_was_meant() {
        for (wrong, right) in [
            ("memroy", "memory"),
            ("port", "listen.port"),
            ("listen.prot", "listen.port"),
            ("limit.connections", "limits.connections"),
            ("log.levle", "log.level"),
            ("listne", "listen"),
            ("core.slot", "core.slots"),
        ] {
            assert_eq!(nearest(wrong).as_deref(), Some(right), "{wrong}");
        }
        assert_eq!(nearest("replication"), None);
    }

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance("memory", "memory"), 0);
        assert_eq!(distance("memroy", "memory"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
