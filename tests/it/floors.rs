//! The fence around the rooms, checked in the source itself.
//!
//! Goal: what `src/lib.rs` says about floors stays true, and what makes a run
//! repeatable stays out of reach of chance. Method: [`check`] reads one file, its
//! comments and literals blanked out, and names every offence; the floor table is
//! read from `src/lib.rs`, so that the table there is the rule and not its copy.
//! Every rule is also shown an offence, so that none can pass because it sees nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A file longer than this wants to be two.
const LINES_MAX: usize = 800;

/// Where clocks are read.
const CLOCK: &str = "src/io/clock.rs";
/// Blocking threads of their own beside the data path: their sockets need deadlines
/// in real time, and no replay passes through them.
const CLOCK_EXEMPT: [&str; 2] = ["src/control/admin.rs", "src/control/admin/"];
/// The two rooms of `unsafe`.
const UNSAFE: [&str; 2] = ["src/engine/memory.rs", "src/io/ring.rs"];

/// The floor table: for each room the rooms it may use.
type Floors = BTreeMap<String, BTreeSet<String>>;

/// Reads the table in the documentation of `src/lib.rs`.
fn floors(lib: &str) -> Floors {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<(Option<u32>, String, String)> = (lib.lines())
        .filter_map(|line| line.strip_prefix("//! | ").map(cells))
        .filter(|row| row[1].contains('`'))
        .map(|row| (row[0].parse().ok(), row[1].replace(['[', ']', '`'], ""), row[3].clone()))
        .collect();
    let up_to = |top: u32| rows.iter().filter(move |(floor, ..)| floor.is_some_and(|f| f <= top));
    let allowed = |text: &str| -> BTreeSet<String> {
        match text.split_once("floors 0 to ") {
            Some((_, top)) => up_to(top.parse().expect("a floor's number")).map(|(_, room, _)| room.clone()).collect(),
            None if text == "nothing" => BTreeSet::new(),
            None if text == "all below" => rows.iter().map(|(_, room, _)| room.clone()).collect(),
            None => text.split(", ").map(str::to_owned).collect(),
        }
    };
    rows.iter().map(|(_, room, may_use)| (room.clone(), allowed(may_use))).collect()
}

/// Blanks out comments and the contents of literals; line ends stay.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let length = match skipped(rest, out.bytes().next_back()) {
            Some(length) => {
                out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                length
            }
            None => {
                let first = rest.chars().next().expect("there is a rest");
                out.push(first);
                first.len_utf8()
            }
        };
        at += length;
    }
    out
}

/// The length of the comment or literal that `rest` begins with. `before` is the byte of code before it.
fn skipped(rest: &str, before: Option<u8>) -> Option<usize> {
    let in_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if let Some(body) = rest.strip_prefix('"') {
        return Some(1 + quoted(body, '"'));
    }
    if let Some(raw) = rest.strip_prefix('r').filter(|_| !in_word || before == Some(b'b')) {
        let fences = raw.bytes().take_while(|b| *b == b'#').count();
        if raw[fences..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(fences));
            let body = &raw[fences + 1..];
            return Some(2 + fences + body.find(&end).map_or(body.len(), |found| found + end.len()));
        }
    }
    // A character, not a lifetime: `'x'` or `'\…'`.
    let body = rest.strip_prefix('\'')?;
    let character = body.starts_with('\\') || body.chars().nth(1) == Some('\'');
    character.then(|| 1 + quoted(body, '\''))
}

/// The length up to and with the closing quote, which a backslash before it makes an ordinary one.
fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return i + c.len_utf8(),
            _ => {}
        }
    }
    body.len()
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Words, and every other character by itself.
fn tokens(code: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        tokens.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    tokens
}

/// The rooms that a file names, from the crate's root or by climbing to it.
fn rooms_named(floors: &Floors, path: &str, tokens: &[&str]) -> BTreeSet<String> {
    let depth = path.trim_start_matches("src/").trim_end_matches("/mod.rs").split('/').count();
    let mut rooms = BTreeSet::new();
    for at in 0..tokens.len() {
        let supers = tokens[at..].chunks(3).take_while(|c| *c == ["super", ":", ":"]).count();
        if tokens[at..].starts_with(&["crate", ":", ":"]) {
            rooms.extend(firsts(&tokens[at + 3..]));
        } else if supers >= depth {
            // Within a module of the file itself this may still be the room.
            rooms.extend(firsts(&tokens[at + 3 * supers..]).into_iter().filter(|name| floors.contains_key(name)));
        }
    }
    rooms
}

/// The first segment of `a::…`, or those of `{a::…, b::{…}, …}`.
fn firsts(tokens: &[&str]) -> Vec<String> {
    if tokens.first() != Some(&"{") {
        return tokens.first().map(|first| (*first).to_owned()).into_iter().collect();
    }
    let (mut depth, mut firsts, mut expected) = (0, Vec::new(), true);
    for token in &tokens[1..] {
        match *token {
            "}" if depth == 0 => break,
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 0 => expected = true,
            word if expected => {
                firsts.push(word.to_owned());
                expected = false;
            }
            _ => {}
        }
    }
    firsts
}

/// Everything wrong with the file at `path`.
fn check(floors: &Floors, path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let tokens = tokens(&code);
    let mut wrong = Vec::new();
    if !text.starts_with("//! ") {
        wrong.push("does not begin with what it is for (`//!`)".to_owned());
    }
    if text.lines().count() > LINES_MAX {
        wrong.push(format!("is longer than {LINES_MAX} lines"));
    }
    for name in ["todo", "unimplemented", "dbg"] {
        if tokens.windows(2).any(|w| w == [name, "!"]) {
            wrong.push(format!("contains {name}!"));
        }
    }
    if tokens.windows(3).any(|w| w == ["#", "[", "ignore"]) {
        wrong.push("ignores a test".to_owned());
    }
    if path.starts_with("src/") {
        check_rooms(floors, path, &tokens, &mut wrong);
        check_words(path, &tokens, &mut wrong);
    }
    wrong.into_iter().map(|what| format!("{path} {what}")).collect()
}

fn check_rooms(floors: &Floors, path: &str, tokens: &[&str], wrong: &mut Vec<String>) {
    let room = path.split('/').nth(1).expect("below src");
    if room == "main.rs" {
        return;
    }
    let nothing = BTreeSet::new();
    let allowed = match floors.get(room) {
        Some(allowed) => allowed,
        None if room == "lib.rs" => &nothing,
        None => return wrong.push("is in no room of the floor table".to_owned()),
    };
    for named in rooms_named(floors, path, tokens) {
        if named != room && named != "self" && !allowed.contains(&named) {
            wrong.push(format!("uses crate::{named}, which {room} may not"));
        }
    }
}

fn check_words(path: &str, tokens: &[&str], wrong: &mut Vec<String>) {
    let has = |words: &[&str]| tokens.windows(words.len()).any(|w| w == words);
    if !path.starts_with("src/io/") {
        for word in ["glommio", "io_uring"] {
            if has(&[word]) {
                wrong.push(format!("uses {word}, which is io's alone"));
            }
        }
    }
    let exempt = |clock| clock == "Instant" && CLOCK_EXEMPT.iter().any(|prefix| path.starts_with(prefix));
    for clock in ["Instant", "SystemTime"] {
        if has(&[clock, ":", ":", "now"]) && path != CLOCK && !exempt(clock) {
            wrong.push(format!("reads a clock ({clock}::now), which is for {CLOCK}"));
        }
    }
    // A file on the stair or beside it; main.rs and io may do as they like.
    if ["base", "command", "protocol", "engine", "node"].iter().any(|room| path.starts_with(&format!("src/{room}/"))) {
        for word in ["RandomState", "DefaultHasher", "HashMap", "HashSet"] {
            if has(&[word]) {
                wrong.push(format!("uses {word}, whose random seed makes runs differ"));
            }
        }
    }
    // A file below one of the two rooms inherits its permission, and may only give it back.
    let gives_back =
        has(&["#", "!", "[", "deny", "(", "unsafe_code", ")", "]"]) && !has(&["[", "allow"]) && !has(&["[", "expect"]);
    if has(&["unsafe_code"]) && !gives_back && !UNSAFE.contains(&path) {
        wrong.push("speaks about unsafe_code outside its two rooms".to_owned());
    }
}

/// Every Rust file below `folder`, as a path from the root of the repository, with its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the repository").map(|e| e.expect("an entry").path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let path = entry.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                found.push((path, std::fs::read_to_string(&entry).expect("a text")));
            }
        }
    }
    found.sort();
    found
}

fn table() -> Floors {
    floors(include_str!("../../src/lib.rs"))
}

#[test]
fn every_file_keeps_to_its_floor() {
    let floors = table();
    let files: Vec<_> = ["src", "tests", "bench"].into_iter().flat_map(sources).collect();
    for room in floors.keys() {
        assert!(files.iter().any(|(path, _)| path.starts_with(&format!("src/{room}/"))), "no file of {room} was read");
    }
    for path in UNSAFE {
        assert!(files.iter().any(|(p, text)| p == path && text.contains("#![allow(unsafe_code)]")), "{path}");
    }
    let wrong: Vec<_> = files.iter().flat_map(|(path, text)| check(&floors, path, text)).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_table_is_read_as_it_is_written() {
    let floors = table();
    let set = |names: &str| names.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    let expected = [
        ("base", ""),
        ("command", "base"),
        ("protocol", "base command"),
        ("engine", "base command"),
        ("node", "base command protocol engine"),
        ("control", "base command protocol engine node"),
        ("io", "base command protocol engine node control io"),
    ];
    assert_eq!(floors, expected.map(|(room, uses)| (room.to_owned(), set(uses))).into());
}

#[test]
fn every_offence_is_named() {
    let floors = table();
    for (path, text, what) in [
        ("src/base/x.rs", "use crate::command::Op;", "uses crate::command"),
        ("src/command/x.rs", "use crate::{base::Slot, protocol::resp};", "uses crate::protocol"),
        ("src/command/x.rs", "use crate::{base::{a, b}, io};", "uses crate::io"),
        ("src/protocol/resp/x.rs", "fn f() { crate::engine::Shard::new() }", "uses crate::engine"),
        ("src/engine/x.rs", "use crate::protocol::resp;", "uses crate::protocol"),
        ("src/engine/x.rs", "use super::super::node::Node;", "uses crate::node"),
        ("src/engine/x.rs", "mod tests { use super::super::super::node::Node; }", "uses crate::node"),
        ("src/engine/mod.rs", "use super::node::Node;", "uses crate::node"),
        ("src/engine/evict/x.rs", "use super::super::super::{base, node};", "uses crate::node"),
        ("src/node/x.rs", "use crate :: control::Config;", "uses crate::control"),
        ("src/node/x.rs", "use crate::/* here */io::Ring;", "uses crate::io"),
        ("src/control/x.rs", "use crate::io::server;", "uses crate::io"),
        ("src/lib.rs", "use crate::io::server;", "uses crate::io"),
        ("src/cellar/x.rs", "", "is in no room"),
        ("src/stray.rs", "", "is in no room"),
        ("src/node/x.rs", "use glommio::spawn_local;", "uses glommio"),
        ("src/control/x.rs", "io_uring::IoUring::new(8)", "uses io_uring"),
        ("src/main.rs", "let ring = io_uring::IoUring::new(8);", "uses io_uring"),
        ("src/node/x.rs", "let now = std::time::Instant::now();", "reads a clock (Instant"),
        ("src/io/core.rs", "Instant :: now()", "reads a clock (Instant"),
        ("src/control/plan.rs", "Instant::now()", "reads a clock (Instant"),
        ("src/control/admin/http.rs", "SystemTime::now()", "reads a clock (SystemTime"),
        ("src/engine/x.rs", "use std::hash::RandomState;", "uses RandomState"),
        ("src/engine/x.rs", "let m = HashMap::new();", "uses HashMap"),
        ("src/base/x.rs", "use std::collections::{BTreeMap, HashSet};", "uses HashSet"),
        ("src/engine/arena.rs", "#![allow(unsafe_code)]", "speaks about unsafe_code"),
        ("src/io/ring/tests.rs", "#![deny(unsafe_code)] #[allow(unsafe_code)] fn f() {}", "speaks about unsafe_code"),
        ("src/node/x.rs", "#[expect(dead_code, unsafe_code)] fn f() {}", "speaks about unsafe_code"),
        ("src/node/x.rs", "fn f() { todo!() }", "contains todo!"),
        ("src/node/x.rs", "fn f() { unimplemented !() }", "contains unimplemented!"),
        ("src/node/x.rs", "let x = dbg!(1);", "contains dbg!"),
        ("tests/it/x.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}", "ignores a test"),
        ("tests/it/x.rs", &"\n".repeat(LINES_MAX), "is longer"),
        // What comes behind a literal or a comment is still read.
        ("src/node/x.rs", "let s = \"a\\\"b // c\"; todo!()", "contains todo!"),
        ("src/node/x.rs", "let s = r#\"a\"b\"#; todo!()", "contains todo!"),
        ("src/node/x.rs", "let s = br\"a\\\"; todo!()", "contains todo!"),
        ("src/node/x.rs", "/* a /* b */ c */ todo!()", "contains todo!"),
        ("src/node/x.rs", "let c = ('\"', '\\'', b'\"'); todo!()", "contains todo!"),
        ("src/node/x.rs", "fn f<'a>(x: &'a str) -> &'a str { todo!() }", "contains todo!"),
    ] {
        let wrong = check(&floors, path, &format!("//! Purpose.\n{text}"));
        assert_eq!(wrong.len(), 1, "{path}: {text}: {wrong:?}");
        assert!(wrong[0].starts_with(&format!("{path} {what}")), "{path}: {text}: {wrong:?}");
    }
    let wrong = check(&floors, "src/base/x.rs", "// A comment.\n//! Purpose.\n");
    assert_eq!(wrong, ["src/base/x.rs does not begin with what it is for (`//!`)"]);
}

#[test]
fn what_is_allowed_is_not_named() {
    let floors = table();
    for (path, text) in [
        ("src/node/x.rs", "use crate::base::Slot; use crate::{command::Op, engine, protocol::resp::{Frame, Parser}};"),
        ("src/node/tests/x.rs", "use super::super::keys; use super::*; use crate::node::Node;"),
        ("src/command/x.rs", "mod tests { use super::super::args::Span; }"),
        ("src/control/x.rs", "use crate::{base, command, control::cli, engine, node, protocol};"),
        (
            "src/io/x.rs",
            "use crate::{base, control, node}; use glommio::x; use io_uring::y; use std::hash::RandomState;",
        ),
        ("src/main.rs", "use ringfence::{control, io};"),
        ("src/node/x.rs", "/// On io_uring, by glommio.\nconst API: &str = \"io_uring\"; // SystemTime::now, todo!()"),
        ("src/node/x.rs", "const TEXT: &str = r##\"crate::io \"# todo!()\"##; const C: char = '\"'; // \""),
        ("src/base/x.rs", "use foldhash::quality::SeedableRandomState; pub(crate) fn todo() {}"),
        ("src/io/clock.rs", "Instant::now(); SystemTime::now();"),
        ("src/control/admin/http.rs", "Instant::now()"),
        ("src/engine/memory.rs", "#![allow(unsafe_code)]"),
        ("src/io/ring/tests.rs", "#![deny(unsafe_code)]"),
        ("src/node/x.rs", &"\n".repeat(LINES_MAX - 1)),
        ("tests/it/x.rs", "let begin = Instant::now(); let m: HashMap<u8, u8> = HashMap::new();"),
    ] {
        assert_eq!(check(&floors, path, &format!("//! Purpose.\n{text}")), Vec::<String>::new(), "{path}: {text}");
    }
}
