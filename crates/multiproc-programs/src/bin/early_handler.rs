//! Registers an exit handler before `init`, which is therefore registered in each child too.

use multiproc::{Process, StartMethod};
use multiproc_os::at_exit;
use multiproc_programs::say;

/// Prints only in the child: the main process and the server exit too.
fn say_in_child(line: &str) {
    if multiproc::parent_process().is_some() {
        say(line);
    }
}

extern "C" fn handler() {
    say_in_child("handler");
}

fn main() {
    at_exit::register(handler).unwrap();
    multiproc::init();
    let child = Process::new(|| say("target"), ()).start_method(StartMethod::ForkServer).start().unwrap();
    assert!(child.wait().unwrap().success());
}
