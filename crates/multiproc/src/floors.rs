//! Checks that the folders of this crate import only those on lower floors, by the table in
//! ARCHITECTURE.md, and that the files that the page names exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The floor of each folder (`channel`) and each file beside them (`error.rs`).
type Floors = BTreeMap<String, u32>;

/// Reads the rows of the table: `| 7 | `start/` | …`; a row may name several.
fn floors(table: &str) -> Floors {
    let mut floors = Floors::new();
    for line in table.lines().filter(|line| line.starts_with('|')) {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let (Some(Ok(floor)), Some(names)) = (cells.next().map(str::parse::<u32>), cells.next()) else { continue };
        for name in names.split('`').skip(1).step_by(2) {
            let before = floors.insert(name.trim_end_matches('/').into(), floor);
            assert_eq!(before, None, "{name} is in the table twice");
        }
    }
    floors
}

/// All files below `folder`, by their paths in it, with what they contain.
fn sources(folder: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            sources(&path, &format!("{prefix}{name}/"), found);
        } else if name.ends_with(".rs") {
            found.insert(format!("{prefix}{name}"), fs::read_to_string(path).unwrap());
        }
    }
}

/// The code without comments and without its tests, which may use everything.
fn code(source: &str) -> String {
    let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n");
    match code.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => code[..tests].into(),
        None => code,
    }
}

/// The module that a file is: `["shared", "names"]` for `shared/names.rs`, and none for `lib.rs`.
fn module(file: &str) -> Vec<&str> {
    let mut module: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if matches!(module[..], [.., "mod"] | ["lib"]) {
        module.pop();
    }
    module
}

/// The first names of the paths in `text`, which follows a `crate::`: one, or those in braces.
fn first_names(text: &str) -> Vec<&str> {
    let identifier = |text: &str| text.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(text.len());
    let Some(group) = text.strip_prefix('{') else { return vec![&text[..identifier(text)]] };
    let (mut names, mut depth, mut begins) = (Vec::new(), 0, true);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !char.is_whitespace() => {
                names.push(&group[at..at + identifier(&group[at..])]);
                begins = false;
            }
            _ => {}
        }
    }
    names
}

/// The names at the crate's root that the code of a file uses.
fn root_names<'a>(module: &[&'a str], code: &'a str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, text) in code.match_indices("crate::") {
        if !code[..at].ends_with(|char: char| char.is_alphanumeric() || char == '_') {
            names.extend(first_names(&code[at + text.len()..]));
        }
    }
    for (at, _) in code.match_indices("super::") {
        // The first `super` of a path.
        if code[..at].ends_with(|char: char| char.is_alphanumeric() || char == '_' || char == ':') {
            continue;
        }
        let (mut rest, mut left) = (&code[at..], module.len());
        while let Some(after) = rest.strip_prefix("super::") {
            (rest, left) = (after, left.saturating_sub(1));
        }
        if left == 0 {
            names.extend(first_names(rest));
        }
    }
    names
}

/// What lies where: for each name that `lib.rs` exports, the folder or file that defines it; none
/// for names of other crates.
fn exports(lib: &str) -> BTreeMap<&str, Option<&str>> {
    let mut exports = BTreeMap::new();
    for statement in lib.split(';') {
        let Some(at) = statement.find("use ") else { continue };
        let path = statement[at + "use ".len()..].trim();
        let origin = path.strip_prefix("crate::").map(|path| path.split("::").next().unwrap_or(path));
        for name in path.split(|char: char| !char.is_alphanumeric() && char != '_') {
            exports.insert(name, origin);
        }
    }
    exports
}

/// The imports that the floors don't allow: those of the same floor, except in the same folder, and
/// those of a higher one.
fn violations(floors: &Floors, files: &BTreeMap<String, String>) -> Vec<String> {
    let lib = code(&files["lib.rs"]);
    let exports = exports(&lib);
    let place =
        |name: &str| [name.to_owned(), format!("{name}.rs")].into_iter().find(|place| floors.contains_key(place));
    // This file, which is not in the table. Files of tests in the folders are held to it.
    let is_the_check =
        |file: &str| matches!(module(file)[..], [name] if lib.contains(&format!("#[cfg(test)]\nmod {name};")));
    let mut violations = Vec::new();
    for (file, source) in files {
        let own = file.split('/').next().unwrap_or(file);
        if is_the_check(file) {
            continue;
        }
        let Some(floor) = floors.get(own) else {
            violations.push(format!("{own} is not in the table"));
            continue;
        };
        let code = code(source);
        for name in root_names(&module(file), &code) {
            let target = match exports.get(name) {
                _ if place(name).is_some() => place(name),
                Some(Some(origin)) => place(origin),
                // Of another crate, or a name that isn't a path.
                _ => None,
            };
            if let Some(target) = target
                && target != own
                && floors[&target] >= *floor
            {
                violations.push(format!("{file} (floor {floor}) uses {name} of {target} (floor {})", floors[&target]));
            }
        }
    }
    violations.sort();
    violations.dedup();
    violations
}

/// The contents of ARCHITECTURE.md.
fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md")).unwrap()
}

fn architecture() -> Floors {
    let page = page();
    let (_, table) = page.split_once("| floor | folder |").expect("the table of floors is in ARCHITECTURE.md");
    let table = table.split("\n\n").next().unwrap_or(table);
    floors(table)
}

#[test]
fn imports_go_down() {
    let (floors, mut files) = (architecture(), BTreeMap::new());
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    assert!(floors.len() > 10 && files.len() > 100, "{floors:?}");
    let violations = violations(&floors, &files);
    assert!(violations.is_empty(), "imports that ARCHITECTURE.md doesn't allow:\n{}", violations.join("\n"));
    for place in floors.keys() {
        let exists = files.keys().any(|file| file.split('/').next() == Some(place));
        assert!(exists, "the table has {place}, which is not there");
    }
}

/// Every `path/file.rs` that ARCHITECTURE.md names: in this crate, in `multiproc-os`, or from
/// `crates/`.
#[test]
fn named_files_exist() {
    let (crates, page) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), page());
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs")).collect();
    assert!(named.len() > 50, "{named:?}");
    for name in named {
        let exists = ["multiproc/src", "multiproc-os/src", "multiproc-shm/src", ""]
            .iter()
            .any(|folder| crates.join(folder).join(name).is_file());
        assert!(exists, "ARCHITECTURE.md names {name}, which is not there");
    }
}

#[test]
fn upward_imports_are_seen_in_each_form() {
    let table = "| 9 | `lib.rs` | |\n| 3 | `process/`, `log/` | |\n| 2 | `start/` | |\n| 1 | `shm/`, `units.rs` | |";
    let lib = "pub use crate::process::child::{Child, ProcessHandle};\npub use foreign::Other;\n";
    let check = |file: &str, source: &str| {
        let files = [("lib.rs", lib), (file, source)].map(|(file, source)| (file.to_owned(), source.to_owned()));
        violations(&floors(table), &BTreeMap::from(files))
    };
    for wrong in [
        "use crate::process::child::Child;",
        "use crate::{\n    shm::{a, b},\n    process,\n};",
        "use crate::Child;",
        "fn f() { crate::log::event(); }",
        "fn f() { super::super::process::f(); }",
        "use super::super::{units, ProcessHandle};",
        "macro_rules! m { () => { $crate::process::f() } }",
    ] {
        assert_eq!(check("start/entry.rs", wrong).len(), 1, "{wrong}");
    }
    for right in [
        "use crate::shm::process::Shared;",
        "use crate::{shm::{process, log}, units};",
        "use crate::Other;",
        "use super::process;",
        "use super::super::units;",
        "// use crate::process::child::Child;",
        "#[cfg(test)]\nmod tests {\n    use crate::process;\n}",
        "use crate::start::spawn;",
    ] {
        assert_eq!(check("start/entry.rs", right), [""; 0], "{right}");
    }
    // The same floor, a `mod.rs`, a file beside the folders, and one that the table lacks.
    assert_eq!(check("log/relay.rs", "use crate::process;").len(), 1);
    assert_eq!(check("start/mod.rs", "use super::process;").len(), 1);
    assert_eq!(check("units.rs", "use super::shm;").len(), 1);
    assert_eq!(check("pool/mod.rs", ""), ["pool is not in the table"]);
    // A file of tests is held to the table too.
    assert_eq!(check("start/tests.rs", "use crate::process;").len(), 1);
}
