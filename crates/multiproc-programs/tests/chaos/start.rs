//! Programs that start processes, killed at each of their moments, and at random ones.
//! `src/bin/chaos` does it, and checks that nothing is left.

use std::collections::BTreeMap;
use std::process::Command;

/// The methods by which processes are started.
const METHODS: [&str; 3] = ["forkserver", "spawn", "fork"];

/// The number of starts of each method in the programs that are killed at random moments.
const STARTS: u32 = 2000;

/// Runs `chaos`, and returns the numbers that it prints, by name.
fn chaos(arguments: &[&str]) -> BTreeMap<String, u32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.args(arguments).env("RUST_BACKTRACE", "0").env_remove("MULTIPROC_ENTRY");
    // Set by cargo: the loader would search all those directories, and double the number of
    // moments.
    command.env_remove("LD_LIBRARY_PATH");
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {}\n{stdout}{stderr}", output.status);
    println!("{arguments:?}: {}", stdout.trim().replace('\n', ", "));
    let pair = |line: &str| {
        let (name, number) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), number.parse().unwrap())
    };
    stdout.lines().map(pair).collect()
}

/// Kills the victim at each moment of a start. Each of the expected outcomes must occur at least
/// once, and no other.
fn step(method: &str, victim: &str, state: &str, expected: &[&str]) {
    let mut numbers = chaos(&["step", method, victim, state]);
    // Fewer would mean that the victim was not stepped at all.
    assert!(numbers.remove("moments").unwrap() >= 20, "{method} {victim} {state}");
    assert!(numbers.keys().eq(expected), "{method} {victim} {state}: {numbers:?}");
}

#[test]
fn kill_server_during_start() {
    step("forkserver", "server", "warm", &["value"]);
    step("forkserver", "server", "ignoring", &["value"]);
}

#[test]
fn kill_server_during_its_start() {
    step("forkserver", "server", "cold", &["handshake", "value"]);
}

#[test]
fn kill_child() {
    step("forkserver", "child", "cold", &["killed", "value"]);
    step("forkserver", "child", "warm", &["killed", "value"]);
    step("forkserver", "child", "ignoring", &["killed", "value"]);
    step("spawn", "child", "cold", &["handshake", "killed", "value"]);
    step("spawn", "child", "ignoring", &["handshake", "killed", "value"]);
    step("fork", "child", "cold", &["killed", "value"]);
    step("fork", "child", "ignoring", &["killed", "value"]);
}

#[test]
fn kill_parent() {
    for method in METHODS {
        for state in ["cold", "warm", "ignoring"] {
            // It prints its value before the last of its moments.
            step(method, "parent", state, &["nothing", "value"]);
        }
    }
}

#[test]
fn kill_parents_at_random() {
    let seed = match std::env::var("MULTIPROC_SEED") {
        Ok(seed) => seed,
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().to_string(),
    };
    println!("MULTIPROC_SEED={seed}");
    for method in METHODS {
        let numbers = chaos(&["storm", method, &STARTS.to_string(), &seed]);
        assert!(numbers["starts"] >= STARTS && numbers["programs"] > 20, "{method}: {numbers:?}");
    }
}
