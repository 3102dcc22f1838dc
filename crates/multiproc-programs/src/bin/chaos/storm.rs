//! Programs that start processes from several threads and are killed at random moments.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use multiproc::{Process, StartMethod};
use multiproc_programs::{Random, say};

use super::family;

/// Starts processes until it is killed, and writes a byte to stdout before each start.
pub(crate) fn start_for_ever(method: StartMethod) {
    let threads = if method == StartMethod::Fork { 1 } else { 3 };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| one_after_the_other(method));
        }
        one_after_the_other(method)
    })
}

fn one_after_the_other(method: StartMethod) {
    // Among them a child that would run forever, and a child with a child of its own.
    let targets: [fn(StartMethod); 3] = [
        |_| (),
        |_| multiproc_programs::sleep_long(),
        |method| {
            let child = Process::new(multiproc_programs::sleep_long, ()).start_method(method).daemon(true).start();
            drop(child);
        },
    ];
    for target in targets.into_iter().cycle() {
        std::io::Write::write_all(&mut std::io::stdout(), b"\n").unwrap();
        let child = Process::new(target, (method,)).start_method(method).daemon(true).start().unwrap();
        if target as usize != targets[1] as usize {
            child.join().unwrap();
        }
    }
}

/// Kills programs until they have begun `starts` starts. Prints how many programs there were.
#[expect(clippy::zombie_processes, reason = "`next_event` waits for it, and for all others")]
pub(crate) fn rounds(method: &str, starts: usize, seed: u64) {
    family::adopt_orphans();
    let mut random = Random::new(seed);
    let (mut begun, mut programs) = (0, BTreeMap::new());
    while begun < starts {
        let mut command = Command::new("/proc/self/exe");
        command.args(["starter", method]).env("TMPDIR", family::temporary_directory());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        family::begin();
        let mut program = command.spawn().unwrap();
        let mut words = program.stdout.take().unwrap();
        let mut word = [0];
        let mut heard = 0;
        // Some are killed at their first start, some later.
        for _ in 0..=random.below(30) {
            heard += words.read(&mut word).unwrap();
        }
        spin(Duration::from_micros(random.below(500)));
        program.kill().unwrap();
        while let Some(event) = family::next_event() {
            if event.pid == program.id() as i32 {
                assert_eq!(event.status, libc::SIGKILL, "the program had ended before it was killed");
            }
        }
        // All processes that could hold the other end have ended.
        let mut rest = Vec::new();
        words.read_to_end(&mut rest).unwrap();
        begun += heard + rest.len();
        *programs.entry(heard).or_insert(0) += 1;
    }
    family::no_files_are_left();
    say(&format!("starts {begun}"));
    say(&format!("programs {}", programs.values().sum::<i32>()));
}

/// Waits for a time shorter than the scheduler can.
fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}
