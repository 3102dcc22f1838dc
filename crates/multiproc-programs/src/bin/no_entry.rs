//! A program that has forgotten the entry for its children.

use multiproc::{Process, StartMethod};
use multiproc_programs::say;

fn main() {
    say("main runs");
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let error = Process::new(|| say("the target runs"), ()).start_method(method).start().unwrap_err();
        say(&error.to_string());
    }
}
