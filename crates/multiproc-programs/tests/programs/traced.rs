//! Processes that use `tracing`, observed from outside. Needs the feature `tracing`.

use std::process::{Command, Stdio};

const TRACED: &str = env!("CARGO_BIN_EXE_traced");
const METHODS: [&str; 2] = ["forkserver", "spawn"];

/// The lines that the scenario prints, without the library's own records, and without pids.
fn run(scenario: &str, method: &str) -> Vec<String> {
    let output = Command::new(TRACED).args([scenario, method]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{scenario} {method}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.trim_start().to_owned())
        .filter(|line| ["child", "grandchild", "own", "waited"].iter().any(|word| line.contains(word)))
        .filter(|line| {
            !line.contains("self.run()") && !line.contains("process exiting") && !line.contains("shutting down")
        })
        .map(|line| {
            let words = line.split(' ').filter(|word| !is_pid(word));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// Matches `4711]` in a prefix, or the field `pid=4711`.
fn is_pid(word: &str) -> bool {
    let number = word.strip_suffix(']').or(word.strip_prefix("pid="));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The child's messages, and their spans.
const TEXTS: [&str; 9] = [
    "in no span number=7 text=a b",
    "outer{id=1 late=yes}:inner: in two",
    "outer{id=1 late=yes}: done=true",
    "in none",
    "in a thread",
    "outer{id=1 late=yes}:inner: in a thread, with a span",
    "by log",
    "out again",
    "hello",
];

#[test]
fn events_to_logger() {
    for method in METHODS {
        let lines = run("logger", method);
        let expected = TEXTS.iter().enumerate().map(|(at, text)| match at {
            8 => format!("WARN grandchild: [Process-1:1 {text}"),
            _ => format!("INFO child: [child {text}"),
        });
        // The main process has no subscriber, so its own event is dropped.
        let expected: Vec<String> = expected.chain(["waited".to_owned()]).collect();
        assert_eq!(lines, expected, "{method}");
    }
}

#[test]
fn events_to_subscriber_through_log() {
    for method in METHODS {
        let lines = run("subscriber", method);
        let expected = TEXTS.iter().enumerate().map(|(at, text)| match at {
            8 => format!("WARN grandchild: [Process-1:1 {text}"),
            _ => format!("INFO child: [child {text}"),
        });
        let expected: Vec<String> =
            ["INFO traced: its own".to_owned()].into_iter().chain(expected).chain(["waited".to_owned()]).collect();
        assert_eq!(lines, expected, "{method}");
    }
}

#[test]
fn events_to_subscriber() {
    for method in METHODS {
        let lines = run("subscriber-alone", method);
        assert_eq!(lines.first().map(String::as_str), Some("INFO traced: its own"));
        assert_eq!(lines.last().map(String::as_str), Some("waited"));
        let events = &lines[1..lines.len() - 1];
        assert_eq!(events.len(), TEXTS.len(), "{method}: {lines:?}");
        for (at, (event, text)) in events.iter().zip(TEXTS).enumerate() {
            let (level, process, target) =
                if at == 8 { ("WARN", "Process-1:1", "grandchild") } else { ("INFO", "child", "child") };
            let start = format!("{level} multiproc::relay: {text} process=\"{process}\" origin=\"{target}\"");
            assert!(event.starts_with(&start), "{method}: {event}, expected {start}");
        }
    }
}
