//! The reference page of the commands. Written from the table, so that it cannot
//! fall behind it.

use std::fmt::Write;

use super::table::{Group, KeyRange, SPECS, Spec};

/// The groups in the order of their headings, each with what it is about.
const GROUPS: [(Group, &str); 6] = [
    (Group::String, "Values: every value is a string of bytes."),
    (Group::Generic, "Keys, whatever their values."),
    (Group::Connection, "The connection itself."),
    (Group::Pubsub, "Messages: the notices of `CLIENT TRACKING`, on one channel."),
    (Group::Server, "The server and all of its keys."),
    (Group::Cluster, "The host's cores as the nodes of a cluster."),
];

const INTRODUCTION: &str = "\
# Commands

This page is written by Ringfence itself, from the table in its source that dispatches the commands.

Names may be written in any case. *Arguments* counts the command's name, and its subcommand's, as `COMMAND` does.
*Keys* says which arguments are keys. *Since* is the version of redis-server in which the command first appeared. The
*flags* are those that `COMMAND INFO` answers. On a core's own port, commands over all keys cover that core's keys.
";

/// The reference page, docs/commands.md.
pub fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    for (group, about) in GROUPS {
        let mut title = group.name().to_owned();
        title[..1].make_ascii_uppercase();
        let _ = writeln!(out, "\n## {title}\n\n{about}\n");
        out.push_str("| command | what it does | arguments | keys | complexity | since | flags |\n");
        out.push_str("|---|---|---|---|---|---|---|\n");
        SPECS.iter().filter(|spec| spec.group == group).for_each(|spec| line(&mut out, spec));
    }
    out
}

fn line(out: &mut String, spec: &Spec) {
    // A bar would end the cell; people write a space there anyway.
    let name = spec.name.to_uppercase().replace('|', " ");
    let (summary, complexity, since) = (spec.summary, spec.complexity, spec.since);
    let flags: Vec<_> = spec.flags.names().collect();
    let (arguments, keys, flags) = (arguments(spec), keys(spec.keys()), flags.join(", "));
    let _ = writeln!(out, "| `{name}` | {summary} | {arguments} | {keys} | {complexity} | {since} | {flags} |");
}

fn arguments(spec: &Spec) -> String {
    if spec.arity >= 0 { spec.arity.to_string() } else { format!("{} or more", spec.arity.unsigned_abs()) }
}

fn keys(KeyRange { first, last, step }: KeyRange) -> String {
    match (first, last, step) {
        (0, ..) => String::new(),
        _ if first == last => first.to_string(),
        (_, -1, 1) => format!("{first} to the last"),
        (_, -1, _) => format!("{first} to the last, in steps of {step}"),
        _ => format!("{first} to {last}, in steps of {step}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_on_the_page_once() {
        let page = reference();
        for spec in SPECS {
            let cell = format!("| `{}` |", spec.name.to_uppercase().replace('|', " "));
            assert_eq!(page.matches(&cell).count(), 1, "{cell}");
        }
        let columns = |line: &str| line.matches('|').count();
        assert!(page.lines().filter(|line| line.starts_with('|')).all(|line| columns(line) == 8));
    }

    /// Run with `RINGFENCE_WRITE_DOCS=1` to write the page after changing a row.
    #[test]
    fn the_reference_page_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");
        if std::env::var_os("RINGFENCE_WRITE_DOCS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == reference(),
            "docs/commands.md is stale: RINGFENCE_WRITE_DOCS=1 cargo test --lib reference_page"
        );
    }
}
