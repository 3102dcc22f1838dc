//! A program that describes itself by a `Host`.

use std::process::Command;

/// The output of the program `host`, started by this method; it executes `file`.
fn output(method: &str, file: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_host")).args([method, file]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A second name of the program's file.
fn other_name() -> (std::path::PathBuf, String) {
    let directory =
        std::env::temp_dir().join(format!("multiproc-host-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("other");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_host"), &file).unwrap();
    let name = file.to_str().unwrap().to_owned();
    (directory, name)
}

#[test]
fn forkserver() {
    let (directory, file) = other_name();
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
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn spawn() {
    let (directory, file) = other_name();
    let lines = output("spawn", &file);
    let child = format!("{file} spawn {file} executed executed [0, 0, 0]");
    assert_eq!(lines, ["left with 0", &child, "left with 0", &child, "[0, 0, 0]"]);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn fork() {
    let (directory, file) = other_name();
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
    std::fs::remove_dir_all(directory).unwrap();
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
