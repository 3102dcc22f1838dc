//! The features that the crate's documentation lists are those that the crate has, and docs.rs
//! shows them.

use std::collections::BTreeSet;

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The lines of a section of a manifest.
fn section<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let begin = manifest.find(&format!("[{name}]\n")).unwrap_or_else(|| panic!("no section {name}"));
    manifest[begin..].lines().skip(1).take_while(|line| !line.starts_with('['))
}

#[test]
fn documented() {
    let manifest = read("Cargo.toml");
    let declared: BTreeSet<&str> = section(&manifest, "features")
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .collect();
    let page = read("src/lib.rs");
    let page = &page[page.find("//! # Features").expect("a section of features")..];
    let listed: Vec<&str> = page
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .filter_map(|line| line.strip_prefix("//! | `")?.split_once("` | "))
        .inspect(|(name, text)| assert!(text.len() > 10, "{name} is explained"))
        .map(|(name, _)| name)
        .collect();
    assert!(declared.len() >= 7, "{declared:?}");
    assert_eq!(listed, declared.into_iter().collect::<Vec<_>>(), "sorted, and complete");
}

#[test]
fn docs_rs() {
    for manifest in ["Cargo.toml", "../multiproc-os/Cargo.toml", "../multiproc-macros/Cargo.toml"] {
        let manifest = read(manifest);
        let lines: Vec<&str> = section(&manifest, "package.metadata.docs.rs").collect();
        assert!(lines.contains(&"all-features = true"), "{lines:?}");
        assert!(lines.contains(&r#"rustdoc-args = ["--cfg", "docsrs"]"#), "{lines:?}");
    }
}
