//! A program with a constructor that registers an exit handler, and with a destructor, as in a
//! program that links C libraries.

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

extern "C" fn construct() {
    at_exit::register(handler).unwrap();
}

extern "C" fn destruct() {
    say_in_child("destructor");
}

#[used]
// SAFETY: the loader calls it after the C library's own constructors; it ignores the arguments that
// it is called with.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

#[used]
// SAFETY: as above, at exit.
#[unsafe(link_section = ".fini_array")]
static DESTRUCTOR: extern "C" fn() = destruct;

#[multiproc::main]
fn main() {
    let child = Process::new(|| say("target"), ()).start_method(StartMethod::ForkServer).start().unwrap();
    assert!(child.wait().unwrap().success());
}
