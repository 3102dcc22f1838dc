//! Runs each example as a user would, and compares it with what the basics page prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;

/// Where cargo has put the examples: beside the tests, one level up. They are built together with
/// the tests, unless this test is run alone.
fn example(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(name);
    if !path.exists() {
        BUILD.call_once(|| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--examples", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
            cargo.arg("--target-dir").arg(profile.parent().unwrap());
            if profile.ends_with("release") {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success());
        });
    }
    path
}

/// The example's command. With `MULTIPROC_TOUR` in the environment, it is the tour binary at that
/// path, which contains all examples.
fn command(name: &str) -> Command {
    match std::env::var_os("MULTIPROC_TOUR") {
        Some(tour) => {
            let mut command = Command::new(tour);
            command.args((name != "tour").then_some(name));
            command
        }
        None => Command::new(example(name)),
    }
}

fn run(name: &str) -> Output {
    let output = command(name).env_remove("RUST_BACKTRACE").output().unwrap();
    assert!(output.status.success(), "{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// What the example prints, line by line.
fn lines(name: &str) -> Vec<String> {
    text(&run(name).stdout)
}

fn text(bytes: &[u8]) -> Vec<String> {
    String::from_utf8(bytes.to_vec()).unwrap().lines().map(str::to_owned).collect()
}

/// Sorts the lines, for output that comes in any order.
fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn simple() {
    assert_eq!(lines("simple"), ["Worker"; 5]);
}

#[test]
fn simpleargs() {
    let expected: Vec<String> = (0..5).map(|num| format!("Worker: {num}")).collect();
    assert_eq!(sorted(lines("simpleargs")), expected);
}

#[test]
fn import_main() {
    assert_eq!(lines("import_main"), ["Worker"; 5]);
}

#[test]
fn names() {
    let lines = lines("names");
    let expected = [
        "Process-3 Exiting",
        "Process-3 Starting",
        "my_service Exiting",
        "my_service Starting",
        "worker 1 Exiting",
        "worker 1 Starting",
    ];
    assert_eq!(sorted(lines.clone()), expected);
    for name in ["Process-3", "my_service", "worker 1"] {
        let at = |what| lines.iter().position(|line| *line == format!("{name} {what}")).unwrap();
        assert!(at("Starting") < at("Exiting"), "{lines:?}");
    }
}

#[test]
fn daemon() {
    let lines = lines("daemon");
    assert_eq!(lines.len(), 3, "the daemon does not get as far as Exiting: {lines:?}");
    let pid = |line: &str, prefix| line.strip_prefix(prefix).unwrap().parse::<i32>().unwrap();
    let daemon = lines.iter().find(|line| line.starts_with("Starting: daemon ")).unwrap();
    let daemon = pid(daemon, "Starting: daemon ");
    let others: Vec<&String> = lines.iter().filter(|line| line.contains("non-daemon")).collect();
    assert_eq!(pid(others[0], "Starting: non-daemon "), pid(others[1], "Exiting : non-daemon "));
    assert!(!Path::new(&format!("/proc/{daemon}")).exists(), "it has been terminated and reaped");
}

#[test]
fn daemon_join() {
    let expected = ["Starting: non-daemon", "Exiting : non-daemon", "Starting: daemon", "Exiting : daemon"];
    assert_eq!(lines("daemon_join"), expected);
}

#[test]
fn daemon_join_timeout() {
    let expected = ["Starting: non-daemon", "Exiting : non-daemon", "d.is_alive() true"];
    assert_eq!(lines("daemon_join_timeout"), expected);
}

#[test]
fn terminate() {
    let expected = [
        "BEFORE: <Process(Process-1, initial)> false",
        "DURING: <Process(Process-1, started)> true",
        "TERMINATED: <Process(Process-1, stopped[SIGTERM])> false",
        "JOINED: <Process(Process-1, stopped[SIGTERM])> false",
    ];
    assert_eq!(lines("terminate"), expected);
}

#[test]
fn exitcode() {
    let output = command("exitcode").env("RUST_BACKTRACE", "1").output().unwrap();
    assert!(output.status.success());
    let expected = [
        "Starting process for exit_error",
        "Starting process for exit_ok",
        "Starting process for return_value",
        "Starting process for raises",
        "Starting process for terminated",
        "exit_error.exitcode = 1",
        "exit_ok.exitcode = 0",
        "return_value.exitcode = 0",
        "raises.exitcode = 1",
        "terminated.exitcode = -15",
    ];
    assert_eq!(text(&output.stdout), expected);
    let traceback: Vec<String> = text(&output.stderr).into_iter().filter(|line| !line.is_empty()).collect();
    assert_eq!(traceback[0], "Process raises:");
    assert!(traceback[1].starts_with("thread 'main' ") && traceback[1].contains(" panicked at "));
    assert!(traceback[1].contains("exitcode.rs:"));
    assert_eq!(traceback[2], "There was an error!");
    // A stripped program prints no names here.
    assert!(traceback[3].starts_with("stack backtrace:"));
}

#[test]
fn log_to_stderr() {
    let output = run("log_to_stderr");
    assert_eq!(text(&output.stdout), ["Doing some work"]);
    let expected = [
        "[INFO/Process-1] child process calling self.run()",
        "[INFO/Process-1] process shutting down",
        "[DEBUG/Process-1] running all \"atexit\" finalizers with priority >= 0",
        "[DEBUG/Process-1] running the remaining \"atexit\" finalizers",
        "[INFO/Process-1] process exiting with exitcode 0",
        "[INFO/MainProcess] process shutting down",
        "[DEBUG/MainProcess] running all \"atexit\" finalizers with priority >= 0",
        "[DEBUG/MainProcess] running the remaining \"atexit\" finalizers",
    ];
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn get_logger() {
    let output = run("get_logger");
    assert_eq!(text(&output.stdout), ["Doing some work"]);
    let expected = [
        "[INFO/Process-1] child process calling self.run()",
        "[INFO/Process-1] process shutting down",
        "[INFO/Process-1] process exiting with exitcode 0",
        "[INFO/MainProcess] process shutting down",
    ];
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn log_relay() {
    // `[Process-1 4711]` without the pid.
    let without_pid = |line: String| {
        let found = line.split_once(" [").and_then(|(level, rest)| Some((level, rest.split_once(' ')?)));
        match found.and_then(|(level, (name, rest))| Some((level, name, rest.split_once("] ")?))) {
            Some((level, name, (pid, rest))) if pid.parse::<u32>().is_ok() => format!("{level} [{name}] {rest}"),
            _ => line,
        }
    };
    // The tour has no section for it.
    let output = Command::new(example("log_relay")).output().unwrap();
    let lines: Vec<String> = text(&output.stdout).into_iter().map(without_pid).collect();
    let (printed, logged): (Vec<&str>, Vec<&str>) =
        lines.iter().map(String::as_str).partition(|line| line.starts_with('['));
    let expected = [
        "INFO  [Process-1] working on task 1",
        "INFO  process ended: stopped",
        "INFO  [Process-2] working on task 2",
        "ERROR [Process-2] something is very wrong",
        "INFO  process ended: stopped[SIGABRT]",
    ];
    assert_eq!(logged, expected);
    let expected = ["[Process-1] the result of task 1 is 1", "[Process-2] the result of task 2 is 4"];
    assert_eq!(printed, expected);
}

#[test]
fn subclass() {
    let expected: Vec<String> = (1..6).map(|number| format!("In Worker-{number}")).collect();
    assert_eq!(sorted(lines("subclass")), expected);
}

#[test]
fn queue() {
    assert_eq!(lines("queue"), ["Doing something fancy in Process-1 for Fancy Dan!"]);
}

#[test]
fn producer_consumer() {
    let lines = lines("producer_consumer");
    let consumers: usize =
        lines[0].strip_prefix("Creating ").unwrap().strip_suffix(" consumers").unwrap().parse().unwrap();
    let at = |line: &str| {
        let mut places = lines.iter().enumerate().filter(|(_, other)| **other == *line).map(|(place, _)| place);
        let first = places.next().unwrap_or_else(|| panic!("no {line:?} in {lines:?}"));
        assert_eq!(places.next(), None, "{line:?} twice in {lines:?}");
        first
    };
    for number in 0..10 {
        let work = format!(": {number} * {number}");
        let begun: Vec<usize> = (0..lines.len()).filter(|place| lines[*place].ends_with(&work)).collect();
        assert_eq!(begun.len(), 1, "{work:?} in {lines:?}");
        assert!(lines[begun[0]].starts_with("Consumer-"));
        assert!(begun[0] < at(&format!("Result: {number} * {number} = {}", number * number)));
    }
    // All have exited before the results are printed, as the program waits for that.
    for number in 1..=consumers {
        assert!(at(&format!("Consumer-{number}: Exiting")) < lines.len() - 10, "{lines:?}");
    }
    assert_eq!(lines.len(), 1 + 10 + consumers + 10);
}

#[test]
fn event() {
    let lines = lines("event");
    let expected = [
        "main: event is set",
        "main: waiting before calling Event.set()",
        "wait_for_event: e.is_set()-> true",
        "wait_for_event: starting",
        "wait_for_event_timeout: e.is_set()-> false",
        "wait_for_event_timeout: starting",
    ];
    assert_eq!(sorted(lines.clone()), expected);
    let at = |line| lines.iter().position(|other| other == line).unwrap();
    assert!(at("wait_for_event_timeout: e.is_set()-> false") < at("wait_for_event: e.is_set()-> true"), "{lines:?}");
}

#[test]
fn lock() {
    assert_eq!(sorted(lines("lock")), ["Lock acquired directly", "Lock acquired for the whole function"]);
}

#[test]
fn condition() {
    let lines = lines("condition");
    let expected = [
        "Starting s1",
        "Starting stage_2[1]",
        "Starting stage_2[2]",
        "s1 done and ready for stage 2",
        "stage_2[1] running",
        "stage_2[2] running",
    ];
    assert_eq!(sorted(lines.clone()), expected);
    let at = |line| lines.iter().position(|other| other == line).unwrap();
    assert!(at("s1 done and ready for stage 2") < at("stage_2[1] running").min(at("stage_2[2] running")), "{lines:?}");
}

#[test]
fn semaphore() {
    let lines = lines("semaphore");
    assert_eq!(lines.last().unwrap(), "Now running: 0");
    let (mut names, active): (Vec<&str>, Vec<u32>) = lines[..lines.len() - 1]
        .iter()
        .map(|line| {
            let (name, active) = line.split_once(" activated, now running at most 3: ").unwrap();
            (name, active.parse::<u32>().unwrap())
        })
        .unzip();
    names.sort();
    assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(active.iter().all(|active| (1..=3).contains(active)), "{lines:?}");
}

#[test]
fn wait_any() {
    // Not on the basics page, so not in the tour.
    let output = Command::new(example("wait_any")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text(&output.stdout), ["found after 1 s"]);
}

#[test]
fn tour() {
    let text = lines("tour");
    for title in [
        "multiprocessing Basics",
        "Daemon Processes",
        "Process Exit Status",
        "Logging",
        "Subclassing Process",
        "Signaling between Processes",
    ] {
        assert!(text.iter().any(|line| line == title), "{title}");
    }
    for line in ["Worker: 4", "Exiting : daemon", "terminated.exitcode = -15", "In Worker-5", "All 18 sections ran."] {
        assert!(text.iter().any(|other| other == line), "{line}");
    }
    let nothing = command("tour").arg("nonsense").output().unwrap();
    assert_eq!(nothing.status.code(), Some(1));
}

/// What an example prints that is not on the basics page, and so not in the tour.
fn lines_beside_the_tour(name: &str) -> Vec<String> {
    let output = Command::new(example(name)).output().unwrap();
    assert!(output.status.success(), "{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    text(&output.stdout)
}

#[test]
fn pipe() {
    assert_eq!(lines_beside_the_tour("pipe"), ["1 squared is 1", "2 squared is 4", "3 squared is 9"]);
}

#[test]
fn listener() {
    assert_eq!(lines_beside_the_tour("listener"), ["one has 3 letters", "two has 3 letters", "three has 5 letters"]);
}

#[test]
fn shared_array() {
    let path = std::env::temp_dir().join(format!("multiproc-{}.png", std::process::id()));
    let output = Command::new(example("shared_array")).arg(&path).args(["120", "80"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = text(&output.stdout);
    let filled =
        lines.iter().filter_map(|line| line.split_once(" filled ")?.1.strip_suffix(" parts")?.parse::<u32>().ok());
    assert_eq!(filled.sum::<u32>(), 40, "{lines:?}");
    assert_eq!(lines.last().unwrap(), &format!("written to {}", path.display()));
    // Decodes the file as an image viewer would.
    let mut image =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap())).read_info().unwrap();
    let mut pixels = vec![1; image.output_buffer_size().unwrap()];
    let info = image.next_frame(&mut pixels).unwrap();
    std::fs::remove_file(path).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (120, 80, png::ColorType::Rgb));
    let pixel = |x: usize, y: usize| &pixels[3 * (120 * y + x)..][..3];
    // 0 and -1 are in the set; the corners aren't; and one half mirrors the other.
    assert_eq!([pixel(84, 40), pixel(52, 40)], [[0; 3]; 2]);
    assert!([pixel(0, 0), pixel(119, 0), pixel(0, 79)].iter().all(|corner| **corner != [0; 3]));
    assert!((0..120).all(|x| pixel(x, 41) == pixel(x, 39)));
}

#[test]
fn shared_bytes() {
    let run = |argument: &str| {
        let output = Command::new(example("shared_bytes")).arg(argument).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        text(&output.stdout)
    };
    let sum: u64 = (0..1 << 20).map(|byte: u64| byte % 251).sum();
    let lines = run("3");
    assert!(lines[0].starts_with("3145728 bytes, "), "{lines:?}");
    for (line, way) in lines[1..].iter().zip(["shared", "copied"]) {
        assert!(line.starts_with(&format!("{way}: {} in ", 3 * sum)), "{lines:?}");
    }
    // With a file as its argument.
    let lines = run(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    assert_eq!(lines.len(), 3, "{lines:?}");
}
