//! What processes log and print, and what their main process does with it, observed from outside.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

const TALKER: &str = env!("CARGO_BIN_EXE_talker");
const METHODS: [&str; 2] = ["forkserver", "spawn"];

fn talker(scenario: &str, method: &str) -> Command {
    let mut command = Command::new(TALKER);
    command.args([scenario, method]).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command
}

/// Runs a scenario to its end, which must be successful.
fn run(scenario: &str, method: &str) -> Output {
    let output = talker(scenario, method).output().unwrap();
    assert!(output.status.success(), "{scenario} {method}: {}\n{}", output.status, stderr(&output));
    output
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn records_before_sigkill_arrive() {
    for method in METHODS {
        let lines = lines(&run("killed", method));
        let pid = lines.iter().find_map(|line| line.strip_prefix("pid ")).unwrap();
        let expected = (0..1000).map(|number| format!("WARN child [Process-1 {pid}] {number} {{process=Process-1}}"));
        let records: Vec<&String> = lines.iter().filter(|line| line.starts_with("WARN")).collect();
        assert!(records.into_iter().eq(expected.collect::<Vec<_>>().iter()), "{method}: {lines:?}");
        let waited = lines.iter().position(|line| line == "waited").unwrap();
        assert!(lines[waited..].iter().all(|line| !line.starts_with("WARN")), "{method}: {lines:?}");
    }
}

#[test]
fn descendants() {
    for method in METHODS {
        let lines = lines(&run("family", method));
        let without_pids: Vec<String> = lines
            .iter()
            .filter(|line| !line.contains(" multiproc ") && !line.starts_with("cannot start fork"))
            .map(|line| {
                let (before, after) = line.split_once(']').unwrap_or((line, ""));
                let process = before.rsplit_once(' ').filter(|_| !after.is_empty());
                process.map_or(line.clone(), |(process, _)| format!("{process}]{after}"))
            })
            .collect();
        let expected = [
            "INFO main its own {}",
            "INFO child [child] hello {process=child number=7 half=0.5 text=a b yes=true debug=Some(1)}",
            "INFO grandchild [Process-1:1] true {process=Process-1:1}",
            "WARN its child [Process-1:1:1] hello {process=Process-1:1:1}",
            "INFO grandchild [Process-1:2] true {process=Process-1:2}",
            "WARN its child [Process-1:2:1] hello {process=Process-1:2:1}",
            "INFO grandchild [Process-1:3] true {process=Process-1:3}",
            "WARN its child [Process-1:3:1] hello {process=Process-1:3:1}",
            "waited",
            "INFO child no prefix {process=plain}",
        ];
        assert_eq!(without_pids, expected, "{method}");
        assert!(
            lines.iter().any(|line| line.starts_with("cannot start fork") && line.contains("2 threads")),
            "{lines:?}"
        );
        // The library's own records are below this level.
        assert!(!lines.iter().any(|line| line.contains(" multiproc ")), "{lines:?}");
    }
}

/// Removes the pid, which differs from run to run.
fn without_pid(line: &str) -> String {
    match line.split_once(']') {
        Some((before, after)) => format!("{}]{after}", before.rsplit_once(' ').map_or(before, |(before, _)| before)),
        None => line.to_owned(),
    }
}

#[test]
fn failure_is_one_record() {
    for method in METHODS {
        let output = run("failures", method);
        let lines: Vec<String> = lines(&output).iter().map(|line| without_pid(line)).collect();
        let place = "crates/multiproc-programs/src/bin/talker.rs:";
        let mut seen: Vec<String> = Vec::new();
        for line in &lines {
            // The location is that of the panic, including the column.
            match line.split_once(place) {
                Some((before, after)) => {
                    let digits = |text: &str| text.trim_start_matches(|char: char| char.is_ascii_digit()).to_owned();
                    let after = digits(digits(after).strip_prefix(':').unwrap());
                    seen.push(format!("{before}PLACE{}", after.split(" location=").next().unwrap()));
                }
                None => seen.push(line.clone()),
            }
        }
        let expected = [
            "ERROR multiproc [panics] panicked at PLACE: boom {process=panics failure=panic",
            "waited for panics",
            "ERROR multiproc [thread] panicked at PLACE: in a thread {process=thread failure=panic",
            "waited for thread",
            "ERROR multiproc [aborts] was killed by SIGABRT {process=aborts failure=signal signal=6}",
            "waited for aborts",
            "ERROR multiproc [killed] was killed by SIGKILL {process=killed failure=signal signal=9}",
            "waited for killed",
            "ERROR multiproc [greedy] needed more memory than its limit of 64 MiB {process=greedy failure=memory_limit}",
            "waited for greedy",
            "waited for exits",
            "ERROR multiproc [grandchild] was killed by SIGABRT {process=grandchild failure=signal signal=6}",
            "waited for parent",
            "ERROR multiproc [unwatched] was killed by SIGABRT {process=unwatched failure=signal signal=6}",
        ];
        let seen: Vec<String> = seen.iter().map(|line| line.replace(" (core dumped)", "")).collect();
        assert_eq!(seen, expected, "{method}");
        // Stderr shows a panic as without a relay, and once.
        assert_eq!(stderr(&output).matches("boom").count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn panic_is_printed_once() {
    for method in METHODS {
        let output = run("failures-on-stderr", method);
        let text = stderr(&output);
        assert_eq!(text.matches("boom").count(), 1, "{text}");
        assert_eq!(text.matches("[ERROR/aborts] was killed by SIGABRT").count(), 1, "{text}");
        assert_eq!(text.matches("[ERROR/grandchild] was killed by SIGABRT").count(), 1, "{text}");
    }
}

#[test]
fn library_records_are_debug_or_trace() {
    for method in METHODS {
        let lines: Vec<String> = lines(&run("own-lines", method)).iter().map(|line| without_pid(line)).collect();
        let of = |level: &str| lines.iter().filter(|line| line.starts_with(level)).collect::<Vec<_>>();
        assert_eq!(of("INFO"), ["INFO child [Process-1] hello {process=Process-1}"], "{lines:?}");
        for line in ["child process calling self.run()", "process shutting down", "process exiting with exitcode 0"] {
            let line = format!("DEBUG multiproc [Process-1] {line} {{process=Process-1}}");
            assert!(lines.contains(&line), "{line}: {lines:?}");
        }
        assert!(lines.contains(&"DEBUG multiproc calling terminate() for daemon Process-2 {}".into()), "{lines:?}");
        assert!(of("TRACE").iter().any(|line| line.contains("running all \"atexit\" finalizers")), "{lines:?}");
        assert!(of("ERROR").is_empty() && of("WARN").is_empty(), "{lines:?}");
    }
}

#[test]
fn concurrent_threads() {
    for method in METHODS {
        let lines = lines(&run("threads", method));
        assert_eq!(lines.len(), 2001, "{method}");
        for thread in 0..4 {
            let start = format!("[WARN/Process-1] {thread} ");
            let own = lines.iter().filter_map(|line| line.strip_prefix(&start));
            let mut count = 0;
            for (number, line) in own.enumerate() {
                let (said, filling) = line.split_once(' ').unwrap();
                assert_eq!(said, number.to_string(), "{method}");
                let expected = if number % 100 == 0 { 100_000 } else { 10 };
                assert!(filling.len() == expected && filling.bytes().all(|byte| byte == b'x'), "{method}");
                count += 1;
            }
            assert_eq!(count, 500, "{method}");
        }
        assert_eq!(lines[2000], "waited");
    }
}

#[test]
fn record_sizes() {
    for method in METHODS {
        let mut expected =
            [0_u64, 10, 32_000, 33_000, 70_000, 5_000_000].map(|len| format!("{len} {}", len * 97)).to_vec();
        expected.push("waited".into());
        assert_eq!(lines(&run("large", method)), expected, "{method}");
    }
}

#[test]
fn level_is_inherited() {
    for method in METHODS {
        let mut lines = lines(&run("levels", method));
        lines.retain(|line| line.contains(" x ") || line == "waited" || line.contains("in vain"));
        let seen: Vec<&str> = lines
            .iter()
            .map(|line| line.split_once(" {").map_or(line.as_str(), |(line, _)| line))
            .map(|line| line.split(' ').next_back().unwrap())
            .collect();
        let last = ["error", "warn", "error", "warn"];
        // While the first child was logging, the level here may have been lowered already.
        let (first, rest) = seen.split_at(seen.iter().position(|word| *word == "waited").unwrap());
        assert!(first.iter().filter(|word| **word == "error").count() == 2, "{lines:?}");
        assert!(first.iter().all(|word| ["error", "warn"].contains(word)), "{lines:?}");
        assert_eq!(rest[1..], last, "{lines:?}");
    }
}

#[test]
fn stderr_prints_each_record_once() {
    for method in METHODS {
        let text = stderr(&run("on-stderr", method));
        let expected = [
            "[INFO/worker] child process calling self.run()",
            "[INFO/worker] from a child",
            "[INFO/Process-1:1] child process calling self.run()",
            "[WARN/Process-1:1] from its child",
            "[INFO/Process-1:1] process shutting down",
            "[INFO/Process-1:1] process exiting with exitcode 0",
            "[INFO/worker] process shutting down",
            "[INFO/worker] process exiting with exitcode 0",
            "[INFO/MainProcess] process shutting down",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{method}");
    }
}

#[test]
fn main_exit_flushes_children() {
    for method in METHODS {
        let lines = lines(&run("without-wait", method));
        let records: Vec<&String> = lines.iter().filter(|line| line.starts_with("[WARN")).collect();
        let expected: Vec<String> = (0..200).map(|number| format!("[WARN/Process-1] {number}")).collect();
        assert!(records.into_iter().eq(&expected), "{method}: {lines:?}");
        assert!(lines.iter().any(|line| line == "[Process-1] no line feed"), "{method}: {lines:?}");
    }
}

#[test]
fn backpressure() {
    for method in METHODS {
        assert_eq!(lines(&run("slow-reader", method)), ["None", "5000"], "{method}");
    }
}

#[test]
fn logger_deadlock_is_bounded() {
    let expected = ["waited with a deadline", "waited without", "logged"];
    assert_eq!(lines(&run("logger-that-needs-us", "forkserver")), expected);
    let expected = ["from a child", "from the handler's child"];
    assert_eq!(lines(&run("handler-that-waits", "forkserver")), expected);
}

#[test]
fn handler_panic_loses_one_record() {
    let output = run("handler-that-panics", "forkserver");
    assert_eq!(lines(&output), ["one", "two", "waited"]);
    assert!(stderr(&output).contains("as it should"), "{}", stderr(&output));
}

#[test]
fn relay_gone() {
    for method in METHODS {
        let mut main = talker("orphan", method).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(main.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().as_deref(), Some("ready"));
        main.kill().unwrap();
        main.wait().unwrap();
        assert_eq!(lines.next().as_deref(), Some("survived"), "{method}");
        assert_eq!(lines.next(), None, "{method}");
    }
}

#[test]
fn garbage_is_reported_once() {
    for method in METHODS {
        let lines = lines(&run("garbage", method));
        let complaints = lines.iter().filter(|line| line.contains("error in the relay of log records")).count();
        assert_eq!(complaints, 1, "{method}: {lines:?}");
        let good = lines.iter().position(|line| line.contains("after it all")).unwrap();
        assert!(good < lines.iter().position(|line| line == "waited").unwrap(), "{method}: {lines:?}");
    }
}

#[test]
fn threads_block_signals() {
    assert_eq!(lines(&run("signals", "forkserver")), ["multiproc-logs false, multiproc-outpu false, talker true"]);
}

#[test]
fn nearest_handler_gets_records() {
    for method in METHODS {
        let lines = lines(&run("nearest", method));
        let of = |target: &str| {
            let start = format!("INFO {target} ");
            lines.iter().filter_map(|line| Some(line.strip_prefix(&start)?.split_once("] ")?.1)).collect::<Vec<_>>()
        };
        assert_eq!(of("y"), [""; 0]);
        let said = of("x");
        assert_eq!(said[0], "to the top {process=Process-1:1}", "{lines:?}");
        assert!(said.contains(&"below said to the next {process=middle}"), "{lines:?}");
    }
}

#[test]
fn no_descriptors_left() {
    for method in METHODS {
        let mut main = talker("few-descriptors", method).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(main.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().as_deref(), Some("go on"));
        writeln!(main.stdin.take().unwrap(), "go on").unwrap();
        let mut rest: Vec<String> = lines.collect();
        assert_eq!(rest.pop().as_deref(), Some("waited"), "{method}: {rest:?}");
        rest.sort();
        assert_eq!(rest, ["10", "100000", "[Process-1] printed"], "{method}");
        assert!(main.wait().unwrap().success());
    }
}

#[test]
fn captured_lines_never_mix() {
    for method in METHODS {
        let output = run("partial-lines", method);
        let (out, err) = (lines(&output), stderr(&output));
        assert_eq!(out.last().unwrap(), "waited");
        let err: Vec<&str> = err.lines().collect();
        for child in 1..=3 {
            let start = format!("[Process-{child}] ");
            for parity in 0..2 {
                let all: Vec<&str> = if parity == 0 { out.iter().map(String::as_str).collect() } else { err.clone() };
                let own: Vec<&str> = all.iter().filter_map(|line| line.strip_prefix(&start)).collect();
                let expected: Vec<String> = (parity..300)
                    .step_by(2)
                    .map(|line| (0..10).map(|piece| format!("{line}.{piece} ")).collect())
                    .collect();
                assert_eq!(own, expected, "{method}");
            }
        }
        assert_eq!((out.len(), err.len()), (451, 450), "{method}");
    }
}

#[test]
fn capture_streams() {
    for method in METHODS {
        let output = run("everything-printed", method);
        let expected = [
            "[captured] a line",
            "[captured] a program",
            "[captured] no line feed",
            "waited",
            "as it is",
            "as it is too",
            "[panics] a grandchild",
        ];
        assert_eq!(lines(&output), expected, "{method}");
        let text = stderr(&output);
        let lines: Vec<&str> = text.lines().collect();
        let expected = ["[captured] an error", "[captured] its error", "[one] captured", "[panics] Process panics:"];
        assert_eq!(lines[..4], expected, "{method}");
        // What the standard library prints.
        assert_eq!(lines[4], "[panics] ", "{text}");
        assert!(lines[5].starts_with("[panics] thread 'main' ") && lines[5].contains(" panicked at "), "{text}");
        assert_eq!(lines[6], "[panics] this is why", "{method}");
        assert!(lines[7].starts_with("[panics] note: run with `RUST_BACKTRACE=1`") && lines.len() == 8, "{text}");
    }
}

#[test]
fn capture_long_lines() {
    for method in METHODS {
        let output = run("binary", method).stdout;
        let every: Vec<u8> = (0..=255).collect();
        let (first, second) = every.split_at(usize::from(b'\n'));
        let mut expected = [b"[b] ", first, b"\n[b] ", &second[1..], b"\n"].concat();
        let longest = 64 * 1024;
        for len in [longest, longest, longest, 200_000 - 3 * longest] {
            expected.extend_from_slice(b"[b] ");
            expected.resize(expected.len() + len, b'x');
            expected.push(b'\n');
        }
        assert!(output == expected, "{method}: {} bytes, {} expected", output.len(), expected.len());
    }
}

#[test]
fn pipe_held_open() {
    for method in METHODS {
        let mut main = talker("held-open", method).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(main.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The program that the child has left behind reads from the pipe that this test holds.
        assert_eq!(lines.next().as_deref(), Some("[Process-1] begun "), "{method}");
        assert_eq!(lines.next().as_deref(), Some("waited"), "{method}");
        assert!(main.wait().unwrap().success());
        drop(main.stdin.take());
    }
}

#[test]
fn capture_with_function() {
    let output = run("lines", "forkserver");
    let expected = [
        "[Process-1] 1 Stdout [49]",
        "[Process-1] 2 Stdout [50]",
        "[Process-1] 3 Stdout [51]",
        "[Process-2] 4 Stderr [52]",
    ];
    assert_eq!(lines(&output), expected);
    assert!(stderr(&output).contains("as it should"));
}
