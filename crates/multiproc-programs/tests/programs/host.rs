//! A program that describes itself by a `Host`.

use std::process::Command;

use crate::scratch::Scratch;

/// The output of the program `host`, started by this method; it executes `file`.
fn output(method: &str, file: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_host")).args([method, file]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A second name of the program's file, in a directory for the test of this method.
fn other_name(method: &str) -> (Scratch, String) {
    let scratch = Scratch::new(&format!("host-{method}"));
    let file = scratch.0.join("other");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_host"), &file).unwrap();
    let name = file.to_str().unwrap().to_owned();
    (scratch, name)
}

#[test]
fn forkserver() {
    let (_scratch, file) = other_name("forkserver");
    let lines = output("forkserver", &file);
    // The server has been copied once before the second child.
    let expected = [
        "left with 0".into(),
        format!("{file} forkserver {file} executed executed [1, 0, 1]"),
        "left with 0".into(),
        format!("{file} forkserver {file} executed executed [2, 1, 1]"),
        "[0, 0, 0]".into(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn spawn() {
    let (_scratch, file) = other_name("spawn");
    let lines = output("spawn", &file);
    let child = format!("{file} spawn {file} executed executed [0, 0, 0]");
    assert_eq!(lines, ["left with 0", &child, "left with 0", &child, "[0, 0, 0]"]);
}

#[test]
fn fork() {
    let (_scratch, file) = other_name("fork");
    let lines = output("fork", &file);
    let this = env!("CARGO_BIN_EXE_host");
    let expected = [
        "left with 0".into(),
        format!("{this} fork {file} main [1, 0, 1]"),
        "left with 0".into(),
        format!("{this} fork {file} main [2, 1, 1]"),
        "[2, 2, 0]".into(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn executed_file_is_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_host")).args(["spawn", "/nowhere/at/all"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("could not be executed"), "{text}");
}

#[test]
fn executed_file_is_another_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_host")).args(["spawn", "/bin/true"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("Process-1"), "{text}");
}
