//! A program that calls `init` too late for a clean server: a thread is running already.

use multiproc::{Process, StartMethod};
use multiproc_programs::{say, sleep_long};

fn main() {
    std::thread::spawn(sleep_long);
    multiproc::init();
    let error = Process::new(|| (), ()).start().unwrap_err();
    say(&error.to_string());
    let value = Process::new(|| 7, ()).start_method(StartMethod::Spawn).start().unwrap().join().unwrap();
    say(&value.to_string());
    // A thread may be reading the environment that the child would change.
    let changed = Process::new(|| 8, ()).env("NAME", "value").start_method(StartMethod::Spawn);
    say(&changed.start().unwrap_err().to_string());
}
