//! Opens a file before `init`, like a program that sets up its own logger first, and writes to it
//! in children of every method.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use multiproc::{Process, StartMethod};
use multiproc_programs::say;

static FILE: OnceLock<[File; 3]> = OnceLock::new();

fn note(what: &str) {
    for mut file in FILE.get().unwrap() {
        writeln!(file, "{what}").unwrap();
    }
}

fn main() {
    let path = std::env::args().nth(1).expect("the file's path");
    let open = || File::options().create(true).append(true).open(&path).unwrap();
    FILE.set([open(), open(), open()]).unwrap();
    multiproc::init();
    multiproc::process::set_standby(false);
    for method in [StartMethod::ForkServer, StartMethod::Spawn, StartMethod::Fork] {
        for _ in 0..2 {
            let target = |method: String| {
                note(&format!("child of {method}"));
                method.len()
            };
            let name = format!("{method:?}");
            let child = Process::new(target, (name.clone(),)).start_method(method).start().unwrap();
            assert_eq!(child.join().unwrap(), name.len());
        }
    }
    note("parent");
    say("done");
}
