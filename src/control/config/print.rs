//! The configuration as a file, and its reference page. Both are written from the
//! declarations in `settings.rs`, so neither can fall behind them.

use std::fmt::Write;

use super::Config;
use super::settings::{KeyDoc, SECTIONS, Section, SectionDoc};

impl Config {
    /// The configuration in effect, as a commented TOML file. Read back, it is equal.
    pub fn print(&self) -> String {
        let mut out = String::from("# The configuration of Ringfence in effect. Each key says what it means.\n");
        let defaults = Self::default();
        for section in &SECTIONS {
            out.push('\n');
            comment(&mut out, section.about);
            if section.is_list() {
                self.print_list(&mut out, section);
                continue;
            }
            if !section.name.is_empty() {
                let _ = writeln!(out, "[{}]", section.name);
            }
            let values = self.section(section.name).expect("only lists have no single section").values();
            let usual = defaults.section(section.name).expect("only lists have no single section").values();
            for (i, ((key, value), usual)) in section.keys.iter().zip(values).zip(usual).enumerate() {
                if i > 0 || section.name.is_empty() {
                    out.push('\n');
                }
                comment(&mut out, key.doc);
                let (value, usual) = (value.unwrap_or_default(), usual.unwrap_or_default());
                if value != usual {
                    let _ = writeln!(out, "# The default is {usual}.");
                }
                let _ = writeln!(out, "{} = {value}", key.name);
            }
        }
        out
    }

    /// The sections of a list, or a commented one to start from.
    fn print_list(&self, out: &mut String, section: &SectionDoc) {
        let elements = self.elements(section.name);
        if elements.is_empty() {
            let _ = writeln!(out, "# [[{}]]", section.name);
            for (key, example) in section.keys.iter().zip(section.examples) {
                comment(out, key.doc);
                let _ = writeln!(out, "# {} = {example}", key.name);
            }
        }
        for (i, element) in elements.iter().enumerate() {
            let _ = writeln!(out, "[[{}]]", section.name);
            for (key, value) in section.keys.iter().zip(element.values()) {
                if i == 0 {
                    comment(out, key.doc);
                }
                if let Some(value) = value {
                    let _ = writeln!(out, "{} = {value}", key.name);
                }
            }
        }
    }

    /// The reference page, docs/configuration.md.
    pub fn reference() -> String {
        let defaults = Self::default();
        let mut out = String::from(INTRODUCTION);
        for section in &SECTIONS {
            let title = match section.name {
                "" => "At the top".to_string(),
                name if section.is_list() => format!("`[[{name}]]`"),
                name => format!("`[{name}]`"),
            };
            let _ =
                writeln!(out, "\n## {title}\n\n{}\n\n| key | default | meaning |\n|---|---|---|", text(section.about));
            let values = defaults.section(section.name).map(Section::values).unwrap_or_default();
            for (i, KeyDoc { name, doc }) in section.keys.iter().enumerate() {
                let default =
                    values.get(i).and_then(Clone::clone).map_or_else(String::new, |value| format!("`{value}`"));
                let _ = writeln!(out, "| `{name}` | {default} | {} |", text(doc));
            }
        }
        out
    }
}

const INTRODUCTION: &str = "\
# Configuration

This page is written by Ringfence itself, from the place in its source where the keys are declared.

Ringfence runs without a configuration file: every key has a default. Later sources win over earlier ones:

1. the defaults, below;
2. the file named with `--config`;
3. `--set key=value`, as often as you like: `--set listen.port=6380 --set cores.cpus=2-15`;
4. the short flags `--port`, `--bind`, `--cpus`, `--memory` and `--idle`.

`ringfence --print-config` prints the outcome as a file, with these explanations as comments; `ringfence
--check-config` says whether this host can serve it, and which core gets what. The file is read once, at start.
A key that Ringfence does not know is an error, never ignored.

Sizes count by 1024: `\"64MB\"`, `\"64MiB\"` and `\"64m\"` are one size, and a plain number is bytes. Lengths of time take
a unit: `\"20us\"`, `\"250ms\"`, `\"30s\"`. Ready profiles are in `tuning/`; what to change on the host itself is in
[tuning-a-host.md](tuning-a-host.md).
";

fn comment(out: &mut String, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(out, "#{line}");
    }
}

fn text(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}
